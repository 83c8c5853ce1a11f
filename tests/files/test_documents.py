"""The documents of a run: what is damaged is refused where it is read, with file and place, and never believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from corpora import recording_of, without_codes
from hypothesis import given
from hypothesis import strategies as st

from tierwave.data.splits import Split
from tierwave.errors import RunError
from tierwave.files.documents import sealed, unsealed
from tierwave.runs.folder import CheckpointEntry, Run, find_checkpoint
from tierwave.runs.history import BASELINES, LOSSES, read_history

DOCUMENTS: dict[str, Any] = {
    "run.json": {"sample_rate": 16000, "corpus": {"a.wav": "0f"}, "mark": "m", "command": ["train.py", "fl\udcf6te"]},
    "split.json": {"method": "files", "train": [["a.wav", 0, 90]], "valid": [["deep/b.wav", 5, 10]], "test": []},
    "statistics.json": {
        "gain": 1.0,
        "noise_floor": None,
        "histogram_bits": 3.0,
        "markov_bits": 2.5,
        "linear_prediction_bits": 2.1,
    },
    "schema.json": {"parameters": [{"name": "p"}], "values": {"p": [1, 2.5]}},
    BASELINES: {"mean": 1.5},
    "checkpoints.json": [
        {"name": "model.ckpt-step4", "epoch": 0, "step": 4, "value": None, "best": False, "kept": True},
        {"name": "resume.ckpt-5", "epoch": 0, "step": 5, "value": float("nan"), "best": False, "kept": False},
    ],
    "prepared.json": {"offset": [1.0]},
    "trial.json": {
        "history": [{"epoch": 1, "val_loss": float("nan")}, {"epoch": 2, "val_loss": 2.5}],
        **{"elements": 90.0, "epochs": 2, "steps": 9, "minutes": 0.5, "parameters": 70, "reason": None},
    },
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_is_whole_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(json.dumps(DOCUMENTS[name]))
    assert repr(Run(tmp_path).read(name)) == repr(DOCUMENTS[name])


@pytest.mark.parametrize(
    ("name", "change", "place"),
    [
        ("run.json", {"sample_rate": ""}, "sample_rate"),
        ("run.json", {"sample_rate": 0}, "sample_rate"),
        ("run.json", {"sample_rate": 10**400}, "damaged"),
        ("run.json", {"corpus": []}, "corpus"),
        ("run.json", {"corpus": {"../a.wav": ""}}, "corpus"),
        ("run.json", {"data_dir": 3}, "data_dir"),
        ("split.json", {"method": "guess"}, "method"),
        ("split.json", {"train": [[1]]}, "train.0"),
        ("split.json", {"train": [["a.wav", 0, 90], ["a.wav", float("inf"), 10]]}, "train.1.1"),
        ("split.json", {"valid": [["a.wav", -5, 10]]}, "valid.0.1"),
        ("split.json", {"valid": [["a.wav", 10, 10]]}, "valid.0"),
        ("split.json", {"test": [["/etc/passwd", 0, 10]]}, "test.0.0"),
        ("split.json", {"test": [["deep/../../b.wav", 0, 10]]}, "test.0.0"),
        ("split.json", {"test": None}, "test"),
        ("statistics.json", {"gain": None}, "gain"),
        ("statistics.json", {"gain": 0}, "gain"),
        ("statistics.json", {"markov_bits": None}, "markov_bits"),
        ("statistics.json", {"file_rates": [1]}, "file_rates"),
        ("schema.json", {"parameters": [1]}, "parameters.0"),
        ("schema.json", {"values": {"p": ["x"]}}, "values.p.0"),
        ("trial.json", {"history": [{"epoch": 1, "loss": 2.5}, {"epoch": 2}]}, "history"),
        ("trial.json", {"history": [{"epoch": 1, "loss": None}]}, "history.0.loss"),
        ("trial.json", {"history": [{"epoch": -1, "loss": 2.5}]}, "history"),
        ("trial.json", {"elements": float("inf")}, "elements"),
        (BASELINES, {"mean": "low"}, "mean"),
        (BASELINES, {"mean": float("nan")}, "mean"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, name: str, change: Any, place: str) -> None:
    (tmp_path / name).write_text(json.dumps({**DOCUMENTS[name], **change}))
    with pytest.raises(RunError, match="is damaged") as told:
        Run(tmp_path).read(name)
    assert str(tmp_path / name) in str(told.value) and place in str(told.value)


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00", b"[" * 5000, b'{"a": ' * 5000, b"3", b"null", b'{"a": 1e999, "a": 2}', b"{}\0"],
    ids=["empty", "no text", "deep list", "deep object", "number", "null", "twice", "zero"],
)
def test_what_is_no_document_is_told_in_a_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError, match=r"json is damaged \(.+\): name another run"):
        Run(tmp_path).read(name)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(DOCUMENTS)), st.data())
def test_no_change_of_a_document_has_another_end(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    document = json.loads(json.dumps(DOCUMENTS[name]))
    place = data.draw(st.sampled_from(list(document) if isinstance(document, dict) else range(len(document))))
    document[place] = data.draw(json_values)
    folder = tmp_path_factory.mktemp("run")
    (folder / name).write_text(json.dumps(document))
    run = Run(folder)
    try:
        run.read(name)
        assert run.checkpoints == [] and run.begun.tzinfo is not None
    except RunError as error:
        assert name in str(error)


def test_a_checkpoint_that_is_none_of_ours_is_not_deleted(tmp_path: Path) -> None:
    mine, strangers = Run(tmp_path / "mine"), Run(tmp_path / "strangers")
    entry = CheckpointEntry("model.ckpt-1", 1, 10, None, False, True)
    for run in (mine, strangers):
        run.folder.mkdir()
        for suffix in ("index", "data-00000-of-00001"):
            (run.folder / f"{entry.name}.{suffix}").touch()
        run.record(entry, None)
    listed = strangers.read("checkpoints.json")
    for name in ("../mine/model.ckpt-1", "/etc/model.ckpt-1", "model.ckpt-1/../../mine/model.ckpt-1", "", ".", "other"):
        document = [{**listed[0], "name": name, "kept": False}, *listed]
        (strangers.folder / "checkpoints.json").write_text(json.dumps(document))
        for act in (
            lambda: strangers.record(CheckpointEntry("model.ckpt-2", 2, 20, None, False, True), 1),
            lambda: find_checkpoint(strangers.folder),
        ):
            with pytest.raises(RunError, match=r"checkpoints\.json is damaged \(0\.name"):
                act()
    assert mine.latest() == entry


def test_a_split_of_other_recordings_is_refused() -> None:
    corpus = without_codes([recording_of("a.wav", 80)], 8000)
    whole = {"method": "files", "train": [["a.wav", 0, 80]], "valid": [], "test": []}
    assert Split.from_document(whole, corpus).train[0].stop == 80
    for stretch in (["a.wav", 0, 81], ["b.wav", 0, 10]):
        with pytest.raises(RunError, match=f"damaged .train: {stretch[0]}"):
            Split.from_document({**whole, "train": [stretch]}, corpus)


@pytest.mark.parametrize(
    "row",
    [
        b"\xff,1,1.0,,,1.0,,,",
        b"x,1,,,,,,,",
        b"1,1,low,,,1.0,,,",
        b"%d,1,1.0,,,1.0,,," % 10**400,
        b"1,1,1.0\0,,,1.0,,,",
        b"-1,1,1,,,1,,,",
        b"1,1,1e300,,,1,,,",
    ],
    ids=["no text", "no number", "no loss", "too large", "zero byte", "no step", "huge loss"],
)
def test_a_damaged_table_of_losses_is_told_in_a_sentence(tmp_path: Path, row: bytes) -> None:
    header = b"step,epoch,loss,accuracy,bits,gradient_norm,seconds,val_loss,val_accuracy\n"
    (tmp_path / LOSSES).write_bytes(header + b"1,1,1.0,,,1.0,,,\n2,1,0.9")
    assert list(read_history(Run(tmp_path)).steps) == [1]  # the last row was being written
    (tmp_path / LOSSES).write_bytes(header + row + b"\n")
    with pytest.raises(RunError, match=r"losses\.csv is damaged \(.+\): remove it"):
        read_history(Run(tmp_path))


def test_what_is_sealed_is_known_again_and_nothing_else() -> None:
    document = {"a": [1, 2.5, None, "ä\udcf6"], "b": {}, "c": float("inf")}
    text = json.dumps(sealed(document))
    assert unsealed(text) == unsealed(json.dumps(sealed(document), indent=1).encode()) == document
    for other in ("", "[]", "{}", "[" * 100_000, json.dumps(document), text.replace("2.5", "2.6"), text[:-1], text * 2):
        with pytest.raises(ValueError):
            unsealed(other)
