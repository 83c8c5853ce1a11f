"""A folder of recordings as codes, with statistics and a report of what was left out.

Audio is decoded once, block by block, into a cache that later runs share: a file of codes per recording, of which only
what is needed is read; a 10-hour corpus is 10 hours of one-byte codes on disk and costs no memory. Recordings and cache
may lie at URLs (`tierwave.files.places`); in a folder, rows of arrays are recordings too (`tierwave.audio.arrays`).
Knows how sound is kept, not how it is split, windowed or learned.

A cache is a folder named by what it was made of and how. `corpus.json` is written last and says that it is whole; what
is there before that is taken over by whoever goes on building it, at the same time or after an interruption.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from tierwave.audio.arrays import SUFFIX, Row, find_rows, read_row
from tierwave.audio.finding import find_audio_at, search_audio
from tierwave.audio.recordings import open_recording, probe
from tierwave.data.shards import Part, Shards
from tierwave.errors import AudioError, RunError, UsageError
from tierwave.files.documents import sealed, unsealed
from tierwave.files.folders import LeftOut
from tierwave.files.ledger import FOLDER, Ledger, digest_of, stamp
from tierwave.files.names import name_within
from tierwave.files.places import (
    Place,
    Url,
    local_copy,
    make_folder,
    place_of,
    put_bytes,
    put_file,
    read_bytes,
    remove,
    size_of,
)
from tierwave.files.writing import flush, write_bytes
from tierwave.system.parallel import parallel_map

Normalize = Literal["none", "corpus", "file"]
Progress = Callable[[int, int], None]

SILENCE_AMPLITUDE = 10.0 ** (-60.0 / 20.0)  # quieter samples count as silence in the statistics
CLIPPED_AMPLITUDE = 0.999
CACHE_FORMAT = 4  # raised when the same files would give another cache
SMALL_BYTES = 1 << 25  # recordings of this size in all are encoded before other processes have started
BLOCK = 1 << 20  # codes of a recording that is read through
DOCUMENT = "corpus.json"


class Encoder(Protocol):
    """How audio is kept: maps float32 `[samples]` to codes of a fixed dtype; its repr names it in the cache."""

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """Codes of `audio`."""


@dataclass(frozen=True)
class Recording:
    """One usable file. name: path relative to the corpus folder, with slashes; offset: of its first code, were all
    recordings one; samples: at the corpus rate; digest: of its codes, which tells corpora apart; remarks: what is odd
    about it, such as an end that is cut off."""

    name: str
    offset: int
    samples: int
    digest: str
    file_rate: int
    channels: int
    peak: float
    dc: float
    rms: float
    silent_share: float
    clipped_share: float
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Corpus:
    """All usable recordings of a folder, encoded. codes: the files that hold them, or one array of all; left_out:
    (name, reason) of the rest; taken_over: how many an interrupted run had encoded.

    What recordings and statistics say of levels holds before `normalize`; gain is what "corpus" multiplied with.
    """

    recordings: tuple[Recording, ...]
    left_out: tuple[tuple[str, str], ...]
    sample_rate: int
    gain: float
    codes: np.ndarray | Shards
    normalize: Normalize = "none"
    taken_over: int = field(default=0, compare=False)

    @property
    def samples(self) -> int:
        """Samples in all."""
        return sum(recording.samples for recording in self.recordings)

    @property
    def identity(self) -> dict[str, str]:
        """Digest of every recording by name: equal for equal sound, wherever the folder lies."""
        return {recording.name: recording.digest for recording in self.recordings}

    def of(self, index: int) -> np.ndarray:
        """Codes `[samples]` of one recording. All are read if the cache is at a URL: ask for `parts` of long ones."""
        if isinstance(self.codes, Shards):
            return self.codes.whole(index)
        recording = self.recordings[index]
        return self.codes[recording.offset : recording.offset + recording.samples]

    def parts(self, wanted: Iterable[Part]) -> list[np.ndarray]:
        """Codes `[stop - start]` of each (recording, start, stop); only the files of these recordings are opened."""
        if isinstance(self.codes, Shards):
            return self.codes.parts(wanted)
        offsets = [recording.offset for recording in self.recordings]
        return [self.codes[offsets[index] + start : offsets[index] + stop] for index, start, stop in wanted]

    def blocks(self, recording: int, start: int, stop: int) -> Iterator[np.ndarray]:
        """Codes [start, stop) of one recording in blocks `[samples]`, of which one at a time is in memory."""
        for first in range(start, stop, BLOCK):
            yield from self.parts([(recording, first, min(stop, first + BLOCK))])

    @property
    def clipped(self) -> float:
        """Share of the samples that are clipped after `normalize`: what a file holds beyond full scale is there, and a
        gain brings it back; what was cut off at 1 is lost."""
        hot = [recording for recording in self.recordings if recording.peak <= 1 or self.normalize == "none"]
        return sum(recording.clipped_share * recording.samples for recording in hot) / max(1, self.samples)

    def statistics(self) -> dict[str, Any]:
        """Hours, files, rates, levels: what the run stores and `summary` prints."""
        total = max(1, self.samples)
        weights = np.array([recording.samples / total for recording in self.recordings])

        def mean(values: Sequence[float]) -> float:
            return float(np.dot(weights, values))

        return {
            "files": len(self.recordings),
            "hours": self.samples / self.sample_rate / 3600.0,
            "samples": self.samples,
            "sample_rate": self.sample_rate,
            "file_rates": dict(Counter(str(recording.file_rate) for recording in self.recordings)),
            "channels": dict(Counter(str(recording.channels) for recording in self.recordings)),
            "peak": max(recording.peak for recording in self.recordings),
            "rms": mean([recording.rms**2 for recording in self.recordings]) ** 0.5,
            "dc": mean([recording.dc for recording in self.recordings]),
            "silent_share": mean([recording.silent_share for recording in self.recordings]),
            "clipped_share": mean([recording.clipped_share for recording in self.recordings]),
            "normalize": self.normalize,
            "gain": self.gain,
            "left_out": [list(pair) for pair in self.left_out],
            "remarks": [[recording.name, remark] for recording in self.recordings for remark in recording.remarks],
        }

    def warnings(self) -> list[str]:
        """What in the sound would spoil training, one sentence each."""
        found = self.statistics()
        warnings = []
        if self.normalize == "none" and found["peak"] < 0.1:
            warnings.append(
                f"The loudest sample is {found['peak']:.3f} of full scale, so most levels are never used: "
                'set "normalize": "corpus" in the config (or --set normalize=corpus).'
            )
        # Offsets of either sign are as bad, and must not cancel.
        if sum(abs(recording.dc) * recording.samples for recording in self.recordings) > 0.01 * self.samples:
            worst = max(self.recordings, key=lambda recording: abs(recording.dc))
            warnings.append(
                f"The recordings have a DC offset, most of all {worst.name} ({worst.dc:+.3f}): "
                "remove it, with chunk_audio.py --highpass 20."
            )
        low = [recording for recording in self.recordings if recording.file_rate < self.sample_rate]
        if low:
            warnings.append(
                f"{len(low)} of {len(self.recordings)} recordings (such as {low[0].name}, {low[0].file_rate} Hz) have "
                f"no treble at {self.sample_rate} Hz: train at {min(recording.file_rate for recording in low)} Hz, or "
                "without them."
            )
        if found["silent_share"] > 0.3:
            warnings.append(
                f"{found['silent_share']:.0%} of the corpus is silence, and silence is what a network learns first: "
                "cut it out (chunk_audio.py leaves silent chunks out)."
            )
        beyond = [recording for recording in self.recordings if recording.peak > 1]
        clipped = self.clipped
        if clipped > 0.001 and self.normalize == "none" and beyond:
            worst = max(beyond, key=lambda recording: recording.peak)
            warnings.append(
                f"{clipped:.2%} of the samples are clipped: {len(beyond)} of {len(self.recordings)} recordings hold "
                f"more than full scale, most of all {worst.name} (its peak is {worst.peak:.2f}). Bring them back to it "
                "with --set normalize=corpus."
            )
        elif clipped > 0.001:
            warnings.append(f"{clipped:.2%} of the samples are clipped: use less hot recordings.")
        if self.samples < 60 * self.sample_rate:
            warnings.append(
                f"Only {self.samples / self.sample_rate:.1f} s of sound: expect the network to learn it by heart."
            )
        return warnings


def normalised(sound: np.ndarray, normalize: Normalize, gain: float) -> np.ndarray:
    """One sound float32 `[samples]` at the level of a corpus with this `normalize` and gain (see `load_corpus`)."""
    if normalize == "file" and len(sound):
        low, high = float(sound.min()), float(sound.max())
        return _spread(sound, low, high)
    return sound * np.float32(gain)


def _spread(block: np.ndarray, low: float, high: float) -> np.ndarray:
    """[low, high] to [-1, 1]; a constant signal becomes constant."""
    return (block - np.float32(low)) * np.float32(2.0 / max(high - low, 1e-9)) - np.float32(1.0)


def summary(corpus: Corpus) -> str:
    """The statistics in a few readable lines."""
    found = corpus.statistics()
    rates = ", ".join(
        f"{rate} Hz x {count}" for rate, count in sorted(found["file_rates"].items(), key=lambda pair: int(pair[0]))
    )
    seconds = corpus.samples / corpus.sample_rate
    if seconds >= 3600:
        length = f"{seconds / 3600:.2f} h"
    else:
        length = f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"
    lines = [
        f"Corpus: {found['files']} recordings, {length} at {corpus.sample_rate} Hz (files: {rates})",
        f"  peak {found['peak']:.3f}, RMS {20 * np.log10(max(found['rms'], 1e-9)):.1f} dBFS, DC {found['dc']:+.4f}, "
        f"silence {found['silent_share']:.1%}, clipped {corpus.clipped:.2%}",
    ]
    if corpus.taken_over:
        lines.append(f"  {corpus.taken_over} of them had been encoded before a run was interrupted, and are taken over")
    lines += [f"  {name}: {remark}" for name, remark in found["remarks"]]
    lines += [f"  left out: {name}: {reason}" for name, reason in corpus.left_out]
    return "\n".join(lines)


def load_corpus(
    folder: str | Path | Url,
    encoder: Encoder,
    *,
    sample_rate: int | None = None,
    normalize: Normalize = "none",
    cache_dir: str | Path | Url,
    progress: Progress | None = None,
    jobs: int = 1,
    without: Sequence[Path] = (),
) -> Corpus:
    """Decode, resample, mix down and encode every recording under `folder`, or take it from the cache.

    folder, cache_dir: a folder or a URL; with a sample_rate, a recording at a URL is fetched once (once more for
    "corpus"), else once more to see its own. sample_rate: None takes the recordings' own, if they agree. normalize:
    "corpus" scales everything by one gain so that the loudest peak is 1; "file" maps every file's [min, max] to [-1, 1]
    as the original SampleRNN did; both decode twice. progress(done, total) counts files, in each pass. jobs:
    processes of this machine; a small corpus is encoded in this one. without:
    folders that are passed over, as those that Tierwave made are (`tierwave.files.folders`). Raises RunError if no
    recording is usable, the rates differ or the cache is damaged, UsageError if there is no such folder, or arrays
    in it and no sample_rate.
    """
    root = place_of(folder)
    base = root if root.is_dir() else root.parent
    files, unusable, passed_over = _found(root, base, without)
    if not files and (unusable or passed_over):
        raise _nothing_usable(root, [*unusable, *passed_over])
    if not files:
        raise RunError(
            f"no recording was found under {root}: put wav, flac, ogg, mp3, aiff or m4a files there, or name another "
            "folder with --data_dir"
        )
    stamps = _stamps(files, base)
    if sum(size for _, size, _ in stamps) < SMALL_BYTES:
        jobs = 1
    builder = _Builder(root, base, files, unusable, progress or (lambda done, total: None), jobs)
    cache = place_of(cache_dir)
    make_folder(cache)
    where = base.text if isinstance(base, Url) else str(base.resolve())
    headers: Headers = [None] * len(files)
    if sample_rate is None:
        for file in files:
            if isinstance(file, Row):
                raise UsageError(
                    f"{file.path} does not tell its sample rate: say it with --sample_rate (16000 for the original "
                    "SampleRNN's)"
                )
        # What is at a URL is not fetched again and again to see its rate.
        known = cache / f"{_key(where, stamps)}.rate.json" if isinstance(base, Url) else None
        sample_rate = None if known is None else _known_rate(known)
        if sample_rate is None:
            headers = builder.headers()
            sample_rate = builder.common_rate(headers)
            if known is not None:
                put_bytes(known, json.dumps(sealed({"sample_rate": sample_rate})).encode())
    place = cache / _key(where, stamps, sample_rate, repr(encoder), normalize, *unusable)
    taken_over = 0
    if not (place / DOCUMENT).exists():
        taken_over = builder.build(place, sample_rate, encoder, normalize, headers)
    corpus = _open(place, root)
    # What is passed over is none of the cache: it comes and goes with the rights of folders, and with output.
    return replace(corpus, taken_over=taken_over, left_out=tuple(sorted({*corpus.left_out, *passed_over})))


def _found(
    root: Place, base: Place, without: Sequence[Path]
) -> tuple[tuple[Source, ...], tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """All recordings under `root`; and (name, reason) of arrays that are none, and of what was not looked at, which
    are told of folders only."""
    if isinstance(root, Url):
        return tuple(find_audio_at(root)), (), ()
    rows, no_rows = find_rows(root, without=without)
    alone = root.is_file() and (rows or no_rows)  # the array itself was named
    files, passed_over = ([], []) if alone else search_audio([root], without=without)
    arrays = [(path, why) for path, why in no_rows if path.suffix.lower() == SUFFIX and path.is_file()]
    passed_over += [each for each in no_rows if each not in arrays]

    def named(left_out: LeftOut) -> tuple[tuple[str, str], ...]:
        return tuple(dict.fromkeys((_name(path, base), why) for path, why in left_out))

    sources: dict[str, Source] = {}
    found: list[Source] = [*files, *rows]
    for file in found:
        if sources.setdefault(_name(file, base), file) is not file:
            passed_over.append(
                (file.path if isinstance(file, Row) else Path(str(file)), "another recording has the same name")
            )
    return tuple(sources.values()), named(arrays), named(passed_over)


def _name(file: Source, base: Place) -> str:
    if isinstance(file, Row):
        return f"{_name(file.path, base)}/{file.number}"
    if isinstance(file, Path):
        return name_within(file, base)  # type: ignore[arg-type]  # both are paths, or both URLs
    return file.relative_to(base).as_posix()  # type: ignore[arg-type]


def _stamps(files: Sequence[Source], base: Place) -> list[tuple[str, int, int]]:
    """Name, size in bytes and time of the last change of every file."""

    def of(file: Source) -> tuple[str, int, int]:
        _, size, changed = stamp(file.path if isinstance(file, Row) else file)
        return _name(file, base), int(size), int(changed)

    if isinstance(base, Path):
        return [of(file) for file in files]
    with ThreadPoolExecutor(16) as pool:  # each of them waits for an answer
        return list(pool.map(of, files))


def _shard(number: int) -> str:
    """The file of codes of recording `number` among all files, those left out too."""
    return f"{number:06d}.codes"


def _key(*what: Any) -> str:
    return hashlib.blake2b(json.dumps([CACHE_FORMAT, *what]).encode(), digest_size=12).hexdigest()


def _known_rate(place: Place) -> int | None:
    try:
        return int(unsealed(read_bytes(place))["sample_rate"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _nothing_usable(root: Place, left_out: Sequence[tuple[str, str]]) -> RunError:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left_out)[:5])
    more = f"; and {len(left_out) - 5} more" if len(left_out) > 5 else ""
    return RunError(f"no recording under {root} can be used ({reasons}{more}): add sound that can be decoded")


# What is done with one recording, in whatever process ----------------------------------------------------------------


class _Levels:
    """Running statistics of a signal that comes in blocks."""

    def __init__(self) -> None:
        self.samples, self.total, self.squares = 0, 0.0, 0.0
        self.low, self.high, self.silent, self.clipped = np.inf, -np.inf, 0, 0
        self.remarks: tuple[str, ...] = ()

    def add(self, block: np.ndarray) -> None:
        if not len(block):
            return
        magnitude = np.abs(block)
        self.samples += len(block)
        self.total += float(np.sum(block, dtype=np.float64))
        self.squares += float(np.sum(np.square(block, dtype=np.float64)))
        self.low, self.high = min(self.low, float(block.min())), max(self.high, float(block.max()))
        self.silent += int(np.count_nonzero(magnitude < SILENCE_AMPLITUDE))
        self.clipped += int(np.count_nonzero(magnitude >= CLIPPED_AMPLITUDE))

    @property
    def peak(self) -> float:
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True)
class _Header:
    sample_rate: int
    channels: int


Source: TypeAlias = Place | Row
Headers: TypeAlias = Sequence[_Header | str | None]  # str: why a file cannot be used; None: nobody has looked


@dataclass(frozen=True)
class _Task:
    """One recording to encode: as number `number` of the cache `place`."""

    file: Source
    number: int
    place: Place
    rate: int
    encoder: Encoder
    normalize: Normalize
    gain: float = 1.0
    header: _Header | None = None

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.place / FOLDER)


def _header(file: Source) -> _Header | str:
    """What is in a recording, or why it cannot be used."""
    with _at_hand(file) as path:
        return _probed(path)


@contextlib.contextmanager
def _at_hand(file: Source) -> Iterator[Path | Row]:
    """A recording as one of this machine (see `local_copy`)."""
    if isinstance(file, Row):
        yield file
        return
    with local_copy(file) as path:
        yield path


def _probed(path: Path | Row, rate: int = 0) -> _Header | str:
    """What is in a recording; rate: of one that tells none."""
    if isinstance(path, Row):
        return _Header(rate, 1)
    try:
        info = probe(path)
    except AudioError as error:
        return error.reason
    return _Header(info.sample_rate, info.channels) if info.frames > 1 else f"it holds {info.frames} samples"


def _decode(path: Path | Row, rate: int, keep: Callable[[np.ndarray], None] | None = None) -> _Levels | str:
    """A file's levels, its blocks given to `keep` on the way, or why it cannot be used."""
    levels = _Levels()

    def add(blocks: Iterable[np.ndarray]) -> None:
        for block in blocks:
            levels.add(block)
            if keep is not None:
                keep(block)

    try:
        if isinstance(path, Row):
            add([read_row(path)])
        else:
            with open_recording(path) as reading:
                add(reading.blocks(rate))
                levels.remarks = tuple(reading.remarks)
    except AudioError as error:
        return error.reason
    if levels.samples < 2:
        return f"it holds {levels.samples} samples"
    # A constant is silent too, however far from zero.
    return levels if levels.high - levels.low >= 2 * SILENCE_AMPLITUDE else "it is silent"


def _measure(task: _Task) -> float | str:
    """The peak of a recording, or why it cannot be used."""
    key = f"{task.number:06d}.peak"
    kept = task.ledger.of(key)
    if kept is not None and isinstance(kept.get("peak"), float):
        return float(kept["peak"])
    with _at_hand(task.file) as path:
        header = task.header or _probed(path, task.rate)
        levels = header if isinstance(header, str) else _decode(path, task.rate)
    if isinstance(levels, str):
        return levels
    task.ledger.add(key, {"peak": levels.peak})
    return levels.peak


def _encode(task: _Task) -> tuple[dict[str, Any] | str, bool]:
    """Make the file of codes of a recording. What a `Recording` says of it but name and offset, or why it cannot be
    used; and whether it was there."""
    key = f"{task.number:06d}"
    kept = task.ledger.of(key)
    if kept is not None and _is_whole(task, kept):
        return kept["recording"], True
    with _at_hand(task.file) as path:
        header = task.header or _probed(path, task.rate)
        if isinstance(header, str):
            return header, False
        measured = _decode(path, task.rate) if task.normalize == "file" else None
        if isinstance(measured, str):
            return measured, False
        ends = None if measured is None else (measured.low, measured.high)
        digest = hashlib.blake2b(digest_size=16)
        with _beside(task.place) as temporary:
            with open(temporary, "xb") as file:

                def keep(block: np.ndarray) -> None:
                    if ends is not None:
                        block = _spread(block, *ends)
                    codes = task.encoder.encode(block * np.float32(task.gain)).tobytes()
                    digest.update(codes)
                    file.write(codes)

                levels = _decode(path, task.rate, keep)
            if isinstance(levels, str):
                return levels, False
            size = temporary.stat().st_size
            put_file(temporary, task.place / _shard(task.number))
    recording = {
        "samples": levels.samples,
        "digest": digest.hexdigest(),
        "file_rate": header.sample_rate,
        "channels": header.channels,
        "peak": levels.peak,
        "dc": levels.total / levels.samples,
        "rms": (levels.squares / levels.samples) ** 0.5,
        "silent_share": levels.silent / levels.samples,
        "clipped_share": levels.clipped / levels.samples,
        "remarks": levels.remarks,
    }
    task.ledger.add(key, {"recording": recording, "size": size})
    return recording, False


def _is_whole(task: _Task, kept: dict[str, Any]) -> bool:
    """Whether the codes that an entry tells of are there."""
    place = task.place / _shard(task.number)
    try:
        if isinstance(place, Path):
            return digest_of(place) == kept["recording"]["digest"]
        # There a file has its name only once it is whole, and to check it would be to fetch it.
        return size_of(place) == kept["size"]
    except (FileNotFoundError, KeyError, TypeError):
        return False


@contextlib.contextmanager
def _beside(place: Place) -> Iterator[Path]:
    """The name of a file of this machine, on the disk of `place` if that is on one; removed afterwards."""
    if isinstance(place, Path):
        make_folder(place / FOLDER)
        temporary = place / FOLDER / f"{uuid.uuid4().hex}.part"
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory(prefix="tierwave-") as folder:
        yield Path(folder) / "codes"


# All recordings ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Builder:
    """The recordings of a corpus, and where the work is done."""

    root: Place
    base: Place
    files: tuple[Source, ...]
    unusable: tuple[tuple[str, str], ...]
    progress: Progress
    jobs: int

    def headers(self) -> Headers:
        """Of every recording; what only ffmpeg reads is decoded for it, and what is at a URL fetched."""
        remote = isinstance(self.base, Url)
        return list(self._spread(_header, self.files, self.progress if remote else lambda done, total: None))

    def common_rate(self, headers: Headers) -> int:
        """The sample rate of all recordings that can be used."""
        rates = Counter(header.sample_rate for header in headers if isinstance(header, _Header))
        if not rates:
            raise _nothing_usable(self.root, self._left_out(headers))
        if len(rates) > 1:
            listed = ", ".join(f"{rate} Hz: {count} files" for rate, count in sorted(rates.items()))
            raise RunError(
                f"the recordings under {self.root} have several sample rates ({listed}): say which one to train at, "
                f"for example --sample_rate {min(rates)}"
            )
        return next(iter(rates))

    def build(self, place: Place, rate: int, encoder: Encoder, normalize: Normalize, headers: Headers) -> int:
        """Make what is missing of the cache `place`; how many recordings were there. Does not matter to others who do
        the same."""
        make_folder(place)
        try:
            return self._build(place, rate, encoder, normalize, headers)
        except OSError:
            # Another process may have finished the same cache, and tidied up behind it.
            if (place / DOCUMENT).exists():
                return 0
            raise
        finally:
            if isinstance(place, Path):
                for folder in (place / FOLDER, place):  # where nothing has been made
                    with contextlib.suppress(OSError):
                        folder.rmdir()

    def _build(self, place: Place, rate: int, encoder: Encoder, normalize: Normalize, headers: Headers) -> int:
        outcomes: list[dict[str, Any] | str] = [header if isinstance(header, str) else "" for header in headers]
        tasks = [
            _Task(file, number, place, rate, encoder, normalize, header=header)
            for number, (file, header) in enumerate(zip(self.files, headers, strict=True))
            if not isinstance(header, str)
        ]
        gain = 1.0
        if normalize == "corpus":
            peaks = list(self._spread(_measure, tasks, self.progress))
            for task, peak in zip(tasks, peaks, strict=True):
                if isinstance(peak, str):
                    outcomes[task.number] = peak
            tasks = [task for task in tasks if not outcomes[task.number]]
            gain = 1.0 / max((peak for peak in peaks if not isinstance(peak, str)), default=1.0)
            tasks = [replace(task, gain=gain) for task in tasks]
        taken_over = 0
        for task, (outcome, was_there) in zip(tasks, self._spread(_encode, tasks, self.progress), strict=True):
            outcomes[task.number] = outcome
            taken_over += was_there
        recordings, shards, offset = [], [], 0
        for number, outcome in enumerate(outcomes):
            if not isinstance(outcome, str):
                recordings.append(Recording(name=_name(self.files[number], self.base), offset=offset, **outcome))
                shards.append(_shard(number))
                offset += outcome["samples"]
        left_out = self._left_out(outcomes)
        if not recordings:
            raise _nothing_usable(self.root, left_out)
        document = {
            "sample_rate": rate,
            "normalize": normalize,
            "gain": gain,
            "dtype": str(encoder.encode(np.zeros(1, np.float32)).dtype),
            "left_out": left_out,
            "recordings": [asdict(recording) for recording in recordings],
            "shards": shards,
        }
        content = json.dumps(sealed(document), indent=1).encode()
        if isinstance(place, Path):
            for shard in shards:  # by now most are: waiting for each as it was written would take far longer
                flush(place / shard)
            write_bytes(place / DOCUMENT, content)
        else:
            put_bytes(place / DOCUMENT, content)
        remove(place / FOLDER)
        return taken_over

    def _spread(self, work: Callable[[Any], Any], items: Sequence[Any], progress: Progress) -> Iterator[Any]:
        for done, result in enumerate(parallel_map(work, items, jobs=self.jobs), 1):
            progress(done, len(items))
            yield result

    def _left_out(self, outcomes: Sequence[Any]) -> list[tuple[str, str]]:
        """(name, reason) of what cannot be used, by name."""
        named = zip(self.files, outcomes, strict=True)
        faults = [(_name(file, self.base), outcome) for file, outcome in named if isinstance(outcome, str)]
        return sorted([*self.unusable, *faults])


def _open(place: Place, root: Place) -> Corpus:
    try:
        document = unsealed(read_bytes(place / DOCUMENT))
        recordings = tuple(
            Recording(**{**entry, "remarks": tuple(entry["remarks"])}) for entry in document["recordings"]
        )
        dtype = np.dtype(document["dtype"])
        codes = Shards(place, document["shards"], [recording.samples for recording in recordings], dtype)
        if isinstance(place, Path):
            # Their lengths do not tell what a loss of power or a bad disk has left of them. Only these: another process
            # that makes the same cache may still be tidying up its temporary files.
            def digest(name: str) -> str | None:
                return digest_of(place / name)

            with ThreadPoolExecutor(os.cpu_count()) as pool:  # 1 GB/s for each of them
                for name, recording, found in zip(codes.names, recordings, pool.map(digest, codes.names), strict=True):
                    if found != recording.digest:
                        raise ValueError(f"{name} is missing or holds other codes than {DOCUMENT} says")
        left_out = tuple((name, reason) for name, reason in document["left_out"])
        return Corpus(recordings, left_out, document["sample_rate"], document["gain"], codes, document["normalize"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"the cache {place} of {root} is damaged ({error}): delete it, and it is made anew") from None
