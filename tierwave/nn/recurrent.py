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

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import keras
import tensorflow as tf

from tierwave.nn import cells
from tierwave.nn.cells import INITIAL_RATIO_ON, LEAK, CellName, CellWeights, GruReset, State, time_gate
from tierwave.nn.linear import Linear, NormalisableLayer, linear, matmul
from tierwave.nn.recompute import recomputed

SkipConnections = bool | Literal["prism"]
StackState = tuple[State, ...]


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

    def effective_weights(self) -> CellWeights:
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
            h, c, _ = cells.lstm_step(projected, state[0], state[1], weights.recurrent_kernel, self.product_dtype)
            return h, (h, c)
        if weights.gate is not None:
            h, c, time = state
            openness = time_gate(time, *weights.gate)
            h, c, _ = cells.phased_lstm_step(projected, h, c, openness, weights.recurrent_kernel, self.product_dtype)
            return h, (h, c, time + 1)
        if weights.recurrent_bias is not None:
            h, _ = cells.gru_after_step(
                projected, state[0], weights.recurrent_kernel, weights.recurrent_bias, self.product_dtype
            )
        else:
            h, _ = cells.gru_before_step(projected, state[0], weights.recurrent_kernel, self.product_dtype)
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
            hs, c = cells.lstm_sequence(projected, state[0], state[1], weights.recurrent_kernel, self.product_dtype)
            return tf.transpose(hs, [1, 0, 2]), (hs[-1], c)
        if weights.gate is not None:
            h, c, time = state
            steps = tf.shape(projected)[0]
            times = time + tf.range(steps)[:, None, None]
            openness = time_gate(times, *weights.gate, leak=LEAK if training else 0.0, origin=time)
            hs, c = cells.phased_lstm_sequence(projected, openness, h, c, weights.recurrent_kernel, self.product_dtype)
            return tf.transpose(hs, [1, 0, 2]), (hs[-1], c, time + steps)
        if weights.recurrent_bias is not None:
            hs = cells.gru_after_sequence(
                projected, state[0], weights.recurrent_kernel, weights.recurrent_bias, self.product_dtype
            )
        else:
            hs = cells.gru_before_sequence(projected, state[0], weights.recurrent_kernel, self.product_dtype)
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

    def effective_weights(self) -> StackWeights:
        """All effective weights as tensors."""
        return StackWeights(
            tuple(layer.effective_weights() for layer in self.layers),
            tuple(output.effective_weights() for output in self.outputs),
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


def reset_lanes(state: Any, initial: Any, reset: tf.Tensor) -> Any:
    """`initial` in the lanes where `reset [batch]` is true, `state` elsewhere; both any nest of `[batch, ...]`."""
    return tf.nest.map_structure(
        lambda old, new: tf.where(tf.reshape(reset, [-1] + [1] * (len(old.shape) - 1)), new, old), state, initial
    )


def _fresh(initializer: Any) -> Any:
    """An initialiser of its own for every kernel: Keras' objects give the same numbers each time they are called."""
    return initializer() if isinstance(initializer, type) else initializer
