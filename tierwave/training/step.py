"""A model's likelihood step and its training step, compiled, on every replica of a distribution strategy.

A family's model offers `initial_state(batch)` and `loss_sums(batch, state, dropout_seed=None, ...)`, and says what its
losses are: `unit` ("bits" for likelihoods of codes, else the unit of the loss itself), `has_accuracy`, `steps_are`.
All randomness is a function of (seed, step), so that training resumes bit for bit on a CPU (see `add_in_order`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tierwave.config import TrainingOptions
from tierwave.data.windows import IDLE, LaneWindows
from tierwave.nn.distributions import LossSums
from tierwave.nn.runtime import add_in_order
from tierwave.training.devices import Devices

LN2 = math.log(2.0)


def make_optimizer(options: TrainingOptions) -> keras.optimizers.Optimizer:
    """The optimiser that the options name; its default epsilon is PRiSM's."""
    rate = options.learning_rate
    if options.optimizer == "adam":
        return keras.optimizers.Adam(rate, epsilon=options.epsilon or 1e-4)
    if options.optimizer == "sgd":
        return keras.optimizers.SGD(rate, momentum=options.momentum)
    return keras.optimizers.RMSprop(rate, momentum=options.momentum, epsilon=options.epsilon or 1e-5)


def slots_of(options: TrainingOptions) -> str:
    """The kind of the optimiser's state, its name first: training cannot resume with another kind."""
    bare = options.optimizer != "adam" and options.momentum == 0
    return options.optimizer + (" without momentum" if bare else "")


class Evaluator:
    """A model and its compiled likelihood step. jit: with XLA (ignored where a process drives several devices)."""

    def __init__(self, model: Any, *, jit: bool = False, devices: Devices | None = None):
        self.model, self.devices = model, devices or Devices()
        self._eval_step = self.devices.on_replicas(self.devices.graph(self._step, jit=jit))

    def measure(self, windows: LaneWindows, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        """Nats, correct and counted elements of every span of `windows` (unshuffled), without dropout, from a fresh
        state: float64 `[spans, 3]`. progress(done, total) counts steps. Workers share the lanes, and all get all."""
        layout = windows.layout(0)[0]
        own = layout[:, windows.own]
        totals = np.zeros([int(layout.max()) + 1, 3])
        state = self.devices.initial_state(self.model, windows.lanes)
        for step, batch in enumerate(windows.epoch(0)):
            results, state = self._eval_step(self.devices.shard(batch), state)
            values = self.devices.joined(results).numpy()
            busy = own[step] != IDLE
            np.add.at(totals, own[step][busy], values[busy].astype(np.float64))
            if progress is not None:
                progress(step + 1, windows.steps)
        return self.devices.total(totals)

    def _step(self, batch: Any, state: Any) -> tuple[tf.Tensor, Any]:
        """`[lanes, 3]`, and the next state."""
        sums = self.model.loss_sums(batch, state)
        return tf.stack([sums.nats, sums.correct, sums.elements], axis=1), sums.state


class Learner:
    """A model, its optimiser and its compiled training step.

    clip_norm, clip_value: bounds on the joint norm of the gradients of the loss in nats, and on each element of the
    gradient of the loss in bits (the two conventions of the originals); None for no bound. jit: compile with XLA.
    inputs(step): further arguments of `loss_sums` at an optimiser step.
    """

    def __init__(
        self,
        build: Callable[..., Any],
        options: TrainingOptions,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        jit: bool = False,
        devices: Devices | None = None,
        inputs: Callable[[tf.Tensor], dict[str, Any]] = lambda step: {},
    ):
        self.devices = devices = devices or Devices()
        self.seed, self.parts, self.inputs = options.random_seed, options.accumulate, inputs
        self.clip_norm, self.clip_value = clip_norm, clip_value
        self.jit = jit and devices.local == 1
        keras.utils.set_random_seed(options.random_seed)
        if not jit:
            add_in_order()
        self.scaled = options.precision == "mixed_float16"
        with devices.strategy.scope():
            self.model = build()
            self.optimizer = make_optimizer(options)
            self.optimizer.build(self.model.trainable_variables)
            if self.scaled:  # float16 underflows below 6e-8: the loss is scaled up, the gradients down again
                self.scaling = keras.optimizers.LossScaleOptimizer(self.optimizer)
                self.scaling.build(self.model.trainable_variables)
                self.loss_scale = self.scaling.dynamic_scale
                # Keras would count in 64 bits, and checkpoints hold 32.
                self.finite_steps = self.scaling.step_counter = tf.Variable(0, trainable=False)
        self.evaluator = Evaluator(self.model, jit=self.jit, devices=devices)
        gradients = self._gradients if self.parts == 1 else self._gradients_in_parts
        # XLA cannot compile collectives: with several replicas it compiles only what each computes by itself.
        alone = devices.replicas == 1
        self._sums_and_gradients = gradients if alone else devices.graph(gradients, jit=self.jit)
        self._step = devices.on_replicas(devices.graph(self._update, jit=self.jit and alone))

    @property
    def can_skip(self) -> bool:
        """Whether a smaller scale may help a step whose gradient is not finite."""
        return self.scaled and float(self.loss_scale.numpy()) > 1.0

    def trackables(self) -> dict[str, Any]:
        """What a checkpoint must hold of the learner."""
        tracked: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer}
        if self.scaled:
            tracked.update(loss_scale=self.loss_scale, finite_steps=self.finite_steps)
        return tracked

    def initial_state(self, lanes: int) -> Any:
        """Recurrent state of all `lanes` before their first window, sharded over this worker's replicas."""
        return self.devices.initial_state(self.model, lanes)

    def train_step(self, batch: Any, state: Any, step: int) -> tuple[dict[str, float], Any]:
        """One update. Returns loss (nats per element), accuracy, elements, gradient_norm, and the next state."""
        results, state = self._step(batch, state, tf.constant(step, tf.int32))
        values = self.devices.joined(results).numpy()[:4].tolist()
        return dict(zip(("loss", "accuracy", "elements", "gradient_norm"), values, strict=True)), state

    def _update(self, batch: Any, state: Any, step: tf.Tensor) -> tuple[tf.Tensor, Any]:
        """The update by one replica: gradients of its lanes, summed over replicas, clipped, applied."""
        replicas, context = self.devices.replicas, tf.distribute.get_replica_context()

        def total(value: Any) -> Any:
            if replicas == 1:
                return value
            here = tf.nest.map_structure(tf.identity, value)  # on the replica's device, as compiled results are not
            return context.all_reduce(tf.distribute.ReduceOp.SUM, here)

        seed = tf.stack([tf.constant(self.seed % 2**31, tf.int32), step])
        if replicas > 1:
            seed = tf.random.experimental.stateless_fold_in(seed, context.replica_id_in_sync_group)
        sums, gradients = self._sums_and_gradients(batch, state, seed, step)
        elements = tf.maximum(total(tf.reduce_sum(sums.elements)), 1.0)
        share = tf.reduce_sum(sums.nats) / elements
        gradients = [gradient / elements for gradient in total(gradients)]
        if self.scaled:
            gradients = [gradient / self.loss_scale for gradient in gradients]
        norm = tf.linalg.global_norm(gradients)
        if self.clip_norm is not None:
            factor = self.clip_norm / tf.maximum(norm, self.clip_norm)
            gradients = [gradient * factor for gradient in gradients]
        if self.clip_value is not None:
            bound = self.clip_value * LN2
            gradients = [tf.clip_by_value(gradient, -bound, bound) for gradient in gradients]
        if replicas > 1:  # Keras sums over replicas what was summed before it was clipped
            gradients = [gradient / replicas for gradient in gradients]
        if self.scaled:  # Keras skips the step and halves the scale where a gradient is not finite
            scale = tf.where(tf.math.is_finite(norm), self.loss_scale, math.nan)
            gradients = [gradient * scale for gradient in gradients]
        (self.scaling if self.scaled else self.optimizer).apply(gradients, self.model.trainable_variables)
        accuracy = total(tf.reduce_sum(sums.correct)) / elements
        return tf.stack([total(share), accuracy, elements, norm]), sums.state

    def _gradients(self, batch: Any, state: Any, seed: tf.Tensor, step: tf.Tensor) -> tuple[LossSums, list[tf.Tensor]]:
        """The loss of a batch and the gradients of its nats, summed over all elements (float16: scaled up)."""
        raw = [variable.value for variable in self.model.trainable_variables]
        with tf.GradientTape() as tape:
            sums = self.model.loss_sums(batch, state, dropout_seed=seed, **self.inputs(step))
            target = tf.reduce_sum(sums.nats)
            if self.scaled:  # the scale is that of a mean
                target = target * (self.loss_scale / tf.maximum(tf.reduce_sum(sums.elements), 1.0))
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(target, raw)]
        if self.scaled:
            gradients = [gradient * tf.maximum(tf.reduce_sum(sums.elements), 1.0) for gradient in gradients]
        return sums, gradients

    def _gradients_in_parts(
        self, batch: Any, state: Any, seed: tf.Tensor, step: tf.Tensor
    ) -> tuple[LossSums, list[tf.Tensor]]:
        """The same, a part of the lanes at a time: a loop, so that one part's memory is free before the next begins,
        and that it is compiled once. Parts are equal; lanes that fill up the last one count for nothing."""
        lanes = batch["mask"].shape[0]
        size = -(-lanes // self.parts)
        parts = -(-lanes // size)

        def split(whole: tf.Tensor) -> tf.Tensor:
            filled = tf.pad(whole, [[0, parts * size - lanes]] + [[0, 0]] * (len(whole.shape) - 1))
            return tf.reshape(filled, [parts, size, *whole.shape[1:]])

        split_batch, split_state = tf.nest.map_structure(split, (batch, state))
        each = tf.zeros([lanes])
        like = LossSums(each, each, each, state)

        def add_part(number: tf.Tensor, gradients: list[tf.Tensor], arrays: Any) -> Any:
            part_seed = tf.random.experimental.stateless_fold_in(seed, number)
            part, before = tf.nest.map_structure(lambda whole: whole[number], (split_batch, split_state))
            sums, more = self._gradients(part, before, part_seed, step)
            arrays = tf.nest.map_structure(lambda array, value: array.write(number, value), arrays, sums)
            return number + 1, [one + other for one, other in zip(gradients, more, strict=True)], arrays

        _, gradients, arrays = tf.while_loop(
            lambda number, *_: number < parts,
            add_part,
            (
                tf.constant(0),
                [tf.zeros(variable.shape) for variable in self.model.trainable_variables],
                tf.nest.map_structure(lambda one: tf.TensorArray(one.dtype, size=parts), like),
            ),
            maximum_iterations=parts,
            parallel_iterations=1,
        )

        def join(array: tf.TensorArray, one: tf.Tensor) -> tf.Tensor:
            return tf.reshape(array.stack(), [parts * size, *one.shape[1:]])[:lanes]

        return tf.nest.map_structure(join, arrays, like), gradients
