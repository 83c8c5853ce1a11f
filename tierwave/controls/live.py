"""The controls of a sound while it is made: curves drawn beforehand, and values set live, which win from then on.

A family's stream owns one `LiveControls`: values are set there, and its network reads its inputs from there, block by
block. Live values move between control points 4 ms apart: linearly from one point to the next, so that nothing clicks,
or in a step, if nothing lies between two values. A ramp never changes once something after its start was rendered, so
that a sound does not depend on the sizes of its blocks; and ramps are break-points, so that a performance is a few
tracks that can be written, edited and played again.

    point      k     k+1               a value set between k-1 and k, or exactly at k
    value  ____|     |_______________  drawn before, held after
               |____/
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.tracks import Controls, Interpolation, Track, resample_track
from tierwave.errors import UsageError

POINT_SECONDS = 0.004
LIVE_NAMES = ("temperature", "top_k")  # what is set live besides controls

_LARGEST = float(np.finfo(np.float32).max)  # that a track can hold
_LARGEST_WHOLE = 2**31 - 1


class Settings(NamedTuple):
    """What steers a block of steps, each for `[voices, steps]`: controls float32, as the network sees them, with a
    last axis of controls; temperature float32; top_k int32 (0: off)."""

    controls: npt.NDArray[np.float32]
    temperature: npt.NDArray[np.float32]
    top_k: npt.NDArray[np.int32]


class LiveControls:
    """All controls of `voices` sounds at `sample_rate` Hz: the controls of `schema`, temperature and top-k.

    drawn: curves in raw units, time 0 at the first sample, for all voices or one `Controls` per voice (the last is
    repeated); they may also hold temperature and top_k, and win over what is given for those here. temperatures: one
    per voice, the last is repeated. top_k: None or 0 switches it off. averaged: whether drawn curves that are finer
    than the rate at which they are read are averaged, as in training; what `record` returned must not be.

    A control of the schema hides a temperature or top_k of its name. Calls must not overlap: who plays from several
    threads queues what is set.

    Raises:
        UsageError: a control that is not drawn; one that there is not; a value that is not allowed.
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
    ) -> None:
        self.schema = schema
        self.voices = voices
        self.sample_rate = sample_rate
        self.point = max(1, round(POINT_SECONDS * sample_rate))  # samples from one control point to the next
        curves = [drawn[min(voice, len(drawn) - 1)] if drawn else {} for voice in range(voices)]
        self._inputs: list[list[LiveControl]] = []
        for parameter in schema.parameters:
            if any(parameter.name not in controls for controls in curves):
                raise UsageError(_missing(parameter))
            kind = _Kind(parameter.name, parameter.interp, np.float32, parameter)
            self._inputs.append(_controls(kind, [controls[parameter.name] for controls in curves], averaged))
        self._temperature, self._top_k = (
            _controls(
                kind,
                [
                    (None if kind.name in schema.names else controls.get(kind.name))
                    or Track.constant(kind.name, kind.allowed(first[min(voice, len(first) - 1)]))
                    for voice, controls in enumerate(curves)
                ],
                averaged=False,
            )
            for kind, first in (
                (_Kind("temperature", "linear", np.float32), temperatures),
                (_Kind("top_k", "previous", np.int32), (top_k or 0,)),
            )
        )
        self._by_name = {"temperature": self._temperature, "top_k": self._top_k}
        self._by_name |= {controls[0].kind.name: controls for controls in self._inputs}
        # The names that a recording always has: the controls, and what was drawn, by voice.
        self._drawn = [{*schema.names, *controls} for controls in curves]
        for name in dict.fromkeys(name for controls in curves for name in controls):
            if name not in self._by_name:
                schema.of(name)  # raises, with the nearest name

    @property
    def names(self) -> tuple[str, ...]:
        """What can be set: the controls in order, then the rest."""
        return (*self.schema.names, *(name for name in self._by_name if name not in self.schema.names))

    def set(self, position: int, *, voice: int | None = None, **values: float | str) -> float:
        """Set values by name from `position` on, the number of samples rendered so far; voice: None sets all. Returns
        the time in seconds by which all of them have arrived.

        A value, in raw units, starts to move at the first control point that is not before `position` nor before
        anything that was rendered, and arrives at the next one. One that has not started to move gives way. A
        category's value may be its name. Beyond the trained range the control's own `outside` decides, here and once:
        "clip" warns (`ControlWarning`).

        Raises:
            UsageError: an unknown name or voice, or a value that is not allowed; then nothing is set.
        """
        if voice is not None and not 0 <= voice < self.voices:
            raise UsageError(f"there is no voice {voice}: give one from 0 to {self.voices - 1}")
        for name in values:
            if name not in self._by_name:
                raise UsageError(f"there is no {name} to set: there are {', '.join(self.names)}")
        wanted = {name: self._by_name[name][0].kind.allowed(value) for name, value in values.items()}
        arrived = position / self.sample_rate
        for name, value in wanted.items():
            for control in self._by_name[name] if voice is None else [self._by_name[name][voice]]:
                point = self._point_after(position, control.read_until)
                control.set(value, self._seconds(point), self._seconds(point + 1))
                arrived = max(arrived, self._seconds(point + 1))
        return arrived

    def _seconds(self, point: int) -> float:
        return point * self.point / self.sample_rate

    def _point_after(self, position: int, seconds: float) -> int:
        point = -(-position // self.point)
        if seconds > self._seconds(point):
            point = max(point, math.floor(seconds * self.sample_rate / self.point))
            # The same float arithmetic as `LiveControl.values`, or a rendered value could change.
            while self._seconds(point) < seconds:
                point += 1
        return point

    def inputs(self, first: int, count: int, *, rate: float | None = None) -> npt.NDArray[np.float32]:
        """What the network sees, float32 `[voices, count, parameters]`, mapped by the schema.

        Element i lies at (first + i) / rate seconds; rate in Hz, None: the sample rate. Before 0 s, the first values.
        """
        result = np.empty((self.voices, count, len(self._inputs)), np.float32)
        for column, controls in enumerate(self._inputs):
            result[:, :, column] = self._block(controls, first, count, rate or self.sample_rate)
        return result

    def settings(self, first: int, count: int) -> Settings:
        """All that steers samples `first` and on, at the sample rate."""
        return Settings(self.inputs(first, count), self.temperature(first, count), self.top_k(first, count))

    def temperature(self, first: int, count: int) -> npt.NDArray[np.float32]:
        """The temperatures of samples `first` and on, float32 `[voices, count]`."""
        return self._block(self._temperature, first, count, self.sample_rate)

    def top_k(self, first: int, count: int) -> npt.NDArray[np.int32]:
        """From how many of the most likely values to sample, int32 `[voices, count]`; 0: from all."""
        return self._block(self._top_k, first, count, self.sample_rate)

    def _block(self, controls: list[LiveControl], first: int, count: int, rate: float) -> npt.NDArray[Any]:
        kind = controls[0].kind
        if not count:
            return np.empty((self.voices, 0), kind.dtype)
        followed: dict[Track, int] = {}  # the first voice that follows a curve untouched: others see the same
        result: npt.NDArray[Any] = np.empty((self.voices, count), kind.dtype)
        for voice, control in enumerate(controls):
            twin = voice if control.ramps else followed.setdefault(control.drawn, voice)
            control.read_until = max(control.read_until, (first + count - 1) / rate)
            result[voice] = control.seen(first, count, rate) if twin == voice else result[twin]
        return result

    def current(self, voice: int = 0) -> dict[str, float]:
        """By name, the raw value set last or, before anything was set, drawn for the last moment rendered."""
        return {name: self._by_name[name][voice].current for name in self.names}

    def forget(self, position: int) -> None:
        """Let go of what was set and has arrived before `position`, in samples, so that a voice may play for ever.

        Nothing before `position` may be read from then on, and a voice that has forgotten something cannot be recorded.
        """
        for controls in self._by_name.values():
            for control in controls:
                control.forget(position / self.sample_rate)

    def record(self, voice: int = 0) -> Controls:
        """All controls as tracks, and the rest where it was set or drawn: what to draw to hear the same again.

        Raises UsageError where its beginning was forgotten.

        As `drawn`, with averaged=False, it gives the same bits; where a curve that was not constant was cut short by a
        set value, the same up to float32 rounding before the cut. Curves that were averaged come back as drawn.
        """
        controls = {name: self._by_name[name][voice] for name in self.names}
        return {
            name: control.recorded()
            for name, control in controls.items()
            if name in self._drawn[voice] or control.ramps
        }


@dataclass(frozen=True)
class _Kind:
    """What a control is: a control of the schema or, if control is None, temperature or top_k."""

    name: str
    interp: Interpolation
    dtype: type
    parameter: Parameter | None = None

    def check(self, values: npt.NDArray[np.float64]) -> None:
        """Raise UsageError where one of the raw `values` is not allowed, warn where it will be clipped."""
        if self.parameter is not None:
            self.parameter.normalise(values.astype(np.float32))
            return
        wrong = values < 0
        if self.dtype is np.int32:
            wrong |= (values != np.floor(values)) | (values > _LARGEST_WHOLE)
        if wrong.any():
            wanted = "a whole number, 0 or more (0 switches it off)" if self.dtype is np.int32 else "0 or more"
            raise UsageError(f"{self.name} is {values[wrong][0]:g}, and it must be {wanted}")

    def allowed(self, value: float | str) -> float:
        """The raw value that `value` sets, a number or the name of a category. Raises and warns as `check`."""
        number = (self.parameter or Parameter(name=self.name)).number(value)
        if not abs(number) <= _LARGEST:
            raise UsageError(f"{self.name} is {number:g}: give a finite number")
        self.check(np.array([number]))
        return float(self._bounded(np.float64(number)))

    def seen(self, raw: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What the network sees of raw values."""
        if self.parameter is None:
            return raw.astype(self.dtype)
        return self.parameter.normalise(self._bounded(raw.astype(np.float32)))  # as `Schema.inputs`, bit for bit

    def _bounded(self, raw: Any) -> Any:
        """Within the trained range: `check` has warned or refused already."""
        if self.parameter is None:
            return raw
        low, high = sorted(self.parameter.span)
        return raw if self.parameter.outside == "allow" and low < high else np.clip(raw.astype(np.float64), low, high)


def _controls(kind: _Kind, tracks: Sequence[Track], averaged: bool) -> list[LiveControl]:
    """A control for each voice; each different track is checked once."""
    for track in dict.fromkeys(tracks):
        kind.check(track.values)
    return [LiveControl(kind, track, averaged) for track in tracks]


class _Ramp(NamedTuple):
    """The way from one value to the next: from `start` to `stop` seconds, both control points."""

    start: float
    stop: float
    old: float
    new: float


_start = attrgetter("start")


class LiveControl:
    """One control of one voice: drawn until the first ramp has begun, then ramps and what they lead to.

    read_until: the last moment rendered, in seconds.
    """

    def __init__(self, kind: _Kind, drawn: Track, averaged: bool) -> None:
        self.kind, self.drawn, self.averaged = kind, drawn, averaged
        self.ramps: list[_Ramp] = []
        self.read_until = -math.inf
        self._is_whole = True  # nothing was forgotten
        self._constant = float(drawn.values[0]) if drawn.is_constant else None
        self._held: tuple[float, npt.NDArray[Any]] | None = None  # a raw value, and what the network sees of it

    @property
    def current(self) -> float:
        """The raw value set last or, before anything was set, drawn for the last moment rendered."""
        return self.ramps[-1].new if self.ramps else float(self.drawn.at(max(0.0, self.read_until), self.kind.interp))

    def set(self, value: float, start: float, stop: float) -> None:
        """Move to `value`, from `start` to `stop` seconds; nothing after `start` may have been rendered."""
        while self.ramps and self.ramps[-1].start >= start:
            self.ramps.pop()
        old = self.ramps[-1].new if self.ramps else float(self.drawn.at(start, self.kind.interp))
        if not self.ramps or value != old:  # setting the same value again and again costs no memory
            self.ramps.append(_Ramp(start, stop, old, value))

    def values(self, first: int, count: int, rate: float) -> float | npt.NDArray[Any]:
        """Raw values `[count]` at (first + i) / rate seconds, or the one value that all of them have."""
        begin, end = first / rate, (first + count - 1) / rate
        # The last ramps that begin before the first and before the last element; -1: none, that one is drawn.
        before = bisect_left(self.ramps, begin, key=_start) - 1
        until = bisect_left(self.ramps, end, lo=max(before, 0), key=_start) - 1
        if until < 0:
            return self._drawn(first, count, rate) if self._constant is None else self._constant
        if before == until and begin >= self.ramps[until].stop:
            return self.ramps[until].new
        times = np.arange(first, first + count) / rate
        moved = _points(self.ramps[max(before, 0) : until + 1]).at(times, self.kind.interp)
        if before < 0 and self._constant is None:
            here = int(np.searchsorted(times, self.ramps[0].start, side="right"))
            moved[:here] = self._drawn(first, here, rate)
        return moved

    def seen(self, first: int, count: int, rate: float) -> npt.NDArray[Any]:
        """What the network sees of `values`, `[count]`, or `[1]` where all are the same."""
        raw = self.values(first, count, rate)
        if not isinstance(raw, float):
            return self.kind.seen(raw)
        if self._held is None or self._held[0] != raw:
            self._held = raw, self.kind.seen(np.array([raw]))
        return self._held[1]

    def _drawn(self, first: int, count: int, rate: float) -> npt.NDArray[Any]:
        if self.averaged:
            return resample_track(self.drawn, rate, count, first_sample=first, interp=self.kind.interp)
        return self.drawn.at(np.arange(first, first + count) / rate, self.kind.interp)

    def forget(self, seconds: float) -> None:
        """Forget the ramps that a later one has followed before `seconds`."""
        followed = bisect_left(self.ramps, seconds, key=_start) - 1
        if followed > 0:
            del self.ramps[:followed]
            self._is_whole = False

    def recorded(self) -> Track:
        """The whole as a track."""
        name = self.kind.name
        if not self._is_whole:
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


def _missing(parameter: Parameter) -> str:
    low, high = sorted(parameter.span)
    meaning = f" {', '.join(parameter.categories) or parameter.units or ''}".rstrip()
    example = parameter.categories[0] if parameter.categories else f"{(low + high) / 2:g}"
    return (
        f"the control {parameter.name} is missing, {low:g} to {high:g}{meaning}: give it too, as in "
        f"--control {parameter.name}={example}"
    )
