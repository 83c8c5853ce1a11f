"""New values from a trained tier by TensorFlow: one compiled loop over steps.

The engine does the same on a processor (`conditioning.engine`); this is for GPUs, and what the engine is compared with.
All state goes into a block and comes out of it as values, and random numbers are a function of (seed, voice, position),
so the result does not depend on the sizes of the blocks.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from conditioning.model import ConditionalTier, TierState, TierWeights
from tierwave.controls.live import Settings
from tierwave.generation.voices import BLOCK
from tierwave.nn.distributions import counter_uniform


class GenerationState(NamedTuple):
    """What one block hands to the next: the last values `[voices]` or `[voices, features]`, recurrent state, steps so
    far."""

    values: tf.Tensor
    recurrent: TierState
    position: tf.Tensor


class TierSampler:
    """The loop of one model: `run` is `block` compiled, `weights()` reads the model's current weights.

    jit is for tests.
    """

    def __init__(self, model: ConditionalTier, *, jit: bool = True):
        self.model = model
        self.weights = tf.function(model.effective_weights, autograph=False)
        self._prime = tf.function(
            lambda values, controls, state, weights: model.sequence(values, controls, state, weights)[1],
            autograph=False,
            reduce_retracing=True,
        )
        self.run = tf.function(self.block, jit_compile=jit, autograph=False)

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
        for start in range(0, values.shape[1] - 1, BLOCK):
            stop = min(start + BLOCK, values.shape[1] - 1)
            beside = None if controls is None else tf.constant(controls[:, start:stop])
            recurrent = self._prime(tf.constant(values[:, start:stop]), beside, recurrent, weights)
        return state._replace(values=tf.constant(values[:, -1]), recurrent=recurrent)

    def block(
        self,
        weights: TierWeights,
        state: GenerationState,
        steps: tf.Tensor,
        seeds: tf.Tensor,
        settings: Settings,
        top_p: float | None = None,
        limited: bool = False,
    ) -> tuple[tf.Tensor, GenerationState]:
        """Values `[voices, steps of settings]`, or with features, of which the first `steps` are new, and the state
        after them.

        top_p and limited, whether there is a top_k, are part of the graph.
        """
        model, count = self.model, self.model.head.uniforms
        voices, capacity = settings.temperature.shape
        uniform = counter_uniform(seeds, state.position * count, capacity * count)
        uniform = tf.transpose(tf.reshape(uniform, [voices, capacity, count]), [1, 0, 2])
        controls = tf.transpose(settings.controls, [1, 0, 2])
        temperature, top_k = tf.transpose(settings.temperature), tf.transpose(settings.top_k)
        written = tf.TensorArray(state.values.dtype, size=capacity, element_shape=state.values.shape)

        def step(index, state, written):
            """Sample the values of one step from those before it."""
            term = model.control_term(controls[index], weights)
            prediction, recurrent = model.step(state.values, term, state.recurrent, weights)
            limit = top_k[index] if limited else None
            values = model.head.sample(prediction, uniform[index], temperature[index], limit, top_p)
            return index + 1, GenerationState(values, recurrent, state.position + 1), written.write(index, values)

        _, state, written = tf.while_loop(lambda index, *_: index < steps, step, (tf.constant(0), state, written))
        values = written.stack()
        return tf.transpose(values, [1, 0, *range(2, len(values.shape))]), state


@functools.lru_cache(maxsize=32)
def sampler_of(model: ConditionalTier) -> TierSampler:
    """The model's sampler, compiled once; previews during training use it too."""
    return TierSampler(model)
