"""The recordings of a corpus as codes: how they are read, their statistics, and what would spoil training.

A corpus of ten hours is ten hours of one-byte codes on the disk (see `cache`), of which only what is needed is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tierwave.errors import RunError

Normalize = Literal["none", "corpus", "file"]

SILENCE_AMPLITUDE = 10.0 ** (-60.0 / 20.0)  # quieter samples count as silence in the statistics
CLIPPED_AMPLITUDE = 0.999
BLOCK = 1 << 20  # codes of a recording that is read through


@dataclass(frozen=True)
class Recording:
    """One usable file. name: path relative to the corpus folder, with slashes; samples: at the corpus rate; digest: of
    its codes, which tells corpora apart; remarks: what is odd about it, such as an end that is cut off."""

    name: str
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
    """All usable recordings of a folder, encoded. left_out: (name, reason) of the rest; files: of codes of `dtype`, one
    for each recording; taken_over: how many an interrupted run had encoded.

    What recordings and statistics say of levels holds before `normalize`; gain is what "corpus" multiplied with.
    """

    recordings: tuple[Recording, ...]
    left_out: tuple[tuple[str, str], ...]
    sample_rate: int
    gain: float
    files: tuple[Path, ...]
    dtype: np.dtype[Any]
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

    def read(self, index: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Codes `[stop - start]` of one recording, to its end by default. Raises RunError where its file is damaged."""
        stop = self.recordings[index].samples if stop is None else stop
        path = self.files[index]
        try:
            # No file stays open or mapped: recordings may be more than a process may open. The system caches them.
            codes = np.fromfile(path, self.dtype, stop - start, offset=start * self.dtype.itemsize)
        except OSError as error:
            raise self._damaged(path, error.strerror or str(error)) from error
        if len(codes) != stop - start:
            raise self._damaged(path, "it is shorter than it was")
        return codes

    def _damaged(self, path: Path, reason: str) -> RunError:
        return RunError(f"the cache {path.parent} is damaged ({path.name}: {reason}): delete it, and it is made anew")

    def blocks(self, index: int, start: int, stop: int) -> Iterator[np.ndarray]:
        """Codes [start, stop) of one recording in blocks `[samples]`, of which one at a time is in memory."""
        for first in range(start, stop, BLOCK):
            yield self.read(index, first, min(stop, first + BLOCK))

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
        return full_range(sound, low, high)
    return sound * np.float32(gain)


def full_range(block: np.ndarray, low: float, high: float) -> np.ndarray:
    """`block` with [low, high] mapped to [-1, 1]; a constant signal becomes constant."""
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
