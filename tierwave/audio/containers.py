"""Which parts the container of a recording has, and which of its header's sizes are wrong.

A decoder believes the header, and reads nothing behind the end that it gives. Here the container itself is walked, from
size to size, page to page and frame to frame, so that nothing behind a wrong size is lost: recordings that lie one
behind the other become parts, and a header that was never completed is completed, in memory. Nothing is decoded.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO, Literal, NamedTuple

from tierwave.audio.mpeg import mpeg_parts, two_frames
from tierwave.audio.parts import BLOCK, FileBytes, Part, after_tags

_ENDLESS = 0x7FFF0000  # four-byte sizes from here on mean "not known yet" in a smaller file


def layout_of(file: BinaryIO) -> tuple[Part, ...]:
    """The parts of an open recording, at least one; a container of another kind is one part as a whole."""
    data = FileBytes(file)
    start = after_tags(data, 0)
    magic = data.at(start, 4)
    if magic == b"OggS":
        return tuple(_ogg_parts(data, start))
    if magic == b"fLaC":
        return tuple(_flac_parts(data, start))
    if _form_at(data, 0):
        return tuple(_chunked_parts(data))
    if data.at(0, 4) in (b".snd", b"dns."):
        return tuple(_au_parts(data))
    if two_frames(data, start):
        return tuple(mpeg_parts(data, start))
    for announced in (_voc_end, _sphere_end):
        end = announced(data)
        if end is not None:
            return (_up_to(data, *end),)
    return (Part(((0, data.size),)),)


def second_movie(file: BinaryIO) -> int | None:
    """The byte at which another recording begins behind the first in an MP4 file (m4a), which no decoder reads."""
    data = FileBytes(file)
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


def _form_at(data: FileBytes, position: int) -> _Form | None:
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


def _chunked_parts(data: FileBytes) -> Iterator[Part]:
    position = 0
    while position < data.size and (form := _form_at(data, position)) is not None:
        part, following = _chunked_part(data, position, form)
        yield part
        position = following


def _chunked_part(data: FileBytes, start: int, form: _Form) -> tuple[Part, int]:
    """The part that begins at `start`, and where the next one would."""
    position = start + form.first
    wide: int | None = None  # where RF64 has sizes of eight bytes
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
        # A size of -1 is allowed in CAF, for sound up to the end of the file.
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


def _container_end(data: FileBytes, start: int, form: _Form, wide: int | None) -> int | None:
    """Where the header says that the container ends."""
    if form is _CAF:
        return None
    if wide is not None and data.at(start + 4, 4) == b"\xff" * 4:
        return start + 8 + data.number(wide, 8, "little")
    size = data.number(start + form.name_bytes, form.size_bytes, form.order)
    return start + size + (0 if form.inclusive else 8)


def _completed(data: FileBytes, part: Part, form: _Form, wide: int | None, size_at: int, body: int) -> Part:
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
        # Four bytes are too few; libsndfile takes these two sizes for a file that was not closed, and reads all of it.
        put(size_at, 4, 0)
        put(start + 4, 4, 8)
    elif form is not _CAF:
        put(start + form.name_bytes, form.size_bytes, whole if form.inclusive else whole - 8)
    return replace(part, head=bytes(head), spans=((body, stop),))


def _au_parts(data: FileBytes) -> Iterator[Part]:
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


def _up_to(data: FileBytes, body: int, end: int) -> Part:
    """All of a file whose sound goes from `body` to `end`, or would."""
    there = max(0, data.size - body)
    cut = end > data.size
    return Part(((0, data.size),), share=max(there, 1) / (end - body) if cut else 1.0, cut=cut)


def _voc_end(data: FileBytes) -> tuple[int, int] | None:
    """Where the blocks of a Creative Voice file begin and end."""
    if data.at(0, 20) != b"Creative Voice File\x1a":
        return None
    begun = position = data.number(20, 2, "little")
    while position < data.size and data.at(position, 1) != b"\0":
        position += 4 + data.number(position + 1, 3, "little")
    return begun, max(position, begun + 1)


def _sphere_end(data: FileBytes) -> tuple[int, int] | None:
    """Where the sound of a NIST SPHERE file begins and ends, by the lines of its header."""
    head = data.at(0, 16)
    if head[:8] != b"NIST_1A\n" or not head[8:].strip().isdigit():
        return None
    body = int(head[8:])
    told = dict(re.findall(rb"^(\w+) -(?:i|s\d+) (\d{1,18})\s*$", data.at(0, min(body, BLOCK)), re.MULTILINE))
    samples, size, channels = (
        int(told.get(key, b"0")) for key in (b"sample_count", b"sample_n_bytes", b"channel_count")
    )
    return body, body + max(1, samples * size * channels)


# ---- Ogg: pages ------------------------------------------------------------------------------------------------------


def _ogg_parts(data: FileBytes, start: int) -> Iterator[Part]:
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
        if first and inside:  # streams that sound together all begin before the first of them goes on
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
    """Whether a page of Ogg is undamaged; a decoder skips one that is not.

    Its CRC is zlib's of mirrored bits, with another initial and final value (RFC 3533).
    """
    if len(page) < length:
        return False
    mirrored = (page[:22] + bytes(4) + page[26:]).translate(_MIRRORED)
    found = zlib.crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return found == int.from_bytes(page[22:26].translate(_MIRRORED), "big")


# ---- FLAC ------------------------------------------------------------------------------------------------------------

_STREAMINFO = b"\0\0\0\x22"


def _flac_parts(data: FileBytes, start: int) -> Iterator[Part]:
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
