"""tune.py from end to end: real trials, killed searches, a chief with its workers, and what a person can do wrong."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

import train
import tune
from commands import Capture, call, told
from tierwave.audio.writer import write_wav
from tierwave.config import read_document
from tierwave.data.demo import make_corpus
from tierwave.evaluation.likelihood import evaluate
from tierwave.family import load_config
from tierwave.files.documents import sealed
from tierwave.generation.load import load_run
from tierwave.runs.folder import Run, runs_of
from tierwave.search import trial as trials

pytestmark = [
    pytest.mark.usefixtures("eager"),
    pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning:keras_tuner"),
]

ROOT = Path(__file__).resolve().parents[2]
STEPS = 4  # of an epoch
CONFIG = {
    "seq_len": 16,
    "frame_sizes": [2, 4],
    "dim": 8,
    "num_rnn_layers": 1,
    "q_levels": 32,
    "emb_size": 4,
    "training": {"batch_size": 4, "learning_rate": 0.01, "jit": False, "num_steps": 1000},
}
SPACE = ["--frame_sizes", 2, 4, "--frame_sizes", 4, "--rnn_type", "gru", "lstm"]
SPACE += ["--search", "learning_rate=1e-3..1e-1:log"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus of three recordings and a config."""
    folder = tmp_path_factory.mktemp("tune")
    chance = np.random.default_rng(0)
    for number, samples in enumerate((100, 90, 70)):
        tone = 0.5 * np.sin(np.arange(samples) * (0.3 + 0.1 * number)) + 0.05 * chance.standard_normal(samples)
        write_wav(folder / "corpus" / f"{number}.wav", tone.astype(np.float32), 4000)
    (folder / "tiny.config.json").write_text(json.dumps(CONFIG))
    return folder


def command(folder: Path, identity: str, *flags: Any) -> list[str]:
    words = ["--id", identity, "--data_dir", folder / "corpus", "--logdir_root", folder / "logdir"]
    words += ["--config_file", folder / "tiny.config.json", "--type", "random_search", "--max_trials", 3]
    return [str(word) for word in [*words, "--num_epochs", 2, *flags]]


def searched(folder: Path, identity: str, *flags: Any, code: int = 0) -> Path:
    assert call(tune.main, command(folder, identity, *flags)) == code
    return folder / "logdir" / identity


def table_of(search: Path) -> list[dict[str, str]]:
    """The rows of trials.csv without the times they took."""
    with open(search / "trials.csv", encoding="utf-8", newline="") as file:
        return [{name: value for name, value in row.items() if name != "minutes"} for row in csv.DictReader(file)]


def run_of(search: Path, number: str) -> Run:
    (run,) = runs_of(search / "trials" / number)
    return run


def losses_of(run: Run) -> list[dict[str, str]]:
    with open(run.folder / "losses.csv", encoding="utf-8", newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """A search that nothing disturbed."""
    return searched(folder, "whole", *SPACE)


# Searches in one process -------------------------------------------------------------------------------------------


def test_a_search_ends_with_all_that_is_promised(folder: Path, whole: Path) -> None:
    rows = table_of(whole)
    assert [row["status"] for row in rows] == ["ended"] * 3
    scores = [float(row["val_loss"]) for row in rows]
    assert len(set(scores)) == 3 and all(0 < score < 10 for score in scores)
    assert imread(whole / "trials.png").shape[0] > 400
    assert sorted(path.name for path in (whole / "tensorboard").iterdir() if path.is_dir()) == ["0", "1", "2"]
    best = read_document(whole / "best.config.json")
    row = rows[int(np.argmin(scores))]
    assert best["training"]["learning_rate"] == float(row["training.learning_rate"])
    assert (json.dumps(best["frame_sizes"]), best["rnn_type"]) == (row["frame_sizes"], row["rnn_type"])
    assert "num_steps" not in best["training"]  # which may end a trial, not a training
    load_config(best, "best")


def test_the_best_config_trains_as_its_trial_did(folder: Path, whole: Path, capsys: Capture) -> None:
    words = ["--id", "best", "--data_dir", folder / "corpus", "--logdir_root", folder / "logdir", "--generate", "False"]
    words += ["--config_file", whole / "best.config.json", "--num_epochs", 2]
    assert call(train.main, words) == 0
    number = min(table_of(whole), key=lambda row: float(row["val_loss"]))["trial"]
    (again,) = runs_of(folder / "logdir" / "best")
    assert losses_of(again) == losses_of(run_of(whole, number))
    assert again.read("split.json") == run_of(whole, number).read("split.json")


def test_all_trials_hold_out_the_same_and_make_no_sounds(folder: Path, whole: Path) -> None:
    splits = [run_of(whole, number).read("split.json") for number in "012"]
    assert splits[0] == splits[1] == splits[2] and splits[0]["valid"]
    assert not list((whole / "trials").rglob("*.wav"))


def test_the_table_is_printed_with_the_best_first(folder: Path, whole: Path, capsys: Capture) -> None:
    searched(folder, "whole", *SPACE)  # there is nothing left to do but to tell
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("search.json: 3 trials have ended.")
    start = next(number for number, line in enumerate(lines) if line.split()[0] == "trial")
    scores = [float(line.split()[-3]) for line in lines[start + 1 : start + 4]]
    assert scores == sorted(scores)
    assert lines[-1].startswith(f"The best config is {whole / 'best.config.json'} (trial ")
    assert not any(line.startswith("Trial ") for line in lines)


@pytest.mark.slow
def test_early_stopping_ends_trials_and_the_best_epoch_counts(folder: Path) -> None:
    flags = ["--num_epochs", 30, "--early_stopping_patience", 2, "--max_trials", 1, "--search", "learning_rate=3,4"]
    search = searched(folder, "early", *flags)
    history = run_of(search, "0").read("trial.json")
    values = [row["val_loss"] for row in history["history"]]
    assert len(values) == int(np.argmin(values)) + 3 < 30
    assert "has not improved for 2 epochs" in history["reason"]
    assert float(table_of(search)[0]["val_loss"]) == pytest.approx(min(values))


@pytest.mark.slow
def test_hyperband_goes_on_with_a_trial_exactly_where_it_stood(folder: Path, capsys: Capture) -> None:
    words = command(folder, "band", "--search", "learning_rate=1e-3..1e-1:log", "--num_epochs", 3)
    assert call(tune.main, [*words, "--type", "hyperband", "--max_trials", "4"]) == 0
    assert "(3 epochs on from trial " in capsys.readouterr().out
    search = folder / "logdir" / "band"
    rows = {row["trial"]: row for row in table_of(search)}
    assert [float(row["epochs"]) for row in rows.values()] == [1, 1, 1, 3]
    first = min("012", key=lambda number: float(rows[number]["val_loss"]))
    assert rows["3"]["training.learning_rate"] == rows[first]["training.learning_rate"]
    assert not runs_of(search / "trials" / "3")  # its run is that of the trial it goes on with
    words = ["--id", "straight", "--data_dir", folder / "corpus", "--logdir_root", folder / "logdir"]
    words += ["--config_file", folder / "tiny.config.json", "--num_epochs", 3, "--generate", "False"]
    assert call(train.main, [*words, "--learning_rate", rows["3"]["training.learning_rate"]]) == 0
    (straight,) = runs_of(folder / "logdir" / "straight")
    assert losses_of(run_of(search, first)) == losses_of(straight)


def test_trials_of_equal_time_are_measured_where_they_end(folder: Path) -> None:
    flags = ["--objective", "val_loss_at_equal_time", "--max_minutes_per_trial", 1e-6, "--max_trials", 1]
    search = searched(folder, "equal", *flags, "--search", "dim=8,16")
    (row,) = table_of(search)
    assert (float(row["epochs"]), float(row["steps"])) == (0.0, 1.0)
    run = run_of(search, "0")
    found = evaluate(load_run(run.folder), part="valid").total.bits_per_sample * np.log(2)
    assert float(row["val_loss_at_equal_time"]) == pytest.approx(found, rel=1e-3)  # its windows begin otherwise


@pytest.mark.slow
def test_a_trial_that_ends_in_mid_epoch_by_steps_is_measured_too(folder: Path) -> None:
    flags = ["--max_trials", 2, "--search", "frame_sizes=[2,4],[2,16]", "--objective", "val_accuracy"]
    search = searched(folder, "steps", *flags, "--set", f"training.num_steps={STEPS + 2}")
    assert run_of(search, "0").read("split.json") == run_of(search, "1").read("split.json")
    for row in table_of(search):
        history = run_of(search, row["trial"]).read("trial.json")["history"]
        assert [entry["epoch"] for entry in history] == [1, 2]
        assert float(row["val_accuracy"]) == pytest.approx(max(entry["val_accuracy"] for entry in history))


def test_a_trial_that_diverges_is_failed_with_its_reason_and_others_go_on(folder: Path, capsys: Capture) -> None:
    flags = ["--search", "learning_rate=0.01,1e30", "--optimizer", "sgd", "--max_trials", 2, "--num_epochs", 1]
    search = searched(folder, "ill", *flags, "--set", "gradient_clip=null", "training.precision=float32")
    rows = {row["training.learning_rate"]: row for row in table_of(search)}
    assert rows["0.01"]["status"] == "ended" and rows["1e+30"]["status"] == "failed"
    assert "became nan at step" in rows["1e+30"]["reason"]
    assert f"Trial {rows['1e+30']['trial']} failed: the " in capsys.readouterr().out
    before = table_of(search)
    searched(folder, "ill", *flags, "--set", "gradient_clip=null", "training.precision=float32")
    assert table_of(search) == before  # it is not tried again


@pytest.mark.slow
def test_a_cascade_is_judged_by_all_its_tiers_or_by_one(folder: Path) -> None:
    make_corpus(folder / "tones", sample_rate=4000, pitches=[50, 52], loudnesses=[0.5, 1.0], seconds=0.2)
    small = {"hidden_size": 4, "num_layers": 1}
    up = {"name": "up", "generates": ["a"], "conditioned_on": ["p"], "rate": 100, "seq_len": 4, **small}
    sound = {"name": "sound", "conditioned_on": ["a"], "seq_len": 16, "q_levels": 16, **small}
    config = {"model": "cascade", "tiers": [up, sound], "training": CONFIG["training"]}
    (folder / "cascade.config.json").write_text(json.dumps(config))
    flags = ["--data_dir", folder / "tones", "--config_file", folder / "cascade.config.json", "--num_epochs", 1]
    flags += ["--search", "tiers.1.hidden_size=4,6", "--max_trials", 1]
    search = searched(folder, "tiers", *flags)
    (row,) = table_of(search)
    run = run_of(search, "0")
    parts = [Run(run.folder / name).read("trial.json") for name in ("up", "sound")]
    values = [part["history"][0]["val_loss"] for part in parts]
    weights = [part["elements"] for part in parts]
    assert weights[1] > 5 * weights[0] > 0
    assert float(row["val_loss"]) == pytest.approx(np.average(values, weights=weights), rel=1e-6)
    one = searched(folder, "tier", *flags, "--stage", "up")
    assert not (run_of(one, "0").folder / "sound").exists()
    assert float(table_of(one)[0]["val_loss"]) == pytest.approx(values[0], rel=1e-6)
    assert read_document(one / "best.config.json")["tiers"][1]["hidden_size"] in (4, 6)


# Interrupted ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_signal_gives_the_trial_back_and_the_same_command_goes_on_exactly(
    folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    look = trials.Watch.on_step_end

    def ended(watch: Any, trainer: Any, results: Any) -> None:
        look(watch, trainer, results)
        if trainer.progress.step == STEPS + 1 and trainer.run.folder.parent.name == "1":
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(trials.Watch, "on_step_end", ended)
    search = searched(folder, "signal", *SPACE, code=128 + signal.SIGTERM)
    monkeypatch.undo()
    assert [row["status"] for row in table_of(search)] == ["ended", "unfinished"]
    assert (search / "best.config.json").exists()
    assert "The search stopped; the same command goes on." in capsys.readouterr().out
    searched(folder, "signal", *SPACE)
    heard = rf"resume\.ckpt-({STEPS + 1}|{STEPS + 2}) "  # where it heard the signal
    assert re.search(rf"Going on from \S+/{heard}", capsys.readouterr().out)
    assert table_of(search) == table_of(whole)


@pytest.mark.slow
def test_when_its_time_is_over_a_search_stops_and_goes_on_later(folder: Path, whole: Path, capsys: Capture) -> None:
    search = searched(folder, "time", *SPACE, "--max_minutes", 1e-6)
    out = capsys.readouterr().out
    assert "The search stopped, since its time is over; the same command goes on." in out
    assert not (search / "best.config.json").exists()
    searched(folder, "time", *SPACE)
    assert table_of(search) == table_of(whole)


def wait_for(found: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not found():
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.05)


def started(words: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    return subprocess.Popen([sys.executable, str(ROOT / "tune.py"), *words], **pipes)


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_where_it_stood_inside_a_trial_too(
    folder: Path, whole: Path, capsys: Capture
) -> None:
    # The trial that is killed would take for ever: it is the first that has a checkpoint of its own.
    words = command(folder, "killed", *SPACE)
    process = started(words)
    search = folder / "logdir" / "killed"
    wait_for(lambda: bool(list((search / "trials" / "1").glob("*/checkpoints.json"))), process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    assert call(tune.main, words) == 0
    out = capsys.readouterr().out
    assert "Going on with" in out and "Trial 2: " in out and "Trial 0" not in out
    assert len(runs_of(search / "trials" / "1")) == 1
    assert table_of(search) == table_of(whole)
    assert read_document(search / "best.config.json") == read_document(whole / "best.config.json")


@pytest.mark.slow
def test_a_trial_that_is_killed_for_want_of_memory_again_and_again_is_given_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "memory_kills", lambda: ["this boot", 8])
    search = folder / "logdir" / "again"
    # Trial 1 was killed by somebody, and trial 2 by a reboot.
    for number, system in enumerate((["this boot", 7], ["this boot", 8], ["an earlier boot", 5])):
        (search / "trials" / str(number)).mkdir(parents=True)
        document = {"step": 0, "kills": 2, "system": system}
        (search / "trials" / str(number) / "attempts.json").write_text(json.dumps(sealed(document)))
    searched(folder, "again", *SPACE, "--max_trials", 3, "--num_epochs", 1)
    rows = table_of(search)
    assert [row["status"] for row in rows] == ["failed", "ended", "ended"]
    assert "killed 3 times at step 0 when memory ran out" in rows[0]["reason"]
    assert not list((search / "trials").glob("*/attempts.json"))


# Chief and workers -----------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    running: list[subprocess.Popen[str]] = []
    yield running
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_chief_and_two_workers_one_of_which_dies_find_what_one_process_finds(
    folder: Path, whole: Path, processes: list[subprocess.Popen[str]]
) -> None:
    search, address = folder / "logdir" / "crew", f"127.0.0.1:{free_port()}"
    crew = ["--chief", address, "--timeout", "5"]
    chief = started(command(folder, "crew", *SPACE, "--role", "chief", *crew))
    processes.append(chief)
    worker = ["--role", "worker", "--id", "crew", "--data_dir", str(folder / "corpus")]
    worker += ["--logdir_root", str(folder / "logdir"), *crew, "--timeout", "60"]
    workers = [started(worker) for _ in range(2)]
    processes += workers

    def number_of(process: subprocess.Popen[str]) -> str | None:
        trials_now = json.loads((search / "search.json").read_text())["oracle"]["ongoing_trials"]
        return next((trial for name, trial in trials_now.items() if name.endswith(f"-{process.pid}")), None)

    wait_for(lambda: (search / "search.json").exists(), chief)
    wait_for(lambda: number_of(workers[0]) is not None, chief)
    lost = number_of(workers[0])
    workers[0].send_signal(signal.SIGKILL)
    out, err = chief.communicate(timeout=200)
    assert chief.returncode == 0, err
    assert f"Trial {lost} is given back: nothing was heard of " in out and f"Trial {lost} again: " in out
    assert workers[1].wait(timeout=30) == 0
    ours, theirs = table_of(search), table_of(whole)
    for mine, other in zip(ours, theirs, strict=True):
        for name, value in other.items():
            try:  # numbers travel as float32
                assert float(mine[name]) == pytest.approx(float(value), rel=1e-6)
            except ValueError:
                assert mine[name] == value
    assert read_document(search / "best.config.json") == read_document(whole / "best.config.json")


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tune.py sets for Keras Tuner is gone after the test."""
    for name in ("ORACLE_IP", "ORACLE_PORT", "TUNER_ID"):
        monkeypatch.setenv(f"KERASTUNER_{name}", "")
    monkeypatch.setenv("no_grpc_proxy", "127.0.0.1")


@pytest.mark.usefixtures("clean_environment")
def test_a_chief_that_cannot_be_reached_is_told_in_time(folder: Path, capsys: Capture) -> None:
    begun = time.monotonic()
    words = ["--role", "worker", "--chief", f"127.0.0.1:{free_port()}", "--data_dir", folder / "corpus"]
    sentence = told(capsys, tune.main, [*words, "--timeout", 1], 1)
    assert "no chief answers at 127.0.0.1:" in sentence and "--role chief" in sentence
    assert time.monotonic() - begun < 60


@pytest.mark.usefixtures("clean_environment")
def test_a_worker_without_the_plan_is_told_where_it_lies(folder: Path, capsys: Capture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as chief:
        words = ["--role", "worker", "--chief", f"127.0.0.1:{chief.getsockname()[1]}", "--id", "elsewhere"]
        sentence = told(capsys, tune.main, [*words, "--data_dir", folder / "corpus", "--logdir_root", folder], 2)
    assert "search.json does not exist" in sentence and "copy the chief's search.json there" in sentence


@pytest.mark.usefixtures("clean_environment")
def test_a_port_that_is_taken_is_told(folder: Path, capsys: Capture) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        words = command(folder, "taken", *SPACE, "--role", "chief", "--chief", f"127.0.0.1:{port}")
        capsys.readouterr()
        assert call(tune.main, words) == 1
    assert "cannot be listened on" in capsys.readouterr().err


# Wrong use -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        (["--search", "dimm=3,4"], 2, "--search dimm: there is no such key; did you mean dim?"),
        (["--search", "dim=64..8"], 2, "is an empty range"),
        (["--search", "dim"], 2, "is not KEY=VALUES"),
        ([], 2, "there is nothing to search"),
        (["--dim", 8, "--search", "dim=16,32"], 2, "dim is searched twice"),
        (["--dim", 8, 8], 2, "--dim: 8 stands twice"),
        (["--dim", "x"], 2, "--dim: 'x' is not a whole number"),
        (["--rnn_type", "gruu"], 2, "rnn_type is \"gruu\", but must be 'gru' or 'lstm'"),
        (["--frame_sizes", 4, 2], 2, "no combination of what is searched can be trained"),
        (["--dim", 8, "--type", "grid"], 2, "--type: 'grid' is none of bayesian, random_search, hyperband"),
        (["--dim", 8, "--objective", "beauty"], 2, "--objective: 'beauty' is none of val_loss"),
        (["--dim", 8, "--objective", "val_loss_at_equal_time"], 2, "add --max_minutes_per_trial"),
        (
            ["--dim", 8, "--objective", "val_loss_at_equal_time", "--type", "hyperband", "--max_minutes", 1],
            2,
            "exclude each other",
        ),
        (["--dim", 8, "--val_frac", 0], 2, "--objective val_loss needs held-out recordings, and --val_frac is 0"),
        (["--dim", 8, "--val_frac", 1.5], 2, "--val_frac is 1.5, but must be less than 1"),
        (["--dim", 8, "--max_trials", 0], 2, "--max_trials 0 must be more than 0"),
        (["--dim", 8, "--max_minutes", -1], 2, "--max_minutes -1.0 must be more than 0"),
        (["--dim", 8, "--early_stopping_patience", -1], 2, "--early_stopping_patience is -1, but must be at least 0"),
        (["--dim", 8, "--random_seed", -1], 2, "--random_seed is -1"),
        (["--dim", 8, "--data_dir", "nowhere"], 2, "--data_dir nowhere is no folder"),
        (["--dim", 8, "--config_file", "no.config.json"], 2, "no.config.json does not exist"),
        (["--dim", 8, "--set", "dimm=3"], 2, "dimm (value 3) is not a key here; did you mean dim?"),
        (["--dim", 8, "--stage", "tier1"], 2, "--stage tier1: the config has"),
        (["--dim", 8, "--role", "boss"], 2, "--role: 'boss' is none of chief, worker"),
        (["--dim", 8, "--role", "chief", "--chief", "nowhere"], 2, "--chief nowhere is not HOST:PORT"),
        (["--dim", 8, "--role", "worker", "--chief", "host:99999"], 2, "--chief host:99999 is not HOST:PORT"),
        (["--dim", 8, "--id", "a/b"], 2, "--id 'a/b' must be a plain name"),
        (["--dimm", 8], 2, "--dimm is not a flag; did you mean --dim?"),
    ],
)  # fmt: skip
def test_wrong_use_is_answered_by_one_sentence(
    folder: Path, capsys: Capture, flags: list[Any], code: int, sentence: str
) -> None:
    words = command(folder, "wrong", *flags)
    assert sentence in told(capsys, tune.main, words, code)
    assert not (folder / "logdir" / "wrong" / "search.json").exists()


def test_recordings_are_needed_and_must_be_there(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    assert "--data_dir is missing" in told(capsys, tune.main, ["--dim", 8], 2)
    assert "--data_dir is missing" in told(capsys, tune.main, ["--role", "worker"], 2)
    assert "holds no recordings" in told(capsys, tune.main, ["--dim", 8, 16, "--data_dir", tmp_path], 2)


def test_without_keras_tuner_it_says_how_to_install_it(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'tierwave[tune]'" in told(capsys, tune.main, command(folder, "without", *SPACE), 2)


def test_another_search_of_the_same_id_is_refused_or_put_aside(folder: Path, whole: Path, capsys: Capture) -> None:
    copy = folder / "logdir" / "other"
    shutil.copytree(whole, copy)
    sentence = told(capsys, tune.main, command(folder, "other", *SPACE, "--num_epochs", 1), 2)
    assert "num_epochs: 2 -> 1" in sentence and "--resume False" in sentence
    sentence = told(capsys, tune.main, command(folder, "other", "--dim", 8), 2)
    assert "search.frame_sizes" in sentence and "search.dim" in sentence
    searched(folder, "other", "--dim", 8, 16, "--max_trials", 1, "--num_epochs", 1, "--resume", "False")
    (aside,) = copy.glob("before_*")
    assert (aside / "best.config.json").exists() and len(table_of(aside)) == 3
    assert len(table_of(copy)) == 1


def test_two_searches_of_one_id_do_not_run_side_by_side(folder: Path, whole: Path, capsys: Capture) -> None:
    from tierwave.runs.folder import only_training

    with only_training(folder / "logdir", "whole"):
        sentence = told(capsys, tune.main, command(folder, "whole", *SPACE), 1)
    assert "another training with --id whole is running" in sentence


@pytest.mark.slow
def test_networks_that_cannot_fit_are_skipped_and_neither_trials_nor_failures(folder: Path, capsys: Capture) -> None:
    flags = ["--search", "dim=8,100000,110000,120000,130000,140000,150000", "learning_rate=0.001,0.01"]
    search = searched(folder, "large", *flags, "--max_trials", 2, "--num_epochs", 1)
    out = capsys.readouterr().out
    rows = table_of(search)
    assert sorted(row["dim"] for row in rows if row["status"] == "ended") == ["8", "8"]
    skipped = [row for row in rows if row["status"] == "skipped"]
    assert skipped and all("of memory, and" in row["reason"] for row in skipped)
    assert f"Trial {skipped[0]['trial']} is skipped: " in out and "failed" not in out
    assert not runs_of(search / "trials" / skipped[0]["trial"])
    assert "To train it: python train.py --id large_best --data_dir" in out


def test_where_no_network_fits_it_is_a_sentence(folder: Path, capsys: Capture) -> None:
    capsys.readouterr()
    assert call(tune.main, command(folder, "too_large", "--search", "dim=100000,110000")) == 1
    assert "none of 2 networks fits into memory; the last one, 1: " in capsys.readouterr().err


def test_the_best_of_nothing_is_a_sentence(folder: Path, capsys: Capture) -> None:
    flags = ["--search", "learning_rate=1e29,1e30", "--optimizer", "sgd", "--set", "gradient_clip=null"]
    capsys.readouterr()
    assert call(tune.main, command(folder, "nothing", *flags)) == 1
    captured = capsys.readouterr()
    assert "there is no best config, since all 2 trials failed; the last one, " in captured.err
    assert captured.err.count("\n") == 1 and "failed" in captured.out
    assert not (folder / "logdir" / "nothing" / "best.config.json").exists()


@pytest.mark.slow
def test_an_objective_that_the_model_lacks_fails_with_the_remedy(folder: Path, capsys: Capture) -> None:
    config = {"model": "conditioning", "generates": ["a"], "conditioned_on": ["p"], "rate": 100, "seq_len": 4}
    config |= {"hidden_size": 4, "num_layers": 1}
    make_corpus(folder / "bits", sample_rate=4000, pitches=[50, 52], loudnesses=[0.5, 1.0], seconds=0.2)
    (folder / "curve.config.json").write_text(json.dumps({**config, "training": CONFIG["training"]}))
    flags = ["--data_dir", folder / "bits", "--config_file", folder / "curve.config.json", "--max_trials", 1]
    flags += ["--search", "hidden_size=4,6", "--num_epochs", 1]
    sentence = told(capsys, tune.main, command(folder, "accuracy", *flags, "--objective", "val_accuracy"), 2)
    assert "take val_loss" in sentence
    capsys.readouterr()
    assert call(tune.main, command(folder, "bits", *flags, "--objective", "val_bits")) == 1
    assert "has no bits; take val_loss" in capsys.readouterr().err
