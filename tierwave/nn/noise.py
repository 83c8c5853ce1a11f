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
    return sound + width * half * _uniform(tf.shape(sound), seed)


def with_drift(sound: tf.Tensor, width: float, seed: tf.Tensor) -> tf.Tensor:
    """Noise as of sound that a network has made itself: mostly little, and around an offset that it has drifted to.

    Each window draws a level, `width` times half its range times the cube of a uniform number; noise and offset are
    uniform in +- that level. sound: float32 `[batch, time]`; seed: int32 `[2]`.
    """
    level_seed, offset_seed, noise_seed = (tf.random.experimental.stateless_fold_in(seed, part) for part in range(3))
    half = 0.5 * (tf.reduce_max(sound, axis=1, keepdims=True) - tf.reduce_min(sound, axis=1, keepdims=True))
    level = width * half * tf.random.stateless_uniform(tf.shape(half), level_seed, alg="philox") ** 3
    return sound + level * (_uniform(tf.shape(half), offset_seed) + _uniform(tf.shape(sound), noise_seed))


def _uniform(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    return tf.random.stateless_uniform(shape, seed, -1.0, 1.0, alg="philox")
