"""Searching for a good config: from what a person typed to trials, one after the other or by several workers.

    <logdir_root>/<id>/
        search.json                the search: its plan, its trials, the oracle's state; written whole or not at all
        trials/<number>/           a training session per trial, with all that train.py writes
        best.config.json           the best config, for train.py
        trials.csv trials.png      all trials, as a table and as a picture
        tensorboard/               the same for TensorBoard's HParams
        keras_tuner/               Keras Tuner's own files of the trials; nothing reads them

`oracles` decides what is tried next, `trial` trains it, `results` reports; with several processes (`distributed`) one
decides and the others train.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shlex
import shutil
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from tierwave.config import TrainingOptions, resolve_training
from tierwave.errors import RunError, UsageError
from tierwave.runs.folder import only_training
from tierwave.search.plan import DEFAULT_TRIALS, SEARCH_FILE, Plan, Search, need_recordings, plan_of, refuse_another
from tierwave.search.results import SearchResults, TrialResult
from tierwave.search.space import EQUAL_TIME

Print = Callable[[str, bool], None]
Start = Callable[[], None]


# Searching -------------------------------------------------------------------------------------------------------


def tune(
    search: Search, say_line: Print, start_tensorflow: Start = lambda: None, *, verbose: bool = False
) -> int | None:
    """Search in this process, or resume a search; the signal that ended it, if one did.

    say_line(text, rewrite) prints; verbose: also what every trial prints. Raises UsageError and RunError with what to
    do, also if no trial ended well.
    """
    need_keras_tuner()
    need_recordings(search)
    plan = plan_of(search)
    with only_training(search.logdir_root, search.id):
        make_room(search, say_line)
        start_tensorflow()
        from tierwave.search.trial import TrialTuner

        oracle = begin(search, plan, say_line)
        print_line = trial_lines(say_line, verbose)
        signal = TrialTuner(oracle, plan, search, print_line, deadline=oracle.deadline).run()
        report(oracle, plan, search, say_line)
    return signal


# Preparing -------------------------------------------------------------------------------------------------------


def need_keras_tuner() -> None:
    """Raises UsageError that says how to install it, where it is missing."""
    if importlib.util.find_spec("keras_tuner") is None:
        raise UsageError("searching needs Keras Tuner: pip install 'tierwave[tune]'")


def make_room(search: Search, say_line: Print) -> None:
    """Move an earlier search of this id aside unless it is resumed."""
    if search.resume or not (search.folder / SEARCH_FILE).exists():
        return
    aside = search.folder / f"before_{datetime.now():%d.%m.%Y_%H.%M.%S}"
    aside.mkdir(exist_ok=True)
    for path in list(search.folder.iterdir()):
        if path != aside and not path.name.startswith((".lock", "before_")):
            shutil.move(str(path), str(aside / path.name))
    say_line(f"The earlier search {search.id} is kept in {aside}.", False)


def begin(search: Search, plan: Plan, say_line: Print, *, silence: float = math.inf, shared: bool = False) -> Any:
    """The oracle of a search, which is resumed if it was begun; silence and shared: see `oracles.RandomSearch`.

    Raises UsageError if what was begun is another search, RunError if its file is damaged.
    """
    from tierwave.search.oracles import hyperband_size, make_oracle

    path = search.folder / SEARCH_FILE
    resumed = path.exists()
    if resumed:
        refuse_another(path, plan.document(), search)
    trials = search.max_trials
    if trials is None and search.type != "hyperband":
        trials = DEFAULT_TRIALS
    oracle = make_oracle(
        plan, path, lambda text: say_line(text, False), max_trials=trials, silence=silence, shared=shared
    )
    if search.max_minutes is not None:
        oracle.deadline = time.monotonic() + 60.0 * search.max_minutes
    if resumed:
        ended = sum(trial.status in ("COMPLETED", "FAILED") for trial in oracle.trials.values()) - len(oracle.skipped)
        say_line(f"Going on with {path}: {ended} trials have ended.", False)
    else:
        oracle.save()
        if oracle.fault is not None:
            raise oracle.fault
    for remark in plan.space.remarks():
        say_line(remark, False)
    if search.type == "hyperband" and trials is None:
        most, epochs = hyperband_size(plan.num_epochs)
        say_line(f"Hyperband: up to {most} trials of 1 to {plan.num_epochs} epochs, {epochs} epochs in all.", False)
    return oracle


def trial_lines(say_line: Print, verbose: bool) -> Print:
    """Prints of what a trial prints its progress and its epochs, or all. Remarks on the recordings, and every warning,
    are printed once, since most of them are the same for all trials."""
    said: set[str] = set()

    def say(text: str, rewrite: bool) -> None:
        if not rewrite and text.startswith(("Corpus:", "Warning:")):
            lines = [line for line in text.split("\n") if line not in said]
            said.update(lines)
            if lines:
                say_line("\n".join(f"  {line}" for line in lines), False)
        elif verbose or rewrite or text.startswith(("Epoch:", "Going on", "Waiting")):
            say_line(f"  {text}", rewrite)

    return say


# Reporting -------------------------------------------------------------------------------------------------------


def results_of(oracle: Any, plan: Plan) -> SearchResults:
    """The trials of an oracle."""
    from tierwave.search.oracles import values_of

    results = []
    for trial in oracle.trials.values():
        values = values_of(plan.space, trial.hyperparameters.values)
        if trial.status == "COMPLETED":
            metrics = {name: trial.metrics.get_last_value(name) for name in trial.metrics.metrics}
            results.append(TrialResult(trial.trial_id, "ended", values, trial.score, metrics))
        elif trial.status == "FAILED":
            status = "skipped" if trial.trial_id in oracle.skipped else "failed"
            results.append(TrialResult(trial.trial_id, status, values, reason=trial.message))
        else:
            results.append(TrialResult(trial.trial_id, "unfinished", values))
    return SearchResults(plan.space, plan.goal, results)


def report(oracle: Any, plan: Plan, search: Search, say_line: Print) -> None:
    """Print the table and write the results.

    Raises RunError if every trial failed, or so many one after the other that the search was stopped; OSError if the
    search could not be written.
    """
    if oracle.fault is not None:
        raise oracle.fault
    results = results_of(oracle, plan)
    for line in results.table():
        say_line(line, False)
    if oracle.refused:
        values, reason = next(iter(oracle.refused.items()))
        say_line(f"{len(oracle.refused)} impossible combinations were passed over, such as {values}: {reason}", False)
    best = results.best
    written = results.write(search.folder, None if best is None else best_config(plan, best))
    if best is not None:
        for path in written[1:]:
            say_line(f"Written: {path}", False)
        for text in [*plan.space.remarks(), *_what_comes_next(written[0], plan, search)]:
            say_line(text, False)
        say_line(f"The best config is {written[0]} (trial {best.number}, {plan.objective} {best.score:.5g})", False)
    failed, skipped, unfinished = map(results.of_status, ("failed", "skipped", "unfinished"))
    last = f"; the last one, {failed[-1].number}: {failed[-1].reason}" if failed else ""
    if oracle.too_many_failures:
        raise RunError(f"the search was stopped, since {oracle.closed}{last}")
    if best is None and not unfinished and skipped and not failed:
        raise RunError(
            f"there is no best config, since none of {len(skipped)} networks fits into memory; the last one, "
            f"{skipped[-1].number}: {skipped[-1].reason}"
        )
    if best is None and not unfinished and oracle.closed is None:
        raise RunError(f"there is no best config, since all {len(failed)} trials failed{last}")
    if unfinished or oracle.closed is not None:
        why = f", since {oracle.closed}" if oracle.closed is not None else ""
        say_line(f"The search stopped{why}; the same command goes on.", False)


def _what_comes_next(config: Path, plan: Plan, search: Search) -> list[str]:
    """The command that trains the best config, and when that will end."""
    training = resolve_training({}, json.loads(config.read_text(encoding="utf-8")), str(config))
    folders = {"data_dir": search.data_dir, "param_dir": search.param_dir, "params": search.params}
    flags = [f"--{name} {shlex.quote(str(path))}" for name, path in folders.items() if path is not None]
    command = f"python train.py --id {shlex.quote(f'{search.id}_best')} {' '.join(flags)}"
    patience = training.early_stopping_patience
    ends = "" if patience is None else f", or until {training.monitor} has not improved for {patience}"
    trials = "were ended by the clock" if plan.objective == EQUAL_TIME else f"had {plan.num_epochs} at most"
    return [
        f"To train it: {command} --config_file {shlex.quote(str(config))}",
        f"  for {training.num_epochs} epochs{ends} (trials {trials}); --num_epochs and --max_minutes say otherwise",
    ]


def best_config(plan: Plan, best: TrialResult) -> dict[str, Any]:
    """The config of a trial as train.py takes it, held out and stopped as in the search."""
    document = plan.space.config_document(best.values)
    alike = ("early_stopping_patience", "val_frac", "random_seed")
    training = {
        name: value
        for name, value in document.get("training", {}).items()
        if name not in (*alike, "num_val_batches", "num_steps")  # these shortened the trials
    }
    for name in alike:
        if plan.space.typed[name] != TrainingOptions.model_fields[name].default:
            training[name] = plan.space.typed[name]
    return {**document, "training": training}
