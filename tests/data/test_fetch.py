"""Downloads against a server on loopback: whole, cut and tried again, refused where the content is not what it was."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pooch
import pytest
import soundfile

from commands import call, told
from melnet.text import find_transcripts
from tierwave.cli.fetch import main
from tierwave.data import downloads, fetch
from tierwave.data.downloads import Archive, download, unpack
from tierwave.errors import RunError, UsageError


class Server(http.server.ThreadingHTTPServer):
    """Gives `content` under any address. cuts: after how many bytes each answer breaks off, while there are any left;
    codes: answers before that; lengths: whether it tells them; asked: the headers of every request."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.cuts, self.codes = content, list[int](), list[int]()
        self.lengths = True
        self.asked: list[dict[str, str]] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/files/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.0"  # one answer per connection

    def do_GET(self) -> None:
        server, headers = self.server, {name.lower(): value for name, value in self.headers.items()}
        server.asked.append(headers)
        if server.codes:
            return self.send_error(server.codes.pop(0))
        self.send_response(200)
        if server.lengths:
            self.send_header("Content-Length", str(len(server.content)))
        self.end_headers()
        self.wfile.write(server.content[: server.cuts.pop(0)] if server.cuts else server.content)

    def log_message(self, *_: Any) -> None:
        pass


CONTENT = np.random.default_rng(0).bytes(1_000_003)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(CONTENT) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooch.core.time, "sleep", lambda seconds: None)


class Usage(NamedTuple):
    free: int


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Fetching ------------------------------------------------------------------------------------------------------------


def test_a_whole_archive_comes_at_once_and_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    archive = Archive(server.url("x.tar.gz?mirror=1"), DIGEST)
    path = download(archive, tmp_path / "new" / "folder", lambda *of: told.append(of))
    assert path.read_bytes() == CONTENT and names(path.parent) == ["x.tar.gz"]
    assert told[-1] == (len(CONTENT), len(CONTENT)) and len(told) > 2
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert server.asked[0]["user-agent"].startswith("tierwave/")
    assert download(archive, path.parent) == path and len(server.asked) == 1


def test_a_cut_download_is_tried_again(server: Server, tmp_path: Path) -> None:
    server.cuts = [300_000, 0]
    path = download(Archive(server.url("x.tgz"), DIGEST), tmp_path)
    assert path.read_bytes() == CONTENT and names(tmp_path) == ["x.tgz"] and len(server.asked) == 3


def test_a_server_that_gives_up_is_told_and_nothing_is_left(server: Server, tmp_path: Path) -> None:
    server.cuts = [123_456] + [0] * 20
    with pytest.raises(RunError, match=r"x.tgz cannot be fetched \(.*\): run the same command again, or name"):
        download(Archive(server.url("x.tgz"), DIGEST), tmp_path)
    assert names(tmp_path) == [] and len(server.asked) == 1 + downloads.MORE_ATTEMPTS


def test_a_server_that_tells_no_length_is_read_to_the_end(server: Server, tmp_path: Path) -> None:
    server.lengths = False
    told: list[tuple[int, int | None]] = []
    assert download(Archive(server.url("x.tgz"), DIGEST), tmp_path, lambda *of: told.append(of)).read_bytes() == CONTENT
    assert {total for _, total in told} == {None}


def test_a_wrong_checksum_is_refused_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    wrong = Archive(server.url("x.tgz"), "0" * 64)
    for _ in range(2):
        with pytest.raises(RunError, match=f"has the SHA-256 {DIGEST}, not {'0' * 64}, and is deleted"):
            download(wrong, tmp_path)
        assert names(tmp_path) == []
    (tmp_path / "x.tgz").write_bytes(b"something else")  # that was there already
    with pytest.raises(RunError, match="and is deleted"):
        download(Archive(server.url("x.tgz"), DIGEST), tmp_path)
    assert names(tmp_path) == []


def test_an_unknown_checksum_is_written_down_and_holds_from_then_on(server: Server, tmp_path: Path) -> None:
    archive = Archive(server.url("x.tgz"), None)
    download(archive, tmp_path)
    assert (tmp_path / "x.tgz.sha256").read_text() == f"{DIGEST}  x.tgz\n"  # as sha256sum -c reads it
    (tmp_path / "x.tgz").unlink()
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(RunError, match="and is deleted"):
        download(archive, tmp_path)


def test_what_another_attempt_may_mend_is_tried_again_and_nothing_else(server: Server, tmp_path: Path) -> None:
    server.codes = [503, 429, 500]
    assert download(Archive(server.url("x.tgz"), DIGEST), tmp_path).read_bytes() == CONTENT
    server.codes = [404]
    with pytest.raises(RunError, match=r"y.tgz cannot be fetched \(404 Client Error: Not Found\): .* name another"):
        download(Archive(server.url("y.tgz"), DIGEST), tmp_path)
    assert len(server.asked) == 5
    server.codes = [503] * 99
    with pytest.raises(RunError, match=r"503 Server Error"):
        download(Archive(server.url("y.tgz"), DIGEST), tmp_path)
    assert len(server.asked) == 5 + 1 + downloads.MORE_ATTEMPTS and names(tmp_path) == ["x.tgz"]


def test_nobody_listening_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot be fetched \(.*refused"):
        download(Archive("http://127.0.0.1:9/x.tgz", None), tmp_path)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a/b.tgz", "x.tgz", "https://a.org/", "data:,x"])
def test_only_archives_on_the_web_are_fetched(url: str) -> None:
    with pytest.raises(UsageError, match="is no address of an archive"):
        Archive(url, None)
    with pytest.raises(UsageError, match="64 digits"):
        Archive("https://a.org/x.tgz", "abc")


def test_a_disk_without_room_is_told_before_anything_comes(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = downloads.ROOM_LEFT_BYTES + 2 * len(CONTENT)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: Usage(free))
    with pytest.raises(RunError, match=r"x.tgz needs 0.0 GB, fetched and .* has 0.1 GB free"):
        download(Archive(server.url("x.tgz"), DIGEST, unpacked=1.01), tmp_path)
    assert names(tmp_path) == []
    download(Archive(server.url("x.tgz"), DIGEST, unpacked=0.99), tmp_path)


# Unpacking -----------------------------------------------------------------------------------------------------------


def tar(path: Path, entries: dict[str, bytes | str], mode: str = "w:gz") -> Path:
    """An archive of files (bytes), links ("-> target"), hard links ("=> target") and devices ("device")."""
    with tarfile.open(path, mode) as archive:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                entry.size, entry.mode = len(content), 0o6777
                archive.addfile(entry, io.BytesIO(content))
                continue
            kinds = {"->": tarfile.SYMTYPE, "=>": tarfile.LNKTYPE, "de": tarfile.CHRTYPE, "di": tarfile.DIRTYPE}
            entry.type, entry.linkname = kinds[content[:2]], content[3:]
            archive.addfile(entry)
    return path


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "w"])
def test_all_files_come_out_as_they_went_in(tmp_path: Path, mode: str) -> None:
    files = {f"top/Ordner {n}/ö{n}.wav": np.random.default_rng(n).bytes(n * 1000) for n in range(9)}
    read: list[int] = []
    path = tar(tmp_path / "x.tar", {".": "dir", "top/empty": "dir", **files}, mode)
    unpack(path, tmp_path / "out", lambda done, total: read.append(done))
    found = {each.relative_to(tmp_path / "out").as_posix(): each for each in (tmp_path / "out").rglob("*")}
    assert {name: each.read_bytes() for name, each in found.items() if each.is_file()} == files
    assert found["top/empty"].is_dir() and len(read) == 11 and read == sorted(read)
    assert all(not each.stat().st_mode & 0o6022 for each in found.values() if each.is_file())


@pytest.mark.parametrize("name", ["../x", "a/../../x", "../out.new/x"])
def test_a_name_that_leads_out_is_refused_with_all_the_rest(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    path = tar(tmp_path / "in" / "x.tgz", {"good.wav": b"1", name: b"2"})
    with pytest.raises(RunError, match=r"is not unpacked \(.*outside the destination.*delete x.tgz"):
        unpack(path, tmp_path / "in" / "out")
    assert names(tmp_path / "in") == ["x.tgz"] and names(tmp_path) == ["in"]


@pytest.mark.parametrize("name", ["/etc/tierwave/x", "\\x", "a\\..\\..\\x", "C:/x", "c:x"])
def test_an_odd_name_stays_within_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    with contextlib.suppress(RunError):
        unpack(tar(tmp_path / "in" / "x.tgz", {name: b"2"}), tmp_path / "in" / "out")
    assert set(names(tmp_path / "in")) <= {"x.tgz", "out"} and names(tmp_path) == ["in"]
    assert not Path("/etc/tierwave").exists()


def test_links_and_devices_are_passed_over(tmp_path: Path) -> None:
    entries: dict[str, bytes | str] = {"way": "-> ..", "way/x.wav": b"1", "hard": "=> way/x.wav", "null": "device"}
    unpack(tar(tmp_path / "x.tgz", entries), tmp_path / "out")
    assert names(tmp_path / "out") == ["way"] and not (tmp_path / "out" / "way").is_symlink()
    assert names(tmp_path) == ["out", "x.tgz"] and names(tmp_path / "out" / "way") == ["x.wav"]


def test_a_broken_archive_leaves_nothing(tmp_path: Path) -> None:
    whole = tar(tmp_path / "x.tgz", {f"{n}.wav": np.random.default_rng(n).bytes(3000) for n in range(5)}).read_bytes()
    for content in (whole[: len(whole) // 2], whole[:3], b"no archive", b""):
        (tmp_path / "x.tgz").write_bytes(content)
        with pytest.raises(RunError, match="is broken .*: delete x.tgz, and run the same command again"):
            unpack(tmp_path / "x.tgz", tmp_path / "out")
        assert names(tmp_path) == ["x.tgz"]


# The corpora ---------------------------------------------------------------------------------------------------------


def recording(seed: int, kind: str = "WAV") -> bytes:
    content = io.BytesIO()
    soundfile.write(content, np.random.default_rng(seed).uniform(-0.5, 0.5, 800), 8000, format=kind)
    return content.getvalue()


def ljspeech() -> dict[str, bytes | str]:
    rows = 'LJ001-0001|Printed in 1455|Printed in fourteen fifty-five\nLJ001-0002|He said "so"|He said "so"\n'
    top = "LJSpeech-1.1"
    files = {f"{top}/wavs/LJ001-000{number}.wav": recording(number) for number in (1, 2)}
    return {f"{top}/README": b"-", f"{top}/metadata.csv": rows.encode(), **files}


def librispeech(subset: str, chapter: str) -> dict[str, bytes | str]:
    speaker = chapter.split("-")[0]
    place = f"LibriSpeech/{subset}/{speaker}/{chapter.split('-')[1]}"
    text = f"{chapter}-0000 MISTER QUILTER'S MANNER\n{chapter}-0001 NOR IS IT LESS\n".encode()
    files = {f"{place}/{chapter}-000{number}.flac": recording(number, "FLAC") for number in (0, 1)}
    return {"LibriSpeech/README.TXT": b"-", f"{place}/{chapter}.trans.txt": text, **files}


def fsdd() -> dict[str, bytes | str]:
    top = "free-spoken-digit-dataset-1.0.9"
    files = {f"{top}/recordings/{digit}_theo_{take}.wav": recording(digit) for digit in (0, 9) for take in (0, 1)}
    return {f"{top}/README.md": b"-", f"{top}/acquire_data/say.wav": recording(5), **files}


def serve(server: Server, tmp_path: Path, entries: dict[str, bytes | str], mode: str = "w:gz") -> str:
    server.content = tar(tmp_path / "made", entries, mode).read_bytes()
    (tmp_path / "made").unlink()
    return hashlib.sha256(server.content).hexdigest()


@pytest.mark.parametrize(
    ("name", "entries", "mode", "column", "texts"),
    [
        ("ljspeech", ljspeech(), "w:bz2", 2, {"LJ001-0001": "printed in fourteen fifty-five"}),
        ("librispeech", librispeech("dev-clean", "1272-128104"), "w:gz", 1, {"1272-128104-0001": "nor is it less"}),
        ("fsdd", fsdd(), "w:gz", "text", {"9_theo_1.wav": "nine", "0_theo_0.wav": "zero"}),
    ],
)
def test_a_corpus_is_laid_out_so_that_text_finds_what_its_recordings_say(
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    entries: dict[str, bytes | str],
    mode: str,
    column: int | str,
    texts: dict[str, str],
) -> None:
    folder = tmp_path / "my data"
    digest = serve(server, tmp_path, entries, mode)
    words = [name, folder, "--url", server.url("archive.tar"), "--sha256", digest]
    server.cuts = [len(server.content) // 3]
    assert call(main, words) == 0
    out = capsys.readouterr().out
    recordings = [each for each in entries if each.endswith((".wav", ".flac")) and "acquire_data" not in each]
    assert f"is in {folder}: {len(recordings)} recordings." in out
    assert f"--data_dir '{folder}' --config_file configs/" in out and "MB" not in out  # in less than seconds
    _, found = find_transcripts(folder, column)
    assert len(found) == len(recordings) and texts.items() <= found.items()
    (about,) = json.loads((folder / "SOURCE.json").read_text()).values()
    assert about["sha256"] == digest and about["licence"] == fetch.COLLECTIONS[name].licence
    left = {path.name for path in folder.iterdir()}
    assert not {each for each in left if "archive" in each or each.startswith(".") or each.endswith((".new", ".part"))}
    requests = len(server.asked)
    assert call(main, words) == 0 and len(server.asked) == requests  # it is there
    assert capsys.readouterr().out.startswith(fetch.COLLECTIONS[name].title)


def test_the_digits_are_the_recordings_alone(server: Server, tmp_path: Path) -> None:
    digest = serve(server, tmp_path, fsdd())
    words = ["fsdd", tmp_path / "fsdd", "--url", server.url("v.tar.gz"), "--sha256", digest, "--keep_archive"]
    assert call(main, words) == 0
    wavs = [f"{digit}_theo_{take}.wav" for digit in (0, 9) for take in (0, 1)]
    assert names(tmp_path / "fsdd") == sorted([*wavs, "SOURCE.json", "text.csv", "v.tar.gz"])


def test_subsets_come_one_after_the_other_into_one_folder(server: Server, tmp_path: Path) -> None:
    for subset, chapter in (("dev-clean", "84-121123"), ("test-clean", "61-70968")):
        digest = serve(server, tmp_path, librispeech(subset, chapter))
        words = ["librispeech", tmp_path / "ls", "--subset", subset, "--url", server.url("x.tgz"), "--sha256", digest]
        assert call(main, words) == 0
    assert set(json.loads((tmp_path / "ls" / "SOURCE.json").read_text())) == {"dev-clean", "test-clean"}
    _, found = find_transcripts(tmp_path / "ls", 1)
    assert sorted(found) == ["61-70968-0000", "61-70968-0001", "84-121123-0000", "84-121123-0001"]


def test_an_interruption_at_any_step_is_gone_on_from(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = serve(server, tmp_path, ljspeech())
    words = ["ljspeech", tmp_path / "lj", "--url", server.url("x.tgz"), "--sha256", digest]
    for module, step in ((fetch, "unpack"), (fetch, "_move"), (fetch, "write_text"), (downloads, "_check")):
        real = getattr(module, step)

        def stop(*given: Any, real: Any = real, step: str = step) -> Any:
            if step != "write_text":  # in the middle of it
                real(*given)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(module, step, stop)
            assert call(main, words) == 130
        assert not (tmp_path / "lj" / "SOURCE.json").exists()
    assert call(main, words) == 0
    assert names(tmp_path / "lj") == ["README", "SOURCE.json", "metadata.csv", "wavs"]
    assert len(server.asked) == 1


def test_mistakes_are_told_in_a_sentence(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    serve(server, tmp_path, fsdd())
    there = ["--url", server.url("x.tgz")]
    assert "--subset x: fsdd has 1.0.9" in told(capsys, main, ["fsdd", tmp_path / "a", "--subset", "x"], 2)
    several = ["librispeech", tmp_path / "a", "--subset", "dev-clean", "test-clean", *there]
    assert "are of one archive, and 2 subsets are named" in told(capsys, main, several, 2)
    assert "has the SHA-256" in told(capsys, main, ["fsdd", tmp_path / "a", *there], 1)
    wrong = ["ljspeech", tmp_path / "b", *there, "--sha256", "None"]
    assert "holds no folder LJSpeech-1.1/" in told(capsys, main, wrong, 1)
    (tmp_path / "c").mkdir()
    soundfile.write(tmp_path / "c" / "mine.wav", np.zeros(99), 8000)
    assert "mine.wav: name a folder of its own" in told(capsys, main, ["fsdd", tmp_path / "c", *there], 2)
    assert "timit" in told(capsys, main, ["timit", tmp_path / "d"], 2)


def test_the_publishers_addresses_and_checksums_are_complete() -> None:
    for collection in fetch.COLLECTIONS.values():
        assert collection.archives and collection.hints
        for archive in collection.archives.values():
            assert archive.url.startswith("https://") and archive.sha256 is not None
            assert archive.name.endswith((".tar.gz", ".tar.bz2"))
