"""Several devices and processes train as one does: the same losses, the same files, whoever is killed."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import train
from commands import call
from tierwave.audio.writer import write_wav
from tierwave.errors import UsageError
from tierwave.runs.folder import Run, runs_of
from tierwave.system.tasks import Task, task_of
from tierwave.training.devices import Devices, make_devices

pytestmark = pytest.mark.timeout(900)  # processes that start TensorFlow, on a machine with other work

ROOT = Path(__file__).parents[2]
RATE = 8000
OPTIONS = {"batch_size": 4, "learning_rate": 0.01, "generate": False, "num_steps": 20, "early_stopping_patience": None}
FAMILIES: dict[str, dict[str, Any]] = {
    "samplernn": {
        "model": "samplernn",
        **{"seq_len": 32, "frame_sizes": [4], "dim": 8, "rnn_type": "gru", "num_rnn_layers": 1, "q_levels": 16},
        "training": {**OPTIONS, "jit": True},
    },
    "conditioning": {
        "model": "conditioning",
        **{"seq_len": 32, "hidden_size": 6, "num_layers": 1, "q_levels": 16},
        "training": {**OPTIONS, "jit": False},
    },
    "melnet": {
        "model": "melnet",
        "audio": {"n_fft": 128, "win_length": 128, "hop_length": 64, "mel_channels": 8},
        **{"tiers": 2, "layers": [1, 1], "hidden_size": 5, "mixtures": 2, "seq_len": 8},
        "training": {**OPTIONS, "jit": False},
    },
}
# Devices are divided before TensorFlow starts.
TWO_DEVICES = """
import tensorflow as tf

(processor,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
"""
JOBS = "import json, sys, train\nfor words in json.loads(sys.argv[1]):\n    assert train.main(words) == 0, words\n"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Studio:
    """A small corpus, a config per family, and commands that train on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        for number in range(3):
            time = np.arange(4000 + 500 * number) / RATE
            tone = 0.4 * np.sin(2 * np.pi * (200 + 150 * number) * time) + 0.05 * rng.standard_normal(len(time))
            write_wav(folder / "tones" / f"{number}.wav", tone.astype(np.float32), RATE)
        for name, config in FAMILIES.items():
            (folder / f"{name}.config.json").write_text(json.dumps(config))

    def words(self, family: str, identity: str, *more: Any) -> list[str]:
        given = ["--id", identity, "--data_dir", self.folder / "tones", "--logdir_root", self.folder / "logdir"]
        given += ["--output_dir", self.folder / "generated", "--config_file", self.folder / f"{family}.config.json"]
        return [str(word) for word in [*given, "--verbose", *more]]

    def run(self, identity: str) -> Run:
        return runs_of(self.folder / "logdir" / identity)[-1]

    def losses(self, identity: str) -> list[float]:
        """Of every step, of all stages in turn."""
        found = []
        for stage in sorted(self.run(identity).stages, key=lambda each: each.folder.name):
            with open(stage.folder / "losses.csv", encoding="utf-8", newline="") as file:
                found += [float(row["loss"]) for row in csv.DictReader(file) if row["gradient_norm"]]
        return found

    def start(self, commands: Sequence[Sequence[Sequence[str]]]) -> list[subprocess.Popen[str]]:
        """One process per worker, each with its commands in turn."""
        cluster = {"worker": [f"127.0.0.1:{free_port()}" for _ in commands]}
        started = []
        for index, jobs in enumerate(commands):
            config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
            started.append(
                subprocess.Popen(
                    [sys.executable, "-c", JOBS, json.dumps(jobs)],
                    env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CONFIG": json.dumps(config)},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        return started

    def together(self, *jobs: Sequence[str]) -> list[str]:
        """What two workers say that do the same jobs."""
        with ended(self.start([jobs, jobs])) as workers, ThreadPoolExecutor() as threads:

            def heard(worker: subprocess.Popen[str]) -> str:
                words = worker.communicate(timeout=600)[0]
                if worker.returncode != 0:  # for which the other would wait
                    for each in workers:
                        each.kill()
                return words

            said = list(threads.map(heard, workers))
            assert [worker.returncode for worker in workers] == [0, 0], said
        return said


@contextlib.contextmanager
def ended(workers: list[subprocess.Popen[str]]) -> Iterator[list[subprocess.Popen[str]]]:
    try:
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def weights(run: Run, name: str) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(run.folder / name))
    kept = [key for key in reader.get_variable_to_shape_map() if key.startswith(("model/", "optimizer/"))]
    return {key: reader.get_tensor(key) for key in kept}


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(tmp_path_factory.mktemp("devices"))


@pytest.fixture(scope="module")
def alone(studio: Studio) -> Studio:
    """Every family trained by one process, and a run of 8 steps that others go on from."""
    for family in FAMILIES:
        assert call(train.main, studio.words(family, f"{family}_one")) == 0
    assert call(train.main, studio.words("samplernn", "half", "--num_steps", 8)) == 0
    return studio


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(alone: Studio) -> None:
    jobs = [alone.words(family, f"{family}_two", "--strategy", "multiworker") for family in FAMILIES]
    jobs.append(alone.words("samplernn", "half", "--strategy", "multiworker", "--num_steps", 20))
    chief, other = alone.together(*jobs)
    assert "2 replicas on 2 workers" in chief and "Epoch" not in other
    for family in FAMILIES:
        one, two = alone.losses(f"{family}_one"), alone.losses(f"{family}_two")
        assert len(one) == len(two) == 20 * (2 if family == "melnet" else 1)
        np.testing.assert_allclose(two, one, atol=1e-5, err_msg=family)
        assert len(list((alone.folder / "logdir" / f"{family}_two").glob("*/log.txt"))) == 1
    # Begun by one process, ended by two.
    np.testing.assert_allclose(alone.losses("half"), alone.losses("samplernn_one"), atol=1e-5)
    # And the other way round.
    words = alone.words("samplernn", "samplernn_two", "--num_steps", 24, "--strategy", "one")
    assert call(train.main, words) == 0
    assert call(train.main, alone.words("samplernn", "samplernn_one", "--num_steps", 24)) == 0
    np.testing.assert_allclose(alone.losses("samplernn_two"), alone.losses("samplernn_one"), atol=1e-5)
    assert len(alone.losses("samplernn_two")) == 24


LONGER = ["--checkpoint_steps", 4, "--num_steps", 24, "--set", "rnn_dropout=0.3"]


@pytest.fixture(scope="module")
def undisturbed(studio: Studio) -> Run:
    studio.together(studio.words("samplernn", "whole", "--strategy", "multiworker", *LONGER))
    return studio.run("whole")


def the_same(one: Run, other: Run) -> None:
    assert [run.latest().step for run in (one, other)] == [24, 24]
    ours, theirs = (weights(run, run.latest().name) for run in (one, other))
    assert ours.keys() == theirs.keys() and len(ours) > 10
    for name, value in ours.items():
        np.testing.assert_array_equal(theirs[name], value, err_msg=name)


@pytest.mark.slow
def test_two_devices_of_one_process_learn_what_one_learns(alone: Studio) -> None:
    jobs = [alone.words(family, f"{family}_mirrored", "--strategy", "mirrored") for family in FAMILIES]
    command = [sys.executable, "-c", TWO_DEVICES + JOBS, json.dumps(jobs)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 replicas") == 4
    for family in FAMILIES:
        one, two = alone.losses(f"{family}_one"), alone.losses(f"{family}_mirrored")
        np.testing.assert_allclose(two, one[: len(two)], atol=1e-5, err_msg=family)
        assert len(two) >= 20


@pytest.mark.slow
def test_a_worker_is_killed_and_training_goes_on_to_the_same_weights(studio: Studio, undisturbed: Run) -> None:
    killed = studio.words("samplernn", "killed", "--strategy", "multiworker", *LONGER)
    with ended(studio.start([[killed], [killed]])) as workers:
        for line in workers[0].stdout or []:
            if "Step: 10/" in line:
                break
        workers[1].send_signal(signal.SIGKILL)
        began = time.monotonic()
        said = workers[0].communicate(timeout=120)[0]
        assert workers[0].returncode != 0, said
        assert time.monotonic() - began < 100
    assert Run(studio.run("killed").folder).latest().step < 24
    studio.together(killed)
    the_same(undisturbed, studio.run("killed"))
    np.testing.assert_array_equal(studio.losses("killed"), studio.losses("whole"))


def descendants(process: int) -> dict[int, str]:
    """The command lines of all processes below one."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    found: dict[int, str] = {}
    below = {process}
    while below:
        below = {child for child, parent in parents.items() if parent in below}
        found.update((child, names.get(child, "")) for child in below)
    return found


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None or not Path("/proc").exists(), reason="needs Ray and Linux")
def test_ray_starts_all_workers_again_when_one_is_killed(studio: Studio, undisturbed: Run) -> None:
    words = studio.words("samplernn", "ray", "--cluster", "local", "--num_workers", 2, *LONGER)
    command = [sys.executable, ROOT / "train.py", *words]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said, victim = [], None
    with ended([driver]):
        for line in driver.stdout or []:
            said.append(line)
            if victim is None and "Step: 6/" in line:
                workers = [each for each, name in descendants(driver.pid).items() if "RayTrainWorker" in name]
                assert len(workers) == 2, descendants(driver.pid)
                victim = max(workers)
                os.kill(victim, signal.SIGKILL)
        assert driver.wait() == 0, "".join(said)
    assert any("Failure 1: worker " in line for line in said), "".join(said)
    assert any("Going on from" in line for line in said), "".join(said)
    the_same(undisturbed, studio.run("ray"))


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cluster", "127.0.0.1:1"], "--cluster 127.0.0.1:1: there is no Ray cluster to work on"),
        (["--cluster", "local", "--num_workers", "0"], "--num_workers 0 must be 1 or more"),
        (["--num_workers", "2"], "--num_workers 2 is of a cluster: add --cluster local"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_clusters_that_cannot_be(
    studio: Studio, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert call(train.main, studio.words("samplernn", "none", *words)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_workers_with_other_recordings_or_configs_are_refused(studio: Studio) -> None:
    elsewhere = Studio(studio.folder / "elsewhere")
    write_wav(elsewhere.folder / "tones" / "2.wav", np.sin(np.arange(5100)).astype(np.float32) * 0.3, RATE)
    words = studio.words("samplernn", "refused", "--strategy", "multiworker")
    other = [str(elsewhere.folder / "tones") if word == str(studio.folder / "tones") else word for word in words]
    with ended(studio.start([[words], [[*other, "--learning_rate", "0.5"]]])) as workers:
        said = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [1, 1]
    for text in said:
        sentence = next(line for line in text.splitlines() if "worker 1 would train something else" in line)
        assert "learning_rate: 0.01 -> 0.5" in sentence and "sound: " in sentence and "samples" in sentence, sentence
    assert not runs_of(studio.folder / "logdir" / "refused")
    shutil.rmtree(elsewhere.folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "TF_CONFIG is not JSON"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}}', "the objects cluster and task"),
        ('{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "ps", "index": 0}}', 'the type "ps"'),
        ('{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}', "list the workers as HOST:PORT"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "0 chief and 1 workers"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": "0"}}', "its own type and index"),
    ],
)
def test_a_wrong_tf_config(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        task_of({"TF_CONFIG": text})
    monkeypatch.setenv("TF_CONFIG", text)
    assert call(train.main, studio.words("samplernn", "wrong", "--strategy", "multiworker")) == 2
    assert message in capsys.readouterr().err


@given(st.integers(0, 2), st.integers(1, 5), st.data())
def test_tasks_are_numbered_chief_first(chiefs: int, workers: int, data: st.DataObject) -> None:
    cluster: dict[str, Any] = {"worker": [f"w:{number}" for number in range(workers)]}
    if chiefs:
        cluster["chief"] = [f"c:{number}" for number in range(chiefs)]
    kind = data.draw(st.sampled_from(sorted(cluster)))
    index = data.draw(st.integers(0, len(cluster[kind]) - 1))
    found = task_of({"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})})
    assert found == Task(index + (chiefs if kind == "worker" else 0), chiefs + workers)


def test_no_tf_config_is_one_process() -> None:
    for text in ("", " ", "{}"):
        assert task_of({"TF_CONFIG": text}) == Task()
    alone = Devices()
    assert (
        alone.is_chief
        and alone.texts("é") == ["é"]
        and alone.total([1.5]) == [1.5]
        and alone.local_lanes(7) == slice(0, 7)
    )


def test_strategies_that_do_not_fit_tf_config() -> None:
    with pytest.raises(UsageError, match="needs the environment variable TF_CONFIG"):
        make_devices("multiworker", {})
    two = {"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'}
    with pytest.raises(UsageError, match="names 2 workers, and --strategy one would train each by itself"):
        make_devices("one", two)


def test_sums_of_many_shapes_are_right_and_warn_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr(tf.get_logger(), "warning", lambda text, *_, **__: warned.append(str(text)))
    devices = Devices(task=Task(0, 2))  # alone on a strategy of one
    devices.local = 1
    for shape in [(0,), (), (1,), (2,), (3, 4), (16,), (17,), (2, 64), (129,), (1000,), (5, 5)]:
        array = np.random.default_rng(0).random(shape)
        np.testing.assert_array_equal(devices.total(array), array)
    assert warned == []
