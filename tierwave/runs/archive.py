"""A run folder as one zip file: written the same each time, and read as a file from a stranger.

Such a zip may hold anything, so only plain files are taken out of it, under names that a run has, into a folder of our
own, and no more than a run can weigh.
"""

from __future__ import annotations

import errno
import functools
import lzma
import os
import re
import shutil
import stat
import struct
import tempfile
import uuid
import zipfile
import zlib
from pathlib import Path

from tierwave.errors import RunError, UsageError

SUFFIX = ".zip"
LARGEST = 16 << 30  # bytes of all files, unpacked
MOST_FILES = 1000
LARGEST_RATIO = 200  # of unpacked bytes to packed ones: JSON reaches 20, weights 1.1
_NAME = re.compile(r"(?:[\w][\w.() =-]*/){0,3}[\w][\w.() =-]*")  # no .., no root, no drive, nothing hidden
_NOISE = re.compile(r"(?:.*/)?(?:__MACOSX/.*|\.DS_Store|Thumbs\.db|desktop\.ini)")
_BLOCK = 1 << 20
_BROKEN = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, UnicodeDecodeError, struct.error,
    OverflowError,
)  # fmt: skip
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip file knows

_open_folders: list[tempfile.TemporaryDirectory[str]] = []  # removed when the program ends


def pack(folder: Path, target: Path) -> None:
    """Write all files below `folder` to the zip file `target`, whole or not at all.

    The same files give the same bytes: in the order of their names, uncompressed (weights hardly shrink), without
    times.
    """
    temporary = target.parent / f".{uuid.uuid4().hex}.part"
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(temporary, "x", zipfile.ZIP_STORED) as archive:
            for name in sorted(paths):
                entry = zipfile.ZipInfo(name, _EPOCH)
                entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
                entry.file_size = paths[name].stat().st_size  # whether it needs the format for more than 2 GiB
                with open(paths[name], "rb") as source, archive.open(entry, "w") as sink:
                    shutil.copyfileobj(source, sink, _BLOCK)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def opened(path: str | Path) -> Path:
    """`path` itself, or if it is a zip file a temporary folder with what is in it, for as long as the program runs.

    A zip file with one folder around everything leads to that folder. Raises UsageError or RunError for one that is
    none of ours.
    """
    path = Path(path)
    if path.suffix.lower() != SUFFIX or not path.is_file():
        return path
    about = path.stat()
    return _opened_once(path.resolve(), about.st_mtime_ns, about.st_size)


@functools.lru_cache(maxsize=8)
def _opened_once(path: Path, changed: int, size: int) -> Path:
    holder = tempfile.TemporaryDirectory(prefix="tierwave-run-", ignore_cleanup_errors=True)
    _open_folders.append(holder)
    try:
        unpack(path, Path(holder.name))
    except BaseException:
        holder.cleanup()
        raise
    inside = list(Path(holder.name).iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else Path(holder.name)


def unpack(path: Path, folder: Path) -> None:
    """Write the files of the zip file `path` below `folder`, which is empty.

    Raises UsageError for names that lead elsewhere, links, encryption, two files of one name, and more than a run can
    weigh; RunError for a file that is damaged. What was written by then is for the caller to remove.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            files = [entry for entry in archive.infolist() if not entry.filename.endswith("/")]
            entries = [entry for entry in files if not _NOISE.fullmatch(entry.filename)]
            _check(path, entries)
            left = LARGEST
            for entry in entries:
                target = folder / entry.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, open(target, "xb") as sink:
                    # Counted, since what the zip says of its sizes need not be true.
                    while block := source.read(_BLOCK):
                        left -= len(block)
                        if left < 0:
                            raise _refused(path, f"holds more than {LARGEST >> 30} GiB")
                        sink.write(block)
    except _BROKEN as error:
        raise _damaged(path, error) from None
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # it is the disk, not what is in the file
            raise
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> RunError:
    return RunError(f"{path} is damaged, or no zip file ({getattr(error, 'strerror', None) or error}): get it again")


def _check(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > MOST_FILES:
        raise _refused(path, f"holds {len(entries)} files, more than the {MOST_FILES} that a run can have")
    names: set[str] = set()
    for entry in entries:
        name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
        if not _NAME.fullmatch(name):
            raise _refused(path, f"holds a file called {name!r}, which no run has")
        if kind not in (0, stat.S_IFREG):
            raise _refused(path, f"holds {name}, which is a link or a device")
        if entry.flag_bits & 1:
            raise _refused(path, f"holds {name}, which is encrypted")
        if name.lower() in names:
            raise _refused(path, f"holds {name} twice")
        names.add(name.lower())
    size, packed = sum(entry.file_size for entry in entries), max(path.stat().st_size, 1)
    if size > LARGEST or size > max(LARGEST_RATIO * packed, _BLOCK):
        raise _refused(path, f"would unpack to {size >> 20} MiB, which is too much")


def _refused(path: Path, fault: str) -> UsageError:
    return UsageError(
        f"{path} {fault}: it was not made by tierwave.export, and nothing of it was loaded; get it from a source you "
        "trust, or unpack it yourself and name the folder"
    )
