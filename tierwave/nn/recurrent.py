"""Recurrent cells with explicit state, in two forms that share one set of weights.

The sequence form (`Recurrent.sequence`, `RecurrentStack.sequence`) runs whole windows for training; the step form
(`Recurrent.step`, `RecurrentStack.step`) runs one time step inside a compiled generation loop. State is a value: it
goes in and comes out, nothing is remembered between calls. Both forms take *effective* weights (plain tensors, weight
normalisation already applied), so that a generation loop reads every variable once.

Knows nothing of audio, codes or families.

Shapes: inputs `[batch, time, features]`; a layer's state is a tuple of `[batch, units]` tensors, `(h,)` for a GRU and
`(h, c)` for an LSTM; a phased LSTM's is `(h, c, time)` with the steps since the last reset, int32 `[batch, 1]`; a
stack's state is a tuple of layer states.

The sequence form hoists the input projection out of the time loop and has a gradient of its own: the loop backwards
computes only what depends on time, and the gradient of the recurrent kernel is one matrix product over all steps at the
end instead of an accumulation in every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import keras
import tensorflow as tf

CellName = Literal["gru", "lstm", "phased_lstm"]
GruReset = Literal["after", "before"]
SkipConnections = bool | Literal["prism"]
State = tuple[tf.Tensor, ...]
StackState = tuple[State, ...]

# Phased LSTM (Neil, Pfeiffer & Liu 2016). The leak lets gradients through a closed gate; it is for training only.
LEAK = 0.001
INITIAL_RATIO_ON = 0.2
# Below these a trained gate would divide by zero. A period shorter than one step has no meaning anyway.
SHORTEST_PERIOD = 1e-3
SMALLEST_RATIO_ON = 1e-3
# A name of its own, so that weights made with a truncating modulo can be checked against their origin.
_positive_modulo = tf.math.floormod


def matmul(inputs: tf.Tensor, kernel: tf.Tensor, compute_dtype: str = "float32") -> tf.Tensor:
    """`inputs [..., a] @ kernel [a, b]`, multiplied in `compute_dtype`, returned as float32."""
    if compute_dtype != "float32":
        inputs, kernel = tf.cast(inputs, compute_dtype), tf.cast(kernel, compute_dtype)
    # tensordot flattens the leading axes into one large product, where tf.matmul would repeat the kernel over them.
    product = tf.matmul(inputs, kernel) if len(inputs.shape) == 2 else tf.tensordot(inputs, kernel, 1)
    return tf.cast(product, tf.float32)


def column_normalised(kernel: tf.Tensor, gain: tf.Tensor) -> tf.Tensor:
    """Weight normalisation per output column: `gain * kernel / ||kernel||` (Salimans & Kingma 2016, eq. 2)."""
    axes = list(range(len(kernel.shape) - 1))
    return kernel * (gain * tf.math.rsqrt(tf.reduce_sum(tf.square(kernel), axis=axes)))


class NormalisableLayer(keras.layers.Layer):
    """A layer whose kernels may be weight-normalised: `add_kernel` makes one, `effective` gives it as a tensor."""

    def __init__(self, *, weight_norm: bool = False, **options: Any):
        super().__init__(dtype="float32", **options)
        self.weight_norm = weight_norm

    def add_kernel(self, name: str, shape: Sequence[int], initializer: Any) -> Any:
        """A kernel variable; with weight normalisation a `<name>_gain` of its initial column norms goes with it."""
        kernel = self.add_weight(name=name, shape=tuple(shape), initializer=initializer)
        if self.weight_norm:
            values = keras.ops.convert_to_numpy(kernel)
            norms = ((values.astype("float64") ** 2).sum(axis=tuple(range(values.ndim - 1)))) ** 0.5
            gain = self.add_weight(name=f"{name}_gain", shape=norms.shape, initializer="ones")
            gain.assign(norms)
            setattr(self, f"{name}_gain", gain)
        return kernel

    def effective(self, name: str) -> tf.Tensor:
        """The kernel in effect, as a tensor."""
        kernel = tf.convert_to_tensor(getattr(self, name))
        if not self.weight_norm:
            return kernel
        return column_normalised(kernel, tf.convert_to_tensor(getattr(self, f"{name}_gain")))


class Linear(NormalisableLayer):
    """`x @ kernel + bias`; kernel `[inputs, outputs]`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        use_bias: bool = True,
        weight_norm: bool = False,
        initializer: Any = "glorot_uniform",
        **options: Any,
    ):
        super().__init__(weight_norm=weight_norm, **options)
        self.kernel = self.add_kernel("kernel", (inputs, outputs), initializer)
        self.bias = self.add_weight(name="bias", shape=(outputs,), initializer="zeros") if use_bias else None
        self.built = True

    def weights_in_effect(self) -> tuple[tf.Tensor, tf.Tensor | None]:
        """(kernel, bias or None) as tensors."""
        return self.effective("kernel"), None if self.bias is None else tf.convert_to_tensor(self.bias)


def linear(inputs: tf.Tensor, weights: tuple[tf.Tensor, tf.Tensor | None], compute_dtype: str = "float32") -> tf.Tensor:
    """Apply the weights of a `Linear` to `inputs [..., features]`."""
    kernel, bias = weights
    product = matmul(inputs, kernel, compute_dtype)
    return product if bias is None else product + bias


def encoded(parameters: tf.Tensor, sizes: Sequence[int]) -> tf.Tensor:
    """Parameters `[..., parameters]` in 0 ... 1 as inputs `[..., sum(sizes)]`: a number (size 1) as it is, and one of n
    categories, which lie at 0, 1 / (n - 1) ... 1, as n numbers of which its own is 1."""
    if all(size == 1 for size in sizes):
        return parameters
    parts = [
        parameters[..., column : column + 1]
        if size == 1
        else tf.one_hot(tf.cast(tf.round(parameters[..., column] * (size - 1.0)), tf.int32), size)
        for column, size in enumerate(sizes)
    ]
    return tf.concat(parts, axis=-1)


class CellWeights(NamedTuple):
    """Effective weights of one recurrent layer, gates in Keras' order: GRU z, r, h; LSTM i, f, c, o.

    kernel `[inputs, gates * units]`, recurrent_kernel `[units, gates * units]`, bias `[gates * units]`;
    recurrent_bias `[gates * units]` only for a GRU with reset after the product; gate, only for a phased LSTM, holds
    period (steps), phase (steps) and ratio_on, each `[units]`.
    """

    kernel: tf.Tensor
    recurrent_kernel: tf.Tensor
    bias: tf.Tensor
    recurrent_bias: tf.Tensor | None
    gate: tuple[tf.Tensor, tf.Tensor, tf.Tensor] | None = None


# --- one step, given the projected input --------------------------------------------------------------------------


def _gru_after_step(projected: tf.Tensor, h: tf.Tensor, recurrent: tf.Tensor, bias: tf.Tensor, dtype: str):
    """Reset applied after the product (cuDNN's and PRiSM's convention). Returns h and what the gradient needs."""
    inner = matmul(h, recurrent, dtype) + bias
    input_z, input_r, input_c = tf.split(projected, 3, axis=-1)
    inner_z, inner_r, inner_c = tf.split(inner, 3, axis=-1)
    z, r = tf.sigmoid(input_z + inner_z), tf.sigmoid(input_r + inner_r)
    candidate = tf.tanh(input_c + r * inner_c)
    return z * (h - candidate) + candidate, (z, r, candidate, inner_c)


def _gru_before_step(projected: tf.Tensor, h: tf.Tensor, recurrent: tf.Tensor, dtype: str):
    """Reset applied before the product (Cho et al. 2014; the original SampleRNN)."""
    units = h.shape[-1]
    input_zr, input_c = tf.split(projected, [2 * units, units], axis=-1)
    z, r = tf.split(tf.sigmoid(input_zr + matmul(h, recurrent[:, : 2 * units], dtype)), 2, axis=-1)
    candidate = tf.tanh(input_c + matmul(r * h, recurrent[:, 2 * units :], dtype))
    return z * (h - candidate) + candidate, (z, r, candidate)


def _lstm_step(projected: tf.Tensor, h: tf.Tensor, c: tf.Tensor, recurrent: tf.Tensor, dtype: str):
    gates = projected + matmul(h, recurrent, dtype)
    i, f, g, o = tf.split(gates, 4, axis=-1)
    i, f, g, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(g), tf.sigmoid(o)
    c_new = f * c + i * g
    squashed = tf.tanh(c_new)
    return o * squashed, c_new, (i, f, g, o, squashed)


def _lstm_step_gradient(dh, dc, c, i, f, g, o, squashed):
    """Gradients of the gates' sums and of `c`, the cell before the step, from those of h and c after it."""
    dc = dc + dh * o * (1.0 - squashed * squashed)
    d_gates = tf.concat(
        [
            dc * g * i * (1.0 - i),
            dc * c * f * (1.0 - f),
            dc * i * (1.0 - g * g),
            dh * squashed * o * (1.0 - o),
        ],
        axis=-1,
    )
    return d_gates, dc * f


def time_gate(
    time: tf.Tensor,
    period: tf.Tensor,
    phase: tf.Tensor,
    ratio_on: tf.Tensor,
    leak: float = 0.0,
    *,
    origin: tf.Tensor | int = 0,
) -> tf.Tensor:
    """How far each unit is open, 0 to 1, at `time [..., 1]` (steps): `[..., units]` (Neil et al. 2016, eq. 6 and 7).

    A unit opens and closes linearly in the first `ratio_on` of its `period` (steps), which starts at `phase` (steps)
    and is repeated to both sides; in the rest it is open by `leak` times the share of the period that has gone by.
    origin: the time of the window's first step; a change of period is taken to begin there, since its gradient would
    otherwise grow with the time since the recording began and drown all others.
    """
    # float32 counts single steps only up to 2^24, 17 minutes at 16 kHz, and fractions of a step not even so far.
    period = tf.maximum(tf.cast(period, tf.float64), SHORTEST_PERIOD)
    origin = tf.cast(origin, tf.float64)
    elapsed = tf.cast(time, tf.float64) - origin - tf.cast(phase, tf.float64)
    before = tf.stop_gradient(tf.math.floormod(origin, period) / period)
    cycle = tf.cast(_positive_modulo(before + elapsed / period, tf.constant(1.0, tf.float64)), tf.float32)
    opening = 2.0 * cycle / tf.maximum(ratio_on, SMALLEST_RATIO_ON)
    return tf.where(opening < 1.0, opening, tf.where(opening < 2.0, 2.0 - opening, leak * cycle))


def _phased_lstm_step(
    projected: tf.Tensor, h: tf.Tensor, c: tf.Tensor, openness: tf.Tensor, recurrent: tf.Tensor, dtype: str
):
    """An LSTM step of which each unit takes over a share `openness` (eq. 8 to 10, without peepholes as in MTCRNN)."""
    h_full, c_full, kept = _lstm_step(projected, h, c, recurrent, dtype)
    return openness * h_full + (1.0 - openness) * h, openness * c_full + (1.0 - openness) * c, kept


def _scan(
    body: Callable[..., tuple[tuple[tf.Tensor, ...], tuple[tf.Tensor, ...]]],
    carry: tuple[tf.Tensor, ...],
    sequences: tuple[tf.Tensor, ...],
    widths: Sequence[int],
    *,
    reverse: bool = False,
) -> tuple[tuple[tf.Tensor, ...], tuple[tf.Tensor, ...]]:
    """Run `body(carry, inputs) -> (carry, outputs)` over time-major `sequences [time, batch, ...]`; outputs `[batch,
    width]` of the given widths are stacked."""
    time = sequences[0].shape[0] if sequences[0].shape[0] is not None else tf.shape(sequences[0])[0]
    # XLA would make the arrays of all loops of a training step at its very beginning and keep them for their turn. This
    # value, which is written over, makes them wait for the inputs; recomputing would save nothing without.
    wait = sequences[0][0, 0, 0]
    arrays = tuple(
        tf.TensorArray(tf.float32, size=time).write(0, tf.fill([tf.shape(carry[0])[0], width], wait))
        for width in widths
    )

    def loop(index, carry, arrays):
        at = time - 1 - index if reverse else index
        carry, written = body(carry, tuple(sequence[at] for sequence in sequences))
        return index + 1, carry, tuple(array.write(at, value) for array, value in zip(arrays, written, strict=True))

    _, carry, arrays = tf.while_loop(
        lambda index, *_: index < time, loop, (tf.constant(0), carry, arrays), maximum_iterations=time
    )
    return carry, tuple(array.stack() for array in arrays)


def _shifted(first: tf.Tensor, sequence: tf.Tensor) -> tf.Tensor:
    """The state before each step: `first` then all of `sequence [time, batch, units]` but its last."""
    return tf.concat([first[None], sequence[:-1]], axis=0)


def _outer(left: tf.Tensor, right: tf.Tensor, dtype: str) -> tf.Tensor:
    """Sum over time and batch of left^T right: `[time, batch, a]`, `[time, batch, b]` -> `[a, b]`."""
    left = tf.cast(tf.reshape(left, [-1, left.shape[-1]]), dtype)
    right = tf.cast(tf.reshape(right, [-1, right.shape[-1]]), dtype)
    return tf.cast(tf.matmul(left, right, transpose_a=True), tf.float32)


def _gru_after_sequence(projected, h0, recurrent, bias, dtype):
    @tf.custom_gradient
    def run(projected, h0, recurrent, bias):
        def forward(carry, inputs):
            h, kept = _gru_after_step(inputs[0], carry[0], recurrent, bias, dtype)
            return (h,), (h, *kept)

        _, (hs, z, r, candidate, inner_c) = _scan(forward, (h0,), (projected,), [h0.shape[-1]] * 5)

        def gradient(upstream):
            before, units = _shifted(h0, hs), h0.shape[-1]
            transposed = tf.transpose(recurrent)

            def backward(carry, inputs):
                d_out, h, z, r, candidate, inner_c = inputs
                dh = carry[0] + d_out
                d_c = dh * (1.0 - z) * (1.0 - candidate * candidate)
                d_z = dh * (h - candidate) * z * (1.0 - z)
                d_r = d_c * inner_c * r * (1.0 - r)
                d_inner = tf.concat([d_z, d_r, d_c * r], axis=-1)
                return (dh * z + matmul(d_inner, transposed, dtype),), (d_inner, d_c)

            sequences = (upstream, before, z, r, candidate, inner_c)
            (d_h0,), (d_inner, d_c) = _scan(backward, (tf.zeros_like(h0),), sequences, [3 * units, units], reverse=True)
            d_projected = tf.concat([d_inner[..., : 2 * units], d_c], axis=-1)
            return d_projected, d_h0, _outer(before, d_inner, dtype), tf.reduce_sum(d_inner, axis=[0, 1])

        return hs, gradient

    return run(projected, h0, recurrent, bias)


def _gru_before_sequence(projected, h0, recurrent, dtype):
    units = h0.shape[-1]

    @tf.custom_gradient
    def run(projected, h0, recurrent):
        def forward(carry, inputs):
            h, kept = _gru_before_step(inputs[0], carry[0], recurrent, dtype)
            return (h,), (h, *kept)

        _, (hs, z, r, candidate) = _scan(forward, (h0,), (projected,), [units] * 4)

        def gradient(upstream):
            before = _shifted(h0, hs)
            gates_transposed = tf.transpose(recurrent[:, : 2 * units])
            candidate_transposed = tf.transpose(recurrent[:, 2 * units :])

            def backward(carry, inputs):
                d_out, h, z, r, candidate = inputs
                dh = carry[0] + d_out
                d_c = dh * (1.0 - z) * (1.0 - candidate * candidate)
                d_reset = matmul(d_c, candidate_transposed, dtype)
                d_z = dh * (h - candidate) * z * (1.0 - z)
                d_r = d_reset * h * r * (1.0 - r)
                d_zr = tf.concat([d_z, d_r], axis=-1)
                return (dh * z + d_reset * r + matmul(d_zr, gates_transposed, dtype),), (d_zr, d_c)

            sequences = (upstream, before, z, r, candidate)
            (d_h0,), (d_zr, d_c) = _scan(backward, (tf.zeros_like(h0),), sequences, [2 * units, units], reverse=True)
            d_recurrent = tf.concat([_outer(before, d_zr, dtype), _outer(r * before, d_c, dtype)], axis=-1)
            return tf.concat([d_zr, d_c], axis=-1), d_h0, d_recurrent

        return hs, gradient

    return run(projected, h0, recurrent)


def _lstm_sequence(projected, h0, c0, recurrent, dtype):
    units = h0.shape[-1]

    @tf.custom_gradient
    def run(projected, h0, c0, recurrent):
        def forward(carry, inputs):
            h, c, kept = _lstm_step(inputs[0], *carry, recurrent, dtype)
            return (h, c), (h, c, *kept)

        (_, c_last), (hs, cs, i, f, g, o, squashed) = _scan(forward, (h0, c0), (projected,), [units] * 7)

        def gradient(upstream, d_c_last):
            transposed = tf.transpose(recurrent)

            def backward(carry, inputs):
                d_out, c, i, f, g, o, squashed = inputs
                d_gates, dc = _lstm_step_gradient(carry[0] + d_out, carry[1], c, i, f, g, o, squashed)
                return (matmul(d_gates, transposed, dtype), dc), (d_gates,)

            sequences = (upstream, _shifted(c0, cs), i, f, g, o, squashed)
            (d_h0, d_c0), (d_gates,) = _scan(
                backward, (tf.zeros_like(h0), d_c_last), sequences, [4 * units], reverse=True
            )
            return d_gates, d_h0, d_c0, _outer(_shifted(h0, hs), d_gates, dtype)

        return (hs, c_last), gradient

    return run(projected, h0, c0, recurrent)


def _phased_lstm_sequence(projected, openness, h0, c0, recurrent, dtype):
    units = h0.shape[-1]

    @tf.custom_gradient
    def run(projected, openness, h0, c0, recurrent):
        def forward(carry, inputs):
            h, c, kept = _phased_lstm_step(inputs[0], *carry, inputs[1], recurrent, dtype)
            return (h, c), (h, c, *kept)

        (_, c_last), (hs, cs, i, f, g, o, squashed) = _scan(forward, (h0, c0), (projected, openness), [units] * 7)

        def gradient(upstream, d_c_last):
            transposed = tf.transpose(recurrent)

            def backward(carry, inputs):
                d_out, h, c, openness, i, f, g, o, squashed = inputs
                dh, dc = carry[0] + d_out, carry[1]
                d_openness = dh * (o * squashed - h) + dc * (f * c + i * g - c)
                d_gates, d_c_full = _lstm_step_gradient(openness * dh, openness * dc, c, i, f, g, o, squashed)
                closed = 1.0 - openness
                d_h = matmul(d_gates, transposed, dtype) + closed * dh
                return (d_h, d_c_full + closed * dc), (d_gates, d_openness)

            before_h, before_c = _shifted(h0, hs), _shifted(c0, cs)
            sequences = (upstream, before_h, before_c, openness, i, f, g, o, squashed)
            (d_h0, d_c0), (d_gates, d_openness) = _scan(
                backward, (tf.zeros_like(h0), d_c_last), sequences, [4 * units, units], reverse=True
            )
            return d_gates, d_openness, d_h0, d_c0, _outer(before_h, d_gates, dtype)

        return (hs, c_last), gradient

    return run(projected, openness, h0, c0, recurrent)


# --- layers -------------------------------------------------------------------------------------------------------


class Recurrent(NormalisableLayer):
    """One GRU, LSTM or phased LSTM layer with explicit state.

    cell: "gru", "lstm" or "phased_lstm" (Neil, Pfeiffer & Liu 2016, without peepholes as in MTCRNN). reset: where a GRU
    applies its reset gate; "after" the recurrent product (Keras, cuDNN, PRiSM) or "before" it (Cho et al. 2014, the
    original SampleRNN). forget_bias: initial forget bias of both LSTMs (1 in Keras, 3 in the original). With
    `weight_norm` both kernels are normalised per column, that is per gate unit.
    fused: run sequences through Keras' own layer, which takes cuDNN's kernels on a GPU; the loop of this module is the
    faster one on a CPU, and the only one that XLA can compile (it has no cuDNN recurrent kernels). Has no effect on
    the cells cuDNN has not: the phased LSTM and the GRU with reset before the product.
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        *,
        cell: CellName = "gru",
        reset: GruReset = "after",
        weight_norm: bool = False,
        forget_bias: float = 1.0,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        compute_dtype: str = "float32",
        fused: bool = False,
        **options: Any,
    ):
        super().__init__(weight_norm=weight_norm, **options)
        self.inputs, self.units, self.cell, self.reset = inputs, units, cell, reset
        self.product_dtype = compute_dtype
        self.fused = fused and (cell == "lstm" or cell == "gru" and reset == "after")
        if self.fused:
            self._through_keras = _keras_layer(cell, units, compute_dtype)
        gates = 3 if cell == "gru" else 4
        self.kernel = self.add_kernel("kernel", (inputs, gates * units), kernel_initializer)
        self.recurrent_kernel = self.add_kernel("recurrent_kernel", (units, gates * units), recurrent_initializer)
        self.bias = self.add_weight(name="bias", shape=(gates * units,), initializer="zeros")
        self.recurrent_bias = None
        if cell == "gru" and reset == "after":
            self.recurrent_bias = self.add_weight(name="recurrent_bias", shape=(gates * units,), initializer="zeros")
        if cell != "gru":
            self.bias.assign([forget_bias if units <= index < 2 * units else 0.0 for index in range(gates * units)])
        if cell == "phased_lstm":
            uniform = keras.initializers.RandomUniform
            self.period = self.add_weight(name="period", shape=(units,), initializer=uniform(1.0, 3.0))
            self.period.assign(keras.ops.exp(self.period))
            self.phase = self.add_weight(name="phase", shape=(units,), initializer=uniform(0.0, 1.0))
            self.phase.assign(self.phase * self.period)
            self.ratio_on = self.add_weight(
                name="ratio_on", shape=(units,), initializer=keras.initializers.Constant(INITIAL_RATIO_ON)
            )
        self.built = True

    @property
    def state_parts(self) -> tuple[tuple[int, tf.DType], ...]:
        """Width and type of each tensor of the state; whole numbers count and cannot be learned."""
        hidden = (self.units, tf.float32)
        if self.cell == "gru":
            return (hidden,)
        return (hidden, hidden) if self.cell == "lstm" else (hidden, hidden, (1, tf.int32))

    def weights_in_effect(self) -> CellWeights:
        """Kernels (normalised where asked for), biases and time gate as tensors."""
        gate = None
        if self.cell == "phased_lstm":
            gate = tuple(tf.convert_to_tensor(variable) for variable in (self.period, self.phase, self.ratio_on))
        return CellWeights(
            self.effective("kernel"),
            self.effective("recurrent_kernel"),
            tf.convert_to_tensor(self.bias),
            None if self.recurrent_bias is None else tf.convert_to_tensor(self.recurrent_bias),
            gate,
        )

    def step(self, inputs: tf.Tensor, state: State, weights: CellWeights) -> tuple[tf.Tensor, State]:
        """One time step: inputs `[batch, features]` -> output `[batch, units]` and the next state."""
        return self.advance(self.project(inputs, weights), state, weights)

    def project(self, inputs: tf.Tensor, weights: CellWeights) -> tf.Tensor:
        """What inputs `[..., features]` add to the gates, with the bias: it may be had for many steps at once."""
        return matmul(inputs, weights.kernel, self.product_dtype) + weights.bias

    def advance(self, projected: tf.Tensor, state: State, weights: CellWeights) -> tuple[tf.Tensor, State]:
        """One time step from a projected input: output `[batch, units]` and the next state."""
        if self.cell == "lstm":
            h, c, _ = _lstm_step(projected, state[0], state[1], weights.recurrent_kernel, self.product_dtype)
            return h, (h, c)
        if weights.gate is not None:
            h, c, time = state
            openness = time_gate(time, *weights.gate)
            h, c, _ = _phased_lstm_step(projected, h, c, openness, weights.recurrent_kernel, self.product_dtype)
            return h, (h, c, time + 1)
        if weights.recurrent_bias is not None:
            h, _ = _gru_after_step(
                projected, state[0], weights.recurrent_kernel, weights.recurrent_bias, self.product_dtype
            )
        else:
            h, _ = _gru_before_step(projected, state[0], weights.recurrent_kernel, self.product_dtype)
        return h, (h,)

    def sequence(
        self, inputs: tf.Tensor, state: State, weights: CellWeights, *, training: bool = False
    ) -> tuple[tf.Tensor, State]:
        """A whole window: inputs `[batch, time, features]` -> outputs `[batch, time, units]` and the last state.

        training: whether the closed gates of a phased LSTM leak; nothing else depends on it.
        """
        if self.fused:
            return self._keras_sequence(inputs, state, weights)
        projected = tf.transpose(matmul(inputs, weights.kernel, self.product_dtype) + weights.bias, [1, 0, 2])
        if self.cell == "lstm":
            hs, c = _lstm_sequence(projected, state[0], state[1], weights.recurrent_kernel, self.product_dtype)
            return tf.transpose(hs, [1, 0, 2]), (hs[-1], c)
        if weights.gate is not None:
            h, c, time = state
            steps = tf.shape(projected)[0]
            times = time + tf.range(steps)[:, None, None]
            openness = time_gate(times, *weights.gate, leak=LEAK if training else 0.0, origin=time)
            hs, c = _phased_lstm_sequence(projected, openness, h, c, weights.recurrent_kernel, self.product_dtype)
            return tf.transpose(hs, [1, 0, 2]), (hs[-1], c, time + steps)
        if weights.recurrent_bias is not None:
            hs = _gru_after_sequence(
                projected, state[0], weights.recurrent_kernel, weights.recurrent_bias, self.product_dtype
            )
        else:
            hs = _gru_before_sequence(projected, state[0], weights.recurrent_kernel, self.product_dtype)
        return tf.transpose(hs, [1, 0, 2]), (hs[-1],)

    def _keras_sequence(self, inputs, state, weights):
        layer, dtype = self._through_keras(), self.product_dtype
        bias = weights.bias
        if weights.recurrent_bias is not None:
            bias = tf.stack([weights.bias, weights.recurrent_bias])
        cell = layer.cell
        cell.kernel, cell.recurrent_kernel = tf.cast(weights.kernel, dtype), tf.cast(weights.recurrent_kernel, dtype)
        cell.bias = tf.cast(bias, dtype)
        outputs, *last = layer.call(tf.cast(inputs, dtype), initial_state=list(state))
        return tf.cast(outputs, tf.float32), tuple(tf.cast(part, tf.float32) for part in last)


def _keras_layer(cell: CellName, units: int, dtype: str) -> Callable[[], Any]:
    """Keras' own layer, without weights: it is given those of a `Recurrent`, and no graph may make variables. In a
    function, since Keras would take it for a part of the model."""
    kind = keras.layers.LSTM if cell == "lstm" else keras.layers.GRU
    without_draws = {"seed": 0, "kernel_initializer": "zeros", "recurrent_initializer": "zeros"}
    layer = kind(units, return_sequences=True, return_state=True, dtype=dtype, **without_draws)
    layer.cell.built = True
    return lambda: layer


class StackWeights(NamedTuple):
    """Effective weights of a `RecurrentStack`: its cells, and with skip connections one output map per layer."""

    cells: tuple[CellWeights, ...]
    outputs: tuple[tuple[tf.Tensor, tf.Tensor | None], ...]


class RecurrentStack(keras.layers.Layer):
    """Recurrent layers on top of one another, with explicit state.

    skip: True as in the SampleRNN code of Mehri et al. (every layer above the first also sees the stack's input, and
    the output is the sum of one linear map per layer, biased in the first only); "prism" for PRiSM's wiring, where the
    first layer sees its input twice and the others only the layer below (for imported checkpoints).
    dropout: share of each layer's inputs that is dropped in training, one mask for all time steps as in Keras.
    learn_initial_state: the initial state is a variable (zeros at first) instead of zeros; time always starts at 0.
    recompute: of a layer only inputs and outputs are kept for the backward pass (see `recomputed`).
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        num_layers: int,
        *,
        cell: CellName = "gru",
        reset: GruReset = "after",
        skip: SkipConnections = False,
        dropout: float = 0.0,
        weight_norm: bool = False,
        learn_initial_state: bool = False,
        forget_bias: float = 1.0,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        output_initializer: Any = "he_uniform",
        compute_dtype: str = "float32",
        fused: bool = False,
        recompute: bool = False,
        **options: Any,
    ):
        super().__init__(dtype="float32", **options)
        self.skip, self.dropout, self.product_dtype, self.recompute = skip, dropout, compute_dtype, recompute
        self.units = units

        def width(layer: int) -> int:
            if layer == 0:
                return 2 * inputs if skip == "prism" else inputs
            return units + inputs if skip is True else units

        self.layers = [
            Recurrent(
                width(layer),
                units,
                cell=cell,
                reset=reset,
                weight_norm=weight_norm,
                forget_bias=forget_bias,
                kernel_initializer=_fresh(kernel_initializer),
                recurrent_initializer=_fresh(recurrent_initializer),
                compute_dtype=compute_dtype,
                fused=fused,
                name=f"layer_{layer}",
            )
            for layer in range(num_layers)
        ]
        self.outputs = [
            Linear(
                units,
                units,
                use_bias=layer == 0,
                weight_norm=weight_norm,
                initializer=_fresh(output_initializer),
                name=f"output_{layer}",
            )
            for layer in range(num_layers if skip else 0)
        ]
        self.initial = []
        if learn_initial_state:
            self.initial = [
                self.add_weight(name=f"initial_{layer}_{part}", shape=(size,), initializer="zeros")
                for layer, cell_layer in enumerate(self.layers)
                for part, (size, dtype) in enumerate(cell_layer.state_parts)
                if dtype.is_floating
            ]
        self.built = True

    def initial_state(self, batch: int | tf.Tensor) -> StackState:
        """The state before the first step: zeros, or the learned state repeated for every lane."""
        flat = iter(self.initial)
        return tuple(
            tuple(
                tf.repeat(tf.convert_to_tensor(next(flat))[None], batch, axis=0)
                if self.initial and dtype.is_floating
                else tf.zeros([batch, size], dtype)
                for size, dtype in layer.state_parts
            )
            for layer in self.layers
        )

    def weights_in_effect(self) -> StackWeights:
        """All effective weights as tensors."""
        return StackWeights(
            tuple(layer.weights_in_effect() for layer in self.layers),
            tuple(output.weights_in_effect() for output in self.outputs),
        )

    def step(self, inputs: tf.Tensor, state: StackState, weights: StackWeights) -> tuple[tf.Tensor, StackState]:
        """One time step: inputs `[batch, features]` -> output `[batch, units]` and the next state."""
        below, total, states = inputs, None, []
        for index, layer in enumerate(self.layers):
            below, layer_state = layer.step(self._wired(index, below, inputs), state[index], weights.cells[index])
            states.append(layer_state)
            total = self._summed(total, below, index, weights)
        return (below if total is None else total), tuple(states)

    def sequence(
        self,
        inputs: tf.Tensor,
        state: StackState,
        weights: StackWeights,
        *,
        dropout_seed: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, StackState]:
        """A whole window: inputs `[batch, time, features]` -> outputs `[batch, time, units]` and the last state.

        dropout_seed: int32 `[2]`; None means this is not training: no dropout, no leak. The same seed drops the same
        inputs.
        """
        below, total, states = inputs, None, []
        for index in range(len(self.layers)):

            def run(below, inputs, layer_state, cell, index=index):
                fed = self._wired(index, below, inputs)
                if dropout_seed is not None and self.dropout > 0.0:
                    fed = drop(fed, self.dropout, tf.random.experimental.stateless_fold_in(dropout_seed, index))
                return self.layers[index].sequence(fed, layer_state, cell, training=dropout_seed is not None)

            run_layer = recomputed(run) if self.recompute else run
            below, layer_state = run_layer(below, inputs, state[index], weights.cells[index])
            states.append(layer_state)
            total = self._summed(total, below, index, weights)
        return (below if total is None else total), tuple(states)

    def _wired(self, index: int, below: tf.Tensor, inputs: tf.Tensor) -> tf.Tensor:
        if self.skip == "prism" and index == 0:
            return tf.concat([inputs, inputs], axis=-1)
        if self.skip is True and index > 0:
            return tf.concat([below, inputs], axis=-1)
        return below

    def _summed(self, total: tf.Tensor | None, output: tf.Tensor, index: int, weights: StackWeights):
        if not self.skip:
            return None
        mapped = linear(output, weights.outputs[index], self.product_dtype)
        return mapped if total is None else total + mapped


def drop(inputs: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """Inverted dropout of features, one mask for all time steps of `inputs [batch, time, features]`; stateless."""
    shape = [tf.shape(inputs)[0], 1, inputs.shape[-1]]
    kept = tf.random.stateless_uniform(shape, seed, alg="philox") >= rate
    return inputs * (tf.cast(kept, tf.float32) / (1.0 - rate))


def zero_after(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """A 0 that is there when `tensors` are. XLA heeds no control dependencies, but this one: it cannot work it out,
    since 0 * x may be no number."""
    total = tf.add_n([tf.reshape(part, [-1])[0] for part in tensors])
    return tf.where(tf.math.is_finite(total), 0.0 * total, 0.0)


def recomputed(run: Callable[..., Any]) -> Callable[..., Any]:
    """`run` without keeping what it computes on the way: it is computed again in the backward pass (Chen et al. 2016).

    Arguments and results of `run` are any nests of tensors and None. Gradients flow to its arguments only, so weights
    must be among them.
    """

    def wrapped(*arguments: Any) -> Any:
        flat = tf.nest.flatten(arguments)
        places = [place for place, part in enumerate(flat) if part is not None and part.dtype.is_floating]
        results: list[Any] = []

        def floats(given: Sequence[tf.Tensor]) -> list[tf.Tensor]:
            filled = list(flat)
            for place, part in zip(places, given, strict=True):
                filled[place] = part
            results.append(run(*tf.nest.pack_sequence_as(arguments, filled)))
            return [part for part in tf.nest.flatten(results[-1]) if part is not None and part.dtype.is_floating]

        @tf.custom_gradient
        def kept(*given: tf.Tensor) -> Any:
            def gradient(*upstream: tf.Tensor) -> list[tf.Tensor]:
                zero = zero_after(upstream)  # else a compiler would find that all has been computed before
                with tf.control_dependencies(upstream), tf.GradientTape() as tape:
                    late = [part + zero for part in given]
                    tape.watch(late)
                    made = floats(late)
                return tape.gradient(made, late, list(upstream), unconnected_gradients="zero")

            return floats(given), gradient

        made = iter(kept(*(flat[place] for place in places)))
        shape = results[0]
        return tf.nest.pack_sequence_as(
            shape,
            [next(made) if part is not None and part.dtype.is_floating else part for part in tf.nest.flatten(shape)],
        )

    return wrapped


def reset_lanes(state: Any, initial: Any, reset: tf.Tensor) -> Any:
    """`initial` in the lanes where `reset [batch]` is true, `state` elsewhere; both any nest of `[batch, ...]`."""
    return tf.nest.map_structure(
        lambda old, new: tf.where(tf.reshape(reset, [-1] + [1] * (len(old.shape) - 1)), new, old), state, initial
    )


def _fresh(initializer: Any) -> Any:
    """An initialiser of its own for every kernel: Keras' objects give the same numbers each time they are called."""
    return initializer() if isinstance(initializer, type) else initializer


def fan_in_uniform(inputs: int, gain: float) -> keras.Initializer:
    """U(+-gain * sqrt(3 / inputs)): gain sqrt(2) is He's, 1 is LeCun's."""
    limit = gain * math.sqrt(3.0 / inputs)
    return keras.initializers.RandomUniform(-limit, limit)
