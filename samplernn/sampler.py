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
from tierwave.controls.live import Gestures, Settings
from tierwave.controls.schema import Schema
from tierwave.controls.tracks import Controls
from tierwave.generation.request import Request, Stream, group_sizes, usable_cores
from tierwave.nn.compiled import Calls
from tierwave.nn.distributions import counter_uniform, draw_categorical, stream_seeds
from tierwave.nn.linear import encoded, linear

BLOCK_SAMPLES = 4096  # the longest stretch of one compiled call
LIVE_SAMPLES = 256  # that of a call that is made for every few milliseconds
PLAIN_BLOCK = 64  # samples per turn of the outer loop when there is no frame tier to set it
LARGE_DIM = 512  # from this width on an upsampling kernel is more than a cache holds

Draw = Callable[..., tf.Tensor]


class Carry(NamedTuple):
    """What goes from one stretch to the next: the last codes `[streams, top frame]`, recurrent state, position."""

    window: tf.Tensor
    state: ModelState
    position: tf.Tensor


class _Turn(NamedTuple):
    """What one turn draws with and is steered by; all but `uniform` of the whole stretch, of which it starts at
    `first`."""

    uniform: tf.Tensor
    steered: tuple[tf.Tensor | None, ...]
    temperature: tf.Tensor
    top_k: tf.Tensor
    first: tf.Tensor
    weights: ModelWeights


class Sampler:
    """The compiled generation loops of one model; its weights are read anew at every `weights()`.

    top_p and whether there is a top_k (limited) are part of the graph. draw and jit are there for tests.
    """

    def __init__(
        self,
        model: SampleRNN,
        *,
        limited: bool = False,
        top_p: float | None = None,
        draw: Draw = draw_categorical,
        jit: bool = True,
    ):
        self.model, self.config = model, model.config
        self.limited, self.top_p, self.draw = limited, top_p, draw
        self.turn = self.config.top_frame if self.config.frame_sizes else PLAIN_BLOCK
        self.block_turns = max(1, BLOCK_SAMPLES // self.turn)
        self.live_turns = max(1, LIVE_SAMPLES // self.turn)
        self.weights = tf.function(self._weights, autograph=False)
        self._advance = tf.function(
            lambda codes, controls, state, weights: model.features(codes, state, weights, controls=controls)[1],
            autograph=False,
        )
        self._stretch = Calls(self.stretch, jit=jit)

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

    def warm(self, carry: Carry, codes: np.ndarray, weights: ModelWeights, controls: np.ndarray | None = None) -> Carry:
        """Run the tiers over `codes` int `[samples]`, the same for all streams, so that generation goes on from them.

        controls: float32 `[streams, samples, parameters]`, if the network is steered. Codes that do not fill a top
        frame are padded on the left with silence, and their parameters with the first ones.
        """
        top = self.config.top_frame
        streams = carry.window.shape[0]
        silence = self.model.quantizer.silence
        missing = -len(codes) % top
        padded = np.concatenate([np.full(missing, silence), codes]).astype(np.int32)
        if controls is not None:
            controls = np.pad(controls, [(0, 0), (missing, 0), (0, 0)], mode="edge")
        window, state = carry.window, carry.state
        step = self.block_turns * top
        for start in range(0, len(padded), step):
            piece = tf.tile(padded[None, start : start + step], [streams, 1])
            steered = None if controls is None else tf.constant(controls[:, start : start + step])
            state = self._advance(tf.concat([window, piece], axis=1), steered, state, weights)
            window = piece[:, -top:]
        return Carry(window, state, carry.position)

    def run(
        self, weights: ModelWeights, carry: Carry, turns: int, seeds: np.ndarray, settings: Settings
    ) -> tuple[np.ndarray, Carry]:
        """The next `turns` turns of `turn` samples: codes `[streams, turns * turn]`. settings are padded to the longest
        stretch that the call is compiled for."""
        steered = [tf.constant(part) for part in settings]
        kind = settings.temperature.shape  # streams and steps of the longest stretch
        codes, carry = self._stretch(kind, weights, carry, tf.constant(turns), tf.constant(seeds), *steered)
        return codes.numpy()[:, : turns * self.turn], carry

    def stretch(
        self,
        weights: ModelWeights,
        carry: Carry,
        turns: tf.Tensor,
        seeds: tf.Tensor,
        controls: tf.Tensor,
        temperature: tf.Tensor,
        top_k: tf.Tensor,
    ) -> tuple[tf.Tensor, Carry]:
        """The graph of `run`: codes `[streams, steps of settings]`, of which the first `turns * turn` are made."""
        streams = carry.window.shape[0]
        block_turns = temperature.shape[1] // self.turn
        steered = self._steered(controls, weights)
        temperature, top_k = tf.transpose(temperature), tf.transpose(top_k)
        # Every tier keeps its own window of the last frame; after a frame of steps it is the new frame, so nothing
        # else has to be collected and the output is written once per turn.
        sizes = [tier.frame_size for tier in self.model.tiers]
        windows = tuple(carry.window[:, carry.window.shape[1] - size :] for size in sizes) or (carry.window,)
        made = tf.TensorArray(tf.int32, size=block_turns, element_shape=[streams, self.turn])

        def turn(index, windows, state, made):
            uniform = counter_uniform(seeds, carry.position + tf.cast(index * self.turn, tf.int64), self.turn)
            first = index * self.turn
            now = _Turn(uniform, steered, temperature, top_k, first, weights)
            if self.model.tiers:
                windows, state = self._tier(0, windows, state, None, 0, now)
                codes = windows[0]
            else:
                codes, windows, state = self._plain(windows, state, now)
            return index + 1, windows, state, made.write(index, codes)

        _, windows, state, made = tf.while_loop(
            lambda index, *_: index < turns, turn, (tf.constant(0), windows, carry.state, made)
        )
        codes = tf.reshape(tf.transpose(made.stack(), [1, 0, 2]), [streams, block_turns * self.turn])
        return codes, Carry(windows[0], state, carry.position + tf.cast(turns * self.turn, tf.int64))

    def _steered(self, controls: tf.Tensor, weights: ModelWeights) -> tuple[tf.Tensor | None, ...]:
        """What parameters `[streams, steps, parameters]` add to each frame tier and to the sample tier, time first."""
        if weights.sample.steer is None:
            return (None,) * (len(self.model.tiers) + 1)
        controls = encoded(tf.transpose(controls, [1, 0, 2]), self.config.input_sizes)
        frames = [
            tier.steered(controls[:: tier.frame_size], tier_weights)
            for tier, tier_weights in zip(self.model.tiers, weights.tiers, strict=True)
        ]
        return (*frames, linear(controls, weights.sample.steer))

    def _tier(self, level, windows, state, condition, offset, now):
        """One step of frame tier `level` and all that happens below it; samples start at `offset` in this turn."""
        tier, tier_weights = self.model.tiers[level], now.weights.tiers[level]
        steered = now.steered[level]
        if steered is not None:
            steered = steered[(now.first + offset) // tier.frame_size]
        fed = tier.combined(self.model.scaled(windows[level]), condition, tier_weights, steered)
        output, tier_state = tier.stack.step(fed, state[level], tier_weights.stack)
        state = (*state[:level], tier_state, *state[level + 1 :])
        spread = tf.transpose(tier.spread(output, tier_weights), [1, 0, 2])  # [ratio, streams, dim]

        if level + 1 == len(self.model.tiers):

            def sample(index, window):
                features = self._features(window, offset + index, now) + spread[index]
                code = self._draw(features, offset + index, now)
                return index + 1, tf.concat([window[:, 1:], code[:, None]], axis=1)

            _, window = tf.while_loop(lambda index, _: index < tier.ratio, sample, (tf.constant(0), windows[level]))
            return (*windows[:level], window), state

        size = self.model.tiers[level + 1].frame_size

        def frame(index, windows, state):
            windows, state = self._tier(level + 1, windows, state, spread[index], offset + index * size, now)
            moved = tf.concat([windows[level][:, size:], windows[level + 1]], axis=1)
            return index + 1, (*windows[:level], moved, *windows[level + 1 :]), state

        _, windows, state = tf.while_loop(lambda index, *_: index < tier.ratio, frame, (tf.constant(0), windows, state))
        return windows, state

    def _plain(self, windows, state, now):
        """A turn of the network without frame tiers: its RNN runs at every sample."""
        stack = self.model.sample_tier.stack
        (window,) = windows
        codes = tf.zeros([window.shape[0], self.turn], tf.int32)

        def sample(index, codes, window, stack_state):
            features = self._features(window, index, now)
            features, stack_state = stack.step(features, stack_state, now.weights.sample.stack)
            code = self._draw(features, index, now)
            return index + 1, tf.concat([codes[:, 1:], code[:, None]], axis=1), code[:, None], stack_state

        _, codes, window, stack_state = tf.while_loop(
            lambda index, *_: index < self.turn, sample, (tf.constant(0), codes, window, state[0])
        )
        return codes, (window,), (stack_state,)

    def _features(self, window, offset, now):
        frame, levels, dim = now.weights.sample.table.shape
        rows = tf.reshape(now.weights.sample.table, [frame * levels, dim])
        at = window + levels * tf.range(frame)
        if at.shape[0] == 1:  # XLA would deal a gather from a large table out to threads, slices it does not
            features = tf.add_n([rows[at[0, tap]] for tap in range(frame)])[None]
        else:
            features = tf.reduce_sum(tf.gather(rows, at), axis=1)
        return features if now.steered[-1] is None else features + now.steered[-1][now.first + offset]

    def _draw(self, features, offset, now):
        logits = self.model.perceptron(features, now.weights.sample)
        limit = now.top_k[now.first + offset] if self.limited else None
        return self.draw(logits, now.uniform[:, offset], now.temperature[now.first + offset], limit, self.top_p)


@functools.lru_cache(maxsize=8)
def sampler_of(model: SampleRNN, limited: bool, top_p: float | None) -> Sampler:
    """The model's sampler for these options; compiled once, also for in-training generation."""
    return Sampler(model, limited=limited, top_p=top_p)


class SampleStream(Stream):
    """Sound of a SampleRNN as it is made: `render(n)`, `set(name=value)`, `record`.

    Groups of streams run side by side in threads, each its own compiled call; see `group_sizes`.
    """

    def __init__(self, model: SampleRNN, sample_rate: int, request: Request, schema: Schema | None = None):
        super().__init__(sample_rate, request.seconds)
        self.gestures = Gestures(
            schema or Schema(),
            request.sequences,
            sample_rate,
            drawn=request.controls,
            temperatures=request.temperatures,
            top_k=request.top_k,
            averaged=request.averaged,
        )
        self._model, self._top_p = model, request.top_p
        sampler = sampler_of(model, bool(request.top_k), request.top_p)
        self._turn, self._turns_at_once = sampler.turn, (sampler.live_turns, sampler.block_turns)
        self._weights = sampler.weights()
        self._decoded = model.quantizer.table()
        sizes = group_sizes(request.sequences, usable_cores())
        self._bounds = np.cumsum([0, *sizes])
        seeds = stream_seeds(request.random_seed, request.sequences)
        self._carries: list[Carry] = []
        self._seeds: list[np.ndarray] = []
        before = self._before(request)
        for first, last in zip(self._bounds[:-1], self._bounds[1:], strict=True):
            carry = sampler.start(int(last - first))
            if request.seed_audio is not None and len(request.seed_audio):
                codes = model.quantizer.encode(request.seed_audio)
                steered = None if before is None else before[first:last]
                carry = sampler.warm(carry, codes, self._weights, steered)
            self._carries.append(carry)
            self._seeds.append(seeds[first:last])
        self._threads = ThreadPoolExecutor(len(sizes)) if len(sizes) > 1 else None
        self._left = np.zeros([request.sequences, 0], np.int32)
        self._made = 0

    def _before(self, request: Request) -> np.ndarray | None:
        """The parameters of the seed, float32 `[sequences, samples, parameters]`: its own if they are all known, else
        those that are asked for at the start."""
        names = self.gestures.schema.names
        samples = 0 if request.seed_audio is None else len(request.seed_audio)
        if not names or not samples:
            return None
        if request.seed_controls is not None and set(names) <= set(request.seed_controls):
            own = self.gestures.schema.inputs(request.seed_controls, self.sample_rate, samples)
            return np.repeat(own[None], request.sequences, axis=0)
        return np.repeat(self.gestures.inputs(0, 1), samples, axis=1)

    def set(self, *, voice: int | None = None, **values: float | str) -> float:
        """Parameters in raw units, temperature and top_k (0: off), from the next knot on (see `Gestures`); a frame that
        has begun is finished first."""
        return self.gestures.set(self._made - self._left.shape[1], voice=voice, **values)

    def record(self, voice: int = 0) -> Controls:
        """What was drawn and set, to be drawn again."""
        return self.gestures.record(voice)

    def render(self, samples: int) -> np.ndarray:
        """The next samples, float32 `[sequences, samples]`."""
        with self.pace.block(samples):
            pieces, have = [self._left], self._left.shape[1]
            wanted = -(-(samples - have) // self._turn)
            capacity = next((turns for turns in self._turns_at_once if turns >= wanted), self._turns_at_once[-1])
            while have < samples:
                turns = min(-(-(samples - have) // self._turn), capacity)
                pieces.append(self._run(turns, capacity))
                have += pieces[-1].shape[1]
            codes = np.concatenate(pieces, axis=1) if len(pieces) > 1 else pieces[0]
            self._left = codes[:, samples:]
            return self._decoded[codes[:, :samples]]

    def _run(self, turns: int, capacity: int) -> np.ndarray:
        steps = turns * self._turn
        settings = self.gestures.settings(self._made, steps)
        sampler = sampler_of(self._model, bool(settings.top_k.any()), self._top_p)
        self._made += steps

        def run(index: int) -> np.ndarray:
            first, last = int(self._bounds[index]), int(self._bounds[index + 1])
            part = settings.part(first, last, 0, steps, capacity * self._turn)
            codes, self._carries[index] = sampler.run(
                self._weights, self._carries[index], turns, self._seeds[index], part
            )
            return codes

        if self._threads is None:
            return run(0)
        return np.concatenate(list(self._threads.map(run, range(len(self._carries)))), axis=0)
