"""New sound from a trained SampleRNN by TensorFlow: one compiled loop over samples.

The engine does the same on a processor (`samplernn.engine`); this is for GPUs, and what the engine is compared with.
All state goes into a block and comes out of it as values, and random numbers are a function of (seed, voice, position),
so the sound does not depend on the sizes of the blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from samplernn.model import ModelState, ModelWeights, SampleRNN
from tierwave.audio.quantize import edges
from tierwave.controls.live import Settings
from tierwave.engine.network import share_of
from tierwave.generation.voices import BLOCK
from tierwave.nn.distributions import counter_uniform, sample_categorical
from tierwave.nn.linear import encoded, linear
from tierwave.nn.lookback import found_lags
from tierwave.nn.recurrent import StackState


class GenerationState(NamedTuple):
    """What one sample hands to the next.

    window: the last codes, int32 `[voices, history]`. conditions: of each frame tier, what it gives to the steps below
    it in its frame, `[voices, ratio, dim]`. lag: found in the sound before the top frame, float32 `[voices]`, 0: none.
    position: samples drawn so far. mean: the running mean of these, float32 `[voices]`, where it is taken away.
    """

    window: tf.Tensor
    recurrent: ModelState
    conditions: tuple[tf.Tensor, ...]
    lag: tf.Tensor
    position: tf.Tensor
    mean: tf.Tensor


class Sampler:
    """The loop of one model: `run` is `block` compiled, `weights()` reads the model's current weights.

    sample and jit are for tests.
    """

    def __init__(self, model: SampleRNN, *, sample: Callable[..., tf.Tensor] = sample_categorical, jit: bool = True):
        self.model, self.config, self.sample = model, model.config, sample
        self.weights = tf.function(lambda: model.effective_weights(folded=True), autograph=False)
        self._prime = tf.function(
            lambda codes, controls, state, weights: model.features(codes, state, weights, controls=controls)[1],
            autograph=False,
        )
        self.run = tf.function(self.block, jit_compile=jit, autograph=False)

    def start(self, voices: int) -> GenerationState:
        """The state before the first sample: silence behind, zero or learned recurrent state."""
        return GenerationState(
            tf.fill([voices, self.config.history], self.model.quantizer.silence),
            self.model.initial_state(voices),
            tuple(tf.zeros([voices, tier.ratio, self.config.dim]) for tier in self.model.tiers),
            tf.zeros([voices]),
            tf.constant(0, tf.int64),
            tf.zeros([voices]),
        )

    def prime(
        self, state: GenerationState, codes: np.ndarray, controls: np.ndarray | None, weights: ModelWeights
    ) -> GenerationState:
        """The state after `codes` int32 `[voices, samples]`, whole top frames.

        controls: float32 `[voices, samples, controls]`, if the network has any.
        """
        window, recurrent = state.window, state.recurrent
        step = -(-BLOCK // self.config.top_frame) * self.config.top_frame
        for start in range(0, codes.shape[1], step):
            piece = tf.constant(codes[:, start : start + step])
            beside = None if controls is None else tf.constant(controls[:, start : start + step])
            heard = tf.concat([window, piece], axis=1)
            recurrent = self._prime(heard, beside, recurrent, weights)
            window = heard[:, -self.config.history :]
        return state._replace(window=window, recurrent=recurrent)

    def block(
        self,
        weights: ModelWeights,
        state: GenerationState,
        steps: tf.Tensor,
        seeds: tf.Tensor,
        settings: Settings,
        top_p: float | None = None,
        limited: bool = False,
    ) -> tuple[tf.Tensor, GenerationState]:
        """Codes int32 `[voices, samples of settings]`, of which the first `steps` are new, and the state after them.

        top_p and limited, whether there is a top_k, are part of the graph.
        """
        voices, capacity = settings.temperature.shape
        uniform = tf.transpose(counter_uniform(seeds, state.position, capacity))
        controls = tf.transpose(settings.controls, [1, 0, 2])
        temperature, top_k = tf.transpose(settings.temperature), tf.transpose(settings.top_k)
        written = tf.TensorArray(tf.int32, size=capacity, element_shape=[voices])

        def sample(index, state, written):
            """Draw one sample of every voice."""
            logits, state = self._step(weights, state, controls[index])
            limit = top_k[index] if limited else None
            code = self.sample(logits, uniform[index], temperature[index], limit, top_p)
            code, mean = self._without_mean(code, state.mean)
            window = tf.concat([state.window[:, 1:], code[:, None]], axis=1)
            state = state._replace(window=window, position=state.position + 1, mean=mean)
            return index + 1, state, written.write(index, code)

        _, state, written = tf.while_loop(lambda index, *_: index < steps, sample, (tf.constant(0), state, written))
        return tf.transpose(written.stack()), state

    def _without_mean(self, code: tf.Tensor, mean: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What is left of codes `[voices]` when their running mean is taken away, and the mean after them."""
        if self.config.zero_mean is None:
            return code, mean
        amplitudes = self.model.quantizer.table()
        sound = tf.gather(tf.constant(amplitudes), code)
        mean = mean + share_of(self.config.zero_mean) * (sound - mean)
        return tf.searchsorted(tf.constant(edges(amplitudes)), sound - mean, side="right"), mean

    def _step(
        self, weights: ModelWeights, state: GenerationState, controls: tf.Tensor
    ) -> tuple[tf.Tensor, GenerationState]:
        """Logits `[voices, levels]` of the next sample, and the state but for the sample itself. controls:
        `[voices, controls]`."""
        model, window, lag = self.model, state.window, state.lag
        phase = tf.cast(state.position % self.config.top_frame, tf.int32)
        if model.reach:
            here = tf.constant([self.config.history])
            lag = tf.cond(
                phase == 0, lambda: found_lags(window, here, model.quantizer.table(), model.reach)[:, 0], lambda: lag
            )
        inputs = encoded(controls, self.config.control_inputs) if self.config.conditioned_on else None
        recurrent, conditions, condition = [], [], None
        for level, tier in enumerate(model.tiers):
            tier_state, given = self._frame(level, weights, state, phase, condition, inputs)
            recurrent.append(tier_state)
            conditions.append(given)
            condition = tf.gather(given, phase % tier.frame_size // (tier.frame_size // tier.ratio), axis=1)

        sample_weights = weights.sample
        features = _looked_up(sample_weights.table, tf.transpose(window[:, -self.config.sample_frame :]))
        if model.reach:
            stood, known = model.past(window, here, lag[:, None], controls[:, None])
            features = features + known * _looked_up(sample_weights.lookback, stood[..., 0])
        if inputs is not None and sample_weights.steer is not None:
            features = features + linear(inputs, sample_weights.steer)
        if condition is not None:
            features = features + condition
        stack = model.sample_tier.stack
        if stack is not None and sample_weights.stack is not None:
            features, stack_state = stack.step(features, state.recurrent[0], sample_weights.stack)
            recurrent.append(stack_state)
        after = state._replace(recurrent=tuple(recurrent), conditions=tuple(conditions), lag=lag)
        return model.perceptron(features, sample_weights), after

    def _frame(
        self,
        level: int,
        weights: ModelWeights,
        state: GenerationState,
        phase: tf.Tensor,
        condition: tf.Tensor | None,
        inputs: tf.Tensor | None,
    ) -> tuple[StackState, tf.Tensor]:
        """The recurrent state of frame tier `level` and what it gives to the steps below: of a new frame where one
        begins, else those of the frame before."""
        tier, tier_weights = self.model.tiers[level], weights.tiers[level]

        def begin():
            """What a new frame gives."""
            frame = self.model.scaled(state.window[:, -tier.frame_size :])
            rnn_input = tier.rnn_input(frame, condition, tier_weights, tier.control_term(inputs, tier_weights))
            output, after = tier.stack.step(rnn_input, state.recurrent[level], tier_weights.stack)
            return after, tier.upsampled(output, tier_weights)

        return tf.cond(phase % tier.frame_size == 0, begin, lambda: (state.recurrent[level], state.conditions[level]))


def _looked_up(table: tf.Tensor, codes: tf.Tensor) -> tf.Tensor:
    """The sum of embeddings: codes `[taps, voices]` -> `[voices, dim]`; table: `[taps, levels, dim]`."""
    return tf.reduce_sum(tf.gather(table, codes, batch_dims=1), axis=0)


@functools.lru_cache(maxsize=8)
def sampler_of(model: SampleRNN) -> Sampler:
    """The model's sampler, compiled once; previews during training use it too."""
    return Sampler(model)
