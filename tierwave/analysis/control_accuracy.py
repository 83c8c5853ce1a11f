"""How well a generated sound follows the parameters that were asked for: requested against measured.

Most parameters of `controls` can be heard, and `features` measures them in the sound: pitch, loudness, brightness, and
whatever bears the name of a feature. `scenarios` says what to ask a network for, `measure_following` compares one sound
with what was asked of it, `summarise` says it of all sounds, as text and as JSON. Knows NumPy arrays, tracks and
schemas; no networks and no runs, so whoever has a network renders the scenarios.

    for scenario in scenarios(schema, trained_values(schema, sounds)):
        audio = ...  # scenario.seconds of sound that follows scenario.controls
        results.append(Result(scenario, measure_following(audio, sample_rate, scenario.controls, schema)))
    print(summarise(results).table())

Pitch is told in steps of 10 cents (pYIN's grid), so an error below 5 cents is none.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from tierwave.analysis.features import FEATURES, FLOOR_DB, Analysis, measure
from tierwave.analysis.statistics import SILENCE_DBFS
from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.tracks import Controls, Track
from tierwave.errors import UsageError

Kind = Literal["trained", "between", "sweep"]
Sound: TypeAlias = Literal["pitch", "loudness", "brightness", "feature"]
Floats: TypeAlias = npt.NDArray[np.float64]

EDGE_SECONDS = 0.05  # at either end of a sound, where windows hang over and sounds begin and die away
IN_TUNE_CENTS = 50.0  # nearer to what was asked than to any other note
VOICED_SHARE = 0.5
_MOSTLY_VOICED = 0.95  # above which a summary does not speak of it
MOST_TRAINED, SPREAD = 12, 7  # values of a parameter that are all asked for; how many of more than that
MOST_COMBINED = 4  # values of a category with which every scenario is repeated

_LOWEST_PITCH = 25.0  # Hz; below, pYIN's windows grow long, and nothing is heard as a pitch
_MARGIN = 2.0 ** (13 / 12)  # of the pitch range, an octave and a semitone: so octave errors are seen
_OCTAVE_CENTS, _OCTAVE_TOLERANCE = 1200.0, 100.0
_STEP_SECONDS = 0.01  # of a sweep through a parameter whose values are held
_DISTINCT, _QUANTILES = 128, 13  # values that are taken one by one; how many stand for more than that
_DASHES, _DOTS = 60, 80  # across a picture

_HERTZ = ("hertz", "frequency")


# What a parameter is in the sound ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Aspect:
    """What a parameter is in the sound. unit: of requested and measured values; error_unit: of their difference;
    feature: key of `features.FEATURES`; measured: the track of it; absolute: whether requested values have the same
    zero as measured ones, else only their changes are compared (a loudness of 0.7 is no certain number of dB)."""

    sound: Sound
    unit: str
    error_unit: str
    feature: str
    measured: str
    absolute: bool = True


_PITCH = Aspect("pitch", "midi", "cents", "midi", "midi")
_LEVEL = Aspect("loudness", "dB", "dB", "level", "level")
_LOUDNESS = Aspect("loudness", "dB", "dB", "level", "level", absolute=False)
_BRIGHTNESS = Aspect("brightness", "Hz", "Hz", "centroid", "centroid")

# Units that suffice, and words in the name that do with further units; None is a parameter without one.
_HEARD: tuple[tuple[Aspect, tuple[str, ...], tuple[str, ...], tuple[str | None, ...]], ...] = (
    (_PITCH, ("midiPitch",), ("pitch", "f0", "midi"), _HERTZ),
    (_BRIGHTNESS, (), ("centroid", "brightness"), _HERTZ),
    (_LOUDNESS, ("amplitude", "dB", "energy"), ("rmse", "level", "amplitude", "loudness", "volume"), ("norm",)),
)
_ITSELF = ("bandwidth", "flatness", "zcr", "onset", "voicing")  # and mfcc: measured by the feature of that very name


def aspect_of(parameter: Parameter) -> Aspect | None:
    """What in the sound a parameter is, from its unit and name; None for what cannot be measured (an instrument)."""
    name, units = parameter.name, parameter.units
    if name in _ITSELF or name.startswith("mfcc"):
        for feature, tracks in FEATURES.items():
            if name in tracks:
                unit = {"hertz": "Hz", "dB": "dB"}.get(Analysis((feature,)).declared(48000)[name]["units"], "")
                return Aspect("feature", unit, unit, feature, name)
        return None
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+[0-9]*|[A-Z]+[0-9]*", name)]
    for aspect, sufficient, names, units_with_name in _HEARD:
        named = units in units_with_name and any(word in names for word in words)
        if units in sufficient or named or (units is None and name.lower() in names):
            return _LEVEL if aspect is _LOUDNESS and name in ("rmse", "level") else aspect
    return None


def _natural(parameter: Parameter, aspect: Aspect, values: npt.ArrayLike) -> Floats:
    """Raw values in the aspect's unit; NaN where no pitch or brightness is asked for (0 Hz)."""
    from librosa import hz_to_midi

    raw = np.asarray(values, np.float64)
    if aspect.sound == "pitch":
        usable = np.where(raw > 0, raw, np.nan)
        return usable if _in_midi(parameter) else hz_to_midi(usable)
    if aspect.sound == "brightness":
        return np.where(raw > 0, raw, np.nan)
    if aspect.sound == "loudness" and not _in_decibels(parameter):
        factor = 10.0 if parameter.units == "energy" else 20.0
        return factor * np.log10(np.maximum(raw, 10.0 ** (FLOOR_DB / factor)))
    return raw


def _in_midi(parameter: Parameter) -> bool:
    if parameter.units is None:  # then the range has to tell
        return parameter.name.lower() == "midi" or max(parameter.span) <= 127
    return parameter.units == "midiPitch"


def _in_decibels(parameter: Parameter) -> bool:
    # What has no unit but goes below 0 is no amplitude.
    return parameter.units == "dB" or (parameter.units is None and min(parameter.span) < 0)


# One sound -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Followed:
    """One parameter of one sound: what was asked for, what came, how far they are apart.

    times: seconds `[frames]`, without the ends of the sound.
    requested, measured: in the aspect's unit `[frames]` (midi, dB, Hz); NaN where nothing was asked or nothing is to
        be measured: pitch where none is heard, brightness where it is silent.
    offset: what to add to requested, the median difference, where the aspect is not absolute; None if it is all silent.
    share: of the frames with a request those that were compared; for pitch, how much of the sound is voiced.
    error, error_p90: median and 90th percentile of the absolute difference, in the aspect's error_unit (cents, dB, Hz);
        None also where the aspect is not absolute and the request does not move: any sound would be as asked for.
    bias: median difference with its sign: above 0 is higher, louder or brighter than asked for.
    octaves: brightness: median absolute difference in octaves.
    octave_errors: pitch: share of the voiced frames that are 1200 +- 100 cents off.
    rank_correlation, correlation: Spearman's and Pearson's, over time; of midi, dB, and the logarithm of brightness.
        None if the request does not change, 0 if only the sound does not.

    Numbers are None where there is nothing to compare. Loudness below -60 dB is all the same: silence.
    """

    aspect: Aspect
    times: Floats
    requested: Floats
    measured: Floats
    offset: float | None
    share: float
    error: float | None
    error_p90: float | None
    bias: float | None
    octaves: float | None = None
    octave_errors: float | None = None
    rank_correlation: float | None = None
    correlation: float | None = None

    @property
    def in_tune(self) -> bool:
        """Whether a pitch is heard for half of the time, within 50 cents of what was asked for."""
        return self.share >= VOICED_SHARE and self.error is not None and self.error <= IN_TUNE_CENTS

    @property
    def has_place(self) -> bool:
        """Whether what was asked for lies somewhere in the unit of what came."""
        return self.aspect.absolute or self.error is not None

    @property
    def aligned(self) -> Floats:
        """What was asked for, with the offset, `[frames]`; NaN where it has no place beside what came."""
        return self.requested + ((self.offset or 0.0) if self.has_place else math.nan)

    @property
    def told(self) -> str:
        """How far off it is, in words, and how much is heard: `40.0 cents off (43 % of its frames voiced)`."""
        if self.error is None:
            if self.aspect.sound == "pitch" and np.isfinite(self.requested).any():
                return "none of its frames voiced"
            own_scale = self.offset is not None and not self.aspect.absolute
            return "nothing to compare" + (": one value, on a scale of its own" if own_scale else "")
        words = f"{_number(self.error, self.aspect.error_unit)} off"
        return f"{words} ({_percent(self.share)} of its frames voiced)" if self.aspect.sound == "pitch" else words


def measure_following(
    audio: npt.ArrayLike,
    sample_rate: int,
    requested: Controls,
    schema: Schema,
    *,
    window_seconds: float = 0.030,
    hop_seconds: float = 0.015,
) -> dict[str, Followed]:
    """How a sound follows what was asked of it, for every parameter that can be measured (`aspect_of`), by name.

    audio: float `[samples]`, full scale 1.0. requested: raw values, time 0 the first sample; what is not in the schema
    is not looked at. Pitch is looked for from an octave below to an octave above the range in the schema.

    Raises:
        UsageError: a pitch parameter without lo and hi, or one too high for the sample rate.
        ValueError: not one channel of at least one finite sample.
    """
    sound = np.asarray(audio, np.float64)
    if not np.isfinite(sound).all():
        raise ValueError("the sound holds NaN or infinity; repair it first.")
    heard = {
        parameter.name: (parameter, aspect)
        for parameter in schema.parameters
        if parameter.name in requested and (aspect := aspect_of(parameter)) is not None
    }
    if not heard:
        return {}
    features = tuple(dict.fromkeys(["level", *(aspect.feature for _, aspect in heard.values())]))
    pitch_range = {}
    if {"midi", "pitch"} & set(features):
        pitch_range = _pitch_range([of for of, aspect in heard.values() if aspect.sound == "pitch"], sample_rate)
    tracks = measure(sound, sample_rate, Analysis(features, window_seconds, hop_seconds, **pitch_range))
    times = tracks["level"].times
    inner = (times >= EDGE_SECONDS) & (times <= len(sound) / sample_rate - EDGE_SECONDS)
    curves = {name: track.values[inner] for name, track in tracks.items()}
    sounding = curves["level"] > SILENCE_DBFS
    result = {}
    for name, (parameter, aspect) in heard.items():
        asked = _natural(parameter, aspect, requested[name].at(times[inner], parameter.interp))
        measured = curves[aspect.measured]
        if aspect.sound == "pitch":
            measured = np.where(sounding & (curves["voicing"] > 0), measured, np.nan)
        elif aspect.sound == "brightness":
            measured = np.where(sounding, measured, np.nan)
        result[name] = _compared(aspect, times[inner], asked, measured)
    return result


def _pitch_range(parameters: Sequence[Parameter], sample_rate: int) -> dict[str, float]:
    """The range of pYIN in hertz; its own where no pitch is asked for (but voicing is)."""
    from librosa import midi_to_hz

    if not parameters:
        return {}
    ends = np.concatenate([midi_to_hz(_natural(parameter, _PITCH, parameter.span)) for parameter in parameters])
    ends = ends[np.isfinite(ends)]
    if not len(ends):
        return {}
    lowest, highest = max(_LOWEST_PITCH, ends.min() / _MARGIN), max(2 * _LOWEST_PITCH, ends.max() * _MARGIN)
    if lowest >= sample_rate / 4:
        raise UsageError(
            f"{parameters[0].name} starts at {ends.min():g} Hz, and at a sample rate of {sample_rate} Hz no pitch "
            f"above {sample_rate / 4:g} Hz can be told: correct lo and hi or the unit"
        )
    return {"lowest_pitch": float(lowest), "highest_pitch": float(highest)}


def _compared(aspect: Aspect, times: Floats, asked: Floats, measured: Floats) -> Followed:
    wanted = np.isfinite(asked)
    used = wanted & np.isfinite(measured)
    share = float(used.sum() / wanted.sum()) if wanted.any() else 0.0
    offset: float | None = 0.0
    if not aspect.absolute:
        offset = _median((measured - asked)[used & (measured > SILENCE_DBFS) & (asked > FLOOR_DB)])
    if offset is None or not used.any():
        return Followed(aspect, times, asked, measured, offset, share, None, None, None)
    if not (aspect.absolute or _changes(asked[used])):
        return Followed(aspect, times, asked, measured, offset, share, None, None, None)
    want, got = _comparable(aspect, asked[used] + offset, measured[used])
    difference = (got - want) * (100.0 if aspect.error_unit == "cents" else 1.0)
    distance = np.abs(difference)
    octaves = octave_errors = None
    if aspect.sound == "pitch":
        octave_errors = float(np.mean(np.abs(distance - _OCTAVE_CENTS) <= _OCTAVE_TOLERANCE))
    if aspect.sound == "brightness":
        want, got = np.log2(want), np.log2(np.maximum(got, 1.0))
        octaves = _median(np.abs(got - want))
    rank_correlation, correlation = _correlations(want, got)
    return Followed(
        aspect,
        times,
        asked,
        measured,
        offset,
        share,
        error=_median(distance),
        error_p90=float(np.percentile(distance, 90)),
        bias=_median(difference),
        octaves=octaves,
        octave_errors=octave_errors,
        rank_correlation=rank_correlation,
        correlation=correlation,
    )


def _comparable(aspect: Aspect, want: Floats, got: Floats) -> tuple[Floats, Floats]:
    if aspect.sound != "loudness":
        return want, got
    return np.maximum(want, SILENCE_DBFS), np.maximum(got, SILENCE_DBFS)


def _median(values: npt.ArrayLike) -> float | None:
    array = np.asarray(values, np.float64)
    return float(np.median(array)) if array.size else None


def _correlations(want: Floats, got: Floats) -> tuple[float, float] | tuple[None, None]:
    """Spearman's and Pearson's; None for fewer than three points or a constant request, 0 for a constant sound."""
    from scipy.stats import pearsonr, spearmanr

    if len(want) < 3 or not _changes(want):
        return None, None
    if not _changes(got):
        return 0.0, 0.0
    # Rounded, because the values of an interpolated constant differ in their last digit.
    ranks = spearmanr(np.round(want, 9), np.round(got, 9))
    return float(ranks.statistic), float(pearsonr(want, got).statistic)


def _changes(values: Floats) -> bool:
    return bool(np.ptp(values) > 1e-9 * max(1.0, float(np.abs(values).max())))


# What to ask for -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scenario:
    """What to ask a network for.

    name: what is asked, for people and for messages. kind: whether `parameter` has a value that occurred in training,
    one between two of those, or runs from the lowest to the highest. group: the values of the categories it was
    combined with, as text; scenarios of one group differ in nothing else.
    """

    name: str
    kind: Kind
    controls: Controls
    seconds: float
    parameter: str
    group: str = ""


def trained_values(schema: Schema, sounds: Iterable[Controls]) -> dict[str, list[float]]:
    """The values each parameter takes in `sounds` (the training split), rising: all different ones, or, of a parameter
    with more than 128 that is no category, 13 quantiles from 5 % to 95 % of the points."""
    points: dict[str, list[Floats]] = {name: [] for name in schema.names}
    for controls in sounds:
        for name in points:
            if name in controls:
                track = controls[name]
                points[name].append(track.values[:1] if track.is_constant else track.values)
    result = {}
    for parameter in schema.parameters:
        values = np.concatenate([np.zeros(0), *points[parameter.name]])
        distinct = np.unique(values)
        if len(distinct) > _DISTINCT and not parameter.is_category:
            distinct = np.unique(np.quantile(values, np.linspace(0.05, 0.95, _QUANTILES)))
        result[parameter.name] = [float(value) for value in distinct]
    return result


def scenarios(
    schema: Schema,
    values: Mapping[str, Sequence[float]],
    *,
    names: Sequence[str] | None = None,
    seconds: float = 2.0,
    most: int = MOST_TRAINED,
) -> list[Scenario]:
    """What to ask for: one parameter after another at trained values, between them, and swept from end to end.

    All values of a parameter if there are not more than `most`, else seven spread over them; halfway to the next
    trained value; one sweep. Other parameters are held at their middle value, but everything is repeated with every
    value of a category that has up to four. A category has nothing between its values.

    Args:
        schema: of the network.
        values: by name what each parameter was trained on, such as `trained_values` gives.
        names: parameters to go through; by default all that can be measured and are no categories.
        seconds: length of each sound.
        most: trained values of a parameter that are all asked for.

    Raises:
        UsageError: a name that is not in the schema or cannot be measured, or a parameter without values.
    """
    trained = {parameter.name: _distinct(parameter, values.get(parameter.name, ())) for parameter in schema.parameters}
    measurable = [parameter.name for parameter in schema.parameters if aspect_of(parameter) is not None]
    if names is None:
        names = [name for name in measurable if not schema.of(name).is_category]
    for name in names:
        if schema.of(name).name not in measurable:
            known = f"choose from {', '.join(measurable)}" if measurable else "and no other parameter can either"
            raise UsageError(f"{name} cannot be measured in a sound: {known}")
    found: list[Scenario] = []
    for name in names:
        parameter = schema.of(name)
        combined = [
            other
            for other in schema.parameters
            if other.name != name and other.is_category and len(trained[other.name]) <= MOST_COMBINED
        ]
        held = {key: points[(len(points) - 1) // 2] for key, points in trained.items()}
        asked = _asked(parameter, trained[name], seconds, most)
        for choice in itertools.product(*(trained[other.name] for other in combined)):
            chosen = dict(zip((other.name for other in combined), choice, strict=True))
            group = ", ".join(f"{other.name}={_told(other, chosen[other.name])}" for other in combined)
            others = {key: Track.constant(key, value) for key, value in (held | chosen).items()}
            for kind, label, track in asked:
                title = f"{name}={label}" + (f", {group}" if group else "")
                found.append(Scenario(title, kind, {**others, name: track}, seconds, name, group))
    return found


def _distinct(parameter: Parameter, given: Sequence[float]) -> list[float]:
    points = np.unique(np.asarray(given, np.float64))
    points = points[np.isfinite(points)]
    aspect = aspect_of(parameter)
    if aspect is not None and len(points):
        points = points[np.isfinite(_natural(parameter, aspect, points))]  # 0 Hz is not a pitch to ask for
    if not len(points):
        raise UsageError(f"{parameter.name} has no trained values to ask for: give the values that occur in training")
    return [float(point) for point in points]


def _asked(parameter: Parameter, points: list[float], seconds: float, most: int) -> list[tuple[Kind, str, Track]]:
    """Kind, text and track of all that is asked of one parameter."""
    places = list(range(len(points)))
    if len(points) > most:
        places = sorted({round(place) for place in np.linspace(0, len(points) - 1, min(most, SPREAD))})
    name = parameter.name
    asked: list[tuple[Kind, str, Track]] = [
        ("trained", _told(parameter, points[place]), Track.constant(name, points[place])) for place in places
    ]
    if parameter.is_category or len(points) < 2:
        return asked
    for place in places:
        if place + 1 < len(points):
            middle = (points[place] + points[place + 1]) / 2
            asked.append(("between", _told(parameter, middle), Track.constant(name, middle)))
    # A parameter whose values are held needs many points to move.
    steps = 2 if parameter.interp == "linear" else max(2, round(seconds / _STEP_SECONDS))
    track = Track(name, np.linspace(0.0, seconds, steps), np.linspace(points[0], points[-1], steps))
    asked.append(("sweep", f"{_told(parameter, points[0])} to {_told(parameter, points[-1])}", track))
    return asked


def asked_for(controls: Controls, schema: Schema) -> str:
    """All that is asked for, in words: `p=64 to 76, inst=bowed, a=0.5`; of a curve its first and last value."""
    words = []
    for name, track in controls.items():
        ends = [_told(schema.of(name), float(value)) for value in (track.values[0], track.values[-1])]
        words.append(f"{name}={ends[0]}" if track.is_constant else f"{name}={' to '.join(ends)}")
    return ", ".join(words)


def _told(parameter: Parameter, value: float) -> str:
    return parameter.name_of(value) or f"{value:.6g}"


# All sounds ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Result:
    """What a sound that was made for a scenario came out like."""

    scenario: Scenario
    followed: Mapping[str, Followed]


@dataclass(frozen=True)
class Row:
    """One parameter over all sounds of one kind; the kind "held" is those in which another parameter was gone through.

    sounds: how many; compared: in how many of them there was anything to compare.
    in_tune: pitch: how many are voiced for half of the time and within 50 cents; None for what is no pitch.
    octave_off: pitch: how many are an octave off for most of the time.
    error, error_p90: median and 90th percentile over the sounds of each sound's median absolute error; loudness that is
        not absolute has one offset for all sounds of a group, so that sounds at different levels count as such, and no
        error in a group where one and the same is asked for.
    voiced: pitch: the share of the frames that are voiced, and compared; median of the sounds.
    octaves: brightness: the same in octaves, median.
    rank_correlation, correlation: sweeps: over time, median of the sounds. Constant requests: over the sounds of a
        group, of the median each of them has; median of the groups, None for fewer than three different requests.
    """

    parameter: str
    aspect: Aspect
    kind: str
    sounds: int
    compared: int
    in_tune: int | None
    octave_off: int | None
    error: float | None
    error_p90: float | None
    octaves: float | None
    rank_correlation: float | None
    correlation: float | None
    voiced: float | None = None


@dataclass(frozen=True, eq=False)
class Following:
    """How well parameters are followed: the rows of a table, and the results they are from."""

    rows: tuple[Row, ...]
    results: tuple[Result, ...]

    @property
    def missed(self) -> list[str]:
        """The sounds whose pitch is not in tune though it was gone through, each with what came instead."""
        found = []
        for result in self.results:
            followed = result.followed.get(result.scenario.parameter)
            if followed is not None and followed.aspect.sound == "pitch" and not followed.in_tune:
                found.append(f"{result.scenario.name}: {followed.told}")
        return found

    def table(self) -> str:
        """As lines of text."""
        head = ["parameter", "request", "sounds", "in tune", "error", "90 %", "rank corr.", "lin. corr."]
        lines = [head]
        for row in self.rows:
            error = _number(row.error, row.aspect.error_unit)
            if row.octaves is not None:
                error += f" ({row.octaves:.2f} oct)"
            lines.append(
                [
                    row.parameter,
                    row.kind,
                    str(row.sounds) if row.compared == row.sounds else f"{row.compared} of {row.sounds}",
                    "-" if row.in_tune is None else f"{row.in_tune} of {row.sounds}",
                    error,
                    _number(row.error_p90, row.aspect.error_unit),
                    "-" if row.rank_correlation is None else f"{row.rank_correlation:.3f}",
                    "-" if row.correlation is None else f"{row.correlation:.3f}",
                ]
            )
        form = ["<", "<", *(">" for _ in head[2:])]
        widths = [f"{side}{max(map(len, column))}" for side, column in zip(form, zip(*lines, strict=True), strict=True)]
        text = ["  ".join(map(format, line, widths)).rstrip() for line in lines]
        octaves = sum(row.octave_off or 0 for row in self.rows)
        if octaves:
            text.append(f"an octave off: {octaves} {'sound' if octaves == 1 else 'sounds'}")
        text += [
            f"{row.parameter}, {row.kind}: {_percent(row.voiced)} of the frames are voiced, and only they are compared"
            for row in self.rows
            if row.voiced is not None and row.voiced < _MOSTLY_VOICED
        ]
        return "\n".join([*text, *(f"not in tune: {missed}" for missed in self.missed)])

    def document(self) -> dict[str, Any]:
        """As JSON: the rows, and each sound with what was asked of it; null where there is no number."""
        return {
            "summary": [
                {
                    "parameter": row.parameter,
                    "sound": row.aspect.sound,
                    "request": row.kind,
                    "error_unit": row.aspect.error_unit,
                    **{key: _plain(getattr(row, key)) for key in _ROW_KEYS},
                }
                for row in self.rows
            ],
            "sounds": [
                {
                    "name": result.scenario.name,
                    "request": result.scenario.kind,
                    "parameter": result.scenario.parameter,
                    "group": result.scenario.group,
                    "seconds": result.scenario.seconds,
                    "controls": {
                        name: {"times": track.times.tolist(), "values": track.values.tolist()}
                        for name, track in result.scenario.controls.items()
                    },
                    "followed": {
                        name: {
                            "sound": followed.aspect.sound,
                            "error_unit": followed.aspect.error_unit,
                            **{key: _plain(getattr(followed, key)) for key in _SOUND_KEYS},
                        }
                        for name, followed in result.followed.items()
                    },
                }
                for result in self.results
            ],
        }


_ROW_KEYS = (
    "sounds", "compared", "in_tune", "voiced", "octave_off", "error", "error_p90", "octaves", "rank_correlation",
    "correlation",
)  # fmt: skip
_SOUND_KEYS = (
    "share", "offset", "error", "error_p90", "bias", "octaves", "octave_errors", "rank_correlation", "correlation",
)  # fmt: skip


def _plain(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 100 else 1 if unit in ("cents", "dB", "Hz") else 3
    return f"{value:.{digits}f} {unit}".rstrip()


def _percent(share: float) -> str:
    return f"{100.0 * share:.0f} %"


def median_errors(sounds: Sequence[Mapping[str, Followed]]) -> dict[str, float]:
    """By name, the median over several sounds of each one's median absolute error, with one offset for all of them
    where the aspect is not absolute; without those of which there is nothing to say."""
    found = {}
    for name in dict.fromkeys(name for each in sounds for name in each):
        all_followed = [each[name] for each in sounds if name in each]
        errors = _errors(all_followed, _common_offset(all_followed))
        if errors:
            found[name] = float(np.median(errors))
    return found


def summarise(results: Iterable[Result]) -> Following:
    """What all sounds together say: a row for each parameter and kind of request, in the order they come."""
    results = tuple(results)
    names = dict.fromkeys(name for result in results for name in result.followed)
    rows = []
    for name in names:
        offsets = _group_offsets(name, results)
        for kind in ("trained", "between", "sweep", "held"):
            chosen = [
                result
                for result in results
                if name in result.followed
                and kind == (result.scenario.kind if result.scenario.parameter == name else "held")
            ]
            if chosen:
                rows.append(_row(name, kind, chosen, offsets))
    return Following(tuple(rows), results)


def _group_offsets(name: str, results: Sequence[Result]) -> dict[str, float | None]:
    by_group: dict[str, list[Followed]] = {}
    for result in results:
        if name in result.followed:
            by_group.setdefault(result.scenario.group, []).append(result.followed[name])
    return {group: _common_offset(sounds) for group, sounds in by_group.items()}


def _common_offset(sounds: Sequence[Followed]) -> float | None:
    """One offset for several sounds; None where they all ask for one and the same, since it would fit whatever came."""
    asked = np.concatenate([each.requested[np.isfinite(each.requested)] for each in sounds])
    if not (sounds[0].aspect.absolute or (asked.size and _changes(asked))):
        return None
    return _median([each.offset for each in sounds if each.offset is not None])


def _errors(sounds: Sequence[Followed], offset: float | None) -> list[float]:
    """The median absolute error of each sound that has one; where the aspect is not absolute, with this offset."""
    if sounds[0].aspect.absolute:
        return [each.error for each in sounds if each.error is not None]
    return [error for each in sounds if (error := _error_with(each, offset)) is not None]


def _row(name: str, kind: str, results: Sequence[Result], offsets: Mapping[str, float | None]) -> Row:
    all_followed = [result.followed[name] for result in results]
    aspect = all_followed[0].aspect
    numbers = [
        error for result in results for error in _errors([result.followed[name]], offsets[result.scenario.group])
    ]
    if kind == "sweep":
        pairs = [(followed.rank_correlation, followed.correlation) for followed in all_followed]
    else:
        pairs = [_correlations(*_middles(name, results, group, offset or 0.0)) for group, offset in offsets.items()]
    is_pitch = aspect.sound == "pitch"
    return Row(
        name,
        aspect,
        kind,
        sounds=len(all_followed),
        compared=len(numbers),
        in_tune=sum(followed.in_tune for followed in all_followed) if is_pitch else None,
        octave_off=sum((followed.octave_errors or 0.0) > 0.5 for followed in all_followed) if is_pitch else None,
        error=_median(numbers),
        error_p90=float(np.percentile(numbers, 90)) if numbers else None,
        octaves=_median([followed.octaves for followed in all_followed if followed.octaves is not None]),
        rank_correlation=_median([rank for rank, _ in pairs if rank is not None]),
        correlation=_median([linear for _, linear in pairs if linear is not None]),
        voiced=_median([followed.share for followed in all_followed]) if is_pitch else None,
    )


def _error_with(followed: Followed, offset: float | None) -> float | None:
    """The median absolute error of a loudness that has this offset."""
    if offset is None or not len(followed.times):
        return None
    want, got = _comparable(followed.aspect, followed.requested + offset, followed.measured)
    return _median(np.abs(got - want))


def _middles(name: str, results: Sequence[Result], group: str, offset: float) -> tuple[Floats, Floats]:
    """What was asked for and what came, one median `[sounds]` for each sound of a group that holds both."""
    pairs = []
    for result in results:
        followed = result.followed[name]
        used = np.isfinite(followed.requested) & np.isfinite(followed.measured)
        if result.scenario.group == group and used.any():
            want, got = _comparable(followed.aspect, followed.requested[used] + offset, followed.measured[used])
            if followed.aspect.sound == "brightness":
                want, got = np.log2(want), np.log2(np.maximum(got, 1.0))
            pairs.append((np.median(want), np.median(got)))
    wanted, came = np.array(pairs, np.float64).reshape(-1, 2).T
    return wanted, came


# Pictures ------------------------------------------------------------------------------------------------------------


def plot_following(
    path: Path | str, followed: Mapping[str, Followed], audio: npt.ArrayLike, sample_rate: int, *, title: str = ""
) -> None:
    """Write a PNG: the sound, and below it a strip for each parameter, what was asked for dashed, what came solid.

    Pitch and brightness also lie over the spectrogram, what was asked for as a line, what came as dots on it. Loudness
    that is not absolute is shown with its offset, or by itself where nothing can be said of what was asked for. Raises
    RunError if the picture cannot be written.
    """
    from librosa import midi_to_hz

    from tierwave.analysis.plots import sound_picture

    curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    overlays: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, each in followed.items():
        if not len(each.times):
            continue
        dashed = _dashes(each.times, each.aligned, _DASHES)
        unit = f" in {each.aspect.unit}" if each.aspect.unit else ""
        asked = "asked for (dashed) and " if each.aspect.absolute else "asked for (dashed, shifted to fit) and "
        curves[f"{name}{unit}: {asked if each.has_place else ''}measured"] = (
            np.concatenate([each.times, each.times[-1:], dashed[0]]),
            np.concatenate([each.measured, [np.nan], dashed[1]]),
        )
        if each.aspect.sound in ("pitch", "brightness"):
            place = midi_to_hz if each.aspect.sound == "pitch" else np.asarray
            overlays[f"{name} asked for"] = (each.times, place(each.requested))
            overlays[f"{name} measured"] = _dashes(each.times, place(each.measured), _DOTS, 0.15)
    sound_picture(path, np.asarray(audio), sample_rate, title=title, curves=curves, overlays=overlays)


def _dashes(times: Floats, values: Floats, count: int, filled: float = 0.5) -> tuple[Floats, Floats]:
    """A curve as `count` dashes, NaN between them; those that miss a value are left out."""
    edges = np.linspace(times[0], times[-1], count + 1)[:-1]
    length = (times[-1] - times[0]) / count
    dense = edges[:, None] + length * np.append(np.linspace(0.0, filled, 5), filled)
    curve = np.interp(dense, times, values)
    curve[:, -1] = np.nan
    return dense.ravel(), curve.ravel()
