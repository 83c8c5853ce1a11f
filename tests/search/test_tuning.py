"""Searching: what is searched, what the oracles try, what they keep through a kill, and what is told at the end."""

from __future__ import annotations

import ast
import csv
import json
import math
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.trial import Trial
from matplotlib.image import imread

from tierwave.analysis.plots import parallel_picture
from tierwave.errors import RunError, UsageError
from tierwave.family import load_config
from tierwave.files import writing
from tierwave.files.documents import sealed
from tierwave.search.oracles import MOST_FAILURES, hyperband_size, make_oracle, run_of, values_of
from tierwave.search.plan import Plan, read_plan
from tierwave.search.results import SearchResults, TrialResult
from tierwave.search.search import trial_lines
from tierwave.search.space import Choices, Range, Space, choices, parse_search
from tierwave.search.trial import read_result

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning:keras_tuner")

SMALL: dict[str, Any] = {"seq_len": 64, "frame_sizes": [4, 16], "dim": 8, "num_rnn_layers": 1, "training": {}}


def space_of(*searched: str, document: dict[str, Any] = SMALL, **settings: Any) -> Space:
    return Space.of(document, "small", [parse_search(text) for text in searched], settings.pop("typed", {}), **settings)


# What is searched ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("dim=64,128", Choices("dim", (64, 128))),
        ("dim=128, 64", Choices("dim", (64, 128))),
        ("rnn_type=lstm,gru", Choices("rnn_type", ("lstm", "gru"))),
        ("frame_sizes=[4,16],[2, 8, 32],[]", Choices("frame_sizes", ([4, 16], [2, 8, 32], []))),
        ('gradient_clip={"value":1,"x":[2]},None', Choices("gradient_clip", ({"value": 1, "x": [2]}, None))),
        ('skip_conn=true,False,"prism"', Choices("skip_conn", (True, False, "prism"))),
        ('q_type="a,b","c"', Choices("q_type", ("a,b", "c"))),
        (r'q_type="\\","\",x",[","]', Choices("q_type", ("\\", '",x', [","]))),
        ("dim=8..64", Range("dim", 8, 64)),
        ("dim=8 .. 64 : log", Range("dim", 8, 64, True)),
        ("training.learning_rate=1e-4..1e-2:log", Range("training.learning_rate", 1e-4, 1e-2, True)),
        ("rnn_dropout=0..0.5", Range("rnn_dropout", 0.0, 0.5)),
        ("tiers.0.hidden_size=-2..2", Range("tiers.0.hidden_size", -2, 2)),
    ],
)  # fmt: skip
def test_what_is_typed_is_what_is_searched(text: str, axis: Choices | Range) -> None:
    found = parse_search(text)
    assert found == axis
    if isinstance(found, Range) and isinstance(axis, Range):
        assert found.whole == axis.whole


NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text("ab,[]{}\"\\ \n=é"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xy,"), inner, max_size=2),
    max_leaves=5,
)  # fmt: skip


@given(st.lists(JSON, min_size=1, max_size=4, unique_by=json.dumps))
@settings(max_examples=100)
def test_values_written_as_json_are_read_as_they_are(values: list[Any]) -> None:
    found = parse_search("dim=" + ",".join(map(json.dumps, values)))
    assert isinstance(found, Choices)
    key: Callable[[Any], str] = json.dumps
    assert sorted(map(key, found.values)) == sorted(map(key, values))


@given(
    st.floats(1e-6, 1e6),
    st.floats(1.001, 1e4),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1000),
)
def test_draws_stay_within_their_range(lo: float, ratio: float, log: bool, whole: bool, seed: int) -> None:
    axis = Range("x", round(lo) + 1, round(lo * ratio) + 2, log) if whole else Range("x", lo, lo * ratio, log)
    chance = random.Random(seed)
    drawn = [axis.draw(chance) for _ in range(20)]
    assert all(axis.lo <= value <= axis.hi for value in drawn)
    assert all(isinstance(value, int) for value in drawn) == whole


def test_a_logarithmic_range_has_as_much_below_its_geometric_mean_as_above() -> None:
    chance, axis = random.Random(0), Range("x", 1e-4, 1.0, True)
    below = sum(axis.draw(chance) < 1e-2 for _ in range(2000))
    assert abs(below - 1000) < 100


def test_training_options_may_be_named_without_their_group_and_nested_keys_with_dots() -> None:
    space = space_of("learning_rate=0.1,0.01", "gradient_clip.value=1..2")
    assert [axis.key for axis in space.axes] == ["training.learning_rate", "gradient_clip.value"]
    document = space.config_document({"training.learning_rate": 0.1, "gradient_clip.value": 1.5})
    assert document == {**SMALL, "gradient_clip": {"value": 1.5}, "training": {"learning_rate": 0.1}}
    assert SMALL["training"] == {}
    tier = {"name": "a", "generates": ["audio"], "hidden_size": 8}
    cascade = space_of("tiers.0.hidden_size=8,16", document={"model": "cascade", "tiers": [tier]})
    assert cascade.config_document({"tiers.0.hidden_size": 16})["tiers"][0]["hidden_size"] == 16
    melnet = space_of("hidden_size=8,16", "tiers=2,3", document={"model": "melnet", "layers": [2, 1, 1], "tiers": 3})
    assert {tuple(values.values()) for values in melnet.possible(50)} == {(8, 3), (16, 3)}  # two tiers, three layers


def test_only_combinations_that_can_be_trained_are_drawn() -> None:
    space = space_of("frame_sizes=[4,16],[2,8],[3,9]", "seq_len=60..72", "num_rnn_layers=1,2", "skip_conn=true,false")
    drawn = space.possible(200)
    assert len(drawn) == 200
    for values in drawn:
        load_config(space.config_document(values), "drawn")
    tops = {values["frame_sizes"][-1] for values in drawn}
    assert tops == {8, 9, 16}
    assert space.guard() == 16  # of all trials, so that they share their split


@pytest.mark.parametrize(
    ("searched", "told"),
    [
        ("dimm=3,4", "did you mean dim?"),
        ("lerning_rate=1,2", "did you mean learning_rate?"),
        ("training.lerning_rate=1,2", "did you mean learning_rate?"),
        ("gradient_clip.vallue=1,2", "vallue"),
        ("tiers.0.rate=1,2", "--search tiers.0.rate: there is no such key"),
        ("dim=64..8", "is an empty range, since 64 is not below 8"),
        ("dim=8..8", "is an empty range"),
        ("dim=..8", "lacks an end"),
        ("dim=8..", "lacks an end"),
        ("dim=", "has no value"),
        ("dim=8,,9", "has an empty value"),
        ("dim", "is not KEY=VALUES"),
        ("=8", "is not KEY=VALUES"),
        ("dim=8,8", "8 stands twice"),
        ("learning_rate=0..1:log", "begins above 0, not at 0"),
        ("dim=0..4", "dim is 0, but must be at least 1"),
        ("dim=a..4", 'is "a..4", but must be a whole number'),
        ("rnn_type=gru,rnn", "rnn_type is \"rnn\", but must be 'gru' or 'lstm'"),
        ("momentum=0.5..1.5", "training.momentum is 1.5, but must be less than 1"),
        ("seq_len=100,200", "no combination of what is searched can be trained; of the last one: small: seq_len"),
        ("training.num_epochs=3,4", "all trials are split, judged and stopped alike"),
        ("random_seed=3,4", "all trials are split, judged and stopped alike"),
        ("tfr=0.5,1.0", "it does nothing for this model"),
        ("model=samplernn,melnet", "a search is of one family"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused_with_the_remedy(searched: str, told: str) -> None:
    with pytest.raises(UsageError) as refused:
        space_of(searched)
    assert told in str(refused.value) and "\n" not in str(refused.value)


def test_an_empty_space_and_a_key_searched_twice_are_refused() -> None:
    with pytest.raises(UsageError, match="there is nothing to search"):
        space_of()
    with pytest.raises(UsageError, match="training.learning_rate is searched twice"):
        space_of("learning_rate=0.1,0.2", "training.learning_rate=0.3")
    with pytest.raises(UsageError, match="--objective val_accuracy: it generates values|--objective val_accuracy"):
        tier = {"model": "conditioning", "generates": ["p"], "conditioned_on": ["a"], "rate": 100}
        space_of("hidden_size=8,16", document=tier, typed={"monitor": "val_accuracy"})
    with pytest.raises(UsageError, match="--stage tier9: the config has tier1, tier2"):
        melnet = {"model": "melnet", "layers": [1, 1], "tiers": 2}
        space_of("hidden_size=8,16", document=melnet, stage="tier9")
    with pytest.raises(UsageError, match="--early_stopping_patience"):
        space_of("dim=8,16", typed={"early_stopping_patience": -1})
    with pytest.raises(UsageError, match="a value stands twice|stands twice"):
        choices("dim", [8, 8], "--dim")


# Oracles ---------------------------------------------------------------------------------------------------------

NARROW = ("frame_sizes=[4,16],[2,8],[8,24]", "seq_len=60..66", "rnn_type=gru,lstm")
WIDE = ("learning_rate=1e-4..1:log", "dim=8..64", "rnn_type=gru,lstm")
said: list[str] = []


def plan_of_test(searched: tuple[str, ...], kind: str, *, seed: int = 0, epochs: int = 9, **other: Any) -> Plan:
    return Plan(space_of(*searched), kind, other.get("objective", "val_loss"), epochs, None, 0, seed, None)


def oracle_of(
    path: Path, searched: tuple[str, ...] = WIDE, kind: str = "random_search", *, seed: int = 0, shared: bool = False,
    max_trials: int | None = 8, max_epochs: int = 9, objective: str = "val_loss",
) -> Any:  # fmt: skip
    said.clear()
    plan = plan_of_test(searched, kind, seed=seed, epochs=max_epochs, objective=objective)
    oracle = make_oracle(plan, path, said.append, max_trials=max_trials, silence=0.2, shared=shared)
    BaseTuner(oracle, directory=str(path.parent), project_name="keras_tuner")  # says where its files lie
    return oracle


def badness(values: dict[str, Any]) -> float:
    """A trial's loss: best at a learning rate of 0.01 and 32 units, and with a GRU."""
    rate, dim = values["training.learning_rate"], values["dim"]
    return abs(math.log10(rate) + 2) + abs(dim - 32) / 32 + 0.3 * (values["rnn_type"] == "lstm")


def loss_of(oracle: Any, trial: Trial) -> float:
    plain = values_of(oracle.space, trial.hyperparameters.values)
    loss = badness(plain) if len(plain) == len(WIDE) and "dim" in plain else float(len(json.dumps(plain)))
    return loss + 1.0 / trial.hyperparameters.values.get("tuner/epochs", 1)


def sent(trial: Trial) -> Trial:
    """A trial as it comes out of Keras Tuner's messages."""
    return Trial.from_proto(trial.to_proto())


def run_trial(oracle: Any, trial: Trial, loss: float | None = None, reason: str | None = None) -> None:
    """As a worker does it: everything goes through Keras Tuner's messages, and the reason of a failure is a file."""
    told = sent(trial)
    if reason is None:
        metrics = {"val_loss": loss_of(oracle, trial) if loss is None else loss, "epochs": 3.0, "parameters": 1e6}
        oracle.update_trial(told.trial_id, metrics, step=2)
        told.status = "COMPLETED"
    else:
        told.status = "FAILED"
        writing.write_text(failure_of(oracle, trial), json.dumps(sealed({"reason": reason})))
    oracle.end_trial(sent(told))


def failure_of(oracle: Any, trial: Trial) -> Path:
    return Path(oracle.path.parent, "trials", trial.trial_id, "failure.json")


def run_all(oracle: Any, fails: Callable[[Trial], bool] = lambda trial: False) -> list[Trial]:
    """All trials, one after the other."""
    while True:
        trial = oracle.create_trial("tuner0")
        if trial.status == "STOPPED":
            return list(oracle.trials.values())
        assert trial.status == "RUNNING"
        run_trial(oracle, trial, reason="it fell ill" if fails(trial) else None)


def summary(oracle: Any) -> list[tuple[Any, ...]]:
    return [
        (trial.trial_id, trial.status, trial.score, json.dumps(trial.hyperparameters.values, sort_keys=True))
        for trial in oracle.trials.values()
    ]


@pytest.mark.parametrize("kind", ["random_search", "bayesian", "hyperband"])
def test_the_same_seed_makes_the_same_trials_and_another_seed_others(tmp_path: Path, kind: str) -> None:
    found = []
    for number, seed in enumerate((0, 0, 1)):
        oracle = oracle_of(tmp_path / f"{number}.json", kind=kind, seed=seed, max_trials=4)
        run_all(oracle)
        found.append(summary(oracle))
    assert found[0] == found[1] != found[2]
    assert len(found[0]) == 4


@pytest.mark.parametrize("kind", ["random_search", "bayesian"])
def test_a_space_is_tried_to_the_last_possible_combination_and_never_twice(tmp_path: Path, kind: str) -> None:
    oracle = oracle_of(tmp_path / "s.json", NARROW, kind, max_trials=100)
    trials = run_all(oracle)
    plain = [json.dumps(values_of(oracle.space, trial.hyperparameters.values)) for trial in trials]
    every = {
        json.dumps({"frame_sizes": sizes, "seq_len": length, "rnn_type": kind})
        for sizes in ([4, 16], [2, 8], [8, 24])
        for length in range(60, 67)
        for kind in ("gru", "lstm")
        if length % sizes[-1] == 0
    }
    assert Counter(plain) == Counter(every)
    assert all(trial.status == "COMPLETED" for trial in trials)  # those that could not be trained never were trials
    assert oracle.refused and all("multiple" in reason for reason in oracle.refused.values())


@pytest.mark.slow
def test_bayesian_search_comes_nearer_than_random_search(tmp_path: Path) -> None:
    best = {}
    for kind in ("random_search", "bayesian"):
        oracle = oracle_of(tmp_path / f"{kind}.json", kind=kind, max_trials=14)
        run_all(oracle)
        best[kind] = oracle.best.score - 1.0
    assert best["bayesian"] < best["random_search"]
    assert best["bayesian"] < 0.15


@pytest.mark.parametrize(("kind", "trials"), [("random_search", 4), ("bayesian", 4), ("hyperband", 6)])
def test_a_search_that_is_killed_at_any_write_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, trials: int
) -> None:
    def search(path: Path) -> Any:
        return oracle_of(path, kind=kind, max_trials=trials, max_epochs=3)

    whole = search(tmp_path / "whole.json")
    run_all(whole)

    class Killed(BaseException):
        pass

    writes, replace = 0, writing.os.replace
    kills: list[bool] = []
    for at in range(1, 100) if kind != "bayesian" else (7, 100):  # its proposals take a second each
        path, writes = tmp_path / f"{kind}{at}.json", 0
        half = at % 3 == 0  # while the file is written, not before it is moved into place; of all kinds of writes some

        def moved(source: Any, target: Any, at: int = at, half: bool = half) -> None:
            nonlocal writes
            writes += 1
            if writes == at:
                if half:
                    Path(source).write_bytes(Path(source).read_bytes()[:100])
                raise Killed
            replace(source, target)

        monkeypatch.setattr(writing.os, "replace", moved)
        try:
            run_all(search(path))
        except Killed:
            kills.append(half)
        monkeypatch.setattr(writing.os, "replace", replace)
        again = search(path)
        run_all(again)
        assert summary(again) == summary(whole)
        if writes < at:
            break
    assert writes < at
    assert len(kills) >= 2 * trials and set(kills) == {True, False} if kind != "bayesian" else len(kills) == 1


def test_a_trial_that_was_running_is_begun_again_with_the_same_values(tmp_path: Path) -> None:
    oracle = oracle_of(tmp_path / "s.json")
    first = oracle.create_trial("tuner0")
    run_trial(oracle, first)
    second = oracle.create_trial("tuner0")
    again = oracle_of(tmp_path / "s.json")
    assert again.trials[first.trial_id].score == pytest.approx(oracle.trials[first.trial_id].score)
    taken = again.create_trial("tuner0")
    assert (taken.trial_id, taken.hyperparameters.values) == (second.trial_id, second.hyperparameters.values)
    assert said == [f"Trial 1 again: {said[0].split(': ')[1]}"]
    third = again.create_trial("another")
    assert third.trial_id == "2"


def test_more_trials_can_be_asked_for_later(tmp_path: Path) -> None:
    first = oracle_of(tmp_path / "s.json", max_trials=3)
    run_all(first)
    assert first.is_over
    more = oracle_of(tmp_path / "s.json", max_trials=5)
    assert not more.is_over
    trials = run_all(more)
    assert len(trials) == 5 and summary(more)[:3] == summary(first)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"plan": {}}', '{"plan": {}, "trials": [{}], "oracle": {}}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(RunError, match="s.json is damaged .* --resume False"):
        oracle_of(tmp_path / "s.json")


def test_a_failed_trial_keeps_its_reason_and_is_not_tried_again(tmp_path: Path) -> None:
    oracle = oracle_of(tmp_path / "s.json", max_trials=4)
    trials = run_all(oracle, fails=lambda trial: trial.trial_id in "12")
    assert [trial.status for trial in trials] == ["COMPLETED", "FAILED", "FAILED", "COMPLETED"]
    again = oracle_of(tmp_path / "s.json", max_trials=4)
    assert [trial.message for trial in again.trials.values()] == [None, "it fell ill", "it fell ill", None]
    assert not any("/" in name for trial in again.trials.values() for name in trial.hyperparameters.values)
    failure_of(again, trials[1]).write_text("damaged")
    assert again.reason_of("1") == again.reason_of("3") == "its worker printed the reason"
    assert again.create_trial("tuner0").status == "STOPPED"
    assert again.best.trial_id in "03"


def test_many_failures_one_after_the_other_end_a_search_and_single_ones_do_not(tmp_path: Path) -> None:
    oracle = oracle_of(tmp_path / "s.json", max_trials=50)
    trials = run_all(oracle, fails=lambda trial: True)
    assert len(trials) == MOST_FAILURES and oracle.too_many_failures and oracle.best is None
    assert "failed one after the other" in oracle.closed
    seldom = oracle_of(tmp_path / "t.json", max_trials=12)
    assert len(run_all(seldom, fails=lambda trial: int(trial.trial_id) % 3 > 0)) == 12


def test_the_best_is_the_highest_where_more_is_better(tmp_path: Path) -> None:
    oracle = oracle_of(tmp_path / "s.json", objective="val_accuracy", max_trials=4)
    for number in range(4):
        trial = oracle.create_trial("tuner0")
        oracle.update_trial(trial.trial_id, {"val_accuracy": [0.1, 0.3, 0.2, 0.0][number]})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
    trials = list(oracle.trials.values())
    assert oracle.best.score == max(trial.score for trial in trials)


# Hyperband


def epochs_of(trials: list[Trial]) -> Counter[tuple[int, ...]]:
    names = ("tuner/bracket", "tuner/round", "tuner/initial_epoch", "tuner/epochs")
    return Counter(tuple(trial.hyperparameters.values[name] for name in names) for trial in trials)


@pytest.mark.parametrize(
    ("most", "rounds"),
    [
        (1, {(0, 0, 0, 1): 1}),
        (2, {(0, 0, 0, 2): 2}),
        (
            9,
            {
                **{(2, 0, 0, 1): 9, (2, 1, 1, 3): 3, (2, 2, 3, 9): 1},
                **{(1, 0, 0, 3): 5, (1, 1, 3, 9): 2, (0, 0, 0, 9): 3},
            },
        ),
    ],
)
def test_hyperband_has_the_rounds_of_the_paper(tmp_path: Path, most: int, rounds: dict[Any, int]) -> None:
    oracle = oracle_of(tmp_path / "s.json", kind="hyperband", max_trials=None, max_epochs=most)
    trials = run_all(oracle)
    assert epochs_of(trials) == rounds
    epochs = sum(count * (last - first) for (*_, first, last), count in rounds.items())
    assert hyperband_size(most) == (len(trials), epochs)


@pytest.mark.parametrize("ill", [0.0, 0.3, 0.7])
def test_hyperband_goes_on_with_the_best_of_each_round_whoever_fails(tmp_path: Path, ill: float) -> None:
    chance = random.Random(3)
    oracle = oracle_of(tmp_path / "s.json", kind="hyperband", max_trials=None)
    trials = run_all(oracle, fails=lambda trial: oracle.failures < MOST_FAILURES - 1 and chance.random() < ill)
    by_round: dict[tuple[int, int], list[Trial]] = {}
    for trial in trials:
        values = trial.hyperparameters.values
        by_round.setdefault((values["tuner/bracket"], values["tuner/round"]), []).append(trial)
    for (bracket, place), here in by_round.items():
        if place == 0:
            assert not any("tuner/trial_id" in trial.hyperparameters.values for trial in here)
            continue
        before = by_round[bracket, place - 1]
        good = sorted((trial for trial in before if trial.status == "COMPLETED"), key=lambda trial: trial.score)
        went_on = [trial.hyperparameters.values["tuner/trial_id"] for trial in here]
        assert sorted(went_on) == sorted(run_of(trial) for trial in good[: len(here)])
    for bracket, rounds in ((2, 3), (1, 2)) if ill < 0.5 else ():  # else nobody is left
        assert {place for each, place in by_round if each == bracket} == set(range(rounds))


def test_hyperband_halves_a_space_that_is_smaller_than_its_rounds_too(tmp_path: Path) -> None:
    oracle = oracle_of(tmp_path / "s.json", ("dim=8,16,32,64",), "hyperband", max_trials=None)
    trials = run_all(oracle)
    assert epochs_of(trials) == {(2, 0, 0, 1): 4, (2, 1, 1, 3): 3, (2, 2, 3, 9): 1}


# Several workers


def test_a_worker_that_falls_silent_gives_its_trial_back_and_one_that_speaks_does_not(tmp_path: Path) -> None:
    oracle = oracle_of(tmp_path / "s.json", max_trials=2, shared=True)
    lost, kept = oracle.create_trial("lost"), oracle.create_trial("kept")
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        oracle.get_trial(kept.trial_id)
        oracle.give_back_of_the_silent()
        time.sleep(0.02)
    assert set(oracle.ongoing_trials) == {"kept"}
    assert "nothing was heard of lost" in said[-1]
    again = oracle.create_trial("third")
    assert (again.trial_id, again.hyperparameters.values) == (lost.trial_id, lost.hyperparameters.values)
    run_trial(oracle, again, loss=1.0)
    run_trial(oracle, lost, loss=2.0)  # it was alive after all
    assert oracle.trials[lost.trial_id].score == 1.0
    run_trial(oracle, kept, loss=3.0)
    assert oracle.create_trial("third").status == "STOPPED" and oracle.is_over


def test_a_result_that_comes_late_is_taken_if_nobody_else_has_begun(tmp_path: Path) -> None:
    oracle = oracle_of(tmp_path / "s.json", max_trials=1, shared=True)
    trial = oracle.create_trial("slow")
    time.sleep(0.25)
    oracle.give_back_of_the_silent()
    assert not oracle.ongoing_trials and not oracle.is_over
    run_trial(oracle, trial, loss=1.0)
    assert oracle.is_over and oracle.create_trial("other").status == "STOPPED"


def test_a_worker_without_work_waits_for_what_others_may_give_back(tmp_path: Path) -> None:
    oracle = oracle_of(tmp_path / "s.json", max_trials=1, shared=True)
    trial = oracle.create_trial("first")
    assert oracle.create_trial("second").status == "IDLE"
    oracle.end_trial(sent(trial))  # it is RUNNING: given back
    again = oracle.create_trial("second")
    assert again.trial_id == trial.trial_id
    run_trial(oracle, again)
    assert [oracle.create_trial(name).status for name in ("first", "second")] == ["STOPPED"] * 2
    assert oracle.is_over and not oracle.tuner_ids


def test_a_chief_that_is_started_again_leaves_trials_to_the_workers_that_have_them(tmp_path: Path) -> None:
    oracle = oracle_of(tmp_path / "s.json", shared=True)
    trial = oracle.create_trial("worker")
    again = oracle_of(tmp_path / "s.json", shared=True)
    assert again.create_trial("other").trial_id != trial.trial_id
    run_trial(again, trial, loss=1.0)
    assert again.trials[trial.trial_id].score == 1.0


def test_the_workers_hear_that_the_time_is_over(tmp_path: Path) -> None:
    oracle = oracle_of(tmp_path / "s.json", shared=True)
    trial = oracle.create_trial("worker")
    assert oracle.get_trial(trial.trial_id).status == "RUNNING"
    oracle.deadline = time.monotonic()
    assert oracle.get_trial(trial.trial_id).status == "STOPPED"
    assert oracle.trials[trial.trial_id].status == "RUNNING"


@pytest.mark.parametrize(
    "change", [{"search": None}, {"search": {"dim": {"lo": 1}}}, {"search": {"dim": {"values": 1}}}]
)
def test_a_plan_of_another_version_is_told(change: dict[str, Any]) -> None:
    plan = plan_of_test(("dim=8,16", "learning_rate=1e-4..1:log"), "bayesian")
    document = json.loads(json.dumps(plan.document()))
    assert Plan.from_document(document).document() == plan.document()
    for other in ({**document, **change}, {name: value for name, value in document.items() if name != "guard"}):
        with pytest.raises(RunError, match="the same version of Tierwave"):
            Plan.from_document(other)


def test_when_time_is_up_no_trial_is_begun(tmp_path: Path) -> None:
    oracle = oracle_of(tmp_path / "s.json")
    oracle.deadline = time.monotonic()
    assert oracle.create_trial("tuner0").status == "STOPPED" and oracle.closed == "its time is over"


def private_names(tree: ast.AST) -> set[str]:
    """Attributes that are used, and functions that are defined, with a name that begins with one underscore."""
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    return {name for name in names if name.startswith("_") and not name.endswith("__")}


def test_of_keras_tuner_only_what_is_public_is_used() -> None:
    theirs = {
        name
        for path in Path(keras_tuner.__file__).parent.rglob("*.py")
        for name in private_names(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert {"_save_trial", "_retry_queue", "_seed_state", "_brackets", "_get_size"} <= theirs
    root = Path(__file__).resolve().parents[2]
    for path in [*(root / "tierwave" / "search").glob("*.py"), root / "tune.py"]:
        text = path.read_text(encoding="utf-8")
        assert not private_names(ast.parse(text)) & theirs, path
        assert "keras_tuner.src" not in text and not re.search(r"\bgpr\b", text), path


# What is told ----------------------------------------------------------------------------------------------------


def results_in(direction: str = "min") -> SearchResults:
    space = space_of("frame_sizes=[4,16],[]", "learning_rate=1e-4..1:log", 'gradient_clip=null,{"value":1}')
    clip = {"value": 1}
    trials = [
        TrialResult("0", "ended", _values([4, 16], 0.01, None), 2.5, {"val_loss": 2.5, "epochs": 3.0, "minutes": 0.5}),
        TrialResult("1", "failed", _values([], 0.9, clip), reason="the loss became nan"),
        TrialResult("2", "ended", _values([], 0.001, clip), 1.5, {"val_loss": 1.5, "epochs": 2.0, "minutes": 1.25}),
        TrialResult("3", "unfinished", _values([], 0.003, None)),
    ]
    return SearchResults(space, ("val_loss", direction), trials)


def _values(sizes: list[int], rate: float, clip: Any) -> dict[str, Any]:
    return {"frame_sizes": sizes, "training.learning_rate": rate, "gradient_clip": clip}


def test_the_table_has_the_best_first_and_why_others_failed() -> None:
    lines = results_in().table()
    assert [line.split()[0] for line in lines] == ["trial", "2", "0", "1", "3", "Trial"]
    assert lines[0].split() == [
        "trial",
        "frame_sizes",
        "learning_rate",
        "gradient_clip",
        "val_loss",
        "epochs",
        "minutes",
    ]
    assert lines[1].split()[-3:] == ["1.5", "2", "1.25"] and "failed" in lines[3] and "unfinished" in lines[4]
    assert lines[5] == "Trial 1 failed: the loss became nan"
    assert len({len(line) for line in lines[:5]}) == 1
    assert [line.split()[0] for line in results_in("max").table()][1:3] == ["0", "2"]


def test_everything_is_written_and_can_be_read(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    for _ in range(2):  # the second time in place of the first
        written = results_in().write(tmp_path, {"dim": 8})
    assert [path.name for path in written] == ["best.config.json", "trials.csv", "trials.png", "tensorboard"]
    assert json.loads(written[0].read_text()) == {"dim": 8}
    with open(written[1], encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["reason"] for row in rows] == ["", "the loss became nan", "", ""]
    assert (rows[0]["frame_sizes"], rows[0]["gradient_clip"], rows[1]["val_loss"]) == ("[4, 16]", "null", "")
    assert imread(written[2]).shape[0] > 400
    assert sorted(path.name for path in written[3].iterdir() if path.is_dir()) == ["0", "2"]
    top = EventAccumulator(str(next(path for path in written[3].iterdir() if path.is_file())))
    top.Reload()
    content = top.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    experiment = metadata.parse_experiment_plugin_data(content)
    assert [info.name for info in experiment.hparam_infos] == ["frame_sizes", "learning_rate", "gradient_clip"]
    assert [info.name.tag for info in experiment.metric_infos] == ["val_loss"]
    one = EventAccumulator(str(written[3] / "2"))
    one.Reload()
    content = one.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    start = metadata.parse_session_start_info_plugin_data(content)
    assert start.hparams["learning_rate"].number_value == 0.001 and start.hparams["frame_sizes"].string_value == "[]"
    assert "val_loss" in one.Tags()["tensors"]


def test_without_a_trial_that_ended_there_is_a_table_and_no_best(tmp_path: Path) -> None:
    empty = SearchResults(results_in().space, ("val_loss", "min"), [results_in().trials[1]])
    assert empty.best is None
    assert [path.name for path in empty.write(tmp_path, None)] == ["trials.csv", "tensorboard"]


def test_the_picture_draws_the_best_last_and_darkest(tmp_path: Path) -> None:
    axes: dict[str, list[Any]] = {"rate": [1e-4, 1e-3, 1e-2], "kind": ["gru", "lstm", "gru"], "sizes": [[4], [4], [4]]}
    for rising, values in ((False, [3.0, 2.0, 1.0]), (True, [1.0, 2.0, 3.0])):
        parallel_picture(tmp_path / "p.png", {**axes, "score": values}, logarithmic=["rate"], rising=rising)
        picture = imread(tmp_path / "p.png")[..., :3]
        assert picture.shape[1] > 600
        dark = (picture < 0.1).all(axis=-1).sum()
        assert dark > 600  # the best: black and wide
    parallel_picture(tmp_path / "one.png", {"$\\no{formula": [None], "score": [1.0]})
    with pytest.raises(RunError):
        parallel_picture(tmp_path / "missing" / "p.png", {**axes, "score": np.arange(3.0).tolist()})


# Skipped ---------------------------------------------------------------------------------------------------------


def skip(oracle: Any, trial: Trial) -> None:
    told = sent(trial)
    told.status = "INVALID"
    oracle.end_trial(sent(told))


@pytest.mark.parametrize("kind", ["random_search", "bayesian", "hyperband"])
def test_what_is_skipped_is_no_trial_and_no_failure(tmp_path: Path, kind: str) -> None:
    most = None if kind == "hyperband" else 4
    trained = len(run_all(oracle_of(tmp_path / "all.json", kind=kind, max_trials=most)))
    oracle = oracle_of(tmp_path / "search.json", kind=kind, max_trials=most)
    for _ in range(MOST_FAILURES + 1):
        skip(oracle, oracle.create_trial("tuner0"))
    assert oracle.failures == 0 and not oracle.is_closed
    oracle = oracle_of(tmp_path / "search.json", kind=kind, max_trials=most)  # and goes on
    found = run_all(oracle)
    assert [trial.status for trial in found].count("COMPLETED") == trained
    assert len(oracle.skipped) == MOST_FAILURES + 1


def test_many_skipped_one_after_the_other_end_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tierwave.search.oracles.MOST_SKIPPED", 12)
    oracle = oracle_of(tmp_path / "search.json")
    for _ in range(12):
        assert not oracle.is_closed
        skip(oracle, oracle.create_trial("tuner0"))
    assert "do not fit into memory" in str(oracle.closed)


@pytest.mark.parametrize(("searched", "told"), [("q_levels=16,256", "q_levels decides"), ("dim=8,16", "")])
def test_likelihoods_of_different_codes_are_not_compared_without_a_remark(searched: str, told: str) -> None:
    assert told in "".join(space_of(searched).remarks()) and bool(space_of(searched).remarks()) == bool(told)


@pytest.mark.parametrize(("searched", "begins"), [("dim=8,16", False), ("learning_rate=0.001,0.002", True)])
def test_networks_of_several_sizes_begin_alike(searched: str, begins: bool) -> None:
    """Starting weights would fit some of them only."""
    space = space_of(searched, document={**SMALL, "start": True})
    assert [space.config_document(values)["start"] for values in space.possible(4)] == [begins] * 4
    assert ("begin from random weights" in "".join(space.remarks())) != begins
    assert "start" not in space_of(searched).config_document({})


@pytest.mark.parametrize("verbose", [False, True])
def test_what_is_said_of_recordings_is_said_once_in_a_search(verbose: bool) -> None:
    said: list[str] = []
    say = trial_lines(lambda text, rewrite: said.append(text), verbose)
    for trial in ("a", "b"):
        for text in ("Corpus: 2 recordings\n  a.wav: it is cut off", "Warning: it is short.", f"Epoch: 1 of {trial}"):
            say(text, False)
    once = ["  Corpus: 2 recordings\n    a.wav: it is cut off", "  Warning: it is short."]
    assert said == [*once, "  Epoch: 1 of a", "  Epoch: 1 of b"]


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", "[" * 100_000, '{"metrics": {"loss": 0.5, "epochs": 2}}'),
        *map(json.dumps, (sealed({"metrics": {"loss": "x"}}), sealed({"metrics": None}), sealed({}))),
    ],
)
def test_a_damaged_result_of_a_trial_is_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(sealed({"metrics": {"loss": 0.5, "epochs": 2}})))
    assert read_result(path) == {"loss": 0.5, "epochs": 2.0}
    path.write_text(content)
    with pytest.raises(RunError, match=r"result\.json is damaged \(.*\): delete it"):
        read_result(path)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"plan": {}}', json.dumps(sealed({"plan": []})), json.dumps(sealed({})), "[" * 100_000]
)
def test_a_damaged_search_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "search.json").write_text(content)
    with pytest.raises(RunError, match=r"search\.json is damaged \(.*\): its trials are still there"):
        read_plan(tmp_path / "search.json")
