"""Likelihoods and samples: categorical codes, Gaussians, mixtures of Gaussians, and the uniform numbers behind them.

Every sample is a function of its arguments: randomness comes in as uniform numbers, which are a function of a seed, a
voice and a position (`counter_uniform`). So the same seed gives the same sound, in blocks of any size and beside any
number of other voices.

`sample_categorical` and `counter_uniform` run once per audio sample inside compiled loops, in the form that measures
fastest there (measure them in a `tf.while_loop` under XLA before changing them).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tierwave.errors import UsageError

GREEDY = 1e-30  # temperatures below this mean 0, since 1 / temperature would overflow float32

_LOG_TWO_PI = math.log(2.0 * math.pi)


class LossSums(NamedTuple):
    """The loss of a window, per lane `[lanes]`: summed nats, correct guesses and counted elements (samples, or
    values of controls); and the recurrent state after the window."""

    nats: tf.Tensor
    correct: tf.Tensor
    elements: tf.Tensor
    state: Any


# Categorical


def categorical_nats(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """-ln p(target) of each element, in float32 whatever the type of the logits.

    Args:
        logits: [..., levels], unnormalised.
        targets: [...], integer codes in [0, levels).

    Returns:
        Nats, [...].
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=tf.cast(targets, tf.int32), logits=tf.cast(logits, tf.float32)
    )


def sample_categorical(
    logits: tf.Tensor,
    uniform: tf.Tensor,
    temperature: tf.Tensor | float,
    top_k: int | tf.Tensor | None = None,
    top_p: float | None = None,
) -> tf.Tensor:
    """One code per voice from softmax(logits / temperature), by one uniform number per voice.

    The cumulative distribution is searched in two levels, blocks of about sqrt(levels) codes and then one block. A code
    of probability 0 is never sampled, however the sums round.

    Args:
        logits: [voices, levels].
        uniform: [voices], in [0, 1).
        temperature: [voices] or a scalar; 0 gives exactly the most likely code (the lowest of equals).
        top_k: sample from the k most likely codes only, and those as likely as the k-th. A number, or int32 [voices],
            where 0 means all.
        top_p: after top_k, sample from the fewest most likely codes that hold this share of the probability
            (Holtzman et al. 2020), and those as likely as the last one.

    Returns:
        Codes, int32 [voices].

    Raises:
        UsageError: top_k below 1, or top_p outside (0, 1].
    """
    if isinstance(top_k, int) and top_k < 1:
        raise UsageError(f"top_k is {top_k}; give a whole number of at least 1, or leave it out to draw from all.")
    if top_p is not None and not 0.0 < top_p <= 1.0:
        raise UsageError(f"top_p is {top_p}; give a share above 0 and at most 1, or leave it out to draw from all.")
    weights, uniform = _tempered(tf.cast(logits, tf.float32), uniform, temperature)
    levels = weights.shape[-1]
    if top_k is not None and not (isinstance(top_k, int) and top_k >= levels):
        most = top_k if isinstance(top_k, int) else tf.where(top_k > 0, tf.minimum(top_k, levels), levels)
        least = tf.minimum(tf.cast(most, tf.float32), tf.reduce_sum(tf.cast(weights > 0.0, tf.float32), -1))
        weights = _most_likely(weights, lambda kept: tf.reduce_sum(tf.cast(kept > 0.0, tf.float32), -1) >= least)
    if top_p is not None and top_p < 1.0:
        enough = top_p * tf.reduce_sum(weights, -1)
        weights = _most_likely(weights, lambda kept: tf.reduce_sum(kept, -1) >= enough)

    width = math.isqrt(levels)
    blocks = -(-levels // width)
    if blocks * width > levels:
        weights = tf.pad(weights, [[0, 0], [0, blocks * width - levels]])
    weights = tf.reshape(weights, [-1, blocks, width])
    sums = tf.reduce_sum(weights, axis=-1)
    target = uniform * tf.reduce_sum(sums, axis=-1)
    block, start = _search(sums, target)
    code, _ = _search(tf.gather(weights, block, axis=1, batch_dims=1), target - start)
    return block * width + code


def _tempered(logits: tf.Tensor, uniform: tf.Tensor, temperature: tf.Tensor | float) -> tuple[tf.Tensor, tf.Tensor]:
    """Unnormalised probabilities (the largest is 1) and the uniform numbers to search them with.

    At temperature 0 only the most likely entries keep a weight, and a uniform number of 0 finds the first of them.
    """
    temperature = _broadcastable(temperature, logits)
    greedy = temperature < GREEDY
    peak = _largest(logits)
    weights = tf.where(
        greedy,
        tf.cast(logits >= peak, tf.float32),
        tf.exp((logits - peak) * (1.0 / tf.maximum(temperature, GREEDY))),
    )
    return weights, tf.where(greedy[..., 0], 0.0, uniform)


def _broadcastable(value: tf.Tensor | float, tensor: tf.Tensor) -> tf.Tensor:
    """A scalar, or one value per voice [voices], with the axes to broadcast against [voices, ...]."""
    return tf.reshape(tf.cast(value, tf.float32), [-1] + [1] * (tensor.shape.rank - 1))


def _largest(values: tf.Tensor) -> tf.Tensor:
    """The maximum over the last axis, which stays. Comparing halves compiles to vector instructions, a reduction to
    scalar code."""
    while (width := values.shape[-1]) > 1 and width % 2 == 0:
        values = tf.maximum(values[..., : width // 2], values[..., width // 2 :])
    return values if values.shape[-1] == 1 else tf.reduce_max(values, axis=-1, keepdims=True)


def _search(weights: tf.Tensor, target: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The entry of weights [..., n] in which a running sum passes target [...], and the sum before that entry.

    That is the last entry with a weight that starts at or below the target, so rounding never selects an entry without
    weight or past the end. A product with a triangle is several times faster in a compiled loop than tf.cumsum.
    """
    count = weights.shape[-1]
    earlier = tf.constant(np.triu(np.ones((count, count), np.float32), k=1))
    starts = tf.reduce_sum(weights[..., :, None] * earlier, axis=-2)
    reached = (weights > 0.0) & (starts <= target[..., None])
    index = tf.reduce_max(tf.where(reached, tf.range(count), 0), axis=-1)
    return index, tf.reduce_max(tf.where(reached, starts, 0.0), axis=-1)


def _most_likely(weights: tf.Tensor, enough: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Keep as few of the largest weights [voices, levels] as are enough, and all that equal the smallest of these.

    The threshold is found by bisection over bit patterns, which order positive floats; sorting takes three to ten times
    as long in a compiled loop.
    """
    bits = tf.bitcast(weights, tf.int32)
    low = tf.zeros_like(bits[:, :1])
    high = tf.zeros_like(low) + 0x40000000  # 2.0, above every weight
    for _ in range(30):
        middle = (low + high) // 2
        sufficient = enough(tf.where(bits >= middle, weights, 0.0))[:, None]
        low = tf.where(sufficient, middle, low)
        high = tf.where(sufficient, high, middle)
    return tf.where(bits >= low, weights, 0.0)


# Gaussian


def gaussian_nats(target: tf.Tensor, mean: tf.Tensor, raw_scale: tf.Tensor, floor: float) -> tf.Tensor:
    """-ln of the normal density at each target; all arguments [...], float32 inside.

    The standard deviation is softplus(raw_scale) + floor. The floor, in the units of the target, bounds the density:
    without it, repeated equal targets (silence, clipped values) drive the loss to minus infinity.
    """
    deviation = _gaussian_deviation(raw_scale, floor)
    distance = (tf.cast(target, tf.float32) - tf.cast(mean, tf.float32)) / deviation
    return 0.5 * tf.square(distance) + tf.math.log(deviation) + 0.5 * _LOG_TWO_PI


def sample_gaussian(
    mean: tf.Tensor, raw_scale: tf.Tensor, floor: float, uniform: tf.Tensor, temperature: tf.Tensor | float = 1.0
) -> tf.Tensor:
    """A value from the distribution that `gaussian_nats` scores, its standard deviation multiplied by temperature.

    Args:
        mean, raw_scale: [voices, ...].
        floor: that of the loss.
        uniform: [voices, ...], one number in [0, 1) per value.
        temperature: [voices] or a scalar; 0 gives the mean.
    """
    mean = tf.cast(mean, tf.float32)
    return mean + _broadcastable(temperature, mean) * _gaussian_deviation(raw_scale, floor) * standard_normal(uniform)


def _gaussian_deviation(raw_scale: tf.Tensor, floor: float) -> tf.Tensor:
    return tf.nn.softplus(tf.cast(raw_scale, tf.float32)) + floor


# Mixture of Gaussians


def mixture_nats(
    target: tf.Tensor, logits: tf.Tensor, means: tf.Tensor, log_scales: tf.Tensor, floor: float
) -> tf.Tensor:
    """-ln of the density of a mixture of Gaussians at each target (MelNet, Vasquez & Lewis 2019, eq. 3-5).

    Computed with log-sum-exp throughout: no probability underflows to a loss of infinity.

    Args:
        target: [...].
        logits: [..., components], unnormalised log weights.
        means, log_scales: [..., components]; a standard deviation is exp(log_scale) + floor.
        floor: in the units of the target; `sample_mixture` takes the same one.

    Returns:
        Nats, float32 [...].
    """
    log_deviation = _mixture_log_deviation(tf.cast(log_scales, tf.float32), floor)
    offset = tf.cast(target, tf.float32)[..., None] - tf.cast(means, tf.float32)
    distance = offset * tf.exp(-log_deviation)
    log_density = -0.5 * tf.square(distance) - log_deviation - 0.5 * _LOG_TWO_PI
    log_weights = tf.nn.log_softmax(tf.cast(logits, tf.float32))
    return -tf.reduce_logsumexp(log_weights + log_density, axis=-1)


def sample_mixture(
    logits: tf.Tensor,
    means: tf.Tensor,
    log_scales: tf.Tensor,
    floor: float,
    uniform: tf.Tensor,
    temperature: tf.Tensor | float = 1.0,
    bias: tf.Tensor | float = 0.0,
) -> tf.Tensor:
    """A value from the mixture that `mixture_nats` scores.

    Temperature multiplies the standard deviation of the sampled component. Bias (Graves 2013, section 5.4)
    sharpens both choices: a component's standard deviation is exp(log_scale - bias) + floor, and its weight
    softmax(logits (1 + bias)). At temperature 0 the value is the mean of the heaviest component.

    Args:
        logits, means, log_scales: [voices, ..., components].
        floor: that of the loss.
        uniform: [voices, ..., 2] in [0, 1): which component, and where in it.
        temperature, bias: [voices] or a scalar.

    Returns:
        Values, float32 [voices, ...].
    """
    logits, means = tf.cast(logits, tf.float32), tf.cast(means, tf.float32)
    bias = _broadcastable(bias, logits)
    # Only a temperature of 0 changes the weights.
    greedy = _broadcastable(temperature, logits) < GREEDY
    peak = tf.reduce_max(logits, axis=-1, keepdims=True)
    weights = tf.where(greedy, tf.cast(logits >= peak, tf.float32), tf.exp((logits - peak) * (1.0 + bias)))
    which = tf.where(greedy[..., 0], 0.0, uniform[..., 0])
    component, _ = _search(weights, which * tf.reduce_sum(weights, axis=-1))
    chosen = tf.one_hot(component, logits.shape[-1])
    mean = tf.reduce_sum(chosen * means, axis=-1)
    log_deviation = _mixture_log_deviation(tf.cast(log_scales, tf.float32) - bias, floor)
    deviation = tf.exp(tf.reduce_sum(chosen * log_deviation, axis=-1))
    return mean + _broadcastable(temperature, mean) * deviation * standard_normal(uniform[..., 1])


def _mixture_log_deviation(log_scales: tf.Tensor, floor: float) -> tf.Tensor:
    """ln(exp(log_scale) + floor). The sum, unlike a maximum, keeps a gradient below the floor."""
    if floor == 0.0:
        return log_scales
    log_floor = math.log(floor)
    return log_floor + tf.nn.softplus(log_scales - log_floor)


# Random numbers


def voice_seeds(seed: int, voices: int) -> np.ndarray:
    """The key of each voice, int32 [voices, 2], which does not depend on the number of voices.

    Any Python integer is a seed; those equal modulo 2^64 are the same.
    """
    with tf.init_scope():  # eager even where a graph is being traced
        low, high = (tf.constant((seed >> shift) & 0xFFFFFFFF, tf.uint32) for shift in (0, 32))
        index = tf.bitcast(tf.range(voices, dtype=tf.int32), tf.uint32)
        first, second = _threefry(low, high, index, tf.zeros_like(index))
        return tf.bitcast(tf.stack([first, second], axis=-1), tf.int32).numpy()


def counter_uniform(seeds: tf.Tensor, position: tf.Tensor | int, count: int) -> tf.Tensor:
    """The uniform numbers at position, position + 1, ... position + count - 1 of each voice.

    Each is a hash of the voice's key and its position, bit for bit the same in eager code, graphs and under XLA.

    Args:
        seeds: int32 [voices, 2], such as `voice_seeds` gives.
        position: scalar, counted from 0, up to 2^63.
        count: how many numbers.

    Returns:
        float32 [voices, count]: multiples of 2^-24 in [0, 1).
    """
    keys = tf.bitcast(tf.cast(seeds, tf.int32), tf.uint32)
    positions = tf.cast(position, tf.int64) + tf.range(count, dtype=tf.int64)
    low = tf.cast(tf.bitwise.bitwise_and(positions, tf.constant(0xFFFFFFFF, tf.int64)), tf.uint32)
    high = tf.cast(tf.bitwise.right_shift(positions, tf.constant(32, tf.int64)), tf.uint32)
    word, _ = _threefry(keys[:, :1], keys[:, 1:], low[None], high[None])
    # Through int32, because processors cannot convert unsigned numbers to floats.
    mantissa = tf.bitcast(tf.bitwise.right_shift(word, tf.constant(8, tf.uint32)), tf.int32)
    return tf.cast(mantissa, tf.float32) * 2.0**-24


def standard_normal(uniform: tf.Tensor) -> tf.Tensor:
    """Standard normal numbers [...] from uniform ones [...], by the inverse of the distribution function.

    A uniform number stands for the middle of its step of 2^-24: symmetric about 0 and never infinite (at most 5.4).
    """
    centred = (uniform - 0.5) + 2.0**-25
    # The nearer tail is exact in float32, where 1 minus it would round to 1.
    return -tf.sign(centred) * tf.math.ndtri(0.5 - tf.abs(centred))


_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def _threefry(
    first_key: tf.Tensor, second_key: tf.Tensor, first: tf.Tensor, second: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"); all uint32."""
    parity = tf.bitwise.bitwise_xor(tf.bitwise.bitwise_xor(first_key, second_key), tf.constant(0x1BD11BDA, tf.uint32))
    keys = (first_key, second_key, parity)
    first, second = first + keys[0], second + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            first = first + second
            turned = tf.bitwise.bitwise_or(
                tf.bitwise.left_shift(second, tf.constant(rotation, tf.uint32)),
                tf.bitwise.right_shift(second, tf.constant(32 - rotation, tf.uint32)),
            )
            second = tf.bitwise.bitwise_xor(turned, first)
        first = first + keys[(group + 1) % 3]
        second = second + keys[(group + 2) % 3] + tf.constant(group + 1, tf.uint32)
    return first, second
