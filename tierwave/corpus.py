"""A folder of recordings as one memory-mapped array of codes, with statistics and a report of what was left out.

Audio is decoded once, block by block, into a cache that later runs share; a 10-hour corpus is 10 hours of one-byte
codes on disk and costs no memory. Knows how sound is kept, not how it is split, windowed or learned.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from tierwave.audio import AudioError, AudioInfo, find_audio, probe, read_blocks
from tierwave.errors import RunError

Normalize = Literal["none", "corpus", "file"]
Progress = Callable[[int, int], None]
_T = TypeVar("_T")

SILENCE_AMPLITUDE = 10.0 ** (-60.0 / 20.0)  # quieter samples count as silence in the statistics
CLIPPED_AMPLITUDE = 0.999
CACHE_FORMAT = 1  # raised when the same files would give another cache


class Encoder(Protocol):
    """How audio is kept: maps float32 `[samples]` to codes of a fixed dtype; its repr names it in the cache."""

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """Codes of `audio`."""


@dataclass(frozen=True)
class Recording:
    """One usable file. name: path relative to the corpus folder, with slashes; offset: of its first code in the flat
    array; samples: at the corpus rate; digest: of its codes, which tells corpora apart."""

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


@dataclass(frozen=True)
class Corpus:
    """All usable recordings of a folder, encoded. codes: flat, memory-mapped; left_out: (name, reason) of the rest.

    What recordings and statistics say of levels holds before `normalize`; gain is what "corpus" multiplied with.
    """

    recordings: tuple[Recording, ...]
    left_out: tuple[tuple[str, str], ...]
    sample_rate: int
    gain: float
    codes: np.ndarray
    normalize: Normalize = "none"

    @property
    def samples(self) -> int:
        """Samples in all."""
        return sum(recording.samples for recording in self.recordings)

    @property
    def identity(self) -> dict[str, str]:
        """Digest of every recording by name: equal for equal sound, wherever the folder lies."""
        return {recording.name: recording.digest for recording in self.recordings}

    def of(self, index: int) -> np.ndarray:
        """Codes `[samples]` of one recording."""
        recording = self.recordings[index]
        return self.codes[recording.offset : recording.offset + recording.samples]

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
        if found["clipped_share"] > 0.001:
            warnings.append(f"{found['clipped_share']:.2%} of the samples are clipped: use less hot recordings.")
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
        f"silence {found['silent_share']:.1%}, clipped {found['clipped_share']:.2%}",
    ]
    lines += [f"  left out: {name}: {reason}" for name, reason in corpus.left_out]
    return "\n".join(lines)


def load_corpus(
    folder: str | Path,
    encoder: Encoder,
    *,
    sample_rate: int | None = None,
    normalize: Normalize = "none",
    cache_dir: str | Path,
    progress: Progress | None = None,
) -> Corpus:
    """Decode, resample, mix down and encode every recording under `folder`, or take it from the cache.

    sample_rate: None takes the recordings' own, if they agree. normalize: "corpus" scales everything by one gain so
    that the loudest peak is 1; "file" maps every file's [min, max] to [-1, 1] as the original SampleRNN did; both
    decode twice. progress(done, total) counts files, in each pass. Raises RunError if no recording is usable, the
    rates differ or the cache is damaged, UsageError if there is no such folder.
    """
    root = Path(folder)
    files = find_audio([root])
    base = root if root.is_dir() else root.parent
    if not files:
        raise RunError(
            f"no recording was found under {root}: put wav, flac, ogg, mp3, aiff or m4a files there, or name another "
            "folder with --data_dir"
        )
    # To probe what only ffmpeg reads is to decode it, so nothing is probed that need not be.
    probed = None
    if sample_rate is None:
        probed = _probe_all(files, base)
        sample_rate = _common_rate(*probed, root)
    place = Path(cache_dir) / _cache_key(files, base, sample_rate, repr(encoder), normalize)
    if not place.exists():
        infos, left_out = probed or _probe_all(files, base)
        _build(place, infos, left_out, root, sample_rate, encoder, normalize, progress)
    return _open(place, root)


def _name(path: Path, base: Path) -> str:
    return path.relative_to(base).as_posix()


def _probe_all(files: Sequence[Path], base: Path) -> tuple[list[AudioInfo], list[tuple[str, str]]]:
    def attempt(path: Path) -> AudioInfo | tuple[str, str]:
        try:
            info = probe(path)
        except AudioError as error:
            return _name(path, base), error.reason
        return info if info.frames > 1 else (_name(path, base), f"it holds {info.frames} samples")

    with ThreadPoolExecutor() as pool:
        results = list(pool.map(attempt, files))
    infos = [result for result in results if isinstance(result, AudioInfo)]
    return infos, [result for result in results if not isinstance(result, AudioInfo)]


def _common_rate(infos: Sequence[AudioInfo], left_out: Sequence[tuple[str, str]], root: Path) -> int:
    rates = Counter(info.sample_rate for info in infos)
    if not rates:
        raise _nothing_usable(root, left_out)
    if len(rates) > 1:
        listed = ", ".join(f"{rate} Hz: {count} files" for rate, count in sorted(rates.items()))
        raise RunError(
            f"the recordings under {root} have several sample rates ({listed}): say which one to train at, "
            f"for example --sample_rate {min(rates)}"
        )
    return next(iter(rates))


def _nothing_usable(root: Path, left_out: Sequence[tuple[str, str]]) -> RunError:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left_out)[:5])
    more = f"; and {len(left_out) - 5} more" if len(left_out) > 5 else ""
    return RunError(f"no recording under {root} can be used ({reasons}{more}): add sound that can be decoded")


def _cache_key(files: Sequence[Path], base: Path, rate: int, encoding: str, normalize: str) -> str:
    described = [[_name(path, base), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    text = json.dumps([CACHE_FORMAT, str(base.resolve()), described, rate, encoding, normalize])
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


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


def _decode(info: AudioInfo, rate: int, keep: Callable[[np.ndarray], None] | None = None) -> _Levels | str:
    """A file's levels, its blocks given to `keep` on the way, or why it cannot be used."""
    levels = _Levels()
    try:
        for block in read_blocks(info.path, rate):
            levels.add(block)
            if keep is not None:
                keep(block)
    except AudioError as error:
        return error.reason
    if levels.samples < 2:
        return f"it holds {levels.samples} samples"
    # A constant is silent too, however far from zero.
    return levels if levels.high - levels.low >= 2 * SILENCE_AMPLITUDE else "it is silent"


def _build(
    place: Path,
    infos: Sequence[AudioInfo],
    left_out: Sequence[tuple[str, str]],
    root: Path,
    rate: int,
    encoder: Encoder,
    normalize: Normalize,
    progress: Progress | None,
) -> None:
    """Make the cache folder `place`, whole or not at all."""
    base = root if root.is_dir() else root.parent
    work = place.parent / f".{place.name}.{uuid.uuid4().hex}"
    work.mkdir(parents=True)

    def part(index: int) -> Path:
        return work / f"{index}.part"

    def measure(info: AudioInfo) -> _Levels | str:
        return _decode(info, rate)

    def encode(index: int, info: AudioInfo, measured: _Levels | str | None) -> tuple[_Levels, str] | str:
        if isinstance(measured, str):
            return measured
        digest = hashlib.blake2b(digest_size=16)
        with open(part(index), "wb") as file:

            def keep(block: np.ndarray) -> None:
                if normalize == "file" and measured is not None:
                    block = _spread(block, measured.low, measured.high)
                codes = encoder.encode(block * np.float32(gain)).tobytes()
                digest.update(codes)
                file.write(codes)

            levels = _decode(info, rate, keep)
        return levels if isinstance(levels, str) else (levels, digest.hexdigest())

    def counted(results: Iterator[_T]) -> Iterator[_T]:
        for done, result in enumerate(results, 1):
            if progress is not None:
                progress(done, len(infos))
            yield result

    try:
        with ThreadPoolExecutor() as pool:
            scales: list[_Levels | str | None] = [None] * len(infos)
            if normalize != "none":
                scales = list(counted(pool.map(measure, infos)))
            peaks = [levels.peak for levels in scales if isinstance(levels, _Levels)]
            gain = 1.0 / max(peaks) if normalize == "corpus" and peaks else 1.0
            encoded = list(counted(pool.map(encode, range(len(infos)), infos, scales)))
        recordings, unusable, offset = [], list(left_out), 0
        with open(work / "codes.bin", "wb") as flat:
            for index, (info, result) in enumerate(zip(infos, encoded, strict=True)):
                name = _name(info.path, base)
                if isinstance(result, str):
                    unusable.append((name, result))
                else:
                    levels, digest = result
                    with open(part(index), "rb") as file:
                        shutil.copyfileobj(file, flat, 1 << 22)
                    recordings.append(
                        Recording(
                            name=name,
                            offset=offset,
                            samples=levels.samples,
                            digest=digest,
                            file_rate=info.sample_rate,
                            channels=info.channels,
                            peak=levels.peak,
                            dc=levels.total / levels.samples,
                            rms=(levels.squares / levels.samples) ** 0.5,
                            silent_share=levels.silent / levels.samples,
                            clipped_share=levels.clipped / levels.samples,
                        )
                    )
                    offset += levels.samples
                part(index).unlink(missing_ok=True)
        if not recordings:
            raise _nothing_usable(root, sorted(unusable))
        document = {
            "sample_rate": rate,
            "normalize": normalize,
            "gain": gain,
            "dtype": str(encoder.encode(np.zeros(1, np.float32)).dtype),
            "left_out": sorted(unusable),
            "recordings": [asdict(recording) for recording in recordings],
        }
        (work / "corpus.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
        try:
            os.replace(work, place)
        except OSError:
            if not place.exists():  # else another process has built the same cache meanwhile
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _open(place: Path, root: Path) -> Corpus:
    try:
        document = json.loads((place / "corpus.json").read_text(encoding="utf-8"))
        codes = np.memmap(place / "codes.bin", dtype=np.dtype(document["dtype"]), mode="r")
        recordings = tuple(Recording(**entry) for entry in document["recordings"])
        if len(codes) != sum(recording.samples for recording in recordings):
            raise ValueError("codes.bin has another length than corpus.json says")
        left_out = tuple((name, reason) for name, reason in document["left_out"])
        return Corpus(recordings, left_out, document["sample_rate"], document["gain"], codes, document["normalize"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"the cache {place} of {root} is damaged ({error}): delete it, and it is made anew") from None
