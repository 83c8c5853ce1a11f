"""A part of a file as a file of its own, for decoders that read one recording from its beginning to its end."""

from __future__ import annotations

import bisect
import io
import itertools
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

BLOCK = 1 << 20  # bytes that are read at once


@dataclass(frozen=True)
class Part:
    """What a decoder can read as one recording: the bytes `head`, then those of the file in `spans` of (start, stop).

    share: how much of what the header announces is there; unfinished: the header was never completed; cut: the end is
    missing; skipped: bytes within that are no sound; certain: whether the length that a decoder reports before it
    decodes is right.
    """

    spans: tuple[tuple[int, int], ...]
    head: bytes = b""
    share: float = 1.0
    unfinished: bool = False
    cut: bool = False
    skipped: int = 0
    certain: bool = True


class Window(io.RawIOBase):
    """A `Part` of an open file as a file of its own. failure: the error that ended reading; a decoder written in C only
    sees the end of the file."""

    def __init__(self, file: BinaryIO, part: Part) -> None:
        self._position = 0
        self._pieces: list[tuple[Any, int]] = [(io.BytesIO(part.head), len(part.head))]  # a file, and where to stop
        self._pieces += [(file, stop) for _, stop in part.spans]
        lengths = [len(part.head), *(stop - start for start, stop in part.spans)]
        self._ends = list(itertools.accumulate(lengths))  # of the pieces, in this file's positions
        self.failure: OSError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._ends[-1]}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer) -> int:
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view) and self._position < self._ends[-1]:
            piece = bisect.bisect_right(self._ends, self._position)
            left = self._ends[piece] - self._position
            file, stop = self._pieces[piece]
            try:
                file.seek(stop - left)
                count = file.readinto(view[filled : filled + left])
            except OSError as error:
                self.failure = error
                break
            if not count:
                break
            filled += count
            self._position += count
        return filled


class FileBytes:
    """A file of any size by position, read in blocks."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, io.SEEK_END)
        self._start, self._block = 0, b""

    def at(self, position: int, count: int) -> bytes:
        """`count` bytes from `position` on, fewer at the end of the file."""
        if position >= self.size:
            return b""
        inside = position - self._start
        if inside < 0 or inside + count > len(self._block):
            self._file.seek(position)
            self._start, self._block, inside = position, self._file.read(max(count, BLOCK)), 0
        return self._block[inside : inside + count]

    def number(self, position: int, count: int, order: Literal["little", "big"]) -> int:
        return int.from_bytes(self.at(position, count), order)

    def find(self, pattern: bytes, position: int) -> int:
        """Where `pattern` is next, -1 for nowhere."""
        while position < self.size:
            block = self.at(position, BLOCK)
            found = block.find(pattern)
            if found >= 0:
                return position + found
            position += max(1, len(block) - len(pattern) + 1)
        return -1


def after_tags(data: FileBytes, position: int) -> int:
    """Where what follows the ID3v2 tags at `position` begins."""
    while True:
        tag = data.at(position, 10)
        if len(tag) < 10 or tag[:3] != b"ID3" or any(value > 127 for value in tag[6:10]):
            return position
        length = tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9]
        position += 10 + length + (10 if tag[5] & 0x10 else 0)
