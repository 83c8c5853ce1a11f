"""Which parts of the recordings are trained on and which are held out.

By source recording if there are enough of them; else by several stretches spread over each recording, with guard gaps
around them. Chunks cut from one recording, and copies of one, are first put back on its timeline, overlaps included, so
that no held-out sample is trained on under another file name.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from tierwave.data.corpus import SILENCE_AMPLITUDE, Corpus
from tierwave.errors import RunError
from tierwave.files.folders import chunk_stem
from tierwave.files.names import matcher

FEWEST_SOURCES = 30  # below this, holding out whole recordings measures which ones were drawn
MOST_STRETCHES = 5  # per recording and part
SHORTEST_STRETCH_SECONDS = 1.0  # more than one stretch only if each can be this long
LONGEST_GUARD_SECONDS = 0.25
OVERLAP_PAIRS = 4  # neighbouring chunks that are compared
LEAST_OVERLAP_SECONDS = 0.005  # shorter ones are found by chance
LEAST_CORRELATION = 0.8  # of the sound in an overlap
# A smoothed difference: a chunk's own offset does not count, nor much of the highest treble, so that chunks which were
# resampled one by one, and are up to half a sample apart, still correlate by 0.86 if they are white noise.
_COMPARED = np.array([1.0, 3.0, 2.0, -2.0, -3.0, -1.0]) / 8.0
_CHUNK_NAME = re.compile(r"^(?P<stem>.+)_chunk_(?P<number>\d+)$")

Read = Callable[[int], np.ndarray]


class Span(NamedTuple):
    """Samples [start, stop) of recording number `recording`."""

    recording: int
    start: int
    stop: int


@dataclass(frozen=True)
class Split:
    """Spans to train on, to validate on, to test on; method is "files" or "stretches". remarks: what about the files
    made it worse than it might be, one sentence each."""

    method: str
    train: tuple[Span, ...]
    valid: tuple[Span, ...]
    test: tuple[Span, ...]
    remarks: tuple[str, ...] = field(default=(), compare=False)

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
        """The stored split over the same corpus; RunError if a recording is missing or too short."""
        numbers = {recording.name: index for index, recording in enumerate(corpus.recordings)}
        match = matcher(numbers)

        def number_of(name: str) -> int | None:
            known = match(name)
            return None if known is None else numbers[known]

        def spans(part: str) -> tuple[Span, ...]:
            found = []
            for name, start, stop in document[part]:
                number = number_of(name)
                there = 0 if number is None else corpus.recordings[number].samples
                if number is None or stop > there:
                    raise RunError(
                        f"the run's split is damaged ({part}: {name} to sample {stop}, of {there} that there are): "
                        "name another run, or train anew"
                    )
                found.append(Span(number, start, stop))
            return tuple(found)

        return Split(document["method"], spans("train"), spans("valid"), spans("test"))


class Source(NamedTuple):
    """One original recording: its files and where on its timeline each begins, in samples. apart: the stem of chunks of
    several cuts, which have no place on one timeline: all of them are held out, or none."""

    recordings: tuple[int, ...]
    starts: tuple[int, ...]
    length: int
    apart: str | None = None


def find_sources(corpus: Corpus, read: Read) -> list[Source]:
    """Group chunk files (`<stem>_chunk_<n>`) by the recording they were cut from, with that recording if it is there
    too, and files of the same content; every other file is its own source.

    read(index) gives a recording as float32 `[samples]`; it is needed to measure how far neighbouring chunks overlap.
    """
    from natsort import natsorted  # a command that splits no corpus starts without it

    paths = [PurePosixPath(unicodedata.normalize("NFC", recording.name)) for recording in corpus.recordings]
    by_text = sorted(range(len(paths)), key=lambda index: str(paths[index]))
    order = natsorted(by_text, key=lambda index: str(paths[index]))
    chunks: dict[tuple[PurePosixPath, str], list[tuple[int, int]]] = {}
    whole: list[int] = []
    for index in order:
        match = _CHUNK_NAME.match(paths[index].stem)
        if match:
            stem = chunk_stem(match["stem"])
            chunks.setdefault((paths[index].parent, stem), []).append((int(match["number"]), index))
        else:
            whole.append(index)
    placed: dict[Hashable, list[tuple[int, int]]] = {}
    chunked, uncut = {stem for _, stem in chunks}, {chunk_stem(paths[index].stem) for index in whole}
    apart: dict[Hashable, str] = {}
    for (folder, stem), numbered in chunks.items():
        key = stem if stem in uncut else (folder, stem)
        hop = 0.0
        if _is_one_cut(numbered, corpus):
            hop = _hop(sorted(numbered, key=itemgetter(0)), corpus, read)
        else:
            apart[key] = (folder / stem).as_posix()
        placed.setdefault(key, []).extend((round(number * hop), index) for number, index in numbered)
    for index in whole:
        stem = chunk_stem(paths[index].stem)
        placed.setdefault(stem if stem in chunked else (corpus.recordings[index].digest,), []).append((0, index))
    return [_source(sorted(files, key=itemgetter(0)), corpus, apart.get(key)) for key, files in placed.items()]


def _is_one_cut(chunks: Sequence[tuple[int, int]], corpus: Corpus) -> bool:
    """Whether chunks, (number, recording), are of one length, but for a shorter last one: the rest of the recording."""
    lengths = [corpus.recordings[index].samples for _, index in sorted(chunks)]
    return len(set(lengths[:-1])) < 2 and lengths[-1] <= lengths[0]


def _source(files: Sequence[tuple[int, int]], corpus: Corpus, apart: str | None = None) -> Source:
    """Close the gaps between (start, recording) pairs, where chunks were left out as silent."""
    if apart is not None:
        lengths = [corpus.recordings[index].samples for _, index in files]
        return Source(tuple(index for _, index in files), (0,) * len(files), sum(lengths), apart)
    starts, end, gaps = [], 0, 0
    for start, index in files:
        gaps = max(gaps, start - end)
        starts.append(start - gaps)
        end = max(end, start - gaps + corpus.recordings[index].samples)
    return Source(tuple(index for _, index in files), tuple(starts), end)


def _hop(chunks: Sequence[tuple[int, int]], corpus: Corpus, read: Read) -> float:
    """Samples from the start of a chunk to that of the next by number: measured, or their length if they share nothing.

    At every lag the end of a chunk is compared with the beginning of its neighbour, over several pairs at once.
    """
    length = max(corpus.recordings[index].samples for _, index in chunks)
    gaps = [after - before for (before, _), (after, _) in zip(chunks, chunks[1:], strict=False)]
    gap = min((gap for gap in gaps if gap), default=0)
    pairs = [place for place, each in enumerate(gaps) if gap and each == gap]
    evidence, compared = np.zeros([2, length + len(_COMPARED)])
    for place in pairs[:: max(1, -(-len(pairs) // OVERLAP_PAIRS))]:
        before, after = (np.convolve(read(chunks[each][1]), _COMPARED, "valid") for each in (place, place + 1))
        likelihood, overlap = _compare(before, after, LEAST_OVERLAP_SECONDS * corpus.sample_rate)
        evidence[: len(overlap)] += likelihood
        compared[: len(overlap)] += overlap
    evidence[evidence < -np.log1p(-(LEAST_CORRELATION**2)) * compared] = 0.0
    lag = int(np.argmax(evidence))
    return lag / gap if lag else length


def _compare(before: np.ndarray, after: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """For every lag: how much likelier `after` is as a copy of `before` from there on than as any sound (twice the
    log-likelihood ratio of a linear Gaussian model, from the correlation), and over how many samples that was seen."""
    size = 1 << (len(before) + len(after)).bit_length()
    products = np.fft.irfft(np.fft.rfft(before, size) * np.conj(np.fft.rfft(after, size)), size)[: len(before)]
    lags = np.arange(len(before))
    overlap = np.minimum(len(before) - lags, len(after))
    sums, heads = (np.concatenate([[0.0], np.cumsum(signal**2)]) for signal in (before, after))
    tails, heads = sums[lags + overlap] - sums[lags], heads[overlap]
    audible = (np.minimum(tails, heads) > SILENCE_AMPLITUDE**2 * overlap) & (overlap >= least)
    audible[0] = False  # neighbours in a loop may be the same all through
    correlation = np.where(audible, products / np.sqrt(np.where(audible, tails * heads, 1.0)), 0.0)
    # A copy's correlation is 1 but for rounding, which must not decide.
    likelihood = -overlap * np.log1p(-(np.clip(correlation, 0.0, 1.0 - 1e-6) ** 2))
    return likelihood, np.where(audible, overlap, 0)


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
    on seed, names and lengths, on which files are copies and on how chunks overlap, and on nothing else. Raises
    RunError if the corpus is too short to hold anything out.
    """
    sources = find_sources(corpus, read)
    fractions = {"valid": valid_fraction, "test": test_fraction}
    method, chosen = "files", _whole_sources(sources, fractions, seed)
    if chosen is None or _lost(_spans(sources, chosen, corpus), values):
        method, chosen = "stretches", _stretches(sources, fractions, seed, smallest_guard, corpus.sample_rate)
        lost = _lost(_spans(sources, chosen, corpus), values)
        for number, source in enumerate(sources if lost else []):
            if values is not None and not lost.isdisjoint(values[recording] for recording in source.recordings):
                chosen[number] = [("train", 0, source.length)]
    parts = _spans(sources, chosen, corpus)
    remarks = _remarks(sources)
    for part, fraction in fractions.items():
        if fraction > 0 and not parts[part]:
            without = "--val_frac 0 --monitor loss" if part == "valid" else "--test_frac 0"
            if remarks:
                raise RunError(f"{remarks[0]} As it is, nothing can be held out; {without} trains on all")
            raise RunError(
                f"the corpus of {corpus.samples / corpus.sample_rate:.2f} s is too short to hold out {fraction:.0%} of "
                f"it: add recordings, or train without, with {without}"
            )
    return Split(method, tuple(parts["train"]), tuple(parts["valid"]), tuple(parts["test"]), remarks)


def _remarks(sources: Sequence[Source]) -> tuple[str, ...]:
    apart = [source.apart for source in sources if source.apart is not None]
    if not apart:
        return ()
    return (
        f"The chunks of {apart[0]}{f' and {len(apart) - 1} more' if len(apart) > 1 else ''} are of several lengths, as "
        "of several cuts, so the same sound may lie in several of them, and they are held out together or not at all: "
        "delete those of the earlier cut.",
    )


_Intervals = list[list[tuple[str, int, int]]]  # per source: (part, first, last) on its timeline


def _spans(sources: Sequence[Source], chosen: _Intervals, corpus: Corpus) -> dict[str, list[Span]]:
    """The intervals as they lie in the files, by part."""
    parts: dict[str, list[Span]] = {"train": [], "valid": [], "test": []}
    for source, intervals in zip(sources, chosen, strict=True):
        for recording, start in zip(source.recordings, source.starts, strict=True):
            length = corpus.recordings[recording].samples
            for part, first, last in intervals:
                begin, end = max(first - start, 0), min(last - start, length)
                if begin < end:
                    parts[part].append(Span(recording, begin, end))
    return parts


def _lost(parts: dict[str, list[Span]], values: Sequence[Hashable] | None) -> set[Hashable]:
    """Control values that training would not see."""
    return set() if values is None else set(values) - {values[span.recording] for span in parts["train"]}


def _whole_sources(sources: Sequence[Source], fractions: dict[str, float], seed: int) -> _Intervals | None:
    """Whole sources held out, or None where that would be a poor split: few of them, or too unequal ones."""
    if len(sources) < FEWEST_SOURCES:
        return None
    order = np.random.default_rng([seed, 1]).permutation(len(sources))
    total = sum(source.length for source in sources)
    part_of = ["train"] * len(sources)
    for part, fraction in fractions.items():
        wanted, held = fraction * total, 0
        for number in order:
            length = sources[number].length
            if part_of[number] == "train" and held + length / 2 <= wanted:
                part_of[number] = part
                held += length
        if held < wanted / 2:
            return None
    if "train" not in part_of:
        return None
    return [[(part, 0, source.length)] for source, part in zip(sources, part_of, strict=True)]


def _stretches(
    sources: Sequence[Source], fractions: dict[str, float], seed: int, smallest_guard: int, rate: int
) -> _Intervals:
    """Held-out stretches spread over every source: it is divided into cells, one stretch somewhere in each."""
    rng = np.random.default_rng([seed, 2])
    wanted = {part: fraction for part, fraction in fractions.items() if fraction > 0}
    chosen: _Intervals = []
    for source in sources:
        if source.apart is not None:
            chosen.append([("train", 0, source.length)])
            continue
        intervals, position = [], 0
        shortest = min(wanted.values(), default=0.0) * source.length
        rounds = int(np.clip(shortest / (SHORTEST_STRETCH_SECONDS * rate), 1, MOST_STRETCHES))
        # A cell is as long as its share of what is held out, so that every cell has room.
        edges = np.cumsum([0.0, *list(wanted.values()) * rounds]) / max(sum(wanted.values()) * rounds, 1e-9)
        cells = np.round(edges * source.length).astype(int)
        for first, last, (part, fraction) in zip(cells, cells[1:], list(wanted.items()) * rounds, strict=False):
            length = int(fraction * source.length / rounds)
            spare = int(last - first) - length
            guard = max(smallest_guard, min(int(LONGEST_GUARD_SECONDS * rate), length // 4, spare // 4))
            room = spare - 2 * guard
            if length < 1 or room < 1:
                continue
            start = int(first) + guard + int(rng.integers(room))
            intervals += [("train", position, start - guard), (part, start, start + length)]
            position = start + length + guard
        intervals.append(("train", position, source.length))
        chosen.append([interval for interval in intervals if interval[1] < interval[2]])
    return chosen
