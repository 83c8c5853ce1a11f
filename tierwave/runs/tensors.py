"""The tensors of a checkpoint, read without TensorFlow.

A checkpoint of TensorFlow is two files: `.index`, a sorted table of names and of what is known of each tensor (a
LevelDB table whose values are messages of `tensor_bundle.proto`), and `.data-00000-of-00001`, their numbers one after
another. Both hold checksums (CRC-32C), so that damage is noticed before anything is made of it.

The name of a weight is the way to it through the model's attributes, `tiers-0-upsample`; here without what TensorFlow
puts around it, `model/tiers-0-upsample/.ATTRIBUTES/VARIABLE_VALUE`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tierwave.errors import RunError
from tierwave.files.documents import parsed
from tierwave.runs.checksum import crc32c
from tierwave.runs.folder import Run

_MAGIC = 0xDB4775248B80FB57  # at the end of a table
_FOOTER, _TRAILER = 48, 5  # bytes
_FLOAT32, _STRING = 1, 7  # of types.proto
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_LARGEST_INDEX = 1 << 28  # bytes


class _Entry(NamedTuple):
    """What the index says of a tensor. offset, size: bytes in the data file; checksum: masked."""

    kind: int
    shape: tuple[int, ...]
    offset: int
    size: int
    checksum: int


class Tensors(Mapping[str, np.ndarray]):
    """The float32 tensors of one piece of a checkpoint by name; each is read and checked when it is asked for.

    Raises RunError for files that are missing, damaged or cut short.
    """

    def __init__(self, checkpoint: Path, piece: str = "model"):
        self.checkpoint = checkpoint
        self._entries = {
            name.removeprefix(f"{piece}/").removesuffix(_SUFFIX): entry
            for name, entry in _index(checkpoint).items()
            if name.startswith(f"{piece}/") and name.endswith(_SUFFIX) and entry.kind == _FLOAT32
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, which is not read for it."""
        return self._entries[name].shape

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        if entry.size != 4 * math.prod(entry.shape):
            raise damaged(self.checkpoint, f"{name} has {entry.size} bytes for the shape {list(entry.shape)}")
        array = np.frombuffer(_read(self.checkpoint, entry), "<f4").reshape(entry.shape)
        if _masked(crc32c(array.reshape(-1).view(np.uint8))) != entry.checksum:
            raise damaged(self.checkpoint, f"{name} does not match its checksum")
        return array


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """The `Progress` stored in a checkpoint, as a dict; RunError where there is none."""
    entry = _index(checkpoint).get(f"progress{_SUFFIX}")
    if entry is None or entry.kind != _STRING:
        raise damaged(checkpoint, "it says nothing of its progress")
    data = _read(checkpoint, entry)
    try:
        length, at = _varint(data, 0)
        text = data[at + 4 : at + 4 + length]  # behind the checksum of the length
        if len(text) != length or at + 4 + length != len(data):
            raise ValueError("progress is cut short")
        if _masked(crc32c(np.uint32(length).tobytes() + data[at : at + 4] + text)) != entry.checksum:
            raise ValueError("progress does not match its checksum")
        return dict(parsed("progress", text.decode()))
    except (ValueError, IndexError) as error:
        raise damaged(checkpoint, error) from None


def check_run_id(checkpoint: Path, run: Run) -> None:
    """Raises RunError for a checkpoint in a run's folder that another run has written."""
    run_id = read_progress(checkpoint).get("run", "")
    if run_id and run.run_id and run_id != run.run_id:
        raise RunError(
            f"{checkpoint} was written by another run than {run.root.folder}, and stages that were not trained "
            "together do not fit together: put the run's own stage back, or train the stage in this run (train.py "
            f"--stage {checkpoint.parent.name} --init_from the other run)"
        )


def damaged(checkpoint: Path, reason: Exception | str) -> RunError:
    """The error about a checkpoint that cannot be read."""
    return RunError(
        f"checkpoint {checkpoint} is damaged or cut short ({str(reason).splitlines()[0]}): use an earlier one, for "
        "example with --resume_from or --checkpoint_path"
    )


def _data(checkpoint: Path) -> Path:
    """The file that holds the numbers."""
    return checkpoint.with_name(f"{checkpoint.name}.data-00000-of-00001")


def _read(checkpoint: Path, entry: _Entry) -> bytes:
    try:
        with _data(checkpoint).open("rb") as file:
            file.seek(entry.offset)
            found = file.read(entry.size)
    except (OSError, ValueError, OverflowError) as error:
        raise damaged(checkpoint, error) from None
    if len(found) != entry.size:
        raise damaged(checkpoint, f"{_data(checkpoint).name} ends too soon")
    return found


def _masked(checksum: int) -> int:
    """A checksum as LevelDB stores it, so that one of data that holds checksums is none of them."""
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _index(checkpoint: Path) -> dict[str, _Entry]:
    """The entries of a checkpoint's index by name."""
    path = checkpoint.with_name(f"{checkpoint.name}.index")
    try:
        if path.stat().st_size > _LARGEST_INDEX:
            raise ValueError(f"{path.name} is too large to be an index")
        table = path.read_bytes()
        if len(table) < _FOOTER or int.from_bytes(table[-8:], "little") != _MAGIC:
            raise ValueError(f"{path.name} does not end as a table does")
        footer = table[-_FOOTER:]
        _, at = _varint(footer, 0)  # of an empty table of tables: its place and size
        _, at = _varint(footer, at)
        offset, at = _varint(footer, at)
        size, _ = _varint(footer, at)
        found: dict[str, _Entry] = {}
        for _, place in _pairs(_block(table, offset, size)):
            first, at = _varint(place, 0)
            for key, message in _pairs(_block(table, first, _varint(place, at)[0])):
                if key:  # the first one describes the whole
                    found[key.decode()] = _entry(message)
        end = max((entry.offset + entry.size for entry in found.values()), default=0)
        if _data(checkpoint).stat().st_size < end:  # cut short, be it where nobody reads just now
            raise ValueError(f"{_data(checkpoint).name} ends too soon")
        return found
    except (OSError, ValueError, IndexError) as error:
        raise damaged(checkpoint, error) from None


def _block(table: bytes, offset: int, size: int) -> bytes:
    """A block of a table, without its trailer: how it is compressed, and a checksum."""
    block = table[offset : offset + size + _TRAILER]
    if len(block) != size + _TRAILER or block[size] != 0:
        raise ValueError("a block of the index is cut short")
    if _masked(crc32c(block[: size + 1])) != int.from_bytes(block[size + 1 :], "little"):
        raise ValueError("the index does not match its checksum")
    return block[:size]


def _pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block, of which each key shares a beginning with the one before it."""
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + length]
        at += own + length


def _entry(message: bytes) -> _Entry:
    """A `BundleEntryProto`."""
    fields = dict(_fields(message))
    shape = tuple(int(dict(_fields(each)).get(1, 0)) for number, each in _fields(fields.get(2, b"")) if number == 2)
    kind, offset, size, checksum = (int(fields.get(number, 0)) for number in (1, 4, 5, 6))
    if fields.get(3, 0) or 7 in fields:
        raise ValueError("it is spread over several files")
    return _Entry(kind, shape, offset, size, checksum)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of a message's fields: whole numbers, or bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if tag & 7 == 5:
            length = 4
        elif tag & 7 == 2:
            length, at = _varint(message, at)
        else:
            raise ValueError("the index holds a field of an unknown kind")
        if at + length > len(message):
            raise ValueError("the index is cut short")
        value_bytes = message[at : at + length]
        yield tag >> 3, int.from_bytes(value_bytes, "little") if tag & 7 == 5 else value_bytes
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A whole number of seven bits per byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number in the index has no end")
