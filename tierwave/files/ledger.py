"""What an unfinished run has done, so that it goes on when it is started again: a folder of one small file per item.

An item is named by a fingerprint of all that its outcome depends on, so that nothing done in another way, or of a file
that has changed since, is taken for done. What stands in an entry that is damaged counts as not done. Whoever reads one
has to check that the outcome is still there, by its size and digest. Knows no audio.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tierwave import __version__
from tierwave.files.documents import sealed, unsealed
from tierwave.files.places import Place, Url, make_folder, put_bytes, read_bytes, remove

FOLDER = ".unfinished"
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}(\.wav)?\.part")  # as `writing` and `SoundWriter` name them


class Ledger:
    """Entries in `folder`, by key. Several processes may write at the same time, each about its own items."""

    def __init__(self, folder: Place):
        self.folder = folder

    def of(self, key: str) -> dict[str, Any] | None:
        """The entry of a key; None where there is none, or it is not as it was written, or another's."""
        try:
            entry = unsealed(read_bytes(self._place(key)))
        except (OSError, ValueError):
            return None
        return entry if entry.pop("key", None) == key else None

    def add(self, key: str, document: dict[str, Any]) -> None:
        """Write the entry of a key, whole or not at all."""
        make_folder(self.folder)
        put_bytes(self._place(key), json.dumps(sealed({**document, "key": key})).encode())

    def forget(self, keys: Iterable[str]) -> None:
        """Remove entries, and the folder with the last of them."""
        if not self.folder.exists():
            return
        for key in keys:
            remove(self._place(key))
        if isinstance(self.folder, Path):
            with contextlib.suppress(OSError):  # it is not empty: another run is not finished
                self.folder.rmdir()

    def _place(self, key: str) -> Place:
        return self.folder / f"{key}.json"


def unfinished_files(folders: Iterable[Path]) -> list[Path]:
    """Files in `folders` that were being written when a process was killed, or are just now.

    What is still there at the end of a run that found it at its beginning is nobody's.
    """
    return [path for folder in set(folders) for path in folder.glob(".*.part") if _TEMPORARY.fullmatch(path.name)]


def fingerprint(*what: Any) -> str:
    """A name for what is told by `what`, which JSON can hold, and by the version of Tierwave."""
    text = json.dumps([__version__, *what], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def stamp(place: Place) -> list[str | int]:
    """Where a file lies, its size in bytes and the time of its last change in nanoseconds."""
    if isinstance(place, Url):
        remote = place.stat()
        return [place.text, int(remote.length), int(remote.mtime_nsec)]
    local = place.stat()
    return [str(place.resolve()), local.st_size, local.st_mtime_ns]


def digest_of_bytes(content: bytes) -> str:
    """`digest_of` of a file with that content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def digest_of(path: Path) -> str | None:
    """A digest of what is in a file, None where there is none."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()
