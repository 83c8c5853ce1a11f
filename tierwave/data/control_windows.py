"""What a corpus is steered by: the parameters of every recording, and windows of them beside the windows of sound.

A `Steering` holds the resolved schema of a run and the tracks of each recording; a `ControlSource` reads windows of
some parameters at one rate from it, as the network sees them (see `tierwave.data.windows`). Knows tracks and positions;
where parameters lie in files is the matter of `tierwave.controls.sources`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.tracks import Controls, Track, resample_track
from tierwave.data.splits import Span
from tierwave.data.windows import Where


@dataclass(frozen=True)
class Steering:
    """The parameters of a corpus. schema: resolved, with lo and hi; controls: of each recording, in the corpus's order,
    with a track for every parameter of the schema; seconds: how long each recording is."""

    schema: Schema
    controls: tuple[Controls, ...]
    seconds: tuple[float, ...]

    def source(
        self,
        names: Sequence[str],
        rate: float,
        *,
        outside_zero: bool = False,
        through: Mapping[str, float] | None = None,
        noise: float = 0.0,
        seed: int = 0,
    ) -> ControlSource:
        """Windows of `names` at `rate` Hz; arguments as of `ControlSource`."""
        return ControlSource(
            self, names, rate, outside_zero=outside_zero, through=through or {}, noise=noise, seed=seed
        )


class ControlSource:
    """Windows of parameters as float32 `[lanes, steps, parameters]`, normalised by the schema.

    rate: of the steps, in Hz. outside_zero: 0 stands before and after a span, which is what a stage that generates
    these parameters starts from; else their own values go on there. through: parameters that pass through a lower rate
    first, as they will come from the tier that generates them, by name. noise: standard deviation, in normalised units,
    of what is added to those at that lower rate; another one every epoch, drawn from the seed. What lies outside lo and
    hi is clipped or goes beyond as the schema says, without a warning.
    """

    dtype: np.dtype[Any] = np.dtype(np.float32)
    per_step = True

    def __init__(
        self,
        steering: Steering,
        names: Sequence[str],
        rate: float,
        *,
        outside_zero: bool,
        through: Mapping[str, float],
        noise: float,
        seed: int,
    ):
        self.parameters = [steering.schema.of(name) for name in names]
        self.rate, self.outside_zero, self.through = float(rate), outside_zero, dict(through)
        self.noise, self.seed = noise, seed
        self.shape: tuple[int, ...] = (len(self.parameters),)
        self._seconds = steering.seconds
        self._tracks = [[controls[name] for name in names] for controls in steering.controls]
        # Most parameters are one value all through a recording, and need no resampling.
        self._constant = np.zeros([len(self._tracks), len(names)], np.float32)
        self._moving: list[list[int]] = []
        for recording, tracks in enumerate(self._tracks):
            moving = []
            for column, (track, parameter) in enumerate(zip(tracks, self.parameters, strict=True)):
                if not track.is_constant or (noise > 0.0 and parameter.name in self.through):
                    moving.append(column)
                else:
                    self._constant[recording, column] = seen(parameter, track.values[:1])[0]
            self._moving.append(moving)
        self._coarse: OrderedDict[tuple[int, int, int], Track] = OrderedDict()

    def read(self, where: Where) -> np.ndarray:
        """The values at `where`, float32 `[lanes, steps, parameters]`."""
        lanes, steps = where.at.shape
        values = np.empty([lanes, steps, len(self.parameters)], np.float32)
        values[:] = self._constant[where.recording][:, None]
        for lane, recording in enumerate(where.recording):
            if not where.inside[lane].any():
                continue
            for column in self._moving[recording]:
                first = int(where.at[lane, 0])
                values[lane, :, column] = self._window(int(recording), column, first, steps, where.epoch)
        if self.outside_zero:
            values[~where.inside] = 0.0
        return values

    def _window(self, recording: int, column: int, first: int, steps: int, epoch: int) -> np.ndarray:
        parameter = self.parameters[column]
        track = self._tracks[recording][column]
        lower = self.through.get(parameter.name)
        if lower is None:
            raw = resample_track(track, self.rate, steps, first_sample=first, interp=parameter.interp)
            return seen(parameter, raw)
        coarse = self._through(recording, column, epoch if self.noise else 0, lower)
        return resample_track(coarse, self.rate, steps, first_sample=first, interp=parameter.interp)

    def _through(self, recording: int, column: int, epoch: int, lower: float) -> Track:
        """A whole track at a lower rate, normalised, with this epoch's noise."""
        key = (recording, column, epoch)
        found = self._coarse.get(key)
        if found is None:
            parameter, track = self.parameters[column], self._tracks[recording][column]
            points = int(np.ceil(self._seconds[recording] * lower)) + 1
            values = seen(parameter, resample_track(track, lower, points, interp=parameter.interp))
            if self.noise and not parameter.is_category:
                rng = np.random.default_rng([self.seed, 5, epoch, recording, column])
                values = values + (self.noise * rng.standard_normal(points)).astype(np.float32)
                if parameter.outside != "allow":  # as generation clips what it hands on
                    values = np.clip(values, 0.0, 1.0)
            found = self._coarse[key] = Track.regular(parameter.name, values, lower)
            while len(self._coarse) > 4 * len(self._tracks) * max(1, len(self.parameters)):
                self._coarse.popitem(last=False)
        return found


def seen(parameter: Parameter, raw: Any) -> np.ndarray:
    """Raw values as training sees them: clipped without a word, unless the parameter may leave its range."""
    lo, hi = parameter.span
    if lo == hi:  # constant where it was trained on: the network knows no other value
        return np.zeros(np.shape(raw), np.float32)
    return parameter.normalise(raw, outside="allow" if parameter.outside == "allow" else "clip", silent=True)


def frame_spans(spans: Sequence[Span], sample_rate: int, rate: float) -> list[Span]:
    """Spans of samples as spans of frames at `rate` Hz: the frames k whose time k / rate lies in them; empty ones are
    left out."""
    found = []
    for span in spans:
        start, stop = (int(np.ceil(edge * rate / sample_rate - 1e-9)) for edge in (span.start, span.stop))
        if stop > start:
            found.append(Span(span.recording, start, stop))
    return found


def transplanted(
    kernel: np.ndarray,
    bias: np.ndarray,
    names: Sequence[str],
    wanted: Sequence[str],
    schema: Schema,
    wanted_schema: Schema,
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a linear map `kernel [inputs, outputs]` for other parameters, and its bias.

    A name that is new has no effect yet (zeros). One whose lo and hi differ is rescaled, so that a raw value does what
    it did; where the scales differ (linear, log) that cannot be, and the row is taken as it is. A name that is gone is
    held at the middle of its range. A category that is one_hot, now or before, keeps what each of its values does, and
    has no effect for those that are new.
    """
    targets = [wanted_schema.of(name) for name in wanted]
    starts = dict(zip(wanted, np.cumsum([0, *(target.inputs for target in targets)]), strict=False))
    result = np.zeros([sum(target.inputs for target in targets), kernel.shape[1]], np.float32)
    moved = np.array(bias, np.float64)
    first = 0
    for name in names:
        old = schema.of(name)
        rows = kernel[first : first + old.inputs]
        first += old.inputs
        if name not in wanted:
            moved += 0.5 * rows[0] if old.encoding == "number" else rows.mean(axis=0)
            continue
        new = wanted_schema.of(name)
        start = starts[name]
        if "one_hot" in (old.encoding, new.encoding):
            added = np.stack([_added_by(rows, old, value) for value in _values_of(old, new)])
            if new.encoding == "one_hot":
                result[start : start + new.inputs] = added
            else:
                result[start], moved = added[-1] - added[0], moved + added[0]
            continue
        if old.span[0] == old.span[1]:  # never anything but 0 there, so nothing was learned of it
            continue
        factor, offset = 1.0, 0.0
        if old.scale == new.scale:
            ends = (old.normalise(np.array(new.span), outside="allow")).astype(np.float64)
            factor, offset = ends[1] - ends[0], ends[0]
        result[start] = factor * rows[0]
        moved += offset * rows[0]
    return result, moved.astype(np.float32)


def _values_of(old: Parameter, new: Parameter) -> list[float | None]:
    """The raw values for `old` of what the inputs of `new` stand for: of all its values, or of lo and hi; None for a
    name that is new."""
    values = [float(value) for value in range(new.nvals)] if new.encoding == "one_hot" else list(new.span)
    if not (old.categories and new.categories):
        return list(values)
    known = {name: float(number) for number, name in enumerate(old.categories)}
    return [known.get(new.categories[int(value)]) for value in values]


def _added_by(rows: np.ndarray, parameter: Parameter, value: float | None) -> np.ndarray:
    """What a raw value of a parameter adds through its rows of a linear map; nothing for one that there was not."""
    if value is None or not min(parameter.span) <= value <= max(parameter.span):
        return np.zeros(rows.shape[1], np.float32)
    if parameter.encoding == "one_hot":
        return rows[round(value)]
    return np.float32(seen(parameter, np.array([value]))[0]) * rows[0]
