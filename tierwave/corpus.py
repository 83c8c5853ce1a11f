"""A folder of recordings as one memory-mapped array of codes, with statistics and a report of what was left out.

Audio is decoded once, block by block, into a cache that later runs share; a 10-hour corpus is 10 hours of one-byte
codes on disk and costs no memory. Knows how sound is kept, not how it is split, windowed or learned.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from tierwave.audio import AudioError, AudioInfo, find_audio, probe, read_blocks
from tierwave.errors import RunError

Normalize = Literal["none", "corpus", "file"]
Progress = Callable[[int, int], None]

SILENCE_AMPLITUDE = 10.0 ** (-60.0 / 20.0)  # quieter samples count as silence in the statistics
CLIPPED_AMPLITUDE = 0.999


class Encoder(Protocol):
    """How audio is kept: `encode` maps float32 `[samples]` to codes of a fixed dtype; its repr names it in the cache."""

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
    """All usable recordings of a folder, encoded. codes: flat, memory-mapped; left_out: (name, reason) of the rest."""

    recordings: tuple[Recording, ...]
    left_out: tuple[tuple[str, str], ...]
    sample_rate: int
    gain: float
    codes: np.ndarray

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
            "gain": self.gain,
            "left_out": [list(pair) for pair in self.left_out],
        }

    def warnings(self) -> list[str]:
        """What in the sound would spoil training, one sentence each."""
        found = self.statistics()
        warnings = []
        peak = found["peak"] * (self.gain if np.isfinite(self.gain) else 1.0)
        if self.gain == 1.0 and peak < 0.1:
            warnings.append(
                f"The loudest sample is {found['peak']:.3f} of full scale, so most levels are never used: "
                'set "normalize": "corpus" in the config (or --set normalize=corpus).'
            )
        if abs(found["dc"]) > 0.01:
            warnings.append(f"The recordings have a DC offset of {found['dc']:+.3f}: remove it with a high-pass filter.")
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


def summary(corpus: Corpus) -> str:
    """The statistics in a few readable lines."""
    found = corpus.statistics()
    rates = ", ".join(f"{rate} Hz x {count}" for rate, count in sorted(found["file_rates"].items(), key=lambda x: int(x[0])))
    seconds = corpus.samples / corpus.sample_rate
    length = f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"
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
    that the loudest peak is 1; "file" maps every file's [min, max] to [-1, 1] as the original SampleRNN did.
    progress(done, total) counts files. Raises RunError if no recording is usable or the rates differ.
    """
    root = Path(folder)
    files = find_audio([root])
    base = root if root.is_dir() else root.parent
    if not files:
        raise RunError(
            f"no recording was found under {root}: put wav, flac, ogg, mp3, aiff or m4a files there, or name another "
            "folder with --data_dir"
        )
    infos, left_out = _probe_all(files, base)
    rate = sample_rate or _common_rate(infos, left_out, root)
    key = _cache_key(files, base, rate, repr(encoder), normalize)
    place = Path(cache_dir) / key
    if not (place / "corpus.json").exists():
        _build(place, infos, left_out, base, rate, encoder, normalize, progress)
    return _open(place, root)


def _name(path: Path, base: Path) -> str:
    return path.relative_to(base).as_posix()


def _probe_all(files: Sequence[Path], base: Path) -> tuple[list[AudioInfo], list[tuple[str, str]]]:
    def attempt(path: Path) -> AudioInfo | tuple[str, str]:
        try:
            info = probe(path)
        except AudioError as error:
            return _name(path, base), _reason(error, path)
        return info if info.frames > 1 else (_name(path, base), f"it holds {info.frames} samples")

    with ThreadPoolExecutor() as pool:
        results = list(pool.map(attempt, files))
    infos = [result for result in results if isinstance(result, AudioInfo)]
    return infos, [result for result in results if not isinstance(result, AudioInfo)]


def _reason(error: Exception, path: Path) -> str:
    return str(error).replace(f"{path}: ", "").replace(str(path), path.name)


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
    text = json.dumps([str(base.resolve()), described, rate, encoding, normalize])
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


class _Levels:
    """Running statistics of a signal that comes in blocks."""

    def __init__(self) -> None:
        self.samples, self.total, self.squares = 0, 0.0, 0.0
        self.low, self.high, self.silent, self.clipped = np.inf, -np.inf, 0, 0

    def add(self, block: np.ndarray) -> None:
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


def _measure(path: Path, rate: int) -> _Levels:
    levels = _Levels()
    for block in read_blocks(path, rate):
        if len(block):
            levels.add(block)
    return levels


def _build(
    place: Path,
    infos: Sequence[AudioInfo],
    left_out: Sequence[tuple[str, str]],
    base: Path,
    rate: int,
    encoder: Encoder,
    normalize: Normalize,
    progress: Progress | None,
) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    done = 0

    def measure(info: AudioInfo) -> _Levels | str:
        try:
            levels = _measure(info.path, rate)
        except AudioError as error:
            return _reason(error, info.path)
        if levels.samples < 2:
            return f"it holds {levels.samples} samples"
        return levels if levels.peak >= SILENCE_AMPLITUDE else "it is silent"

    def encode(item: tuple[int, AudioInfo, _Levels]) -> tuple[int, str]:
        nonlocal done
        index, info, levels = item
        digest, samples = hashlib.blake2b(digest_size=16), 0
        with open(work / f"{index}.part", "wb") as part:
            for block in read_blocks(info.path, rate):
                if normalize == "file":
                    block = (block - levels.low) * np.float32(2.0 / max(levels.high - levels.low, 1e-9)) - 1.0
                codes = encoder.encode(block * np.float32(gain))
                part.write(codes.tobytes())
                digest.update(codes.tobytes())
                samples += len(codes)
        done += 1
        if progress is not None:
            progress(done, len(usable))
        return samples, digest.hexdigest()

    try:
        with ThreadPoolExecutor() as pool:
            measured = list(pool.map(measure, infos))
            unusable = [
                (_name(info.path, base), found)
                for info, found in zip(infos, measured, strict=True)
                if isinstance(found, str)
            ]
            usable = [
                (info, found) for info, found in zip(infos, measured, strict=True) if isinstance(found, _Levels)
            ]
            all_left_out = sorted([*left_out, *unusable])
            if not usable:
                raise _nothing_usable(base, all_left_out)
            gain = 1.0 / max(levels.peak for _, levels in usable) if normalize == "corpus" else 1.0
            encoded = list(pool.map(encode, [(index, *pair) for index, pair in enumerate(usable)]))
        recordings, offset = [], 0
        with open(work / "codes.bin", "wb") as flat:
            for index, ((info, levels), (samples, digest)) in enumerate(zip(usable, encoded, strict=True)):
                with open(work / f"{index}.part", "rb") as part:
                    shutil.copyfileobj(part, flat, 1 << 22)
                os.remove(work / f"{index}.part")
                recordings.append(
                    Recording(
                        name=_name(info.path, base),
                        offset=offset,
                        samples=samples,
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
                offset += samples
        document = {
            "sample_rate": rate,
            "gain": gain,
            "dtype": str(encoder.encode(np.zeros(1, np.float32)).dtype),
            "left_out": all_left_out,
            "recordings": [asdict(recording) for recording in recordings],
        }
        (work / "corpus.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
        try:
            os.replace(work, place)
        except OSError:
            if not (place / "corpus.json").exists():  # else another process has built the same cache meanwhile
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
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"the cache {place} of {root} is damaged ({error}): delete that folder, it is made anew") from None
    return Corpus(
        recordings,
        tuple((name, reason) for name, reason in document["left_out"]),
        document["sample_rate"],
        document["gain"],
        codes,
    )
