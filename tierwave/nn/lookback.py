"""`tierwave.audio.lookback` for tensors: whole windows at once, and single steps."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from tierwave.audio.lookback import OFFSETS, REACH, SHORTEST, edges

_POINTS = tuple(range(1 - REACH, 1 + REACH))


def lags(values: tf.Tensor, period: float, octaves: float, limit: float) -> tf.Tensor:
    """Lags in samples, float32, as `tierwave.audio.lookback.lags`."""
    one = period * tf.exp((-octaves * math.log(2.0)) * tf.cast(values, tf.float64))
    lag = one * tf.maximum(tf.constant(1.0, tf.float64), tf.math.ceil(SHORTEST / one))
    return tf.cast(tf.where(lag > limit, tf.zeros_like(lag), lag), tf.float32)


def past_codes(codes: tf.Tensor, at: tf.Tensor, lag: tf.Tensor, amplitudes: np.ndarray) -> tf.Tensor:
    """What stood one lag before the samples `at`, as codes int32 `[offsets, batch, time]`.

    codes: int32 `[batch, samples]`; at: int32 `[time]`, places in it; lag: float32 `[batch, time]`, of 0 any code comes
    back; amplitudes: float32 `[levels]`, of the codes. In float64, so that all runtimes find the same codes.
    """
    exact = tf.cast(tf.maximum(lag, SHORTEST), tf.float64)
    whole = tf.floor(exact)
    share = 1.0 - (exact - whole)
    last = at - tf.cast(whole, tf.int32) - 1  # the sample before the point
    weights = [
        tf.math.add_n([tf.zeros_like(share)])
        + math.prod(((share - other) / (point - other) for other in _POINTS if other != point), start=1.0)
        for point in _POINTS
    ]
    sound = tf.gather(tf.constant(amplitudes, tf.float64), codes)
    between, found = tf.constant(edges(amplitudes), tf.float64), []
    for offset in OFFSETS:
        total = tf.zeros_like(share)
        for point, weight in zip(_POINTS, weights, strict=True):
            total += weight * tf.gather(sound, last + (offset + point), batch_dims=1)
        flat = tf.reshape(total, [-1])
        found.append(tf.reshape(tf.searchsorted(between, flat, side="right"), tf.shape(lag)))
    return tf.stack(found)
