"""Lanes of windows: how spans of a corpus reach the training step.

An epoch is laid out as `lanes` parallel readers. The spans, in an order drawn from (seed, epoch), are joined into a
ring of windows, and the ring is cut into `lanes` equal pieces: every lane does the same work, even with five long files
and 64 lanes, and nothing is dropped. A lane reads from window to window, its recurrent state carried along and reset
where a span begins or the lane does; a span's last window is padded and masked.

    lane 0   |R span 3 ...............|R span 0 ....
    lane 1   |R span 0 (rest) ........|R span 2 ....      R: the state is reset here

An epoch's layout is a function of (seed, epoch) and a batch one of (epoch, step), so training resumes anywhere.
What stands in the windows is read from sources: `Codes` of a corpus, `ControlSource` of its controls.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from tierwave.controls.schema import Schema
from tierwave.controls.tracks import Controls, Track, resample_track
from tierwave.controls.transfer import as_trained
from tierwave.data.corpus import Corpus
from tierwave.data.splits import Span

if TYPE_CHECKING:
    import tensorflow as tf

IDLE = -1
Layout = tuple[np.ndarray, np.ndarray, np.ndarray]


class Where(NamedTuple):
    """Which elements a batch of windows wants: `recording` int64 `[lanes]`; `at` int64 `[lanes, overlap + window]`,
    positions within it, one after the other; `inside` bool of the same shape, false before and after the span; epoch,
    for what is drawn anew in each."""

    recording: np.ndarray
    at: np.ndarray
    inside: np.ndarray
    epoch: int


class Source(Protocol):
    """Something to read windows from; dtype and shape: of one element; per_step: whether there is one for every step,
    or one for a lane's recording (its text)."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    per_step: bool

    def read(self, where: Where) -> np.ndarray:
        """The elements, `[lanes, overlap + window, *shape]`, or `[lanes, *shape]` where they are not per step."""


class Codes:
    """The codes of a corpus, as int32; `silence` stands before and after a span."""

    dtype: np.dtype[Any] = np.dtype(np.int32)
    shape: tuple[int, ...] = ()
    per_step = True

    def __init__(self, corpus: Corpus, silence: int):
        self.corpus, self.silence = corpus, silence

    def read(self, where: Where) -> np.ndarray:
        """Codes, int32 `[lanes, overlap + window]`. Only recordings that a lane stands in are opened."""
        codes = np.full(where.at.shape, self.silence, np.int32)
        counts = where.inside.sum(axis=1)
        lanes = np.flatnonzero(counts)
        begins = where.inside.argmax(axis=1)[lanes]
        starts = where.at[lanes, begins]
        rows = np.stack([lanes, begins, counts[lanes], where.recording[lanes], starts], axis=1)
        for lane, begin, count, recording, start in rows.tolist():
            codes[lane, begin : begin + count] = self.corpus.read(recording, start, start + count)
        return codes


class LaneWindows:
    """Windows of `window` elements with `overlap` elements of context, over spans of recordings.

    sources: what is read, by the name it has in a batch; "inputs" must be among them. lanes: at most this many; fewer
    where there are fewer windows. shuffled: a new order every epoch, else the order of the spans. whole_spans: a span
    is never cut between lanes (likelihood of whole files); lanes then differ in work. multiple_of: the number of lanes
    is rounded up to a multiple of this (the number of replicas). worker: (number, how many there are): only the lanes
    of one worker are read; layouts are those of all. least_steps: a shuffled epoch goes over the spans as
    often as it takes to have so many steps, so that what is done after every epoch does not cost more than the epoch.
    fresh_starts: the share of windows that begin as a recording does, with silence behind them and a state that is
    reset, wherever they stand: so generation begins from nothing with sound. joined: the share of spans that begin
    with the state at the end of another one, as if one sound followed the other. silent_starts: silence stands behind a
    window whose state is reset, wherever it stands, as it does with fresh_starts: a network that was trained with them
    knows no other beginning, and is lost for seconds where its state is new and its context is not.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        spans: Sequence[Span],
        *,
        window: int,
        overlap: int,
        lanes: int,
        seed: int = 0,
        shuffled: bool = True,
        whole_spans: bool = False,
        multiple_of: int = 1,
        worker: tuple[int, int] = (0, 1),
        least_steps: int = 1,
        fresh_starts: float = 0.0,
        joined: float = 0.0,
        silent_starts: bool = False,
    ):
        self.sources, self.window, self.overlap = dict(sources), window, overlap
        self.seed, self.shuffled, self.whole_spans = seed, shuffled, whole_spans
        self.fresh_starts, self.joined = fresh_starts, joined
        self.silent_starts = silent_starts or fresh_starts > 0.0
        self._recording = np.array([span.recording for span in spans], np.int64)
        self._first = np.array([span.start for span in spans], np.int64)
        self._last = np.array([span.stop for span in spans], np.int64)
        self._windows = -(-(self._last - self._first) // window)
        self.samples = int(np.sum(self._last - self._first))
        self.windows = int(np.sum(self._windows))
        lanes = min(lanes, len(spans) if whole_spans else self.windows)
        self.lanes = -(-lanes // multiple_of) * multiple_of
        rank, workers = worker
        self.own = slice(rank * self.lanes // workers, (rank + 1) * self.lanes // workers)
        if whole_spans:
            self._whole = self._deal_whole_spans()
            self.steps = max(len(lane) for lane in self._whole)
        else:
            self.steps = -(-self.windows // self.lanes)
        self.passes = -(-least_steps // self.steps) if shuffled and not whole_spans else 1
        self._steps_of_pass = self.steps
        self.steps *= self.passes

    def layout(self, epoch: int) -> Layout:
        """(span, window within the span, reset), each `[steps, lanes]`; span is `IDLE` where a lane has no work."""
        passes = [self._layout_of_pass(epoch * self.passes + number) for number in range(self.passes)]
        span, place, reset = (np.concatenate(parts) for parts in zip(*passes, strict=True))
        return span, place, reset

    def _layout_of_pass(self, number: int) -> Layout:
        steps = self._steps_of_pass
        span = np.full([steps, self.lanes], IDLE, np.int64)
        place = np.zeros([steps, self.lanes], np.int64)
        if self.whole_spans:
            for lane, entries in enumerate(self._whole):
                for step, (which, within) in enumerate(entries):
                    span[step, lane], place[step, lane] = which, within
            return span, place, (place == 0) & (span != IDLE)
        order: np.ndarray = np.arange(len(self._windows))
        turn = 0
        if self.shuffled:
            rng = np.random.default_rng([self.seed, 3, number])
            order = rng.permutation(len(order))
            turn = int(rng.integers(self.windows))  # else a single span would be cut in the same places every epoch
        counts = self._windows[order]
        row_span = np.repeat(order, counts)
        row_place = np.arange(self.windows) - np.repeat(np.cumsum(counts) - counts, counts)
        bounds = np.arange(self.lanes + 1) * self.windows // self.lanes
        at = bounds[:-1][None, :] + np.arange(steps)[:, None]
        busy = at < bounds[1:][None, :]
        at = (at + turn) % self.windows
        span[busy], place[busy] = row_span[at][busy], row_place[at][busy]
        reset = (place == 0) & busy
        if self.joined:
            reset &= np.random.default_rng([self.seed, 8, number]).random(busy.shape) >= self.joined
        reset[0] |= busy[0]
        if self.fresh_starts:
            reset |= busy & (np.random.default_rng([self.seed, 7, number]).random(busy.shape) < self.fresh_starts)
        return span, place, reset

    def epoch(self, epoch: int, first_step: int = 0) -> tf.data.Dataset:
        """The batches of an epoch from `first_step` on, the lanes of this worker: each source's elements
        `[lanes, overlap + window, ...]` (or `[lanes, ...]`); targets, which are the inputs after the overlap; mask
        float32 `[lanes, window]` (0 for padding); reset bool `[lanes]`."""
        import tensorflow as tf

        lanes, total = self.own.stop - self.own.start, self.overlap + self.window
        specs = {
            name: tf.TensorSpec([lanes, *((total,) if source.per_step else ()), *source.shape], source.dtype)
            for name, source in self.sources.items()
        }
        specs |= {"mask": tf.TensorSpec([lanes, self.window], np.float32), "reset": tf.TensorSpec([lanes], np.bool_)}

        # TensorFlow never lets go of a function given to numpy_function: it must not hold the epoch's layout.
        def read(span: np.ndarray, place: np.ndarray, reset: np.ndarray) -> list[np.ndarray]:
            batch = self.batch((span, place, reset), epoch)
            return [batch[name] for name in specs]

        def load(*row: tf.Tensor) -> dict[str, tf.Tensor]:
            values = tf.numpy_function(read, row, [spec.dtype for spec in specs.values()], stateful=False)
            parts = zip(specs.items(), values, strict=True)
            batch = {name: tf.ensure_shape(value, spec.shape) for (name, spec), value in parts}
            return {**batch, "targets": batch["inputs"][:, self.overlap :]}

        steps = tf.data.Dataset.from_tensor_slices(tuple(part[first_step:, self.own] for part in self.layout(epoch)))
        return steps.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)

    def batch(self, step: Layout, epoch: int = 0) -> dict[str, np.ndarray]:
        """A batch as of `epoch`, without targets; step: of the layout, each `[lanes]`."""
        span, place, reset = step
        first, last = self._first[span][:, None], self._last[span][:, None]
        at = first + place[:, None] * self.window - self.overlap + np.arange(self.overlap + self.window)
        inside = (at >= first) & (at < last) & (span != IDLE)[:, None]
        if self.silent_starts:
            inside[reset, : self.overlap] = False
        where = Where(self._recording[span], at, inside, epoch)
        read = {name: source.read(where) for name, source in self.sources.items()}
        return {**read, "mask": inside[:, self.overlap :].astype(np.float32), "reset": reset}

    def _deal_whole_spans(self) -> list[list[tuple[int, int]]]:
        """Longest span first, each to the lane with the least work so far."""
        lanes: list[list[tuple[int, int]]] = [[] for _ in range(self.lanes)]
        for number in np.argsort(-self._windows, kind="stable"):
            lane = min(lanes, key=len)
            lane.extend((int(number), within) for within in range(int(self._windows[number])))
        return lanes


def lane_warnings(windows: LaneWindows, batch_size: int) -> list[str]:
    """What about the lanes would spoil training, one sentence each."""
    warnings = []
    if windows.windows < batch_size:
        warnings.append(
            f"The corpus has {windows.windows} windows of {windows.window} samples, fewer than batch_size "
            f"{batch_size}: {windows.lanes} lanes are used. Add recordings, or shorten seq_len."
        )
    elif windows.steps < 4:
        warnings.append(
            f"An epoch is only {windows.steps} steps, so the recurrent state is hardly ever carried on: "
            f"a smaller --batch_size (now {batch_size}) gives every lane longer stretches."
        )
    return warnings


# Controls -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Steering:
    """The controls of a corpus. schema: resolved, with lo and hi; controls: of each recording, in the corpus's order,
    with a track for every control of the schema; seconds: how long each recording is."""

    schema: Schema
    controls: tuple[Controls, ...]
    seconds: tuple[float, ...]

    def source(self, names: Sequence[str], rate: float, **options: Any) -> ControlSource:
        """Windows of `names` at `rate` Hz; options as of `ControlSource`."""
        return ControlSource(self, names, rate, **options)


class ControlSource:
    """Windows of controls as float32 `[lanes, steps, parameters]`, normalised by the schema.

    rate: of the steps, in Hz. outside_zero: 0 stands before and after a span, which is what a stage that generates
    these controls starts from; else their own values go on there. through: controls that pass through a lower rate
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
        outside_zero: bool = False,
        through: Mapping[str, float] = MappingProxyType({}),
        noise: float = 0.0,
        seed: int = 0,
    ):
        self.parameters = [steering.schema.of(name) for name in names]
        self.rate, self.outside_zero, self.through = float(rate), outside_zero, dict(through)
        self.noise, self.seed = noise, seed
        self.shape: tuple[int, ...] = (len(self.parameters),)
        self._seconds = steering.seconds
        self._tracks = [[controls[name] for name in names] for controls in steering.controls]
        # Most controls are one value all through a recording, and need no resampling.
        self._constant = np.zeros([len(self._tracks), len(names)], np.float32)
        self._moving: list[list[int]] = []
        for recording, tracks in enumerate(self._tracks):
            moving = []
            for column, (track, parameter) in enumerate(zip(tracks, self.parameters, strict=True)):
                if not track.is_constant or (noise > 0.0 and parameter.name in self.through):
                    moving.append(column)
                else:
                    self._constant[recording, column] = as_trained(parameter, track.values[:1])[0]
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
            return as_trained(parameter, raw)
        coarse = self._through(recording, column, epoch if self.noise else 0, lower)
        return resample_track(coarse, self.rate, steps, first_sample=first, interp=parameter.interp)

    def _through(self, recording: int, column: int, epoch: int, lower: float) -> Track:
        """A whole track at a lower rate, normalised, with this epoch's noise."""
        key = (recording, column, epoch)
        found = self._coarse.get(key)
        if found is None:
            parameter, track = self.parameters[column], self._tracks[recording][column]
            points = int(np.ceil(self._seconds[recording] * lower)) + 1
            values = as_trained(parameter, resample_track(track, lower, points, interp=parameter.interp))
            if self.noise and not parameter.is_category:
                rng = np.random.default_rng([self.seed, 5, epoch, recording, column])
                values = values + (self.noise * rng.standard_normal(points)).astype(np.float32)
                if parameter.outside != "allow":  # as generation clips what it hands on
                    values = np.clip(values, 0.0, 1.0)
            found = self._coarse[key] = Track.regular(parameter.name, values, lower)
            while len(self._coarse) > 4 * len(self._tracks) * max(1, len(self.parameters)):
                self._coarse.popitem(last=False)
        return found


def frame_spans(spans: Sequence[Span], sample_rate: int, rate: float) -> list[Span]:
    """Spans of samples as spans of frames at `rate` Hz: the frames k whose time k / rate lies in them; empty ones are
    left out."""
    found = []
    for span in spans:
        start, stop = (int(np.ceil(edge * rate / sample_rate - 1e-9)) for edge in (span.start, span.stop))
        if stop > start:
            found.append(Span(span.recording, start, stop))
    return found
