"""Copy synthesis: how near a sound comes to itself by way of its mel spectrogram, beside librosa's mel_to_audio."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RATE = 22050  # of the made-up sounds


def made_up(name: str, seconds: float) -> np.ndarray:
    """float32 [samples] at `RATE`. strings: harmonics under vibrato, one tone after the other. bells: inharmonic
    partials that are struck and ring. speech: noise and pulses through resonances that wander."""
    import scipy.signal

    rng = np.random.default_rng(0)
    samples = round(seconds * RATE)
    at = np.arange(samples) / RATE
    sound = 0.0005 * rng.standard_normal(samples)
    if name == "strings":
        pitch = 196.0 * 2.0 ** (np.floor(at * 2.0) % 5 * 3 / 12 + 0.01 * np.sin(2 * np.pi * 5.5 * at))
        turns = 2 * np.pi * np.cumsum(pitch) / RATE
        loudness = np.minimum(1.0, 20.0 * (at * 2.0 % 1.0))
        for partial in range(1, 30):
            sound += 0.2 * loudness * np.sin(partial * turns) / partial * (partial * pitch < RATE / 2)
    elif name == "bells":
        for start in np.arange(0.0, seconds, 0.25):
            since = np.maximum(at - start, 0.0)
            for ratio in (1.0, 2.76, 5.4, 8.93):
                hertz = ratio * 400.0 * 2.0 ** (rng.integers(12) / 12)
                sound += 0.1 * np.sin(2 * np.pi * hertz * since) * np.exp(-4.0 * ratio**0.5 * since)
    elif name == "speech":
        pulses = (np.diff(np.floor(np.cumsum(110.0 + 20.0 * np.sin(3.0 * at)) / RATE), prepend=0.0) > 0) * 1.0
        voiced = np.sin(2 * np.pi * 2.0 * at) > -0.3
        source = np.where(voiced, pulses, 0.05 * rng.standard_normal(samples))
        step = RATE // 10
        for start in range(0, samples, step):
            for centre in rng.uniform([300, 900, 2300], [800, 2200, 3500]):
                numerator, denominator = scipy.signal.iirpeak(centre, 8.0, RATE)
                piece = scipy.signal.lfilter(numerator, denominator, source[start : start + step])
                sound[start : start + step] += 2.0 * piece
    else:
        raise ValueError(f"no sound is called {name!r}; there are strings, bells and speech, and files.")
    return sound.astype(np.float32)


def spectral_convergence(reference: np.ndarray, estimate: np.ndarray) -> float:
    """The norm of the difference of two magnitude spectrograms over that of the reference (Sturmel & Daudet 2011)."""
    return float(np.linalg.norm(reference - estimate) / np.linalg.norm(reference))


def measure(sound: str, *, seconds: float = 4.0, iterations: int = 32, refinement: int = 100) -> list[dict[str, Any]]:
    """Rows for librosa, Griffin-Lim and the gradient after it, at as many iterations of Griffin-Lim.

    Args:
        sound: the name of a made-up one, or a file, with @ and the second to begin at.
    """
    import librosa

    from melnet.front_end import DB_PER_NAT, MelAudio, MelFrontEnd
    from melnet.inversion import invert
    from tierwave.analysis.statistics import log_spectral_distance
    from tierwave.audio.recordings import load
    from tierwave.audio.spectrogram import power_spectrogram

    name, _, start = sound.partition("@")
    if Path(name).is_file():
        audio, rate = load(name)
        first = round(float(start or 0.0) * rate)
        audio = audio[first : first + round(seconds * rate)]
    else:
        audio, rate = made_up(name, seconds), RATE
    config = MelAudio()
    sizes = (config.n_fft, config.win_length, config.hop_length)
    front_end = MelFrontEnd(config, rate)
    log_mel = front_end.analyse(audio)
    magnitude = np.sqrt(power_spectrogram(audio, *sizes))

    def by_librosa(log_mel: np.ndarray, samples: int) -> np.ndarray:
        # The two halves of librosa.feature.inverse.mel_to_audio, which alone cannot be seeded.
        magnitude = librosa.feature.inverse.mel_to_stft(np.exp(log_mel.T), sr=rate, n_fft=config.n_fft)
        return librosa.griffinlim(
            magnitude,
            n_iter=iterations,
            hop_length=config.hop_length,
            win_length=config.win_length,
            pad_mode="reflect",
            length=samples,
            random_state=0,
        )

    def by(method: Any) -> Callable[[np.ndarray, int], np.ndarray]:
        return lambda log_mel, samples: invert(
            log_mel, front_end, method=method, iterations=iterations, refinement=refinement, samples=samples
        )

    rows = []
    for method, run, count in (
        ("librosa mel_to_audio", by_librosa, f"{iterations}"),
        ("griffin_lim", by("griffin_lim"), f"{iterations}"),
        ("gradient", by("gradient"), f"{iterations} + {refinement}"),
    ):
        run(log_mel[:10], 9 * config.hop_length)  # loads what it needs
        started = time.perf_counter()
        copy = run(log_mel, len(audio))
        took = time.perf_counter() - started
        again = front_end.analyse(np.asarray(copy, np.float32), seed=None)
        rows.append(
            {
                "benchmark": "inversion",
                "sound": Path(name).stem,
                "method": method,
                "iterations": count,
                "spectral_convergence": spectral_convergence(magnitude, np.sqrt(power_spectrogram(copy, *sizes))),
                "log_mel_rmse_db": log_spectral_distance(log_mel * DB_PER_NAT, again * DB_PER_NAT),
                "seconds": took,
            }
        )
    return rows
