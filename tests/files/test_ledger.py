"""What is done is known again, and nothing else is taken for it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tierwave.audio.chunking import ChunkOptions, chunk_recordings
from tierwave.audio.writer import write_wav
from tierwave.files import ledger
from tierwave.files.documents import sealed, unsealed
from tierwave.files.ledger import FOLDER, Ledger, digest_of, digest_of_bytes, fingerprint, stamp, unfinished_files
from tierwave.files.places import Place, Url


@pytest.mark.parametrize("scheme", ["", "ram"])
def test_entries_are_kept_until_they_are_forgotten(tmp_path: Path, scheme: str) -> None:
    folder: Place = Url(f"ram:/{tmp_path}/l") if scheme else tmp_path / "l"
    mine, other = Ledger(folder), Ledger(folder)
    mine.forget(["a"])
    assert mine.of("a") is None
    mine.add("a", {"x": [0.1, None, "ä"]})
    other.add("b", {})
    assert other.of("a") == {"x": [0.1, None, "ä"]}
    mine.forget(["a", "none"])
    assert (mine.of("a"), mine.of("b")) == (None, {})
    other.forget(["b"])
    assert scheme or not tmp_path.joinpath("l").exists()


@pytest.mark.parametrize("content", [b"", b"\0\0\0\0", b'{"x": 1', b"[1]", b"\xff", b"{}", b'{"x": 1}', b"[" * 100_000])
def test_a_damaged_entry_is_none(tmp_path: Path, content: bytes) -> None:
    ledger = Ledger(tmp_path)
    ledger.add("a", {})
    (tmp_path / "a.json").write_bytes(content)
    assert ledger.of("a") is None
    ledger.add("b", {})
    (tmp_path / "a.json").write_bytes((tmp_path / "b.json").read_bytes())
    assert ledger.of("a") is None  # it is another's


@pytest.mark.parametrize(
    "damage",
    [{"written": []}, {"written": None}, {"processed": "2"}, {"left_over": -1}, {"remarks": "x"}, {"silent": 3}],
)
def test_a_recording_of_which_the_entry_is_damaged_is_cut_again(tmp_path: Path, damage: dict[str, object]) -> None:
    write_wav(tmp_path / "a.wav", np.sin(np.arange(800) / 5).astype(np.float32), 8000)
    options = ChunkOptions(chunk_length=50)
    first = next(reports := chunk_recordings([tmp_path / "a.wav"], tmp_path / "out", options))  # and is interrupted
    reports.close()  # type: ignore[attr-defined]
    (entry,) = (tmp_path / "out" / FOLDER).glob("*.json")
    entry.write_text(json.dumps(sealed({**unsealed(entry.read_text()), **damage})))
    (again,) = chunk_recordings([tmp_path / "a.wav"], tmp_path / "out", options)
    assert not again.taken_over and again.written == first.written and again.processed == 2


def test_fingerprints_tell_apart_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12")
    before = fingerprint(stamp(path), {"x": 1, "y": None})
    assert before == fingerprint(stamp(path), {"y": None, "x": 1}) != fingerprint(stamp(path), {"x": 1.5, "y": None})
    os.utime(path, ns=(0, 1))
    assert fingerprint(stamp(path), {"x": 1, "y": None}) != before
    same = fingerprint("a")
    monkeypatch.setattr(ledger, "__version__", "0")
    assert fingerprint("a") != same


def test_files_that_were_being_written_are_found_by_their_names(tmp_path: Path) -> None:
    temporary = [f".{'a1' * 16}.part", f".{'0' * 32}.wav.part"]
    for name in [*temporary, ".a.part", "a.part", f"{'0' * 32}.part", f".{'0' * 32}.part.txt"]:
        (tmp_path / name).touch()
    found = unfinished_files([tmp_path, tmp_path, tmp_path / "none"])
    assert sorted(path.name for path in found) == sorted(temporary)


def test_digests_are_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert digest_of(path) is None
    content = os.urandom(3 << 20)
    path.write_bytes(content)
    assert digest_of(path) == digest_of_bytes(content) != digest_of_bytes(content[1:])
