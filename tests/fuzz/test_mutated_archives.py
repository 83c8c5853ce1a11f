"""Archives that are damaged or made to do harm: a shared run as a zip, a fetched corpus as a tar. Unpacked, or refused;
never a byte beside the folder they are unpacked into."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import mutators
from conditioning.import_weights import StateDict
from rule import Kind, Refusal, Wrong, judged
from tierwave.data import downloads
from tierwave.runs import archive

NAMES = ("run/run.json", "run/model.ckpt-1.index", "run/losses.csv", "run/tensorboard/x", "run/log.txt")
ODD_NAMES = (
    "../x", "/tmp/x", "run/../../x", "C:\\x", "..\\x", "run//x", "", ".", "..", "run/", "a\0b", "x" * 300, "é" * 200,
    "run/run.json", "RUN/run.json", "run", "con", "run/.hidden", "./run/y", "run/./z", "~/x", "run/x:y",
)  # fmt: skip

PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)
NO_FILES = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE)
COMPRESSORS = (bytes, bytes, gzip.compress, bz2.compress, lzma.compress)
FIELDS = ((0, 100), (100, 8), (124, 12), (124, 12), (136, 12), (156, 1), (156, 1), (157, 100), (345, 155))  # of a tar


def _names(rng: Random) -> list[str]:
    names = list(NAMES)
    for _ in range(rng.choice((0, 0, 1, 2))):
        names.insert(rng.randrange(len(names) + 1), rng.choice(ODD_NAMES))
    return names


def make_zip(rng: Random, folder: Path) -> Path:
    """A run as a zip."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name in _names(rng):
            entry = zipfile.ZipInfo(name)
            entry.compress_type = rng.choice(PACKINGS)
            kind = stat.S_IFREG if rng.random() < 0.95 else rng.choice((stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO))
            entry.create_system, entry.external_attr = 3, (kind | 0o644) << 16
            content = rng.choice((b"{}", b"", bytes(5000), bytes(100_000 if rng.random() < 0.1 else 1)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of names that are there twice
                packed.writestr(entry, content)
    path = folder / "in" / "run.zip"
    path.parent.mkdir()
    path.write_bytes(file.getvalue() if rng.random() < 0.1 else mutators.mutated(file.getvalue(), rng))
    return path


def make_tar(rng: Random, folder: Path) -> Path:
    """A corpus as a tar, damaged before or after it is compressed."""
    file = io.BytesIO()
    form = rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT))
    with tarfile.open(fileobj=file, mode="w", format=form, errors="surrogateescape") as packed:
        for name in _names(rng):
            entry = tarfile.TarInfo(name if form != tarfile.USTAR_FORMAT else name[:40])
            content = rng.choice((b"{}", b"", bytes(5000)))
            entry.size = len(content)
            if rng.random() < 0.1:
                entry.type, entry.linkname = rng.choice(NO_FILES), rng.choice(ODD_NAMES)[:40]
                entry.size, content = 0, b""
            if form == tarfile.PAX_FORMAT and rng.random() < 0.1:
                keys = ("path", "size", "mtime", "GNU.sparse.major", "GNU.sparse.map", "hdrcharset")
                values = ("1", "../x", "-1", "nan", "1,2,3", "BINARY", "9" * 30)
                entry.pax_headers = {rng.choice(keys): rng.choice(values)}
            packed.addfile(entry, io.BytesIO(content))
    content, compress = file.getvalue(), rng.choice(COMPRESSORS)
    if rng.random() < 0.6:
        content = compress(mutators.mutated(content, rng, [_tar_field] * 8))
    else:
        content = mutators.mutated(compress(content), rng)
    path = folder / "in" / "corpus.tar"
    path.parent.mkdir()
    path.write_bytes(content)
    return path


def _tar_field(content: bytes, rng: Random) -> bytes:
    """A field of a header is another, and the header's sum is right again."""
    headers = [start for start in range(0, len(content) - 511, 512) if content[start + 257 : start + 262] == b"ustar"]
    if not headers:
        return content
    start = rng.choice(headers)
    header = bytearray(content[start : start + 512])
    offset, size = rng.choice(FIELDS)
    kinds = [letter.ljust(size, b"\0") for letter in (b"-", b"L", b"K", b"S", b"x", b"g", b"5")]
    numbers = (b"\x80" + b"\xff" * (size - 1), b"\xff" * size, b"7" * size, bytes(size), b" " * size)
    new = rng.choice((*kinds, *numbers))
    header[offset : offset + size] = new[:size]
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return content[:start] + bytes(header) + content[start + 512 :]


def attempt(unpack: Callable[[Path, Path], Any]) -> Callable[[Path], str]:
    """Unpacks into a folder beside the archive's, and looks at what there is then."""

    def attempt_one(path: Path) -> str:
        target = path.parent.parent / "out" / "unpacked"
        target.mkdir(parents=True)
        if unpack is downloads.unpack:
            target.rmdir()
        found = judged(lambda: unpack(path, target))
        beside = [each for each in path.parent.parent.rglob("*") if each not in (path, path.parent, target.parent)]
        outside = [each for each in beside if not each.is_relative_to(target)]
        if outside:
            raise Wrong(f"left or written outside the folder: {outside}", "outside")
        odd = [each for each in beside if each.is_symlink() or not (each.is_file() or each.is_dir())]
        if odd:
            raise Wrong(f"no plain files: {odd}", "no plain files")
        if isinstance(found, Refusal) and unpack is downloads.unpack and target.exists():
            raise Wrong("refused, and half of it is there", "half")
        return "refused" if isinstance(found, Refusal) else "unpacked"

    return attempt_one


# Weights -------------------------------------------------------------------------------------------------------------


def make_weights(rng: Random, folder: Path) -> Path:
    """A state dict as an .npz, damaged as a zip or in its arrays."""
    file = io.BytesIO()
    arrays = {f"rnn.{name}_l0": np.ones((12, 4), np.float32) for name in ("weight_ih", "weight_hh")}
    odd = rng.choice((np.nan, "x", 1j, [1, 2], np.zeros((0, 3)), np.ones((2, 2, 2), ">f8"), np.int64(3)))
    np.savez(file, **arrays, **{rng.choice(("rnn.bias", "a/b", "../x", "weights/")): odd})
    content = file.getvalue()
    if rng.random() < 0.3:
        content = content.replace(b"(12, 4)", rng.choice((b"(-2, 4)", b"(9, 99)", b"(12, \xd3)", b"(12,(4)")))
    path = folder / "weights.npz"
    path.write_bytes(content if rng.random() < 0.2 else mutators.mutated(content, rng))
    return path


def attempt_weights(path: Path) -> str:
    """As the importer reads them."""
    found = judged(lambda: StateDict(path))
    if isinstance(found, Refusal):
        return "refused"
    for name in found.names:
        array = judged(partial(found.shape, name, 2))
        if not isinstance(array, Refusal) and not np.isfinite(found.take(name, *array)).all():
            raise Wrong(f"{name} is taken with what is no number", "not finite")
    return "read"


KINDS = [
    Kind("zip", make_zip, attempt(archive.unpack)),
    Kind("weights", make_weights, attempt_weights),
    Kind("tar", make_tar, attempt(downloads.unpack)),
]


@pytest.mark.parametrize("kind", KINDS, ids=attrgetter("name"))
def test_a_damaged_archive_is_unpacked_or_refused(kind: Kind, tried: Callable[[Kind], None]) -> None:
    tried(kind)
