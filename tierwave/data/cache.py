"""The cache of a corpus: recordings are decoded once, into a file of codes each, which later runs share.

A cache is a folder named by what it was made of and how. `corpus.json` is written last and says that it is whole.
Before that, `<number>.json` beside a file of codes says what is in it, so that an interrupted encoding goes on; two
processes that make the same cache write the same files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tierwave.audio.arrays import RowReading
from tierwave.audio.recordings import Reading
from tierwave.data.corpus import CLIPPED_AMPLITUDE, SILENCE_AMPLITUDE, Corpus, Normalize, Recording, full_range
from tierwave.data.sources import AudioSource, find_audio_sources
from tierwave.errors import AudioError, RunError, UsageError
from tierwave.files.documents import sealed, unsealed
from tierwave.files.urls import Url, absolute, local_folder, place_of
from tierwave.files.writing import flush, unfinished_files, write_bytes
from tierwave.system.parallel import parallel_map

Progress = Callable[[int, int], None]

CACHE_FORMAT = 4  # raised when the same files would give another cache
SMALL_BYTES = 1 << 25  # recordings of this size in all are encoded before other processes have started
DOCUMENT = "corpus.json"


class Encoder(Protocol):
    """Maps float32 `[samples]` to codes of a fixed dtype; its repr names it in the cache."""

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """Codes of `audio`."""


def load_corpus(
    folder: str | Path | Url,
    encoder: Encoder,
    *,
    sample_rate: int | None = None,
    normalize: Normalize = "none",
    cache_dir: str | Path,
    progress: Progress | None = None,
    jobs: int = 1,
    without: Sequence[Path] = (),
) -> Corpus:
    """Decode, resample, mix down and encode every recording under `folder`, or take it from the cache.

    folder: a folder, a recording or a URL; without a sample_rate, recordings at a URL are fetched once more.
    sample_rate: None takes the recordings' own, if they agree. normalize: "corpus" scales everything by one gain so
    that the loudest peak is 1; "file" maps every file's [min, max] to [-1, 1] as the original SampleRNN did; both
    decode twice.
    progress(done, total) counts files, in each pass. jobs: processes; a small corpus is encoded in this one. without:
    folders that are passed over. Raises RunError if no recording is usable, the rates differ or the cache is damaged,
    UsageError if there is no such folder, or arrays in it and no sample_rate.
    """
    root, cache = place_of(folder), local_folder(cache_dir)
    sources, unusable, passed_over = find_audio_sources(root, without)
    if not sources and (unusable or passed_over):
        raise _nothing_usable(root, [*unusable, *passed_over])
    if not sources:
        raise RunError(
            f"no recording was found under {root}: put wav, flac, ogg, mp3, aiff or m4a files there, or name another "
            "folder with --data_dir"
        )
    if sum(source.size for source in sources) < SMALL_BYTES:
        jobs = 1
    cache.mkdir(parents=True, exist_ok=True)

    def each(work: Callable[[Any], Any], items: Sequence[Any], told: Progress | None = progress) -> Iterator[Any]:
        for done, result in enumerate(parallel_map(work, items, jobs=jobs), 1):
            if told is not None:
                told(done, len(items))
            yield result

    outcomes: list[dict[str, Any] | str] = [""] * len(sources)  # what a `Recording` says, or why one cannot be used
    where = absolute(root if isinstance(root, Url) or root.is_dir() else root.parent)
    stamps = [(source.name, source.size, source.changed) for source in sources]
    if sample_rate is None:
        for source in sources:
            if source.row is not None:
                raise UsageError(
                    f"{source.place} does not tell its sample rate: say it with --sample_rate (16000 for the original "
                    "SampleRNN's)"
                )
        # What is at a URL is not fetched again and again to see its rate.
        known = cache / f"{_key(where, stamps)}.rate.json" if isinstance(root, Url) else None
        sample_rate = None if known is None else _known_rate(known)
        if sample_rate is None:
            rates = list(each(_rate_of, sources, None if known is None else progress))
            outcomes = [rate if isinstance(rate, str) else "" for rate in rates]
            sample_rate = _common_rate(rates, root, _left_out(sources, outcomes, unusable))
            if known is not None:
                known.write_text(json.dumps(sealed({"sample_rate": sample_rate})), encoding="utf-8")
    place = cache / _key(where, stamps, sample_rate, repr(encoder), normalize, *unusable)
    taken_over = 0
    if not (place / DOCUMENT).exists():
        tasks = [_Task(source, number, place, sample_rate, encoder, normalize) for number, source in enumerate(sources)]
        taken_over = _make(place, tasks, outcomes, root, unusable, each)
    corpus = _open(place, root)
    # What is passed over is no part of the cache: it changes with the rights of folders, and with output.
    return replace(corpus, taken_over=taken_over, left_out=tuple(sorted({*corpus.left_out, *passed_over})))


def _key(*what: Any) -> str:
    return hashlib.blake2b(json.dumps([CACHE_FORMAT, *what]).encode(), digest_size=12).hexdigest()


def _known_rate(path: Path) -> int | None:
    try:
        return int(unsealed(path.read_bytes())["sample_rate"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _common_rate(rates: Sequence[int | str], root: Any, left_out: Sequence[tuple[str, str]]) -> int:
    """The sample rate of all recordings that can be used."""
    counts = Counter(rate for rate in rates if isinstance(rate, int))
    if not counts:
        raise _nothing_usable(root, left_out)
    if len(counts) > 1:
        listed = ", ".join(f"{rate} Hz: {count} files" for rate, count in sorted(counts.items()))
        raise RunError(
            f"the recordings under {root} have several sample rates ({listed}): say which one to train at, "
            f"for example --sample_rate {min(counts)}"
        )
    return next(iter(counts))


def _left_out(
    sources: Iterable[AudioSource], outcomes: Iterable[Any], unusable: Iterable[tuple[str, str]]
) -> list[tuple[str, str]]:
    """(name, reason) of what cannot be used, by name; an outcome that is a text is a reason."""
    named = ((source.name, outcome) for source, outcome in zip(sources, outcomes, strict=True))
    return sorted([*unusable, *((name, outcome) for name, outcome in named if outcome and isinstance(outcome, str))])


def _nothing_usable(root: Any, left_out: Sequence[tuple[str, str]]) -> RunError:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left_out)[:5])
    more = f"; and {len(left_out) - 5} more" if len(left_out) > 5 else ""
    return RunError(f"no recording under {root} can be used ({reasons}{more}): add sound that can be decoded")


# One recording, in whatever process ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    """One recording to encode, as number `number` of the cache `place`."""

    source: AudioSource
    number: int
    place: Path
    rate: int
    encoder: Encoder
    normalize: Normalize
    gain: float = 1.0

    @property
    def codes(self) -> Path:
        """The file of its codes; recordings that are left out count too."""
        return self.place / f"{self.number:06d}.codes"

    @property
    def note(self) -> Path:
        """What is in that file, until the corpus is whole."""
        return self.codes.with_suffix(".json")


class _Levels:
    """Running statistics of a signal that comes in blocks."""

    def __init__(self) -> None:
        self.samples, self.total, self.squares = 0, 0.0, 0.0
        self.low, self.high, self.silent, self.clipped = np.inf, -np.inf, 0, 0

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


def _rate_of(source: AudioSource) -> int | str:
    """The sample rate of a recording, or why it cannot be used."""
    try:
        with source.opened(0) as reading:
            _refuse_empty(reading)
            return reading.info.sample_rate
    except AudioError as error:
        return error.reason


def _measure(task: _Task) -> float | str:
    """The peak of a recording, or why it cannot be used."""
    try:
        with task.source.opened(task.rate) as reading:
            return _decode(reading, task.rate).peak
    except AudioError as error:
        return error.reason


def _encode(task: _Task) -> tuple[dict[str, Any] | str, bool]:
    """Make the file of codes of a recording. What a `Recording` says of it but its name, or why it cannot be used; and
    whether an interrupted call had made it."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        note = unsealed(task.note.read_bytes())
        if note["gain"] == task.gain and note["recording"]["digest"] == _digest_of(task.codes):
            return note["recording"], True
    temporary = task.place / f".{uuid.uuid4().hex}.part"
    try:
        with task.source.opened(task.rate) as reading, open(temporary, "xb") as file:
            recording = _encode_to(file.write, reading, task)
        os.replace(temporary, task.codes)
    except AudioError as error:
        return error.reason, False
    finally:
        temporary.unlink(missing_ok=True)
    task.note.write_text(json.dumps(sealed({"gain": task.gain, "recording": recording})), encoding="utf-8")
    return recording, False


def _encode_to(write: Callable[[bytes], Any], reading: Reading | RowReading, task: _Task) -> dict[str, Any]:
    measured = _decode(reading, task.rate) if task.normalize == "file" else None
    digest = hashlib.blake2b(digest_size=16)

    def keep(block: np.ndarray) -> None:
        if measured is not None:
            block = full_range(block, measured.low, measured.high)
        codes = task.encoder.encode(block * np.float32(task.gain)).tobytes()
        digest.update(codes)
        write(codes)

    levels = _decode(reading, task.rate, keep)
    return {
        "samples": levels.samples,
        "digest": digest.hexdigest(),
        "file_rate": reading.info.sample_rate,
        "channels": reading.info.channels,
        "peak": levels.peak,
        "dc": levels.total / levels.samples,
        "rms": (levels.squares / levels.samples) ** 0.5,
        "silent_share": levels.silent / levels.samples,
        "clipped_share": levels.clipped / levels.samples,
        "remarks": list(reading.remarks),
    }


def _decode(
    reading: Reading | RowReading, rate: int, keep: Callable[[np.ndarray], None] = lambda block: None
) -> _Levels:
    """A recording's levels, its blocks given to `keep` on the way. Raises AudioError where it cannot be used."""
    _refuse_empty(reading)
    levels = _Levels()
    for block in reading.blocks(rate):
        levels.add(block)
        keep(block)
    if levels.samples < 2:
        raise AudioError(reading.info.path, f"it holds {levels.samples} samples")
    if levels.high - levels.low < 2 * SILENCE_AMPLITUDE:  # a constant is silent too, however far from zero
        raise AudioError(reading.info.path, "it is silent")
    return levels


def _refuse_empty(reading: Reading | RowReading) -> None:
    if reading.certain and reading.info.frames < 2:
        raise AudioError(reading.info.path, f"it holds {reading.info.frames} samples")


def _digest_of(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.blake2b(digest_size=16)
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# All recordings ------------------------------------------------------------------------------------------------------


def _make(
    place: Path,
    tasks: Sequence[_Task],
    outcomes: list[dict[str, Any] | str],
    root: Any,
    unusable: Iterable[tuple[str, str]],
    each: Callable[[Callable[[_Task], Any], Sequence[_Task]], Iterator[Any]],
) -> int:
    """Make what is missing of the cache `place`; how many recordings were there. Others may be doing the same."""
    place.mkdir(parents=True, exist_ok=True)
    abandoned = unfinished_files([place])
    try:
        document, taken_over = _encode_all(tasks, outcomes, root, unusable, each)
        for shard in document["shards"]:  # by now most are: waiting for each as it was written would take far longer
            flush(place / shard)
        write_bytes(place / DOCUMENT, json.dumps(sealed(document), indent=1).encode())
    except OSError:
        # Another process may have finished the same cache, and removed what it took for abandoned.
        if not (place / DOCUMENT).exists():
            raise
        taken_over = 0
    finally:
        if (place / DOCUMENT).exists():
            for path in [*abandoned, *(task.note for task in tasks)]:
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # where nothing has been made
            place.rmdir()
    return taken_over


def _encode_all(
    tasks: Sequence[_Task],
    outcomes: list[dict[str, Any] | str],
    root: Any,
    unusable: Iterable[tuple[str, str]],
    each: Callable[[Callable[[_Task], Any], Sequence[_Task]], Iterator[Any]],
) -> tuple[dict[str, Any], int]:
    """What `corpus.json` says, and how many recordings were there."""
    sources, first, gain = [task.source for task in tasks], tasks[0], 1.0
    tasks = [task for task in tasks if not outcomes[task.number]]
    if first.normalize == "corpus":
        peaks = list(each(_measure, tasks))
        for task, peak in zip(tasks, peaks, strict=True):
            outcomes[task.number] = peak if isinstance(peak, str) else ""
        gain = 1.0 / max((peak for peak in peaks if not isinstance(peak, str)), default=1.0)
        tasks = [replace(task, gain=gain) for task in tasks if not outcomes[task.number]]
    taken_over, recordings, shards = 0, [], []
    for task, (outcome, was_there) in zip(tasks, each(_encode, tasks), strict=True):
        outcomes[task.number] = outcome
        taken_over += was_there
        if not isinstance(outcome, str):
            recordings.append(asdict(Recording(name=task.source.name, **outcome)))
            shards.append(task.codes.name)
    left_out = _left_out(sources, outcomes, unusable)
    if not recordings:
        raise _nothing_usable(root, left_out)
    document = {
        "sample_rate": first.rate,
        "normalize": first.normalize,
        "gain": gain,
        "dtype": str(first.encoder.encode(np.zeros(1, np.float32)).dtype),
        "left_out": left_out,
        "recordings": recordings,
        "shards": shards,
    }
    return document, taken_over


def _open(place: Path, root: Any) -> Corpus:
    try:
        document = unsealed((place / DOCUMENT).read_bytes())
        recordings = tuple(_recording(entry) for entry in document["recordings"])
        files = tuple(place / name for name in document["shards"])
        # Their lengths do not tell what a loss of power or a bad disk has left of them.
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # 1 GB/s for each of them
            for path, recording, digest in zip(files, recordings, pool.map(_digest_of, files), strict=True):
                if digest != recording.digest:
                    raise ValueError(f"{path.name} is missing or holds other codes than {DOCUMENT} says")
        left_out = tuple((name, reason) for name, reason in document["left_out"])
        return Corpus(
            recordings,
            left_out,
            document["sample_rate"],
            document["gain"],
            files,
            np.dtype(document["dtype"]),
            document["normalize"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"the cache {place} of {root} is damaged ({error}): delete it, and it is made anew") from None


def _recording(entry: dict[str, Any]) -> Recording:
    known = {key: value for key, value in entry.items() if key != "offset"}  # written by earlier versions
    return Recording(**{**known, "remarks": tuple(entry["remarks"])})
