"""Recurrent cells: `advance` runs one step, `run` a whole sequence with a gradient of its own.

Both take the projected input, `inputs @ kernel + bias`, which is computed for all steps at once. In the gradient, the
backward loop computes only what depends on time; the gradient of the recurrent kernel is one matrix product over all
steps after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import tensorflow as tf

from tierwave.nn.linear import matmul

CellName = Literal["gru", "lstm", "phased_lstm"]
GruReset = Literal["after", "before"]
State = tuple[tf.Tensor, ...]

# Phased LSTM (Neil, Pfeiffer & Liu 2016). The leak lets gradients through a closed gate, in training only.
LEAK = 0.001
INITIAL_RATIO_ON = 0.2
# Lower bounds for trained gates, against division by zero.
SHORTEST_PERIOD = 1e-3
SMALLEST_RATIO_ON = 1e-3
# Tests replace it, to compare with weights of programs whose modulo truncates.
_positive_modulo = tf.math.floormod


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
    """Reset applied after the product (cuDNN's and PRiSM's convention). Returns h and the values for the gradient."""
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
    """Gradients of the gates' sums and of `c`, the cell before the step, given those of h and c after it."""
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

    A unit opens and closes linearly in the first `ratio_on` of its `period` (steps), one of which starts at `phase`
    (steps); in the rest it is open by `leak` times the elapsed share of the period. origin: the time of the window's
    first step. The period's gradient counts time from there: counted from the start of the recording it would grow
    beyond all others.
    """
    # float32 is exact for whole steps up to 2^24, 17 minutes at 16 kHz, and for fractions of a step much less far.
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
    """A share `openness` of an LSTM step for each unit (eq. 8 to 10, without peepholes as in MTCRNN)."""
    h_full, c_full, saved = _lstm_step(projected, h, c, recurrent, dtype)
    return openness * h_full + (1.0 - openness) * h, openness * c_full + (1.0 - openness) * c, saved


def _arrays_after(
    value: tf.Tensor, time: int | tf.Tensor, batch: tf.Tensor, widths: Sequence[int]
) -> tuple[tf.TensorArray, ...]:
    """Arrays of `time` rows `[batch, width]` that XLA cannot allocate before the scalar `value` is computed.

    XLA would allocate the arrays of all loops when a training step starts, and recomputing would save no memory. A
    first row that depends on `value`, and that the loop overwrites, prevents this.
    """
    return tuple(tf.TensorArray(tf.float32, size=time).write(0, tf.fill([batch, width], value)) for width in widths)


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
    arrays = _arrays_after(sequences[0][0, 0, 0], time, tf.shape(carry[0])[0], widths)

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
            h, saved = _gru_after_step(inputs[0], carry[0], recurrent, bias, dtype)
            return (h,), (h, *saved)

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
            h, saved = _gru_before_step(inputs[0], carry[0], recurrent, dtype)
            return (h,), (h, *saved)

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
            h, c, saved = _lstm_step(inputs[0], *carry, recurrent, dtype)
            return (h, c), (h, c, *saved)

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
            h, c, saved = _phased_lstm_step(inputs[0], *carry, inputs[1], recurrent, dtype)
            return (h, c), (h, c, *saved)

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


# --- all cells ----------------------------------------------------------------------------------------------------


def advance(projected: tf.Tensor, state: State, weights: CellWeights, dtype: str) -> tuple[tf.Tensor, State]:
    """One step: projected input `[batch, gates * units]` -> output `[batch, units]` and the next state."""
    recurrent = weights.recurrent_kernel
    if weights.gate is not None:
        h, c, time = state
        h, c, _ = _phased_lstm_step(projected, h, c, time_gate(time, *weights.gate), recurrent, dtype)
        return h, (h, c, time + 1)
    if len(state) == 2:
        h, c, _ = _lstm_step(projected, *state, recurrent, dtype)
        return h, (h, c)
    (h,) = state
    if weights.recurrent_bias is not None:
        h, _ = _gru_after_step(projected, h, recurrent, weights.recurrent_bias, dtype)
    else:
        h, _ = _gru_before_step(projected, h, recurrent, dtype)
    return h, (h,)


def run(
    projected: tf.Tensor, state: State, weights: CellWeights, dtype: str, *, leak: float = 0.0
) -> tuple[tf.Tensor, State]:
    """A whole sequence: projected inputs `[time, batch, gates * units]` -> outputs `[time, batch, units]` and the last
    state. leak: of the closed gates of a phased LSTM."""
    recurrent = weights.recurrent_kernel
    if weights.gate is not None:
        h, c, time = state
        steps = tf.shape(projected)[0]
        times = time + tf.range(steps)[:, None, None]
        openness = time_gate(times, *weights.gate, leak=leak, origin=time)
        hs, c = _phased_lstm_sequence(projected, openness, h, c, recurrent, dtype)
        return hs, (hs[-1], c, time + steps)
    if len(state) == 2:
        hs, c = _lstm_sequence(projected, *state, recurrent, dtype)
        return hs, (hs[-1], c)
    (h,) = state
    if weights.recurrent_bias is not None:
        hs = _gru_after_sequence(projected, h, recurrent, weights.recurrent_bias, dtype)
    else:
        hs = _gru_before_sequence(projected, h, recurrent, dtype)
    return hs, (hs[-1],)
