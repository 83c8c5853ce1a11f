"""The comparison of two checkouts tells whatever differs, and takes nothing for equal that failed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import soundfile
import tensorflow as tf

import conditioning
import melnet
import samplernn
from bench import equal
from bench.equal import Checkout, Failed, Found


def checkout(folder: Path, **files: str) -> Path:
    """A folder that passes for a checkout: modules of `tierwave` by name, and train.py."""
    (folder / "tierwave").mkdir(parents=True)
    for name, code in {"__init__": "", **files}.items():
        path = folder / "train.py" if name == "train" else folder / "tierwave" / f"{name}.py"
        path.write_text(code)
    return folder


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[Callable[..., Checkout]]:
    """Makes checkouts, and ends their processes."""
    made: list[Checkout] = []

    def make(**files: str) -> Checkout:
        root = checkout(tmp_path / f"root{len(made)}", **files)
        made.append(Checkout(root, tmp_path / f"folder{len(made)}", tmp_path))
        return made[-1]

    yield make
    for side in made:
        side.end()


# What is compared ----------------------------------------------------------------------------------------------------


def test_what_differs_is_told_in_one_line_each() -> None:
    old = {"same": "1", "text": "a\nb", "gone": "2", "long": "x" * 300 + "one" + "y" * 300}
    new = {"same": "1", "text": "a\nc", "come": "3", "long": "x" * 300 + "two" + "y" * 300}
    assert equal.differences(old, old) == []
    assert equal.differences(old, new) == [
        r"text: 'a\nb' -> 'a\nc'",
        "gone: only in the old checkout",
        f"long: at character 300: {'x' * 40 + 'one' + 'y' * 37!r} -> {'x' * 40 + 'two' + 'y' * 37!r}",
        "come: only in the new checkout",
    ]


def test_a_single_bit_of_an_array_is_told_and_its_type_and_shape() -> None:
    values = np.linspace(-1, 1, 12, dtype=np.float32)
    other = values.copy()
    other[5] = np.nextafter(other[5], np.float32(2))
    told = [equal.described(each) for each in (values, other, values.astype(float), values.reshape(3, 4))]
    assert len(set(told)) == 4 and equal.described(values.copy()) == told[0]
    assert equal.described(np.array([0.0])) != equal.described(np.array([-0.0]))


def test_tensors_of_a_checkpoint_differ_by_value_and_by_name(tmp_path: Path) -> None:
    def saved(stem: str, **values: float) -> Found:
        state = tf.Variable(json.dumps({"seconds": values.pop("seconds"), "step": values.pop("step")}))
        variables = {name: tf.Variable([value, 1.0]) for name, value in values.items()}
        return equal.tensors(Path(tf.train.Checkpoint(state=state, **variables).write(str(tmp_path / stem))))

    first = saved("first", kernel=1.0, step=3, seconds=1)
    assert equal.differences(first, saved("slower", kernel=1.0, step=3, seconds=2)) == []
    (line,) = equal.differences(first, saved("other", kernel=1.0000001, step=3, seconds=1))
    assert line.startswith("kernel/") and "mean 1 deviation" in line
    (line,) = equal.differences(first, saved("later", kernel=1.0, step=4, seconds=1))
    assert "step 3" in line and "step 4" in line
    lines = equal.differences(first, saved("renamed", weights=1.0, step=3, seconds=1))
    assert [line.split("/")[0] + line[line.index(":") :] for line in lines] == [
        "kernel: only in the old checkout",
        "weights: only in the new checkout",
    ]


def test_of_json_the_keys_and_numbers_count_and_no_texts_or_times() -> None:
    document = {"id": "a", "seconds": 1.5, "rows": [{"loss": 0.1}, {"loss": 0.2}], "none": None}
    assert equal.lines_of(document) == "id str; none None; rows[0].loss 0.1; rows[1].loss 0.2; seconds float"
    same = {"none": None, "id": "b", "seconds": 2.5, "rows": [{"loss": 0.1}, {"loss": 0.2}]}
    assert equal.lines_of(same) == equal.lines_of(document)
    for other in ({**document, "more": 1}, {**document, "rows": [{"loss": 0.1}]}, {**document, "none": 0}):
        assert equal.lines_of(other) != equal.lines_of(document)


def test_a_run_folder_has_losses_documents_and_the_last_checkpoint_of_every_stage(tmp_path: Path) -> None:
    for stage, loss in (("slow", 1.0), ("sound", 2.0)):
        folder = tmp_path / stage
        folder.mkdir()
        (folder / "losses.csv").write_text(f"step,loss,seconds\n1,{loss},0.3\n2,{loss / 2},0.2\n")
        for step in (1, 2):
            tf.train.Checkpoint(kernel=tf.Variable(loss * step)).write(str(folder / f"model.ckpt-{step}"))
        (folder / "checkpoints.json").write_text(json.dumps([{"name": f"model.ckpt-{step}"} for step in (1, 2)]))
    found = equal.run_folder(tmp_path)
    assert found["slow/losses loss"] == "1.0 0.5" and found["sound/losses loss"] == "2.0 1.0"
    assert "mean 4 " in found["sound/tensor kernel/.ATTRIBUTES/VARIABLE_VALUE"]
    assert found["slow/checkpoints.json"] == "[0].name str; [1].name str"
    assert not any("seconds" in name for name in found)


def test_files_are_compared_by_what_they_hold(tmp_path: Path) -> None:
    sound = np.linspace(-0.5, 0.5, 40)

    def written(folder: Path, level: float) -> Found:
        folder.mkdir()
        soundfile.write(folder / "a.wav", level * sound, 8000)
        np.save(folder / "a.npy", level * sound)
        (folder / "a.csv").write_text(f"time,value\n0,{level}\n")
        (folder / "a.json").write_text(json.dumps({"checkpoint": str(folder), "temperature": level}))
        (folder / "a.png").write_bytes(b"picture of " + str(folder).encode())
        (folder / "a.bin").write_bytes(str(level).encode())
        return equal.contents(folder)

    found = written(tmp_path / "one", 1.0)
    assert equal.differences(found, written(tmp_path / "two", 1.0)) == []
    lines = equal.differences(found, written(tmp_path / "other", 0.5))
    assert [line.split(":")[0] for line in lines] == ["a.bin", "a.csv", "a.json", "a.npy", "a.wav"]


def test_both_forms_of_a_command_are_one_in_a_text() -> None:
    texts = [
        "usage: python -m tierwave.evaluate [-h]\n    see python -m melnet.bands",
        "usage: python -m tierwave evaluate [-h] see\npython -m tierwave bands",
        "usage: python -m tierwave evaluate [-h] see python -m tierwave.melnet.bands",
    ]
    assert {equal.plain(text) for text in texts} == {"usage: evaluate [-h] see bands"}


# The checkouts -------------------------------------------------------------------------------------------------------

OLD_FORM = "import sys\nprint('evaluated', *sys.argv[1:])\n"
NEW_FORM = """
import sys
if sys.argv[1] == "evaluate":
    print("evaluated", *sys.argv[2:])
elif sys.argv[1] == "--help":
    print("usage")
else:
    sys.exit(2)
"""


def test_a_command_is_found_in_either_form(sides: Callable[..., Checkout]) -> None:
    old, new = sides(evaluate=OLD_FORM), sides(__main__=NEW_FORM)
    assert old.verb("evaluate", "a", 1) == new.verb("evaluate", "a", 1) == "evaluated a 1\n"
    with pytest.raises(Failed, match="neither python -m tierwave export nor python -m tierwave.export"):
        new.verb("export")


def test_what_fails_is_told_with_its_last_line(sides: Callable[..., Checkout]) -> None:
    side = sides(
        train="import os, sys\nif sys.argv[1] == 'die': os._exit(3)\nprint('odd', file=sys.stderr)\nsys.exit(2)"
    )
    with pytest.raises(Failed, match="train.py now ended with 2: odd"):
        side.script("train.py", "now")
    with pytest.raises(Failed, match=r"train.py: the process died \(3\)"):
        side.script("train.py", "die")
    with pytest.raises(Failed, match="ended with 2: odd"):  # by a new process
        side.script("train.py", "now")


def test_another_tierwave_than_the_checkouts_is_refused(sides: Callable[..., Checkout], tmp_path: Path) -> None:
    elsewhere = checkout(tmp_path / "elsewhere")
    side = sides(train=f"import sys\nsys.path.insert(0, {str(elsewhere)!r})\nimport tierwave")
    with pytest.raises(Failed, match="took tierwave from .*elsewhere.* and not from"):
        side.script("train.py")


def test_what_fails_in_both_or_finds_nothing_is_not_equal(sides: Callable[..., Checkout]) -> None:
    old, new = sides(), sides()

    def failing(side: Checkout) -> Found:
        raise Failed("no sound")

    assert equal.compare(lambda side: {"a": "1"}, old, new) == (1, [])
    assert equal.compare(failing, old, new) == (0, ["old: no sound", "new: no sound"])
    assert equal.compare(lambda side: {}, old, new) == (0, ["nothing was found to compare"])
    assert equal.compare(lambda side: {} if side is new else {"a": "1"}, old, new)[1] == ["a: only in the old checkout"]


def test_the_exit_code_and_the_document_tell_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = checkout(tmp_path / "old", train="print(1)"), checkout(tmp_path / "new", train="print(2)")
    monkeypatch.setattr(equal, "ROOT", new)
    subjects = {"said": lambda side: {"it": side.script("train.py")}, "like": lambda side: {"it": "x"}}
    monkeypatch.setattr(equal, "SUBJECTS", subjects)
    target = tmp_path / "found.json"
    assert equal.main([str(old), "--json", str(target)]) == 1
    assert "1 of 2 subjects differ" in capsys.readouterr().out
    found = json.loads(target.read_text())
    assert found["said"]["differences"] == [r"it: '1\n' -> '2\n'"] and found["like"]["differences"] == []
    assert equal.main([str(old), "--only", "like"]) == 0
    assert equal.main([str(new)]) == 0
    for words in (["--only", "other"], []):
        with pytest.raises(SystemExit) as left:
            equal.main([str(tmp_path if not words else old), *words])
        assert left.value.code == 2


def test_a_group_of_subjects_is_chosen_by_how_their_names_begin() -> None:
    assert equal.chosen(["melnet", "help"]) == ["help", "melnet-lstm", "melnet-gru", "melnet-text"]
    assert equal.chosen([]) == list(equal.SUBJECTS) and equal.chosen(["melnet-"]) == []


def test_every_value_of_every_choice_of_a_network_is_among_the_subjects() -> None:
    def choices(annotation: Any) -> set[Any]:
        if get_origin(annotation) is Literal:
            return set(get_args(annotation))
        return {value for inner in get_args(annotation) for value in choices(inner)}

    documents = [document for document, *_ in equal.NETWORKS.values()]
    for model in (samplernn.Config, conditioning.Config, melnet.Config):
        (name,) = choices(model.model_fields["model"].annotation)
        mine = [each for each in documents if each["model"] == name]
        for key, field in model.model_fields.items():
            missing = {value for value in choices(field.annotation) if value not in [each.get(key) for each in mine]}
            assert all(value == field.get_default() for value in missing), (name, key)


@pytest.mark.slow
def test_a_changed_constant_of_a_network_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The recordings are cut as before, and what is trained differs."""
    away = shutil.ignore_patterns(".*", "tests", "docs", "notebooks", "build", "demo", "__pycache__")
    old = Path(shutil.copytree(equal.ROOT, tmp_path / "old", ignore=away))
    (path,) = old.rglob("samplernn/model.py")
    code = path.read_text(encoding="utf-8")
    changed = code.replace("/ 2) - 1.0) * 2.0", "/ 2) - 1.0) * 2.1")
    assert changed != code
    path.write_text(changed, encoding="utf-8")
    assert equal.main([str(old), "--only", "chunks", "samplernn-two-tiers"]) == 1
    told = capsys.readouterr().out
    assert "chunks: " in told and told.split("chunks: ")[1].split("\n")[0].count(" 0 differ") == 1
    assert "  losses loss: at character" in told and "  tensor model/" in told and "  generate.py 0: " in told
    assert "only in the" not in told and "1 of 2 subjects differ" in told
