"""Files written whole or not at all: a temporary name, a flush to disk, a move into place; and reading arrays.

Recordings are written block by block, by `SoundWriter`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tierwave.errors import RunError
from tierwave.files.names import ESCAPED

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}(\.wav)?\.part")  # a name given here or by `SoundWriter`


class ArrayError(RunError):
    """A file that cannot be read as an array. Says which and why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path} cannot be read as an array ({self.reason}): use another copy of it"


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, in a folder that is made where it is missing.

    Raises OSError, and leaves what was there before, where that cannot be done.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by tempfile, whose files nobody else may read. The name does not grow with the target's, which may be as long
    # as the file system allows.
    temporary = path.parent / f".{uuid.uuid4().hex}.part"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def unfinished_files(folders: Iterable[Path]) -> list[Path]:
    """Files in `folders` that were being written when a process was killed, or that another one is writing.

    Those that a command finds at its beginning and still at its end are nobody's.
    """
    return [path for folder in set(folders) for path in folder.glob(".*.part") if _TEMPORARY.fullmatch(path.name)]


def flush(path: Path) -> None:
    """Wait until what was written to a file lies on the disk."""
    with open(path, "rb+" if os.name == "nt" else "rb") as file:  # which may be another user's
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of `text` in UTF-8, its line ends as they are, odd bytes escaped (`tierwave.files.names`)."""
    write_bytes(path, text.encode("utf-8", ESCAPED))


def write_array(path: Path, array: np.ndarray) -> None:
    """`write_bytes` of `array` as a `.npy` file. ValueError for an array of objects."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    write_bytes(path, content.getvalue())


def load_array(path: Path, *, mapped: bool = False) -> Any:
    """What `numpy.load` makes of a file that is not pickled: the array of an `.npy` file, which stays on the disk if
    `mapped`, or the archive of an `.npz` file.

    Raises OSError where it cannot be opened, ArrayError where it is damaged or something else.
    """
    try:
        with np.errstate(over="ignore"):  # of a shape that no file has, which is refused all the same
            return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except OSError as error:
        if error.errno is not None:
            raise
        raise ArrayError(path, array_fault(error)) from error
    # NumPy reads a header as Python's own source, and a damaged one raises whatever a tokenizer, parser or size can.
    except Exception as error:
        raise ArrayError(path, array_fault(error)) from error


def array_fault(error: Exception) -> str:
    """NumPy's reason in one line, without the objects that Python's parser names in its own."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r": <ast\.\w+ object at \w+>", "", text).rstrip(".")
