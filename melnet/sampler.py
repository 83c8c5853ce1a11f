"""New spectrograms from a trained tier with cached state: as much arithmetic as one teacher-forced pass.

Once per tier, features of the tiers below are extracted. Once per frame, the time-delayed and centralised layers take
one step in time for all bins at once, and their contribution to the gates of the frequency-delayed layers is computed
for the whole frame. Only the frequency-delayed layers then run element by element. A block of frames is one call of one
compiled function; random numbers are a function of (seed, voice, element).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from melnet.attention import Alignment, Memory
from melnet.model import Conditions, MelState, MelTier, RnnWeights, TierWeights, initial_state, split_parameters
from tierwave.nn.distributions import counter_uniform, sample_mixture
from tierwave.nn.linear import linear

BLOCK_FRAMES = 16  # frames of one compiled call
UNIFORMS = 2  # uniform numbers per element: which component, and where in it


class GenerationState(NamedTuple):
    """What one block hands to the next: the last frame `[voices, F]`, recurrent state, frames so far."""

    previous: tf.Tensor
    recurrent: MelState
    position: tf.Tensor


class Block(NamedTuple):
    """Frames of one call: values `[voices, frames, F]`, and where they attend to the text, if there is one."""

    values: Any
    alignment: Alignment | None


class TierSampler:
    """The compiled loops of one tier. sample and jit are for tests."""

    def __init__(self, model: MelTier, *, sample: Callable[..., tf.Tensor] = sample_mixture, jit: bool = True):
        self.model, self.sample = model, sample
        self.weights = tf.function(model.effective_weights, autograph=False)
        self._condition = tf.function(model.conditioning, jit_compile=jit, autograph=False)
        self._encode_text = tf.function(model.encode_text, jit_compile=jit, autograph=False)
        self._prime = tf.function(lambda *arguments: model.stacks(*arguments)[1], jit_compile=jit, autograph=False)
        self._block = tf.function(self.block, jit_compile=jit, autograph=False)

    def start(self, voices: int) -> GenerationState:
        """The state before the first frame."""
        model = self.model
        return GenerationState(tf.zeros([voices, model.bins]), model.initial_state(voices), tf.constant(0, tf.int64))

    def condition(self, lower: np.ndarray | None, controls: np.ndarray | None, weights: TierWeights) -> Conditions:
        """What the tiers below `[voices, T, F]` and controls `[voices, T, controls]` add to the three stacks."""
        given = [None if part is None else tf.constant(part, tf.float32) for part in (lower, controls)]
        return self._condition(*given, weights)

    def encode_text(self, text: np.ndarray, weights: TierWeights) -> Memory:
        """The encoded texts of codes int32 `[voices, U]`."""
        return self._encode_text(tf.constant(text, tf.int32), weights)

    def prime(
        self,
        state: GenerationState,
        values: np.ndarray,
        conditions: Conditions,
        weights: TierWeights,
        memory: Memory | None = None,
    ) -> GenerationState:
        """The state after the given frames `[voices, T, F]`; `conditions` are those of the whole tier, which begins
        with these frames."""
        frames = tf.constant(values, tf.float32)
        here = tuple(None if part is None else part[:, : values.shape[1]] for part in conditions)
        recurrent = self._prime(frames, state.previous, here, state.recurrent, weights, memory)
        return GenerationState(frames[:, -1], recurrent, state.position + values.shape[1])

    def run(
        self,
        weights: TierWeights,
        state: GenerationState,
        conditions: Conditions,
        first: int,
        frames: int,
        seeds: np.ndarray,
        temperature: np.ndarray,
        bias: float,
        memory: Memory | None = None,
    ) -> tuple[Block, GenerationState]:
        """The next `frames` (at most `BLOCK_FRAMES`) frames, as NumPy arrays; `conditions` are those of the whole tier,
        in which these frames begin at `first`."""

        def cut(part: tf.Tensor | None) -> tf.Tensor | None:
            if part is None:
                return None
            here = part[:, first : first + frames]
            return tf.pad(here, [[0, 0], [0, BLOCK_FRAMES - frames], *[[0, 0]] * (len(here.shape) - 2)])

        block, state = self._block(
            weights,
            state,
            tuple(map(cut, conditions)),
            tf.constant(frames),
            tf.constant(seeds),
            tf.constant(temperature, tf.float32),
            tf.constant(bias, tf.float32),
            memory,
        )
        values, *attention = [part.numpy()[:, :frames] for part in (block.values, *(block.alignment or ()))]
        return Block(values, Alignment(*attention) if attention else None), state

    def block(
        self,
        weights: TierWeights,
        state: GenerationState,
        conditions: Conditions,
        frames: tf.Tensor,
        seeds: tf.Tensor,
        temperature: tf.Tensor,
        bias: tf.Tensor,
        memory: Memory | None = None,
    ) -> tuple[Block, GenerationState]:
        """The graph of `run`: `BLOCK_FRAMES` frames, of which the first `frames` are new."""
        voices, bins = state.previous.shape
        written = tf.TensorArray(tf.float32, size=BLOCK_FRAMES, element_shape=[voices, bins])
        widths = [] if memory is None else [[voices, memory.mask.shape[1]], [voices]]
        attended = tuple(tf.TensorArray(tf.float32, size=BLOCK_FRAMES, element_shape=width) for width in widths)
        time_first = tuple(
            None if part is None else tf.transpose(part, [1, 0, *range(2, len(part.shape))]) for part in conditions
        )

        def frame(index, previous, recurrent, written, attended):
            """Sample one frame, bin by bin, from the frame before it."""
            here = tuple(None if part is None else part[index] for part in time_first)
            gates, base, recurrent, alignment = self._frame(previous, here, memory, recurrent, weights)
            attended = tuple(array.write(index, part) for array, part in zip(attended, alignment, strict=True))
            at = (state.position + tf.cast(index, tf.int64)) * (bins * UNIFORMS)
            uniform = tf.reshape(counter_uniform(seeds, at, bins * UNIFORMS), [voices, bins, UNIFORMS])
            values = self._elements(gates, base, uniform, temperature, bias, weights)
            return index + 1, values, recurrent, written.write(index, values), attended

        start = (tf.constant(0), state.previous, state.recurrent, written, attended)
        _, previous, recurrent, written, attended = tf.while_loop(lambda index, *_: index < frames, frame, start)
        alignment = None
        if memory is not None:
            weights_read, past = (array.stack() for array in attended)
            alignment = Alignment(tf.transpose(weights_read, [1, 0, 2]), tf.transpose(past))
        after = GenerationState(previous, recurrent, state.position + tf.cast(frames, tf.int64))
        return Block(tf.transpose(written.stack(), [1, 0, 2]), alignment), after

    def _frame(self, previous, conditions, memory, state, weights):
        """One step in time of everything that does not depend on this frame's own elements.

        Returns its terms in the gates of each frequency-delayed layer `[F, voices, gates]` and in the first layer's
        input `[F, voices, D]`, the next state, and the attention to the text, () where there is none.
        """
        model, dtype = self.model, self.model.product_dtype
        to_time, to_frequency, to_central = conditions
        h_time = linear(previous[..., None], weights.time_input)
        h_time = h_time if to_time is None else h_time + to_time
        h_central = None
        if weights.central_input is not None:
            h_central = linear(previous, weights.central_input)
            h_central = h_central if to_central is None else h_central + to_central
        voices, bins = previous.shape
        gates, time_states, central_states = [], [], []
        text_state, alignment = state.text, ()
        for index, (layer, layer_weights) in enumerate(zip(model.layers_of_stacks, weights.layers, strict=True)):
            flat = tuple(tf.reshape(part, [-1, part.shape[-1]]) for part in state.time[index])
            rows = tf.reshape(h_time, [-1, h_time.shape[-1]])
            along, flat = layer.time.cell.step(rows, flat, layer_weights.time.cell)
            time_states.append(tuple(tf.reshape(part, [voices, bins, part.shape[-1]]) for part in flat))
            up, down = _both_ways(layer, h_time, layer_weights.up, layer_weights.down)
            outputs = tf.concat([tf.reshape(along, [voices, bins, -1]), up, down], axis=-1)
            h_time = h_time + linear(outputs, layer_weights.to_time, dtype)
            term = h_time
            if h_central is not None:
                output, central_state = layer.central.cell.step(
                    h_central, state.central[index], layer_weights.central.cell
                )
                h_central = h_central + linear(output, layer_weights.to_central, dtype)
                if index == model.text_layer:
                    context, alignment, text_state = model.text.step(h_central, memory, text_state, weights.text)
                    h_central = h_central + context
                central_states.append(central_state)
                term = term + h_central[:, None]
            gates.append(layer.frequency.cell.project(tf.transpose(term, [1, 0, 2]), layer_weights.frequency.cell))
        base = tf.zeros([bins, voices, model.units]) + weights.frequency_input[1]
        if to_frequency is not None:
            base = base + tf.transpose(to_frequency, [1, 0, 2])
        return tuple(gates), base, MelState(tuple(time_states), tuple(central_states), text_state), alignment

    def _elements(self, gates, base, uniform, temperature, bias, weights):
        """The frame's elements, from the lowest bin up: `[voices, F]`."""
        model, dtype = self.model, self.model.product_dtype
        bins, voices, _ = base.shape
        first = tuple(initial_state(each.frequency, voices) for each in weights.layers)
        written = tf.TensorArray(tf.float32, size=bins, element_shape=[voices])
        kernel = weights.frequency_input[0]
        by_bin = tf.transpose(uniform, [1, 0, 2])

        def element(index, below, states, written):
            """Sample one bin from the bin below it."""
            h = below[:, None] * kernel + base[index]
            after = []
            for layer, layer_weights, frame_gates, state in zip(
                model.layers_of_stacks, weights.layers, gates, states, strict=True
            ):
                cell = layer_weights.frequency.cell
                # Only what this frame's own elements add: the frame's gates include the bias.
                own = layer.frequency.cell.project(h, cell._replace(bias=tf.zeros_like(cell.bias)))
                output, state = layer.frequency.cell.advance(own + frame_gates[index], state, cell)
                h = h + linear(output, layer_weights.to_frequency, dtype)
                after.append(state)
            logits, means, log_scales = split_parameters(linear(h, weights.output))
            value = self.sample(logits, means, log_scales, model.config.scale_floor, by_bin[index], temperature, bias)
            return index + 1, value, tuple(after), written.write(index, value)

        start = (tf.constant(0), tf.zeros([voices]), first, written)
        *_, written = tf.while_loop(lambda index, *_: index < bins, element, start, maximum_iterations=bins)
        return tf.transpose(written.stack())


def _both_ways(layer, h_time, up: RnnWeights, down: RnnWeights) -> tuple[tf.Tensor, tf.Tensor]:
    """The RNNs up and down the bins of a frame `[voices, F, D]`, side by side in one loop."""
    voices, bins, _ = h_time.shape
    columns = tf.transpose(h_time, [1, 0, 2])
    rising, falling = layer.up.cell.project(columns, up.cell), layer.down.cell.project(columns, down.cell)
    arrays = tuple(tf.TensorArray(tf.float32, size=bins, element_shape=[voices, layer.up.cell.units]) for _ in "ud")

    def step(index, low, high, arrays):
        """Go one bin up and, from the top, one bin down."""
        above = bins - 1 - index
        first, low = layer.up.cell.advance(rising[index], low, up.cell)
        second, high = layer.down.cell.advance(falling[above], high, down.cell)
        return index + 1, low, high, (arrays[0].write(index, first), arrays[1].write(above, second))

    start = (tf.constant(0), initial_state(up, voices), initial_state(down, voices), arrays)
    *_, arrays = tf.while_loop(lambda index, *_: index < bins, step, start, maximum_iterations=bins)
    return tuple(tf.transpose(array.stack(), [1, 0, 2]) for array in arrays)


@functools.lru_cache(maxsize=32)
def sampler_of(model: MelTier) -> TierSampler:
    """The tier's sampler, compiled once."""
    return TierSampler(model)
