"""New values from a trained tier: one compiled loop over steps.

A stretch of up to a few thousand steps is one call of one compiled function. All it needs (weights, state, the last
values, position) goes in and comes out as values, so the result does not depend on the size of the blocks it is asked
for in; random numbers are a function of (seed, stream, position). What parameters add to the first map is multiplied
out for the whole stretch before the loop.

Knows one tier; timelines of several are `conditioning.cascade`'s matter.
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from conditioning.model import ConditionalTier, TierState, TierWeights
from tierwave.controls.live import Settings
from tierwave.generation.request import group_sizes, usable_cores
from tierwave.nn.compiled import Calls
from tierwave.nn.distributions import counter_uniform, stream_seeds

CAPACITIES = (256, 4096)  # steps of one compiled call: live blocks, and long stretches


class Carry(NamedTuple):
    """What goes from one stretch to the next: the last values `[streams]` or `[streams, features]`, recurrent state,
    position."""

    values: tf.Tensor
    state: TierState
    position: tf.Tensor


class TierSampler:
    """The compiled loops of one model. top_p and whether there is a top_k are part of the graph; jit is for tests."""

    def __init__(self, model: ConditionalTier, *, limited: bool = False, top_p: float | None = None, jit: bool = True):
        self.model, self.limited, self.top_p = model, limited, top_p
        self.weights = tf.function(model.weights_in_effect, autograph=False)
        self._warm = tf.function(
            lambda values, controls, state, weights: model.sequence(values, controls, state, weights)[1],
            autograph=False,
            reduce_retracing=True,
        )
        self._stretch = Calls(self.stretch, jit=jit)

    def start(self, streams: int) -> Carry:
        """Before the first value: silence or zeros behind, zero state."""
        model = self.model
        if model.stage.makes_audio:
            values = tf.fill([streams], model.quantizer.silence)
        else:
            values = tf.zeros([streams, model.features])
        return Carry(values, model.initial_state(streams), tf.constant(0, tf.int64))

    def warm(self, carry: Carry, values: np.ndarray, controls: np.ndarray | None, weights: TierWeights) -> Carry:
        """Run over `values` `[streams, steps]` (codes) or `[streams, steps, features]` and parameters
        `[streams, steps, parameters]`, so that generation goes on from them: all but the last build the state, the
        last is the first input (MTCRNN's rule)."""
        state = carry.state
        for start in range(0, values.shape[1] - 1, CAPACITIES[-1]):
            stop = min(start + CAPACITIES[-1], values.shape[1] - 1)
            piece = None if controls is None else tf.constant(controls[:, start:stop])
            state = self._warm(tf.constant(values[:, start:stop]), piece, state, weights)
        return Carry(tf.constant(values[:, -1]), state, carry.position)

    def run(
        self, weights: TierWeights, carry: Carry, steps: int, settings: Settings, seeds: np.ndarray
    ) -> tuple[np.ndarray, Carry]:
        """The next `steps` values, `[streams, steps]` or with features; settings are padded to a capacity."""
        steered = [tf.constant(part) for part in settings]
        kind = settings.temperature.shape  # streams and capacity
        values, carry = self._stretch(kind, weights, carry, tf.constant(steps), *steered, tf.constant(seeds))
        return values.numpy()[:, :steps], carry

    def stretch(
        self,
        weights: TierWeights,
        carry: Carry,
        steps: tf.Tensor,
        controls: tf.Tensor,
        temperature: tf.Tensor,
        top_k: tf.Tensor,
        seeds: tf.Tensor,
    ) -> tuple[tf.Tensor, Carry]:
        """The graph of `run`: values `[streams, capacity]`, of which the first `steps` are made."""
        model = self.model
        streams, capacity = temperature.shape
        draws = model.draws
        uniform = counter_uniform(seeds, carry.position * draws, capacity * draws)
        uniform = tf.transpose(tf.reshape(uniform, [streams, capacity, draws]), [1, 0, 2])
        steered = model.steered(tf.transpose(controls, [1, 0, 2]) if model.stage.conditioned_on else None, weights)
        hoisted = len(steered.shape) == 3
        temperature, top_k = tf.transpose(temperature), tf.transpose(top_k)
        made = tf.TensorArray(carry.values.dtype, size=capacity, element_shape=carry.values.shape)

        def step(index, values, state, made):
            prediction, state = model.step(values, steered[index] if hoisted else steered, state, weights)
            limit = top_k[index] if self.limited else None
            values = model.draw(prediction, uniform[index], temperature[index], limit, self.top_p)
            return index + 1, values, state, made.write(index, values)

        _, values, state, made = tf.while_loop(
            lambda index, *_: index < steps, step, (tf.constant(0), carry.values, carry.state, made)
        )
        result = made.stack()
        result = tf.transpose(result, [1, 0, *range(2, len(result.shape))])
        return result, Carry(values, state, carry.position + tf.cast(steps, tf.int64))


@functools.lru_cache(maxsize=32)
def sampler_of(model: ConditionalTier, limited: bool, top_p: float | None) -> TierSampler:
    """The model's sampler for these options; compiled once, also for in-training generation."""
    return TierSampler(model, limited=limited, top_p=top_p)


class TierVoices:
    """The streams of one tier as they are made, in groups that run side by side in threads.

    A group is one compiled call; see `group_sizes`.
    """

    def __init__(self, model: ConditionalTier, streams: int, seed: int, *, top_p: float | None = None):
        self.model, self.top_p, self.streams = model, top_p, streams
        self.made = 0
        sampler = sampler_of(model, False, top_p)
        self._weights = sampler.weights()
        sizes = group_sizes(streams, usable_cores())
        self._bounds = np.cumsum([0, *sizes])
        seeds = stream_seeds(seed, streams)
        self._carries = [sampler.start(size) for size in sizes]
        self._seeds = [seeds[first:last] for first, last in self._pairs()]
        self._threads = ThreadPoolExecutor(len(sizes)) if len(sizes) > 1 else None

    def _pairs(self) -> list[tuple[int, int]]:
        return [(int(first), int(last)) for first, last in zip(self._bounds[:-1], self._bounds[1:], strict=True)]

    def warm(self, values: np.ndarray, controls: np.ndarray | None) -> None:
        """Go on from `values` with these parameters (see `TierSampler.warm`)."""
        sampler = sampler_of(self.model, False, self.top_p)
        for index, (first, last) in enumerate(self._pairs()):
            part = None if controls is None else controls[first:last]
            self._carries[index] = sampler.warm(self._carries[index], values[first:last], part, self._weights)

    def run(self, settings: Settings) -> np.ndarray:
        """As many values as `settings` has steps: `[streams, steps]`, or with a last axis of features."""
        steps = settings.temperature.shape[1]
        sampler = sampler_of(self.model, bool(settings.top_k.any()), self.top_p)

        capacity = next((size for size in CAPACITIES if size >= steps), CAPACITIES[-1])

        def group(index: int) -> np.ndarray:
            first, last = int(self._bounds[index]), int(self._bounds[index + 1])
            pieces = []
            for start in range(0, max(steps, 1), capacity):
                stop = min(start + capacity, steps)
                part = settings.part(first, last, start, stop, capacity)
                values, self._carries[index] = sampler.run(
                    self._weights, self._carries[index], stop - start, part, self._seeds[index]
                )
                pieces.append(values)
            return np.concatenate(pieces, axis=1)

        self.made += steps
        if self._threads is None:
            return group(0)
        parts: list[Any] = list(self._threads.map(group, range(len(self._carries))))
        return np.concatenate(parts, axis=0)
