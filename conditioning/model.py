"""The networks of MTCRNN and RNNControl: one recurrent tier over controls or samples, conditioned on controls.

    values of step t, controls of step t -> first map -> [shared stack] -> stack(s) -> head: what step t + 1 may be

One set of weights in two forms: `ConditionalTier.sequence` runs whole windows (training, likelihoods), `step` one time
step inside a compiled loop (`conditioning.sampler`, and scheduled sampling here). Both take effective weights as plain
tensors. Values are codes (int32) where the tier generates audio, else controls normalised by the run's schema.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from conditioning.config import Stage
from conditioning.heads import LinearWeights, Prediction, head_of
from tierwave.audio.quantize import Quantizer
from tierwave.config import validate
from tierwave.controls.schema import ControlInputs, Schema
from tierwave.controls.transfer import transplanted
from tierwave.errors import UsageError
from tierwave.nn.distributions import LossSums
from tierwave.nn.linear import Linear, NormalisableLayer, encoded, linear, matmul, weights_of, width_of
from tierwave.nn.noise import with_noise
from tierwave.nn.recurrent import RecurrentStack, StackState, StackWeights, reset_lanes

TierState = tuple[StackState, ...]  # the shared stack first, if there is one, then the others
_SHARED = ("shared_split", "shared_pathways")


class TierWeights(NamedTuple):
    """Effective weights of a tier.

    values: what the values add to the first map, `[levels, width]`, or `[1, width]` for scalar audio, or
    `[features, width]`; controls `[controls, width]` or None; bias `[width]`; wide: the second map of the wide net.
    """

    values: tf.Tensor
    controls: tf.Tensor | None
    bias: tf.Tensor
    wide: LinearWeights | None
    stacks: tuple[StackWeights, ...]
    heads: tuple[LinearWeights, ...]


@keras.saving.register_keras_serializable("tierwave")
class ConditionalTier(keras.Model):
    """The network of a `Stage` (MTCRNN, Huzaifah & Wyse 2020; RNNControl, Wyse 2018), without their peepholes.

    `model(values)` or `model({"inputs": values, "controls": ...})` begins with new lanes; `model(inputs, state)`
    continues from a state, and returns the next one too.

    control_inputs: the inputs that each control takes, None: one number each. compute_dtype: of matrix products; sums,
    states, outputs and losses stay float32, and so do maps from and to controls. fused: run the stacks' sequences by
    Keras' layers (cuDNN on a GPU; not under XLA).
    """

    def __init__(
        self,
        stage: Stage,
        *,
        control_inputs: Sequence[ControlInputs] | None = None,
        compute_dtype: str = "float32",
        fused: bool = False,
    ):
        super().__init__(name="conditional_tier", dtype="float32")
        given = control_inputs or [ControlInputs()] * len(stage.conditioned_on)
        self.control_inputs = tuple(ControlInputs(*each) for each in given)
        self.stage, self.product_dtype, self.fused = stage, compute_dtype, fused
        self.features = len(stage.generates)
        self.quantizer = Quantizer(stage.q_type, stage.q_levels)
        self.head = head_of(stage, compute_dtype)
        self.unit, self.has_accuracy = self.head.unit, stage.makes_audio
        self.steps_are = "samples" if stage.makes_audio else f"steps at {stage.rate:g} Hz"
        hidden = stage.hidden_size
        self.embedding = None
        self.value_width = stage.value_width
        inputs = self.value_width + width_of(self.control_inputs)
        width = 3 * inputs if stage.net == "wide" else hidden
        self.first = Linear(inputs, width, name="first")
        self.wide = Linear(width, hidden, name="wide") if stage.net == "wide" else None
        if stage.makes_audio and stage.audio_input == "embedding":
            self.embedding = _Embedding(stage.q_levels, stage.emb_size)
        self.shared = stage.net in _SHARED
        self.stacks = [
            RecurrentStack(
                hidden,
                hidden,
                stage.num_layers,
                cell=stage.cell,
                dropout=stage.dropout,
                kernel_initializer=keras.initializers.GlorotUniform,
                recurrent_initializer=keras.initializers.Orthogonal,
                compute_dtype=compute_dtype,
                fused=fused,
                recompute=stage.recompute,
                name=f"rnn_{index}",
            )
            for index in range(stage.stacks)
        ]
        self.heads = [Linear(hidden, size, name=f"head_{index}") for index, size in enumerate(self.head.sizes)]
        self.built = True

    def call(
        self, inputs: Any, state: TierState | None = None, training: bool = False, dropout_seed: tf.Tensor | None = None
    ) -> Any:
        """The prediction of the values one step later, teacher-forced; with a state given, the pair of that and the
        next state.

        inputs: codes int32 `[batch, time]` or values float32 `[batch, time, features]`, or a dict of them as "inputs"
        and of "controls", float32 `[batch, time, controls]`. dropout_seed: int32 `[2]`, for dropout in training.
        Returns logits `[batch, time, levels]` of audio, else a prediction (see `conditioning.heads`).
        """
        inputs = inputs if isinstance(inputs, dict) else {"inputs": inputs}
        values = tf.convert_to_tensor(inputs["inputs"])
        controls = tf.convert_to_tensor(inputs["controls"]) if self.stage.conditioned_on else None
        before = self.initial_state(tf.shape(values)[0]) if state is None else state
        seed = dropout_seed if training else None
        found, after = self.sequence(values, controls, before, self.effective_weights(), dropout_seed=seed)
        prediction = found[0] if self.stage.makes_audio else found
        return prediction if state is None else (prediction, after)

    def get_config(self) -> dict[str, Any]:
        """What `from_config` makes the same network of, as JSON; without weights."""
        return {
            "stage": self.stage.model_dump(mode="json", include=set(Stage.model_fields)),
            "control_inputs": [list(each) for each in self.control_inputs],
            "compute_dtype": self.product_dtype,
            "fused": self.fused,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> ConditionalTier:
        """A network with new weights."""
        options = {key: value for key, value in config.items() if key != "stage"}
        return cls(validate(Stage, config["stage"], "get_config()"), **options)

    def initial_state(self, batch: int | tf.Tensor) -> TierState:
        """The state before the first step of a recording, for `batch` lanes."""
        return tuple(stack.initial_state(batch) for stack in self.stacks)

    def effective_weights(self) -> TierWeights:
        """All effective weights as plain tensors."""
        kernel, bias = self.first.effective_weights()
        values, controls = kernel[: self.value_width], kernel[self.value_width :]
        if self.embedding is not None:
            values = matmul(tf.convert_to_tensor(self.embedding.table), values, self.product_dtype)
        return TierWeights(
            values,
            controls if self.stage.conditioned_on else None,
            bias,
            *map(weights_of, (self.wide, self.stacks, self.heads)),
        )

    # --- the network ------------------------------------------------------------------------------------------------

    def control_term(self, controls: tf.Tensor | None, weights: TierWeights) -> tf.Tensor:
        """What controls `[..., controls]` add to the first map, with its bias: `[..., width]`, or `[width]`."""
        if controls is None or weights.controls is None:
            return weights.bias
        return matmul(encoded(controls, self.control_inputs), weights.controls) + weights.bias

    def rnn_input(self, values: tf.Tensor, control_term: tf.Tensor, weights: TierWeights) -> tf.Tensor:
        """The input of the recurrent layers: values `[...]` (codes) or `[..., features]` -> `[..., hidden]`."""
        if not self.stage.makes_audio:
            term = matmul(values, weights.values)
        elif self.stage.audio_input == "scalar":
            term = self.scaled(values)[..., None] * weights.values[0]
        else:
            term = tf.gather(weights.values, values)
        first = term + control_term
        if self.stage.net != "rnncontrol":
            first = tf.nn.relu(first)
        return first if weights.wide is None else linear(first, weights.wide, self.product_dtype)

    def scaled(self, codes: tf.Tensor) -> tf.Tensor:
        """Codes as scalar input, in [0, 1] (RNNControl's index / (levels - 1))."""
        return tf.cast(codes, tf.float32) * (1.0 / (self.stage.q_levels - 1))

    def sequence(
        self,
        values: tf.Tensor,
        controls: tf.Tensor | None,
        state: TierState,
        weights: TierWeights,
        *,
        dropout_seed: tf.Tensor | None = None,
    ) -> tuple[Prediction, TierState]:
        """A whole window: values `[batch, time]` (codes) or `[batch, time, features]`, controls
        `[batch, time, controls]` -> predictions of the values one step later, and the last state."""
        fold = tf.random.experimental.stateless_fold_in

        def run(index: int, inputs: tf.Tensor) -> tuple[tf.Tensor, StackState]:
            seed = None if dropout_seed is None else fold(dropout_seed, index)
            return self.stacks[index].sequence(inputs, state[index], weights.stacks[index], dropout_seed=seed)

        return self._body(self.rnn_input(values, self.control_term(controls, weights), weights), run, weights)

    def step(
        self, values: tf.Tensor, control_term: tf.Tensor, state: TierState, weights: TierWeights
    ) -> tuple[Prediction, TierState]:
        """One step: values `[batch]` (codes) or `[batch, features]`, control_term `[batch, width]` -> the prediction of
        the next values, and the next state."""

        def run(index: int, inputs: tf.Tensor) -> tuple[tf.Tensor, StackState]:
            return self.stacks[index].step(inputs, state[index], weights.stacks[index])

        return self._body(self.rnn_input(values, control_term, weights), run, weights)

    def _body(self, inputs: tf.Tensor, run: Any, weights: TierWeights) -> tuple[Prediction, TierState]:
        states = []
        if self.shared:
            inputs, stack_state = run(0, inputs)
            states.append(stack_state)
        outputs = []
        for index in range(len(states), len(self.stacks)):
            output, stack_state = run(index, inputs)
            outputs.append(output)
            states.append(stack_state)
        return self.head.predict(outputs, weights.heads), tuple(states)

    # --- training ---------------------------------------------------------------------------------------------------

    def loss_sums(
        self,
        batch: dict[str, tf.Tensor],
        state: TierState,
        *,
        dropout_seed: tf.Tensor | None = None,
        teacher_forcing: tf.Tensor | None = None,
        input_noise: float = 0.0,
    ) -> LossSums:
        """Likelihood of a batch of windows; each lane continues from its state.

        batch: `inputs` int32 `[batch, 1 + time]` or float32 `[batch, 1 + time, features]`, `controls` float32
        `[batch, 1 + time, controls]` if there are any, `mask` float32 `[batch, time]`, `reset` bool `[batch]`. Step t
        sees values and controls t and predicts value t + 1 (MTCRNN). In training only: dropout_seed, the seed of all
        random numbers; teacher_forcing, the rate of `scheduled_inputs` (None: always the truth); input_noise, the width
        of `add_input_noise`.
        """
        inputs, mask = batch["inputs"], batch["mask"]
        values, targets = inputs[:, :-1], inputs[:, 1:]
        controls = batch["controls"][:, :-1] if self.stage.conditioned_on else None
        state = reset_lanes(state, self.initial_state(tf.shape(mask)[0]), batch["reset"])
        uniform = None
        if dropout_seed is not None:
            fold = tf.random.experimental.stateless_fold_in
            if input_noise > 0.0:
                # An input is real where it was a target; the first is what came before the window, or silence.
                real = tf.pad(mask[:, :-1], [[0, 0], [1, 0]]) > 0.0
                values = self.add_input_noise(values, input_noise, fold(dropout_seed, 101), real)
            if teacher_forcing is not None or self.stage.loss_name == "sampled_mse":
                shape = [tf.shape(mask)[0], mask.shape[1], self.head.uniforms]
                uniform = tf.random.stateless_uniform(shape, fold(dropout_seed, 102), alg="philox")
            if teacher_forcing is not None and uniform is not None:
                coins = tf.random.stateless_uniform([mask.shape[1]], fold(dropout_seed, 103), alg="philox")
                weights = self.effective_weights()
                values = self.scheduled_inputs(values, controls, state, weights, coins < teacher_forcing, uniform)
        given = {"inputs": values} if controls is None else {"inputs": values, "controls": controls}
        found, state = self(given, state, training=dropout_seed is not None, dropout_seed=dropout_seed)
        prediction = (found,) if self.stage.makes_audio else found
        per_step = mask if self.stage.makes_audio else mask[..., None] * tf.ones([1, 1, self.features])
        nats = self.head.nats(prediction, targets, uniform) * per_step
        correct = tf.zeros_like(nats)
        if self.stage.makes_audio:
            guesses = tf.argmax(prediction[0], axis=-1, output_type=tf.int32)
            correct = tf.cast(tf.equal(guesses, targets), tf.float32) * per_step

        def per_lane(part: tf.Tensor) -> tf.Tensor:
            return tf.reduce_sum(part, axis=list(range(1, len(part.shape))))

        return LossSums(per_lane(nats), per_lane(correct), per_lane(per_step), state)

    def add_input_noise(
        self, values: tf.Tensor, width: float, seed: tf.Tensor, real: tf.Tensor | None = None
    ) -> tf.Tensor:
        """RNNControl's input noise, without its offset: uniform in +- width times half the range of each window's
        sound; real: bool `[batch, time]`, False for padding. Audio is decoded before and encoded after."""
        sound = self.quantizer.decode_tensor(values) if self.stage.makes_audio else values
        if real is not None and not self.stage.makes_audio:
            real = tf.repeat(real[..., None], self.features, axis=-1)
        sound = with_noise(sound, width, seed, real)
        return self.quantizer.encode_tensor(sound) if self.stage.makes_audio else sound

    def scheduled_inputs(
        self,
        values: tf.Tensor,
        controls: tf.Tensor | None,
        state: TierState,
        weights: TierWeights,
        truth_next: tf.Tensor,
        uniform: tf.Tensor,
    ) -> tf.Tensor:
        """Inputs of which some are the network's own samples (teacher forcing below 1, scheduled sampling; MTCRNN
        network/model.py, 105-136).

        truth_next: bool `[time]`, one coin per step for the whole batch: whether the input of the step after it is the
        truth. The first input always is. No gradient flows through a sample, so one loop of steps finds the inputs
        first, as in generation and without dropout; then the whole sequence runs over them at once.
        """
        time = truth_next.shape[0]
        term = self.control_term(controls, weights)
        per_step = len(term.shape) == 3

        def step(index, current, state, inputs):
            """Feed the values `current`; the next ones are true or sampled, as `truth_next` says."""
            prediction, state = self.step(current, term[:, index] if per_step else term, state, weights)
            sample = self.head.sample(prediction, uniform[:, index])
            following = tf.where(truth_next[index], values[:, tf.minimum(index + 1, time - 1)], sample)
            return index + 1, following, state, inputs.write(index, current)

        inputs = tf.TensorArray(values.dtype, size=time, element_shape=values[:, 0].shape)
        start = (tf.constant(0), values[:, 0], state, inputs)
        *_, inputs = tf.while_loop(lambda index, *_: index < time, step, start, maximum_iterations=time)
        return tf.stop_gradient(tf.transpose(inputs.stack(), [1, 0, *range(2, len(values.shape))]))


class _Embedding(NormalisableLayer):
    """A table `[levels, width]`."""

    def __init__(self, levels: int, width: int):
        super().__init__(name="embedding")
        self.table = self.add_weight(
            name="table", shape=(levels, width), initializer=keras.initializers.RandomUniform(-0.5, 0.5)
        )
        self.built = True


def transplant(source: ConditionalTier, target: ConditionalTier, source_schema: Schema, schema: Schema) -> None:
    """Copy all weights; those of the first map by the names of the controls."""
    for theirs, ours in zip(source.variables, target.variables, strict=True):
        if theirs.shape == ours.shape and theirs is not source.first.kernel:
            ours.assign(theirs)
    width = source.value_width
    if source.stage.net == "wide" and source.first.kernel.shape != target.first.kernel.shape:
        raise UsageError('the net "wide" is as wide as its inputs: weights go only to the same number of controls')
    kernel, bias = transplanted(
        keras.ops.convert_to_numpy(source.first.kernel)[width:],
        keras.ops.convert_to_numpy(source.first.bias),
        source.stage.conditioned_on,
        target.stage.conditioned_on,
        source_schema,
        schema,
    )
    values = keras.ops.convert_to_numpy(source.first.kernel)[:width]
    target.first.kernel.assign(np.concatenate([values, kernel]))
    if target.first.bias is not None:
        target.first.bias.assign(bias)
