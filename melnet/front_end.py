"""From sound to the numbers a spectrogram network learns, and back to log-mel: front end, its config, normalisation.

The front end is power, then mel, then logarithm, with centred frames, so that what it gives is librosa's
melspectrogram of the same sound. How sound is made of it again is `melnet.inversion`. Knows nothing of
networks, runs or files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from tierwave.audio.spectrogram import LOG_FLOOR, MelScale, frame_power, mel_filters, padded_window
from tierwave.config import StrictModel, Width
from tierwave.errors import RunError, UsageError
from tierwave.files.documents import STRICT, validated

if TYPE_CHECKING:
    import scipy.sparse

DB_PER_NAT = 10.0 / math.log(10.0)  # of power

_FRAMES_AT_A_TIME = 256
_DITHER_BLOCK = 1 << 14  # samples drawn from one generator; changing it changes the dither


class MelAudio(StrictModel):
    """The `audio` object of a spectrogram network's config.

    The default transform is longer than its window: under 256 channels a transform of 1536 samples has filters between
    its bins (see `filter_warnings`).
    """

    sample_rate: Annotated[int, Field(ge=100, le=768_000)] | None = Field(
        None, description="Hz the sound is resampled to; null: the corpus's"
    )
    n_fft: Annotated[int, Field(ge=2, le=1_000_000, multiple_of=2)] = Field(2048, description="samples per transform")
    win_length: Annotated[int, Field(ge=2, le=1_000_000)] = Field(1536, description="samples under the window")
    hop_length: Width = Field(256, description="samples from frame to frame")
    mel_channels: Annotated[int, Field(ge=1, le=65_536)] = Field(256, description="how many mel channels")
    fmin: Annotated[float, Field(ge=0, le=1e6)] = Field(0.0, description="Hz where the lowest channel begins")
    fmax: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        None, description="Hz where the highest channel ends; null: half the sample rate"
    )
    mel_scale: MelScale = Field("slaney", description="where the channels lie")
    normalise: Literal["corpus", "db"] = Field(
        "corpus",
        description="corpus: mean and deviation of the recordings; db: a fixed range of dB onto 0 to 1, clipped",
    )
    ref_level_db: Annotated[float, Field(ge=-1e4, le=1e4)] = Field(
        20.0, description="normalise db: the level that becomes 1"
    )
    min_level_db: Annotated[float, Field(ge=-1e4, lt=0)] = Field(
        -100.0, description="normalise db: the level that becomes 0, counted from ref_level_db"
    )
    dither_dbfs: Annotated[float, Field(le=0)] | None = Field(
        -90.0, description="level of the noise that is added before analysis; null adds none"
    )

    @model_validator(mode="after")
    def _possible(self) -> MelAudio:
        if self.win_length > self.n_fft:
            raise ValueError(
                f"win_length {self.win_length} is longer than n_fft {self.n_fft}; raise n_fft to "
                f"{1 << (self.win_length - 1).bit_length()}, or shorten the window"
            )
        if self.hop_length >= self.win_length:
            raise ValueError(
                f"hop_length {self.hop_length} leaves samples between windows of win_length {self.win_length}; "
                f"lower it to {max(1, self.win_length // 4)}"
            )
        if self.fmax is not None and self.fmin >= self.fmax:
            raise ValueError(f"fmin {self.fmin:g} Hz is not below fmax {self.fmax:g} Hz; lower fmin or raise fmax")
        if self.sample_rate is not None:
            self._check_range(self.sample_rate)
        return self

    def _check_range(self, sample_rate: int) -> None:
        half = sample_rate / 2
        if self.fmax is not None and self.fmax > half:
            raise ValueError(
                f"fmax {self.fmax:g} Hz is above {half:g} Hz, half the sample rate; lower it, or leave it out"
            )
        if self.fmin >= half:
            raise ValueError(f"fmin {self.fmin:g} Hz is not below {half:g} Hz, half the sample rate; lower it")

    @property
    def frame_rate(self) -> float | None:
        """Frames per second; None where the sample rate is the corpus's."""
        return None if self.sample_rate is None else self.sample_rate / self.hop_length


def filter_warnings(audio: MelAudio, sample_rate: int) -> list[str]:
    """What is wrong with the filter bank, one sentence each: channels that hear nothing, or nothing of their own.

    A channel narrower than the spacing of the bins falls between them and stands still at the floor; where channels
    depend linearly on each other, the network has to learn the dependence and the inversion cannot use them.
    """
    empty = int((_filters(audio, sample_rate).max(axis=1) <= 0.0).sum())
    rank = _rank(audio, sample_rate)
    channels = audio.mel_channels
    if rank == channels:
        return []
    found = (
        f"{empty} of the {channels} mel channels hear nothing"
        if empty
        else f"The {channels} mel channels are worth only {rank}, for some are sums of others"
    )
    fewer, too_many = 1, rank + 1
    while too_many - fewer > 1:
        middle = (fewer + too_many) // 2
        if _rank(audio, sample_rate, mel_channels=middle) == middle:
            fewer = middle
        else:
            too_many = middle
    finer = [audio.n_fft * factor for factor in (2, 4, 8)]
    enough = [n_fft for n_fft in finer if _rank(audio, sample_rate, n_fft=n_fft) == channels][:1]
    remedy = f"raise n_fft to {enough[0]} (win_length can stay), or lower" if enough else "lower"
    return [
        f"{found}, because they lie closer than the bins of n_fft {audio.n_fft} at {sample_rate} Hz: "
        f"{remedy} mel_channels to {fewer}."
    ]


def _rank(audio: MelAudio, sample_rate: int, **changed: int) -> int:
    return int(np.linalg.matrix_rank(_filters(audio.model_copy(update=changed), sample_rate)))


def _filters(audio: MelAudio, sample_rate: int) -> np.ndarray:
    return mel_filters(sample_rate, audio.n_fft, audio.mel_channels, audio.fmin, audio.fmax, audio.mel_scale)


class MelFrontEnd:
    """Log-mel spectrograms of sound at one sample rate, as a `MelAudio` describes them.

    Args:
        audio: the config.
        sample_rate: Hz of the sound.

    Attributes:
        window: float64 [n_fft], what a frame is multiplied with.
        filters: float32 [mel_channels, n_fft // 2 + 1].

    Raises:
        UsageError: the config asks for another sample rate, or for frequencies that there are none of at this one.
    """

    def __init__(self, audio: MelAudio, sample_rate: int) -> None:
        if audio.sample_rate not in (None, sample_rate):
            raise UsageError(
                f"audio.sample_rate is {audio.sample_rate} Hz, but the sound has {sample_rate} Hz; resample it, or "
                "leave audio.sample_rate out."
            )
        self.audio = audio
        self.sample_rate = sample_rate
        self.window = padded_window(audio.n_fft, audio.win_length)
        self.filters = _filters(audio, sample_rate)

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.audio.hop_length

    def frames(self, samples: int) -> int:
        """How many frames a sound of so many samples has."""
        return 1 + samples // self.audio.hop_length

    def analyse(
        self, sound: np.ndarray, *, seed: int | None = 0, start: int = 0, stop: int | None = None
    ) -> np.ndarray:
        """The natural logarithm of the power in each mel channel, never below ln 1e-10.

        Frame t is centred at sample t * hop_length, the sound reflected at its ends. Any frames alone are to the bit
        what they are among all, so a long recording can stay on disk and be analysed where it is needed.

        Args:
            sound: float [samples], at least one; an array in memory or mapped from a file.
            seed: of the dither; None adds none. The dither is a function of the seed and of the place in the sound.
            start, stop: the frames wanted, [start, stop); all of them when left out.

        Returns:
            float32 [stop - start, mel_channels].

        Raises:
            ValueError: the sound is not one channel of at least one floating-point sample, or has no such frames.
        """
        if sound.ndim != 1 or not len(sound) or not np.issubdtype(sound.dtype, np.floating):
            raise ValueError(f"floating-point [samples] are needed, not {sound.dtype} of shape {sound.shape}.")
        stop = self.frames(len(sound)) if stop is None else stop
        if not 0 <= start <= stop <= self.frames(len(sound)):
            raise ValueError(f"frames {start} to {stop} are not among the {self.frames(len(sound))} of the sound.")
        log_mel = np.empty((stop - start, self.audio.mel_channels), np.float32)
        for first in range(start, stop, _FRAMES_AT_A_TIME):
            last = min(stop, first + _FRAMES_AT_A_TIME)
            log_mel[first - start : last - start] = self._log_mel(sound, seed, first, last)
        return log_mel

    def _log_mel(self, sound: np.ndarray, seed: int | None, first: int, last: int) -> np.ndarray:
        n_fft, hop = self.audio.n_fft, self.audio.hop_length
        places = np.arange(first * hop - n_fft // 2, (last - 1) * hop + n_fft // 2)
        if places[0] < 0 or places[-1] >= len(sound):
            places = reflected(places, len(sound))
        low, high = int(places.min()), int(places.max()) + 1
        piece = np.asarray(sound[low:high], np.float64)
        if seed is not None and self.audio.dither_dbfs is not None:
            piece = piece + 10.0 ** (self.audio.dither_dbfs / 20.0) * _noise(seed, low, high)
        frames = np.lib.stride_tricks.sliding_window_view(piece[places - low], n_fft)[::hop]
        # Not a dense product: how that one sums depends on the number of frames.
        mel = self._bins_to_channels @ frame_power(frames, self.window).T
        return np.log(np.maximum(mel.T, LOG_FLOOR))

    @cached_property
    def _bins_to_channels(self) -> scipy.sparse.csr_array:
        import scipy.sparse

        return scipy.sparse.csr_array(self.filters.astype(np.float64))


def reflected(places: np.ndarray, samples: int) -> np.ndarray:
    """Where in a sound of so many samples lies what is heard at `places` when it is reflected at its ends, the end
    samples not repeated, as often as needed."""
    period = max(1, 2 * (samples - 1))
    folded = places % period
    return np.minimum(folded, period - folded) if samples > 1 else folded


def _noise(seed: int, start: int, stop: int) -> np.ndarray:
    """Normal deviates of the samples from start to stop, the same however they are asked for."""
    blocks = range(start // _DITHER_BLOCK, (stop - 1) // _DITHER_BLOCK + 1)
    drawn = [np.random.default_rng([seed, block]).standard_normal(_DITHER_BLOCK) for block in blocks]
    offset = blocks.start * _DITHER_BLOCK
    return np.concatenate(drawn)[start - offset : stop - offset]


@dataclass(frozen=True)
class _Stored:
    """What a run keeps of a `Normaliser`; no sound has so many nats."""

    __pydantic_config__ = STRICT
    offset: Annotated[list[Annotated[float, Field(ge=-1e4, le=1e4)]], Field(min_length=1)]
    scale: Annotated[float, Field(gt=0, le=1e4)]
    clip: bool


@dataclass(frozen=True)
class Normaliser:
    """Log-mel to what the network sees, and back: (log_mel - offset) / scale, where `clip` is set within 0 to 1.

    offset: nats of each channel, float64 [channels] or [1]
    scale: nats, one for all channels, so that quiet channels do not count as much as loud ones
    """

    offset: np.ndarray
    scale: float
    clip: bool = False

    @classmethod
    def fit(cls, log_mels: Iterable[np.ndarray]) -> Normaliser:
        """The mean of each channel and the common standard deviation about them, of the training recordings.

        Args:
            log_mels: [frames, channels] each, taken one at a time (Chan, Golub & LeVeque 1983).

        Raises:
            RunError: there are no frames, or all are the same.
        """
        count, mean, squares = 0, np.zeros(1), np.zeros(1)
        for log_mel in log_mels:
            if not len(log_mel):
                continue
            piece = np.asarray(log_mel, np.float64)
            piece_mean = piece.mean(axis=0)
            apart = piece_mean - mean
            total = count + len(piece)
            squares = (
                squares + np.square(piece - piece_mean).sum(axis=0) + np.square(apart) * (count * len(piece) / total)
            )
            mean = mean + apart * (len(piece) / total)
            count = total
        if not count:
            raise RunError("there are no frames to normalise by: give at least one recording to train on.")
        scale = float(np.sqrt(squares.mean() / count))
        if not scale > 1e-6:
            raise RunError(
                f"all {count} frames are the same, so there is nothing to learn: give recordings that are not silent."
            )
        return cls(mean, scale)

    @classmethod
    def decibels(cls, ref_level_db: float = 20.0, min_level_db: float = -100.0) -> Normaliser:
        """clip((dB - ref_level_db - min_level_db) / -min_level_db, 0, 1), as MelNet-SpeechGeneration has it."""
        return cls(np.array([(ref_level_db + min_level_db) / DB_PER_NAT]), -min_level_db / DB_PER_NAT, clip=True)

    @classmethod
    def of(cls, audio: MelAudio, log_mels: Iterable[np.ndarray]) -> Normaliser:
        """What the config asks for; `log_mels` as in `fit`, untouched where they are not needed."""
        if audio.normalise == "db":
            return cls.decibels(audio.ref_level_db, audio.min_level_db)
        return cls.fit(log_mels)

    def normalise(self, log_mel: np.ndarray) -> np.ndarray:
        """float32 [..., channels] for the network."""
        normalised = (log_mel - self.offset) / self.scale
        return (normalised.clip(0.0, 1.0) if self.clip else normalised).astype(np.float32)

    def denormalise(self, normalised: np.ndarray) -> np.ndarray:
        """Log-mel, float32 [..., channels]; the inverse of `normalise`, but for what that has clipped."""
        normalised = np.asarray(normalised, np.float64)
        if self.clip:
            normalised = normalised.clip(0.0, 1.0)
        return (normalised * self.scale + self.offset).astype(np.float32)

    @property
    def nats_per_db_offset(self) -> float:
        """What to add to nats per normalised element to have nats per dB, which runs of any normalisation share."""
        return math.log(self.scale * DB_PER_NAT)

    def to_document(self) -> dict[str, Any]:
        """As JSON values; `from_document` makes the same normaliser of them."""
        return {"offset": self.offset.tolist(), "scale": self.scale, "clip": self.clip}

    @classmethod
    def from_document(cls, document: Mapping[str, Any], channels: int | None = None) -> Normaliser:
        """Raises RunError where the document is not one that `to_document` has written, or of another number of
        channels."""
        try:
            stored: _Stored = validated(_Stored, document)
            if channels is not None and len(stored.offset) not in (1, channels):
                raise ValueError(f"offset: it is of {len(stored.offset)} channels, and there are {channels}")
        except ValueError as error:
            raise RunError(
                f"the normalisation of the spectrograms cannot be read ({error}): take the run's file from a backup."
            ) from error
        return cls(np.array(stored.offset), stored.scale, stored.clip)
