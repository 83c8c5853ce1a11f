"""Noise on what a network hears in training, so that it relies on its controls and bears its own errors."""

from __future__ import annotations

import tensorflow as tf


def with_noise(sound: tf.Tensor, width: float, seed: tf.Tensor, real: tf.Tensor | None = None) -> tf.Tensor:
    """RNNControl's input noise, without its offset: uniform in +- width times half the range of each window.

    sound: float32 `[batch, time, ...]`; seed: int32 `[2]`; real: bool of the same shape, False for padding, which does
    not count for the range; None where all is real.
    """
    if real is None:
        real = tf.ones(tf.shape(sound), tf.bool)
    highest = tf.reduce_max(tf.where(real, sound, -1e9), axis=1, keepdims=True)
    lowest = tf.reduce_min(tf.where(real, sound, 1e9), axis=1, keepdims=True)
    half = 0.5 * tf.maximum(highest - lowest, 0.0)
    return sound + width * half * tf.random.stateless_uniform(tf.shape(sound), seed, -1.0, 1.0, alg="philox")
