"""Power and log-mel spectrograms of NumPy audio, equal to librosa's.

Spectrograms are [frames, channels], time first, like every sequence here (librosa has it the other way round).
"""

from __future__ import annotations

import warnings
from typing import Literal, get_args

import numpy as np

from tierwave.errors import UsageError

MelScale = Literal["slaney", "htk"]

LOG_FLOOR = 1e-10  # power; -100 dB
_CHUNK_SAMPLES = 1 << 20  # of frames transformed at a time


def power_spectrogram(audio: np.ndarray, n_fft: int, win_length: int, hop_length: int) -> np.ndarray:
    """Squared magnitudes of the short-time Fourier transform: Hann window, frames centred, edges reflected.

    Args:
        audio: float [samples], at least one.
        n_fft: samples per transform; larger than win_length pads the window with zeros on both sides.
        win_length: samples under the window.
        hop_length: samples from frame to frame.

    Returns:
        float32 [1 + samples // hop_length, n_fft // 2 + 1]; frame t is centred at sample t * hop_length.

    Raises:
        UsageError: lengths below 1, or a window longer than the transform.
        ValueError: the audio is not one channel of at least one sample.
    """
    for key, value in (("n_fft", n_fft), ("win_length", win_length), ("hop_length", hop_length)):
        if value < 1:
            raise UsageError(f"{key} is {value}; give a number of samples of at least 1.")
    if win_length > n_fft:
        raise UsageError(f"win_length is {win_length}, longer than n_fft {n_fft}; raise n_fft or shorten the window.")
    audio = np.asarray(audio)
    if audio.ndim != 1 or not len(audio):
        raise ValueError(f"one channel of at least one sample is needed, not audio of shape {audio.shape}.")

    window = padded_window(n_fft, win_length)
    padded = np.pad(audio.astype(np.float64), n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop_length]
    power = np.empty((len(frames), n_fft // 2 + 1), np.float32)
    batch = max(1, _CHUNK_SAMPLES // n_fft)
    for start in range(0, len(frames), batch):
        power[start : start + batch] = frame_power(frames[start : start + batch], window)
    return power


def padded_window(n_fft: int, win_length: int) -> np.ndarray:
    """A periodic Hann window of win_length samples with zeros on both sides, float64 [n_fft]."""
    window = np.zeros(n_fft)
    left = (n_fft - win_length) // 2
    window[left : left + win_length] = np.hanning(win_length + 1)[:-1]
    return window


def frame_power(frames: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Squared magnitudes [frames, n_fft // 2 + 1] of frames [frames, n_fft] under a window [n_fft]."""
    spectrum = np.fft.rfft(frames * window)
    return np.square(spectrum.real) + np.square(spectrum.imag)


def mel_filters(
    sample_rate: int,
    n_fft: int,
    mel_channels: int,
    fmin: float = 0.0,
    fmax: float | None = None,
    mel_scale: MelScale = "slaney",
) -> np.ndarray:
    """Triangular filters from bins of power to mel channels, each of unit area over hertz (Slaney's norm).

    Args:
        sample_rate: hertz.
        n_fft: of the transform.
        mel_channels: how many filters.
        fmin, fmax: hertz, where the first begins and the last ends; fmax defaults to half the sample rate.
        mel_scale: where the channels lie; "htk": O'Shaughnessy 1987, "slaney": linear below 1 kHz, logarithmic above.

    Returns:
        float32 [mel_channels, n_fft // 2 + 1].

    Raises:
        UsageError: an unknown scale, no channels, or an empty or impossible range of frequencies.
    """
    highest = sample_rate / 2.0
    fmax = highest if fmax is None else fmax
    if mel_scale not in get_args(MelScale):
        raise UsageError(f'mel_scale is "{mel_scale}"; choose "slaney" or "htk".')
    if mel_channels < 1:
        raise UsageError(f"mel_channels is {mel_channels}; give at least 1, such as 80.")
    if not 0.0 <= fmin < fmax <= highest:
        raise UsageError(
            f"fmin {fmin:g} Hz and fmax {fmax:g} Hz are no range; give 0 <= fmin < fmax <= {highest:g} Hz, "
            f"half the sample rate."
        )
    from librosa.filters import mel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of filters that lie between two bins
        # In float64, since librosa rounds twice in float32.
        filters = mel(
            sr=sample_rate, n_fft=n_fft, n_mels=mel_channels, fmin=fmin, fmax=fmax, htk=mel_scale == "htk",
            norm="slaney", dtype=np.float64,
        )  # fmt: skip
    return filters.astype(np.float32)


def log_mel(
    audio: np.ndarray,
    sample_rate: int,
    n_fft: int,
    win_length: int,
    hop_length: int,
    mel_channels: int,
) -> np.ndarray:
    """The mel spectrogram in dB: 10 log10 of the filtered power, never below -100.

    The floor does not move with the loudest frame, so that a clip and a piece of it agree.

    Returns:
        float32 [1 + samples // hop_length, mel_channels].

    Raises:
        UsageError, ValueError: as `power_spectrogram` and `mel_filters`.
    """
    filters = mel_filters(sample_rate, n_fft, mel_channels)
    power = power_spectrogram(audio, n_fft, win_length, hop_length)
    return 10.0 * np.log10(np.maximum(power @ filters.T, np.float32(LOG_FLOOR)))
