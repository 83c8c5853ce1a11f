"""What in a folder is no recording, and what in it cannot be read: left out, and named."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import chunk_audio
import train
from commands import eagerly
from tierwave.audio.arrays import find_rows
from tierwave.audio.finding import find_audio, search_audio
from tierwave.audio.quantize import Quantizer
from tierwave.audio.writer import write_wav
from tierwave.cli.controls import main as controls
from tierwave.data.cache import load_corpus
from tierwave.errors import RunError
from tierwave.files.folders import MARK, OWN, make_own, told, walk
from tierwave.runs.folder import runs_of

RATE = 4000
DENIED = os.strerror(13)
CONFIG = {"seq_len": 16, "frame_sizes": [2, 4], "dim": 4, "num_rnn_layers": 1, "q_levels": 16, "emb_size": 4}
TRAINING = {"batch_size": 2, "jit": False, "output_file_dur": 0.01, "max_generate_per_epoch": 1}


def record(path: Path, seed: int = 0, samples: int = 2000) -> Path:
    write_wav(path, np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32), RATE)
    return path


@pytest.fixture
def deny(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a folder or file one that may not be read, for the administrator too."""
    denied: set[str] = set()
    listdir, access = os.listdir, os.access

    def listed(path: str | os.PathLike[str] = ".") -> list[str]:
        if os.path.realpath(path) in denied:
            raise PermissionError(13, DENIED, str(path))
        return listdir(path)

    def accessible(path: str | os.PathLike[str], mode: int, **options: bool) -> bool:
        return os.path.realpath(path) not in denied and access(path, mode, **options)

    monkeypatch.setattr(os, "listdir", listed)
    monkeypatch.setattr(os, "access", accessible)
    return lambda path: denied.add(os.path.realpath(path))


# ---- a walk ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_looked_at_is_left_out_with_the_reason(tmp_path: Path, deny: Callable[[Path], None]) -> None:
    record(tmp_path / "a.wav")
    deny(record(tmp_path / "in" / "secret.wav"))
    record(tmp_path / "lost+found" / "b.wav")
    deny(tmp_path / "lost+found")
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    os.mkfifo(tmp_path / "pipe.wav")
    found, left_out = search_audio([tmp_path])
    assert [path.name for path in found] == ["a.wav"]
    assert told(left_out, tmp_path) == [
        f"left out: gone.wav: it cannot be opened ({os.strerror(2)})",
        f"left out: in/secret.wav: it cannot be opened ({DENIED})",
        f"left out: lost+found: the folder cannot be read ({DENIED})",
        "left out: pipe.wav: it is no regular file",
    ]


def test_a_folder_whose_files_may_not_be_looked_at_is_left_out_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.wav", "closed/b.wav", "closed/c.wav"):
        record(tmp_path / name)
    look = Path.stat

    def refused(path: Path, **options: bool) -> os.stat_result:
        if path.parent.name == "closed":
            raise PermissionError(13, DENIED, str(path))
        return look(path, **options)

    monkeypatch.setattr(Path, "stat", refused)
    found, left_out = walk(tmp_path, lambda name: name.endswith(".wav"))
    assert [path.name for path in found] == ["a.wav"]
    assert left_out == [(tmp_path / "closed", f"what is in the folder cannot be read ({DENIED})")]


def test_a_folder_that_was_made_for_output_is_passed_over_unless_it_is_named(tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    make_own(tmp_path / "mine")
    record(tmp_path / "mine" / "deep" / "b.wav")
    make_own(tmp_path / "empty")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.config.json").write_text("{}")
    np.save(tmp_path / "run" / "c.npy", np.zeros((2, 2000), np.float32))
    found, left_out = search_audio([tmp_path])
    assert [path.name for path in found] == ["a.wav"]
    assert left_out == [(tmp_path / "mine", OWN)]  # of the others there is nothing to tell
    assert find_rows(tmp_path) == ([], [(tmp_path / "run", OWN)])
    assert len(find_audio([tmp_path / "mine"])) == 1 and len(find_audio([tmp_path], own=True)) == 2
    assert search_audio([tmp_path], without=[tmp_path / "mine" / "deep"])[0] == found


def test_a_folder_with_something_in_it_is_not_marked(tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    make_own(tmp_path)
    make_own(tmp_path / "new")
    make_own(tmp_path / "new")
    assert not (tmp_path / MARK).exists() and (tmp_path / "new" / MARK).exists()


# ---- what the commands make of it ------------------------------------------------------------------------------------


def corpus_of(folder: Path, cache: Path) -> tuple[list[str], tuple[tuple[str, str], ...]]:
    corpus = load_corpus(folder, Quantizer("linear", 16), cache_dir=cache)
    return [recording.name for recording in corpus.recordings], corpus.left_out


def test_a_corpus_names_what_was_passed_over_and_its_cache_does_not(
    tmp_path: Path, deny: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "corpus"
    record(folder / "a.wav")
    before = corpus_of(folder, tmp_path / "cache")
    make_own(folder / "generated")
    record(folder / "generated" / "b.wav", 1)
    (folder / "closed").mkdir()
    deny(folder / "closed")
    names, left_out = corpus_of(folder, tmp_path / "cache")
    assert (names, left_out) == (
        ["a.wav"],
        (("closed", f"the folder cannot be read ({DENIED})"), ("generated", OWN)),
    )
    assert len(list((tmp_path / "cache").iterdir())) == 1
    monkeypatch.undo()
    (folder / "generated" / MARK).unlink()
    assert before == (["a.wav"], ()) and corpus_of(folder, tmp_path / "cache") == (["a.wav", "generated/b.wav"], ())


def test_a_corpus_of_nothing_but_what_was_passed_over_says_so(tmp_path: Path) -> None:
    make_own(tmp_path / "corpus" / "generated")
    record(tmp_path / "corpus" / "generated" / "b.wav")
    with pytest.raises(RunError, match=r"generated: Tierwave made it.*delete \.tierwave"):
        corpus_of(tmp_path / "corpus", tmp_path / "cache")


def test_chunks_within_the_recordings_are_none(
    tmp_path: Path, deny: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path / "in" / "a.wav")
    (tmp_path / "in" / "closed").mkdir()
    deny(tmp_path / "in" / "closed")
    for output in (tmp_path / "in" / "chunks", tmp_path / "chunks"):
        words = ["--input_file", str(tmp_path / "in"), "--output_dir", str(output), "--chunk_length", "100"]
        assert chunk_audio.main(words) == 0
        assert f"Left out: {tmp_path / 'in' / 'closed'}: the folder cannot be read" in capsys.readouterr().out
    assert corpus_of(tmp_path / "in", tmp_path / "cache")[0] == ["a.wav"]
    for folder in (tmp_path / "in" / "chunks", tmp_path / "chunks"):
        assert len(corpus_of(folder, tmp_path / "cache")[0]) == 5
    assert not (tmp_path / "chunks" / MARK).exists()


def test_controls_check_names_what_was_left_out(
    tmp_path: Path, deny: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path / "a.wav")
    (tmp_path / "params.csv").write_text("filename,p\na.wav,60\n")
    (tmp_path / "closed").mkdir()
    deny(tmp_path / "closed")
    assert controls(["check", str(tmp_path)]) == 0
    assert "left out: closed: the folder cannot be read" in capsys.readouterr().out


def test_controls_convert_names_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "a.csv").write_text("name,time,value\np,0,1\n")
    (tmp_path / "in" / "b.csv").symlink_to(tmp_path / "nowhere.csv")
    assert controls(["convert", str(tmp_path / "in"), str(tmp_path / "out"), "--to", "params"]) == 0
    assert "left out: b.csv: it cannot be opened" in capsys.readouterr().out
    assert (tmp_path / "out" / "deep" / "a.params").is_file()


def test_training_among_its_own_sounds_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    record(Path("a.wav"))
    record(Path(os.fsdecode(b"fl\xf6te.wav")), 2)
    Path(os.fsdecode(b"kaputt\xe9.wav")).write_bytes(b"no sound at all")
    Path("c.json").write_text(json.dumps({**CONFIG, "training": TRAINING}))
    words = ["--data_dir", ".", "--config_file", "c.json", "--num_steps"]
    with eagerly():
        assert train.main([*words, "1"]) == 0, capsys.readouterr()
    record(Path("generated/default/epoch_1.wav"), 1)
    assert corpus_of(tmp_path, tmp_path / ".cache")[0] == ["a.wav", "fl\\xf6te.wav"]
    for mark in Path().rglob(MARK):  # as an earlier version left it
        mark.unlink()
    with eagerly():
        assert train.main([*words, "2"]) == 0, capsys.readouterr()
    assert "left out: generated: Tierwave made it" in capsys.readouterr().out
    (run,) = runs_of(Path("logdir/default"))
    assert list(run.read("run.json")["corpus"]) == ["a.wav", "fl\\xf6te.wav"] and run.latest().step == 2
    assert {name for name, *_ in run.read("split.json")["train"]} == {"a.wav", "fl\\xf6te.wav"}
    assert "left out: kaputt\\xe9.wav: " in (run.folder / "log.txt").read_text(encoding="utf-8")
