"""Runs in zip files: the same bytes each time, and nothing from a stranger's file lands anywhere but in its place."""

from __future__ import annotations

import contextlib
import os
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwave.errors import RunError, UsageError
from tierwave.runs import archive
from tierwave.runs.archive import opened, pack, unpack

FILES = {"run.json": b"{}", "tier1/model.ckpt-3.data-00000-of-00001": bytes(300_000), "sample (1).wav": b"RIFF"}


def tree(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def zipped(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as made:
        for name, content in entries:
            made.writestr(name, content)
    return path


def test_what_is_packed_comes_out_again_and_the_bytes_are_the_same_each_time(tmp_path: Path) -> None:
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two", dict(reversed(FILES.items())))
    for path in two.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    pack(one, tmp_path / "one.zip")
    pack(two, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    found = opened(tmp_path / "one.zip")
    assert content_of(found) == FILES
    assert opened(tmp_path / "one.zip") == found  # not unpacked twice
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "one.zip", "two", "two.zip"]
    assert opened(one) == one and opened(tmp_path / "none.zip") == tmp_path / "none.zip"


def test_a_zip_made_by_hand_with_a_folder_around_it_is_read(tmp_path: Path) -> None:
    entries = [(f"birds/{name}", content) for name, content in FILES.items()]
    noise = [("__MACOSX/birds/._run.json", b"x"), ("birds/.DS_Store", b"x")]
    assert content_of(opened(zipped(tmp_path / "by_hand.ZIP", *entries, *noise))) == FILES


def linked(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../../x", "/etc/x", "C:/x", "..\\x", "a/./x", "~/x", ".hidden", "a//x", "a\nb", "a/b/c/d/e", "-x"],
)
def test_names_that_lead_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="which no run has"):
        opened(zipped(tmp_path / "bad.zip", ("run.json", b"{}"), (name, b"x")))


@given(st.text("./\\ab:~-\0é", max_size=12))
def test_no_name_leads_out_of_the_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    place = tmp_path_factory.mktemp("names")
    entry = zipfile.ZipInfo("x")
    entry.filename = name  # as it stands, which zipfile itself would not write
    zipped(place / "one.zip", (entry, b"x"))
    (place / "inside").mkdir()
    with contextlib.suppress(UsageError, RunError):
        unpack(place / "one.zip", place / "inside")
    outside = [path for path in place.rglob("*") if path.is_file() and (place / "inside") not in path.parents]
    assert outside == [place / "one.zip"]


def test_links_doubles_bombs_and_crowds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="a link or a device"):
        opened(zipped(tmp_path / "link.zip", (linked("run.json"), b"/etc/passwd")))
    with pytest.raises(UsageError, match=r"holds RUN\.json twice"):
        opened(zipped(tmp_path / "double.zip", ("run.json", b"1"), ("RUN.json", b"2")))
    with pytest.raises(UsageError, match="would unpack to 64 MiB"):
        opened(zipped(tmp_path / "bomb.zip", ("run.json", bytes(64 << 20))))
    monkeypatch.setattr(archive, "MOST_FILES", 3)
    with pytest.raises(UsageError, match="holds 4 files, more than the 3"):
        opened(zipped(tmp_path / "crowd.zip", *((f"f{number}", b"") for number in range(4))))
    monkeypatch.setattr(archive, "LARGEST", 1 << 20)
    with pytest.raises(UsageError, match="would unpack to 2 MiB"):
        opened(zipped(tmp_path / "large.zip", ("run.json", os.urandom(2 << 20))))


def test_sizes_are_counted_not_believed(tmp_path: Path) -> None:
    path = zipped(tmp_path / "liar.zip", ("run.json", bytes(8 << 20)))
    raw = path.read_bytes()
    size = (8 << 20).to_bytes(4, "little")
    assert raw.count(size) == 2  # in the entry and in the directory
    path.write_bytes(raw.replace(size, (100).to_bytes(4, "little")))
    (tmp_path / "inside").mkdir()
    with pytest.raises((RunError, UsageError)):
        unpack(path, tmp_path / "inside")
    assert sum(len(content) for content in content_of(tmp_path / "inside").values()) <= 100


def test_encrypted_and_damaged_files_are_told(tmp_path: Path) -> None:
    path = zipped(tmp_path / "locked.zip", ("run.json", b"{}"))
    raw = bytearray(path.read_bytes())
    raw[6] |= 1
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(UsageError, match="encrypted"):
        opened(path)
    whole = zipped(tmp_path / "whole.zip", ("run.json", os.urandom(5000)), compression=zipfile.ZIP_STORED).read_bytes()
    for number, broken in enumerate((whole[:2000], b"no zip", whole[:100] + b"\0\0\0\0" + whole[104:])):
        (tmp_path / f"{number}.zip").write_bytes(broken)
        with pytest.raises(RunError, match="is damaged, or no zip file"):
            opened(tmp_path / f"{number}.zip")


def test_damage_that_zipfile_tells_in_other_ways_is_damage_too(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("run.jsoné")
    zipped(tmp_path / "name.zip", (entry, b"{}"))
    zipped(tmp_path / "packed.zip", ("run.json", bytes(5000)), compression=zipfile.ZIP_BZIP2)
    name, packed = ((tmp_path / f"{each}.zip").read_bytes() for each in ("name", "packed"))
    at = packed.index(b"BZh")
    broken = {
        "name": name.replace("é".encode(), b"\xff\xff"),  # UnicodeDecodeError
        "packed": packed[: at + 10] + bytes([packed[at + 10] ^ 255]) + packed[at + 11 :],  # OSError without a number
        "place": name[:-10] + b"\xf0\xff\xff\xff" + name[-6:],  # of the directory: before the file's beginning
    }
    for each, content in broken.items():
        (tmp_path / f"{each}.zip").write_bytes(content)
        with pytest.raises(RunError, match="is damaged, or no zip file"):
            opened(tmp_path / f"{each}.zip")
