"""New spectrograms from a trained tier with cached state, for the arithmetic of one teacher-forced pass.

Once per tier the features of the tiers below are extracted. Once per frame the time-delayed and centralised layers take
one step in time, all bins at once, their RNNs along the bins run up and down, and what all of that adds to the gates of
the frequency-delayed layers is multiplied out for the whole frame. Only those layers then run element by element. A
stretch of frames is one call of one compiled function; random numbers are a function of (seed, stream, element).

Knows one tier; how tiers follow each other is `melnet.generation`'s matter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from melnet.attention import Alignment, Memory
from melnet.model import Conditions, MelState, MelTier, RnnWeights, TierWeights, initial_state, split_parameters
from tierwave.nn.distributions import counter_uniform, draw_mixture
from tierwave.nn.linear import linear

BLOCK_FRAMES = 16  # frames of one compiled call
DRAWS = 2  # uniform numbers per element: which component, and where in it

Draw = Callable[..., tf.Tensor]


class Carry(NamedTuple):
    """What goes from one stretch to the next: the last frame `[streams, F]`, recurrent state, how many frames were
    made."""

    previous: tf.Tensor
    state: MelState
    position: tf.Tensor


class Made(NamedTuple):
    """Frames of a stretch: values `[streams, frames, F]`, and where in the text they were read, if there is one."""

    values: Any
    alignment: Alignment | None


class TierSampler:
    """The compiled loops of one tier. draw and jit are there for tests."""

    def __init__(self, model: MelTier, *, draw: Draw = draw_mixture, jit: bool = True):
        self.model, self.draw = model, draw
        self.weights = tf.function(model.weights_in_effect, autograph=False)
        self._condition = tf.function(model.conditioning, jit_compile=jit, autograph=False)
        self._remember = tf.function(model.remember, jit_compile=jit, autograph=False)
        self._forced = tf.function(lambda *arguments: model.stacks(*arguments)[1], jit_compile=jit, autograph=False)
        self._stretch = tf.function(self.stretch, jit_compile=jit, autograph=False)

    def start(self, streams: int) -> Carry:
        """Before the first frame."""
        model = self.model
        return Carry(tf.zeros([streams, model.bins]), model.initial_state(streams), tf.constant(0, tf.int64))

    def condition(self, lower: np.ndarray | None, controls: np.ndarray | None, weights: TierWeights) -> Conditions:
        """What the tiers below `[streams, T, F]` and parameters `[streams, T, parameters]` add to the three stacks."""
        given = [None if part is None else tf.constant(part, tf.float32) for part in (lower, controls)]
        return self._condition(*given, weights)

    def remember(self, text: np.ndarray, weights: TierWeights) -> Memory:
        """The encoded texts of codes int32 `[streams, U]`."""
        return self._remember(tf.constant(text, tf.int32), weights)

    def warm(
        self,
        carry: Carry,
        values: np.ndarray,
        conditions: Conditions,
        weights: TierWeights,
        memory: Memory | None = None,
    ) -> Carry:
        """Run over frames that are given, `[streams, T, F]`, so that generation goes on from them; `conditions` are
        those of the whole tier, which begins with these frames."""
        frames = tf.constant(values, tf.float32)
        here = tuple(None if part is None else part[:, : values.shape[1]] for part in conditions)
        state = self._forced(frames, carry.previous, here, carry.state, weights, memory)
        return Carry(frames[:, -1], state, carry.position + values.shape[1])

    def run(
        self,
        weights: TierWeights,
        carry: Carry,
        conditions: Conditions,
        first: int,
        frames: int,
        seeds: np.ndarray,
        temperature: np.ndarray,
        bias: float,
        memory: Memory | None = None,
    ) -> tuple[Made, Carry]:
        """The next `frames` (at most `BLOCK_FRAMES`) frames; `conditions` are those of the whole tier, of which these
        begin at `first`. Everything in NumPy."""

        def block(part: tf.Tensor | None) -> tf.Tensor | None:
            if part is None:
                return None
            cut = part[:, first : first + frames]
            return tf.pad(cut, [[0, 0], [0, BLOCK_FRAMES - frames], *[[0, 0]] * (len(cut.shape) - 2)])

        made, carry = self._stretch(
            weights,
            carry,
            tuple(map(block, conditions)),
            tf.constant(frames),
            tf.constant(seeds),
            tf.constant(temperature, tf.float32),
            tf.constant(bias, tf.float32),
            memory,
        )
        parts = [made.values, *(made.alignment or ())]
        values, *looks = [part.numpy()[:, :frames] for part in parts]
        return Made(values, Alignment(*looks) if looks else None), carry

    def stretch(
        self,
        weights: TierWeights,
        carry: Carry,
        conditions: Conditions,
        frames: tf.Tensor,
        seeds: tf.Tensor,
        temperature: tf.Tensor,
        bias: tf.Tensor,
        memory: Memory | None = None,
    ) -> tuple[Made, Carry]:
        """The graph of `run`: `BLOCK_FRAMES` frames, of which the first `frames` are made."""
        streams, bins = carry.previous.shape
        made = tf.TensorArray(tf.float32, size=BLOCK_FRAMES, element_shape=[streams, bins])
        widths = [] if memory is None else [[streams, memory.mask.shape[1]], [streams]]
        read = tuple(tf.TensorArray(tf.float32, size=BLOCK_FRAMES, element_shape=width) for width in widths)
        time_first = tuple(
            None if part is None else tf.transpose(part, [1, 0, *range(2, len(part.shape))]) for part in conditions
        )

        def frame(index, previous, state, made, read):
            here = tuple(None if part is None else part[index] for part in time_first)
            gates, base, state, alignment = self._frame(previous, here, memory, state, weights)
            read = tuple(array.write(index, part) for array, part in zip(read, alignment, strict=True))
            at = (carry.position + tf.cast(index, tf.int64)) * (bins * DRAWS)
            uniform = tf.reshape(counter_uniform(seeds, at, bins * DRAWS), [streams, bins, DRAWS])
            values = self._elements(gates, base, uniform, temperature, bias, weights)
            return index + 1, values, state, made.write(index, values), read

        _, previous, state, made, read = tf.while_loop(
            lambda index, *_: index < frames, frame, (tf.constant(0), carry.previous, carry.state, made, read)
        )
        position = carry.position + tf.cast(frames, tf.int64)
        alignment = None
        if memory is not None:
            looks, past = (array.stack() for array in read)
            alignment = Alignment(tf.transpose(looks, [1, 0, 2]), tf.transpose(past))
        return Made(tf.transpose(made.stack(), [1, 0, 2]), alignment), Carry(previous, state, position)

    def _frame(self, previous, here, memory, state, weights):
        """One step in time of all that does not depend on this frame's own elements.

        Returns what each frequency-delayed layer's gates get from it `[F, streams, gates]`, what its input gets
        `[F, streams, D]`, the next state, and where in the text was read, () where there is none.
        """
        model, dtype = self.model, self.model.product_dtype
        to_time, to_frequency, to_central = here
        h_time = linear(previous[..., None], weights.time_input)
        h_time = h_time if to_time is None else h_time + to_time
        h_central = None
        if weights.central_input is not None:
            h_central = linear(previous, weights.central_input)
            h_central = h_central if to_central is None else h_central + to_central
        streams, bins = previous.shape
        gates, time_states, central_states = [], [], []
        text_state, alignment = state.text, ()
        for index, (layer, layer_weights) in enumerate(zip(model.layers_of_stacks, weights.layers, strict=True)):
            flat = tuple(tf.reshape(part, [-1, part.shape[-1]]) for part in state.time[index])
            rows = tf.reshape(h_time, [-1, h_time.shape[-1]])
            along, flat = layer.time.cell.step(rows, flat, layer_weights.time.cell)
            time_states.append(tuple(tf.reshape(part, [streams, bins, part.shape[-1]]) for part in flat))
            up, down = _both_ways(layer, h_time, layer_weights.up, layer_weights.down)
            seen = tf.concat([tf.reshape(along, [streams, bins, -1]), up, down], axis=-1)
            h_time = h_time + linear(seen, layer_weights.to_time, dtype)
            told = h_time
            if h_central is not None:
                output, central_state = layer.central.cell.step(
                    h_central, state.central[index], layer_weights.central.cell
                )
                h_central = h_central + linear(output, layer_weights.to_central, dtype)
                if index == model.text_layer:
                    added, alignment, text_state = model.text.step(h_central, memory, text_state, weights.text)
                    h_central = h_central + added
                central_states.append(central_state)
                told = told + h_central[:, None]
            gates.append(layer.frequency.cell.project(tf.transpose(told, [1, 0, 2]), layer_weights.frequency.cell))
        base = tf.zeros([bins, streams, model.units]) + weights.frequency_input[1]
        if to_frequency is not None:
            base = base + tf.transpose(to_frequency, [1, 0, 2])
        return tuple(gates), base, MelState(tuple(time_states), tuple(central_states), text_state), alignment

    def _elements(self, gates, base, uniform, temperature, bias, weights):
        """The frame's elements, from the lowest bin up: `[streams, F]`."""
        model, dtype = self.model, self.model.product_dtype
        bins, streams, _ = base.shape
        first = tuple(initial_state(each.frequency, streams) for each in weights.layers)
        made = tf.TensorArray(tf.float32, size=bins, element_shape=[streams])
        kernel = weights.frequency_input[0]
        by_bin = tf.transpose(uniform, [1, 0, 2])

        def element(index, below, states, made):
            h = below[:, None] * kernel + base[index]
            after = []
            for layer, layer_weights, own, state in zip(
                model.layers_of_stacks, weights.layers, gates, states, strict=True
            ):
                cell = layer_weights.frequency.cell
                # The gates of what comes from this frame's own elements; the bias is in the other part already.
                projected = layer.frequency.cell.project(h, cell._replace(bias=tf.zeros_like(cell.bias))) + own[index]
                output, state = layer.frequency.cell.advance(projected, state, cell)
                h = h + linear(output, layer_weights.to_frequency, dtype)
                after.append(state)
            logits, means, log_scales = split_parameters(linear(h, weights.output))
            value = self.draw(logits, means, log_scales, model.config.scale_floor, by_bin[index], temperature, bias)
            return index + 1, value, tuple(after), made.write(index, value)

        start = (tf.constant(0), tf.zeros([streams]), first, made)
        *_, made = tf.while_loop(lambda index, *_: index < bins, element, start, maximum_iterations=bins)
        return tf.transpose(made.stack())


def _both_ways(layer, h_time, up: RnnWeights, down: RnnWeights) -> tuple[tf.Tensor, tf.Tensor]:
    """The RNNs up and down the bins of a frame `[streams, F, D]`, side by side in one loop."""
    streams, bins, _ = h_time.shape
    columns = tf.transpose(h_time, [1, 0, 2])
    rising, falling = layer.up.cell.project(columns, up.cell), layer.down.cell.project(columns, down.cell)
    arrays = tuple(tf.TensorArray(tf.float32, size=bins, element_shape=[streams, layer.up.cell.units]) for _ in "ud")

    def step(index, low, high, arrays):
        above = bins - 1 - index
        first, low = layer.up.cell.advance(rising[index], low, up.cell)
        second, high = layer.down.cell.advance(falling[above], high, down.cell)
        return index + 1, low, high, (arrays[0].write(index, first), arrays[1].write(above, second))

    start = (tf.constant(0), initial_state(up, streams), initial_state(down, streams), arrays)
    *_, arrays = tf.while_loop(lambda index, *_: index < bins, step, start, maximum_iterations=bins)
    return tuple(tf.transpose(array.stack(), [1, 0, 2]) for array in arrays)


@functools.lru_cache(maxsize=32)
def sampler_of(model: MelTier) -> TierSampler:
    """The tier's sampler, compiled once."""
    return TierSampler(model)
