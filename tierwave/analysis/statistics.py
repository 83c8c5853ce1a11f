"""What numbers say about codes and sound: bits per sample of models without a network, spectra, what sounds are like.

Light: this is computed during training and in command lines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

SILENCE_DBFS = -60.0
DENSITY_FLOOR_DB = -120.0
_FRAME_SECONDS = 0.02
_SPECTRUM_SAMPLES = 1024  # per transform of an average spectrum
MOST_LEVELS = 1024  # of codes whose pairs are counted
_BLOCK = 1 << 18  # codes that are counted at a time

# One segment of codes, integers [samples], or the blocks of it in turn.
Segment: TypeAlias = np.ndarray | Iterable[np.ndarray]


def bits(nats: float) -> float:
    """The same amount of information in bits."""
    return nats / math.log(2.0)


class CodeStatistics:
    """Counts of codes and of pairs of neighbours, and what two models made of them alone reach on other codes.

    They are the baselines of a network: the histogram (each sample by itself) and a first-order Markov chain
    (each sample from the one before). Pairs are counted in a table, and codes are taken a block at a time, so memory
    depends on neither the number nor the length of the segments.

    The histogram adds half a count to every code (Krichevsky & Trofimov 1981). The chain is interpolated with it
    after Witten & Bell (1991): with n(a) samples after code a, of d(a) different codes,

        p(b | a) = (n(a, b) + d(a) p(b)) / (n(a) + d(a)),

    so that nothing has probability 0, and a code seen rarely leans on the histogram. Both are fixed rules: there is
    nothing to tune.
    """

    def __init__(self, levels: int) -> None:
        """Raises ValueError for more than `MOST_LEVELS`: a table of their pairs is larger than any corpus."""
        if levels > MOST_LEVELS:
            raise ValueError(f"pairs are counted of at most {MOST_LEVELS} levels, not {levels}.")
        self.levels = levels
        self._counts = np.zeros(levels, np.int64)
        self._pairs = np.zeros(levels * levels, np.int64)  # at a * levels + b

    def add(self, segment: Segment) -> None:
        """Count one segment of codes; segments are not neighbours of each other."""
        for before, codes in self._blocks(segment):
            self._counts += np.bincount(codes, minlength=self.levels)
            np.add.at(self._pairs, before * self.levels + codes[len(codes) - len(before) :], 1)

    def histogram_bits(self, segments: Iterable[Segment]) -> float:
        """Cross-entropy in bits per sample of segments of codes under the smoothed histogram."""
        surprise = -np.log2(self._histogram())
        return self._mean(surprise[codes] for segment in segments for _, codes in self._blocks(segment))

    def markov_bits(self, segments: Iterable[Segment]) -> float:
        """Cross-entropy in bits per sample of segments under the Markov chain; the first sample of each is the
        histogram's."""
        histogram = self._histogram()
        table = self._pairs.reshape(self.levels, self.levels)
        followers, different = table.sum(axis=1), np.count_nonzero(table, axis=1)

        def surprise(before: np.ndarray, codes: np.ndarray) -> np.ndarray:
            probability = histogram[codes]
            chained = probability[len(codes) - len(before) :]  # a view: all but the first sample of a segment
            known = followers[before] > 0
            total = np.where(known, followers[before] + different[before], 1)
            seen = self._pairs[before * self.levels + codes[len(codes) - len(before) :]]
            chained[:] = np.where(known, (seen + different[before] * chained) / total, chained)
            return -np.log2(probability)

        return self._mean(surprise(*block) for segment in segments for block in self._blocks(segment))

    def _blocks(self, segment: Segment) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(the code before each, codes) of a segment, some at a time; the first code of all has none before it."""
        last = np.zeros(0, np.int64)
        for part in [segment] if isinstance(segment, np.ndarray) else segment:
            if part.ndim != 1 or not np.issubdtype(part.dtype, np.integer):
                raise ValueError(f"a segment is integer codes [samples], not {part.dtype} of shape {part.shape}.")
            for start in range(0, len(part), _BLOCK):
                codes = part[start : start + _BLOCK]
                if not (codes.min() >= 0 and codes.max() < self.levels):
                    raise ValueError(
                        f"codes run from {codes.min()} to {codes.max()}, outside the {self.levels} levels."
                    )
                codes = codes.astype(np.int64)
                yield np.concatenate([last, codes[:-1]]), codes
                last = codes[-1:]

    def _histogram(self) -> np.ndarray:
        return (self._counts + 0.5) / (self._counts.sum() + 0.5 * self.levels)

    @staticmethod
    def _mean(surprises: Iterator[np.ndarray]) -> float:
        total, samples = 0.0, 0
        for surprise in surprises:
            total += float(surprise.sum())
            samples += len(surprise)
        if not samples:
            raise ValueError("there are no codes to measure; hold out at least one sample.")
        return total / samples


def average_spectrum(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """The long-term average spectrum: power density in dB re full scale squared per hertz (Welch 1967; Hann, half
    overlap), of the sound at a total power of 0 dB, so that levels do not count; never below -120.

    Args:
        audio: float [samples]; shorter than 1024 is padded with silence.
        sample_rate: hertz.

    Returns:
        [513]; bin i is at i * sample_rate / 1024 hertz.
    """
    from scipy.signal import welch

    audio = _checked_audio(audio)
    audio = np.pad(audio, (0, max(0, _SPECTRUM_SAMPLES - len(audio))))
    _, density = welch(audio, sample_rate, nperseg=_SPECTRUM_SAMPLES, detrend=False)
    if density.any():
        density /= density.sum() * sample_rate / _SPECTRUM_SAMPLES
    return 10.0 * np.log10(np.maximum(density, 10.0 ** (DENSITY_FLOOR_DB / 10.0)))


def log_spectral_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Root mean square difference of two spectra [bins] in dB, such as `average_spectrum` gives."""
    first, second = np.asarray(first), np.asarray(second)
    if first.shape != second.shape:
        raise ValueError(
            f"spectra of {first.shape} and {second.shape} bins cannot be compared; use one n_fft for both."
        )
    return float(np.sqrt(np.mean(np.square(first - second))))


def spectral_comparison(
    recordings: Sequence[np.ndarray], sounds: Sequence[np.ndarray], sample_rate: int, seed: int = 0
) -> dict[str, float]:
    """How near the long-term average spectrum of generated sounds is to that of recordings, in dB (see
    `log_spectral_distance`), and what to hold it against.

    Args:
        recordings, sounds: float [samples] each, at one rate; longer than 60 s in all is fine but slow.
        sample_rate: hertz.

    Returns:
        generated: all sounds together against all recordings. halves: the first halves of the recordings against the
        second halves, as near as one can ask for. white_noise: against a flat spectrum. shuffled: against the
        recordings with their samples in random order, which keeps every level and loses all order.
    """
    whole = np.concatenate(list(recordings))
    shuffled = np.random.default_rng(seed).permutation(whole)
    noise = np.random.default_rng(seed + 1).uniform(-1.0, 1.0, len(whole))
    target = average_spectrum(whole, sample_rate)
    first = np.concatenate([recording[: len(recording) // 2] for recording in recordings])
    second = np.concatenate([recording[len(recording) // 2 :] for recording in recordings])

    def distance(sound: np.ndarray) -> float:
        return log_spectral_distance(average_spectrum(sound, sample_rate), target)

    return {
        "generated": distance(np.concatenate(list(sounds))),
        "halves": log_spectral_distance(average_spectrum(first, sample_rate), average_spectrum(second, sample_rate)),
        "white_noise": distance(noise),
        "shuffled": distance(shuffled),
    }


@dataclass(frozen=True)
class Description:
    """What `describe` measured of a sound.

    offset: the mean amplitude (DC)
    clipped_share: of samples at or beyond full scale
    flatness: of the spectrum of 20 ms, median over those that sound: 0 for a tone, 0.56 for white noise
    crest: peak over root mean square in 20 ms, median over those that sound: 1.4 for a tone, 3 for white noise
    silent_share: of stretches of 20 ms below -60 dBFS
    stuck_share: of stretches of 20 ms that stand still at another value than 0
    longest_stuck_seconds: the longest run of one and the same value
    """

    offset: float
    clipped_share: float
    flatness: float
    crest: float
    silent_share: float
    stuck_share: float
    longest_stuck_seconds: float


def describe(audio: np.ndarray, sample_rate: int) -> Description:
    """Measure what tells silence, noise, a stuck generator and music apart.

    Args:
        audio: float [samples], full scale 1.0.
        sample_rate: hertz.

    Raises:
        ValueError: not one channel of floating point, empty, or not finite.
    """
    audio = _checked_audio(audio)
    threshold = 10.0 ** (SILENCE_DBFS / 10.0)
    length = max(2, min(len(audio), round(_FRAME_SECONDS * sample_rate)))
    window = np.hanning(length + 2)[1:-1]
    silent, stuck, flatness, crest = [], [], [], []
    for frames in _frames(audio, length):
        silent.append(np.mean(np.square(frames), axis=1) <= threshold)
        stuck.append((frames.var(axis=1) <= threshold) & ~silent[-1])
        power = np.abs(np.fft.rfft((frames - frames.mean(axis=1, keepdims=True)) * window)) ** 2
        sounding = ~silent[-1] & ~stuck[-1]
        heard = np.maximum(power[sounding, 1:], 1e-20)  # without the mean, which was taken out
        flatness.append(np.exp(np.log(heard).mean(axis=1)) / heard.mean(axis=1))
        crest.append(np.abs(frames[sounding]).max(axis=1) / np.sqrt(np.square(frames[sounding]).mean(axis=1)))
    return Description(
        offset=float(audio.mean()),
        clipped_share=float(np.mean(np.abs(audio) >= 1.0 - 2.0**-15)),
        flatness=_median(flatness),
        crest=_median(crest),
        silent_share=float(np.concatenate(silent).mean()),
        stuck_share=float(np.concatenate(stuck).mean()),
        longest_stuck_seconds=_longest_run(audio) / sample_rate,
    )


def _checked_audio(audio: np.ndarray) -> np.ndarray:
    audio = np.asarray(audio)
    if audio.ndim != 1 or not np.issubdtype(audio.dtype, np.floating):
        raise ValueError(f"one channel of floating-point audio is needed, not {audio.dtype} of shape {audio.shape}.")
    if not len(audio):
        raise ValueError("the audio is empty; there is nothing to measure.")
    if not np.isfinite(audio).all():
        raise ValueError("the audio holds NaN or infinity; repair it first.")
    return audio.astype(np.float64)


def _frames(audio: np.ndarray, length: int) -> Iterator[np.ndarray]:
    """Whole frames [frames, length] of audio, some thousands of samples at a time; what is too short is padded."""
    audio = np.pad(audio, (0, max(0, length - len(audio))))
    frames = audio[: len(audio) // length * length].reshape(-1, length)
    batch = max(1, (1 << 18) // length)
    for start in range(0, len(frames), batch):
        yield frames[start : start + batch]


def _median(parts: list[np.ndarray]) -> float:
    values = np.concatenate(parts)
    return float(np.median(values)) if len(values) else 0.0


def _longest_run(audio: np.ndarray) -> int:
    """Samples in the longest run of equal values."""
    changes = np.flatnonzero(np.diff(audio)) + 1
    return int(np.diff(np.concatenate([[0], changes, [len(audio)]])).max())
