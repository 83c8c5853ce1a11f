"""From a log-mel spectrogram back to sound: magnitudes, phases, Griffin-Lim, then the waveform itself by gradient.

Everything goes through the same window, frames and filters as `melnet.front_end.MelFrontEnd`, in NumPy and SciPy.
Nothing is drawn at random: the same spectrogram gives the same sound. Knows nothing of networks or files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import scipy.fft
import scipy.optimize
import scipy.sparse

from melnet.front_end import MelAudio, MelFrontEnd, reflected
from tierwave.errors import UsageError

Inversion = Literal["griffin_lim", "gradient"]
Progress = Callable[[int, int], None]

COMPRESSION = 0.25  # exponent of mel power that the gradient compares: near loudness

_TINY = np.finfo(np.float32).tiny  # in place of 0 as a divisor
_FIT_STEPS = 30
_RENEWED = np.float32(0.9)  # share of the magnitudes' power that an iteration of Griffin-Lim takes from the last
_NATS_BELOW_PEAK = 60.0  # what is quieter than this is no longer told apart; keeps float32 far from its ends
_HANN_AS_GAUSSIAN = 0.25645  # squared width of the Gaussian nearest to a Hann window of length 1 (Prusa et al. 2017)


def invert(
    log_mel: np.ndarray,
    front_end: MelFrontEnd,
    *,
    method: Inversion = "gradient",
    iterations: int = 100,
    refinement: int = 100,
    momentum: float = 0.99,
    samples: int | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """A sound whose spectrogram is near `log_mel`.

    Magnitudes come from the channels (`MelInverse`), first phases from the magnitudes (`integrated_phase`), both then
    from each other (`griffin_lim`); "gradient" goes on from there with the waveform itself (`refine`; Decorsiere et
    al. 2015). A minute of sound at 22 kHz with a hop of 256 takes some 500 MB.

    Args:
        log_mel: float [frames, channels], as `MelFrontEnd.analyse` gives it: natural logarithms of power.
        front_end: what the spectrogram was, or would have been, made with.
        method: "griffin_lim", or "gradient" after it.
        iterations: of Griffin-Lim; 0 leaves the first phases.
        refinement: iterations of the gradient.
        momentum: of fast Griffin-Lim; 0 is the one of 1984.
        samples: length of the sound; (frames - 1) * hop_length when left out.
        progress: called with iterations done and in all.

    Returns:
        float32 [samples], at the level the spectrogram says, which may go beyond 1.

    Raises:
        UsageError: an unknown method, or numbers out of range.
        ValueError: not [frames, channels] of finite numbers, or a length that does not have so many frames.
    """
    if method not in get_args(Inversion):
        raise UsageError(f'the inversion is "{method}"; choose "griffin_lim" or "gradient".')
    if iterations < 0 or refinement < 0:
        raise UsageError(f"{min(iterations, refinement)} iterations cannot be made; give 0 or more.")
    if not 0.0 <= momentum <= 1.0:
        raise UsageError(f"momentum is {momentum:g}; give 0 to 1, such as 0.99.")
    log_mel = np.asarray(log_mel)
    channels = front_end.audio.mel_channels
    if log_mel.ndim != 2 or not len(log_mel) or log_mel.shape[1] != channels:
        raise ValueError(f"a spectrogram of [frames, {channels}] is needed, not {log_mel.shape}.")
    if not np.isfinite(log_mel).all():
        raise ValueError("the spectrogram holds NaN or infinity.")

    transform = Transform(front_end, len(log_mel), samples)
    bank = MelInverse(front_end.filters)
    peak = float(log_mel.max())
    mel = np.exp(np.maximum(log_mel.astype(np.float64) - peak, -_NATS_BELOW_PEAK)).astype(np.float32)
    total = iterations + (refinement if method == "gradient" else 0)

    def tell(done: int) -> None:
        if progress is not None:
            progress(done, total)

    sound = griffin_lim(mel, transform, bank, iterations, momentum, tell)
    if method == "gradient":
        sound = refine(sound, mel, transform, bank, refinement, lambda done: tell(iterations + done))
    return (sound * np.exp(peak / 2.0)).astype(np.float32)


class Transform:
    """The front end's short-time Fourier transform of sounds of one length, its inverse and its adjoint.

    Args:
        front_end: gives window and hop.
        frames: how many there are.
        samples: of the sound; (frames - 1) * hop_length when left out.

    Raises:
        ValueError: a sound of so many samples does not have so many frames.
    """

    def __init__(self, front_end: MelFrontEnd, frames: int, samples: int | None = None) -> None:
        self.audio: MelAudio = front_end.audio
        hop = self.audio.hop_length
        if samples is None:
            samples = max(1, (frames - 1) * hop if frames > 1 else hop - 1)
        if samples < 1 or front_end.frames(samples) != frames:
            raise ValueError(
                f"{samples} samples do not have {frames} frames; ask for {max(1, (frames - 1) * hop)} to "
                f"{frames * hop - 1} samples."
            )
        self.frames, self.samples = frames, samples
        self._half = self.audio.n_fft // 2
        self._window = front_end.window.astype(np.float32)
        squares = self._overlap_add(np.broadcast_to(np.square(self._window), (frames, self.audio.n_fft)))
        heard = squares > 1e-6
        self._weights = np.where(heard, 1.0 / np.where(heard, squares, 1.0), 0.0).astype(np.float32)

    def forward(self, sound: np.ndarray) -> np.ndarray:
        """complex64 [frames, bins] of float32 [samples]."""
        padded = sound[reflected(np.arange(-self._half, self.samples + self._half), self.samples)]
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.audio.n_fft)[:: self.audio.hop_length]
        return scipy.fft.rfft(frames * self._window)

    def inverse(self, spectrum: np.ndarray) -> np.ndarray:
        """The sound float32 [samples] whose frames are nearest to those of `spectrum` (Griffin & Lim 1984)."""
        sound = self._overlap_add(scipy.fft.irfft(spectrum, self.audio.n_fft) * self._window) * self._weights
        return sound[self._half : self._half + self.samples]

    def gradient(self, spectrum: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """What a change of each sample, float32 [samples], changes in a loss.

        Args:
            spectrum: `forward` of the sound.
            slope: float32 [frames, bins], what a change of the power |spectrum|^2 changes in the loss.
        """
        turned = spectrum * (slope * np.float32(self.audio.n_fft))
        turned[:, [0, -1]] *= 2.0  # the inverse transform counts every bin between these twice
        padded = self._overlap_add(scipy.fft.irfft(turned, self.audio.n_fft) * self._window)
        inside = slice(self._half, self._half + self.samples)
        gradient = padded[inside].copy()
        places = reflected(np.arange(-self._half, self.samples + self._half), self.samples)
        for edge in (slice(None, inside.start), slice(inside.stop, None)):
            np.add.at(gradient, places[edge], padded[edge])
        return gradient

    def _overlap_add(self, frames: np.ndarray) -> np.ndarray:
        """The sum of frames [frames, n_fft] each at its place, float32 [samples + n_fft]."""
        hop, n_fft = self.audio.hop_length, self.audio.n_fft
        hops = -(-n_fft // hop)
        whole = np.zeros((self.frames, hops * hop), np.float32)
        whole[:, :n_fft] = frames
        pieces = whole.reshape(self.frames, hops, hop)
        summed = np.zeros((self.frames + hops, hop), np.float32)
        for shift in range(hops):
            summed[shift : shift + self.frames] += pieces[:, shift]
        return summed.reshape(-1)[: self.samples + n_fft]


class MelInverse:
    """From mel channels to bins: non-negative least squares for all frames at once.

    Every channel's error is weighted by one over its power, since otherwise the loudest channels are all that is
    fitted. The update multiplies (Lee & Seung 2001; each step lowers the error, and power stays positive). There are
    fewer channels than bins, so many spectra fit; the one that is found lies near where it began, and a start in which
    each channel's power is spread over its bins is nearer to real spectra than the pseudo-inverse, clipped.

    Args:
        filters: float32 [channels, bins].
    """

    def __init__(self, filters: np.ndarray) -> None:
        self._to_bins = scipy.sparse.csr_array(filters)
        self._to_channels = scipy.sparse.csr_array(filters.T)
        self._width = np.maximum(filters.sum(axis=1), _TINY)
        self._weight = filters.sum(axis=0)  # 0 for a bin that no channel hears, in which then nothing is made

    def channels(self, power: np.ndarray) -> np.ndarray:
        """Mel power [frames, channels] of power [frames, bins]."""
        return power @ self._to_channels

    def bins(self, channels: np.ndarray) -> np.ndarray:
        """The transposed map, [frames, channels] to [frames, bins]."""
        return channels @ self._to_bins

    def spread(self, mel: np.ndarray) -> np.ndarray:
        """Power [frames, bins] as if it were even within each channel of mel power [frames, channels]."""
        return self.bins(mel / self._width) / np.maximum(self._weight, _TINY)

    def fit(self, mel: np.ndarray, power: np.ndarray | None = None, steps: int = _FIT_STEPS) -> np.ndarray:
        """Power, float32 [frames, bins] and never negative, whose channels are nearest to `mel`.

        Args:
            mel: float32 [frames, channels], positive.
            power: where to begin; `spread` when left out.
            steps: how many updates.
        """
        power = self.spread(mel) if power is None else power
        for _ in range(steps):
            found = self.bins(self.channels(power) / mel)
            power = power * (self._weight / np.maximum(found, _TINY))
        return power


def integrated_phase(magnitude: np.ndarray, audio: MelAudio) -> np.ndarray:
    """Phases [frames, bins] to begin with, from magnitudes [frames, bins] alone.

    Under a Gaussian window the phase's derivatives over time and frequency are those of the log magnitude over
    frequency and time (Portnoff 1979); the Hann window is nearly one. They are integrated over time along the peaks,
    and over frequency from each peak to the bins about it, as in single-pass inversion (Beauregard et al. 2015) with
    the gradients of Prusa et al. (2017). All begin at 0.
    """
    frames, bins = magnitude.shape
    loudness = np.log(np.maximum(magnitude.astype(np.float64), max(1e-7 * float(magnitude.max()), 1e-30)))
    width = _HANN_AS_GAUSSIAN * audio.win_length**2
    over_bins = np.gradient(loudness, axis=1)
    over_frames = np.gradient(loudness, axis=0) if frames > 1 else np.zeros_like(loudness)
    every = np.arange(bins)
    advance = audio.hop_length * (2.0 * np.pi * every / audio.n_fft + audio.n_fft / width * over_bins)
    slope = -width / (audio.n_fft * audio.hop_length) * over_frames
    climb = np.zeros_like(slope)
    np.cumsum((slope[:, 1:] + slope[:, :-1]) / 2.0, axis=1, out=climb[:, 1:])

    phase = np.zeros_like(loudness)
    current = np.zeros(bins)
    for frame in range(frames):
        if frame:
            current = current + (advance[frame - 1] + advance[frame]) / 2.0
        rising = np.diff(loudness[frame]) > 0.0
        peaks = np.flatnonzero(np.append(True, rising) & np.append(~rising, True))
        nearest = peaks[np.searchsorted((peaks[1:] + peaks[:-1] + 1) // 2, every, side="right")]
        current = current[nearest] + climb[frame] - climb[frame, nearest]
        phase[frame] = current
    return phase + np.pi * every  # frames are transformed from their first sample, not from their centre


def griffin_lim(
    mel: np.ndarray,
    transform: Transform,
    bank: MelInverse,
    iterations: int,
    momentum: float,
    progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Fast Griffin-Lim (Perraudin, Balazs & Sondergaard 2013): float32 [samples] of mel power [frames, channels].

    Unlike the original, the magnitudes are not held: each iteration fits them to the channels anew, beginning with what
    the sound of the last one has, so that neighbouring frames settle what the channels leave open.
    """
    fitted = bank.fit(mel)
    magnitude = np.sqrt(fitted)
    spectrum = magnitude * np.exp(1j * integrated_phase(magnitude, transform.audio)).astype(np.complex64)
    before: np.ndarray | None = None
    for iteration in range(iterations):
        rebuilt = transform.forward(transform.inverse(spectrum))
        power = np.square(rebuilt.real) + np.square(rebuilt.imag)
        # Some of the first fit stays, for multiplying cannot raise what a bad phase has once cancelled, and a few broad
        # channels leave so much open that the magnitudes would wander off.
        magnitude = np.sqrt(bank.fit(mel, _RENEWED * power + (1.0 - _RENEWED) * fitted, steps=1))
        spectrum = rebuilt if before is None else rebuilt - np.float32(momentum / (1.0 + momentum)) * before
        spectrum = spectrum * (magnitude / np.maximum(np.abs(spectrum), _TINY))
        before = rebuilt
        progress(iteration + 1)
    return transform.inverse(spectrum)


def mel_error(sound: np.ndarray, mel: np.ndarray, transform: Transform, bank: MelInverse) -> tuple[float, np.ndarray]:
    """The mean squared error of compressed mel power, and its gradient float32 [samples].

    Compressed, for otherwise the loudest channels are all that counts; by a power and not by the logarithm, which
    would care as much for what lies under the noise.

    Args:
        sound: float32 [samples].
        mel: float32 [frames, channels] wanted, at most 1.
    """
    spectrum = transform.forward(sound)
    floor = np.float32(1e-10)
    found = bank.channels(np.square(spectrum.real) + np.square(spectrum.imag)) + floor
    compressed = found**COMPRESSION
    error = compressed - (mel + floor) ** COMPRESSION
    slope = error * (compressed / found) * np.float32(2.0 * COMPRESSION / error.size)
    return float(np.mean(np.square(error), dtype=np.float64)), transform.gradient(spectrum, bank.bins(slope))


def refine(
    sound: np.ndarray,
    mel: np.ndarray,
    transform: Transform,
    bank: MelInverse,
    iterations: int,
    progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """A sound near `sound`, float32 [samples], with a smaller `mel_error`, by L-BFGS."""
    level = float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))
    if not iterations or not level > 0.0:
        return sound
    done = 0

    def scaled_error(scaled: np.ndarray) -> tuple[float, np.ndarray]:
        error, gradient = mel_error((level * scaled).astype(np.float32), mel, transform, bank)
        return error, level * gradient.astype(np.float64)

    def tell(_: np.ndarray) -> None:
        nonlocal done
        done += 1
        progress(done)

    # The first step is one of unit length, which is small against a sound at unit level.
    found = scipy.optimize.minimize(
        scaled_error,
        sound.astype(np.float64) / level,
        jac=True,
        method="L-BFGS-B",
        callback=tell,
        options={"maxiter": iterations, "maxfun": 20 * iterations, "ftol": 0.0, "gtol": 0.0},
    )
    return (level * found.x).astype(np.float32)
