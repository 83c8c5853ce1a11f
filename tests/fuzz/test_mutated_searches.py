"""What a search keeps for itself, damaged: taken up as it was, or refused with the name of the file."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from keras_tuner.engine.trial import Trial

import mutators
from rule import Kind, Refusal, Wrong, judged
from tierwave.runs.folder import Run
from tierwave.search.oracles import REASON
from tierwave.search.search import SEARCH_FILE, TYPES, Plan, Search, begin, findings_of, plan_of
from tierwave.search.space import parse_search
from tierwave.search.trial import Result, Runner, read_result

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning:keras_tuner")

SMALL: dict[str, Any] = {"seq_len": 64, "frame_sizes": [4, 16], "dim": 8, "num_rnn_layers": 1, "training": {}}
SEARCHED = ("learning_rate=1e-4..1:log", "dim=8..64", "frame_sizes=[4,16],[2,8]")
ENDED: dict[str, Any] = {
    "history": [
        {"epoch": 1, "loss": 2.5, "val_loss": 2.625, "accuracy": 0.25, "val_accuracy": 0.25},
        {"epoch": 2, "loss": float("nan"), "val_loss": 2.5, "accuracy": 0.5, "val_accuracy": 0.25},
    ],
    "elements": 5000.0,
    "epochs": 2,
    "steps": 14,
    "minutes": 0.5,
    "parameters": 1000,
    "reason": "all epochs are done",
}


def silent(text: str, rewrite: bool) -> None:
    """Nothing is printed."""


@functools.cache
def asked(kind: str) -> tuple[Search, Plan]:
    """A search of a kind; its folder is told anew with every input."""
    axes = [parse_search(text) for text in SEARCHED]
    search = Search("s", SMALL, "small", axes, None, kind=kind, num_epochs=4, max_trials=5)
    return search, plan_of(search)


def taken_up(kind: str, folder: Path) -> Any:
    """The oracle of the search that lies in a folder."""
    search, plan = asked(kind)
    place = Search(**{**vars(search), "logdir_root": folder})
    return begin(place, plan, silent, silence=60.0, shared=False)


def known(oracle: Any, kind: str) -> tuple[Any, ...]:
    """What matters of an oracle: its trials and how it would go on."""
    return oracle.get_state(), [trial.get_state() for trial in oracle.trials.values()], findings_of(
        oracle, asked(kind)[1]
    ).table()  # fmt: skip


@functools.cache
def written(kind: str, folder: Path) -> tuple[str, str]:
    """The file of a search with a trial that ended, one that failed and one that runs; what it says, as JSON."""
    oracle = taken_up(kind, folder)
    for number in range(3):
        trial = oracle.create_trial("tuner0")
        told = Trial.from_proto(trial.to_proto())
        told.hyperparameters.values = dict(told.hyperparameters.values)
        if number == 0:
            oracle.update_trial(told.trial_id, {"val_loss": 2.5, "epochs": 3.0, "minutes": 0.5}, step=2)
        if number < 2:
            told.status = "FAILED" if number else "COMPLETED"
            told.hyperparameters.values.update({REASON: "it fell ill"} if number else {})
            oracle.end_trial(Trial.from_proto(told.to_proto()))
    return (folder / "s" / SEARCH_FILE).read_text(encoding="utf-8"), _as_json(known(taken_up(kind, folder), kind))


def _as_json(what: Any) -> str:
    return json.dumps(what, sort_keys=True)


def make_search(rng: Random, folder: Path) -> tuple[str, Path]:
    """The file of a search of one of the kinds, damaged as JSON or as bytes."""
    kind = rng.choice(TYPES)
    text, _ = written(kind, folder.parent / f"of a {kind}")
    (folder / "s").mkdir()
    content = text.encode()
    content = mutators.json_bytes(json.loads(text), rng) if rng.random() < 0.7 else mutators.mutated(content, rng)
    (folder / "s" / SEARCH_FILE).write_bytes(content)
    return kind, folder


def attempt_search(given: tuple[str, Path]) -> str:
    """As tune.py goes on with it."""
    kind, folder = given
    oracle = judged(lambda: taken_up(kind, folder))
    if isinstance(oracle, Refusal):
        if SEARCH_FILE not in oracle.sentence:
            raise Wrong(f"refused without the file: {oracle.sentence}", "not named")
        return "refused"
    if _as_json(known(oracle, kind)) != written(kind, folder.parent / f"of a {kind}")[1]:
        raise Wrong("the search that goes on is another one", "another search")
    return "taken up"


def runner(folder: Path) -> Runner:
    """Of trials below a folder."""
    space = asked("random_search")[1].space
    return Runner(space, ("val_loss", "min"), folder, folder, silent)


def make_ended(rng: Random, folder: Path) -> Path:
    """`trial.json` of a trial that ended."""
    (folder / "trial.json").write_bytes(mutators.json_bytes(ENDED, rng))
    return folder


def attempt_ended(folder: Path) -> str:
    """As the result of the trial is added up."""
    values = {"training.learning_rate": 0.01, "dim": 16, "frame_sizes": [4, 16]}
    found = judged(lambda: runner(folder)._result(Run(folder), values))
    if isinstance(found, Refusal):
        return "refused"
    _check(found)
    return "read"


def _check(found: Result) -> None:
    names = {"val_loss", "epochs", "steps", "minutes", "parameters"}
    if not names <= found.metrics.keys() or not all(isinstance(value, float) for value in found.metrics.values()):
        raise Wrong(f"no result: {found}", "no result")


RESULT = Result({"val_loss": 2.5, "epochs": 2.0, "steps": 14.0, "minutes": 0.5, "parameters": 1000.0}, 2)


def make_kept(rng: Random, folder: Path) -> Path:
    """`result.json` and `attempts.json` of a trial, which are the program's own."""
    from tierwave.files.documents import sealed

    for name, document in (("result", vars(RESULT)), ("attempts", {"step": 0, "kills": 2, "system": ["boot", 7]})):
        (folder / f"{name}.json").write_bytes(mutators.json_bytes(sealed(document), rng))
    return folder


def attempt_kept(folder: Path) -> str:
    """As a trial is begun again."""
    counted = judged(lambda: runner(folder)._count(folder / "attempts.json", "0"))
    if isinstance(counted, Refusal):
        raise Wrong(f"a count that is damaged ends a trial: {counted.sentence}", "ends a trial")
    found = judged(lambda: read_result(folder / "result.json"))
    if isinstance(found, Refusal):
        return "refused"
    if found != RESULT:
        raise Wrong(f"{RESULT} became {found}", "another result")
    return "read"


KINDS: Sequence[Kind] = [
    Kind("search", make_search, attempt_search),
    Kind("ended trial", make_ended, attempt_ended),
    Kind("kept result", make_kept, attempt_kept),
]


@pytest.mark.parametrize("kind", KINDS, ids=attrgetter("name"))
def test_a_damaged_search_is_taken_up_or_refused(kind: Kind, tried: Callable[[Kind], None]) -> None:
    tried(kind)
