"""One trial of a search: a training session of its own, watched, that can be taken up again anywhere.

A trial's run lies under `trials/<number>/`, with all that train.py keeps; in it, or in each of its stages,
`trial.json` says what its epochs reached. Imports TensorFlow, so it is itself imported late; knows no oracle.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from tierwave.errors import RunError, UsageError
from tierwave.files.documents import sealed, unsealed, validated
from tierwave.files.writing import write_text
from tierwave.runs.folder import Run, only_training, runs_of
from tierwave.search.space import EQUAL_TIME, Space
from tierwave.training.loop import Callback, Trainer
from tierwave.training.memory import memory_kills
from tierwave.training.plan import TrainingRequest
from tierwave.training.prepare import SPLIT_OPTIONS
from tierwave.training.session import train
from tierwave.training.step import LN2

MOST_KILLS = 3  # for want of memory at the same step, and a trial is given up
PATIENCE_SECONDS = 2.0  # between looks whether another process has let go of a trial
Print = Callable[[str, bool], None]


@dataclass(frozen=True)
class Result:
    """What a trial reached. metrics: the objective, the losses of the best epoch (of several stages: their means, every
    predicted value counting the same), and epochs, steps, minutes, parameters; epoch: the best one."""

    metrics: dict[str, float]
    epoch: int


def read_result(path: Path) -> Result:
    """What `Runner.run` has stored. Raises RunError where it is damaged."""
    try:
        result: Result = validated(Result, unsealed(path.read_bytes()))
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}): delete it, and the trial is trained to its end again") from None
    return result


class Watch(Callback):
    """Notes what every epoch reached, and ends a trial by its own time or when the search has no more.

    minutes: of this stage, from its first step on and over restarts; deadline: of the search, on the monotonic clock.
    """

    def __init__(self, *, minutes: float | None = None, deadline: float = math.inf):
        self.minutes, self.deadline = minutes, deadline
        self.history: list[dict[str, float]] = []
        self.spent = 0.0  # seconds before this call
        self.elements = 0.0  # predicted values in an epoch of training
        self.given_back = False

    def state(self) -> dict[str, Any]:
        return {"history": self.history, "spent": self._seconds(), "elements": self.elements}

    def restore(self, state: dict[str, Any]) -> None:
        self.history, self.spent = list(state.get("history", [])), state.get("spent", 0.0)
        self.elements = state.get("elements", 0.0)

    def on_train_begin(self, trainer: Trainer) -> None:
        self.begun = time.monotonic()
        patience = trainer.options.early_stopping_patience
        waits = [callback.wait for callback in trainer.callbacks if hasattr(callback, "wait")]
        if patience is not None and any(wait >= max(patience, 1) for wait in waits):
            trainer.stop("it had stopped early before")  # and was killed before that was noted
        self._look_at_the_clock(trainer)

    def on_step_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        self._look_at_the_clock(trainer)

    def on_epoch_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        self.history.append({"epoch": trainer.progress.epoch, **self._told(trainer, results)})
        self.elements = trainer.progress.elements

    def on_train_end(self, trainer: Trainer) -> None:
        self.given_back = not trainer.finished
        if self.given_back:
            return
        history, elements, progress = list(self.history), self.elements, trainer.progress
        if progress.step_in_epoch:  # ended in mid-epoch, where nothing has measured it yet
            history.append({"epoch": progress.epoch + 1, **self._told(trainer, self._measured(trainer))})
            elements = max(elements, progress.elements * trainer.data.steps / progress.step_in_epoch)
        document = {
            "history": history,
            "elements": elements,
            "epochs": progress.epoch,
            "steps": progress.step,
            "minutes": self._seconds() / 60.0,
            "parameters": trainer.learner.model.count_params(),
            "reason": trainer.stop_reason,
        }
        trainer.run.write("trial.json", document)

    def _seconds(self) -> float:
        return self.spent + time.monotonic() - self.begun

    def _look_at_the_clock(self, trainer: Trainer) -> None:
        if time.monotonic() >= self.deadline:
            trainer.stop("the time of the search is over", finished=False)
        elif self.minutes is not None and self._seconds() >= 60.0 * self.minutes:
            trainer.stop(f"the time of the trial ({self.minutes:g} minutes) is over")

    @staticmethod
    def _measured(trainer: Trainer) -> dict[str, float]:
        progress = trainer.progress
        found = {"loss": progress.nats, "accuracy": progress.correct}
        found = {name: value / max(progress.elements, 1.0) for name, value in found.items()}
        if trainer.valid is not None:
            nats, correct, elements = map(float, trainer.learner.evaluator.measure(trainer.valid).sum(axis=0))
            found.update(val_loss=nats / elements, val_accuracy=correct / elements)
        return found

    @staticmethod
    def _told(trainer: Trainer, results: Mapping[str, float]) -> dict[str, float]:
        """Losses, bits and accuracies, as far as the model has them."""
        model = trainer.learner.model
        told = {name: results[name] for name in ("loss", "val_loss") if name in results}
        if model.unit == "bits":
            told.update({name.replace("loss", "bits"): value / LN2 for name, value in list(told.items())})
        if model.has_accuracy:
            told.update({name: results[name] for name in ("accuracy", "val_accuracy") if name in results})
        return told


@dataclass
class Runner:
    """Runs trials, one at a time, below `folder`.

    objective: what is reported, by name, and "min" or "max"; minutes: of every trial, None: no limit; deadline: of the
    search, on the monotonic clock. say_line(text, rewrite) prints what a session prints. signal: the one that ended a
    trial.
    """

    space: Space
    objective: tuple[str, str]
    data_dir: Path
    folder: Path
    say_line: Print
    guard: int = 0
    minutes: float | None = None
    deadline: float = math.inf
    param_dir: Path | None = None
    params: Path | None = None
    signal: int | None = None

    def run(
        self, number: str, values: Mapping[str, Any], root: str | None = None, epochs: int | None = None
    ) -> Result | None:
        """Train trial `number`, going on where it stood; None if it could not end: by a signal, or for want of time.

        root: the trial whose run it goes on with, None: its own; epochs: to train for in all, where the space does not
        say. Raises UsageError and RunError with the reason for which it failed.
        """
        folder = self.folder / number
        stored = folder / "result.json"
        if stored.exists():  # it had ended, and nobody was told
            return read_result(stored)
        self._wait_for(root or number)
        attempts = folder / "attempts.json"
        self._count(attempts, root or number)
        watches: list[Watch] = []
        try:
            outcome = train(self._session(root or number, values, epochs, watches), dict, self.say_line)
            self.signal = outcome.signal
            if outcome.signal is not None or any(watch.given_back for watch in watches):
                return None
            result = self._result(outcome.run, values)
            write_text(stored, json.dumps(sealed(vars(result))) + "\n")
            return result
        finally:
            attempts.unlink(missing_ok=True)  # not killed
            keras.utils.clear_session()

    def _session(
        self, root: str, values: Mapping[str, Any], epochs: int | None, watches: list[Watch]
    ) -> TrainingRequest:
        family, config = self.space.check(values)
        stages = family.stages(config) if self.space.stage is None else [self.space.stage]
        typed = dict(self.space.typed) | ({} if epochs is None else {"num_epochs": epochs})
        if runs_of(self.folder / root):  # what is held out stands there already
            typed = {name: value for name, value in typed.items() if name not in SPLIT_OPTIONS}

        def watch(stage: str) -> Sequence[Callback]:
            minutes = None if self.minutes is None else self.minutes / len(stages)
            watches.append(Watch(minutes=minutes, deadline=self.deadline))
            return watches[-1:]

        return TrainingRequest(
            identity=root,
            data_dir=self.data_dir,
            document=self.space.config_document(values),
            source=self.space.source,
            typed=typed,
            logdir_root=self.folder,
            output_dir=self.folder,
            rewrite=True,
            stages=self.space.stage and [self.space.stage],
            param_dir=self.param_dir,
            params=self.params,
            watch=watch,
            guard=self.guard,
        )

    def _result(self, run: Run, values: Mapping[str, Any]) -> Result:
        family, config = self.space.check(values)
        stages = family.stages(config)
        chosen = stages if self.space.stage is None else [self.space.stage]
        parts = [run.stage(stage if len(stages) > 1 else None).read("trial.json") for stage in chosen]
        best = [self._best(stage, part["history"]) for stage, part in zip(chosen, parts, strict=True)]
        weights = [max(part["elements"], 1.0) for part in parts]
        shared = [name for name in best[0] if name != "epoch" and all(name in each for each in best)]
        metrics = {
            name: sum(weight * each[name] for weight, each in zip(weights, best, strict=True)) / sum(weights)
            for name in shared
        }
        metrics[self.objective[0]] = metrics[self._measure]
        for name in ("epochs", "steps", "minutes", "parameters"):
            metrics[name] = float(sum(part[name] for part in parts))
        return Result(metrics, int(max(each["epoch"] for each in best)))

    @property
    def _measure(self) -> str:
        return "val_loss" if self.objective[0] == EQUAL_TIME else self.objective[0]

    def _best(self, stage: str, history: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
        if not history:
            raise RunError(f"{stage} was not trained for a single step: give the trials more time or steps")
        name = self._measure
        if name not in history[0]:
            loss = name.replace("bits", "loss").replace("accuracy", "loss")
            raise UsageError(f"--objective {name}: {stage} has no {name.removeprefix('val_')}; take {loss}")
        sign = -1.0 if self.objective[1] == "max" else 1.0
        finite = [row for row in history if math.isfinite(row[name])]
        if not finite:
            raise RunError(f"{name} of {stage} was never a finite number: the learning rate may be too high")
        return min(finite, key=lambda row: sign * row[name])

    def _wait_for(self, root: str) -> None:
        """Until no other process trains this run: one that was thought dead, and is not."""
        waiting = False
        while True:
            try:
                with only_training(self.folder, root):
                    return
            except RunError as error:
                if not waiting:
                    self.say_line(f"Waiting: {error}", False)
                waiting = True
                time.sleep(PATIENCE_SECONDS)

    def _count(self, path: Path, root: str) -> None:
        """Give a trial up during which the system runs out of memory and kills again and again, and which gets no
        further. Kills by a person, or with the machine, say nothing of the trial."""
        step = sum(stage.latest().step for run in runs_of(self.folder / root) for stage in run.stages)
        try:
            before = unsealed(path.read_bytes())
        except (FileNotFoundError, ValueError):
            before = {}
        kills = before.get("kills", 0) if before.get("step") == step else 0
        kills += _ran_out_of_memory(before.get("system"), system := memory_kills())
        if kills >= MOST_KILLS:
            path.unlink()
            raise RunError(
                f"its process was killed {kills} times at step {step} when memory ran out: search smaller networks or "
                "batches"
            )
        write_text(path, json.dumps(sealed({"step": step, "kills": kills, "system": system})) + "\n")


def _ran_out_of_memory(before: Any, now: list[Any] | None) -> bool:
    """Whether the system has killed between two times (as of `memory_kills`) of which it knows."""
    if not isinstance(before, list) or len(before) != 2 or now is None:
        return False
    return bool(before[0] == now[0] and before[1] < now[1])
