"""Downloads against a server on loopback: whole, cut and gone on with, refused where the content is not what it was."""

from __future__ import annotations

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
    ranges, lengths, validators: whether it knows them; asked: the headers of every request."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.cuts, self.codes = content, list[int](), list[int]()
        self.ranges = self.lengths = self.validators = True
        self.shift = 0
        self.asked: list[dict[str, str]] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/files/{name}"

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.content).hexdigest()}"'


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.0"  # one answer per connection

    def do_GET(self) -> None:
        server, headers = self.server, {name.lower(): value for name, value in self.headers.items()}
        server.asked.append(headers)
        if server.codes:
            return self.send_error(server.codes.pop(0))
        start, wanted = 0, headers.get("range")
        if wanted and server.ranges and headers.get("if-range", server.etag) == server.etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(server.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(server.content)}")
                return self.end_headers()
            start -= server.shift
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        else:
            self.send_response(200)
        if server.lengths:
            self.send_header("Content-Length", str(len(server.content) - start))
        if server.validators:
            self.send_header("ETag", server.etag)
        self.end_headers()
        body = server.content[start:]
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)

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
    monkeypatch.setattr(downloads, "FIRST_PAUSE_SECONDS", 1e-4)


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
    assert "range" not in server.asked[0] and server.asked[0]["user-agent"].startswith("tierwave/")
    assert download(archive, path.parent) == path and len(server.asked) == 1


def test_a_cut_download_goes_on_where_it_was_cut(server: Server, tmp_path: Path) -> None:
    server.cuts = [300_000, 0, 0, 400_000, 7]
    path = download(Archive(server.url("x.tgz"), DIGEST), tmp_path)
    assert path.read_bytes() == CONTENT and names(tmp_path) == ["x.tgz"]
    begun = [int(each.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-")) for each in server.asked]
    assert begun == [0, 300_000, 300_000, 300_000, 700_000, 700_007]
    assert {each.get("if-range") for each in server.asked[1:]} == {server.etag}


def test_a_server_that_gives_up_is_told_and_what_came_is_kept_for_the_next_call(server: Server, tmp_path: Path) -> None:
    archive = Archive(server.url("x.tgz"), DIGEST)
    server.cuts = [123_456] + [0] * 20
    with pytest.raises(RunError, match=r"the connection was cut; 123456 bytes have come and are kept\): run the same"):
        download(archive, tmp_path)
    assert (tmp_path / "x.tgz.part").read_bytes() == CONTENT[:123_456] and not (tmp_path / "x.tgz").exists()
    attempts = len(server.asked)
    server.cuts = []
    assert download(archive, tmp_path).read_bytes() == CONTENT
    assert server.asked[attempts]["range"] == "bytes=123456-" and len(server.asked) == attempts + 1


def test_a_kill_before_the_last_step_costs_nothing(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.tgz.part").write_bytes(CONTENT)
    assert download(Archive(server.url("x.tgz"), DIGEST), tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 1  # answered by 416
    (tmp_path / "x.tgz").unlink()
    (tmp_path / "x.tgz.part").write_bytes(CONTENT + b"more")
    assert download(Archive(server.url("x.tgz"), DIGEST), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("lengths", [True, False])
def test_a_server_without_ranges_is_read_from_the_beginning_again(
    server: Server, tmp_path: Path, lengths: bool
) -> None:
    server.ranges = server.validators = False
    (tmp_path / "x.tgz.part").write_bytes(b"\0" * 2_000_000)  # longer than the archive
    server.lengths = lengths
    server.cuts = [500_000, 600_000] if lengths else []
    assert download(Archive(server.url("x.tgz"), DIGEST), tmp_path).read_bytes() == CONTENT
    assert [each.get("range") for each in server.asked[1:]] == (["bytes=500000-", "bytes=600000-"] if lengths else [])


def test_an_archive_that_has_changed_meanwhile_is_fetched_from_its_beginning(server: Server, tmp_path: Path) -> None:
    server.cuts = [400_000] + [0] * 20
    with pytest.raises(RunError):
        download(Archive(server.url("x.tgz"), None), tmp_path)
    server.content, server.cuts = CONTENT[::-1], []
    assert download(Archive(server.url("x.tgz"), None), tmp_path).read_bytes() == CONTENT[::-1]


def test_a_part_from_another_place_than_asked_for_is_not_taken(server: Server, tmp_path: Path) -> None:
    server.cuts, server.shift = [500_000], 100
    with pytest.raises(RunError, match="bytes from 500000 on were asked for, and those from 499900 on came"):
        download(Archive(server.url("x.tgz"), DIGEST), tmp_path)


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
    with pytest.raises(RunError, match=r"y.tgz cannot be fetched \(the server answers 404 Not Found\): name another"):
        download(Archive(server.url("y.tgz"), DIGEST), tmp_path)
    assert len(server.asked) == 5
    server.codes = [503] * 99
    with pytest.raises(RunError, match=r"answers 503 .*; 0 bytes have come"):
        download(Archive(server.url("y.tgz"), DIGEST), tmp_path)
    assert len(server.asked) == 5 + downloads.MOST_FAILURES


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
    with pytest.raises(RunError, match=r"x.tgz needs 0.0 GB more, fetched and .* has 0.1 GB free"):
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
    assert unpack(path, tmp_path / "out", lambda done, total: read.append(done)) == 9
    found = {each.relative_to(tmp_path / "out").as_posix(): each for each in (tmp_path / "out").rglob("*")}
    assert {name: each.read_bytes() for name, each in found.items() if each.is_file()} == files
    assert found["top/empty"].is_dir() and len(read) == 9 and read == sorted(read)
    assert all(not each.stat().st_mode & 0o6111 for each in found.values() if each.is_file())


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "\\x", "a\\..\\..\\x", "C:/x", "a/..", "c:x"])
def test_a_name_that_leads_out_is_refused_with_all_the_rest(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    path = tar(tmp_path / "in" / "x.tgz", {"good.wav": b"1", name: b"2"})
    with pytest.raises(RunError, match="which would lie outside its folder, so it is not unpacked"):
        unpack(path, tmp_path / "in" / "out")
    assert names(tmp_path / "in") == ["x.tgz"] and names(tmp_path) == ["in"]


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
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("same.wav"))
    with pytest.raises(RunError, match="same.wav twice"):
        unpack(tmp_path / "x.tgz", tmp_path / "out")


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
    for module, step in ((fetch, "unpack"), (fetch, "_move"), (fetch, "write_text"), (downloads, "sha256_of")):
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
