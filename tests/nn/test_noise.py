"""Noise on what a network hears in training."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tierwave.nn.noise import with_drift


def test_drift_has_the_spread_of_its_closed_form() -> None:
    width, windows, samples = 0.4, 20_000, 16
    sound = (
        np.linspace(-0.5, 1.5, samples, dtype=np.float32) * np.linspace(0.1, 1.0, windows, dtype=np.float32)[:, None]
    )
    noisy = with_drift(tf.constant(sound), width, tf.constant([3, 4])).numpy()
    change = (noisy - sound) / np.ptp(sound, axis=1, keepdims=True) * 2.0  # of half a range
    assert np.abs(change).max() <= 2.0 * width + 1e-6
    # A level is width u^3, whose square has the mean width^2 / 7; what is uniform in +- 1 has the variance 1/3.
    expected = width**2 / 21.0
    offsets = change.mean(axis=1)
    np.testing.assert_allclose(offsets.var(), expected * (1.0 + 1.0 / samples), rtol=0.05)
    np.testing.assert_allclose(change.var(axis=1, ddof=1).mean(), expected, rtol=0.05)
    assert abs(offsets.mean()) < 4.0 * np.sqrt(expected / windows)
    # Mostly little: the median level is an eighth of the largest.
    spans = np.ptp(change, axis=1)
    assert np.median(spans) < 0.3 * np.quantile(spans, 0.99)


def test_drift_follows_its_seed_and_leaves_silence() -> None:
    sound = tf.constant(np.random.default_rng(1).normal(size=[2, 8]).astype(np.float32))
    one, same, other = (with_drift(sound, 0.5, tf.constant(seed)).numpy() for seed in ([1, 2], [1, 2], [1, 3]))
    np.testing.assert_array_equal(one, same)
    assert np.all(one != other)
    np.testing.assert_array_equal(with_drift(tf.zeros([1, 8]), 0.5, tf.constant([1, 2])).numpy(), np.zeros([1, 8]))
