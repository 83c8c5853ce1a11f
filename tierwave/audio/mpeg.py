"""MPEG audio (mp3, mp2): the frames of a file, and a first frame that says how many there are."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

from tierwave.audio.parts import FileBytes, Part, after_tags

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
    which in a stream's first frame may be followed by the number of frames."""

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


def two_frames(data: FileBytes, position: int) -> _Frame | None:
    """The frame at `position`, if another of its kind, or the end, follows."""
    frame = _frame(data.at(position, 4))
    if frame is None:
        return None
    behind = position + frame.length
    following = _frame(data.at(behind, 4))
    return frame if behind >= data.size or (following is not None and following.kind == frame.kind) else None


def mpeg_parts(data: FileBytes, start: int) -> Iterator[Part]:
    position, begun, count, skipped = start, start, 0, 0
    kind = None
    spans: list[tuple[int, int]] = []
    while position < data.size:
        frame = _frame(data.at(position, 4))
        if frame is not None and frame.kind == kind and not _holds_count(data, position, frame):
            if position + frame.length > data.size:
                break
            count += 1
            position += frame.length
            continue
        frame = two_frames(data, position)
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
        if found != after_tags(data, position):
            skipped += found - position
        position = begun = found
    # A frame without its end; anything else that follows is a tag.
    cut = _frame(data.at(position, 4)) is not None
    yield _mpeg_part(data, (*spans, (begun, position)), count, skipped, cut=cut)


def _next_frame(data: FileBytes, position: int) -> int | None:
    """Where the next frame of sound is behind what is none."""
    position = max(position + 1, after_tags(data, position))
    while True:
        if two_frames(data, position):
            return position
        position = data.find(b"\xff", position + 1)
        if position < 0:
            return None


def _holds_count(data: FileBytes, position: int, frame: _Frame) -> bool:
    """Whether a frame is no sound but holds the number of frames that follow, as the first of a file does."""
    return data.at(position + 4 + frame.side, 4) in (b"Xing", b"Info")


def _mpeg_part(data: FileBytes, spans: tuple[tuple[int, int], ...], count: int, skipped: int, cut: bool) -> Part:
    """A part whose first frame holds the number of frames: without one, a decoder estimates the length from the size of
    the file and the bit rate of the beginning, and stops there."""
    start = spans[0][0]
    frame = _frame(data.at(start, 4))
    if frame is None or frame.kind[1] != 3:
        return Part(spans, cut=cut, skipped=skipped, certain=False)
    size = sum(stop - start for start, stop in spans)
    if not _holds_count(data, start, frame):
        made = _counting_frame(data.at(start, 4), frame.side, count, size)
        return Part(spans, made, cut=cut, skipped=skipped, certain=bool(made))
    frames = max(0, count - 1)  # all but the one that holds their number
    head = bytearray(data.at(start, frame.length))
    at = 4 + frame.side + 8  # of the numbers of frames and of bytes, each of which is there if its flag is set
    flags = int.from_bytes(head[at - 4 : at], "big")
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
        # A decoder drops the samples that fill up the last frame, but that frame is missing.
        padding = at + (100 if flags & 4 else 0) + (4 if flags & 8 else 0) + 22
        if padding + 2 <= len(head):
            head[padding : padding + 2] = bytes([head[padding] & 0xF0, 0])
    spans = ((start + len(head), spans[0][1]), *spans[1:])
    return Part(spans, bytes(head), share, cut=cut, skipped=skipped, certain=announced is not None)


def _counting_frame(header: bytes, side: int, count: int, size: int) -> bytes:
    """A frame for a stream with such a header that holds its numbers of frames and bytes; none where it has no room."""
    head = bytearray(header)
    head[1] |= 1  # without a checksum
    while (frame := _frame(bytes(head))) is not None and frame.length < 4 + side + 16:
        head[2] += 0x10  # the next higher bit rate
    if frame is None:
        return b""
    numbers = b"".join(number.to_bytes(4, "big") for number in (3, count, size + frame.length))
    return (bytes(head) + bytes(side) + b"Xing" + numbers).ljust(frame.length, b"\0")
