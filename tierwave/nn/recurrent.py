"""Recurrent cells with explicit state, in two forms that share one set of weights.

`sequence` runs whole windows for training; `step` runs one time step inside a compiled generation loop. State is a
value that goes in and comes out. Both forms take *effective* weights (plain tensors, weight normalisation already
applied), so that a generation loop reads every variable once.

Shapes: inputs `[batch, time, features]`; a layer's state is a tuple of `[batch, units]` tensors, `(h,)` for a GRU and
`(h, c)` for an LSTM; a phased LSTM's is `(h, c, time)` with the steps since the last reset, int32 `[batch, 1]`; a
stack's state is a tuple of layer states.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import keras
import tensorflow as tf

from tierwave.nn import cells
from tierwave.nn.cells import INITIAL_RATIO_ON, LEAK, CellName, CellWeights, GruReset, State
from tierwave.nn.linear import Linear, NormalisableLayer, linear, matmul, weights_of
from tierwave.nn.recompute import recomputed

SkipConnections = bool | Literal["prism"]
StackState = tuple[State, ...]


class Recurrent(NormalisableLayer):
    """One GRU, LSTM or phased LSTM layer with explicit state.

    cell: "gru", "lstm" or "phased_lstm" (Neil, Pfeiffer & Liu 2016, without peepholes as in MTCRNN). reset: where a GRU
    applies its reset gate; "after" the recurrent product (Keras, cuDNN, PRiSM) or "before" it (Cho et al. 2014, the
    original SampleRNN). forget_bias: initial forget bias of both LSTMs (1 in Keras, 3 in the original). weight_norm: of
    both kernels, per column, that is per gate unit. fused: run sequences by Keras' own layer, which uses cuDNN on a
    GPU, where cuDNN has the cell; the loops of `cells` are faster on a CPU, and XLA can compile only those.
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
            self._keras_layer = _untracked_keras_layer(cell, units, compute_dtype)
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
        """Width and type of each tensor of the state; integers count steps and cannot be learned."""
        hidden = (self.units, tf.float32)
        if self.cell == "gru":
            return (hidden,)
        return (hidden, hidden) if self.cell == "lstm" else (hidden, hidden, (1, tf.int32))

    def effective_weights(self) -> CellWeights:
        """All effective weights as tensors."""
        kernels = self.effective("kernel"), self.effective("recurrent_kernel")
        gate = (self.period, self.phase, self.ratio_on) if self.cell == "phased_lstm" else None
        return CellWeights(*kernels, *map(weights_of, (self.bias, self.recurrent_bias, gate)))

    def step(self, inputs: tf.Tensor, state: State, weights: CellWeights) -> tuple[tf.Tensor, State]:
        """One time step: inputs `[batch, features]` -> output `[batch, units]` and the next state."""
        return self.advance(self.project(inputs, weights), state, weights)

    def project(self, inputs: tf.Tensor, weights: CellWeights) -> tf.Tensor:
        """The contribution of inputs `[..., features]` to the gates, with the bias; for any number of steps at once."""
        return matmul(inputs, weights.kernel, self.product_dtype) + weights.bias

    def advance(self, projected: tf.Tensor, state: State, weights: CellWeights) -> tuple[tf.Tensor, State]:
        """One time step from a projected input: output `[batch, units]` and the next state."""
        return cells.advance(projected, state, weights, self.product_dtype)

    def sequence(
        self, inputs: tf.Tensor, state: State, weights: CellWeights, *, training: bool = False
    ) -> tuple[tf.Tensor, State]:
        """A whole window: inputs `[batch, time, features]` -> outputs `[batch, time, units]` and the last state.

        training: whether the closed gates of a phased LSTM leak; nothing else depends on it.
        """
        if self.fused:
            return self._keras_sequence(inputs, state, weights)
        projected = tf.transpose(self.project(inputs, weights), [1, 0, 2])
        outputs, last = cells.run(projected, state, weights, self.product_dtype, leak=LEAK if training else 0.0)
        return tf.transpose(outputs, [1, 0, 2]), last

    def _keras_sequence(self, inputs, state, weights):
        layer, dtype = self._keras_layer(), self.product_dtype
        bias = weights.bias
        if weights.recurrent_bias is not None:
            bias = tf.stack([weights.bias, weights.recurrent_bias])
        cell = layer.cell
        cell.kernel, cell.recurrent_kernel = tf.cast(weights.kernel, dtype), tf.cast(weights.recurrent_kernel, dtype)
        cell.bias = tf.cast(bias, dtype)
        outputs, *last = layer.call(tf.cast(inputs, dtype), initial_state=list(state))
        return tf.cast(outputs, tf.float32), tuple(tf.cast(part, tf.float32) for part in last)


def _untracked_keras_layer(cell: CellName, units: int, dtype: str) -> Callable[[], Any]:
    """A function that returns Keras' own layer without weights: `_keras_sequence` sets those of a `Recurrent`.

    Keras does not look into a function, so the layer does not become part of the model or of its checkpoints.
    """
    kind = keras.layers.LSTM if cell == "lstm" else keras.layers.GRU
    not_random = {"seed": 0, "kernel_initializer": "zeros", "recurrent_initializer": "zeros"}
    layer = kind(units, return_sequences=True, return_state=True, dtype=dtype, **not_random)
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
    recompute: store only inputs and outputs of a layer for the backward pass (see `recomputed`). cell_options: of each
    `Recurrent`.
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        num_layers: int,
        *,
        skip: SkipConnections = False,
        dropout: float = 0.0,
        weight_norm: bool = False,
        learn_initial_state: bool = False,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        output_initializer: Any = "he_uniform",
        compute_dtype: str = "float32",
        recompute: bool = False,
        name: str | None = None,
        **cell_options: Any,
    ):
        super().__init__(dtype="float32", name=name)
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
                weight_norm=weight_norm,
                kernel_initializer=_fresh(kernel_initializer),
                recurrent_initializer=_fresh(recurrent_initializer),
                compute_dtype=compute_dtype,
                name=f"layer_{layer}",
                **cell_options,
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
        return StackWeights(weights_of(self.layers), weights_of(self.outputs))

    def step(self, inputs: tf.Tensor, state: StackState, weights: StackWeights) -> tuple[tf.Tensor, StackState]:
        """One time step: inputs `[batch, features]` -> output `[batch, units]` and the next state."""
        below, total, states = inputs, None, []
        for index, layer in enumerate(self.layers):
            below, layer_state = layer.step(self._layer_input(index, below, inputs), state[index], weights.cells[index])
            states.append(layer_state)
            total = self._add_output(total, below, index, weights)
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
                layer_input = self._layer_input(index, below, inputs)
                if dropout_seed is not None and self.dropout > 0.0:
                    seed = tf.random.experimental.stateless_fold_in(dropout_seed, index)
                    layer_input = drop(layer_input, self.dropout, seed)
                return self.layers[index].sequence(layer_input, layer_state, cell, training=dropout_seed is not None)

            run_layer = recomputed(run) if self.recompute else run
            below, layer_state = run_layer(below, inputs, state[index], weights.cells[index])
            states.append(layer_state)
            total = self._add_output(total, below, index, weights)
        return (below if total is None else total), tuple(states)

    def _layer_input(self, index: int, below: tf.Tensor, inputs: tf.Tensor) -> tf.Tensor:
        if self.skip == "prism" and index == 0:
            return tf.concat([inputs, inputs], axis=-1)
        if self.skip is True and index > 0:
            return tf.concat([below, inputs], axis=-1)
        return below

    def _add_output(self, total: tf.Tensor | None, output: tf.Tensor, index: int, weights: StackWeights):
        if not self.skip:
            return None
        mapped = linear(output, weights.outputs[index], self.product_dtype)
        return mapped if total is None else total + mapped


def drop(inputs: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """Inverted dropout of features, one mask for all time steps of `inputs [batch, time, features]`."""
    shape = [tf.shape(inputs)[0], 1, inputs.shape[-1]]
    keep = tf.random.stateless_uniform(shape, seed, alg="philox") >= rate
    return inputs * (tf.cast(keep, tf.float32) / (1.0 - rate))


def reset_lanes(state: Any, initial: Any, reset: tf.Tensor) -> Any:
    """`initial` in the lanes where `reset [batch]` is true, `state` elsewhere; both any nest of `[batch, ...]`."""
    return tf.nest.map_structure(
        lambda old, new: tf.where(tf.reshape(reset, [-1] + [1] * (len(old.shape) - 1)), new, old), state, initial
    )


def _fresh(initializer: Any) -> Any:
    """A new initialiser for every kernel: a Keras initialiser gives the same numbers each time it is called."""
    return initializer() if isinstance(initializer, type) else initializer
