"""What happens around the training steps: checkpoints, early stopping, learning rate, sounds, curves, lines.

Every callback reads the `TrainingOptions` of its trainer. Their order matters and `standard_callbacks` holds it: what
decides about stopping before what saves, the learning rate of the next step before that too, what prints last.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TextIO

import numpy as np

from tierwave.config import TrainingOptions
from tierwave.controls.tracks import Controls
from tierwave.files.writing import write_text
from tierwave.generation.request import Request
from tierwave.runs.checkpoints import restore_checkpoint
from tierwave.runs.diagnostics import loss_issues, verdict
from tierwave.runs.history import BASELINES, LOSSES, Epoch, in_unit
from tierwave.system.progress import SayLine, clock
from tierwave.training.loop import Callback, Trainer
from tierwave.training.previews import Generation, Print, say_once
from tierwave.training.step import LN2
from tierwave.training.tensorboard import HeldAgainst, TensorBoard


class Limits(Callback):
    """Stop after `num_steps`, after `max_minutes` of this call, or below `loss_cutoff`.

    is_share: the minutes are one stage's share of all. They count from the end of its first step, since compiling would
    use up a small share.
    """

    def __init__(self, *, is_share: bool = False) -> None:
        self.is_share = is_share
        self.seconds = 0.0  # that count

    def on_train_begin(self, trainer: Trainer) -> None:
        self.first: float | None = None if self.is_share else 0.0
        self._check_steps(trainer)

    def on_step_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        options = trainer.options
        self._check_steps(trainer)
        self.first = trainer.elapsed if self.first is None else self.first
        self.seconds = trainer.elapsed - self.first
        if options.max_minutes is not None and self.seconds >= 60.0 * options.max_minutes:
            trainer.stop(f"max_minutes ({options.max_minutes:g}) is over", finished=False)
        if options.loss_cutoff is not None and results["loss"] < options.loss_cutoff:
            trainer.stop(f"the loss fell below loss_cutoff ({options.loss_cutoff:g})")

    def _check_steps(self, trainer: Trainer) -> None:
        if trainer.options.num_steps is not None and trainer.progress.step >= trainer.options.num_steps:
            trainer.stop(f"num_steps ({trainer.options.num_steps}) are done")


class LearningRateSchedule(Callback):
    """Sets the learning rate of each step: the base rate, times a warm-up, times a decay towards the end.

    From epoch `reduce_learning_rate_after` on (counted from 0), the base rate is multiplied by exp(-0.1) each epoch.
    The decay follows the part of num_steps, num_epochs or max_minutes that is over, whichever is furthest; max_minutes
    are those of this command, so a training that is resumed for more minutes begins at the base rate again.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.epoch = -1  # the last epoch for which the base rate was reduced: one may be begun twice
        self.base: float | None = None  # None: the optimiser's rate is the base rate
        self.last = 0.0  # the rate set last; another one was asked for on resume

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "base": self.base, "last": self.last}

    def restore(self, state: dict[str, Any]) -> None:
        self.epoch = state.get("epoch", -1)
        self.base, self.last = state.get("base"), state.get("last", 0.0)

    def on_train_begin(self, trainer: Trainer) -> None:
        options = trainer.options
        if not options.warmup_steps and options.learning_rate_decay == "none":
            if self.base is not None and trainer.learning_rate == self.last:
                trainer.learning_rate = self.base  # the schedule was left out on resume
            self.base = None
            return
        if self.base is None or trainer.learning_rate != self.last:
            self.base = trainer.learning_rate
        self._set(trainer)

    def on_epoch_begin(self, trainer: Trainer) -> None:
        after, epoch = trainer.options.reduce_learning_rate_after, trainer.progress.epoch
        if after is not None and epoch >= after and epoch != self.epoch:
            self.epoch = epoch
            if self.base is None:
                trainer.learning_rate *= math.exp(-0.1)
            else:
                self.base *= math.exp(-0.1)
                self._set(trainer)

    def on_step_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        if self.base is not None:
            self._set(trainer)

    def _set(self, trainer: Trainer) -> None:
        """Set the rate of the next step."""
        options, step = trainer.options, trainer.progress.step
        rate = self.base or 0.0
        if step < options.warmup_steps:
            rate *= (step + 1) / options.warmup_steps
        if options.learning_rate_decay == "linear":
            rate *= max(0.0, 1.0 - self._over(trainer))
        trainer.learning_rate = rate
        self.last = trainer.learning_rate

    def _over(self, trainer: Trainer) -> float:
        """The part of the training that is over, 0 to 1."""
        options, progress = trainer.options, trainer.progress
        parts = [(progress.epoch + progress.step_in_epoch / trainer.data.steps) / options.num_epochs]
        if options.num_steps is not None:
            parts.append(progress.step / options.num_steps)
        if options.max_minutes is not None:
            parts.append(self.limits.seconds / (60.0 * options.max_minutes))
        return max(parts)


class Monitor(Callback):
    """Follows the monitored value: which epoch is best, and when to stop early.

    improved: whether the epoch that just ended is the best so far.
    """

    def __init__(self) -> None:
        self.best: float | None = None
        self.wait = 0
        self.improved = False
        self.value: float | None = None

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "wait": self.wait}

    def restore(self, state: dict[str, Any]) -> None:
        self.best, self.wait = state.get("best"), state.get("wait", 0)

    def on_epoch_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        monitor, patience = trainer.options.monitor, trainer.options.early_stopping_patience
        self.value = results[monitor]
        sign = -1.0 if monitor.endswith("accuracy") else 1.0
        self.improved = self.best is None or sign * self.value < sign * self.best
        if self.improved:
            self.best, self.wait = self.value, 0
            return
        self.wait += 1
        if patience is not None and self.wait >= max(patience, 1):
            trainer.stop(f"{monitor} has not improved for {self.wait} epochs (best {self.best:.4f})")


class CheckpointPolicy(Callback):
    """Writes checkpoints as the options say, and one wherever training ends; at the end the best weights are back.

    The best epoch is always kept, whatever `checkpoint_every` is, since early stopping returns to it.
    """

    def __init__(self, monitor: Monitor):
        self.monitor = monitor
        self.saved_step = -1

    def on_train_begin(self, trainer: Trainer) -> None:
        self.saved_at = trainer.elapsed
        self.saved_step = trainer.progress.step

    def on_step_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        options, step = trainer.options, trainer.progress.step
        minutes = options.checkpoint_minutes
        if options.checkpoint_steps is not None and step % options.checkpoint_steps == 0:
            self._save(trainer, f"model.ckpt-step{step}")
        elif minutes is not None and trainer.elapsed - self.saved_at >= 60.0 * minutes:
            self._save(trainer, f"resume.ckpt-{step}", kept=False)

    def on_epoch_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        options, epoch = trainer.options, trainer.progress.epoch
        due = options.checkpoint_policy == "Always" and epoch % options.checkpoint_every == 0
        if due or self.monitor.improved:
            self._save(trainer, f"model.ckpt-{epoch}", value=self.monitor.value, best=self.monitor.improved)

    def on_train_end(self, trainer: Trainer) -> None:
        progress = trainer.progress
        if progress.step != self.saved_step:
            self._save(trainer, f"resume.ckpt-{progress.step}", kept=False)
        best = trainer.run.best() if trainer.run.checkpoints else None
        if best is not None and best.best and best.step != progress.step:
            restore_checkpoint(trainer.run.folder / best.name, {"model": trainer.learner.model})

    def _save(self, trainer: Trainer, name: str, **entry: Any) -> None:
        trainer.save(name, **entry)
        self.saved_at, self.saved_step = trainer.elapsed, trainer.progress.step


class LossTable(Callback):
    """`losses.csv` in the run folder: one row per step, and the epoch's values at its end."""

    columns = ("step", "epoch", "loss", "accuracy", "bits", "gradient_norm", "seconds", "val_loss", "val_accuracy")

    def on_train_begin(self, trainer: Trainer) -> None:
        path = trainer.run.folder / LOSSES
        rows = [",".join(self.columns)]
        if path.exists():  # steps after the checkpoint that training resumes from are done again
            with open(path, encoding="utf-8", newline="") as old:  # which `read_history` has found good
                rows += [",".join(row) for row in list(csv.reader(old))[1:] if self._stands(row, trainer)]
        write_text(path, "\n".join(rows) + "\n")
        # By lines, so that no row before a checkpoint is lost in a kill after it.
        self.file: TextIO = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed at the end)

    def on_step_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        bits = results["loss"] / LN2
        self._row(trainer, trainer.progress.epoch + 1, {**results, "bits": bits})

    def on_broken_step(self, trainer: Trainer, results: dict[str, float]) -> None:
        self._row(trainer, trainer.progress.epoch + 1, results, trainer.progress.step + 1)

    def on_epoch_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        self._row(trainer, trainer.progress.epoch, results)

    def on_train_end(self, trainer: Trainer) -> None:
        self.file.close()

    def _stands(self, row: list[str], trainer: Trainer) -> bool:
        """Whether an old row is whole and of what was done before the checkpoint; an epoch's row has no gradient."""
        if len(row) != len(self.columns) or int(row[0]) > trainer.progress.step:
            return False
        return bool(row[self.columns.index("gradient_norm")]) or int(row[1]) <= trainer.progress.epoch

    def _row(self, trainer: Trainer, epoch: int, values: dict[str, float], step: int | None = None) -> None:
        model = trainer.learner.model
        unknown = {"bits"} if model.unit != "bits" else set()
        unknown |= set() if model.has_accuracy else {"accuracy", "val_accuracy"}
        known = values.keys() - unknown
        cells = [f"{values[name]:.9g}" if name in known else "" for name in self.columns[2:]]
        self.file.write(",".join([str(step or trainer.progress.step), str(epoch), *cells]) + "\n")


class LossWatch(Callback):
    """Warns early, and once, where the losses show that training goes wrong, and says in the end what was learned.

    baselines: what simple models reach on held-out sound, in nats per element, the simplest first; kept as bars.json.
    steered: the network follows controls, and how well is not to be seen from the losses.
    """

    def __init__(self, baselines: Mapping[str, float], say: Print, *, steered: bool = False):
        self.baselines, self.say, self.steered = dict(baselines), say, steered
        self.epochs: list[Epoch] = []
        self.told: set[str] = set()

    def state(self) -> dict[str, Any]:
        return {"epochs": [vars(epoch) for epoch in self.epochs], "told": sorted(self.told)}

    def restore(self, state: dict[str, Any]) -> None:
        self.epochs = [Epoch(**epoch) for epoch in state.get("epochs", [])]
        self.told = set(state.get("told", []))

    def on_train_begin(self, trainer: Trainer) -> None:
        if self.baselines:
            trainer.run.write(BASELINES, self.baselines)

    def on_epoch_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        unit = trainer.learner.model.unit
        epoch = Epoch(trainer.progress.epoch, results["loss"], results.get("val_loss"))
        self.epochs.append(epoch)
        epochs, baselines = self._scaled(unit)
        say_once(loss_issues(epochs, baselines, unit=unit), self.told, self.say)

    def on_train_end(self, trainer: Trainer) -> None:
        unit = trainer.learner.model.unit
        if found := verdict(*self._scaled(unit), unit):
            more = " How well it follows its controls: python -m tierwave evaluate RUN --controls."
            self.say(found + (more if self.steered else ""))

    def _scaled(self, unit: str) -> tuple[list[Epoch], dict[str, float]]:
        """Epochs and baselines in `unit`."""
        baselines = {name: in_unit(bar, unit) for name, bar in self.baselines.items()}
        return [each.scaled(unit) for each in self.epochs], baselines


class StatisticsLines(Callback):
    """PRiSM's statistics line per step, and a summary per epoch with bits and the time left.

    rewrite: one line per epoch that is written over; else a line per step. say_line(text, rewrite) prints.
    """

    def __init__(self, say_line: SayLine, *, rewrite: bool):
        self.say_line, self.rewrite = say_line, rewrite
        self.pace = 0.0

    def on_train_begin(self, trainer: Trainer) -> None:
        self.started, self.first_step = time.monotonic(), trainer.progress.step

    def on_step_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        progress, options = trainer.progress, trainer.options
        line = (
            f"Epoch: {progress.epoch + 1}/{options.num_epochs}, Step: {progress.step_in_epoch}/{trainer.data.steps}, "
            f"{self._told(trainer, results)}, ({results['seconds']:.4f} sec/step)"
        )
        self.say_line(line, self.rewrite)

    def on_validation_step(self, done: int, total: int) -> None:
        self.say_line(f"Validating: {done}/{total}", True)

    def on_epoch_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        progress, options = trainer.progress, trainer.options
        parts = [f"Epoch: {progress.epoch}/{options.num_epochs}, Total Steps: {progress.step}"]
        parts.append(self._told(trainer, results))
        if "val_loss" in results:
            parts.append(self._told(trainer, results, "Val ", "val_"))
        unit = trainer.learner.model.unit
        if unit == "bits":
            bits = f"Bits: {results['bits']:.3f}"
            parts.append(bits + (f", Val Bits: {results['val_bits']:.3f}" if "val_bits" in results else ""))
        else:
            parts.append(f"in {unit} per value")
        parts.append(f"({results['seconds']:.1f} sec, {clock(self._left(trainer))} left)")
        self.say_line(", ".join(parts), False)

    @staticmethod
    def _told(trainer: Trainer, results: dict[str, float], name: str = "", key: str = "") -> str:
        loss = f"{name}Loss: {results[f'{key}loss']:.3f}"
        if not trainer.learner.model.has_accuracy:
            return loss
        return f"{loss}, {name}Accuracy: {100 * results[f'{key}accuracy']:.3f}"

    def _left(self, trainer: Trainer) -> float:
        """Seconds until training ends by epochs, steps or minutes, whichever is first."""
        progress, options = trainer.progress, trainer.options
        elapsed = time.monotonic() - self.started
        per_step = elapsed / max(1, progress.step - self.first_step)
        total = options.num_epochs * trainer.data.steps
        total = min(total, options.num_steps or total)
        left = per_step * max(0, total - progress.step)
        return left if options.max_minutes is None else min(left, max(0.0, 60.0 * options.max_minutes - elapsed))


def standard_callbacks(
    *,
    config_text: str,
    generation: Generation | None,
    say_line: SayLine,
    rewrite: bool,
    is_chief: bool = True,
    baselines: Mapping[str, float] = MappingProxyType({}),
    steered: bool = False,
    held_against: HeldAgainst | None = None,
    limits: Limits | None = None,
) -> list[Callback]:
    """All callbacks of train.py, in their order; of a worker that is not the chief those that decide, as it does.

    limits: what ends training, that of a whole command if None. baselines, steered: see `LossWatch`. held_against:
    what TensorBoard compares generated sounds with.
    """
    monitor = Monitor()
    limits = limits or Limits()
    callbacks: list[Callback] = [limits, LearningRateSchedule(limits), monitor]
    if not is_chief:
        return [*callbacks, CheckpointPolicy(monitor)]
    watch = LossWatch(baselines, lambda text: say_line(text, False), steered=steered)
    callbacks += [StatisticsLines(say_line, rewrite=rewrite), watch, LossTable(), CheckpointPolicy(monitor)]
    if generation is not None:
        callbacks.append(generation)
    callbacks.append(TensorBoard(config_text, generation, held_against))
    return callbacks


def generation_request(
    options: TrainingOptions,
    seed_audio: np.ndarray | None,
    controls: tuple[Controls, ...] = (),
    family_options: Mapping[str, Any] = MappingProxyType({}),
) -> Request:
    """What in-training generation asks for."""
    return Request(
        sequences=options.max_generate_per_epoch,
        seconds=options.output_file_dur,
        temperature=options.temperature,
        seed_audio=seed_audio,
        random_seed=options.random_seed,
        controls=controls,
        options=family_options,
    )
