"""What steers a sound while it is made: curves drawn beforehand, and values set live, which win from then on.

A family's stream owns one `Gestures`, tells it what is set and asks it block by block for what its network sees. Live
values move on knots 4 ms apart: linearly from one knot to the next, so that nothing clicks, or in a step, if nothing
lies between two values. A ramp is never changed once something after its start was asked for, so that a sound does not
depend on the sizes of the blocks it was asked in; and it consists of break-points, so that a performance is a few
tracks that can be written, edited and played again.

    knot       k     k+1               a value set between k-1 and k, or exactly at k
    value  ____|     |_______________  drawn before, held after
               |____/

Knows schemas and tracks, and no network, sound or clock.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from tierwave.controls.files import ParamFile, csv_text, document_of, read_param_file, write_param_file
from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.tracks import Controls, Interpolation, Track, resample_track
from tierwave.errors import UsageError

KNOT_SECONDS = 0.004

_LARGEST = float(np.finfo(np.float32).max)  # that a track can hold
_LARGEST_WHOLE = 2**31 - 1

_Values: TypeAlias = npt.NDArray[np.float64]


class Settings(NamedTuple):
    """What steers a stretch of steps, each for `[voices, steps]`: controls float32, as the network sees them, with a
    last axis of parameters; temperature float32; top_k int32 (0: off)."""

    controls: npt.NDArray[np.float32]
    temperature: npt.NDArray[np.float32]
    top_k: npt.NDArray[np.int32]

    def part(self, first: int, last: int, start: int, stop: int, length: int) -> Settings:
        """Voices [first, last) and steps [start, stop), padded to `length` steps."""

        def cut(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            width = [(0, 0), (0, length - (stop - start)), *[(0, 0)] * (array.ndim - 2)]
            return np.pad(array[first:last, start:stop], width)

        return Settings(*map(cut, self))


class Gestures:
    """All that steers `voices` sounds at `sample_rate` Hz: the parameters of `schema`, temperature and top-k.

    drawn: curves in raw units, time 0 at the first sample, for all voices or one `Controls` per voice (the last is
    repeated); they may also hold temperature, top_k and names of `extra`, and win over what is given for those here.
    temperatures: one per voice, the last is repeated. top_k: None or 0 switches it off. averaged: whether drawn curves
    that are finer than the rate they are asked at are averaged, as in training; what `record` gave must not be.
    extra: what else a family lets people set, with its first values: any number, ramped like a temperature.

    A parameter of the schema hides whatever else has its name. Calls must not overlap: who plays from several threads
    queues what is set.

    Raises:
        UsageError: a parameter that is not drawn; one that there is not; a value that is not allowed.
    """

    def __init__(
        self,
        schema: Schema,
        voices: int,
        sample_rate: int,
        *,
        drawn: Sequence[Controls] = (),
        temperatures: Sequence[float] = (1.0,),
        top_k: int | None = None,
        averaged: bool = True,
        extra: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.schema = schema
        self.voices = voices
        self.sample_rate = sample_rate
        self.knot = max(1, round(KNOT_SECONDS * sample_rate))  # samples from one to the next
        curves = [drawn[min(voice, len(drawn) - 1)] if drawn else {} for voice in range(voices)]
        self._inputs: list[_Input] = []
        for parameter in schema.parameters:
            if any(parameter.name not in controls for controls in curves):
                raise UsageError(_missing(parameter))
            self._inputs.append(_Input(parameter, [controls[parameter.name] for controls in curves], averaged))
        amounts: dict[str, Sequence[float]] = {"temperature": temperatures, "top_k": (top_k or 0,)}
        amounts.update({name: (value,) for name, value in extra.items()})
        self._amounts: dict[str, _Amount] = {}
        for name, given in amounts.items():
            hidden = name in schema.names
            first = [given[min(voice, len(given) - 1)] for voice in range(voices)]
            tracks = [None if hidden else controls.get(name) for controls in curves]
            self._amounts[name] = _Amount(name, first, tracks)
        self._dials: dict[str, _Dial] = {**self._amounts, **{dial.name: dial for dial in self._inputs}}
        for name in dict.fromkeys(name for controls in curves for name in controls):
            if name not in self._dials:
                schema.of(name)  # raises, with the nearest name

    @property
    def names(self) -> tuple[str, ...]:
        """What can be set: the parameters in order, then the rest."""
        return (*self.schema.names, *(name for name in self._amounts if name not in self.schema.names))

    def set(self, position: int, *, voice: int | None = None, **values: float | str) -> float:
        """Set values by name from `position` on, the number of samples rendered so far; voice: None sets all. Returns
        the time in seconds by which all of them have arrived.

        A value, in raw units, starts to move at the first knot that is not before `position` and before nothing that
        was asked for, and arrives at the next knot. One that has not started to move gives way. A category's value may
        be its name. Beyond the trained range the parameter's own `outside` decides, here and once: "clip" warns
        (`ControlWarning`).

        Raises:
            UsageError: an unknown name or voice, or a value that is not allowed; then nothing is set.
        """
        if voice is not None and not 0 <= voice < self.voices:
            raise UsageError(f"there is no voice {voice}: give one from 0 to {self.voices - 1}")
        for name in values:
            if name not in self._dials:
                raise UsageError(f"there is no {name} to set: there are {', '.join(self.names)}")
        wanted = {name: self._dials[name].allowed(value) for name, value in values.items()}
        arrived = position / self.sample_rate
        for name, value in wanted.items():
            dial = self._dials[name]
            knot = self._knot_after(position, dial.asked_until)
            dial.turn(voice, value, self._seconds(knot), self._seconds(knot + 1))
            arrived = max(arrived, self._seconds(knot + 1))
        return arrived

    def _seconds(self, knot: int) -> float:
        return knot * self.knot / self.sample_rate

    def _knot_after(self, position: int, seconds: float) -> int:
        knot = -(-position // self.knot)
        if seconds > self._seconds(knot):
            knot = max(knot, math.floor(seconds * self.sample_rate / self.knot))
            # In the very floats that are compared later, or a value that was already asked for might change.
            while self._seconds(knot) < seconds:
                knot += 1
        return knot

    def inputs(self, first: int, count: int, *, rate: float | None = None) -> npt.NDArray[np.float32]:
        """What the network sees, float32 `[voices, count, parameters]`, mapped by the schema.

        Element i lies at (first + i) / rate seconds; rate in Hz, None: the sample rate. Before 0 s, the first values.
        """
        result = np.empty((self.voices, count, len(self._inputs)), np.float32)
        for column, dial in enumerate(self._inputs):
            dial.fill(result[:, :, column], first, rate or self.sample_rate)
        return result

    def settings(self, first: int, count: int) -> Settings:
        """All that steers samples `first` and on, at the sample rate."""
        return Settings(self.inputs(first, count), self.temperature(first, count), self.top_k(first, count))

    def temperature(self, first: int, count: int) -> npt.NDArray[np.float32]:
        """The temperatures of samples `first` and on, float32 `[voices, count]`."""
        return self.extra("temperature", first, count)

    def top_k(self, first: int, count: int) -> npt.NDArray[np.int32]:
        """From how many of the most likely values to draw, int32 `[voices, count]`; 0: from all."""
        result = np.empty((self.voices, count), np.int32)
        self._amounts["top_k"].fill(result, first, self.sample_rate)
        return result

    def extra(self, name: str, first: int, count: int) -> npt.NDArray[np.float32]:
        """Something of `extra` at samples `first` and on, float32 `[voices, count]`."""
        result = np.empty((self.voices, count), np.float32)
        self._amounts[name].fill(result, first, self.sample_rate)
        return result

    def current(self, voice: int = 0) -> dict[str, float]:
        """By name, the raw value set last or, before anything was set, drawn for the last moment asked for."""
        return {name: self._dials[name].current(voice) for name in self.names}

    def forget(self, position: int) -> None:
        """Let go of what was set and has arrived before `position`, in samples, so that a voice may play for ever.

        Nothing before `position` may be asked for from then on, and a voice that has something to forget is recorded no
        more.
        """
        for dial in self._dials.values():
            for course in dial.courses:
                course.forget(position / self.sample_rate)

    def record(self, voice: int = 0) -> Controls:
        """All parameters as tracks, and the rest where it was set or drawn: what to draw to hear the same again.

        Raises UsageError where its beginning was forgotten.

        As `drawn`, with averaged=False, it gives the same bits; where a curve that was not constant was cut short by a
        set value, the same up to float32 rounding before the cut. Curves that were averaged come back as drawn.
        """
        tracks = {name: self._dials[name].recorded(voice) for name in self.names}
        return {name: track for name, track in tracks.items() if track is not None}


def write_gestures(
    path: Path | str,
    controls: Controls,
    sample_rate: int,
    *,
    averaged: bool = False,
    about: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write what `Gestures.record` gave as a track CSV. Raises RunError where it cannot be written.

    averaged: as the `Gestures` were; what was set live never is, and is marked as such. about: what else its first line
    is to tell, as JSON, such as the random seed.
    """
    write_param_file(path, _file(Path(path), controls, sample_rate, averaged, about))


def gestures_text(
    controls: Controls, sample_rate: int, *, averaged: bool = False, about: Mapping[str, Any] = MappingProxyType({})
) -> str:
    """What `write_gestures` writes, as text."""
    return csv_text(_file(Path("gestures.csv"), controls, sample_rate, averaged, about))


def _file(path: Path, controls: Controls, sample_rate: int, averaged: bool, about: Mapping[str, Any]) -> ParamFile:
    meta = {"gestures": not averaged, "sample_rate": sample_rate, **about}
    return ParamFile(path, {"meta": meta, **document_of(controls)})


def read_gestures(path: Path | str) -> tuple[Controls, bool]:
    """The tracks in a file, and whether they were recorded (then `Gestures` must not average them).

    Raises UsageError and RunError as `read_param_file`.
    """
    file = read_param_file(path)
    meta = file.document.get("meta")
    return file.tracks(), isinstance(meta, dict) and meta.get("gestures") is True


# ---- over time -------------------------------------------------------------------------------------------------------


class _Ramp(NamedTuple):
    """The way from one value to the next: from `start` to `stop` seconds, knots both."""

    start: float
    stop: float
    old: float
    new: float


_start = attrgetter("start")


class _Course:
    """One raw value over time, of a voice or of several that share it: drawn until the first ramp has begun, then
    ramps and what they lead to."""

    def __init__(self, drawn: Track, interp: Interpolation, averaged: bool, ramps: Iterable[_Ramp] = ()) -> None:
        self.drawn = drawn
        self.interp = interp
        self.averaged = averaged
        self.ramps = list(ramps)
        self.is_whole = True  # nothing was forgotten
        self.level: tuple[float, Any] = (math.nan, None)  # the last constant, and what the network sees of it
        self._constant = drawn.is_constant

    def copy(self) -> _Course:
        twin = _Course(self.drawn, self.interp, self.averaged, self.ramps)
        twin.is_whole = self.is_whole
        return twin

    def forget(self, seconds: float) -> None:
        """Forget what a later ramp has followed before `seconds`."""
        followed = bisect_left(self.ramps, seconds, key=_start) - 1
        if followed > 0:
            del self.ramps[:followed]
            self.is_whole = False

    def turn(self, value: float, start: float, stop: float) -> None:
        """Move to `value`, from `start` to `stop` seconds; nothing after `start` may have been asked for."""
        while self.ramps and self.ramps[-1].start >= start:
            self.ramps.pop()
        old = self.ramps[-1].new if self.ramps else float(self.drawn.at(start, self.interp))
        if not self.ramps or value != old:  # what sets the same again and again costs no memory
            self.ramps.append(_Ramp(start, stop, old, value))

    def values(self, first: int, count: int, rate: float) -> float | npt.NDArray[Any]:
        """Raw values `[count]` at (first + i) / rate seconds, or the one value that all of them have."""
        begin, end = first / rate, (first + count - 1) / rate
        # The last ramps that begin before the first and before the last element; -1: none, that one is drawn.
        before = bisect_left(self.ramps, begin, key=_start) - 1
        until = bisect_left(self.ramps, end, lo=max(before, 0), key=_start) - 1
        if until < 0:
            return float(self.drawn.values[0]) if self._constant else self._drawn(first, count, rate)
        if before == until and begin >= self.ramps[until].stop:
            return self.ramps[until].new
        times = np.arange(first, first + count) / rate
        moved = _points(self.ramps[max(before, 0) : until + 1]).at(times, self.interp)
        if before < 0 and not self._constant:
            here = int(np.searchsorted(times, self.ramps[0].start, side="right"))
            moved[:here] = self._drawn(first, here, rate)
        return moved

    def _drawn(self, first: int, count: int, rate: float) -> npt.NDArray[Any]:
        if self.averaged:
            return resample_track(self.drawn, rate, count, first_sample=first, interp=self.interp)
        return self.drawn.at(np.arange(first, first + count) / rate, self.interp)

    def recorded(self, name: str) -> Track:
        if not self.is_whole:
            raise UsageError(f"the beginning of {name} is forgotten after so long a time: record a shorter take")
        if not self.ramps:
            return Track(name, self.drawn.times, self.drawn.values, "gestures")
        kept = self.drawn.times <= self.ramps[0].start
        played = _points(self.ramps)
        times = np.concatenate([self.drawn.times[kept], played.times])
        values = np.concatenate([self.drawn.values[kept], played.values])
        # One ramp may begin where another ends, and the first one at a drawn point.
        new = np.append(True, (np.diff(times) > 0) | (np.diff(values) != 0))
        return Track(name, times[new], values[new], "gestures")


def _points(ramps: Sequence[_Ramp]) -> Track:
    table = np.array(ramps)
    return Track("gestures", table[:, :2].ravel(), table[:, 2:].ravel())


# ---- by name ---------------------------------------------------------------------------------------------------------


class _Dial(ABC):
    """What is set by one name, in every voice."""

    def __init__(self, name: str, tracks: Sequence[Track], interp: Interpolation, averaged: bool) -> None:
        self.name = name
        self.asked_until = -math.inf  # seconds
        shared: dict[int, _Course] = {}
        self.courses: list[_Course] = []
        for track in tracks:
            if id(track) not in shared:
                self.check(track.values)
                shared[id(track)] = _Course(track, interp, averaged)
            self.courses.append(shared[id(track)])

    @abstractmethod
    def check(self, values: _Values) -> None:
        """Raise UsageError where one of the raw `values` is not allowed, warn where it will be clipped."""

    @abstractmethod
    def seen(self, raw: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What the network sees of raw values."""

    def allowed(self, value: float | str, categories: Sequence[str] = ()) -> float:
        """The raw value that is set when `value` is asked for. Raises and warns as `check`."""
        try:
            number = float(categories.index(value) if value in categories else value)
        except (TypeError, ValueError):
            known = f" or one of {', '.join(categories)}" if categories else ""
            raise UsageError(f"{self.name} is {value!r}: give a number{known}") from None
        if not abs(number) <= _LARGEST:
            raise UsageError(f"{self.name} is {number:g}: give a finite number")
        self.check(np.array([number]))
        return number

    def turn(self, voice: int | None, value: float, start: float, stop: float) -> None:
        if voice is None:
            for course in {id(course): course for course in self.courses}.values():
                course.turn(value, start, stop)
            return
        if sum(course is self.courses[voice] for course in self.courses) > 1:
            self.courses[voice] = self.courses[voice].copy()
        self.courses[voice].turn(value, start, stop)

    def fill(self, out: npt.NDArray[Any], first: int, rate: float) -> None:
        """Fill `out`, `[voices, count]`, with what the network sees at (first + i) / rate seconds."""
        count = out.shape[1]
        if not count:
            return
        done: dict[int, int] = {}
        for voice, course in enumerate(self.courses):
            twin = done.setdefault(id(course), voice)
            out[voice] = self._block(course, first, count, rate) if twin == voice else out[twin]
        self.asked_until = max(self.asked_until, (first + count - 1) / rate)

    def _block(self, course: _Course, first: int, count: int, rate: float) -> Any:
        values = course.values(first, count, rate)
        if isinstance(values, np.ndarray):
            return self.seen(values)
        if course.level[0] != values:
            course.level = (values, self.seen(np.array([values]))[0])
        return course.level[1]

    def current(self, voice: int) -> float:
        course = self.courses[voice]
        if course.ramps:
            return course.ramps[-1].new
        return float(course.drawn.at(max(0.0, self.asked_until), course.interp))

    def recorded(self, voice: int) -> Track | None:
        return self.courses[voice].recorded(self.name)


class _Input(_Dial):
    """A parameter of the schema."""

    def __init__(self, parameter: Parameter, tracks: Sequence[Track], averaged: bool) -> None:
        self.parameter = parameter
        self.low, self.high = sorted(parameter.span)
        self.bounded = parameter.outside != "allow" or self.low == self.high
        super().__init__(parameter.name, tracks, parameter.interp, averaged)

    def check(self, values: _Values) -> None:
        self.parameter.normalise(values.astype(np.float32))

    def allowed(self, value: float | str, categories: Sequence[str] = ()) -> float:
        number = super().allowed(value, self.parameter.categories)
        return min(max(number, self.low), self.high) if self.bounded else number

    def seen(self, raw: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        raw = raw.astype(np.float32)  # as `Schema.inputs`, bit for bit
        if self.bounded:  # `check` has warned, or refused
            raw = np.clip(raw.astype(np.float64), self.low, self.high)
        return self.parameter.normalise(raw)


class _Amount(_Dial):
    """A number that the network does not see as an input: temperature, top_k, something extra."""

    def __init__(self, name: str, first: Sequence[float], drawn: Sequence[Track | None]) -> None:
        self.name = name
        self.whole = name == "top_k"
        self.positive = self.whole or name == "temperature"
        self.drawn = [track is not None for track in drawn]
        constants = {value: Track.constant(name, self.allowed(value)) for value in dict.fromkeys(first)}
        tracks = [track or constants[value] for track, value in zip(drawn, first, strict=True)]
        super().__init__(name, tracks, "previous" if self.whole else "linear", averaged=False)

    def check(self, values: _Values) -> None:
        wrong = (values < 0) & self.positive
        if self.whole:
            wrong |= (values != np.floor(values)) | (values > _LARGEST_WHOLE)
        if wrong.any():
            wanted = "a whole number, 0 or more (0 switches it off)" if self.whole else "0 or more"
            raise UsageError(f"{self.name} is {values[wrong][0]:g}, and it must be {wanted}")

    def seen(self, raw: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return raw.astype(np.int32 if self.whole else np.float32)

    def recorded(self, voice: int) -> Track | None:
        return super().recorded(voice) if self.drawn[voice] or self.courses[voice].ramps else None


def _missing(parameter: Parameter) -> str:
    low, high = sorted(parameter.span)
    meaning = f" {', '.join(parameter.categories) or parameter.units or ''}".rstrip()
    example = parameter.categories[0] if parameter.categories else f"{(low + high) / 2:g}"
    return (
        f"the parameter {parameter.name} is missing, {low:g} to {high:g}{meaning}: give it too, as in "
        f"--control {parameter.name}={example}"
    )
