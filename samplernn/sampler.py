"""New sound from a trained SampleRNN: compiled nested loops over top frames, frames and samples.

A block of up to `BLOCK_SAMPLES` is one call of one compiled function. All state (recurrent state, the last codes, the
position) goes in and comes out as values, and random numbers are a function of (seed, voice, position), so the sound
does not depend on the sizes of the blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from samplernn.model import ModelState, ModelWeights, SampleRNN, embed_taps
from tierwave.controls.live import Settings
from tierwave.generation.voices import VoiceGroups
from tierwave.nn.compiled import Calls
from tierwave.nn.distributions import counter_uniform, sample_categorical
from tierwave.nn.linear import encoded, linear
from tierwave.nn.lookback import found_lags

BLOCK_SAMPLES = 4096  # the longest block of one compiled call
LIVE_SAMPLES = 256  # the longest block of a call that is made every few milliseconds
PLAIN_FRAME = 64  # samples per step of the outer loop of a network without frame tiers
LARGE_DIM = 512  # from this width on an upsampling kernel is larger than a processor's cache


class GenerationState(NamedTuple):
    """What one block hands to the next: the last codes `[voices, history]`, recurrent state, samples so far."""

    window: tf.Tensor
    recurrent: ModelState
    position: tf.Tensor


class _FrameInputs(NamedTuple):
    """What the samples of a top frame are made from. uniform: of this frame, `[voices, frame]`; the others, time first,
    of the whole block, in which the frame begins at sample `first`. lag: found in the sound before this frame,
    `[voices]`."""

    uniform: tf.Tensor
    control_terms: tuple[tf.Tensor | None, ...]
    controls: tf.Tensor
    lag: tf.Tensor | None
    temperature: tf.Tensor
    top_k: tf.Tensor
    first: tf.Tensor
    weights: ModelWeights


class Sampler:
    """The compiled generation loop of one model; `weights()` reads its current weights.

    top_p and whether there is a top_k (limited) are part of the graph. sample and jit are for tests.
    """

    def __init__(
        self,
        model: SampleRNN,
        *,
        limited: bool = False,
        top_p: float | None = None,
        sample: Callable[..., tf.Tensor] = sample_categorical,
        jit: bool = True,
    ):
        self.model, self.config = model, model.config
        self.limited, self.top_p, self.sample = limited, top_p, sample
        self.frame = self.config.top_frame if self.config.frame_sizes else PLAIN_FRAME
        self.capacities = max(1, LIVE_SAMPLES // self.frame), max(1, BLOCK_SAMPLES // self.frame)
        self.weights = tf.function(self._weights, autograph=False)
        self._prime = tf.function(
            lambda codes, controls, state, weights: model.features(codes, state, weights, controls=controls)[1],
            autograph=False,
        )
        self._block = Calls(self.block, jit=jit)

    def _weights(self) -> ModelWeights:
        """Folded weights. A large upsampling kernel is cut into one contiguous kernel per step of the tier below: XLA
        multiplies a few rows by a kernel in memory twice as fast when the kernel's rows are short."""
        weights = self.model.effective_weights(folded=True)
        if self.config.dim < LARGE_DIM:
            return weights
        tiers = [
            tier_weights._replace(upsample=tuple(tf.split(tier_weights.upsample[0], tier.ratio, axis=1)))
            for tier, tier_weights in zip(self.model.tiers, weights.tiers, strict=True)
        ]
        return weights._replace(tiers=tuple(tiers))

    def start(self, voices: int) -> GenerationState:
        """The state before the first sample: silence behind, zero or learned recurrent state."""
        window = tf.fill([voices, self.config.history], self.model.quantizer.silence)
        return GenerationState(window, self.model.initial_state(voices), tf.constant(0, tf.int64))

    def prime(
        self, state: GenerationState, codes: np.ndarray, weights: ModelWeights, controls: np.ndarray | None = None
    ) -> GenerationState:
        """The state after `codes` int32 `[voices, samples]`, whole top frames.

        controls: float32 `[voices, samples, controls]`, if the network has any.
        """
        window, recurrent = state.window, state.recurrent
        step = self.capacities[-1] * self.config.top_frame
        for start in range(0, codes.shape[1], step):
            piece = tf.constant(codes[:, start : start + step])
            beside = None if controls is None else tf.constant(controls[:, start : start + step])
            recurrent = self._prime(tf.concat([window, piece], axis=1), beside, recurrent, weights)
            window = tf.concat([window, piece], axis=1)[:, -self.config.history :]
        return GenerationState(window, recurrent, state.position)

    def run(
        self, weights: ModelWeights, state: GenerationState, frames: int, seeds: np.ndarray, settings: Settings
    ) -> tuple[np.ndarray, GenerationState]:
        """The codes of the next top frames, int32 `[voices, frames * frame]`. settings are padded to the longest block
        that the call is compiled for."""
        given = [tf.constant(part) for part in settings]
        kind = settings.temperature.shape  # voices, and samples of the longest block
        codes, state = self._block(kind, weights, state, tf.constant(frames), tf.constant(seeds), *given)
        return codes.numpy()[:, : frames * self.frame], state

    def block(
        self,
        weights: ModelWeights,
        state: GenerationState,
        frames: tf.Tensor,
        seeds: tf.Tensor,
        controls: tf.Tensor,
        temperature: tf.Tensor,
        top_k: tf.Tensor,
    ) -> tuple[tf.Tensor, GenerationState]:
        """The graph of `run`: codes `[voices, samples of settings]`, of which the first `frames * frame` are new."""
        voices = state.window.shape[0]
        capacity = temperature.shape[1] // self.frame
        temperature, top_k = tf.transpose(temperature), tf.transpose(top_k)
        controls = tf.transpose(controls, [1, 0, 2])
        control_terms = self._control_terms(controls, weights)
        # Every tier has its own window of the last frame, which a frame of new samples replaces: so the output is
        # written once per top frame. Where the network looks back, each has all that it may see.
        sizes = [self.config.history if self.config.lookback else tier.frame_size for tier in self.model.tiers]
        windows = tuple(state.window[:, state.window.shape[1] - size :] for size in sizes) or (state.window,)
        written = tf.TensorArray(tf.int32, size=capacity, element_shape=[voices, self.frame])

        def top_frame(index, windows, recurrent, written):
            """Make the samples of one top frame."""
            first = index * self.frame
            uniform = counter_uniform(seeds, state.position + tf.cast(index * self.frame, tf.int64), self.frame)
            lag = self._found_lag(windows)
            inputs = _FrameInputs(uniform, control_terms, controls, lag, temperature, top_k, first, weights)
            if self.model.tiers:
                windows, recurrent = self._tier(0, windows, recurrent, None, 0, inputs)
                codes = _last(windows[0], self.frame)
            else:
                codes, windows, recurrent = self._plain(windows, recurrent, inputs)
            return index + 1, windows, recurrent, written.write(index, codes)

        _, windows, recurrent, written = tf.while_loop(
            lambda index, *_: index < frames, top_frame, (tf.constant(0), windows, state.recurrent, written)
        )
        codes = tf.reshape(tf.transpose(written.stack(), [1, 0, 2]), [voices, capacity * self.frame])
        position = state.position + tf.cast(frames * self.frame, tf.int64)
        return codes, GenerationState(windows[0], recurrent, position)

    def _found_lag(self, windows: tuple[tf.Tensor, ...]) -> tf.Tensor | None:
        """The lag that is found in the sound so far, `[voices]`; None where the network does not look back."""
        if not self.model.reach:
            return None
        window = windows[0]
        return found_lags(window, tf.constant([window.shape[1]]), self.model.quantizer.table(), self.model.reach)[:, 0]

    def _control_terms(self, controls: tf.Tensor, weights: ModelWeights) -> tuple[tf.Tensor | None, ...]:
        """What controls `[samples, voices, controls]` add to each frame tier and to the sample tier, time first."""
        if weights.sample.steer is None:
            return (None,) * (len(self.model.tiers) + 1)
        controls = encoded(controls, self.config.control_inputs)
        frames = [
            tier.control_term(controls[:: tier.frame_size], tier_weights)
            for tier, tier_weights in zip(self.model.tiers, weights.tiers, strict=True)
        ]
        return (*frames, linear(controls, weights.sample.steer))

    def _tier(self, level, windows, recurrent, condition, offset, inputs):
        """One step of frame tier `level` and all steps below it, whose samples start at `offset` in the top frame."""
        tier, tier_weights = self.model.tiers[level], inputs.weights.tiers[level]
        term = inputs.control_terms[level]
        if term is not None:
            term = term[(inputs.first + offset) // tier.frame_size]
        rnn_input = tier.rnn_input(
            self.model.scaled(_last(windows[level], tier.frame_size)), condition, tier_weights, term
        )
        output, tier_state = tier.stack.step(rnn_input, recurrent[level], tier_weights.stack)
        recurrent = (*recurrent[:level], tier_state, *recurrent[level + 1 :])
        conditions = tf.transpose(tier.upsampled(output, tier_weights), [1, 0, 2])  # [ratio, voices, dim]

        if level + 1 == len(self.model.tiers):

            def sample(index, window):
                features = self._features(window, offset + index, inputs) + conditions[index]
                code = self._sample(features, offset + index, inputs)
                return index + 1, tf.concat([window[:, 1:], code[:, None]], axis=1)

            _, window = tf.while_loop(lambda index, _: index < tier.ratio, sample, (tf.constant(0), windows[level]))
            return (*windows[:level], window), recurrent

        size = self.model.tiers[level + 1].frame_size

        def frame(index, windows, recurrent):
            windows, recurrent = self._tier(
                level + 1, windows, recurrent, conditions[index], offset + index * size, inputs
            )
            moved = tf.concat([windows[level][:, size:], _last(windows[level + 1], size)], axis=1)
            return index + 1, (*windows[:level], moved, *windows[level + 1 :]), recurrent

        _, windows, recurrent = tf.while_loop(
            lambda index, *_: index < tier.ratio, frame, (tf.constant(0), windows, recurrent)
        )
        return windows, recurrent

    def _plain(self, windows, recurrent, inputs):
        """A frame of a network without frame tiers, whose RNN runs at every sample."""
        stack = self.model.sample_tier.stack
        (window,) = windows
        codes = tf.zeros([window.shape[0], self.frame], tf.int32)

        def sample(index, codes, window, stack_state):
            """Make one sample."""
            features = self._features(window, index, inputs)
            features, stack_state = stack.step(features, stack_state, inputs.weights.sample.stack)
            code = self._sample(features, index, inputs)
            return index + 1, tf.concat([codes[:, 1:], code[:, None]], axis=1), code[:, None], stack_state

        _, codes, window, stack_state = tf.while_loop(
            lambda index, *_: index < self.frame, sample, (tf.constant(0), codes, window, recurrent[0])
        )
        return codes, (window,), (stack_state,)

    def _features(self, window, offset, inputs):
        """What the last codes `[voices, frame or more]` and the controls add up to, `[voices, dim]`."""
        frame, levels, dim = inputs.weights.sample.table.shape
        whole, window = window, _last(window, frame)
        rows = tf.reshape(inputs.weights.sample.table, [frame * levels, dim])
        at = window + levels * tf.range(frame)
        if at.shape[0] == 1:  # for one voice, slices are faster than XLA's gather, which starts threads
            features = tf.add_n([rows[at[0, tap]] for tap in range(frame)])[None]
        else:
            features = tf.reduce_sum(tf.gather(rows, at), axis=1)
        if inputs.lag is not None:
            at, controls = whole.shape[1] + tf.range(1), inputs.controls[inputs.first + offset][:, None]
            stood, known = self.model.past(whole, at, inputs.lag[:, None], controls)
            features = features + known * embed_taps(inputs.weights.sample.lookback, stood)[:, 0]
        term = inputs.control_terms[-1]
        return features if term is None else features + term[inputs.first + offset]

    def _sample(self, features, offset, inputs):
        """The next code of each voice."""
        logits = self.model.perceptron(features, inputs.weights.sample)
        at = inputs.first + offset
        limit = inputs.top_k[at] if self.limited else None
        return self.sample(logits, inputs.uniform[:, offset], inputs.temperature[at], limit, self.top_p)


def _last(window: tf.Tensor, count: int) -> tf.Tensor:
    """The last `count` codes of a window `[voices, codes]`."""
    return window[:, window.shape[1] - count :]


@functools.lru_cache(maxsize=8)
def sampler_of(model: SampleRNN, limited: bool, top_p: float | None) -> Sampler:
    """The model's sampler for these options, compiled once; previews during training use it too."""
    return Sampler(model, limited=limited, top_p=top_p)


class SampledVoices:
    """Voices of one model, in groups that run in threads; they go on by whole frames of `frame` samples."""

    def __init__(self, model: SampleRNN, voices: int, seed: int, *, top_p: float | None = None):
        self.model, self.top_p = model, top_p
        sampler = sampler_of(model, False, top_p)
        self.frame, self._capacities = sampler.frame, sampler.capacities
        self._weights = sampler.weights()
        self.groups = VoiceGroups(voices, seed, sampler.start)

    def prime(self, values: np.ndarray, controls: np.ndarray | None) -> None:
        """Continue from codes int32 `[voices, samples]`, whole top frames, with their controls."""
        sampler = sampler_of(self.model, False, self.top_p)
        self.groups.prime(
            lambda voices, state: sampler.prime(
                state, values[voices], self._weights, None if controls is None else controls[voices]
            )
        )

    def run(self, settings: Settings) -> np.ndarray:
        """As many codes as `settings` has steps, whole frames: int32 `[voices, samples]`."""
        samples = settings.temperature.shape[1]
        sampler = sampler_of(self.model, bool(settings.top_k.any()), self.top_p)
        wanted = samples // self.frame
        capacity = next((frames for frames in self._capacities if frames >= wanted), self._capacities[-1])
        block = capacity * self.frame

        def run(voices: slice, seeds: np.ndarray, state: GenerationState) -> tuple[np.ndarray, GenerationState]:
            pieces = []
            for start in range(0, samples, block):
                stop = min(start + block, samples)
                part = settings.part(voices.start, voices.stop, start, stop, block)
                codes, state = sampler.run(self._weights, state, (stop - start) // self.frame, seeds, part)
                pieces.append(codes)
            return np.concatenate(pieces, axis=1), state

        return self.groups.run(run)
