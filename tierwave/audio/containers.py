"""How the container of a recording is laid out: which parts it has, and what its header says that does not hold.

A decoder believes the header: it stops where that says, and never looks at what follows. Here the container itself is
walked, from size to size, page to page and frame to frame, so that nothing behind a wrong size is lost: recordings that
lie one behind the other are parts, and a header that was never completed is completed, in memory. Knows no sample
formats and decodes nothing.
"""

from __future__ import annotations

import bisect
import functools
import io
import itertools
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal, NamedTuple

_BLOCK = 1 << 20  # bytes that are read at once
_ENDLESS = 0x7FFF0000  # four-byte sizes from here on stand for "not known yet" in a smaller file


@dataclass(frozen=True)
class Part:
    """What a decoder can read as one recording: the bytes `head`, then those of the file in `spans` of (start, stop).

    share: how much is there of what the header announces; unfinished: the header was never completed; cut: the end is
    missing; skipped: bytes within that are no sound; certain: whether the length that a decoder tells beforehand is
    right.
    """

    spans: tuple[tuple[int, int], ...]
    head: bytes = b""
    share: float = 1.0
    unfinished: bool = False
    cut: bool = False
    skipped: int = 0
    certain: bool = True


class Window(io.RawIOBase):
    """A `Part` of an open file as a file of its own. failure: the error that ended reading, which a decoder written in
    C cannot be told."""

    def __init__(self, file: BinaryIO, part: Part) -> None:
        self._file, self._head, self._position = file, part.head, 0
        self._spans = part.spans
        lengths = [len(part.head), *(stop - start for start, stop in part.spans)]
        self._ends = list(itertools.accumulate(lengths))  # of the head and of each span, in this file's positions
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
            into = view[filled : filled + left]
            if piece == 0:
                into[:] = self._head[self._position : self._position + len(into)]
                count = len(into)
            else:
                try:
                    self._file.seek(self._spans[piece - 1][1] - left)
                    count = self._file.readinto(into)  # type: ignore[attr-defined]  # which every binary file has
                except OSError as error:
                    self.failure = error
                    break
            if not count:
                break
            filled += count
            self._position += count
        return filled


def layout_of(file: BinaryIO) -> tuple[Part, ...]:
    """The parts of an open recording, one at least; of what is not known here, all of the file as one."""
    data = _Bytes(file)
    start = _after_tags(data, 0)
    magic = data.at(start, 4)
    if magic == b"OggS":
        return tuple(_ogg_parts(data, start))
    if magic == b"fLaC":
        return tuple(_flac_parts(data, start))
    if _form_at(data, 0):
        return tuple(_chunked_parts(data))
    if data.at(0, 4) in (b".snd", b"dns."):
        return tuple(_au_parts(data))
    if _two_frames(data, start):
        return tuple(_mpeg_parts(data, start))
    for announced in (_voc_end, _sphere_end):
        end = announced(data)
        if end is not None:
            return (_up_to(data, *end),)
    return (Part(((0, data.size),)),)


def second_movie(file: BinaryIO) -> int | None:
    """The byte at which another recording begins behind the first in an MP4 file (m4a), which no decoder reads."""
    data = _Bytes(file)
    position = 0
    while position + 8 <= data.size:
        size, kind = data.number(position, 4, "big"), data.at(position + 4, 4)
        if position == 0 and kind != b"ftyp":
            return None
        if position and kind == b"ftyp":
            return position
        if size == 1:
            size = data.number(position + 8, 8, "big")
        if size < 8:  # up to the end of the file, or damaged
            return None
        position += size
    return None


class _Bytes:
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
            self._start, self._block, inside = position, self._file.read(max(count, _BLOCK)), 0
        return self._block[inside : inside + count]

    def number(self, position: int, count: int, order: Literal["little", "big"]) -> int:
        return int.from_bytes(self.at(position, count), order)

    def find(self, pattern: bytes, position: int) -> int:
        """Where `pattern` is next, -1 for nowhere."""
        while position < self.size:
            block = self.at(position, _BLOCK)
            found = block.find(pattern)
            if found >= 0:
                return position + found
            position += max(1, len(block) - len(pattern) + 1)
        return -1


def _after_tags(data: _Bytes, position: int) -> int:
    """Where what follows the ID3v2 tags at `position` begins."""
    while True:
        tag = data.at(position, 10)
        if len(tag) < 10 or tag[:3] != b"ID3" or any(value > 127 for value in tag[6:10]):
            return position
        length = tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9]
        position += 10 + length + (10 if tag[5] & 0x10 else 0)


# ---- RIFF and its like: chunks with sizes --------------------------------------------------------------------------


class _Form(NamedTuple):
    """The chunks of a container: bytes of a name and of a size, whether that counts name and size too, what chunks are
    aligned to, where the first is, and the name of the one that holds the sound."""

    name_bytes: int
    size_bytes: int
    order: Literal["little", "big"]
    inclusive: bool
    alignment: int
    first: int
    sound: bytes

    @property
    def head(self) -> int:
        return self.name_bytes + self.size_bytes


_RIFF = _Form(4, 4, "little", False, 2, 12, b"data")
_RIFX = _RIFF._replace(order="big")
_AIFF = _RIFX._replace(sound=b"SSND")
_SVX = _AIFF._replace(sound=b"BODY")
_GUID = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # behind the names of Sony's wave files
_W64 = _Form(16, 8, "little", True, 8, 40, b"data" + _GUID)
_CAF = _Form(4, 8, "big", False, 1, 8, b"data")


def _form_at(data: _Bytes, position: int) -> _Form | None:
    magic, kind = data.at(position, 4), data.at(position + 8, 4)
    if magic in (b"RIFF", b"RF64", b"BW64", b"RIFX") and kind == b"WAVE":
        return _RIFX if magic == b"RIFX" else _RIFF
    if magic == b"FORM" and kind in (b"AIFF", b"AIFC"):
        return _AIFF
    if magic == b"FORM" and kind in (b"8SVX", b"16SV"):
        return _SVX
    if magic == b"riff" and data.at(position + 24, 4) == b"wave":
        return _W64
    if magic == b"caff" and data.at(position + 4, 2) == b"\0\1":
        return _CAF
    return None


def _chunked_parts(data: _Bytes) -> Iterator[Part]:
    position = 0
    while position < data.size and (form := _form_at(data, position)) is not None:
        part, following = _chunked_part(data, position, form)
        yield part
        position = following


def _chunked_part(data: _Bytes, start: int, form: _Form) -> tuple[Part, int]:
    """The part that begins at `start`, and where the next one would."""
    position = start + form.first
    wide: int | None = None  # where the sizes of more than four bytes are that RF64 has
    while True:
        name = data.at(position, form.name_bytes)
        size_at = position + form.name_bytes
        if size_at + form.size_bytes > data.size:  # there is no sound, or the file is something else
            return Part(((start, data.size),)), data.size
        length = data.number(size_at, form.size_bytes, form.order) - (form.head if form.inclusive else 0)
        body = position + form.head
        if name == b"ds64":
            wide = body
        if name == form.sound:
            break
        position = body + max(0, length) + -max(0, length) % form.alignment
    if wide is not None and length == 0xFFFFFFFF:
        size_at, length = wide + 8, data.number(wide + 8, 8, "little")
    # Before the sound itself come its offset in AIFF, the number of edits in CAF.
    before = {_AIFF: 8, _CAF: 4}.get(form, 0)
    there = data.size - body
    end = _container_end(data, start, form, wide)
    endless = length < 0 or length >= 1 << 63 or (length >= _ENDLESS and form.size_bytes == 4)
    unfinished = (length <= before and (end is None or end <= body + before or end >= _ENDLESS)) or (
        endless and length > there
    )
    if unfinished and there > before and _form_at(data, body) is None:
        # In CAF a size of -1 is what may stand for a sound up to the end of the file.
        part = Part(((start, data.size),), unfinished=form is not _CAF or length <= before)
        return _completed(data, part, form, wide, size_at, body), data.size
    if length > there:
        share = there / length if not endless else 1.0
        part = Part(((start, data.size),), share=share, cut=True)
        return _completed(data, part, form, wide, size_at, body), data.size
    behind = body + length
    for following in (end, behind, behind + -behind % 2):
        if following is not None and behind <= following < data.size and _form_at(data, following):
            return Part(((start, following),)), following
    return Part(((start, data.size),)), data.size


def _container_end(data: _Bytes, start: int, form: _Form, wide: int | None) -> int | None:
    """Where the header says that the container ends."""
    if form is _CAF:
        return None
    if wide is not None and data.at(start + 4, 4) == b"\xff" * 4:
        return start + 8 + data.number(wide, 8, "little")
    size = data.number(start + form.name_bytes, form.size_bytes, form.order)
    return start + size + (0 if form.inclusive else 8)


def _completed(data: _Bytes, part: Part, form: _Form, wide: int | None, size_at: int, body: int) -> Part:
    """`part` with the sizes in its header that the file has."""
    ((start, stop),) = part.spans
    head = bytearray(data.at(start, body - start))

    def put(position: int, size_bytes: int, value: int) -> None:
        inside = position - start
        most = (1 << 8 * size_bytes) - 1
        head[inside : inside + size_bytes] = min(value, most).to_bytes(size_bytes, form.order)

    length = stop - body
    wide_sound = wide is not None and size_at == wide + 8
    put(size_at, 8 if wide_sound else form.size_bytes, length + (form.head if form.inclusive else 0))
    whole = stop - start
    if wide is not None and wide_sound:
        put(wide, 8, whole - 8)
    elif form is _RIFF and whole > 0xFFFFFFFF:
        # No size of four bytes says it: by these two libsndfile knows a file that was not closed, and reads all of it.
        put(size_at, 4, 0)
        put(start + 4, 4, 8)
    elif form is not _CAF:
        put(start + form.name_bytes, form.size_bytes, whole if form.inclusive else whole - 8)
    return replace(part, head=bytes(head), spans=((body, stop),))


def _au_parts(data: _Bytes) -> Iterator[Part]:
    position = 0
    while position < data.size and (magic := data.at(position, 4)) in (b".snd", b"dns."):
        order: Literal["little", "big"] = "big" if magic == b".snd" else "little"
        offset, length = (data.number(position + at, 4, order) for at in (4, 8))
        body = position + offset
        there = data.size - body
        following = body + length
        if length < there and data.at(following, 4) == magic and length:
            yield Part(((position, following),))
            position = following
            continue
        known = length != 0xFFFFFFFF  # which says in this format that the sound goes on to the end
        if there > 0 and known and (length == 0 or length > there):
            head = data.at(position, 8) + b"\xff" * 4 + data.at(position + 12, offset - 12)
            share = there / length if length else 1.0
            yield Part(((body, data.size),), head, share, unfinished=not length, cut=bool(length))
        else:
            yield Part(((position, data.size),))
        return


# ---- Rarer ones, whose header announces where the sound ends ---------------------------------------------------------


def _up_to(data: _Bytes, body: int, end: int) -> Part:
    """All of a file whose sound goes from `body` to `end`, or would."""
    there = max(0, data.size - body)
    cut = end > data.size
    return Part(((0, data.size),), share=max(there, 1) / (end - body) if cut else 1.0, cut=cut)


def _voc_end(data: _Bytes) -> tuple[int, int] | None:
    """Where the blocks of a Creative Voice file begin and end."""
    if data.at(0, 20) != b"Creative Voice File\x1a":
        return None
    begun = position = data.number(20, 2, "little")
    while position < data.size and data.at(position, 1) != b"\0":
        position += 4 + data.number(position + 1, 3, "little")
    return begun, max(position, begun + 1)


def _sphere_end(data: _Bytes) -> tuple[int, int] | None:
    """Where the sound of a NIST SPHERE file begins and ends, by the lines of its header."""
    head = data.at(0, 16)
    if head[:8] != b"NIST_1A\n" or not head[8:].strip().isdigit():
        return None
    body = int(head[8:])
    told = dict(re.findall(rb"^(\w+) -(?:i|s\d+) (\d{1,18})\s*$", data.at(0, min(body, _BLOCK)), re.MULTILINE))
    samples, size, channels = (
        int(told.get(key, b"0")) for key in (b"sample_count", b"sample_n_bytes", b"channel_count")
    )
    return body, body + max(1, samples * size * channels)


# ---- Ogg: pages ------------------------------------------------------------------------------------------------------


def _ogg_parts(data: _Bytes, start: int) -> Iterator[Part]:
    position, begun, inside, ended, damaged = start, start, False, False, 0
    while position + 27 <= data.size:
        head = data.at(position, 27)
        if head[:4] != b"OggS":
            found = data.find(b"OggS", position)
            if found < 0:
                break
            damaged += found - position
            position = found
            continue
        first, last = bool(head[5] & 2), bool(head[5] & 4)
        if first and inside:  # the streams that sound together have all begun before the first of them goes on
            yield Part(((begun, position),), cut=not ended, skipped=damaged)
            begun, damaged = position, 0
        length = 27 + head[26] + sum(data.at(position + 27, head[26]))
        whole = _has_checksum(data.at(position, length), length)
        damaged += 0 if whole or position + length > data.size else length
        inside = not first
        ended = last and whole
        position += length
    yield Part(((begun, data.size),), cut=not ended, skipped=damaged)


_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _has_checksum(page: bytes, length: int) -> bool:
    """Whether a page of Ogg is what was written: a decoder passes over one that is not.

    Its CRC is zlib's of mirrored bits, but for what both begin and end with (RFC 3533).
    """
    if len(page) < length:
        return False
    mirrored = (page[:22] + bytes(4) + page[26:]).translate(_MIRRORED)
    found = zlib.crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return found == int.from_bytes(page[22:26].translate(_MIRRORED), "big")


# ---- FLAC ------------------------------------------------------------------------------------------------------------

_STREAMINFO = b"\0\0\0\x22"


def _flac_parts(data: _Bytes, start: int) -> Iterator[Part]:
    begun = start
    while begun >= 0:
        following = data.find(b"fLaC", begun + 4)
        while following >= 0 and data.at(following + 4, 4) not in (_STREAMINFO, b"\x80" + _STREAMINFO[1:]):
            following = data.find(b"fLaC", following + 4)
        # A stream that was never closed has no number of samples in its header: 0, in 36 bits.
        head = data.at(begun, 26)
        closed = len(head) < 26 or bool(head[21] & 15) or any(head[22:])
        stop = data.size if following < 0 else following
        yield Part(((begun, stop),), unfinished=not closed, certain=closed)
        begun = following


# ---- MPEG audio: frames ----------------------------------------------------------------------------------------------

# kbit/s by (MPEG 1, layer) and index
_KBITS = {
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


class _Frame(NamedTuple):
    """length: in bytes, with the header; kind: what does not change within a stream; side: bytes of side information,
    behind which a stream's first frame may tell how many follow."""

    length: int
    kind: tuple[int, int, int, bool]
    side: int


@functools.lru_cache(maxsize=4096)
def _frame(head: bytes) -> _Frame | None:
    """What the four bytes of a frame's header mean; None where they are none."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    kbits, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or kbits in (0, 15) or rate == 3:
        return None
    first = version == 3
    hertz = (44100, 48000, 32000)[rate] >> (0 if first else 1 if version == 2 else 2)
    bits = _KBITS[first, layer][kbits] * 1000
    padding = head[2] >> 1 & 1
    if layer == 1:
        length = (12 * bits // hertz + padding) * 4
    else:
        length = (144 if first or layer == 2 else 72) * bits // hertz + padding
    mono = head[3] >> 6 == 3
    side = (17 if mono else 32) if first else (9 if mono else 17)
    return _Frame(length, (version, layer, hertz, mono), side)


def _two_frames(data: _Bytes, position: int) -> _Frame | None:
    """The frame at `position`, if another of its kind, or the end, follows."""
    frame = _frame(data.at(position, 4))
    if frame is None:
        return None
    behind = position + frame.length
    following = _frame(data.at(behind, 4))
    return frame if behind >= data.size or (following is not None and following.kind == frame.kind) else None


def _mpeg_parts(data: _Bytes, start: int) -> Iterator[Part]:
    position, begun, count, skipped = start, start, 0, 0
    kind = None
    spans: list[tuple[int, int]] = []
    while position < data.size:
        frame = _frame(data.at(position, 4))
        if frame is not None and frame.kind == kind and not _tells(data, position, frame):
            if position + frame.length > data.size:
                break
            count += 1
            position += frame.length
            continue
        frame = _two_frames(data, position)
        if frame is not None and frame.length <= data.size - position:
            if count:
                yield _mpeg_part(data, (*spans, (begun, position)), count, skipped, cut=False)
            begun, count, skipped, kind = position, 1, 0, frame.kind
            spans = []
            position += frame.length
            continue
        found = _next_frame(data, position)
        if found is None:
            break
        spans.append((begun, position))
        if found != _after_tags(data, position):
            skipped += found - position
        position = begun = found
    # A frame of which the end is missing; what else may follow are tags.
    cut = _frame(data.at(position, 4)) is not None
    yield _mpeg_part(data, (*spans, (begun, position)), count, skipped, cut=cut)


def _next_frame(data: _Bytes, position: int) -> int | None:
    """Where the next frame of sound is behind what is none."""
    position = max(position + 1, _after_tags(data, position))
    while True:
        if _two_frames(data, position):
            return position
        position = data.find(b"\xff", position + 1)
        if position < 0:
            return None


def _tells(data: _Bytes, position: int, frame: _Frame) -> bool:
    """Whether a frame is no sound but tells how much follows, as the first frame of a file does."""
    return data.at(position + 4 + frame.side, 4) in (b"Xing", b"Info")


def _mpeg_part(data: _Bytes, spans: tuple[tuple[int, int], ...], count: int, skipped: int, cut: bool) -> Part:
    """A part whose first frame tells how many follow. Where none does, a decoder goes by the length of the file and
    the bit rate of the beginning, which are no length."""
    start = spans[0][0]
    frame = _frame(data.at(start, 4))
    if frame is None or frame.kind[1] != 3:
        return Part(spans, cut=cut, skipped=skipped, certain=False)
    size = sum(stop - start for start, stop in spans)
    told = start + 4 + frame.side
    if not _tells(data, start, frame):
        head = bytearray(data.at(start, 4))
        head[1] |= 1  # without a checksum
        while (made := _frame(bytes(head))) is not None and made.length < 4 + frame.side + 16:
            head[2] += 0x10
        if made is None:
            return Part(spans, cut=cut, skipped=skipped, certain=False)
        head += bytes(frame.side) + b"Xing" + (3).to_bytes(4, "big") + count.to_bytes(4, "big")
        head += (size + made.length).to_bytes(4, "big")
        head += bytes(made.length - len(head))
        return Part(spans, bytes(head), cut=cut, skipped=skipped)
    frames = max(0, count - 1)  # all but the one that tells
    head = bytearray(data.at(start, frame.length))
    flags = data.number(told + 4, 4, "big")
    at = told + 8 - start
    announced = None
    if flags & 1:
        announced = int.from_bytes(head[at : at + 4], "big")
        head[at : at + 4] = frames.to_bytes(4, "big")
        at += 4
    if flags & 2:
        head[at : at + 4] = min(size, 0xFFFFFFFF).to_bytes(4, "big")
        at += 4
    missing = 0 if announced is None else announced - frames
    share = 1.0
    if announced is not None and missing > 2:
        share, cut = frames / announced, True
        # The samples that fill up the last frame, which a decoder takes away, were in one that is not there.
        padding = at + (100 if flags & 4 else 0) + (4 if flags & 8 else 0) + 22
        if padding + 2 <= len(head):
            head[padding : padding + 2] = bytes([head[padding] & 0xF0, 0])
    spans = ((start + len(head), spans[0][1]), *spans[1:])
    return Part(spans, bytes(head), share, cut=cut, skipped=skipped, certain=announced is not None)
