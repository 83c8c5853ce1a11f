"""New sound from a trained SampleRNN: compiled nested loops over top frames, frames and samples.

One stretch of up to `BLOCK_FRAMES` top frames is one call of one compiled function, reused for all stretches and all
requests. Everything it needs (weights, state, window of past codes, position) goes in and comes out as values, so
memory does not grow with duration and the sound does not depend on the size of the blocks it is asked for in. The
random numbers are a function of (seed, stream, position).

Knows the model; knows nothing of files or training.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from samplernn.model import ModelState, ModelWeights, SampleRNN
from tierwave.distributions import counter_uniform, draw_categorical, stream_seeds
from tierwave.errors import UsageError
from tierwave.generation import Request, group_sizes, usable_cores

BLOCK_SAMPLES = 4096  # the longest stretch of one compiled call
PLAIN_BLOCK = 64  # samples per turn of the outer loop when there is no frame tier to set it
LARGE_DIM = 512  # from this width on an upsampling kernel is more than a cache holds

Draw = Callable[..., tf.Tensor]


class Carry(NamedTuple):
    """What goes from one stretch to the next: the last codes `[streams, top frame]`, recurrent state, position."""

    window: tf.Tensor
    state: ModelState
    position: tf.Tensor


class Sampler:
    """The compiled generation loops of one model; its weights are read anew at every `weights()`.

    top_k, top_p are part of the graph; temperature is an input. draw and jit are there for tests.
    """

    def __init__(
        self,
        model: SampleRNN,
        *,
        top_k: int | None = None,
        top_p: float | None = None,
        draw: Draw = draw_categorical,
        jit: bool = True,
    ):
        self.model, self.config = model, model.config
        self.top_k, self.top_p, self.draw = top_k, top_p, draw
        self.turn = self.config.top_frame if self.config.frame_sizes else PLAIN_BLOCK
        self.block_turns = max(1, BLOCK_SAMPLES // self.turn)
        self.weights = tf.function(self._weights, autograph=False)
        self._advance = tf.function(
            lambda codes, state, weights: model.features(codes, state, weights)[1], autograph=False
        )
        self._stretch = tf.function(self.stretch, jit_compile=jit, autograph=False)

    def _weights(self) -> ModelWeights:
        """Folded, and large upsampling kernels cut into one contiguous kernel per step below: XLA's product of a few
        rows with a kernel that lies in memory takes half as long when its rows are short."""
        weights = self.model.weights_in_effect(folded=True)
        if self.config.dim < LARGE_DIM:
            return weights
        tiers = []
        for tier, tier_weights in zip(self.model.tiers, weights.tiers, strict=True):
            (kernel,) = tier_weights.upsample
            tiers.append(tier_weights._replace(upsample=tuple(tf.split(kernel, tier.ratio, axis=1))))
        return weights._replace(tiers=tuple(tiers))

    def start(self, streams: int) -> Carry:
        """Before the first sample: silence behind, zero or learned state."""
        window = tf.fill([streams, self.config.top_frame], self.model.quantizer.silence)
        return Carry(window, self.model.initial_state(streams), tf.constant(0, tf.int64))

    def warm(self, carry: Carry, codes: np.ndarray, weights: ModelWeights) -> Carry:
        """Run the tiers over `codes` int `[samples]`, the same for all streams, so that generation goes on from them.

        Codes that do not fill a top frame are padded on the left with silence.
        """
        top = self.config.top_frame
        streams = carry.window.shape[0]
        silence = self.model.quantizer.silence
        padded = np.concatenate([np.full(-len(codes) % top, silence), codes]).astype(np.int32)
        window, state = carry.window, carry.state
        for start in range(0, len(padded), self.block_turns * top):
            piece = tf.tile(padded[None, start : start + self.block_turns * top], [streams, 1])
            state = self._advance(tf.concat([window, piece], axis=1), state, weights)
            window = piece[:, -top:]
        return Carry(window, state, carry.position)

    def run(
        self, weights: ModelWeights, carry: Carry, turns: int, seeds: tf.Tensor, temperature: tf.Tensor
    ) -> tuple[tf.Tensor, Carry]:
        """The next `turns` turns (at most `block_turns`) of `turn` samples: codes `[streams, turns * turn]`."""
        codes, carry = self._stretch(weights, carry, tf.constant(turns), seeds, temperature)
        return codes[:, : turns * self.turn], carry

    def stretch(
        self, weights: ModelWeights, carry: Carry, turns: tf.Tensor, seeds: tf.Tensor, temperature: tf.Tensor
    ) -> tuple[tf.Tensor, Carry]:
        """The graph of `run`; codes `[streams, block_turns * turn]`, of which the first `turns * turn` are made."""
        streams = carry.window.shape[0]
        # Every tier keeps its own window of the last frame; after a frame of steps it is the new frame, so nothing
        # else has to be collected and the output is written once per turn.
        sizes = [tier.frame_size for tier in self.model.tiers]
        windows = tuple(carry.window[:, carry.window.shape[1] - size :] for size in sizes) or (carry.window,)
        made = tf.TensorArray(tf.int32, size=self.block_turns, element_shape=[streams, self.turn])

        def turn(index, windows, state, made):
            uniform = counter_uniform(seeds, carry.position + tf.cast(index * self.turn, tf.int64), self.turn)
            if self.model.tiers:
                windows, state = self._tier(0, windows, state, None, uniform, 0, temperature, weights)
                codes = windows[0]
            else:
                codes, windows, state = self._plain(windows, state, uniform, temperature, weights)
            return index + 1, windows, state, made.write(index, codes)

        _, windows, state, made = tf.while_loop(
            lambda index, *_: index < turns, turn, (tf.constant(0), windows, carry.state, made)
        )
        codes = tf.reshape(tf.transpose(made.stack(), [1, 0, 2]), [streams, self.block_turns * self.turn])
        return codes, Carry(windows[0], state, carry.position + tf.cast(turns * self.turn, tf.int64))

    def _tier(self, level, windows, state, condition, uniform, offset, temperature, weights):
        """One step of frame tier `level` and all that happens below it; samples start at `offset` in this turn."""
        tier, tier_weights = self.model.tiers[level], weights.tiers[level]
        fed = tier.combined(self.model.scaled(windows[level]), condition, tier_weights)
        output, tier_state = tier.stack.step(fed, state[level], tier_weights.stack)
        state = (*state[:level], tier_state, *state[level + 1 :])
        spread = tf.transpose(tier.spread(output, tier_weights), [1, 0, 2])  # [ratio, streams, dim]

        if level + 1 == len(self.model.tiers):

            def sample(index, window):
                code = self._draw(window, spread[index], uniform[:, offset + index], temperature, weights)
                return index + 1, tf.concat([window[:, 1:], code[:, None]], axis=1)

            _, window = tf.while_loop(lambda index, _: index < tier.ratio, sample, (tf.constant(0), windows[level]))
            return (*windows[:level], window), state

        size = self.model.tiers[level + 1].frame_size

        def frame(index, windows, state):
            windows, state = self._tier(
                level + 1, windows, state, spread[index], uniform, offset + index * size, temperature, weights
            )
            moved = tf.concat([windows[level][:, size:], windows[level + 1]], axis=1)
            return index + 1, (*windows[:level], moved, *windows[level + 1 :]), state

        _, windows, state = tf.while_loop(lambda index, *_: index < tier.ratio, frame, (tf.constant(0), windows, state))
        return windows, state

    def _plain(self, windows, state, uniform, temperature, weights):
        """A turn of the network without frame tiers: its RNN runs at every sample."""
        stack = self.model.sample_tier.stack
        (window,) = windows
        codes = tf.zeros([window.shape[0], self.turn], tf.int32)

        def sample(index, codes, window, stack_state):
            features = self._features(window, weights)
            features, stack_state = stack.step(features, stack_state, weights.sample.stack)
            logits = self.model.perceptron(features, weights.sample)
            code = self.draw(logits, uniform[:, index], temperature, self.top_k, self.top_p)
            return index + 1, tf.concat([codes[:, 1:], code[:, None]], axis=1), code[:, None], stack_state

        _, codes, window, stack_state = tf.while_loop(
            lambda index, *_: index < self.turn, sample, (tf.constant(0), codes, window, state[0])
        )
        return codes, (window,), (stack_state,)

    def _features(self, window, weights):
        frame, levels, dim = weights.sample.table.shape
        rows = tf.reshape(weights.sample.table, [frame * levels, dim])
        at = window + levels * tf.range(frame)
        if at.shape[0] == 1:  # XLA would deal a gather from a large table out to threads, slices it does not
            return tf.add_n([rows[at[0, tap]] for tap in range(frame)])[None]
        return tf.reduce_sum(tf.gather(rows, at), axis=1)

    def _draw(self, window, condition, uniform, temperature, weights):
        logits = self.model.perceptron(self._features(window, weights) + condition, weights.sample)
        return self.draw(logits, uniform, temperature, self.top_k, self.top_p)


@functools.lru_cache(maxsize=8)
def sampler_of(model: SampleRNN, top_k: int | None, top_p: float | None) -> Sampler:
    """The model's sampler for these options; compiled once, also for in-training generation."""
    return Sampler(model, top_k=top_k, top_p=top_p)


class SampleStream:
    """Sound of a SampleRNN as it is made: `set(temperature=...)`, `render(n)`.

    Groups of streams run side by side in threads, each its own compiled call; see `generation.group_sizes`.
    """

    def __init__(self, model: SampleRNN, sample_rate: int, request: Request, sampler: Sampler | None = None):
        self.sample_rate = sample_rate
        self._model = model
        self._sampler = sampler or sampler_of(model, request.top_k, request.top_p)
        self._weights = self._sampler.weights()
        self._temperatures = np.asarray(request.temperatures, np.float32)
        self._decoded = model.quantizer.table()
        sizes = group_sizes(request.sequences, usable_cores())
        self._bounds = np.cumsum([0, *sizes])
        seeds = stream_seeds(request.random_seed, request.sequences)
        self._carries: list[Carry] = []
        self._seeds: list[np.ndarray] = []
        for first, last in zip(self._bounds[:-1], self._bounds[1:], strict=True):
            carry = self._sampler.start(int(last - first))
            if request.seed_audio is not None and len(request.seed_audio):
                carry = self._sampler.warm(carry, model.quantizer.encode(request.seed_audio), self._weights)
            self._carries.append(carry)
            self._seeds.append(seeds[first:last])
        self._threads = ThreadPoolExecutor(len(sizes)) if len(sizes) > 1 else None
        self._left = np.zeros([request.sequences, 0], np.int32)

    def set(self, **values: float) -> None:
        """`temperature` for all sequences, from the next frame that is made."""
        unknown = sorted(set(values) - {"temperature"})
        if unknown:
            raise UsageError(f"{unknown[0]!r} cannot be set; this model can be steered by: temperature")
        if values and not values["temperature"] >= 0:
            raise UsageError(f"temperature is {values['temperature']}, and it must be 0 or more")
        if values:
            self._temperatures = np.full_like(self._temperatures, values["temperature"])

    def render(self, samples: int) -> np.ndarray:
        """The next samples, float32 `[sequences, samples]`."""
        pieces, have = [self._left], self._left.shape[1]
        while have < samples:
            turns = min(-(-(samples - have) // self._sampler.turn), self._sampler.block_turns)
            pieces.append(self._run(turns))
            have += pieces[-1].shape[1]
        codes = np.concatenate(pieces, axis=1) if len(pieces) > 1 else pieces[0]
        self._left = codes[:, samples:]
        return self._decoded[codes[:, :samples]]

    def _run(self, turns: int) -> np.ndarray:
        def run(index: int) -> np.ndarray:
            temperature = tf.constant(self._temperatures[self._bounds[index] : self._bounds[index + 1]])
            codes, self._carries[index] = self._sampler.run(
                self._weights, self._carries[index], turns, self._seeds[index], temperature
            )
            return codes.numpy()

        if self._threads is None:
            return run(0)
        return np.concatenate(list(self._threads.map(run, range(len(self._carries)))), axis=0)
