"""How near a generated sound is to the controls that were requested: requested against measured.

Most controls can be heard, and `features` measures them in the sound: pitch, loudness, brightness, and whatever bears
the name of a feature. `scenarios` in `control_scenarios` says what to request of a network, `measure_controls` compares
one sound with its request, `summarise` in `control_summary` does so for all sounds:

    for scenario in scenarios(schema, trained_values(schema, sounds)):
        audio = ...  # scenario.seconds of sound that was generated with scenario.controls
        results.append(Result(scenario, measure_controls(audio, sample_rate, scenario.controls, schema)))
    print(summarise(results).table())

Pitch is measured in steps of 10 cents (pYIN's grid), so an error below 5 cents is none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from tierwave.analysis.features import FEATURES, FLOOR_DB, Analysis, measure
from tierwave.analysis.statistics import SILENCE_DBFS
from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.tracks import Controls
from tierwave.errors import UsageError

Sound: TypeAlias = Literal["pitch", "loudness", "brightness", "feature"]
Floats: TypeAlias = npt.NDArray[np.float64]

EDGE_SECONDS = 0.05  # at either end of a sound, where windows hang over and sounds begin and die away
IN_TUNE_CENTS = 50.0  # nearer to what was requested than to any other note
VOICED_SHARE = 0.5

_LOWEST_PITCH = 25.0  # Hz; below, pYIN's windows grow long, and nothing is heard as a pitch
_MARGIN = 2.0 ** (13 / 12)  # of the pitch range, an octave and a semitone: so octave errors are seen
_OCTAVE_CENTS, _OCTAVE_TOLERANCE = 1200.0, 100.0
_DASHES, _DOTS = 60, 80  # across a picture

_HERTZ = ("hertz", "frequency")


# What a control is in the sound --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Aspect:
    """What a control is in the sound. unit: of requested and measured values; error_unit: of their difference;
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

# Units that suffice, and words in the name that suffice together with further units; None: without a unit.
_HEARD: tuple[tuple[Aspect, tuple[str, ...], tuple[str, ...], tuple[str | None, ...]], ...] = (
    (_PITCH, ("midiPitch",), ("pitch", "f0", "midi"), _HERTZ),
    (_BRIGHTNESS, (), ("centroid", "brightness"), _HERTZ),
    (_LOUDNESS, ("amplitude", "dB", "energy"), ("rmse", "level", "amplitude", "loudness", "volume"), ("norm",)),
)
_ITSELF = ("bandwidth", "flatness", "zcr", "onset", "voicing")  # and mfcc: measured by the feature of that very name


def aspect_of(parameter: Parameter) -> Aspect | None:
    """What a control is in the sound, by its unit and name; None for what cannot be measured (an instrument)."""
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


def natural(parameter: Parameter, aspect: Aspect, values: npt.ArrayLike) -> Floats:
    """Raw values in the aspect's unit; NaN where no pitch or brightness is requested (0 Hz)."""
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
    if parameter.units is None:  # then the range decides
        return parameter.name.lower() == "midi" or max(parameter.span) <= 127
    return parameter.units == "midiPitch"


def _in_decibels(parameter: Parameter) -> bool:
    # What has no unit but goes below 0 is no amplitude.
    return parameter.units == "dB" or (parameter.units is None and min(parameter.span) < 0)


# One sound -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ControlAccuracy:
    """One control of one sound: what was requested, what was measured, how far they are apart.

    times: seconds `[frames]`, without the ends of the sound.
    requested, measured: in the aspect's unit `[frames]` (midi, dB, Hz); NaN where nothing was requested or nothing
        can be measured: pitch where there is none, brightness where it is silent.
    offset: what to add to requested, the median difference, where the aspect is not absolute; None if it is all silent.
    share: of the frames with a request those that were compared; for pitch, how much of the sound is voiced.
    error, error_p90: median and 90th percentile of the absolute difference, in the aspect's error_unit (cents, dB, Hz);
        None also where the aspect is not absolute and the request does not move: any sound would be as requested.
    bias: median difference with its sign: above 0 is higher, louder or brighter than requested.
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
        """Whether half of the frames have a pitch, within 50 cents of the requested one."""
        return self.share >= VOICED_SHARE and self.error is not None and self.error <= IN_TUNE_CENTS

    @property
    def comparable(self) -> bool:
        """Whether the request can be expressed in the unit of what was measured."""
        return self.aspect.absolute or self.error is not None

    @property
    def aligned(self) -> Floats:
        """The request with the offset, `[frames]`; NaN where it is not comparable."""
        return self.requested + ((self.offset or 0.0) if self.comparable else math.nan)

    @property
    def words(self) -> str:
        """How far off it is, and how much of it is voiced: `40.0 cents off (43 % of its frames voiced)`."""
        if self.error is None:
            if self.aspect.sound == "pitch" and np.isfinite(self.requested).any():
                return "none of its frames voiced"
            own_scale = self.offset is not None and not self.aspect.absolute
            return "nothing to compare" + (": one value, on a scale of its own" if own_scale else "")
        words = f"{with_unit(self.error, self.aspect.error_unit)} off"
        return f"{words} ({percent(self.share)} of its frames voiced)" if self.aspect.sound == "pitch" else words


def measure_controls(
    audio: npt.ArrayLike,
    sample_rate: int,
    requested: Controls,
    schema: Schema,
) -> dict[str, ControlAccuracy]:
    """How near a sound is to its request, for every control that can be measured (`aspect_of`), by name.

    audio: float `[samples]`, full scale 1.0. requested: raw values, time 0 the first sample; those that are not in the
    schema are ignored. Pitch is tracked from an octave below to an octave above the range in the schema.

    Raises:
        UsageError: a pitch without lo and hi, or one too high for the sample rate.
        ValueError: not one channel of at least one finite sample.
    """
    sound = np.asarray(audio, np.float64)
    if not np.isfinite(sound).all():
        raise ValueError("the sound holds NaN or infinity; repair it first.")
    measurable = {
        parameter.name: (parameter, aspect)
        for parameter in schema.parameters
        if parameter.name in requested and (aspect := aspect_of(parameter)) is not None
    }
    if not measurable:
        return {}
    features = tuple(dict.fromkeys(["level", *(aspect.feature for _, aspect in measurable.values())]))
    pitch_range = {}
    if {"midi", "pitch"} & set(features):
        pitch_range = _pitch_range([of for of, aspect in measurable.values() if aspect.sound == "pitch"], sample_rate)
    tracks = measure(sound, sample_rate, Analysis(features, **pitch_range))
    times = tracks["level"].times
    inner = (times >= EDGE_SECONDS) & (times <= len(sound) / sample_rate - EDGE_SECONDS)
    curves = {name: track.values[inner] for name, track in tracks.items()}
    sounding = curves["level"] > SILENCE_DBFS
    result = {}
    for name, (parameter, aspect) in measurable.items():
        wanted = natural(parameter, aspect, requested[name].at(times[inner], parameter.interp))
        measured = curves[aspect.measured]
        if aspect.sound == "pitch":
            measured = np.where(sounding & (curves["voicing"] > 0), measured, np.nan)
        elif aspect.sound == "brightness":
            measured = np.where(sounding, measured, np.nan)
        result[name] = _compared(aspect, times[inner], wanted, measured)
    return result


def _pitch_range(parameters: Sequence[Parameter], sample_rate: int) -> dict[str, float]:
    """The range of pYIN in hertz; its own where no pitch is requested (but voicing is), or a range begins at 0, where
    there is none."""
    from librosa import midi_to_hz

    if not parameters:
        return {}
    ends = np.concatenate([midi_to_hz(natural(parameter, _PITCH, parameter.span)) for parameter in parameters])
    if not np.isfinite(ends).all():
        return {}
    lowest, highest = max(_LOWEST_PITCH, ends.min() / _MARGIN), max(2 * _LOWEST_PITCH, ends.max() * _MARGIN)
    if lowest >= sample_rate / 4:
        raise UsageError(
            f"{parameters[0].name} starts at {ends.min():g} Hz, and at a sample rate of {sample_rate} Hz no pitch "
            f"above {sample_rate / 4:g} Hz can be told: correct lo and hi or the unit"
        )
    return {"lowest_pitch": float(lowest), "highest_pitch": float(highest)}


def _compared(aspect: Aspect, times: Floats, requested: Floats, measured: Floats) -> ControlAccuracy:
    wanted = np.isfinite(requested)
    used = wanted & np.isfinite(measured)
    share = float(used.sum() / wanted.sum()) if wanted.any() else 0.0
    offset: float | None = 0.0
    if not aspect.absolute:
        offset = median((measured - requested)[used & (measured > SILENCE_DBFS) & (requested > FLOOR_DB)])
    if offset is None or not used.any() or not (aspect.absolute or changes(requested[used])):
        return ControlAccuracy(aspect, times, requested, measured, offset, share, None, None, None)
    want, got = floored(aspect, requested[used] + offset, measured[used])
    difference = (got - want) * (100.0 if aspect.error_unit == "cents" else 1.0)
    distance = np.abs(difference)
    octaves = octave_errors = None
    if aspect.sound == "pitch":
        octave_errors = float(np.mean(np.abs(distance - _OCTAVE_CENTS) <= _OCTAVE_TOLERANCE))
    if aspect.sound == "brightness":
        want, got = np.log2(want), np.log2(np.maximum(got, 1.0))
        octaves = median(np.abs(got - want))
    rank_correlation, correlation = correlations(want, got)
    return ControlAccuracy(
        aspect,
        times,
        requested,
        measured,
        offset,
        share,
        error=median(distance),
        error_p90=float(np.percentile(distance, 90)),
        bias=median(difference),
        octaves=octaves,
        octave_errors=octave_errors,
        rank_correlation=rank_correlation,
        correlation=correlation,
    )


def floored(aspect: Aspect, want: Floats, got: Floats) -> tuple[Floats, Floats]:
    if aspect.sound != "loudness":
        return want, got
    return np.maximum(want, SILENCE_DBFS), np.maximum(got, SILENCE_DBFS)


def median(values: npt.ArrayLike) -> float | None:
    array = np.asarray(values, np.float64)
    return float(np.median(array)) if array.size else None


def correlations(want: Floats, got: Floats) -> tuple[float, float] | tuple[None, None]:
    """Spearman's and Pearson's; None for fewer than three points or a constant request, 0 for a constant sound."""
    from scipy.stats import pearsonr, spearmanr

    if len(want) < 3 or not changes(want):
        return None, None
    if not changes(got):
        return 0.0, 0.0
    # Rounded, because the values of an interpolated constant differ in their last digit.
    ranks = spearmanr(np.round(want, 9), np.round(got, 9))
    return float(ranks.statistic), float(pearsonr(want, got).statistic)


def changes(values: Floats) -> bool:
    return bool(np.ptp(values) > 1e-9 * max(1.0, float(np.abs(values).max())))


def with_unit(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 100 else 1 if unit in ("cents", "dB", "Hz") else 3
    return f"{value:.{digits}f} {unit}".rstrip()


def percent(share: float) -> str:
    return f"{100.0 * share:.0f} %"


# A picture ------------------------------------------------------------------------------------------------------------


def accuracy_picture(
    path: Path | str,
    accuracies: Mapping[str, ControlAccuracy],
    audio: npt.ArrayLike,
    sample_rate: int,
    *,
    title: str = "",
) -> None:
    """Write a PNG: the sound, and below it a strip for each control, requested values dashed, measured ones solid.

    Pitch and brightness also lie over the spectrogram, requested as a line, measured as dots on it. Loudness that is
    not absolute is shown with its offset, or by itself where the request is not comparable. Raises RunError if the
    picture cannot be written.
    """
    from librosa import midi_to_hz

    from tierwave.analysis.plots import sound_picture

    curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    overlays: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, each in accuracies.items():
        if not len(each.times):
            continue
        dashed = _dashes(each.times, each.aligned, _DASHES)
        unit = f" in {each.aspect.unit}" if each.aspect.unit else ""
        requested = "requested (dashed) and " if each.aspect.absolute else "requested (dashed, shifted to fit) and "
        curves[f"{name}{unit}: {requested if each.comparable else ''}measured"] = (
            np.concatenate([each.times, each.times[-1:], dashed[0]]),
            np.concatenate([each.measured, [np.nan], dashed[1]]),
        )
        if each.aspect.sound in ("pitch", "brightness"):
            place = midi_to_hz if each.aspect.sound == "pitch" else np.asarray
            overlays[f"{name} requested"] = (each.times, place(each.requested))
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
