"""Recordings at URLs such as gs://bucket/corpus, by fsspec. Only recordings may lie there: what is written lies in
folders."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from tierwave.errors import RunError, UsageError

# A scheme has two letters or more: C:\ is a drive.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):[/\\]")
_CHANGED = ("mtime", "updated", "LastModified", "last_modified", "ETag", "etag", "created")  # by file system


@dataclass(frozen=True, order=True)
class Url:
    """A file or folder of a file system that fsspec knows, without a slash at its end."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class RemoteFile:
    """name: path below the folder that was listed; size: bytes; changed: "" where the file system does not tell."""

    url: Url
    name: str
    size: int
    changed: str


Place: TypeAlias = Path | Url


def place_of(given: str | Path | Url) -> Place:
    """A `Url` for what looks like one, else a `Path`. A URL that has lost a slash by becoming a `Path` is mended."""
    if isinstance(given, Url):
        return given
    text = str(given)
    scheme = _SCHEME.match(text)
    if scheme is None:
        return Path(given)
    if "://" not in text:
        rest = text[scheme.end() :].replace("\\", "/").lstrip("/")
        text = f"{scheme[1]}://{'/' if scheme[1].lower() == 'file' else ''}{rest}"
    return Url(text.rstrip("/"))


def local_folder(given: str | Path) -> Path:
    """`given`, which names a folder or file of this machine. UsageError for a URL."""
    place = place_of(given)
    if isinstance(place, Url):
        raise UsageError(f"{place} is no folder of this machine: copy what is there to one, and name that")
    return place


def absolute(given: str | Path | Url) -> str:
    """Where something lies, whatever the working directory is."""
    place = place_of(given)
    return place.text if isinstance(place, Url) else str(place.resolve())


def files_below(url: Url) -> list[RemoteFile]:
    """All files in a folder and those below it, or the one file that `url` is; none where nothing is there.

    Raises UsageError without a package for the scheme, and RunError where the place cannot be read.
    """
    files, root = _file_system(url)
    with _explained(url):
        found = files.find(root, detail=True)
    return [
        RemoteFile(
            Url(files.unstrip_protocol(path)),
            path.removeprefix(root).lstrip("/") or PurePosixPath(path).name,
            int(about.get("size") or 0),
            str(next((about[key] for key in _CHANGED if about.get(key)), "")),
        )
        for path, about in found.items()
    ]


@contextlib.contextmanager
def fetched(url: Url) -> Iterator[Path]:
    """A copy of a file on this machine, removed afterwards. Raises as `files_below`, and FileNotFoundError."""
    files, path = _file_system(url)
    with tempfile.TemporaryDirectory(prefix="tierwave-") as folder:
        copy = Path(folder) / f"copy{PurePosixPath(path).suffix}"
        with _explained(url):
            files.get_file(path, str(copy))
        yield copy


def _file_system(url: Url) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs

        files, path = url_to_fs(url.text)
    except (ImportError, ValueError) as error:  # no fsspec, no package for the scheme, or no such scheme
        reason = str(error).splitlines()[0]
        raise UsageError(
            f'{url} cannot be opened ({reason}): pip install "fsspec>=2024.6" and the package for its scheme, or copy '
            "the files to a folder"
        ) from error
    return files, path.rstrip("/")


@contextlib.contextmanager
def _explained(url: Url) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # of any library that a file system is made with
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise RunError(
            f"{url} cannot be read ({reason}): check the address and your access, and run the same command again"
        ) from error
