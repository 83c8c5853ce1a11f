"""One trial of a search: a training session that reports its epochs and can be resumed at any step.

A trial's run lies under `trials/<number>/`; `trial.json` in it, or in each of its stages, holds the results of its
epochs. Beside the run `result.json` or `failure.json` says how the trial ended. Imports TensorFlow and Keras Tuner, so
it is itself imported late.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import tensorflow as tf
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.trial import Trial, TrialStatus

from tierwave.errors import RunError, UsageError
from tierwave.files.documents import sealed, unsealed, validated
from tierwave.files.writing import write_text
from tierwave.runs.folder import Run, only_training, runs_of
from tierwave.search.oracles import run_of, shown, values_of
from tierwave.search.plan import TRIALS, ChiefLost, Plan, Search, need_recordings
from tierwave.training.loop import Callback, Trainer
from tierwave.training.memory import TooLarge, memory_kills
from tierwave.training.plan import TrainingRequest
from tierwave.training.prepare import SPLIT_OPTIONS
from tierwave.training.session import train
from tierwave.training.step import LN2

MOST_KILLS = 3  # for want of memory at the same step, after which a trial is given up
PATIENCE_SECONDS = 2.0  # between two looks whether another process still trains a run
IDLE_SECONDS = 1.0  # between two requests of a worker for which there is no trial yet
Print = Callable[[str, bool], None]


class NotCompleted(keras_tuner.errors.FatalError):
    """A trial failed by `error`, or is given back if there is none. It leaves Keras Tuner's loop, which would print a
    traceback and could not tell the two apart."""

    def __init__(self, trial: Trial, error: Exception | None):
        super().__init__()
        self.trial, self.error = trial, error


class Watch(Callback):
    """Records what every epoch reached, and ends a trial when its time, or that of the search, is over.

    minutes: of this stage, from its first step on and over restarts; search_is_over: asked after each step.
    """

    def __init__(self, *, minutes: float | None = None, search_is_over: Callable[[], bool] = lambda: False):
        self.minutes, self.search_is_over = minutes, search_is_over
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
            trainer.stop("it had stopped early before")  # but was killed before that was noted
        self._check_time(trainer)

    def on_step_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        self._check_time(trainer)

    def on_epoch_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        self.history.append({"epoch": trainer.progress.epoch, **self._losses(trainer, results)})
        self.elements = trainer.progress.elements

    def on_train_end(self, trainer: Trainer) -> None:
        self.given_back = not trainer.finished
        if self.given_back:
            return
        history, elements, progress = list(self.history), self.elements, trainer.progress
        if progress.step_in_epoch:  # ended in mid-epoch, where nothing has measured it yet
            history.append({"epoch": progress.epoch + 1, **self._losses(trainer, self._measured(trainer))})
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

    def _check_time(self, trainer: Trainer) -> None:
        if self.search_is_over():
            trainer.stop("the time of the search is over", finished=False)
        elif self.minutes is not None and self._seconds() >= 60.0 * self.minutes:
            trainer.stop(f"the time of the trial ({self.minutes:g} minutes) is over")

    @staticmethod
    def _measured(trainer: Trainer) -> dict[str, float]:
        progress = trainer.progress
        elements = max(progress.elements, 1.0)
        found = {"loss": progress.nats / elements, "accuracy": progress.correct / elements}
        if trainer.valid is not None:
            nats, correct, elements = map(float, trainer.learner.evaluator.measure(trainer.valid).sum(axis=0))
            found.update(val_loss=nats / elements, val_accuracy=correct / elements)
        return found

    @staticmethod
    def _losses(trainer: Trainer, results: Mapping[str, float]) -> dict[str, float]:
        """Losses, bits and accuracies, as far as the model has them."""
        model = trainer.learner.model
        values = {name: results[name] for name in ("loss", "val_loss") if name in results}
        if model.unit == "bits":
            values |= {name.replace("loss", "bits"): value / LN2 for name, value in values.items()}
        if model.has_accuracy:
            values |= {name: results[name] for name in ("accuracy", "val_accuracy") if name in results}
        return values


class TrialTuner(BaseTuner):
    """Keras Tuner's loop: requests trials from the oracle, or from the chief's, trains them and reports how they ended.

    say_line(text, rewrite) prints what a session prints; deadline: of the search, on the monotonic clock; say(text)
    prints what a chief's oracle prints elsewhere; check_chief: called before requests and reports, raises ChiefLost.
    current: number of the trial that runs; signal: the one that ended a trial.
    """

    def __init__(
        self,
        oracle: keras_tuner.Oracle,
        plan: Plan,
        search: Search,
        say_line: Print,
        *,
        deadline: float = math.inf,
        say: Callable[[str], None] = lambda text: None,
        check_chief: Callable[[], None] = lambda: None,
    ):
        self.plan, self.search_request, self.say_line, self.deadline = plan, search, say_line, deadline
        self.say, self.check_chief = say, check_chief
        self.trials_folder = search.folder / TRIALS
        self.signal: int | None = None
        self.current: str | None = None
        self.idle = False
        super().__init__(oracle, directory=str(search.folder), project_name="keras_tuner")

    def run(self) -> int | None:
        """Search until there are no more trials or a signal comes; the signal."""
        tf.get_logger().setLevel("ERROR")  # every trial has its own network, so functions are traced again and again
        while self.signal is None:
            try:
                self.search()
                break
            except NotCompleted as ended:
                self._report(ended.trial, ended.error)
            except tf.errors.OpError as error:
                raise RunError(f"{self.project_dir} could not be written: {_first_line(error)}") from None
        return self.signal

    def save(self) -> None:
        """Have the oracle save its state; a tuner has none, and a kill could damage a file of it."""
        self.oracle.save()

    def pre_create_trial(self) -> None:
        """Before each request."""
        if self.idle:
            time.sleep(IDLE_SECONDS)
        self.idle = True
        self.check_chief()

    def on_trial_begin(self, trial: Trial) -> None:
        """A trial was received."""
        self.idle = False
        self.current = trial.trial_id
        self.say(f"Trial {trial.trial_id}: {shown(self._values_of(trial))}")

    def run_trial(self, trial: Trial) -> dict[str, float]:
        """Train a trial; its metrics, see `metrics_of`."""
        try:
            metrics = self._train(trial)
            self.check_chief()
        except Exception as error:
            raise NotCompleted(trial, error) from error
        if metrics is None:
            raise NotCompleted(trial, None)
        return metrics

    def on_trial_end(self, trial: Trial) -> None:
        """Report a trial that was trained to its end."""
        if trial.status != TrialStatus.COMPLETED:
            reason = (trial.message or "").strip().splitlines()[-1:]
            raise RunError(f"trial {trial.trial_id} ended, but could not be reported: {''.join(reason)}")
        self._end(trial, "ended")

    def _report(self, trial: Trial, error: Exception | None) -> None:
        """Report a trial as FAILED, as INVALID if it cannot fit into memory, as RUNNING to give it back."""
        if error is None:
            self._end(trial, "is given back")
            return
        if isinstance(error, ChiefLost) or "could not be written" in str(error):
            raise error  # the chief or the machine failed, not the trial
        if not isinstance(error, (UsageError, RunError, MemoryError, tf.errors.OpError)):
            raise error
        too_large = isinstance(error, TooLarge)
        trial.status = TrialStatus.INVALID if too_large else TrialStatus.FAILED
        trial.message = _first_line(error)
        # For a chief that shares the folder: Keras Tuner's protocol does not carry the message.
        _write(self.trials_folder / trial.trial_id / "failure.json", {"reason": trial.message})
        self._end(trial, f"{'is skipped' if too_large else 'failed'}: {trial.message}")

    def _end(self, trial: Trial, ending: str) -> None:
        self.current = None
        self.check_chief()
        self.oracle.end_trial(trial)
        self.say(f"Trial {trial.trial_id} {ending}")

    def _values_of(self, trial: Trial) -> dict[str, Any]:
        return values_of(self.plan.space, trial.hyperparameters.values)

    def _train(self, trial: Trial) -> dict[str, float] | None:
        """Train a trial, resumed if it was begun; None if a signal or the end of the search's time ended it.

        Raises UsageError and RunError with the reason of a failure.
        """
        folder, values, root = self.trials_folder / trial.trial_id, self._values_of(trial), run_of(trial)
        stored = folder / "result.json"
        if stored.exists():  # it was killed before it could report
            return read_result(stored)
        self._wait_for(root)
        attempts = folder / "attempts.json"
        runs = runs_of(self.trials_folder / root)
        count_attempt(attempts, sum(stage.latest().step for run in runs for stage in run.stages))
        watches: list[Watch] = []
        try:
            epochs = trial.hyperparameters.values.get("tuner/epochs")
            outcome = train(self._request(root, values, epochs, watches), dict, self.say_line)
            self.signal = outcome.signal
            if outcome.signal is not None or any(watch.given_back for watch in watches):
                return None
            metrics = metrics_of(outcome.run, self.plan, values)
            _write(stored, {"metrics": metrics})
            return metrics
        finally:
            attempts.unlink(missing_ok=True)  # it was not killed
            keras.utils.clear_session()

    def _request(
        self, root: str, values: Mapping[str, Any], epochs: int | None, watches: list[Watch]
    ) -> TrainingRequest:
        space, search = self.plan.space, self.search_request
        stages = space.stages(values)
        typed = dict(space.typed) | ({} if epochs is None else {"num_epochs": epochs})
        if runs_of(self.trials_folder / root):  # its split is stored already
            typed = {name: value for name, value in typed.items() if name not in SPLIT_OPTIONS}

        def watch(stage: str) -> Sequence[Callback]:
            minutes = self.plan.max_minutes_per_trial
            minutes = None if minutes is None else minutes / len(stages)
            watches.append(Watch(minutes=minutes, search_is_over=lambda: time.monotonic() >= self.deadline))
            return watches[-1:]

        return TrainingRequest(
            identity=root,
            data_dir=need_recordings(search),
            document=space.config_document(values),
            source=space.source,
            typed=typed,
            logdir_root=self.trials_folder,
            output_dir=self.trials_folder,
            rewrite=True,
            stages=space.stage and [space.stage],
            param_dir=search.param_dir,
            params=search.params,
            watch=watch,
            guard=self.plan.guard,
        )

    def _wait_for(self, root: str) -> None:
        """Wait while another process trains this run: one that was given up, but is alive."""
        waiting = False
        while True:
            try:
                with only_training(self.trials_folder, root):
                    return
            except RunError as error:
                if not waiting:
                    self.say_line(f"Waiting: {error}", False)
                waiting = True
                time.sleep(PATIENCE_SECONDS)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


# What a trial writes ---------------------------------------------------------------------------------------------


def _write(path: Path, document: dict[str, Any]) -> None:
    write_text(path, json.dumps(sealed(document)) + "\n")


def read_result(path: Path) -> dict[str, float]:
    """The metrics in `result.json`. Raises RunError if the file is damaged."""
    try:
        metrics: dict[str, float] = validated(dict[str, float], unsealed(path.read_bytes())["metrics"])
    except (ValueError, KeyError) as error:
        raise RunError(f"{path} is damaged ({error}): delete it, and the trial is trained to its end again") from None
    return metrics


def metrics_of(run: Run, plan: Plan, values: Mapping[str, Any]) -> dict[str, float]:
    """The objective, the losses of the best epoch (of several stages: their means, every predicted value counting the
    same), and epochs, steps, minutes and parameters of a trial that has ended."""
    family, config = plan.space.check(values)
    several, stages = len(family.stages(config)) > 1, plan.space.stages(values)
    parts = [run.stage(stage if several else None).read("trial.json") for stage in stages]
    best = [_best(stage, part["history"], plan) for stage, part in zip(stages, parts, strict=True)]
    weights = [max(part["elements"], 1.0) for part in parts]
    metrics = {
        name: sum(weight * each[name] for weight, each in zip(weights, best, strict=True)) / sum(weights)
        for name in best[0]
        if name != "epoch" and all(name in each for each in best)
    }
    metrics[plan.objective] = metrics[plan.measure]
    return metrics | {name: float(sum(part[name] for part in parts)) for name in _COUNTED}


_COUNTED = ("epochs", "steps", "minutes", "parameters")


def _best(stage: str, history: Sequence[Mapping[str, float]], plan: Plan) -> Mapping[str, float]:
    if not history:
        raise RunError(f"{stage} was not trained for a single step: give the trials more time or steps")
    name = plan.measure
    if name not in history[0]:
        loss = name.replace("bits", "loss").replace("accuracy", "loss")
        raise UsageError(f"--objective {name}: {stage} has no {name.removeprefix('val_')}; take {loss}")
    finite = [row for row in history if math.isfinite(row[name])]
    if not finite:
        raise RunError(f"{name} of {stage} was never a finite number: the learning rate may be too high")
    return min(finite, key=lambda row: plan.sign * row[name])


def count_attempt(path: Path, step: int) -> None:
    """Note in `path` that a trial is trained from `step` on.

    Raises RunError if it makes no progress because the system kills it for want of memory again and again; kills by a
    person, or with the machine, do not count.
    """
    try:
        before = unsealed(path.read_bytes())
    except (FileNotFoundError, ValueError):
        before = {}
    kills = before.get("kills", 0) if before.get("step") == step else 0
    earlier, system = before.get("system"), memory_kills()
    if isinstance(earlier, list) and len(earlier) == 2 and system is not None:
        kills += earlier[0] == system[0] and earlier[1] < system[1]  # in the same boot, more kills than before
    if kills >= MOST_KILLS:
        path.unlink()
        raise RunError(
            f"its process was killed {kills} times at step {step} when memory ran out: search smaller networks or "
            "batches"
        )
    _write(path, {"step": step, "kills": kills, "system": system})
