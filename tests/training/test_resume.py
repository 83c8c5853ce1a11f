"""Training that is killed, stopped or out of disk space, and goes on as if nothing had happened.

The kills are real ones, of processes of their own; what needs no process of its own runs in this one.
"""

from __future__ import annotations

import csv
import gc
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import train
from tierwave.audio.writer import write_wav
from tierwave.errors import UsageError
from tierwave.runs.folder import Run, only_training, runs_of
from tierwave.runs.tensors import read_progress

# What runs in this process trains a few steps at a time; the chains of kills are processes that train with graphs.
pytestmark = pytest.mark.usefixtures("eager")

ROOT = Path(__file__).resolve().parents[2]
STEPS = 7  # of an epoch
CONFIG = {
    "seq_len": 16,
    "frame_sizes": [2, 4],
    "dim": 8,
    "num_rnn_layers": 2,
    "q_levels": 32,
    "emb_size": 4,
    "rnn_dropout": 0.3,
    "training": {
        "batch_size": 4,
        "learning_rate": 0.01,
        "reduce_learning_rate_after": 1,
        "early_stopping_patience": 3,
        "generate": False,
        "jit": False,
    },
}
LAST = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus of three recordings and a config."""
    folder = tmp_path_factory.mktemp("resume")
    random = np.random.default_rng(0)
    for number, samples in enumerate((170, 160, 110)):
        tone = 0.5 * np.sin(np.arange(samples) * (0.3 + 0.1 * number)) + 0.05 * random.standard_normal(samples)
        write_wav(folder / "corpus" / f"{number}.wav", tone.astype(np.float32), 4000)
    (folder / "tiny.config.json").write_text(json.dumps(CONFIG))
    return folder


def command(folder: Path, identity: str, *flags: Any, logdir: str = "logdir") -> list[str]:
    words = ["--id", identity, "--data_dir", folder / "corpus", "--logdir_root", folder / logdir]
    words += ["--output_dir", folder / "generated", "--config_file", folder / "tiny.config.json", *flags]
    return [str(word) for word in words]


def run_of(folder: Path, identity: str) -> Run:
    return runs_of(folder / "logdir" / identity)[-1]


def steps_of(run: Run) -> dict[int, list[str]]:
    """Rows of losses.csv by step, without the times they took; a step that stands twice is an error."""
    rows: dict[int, list[str]] = {}
    with open(run.folder / "losses.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["gradient_norm"]:
                assert int(row["step"]) not in rows
                rows[int(row["step"])] = [value for name, value in row.items() if name != "seconds"]
    return rows


def epochs_of(run: Run) -> list[list[str]]:
    with open(run.folder / "losses.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["gradient_norm"]]
    return [[value for name, value in row.items() if name != "seconds"] for row in rows]


def tensors_of(run: Run, name: str | None = None) -> dict[str, np.ndarray]:
    """All numbers of a checkpoint (the newest) by name: weights, optimiser, recurrent state."""
    reader = tf.train.load_checkpoint(str(run.folder / (name or run.latest().name)))
    names = [key for key in reader.get_variable_to_shape_map() if not key.startswith(("progress", "_CHECKPOINTABLE"))]
    return {key: reader.get_tensor(key) for key in names}


def progress_of(run: Run) -> dict[str, Any]:
    progress = read_progress(run.folder / run.latest().name)
    return {name: value for name, value in progress.items() if name not in ("seconds", "run")}


def learning_rate_of(run: Run) -> float:
    return float(next(value for name, value in tensors_of(run).items() if "learning_rate" in name))


# Killed ----------------------------------------------------------------------------------------------------------

# train.py, which ends itself at a step, or in the checkpoint that is written after it.
DRIVER = """
import os, shutil, signal, sys

sys.path.insert(0, sys.argv[1])
moment, at = sys.argv[2], int(sys.argv[3])

import tensorflow as tf
from tensorflow.python.ops import gen_io_ops

import train
from tierwave.runs import folder as runs
from tierwave.training import loop as training


def end(number=signal.SIGKILL):
    os.kill(os.getpid(), number)


def before(owner, name, act):
    original = getattr(owner, name)

    def patched(*arguments, **options):
        act(*arguments)
        return original(*arguments, **options)

    setattr(owner, name, patched)


saving = recording = False


def note_recording(*_):
    global recording
    recording = saving


def note_saving(trainer, name):
    global saving
    saving = trainer.progress.step == at


def if_saving(act):
    return lambda *arguments: act(*arguments) if saving else None


def only_the_data(checkpoint, path):
    tf.train.Checkpoint.write = write
    whole = checkpoint.write(path + "-elsewhere")
    os.rename(whole + ".data-00000-of-00001", path + ".data-00000-of-00001")
    end()


write = tf.train.Checkpoint.write
before(training.Trainer, "save", note_saving)
if moment in ("SIGKILL", "SIGTERM", "SIGINT"):
    number = getattr(signal, moment)
    act = lambda learner, batch, state, step, *_: end(number) if step + 1 == at else None
    before(training.Learner, "train_step", act)
elif moment == "merging":  # the shards have been written under temporary names
    before(gen_io_ops, "merge_v2_checkpoints", if_saving(lambda *_: end()))
elif moment == "data only":
    before(tf.train.Checkpoint, "write", if_saving(only_the_data))
elif moment == "not listed":
    before(runs.Run, "record", if_saving(lambda *_: end()))
elif moment == "deleting":  # the new list stands, and what it no longer names is still there
    before(runs.Run, "record", note_recording)
    before(runs.Run, "remove_files", lambda *_: end() if recording else None)
sys.exit(train.main(sys.argv[4:]))
"""

# What ends each part of a run, at which step, which step it left in the newest checkpoint, and what it was started
# with. Epochs end at steps 7, 14 and 21.
Part = tuple[str, int, int, list[str]]
CHAINS: dict[str, list[Part]] = {
    "killed": [
        ("SIGKILL", 5, 4, ["--checkpoint_steps", "4"]),
        ("merging", 8, 7, []),
        ("data only", 14, 13, ["--checkpoint_steps", "None", "--checkpoint_minutes", "1e-9"]),
        ("not listed", 14, 13, []),
        ("deleting", 21, 21, []),
        ("end", 0, LAST, []),
    ],
    "interrupted": [
        ("SIGTERM", 6, 6, ["--checkpoint_minutes", "None"]),
        ("SIGINT", 17, 17, ["--checkpoint_policy", "Best", "--max_checkpoints", "1"]),
        ("end", 0, LAST, []),
    ],
    "whole": [("end", 0, LAST, [])],
}
Ended = list[tuple[Part, subprocess.CompletedProcess[str], int]]


@pytest.fixture(scope="module")
def ended(folder: Path) -> dict[str, Ended]:
    """Every part of every chain: how its process ended, and the newest step it left."""
    (folder / "driver.py").write_text(DRIVER)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}

    def run_chain(identity: str) -> Ended:
        found = []
        for part in CHAINS[identity]:
            moment, at, _, flags = part
            words = [sys.executable, str(folder / "driver.py"), str(ROOT), moment, str(at)]
            words += command(folder, identity, "--num_steps", LAST, *flags)
            process = subprocess.run(words, capture_output=True, text=True, cwd=folder, env=environment)
            runs = runs_of(folder / "logdir" / identity)
            found.append((part, process, runs[-1].latest().step if runs else -1))
        return found

    with ThreadPoolExecutor() as pool:
        return dict(zip(CHAINS, pool.map(run_chain, CHAINS), strict=True))


@pytest.mark.slow
def test_every_part_ended_as_it_should_and_left_a_whole_checkpoint(ended: dict[str, Ended], folder: Path) -> None:
    for identity, parts in ended.items():
        for (moment, at, left, _), process, step in parts:
            expected = {"SIGTERM": 128 + 15, "SIGINT": 128 + 2, "end": 0}.get(moment, -signal.SIGKILL)
            assert process.returncode == expected, f"{identity}, {moment} at {at}: {process.stderr}"
            assert step == left, f"{identity}, {moment} at {at}: {process.stdout}"
        assert len(runs_of(folder / "logdir" / identity)) == 1  # every part went on in the same run


@pytest.mark.slow
def test_a_part_goes_on_where_the_one_before_was_saved(ended: dict[str, Ended]) -> None:
    for parts in ended.values():
        for (_, _, step), (_, process, _) in zip(parts, parts[1:], strict=False):
            assert f"(step {step})" in process.stdout


@pytest.mark.slow
def test_ctrl_c_and_kill_save_and_say_so(ended: dict[str, Ended]) -> None:
    for (moment, *_), process, _ in ended["interrupted"][:2]:
        assert process.stdout.splitlines()[-1].startswith(f"Stopped: {moment}")
        assert "Traceback" not in process.stderr


@pytest.mark.slow
@pytest.mark.parametrize("identity", ["killed", "interrupted"])
def test_losses_are_those_of_an_unbroken_run_digit_for_digit(
    ended: dict[str, Ended], folder: Path, identity: str
) -> None:
    whole, parts = run_of(folder, "whole"), run_of(folder, identity)
    assert list(steps_of(whole)) == list(range(1, LAST + 1))
    assert steps_of(parts) == steps_of(whole)
    assert epochs_of(parts) == epochs_of(whole) and len(epochs_of(whole)) == LAST // STEPS
    digits = max(len(row[2].replace(".", "")) for row in steps_of(whole).values())
    assert digits >= 9  # as many as tell float32 numbers apart


@pytest.mark.slow
@pytest.mark.parametrize("identity", ["killed", "interrupted"])
def test_weights_optimiser_and_state_are_those_of_an_unbroken_run_bit_for_bit(
    ended: dict[str, Ended], folder: Path, identity: str
) -> None:
    whole, parts = run_of(folder, "whole"), run_of(folder, identity)
    first, second = tensors_of(whole), tensors_of(parts)
    assert first.keys() == second.keys() and sum(value.size for value in first.values()) > 1000
    assert all(any(name.startswith(part) for name in first) for part in ("model/", "optimizer/", "state/"))
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
    assert progress_of(whole) == progress_of(parts)
    assert progress_of(whole)["callbacks"]["Monitor"]["best"] is not None
    assert learning_rate_of(whole) == pytest.approx(0.01 * np.exp(-0.3), rel=1e-5)  # reduced in epochs 1, 2 and 3


@pytest.mark.slow
def test_no_half_checkpoint_is_listed(ended: dict[str, Ended], folder: Path) -> None:
    for identity in ended:
        run = run_of(folder, identity)
        assert [entry["name"] for entry in run.read("checkpoints.json")] == [entry.name for entry in run.checkpoints]
        for entry in run.checkpoints:
            assert tensors_of(run, entry.name)
        assert not list(run.folder.glob("*_temp"))


# Stopped and started again, in this process ------------------------------------------------------------------------


def trained(folder: Path, identity: str, *flags: Any) -> Run:
    assert train.main(command(folder, identity, *flags)) == 0
    return run_of(folder, identity)


@pytest.fixture
def copy_of_a_run(folder: Path, stopped: Run, request: pytest.FixtureRequest) -> Run:
    """A copy of `stopped` under an id of its own, to be gone on from."""
    identity = request.node.name.replace("[", "-").replace("]", "")
    target = folder / "logdir" / identity / stopped.folder.name
    shutil.copytree(stopped.folder, target)
    return Run(target)


@pytest.fixture(scope="module")
def stopped(folder: Path) -> Run:
    """A run with checkpoints at steps 4, 7 (its first epoch) and 8."""
    return trained(folder, "stopped", "--checkpoint_steps", 4, "--num_steps", 8, "--max_checkpoints", "None")


@pytest.mark.slow
def test_a_typed_learning_rate_wins_over_the_checkpoint_and_is_reduced_from_there(
    folder: Path, copy_of_a_run: Run
) -> None:
    assert learning_rate_of(copy_of_a_run) == pytest.approx(0.01 * np.exp(-0.1), rel=1e-5)
    identity = copy_of_a_run.folder.parent.name
    trained(folder, identity, "--num_steps", 9)
    assert learning_rate_of(copy_of_a_run) == pytest.approx(0.01 * np.exp(-0.1), rel=1e-5)
    trained(folder, identity, "--num_steps", 10, "--learning_rate", 0.002)
    assert learning_rate_of(copy_of_a_run) == pytest.approx(0.002, rel=1e-5)
    trained(folder, identity, "--num_steps", 2 * STEPS + 1)
    assert learning_rate_of(copy_of_a_run) == pytest.approx(0.002 * np.exp(-0.1), rel=1e-5)
    assert copy_of_a_run.read("run.config.json")["training"]["learning_rate"] == 0.002


def test_overrides_hold_on_resume_too_and_need_no_config_file(folder: Path, copy_of_a_run: Run) -> None:
    identity = copy_of_a_run.folder.parent.name
    words = command(folder, identity, "--num_steps", 9, "--set", "training.checkpoint_every=3", "training.num_steps=1")
    where = words.index("--config_file")
    assert train.main(words[:where] + words[where + 2 :]) == 0
    options = copy_of_a_run.read("run.config.json")["training"]
    assert (options["checkpoint_every"], options["num_steps"]) == (3, 9)
    assert (options["checkpoint_steps"], options["learning_rate"]) == (4, 0.01)  # as the run was begun
    assert copy_of_a_run.latest().step == 9


@pytest.mark.slow
def test_from_an_earlier_checkpoint_training_goes_the_same_way_and_is_gone_on_from(
    folder: Path, copy_of_a_run: Run
) -> None:
    identity, before = copy_of_a_run.folder.parent.name, tensors_of(copy_of_a_run)
    earlier = copy_of_a_run.folder / "model.ckpt-step4.index"
    trained(folder, identity, "--resume_from", earlier, "--num_steps", STEPS)
    assert copy_of_a_run.latest().step == STEPS  # not the one of step 8, which is of what was gone back behind
    trained(folder, identity, "--num_steps", 8)
    after = tensors_of(copy_of_a_run)
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)
    assert list(steps_of(copy_of_a_run)) == list(range(1, 9))


def test_resume_false_starts_a_run_of_its_own(folder: Path, copy_of_a_run: Run) -> None:
    identity = copy_of_a_run.folder.parent.name
    listed = copy_of_a_run.checkpoints
    earlier = copy_of_a_run.folder / "model.ckpt-step4"
    new = trained(folder, identity, "--resume", "False", "--resume_from", earlier, "--num_steps", 8)
    assert new.folder != copy_of_a_run.folder and copy_of_a_run.checkpoints == listed
    assert steps_of(new) == steps_of(copy_of_a_run)  # the same seed, the same training


def test_a_run_killed_before_its_first_checkpoint_is_not_in_the_way(folder: Path, copy_of_a_run: Run) -> None:
    identity = copy_of_a_run.folder.parent.name
    for path in copy_of_a_run.folder.glob("*.ckpt-*"):
        path.unlink()
    new = trained(folder, identity, "--num_steps", 2)
    assert new.folder != copy_of_a_run.folder and new.latest().step == 2


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--optimizer", "sgd"], ["--optimizer sgd", "the state of adam", "--init_from"]),
        (["--set", "training.optimizer=rmsprop"], ["--optimizer rmsprop", "the state of adam", "--init_from"]),
        (["--optimizer", "sgd", "--momentum", 0], ["--optimizer sgd", "the state of adam", "--init_from"]),
        (["--set", "rnn_type=lstm"], ["another config", "rnn_type", "--init_from"]),
        (["--set", "frame_sizes=[2]"], ["another config", "frame_sizes", "--init_from"]),
        (["--sample_rate", 2000], ["4000 Hz", "--sample_rate", "another --id"]),
    ],
    ids=str,
)
def test_what_is_refused_leaves_the_run_byte_for_byte_as_it_was(
    folder: Path,
    copy_of_a_run: Run,
    flags: list[Any],
    expected: list[str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = content_of(copy_of_a_run.folder)
    assert train.main(command(folder, copy_of_a_run.folder.parent.name, "--num_steps", 9, *flags)) == 2
    gc.collect()  # when TensorFlow tells what of a checkpoint was not restored
    (sentence,) = capfd.readouterr().err.splitlines()
    assert [part for part in expected if part not in sentence] == []
    assert content_of(copy_of_a_run.folder) == before


def test_a_checkpoint_that_cannot_be_restored_leaves_the_run_as_it_was(
    folder: Path, copy_of_a_run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint = copy_of_a_run.folder / f"{copy_of_a_run.latest().name}.data-00000-of-00001"
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    before = content_of(copy_of_a_run.folder)
    assert train.main(command(folder, copy_of_a_run.folder.parent.name, "--num_steps", 9)) == 1
    gc.collect()
    (sentence,) = capfd.readouterr().err.splitlines()
    assert "damaged or cut short" in sentence
    assert content_of(copy_of_a_run.folder) == before


def test_momentum_that_has_no_slots_in_the_checkpoint_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(folder, "bare", "--num_steps", 1, "--optimizer", "sgd", "--momentum", 0)
    before = content_of(run.folder)
    assert train.main(command(folder, "bare", "--num_steps", 2, "--optimizer", "sgd", "--momentum", 0.5)) == 2
    assert "--momentum 0.5 cannot go on" in capsys.readouterr().err
    assert content_of(run.folder) == before
    trained(folder, "bare", "--num_steps", 2)  # as it was begun


def test_a_checkpoint_of_old_that_does_not_say_its_optimiser_is_taken_at_its_configs_word(
    folder: Path, copy_of_a_run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = read_progress(copy_of_a_run.folder / copy_of_a_run.latest().name)
    del progress["slots"]
    monkeypatch.setattr("tierwave.runs.tensors.read_progress", lambda path: progress)
    identity = copy_of_a_run.folder.parent.name
    assert train.main(command(folder, identity, "--num_steps", 9, "--optimizer", "sgd")) == 2
    assert "the state of adam" in capsys.readouterr().err
    trained(folder, identity, "--num_steps", 9)


def test_the_scale_of_float16_starts_anew_where_the_checkpoint_has_none(
    folder: Path, copy_of_a_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(folder, copy_of_a_run.folder.parent.name, "--num_steps", 9, "--precision", "mixed_float16")
    assert "the scale of its loss starts at 32768" in capsys.readouterr().out


def test_what_is_advised_where_losses_break_is_taken_on_resume(folder: Path, copy_of_a_run: Run) -> None:
    flags = ["--learning_rate", 0.001, "--precision", "float32", "--set", "gradient_clip.global_norm=1.0"]
    trained(folder, copy_of_a_run.folder.parent.name, "--num_steps", 9, *flags)
    assert copy_of_a_run.read("run.config.json")["gradient_clip"] == {"global_norm": 1.0}


def test_a_new_run_that_is_refused_leaves_no_folder(
    folder: Path, stopped: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: Any) -> None:
        raise UsageError("these weights do not fit")

    monkeypatch.setattr("tierwave.training.stage.take_weights", refused)
    assert train.main(command(folder, "empty", "--init_from", stopped.folder, "--num_steps", 1)) == 2
    assert "do not fit" in capsys.readouterr().err
    assert [path.name for path in (folder / "logdir" / "empty").iterdir() if path.is_dir()] == []


def test_foreign_things_in_the_folder_of_an_id_are_passed_over(folder: Path, copy_of_a_run: Run) -> None:
    above = copy_of_a_run.folder.parent
    (above / "notes").mkdir()
    (above / "01.01.2030_00.00.00").mkdir()  # made, but not begun
    (above / "99.99.2030_00.00.00").write_text("no folder")
    trained(folder, above.name, "--num_steps", 9)
    assert copy_of_a_run.latest().step == 9


def test_the_second_training_under_an_id_is_told(
    folder: Path, stopped: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = stopped.checkpoints
    with only_training(folder / "logdir", "stopped"):
        assert train.main(command(folder, "stopped", "--num_steps", 9)) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "--id stopped" in sentence and str(os.getpid()) in sentence and "another --id" in sentence
    assert stopped.checkpoints == listed


def test_a_run_that_another_training_has_cannot_be_gone_on_from_under_another_id(
    folder: Path, stopped: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = stopped.checkpoints
    with only_training(folder / "logdir", "stopped"):
        flags = ["--resume_from", stopped.folder / "model.ckpt-1", "--num_steps", 9]
        assert train.main(command(folder, "second", *flags)) in (1, 2)
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "stopped" in sentence
    assert stopped.checkpoints == listed


# No room left ------------------------------------------------------------------------------------------------------


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@contextmanager
def failing_write(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def write(checkpoint: tf.train.Checkpoint, path: str) -> str:
        Path(f"{path}.data-00000-of-00001").write_bytes(b"half")
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tf.train.Checkpoint, "write", write)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("cause", ["limit", "error"])
def test_a_full_disk_ends_training_with_a_sentence_and_the_earlier_checkpoints_are_whole(
    folder: Path,
    copy_of_a_run: Run,
    cause: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    identity, listed = copy_of_a_run.folder.parent.name, copy_of_a_run.checkpoints
    size = (copy_of_a_run.folder / "model.ckpt-1.data-00000-of-00001").stat().st_size
    full = file_size_limit(size // 2) if cause == "limit" else failing_write(monkeypatch)
    with full:
        assert train.main(command(folder, identity, "--num_steps", 9)) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "resume.ckpt-9" in sentence and "make room" in sentence and "Traceback" not in sentence
    assert copy_of_a_run.checkpoints == listed
    assert not list(copy_of_a_run.folder.glob("resume.ckpt-9*"))
    for entry in listed:
        assert tensors_of(copy_of_a_run, entry.name)
    trained(folder, identity, "--num_steps", 9)
    assert copy_of_a_run.latest().step == 9


def test_a_table_that_cannot_be_written_is_told_as_well(
    folder: Path, copy_of_a_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    identity = copy_of_a_run.folder.parent.name
    table = copy_of_a_run.folder / "losses.csv"
    with file_size_limit(table.stat().st_size + 10):
        assert train.main(command(folder, identity, "--num_steps", 14)) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "Traceback" not in sentence


def test_a_checkpoint_written_over_one_of_the_same_name_is_whole_or_absent(
    folder: Path, copy_of_a_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After going back to an earlier checkpoint; torn between its two files, old and new would be mixed."""
    identity, seen = copy_of_a_run.folder.parent.name, []
    write = tf.train.Checkpoint.write

    def watched(checkpoint: tf.train.Checkpoint, path: str) -> str:
        seen.append((Path(path).name, Path(f"{path}.index").exists()))
        return write(checkpoint, path)

    monkeypatch.setattr(tf.train.Checkpoint, "write", watched)
    trained(folder, identity, "--resume_from", copy_of_a_run.folder / "model.ckpt-step4", "--num_steps", 8)
    assert seen == [("model.ckpt-1", False), ("model.ckpt-step8", False)]
