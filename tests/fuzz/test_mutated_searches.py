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
from keras_tuner.engine.base_tuner import BaseTuner

import mutators
from rule import Kind, Refusal, Wrong, judged
from tierwave.runs.folder import Run
from tierwave.search.plan import SEARCH_FILE, TYPES, Plan, Search, plan_of
from tierwave.search.search import begin, results_of
from tierwave.search.space import parse_search
from tierwave.search.trial import count_attempt, metrics_of, read_result

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
    search = Search("s", None, SMALL, "small", axes, type=kind, num_epochs=4, max_trials=5)
    return search, plan_of(search)


def taken_up(kind: str, folder: Path) -> Any:
    """The oracle of the search that lies in a folder."""
    search, plan = asked(kind)
    place = Search(**{**vars(search), "logdir_root": folder})
    oracle = begin(place, plan, silent)
    BaseTuner(oracle, directory=str(folder), project_name="keras_tuner")  # says where its files lie
    return oracle


def known(oracle: Any, kind: str) -> tuple[Any, ...]:
    """What matters of an oracle: its trials and how it would go on."""
    return oracle.get_state(), [trial.get_state() for trial in oracle.trials.values()], results_of(
        oracle, asked(kind)[1]
    ).table()  # fmt: skip


@functools.cache
def written(kind: str, folder: Path) -> tuple[str, str]:
    """The file of a search with a trial that ended, one that failed and one that runs; what it says, as JSON."""
    oracle = taken_up(kind, folder)
    for number in range(3):
        trial = oracle.create_trial("tuner0")
        if number == 0:
            oracle.update_trial(trial.trial_id, {"val_loss": 2.5, "epochs": 3.0, "minutes": 0.5}, step=2)
        if number < 2:
            trial.status = "FAILED" if number else "COMPLETED"
            trial.message = "it fell ill" if number else None
            oracle.end_trial(trial)
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


def make_ended(rng: Random, folder: Path) -> Path:
    """`trial.json` of a trial that ended."""
    (folder / "trial.json").write_bytes(mutators.json_bytes(ENDED, rng))
    return folder


def attempt_ended(folder: Path) -> str:
    """As the result of the trial is added up."""
    values = {"training.learning_rate": 0.01, "dim": 16, "frame_sizes": [4, 16]}
    found = judged(lambda: metrics_of(Run(folder), asked("random_search")[1], values))
    if isinstance(found, Refusal):
        return "refused"
    _check(found)
    return "read"


def _check(found: dict[str, float]) -> None:
    names = {"val_loss", "epochs", "steps", "minutes", "parameters"}
    if not names <= found.keys() or not all(isinstance(value, float) for value in found.values()):
        raise Wrong(f"no result: {found}", "no result")


RESULT = {"val_loss": 2.5, "epochs": 2.0, "steps": 14.0, "minutes": 0.5, "parameters": 1000.0}


def make_kept(rng: Random, folder: Path) -> Path:
    """`result.json` and `attempts.json` of a trial, which are the program's own."""
    from tierwave.files.documents import sealed

    for name, document in (
        ("result", {"metrics": RESULT}),
        ("attempts", {"step": 0, "kills": 2, "system": ["boot", 7]}),
    ):
        (folder / f"{name}.json").write_bytes(mutators.json_bytes(sealed(document), rng))
    return folder


def attempt_kept(folder: Path) -> str:
    """As a trial is begun again."""
    counted = judged(lambda: count_attempt(folder / "attempts.json", 0))
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
