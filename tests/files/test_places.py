"""Places: what is a URL, and that one answers as a folder does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from tierwave.audio.finding import find_audio, find_audio_at
from tierwave.errors import RunError, UsageError
from tierwave.files import places
from tierwave.files.places import Place, Url, place_of


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("gs://bucket/corpus", "gs://bucket/corpus"),
        ("gs://bucket/corpus/", "gs://bucket/corpus"),
        (Path("gs://bucket/my corpus"), "gs://bucket/my corpus"),
        (Path("file:///tmp/x"), "file:///tmp/x"),
        ("hdfs:///user/x", "hdfs:///user/x"),
        (Url("ram://x"), "ram://x"),
        ("s3\x3a\\bucket\\x", "s3://bucket/x"),
    ],
)
def test_what_looks_like_a_url_is_one(given: str | Path | Url, text: str) -> None:
    place = place_of(given)
    assert isinstance(place, Url) and place.text == str(place) == text == places.absolute(given)


@pytest.mark.parametrize("given", ["recordings", "/tmp/a", "C:/Users/x", r"C:\Users\x", "a:b", "./take://2", "1: x"])
def test_everything_else_is_a_path(given: str) -> None:
    assert place_of(given) == Path(given)
    assert places.absolute(given) == str(Path(given).resolve())


def test_the_parts_of_a_url() -> None:
    url = Url("gs://bucket/a") / "b c.flac"
    assert (url.name, url.suffix, url.parent) == ("b c.flac", ".flac", Url("gs://bucket/a"))
    assert url.relative_to(Url("gs://bucket")) == PurePosixPath("a/b c.flac")
    with pytest.raises(ValueError, match="does not lie in"):
        url.relative_to(Url("gs://buck"))


def test_tensorflow_is_imported_for_urls_only() -> None:
    code = (
        "import sys; from pathlib import Path\nimport tierwave.data.corpus, tierwave.audio.chunking\n"
        "from tierwave.files.places import *\nplace_of('gs://x')\nput_bytes(Path(sys.argv[1]), b'x')\n"
        "print('tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "no such file"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    (root / "no such file").unlink()
    assert done.stdout.strip() == "False"


@pytest.fixture(params=["path", "ram", "file"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    place: dict[str, Place] = {
        "path": tmp_path / "new ä",
        "ram": Url(f"ram:/{tmp_path}"),
        "file": Url(f"file://{tmp_path}/x"),
    }
    return place[request.param]


def test_files_are_written_read_and_removed(folder: Place, tmp_path: Path) -> None:
    place = folder / "deep" / "a.bin"
    places.remove(place)
    assert not place.exists()
    places.make_folder(place.parent)
    places.make_folder(place.parent)
    for content in (b"0123456789", b"", b"other"):
        places.put_bytes(place, content)
        assert places.read_bytes(place) == content and places.size_of(place) == len(content)
    source = tmp_path / "source"
    source.write_bytes(b"0123456789")
    places.put_file(source, place)
    assert not source.exists()
    with places.local_copy(place) as copy:
        assert copy.read_bytes() == b"0123456789" and copy.suffix == ".bin"
    assert copy.exists() == isinstance(place, Path)
    if isinstance(place, Url):
        assert (place.read_range(3, 4), place.read_range(8, 5)) == (b"3456", b"89")
        assert [(str(where), names) for where, _, names in folder.walk() if names] == [(f"{folder}/deep", ["a.bin"])]  # type: ignore[union-attr]
    places.remove(folder)
    places.remove(folder)
    assert not place.exists()


def test_what_is_missing_and_what_nobody_opens_is_told() -> None:
    missing = Url("ram://nowhere/x")
    for reading in (places.read_bytes, places.size_of, Url.stat, lambda url: url.read_range(0, 1)):
        with pytest.raises(FileNotFoundError):
            reading(missing)
        with pytest.raises(UsageError, match=r"TensorFlow has no file system for nope:// \(nope://x\): install"):
            reading(Url("nope://x"))
    with pytest.raises(RunError, match=r"/dev/null/x cannot be (read or )?written .*run the same command"):
        places.put_bytes(Url("file:///dev/null/x"), b"")


def test_recordings_at_a_url_are_found_as_in_a_folder(tmp_path: Path) -> None:
    names = ["b/take 10.wav", "b/take 2.WAV", "a.flac", "b/c/01.ogg", "b/c/1.ogg", "b.wav"]
    names += ["x.txt", ".hid/d.wav", "b/.e.wav"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    url = Url(f"file://{tmp_path}")
    found = [recording.relative_to(url).as_posix() for recording in find_audio_at(url)]
    assert found == [recording.relative_to(tmp_path).as_posix() for recording in find_audio([tmp_path])]
    assert len(found) == 6
    assert find_audio_at(url / "x.txt") == [url / "x.txt"]
    with pytest.raises(UsageError, match="no file or folder file://"):
        find_audio_at(url / "none")
    with pytest.raises(UsageError, match="file:///.* is no folder of this machine: copy"):
        find_audio([Path(str(url))])
