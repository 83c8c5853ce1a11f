"""The training loop of all families: epochs over lanes of windows, callbacks, checkpoints, resumable anywhere.

A checkpoint holds weights, optimiser, recurrent state and a few numbers; since all randomness is a function of (seed,
epoch, step), training resumes from it bit for bit on a CPU.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from tierwave.config import TrainingOptions
from tierwave.data.windows import LaneWindows
from tierwave.errors import RunError
from tierwave.files.documents import validated
from tierwave.runs.checkpoints import holds, make_checkpoint, restore_checkpoint
from tierwave.runs.folder import CheckpointEntry, Run
from tierwave.runs.tensors import damaged, read_progress
from tierwave.system.signals import ENDING, handled
from tierwave.training.step import LN2, Learner, slots_of

SIGNALS = (signal.SIGINT, *ENDING)


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
    """Watches or controls training. `state` and `restore` carry what must survive a kill."""

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
        if len(set(named)) < len(named):  # a checkpoint stores their state by name
            raise ValueError(f"two callbacks with a state have one name: {', '.join(sorted(named))}")
        self.progress = Progress(lanes=data.lanes)
        self.state = learner.initial_state(data.lanes)
        self.stop_reason: str | None = None
        self.finished = False
        self.interrupted: int | None = None
        self.elapsed = 0.0
        self._signals = dict.fromkeys(SIGNALS, 0)  # how often each came to this worker

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
        progress, learner = self.progress, self.learner
        self.elapsed, self._begun = 0.0, time.monotonic()
        with handled(SIGNALS, self._note):
            for callback in self.callbacks:
                callback.on_train_begin(self)
            while progress.epoch < self.options.num_epochs and self.stop_reason is None:
                if progress.step_in_epoch == 0:
                    progress.nats = progress.correct = progress.elements = progress.seconds = 0.0
                    for callback in self.callbacks:
                        callback.on_epoch_begin(self)
                for batch in self.data.epoch(progress.epoch, progress.step_in_epoch):
                    if self.stop_reason is not None:
                        break
                    started = time.perf_counter()
                    results, state = learner.train_step(learner.devices.shard(batch), self.state, progress.step)
                    self._sync_clock()
                    self._refuse_broken(results)
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
                if progress.step_in_epoch == self.data.steps:
                    self._end_epoch()
            if progress.epoch >= self.options.num_epochs:
                self.stop(f"all {self.options.num_epochs} epochs are done")
            for callback in self.callbacks:
                callback.on_train_end(self)
            learner.devices.wait()

    def _refuse_broken(self, results: dict[str, float]) -> None:
        """RunError where the loss or the gradient is not finite. A broken gradient has spoilt the weights already, and
        the loss shows it only one step later; float16 skips such a step."""
        for what, value in (("loss", results["loss"]), ("gradient", results["gradient_norm"])):
            if not math.isfinite(value) and not (what == "gradient" and self.learner.can_skip):
                for callback in self.callbacks:
                    callback.on_broken_step(self, results)
                raise RunError(
                    f"the {what} became {value} at step {self.progress.step + 1}, so training was stopped; the last "
                    "checkpoint is good. Try a smaller --learning_rate (a tenth), a smaller gradient_clip, or "
                    "--precision float32"
                )

    def _end_epoch(self) -> None:
        """Validate, and begin the next epoch from a fresh state."""
        progress = self.progress
        results = {
            "loss": progress.nats / max(progress.elements, 1.0),
            "accuracy": progress.correct / max(progress.elements, 1.0),
            "seconds": progress.seconds,
        }
        results["bits"] = results["loss"] / LN2
        if self.valid is not None:
            totals = self.learner.evaluator.measure(self.valid, self._validating).sum(axis=0)
            nats, correct, elements = map(float, totals)
            results.update(val_loss=nats / elements, val_accuracy=correct / elements, val_bits=nats / elements / LN2)
        progress.epoch += 1
        progress.step_in_epoch = 0
        self.state = self.learner.initial_state(self.data.lanes)
        for callback in self.callbacks:
            callback.on_epoch_end(self, results)

    def _validating(self, done: int, total: int) -> None:
        for callback in self.callbacks:
            callback.on_validation_step(done, total)

    def _note(self, number: int, _: object) -> None:
        self._signals[signal.Signals(number)] = 1

    def _sync_clock(self) -> None:
        """Let all workers see the chief's clock and a signal that came to any of them, so that they stop together."""
        clock = time.monotonic() - self._begun if self.learner.devices.is_chief else 0.0
        self.elapsed, *counts = self.learner.devices.total([clock, *self._signals.values()]).tolist()
        for number, count in zip(self._signals, counts, strict=True):
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
            # Training that resumes from an earlier step may write this name again: old files must not be mixed in.
            self.run.remove_files(name)
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
            own = devices.local_lanes(self.data.lanes)
            shards = [devices.shard(tf.convert_to_tensor(part)[own]) for part in states]
            self.state = tf.nest.pack_sequence_as(self.state, shards)
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
