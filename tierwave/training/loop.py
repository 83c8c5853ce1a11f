"""The one training loop of all families: a compiled step under a distribution strategy, resumable anywhere.

`Evaluator` holds a model and its compiled likelihood step, `Learner` an optimiser and the training step besides;
`Trainer` runs epochs over lanes of windows, tells its callbacks what happens and writes checkpoints. All randomness is
a function of (seed, epoch, step), so a checkpoint holds weights, optimiser, recurrent state and a few numbers, and
training goes on from it bit for bit on a CPU (see `add_in_order`).

A family's model offers `initial_state(batch)` and `loss_sums(batch, state, dropout_seed=None, ...)`; and says what its
losses are: `unit` ("bits" for likelihoods of codes, else what the loss itself is in), `has_accuracy`, `steps_are`.
Knows no family by name and prints nothing: callbacks do.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tierwave.config import TrainingOptions
from tierwave.data.windows import IDLE, LaneWindows
from tierwave.errors import RunError
from tierwave.files.documents import validated
from tierwave.nn.distributions import LossSums
from tierwave.nn.runtime import add_in_order
from tierwave.runs.checkpoints import damaged, holds, make_checkpoint, read_progress, restore_checkpoint
from tierwave.runs.folder import CheckpointEntry, Run
from tierwave.system.signals import ENDING, handled
from tierwave.training.devices import Devices

LN2 = math.log(2.0)
SIGNALS = (signal.SIGINT, *ENDING)
NEWS = 1 + len(SIGNALS)


def make_optimizer(options: TrainingOptions) -> keras.optimizers.Optimizer:
    """The optimiser asked for; without an epsilon of one's own it has PRiSM's."""
    rate = options.learning_rate
    if options.optimizer == "adam":
        return keras.optimizers.Adam(rate, epsilon=options.epsilon or 1e-4)
    if options.optimizer == "sgd":
        return keras.optimizers.SGD(rate, momentum=options.momentum)
    return keras.optimizers.RMSprop(rate, momentum=options.momentum, epsilon=options.epsilon or 1e-5)


def slots_of(options: TrainingOptions) -> str:
    """What the optimiser's state is, in words of which the first is its name: another one cannot go on from it."""
    bare = options.optimizer != "adam" and options.momentum == 0
    return options.optimizer + (" without momentum" if bare else "")


class Evaluator:
    """A model and its compiled likelihood step, for `measure`.

    jit: compile with XLA what a replica computes by itself; where one process drives several devices, it is left off.
    """

    def __init__(self, model: Any, *, jit: bool = False, devices: Devices | None = None):
        self.model, self.devices = model, devices or Devices()
        self.jit = jit and self.devices.local == 1
        self._eval = self._on_replicas(self._compiled(self._eval_step, self.jit))

    def _compiled(self, part: Callable[..., Any], jit: bool) -> Callable[..., Any]:
        """A graph of its own for `part`; where replicas share a process it stays part of the one around it."""
        return tf.function(part, jit_compile=jit, autograph=False) if self.devices.local == 1 else part

    def _on_replicas(self, step: Callable[..., Any]) -> Callable[..., Any]:
        if self.devices.replicas == 1:
            return step
        return tf.function(lambda *given: self.devices.run(step, *given), autograph=False)

    def initial_state(self, lanes: int) -> Any:
        """Recurrent state of all `lanes` before their first window, those of this worker dealt to its replicas."""
        return self._on_replicas(lambda: self.model.initial_state(lanes // self.devices.replicas))()

    def batches(self, windows: LaneWindows, epoch: int, first_step: int = 0) -> Iterator[Any]:
        """The batches of an epoch, dealt to the replicas of this worker."""
        return map(self.devices.dealt, windows.epoch(epoch, first_step))

    def eval_step(self, batch: Any, state: Any) -> tuple[np.ndarray, Any]:
        """Per lane of this worker nats, correct and counted elements, `[lanes, 3]`, without dropout; and the next
        state."""
        results, state = self._eval(batch, state)
        return self.devices.local_lanes(results).numpy(), state

    def _eval_step(self, batch: Any, state: Any) -> tuple[tf.Tensor, Any]:
        outcome = self.model.loss_sums(batch, state)
        return tf.stack([outcome.nats, outcome.correct, outcome.elements], axis=1), outcome.state


class Learner(Evaluator):
    """Model, optimiser and their compiled steps.

    clip_norm, clip_value: bounds on the joint norm of the gradients of the loss in nats, and on each element of the
    gradient of the loss in bits (the two conventions of the originals); None for no bound. jit: compile with XLA.
    inputs(step): what else `loss_sums` is told in training at an optimiser step.
    """

    def __init__(
        self,
        build: Any,
        options: TrainingOptions,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        jit: bool = False,
        devices: Devices | None = None,
        inputs: Callable[[tf.Tensor], dict[str, Any]] = lambda step: {},
    ):
        devices = devices or Devices()
        self.news = [0.0] * NEWS
        self.inputs = inputs
        self.parts = options.accumulate
        self.seed, self.clip_norm, self.clip_value = options.random_seed, clip_norm, clip_value
        keras.utils.set_random_seed(options.random_seed)
        if not jit:
            add_in_order()
        with devices.strategy.scope():
            model = build()
            self.optimizer = make_optimizer(options)
            self.optimizer.build(model.trainable_variables)
            self.scaled = options.precision == "mixed_float16"
            if self.scaled:  # float16 underflows below 6e-8: the loss is scaled up, the gradients down again
                alike: dict[str, Any] = {"trainable": False, "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA}
                self.loss_scale = tf.Variable(2.0**15, name="loss_scale", **alike)
                self.finite_steps = tf.Variable(0, name="finite_steps", **alike)
        super().__init__(model, jit=jit, devices=devices)
        # What replicas tell each other cannot be compiled by XLA: then it only compiles what each does by itself.
        self._alone = self._all_gradients
        if devices.replicas > 1:
            self._alone = self._compiled(self._all_gradients, self.jit)
        self._train = self._on_replicas(self._compiled(self._train_step, self.jit and devices.replicas == 1))

    @property
    def can_skip(self) -> bool:
        """Whether a smaller scale may help a step whose gradient is no number."""
        return self.scaled and float(self.loss_scale.numpy()) > 1.0

    def trackables(self) -> dict[str, Any]:
        """What a checkpoint must hold of the learner."""
        tracked: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer}
        if self.scaled:
            tracked.update(loss_scale=self.loss_scale, finite_steps=self.finite_steps)
        return tracked

    def train_step(
        self, batch: Any, state: Any, step: int, news: Sequence[float] = (0.0,) * NEWS
    ) -> tuple[dict[str, float], Any]:
        """One update. Returns loss (nats per element), accuracy, elements, gradient_norm, and the next state. news:
        NEWS numbers of this worker's, whose sums over all workers are then `self.news`."""
        results, state = self._train(batch, state, tf.constant(step, tf.int32), tf.constant(news, tf.float32))
        values = self.devices.local_lanes(results).numpy()[: 4 + NEWS].tolist()
        self.news = values[4:]
        return dict(zip(("loss", "accuracy", "elements", "gradient_norm"), values[:4], strict=True)), state

    def _train_step(self, batch: Any, state: Any, step: tf.Tensor, news: tf.Tensor) -> tuple[tf.Tensor, Any]:
        context = tf.distribute.get_replica_context()
        replicas = self.devices.replicas

        def total(value: Any) -> Any:
            if replicas == 1:
                return value
            here = tf.nest.map_structure(tf.identity, value)  # on the replica's device, as compiled results are not
            return context.all_reduce(tf.distribute.ReduceOp.SUM, here)

        seed = tf.stack([tf.constant(self.seed % 2**31, tf.int32), step])
        if replicas > 1:
            seed = tf.random.experimental.stateless_fold_in(seed, context.replica_id_in_sync_group)
        outcome, gradients = self._alone(batch, state, seed, step)
        elements = tf.maximum(total(tf.reduce_sum(outcome.elements)), 1.0)
        share = tf.reduce_sum(outcome.nats) / elements
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
        self._update(gradients, norm)
        loss = total(share)
        accuracy = total(tf.reduce_sum(outcome.correct)) / elements
        told = total(news) / self.devices.local
        return tf.concat([[loss, accuracy, elements, norm], told], axis=0), outcome.state

    def _all_gradients(
        self, batch: Any, state: Any, seed: tf.Tensor, step: tf.Tensor
    ) -> tuple[LossSums, list[tf.Tensor]]:
        """What this replica's lanes give, and the gradients of their nats, summed over all elements."""
        return (self._gradients if self.parts == 1 else self._gradients_in_parts)(batch, state, seed, step)

    def _gradients(self, batch: Any, state: Any, seed: tf.Tensor, step: tf.Tensor) -> tuple[LossSums, list[tf.Tensor]]:
        """The outcome of a batch and the gradients of its nats, summed over all elements (float16: scaled up)."""
        raw = [variable.value for variable in self.model.trainable_variables]
        with tf.GradientTape() as tape:
            outcome = self.model.loss_sums(batch, state, dropout_seed=seed, **self.inputs(step))
            target = tf.reduce_sum(outcome.nats)
            if self.scaled:  # the scale is that of a mean
                target = target * (self.loss_scale / tf.maximum(tf.reduce_sum(outcome.elements), 1.0))
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(target, raw)]
        if self.scaled:
            gradients = [gradient * tf.maximum(tf.reduce_sum(outcome.elements), 1.0) for gradient in gradients]
        return outcome, gradients

    def _gradients_in_parts(
        self, batch: Any, state: Any, seed: tf.Tensor, step: tf.Tensor
    ) -> tuple[LossSums, list[tf.Tensor]]:
        """The same, some lanes after the others: a loop, so that one part's memory is free before the next begins, and
        that it is compiled once. Parts are equal; lanes that fill up the last one count for nothing."""
        lanes = batch["mask"].shape[0]
        size = -(-lanes // self.parts)
        parts = -(-lanes // size)

        def dealt(whole: tf.Tensor) -> tf.Tensor:
            filled = tf.pad(whole, [[0, parts * size - lanes]] + [[0, 0]] * (len(whole.shape) - 1))
            return tf.reshape(filled, [parts, size, *whole.shape[1:]])

        given = tf.nest.map_structure(dealt, (batch, state))
        each = tf.zeros([lanes])
        like = LossSums(each, each, each, state)

        def part(number: tf.Tensor, gradients: list[tf.Tensor], kept: Any) -> Any:
            own_seed = tf.random.experimental.stateless_fold_in(seed, number)
            mine, before = tf.nest.map_structure(lambda whole: whole[number], given)
            outcome, found = self._gradients(mine, before, own_seed, step)
            kept = tf.nest.map_structure(lambda array, value: array.write(number, value), kept, outcome)
            return number + 1, [one + other for one, other in zip(gradients, found, strict=True)], kept

        _, gradients, kept = tf.while_loop(
            lambda number, *_: number < parts,
            part,
            (
                tf.constant(0),
                [tf.zeros(variable.shape) for variable in self.model.trainable_variables],
                tf.nest.map_structure(lambda one: tf.TensorArray(one.dtype, size=parts), like),
            ),
            maximum_iterations=parts,
            parallel_iterations=1,
        )

        def together(array: tf.TensorArray, one: tf.Tensor) -> tf.Tensor:
            return tf.reshape(array.stack(), [parts * size, *one.shape[1:]])[:lanes]

        return tf.nest.map_structure(together, kept, like), gradients

    def _update(self, gradients: list[tf.Tensor], norm: tf.Tensor) -> None:
        # Keras sums over replicas what was summed before it was clipped.
        shares = (
            [gradient / self.devices.replicas for gradient in gradients] if self.devices.replicas > 1 else gradients
        )
        if not self.scaled:
            self.optimizer.apply(shares, self.model.trainable_variables)
            return

        # Dynamic loss scale (Micikevicius et al. 2018): halve and skip the step on overflow, double after 2000 good.
        def apply(mine: list[tf.Tensor]) -> None:
            self.optimizer.apply(mine, self.model.trainable_variables)

        def apply_if(finite: tf.Tensor, step: Callable[[], Any]) -> None:
            tf.cond(finite, lambda: [step(), tf.constant(0)][1], lambda: tf.constant(1))

        def apply_together(strategy: tf.distribute.Strategy, finite: Any, mine: Any) -> None:
            first = strategy.experimental_local_results(finite)[0]
            apply_if(first, lambda: strategy.extended.call_for_each_replica(apply, args=(mine,)))

        finite = tf.math.is_finite(norm)
        if self.devices.replicas == 1:
            apply_if(finite, lambda: apply(shares))
        else:  # replicas meet in the optimiser, which no branch of a single one may do
            tf.distribute.get_replica_context().merge_call(apply_together, args=(finite, shares))
        count = tf.where(finite, self.finite_steps + 1, 0)
        grown = tf.where(count >= 2000, self.loss_scale * 2.0, self.loss_scale)
        self.loss_scale.assign(tf.where(finite, grown, tf.maximum(self.loss_scale / 2.0, 1.0)))
        self.finite_steps.assign(tf.where(count >= 2000, 0, count))


def measure(
    evaluator: Evaluator, windows: LaneWindows, progress: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """Likelihood of every span of `windows` (unshuffled): nats, correct and counted elements, float64 `[spans, 3]`.

    State starts fresh; training's own state is not touched. progress(done, total) counts steps. Several workers do
    their lanes each, and all get all.
    """
    layout = windows.layout(0)[0]
    own = layout[:, windows.own]
    totals = np.zeros([int(layout.max()) + 1, 3])
    state = evaluator.initial_state(windows.lanes)
    for step, batch in enumerate(evaluator.batches(windows, 0)):
        values, state = evaluator.eval_step(batch, state)
        busy = own[step] != IDLE
        np.add.at(totals, own[step][busy], values[busy].astype(np.float64))
        if progress is not None:
            progress(step + 1, windows.steps)
    return evaluator.devices.total(totals)


@dataclass
class Progress:
    """Where training stands; all of it goes into checkpoints.

    epoch: finished epochs; step: updates so far; step_in_epoch: updates in the unfinished epoch; nats, correct,
    elements: running sums of that epoch; callbacks: their state by name; run: its `Run.run_id`; slots: of the
    optimiser (`slots_of`).
    """

    epoch: int = 0
    step: int = 0
    step_in_epoch: int = 0
    nats: float = 0.0
    correct: float = 0.0
    elements: float = 0.0
    seconds: float = 0.0
    lanes: int = 0
    callbacks: dict[str, Any] = field(default_factory=dict)
    run: str = ""
    slots: str = ""


class Callback:
    """Something that watches or steers training. `state` and `restore` carry what must survive a kill."""

    def state(self) -> dict[str, Any]:
        """What goes into a checkpoint (JSON)."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""

    def on_train_begin(self, trainer: Trainer) -> None:
        """Before the first step."""

    def on_epoch_begin(self, trainer: Trainer) -> None:
        """Before the first step of an epoch (not when training resumes inside one)."""

    def on_step_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        """After an update; results: loss (nats), accuracy, elements, gradient_norm, seconds."""

    def on_broken_step(self, trainer: Trainer, results: dict[str, float]) -> None:
        """After a step whose loss or gradient is not a number, right before training is given up."""

    def on_validation_step(self, done: int, total: int) -> None:
        """Of the windows that are held out, `done` batches are done."""

    def on_epoch_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        """After validation; results: loss, accuracy, bits, and with validation val_loss, val_accuracy, val_bits."""

    def on_checkpoint(self, trainer: Trainer, entry: CheckpointEntry) -> None:
        """After a checkpoint that is kept was written."""

    def on_train_end(self, trainer: Trainer) -> None:
        """After the last step."""


class Trainer:
    """Runs epochs over `data`, validates on `valid`, tells `callbacks` in their order, writes checkpoints to `run`."""

    def __init__(
        self,
        learner: Learner,
        data: LaneWindows,
        valid: LaneWindows | None,
        options: TrainingOptions,
        run: Run,
        callbacks: Sequence[Callback] = (),
    ):
        self.learner, self.data, self.valid, self.options, self.run = learner, data, valid, options, run
        self.callbacks = list(callbacks)
        named = [type(callback).__name__ for callback in self.callbacks if type(callback).state is not Callback.state]
        if len(set(named)) < len(named):  # a checkpoint keeps what they remember by name
            raise ValueError(f"two callbacks with a state have one name: {', '.join(sorted(named))}")
        self.progress = Progress(lanes=data.lanes)
        self.state = learner.initial_state(data.lanes)
        self.stop_reason: str | None = None
        self.finished = False
        self.interrupted: int | None = None
        self.elapsed = 0.0
        self._signals_here = dict.fromkeys(SIGNALS, 0)

    @property
    def learning_rate(self) -> float:
        """The optimiser's learning rate now."""
        return float(keras.ops.convert_to_numpy(self.learner.optimizer.learning_rate))

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self.learner.optimizer.learning_rate = float(value)

    def stop(self, reason: str, *, finished: bool = True) -> None:
        """End training after this step; the first reason stands. finished: there is nothing left to do, as against
        time being up."""
        if self.stop_reason is None:
            self.stop_reason, self.finished = reason, finished

    def fit(self) -> None:
        """Train until the options or a callback say stop. SIGNALS end it with a checkpoint."""
        self.elapsed, self._begun = 0.0, time.monotonic()
        with handled(SIGNALS, self._note):
            for callback in self.callbacks:
                callback.on_train_begin(self)
            while self.progress.epoch < self.options.num_epochs and self.stop_reason is None:
                self._epoch()
            if self.progress.epoch >= self.options.num_epochs:
                self.stop(f"all {self.options.num_epochs} epochs are done")
            for callback in self.callbacks:
                callback.on_train_end(self)
            self.learner.devices.wait()

    def _epoch(self) -> None:
        progress = self.progress
        if progress.step_in_epoch == 0:
            progress.nats = progress.correct = progress.elements = progress.seconds = 0.0
            for callback in self.callbacks:
                callback.on_epoch_begin(self)
        for batch in self.learner.batches(self.data, progress.epoch, progress.step_in_epoch):
            if self.stop_reason is not None:
                return
            started = time.perf_counter()
            results, state = self.learner.train_step(batch, self.state, progress.step, self._news())
            self._hear(self.learner.news if self.learner.devices.workers > 1 else self._news())
            # A broken gradient has spoilt the weights already, though the loss shows it one step later only; float16
            # steps over it.
            for what, value in (("loss", results["loss"]), ("gradient", results["gradient_norm"])):
                if not math.isfinite(value) and not (what == "gradient" and self.learner.can_skip):
                    for callback in self.callbacks:
                        callback.on_broken_step(self, results)
                    raise RunError(
                        f"the {what} became {value} at step {progress.step + 1}, so training was stopped; the last "
                        "checkpoint is good. Try a smaller --learning_rate (a tenth), a smaller gradient_clip, or "
                        "--precision float32"
                    )
            self.state = state
            results["seconds"] = time.perf_counter() - started
            progress.step += 1
            progress.step_in_epoch += 1
            progress.nats += results["loss"] * results["elements"]
            progress.correct += results["accuracy"] * results["elements"]
            progress.elements += results["elements"]
            progress.seconds += results["seconds"]
            for callback in self.callbacks:
                callback.on_step_end(self, results)
            if self.interrupted is not None:
                self.stop(signal.Signals(self.interrupted).name, finished=False)
        if progress.step_in_epoch < self.data.steps:
            return  # stopped right after the last batch that was fetched
        results = {
            "loss": progress.nats / max(progress.elements, 1.0),
            "accuracy": progress.correct / max(progress.elements, 1.0),
            "seconds": progress.seconds,
        }
        results["bits"] = results["loss"] / LN2
        if self.valid is not None:
            nats, correct, elements = map(float, measure(self.learner, self.valid, self._validating).sum(axis=0))
            results.update(val_loss=nats / elements, val_accuracy=correct / elements, val_bits=nats / elements / LN2)
        progress.epoch += 1
        progress.step_in_epoch = 0
        self.state = self.learner.initial_state(self.data.lanes)
        for callback in self.callbacks:
            callback.on_epoch_end(self, results)

    def _validating(self, done: int, total: int) -> None:
        for callback in self.callbacks:
            callback.on_validation_step(done, total)

    # What workers can see differently, the clock and signals, they tell each other with every step.

    def _news(self) -> list[float]:
        """The chief's clock, and the signals that came to this worker."""
        clock = time.monotonic() - self._begun if self.learner.devices.is_chief else 0.0
        return [clock, *map(float, self._signals_here.values())]

    def _note(self, number: int, _: object) -> None:
        self._signals_here[signal.Signals(number)] = 1

    def _hear(self, news: Sequence[float]) -> None:
        self.elapsed = news[0]
        for number, count in zip(self._signals_here, news[1:], strict=True):
            if count and self.interrupted is None:
                self.interrupted = number

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def save(self, name: str, *, value: float | None = None, best: bool = False, kept: bool = True) -> CheckpointEntry:
        """Write checkpoint `name`, whole or not at all. Raises RunError (disk full, not writable)."""
        self.progress.callbacks = {type(callback).__name__: callback.state() for callback in self.callbacks}
        self.progress.run, self.progress.slots = self.run.run_id, slots_of(self.options)
        document = json.dumps(vars(self.progress))
        states = [self.learner.devices.all_lanes(part) for part in tf.nest.flatten(self.state)]
        entry = CheckpointEntry(name, self.progress.epoch, self.progress.step, value, best, kept)
        if self.learner.devices.is_chief:
            self._write(entry, document, states)
        self.learner.devices.wait()
        if kept:
            for callback in self.callbacks:
                callback.on_checkpoint(self, entry)
        return entry

    def _write(self, entry: CheckpointEntry, document: str, states: Sequence[tf.Tensor]) -> None:
        name = entry.name
        checkpoint = make_checkpoint(
            {
                **self.learner.trackables(),
                "state": [tf.Variable(part, trainable=False) for part in states],
                "progress": tf.Variable(document, trainable=False),
            }
        )
        try:
            self.run.remove_files(name)  # going on from before it; halfway, old and new files would be mixed
            checkpoint.write(str(self.run.folder / name))
            self.run.record(entry, self.options.max_checkpoints)
        except (tf.errors.OpError, OSError) as error:
            self.run.remove_files(name)
            reason = getattr(error, "message", None) or str(error)
            raise RunError(
                f"checkpoint {name} could not be written to {self.run.folder} ({reason.splitlines()[0]}): the earlier "
                "checkpoints are untouched; make room or name another --logdir_root, then start again to resume"
            ) from None

    def restore(self, run: Run, entry: CheckpointEntry) -> list[str]:
        """Go on from a checkpoint: weights, optimiser, recurrent state, position, callbacks. Returns remarks."""
        path = run.folder / entry.name
        try:
            progress: Progress = validated(Progress, read_progress(path))
        except ValueError as error:
            raise damaged(path, error) from None
        remarks = []
        devices = self.learner.devices
        states = [tf.Variable(devices.all_lanes(part), trainable=False) for part in tf.nest.flatten(self.state)]
        pieces: dict[str, Any] = self.learner.trackables()
        if "loss_scale" in pieces and not holds(path, "loss_scale"):
            del pieces["loss_scale"], pieces["finite_steps"]
            remarks.append(
                "The checkpoint was not made with mixed_float16, so the scale of its loss starts at "
                f"{float(self.learner.loss_scale.numpy()):g}."
            )
        if progress.lanes == self.data.lanes:
            pieces["state"] = states
        restore_checkpoint(path, pieces)
        if progress.lanes == self.data.lanes:
            own = devices.own(self.data.lanes)
            dealt = [devices.dealt(tf.convert_to_tensor(part)[own]) for part in states]
            self.state = tf.nest.pack_sequence_as(self.state, dealt)
        elif progress.step_in_epoch:
            remarks.append(
                f"The checkpoint was made with {progress.lanes} lanes and there are {self.data.lanes} now: "
                f"epoch {progress.epoch + 1} starts from its beginning."
            )
            progress.step_in_epoch = 0
        progress.lanes = self.data.lanes
        self.progress = progress
        for callback in self.callbacks:
            name = type(callback).__name__
            try:
                callback.restore(progress.callbacks.get(name, {}))
            except (AttributeError, TypeError, ValueError) as error:  # what it has not written itself
                raise damaged(path, f"{name}: {error}") from None
        return remarks
