"""`tierwave.audio.lookback` for tensors: whole windows at once, and single steps."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from tierwave.audio.lookback import LEAST, OFFSETS, REACH, SHORTEST, WHOLE, compared, prices
from tierwave.audio.quantize import edges

_POINTS = tuple(range(1 - REACH, 1 + REACH))


def lags(values: tf.Tensor, period: float, octaves: float, limit: float) -> tf.Tensor:
    """Lags in samples, float32, as `tierwave.audio.lookback.lags`."""
    one = period * tf.exp((-octaves * math.log(2.0)) * tf.cast(values, tf.float64))
    lag = one * tf.maximum(tf.constant(1.0, tf.float64), tf.math.ceil(SHORTEST / one))
    return tf.cast(tf.where(lag > limit, tf.zeros_like(lag), lag), tf.float32)


def found_lags(codes: tf.Tensor, at: tf.Tensor, amplitudes: np.ndarray, limit: int) -> tf.Tensor:
    """Lags found in the sound before the places `at`, float32 `[batch, places]`: `tierwave.audio.lookback.found_lag`.

    codes: int32 `[batch, samples]`; at: int32 `[places]`. Correlations are computed by Fourier transforms and rounded
    to the whole numbers that they are, so that they are exact.
    """
    count = compared(limit)
    width = count + limit + 1
    whole = tf.gather(tf.constant(np.rint(amplitudes.astype(np.float64) * WHOLE)), codes)
    before = tf.gather(whole, at[:, None] - width + tf.range(width)[None], axis=1)  # [batch, places, width]
    size = [1 << (width - 1).bit_length()]
    spectra = tf.signal.rfft(before, size) * tf.math.conj(tf.signal.rfft(before[..., -count:], size))
    products = tf.reverse(tf.round(tf.signal.irfft(spectra, size)[..., : limit + 2]), [-1])
    squares = tf.cumsum(tf.pad(tf.square(before), [[0, 0], [0, 0], [1, 0]]), axis=-1)
    energies = tf.reverse(squares[..., count:] - squares[..., : limit + 2], [-1])
    scale = tf.sqrt(energies) * tf.sqrt(energies[..., :1])
    alike = tf.where(scale > 0.0, products / tf.where(scale > 0.0, scale, 1.0), 0.0)
    first = int(SHORTEST)
    here, left, right = alike[..., first:-1], alike[..., first - 1 : -2], alike[..., first + 1 :]
    is_peak = (here > left) & (here >= right) & (here > LEAST)
    score = tf.where(is_peak, here - prices(limit)[first:-1], -1.0)
    best = tf.argmax(score, axis=-1, output_type=tf.int32)

    def chosen(values: tf.Tensor) -> tf.Tensor:
        return tf.gather(values, best, batch_dims=2)

    bend = (chosen(left) - chosen(here)) + (chosen(right) - chosen(here))
    is_found = chosen(score) > -1.0
    between = 0.5 * (chosen(left) - chosen(right)) / tf.where(is_found, bend, 1.0)
    lag = tf.cast(best + first, tf.float64) + between
    return tf.cast(tf.where(is_found, lag, 0.0), tf.float32)


def past_codes(codes: tf.Tensor, at: tf.Tensor, lag: tf.Tensor, amplitudes: np.ndarray) -> tf.Tensor:
    """What stood one lag before the samples `at`, as codes int32 `[offsets, batch, time]`.

    codes: int32 `[batch, samples]`; at: int32 `[time]`, places in it; lag: float32 `[batch, time]`, of 0 any code comes
    back; amplitudes: float32 `[levels]`, of the codes. In float64 and in the order of `tierwave.engine.kernels`, so
    that both find the same code where the sound lies on an edge between two.
    """
    exact = tf.cast(tf.where(lag > 0.0, lag, SHORTEST), tf.float64)
    whole = tf.floor(exact)
    share = 1.0 - (exact - whole)
    last = at - tf.cast(whole, tf.int32) - 1  # the sample before the point
    weights = _interpolation(share)
    sound = tf.gather(tf.constant(amplitudes, tf.float64), codes)
    between, found = tf.constant(edges(amplitudes), tf.float64), []
    for offset in OFFSETS:
        total = tf.zeros_like(share)
        for point, weight in zip(_POINTS, weights, strict=True):
            total += weight * tf.gather(sound, last + (offset + point), batch_dims=1)
        flat = tf.reshape(total, [-1])
        found.append(tf.reshape(tf.searchsorted(between, flat, side="right"), tf.shape(lag)))
    return tf.stack(found)


def _interpolation(share: tf.Tensor) -> list[tf.Tensor]:
    """`tierwave.audio.lookback.interpolation`, one tensor for each of the eight samples, multiplied in the order of
    `tierwave.engine.kernels`."""
    a, b, c, d = share + 3.0, share + 2.0, share + 1.0, share
    e, f, g, h = share - 1.0, share - 2.0, share - 3.0, share - 4.0
    abc, fgh = a * b * c, f * g * h
    abcd, efgh = abc * d, e * fgh
    return [
        b * c * d * efgh / -5040.0,
        a * c * d * efgh / 720.0,
        a * b * d * efgh / -240.0,
        abc * efgh / 144.0,
        abcd * fgh / -144.0,
        abcd * e * g * h / 240.0,
        abcd * e * f * h / -720.0,
        abcd * e * f * g / 5040.0,
    ]
