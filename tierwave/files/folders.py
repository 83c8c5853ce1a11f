"""What lies in a folder of recordings, and what in it is no recording: folders of Tierwave's own, hidden ones, others
that cannot be read.

What Tierwave makes may lie among the recordings (`--data_dir .`), and must not become one: a folder that a command
makes for its output holds the file `MARK`, and a run is known by its config. Such a folder is passed over within
another, and read where it is named itself.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tierwave.errors import UsageError
from tierwave.files.names import printable

MARK = ".tierwave"
_RUN = ("run.config.json", "checkpoints.json")  # as `tierwave.runs.folder` names them
_MARKED = (
    "Tierwave made this folder for what it writes: its sounds are not taken for recordings where it lies in a folder\n"
    "of recordings. Delete this file if they are to be.\n"
)
OWN = f"Tierwave made it, so its sounds are no recordings (if they are, delete {MARK} in it, or name it itself)"

LeftOut = list[tuple[Path, str]]  # (path, reason)


_FORBIDDEN = re.compile(r'[<>:"/\\|?*\0-\x1f]')
# What Windows keeps for devices, whatever follows behind a dot.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])\s*(\..*)?", re.IGNORECASE | re.DOTALL)


def name_fault(name: str) -> str:
    """Why nothing should be called so, "" where it may: what one system allows another cannot copy or open."""
    if not name.strip(". "):
        return "it needs letters or digits"
    if odd := _FORBIDDEN.search(name):
        return f"{odd[0]!r} cannot stand in a name on every system"
    if name != name.strip() or name.endswith("."):
        return "Windows takes no name that begins or ends with a space or ends with a dot"
    return "Windows keeps that name for a device" if _DEVICE.fullmatch(name) else ""


def refuse_name(flag: str, name: str, home: Path) -> None:
    """UsageError where the folder `home / name`, which is not there yet, cannot be called so on every system."""
    fault = name_fault(name)
    plain = not re.search(r"[/\\]", name) and name.strip(". ")
    if fault and not (plain and (home / name).is_dir()):
        raise UsageError(f"{flag} {name!r} must be a plain name, since a folder is named after it: {fault}")


def refuse_file(flag: str, path: Path) -> None:
    """UsageError where the file or folder `path`, which is not there yet, cannot be called so on every system."""
    if (fault := name_fault(path.name)) and not (path.is_file() or path.is_dir()):
        raise UsageError(f"{flag} {path} cannot be written on every system: {fault}; give it another name")


def allowed_name(name: str) -> str:
    """A name that every system allows, for what is called after something else: `name` itself where it is one, else
    with other characters and a digest, which keeps apart what differs in those."""
    if not name_fault(name):
        return name
    text = unicodedata.normalize("NFC", printable(name))
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=4).hexdigest()
    plain = _FORBIDDEN.sub("_", printable(name)).strip(" .")
    return f"{plain.replace('.', '_') if _DEVICE.fullmatch(plain) else plain}-{digest}"


def chunk_stem(stem: str) -> str:
    """What stands in front of `_chunk_<n>.wav` in the names of a recording's chunks, for the stem of its own name."""
    stem = printable(stem)
    return allowed_name(stem) if name_fault(f"{stem}_chunk_0.wav") else stem


def make_own(folder: Path) -> None:
    """Make a folder for output, and those above it, and mark it; nothing where it is there, and not empty.

    Raises OSError where that cannot be done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        (folder / MARK).write_text(_MARKED, encoding="utf-8")


def is_own(folder: Path) -> bool:
    """Whether Tierwave made the folder: for output, or as a run or a part of one."""
    return any(os.path.exists(folder / name) for name in (MARK, *_RUN))


def walk(
    folder: Path, wanted: Callable[[str], bool], *, own: bool = False, without: Sequence[Path] = ()
) -> tuple[list[Path], LeftOut]:
    """The files under `folder` with a wanted name, in no order; and what was left out that might hold some.

    Hidden files and folders are passed over without a word, links are followed.

    Args:
        own: look into folders that Tierwave made, too.
        without: other folders that are passed over as those are.
    """
    passed = {os.path.realpath(path) for path in without}
    found: list[Path] = []
    left_out: LeftOut = []
    visited: set[str] = set()

    def search(within: Path) -> None:
        real = os.path.realpath(within)
        if real in visited:  # links between folders may form a circle
            return
        visited.add(real)
        try:
            names = sorted(os.listdir(within))
        except OSError as error:
            left_out.append((within, f"the folder cannot be read ({error.strerror})"))
            return
        for name in names:
            if name.startswith("."):
                continue
            path = within / name
            try:
                mode = path.stat().st_mode
            except PermissionError as error:
                left_out.append((within, f"what is in the folder cannot be read ({error.strerror})"))
                return
            except OSError as error:
                if wanted(name):
                    left_out.append((path, f"it cannot be opened ({error.strerror})"))
                continue
            if stat.S_ISDIR(mode):
                if os.path.realpath(path) in passed or (not own and is_own(path)):
                    if any(_names(path, wanted)):
                        left_out.append((path, OWN))
                else:
                    search(path)
            elif wanted(name):
                if not stat.S_ISREG(mode):
                    left_out.append((path, "it is no regular file"))
                elif not os.access(path, os.R_OK):
                    left_out.append((path, f"it cannot be opened ({os.strerror(errno.EACCES)})"))
                else:
                    found.append(path)

    search(folder)
    return found, left_out


def told(left_out: Iterable[tuple[Path | str, str]], folder: Path) -> list[str]:
    """A line for each of what was left out of a folder, by its path within that."""
    return [f"left out: {inside(path, folder)}: {reason}" for path, reason in left_out]


def inside(path: Path | str, folder: Path) -> str:
    """A path within a folder, with slashes; the path itself where it lies elsewhere."""
    try:
        return Path(path).relative_to(folder).as_posix()
    except ValueError:
        return str(path)


def _names(folder: Path, wanted: Callable[[str], bool]) -> Iterator[str]:
    for _, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (name for name in names if not name.startswith(".") and wanted(name))


def refuse_shared(targets: Mapping[Path, Path]) -> None:
    """UsageError where what is made of two files would be the same one, also where upper and lower case are the same.
    targets: by what they are made of."""
    first: dict[str, Path] = {}
    for path, target in targets.items():
        if (other := first.setdefault(str(target).casefold(), path)) != path:
            raise UsageError(f"{other} and {path} would share {target}: rename one of them")
