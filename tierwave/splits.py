"""Which parts of the recordings are trained on and which are held out.

By source recording where there are enough of them; else by several stretches spread over each recording, with guard
gaps around them. Chunks cut from one recording are put back on its timeline first, overlaps included, so that no
held-out sample is trained on under another file name. Knows positions only, nothing of windows or networks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from natsort import natsorted

from tierwave.corpus import Corpus
from tierwave.errors import RunError

FEWEST_SOURCES = 30  # below this, holding out whole recordings measures which ones were drawn
MOST_STRETCHES = 5  # per recording and part
SHORTEST_STRETCH_SECONDS = 1.0  # more than one stretch only if each can be this long
LONGEST_GUARD_SECONDS = 0.25
_CHUNK_NAME = re.compile(r"^(?P<stem>.+)_chunk_(?P<number>\d+)$")

Read = Callable[[int], np.ndarray]


class Span(NamedTuple):
    """Samples [start, stop) of recording number `recording`."""

    recording: int
    start: int
    stop: int


@dataclass(frozen=True)
class Split:
    """Spans to train on, to validate on, to test on; method is "files" or "stretches"."""

    method: str
    train: tuple[Span, ...]
    valid: tuple[Span, ...]
    test: tuple[Span, ...]

    def to_document(self, corpus: Corpus) -> dict[str, Any]:
        """The split by file name, as the run stores it."""
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        return {
            "method": self.method,
            **{
                part: [[corpus.recordings[span.recording].name, span.start, span.stop] for span in spans]
                for part, spans in parts.items()
            },
        }

    @staticmethod
    def from_document(document: dict[str, Any], corpus: Corpus) -> Split:
        """The stored split over the same corpus; KeyError if a recording is missing."""
        numbers = {recording.name: index for index, recording in enumerate(corpus.recordings)}

        def spans(part: str) -> tuple[Span, ...]:
            return tuple(Span(numbers[name], start, stop) for name, start, stop in document[part])

        return Split(document["method"], spans("train"), spans("valid"), spans("test"))


class Source(NamedTuple):
    """One original recording: its files in order and where on its timeline each begins, in samples."""

    recordings: tuple[int, ...]
    starts: tuple[int, ...]
    length: int


def find_sources(corpus: Corpus, read: Read) -> list[Source]:
    """Group chunk files (`<stem>_chunk_<n>`) by the recording they were cut from; every other file is its own source.

    read(index) gives a recording as float32 `[samples]`; it is needed to measure how far neighbouring chunks overlap.
    """
    groups: dict[str, list[tuple[int, int]]] = {}
    for index, recording in enumerate(corpus.recordings):
        path = PurePosixPath(recording.name)
        match = _CHUNK_NAME.match(path.stem)
        key = f"{path.parent}/{match['stem']}_chunk_*" if match else recording.name
        groups.setdefault(key, []).append((int(match["number"]) if match else 0, index))
    sources = []
    for key in natsorted(groups):
        chunks = sorted(groups[key])
        lengths = [corpus.recordings[index].samples for _, index in chunks]
        hop = max(lengths)
        if len(chunks) > 1:
            hop -= _overlap(chunks, lengths, read, corpus.sample_rate)
        starts = [number * hop for number, _ in chunks]
        origin = starts[0]
        sources.append(
            Source(
                tuple(index for _, index in chunks),
                tuple(start - origin for start in starts),
                max(start - origin + length for start, length in zip(starts, lengths, strict=True)),
            )
        )
    return sources


def _overlap(chunks: Sequence[tuple[int, int]], lengths: Sequence[int], read: Read, rate: int) -> int:
    """The largest overlap measured between neighbouring chunks, in samples (0 if they do not overlap).

    The beginning of a chunk is looked for in the one before by normalised cross-correlation.
    """
    pairs = [
        place for place in range(len(chunks) - 1) if chunks[place + 1][0] == chunks[place][0] + 1 and lengths[place] > 1
    ]
    found = 0
    for place in pairs[:: max(1, len(pairs) // 8)][:8]:
        before, after = read(chunks[place][1]), read(chunks[place + 1][1])
        probe = after[: min(len(after) // 2, rate // 4)].astype(np.float64)
        lag = _find(before.astype(np.float64), probe)
        if lag is not None:
            found = max(found, len(before) - lag)
    return min(found, max(lengths) - 1)


def _find(signal: np.ndarray, probe: np.ndarray, threshold: float = 0.9) -> int | None:
    """Where `probe` occurs in `signal` (first best match), or None."""
    from scipy.signal import correlate

    energy = float(np.dot(probe, probe))
    if not 1 < len(probe) <= len(signal) or energy < 1e-6 * len(probe):
        return None
    products = correlate(signal, probe, mode="valid", method="fft")
    sums = np.concatenate([[0.0], np.cumsum(signal**2)])
    energies = sums[len(probe) :] - sums[: len(sums) - len(probe)]
    matches = products / np.sqrt(np.maximum(energies, 1e-3 * energy) * energy)
    best = int(np.argmax(matches))
    return best if matches[best] > threshold else None


def make_split(
    corpus: Corpus,
    read: Read,
    *,
    valid_fraction: float,
    test_fraction: float = 0.0,
    seed: int = 0,
    smallest_guard: int = 0,
    values: Sequence[Hashable] | None = None,
) -> Split:
    """Hold out parts of the corpus.

    smallest_guard: samples that must at least separate training from held-out sound (a model's overlap). values: one
    control value (or tuple) per recording; none of them may vanish from training, else stretches are held out. Depends
    on names, lengths and seed only. Raises RunError if the corpus is too short to hold anything out.
    """
    sources = find_sources(corpus, read)
    fractions = {"valid": valid_fraction, "test": test_fraction}
    chosen = _whole_sources(sources, fractions, seed, values)
    method = "files" if chosen is not None else "stretches"
    if chosen is None:
        chosen = _stretches(sources, fractions, seed, smallest_guard, corpus.sample_rate)
    parts: dict[str, list[Span]] = {"train": [], "valid": [], "test": []}
    for source, intervals in zip(sources, chosen, strict=True):
        for recording, start in zip(source.recordings, source.starts, strict=True):
            length = corpus.recordings[recording].samples
            for part, first, last in intervals:
                begin, end = max(first - start, 0), min(last - start, length)
                if begin < end:
                    parts[part].append(Span(recording, begin, end))
    for part, fraction in [("train", 1.0), *fractions.items()]:
        if fraction > 0 and not parts[part]:
            raise RunError(
                f"the corpus of {corpus.samples / corpus.sample_rate:.2f} s is too short to hold out "
                f"{valid_fraction + test_fraction:.0%} of it: add recordings, or train without validation with "
                "--val_frac 0 --monitor loss"
            )
    return Split(method, tuple(parts["train"]), tuple(parts["valid"]), tuple(parts["test"]))


_Intervals = list[list[tuple[str, int, int]]]  # per source: (part, first, last) on its timeline


def _whole_sources(
    sources: Sequence[Source], fractions: dict[str, float], seed: int, values: Sequence[Hashable] | None
) -> _Intervals | None:
    """Whole sources held out, or None where that would be a poor split."""
    if len(sources) < FEWEST_SOURCES:
        return None
    order = np.random.default_rng([seed, 1]).permutation(len(sources))
    total = sum(source.length for source in sources)
    part_of = ["train"] * len(sources)
    left = list(order)
    for part, fraction in fractions.items():
        held = 0
        while fraction > 0 and left and held + sources[left[0]].length / 2 <= fraction * total:
            part_of[left[0]] = part
            held += sources[left.pop(0)].length
        if fraction > 0 and held == 0:
            return None
    if values is not None:
        kept = {values[r] for source, part in zip(sources, part_of, strict=True) if part == "train" for r in source.recordings}
        if kept != set(values):
            return None
    return [[(part, 0, source.length)] for source, part in zip(sources, part_of, strict=True)]


def _stretches(
    sources: Sequence[Source], fractions: dict[str, float], seed: int, smallest_guard: int, rate: int
) -> _Intervals:
    """Held-out stretches spread over every source: it is divided into equal cells, one stretch per cell."""
    rng = np.random.default_rng([seed, 2])
    wanted = [(part, fraction) for part, fraction in fractions.items() if fraction > 0]
    chosen: _Intervals = []
    for source in sources:
        held: list[tuple[str, int, int, int]] = []
        shortest = min((fraction * source.length for _, fraction in wanted), default=0.0)
        rounds = int(np.clip(shortest / (SHORTEST_STRETCH_SECONDS * rate), 1, MOST_STRETCHES))
        cells = np.linspace(0, source.length, rounds * len(wanted) + 1).astype(int) if wanted else np.zeros(1, int)
        for cell, (part, fraction) in enumerate(wanted * rounds):
            length = int(fraction * source.length / rounds)
            guard = max(smallest_guard, min(int(LONGEST_GUARD_SECONDS * rate), length // 4))
            first, room = int(cells[cell]), int(cells[cell + 1] - cells[cell])
            if length < 1 or length + 2 * guard > room - 1:
                continue
            start = first + guard + int(rng.integers(0, room - length - 2 * guard))
            held.append((part, start, start + length, guard))
        intervals, position = [], 0
        for part, start, stop, guard in held:
            intervals += [("train", position, start - guard), (part, start, stop)]
            position = stop + guard
        intervals.append(("train", position, source.length))
        chosen.append([interval for interval in intervals if interval[1] < interval[2]])
    return chosen
