"""The schema: which controls steer a network, in which order, and how their raw values map to what it sees.

A run stores its schema; generation maps by nothing else.
"""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, model_validator

from tierwave.config import StrictModel, validate
from tierwave.controls.tracks import ROUNDING, Controls, Interpolation, Track, resample_track
from tierwave.errors import RunError, UsageError

Scale = Literal["linear", "log", "log1p"]
Outside = Literal["clip", "allow", "error"]
Encoding = Literal["number", "one_hot", "sinusoids"]

WAVES = 7  # of a control whose encoding is sinusoids


class ControlInputs(NamedTuple):
    """How many inputs of a network a control takes, and how its values become these."""

    size: int = 1
    encoding: Encoding = "number"

    def encode(self, values: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Values in 0 ... 1 of any shape `[...]` as inputs `[..., size]`.

        A number is left unchanged. One of n categories, which lie at 0, 1 / (n - 1) ... 1, is one-hot. Sinusoids are
        the number x, and sin(pi 2^k x) and 1 - cos(pi 2^k x) for k = 0, 1 ..., so that small differences, such as of a
        pitch within its range, are seen (positional encoding, Vaswani et al. 2017); all are 0 where x is 0.
        """
        column = np.asarray(values, np.float32)[..., None]
        if self.encoding == "one_hot":
            return (np.round(column * (self.size - 1.0)) == np.arange(self.size)).astype(np.float32)
        if self.encoding == "sinusoids":
            phases = column * (np.pi * 2.0 ** np.arange(self.size // 2)).astype(np.float32)
            return np.concatenate([column, np.sin(phases), 1.0 - np.cos(phases)], axis=-1)
        return column


# Units with a meaning here or in the wild. Others are taken as they are, but for what looks like one of these mistyped.
UNITS = (
    "category", "midiPitch", "hertz", "frequency", "amplitude", "energy", "dB", "seconds", "norm", "velocity", "cents",
)  # fmt: skip

_MAPPED: dict[str, Callable[[Any], Any]] = {"linear": np.asarray, "log": np.log, "log1p": np.log1p}
_UNMAPPED: dict[str, Callable[[Any], Any]] = {"linear": np.asarray, "log": np.exp, "log1p": np.expm1}
_ABOVE = {"linear": -math.inf, "log": 0.0, "log1p": -1.0}  # what has a place on a scale


class ControlWarning(UserWarning):
    """A control was changed to something the network knows. The message names the control and its range."""


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


class Parameter(StrictModel):
    """One control and how its raw values map to [0, 1].

    minval and maxval are what the data declare and never map anything by themselves; lo and hi are the raw values that
    become 0 and 1, None until they are known (`Schema.fit`). A control is a category if it has `nvals` different
    values or the unit "category": it is then not interpolated, and an unknown value is an error, unless said otherwise.
    """

    name: str = Field(min_length=1, description="the control's name")
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
    encoding: Encoding = Field("number", description="how a network sees it: as number, one_hot, or sinusoids")

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
            if len(set(self.categories)) < len(self.categories) or any(
                not name or name != name.strip() or "|" in name for name in self.categories
            ):
                raise ValueError(
                    "categories need different names, none of them empty, with | in it or spaces around it"
                )
            if self.nvals != len(self.categories):
                raise ValueError(
                    f"{self.name}: nvals is {self.nvals}, but {len(self.categories)} categories are named; make them "
                    "agree"
                )
        if self.encoding == "one_hot" and self.nvals < 2:
            raise ValueError(
                f'{self.name}: encoding "one_hot" needs to know how many values there are, since the network has an '
                "input for each; give categories, or nvals"
            )
        ends = self.lo in (None, 0.0) and self.hi in (None, self.nvals - 1.0)
        if self.encoding == "one_hot" and not (self.scale == "linear" and ends):
            raise ValueError(
                f'{self.name}: encoding "one_hot" is for the values 0 to {self.nvals - 1}; leave lo, hi and scale out'
            )
        if self.encoding == "sinusoids" and self.is_category:
            raise ValueError(f'{self.name}: encoding "sinusoids" is for what has values in between; take "one_hot"')
        return self

    @property
    def inputs(self) -> ControlInputs:
        """The inputs of a network that it takes."""
        sizes = {"number": 1, "one_hot": self.nvals, "sinusoids": 1 + 2 * WAVES}
        return ControlInputs(sizes[self.encoding], self.encoding)

    @property
    def is_category(self) -> bool:
        """Whether values are names in the guise of numbers, which have nothing in between."""
        return self.nvals > 0 or self.units == "category"

    def name_of(self, value: float) -> str | None:
        """What a value is called; None where it has no name."""
        return self.categories[int(value)] if value in range(len(self.categories)) else None

    def number(self, value: float | str) -> float:
        """A raw value, or that of a category's name. UsageError for what is neither a number nor such a name."""
        try:
            return float(self.categories.index(value) if value in self.categories else value)
        except (TypeError, ValueError):
            known = f" or one of {', '.join(self.categories)}" if self.categories else ""
            raise UsageError(f"{self.name} is {value!r}: give a number{known}") from None

    def refuse_unseen(self, value: float, seen: Sequence[float] | None) -> None:
        """UsageError for a category that never occurred in training: nothing lies between the others. seen: the raw
        values that did; None where that is not known."""
        if self.is_category and seen and not np.isclose(seen, value).any():
            allowed = ", ".join(self.name_of(each) or f"{each:g}" for each in seen)
            named = self.name_of(value) or f"{value:g}"
            raise UsageError(f"{self.name} is {named}, which never occurred in training; give one of {allowed}")

    @property
    def span(self) -> tuple[float, float]:
        """lo and hi; UsageError where they are not known yet."""
        if self.lo is None or self.hi is None:
            raise UsageError(
                f"the control {self.name} has no lo and hi: run `python -m tierwave controls fit`, or set "
                f"controls.{self.name}.lo and .hi in the config"
            )
        return self.lo, self.hi

    def normalise(
        self, values: npt.ArrayLike, *, outside: Outside | None = None, silent: bool = False
    ) -> npt.NDArray[np.float32]:
        """Raw values of any shape as the network sees them: lo is 0, hi is 1.

        outside: instead of the control's own. silent: without the warning. Beyond lo and hi, "clip" warns
        (`ControlWarning`) and takes the nearer end, "allow" extrapolates, "error" raises UsageError. So does any other
        value of a control that was constant in training (lo == hi), of which the network knows nothing else, and a
        value of which there is no logarithm.
        """
        lo, hi = self.span
        raw = np.asarray(values, np.float64)
        low, high, slack = self._ends
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

    @property
    def _ends(self) -> tuple[float, float, float]:
        """The smaller end of the range, the larger one, and what rounding may add to either."""
        low, high = sorted(self.span)
        return low, high, ROUNDING * max(abs(low), abs(high), high - low)

    def _range(self) -> str:
        low, high, _ = self._ends
        named = f" ({', '.join(self.categories)})" if self.categories else f" {self.units}" if self.units else ""
        return f"{low:g} to {high:g}{named}"


class Schema(StrictModel):
    """The controls of a model in the order of its inputs."""

    parameters: tuple[Parameter, ...] = ()

    @model_validator(mode="after")
    def _different_names(self) -> Schema:
        twice = [name for name in set(self.names) if self.names.count(name) > 1]
        if twice:
            raise ValueError(f"the control {sorted(twice)[0]} stands twice in the schema; keep one of them")
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
        """The control of that name; UsageError with the nearest name if there is none."""
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        near = difflib.get_close_matches(name, self.names, n=1)
        known = f"did you mean {near[0]}?" if near else f"there are {', '.join(self.names) or 'none'}"
        raise UsageError(f"there is no control {name}; {known}")

    def select(self, names: Sequence[str]) -> Schema:
        """Only these controls, in this order; UsageError for one that there is not."""
        return Schema(parameters=tuple(self.of(name) for name in names))

    def updated(self, changes: Mapping[str, Mapping[str, Any]], source: str = "controls") -> Schema:
        """With some fields of some controls changed, as the `controls` object of a config does.

        source: where the changes come from. Raises UsageError for a control or a field that there is not.
        """
        for name in changes:
            self.of(name)
        parameters = []
        for parameter in self.parameters:
            if parameter.name in changes:  # explicit fields only: defaults implied by the unit are derived again
                fields = {**parameter.model_dump(mode="json", exclude_unset=True), **changes[parameter.name]}
                parameter = validate(Parameter, fields, f"{source}.{parameter.name}")
            parameters.append(parameter)
        return Schema(parameters=tuple(parameters))

    def fit(self, sounds: Iterable[Controls]) -> Schema:
        """lo and hi, where they are not given, as the smallest and largest values of the tracks of `sounds`.

        Hand in the training split only (`Track.between` cuts stretches). A category with names spans all of them.
        Raises RunError where no sound has a control, or its smallest value has no logarithm.
        """
        extremes: dict[str, list[float]] = {}
        for controls in sounds:
            for name in self.names:
                if name in controls:
                    values = controls[name].values
                    extremes.setdefault(name, []).extend((float(values.min()), float(values.max())))
        fitted = []
        for parameter in self.parameters:
            name, lo, hi = parameter.name, parameter.lo, parameter.hi
            if lo is None or hi is None:
                if parameter.categories or parameter.encoding == "one_hot":
                    lowest, highest = 0.0, parameter.nvals - 1.0
                elif name in extremes:
                    lowest, highest = min(extremes[name]), max(extremes[name])
                else:
                    raise RunError(f"no sound has the control {name}, so its range cannot be told: set its lo and hi")
                lo, hi = lowest if lo is None else lo, highest if hi is None else hi
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
        """Without lo and hi, to be fitted again."""
        blank = {"lo": None, "hi": None}
        return Schema(parameters=tuple(parameter.model_copy(update=blank) for parameter in self.parameters))

    def inputs(
        self, controls: Controls, rate: float, samples: int, *, first_sample: int = 0
    ) -> npt.NDArray[np.float32]:
        """All controls of one sound as the network sees them, float32 `[samples, parameters]`.

        The arguments are those of `resample_track`. Raises UsageError for a control without a track, and as
        `Parameter.normalise`.
        """
        result = np.empty((samples, len(self.parameters)), np.float32)
        for column, parameter in enumerate(self.parameters):
            if parameter.name not in controls:
                given = ", ".join(controls) or "none"
                raise UsageError(f"the control {parameter.name} is missing: give it too (given: {given})")
            track = controls[parameter.name]
            raw = resample_track(track, rate, samples, first_sample=first_sample, interp=parameter.interp)
            result[:, column] = parameter.normalise(raw)
        return result

    def to_document(self) -> list[dict[str, Any]]:
        """As JSON, for the run folder; `from_document` reads it."""
        entries = [parameter.model_dump(mode="json") for parameter in self.parameters]
        for entry in entries:  # left out at their defaults, so that runs read as they always did
            if not entry["categories"]:
                del entry["categories"]
            if entry["encoding"] == "number":
                del entry["encoding"]
        return entries

    @staticmethod
    def from_document(document: Sequence[Mapping[str, Any]], source: str = "schema") -> Schema:
        """The schema that `to_document` wrote. Raises UsageError that names source, control and key."""
        return validate(Schema, {"parameters": [dict(entry) for entry in document]}, source)


def control_inputs(names: Sequence[str], controls: Mapping[str, Mapping[str, Any]]) -> tuple[ControlInputs, ...]:
    """The inputs of a network that each of `names` takes, by the `controls` of its config. ValueError, for a config's
    validator, where a category whose encoding is one_hot does not say how many values it has.
    """
    found = []
    for name in names:
        if controls.get(name, {}).get("encoding", "number") == "number":
            found.append(ControlInputs())
            continue
        try:
            found.append(validate(Parameter, {"name": name, **controls[name]}, "controls").inputs)
        except UsageError as error:
            raise ValueError(str(error)) from None
    return tuple(found)


def mismatch(parameter: Parameter, tracks: Sequence[Track]) -> str:
    """Why a control's lo and hi cannot be those of a corpus whose `tracks` it stands for: a sentence that says what
    these hold; "" where they can."""
    lowest = min((float(track.values.min()) for track in tracks), default=math.inf)
    highest = max((float(track.values.max()) for track in tracks), default=-math.inf)
    name, (low, high, slack) = parameter.name, parameter._ends
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
    """What is odd about a control's range for a corpus whose `tracks` it stands for, one sentence each: most of the
    points lie beyond it, or a category never occurs."""
    low, high, slack = parameter._ends
    shares = [float(np.mean((track.values < low - slack) | (track.values > high + slack))) for track in tracks]
    found = []
    if shares and (share := sum(shares) / len(shares)) > 0.5:
        found.append(f"{parameter.name} is to go from {low:g} to {high:g}, and {share:.0%} of its points lie beyond")
    numbers = np.unique(np.concatenate([track.values for track in tracks])) if tracks else np.zeros(0)
    never = [name for number, name in enumerate(parameter.categories) if not np.isclose(numbers, number).any()]
    if never and tracks:
        found.append(f"no recording has {parameter.name} {', '.join(never)}, so it cannot be asked for")
    return found
