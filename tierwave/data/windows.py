"""Lanes of windows: how spans of a corpus reach the training step.

An epoch is laid out as `lanes` parallel readers. The spans, in an order drawn from (seed, epoch), are joined into a
ring of windows, and the ring is cut into `lanes` equal pieces: every lane does the same work, even with five long files
and 64 lanes, and nothing is dropped. A lane reads from window to window, its recurrent state carried along and reset
where a span begins or the lane does; a span's last window is padded and masked.

    lane 0   |R span 3 ...............|R span 0 ....
    lane 1   |R span 0 (rest) ........|R span 2 ....      R: the state is reset here

An epoch's layout is a function of (seed, epoch) and a batch one of (epoch, step), so training resumes anywhere.
What stands in the windows is read from sources: `Codes` of a corpus here, parameters in `control_windows`.
Knows spans and positions; knows no audio and no network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

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
        columns = (where.recording[lanes], starts, starts + counts[lanes])
        parts = self.corpus.parts(zip(*(column.tolist() for column in columns), strict=True))
        for lane, begin, part in zip(lanes.tolist(), begins.tolist(), parts, strict=True):
            codes[lane, begin : begin + len(part)] = part
        return codes


class LaneWindows:
    """Windows of `window` elements with `overlap` elements of context, over spans of recordings.

    sources: what is read, by the name it has in a batch; "inputs" must be among them. lanes: at most this many; fewer
    where there are fewer windows. shuffled: a new order every epoch, else the order of the spans. whole_spans: a span
    is never cut between lanes (likelihood of whole files); lanes then differ in work. multiple_of: the number of lanes
    is rounded up to a multiple of this (the number of replicas). worker: (number, how many there are): only the lanes
    of one worker are read; layouts are those of all. least_steps: a shuffled epoch goes over the spans as
    often as it takes to have so many steps, so that what is done after every epoch does not cost more than the epoch.
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
    ):
        self.sources, self.window, self.overlap = dict(sources), window, overlap
        self.seed, self.shuffled, self.whole_spans = seed, shuffled, whole_spans
        self._latest: tuple[int, Layout] | None = None
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
        reset[0] |= busy[0]
        return span, place, reset

    def batch(self, layout: Layout, step: int, epoch: int = 0) -> dict[str, np.ndarray]:
        """Step `step` of a layout, the lanes of this worker: each source's elements `[lanes, overlap + window, ...]`
        (or `[lanes, ...]`), mask float32 `[lanes, window]` (0 for padding), reset bool `[lanes]`."""
        span, place, reset = (part[step, self.own] for part in layout)
        first, last = self._first[span][:, None], self._last[span][:, None]
        at = first + place[:, None] * self.window - self.overlap + np.arange(self.overlap + self.window)
        inside = (at >= first) & (at < last) & (span != IDLE)[:, None]
        where = Where(self._recording[span], at, inside, epoch)
        read = {name: source.read(where) for name, source in self.sources.items()}
        return {**read, "mask": inside[:, self.overlap :].astype(np.float32), "reset": reset}

    def epoch(self, epoch: int, first_step: int = 0) -> tf.data.Dataset:
        """The batches of an epoch from `first_step` on: dicts as of `batch`, and targets, which are the inputs after
        the overlap."""
        import tensorflow as tf

        total, lanes = self.overlap + self.window, self.own.stop - self.own.start
        shapes = {
            name: ([lanes, total, *source.shape] if source.per_step else [lanes, *source.shape], source.dtype)
            for name, source in self.sources.items()
        }
        shapes |= {"mask": ([lanes, self.window], np.dtype(np.float32)), "reset": ([lanes], np.dtype(np.bool_))}

        def assemble(step: tf.Tensor) -> dict[str, tf.Tensor]:
            # TensorFlow never lets go of a function given to numpy_function: it must not hold the epoch's layout.
            def read(step: np.ndarray) -> list[np.ndarray]:
                batch = self.batch(self._remembered(epoch), int(step), epoch)
                return [batch[name] for name in shapes]

            types = [tf.as_dtype(dtype) for _, dtype in shapes.values()]
            values = tf.numpy_function(read, [step], types, stateful=False)
            batch = {
                name: tf.ensure_shape(value, shape)
                for (name, (shape, _)), value in zip(shapes.items(), values, strict=True)
            }
            return {**batch, "targets": batch["inputs"][:, self.overlap :]}

        steps = tf.data.Dataset.range(first_step, self.steps)
        return steps.map(assemble, num_parallel_calls=2, deterministic=True).prefetch(8)

    def _remembered(self, epoch: int) -> Layout:
        """The layout of the epoch that is being read, made once."""
        if self._latest is None or self._latest[0] != epoch:
            self._latest = epoch, self.layout(epoch)
        return self._latest[1]

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
