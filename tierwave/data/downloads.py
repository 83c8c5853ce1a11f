"""Large archives from the web, whole and unharmed: fetched in pieces, checked, unpacked into a folder.

A download goes on where it broke off, in this call and in the next one; an archive has its name only once its checksum
is right; of an archive only plain files are made, and none outside the folder. Knows HTTP and tar, not what is in them.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import lzma
import os
import re
import shutil
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tierwave import __version__
from tierwave.errors import RunError, UsageError
from tierwave.files.text import parse_json
from tierwave.files.writing import write_text

Progress = Callable[[int, int | None], None]

BLOCK_BYTES = 1 << 18
MOST_FAILURES = 6  # one after the other without a byte between them
FIRST_PAUSE_SECONDS = 0.5  # doubled after each
TIMEOUT_SECONDS = 60.0
ROOM_LEFT_BYTES = 1 << 26

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_OF_THE_NETWORK = (http.client.HTTPException, urllib.error.URLError, ConnectionError, TimeoutError)
# What tarfile raises, and what gets through it where an archive is cut or damaged in certain places.
_BROKEN = (tarfile.TarError, EOFError, ValueError, TypeError, LookupError, OverflowError, zlib.error, lzma.LZMAError)
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # answers that another attempt may not get


@dataclass(frozen=True)
class Archive:
    """An archive on the web. sha256: what it must be, in hex; None: it is written down when it first comes. unpacked:
    how many times its size its content takes, about."""

    url: str
    sha256: str | None
    unpacked: float = 1.5

    def __post_init__(self) -> None:
        if urllib.parse.urlsplit(self.url).scheme not in ("http", "https") or not self.name:
            raise UsageError(f"{self.url} is no address of an archive: give one that begins with https:// or http://")
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise UsageError(f"a SHA-256 has 64 digits of 0-9 and a-f, and {self.sha256!r} has not: copy it anew")

    @property
    def name(self) -> str:
        """Of the file."""
        return PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(self.url).path)).name


def download(archive: Archive, folder: Path, progress: Progress = lambda done, total: None) -> Path:
    """The archive in `folder`, fetched or there already, with the right checksum.

    What has come lies in `<name>.part` until all is there. progress(bytes done, bytes in all or None) is called after
    each block. Raises RunError where the server gives it up, the disk is too small, or the checksum is another; then
    nothing of it is kept.
    """
    target = folder / archive.name
    part = folder / f"{archive.name}.part"
    if target.exists():
        part.unlink(missing_ok=True)
        _check(archive, target)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        before = _size(part)
        try:
            if _fetch(archive, part, progress):
                break
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            reason = f"the server answers {error.code} {error.reason}"
            if error.code not in _PASSING:
                raise RunError(
                    f"{archive.url} cannot be fetched ({reason}): name another address of the archive with --url"
                ) from error
        except (http.client.HTTPException, OSError) as error:
            if not isinstance(error, _OF_THE_NETWORK):
                raise  # it is the disk
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        failures = 1 if _size(part) > before else failures + 1
        if failures >= MOST_FAILURES:
            raise RunError(
                f"{archive.url} cannot be fetched ({reason}; {_size(part)} bytes have come and are kept): run the same "
                "command again, and it goes on from there, or name another address of the archive with --url"
            )
        time.sleep(FIRST_PAUSE_SECONDS * 2 ** (failures - 1))
    _check(archive, part)
    os.replace(part, target)
    _validator(part).unlink(missing_ok=True)
    return target


def unpack(path: Path, target: Path, progress: Progress = lambda done, total: None) -> int:
    """Unpack a tar archive, compressed or not, into the new folder `target`; how many files it made.

    Only folders and plain files are made, with the permissions of new files; links and devices are passed over. The
    folder is there only if all was unpacked. progress(bytes read, bytes in all) is called after each file. Raises
    RunError for a name that leads out of the folder, or a broken archive.
    """
    aside = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    total, files = path.stat().st_size, 0
    try:
        with open(path, "rb") as raw, _readable(path, raw) as tar:
            for member in tar:
                place = aside / _inside(member.name, path)
                if member.isdir():
                    place.mkdir(parents=True, exist_ok=True)
                elif member.isreg():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    source = tar.extractfile(member)
                    assert source is not None  # a regular file has content
                    with source, open(place, "xb") as file:
                        shutil.copyfileobj(source, file)
                    files += 1
                    progress(raw.tell(), total)
        os.replace(aside, target)
    except FileExistsError as error:
        raise RunError(f"{path} holds {error.filename} twice: {_another(path)}") from error
    except _BROKEN as error:
        raise RunError(f"{path} is broken ({error}): {_another(path)}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return files


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# Fetching ------------------------------------------------------------------------------------------------------------


def _fetch(archive: Archive, part: Path, progress: Progress) -> bool:
    """Add to `part` what one answer brings; whether all is there now."""
    have = _size(part)
    headers = {"User-Agent": f"tierwave/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        known = _known(part)
        if known:  # a file that has changed is sent whole
            headers["If-Range"] = known
    try:
        answer = urllib.request.urlopen(urllib.request.Request(archive.url, headers=headers), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # there is nothing beyond
            whole = str(error.headers.get("Content-Range", "")).rpartition("/")[2]
            if whole == str(have):
                return True
            part.unlink()
            return False
        raise
    with answer:
        start = _start(answer)
        if start not in (0, have):
            raise http.client.HTTPException(f"bytes from {have} on were asked for, and those from {start} on came")
        length = answer.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        if total is not None:
            need_room(part.parent, round((total - start) + archive.unpacked * total), archive.name)
        if start == 0:
            validator = answer.headers.get("ETag", "")
            if not validator.startswith('"'):  # a weak one says too little
                validator = answer.headers.get("Last-Modified", "")
            write_text(_validator(part), json.dumps({"validator": validator}))
        with open(part, "r+b" if start else "wb") as file:
            file.seek(start)
            done = start
            while block := answer.read(BLOCK_BYTES):
                file.write(block)
                done += len(block)
                progress(done, total)
        return total is None or done == total


def _start(answer: Any) -> int:
    """Which byte an answer begins with: a server that knows no ranges sends all."""
    if answer.status != 206:
        return 0
    found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if found is None:
        raise http.client.HTTPException("a part came, and the server does not say which")
    return int(found[1])


def need_room(folder: Path, needed: int, what: str) -> None:
    """RunError where the disk of `folder` has less than `needed` bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed + ROOM_LEFT_BYTES:
        raise RunError(
            f"{what} needs {needed / 1e9:.1f} GB more, fetched and unpacked, and the disk of {folder} has "
            f"{free / 1e9:.1f} GB free: make some room, or name a folder on another disk"
        )


def _check(archive: Archive, path: Path) -> None:
    """RunError, and no file any more, where a checksum is not the expected one; an unknown one is written down."""
    found = sha256_of(path)
    note = path.with_name(f"{archive.name}.sha256")
    expected = archive.sha256
    if expected is None and note.exists():
        expected = note.read_text(encoding="utf-8").split(" ")[0].strip()
    if expected is None:
        write_text(note, f"{found}  {archive.name}\n")
    elif found != expected:
        path.unlink()
        _validator(path).unlink(missing_ok=True)
        raise RunError(
            f"what came from {archive.url} has the SHA-256 {found}, not {expected}, and is deleted: run the same "
            "command again; if it stays so, the archive there is another one now, and --sha256 with the first of these "
            "takes it"
        )


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _validator(part: Path) -> Path:
    """Where it stands which version of the archive a `.part` is of."""
    return part.with_name(f"{part.name}.json")


def _known(part: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(parse_json(_validator(part).read_bytes())["validator"])
    return ""


# Unpacking -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _readable(path: Path, raw: IO[bytes]) -> Iterator[tarfile.TarFile]:
    """A tar archive read from its beginning to its end, once: going back in a compressed one would read it again."""
    with tarfile.open(name=str(path), fileobj=raw, mode="r|*") as tar:
        yield tar


def _inside(name: str, path: Path) -> Path:
    """A member's place below the folder. RunError where it would lie elsewhere."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or ".." in parts or any(":" in part or "\0" in part for part in parts):
        raise RunError(
            f"{path} holds {name!r}, which would lie outside its folder, so it is not unpacked: {_another(path)}"
        )
    return Path(*parts)


def _another(path: Path) -> str:
    return f"delete {path.name}, and run the same command again"
