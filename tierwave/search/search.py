"""Searching for a good config: from a person's request to trials, one after the other or by several workers.

    <logdir_root>/<id>/
        search.json                the whole search: what it is, its trials, the oracle; written whole or not at all
        trials/<number>/           a training session per trial, with all that train.py keeps
        best.config.json           the best config, for train.py
        trials.csv trials.png      all trials, as a table and as a picture
        tensorboard/               the same for TensorBoard's HParams

Keras Tuner says what is tried next (`oracles`), `trials` trains it, `findings` tells what came out; with several
processes the one that says and those that train are different ones (`chief`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tierwave.audio.arrays import find_rows
from tierwave.audio.finding import find_audio
from tierwave.config import TrainingOptions, difference, resolve_training
from tierwave.errors import RunError, UsageError
from tierwave.files.documents import unsealed
from tierwave.files.folders import refuse_name
from tierwave.files.names import name_within
from tierwave.runs.folder import only_training
from tierwave.search.results import Findings, Tried
from tierwave.search.space import EQUAL_TIME, OBJECTIVES, Axis, Choices, Range, Space

SEARCH_FILE, TRIALS = "search.json", "trials"
TYPES = ("bayesian", "random_search", "hyperband")
DEFAULT_EPOCHS, DEFAULT_TRIALS = 30, 10
MOST_EPOCHS = 10_000  # of a trial that is ended by the clock
IDLE_SECONDS = 1.0  # between a worker's questions whether there is something to do

Print = Callable[[str, bool], None]
Start = Callable[[], None]


@dataclass(frozen=True)
class Search:
    """What a person asked tune.py for.

    identity: names the folder; document: the config in which the keys of `axes` are set, `overrides` already in it;
    source: what to call it. kind: one of TYPES; objective: of OBJECTIVES. num_epochs: of a trial, at most; max_trials:
    None takes Hyperband's own number. max_minutes: of this call; minutes_per_trial: of a trial. stage: the only one to
    train and judge by, None: all. data_dir may be None for a chief.
    """

    identity: str
    document: dict[str, Any]
    source: str
    axes: Sequence[Axis]
    data_dir: Path | None
    logdir_root: Path = Path("logdir")
    kind: str = "bayesian"
    objective: str = "val_loss"
    num_epochs: int | None = None
    max_trials: int | None = None
    early_stopping_patience: int | None = 3
    val_frac: float = 0.1
    random_seed: int = 0
    max_minutes: float | None = None
    minutes_per_trial: float | None = None
    stage: str | None = None
    resume: bool = True
    param_dir: Path | None = None
    params: Path | None = None

    @property
    def folder(self) -> Path:
        """Where everything lies."""
        return self.logdir_root / self.identity


@dataclass(frozen=True)
class Plan:
    """What makes trials comparable: the same for every process of a search, and whenever it goes on."""

    space: Space
    kind: str
    objective: str
    epochs: int
    minutes: float | None
    guard: int
    seed: int
    corpus: str | None

    def document(self) -> dict[str, Any]:
        """As JSON."""
        space = self.space
        return {
            "config": space.document,
            "search": {axis.key: axis.document() for axis in space.axes},
            "training": dict(space.typed),
            "stage": space.stage,
            "type": self.kind,
            "objective": self.objective,
            "num_epochs": self.epochs,
            "max_minutes_per_trial": self.minutes,
            "guard": self.guard,
            "random_seed": self.seed,
            "recordings": self.corpus,
        }

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> Plan:
        """What `document` made. Raises RunError for what no chief of this version has sent."""
        try:
            axes: list[Axis] = []
            for axis in document["search"].values():
                if "values" in axis:
                    axes.append(Choices(axis["key"], tuple(axis["values"])))
                else:
                    axes.append(Range(**axis))
            space = Space(
                document["config"], "the chief's config", tuple(axes), document["training"], document["stage"]
            )
            return Plan(
                space,
                document["type"],
                document["objective"],
                document["num_epochs"],
                document["max_minutes_per_trial"],
                document["guard"],
                document["random_seed"],
                document["recordings"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise RunError(
                f"the chief's plan cannot be read ({error!r}): install the same version of Tierwave on all machines"
            ) from None


# Searching -------------------------------------------------------------------------------------------------------


def tune(
    search: Search, say_line: Print, start_tensorflow: Start = lambda: None, *, verbose: bool = False
) -> int | None:
    """Search in this process, going on with what there is of it; the signal that ended it, if one did.

    say_line(text, rewrite) prints; verbose: also what every trial prints. Raises UsageError and RunError with what to
    do, also where no trial ended well.
    """
    need_keras_tuner()
    if search.data_dir is None:
        raise UsageError("--data_dir is missing: name a folder of recordings")
    plan = plan_of(search)
    with only_training(search.logdir_root, search.identity):
        make_room(search, say_line)
        start_tensorflow()
        oracle = begin(search, plan, say_line, silence=math.inf, shared=False)
        from tierwave.search.trial import Runner

        runner = Runner(
            plan.space,
            (plan.objective, OBJECTIVES[plan.objective]),
            search.data_dir,
            search.folder / TRIALS,
            trial_lines(say_line, verbose),
            guard=plan.guard,
            minutes=plan.minutes,
            deadline=oracle.deadline,
            param_dir=search.param_dir,
            params=search.params,
        )
        work_off(oracle, runner, "tuner0")
        report(oracle, plan, search, say_line)
    return runner.signal


def work_off(
    oracle: Any,
    runner: Any,
    tuner_id: str,
    *,
    begun: Callable[[str | None], None] = lambda number: None,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Train what the oracle, or the chief's, says until there is no more or a signal comes.

    begun(number) is called when a trial begins, and with None when it has ended; say(text) prints what the oracle of a
    chief prints elsewhere.
    """
    import tensorflow as tf
    from keras_tuner.engine.trial import Trial, TrialStatus

    from tierwave.search.oracles import GIVEN_BACK, REASON, SKIPPED, shown, values_of
    from tierwave.training.memory import TooLarge

    tf.get_logger().setLevel("ERROR")  # of functions that are traced again: every trial has a network of its own
    while runner.signal is None:
        trial = oracle.create_trial(tuner_id)
        if trial.status == TrialStatus.STOPPED:
            return
        if trial.status == TrialStatus.IDLE:
            time.sleep(IDLE_SECONDS)
            continue
        trial = Trial.from_state(trial.get_state())  # the oracle's own stays as it is
        told = trial.hyperparameters.values
        values = values_of(runner.space, told)
        begun(trial.trial_id)
        say(f"Trial {trial.trial_id}: {shown(values)}")
        try:
            result = runner.run(trial.trial_id, values, _root_of(oracle, trial), told.get("tuner/epochs"))
        except (UsageError, RunError, MemoryError, tf.errors.OpError) as error:
            if "could not be written" in str(error):  # the machine failed, not the trial
                raise
            trial.status = TrialStatus.FAILED
            told[REASON] = (str(error) or type(error).__name__).splitlines()[0]
            if isinstance(error, TooLarge):
                told[SKIPPED] = True
            say(f"Trial {trial.trial_id} {'is skipped' if SKIPPED in told else 'failed'}: {told[REASON]}")
        else:
            trial.status = TrialStatus.INVALID if result is None else TrialStatus.COMPLETED
            if result is None:
                told[GIVEN_BACK] = True
            else:
                oracle.update_trial(trial.trial_id, result.metrics, step=result.epoch)
                say(f"Trial {trial.trial_id} ended: {runner.objective[0]} {result.metrics[runner.objective[0]]:.5g}")
        oracle.end_trial(trial)
        begun(None)


def _root_of(oracle: Any, trial: Any) -> str:
    """The trial in whose run this one goes on: Hyperband gives a trial that goes on a number of its own."""
    number, values = trial.trial_id, trial.hyperparameters.values
    while values.get("tuner/trial_id"):
        number = values["tuner/trial_id"]
        values = oracle.get_trial(number).hyperparameters.values
    return number


# Preparing -------------------------------------------------------------------------------------------------------


def plan_of(search: Search) -> Plan:
    """The search made definite. Raises UsageError for all that can be seen to be wrong before anything is trained."""
    refuse_name("--id", search.identity, search.logdir_root)
    minutes, epochs = search.minutes_per_trial, search.num_epochs or DEFAULT_EPOCHS
    if search.objective == EQUAL_TIME:
        if search.kind == "hyperband":
            raise UsageError(
                f"--objective {EQUAL_TIME} and --type hyperband exclude each other, since Hyperband compares after "
                "equal epochs: take random_search or bayesian"
            )
        if minutes is None and search.max_minutes is None:
            raise UsageError(f"--objective {EQUAL_TIME} needs to know the time: add --max_minutes_per_trial")
        if minutes is None and search.max_minutes is not None:
            minutes = search.max_minutes / (search.max_trials or DEFAULT_TRIALS)
        epochs = search.num_epochs or MOST_EPOCHS
    if search.val_frac == 0 and search.objective.startswith("val_"):
        raise UsageError(
            f"--objective {search.objective} needs held-out recordings, and --val_frac is 0: raise it, or take "
            f"--objective {'loss' if search.objective == EQUAL_TIME else search.objective.removeprefix('val_')}"
        )
    monitor = {"val_bits": "val_loss", "bits": "loss", EQUAL_TIME: "val_loss"}.get(search.objective, search.objective)
    typed = {
        "num_epochs": epochs,
        "early_stopping_patience": search.early_stopping_patience,
        "val_frac": search.val_frac,
        "monitor": monitor,
        "random_seed": search.random_seed,
        "generate": False,
        "max_minutes": None,
        "max_checkpoints": 1,
    }
    corpus = None if search.data_dir is None else digest_of(search.data_dir)
    space = Space.of(search.document, search.source, search.axes, typed, search.stage)
    return Plan(space, search.kind, search.objective, epochs, minutes, space.guard(), search.random_seed, corpus)


def digest_of(data_dir: Path) -> str:
    """Which recordings lie in a folder: a digest of their names and sizes. Raises UsageError where there are none."""
    if not data_dir.is_dir():
        raise UsageError(f"--data_dir {data_dir} is no folder: name a folder of recordings")
    found = [*find_audio([data_dir]), *dict.fromkeys(row.path for row in find_rows(data_dir)[0])]
    if not found:
        raise UsageError(f"--data_dir {data_dir} holds no recordings: name a folder of wav, flac, mp3 or the like")
    digest = hashlib.blake2b(digest_size=8)
    for path in found:
        digest.update(f"{name_within(path, data_dir)} {path.stat().st_size}\n".encode())
    return f"{len(found)} recordings {digest.hexdigest()}"


def need_keras_tuner() -> None:
    """Raises UsageError that says how to install it, where it is missing."""
    if importlib.util.find_spec("keras_tuner") is None:
        raise UsageError("searching needs Keras Tuner: pip install 'tierwave[tune]'")


def make_room(search: Search, say_line: Print) -> None:
    """Put an earlier search of this id aside where it shall not go on."""
    if search.resume or not (search.folder / SEARCH_FILE).exists():
        return
    aside = search.folder / f"before_{datetime.now():%d.%m.%Y_%H.%M.%S}"
    aside.mkdir(exist_ok=True)
    for path in list(search.folder.iterdir()):
        if path != aside and not path.name.startswith((".lock", "before_")):
            shutil.move(str(path), str(aside / path.name))
    say_line(f"The earlier search {search.identity} is kept in {aside}.", False)


def begin(search: Search, plan: Plan, say_line: Print, *, silence: float, shared: bool) -> Any:
    """The oracle of a search, as it stood if it was begun before; arguments as of `oracles.Careful.begin`.

    Raises UsageError where what was begun is another search, RunError where its file is damaged.
    """
    from tierwave.search.oracles import make_oracle

    path, document = search.folder / SEARCH_FILE, plan.document()
    _refuse_another(path, document, search)
    trials = search.max_trials
    if trials is None and search.kind != "hyperband":
        trials = DEFAULT_TRIALS
    objective = (plan.objective, OBJECTIVES[plan.objective])
    oracle = make_oracle(
        search.kind, plan.space, objective, max_trials=trials, max_epochs=plan.epochs, seed=search.random_seed
    )
    oracle.begin(plan.space, path, document, lambda text: say_line(text, False), silence=silence, shared=shared)
    if search.max_minutes is not None:
        oracle.deadline = time.monotonic() + 60.0 * search.max_minutes
    if path.exists():
        ended = sum(trial.status in ("COMPLETED", "FAILED") for trial in oracle.trials.values()) - len(oracle.skipped)
        say_line(f"Going on with {path}: {ended} trials have ended.", False)
    else:
        oracle.save()
    for remark in plan.space.remarks():
        say_line(remark, False)
    if search.kind == "hyperband" and trials is None:
        most, epochs = oracle.plan_of_trials
        say_line(f"Hyperband: up to {most} trials of 1 to {plan.epochs} epochs, {epochs} epochs in all.", False)
    return oracle


def _refuse_another(path: Path, document: dict[str, Any], search: Search) -> None:
    if not path.exists():
        return
    try:
        stored = unsealed(path.read_bytes())["plan"]
        if not isinstance(stored, dict):
            raise ValueError("plan: it is no object")
    except (ValueError, KeyError) as error:
        raise RunError(
            f"{path} is damaged ({error}): its trials are still there, but a search has to start over, with another "
            "--id or --resume False"
        ) from None
    now = json.loads(json.dumps(document))
    if None in (stored.get("recordings"), now["recordings"]):  # a chief without recordings of its own
        stored["recordings"] = now["recordings"]
    changes = difference(stored, now)
    if changes:
        raise UsageError(
            f"the search {search.folder} was begun as another one ({'; '.join(changes)}): give this one another --id, "
            "or start over with --resume False"
        )


def trial_lines(say_line: Print, verbose: bool) -> Print:
    """What of a trial's lines is printed: how far it is and those of its epochs, or all of them. What is said of the
    recordings, and every warning, is printed once: most of it is the same for all trials."""
    told: set[str] = set()

    def say(text: str, rewrite: bool) -> None:
        if not rewrite and text.startswith(("Corpus:", "Warning:")):
            lines = [line for line in text.split("\n") if line not in told]
            told.update(lines)
            if lines:
                say_line("\n".join(f"  {line}" for line in lines), False)
        elif verbose or rewrite or text.startswith(("Epoch:", "Going on", "Waiting")):
            say_line(f"  {text}", rewrite)

    return say


# Telling ---------------------------------------------------------------------------------------------------------


def findings_of(oracle: Any, plan: Plan) -> Findings:
    """What an oracle knows of its trials."""
    from tierwave.search.oracles import values_of

    tried = []
    for trial in oracle.trials.values():
        ended, failed = trial.status == "COMPLETED", trial.status == "FAILED"
        unhappy = "skipped" if trial.trial_id in oracle.skipped else "failed"
        metrics = {name: trial.metrics.get_last_value(name) for name in trial.metrics.metrics}
        tried.append(
            Tried(
                trial.trial_id,
                "ended" if ended else unhappy if failed else "unfinished",
                values_of(plan.space, trial.hyperparameters.values),
                trial.score if ended else None,
                metrics if ended else None,
                trial.message if failed else None,
            )
        )
    return Findings(plan.space, (plan.objective, OBJECTIVES[plan.objective]), tried)


def report(oracle: Any, plan: Plan, search: Search, say_line: Print) -> None:
    """Print the table and write all that was found.

    Raises RunError where every trial failed, or so many one after the other that the search was stopped.
    """
    findings = findings_of(oracle, plan)
    for line in findings.table():
        say_line(line, False)
    if oracle.refused:
        values, reason = next(iter(oracle.refused.items()))
        say_line(f"{len(oracle.refused)} impossible combinations were passed over, such as {values}: {reason}", False)
    best = findings.best
    written = findings.write(search.folder, None if best is None else best_config(plan, best))
    if best is not None:
        for path in written[1:]:
            say_line(f"Written: {path}", False)
        for text in [*plan.space.remarks(), *_what_comes_next(written[0], plan, search)]:
            say_line(text, False)
        say_line(f"The best config is {written[0]} (trial {best.number}, {plan.objective} {best.score:.5g})", False)
    failed = [trial for trial in findings.trials if trial.status == "failed"]
    unfinished = sum(trial.status == "unfinished" for trial in findings.trials)
    last = f"; the last one, {failed[-1].number}: {failed[-1].reason}" if failed else ""
    if oracle.too_many_failures:
        raise RunError(f"the search was stopped, since {oracle.closed}{last}")
    skipped = [trial for trial in findings.trials if trial.status == "skipped"]
    if best is None and (failed or not skipped) and not unfinished and oracle.closed is None:
        raise RunError(f"there is no best config, since all {len(failed)} trials failed{last}")
    if best is None and not failed and not unfinished and skipped:
        raise RunError(
            f"there is no best config, since none of {len(skipped)} networks fits into memory; the last one, "
            f"{skipped[-1].number}: {skipped[-1].reason}"
        )
    if unfinished or oracle.closed is not None:
        why = f", since {oracle.closed}" if oracle.closed is not None else ""
        say_line(f"The search stopped{why}; the same command goes on.", False)


def _what_comes_next(config: Path, plan: Plan, search: Search) -> list[str]:
    """How to train the best config, and when that will end."""
    training = resolve_training({}, json.loads(config.read_text(encoding="utf-8")), str(config))
    folders = {"data_dir": search.data_dir, "param_dir": search.param_dir, "params": search.params}
    flags = [f"--{name} {shlex.quote(str(path))}" for name, path in folders.items() if path is not None]
    command = f"python train.py --id {shlex.quote(f'{search.identity}_best')} {' '.join(flags)}"
    patience = training.early_stopping_patience
    ends = "" if patience is None else f", or until {training.monitor} has not improved for {patience}"
    trials = "were ended by the clock" if plan.objective == EQUAL_TIME else f"had {plan.epochs} at most"
    return [
        f"To train it: {command} --config_file {shlex.quote(str(config))}",
        f"  for {training.num_epochs} epochs{ends} (trials {trials}); --num_epochs and --max_minutes say otherwise",
    ]


def best_config(plan: Plan, best: Tried) -> dict[str, Any]:
    """The config of a trial as train.py takes it, held out and stopped as in the search."""
    document = plan.space.config_document(best.values)
    alike = ("early_stopping_patience", "val_frac", "random_seed")
    training = {
        name: value
        for name, value in document.get("training", {}).items()
        if name not in alike and name not in ("num_val_batches", "num_steps")  # that ended the trials
    }
    for name in alike:
        if plan.space.typed[name] != TrainingOptions.model_fields[name].default:
            training[name] = plan.space.typed[name]
    return {**document, "training": training}
