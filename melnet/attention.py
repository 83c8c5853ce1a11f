"""Text for the first tier: a character encoder, and attention that moves over its output from left to right.

The encoder is an embedding and one bidirectional layer. The attention is an LSTM over frames; from the centralised
stack and the last frame's context it gives the step, width and weight of every component:

    LSTM([h_c ; context before]) -> components m:  kappa_m += softplus(.) + 1e-3, beta_m = softplus(.) + 0.1, alpha_m
    F(x) = sum_m alpha_m sigma((x - kappa_m) / beta_m)     w_u = F(u + 1/2) - F(u - 1/2),  characters u = 1 to U
    context = sum_u w_u memory_u

which is the mixture attention of Graves 2013 with discretised logistics (Vasquez & Lewis 2019, first version), with
steps bounded below as in R-MelNet. `sequence` runs windows and `step` single frames with the same weights.

Shapes: characters U, components M, units D; codes int32 `[batch, U]`, 0 for padding at the end.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tierwave.errors import UsageError
from tierwave.nn.cells import CellWeights, State
from tierwave.nn.linear import Linear, NormalisableLayer, linear, matmul, weights_of
from tierwave.nn.recurrent import Recurrent

LEAST_STEP = 1e-3  # characters per frame, the slowest a component moves
LEAST_BREADTH = 0.1  # width of a component in characters, below which the steps of F have no gradient
HOLD_FRAMES = 3  # consecutive frames past the end of the text that end a sound


class Memory(NamedTuple):
    """An encoded text: values `[batch, U, D]`, 0 in the padding, and mask float32 `[batch, U]`."""

    values: tf.Tensor
    mask: tf.Tensor


class AttentionState(NamedTuple):
    """The state between frames: the LSTM's, the context `[batch, D]` and the components' positions `[batch, M]` in
    characters."""

    cell: State
    context: tf.Tensor
    kappa: tf.Tensor


class Alignment(NamedTuple):
    """Each frame's attention to each character `[batch, (T,) U]`, and past the last one `[batch(, T)]`."""

    weights: tf.Tensor
    past: tf.Tensor


class AttentionWeights(NamedTuple):
    """Effective weights of encoder and attention."""

    embedding: tf.Tensor
    forward: CellWeights
    backward: CellWeights
    cell: CellWeights
    mixture: tuple[tf.Tensor, tf.Tensor | None]
    to_central: tuple[tf.Tensor, tf.Tensor | None]


class TextAttention(NormalisableLayer):
    """Encoder and attention for `characters` different ones, at a stack `units` wide."""

    def __init__(self, characters: int, units: int, components: int, *, compute_dtype: str = "float32", name: str):
        super().__init__(name=name)
        if units < 2:
            raise UsageError(f"hidden_size is {units}, and text needs 2 or more: half of it reads each way")
        self.units, self.components, self.product_dtype = units, components, compute_dtype

        def lstm(inputs: int, units: int, name: str) -> Recurrent:
            return Recurrent(inputs, units, cell="lstm", compute_dtype=compute_dtype, name=name)

        self.embedding = self.add_weight(name="embedding", shape=(characters + 1, units), initializer="random_normal")
        self.forward = lstm(units, units - units // 2, "forward")
        self.backward = lstm(units, units // 2, "backward")
        self.cell = lstm(2 * units, units, "cell")
        self.mixture = Linear(units, 3 * components, name="mixture")
        self.to_central = Linear(units, units, name="to_central")
        self.built = True

    def effective_weights(self) -> AttentionWeights:
        """All weights as tensors."""
        return AttentionWeights(*(weights_of(getattr(self, name)) for name in AttentionWeights._fields))

    def initial_state(self, batch: int | tf.Tensor) -> AttentionState:
        """Before the first character."""
        cell = tuple(tf.zeros([batch, size]) for size, _ in self.cell.state_parts)
        return AttentionState(cell, tf.zeros([batch, self.units]), tf.zeros([batch, self.components]))

    def encode_text(self, codes: tf.Tensor, weights: AttentionWeights) -> Memory:
        """The encoded text of codes `[batch, U]`."""
        mask = tf.cast(codes > 0, tf.float32)
        lengths = tf.reduce_sum(tf.cast(codes > 0, tf.int32), axis=1)
        embedded = tf.gather(weights.embedding, codes)
        batch = tf.shape(codes)[0]
        ways = []
        for rnn, cell, backward in ((self.forward, weights.forward, False), (self.backward, weights.backward, True)):
            start = tuple(tf.zeros([batch, size]) for size, _ in rnn.state_parts)
            # Only the text is reversed: padding stays at the end, where it affects no character.
            inputs = tf.reverse_sequence(embedded, lengths, seq_axis=1, batch_axis=0) if backward else embedded
            output, _ = rnn.sequence(inputs, start, cell)
            ways.append(tf.reverse_sequence(output, lengths, seq_axis=1, batch_axis=0) if backward else output)
        return Memory(tf.concat(ways, axis=-1) * mask[..., None], mask)

    def sequence(
        self, h_central: tf.Tensor, memory: Memory, state: AttentionState, weights: AttentionWeights
    ) -> tuple[tf.Tensor, Alignment, AttentionState]:
        """A whole window: h_central `[batch, T, D]` -> the context to be added to it, of the same shape, the alignment,
        and the state after the window."""
        batch, frames, characters = h_central.shape[0], h_central.shape[1], memory.mask.shape[1]
        projected = tf.transpose(self._projected(h_central, weights), [1, 0, 2])
        widths = ([batch, self.units], [batch, characters], [batch])
        arrays = tuple(tf.TensorArray(tf.float32, size=frames, element_shape=width) for width in widths)

        def frame(index: tf.Tensor, state: AttentionState, arrays: Any) -> Any:
            alignment, state = self._advance(projected[index], memory, state, weights)
            values = (state.context, *alignment)
            return index + 1, state, tuple(array.write(index, part) for array, part in zip(arrays, values, strict=True))

        _, state, arrays = tf.while_loop(
            lambda index, *_: index < frames, frame, (tf.constant(0), state, arrays), maximum_iterations=frames
        )
        contexts, attention, past = (array.stack() for array in arrays)
        context = linear(tf.transpose(contexts, [1, 0, 2]), weights.to_central, self.product_dtype)
        return context, Alignment(tf.transpose(attention, [1, 0, 2]), tf.transpose(past)), state

    def step(
        self, h_central: tf.Tensor, memory: Memory, state: AttentionState, weights: AttentionWeights
    ) -> tuple[tf.Tensor, Alignment, AttentionState]:
        """A frame of `sequence`: h_central `[batch, D]`."""
        alignment, state = self._advance(self._projected(h_central, weights), memory, state, weights)
        return linear(state.context, weights.to_central, self.product_dtype), alignment, state

    def _projected(self, h_central: tf.Tensor, weights: AttentionWeights) -> tf.Tensor:
        """The contribution of the stack to the gates, which unlike that of the context is known for all frames."""
        return matmul(h_central, weights.cell.kernel[: self.units], self.product_dtype) + weights.cell.bias

    def _advance(
        self, projected: tf.Tensor, memory: Memory, state: AttentionState, weights: AttentionWeights
    ) -> tuple[Alignment, AttentionState]:
        projected = projected + matmul(state.context, weights.cell.kernel[self.units :], self.product_dtype)
        output, cell = self.cell.advance(projected, state.cell, weights.cell)
        # Positions are counted in float32 whatever the products are multiplied in.
        ahead, breadth, trust = tf.split(linear(output, weights.mixture), 3, axis=-1)
        kappa = state.kappa + tf.nn.softplus(ahead) + LEAST_STEP
        beta, alpha = tf.nn.softplus(breadth) + LEAST_BREADTH, tf.nn.softmax(trust)
        alignment = attend(kappa, beta, alpha, memory.mask)
        context = tf.linalg.matvec(memory.values, alignment.weights, transpose_a=True)
        return alignment, AttentionState(cell, context, kappa)


def attend(kappa: tf.Tensor, beta: tf.Tensor, alpha: tf.Tensor, mask: tf.Tensor) -> Alignment:
    """The discretised mixture of logistics, controls `[batch, M]`, on the characters of `mask [batch, U]`."""
    edges = tf.range(mask.shape[1] + 1, dtype=tf.float32) + 0.5
    below = tf.sigmoid((edges[:, None] - kappa[:, None]) / beta[:, None])
    cumulative = tf.linalg.matvec(below, alpha)
    weights = (cumulative[:, 1:] - cumulative[:, :-1]) * mask
    last = tf.reduce_sum(mask, axis=1, keepdims=True) + 0.5
    past = tf.reduce_sum(alpha * tf.sigmoid((kappa - last) / beta), axis=1)
    return Alignment(weights, past)


def is_past(weights: np.ndarray, past: np.ndarray) -> np.ndarray:
    """Which frames are past the text: more attention lies past its end than on any one character (Graves 2013, section
    5.3). weights `[..., U]`, past `[...]`."""
    return past > weights.max(axis=-1)


def end_of(passed: np.ndarray, hold: int = HOLD_FRAMES) -> int | None:
    """The number of frames after which `passed [frames]` has been true `hold` times running; None if never."""
    running = 0
    for frame, here in enumerate(passed):
        running = running + 1 if here else 0
        if running == hold:
            return frame + 1
    return None
