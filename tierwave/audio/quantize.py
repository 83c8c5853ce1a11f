"""Audio amplitudes to integer codes and back: mu-law, a-law and linear, with any number of levels.

The rules are PRiSM SampleRNN's: a code is the companded amplitude, clipped and rounded. NumPy and TensorFlow give the
same codes; TensorFlow is imported only for tensors, so that preparing data does not load it.

With mu = levels - 1, x an amplitude and c its code:

    mu-law   c = int((F(x) + 1) / 2 * mu + 0.5),  F(x) = sign(x) ln(1 + mu |x|) / ln(1 + mu)
    a-law    the same with G.711's F(x) = sign(x) A|x| / (1 + ln A) below |x| = 1/A, sign(x) (1 + ln A|x|) / (1 + ln A)
             above, A = 87.6
    linear   c = int((x + 1) / 2 * (levels - eps) + eps / 2),  eps = 1e-5;  back: x = c / (levels / 2) - 1
    mu-law-floor   c = int((F(x) + 1) / 2 * mu) with mu-law's F, as MTCRNN rounds; only for MTCRNN's weights. A code is
             decoded to the middle of its cell, without MTCRNN's offset

PRiSM's linear pair is no round trip: for c > levels / 2 the decoded amplitude lies up to eps / levels below the lower
edge of the cell of c, and is encoded as c - 1. Here such a value is raised to the first float32 in the cell, less than
one rounding step of float32 away at 256 levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from tierwave.errors import UsageError

if TYPE_CHECKING:
    import tensorflow as tf

QuantizerType = Literal["mu-law", "a-law", "linear", "mu-law-floor"]

A_LAW = 87.6
LINEAR_MARGIN = 1e-5
_CHUNK = 1 << 18  # samples at a time: their float64 intermediates stay in the cache


@dataclass(frozen=True)
class Quantizer:
    """A codec between amplitudes in [-1, 1] and codes in [0, levels).

    `encode(decode(codes))` gives back every code, for every type and number of levels.

    Raises:
        UsageError: an unknown type or a number of levels outside 2 to 65536.
    """

    q_type: QuantizerType
    levels: int

    def __post_init__(self) -> None:
        if self.q_type not in get_args(QuantizerType):
            known = ", ".join(f'"{name}"' for name in get_args(QuantizerType))
            raise UsageError(f'q_type is "{self.q_type}", which is no quantiser; choose one of {known}.')
        if not isinstance(self.levels, (int, np.integer)) or isinstance(self.levels, bool):
            raise UsageError(f"q_levels is {self.levels!r}; give a whole number from 2 to 65536, such as 256.")
        if not 2 <= self.levels <= 65536:
            raise UsageError(f"q_levels is {self.levels}; give a number from 2 to 65536, such as 256.")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned type that holds every code."""
        return np.dtype(np.uint8 if self.levels <= 256 else np.uint16)

    @property
    def silence(self) -> int:
        """The code of amplitude 0.0."""
        return (self.levels - 1) // 2 if self.q_type == "mu-law-floor" else self.levels // 2

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """Codes of floating-point audio of any shape; what lies outside [-1, 1] is clipped.

        Raises:
            ValueError: the audio is not floating point, or holds NaN.
        """
        audio = np.asarray(audio)
        if not np.issubdtype(audio.dtype, np.floating):
            raise ValueError(f"encode() takes floating-point audio in [-1, 1], not {audio.dtype}; scale it first.")
        flat = audio.reshape(-1)
        codes = np.empty(flat.shape, self.dtype)
        for start in range(0, len(flat), _CHUNK):
            chunk = flat[start : start + _CHUNK].astype(np.float64)
            np.clip(chunk, -1.0, 1.0, out=chunk)
            missing = np.isnan(chunk)
            if missing.any():
                first = start + int(missing.argmax())
                raise ValueError(f"the audio holds NaN (first at sample {first}), which has no code; repair the audio.")
            codes[start : start + _CHUNK] = self._position(chunk, np)
        return codes.reshape(audio.shape)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The float32 amplitudes of integer codes of any shape.

        Raises:
            ValueError: the codes are not integers, or one is outside [0, levels).
        """
        codes = np.asarray(codes)
        if not np.issubdtype(codes.dtype, np.integer):
            raise ValueError(f"decode() takes integer codes, not {codes.dtype}.")
        if codes.size and not (codes.min() >= 0 and codes.max() < self.levels):
            raise ValueError(
                f"codes run from {codes.min()} to {codes.max()}, but this {self.q_type} quantiser has {self.levels} "
                f"levels (0 to {self.levels - 1}); decode them with the quantiser that made them."
            )
        return self._table[codes]

    def table(self) -> np.ndarray:
        """The decoded amplitude of every code, float32 [levels], rising."""
        return self._table.copy()

    def encode_tensor(self, audio: tf.Tensor) -> tf.Tensor:
        """int32 codes of a tensor of audio, in graphs and under XLA too; equal to `encode`.

        Both compute in float64, where the two libraries differ by some 1e-16: no float32 amplitude lies that near to
        the edge of a cell without lying on it. NaN raises InvalidArgumentError, or under XLA becomes silence.
        """
        import tensorflow as tf

        audio = tf.clip_by_value(tf.cast(audio, tf.float64), -1.0, 1.0)
        audio = tf.debugging.check_numerics(audio, "the audio holds NaN, which has no code")
        audio = tf.where(tf.math.is_nan(audio), tf.zeros_like(audio), audio)
        return tf.cast(self._position(audio, tf.math), tf.int32)

    def decode_tensor(self, codes: tf.Tensor) -> tf.Tensor:
        """The float32 amplitudes of a tensor of integer codes, from the same table as `decode`."""
        import tensorflow as tf

        return tf.gather(tf.constant(self._table), tf.cast(codes, tf.int32))

    def _position(self, audio: Any, maths: Any) -> Any:
        """The code of clipped float64 amplitudes, before it is cut to a whole number; `maths` is numpy or tf.math."""
        if self.q_type == "linear":
            # PRiSM's formula, multiplied out, is exact at 0.0, which lies on the edge of a cell.
            return self.levels / 2 + audio * ((self.levels - LINEAR_MARGIN) / 2)
        mu = self.levels - 1
        size = maths.abs(audio)
        if self.q_type in ("mu-law", "mu-law-floor"):
            companded = maths.log1p(mu * size) / np.log1p(mu)
        else:
            # Below 1/A the logarithm is held at its value there, ln 1 = 0: the sum of both parts is the a-law.
            bend = 1.0 / A_LAW
            companded = (maths.minimum(size, bend) * A_LAW + maths.log(maths.maximum(size, bend) * A_LAW)) / (
                1.0 + np.log(A_LAW)
            )
        # The small addend keeps full scale in its cell where a library's logarithm is off in the last bit.
        rounding = 1e-9 if self.q_type == "mu-law-floor" else 0.5
        return (maths.sign(audio) * companded + 1.0) / 2 * mu + rounding

    @cached_property
    def _table(self) -> np.ndarray:
        codes = np.arange(self.levels)
        mu = self.levels - 1
        if self.q_type == "linear":
            edges = (codes - self.levels / 2) / ((self.levels - LINEAR_MARGIN) / 2)
            table = np.maximum(codes / (self.levels / 2) - 1.0, edges).astype(np.float32)
            below = self.encode(table) < codes  # rounding to float32 may leave the cell again
            table[below] = np.nextafter(table[below], np.float32(2.0))
        else:
            middle = np.minimum(codes + 0.5, mu) if self.q_type == "mu-law-floor" else codes
            y = 2.0 * middle / mu - 1.0
            if self.q_type in ("mu-law", "mu-law-floor"):
                size = np.expm1(np.abs(y) * np.log1p(mu)) / mu
            else:
                stretched = np.abs(y) * (1.0 + np.log(A_LAW))
                size = np.where(stretched < 1.0, stretched, np.exp(stretched - 1.0)) / A_LAW
            table = (np.sign(y) * size).astype(np.float32)
        table.flags.writeable = False
        return table


def edges(amplitudes: np.ndarray) -> np.ndarray:
    """Half way between the rising amplitudes of the codes, `[levels - 1]`: the code of x is how many are <= x."""
    return np.asarray((amplitudes[1:].astype(np.float64) + amplitudes[:-1]) / 2, np.float32)
