"""Large archives from the web: fetched by pooch, checked, unpacked into a folder by tarfile."""

from __future__ import annotations

import lzma
import os
import re
import shutil
import tarfile
import urllib.parse
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tierwave import __version__
from tierwave.errors import RunError, UsageError
from tierwave.files.writing import write_text

Progress = Callable[[int, int | None], None]

BLOCK_BYTES = 1 << 18
MORE_ATTEMPTS = 4  # after a connection that was cut
TIMEOUT_SECONDS = 60.0
ROOM_LEFT_BYTES = 1 << 26

_PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers that another attempt may not get
# What tarfile raises, and what gets through it where an archive is cut or damaged in certain places.
_BROKEN = (
    *(tarfile.TarError, EOFError, ValueError, TypeError, LookupError, OverflowError, zlib.error, lzma.LZMAError),
    *(IsADirectoryError, NotADirectoryError, FileExistsError),  # one name for a file and a folder
)


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

    progress(bytes done, bytes in all or None) is called after each block. Raises RunError, and leaves nothing, where
    the server cannot be reached, the disk is too small, or the checksum is another.
    """
    import pooch
    from requests.exceptions import HTTPError, RequestException

    agent = {"User-Agent": f"tierwave/{__version__}", "Accept-Encoding": "identity"}

    def fetch(url: str, target: str, registry: Any) -> None:
        bar = _Bar(archive, folder, progress)
        download = pooch.HTTPDownloader(bar, BLOCK_BYTES, headers=agent, timeout=TIMEOUT_SECONDS)
        try:
            download(url, target, registry)
        except HTTPError as error:
            if error.response is None or error.response.status_code in _PASSING:
                raise  # another attempt may get it
            raise _unreachable(archive, error) from error

    store = pooch.create(folder, "", registry={archive.name: None}, urls={archive.name: archive.url})
    store.retry_if_failed = MORE_ATTEMPTS
    pooch.get_logger().setLevel("ERROR")
    try:
        path = Path(store.fetch(archive.name, downloader=fetch))
    except RequestException as error:
        raise _unreachable(archive, error) from error
    _check(archive, path)
    return path


def _unreachable(archive: Archive, error: Exception) -> RunError:
    reason = str(error).partition(" for url")[0]
    return RunError(
        f"{archive.url} cannot be fetched ({reason}): run the same command again, or name another address of the "
        "archive with --url"
    )


class _Bar:
    """What pooch reports its progress to; it sets `total`, in bytes, to 0 where the server tells no length."""

    total = 0

    def __init__(self, archive: Archive, folder: Path, progress: Progress) -> None:
        self._archive, self._folder, self._progress, self._done = archive, folder, progress, 0

    def update(self, count: int) -> None:
        if not self._done:
            need_room(self._folder, round((1 + self._archive.unpacked) * self.total), self._archive.name)
        self._done = min(self._done + count, self.total or self._done + count)
        self._progress(self._done, self.total or None)

    def reset(self) -> None:
        """Called at the end, before an `update` with all."""

    def close(self) -> None:
        pass


def need_room(folder: Path, needed: int, what: str) -> None:
    """RunError where the disk of `folder` has less than `needed` bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed + ROOM_LEFT_BYTES:
        raise RunError(
            f"{what} needs {needed / 1e9:.1f} GB, fetched and unpacked, and the disk of {folder} has "
            f"{free / 1e9:.1f} GB free: make some room, or name a folder on another disk"
        )


def _check(archive: Archive, path: Path) -> None:
    """RunError, and no file any more, where a checksum is not the expected one; an unknown one is written down."""
    import pooch

    found = pooch.file_hash(str(path))
    note = path.with_name(f"{archive.name}.sha256")
    expected = archive.sha256
    if expected is None and note.exists():
        expected = note.read_text(encoding="utf-8").split(" ")[0].strip()
    if expected is None:
        write_text(note, f"{found}  {archive.name}\n")
    elif found != expected:
        path.unlink()
        raise RunError(
            f"what came from {archive.url} has the SHA-256 {found}, not {expected}, and is deleted: run the same "
            "command again; if it stays so, the archive there is another one now, and --sha256 with the first of these "
            "takes it"
        )


def unpack(path: Path, target: Path, progress: Progress = lambda done, total: None) -> None:
    """Unpack a tar archive, compressed or not, into the new folder `target`, which is there only if all was unpacked.

    Folders and plain files are made, with their content alone; links and devices are passed over. (tarfile's own filter
    "data" is not in every Python 3.10 and 3.11.) progress(bytes read, bytes in all) is called before each file. Raises
    RunError for a name that leads out of the folder, or a broken archive.
    """
    aside = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    total = path.stat().st_size
    try:
        with open(path, "rb") as raw, tarfile.open(name=str(path), fileobj=raw, mode="r|*") as tar:
            for member in tar:
                progress(raw.tell(), total)
                place = Path(os.path.abspath(aside / member.name.lstrip("/")))
                if aside.absolute() not in (place, *place.parents):
                    raise RunError(
                        f"{path} is not unpacked ({member.name!r} would lie outside the destination): delete "
                        f"{path.name}, and run the same command again"
                    )
                if member.isdir():
                    place.mkdir(parents=True, exist_ok=True)
                elif member.isreg() and (content := tar.extractfile(member)) is not None:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    with content, place.open("wb") as file:
                        shutil.copyfileobj(content, file)
                        if file.tell() < member.size:
                            raise EOFError(f"{member.name} ends early")
        os.replace(aside, target)
    except _BROKEN as error:
        raise RunError(f"{path} is broken ({error}): delete {path.name}, and run the same command again") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
