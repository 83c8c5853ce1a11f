"""A file is there whole, or as it was before."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tierwave.files.writing import ArrayError, load_array, write_array, write_text


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "new folder" / "a.json"
    write_text(path, "old text ß")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new text that is longer")
    monkeypatch.undo()
    assert path.read_text(encoding="utf-8") == "old text ß"
    assert list(path.parent.iterdir()) == [path]  # and no scraps
    write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "new" and list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_others_may_read_what_is_written(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        write_text(tmp_path / "a.txt", "text")
    finally:
        os.umask(mask)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".txt")
    write_text(path, "text")
    assert path.read_text() == "text"


def test_an_array_is_read_as_it_was_and_one_of_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_array(path, array)
    with pytest.raises(ValueError, match="allow_pickle"):
        write_array(path, np.array([{}], object))
    found = load_array(path)
    assert found.dtype == array.dtype and list(tmp_path.iterdir()) == [path]
    np.testing.assert_array_equal(found, array)


def test_whatever_is_wrong_with_an_array_is_told_in_one_way(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    write_array(path, np.zeros((1, 5, 2)))
    whole = path.read_bytes()
    shape = b"(1, 5, 2)"
    shapes = [
        b"\xd31, 5, 2)",
        b"((((((((1,",
        b"(1, 5, -2",
        b"(9999999999999, 9999999999, 2)",
        b"('1', 5, 2)",
        b"(1, 5, 2j)",
        b"(1, 5, x)",
    ]
    for content in [
        *(whole.replace(shape, wrong) for wrong in shapes),
        whole[:100],
        whole[:20],
        b"",
        b"PK\3\4 and more",
    ]:
        path.write_bytes(content)
        for mapped in (False, True):
            expected = r"a\.npy cannot be read as an array \(.+\): use another copy of it"
            with pytest.raises(ArrayError, match=expected) as refused:
                load_array(path, mapped=mapped)
            assert " object at " not in str(refused.value)
    with pytest.raises(FileNotFoundError):
        load_array(tmp_path / "none.npy")
