"""Names of files as text, where they are not what they seem.

A name is bytes to most file systems. Where they are not UTF-8 (an old archive, a disk of another system), Python holds
each odd byte as a lone surrogate, which no terminal, file or page takes: people are shown `fl\\xf6te.wav`. And ö is one
character or two, by who wrote it: a table that was typed, and a file that was copied from a Mac, spell the same name in
different ways. Names that are shown or kept are `printable`; they are found again by `matcher` and `located`.
"""

from __future__ import annotations

import codecs
import functools
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path, PurePath
from typing import Any

ESCAPED = "tierwave.escaped"  # a way to encode text, as "strict" is: what cannot be is written as \xf6


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(
        f"\\x{ord(character) - 0xDC00:02x}"
        if "\udc80" <= character <= "\udcff"
        else character.encode("ascii", "backslashreplace").decode()
        for character in text
    ), error.end


codecs.register_error(ESCAPED, _escape)


def printable(name: str | PurePath) -> str:
    """A name or path as text that anything can show and keep; it stays as it is, but for bytes that are no UTF-8."""
    return str(name).encode("utf-8", ESCAPED).decode("utf-8")


def name_within(path: PurePath, folder: PurePath) -> str:
    """What a recording under `folder` is called: its path within that, with slashes, `printable`."""
    return printable(path.relative_to(folder).as_posix())


def json_text(document: Any, indent: int | None = 1, *, allow_nan: bool = True) -> str:
    """JSON in letters of any language, which reads back the same; odd bytes of names are escaped as JSON does it."""
    text = json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=allow_nan)
    return re.sub("[\ud800-\udfff]", lambda lone: f"\\u{ord(lone[0]):04x}", text)


def folded(name: str | PurePath) -> str:
    """What names are compared by that are not equal: printable, in one Unicode form, with slashes between folders."""
    return unicodedata.normalize("NFC", printable(name)).replace("\\", "/")


def matcher(known: Iterable[str]) -> Callable[[str], str | None]:
    """Which of the `known` names a name means: the one that is equal, else one in another form, else None."""
    exact = dict.fromkeys(known)
    others: dict[str, str] = {}
    for name in exact:
        others.setdefault(folded(name), name)
    return lambda name: name if name in exact else others.get(folded(name))


def located(path: Path) -> Path:
    """The file or folder that a path means: what is there, else what is there under that name in another form; the path
    itself where nothing is."""
    if os.path.lexists(path):
        return path
    if path.parent == path:
        return path
    folder = located(path.parent)
    try:
        found = _entries(folder, folder.stat().st_mtime_ns).get(folded(path.name))
    except OSError:
        found = None
    return path if found is None else folder / found


@functools.lru_cache(maxsize=16)
def _entries(folder: Path, changed: int) -> dict[str, str]:
    """The names in a folder by their folded form; `changed` says until when that holds."""
    return {folded(name): name for name in sorted(os.listdir(folder), reverse=True)}
