"""Noise on what a network hears in training, so that it relies on its controls and bears its own errors."""

from __future__ import annotations

import tensorflow as tf


def with_noise(
    sound: tf.Tensor, width: float, seed: tf.Tensor, real: tf.Tensor | None = None, *, shifted: bool = False
) -> tf.Tensor:
    """RNNControl's input noise, without its offset: uniform in +- width times half the range of each window.

    sound: float32 `[batch, time, ...]`; seed: int32 `[2]`; real: bool of the same shape, False for padding, which does
    not count for the range; None where all is real. shifted: each window is also moved as a whole, by a number of the
    same range, so that a network returns to zero by itself.
    """
    if real is None:
        real = tf.ones(tf.shape(sound), tf.bool)
    highest = tf.reduce_max(tf.where(real, sound, -1e9), axis=1, keepdims=True)
    lowest = tf.reduce_min(tf.where(real, sound, 1e9), axis=1, keepdims=True)
    half = 0.5 * tf.maximum(highest - lowest, 0.0)
    noise = tf.random.stateless_uniform(tf.shape(sound), seed, -1.0, 1.0, alg="philox")
    if shifted:
        other = tf.random.experimental.stateless_fold_in(seed, 1)
        noise += tf.random.stateless_uniform(tf.shape(half), other, -1.0, 1.0, alg="philox")
    return sound + width * half * noise
