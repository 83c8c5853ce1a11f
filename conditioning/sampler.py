"""New values from a trained tier: one compiled loop over steps.

A block of up to a few thousand steps is one call of one compiled function. All state (recurrent state, the last values,
the position) goes in and comes out as values, and random numbers are a function of (seed, voice, position), so the
result does not depend on the sizes of the blocks. What controls add to the first map is computed for the whole block
before the loop.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from conditioning.model import ConditionalTier, TierState, TierWeights
from tierwave.controls.live import Settings
from tierwave.generation.voices import VoiceGroups
from tierwave.nn.compiled import Calls
from tierwave.nn.distributions import counter_uniform

CAPACITIES = (256, 4096)  # steps of one compiled call: live blocks, and long ones


class GenerationState(NamedTuple):
    """What one block hands to the next: the last values `[voices]` or `[voices, features]`, recurrent state, steps so
    far."""

    values: tf.Tensor
    recurrent: TierState
    position: tf.Tensor


class TierSampler:
    """The compiled generation loop of one model. top_p and whether there is a top_k (limited) are part of the graph;
    jit is for tests."""

    def __init__(self, model: ConditionalTier, *, limited: bool = False, top_p: float | None = None, jit: bool = True):
        self.model, self.limited, self.top_p = model, limited, top_p
        self.weights = tf.function(model.effective_weights, autograph=False)
        self._prime = tf.function(
            lambda values, controls, state, weights: model.sequence(values, controls, state, weights)[1],
            autograph=False,
            reduce_retracing=True,
        )
        self._block = Calls(self.block, jit=jit)

    def start(self, voices: int) -> GenerationState:
        """The state before the first value: silence or zeros behind, zero recurrent state."""
        model = self.model
        if model.stage.makes_audio:
            values = tf.fill([voices], model.quantizer.silence)
        else:
            values = tf.zeros([voices, model.features])
        return GenerationState(values, model.initial_state(voices), tf.constant(0, tf.int64))

    def prime(
        self, state: GenerationState, values: np.ndarray, controls: np.ndarray | None, weights: TierWeights
    ) -> GenerationState:
        """The state after `values` `[voices, steps]` (codes) or `[voices, steps, features]` with controls
        `[voices, steps, controls]`: all but the last are run over, the last is the first input (MTCRNN's rule)."""
        recurrent = state.recurrent
        for start in range(0, values.shape[1] - 1, CAPACITIES[-1]):
            stop = min(start + CAPACITIES[-1], values.shape[1] - 1)
            beside = None if controls is None else tf.constant(controls[:, start:stop])
            recurrent = self._prime(tf.constant(values[:, start:stop]), beside, recurrent, weights)
        return GenerationState(tf.constant(values[:, -1]), recurrent, state.position)

    def run(
        self, weights: TierWeights, state: GenerationState, steps: int, settings: Settings, seeds: np.ndarray
    ) -> tuple[np.ndarray, GenerationState]:
        """The next `steps` values, `[voices, steps]` or with features; settings are padded to a capacity."""
        given = [tf.constant(part) for part in settings]
        kind = settings.temperature.shape  # voices and capacity
        values, state = self._block(kind, weights, state, tf.constant(steps), *given, tf.constant(seeds))
        return values.numpy()[:, :steps], state

    def block(
        self,
        weights: TierWeights,
        state: GenerationState,
        steps: tf.Tensor,
        controls: tf.Tensor,
        temperature: tf.Tensor,
        top_k: tf.Tensor,
        seeds: tf.Tensor,
    ) -> tuple[tf.Tensor, GenerationState]:
        """The graph of `run`: values `[voices, capacity]`, of which the first `steps` are new."""
        model, count = self.model, self.model.head.uniforms
        voices, capacity = temperature.shape
        uniform = counter_uniform(seeds, state.position * count, capacity * count)
        uniform = tf.transpose(tf.reshape(uniform, [voices, capacity, count]), [1, 0, 2])
        term = model.control_term(tf.transpose(controls, [1, 0, 2]) if model.stage.conditioned_on else None, weights)
        per_step = len(term.shape) == 3
        temperature, top_k = tf.transpose(temperature), tf.transpose(top_k)
        written = tf.TensorArray(state.values.dtype, size=capacity, element_shape=state.values.shape)

        def step(index, values, recurrent, written):
            """Sample the values of one step from those before it."""
            prediction, recurrent = model.step(values, term[index] if per_step else term, recurrent, weights)
            limit = top_k[index] if self.limited else None
            values = model.head.sample(prediction, uniform[index], temperature[index], limit, self.top_p)
            return index + 1, values, recurrent, written.write(index, values)

        _, values, recurrent, written = tf.while_loop(
            lambda index, *_: index < steps, step, (tf.constant(0), state.values, state.recurrent, written)
        )
        result = written.stack()
        result = tf.transpose(result, [1, 0, *range(2, len(result.shape))])
        return result, GenerationState(values, recurrent, state.position + tf.cast(steps, tf.int64))


@functools.lru_cache(maxsize=32)
def sampler_of(model: ConditionalTier, limited: bool, top_p: float | None) -> TierSampler:
    """The model's sampler for these options, compiled once; previews during training use it too."""
    return TierSampler(model, limited=limited, top_p=top_p)


class TierVoices:
    """The voices of one tier, in groups that run in threads."""

    def __init__(self, model: ConditionalTier, voices: int, seed: int, *, top_p: float | None = None):
        self.model, self.top_p = model, top_p
        sampler = sampler_of(model, False, top_p)
        self._weights = sampler.weights()
        self.groups = VoiceGroups(voices, seed, sampler.start)

    def prime(self, values: np.ndarray, controls: np.ndarray | None) -> None:
        """Continue from `values` with these controls (see `TierSampler.prime`)."""
        sampler = sampler_of(self.model, False, self.top_p)
        self.groups.prime(
            lambda voices, state: sampler.prime(
                state, values[voices], None if controls is None else controls[voices], self._weights
            )
        )

    def run(self, settings: Settings) -> np.ndarray:
        """As many values as `settings` has steps: `[voices, steps]`, or with a last axis of features."""
        steps = settings.temperature.shape[1]
        sampler = sampler_of(self.model, bool(settings.top_k.any()), self.top_p)
        capacity = next((size for size in CAPACITIES if size >= steps), CAPACITIES[-1])

        def run(voices: slice, seeds: np.ndarray, state: GenerationState) -> tuple[np.ndarray, GenerationState]:
            pieces = []
            for start in range(0, max(steps, 1), capacity):
                stop = min(start + capacity, steps)
                part = settings.part(voices.start, voices.stop, start, stop, capacity)
                values, state = sampler.run(self._weights, state, stop - start, part, seeds)
                pieces.append(values)
            return np.concatenate(pieces, axis=1), state

        return self.groups.run(run)
