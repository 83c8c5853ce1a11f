"""`tierwave.audio.prediction` for tensors: whole windows at once, and single steps. Sums are added up in the order of
`tierwave.engine.kernels`, so that both find the same codes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tierwave.audio.prediction import ERRORS, LEAST, NOISE, ORDER, WIDENING, WINDOW, early, scale_edges, window
from tierwave.audio.quantize import edges


class Prediction(NamedTuple):
    """What one sample hands to the next: coefficients float32 `[batch, ORDER]`, that of the newest sample first; the
    errors of the last predictions `[batch, ERRORS]`, oldest first; the last prediction `[batch]`, whose error is not
    known yet."""

    coefficients: tf.Tensor
    errors: tf.Tensor
    expected: tf.Tensor


def fitted(codes: tf.Tensor, at: tf.Tensor, amplitudes: np.ndarray) -> tf.Tensor:
    """Coefficients float32 `[batch, places, ORDER]`, fitted to the sound before the places `at` by Levinson and Durbin.

    codes: int32 `[batch, samples]`; at: int32 `[places]`; amplitudes: float32 `[levels]`, of the codes.
    """
    sound = tf.gather(tf.constant(amplitudes, tf.float64), codes)
    frames = tf.gather(sound, at[:, None] - WINDOW + tf.range(WINDOW)[None], axis=1) * window()
    correlation = tf.stack(
        [tf.reduce_sum(frames[..., lag:] * frames[..., : WINDOW - lag], axis=-1) for lag in range(ORDER + 1)], axis=-1
    )
    lags = tf.range(ORDER)

    def extend(step: tf.Tensor, found: tf.Tensor, error: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """From coefficients of order `step` to those of the next."""
        before = tf.cast(lags < step, tf.float64)
        mirrored = tf.gather(found, tf.maximum(step - 1 - lags, 0), axis=-1) * before
        shifted = tf.gather(correlation, tf.maximum(step - lags, 0), axis=-1) * before
        reflection = (correlation[..., step + 1] - tf.reduce_sum(found * shifted, axis=-1)) / error
        newest = tf.cast(tf.equal(lags, step), tf.float64) * reflection[..., None]
        return step + 1, found - reflection[..., None] * mirrored + newest, error * (1.0 - reflection * reflection)

    first = (tf.constant(0), tf.zeros_like(correlation[..., 1:]), correlation[..., 0] * (1.0 + NOISE) + LEAST)
    found = tf.while_loop(lambda step, *_: step < ORDER, extend, first, maximum_iterations=ORDER)[1]
    return tf.cast(found * WIDENING ** np.arange(1.0, ORDER + 1.0), tf.float32)


def predicted(
    codes: tf.Tensor, first: int, coefficients: tf.Tensor, amplitudes: np.ndarray
) -> tuple[tf.Tensor, tf.Tensor]:
    """The predictions float32 `[batch, time]` of the samples from `first` on in codes `[batch, samples]`, and these
    samples, as far as there are any; coefficients: `[batch, time, ORDER]`."""
    time = coefficients.shape[1]
    sound = tf.gather(tf.constant(amplitudes), codes)
    exact, weights = tf.cast(sound, tf.float64), tf.cast(coefficients, tf.float64)
    total = tf.zeros_like(weights[..., 0])
    for back in range(ORDER):
        total += weights[..., back] * exact[:, first - 1 - back : first - 1 - back + time]
    return tf.cast(tf.clip_by_value(total, -1.0, 1.0), tf.float32), sound[:, first : first + time]


def told(expected: tf.Tensor, errors: tf.Tensor, amplitudes: np.ndarray) -> tf.Tensor:
    """Two codes int32 `[2, batch, time]`: of predictions `[batch, time]`, and of how large the ERRORS errors before
    each were; errors: `[batch, ERRORS + time - 1]`."""
    time = expected.shape[1]
    squares = tf.square(tf.cast(errors, tf.float64))
    total = tf.zeros_like(squares[:, :time])
    for index in range(ERRORS):
        total += squares[:, index : index + time]
    mean = tf.cast(total / ERRORS, tf.float32)
    return tf.stack([_codes(expected, edges(amplitudes)), _codes(mean, scale_edges(len(amplitudes)))])


def _codes(values: tf.Tensor, between: np.ndarray) -> tf.Tensor:
    flat = tf.searchsorted(tf.constant(between), tf.reshape(values, [-1]), side="right")
    return tf.reshape(flat, tf.shape(values))


def of_window(codes: tf.Tensor, overlap: int, step: int, amplitudes: np.ndarray) -> tf.Tensor:
    """What is told of the samples behind the first `overlap` of codes `[batch, overlap + time]`, int32 `[2, batch,
    time]`. Coefficients are fitted every `step` samples."""
    time = codes.shape[1] - overlap
    _, expected, errors = _early_and_on(codes, overlap, step, amplitudes)
    return told(expected[:, -time:], errors[:, -time - ERRORS : -1], amplitudes)


def after_window(codes: tf.Tensor, step: int, amplitudes: np.ndarray) -> Prediction:
    """What codes `[batch, samples]`, of which the last frame of `step` is whole, leave to the sample behind them."""
    coefficients, expected, errors = _early_and_on(codes, codes.shape[1], step, amplitudes)
    return Prediction(coefficients, errors[:, -ERRORS - 1 : -1], expected[:, -1])


def _early_and_on(
    codes: tf.Tensor, overlap: int, step: int, amplitudes: np.ndarray
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The last coefficients, and the predictions and errors `[batch, early + time]`, from `early(step)` samples before
    the end of the overlap on."""
    begin = overlap - early(step)
    count = codes.shape[1] - begin
    each = fitted(codes, tf.range(begin, begin + count, step), amplitudes)
    expected, sound = predicted(codes, begin, tf.repeat(each, step, axis=1)[:, :count], amplitudes)
    return each[:, -1], expected, sound - expected


def of_step(
    codes: tf.Tensor, begins: tf.Tensor, before: Prediction, amplitudes: np.ndarray
) -> tuple[tf.Tensor, Prediction]:
    """What is told of the sample after codes `[batch, samples]`, int32 `[2, batch, 1]`, and what it leaves. begins:
    whether it is the first of a top frame; before: what the sample before left."""
    last = codes.shape[1]
    coefficients = tf.cond(
        begins, lambda: fitted(codes, tf.constant([last]), amplitudes)[:, 0], lambda: before.coefficients
    )
    newest = tf.gather(tf.constant(amplitudes), codes[:, -1]) - before.expected
    errors = tf.concat([before.errors[:, 1:], newest[:, None]], axis=1)
    expected, _ = predicted(codes, last, coefficients[:, None], amplitudes)
    return told(expected, errors, amplitudes), Prediction(coefficients, errors, expected[:, 0])
