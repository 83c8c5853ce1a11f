"""Tracks: the controls of a sound over time, each on its own grid and in raw units.

times   0.0          0.5 0.5           1.5        seconds; a repeated time is a step
values  64           64  76            70         MIDI pitch
        |------------|   |-------------|--- held
sample  k = 0, 1, 2 ... at start_seconds + k / rate
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from tierwave.errors import RunError

Interpolation = Literal["linear", "previous"]

ROUNDING = 1e-6  # share of a range that float32 and decimals in file names may add to either end
_BLOCK_SAMPLES = 1 << 20  # resampled at a time: an hour of control then needs no more memory than its result


@dataclass(frozen=True, eq=False)
class Track:
    """One control of one sound: `values` at `times` (seconds), both float64 `[points]`, in raw units.

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
        return RunError(f"the control {self.name}{place} {fault}: correct it there")

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
        return bool(np.allclose(self.at(everywhere), other.at(everywhere), rtol=ROUNDING, atol=1e-12))

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
