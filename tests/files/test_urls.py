"""URLs: what looks like one, and that recordings are found there as in a folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from tierwave.audio.finding import find_audio, find_audio_at
from tierwave.errors import RunError, UsageError
from tierwave.files.urls import Url, absolute, fetched, files_below, local_folder, place_of


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("gs://bucket/corpus", "gs://bucket/corpus"),
        ("gs://bucket/corpus/", "gs://bucket/corpus"),
        (Path("gs://bucket/my corpus"), "gs://bucket/my corpus"),
        (Path("file:///tmp/x"), "file:///tmp/x"),
        ("hdfs:///user/x", "hdfs:///user/x"),
        (Url("memory://x"), "memory://x"),
        ("s3\x3a\\bucket\\x", "s3://bucket/x"),
    ],
)
def test_what_looks_like_a_url_is_one(given: str | Path | Url, text: str) -> None:
    place = place_of(given)
    assert isinstance(place, Url) and place.text == str(place) == text == absolute(given)


@pytest.mark.parametrize("given", ["recordings", "/tmp/a", "C:/Users/x", r"C:\Users\x", "a:b", "./take://2", "1: x"])
def test_everything_else_is_a_path(given: str) -> None:
    assert place_of(given) == local_folder(given) == Path(given)
    assert absolute(given) == str(Path(given).resolve())


def test_neither_tensorflow_nor_fsspec_is_imported_for_folders() -> None:
    code = (
        "import sys, tierwave.data.cache, tierwave.audio.chunking\nfrom tierwave.files.urls import place_of\n"
        "place_of('gs://x')\nprint([name for name in ('tensorflow', 'fsspec', 'joblib') if name in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_files_are_listed_and_fetched(tmp_path: Path, scheme: str) -> None:
    root = f"{scheme}://{tmp_path}/at url"
    for name in ("a ä.bin", "deep/b.bin"):
        with fsspec.open(f"{root}/{name}", "wb", auto_mkdir=True) as file:
            file.write(b"0123")
    found = files_below(Url(root))
    assert sorted((each.name, each.size) for each in found) == [("a ä.bin", 4), ("deep/b.bin", 4)]
    assert all(each.changed for each in found)
    for each in found:
        assert files_below(each.url) == [each.__class__(each.url, Path(each.name).name, 4, each.changed)]
        with fetched(each.url) as copy:
            assert copy.read_bytes() == b"0123" and copy.suffix == ".bin"
        assert not copy.exists()


def test_what_is_missing_and_what_nobody_opens_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert files_below(Url("memory://nowhere/x")) == []
    with pytest.raises(FileNotFoundError), fetched(Url("memory://nowhere/x")):
        pass
    with pytest.raises(UsageError, match=r"nope://x cannot be opened \(Protocol not known: nope\): pip install"):
        files_below(Url("nope://x"))

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(fsspec.filesystem("memory").__class__, "find", unreachable)
    with pytest.raises(RunError, match=r"memory://x cannot be read \(nobody answers\): .*run the same command"):
        files_below(Url("memory://x"))
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UsageError, match=r"memory://x cannot be opened .*pip install .fsspec"):
        files_below(Url("memory://x"))


def test_recordings_at_a_url_are_found_as_in_a_folder(tmp_path: Path) -> None:
    names = ["b/take 10.wav", "b/take 2.WAV", "a.flac", "b/c/01.ogg", "b/c/1.ogg", "b.wav"]
    names += ["x.txt", ".hid/d.wav", "b/.e.wav"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    url = f"file://{tmp_path}"
    found = [recording.name for recording in find_audio_at(Url(url))]
    assert found == [recording.relative_to(tmp_path).as_posix() for recording in find_audio([tmp_path])]
    assert len(found) == 6
    assert [each.name for each in find_audio_at(Url(f"{url}/x.txt"))] == ["x.txt"]
    with pytest.raises(UsageError, match="no file or folder file://"):
        find_audio_at(Url(f"{url}/none"))
    with pytest.raises(UsageError, match="file:///.* is no folder of this machine: copy"):
        find_audio([Path(url)])
