"""How far a set of generated sounds is from a set of recordings.

Both sets become frames, log-mel spectra in dB, and two sets of frames are compared in three ways:

- band by band: how far means and standard deviations are apart, root mean square over the bands, in dB;
- the Frechet distance of the Gaussians with their means and covariances (Dowson & Landau 1982), squared as in FID
  (Heusel et al. 2017) and FAD (Kilgour et al. 2019):  |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2));
- the energy distance (Szekely & Rizzo 2013), 2 E|x - y| - E|x - x'| - E|y - y'|, which sees what no Gaussian does and
  has no kernel to choose.

No distance means anything by itself, so each stands next to two others: of the recordings from themselves (as much of
them as was generated, half at most, against the rest; several draws), as near as one can ask for, and of white noise.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tierwave.audio.finding import find_audio
from tierwave.audio.recordings import load, probe
from tierwave.audio.spectrogram import log_mel
from tierwave.errors import AudioError, AudioWarning, UsageError

FLOOR_DB = -80.0  # below, silence is silence
DRAWS = 10  # of recordings against themselves
_WINDOW_SECONDS, _HOP_SECONDS, _CHANNELS = 0.032, 0.016, 64
_FEWEST = 4  # recordings that are drawn as wholes
_MOST_FRAMES = 1500  # that the energy distance looks at: all pairs of them
_MEASURES = {
    "mean": "means of the bands (dB)",
    "deviation": "deviations of the bands (dB)",
    "frechet": "Frechet (dB squared)",
    "energy": "energy (dB)",
}


@dataclass(frozen=True)
class Distance:
    """How far two sets of frames are apart. mean, deviation: root mean square difference over the bands, in dB;
    frechet: in dB squared; energy: in dB."""

    mean: float
    deviation: float
    frechet: float
    energy: float


@dataclass(frozen=True)
class Comparison:
    """The distance of generated sound from recordings, and what to hold it against.

    floor, floor_p90: of recordings from themselves, median and 90th percentile of the draws, measure by measure.
    noise: of white noise at the level of the recordings. seconds: of generated sound and of recordings.
    """

    generated: Distance
    floor: Distance
    floor_p90: Distance
    noise: Distance
    seconds: tuple[float, float]
    sample_rate: int

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def table(self) -> str:
        """As lines of text."""
        columns = [vars(each) for each in (self.generated, self.floor, self.floor_p90, self.noise)]
        lines = [f"{'distance':28}{'generated':>11}{'recordings':>12}{'(90 %)':>8}{'white noise':>13}"]
        for key, name in _MEASURES.items():
            numbers = [f"{column[key]:.3g}" if column[key] < 1000 else f"{column[key]:.0f}" for column in columns]
            lines.append(f"{name:28}{numbers[0]:>11}{numbers[1]:>12}{numbers[2]:>8}{numbers[3]:>13}")
        return "\n".join(lines)


def log_mel_frames(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Log-mel spectra in dB [frames, 64], every 16 ms, never below -80.

    Args:
        audio: float [samples], full scale 1.0.
        sample_rate: hertz.
    """
    window = max(16, round(_WINDOW_SECONDS * sample_rate))
    n_fft = 1 << math.ceil(math.log2(4 * window))  # so that every band has a bin of its own
    hop = max(1, round(_HOP_SECONDS * sample_rate))
    return np.maximum(log_mel(audio, sample_rate, n_fft, window, hop, _CHANNELS), FLOOR_DB)


# Distances of frames -------------------------------------------------------------------------------------------------


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """The squared Frechet distance of the Gaussians fitted to two sets of frames [frames, dimensions].

    tr (S1 S2)^(1/2) is the sum of the roots of the eigenvalues of S1^(1/2) S2 S1^(1/2), which is symmetric and
    positive: no root of a matrix that is not, and nothing complex.
    """
    difference = first.mean(axis=0) - second.mean(axis=0)
    one, other = _covariance(first), _covariance(second)
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    mixed = np.linalg.eigvalsh(root @ other @ root)
    trace = np.trace(one) + np.trace(other) - 2.0 * np.sqrt(np.maximum(mixed, 0.0)).sum()
    return float(max(0.0, difference @ difference + trace))


def _covariance(frames: np.ndarray) -> np.ndarray:
    centred = frames - frames.mean(axis=0)
    return centred.T @ centred / max(1, len(frames) - 1)


def energy_distance(first: np.ndarray, second: np.ndarray) -> float:
    """The energy distance of two sets of frames [frames, dimensions], each frame against each; 0 only for equal
    distributions."""
    return max(0.0, 2.0 * _mean_distance(first, second) - _mean_distance(first, first) - _mean_distance(second, second))


def _mean_distance(first: np.ndarray, second: np.ndarray) -> float:
    squares = np.square(first).sum(axis=1)[:, None] + np.square(second).sum(axis=1) - 2.0 * first @ second.T
    return float(np.sqrt(np.maximum(squares, 0.0)).mean())


def distance(first: np.ndarray, second: np.ndarray, seed: int = 0) -> Distance:
    """All distances of two sets of frames [frames, dimensions]. seed: of the frames that the energy distance looks at,
    where there are more than 1,500."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or not len(first) or not len(second):
        raise ValueError(f"frames of {first.shape} and {second.shape} cannot be compared.")
    centre = second.mean(axis=0)  # so that products do not eat up the digits

    def root_mean_square(values: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.square(values))))

    return Distance(
        root_mean_square(first.mean(axis=0) - centre),
        root_mean_square(first.std(axis=0) - second.std(axis=0)),
        frechet_distance(first, second),
        energy_distance(_drawn(first, seed) - centre, _drawn(second, seed) - centre),
    )


def _drawn(frames: np.ndarray, seed: int) -> np.ndarray:
    if len(frames) <= _MOST_FRAMES:
        return frames
    return frames[np.sort(np.random.default_rng(seed).choice(len(frames), _MOST_FRAMES, replace=False))]


def compare(
    generated: Sequence[np.ndarray],
    recordings: Sequence[np.ndarray],
    sample_rate: int,
    *,
    seed: int = 0,
) -> Comparison:
    """The distances of generated sounds from recordings, and those of recordings from themselves and of noise.

    Args:
        generated, recordings: float [samples] each, at one rate.
        sample_rate: hertz.
        seed: of what is drawn for the floor and of the noise.

    Raises:
        UsageError: there is nothing to compare, or too little to compare it with itself.
    """
    made = [log_mel_frames(sound, sample_rate) for sound in generated if len(sound)]
    real = [log_mel_frames(sound, sample_rate) for sound in recordings if len(sound)]
    if not made or not real:
        raise UsageError("there is no sound to compare: name folders with generated sounds and with recordings")
    all_made, all_real = np.concatenate(made), np.concatenate(real)
    if len(all_real) < 4:
        raise UsageError(f"the recordings give {len(all_real)} frames, too few to say how far they vary: take more")
    rng = np.random.default_rng(seed)
    floors = []
    for draw in range(DRAWS):
        part, rest = _halves(real, len(all_made), rng)
        floors.append(distance(part, rest, seed + draw))
    level = math.sqrt(np.mean(np.square(np.concatenate(list(recordings)))))
    noises = [level * rng.standard_normal(len(sound)) for sound in generated if len(sound)]
    noise = np.concatenate([log_mel_frames(sound.astype(np.float32), sample_rate) for sound in noises])

    def over_draws(share: float) -> Distance:
        return Distance(*np.percentile([list(vars(each).values()) for each in floors], share, axis=0).tolist())

    return Comparison(
        distance(all_made, all_real, seed),
        over_draws(50),
        over_draws(90),
        distance(noise, all_real, seed),
        (sum(map(len, generated)) / sample_rate, sum(map(len, recordings)) / sample_rate),
        sample_rate,
    )


def _halves(real: Sequence[np.ndarray], wanted: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """About `wanted` frames of the recordings, half of all at most, and the rest: whole recordings where there are
    enough, else stretches of them, since frames next to each other are nearly the same."""
    total = sum(map(len, real))
    wanted = max(2, min(wanted, total // 2))
    pieces = list(real)
    if len(pieces) < _FEWEST or max(map(len, pieces)) > wanted:
        size = max(1, min(wanted // 4, total // 10))
        pieces = [piece for each in real for piece in np.array_split(each, max(1, round(len(each) / size)))]
    order = rng.permutation(len(pieces))
    ends = np.cumsum([len(pieces[index]) for index in order])
    count = int(np.clip(np.searchsorted(ends, wanted) + 1, 1, len(pieces) - 1))
    return (
        np.concatenate([pieces[index] for index in order[:count]]),
        np.concatenate([pieces[index] for index in order[count:]]),
    )


# Sounds from files ----------------------------------------------------------------------------------------------------


def load_sounds(paths: Sequence[Path | str], sample_rate: int) -> list[np.ndarray]:
    """All sounds in files and folders, float32 [samples] at one rate; what cannot be read is left out, which is an
    `AudioWarning`."""
    found = []
    for path in find_audio(paths, own=True):
        try:
            found.append(load(path, sample_rate)[0])
        except AudioError as error:
            warnings.warn(AudioWarning(f"left out: {error}"), stacklevel=2)
    return found


def common_rate(paths: Sequence[Path]) -> int:
    """The lowest sample rate of the sounds in files and folders, so that nothing is compared that one side lacks."""
    rates = []
    for path in find_audio(paths, own=True):
        with contextlib.suppress(AudioError):  # `load_sounds` tells of it
            rates.append(probe(path).sample_rate)
    if not rates:
        raise UsageError(f"{', '.join(map(str, paths))} hold no sound that can be read: name folders of recordings")
    return min(rates)
