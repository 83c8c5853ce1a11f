"""Files and folders, on this machine or at a URL such as `gs://bucket/corpus`: whatever `tf.io.gfile` opens.

A `Url` answers to those names of `pathlib.Path` that are needed, so that what reads a corpus does not ask where it
lies. TensorFlow is imported only where there is one. Knows bytes, not what they mean.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from tierwave.errors import RunError, UsageError

# A scheme has two letters or more: C:\ is a drive.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):[/\\]")


@dataclass(frozen=True, order=True)
class Url:
    """A file or folder of a file system that TensorFlow knows, without a slash at its end.

    What cannot be read or written raises FileNotFoundError, UsageError for a scheme that TensorFlow has no file system
    for, and RunError for anything else.
    """

    text: str

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> Url:
        return Url(f"{self.text}/{name}")

    @property
    def name(self) -> str:
        return self.text.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> Url:
        return Url(self.text.rpartition("/")[0])

    def relative_to(self, base: Url) -> PurePosixPath:
        """The rest of the URL below `base`. ValueError where it does not lie there."""
        if not self.text.startswith(f"{base.text}/"):
            raise ValueError(f"{self} does not lie in {base}")
        return PurePosixPath(self.text[len(base.text) + 1 :])

    def exists(self) -> bool:
        return bool(_gfile().exists(self.text))

    def is_dir(self) -> bool:
        return bool(_gfile().isdir(self.text))

    def stat(self) -> Any:
        """`length` in bytes and `mtime_nsec`, 0 where the file system keeps none."""
        with _explained(self):
            return _gfile().stat(self.text)

    def walk(self) -> Iterator[tuple[Url, list[str], list[str]]]:
        """(folder, names of folders in it, names of files in it) of all folders from here on."""
        with _explained(self):
            for folder, folders, files in _gfile().walk(self.text):
                # Some file systems end the names of folders, and some end them all, with a slash.
                yield Url(folder.rstrip("/")), [name.rstrip("/") for name in folders], list(files)

    def mkdir(self) -> None:
        """Make the folder and those above it; nothing where it is there."""
        with _explained(self):
            _gfile().makedirs(self.text)

    def read_range(self, start: int, count: int) -> bytes:
        """`count` bytes from `start` on, fewer at the end of the file."""
        with _explained(self), _gfile().GFile(self.text, "rb") as file:
            file.seek(start)
            return bytes(file.read(count))


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


def absolute(given: str | Path | Url) -> str:
    """Where something lies, whatever the working directory is."""
    place = place_of(given)
    return place.text if isinstance(place, Url) else str(place.resolve())


# Reading and writing -------------------------------------------------------------------------------------------------


def read_bytes(place: Place) -> bytes:
    """All of a file."""
    if isinstance(place, Path):
        return place.read_bytes()
    with _explained(place), _gfile().GFile(place.text, "rb") as file:
        return bytes(file.read())


def size_of(place: Place) -> int:
    """Bytes of a file."""
    return int(place.stat().length) if isinstance(place, Url) else place.stat().st_size


def make_folder(place: Place) -> None:
    """Make a folder and those above it; nothing where it is there."""
    if isinstance(place, Url):
        place.mkdir()
    else:
        place.mkdir(parents=True, exist_ok=True)


def put_bytes(place: Place, content: bytes) -> None:
    """Write a file in a folder that is there, whole or not at all.

    Not flushed to the disk: after a loss of power it may be empty. It is for what is checked when it is read again.
    """
    temporary = place.parent / f".{uuid.uuid4().hex}.part"
    if isinstance(place, Url):
        with _explained(place):
            with _gfile().GFile(str(temporary), "wb") as file:
                file.write(content)
            _gfile().rename(str(temporary), place.text, overwrite=True)
        return
    try:
        with open(str(temporary), "xb") as file:
            file.write(content)
        os.replace(str(temporary), place)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(str(temporary))
        raise


def put_file(source: Path, place: Place) -> None:
    """Move a file of this machine to its place, whole or not at all; a `Path` on the same disk."""
    if isinstance(place, Path):
        os.replace(source, place)
        return
    temporary = place.parent / f".{uuid.uuid4().hex}.part"
    with _explained(place):
        _gfile().copy(str(source), temporary.text)
        _gfile().rename(temporary.text, place.text, overwrite=True)
    source.unlink()


def remove(place: Place) -> None:
    """Remove a file, or a folder and all that is in it; nothing where there is none."""
    if isinstance(place, Url):
        tf = _tensorflow()
        with contextlib.suppress(tf.errors.NotFoundError), _explained(place, missing=False):
            (_gfile().rmtree if place.is_dir() else _gfile().remove)(place.text)
    elif place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


@contextlib.contextmanager
def local_copy(place: Place) -> Iterator[Path]:
    """A file as one of this machine: itself, or a copy that is removed afterwards."""
    if isinstance(place, Path):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="tierwave-") as folder:
        copy = Path(folder) / f"copy{place.suffix}"
        with _explained(place):
            _gfile().copy(place.text, str(copy))
        yield copy


# TensorFlow ----------------------------------------------------------------------------------------------------------


def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow

    return tensorflow


def _gfile() -> Any:
    return _tensorflow().io.gfile


@contextlib.contextmanager
def _explained(url: Url, *, missing: bool = True) -> Iterator[None]:
    """What TensorFlow says of a URL, in terms of this module; `missing`: files that are not there too."""
    tf = _tensorflow()
    try:
        yield
    except tf.errors.NotFoundError as error:
        if not missing:
            raise
        raise FileNotFoundError(2, "there is no such file or folder", url.text) from error
    except tf.errors.UnimplementedError as error:
        scheme = url.text.partition("://")[0]
        raise UsageError(
            f"TensorFlow has no file system for {scheme}:// ({url}): install the package that adds it, or copy the "
            "files to a folder"
        ) from error
    except tf.errors.OpError as error:
        reason = (error.message or type(error).__name__).splitlines()[0]
        raise RunError(
            f"{url} cannot be read or written ({reason}): check the address, your access and the free space, and run "
            "the same command again"
        ) from error
