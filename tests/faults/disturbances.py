"""What can happen to a program while it writes: it is killed, the disk is full, or nothing may be written.

Python tells of every file that is opened for writing, moved, removed or made before that happens (PEP 578). Libraries
that write in C do so between these moments, and meet a limit on the size of files instead.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
# How many of an event's arguments are paths.
EVENTS = {"open": 1, "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.truncate": 1, "os.link": 2}


class Killed(BaseException):
    """As by kill -9: nothing that is still done on the way out reaches the disk."""


def full(path: str) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def read_only(path: str) -> OSError:
    return OSError(errno.EROFS, os.strerror(errno.EROFS), path)


def killed(path: str) -> Killed:
    return Killed(path)


@dataclass
class Disk:
    """Watches what is written below `root`. At the `number`th write (from 0) and at all after it, what `fault` returns
    for the path is raised, unless that is None."""

    root: Path
    number: int | None = None
    fault: Callable[[str], BaseException | None] = killed
    writes: list[str] = field(default_factory=list)

    def write(self, event: str, path: str) -> None:
        self.writes.append(f"{event} {os.path.relpath(path, self.root)}")
        if self.number is not None and len(self.writes) > self.number:
            error = self.fault(path)
            if error is not None:
                raise error


_watched: Disk | None = None
_listening = False


def _told(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is None or event not in EVENTS:
        return
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITING):
        return
    for path in arguments[: EVENTS[event]][-1:]:  # of a move, where it leads
        if isinstance(path, (str, bytes, os.PathLike)):
            name = os.path.abspath(os.fsdecode(path))
            if name.startswith(str(_watched.root) + os.sep):
                _watched.write(event, name)


@contextlib.contextmanager
def watched(disk: Disk) -> Iterator[Disk]:
    """`disk` hears of all writes in this process. A hook stays for ever, so there is one that mostly does nothing."""
    global _watched, _listening
    if not _listening:
        sys.addaudithook(_told)
        _listening = True
    _watched = disk
    try:
        yield disk
    finally:
        _watched = None


@contextlib.contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    """Whatever is written beyond `size` bytes of a file fails, in any library."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
