"""Files that matter, whole or not at all: a temporary name, a flush to disk, a move into place.

Knows bytes, text and arrays, not what they mean; recordings are written by `audio.WavWriter`, as they come.
"""

from __future__ import annotations

import contextlib
import io
import os
import uuid
from pathlib import Path

import numpy as np


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


def flush(path: Path) -> None:
    """Wait until what was written to a file lies on the disk."""
    with open(path, "rb+" if os.name == "nt" else "rb") as file:  # which may be another user's
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of `text` in UTF-8, its line ends as they are."""
    write_bytes(path, text.encode("utf-8"))


def write_array(path: Path, array: np.ndarray) -> None:
    """`write_bytes` of `array` as a `.npy` file. ValueError for an array of objects."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    write_bytes(path, content.getvalue())
