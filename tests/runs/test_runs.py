"""The run folder: named and found by time, checkpoints kept and found, files whole, one training at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwave.errors import RunError, UsageError
from tierwave.runs.folder import (
    CONFIG_NAME,
    CheckpointEntry,
    Run,
    create_run,
    environment,
    find_checkpoint,
    only_training,
    runs_of,
)

NOON = datetime(2026, 11, 20, 12, 0, 0)


def entry(step: int, *, kept: bool = True, best: bool = False, value: float | None = None) -> CheckpointEntry:
    name = f"model.ckpt-{step}" if kept else f"resume.ckpt-{step}"
    return CheckpointEntry(name, step // 10, step, value, best, kept)


def save(run: Run, saved: CheckpointEntry, max_checkpoints: int | None = None) -> None:
    """What a trainer does, with empty files."""
    for suffix in ("index", "data-00000-of-00001"):
        (run.folder / f"{saved.name}.{suffix}").touch()
    run.record(saved, max_checkpoints)


def names(run: Run) -> list[str]:
    return [found.name for found in run.checkpoints]


def files(run: Run) -> set[str]:
    return {path.name for path in run.folder.iterdir() if ".ckpt-" in path.name}


def both(*checkpoints: str) -> set[str]:
    return {f"{name}.{suffix}" for name in checkpoints for suffix in ("index", "data-00000-of-00001")}


def a_run(root: Path, identity: str = "piano", when: datetime = NOON, *steps: int) -> Run:
    run = create_run(root, identity, when)
    run.write(CONFIG_NAME, {})
    for step in steps:
        save(run, entry(step))
    return run


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_a_run_is_named_by_the_time(tmp_path: Path) -> None:
    folders = [create_run(tmp_path / "new root", "piano", NOON).folder for _ in range(3)]
    assert [folder.name for folder in folders] == [
        "20.11.2026_12.00.00", "20.11.2026_12.00.00_1", "20.11.2026_12.00.00_2"
    ]  # fmt: skip
    assert all(folder.parent == tmp_path / "new root" / "piano" and not list(folder.iterdir()) for folder in folders)
    before = datetime.now().replace(microsecond=0)
    now = datetime.strptime(create_run(tmp_path, "piano").folder.name, "%d.%m.%Y_%H.%M.%S")
    assert before <= now <= datetime.now()


def test_a_run_that_cannot_be_made_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot be made .*--logdir_root"):
        create_run(tmp_path / "file", "piano")


times = st.datetimes(datetime(1999, 1, 1), datetime(2100, 1, 1)).map(lambda time: time.replace(microsecond=0))


@given(st.lists(times, min_size=1, max_size=12))
def test_runs_come_in_the_order_of_real_time(tmp_path_factory: pytest.TempPathFactory, moments: list[datetime]) -> None:
    root = tmp_path_factory.mktemp("logdir")
    made = [(moment, number, a_run(root, "piano", moment).folder) for number, moment in enumerate(moments)]
    assert [run.folder for run in runs_of(root / "piano")] == [folder for _, _, folder in sorted(made)]


def test_the_eleventh_run_of_a_second_comes_after_the_tenth(tmp_path: Path) -> None:
    made = [a_run(tmp_path).folder for _ in range(12)]
    assert [run.folder for run in runs_of(tmp_path / "piano")] == made


def test_the_run_begun_last_is_the_newest_whatever_clock_named_its_folder(tmp_path: Path) -> None:
    tokyo = a_run(tmp_path, "piano", NOON, 10)
    angeles = a_run(tmp_path, "piano", datetime(2026, 11, 19, 20, 0, 0), 10)
    old = a_run(tmp_path, "piano", datetime(2026, 11, 1), 10)  # which does not say
    for run, created in ((tokyo, "2026-11-20T12:00:00+09:00"), (angeles, "2026-11-20T03:00:00.5+00:00")):
        run.write("run.json", {"sample_rate": 16000, "corpus": {}, "created": created})
    assert [run.folder for run in runs_of(tmp_path / "piano")] == [old.folder, tokyo.folder, angeles.folder]
    assert find_checkpoint(tmp_path / "piano")[0].folder == angeles.folder
    (angeles.folder / "run.json").write_text("{")  # then by its folder's name
    assert [run.folder for run in runs_of(tmp_path / "piano")] == [old.folder, angeles.folder, tokyo.folder]


def test_the_stage_trained_last_is_the_newest_whatever_a_copy_made_of_its_files(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    for stage in ("first", "last"):
        (run.folder / stage).mkdir()
        save(run.stage(stage), entry(10))
    os.utime(run.folder / "last" / "checkpoints.json", (0, 0))
    assert [stage.folder.name for stage in run.stages] == ["first", "last"]
    for stage in ("first", "last"):  # checkpoints of old do not say when they were written
        listed = run.stage(stage).read("checkpoints.json")
        run.stage(stage).write("checkpoints.json", [{**each, "written": ""} for each in listed])
    os.utime(run.folder / "last" / "checkpoints.json", (0, 0))
    assert [stage.folder.name for stage in run.stages] == ["last", "first"]


def test_foreign_folders_are_passed_over(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    for name in ("generated", "20.11.2026", "20.11.2026_12.00.00_old", "x20.11.2026_12.00.00", ".cache"):
        (tmp_path / "piano" / name).mkdir()
        (tmp_path / "piano" / name / CONFIG_NAME).touch()
    (tmp_path / "piano" / "21.11.2026_12.00.00").mkdir()  # a run that was never begun
    (tmp_path / "piano" / "22.11.2026_12.00.00").touch()
    assert [found.folder for found in runs_of(tmp_path / "piano")] == [run.folder]
    assert runs_of(tmp_path / "no such id") == []


# ---- files -----------------------------------------------------------------------------------------------------------


def test_documents_come_back(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    document = {"name": "Übung 東京", "numbers": [1, 2.5, None, True]}
    run.write("some.json", document)
    assert run.read("some.json") == document
    assert "Übung 東京" in (run.folder / "some.json").read_text(encoding="utf-8")


def test_a_missing_or_damaged_document_is_told_in_a_sentence(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    with pytest.raises(RunError, match=r"run\.json is missing"):
        run.read("run.json")
    (run.folder / "run.json").write_text('{"cut": ')
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        run.read("run.json")
    (run.folder / "run.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        run.read("run.json")
    for text in ("{", "[1]", '[{"name": "model.ckpt-1"}]', '[{"other": 1}]'):
        (run.folder / "checkpoints.json").write_text(text)
        with pytest.raises(RunError, match=r"checkpoints\.json is damaged"):
            _ = run.checkpoints


# ---- retention -------------------------------------------------------------------------------------------------------


def test_the_newest_are_kept(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    for step in range(10, 80, 10):
        save(run, entry(step), 3)
    assert names(run) == ["model.ckpt-50", "model.ckpt-60", "model.ckpt-70"]
    assert files(run) == both(*names(run))
    everything = a_run(tmp_path)
    for step in range(10, 80, 10):
        save(everything, entry(step), None)
    assert len(names(everything)) == 7


def test_the_best_is_kept_however_old(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    for step, value in ((10, 3.0), (20, 1.0), (30, 2.0), (40, 2.5), (50, 2.5)):
        save(run, entry(step, value=value, best=step <= 20), 2)
    assert names(run) == ["model.ckpt-20", "model.ckpt-40", "model.ckpt-50"]
    assert run.best() == entry(20, value=1.0, best=True)
    assert run.latest().name == "model.ckpt-50"
    save(run, entry(60, value=0.5, best=True), 2)  # a new best lets the old one go
    assert names(run) == ["model.ckpt-50", "model.ckpt-60"]
    assert run.best().name == "model.ckpt-60"
    assert files(run) == both("model.ckpt-50", "model.ckpt-60")


def test_without_a_best_the_newest_counts(tmp_path: Path) -> None:
    assert a_run(tmp_path, "piano", NOON, 10, 20).best().name == "model.ckpt-20"


def test_resume_points_give_way_to_whatever_is_newer(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    save(run, entry(10), 2)
    save(run, entry(13, kept=False), 2)
    assert names(run) == ["model.ckpt-10", "resume.ckpt-13"]
    save(run, entry(16, kept=False), 2)
    assert names(run) == ["model.ckpt-10", "resume.ckpt-16"]
    assert run.latest().name == "resume.ckpt-16"
    save(run, entry(20), 2)
    assert names(run) == ["model.ckpt-10", "model.ckpt-20"]
    save(run, entry(23, kept=False), 1)  # and takes no place that is not its own
    assert names(run) == ["model.ckpt-20", "resume.ckpt-23"]
    assert files(run) == both(*names(run))


def test_training_again_from_an_earlier_checkpoint_makes_the_newest(tmp_path: Path) -> None:
    run = a_run(tmp_path, "piano", NOON, 10, 20, 30)
    save(run, entry(15, kept=False), 3)  # went on from model.ckpt-10
    assert run.latest().name == "resume.ckpt-15"
    save(run, entry(20), 3)
    assert run.latest().name == "model.ckpt-20"
    assert names(run) == ["model.ckpt-10", "model.ckpt-30", "model.ckpt-20"]
    save(run, entry(40), 2)
    assert names(run) == ["model.ckpt-20", "model.ckpt-40"]


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=15), st.one_of(st.none(), st.integers(1, 4))
)
def test_retention_by_the_rules(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple[bool, bool]], most: int | None
) -> None:
    run = Run(tmp_path_factory.mktemp("run"))
    saved = [
        entry(10 * number, kept=kept, best=kept and best, value=1.0) for number, (kept, best) in enumerate(kinds, 1)
    ]
    for each in saved:
        save(run, each, most)
    kept = [each for each in saved if each.kept]
    expected = set(kept if most is None else kept[-most:]) | set([each for each in kept if each.best][-1:])
    expected |= {saved[-1]}
    assert run.checkpoints == [each for each in saved if each in expected]
    assert files(run) == both(*names(run))


def test_a_checkpoint_whose_files_are_gone_is_not_listed(tmp_path: Path) -> None:
    run = a_run(tmp_path, "piano", NOON, 10, 20, 30)
    (run.folder / "model.ckpt-30.index").unlink()
    (run.folder / "model.ckpt-20.data-00000-of-00001").unlink()
    assert names(run) == ["model.ckpt-10"]
    with pytest.raises(RunError, match="holds no checkpoint yet"):
        a_run(tmp_path).latest()


# ---- finding ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def logdir(tmp_path: Path) -> Path:
    """Two runs of one id, the older one with more checkpoints, and a newest one that has none."""
    old = a_run(tmp_path, "piano", datetime(2026, 2, 1))
    save(old, entry(70))
    newer = a_run(tmp_path, "piano", datetime(2026, 11, 1))
    for step, best in ((10, False), (20, True), (30, False)):
        save(newer, entry(step, best=best, value=1.0))
    save(newer, entry(35, kept=False))
    a_run(tmp_path, "piano", datetime(2026, 12, 1))
    return tmp_path


def test_a_checkpoint_is_found_by_everything_that_names_it(logdir: Path) -> None:
    run = logdir / "piano" / "01.11.2026_00.00.00"
    for path, name in (
        (run / "model.ckpt-10", "model.ckpt-10"),
        (run / "model.ckpt-10.index", "model.ckpt-10"),
        (run / "model.ckpt-10.data-00000-of-00001", "model.ckpt-10"),
        (run / "resume.ckpt-35", "resume.ckpt-35"),
        (run, "resume.ckpt-35"),
        (logdir / "piano", "resume.ckpt-35"),
        (logdir / "piano" / "01.02.2026_00.00.00", "model.ckpt-70"),
    ):
        found, checkpoint = find_checkpoint(path)
        assert checkpoint.name == name
        assert found.folder == (run if name != "model.ckpt-70" else path)
        assert find_checkpoint(str(path))[1] == checkpoint
    for path in (run, logdir / "piano"):
        assert find_checkpoint(path, best=True)[1].name == "model.ckpt-20"
    assert find_checkpoint(run / "model.ckpt-10", best=True)[1].name == "model.ckpt-10"


def test_a_checkpoint_in_the_working_folder_is_found(logdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(logdir / "piano" / "01.11.2026_00.00.00")
    assert find_checkpoint("model.ckpt-10")[1].name == "model.ckpt-10"
    assert find_checkpoint(".")[1].name == "resume.ckpt-35"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("piano/01.11.2026_00.00.00/model.ckpt-11", "no checkpoint model.ckpt-11 .* model.ckpt-10, model.ckpt-20"),
        ("piano/01.12.2026_00.00.00/model.ckpt-1", "no checkpoint model.ckpt-1 .*found there: no checkpoint"),
        ("nowhere/model.ckpt-1.index", "no checkpoint model.ckpt-1 in .*nowhere"),
        ("piano/01.12.2026_00.00.00", "no checkpoint was found in .*name a run folder, or train first"),
        ("violin", "violin is neither a checkpoint .* nor a folder"),
        ("piano/01.11.2026_00.00.00/run.config.json", "neither a checkpoint"),
    ],
)
def test_what_is_not_found_is_told_with_what_is_there(logdir: Path, path: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        find_checkpoint(logdir / path)


# ---- one training at a time ------------------------------------------------------------------------------------------

HOLDER = """
import sys
from pathlib import Path
from tierwave.runs.folder import only_training
with only_training(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(root: Path, identity: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Another process that trains, or tries to."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root), identity],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout
    finally:
        process.kill()
        process.communicate()


def test_a_second_training_of_an_id_is_refused(tmp_path: Path) -> None:
    with only_training(tmp_path, "piano"):
        with holder(tmp_path, "piano") as (process, output):
            text = output.read()
            assert process.wait() == 1
        assert f"another training with --id piano is running (process {os.getpid()})" in text
        assert "RunError" in text and "held" not in text
        with holder(tmp_path, "violin") as (_, output):
            assert output.readline() == "held\n"
        with pytest.raises(RunError, match="another training"), only_training(tmp_path, "piano"):
            pass
    with only_training(tmp_path, "piano"):  # it is free again
        pass


def test_the_lock_goes_when_its_holder_is_killed(tmp_path: Path) -> None:
    with holder(tmp_path, "piano") as (process, output):
        assert output.readline() == "held\n"
        with (
            pytest.raises(RunError, match=rf"--id piano is running \(process {process.pid}\): wait for it"),
            only_training(tmp_path, "piano"),
        ):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with only_training(tmp_path, "piano"):
            assert (tmp_path / "piano" / ".lock.holder").read_text() == str(os.getpid())


def test_the_lock_goes_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), only_training(tmp_path, "piano"):
        raise KeyError
    with only_training(tmp_path, "piano"):
        assert runs_of(tmp_path / "piano") == []


def test_a_file_system_without_locks_keeps_nobody_from_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with only_training(tmp_path, "piano"):
        pass


def test_a_logdir_that_cannot_be_written_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UsageError, match=r"cannot be written to .*--logdir_root"),
        only_training(tmp_path / "file", "piano"),
    ):
        pass


def test_the_environment_is_told_in_full() -> None:
    found = environment()
    assert {"tierwave", "python", "tensorflow", "keras", "numpy", "machine"} <= found.keys()
    assert all(isinstance(text, str) and text for text in found.values())
    json.dumps(found)
