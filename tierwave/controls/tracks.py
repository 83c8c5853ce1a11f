"""Parameters over time: what they mean (schema), how they run (tracks), and their values at any rate.

A *track* is one parameter of one sound, on its own time grid and in raw units; a `Controls` is all tracks of one sound.
A *schema* says which parameters there are, in which order, and how raw values map to the numbers a network sees: the
run stores it, and nothing else maps at generation. Knows NumPy arrays and what is typed or given for generation; how
parameters lie in files is `files`' matter, which file belongs to which recording `sources`', how they are
measured `features`'. `python -m tierwave controls` is the command line.

    times   0.0          0.5 0.5           1.5        seconds; a repeated time is a step
    values  64           64  76            70         MIDI pitch
            |------------|   |-------------|--- held
    sample  k = 0, 1, 2 ... at start_seconds + k / rate
"""

from __future__ import annotations

import difflib
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, model_validator

from tierwave.config import StrictModel, validate
from tierwave.errors import RunError, UsageError
from tierwave.files.names import located
from tierwave.files.writing import ArrayError, load_array

Scale = Literal["linear", "log", "log1p"]
Interpolation = Literal["linear", "previous"]
Outside = Literal["clip", "allow", "error"]
Encoding = Literal["number", "one_hot"]

# Units with a meaning here or in the wild. Others are taken as they are, but for what looks like one of these mistyped.
UNITS = (
    "category", "midiPitch", "hertz", "frequency", "amplitude", "energy", "dB", "seconds", "norm", "velocity", "cents",
)  # fmt: skip

_MAPPED: dict[str, Callable[[Any], Any]] = {"linear": np.asarray, "log": np.log, "log1p": np.log1p}
_UNMAPPED: dict[str, Callable[[Any], Any]] = {"linear": np.asarray, "log": np.exp, "log1p": np.expm1}
_ABOVE = {"linear": -math.inf, "log": 0.0, "log1p": -1.0}  # what has a place on a scale

_ROUNDING = 1e-6  # of a range: what float32 and decimals in file names may add to either end
_BLOCK_SAMPLES = 1 << 20  # resampled at a time, so that an hour of control costs no more memory than its result
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


class ControlWarning(UserWarning):
    """A control was changed to something the network knows. The message names the parameter and its range."""


# Schema --------------------------------------------------------------------------------------------------------------


def _known_unit(unit: Any) -> Any:
    if not isinstance(unit, str):
        return unit
    text = unit.strip()
    if text.lower() in ("", "none", "null"):  # as paramManager's files write it
        return None
    spelt = {known.lower(): known for known in UNITS}
    if text.lower() in spelt:
        return spelt[text.lower()]
    near = difflib.get_close_matches(text.lower(), spelt, n=1, cutoff=0.8)
    if near:
        raise ValueError(f"the unit is unknown; did you mean {spelt[near[0]]}?")
    return text


def _without_bars(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names) or any(not name or name != name.strip() or "|" in name for name in names):
        raise ValueError("categories need different names, none of them empty, with | in it or spaces around it")
    return names


class Parameter(StrictModel):
    """One parameter and how its raw values map to [0, 1].

    minval and maxval are what the data declare and never map anything by themselves; lo and hi are the raw values that
    become 0 and 1, None until they are known (`Schema.fit`). A parameter is a category if it has `nvals` different
    values or the unit "category": it is then not interpolated, and an unknown value is an error, unless said otherwise.
    """

    name: str = Field(min_length=1, description="the parameter's name")
    units: Annotated[str | None, BeforeValidator(_known_unit)] = Field(None, description="such as hertz or midiPitch")
    nvals: int = Field(0, ge=0, description="number of different values; 0: continuous")
    minval: float | None = Field(None, description="smallest value the data declare")
    maxval: float | None = Field(None, description="largest value the data declare")
    lo: float | None = Field(None, description="raw value that becomes 0")
    hi: float | None = Field(None, description="raw value that becomes 1")
    scale: Scale = Field("linear", description="linear, log or log1p between lo and hi")
    interp: Interpolation = Field("linear", description="linear, or previous: a value holds until the next one")
    outside: Outside = Field("clip", description="beyond lo and hi: clip with a warning, allow, or error")
    categories: Annotated[tuple[str, ...], Field(description="what the values 0, 1, 2 ... stand for")] = ()
    encoding: Encoding = Field("number", description="how a network sees a category: as number, or one_hot")

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        values = {key: value for key, value in given.items() if value is not None}
        if isinstance(values.get("categories"), list):
            values["categories"] = tuple(values["categories"])
        if values.get("categories"):
            values.setdefault("units", "category")
            values.setdefault("nvals", len(values["categories"]))
        unit = values.get("units")
        if values.get("nvals") or (isinstance(unit, str) and unit.strip().lower() == "category"):
            values.setdefault("interp", "previous")
            values.setdefault("outside", "error")
        return values

    @model_validator(mode="after")
    def _possible(self) -> Parameter:
        lowest = _ABOVE[self.scale]
        for key, value in (("lo", self.lo), ("hi", self.hi)):
            if value is not None and value <= lowest:
                raise ValueError(
                    f"{self.name}: {key} is {value:g}, and the scale {self.scale} needs more than {lowest:g}; raise "
                    f"{key} or choose another scale"
                )
        if self.minval is not None and self.maxval is not None and self.minval > self.maxval:
            raise ValueError(f"{self.name}: minval {self.minval:g} is above maxval {self.maxval:g}; exchange them")
        if self.categories:
            _without_bars(self.categories)
            if self.nvals != len(self.categories):
                raise ValueError(
                    f"{self.name}: nvals is {self.nvals}, but {len(self.categories)} categories are named; make them "
                    "agree"
                )
        if self.encoding == "one_hot":
            self._check_one_hot()
        return self

    def _check_one_hot(self) -> None:
        if self.nvals < 2:
            raise ValueError(
                f'{self.name}: encoding "one_hot" needs to know how many values there are, since the network has an '
                "input for each; give categories, or nvals"
            )
        wanted = (0.0, self.nvals - 1.0)
        if self.scale != "linear" or any(
            given not in (None, end) for given, end in zip((self.lo, self.hi), wanted, strict=True)
        ):
            raise ValueError(
                f'{self.name}: encoding "one_hot" is for the values 0 to {self.nvals - 1}; leave lo, hi and scale out'
            )

    @property
    def inputs(self) -> int:
        """How many inputs of a network it takes."""
        return self.nvals if self.encoding == "one_hot" else 1

    @property
    def is_category(self) -> bool:
        """Whether values are names in the guise of numbers, which have nothing in between."""
        return self.nvals > 0 or self.units == "category"

    def name_of(self, value: float) -> str | None:
        """What a value is called; None where it has no name."""
        return self.categories[int(value)] if value in range(len(self.categories)) else None

    @property
    def span(self) -> tuple[float, float]:
        """lo and hi; UsageError where they are not known yet."""
        if self.lo is None or self.hi is None:
            raise UsageError(
                f"the parameter {self.name} has no lo and hi: run `python -m tierwave controls fit`, or set "
                f"controls.{self.name}.lo and .hi in the config"
            )
        return self.lo, self.hi

    def normalise(
        self, values: npt.ArrayLike, *, outside: Outside | None = None, silent: bool = False
    ) -> npt.NDArray[np.float32]:
        """Raw values of any shape as the network sees them: lo is 0, hi is 1.

        outside: instead of the parameter's own. silent: without the warning. Beyond lo and hi, "clip" warns
        (`ControlWarning`) and takes the nearer end, "allow" extrapolates, "error" raises UsageError. So does any other
        value of a parameter that was constant in training (lo == hi), of which the network knows nothing else, and a
        value of which there is no logarithm.
        """
        lo, hi = self.span
        raw = np.asarray(values, np.float64)
        low, high = min(lo, hi), max(lo, hi)
        slack = _ROUNDING * max(abs(lo), abs(hi), high - low)
        beyond = ~((raw >= low - slack) & (raw <= high + slack))  # NaN too
        action = outside or self.outside
        if beyond.any():
            worst = float(raw[beyond][np.argmax(np.abs(raw[beyond] - (low + high) / 2))])
            told = f"{self.name}: {worst:g} lies outside the trained range {self._range()}"
            if not np.isfinite(raw).all():
                raise UsageError(f"{self.name} holds NaN or infinity: give a value in {self._range()}")
            if lo == hi:
                raise UsageError(f"{self.name} was {lo:g} all through training and cannot be {worst:g}: leave it out")
            if action == "error":
                raise UsageError(f'{told}: give one within it, or set "outside" of {self.name} to "clip" or "allow"')
            if action == "clip" and not silent:
                warnings.warn(f"{told}: it was clipped", ControlWarning, stacklevel=2)
        if lo == hi:
            return np.zeros(raw.shape, np.float32)
        if action == "allow":
            inside = np.where(beyond, raw, np.clip(raw, low, high))
            if (inside <= _ABOVE[self.scale]).any():
                raise UsageError(f"{self.name}: {inside.min():g} has no place on a {self.scale} scale: give more")
        else:
            inside = np.clip(raw, low, high)
        start, stop = _MAPPED[self.scale](np.array([lo, hi]))
        return ((_MAPPED[self.scale](inside) - start) / (stop - start)).astype(np.float32)

    def denormalise(self, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The raw values that `normalise` maps to `values`, of any shape; also beyond [0, 1]."""
        lo, hi = self.span
        start, stop = _MAPPED[self.scale](np.array([lo, hi]))
        return _UNMAPPED[self.scale](start + np.asarray(values, np.float64) * (stop - start))

    def _range(self) -> str:
        lo, hi = self.span
        named = f" ({', '.join(self.categories)})" if self.categories else f" {self.units}" if self.units else ""
        return f"{min(lo, hi):g} to {max(lo, hi):g}{named}"


class Schema(StrictModel):
    """The parameters of a model in the order of its inputs."""

    parameters: tuple[Parameter, ...] = ()

    @model_validator(mode="after")
    def _different_names(self) -> Schema:
        twice = [name for name in set(self.names) if self.names.count(name) > 1]
        if twice:
            raise ValueError(f"the parameter {sorted(twice)[0]} stands twice in the schema; keep one of them")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def named(self) -> dict[str, tuple[str, ...]]:
        """The categories, each with the names of its values, as far as they are known."""
        return {parameter.name: parameter.categories for parameter in self.parameters if parameter.is_category}

    def of(self, name: str) -> Parameter:
        """The parameter of that name; UsageError with the nearest name if there is none."""
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        near = difflib.get_close_matches(name, self.names, n=1)
        known = f"did you mean {near[0]}?" if near else f"there are {', '.join(self.names) or 'none'}"
        raise UsageError(f"there is no parameter {name}; {known}")

    def select(self, names: Sequence[str]) -> Schema:
        """Only these parameters, in this order; UsageError for one that there is not."""
        return Schema(parameters=tuple(self.of(name) for name in names))

    def updated(self, changes: Mapping[str, Mapping[str, Any]], source: str = "controls") -> Schema:
        """With some fields of some parameters changed, as the `controls` object of a config does.

        source: where the changes come from. Raises UsageError for a parameter or a field that there is not.
        """
        for name in changes:
            self.of(name)
        changed = [
            # Only what was said: what follows from the unit follows anew.
            validate(
                Parameter,
                {**parameter.model_dump(mode="json", exclude_unset=True), **changes[parameter.name]},
                f"{source}.{parameter.name}",
            )
            if parameter.name in changes
            else parameter
            for parameter in self.parameters
        ]
        return Schema(parameters=tuple(changed))

    def fit(self, sounds: Iterable[Controls]) -> Schema:
        """lo and hi, where they are not given, as the smallest and largest values of the tracks of `sounds`.

        Hand in the training split only (`Track.between` cuts stretches). A category with names spans all of them.
        Raises RunError where no sound has a parameter, or its smallest value has no logarithm.
        """
        lowest: dict[str, float] = {}
        highest: dict[str, float] = {}
        for controls in sounds:
            for name in self.names:
                if name in controls:
                    values = controls[name].values
                    lowest[name] = min(lowest.get(name, math.inf), float(values.min()))
                    highest[name] = max(highest.get(name, -math.inf), float(values.max()))
        fitted = []
        for parameter in self.parameters:
            name, missing = parameter.name, parameter.lo is None or parameter.hi is None
            if missing and (parameter.categories or parameter.encoding == "one_hot"):
                found = (0.0, parameter.nvals - 1.0)
            elif missing and name not in lowest:
                raise RunError(f"no sound has the parameter {name}, so its range cannot be told: set its lo and hi")
            else:
                found = (lowest.get(name, 0.0), highest.get(name, 0.0))
            if missing:
                lo, hi = (
                    given if given is not None else value
                    for given, value in zip((parameter.lo, parameter.hi), found, strict=True)
                )
                floor = _ABOVE[parameter.scale]
                if min(lo, hi) <= floor:
                    raise RunError(
                        f"{name} goes down to {min(lo, hi):g} and cannot have the scale {parameter.scale}: set its lo "
                        f"above {floor:g}, or choose another scale"
                    )
                parameter = parameter.model_copy(update={"lo": lo, "hi": hi})
            fitted.append(parameter)
        return Schema(parameters=tuple(fitted))

    def unfitted(self) -> Schema:
        """Without lo and hi, for a fit anew."""
        blank = {"lo": None, "hi": None}
        return Schema(parameters=tuple(parameter.model_copy(update=blank) for parameter in self.parameters))

    def inputs(
        self,
        controls: Controls,
        rate: float,
        samples: int,
        *,
        start_seconds: float = 0.0,
        first_sample: int = 0,
        outside: Outside | None = None,
    ) -> npt.NDArray[np.float32]:
        """All parameters of one sound as the network sees them, float32 `[samples, parameters]`.

        The arguments are those of `resample_track` and `Parameter.normalise`. Raises UsageError for a parameter
        without a track, and as `normalise`.
        """
        result = np.empty((samples, len(self.parameters)), np.float32)
        for column, parameter in enumerate(self.parameters):
            if parameter.name not in controls:
                given = ", ".join(controls) or "none"
                raise UsageError(f"the parameter {parameter.name} is missing: give it too (given: {given})")
            track = controls[parameter.name]
            raw = resample_track(
                track, rate, samples, start_seconds=start_seconds, first_sample=first_sample, interp=parameter.interp
            )
            result[:, column] = parameter.normalise(raw, outside=outside)
        return result

    def to_document(self) -> list[dict[str, Any]]:
        """As JSON, for the run folder; `from_document` reads it."""
        return [_written(parameter) for parameter in self.parameters]

    @staticmethod
    def from_document(document: Sequence[Mapping[str, Any]], source: str = "schema") -> Schema:
        """The schema that `to_document` wrote. Raises UsageError that names source, parameter and key."""
        return validate(Schema, {"parameters": [dict(entry) for entry in document]}, source)


def _written(parameter: Parameter) -> dict[str, Any]:
    document = parameter.model_dump(mode="json")
    for key in ("categories", "encoding"):  # where there is nothing to say, runs read as they always did
        if document[key] == Parameter.model_fields[key].default or not document[key]:
            del document[key]
    return document


def input_sizes(names: Sequence[str], controls: Mapping[str, Mapping[str, Any]]) -> tuple[int, ...]:
    """How many inputs of a network each of `names` takes, by the `controls` of its config: one, or of a category whose
    encoding is one_hot as many as it has values. ValueError, for a config's validator, where it does not say how many.
    """
    sizes = []
    for name in names:
        if controls.get(name, {}).get("encoding", "number") == "number":
            sizes.append(1)
            continue
        try:
            sizes.append(validate(Parameter, {"name": name, **controls[name]}, "controls").inputs)
        except UsageError as error:
            raise ValueError(str(error)) from None
    return tuple(sizes)


# Tracks --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Track:
    """One parameter of one sound: `values` at `times` (seconds), both float64 `[points]`, in raw units.

    Before the first and after the last point the value is held; times do not fall, and a repeated time is a step, whose
    last value holds from there on. One point is a constant. source: where it comes from, for messages.

    Raises:
        RunError: no points, unequal lengths, NaN or infinity, falling times.
    """

    name: str
    times: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]
    source: str = ""

    def __post_init__(self) -> None:
        for key in ("times", "values"):
            try:
                array = np.array(getattr(self, key), np.float64)
            except (TypeError, ValueError, OverflowError) as error:
                raise self._broken(f"has {key} that are not numbers ({error})") from None
            if array.ndim != 1:
                raise self._broken(f"has {key} of shape {list(array.shape)}, not one after the other")
            array.setflags(write=False)
            object.__setattr__(self, key, array)
        times, values = self.times, self.values
        if len(times) != len(values):
            raise self._broken(f"has {len(times)} times but {len(values)} values")
        if not len(times):
            raise self._broken("has no points")
        if not np.isfinite(times).all():
            raise self._broken(f"has a time that is not a number, at point {_first(~np.isfinite(times)) + 1}")
        limit = float(np.finfo(np.float32).max)
        unusable = ~(np.abs(values) <= limit)
        if unusable.any():
            place = _first(unusable)
            raise self._broken(
                f"holds {values[place]} at {times[place]:g} s ({np.count_nonzero(unusable)} of {len(values)} values)"
            )
        falling = np.diff(times) < 0
        if falling.any():
            place = _first(falling)
            raise self._broken(
                f"goes back in time at point {place + 2}, from {times[place]:g} s to {times[place + 1]:g} s"
            )

    def _broken(self, fault: str) -> RunError:
        place = f" in {self.source}" if self.source else ""
        return RunError(f"the parameter {self.name}{place} {fault}: correct it there")

    @staticmethod
    def constant(name: str, value: float, source: str = "") -> Track:
        """The same value all through."""
        return Track(name, np.zeros(1), np.array([value]), source)

    @staticmethod
    def from_events(name: str, events: Iterable[tuple[float, float]], source: str = "") -> Track:
        """A piecewise linear track from (seconds, value) pairs, as a gesture gives them."""
        pairs = np.array([(float(time), float(value)) for time, value in events]).reshape(-1, 2)
        return Track(name, pairs[:, 0], pairs[:, 1], source)

    @staticmethod
    def regular(name: str, values: npt.ArrayLike, rate: float, source: str = "") -> Track:
        """Values `[points]` at a steady `rate` in Hz, the first at 0 s."""
        array = np.asarray(values, np.float64)
        return Track(name, np.arange(array.shape[0]) / rate, array, source)

    @property
    def is_constant(self) -> bool:
        """Whether all values are the same."""
        return bool((self.values == self.values[0]).all())

    def at(self, times: npt.ArrayLike, interp: Interpolation = "linear") -> npt.NDArray[np.float64]:
        """The values at `times` (seconds, any shape), without any averaging."""
        wanted = np.asarray(times, np.float64)
        here = np.clip(np.searchsorted(self.times, wanted, side="right") - 1, 0, None)
        if interp == "previous":
            return self.values[here]
        after = np.minimum(here + 1, len(self.times) - 1)
        gap = self.times[after] - self.times[here]
        share = np.where(gap > 0, (wanted - self.times[here]) / np.where(gap > 0, gap, 1.0), 0.0)
        share = np.clip(share, 0.0, 1.0)
        start, stop = self.values[here], self.values[after]
        # Between equal values exactly these, and by rounding never beyond either.
        return np.clip(start + share * (stop - start), np.minimum(start, stop), np.maximum(start, stop))

    def between(self, start_seconds: float, stop_seconds: float, interp: Interpolation = "linear") -> Track:
        """The part from start to stop, on the same timeline, with points at both ends."""
        inner = (self.times > start_seconds) & (self.times < stop_seconds)
        # A step at the end belongs to what follows.
        ends = self.at([start_seconds, np.nextafter(stop_seconds, -np.inf)], interp)
        times = np.concatenate([[start_seconds], self.times[inner], [stop_seconds]])
        return Track(self.name, times, np.concatenate([ends[:1], self.values[inner], ends[1:]]), self.source)

    def agrees_with(self, other: Track) -> bool:
        """Whether both have the same value at every time, up to rounding."""
        breaks = np.union1d(self.times, other.times)
        everywhere = np.concatenate([breaks, np.nextafter(breaks, -np.inf)])  # both sides of a step
        return bool(np.allclose(self.at(everywhere), other.at(everywhere), rtol=_ROUNDING, atol=1e-12))

    @cached_property
    def interval(self) -> float:
        """Median distance of the points in seconds, steps not counted."""
        distances = np.diff(self.times)
        distances = distances[distances > 0]
        return float(np.median(distances)) if len(distances) else math.inf

    @cached_property
    def _area(self) -> tuple[float, npt.NDArray[np.float64]]:
        """The mean value, and at each point the integral up to there of what differs from it."""
        middle = float(self.values.mean())
        rest = self.values - middle
        pieces = np.diff(self.times) * (rest[1:] + rest[:-1]) / 2
        return middle, np.concatenate([[0.0], np.cumsum(pieces)])

    def _mean_between(self, starts: np.ndarray, width: float) -> npt.NDArray[np.float64]:
        """The exact mean over `width` seconds from each of `starts` `[windows]`."""
        middle, area = self._area

        def area_until(time: np.ndarray) -> np.ndarray:
            here = np.clip(np.searchsorted(self.times, time, side="right") - 1, 0, None)
            beyond = time - self.times[here]
            return area[here] + beyond * ((self.values[here] + self.at(time)) / 2 - middle)

        return middle + (area_until(starts + width) - area_until(starts)) / width


Controls: TypeAlias = Mapping[str, Track]
"""All tracks of one sound by name."""


def mismatch(parameter: Parameter, tracks: Sequence[Track]) -> str:
    """Why a parameter's lo and hi cannot be those of a corpus whose `tracks` it stands for: a sentence that says what
    these hold; "" where they can."""
    lowest = min((float(track.values.min()) for track in tracks), default=math.inf)
    highest = max((float(track.values.max()) for track in tracks), default=-math.inf)
    name, (low, high) = parameter.name, sorted(parameter.span)
    slack = _ROUNDING * max(abs(low), abs(high), high - low)
    if not tracks or (lowest >= low - slack and highest <= high + slack):
        return ""
    held = f"{lowest:g} everywhere" if lowest == highest else f"{lowest:g} to {highest:g}"
    if parameter.categories:
        named = ", ".join(f"{number} {category}" for number, category in enumerate(parameter.categories))
        return f"the recordings hold {name} {held}, and its categories are {named}: name the others too"
    remedy = f"set its lo to {lowest:g} and its hi to {highest:g}, or leave them out"
    if low == high:
        return (
            f"{name} is to go from {low:g} to {high:g}, which steers nothing, but the recordings hold {held}: {remedy}"
        )
    if parameter.outside != "allow" and (highest < low - slack or lowest > high + slack):
        return f"{name} is to go from {low:g} to {high:g}, but the recordings hold {held}: {remedy}"
    return ""


def coverage(parameter: Parameter, tracks: Sequence[Track]) -> list[str]:
    """What is odd about a parameter's range for a corpus whose `tracks` it stands for, one sentence each: most of the
    points lie beyond it, or a category never occurs."""
    low, high = sorted(parameter.span)
    slack = _ROUNDING * max(abs(low), abs(high), high - low)
    shares = [float(np.mean((track.values < low - slack) | (track.values > high + slack))) for track in tracks]
    found = []
    if shares and (share := sum(shares) / len(shares)) > 0.5:
        found.append(f"{parameter.name} is to go from {low:g} to {high:g}, and {share:.0%} of its points lie beyond")
    numbers = np.unique(np.concatenate([track.values for track in tracks])) if tracks else np.zeros(0)
    never = [name for number, name in enumerate(parameter.categories) if not np.isclose(numbers, number).any()]
    if never and tracks:
        found.append(f"no recording has {parameter.name} {', '.join(never)}, so it cannot be asked for")
    return found


def shifted(controls: Controls, seconds: float) -> Controls:
    """The curves on a timeline that begins `seconds` later: what was at that time is at 0."""
    return {
        name: Track(track.name, track.times - seconds, track.values, track.source) for name, track in controls.items()
    }


def constants_of(controls: Controls) -> tuple[float | None, ...]:
    """What is constant all through a sound, None for what is not: `make_split` keeps every such tuple in training."""
    return tuple(float(track.values[0]) if track.is_constant else None for track in controls.values())


def _first(flags: npt.NDArray[np.bool_]) -> int:
    return int(np.argmax(flags))


def resample_track(
    track: Track,
    rate: float,
    samples: int,
    *,
    start_seconds: float = 0.0,
    first_sample: int = 0,
    interp: Interpolation = "linear",
) -> npt.NDArray[np.float32]:
    """Raw values at `rate` Hz, float32 `[samples]`; the only way from tracks to any rate.

    Sample k lies exactly at start_seconds + (first_sample + k) / rate, so that any window equals the slice of the
    whole: give windows by `first_sample`, not by start_seconds, whose sum with k / rate would round otherwise. Linear
    tracks with a finer grid than the target's are averaged over one target period around each sample (a box filter,
    integrated exactly); "previous" never mixes values, which may be categories.
    """
    if not rate > 0 or samples < 0:
        raise ValueError(f"a rate above 0 Hz and a length of 0 or more are needed, not {rate} and {samples}")
    result = np.empty(samples, np.float32)
    averaged = interp == "linear" and track.interval < (1.0 - 1e-9) / rate
    for start in range(0, samples, _BLOCK_SAMPLES):
        stop = min(samples, start + _BLOCK_SAMPLES)
        times = start_seconds + np.arange(first_sample + start, first_sample + stop) / rate
        if averaged:
            result[start:stop] = track._mean_between(times - 0.5 / rate, 1.0 / rate)
        else:
            result[start:stop] = track.at(times, interp)
    return result


# Controls that are typed or given ------------------------------------------------------------------------------------


def parse_control(text: str, *, seconds: float | None = None, schema: Schema | None = None) -> Track:
    """The track that `--control` asks for.

    `NAME=64` is a value; `NAME=64:76` a ramp over `seconds`, the length of the sound; `NAME=0:64,1.5:76` break-points,
    seconds:value, joined by straight lines (by a hold if the parameter's interp is "previous"; a repeated time is a
    step). With a schema the name must be in it, and a category's value may be its name.

    Raises:
        UsageError: anything else; the message says what was found and what to write.
    """
    names = sorted(schema.names, key=len, reverse=True) if schema is not None else []
    name = next((name for name in names if text.startswith(f"{name}=")), text.partition("=")[0])
    value = text[len(name) + 1 :]
    if not name or "=" not in text:
        raise UsageError(f"--control {text} is not NAME=VALUE: write for example {(names or ['p'])[0]}=64")
    parameter = schema.of(name) if schema is not None else None

    def number(word: str) -> float:
        if parameter is not None and word in parameter.categories:
            return float(parameter.categories.index(word))
        if not re.fullmatch(_NUMBER, word.strip(), re.ASCII) or not math.isfinite(float(word)):
            known = f" or one of {', '.join(parameter.categories)}" if parameter and parameter.categories else ""
            raise UsageError(f"--control {text}: {word!r} is not a number{known}")
        return float(word)

    source = f"--control {text}"
    if parameter is not None and value in parameter.categories or ":" not in value:
        return Track.constant(name, number(value), source)
    pairs = [pair.split(":") for pair in value.split(",")]
    if any(len(pair) != 2 for pair in pairs):
        raise UsageError(
            f"--control {text}: write a value (64), a ramp (64:76) or break-points as seconds:value (0:64,1.5:76)"
        )
    first, second = pairs[0]
    if len(pairs) == 1:
        if seconds is None:
            raise UsageError(f"--control {text} is a ramp, but over no known length: give break-points (0:64,1.5:76)")
        return Track.from_events(name, [(0.0, number(first)), (seconds, number(second))], source)
    events = [(number(time), number(level)) for time, level in pairs]
    if any(after < before for (before, _), (after, _) in zip(events, events[1:], strict=False)):
        raise UsageError(f"--control {text}: the seconds must not go back; put the break-points in order")
    return Track.from_events(name, events, source)


def parse_controls(texts: Iterable[str], *, seconds: float | None = None, schema: Schema | None = None) -> Controls:
    """`parse_control` of several; UsageError where one parameter is given twice."""
    controls: dict[str, Track] = {}
    for text in texts:
        track = parse_control(text, seconds=seconds, schema=schema)
        if track.name in controls:
            raise UsageError(f"--control gives {track.name} twice: keep one of them, or write its break-points in one")
        controls[track.name] = track
    return controls


def read_array(path: Path | str, names: Sequence[str], rate: float) -> list[Controls]:
    """The controls of an `.npy` file `[batch, length, features]` at `rate` Hz, one `Controls` for each of the batch.

    Features are raw values in the order of `names`; beyond the end the last ones are held.

    Raises:
        UsageError: no such file, or another shape.
        RunError: not an array of finite numbers.
    """
    path = located(Path(path))
    if not rate > 0:
        raise UsageError(f"--external_sr is {rate:g}; give the array's rate in Hz, above 0")
    try:
        array = load_array(path)
    except FileNotFoundError:
        raise UsageError(f"there is no array {path}: check --external_array") from None
    except ArrayError as error:
        raise RunError(f"{path} is not an .npy array ({error.reason}): write one with numpy.save") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        found = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else "several arrays"
        raise RunError(f"{path} holds {found}: save one array of real numbers with numpy.save")
    wanted = f"[batch, length, {len(names)}] ({', '.join(names)})"
    if array.ndim != 3 or array.shape[2] != len(names) or 0 in array.shape:
        hint = "array[None] adds a batch, array[..., None] a last axis" if array.ndim == 2 else "save it so"
        raise UsageError(f"{path} has the shape {list(array.shape)}, but {wanted} is needed: {hint}")
    with np.errstate(invalid="ignore"):  # of a signalling NaN, which a track refuses
        array = array.astype(np.float64)
    return [
        {name: Track.regular(name, sound[:, column], rate, str(path)) for column, name in enumerate(names)}
        for sound in array
    ]
