"""What damages bytes, JSON and tables: each takes something good and a source of randomness.

Sizes stay small: an input is to be damaged in a few places, as by a bad disk, a broken download, a hand or a stranger.
"""

from __future__ import annotations

import copy
import json
import re
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Bytes = Callable[[bytes, Random], bytes]

HEAD = 96  # bytes in which most headers lie
EXTREMES = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)

# Bytes ---------------------------------------------------------------------------------------------------------------


def mutated(content: bytes, rng: Random, ways: Sequence[Bytes] = ()) -> bytes:
    """`content`, damaged in one to three ways, of `ways` besides those of all bytes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice([*BYTES, *ways])(content, rng)
    return content


def _place(content: bytes, rng: Random) -> int:
    """Somewhere, every other time in what may be a header."""
    return rng.randrange(max(1, min(len(content), HEAD) if rng.random() < 0.5 else len(content)))


def flipped(content: bytes, rng: Random) -> bytes:
    """One to eight bits, anywhere."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8) if content else 0):
        changed[_place(content, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def replaced(content: bytes, rng: Random) -> bytes:
    """A stretch of other bytes: zeros, ones, noise."""
    start = _place(content, rng)
    stop = min(len(content), start + rng.choice((1, 2, 4, 16, 512)))
    new = rng.choice((b"\0", b"\xff", b"\x80", b"A", None))
    return content[:start] + (rng.randbytes(stop - start) if new is None else new * (stop - start)) + content[stop:]


def extreme(content: bytes, rng: Random) -> bytes:
    """A field of one to eight bytes, in either order, as the largest, the smallest, or off by one."""
    size = rng.choice((1, 2, 4, 4, 8))
    start = _place(content, rng) & ~(1 if size > 1 else 0)
    if start + size > len(content):
        return content
    order = rng.choice(("little", "big"))
    old = int.from_bytes(content[start : start + size], order)
    new = rng.choice((*EXTREMES, old + 1, old - 1, old * 2, old // 2)) % (1 << (8 * size))
    return content[:start] + new.to_bytes(size, order) + content[start + size :]


def truncated(content: bytes, rng: Random) -> bytes:
    """Broken off."""
    return content[: _place(content, rng)]


def inserted(content: bytes, rng: Random) -> bytes:
    """A stretch more."""
    start = _place(content, rng)
    size = rng.choice((1, 2, 7, 64, 4096))
    return content[:start] + rng.choice((bytes(size), rng.randbytes(size), content[:size])) + content[start:]


def removed(content: bytes, rng: Random) -> bytes:
    """A stretch less."""
    start = _place(content, rng)
    return content[:start] + content[start + rng.choice((1, 2, 7, 64, 4096)) :]


def doubled(content: bytes, rng: Random) -> bytes:
    """A stretch twice."""
    start, stop = sorted((_place(content, rng), _place(content, rng)))
    return content[:stop] + content[start:stop] + content[stop:]


def swapped(content: bytes, rng: Random) -> bytes:
    """Two neighbouring stretches in the other order."""
    first, second, third = sorted(_place(content, rng) for _ in range(3))
    return content[:first] + content[second:third] + content[first:second] + content[third:]


def followed(content: bytes, rng: Random) -> bytes:
    """With something behind its end: itself, zeros, noise."""
    return content + rng.choice((content, bytes(4096), rng.randbytes(4096)))


BYTES: tuple[Bytes, ...] = (
    flipped,
    replaced,
    extreme,
    extreme,
    truncated,
    inserted,
    removed,
    doubled,
    swapped,
    followed,
)

# Chunks of RIFF, RF64, FORM and CAF ----------------------------------------------------------------------------------


def chunks_of(content: bytes) -> list[tuple[int, int]]:
    """Where chunks lie, header and content; [] for a file without."""
    if content[:4] in (b"RIFF", b"RF64", b"FORM"):
        start, header, form = 12, 8, "<4sI" if content[:4] != b"FORM" else ">4sI"
    elif content[:4] == b"caff":
        start, header, form = 8, 12, ">4sq"
    else:
        return []
    found = []
    while start + header <= len(content):
        size = struct.unpack_from(form, content, start)[1]
        stop = start + header + size + (size % 2 if header == 8 else 0)
        if size < 0 or stop > len(content):
            stop = len(content)
        found.append((start, stop))
        start = stop
    return found


def mutated_chunks(content: bytes, rng: Random) -> bytes:
    """A chunk is cut, doubled, emptied, moved, named otherwise, or of another size than it says."""
    found = chunks_of(content)
    if not found:
        return extreme(content, rng)
    number = rng.randrange(len(found))
    start, stop = found[number]
    chunk, header = content[start:stop], 12 if content[:4] == b"caff" else 8
    way = rng.randrange(7)
    if way == 0:
        return content[:start] + content[stop:]
    if way == 1:
        return content[:stop] + chunk + content[stop:]
    if way == 2:
        return content[:start] + chunk[:4] + bytes(header - 4) + content[stop:]
    if way == 3:
        other = rng.choice(found)[0]
        rest = content[:start] + content[stop:]
        return rest[:other] + chunk + rest[other:]
    if way == 4:
        name = rng.choice(
            (b"data", b"fmt ", b"LIST", b"JUNK", b"COMM", b"SSND", b"fact", b"\0\0\0\0", b"desc", b"pakt")
        )
        return content[:start] + name + content[start + 4 :]
    if way == 5:
        return content[: start + header] + rng.randbytes(stop - start - header) + content[stop:]
    size = rng.choice(EXTREMES).to_bytes(4, rng.choice(("little", "big")))
    return content[: start + header - 4] + size + content[start + header :]


# JSON ----------------------------------------------------------------------------------------------------------------

_DEEP, _DIGITS, _TWICE = "@deep@", "@digits@", "@twice@"
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 0.5, -0.5, 255, 65536, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 10**30, 10**400,
    1e-320, 1e308, -1e308, float("nan"), float("inf"), float("-inf"),
    "", " ", "a", "1", "null", "NaN", "../../x", "/etc/passwd", "C:\\x", "a\0b", "a\nb", "\x1b[31m", "\ud800", "é" * 50,
    "x" * 10_000, [], [[]], [None], [1], ["a"], [[1, 2], [3]], list(range(2000)), {}, {"a": 1}, {"": None},
    {"x": {"y": {}}}, _DEEP, _DIGITS,
)  # fmt: skip


def odd(rng: Random) -> Any:
    """A value that is not what is meant; one of its own, which may be changed."""
    return copy.deepcopy(rng.choice(ODD))


def mutated_json(document: Any, rng: Random) -> Any:
    """`document` with one to three values or keys that are other than they should be."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        document = _changed(document, rng)
    return document


def _changed(document: Any, rng: Random) -> Any:
    places = list(_places(document))
    if not places or rng.random() < 0.02:
        return odd(rng)
    # A long list of numbers must not hide the keys beside it.
    container, key = rng.choice([rng.choice(places), *(place for place in places if isinstance(place[0], dict))])
    way = rng.randrange(9)
    if way == 0:
        del container[key]
    elif way == 1 and isinstance(container, dict):
        container[rng.choice((f"{key}x", "", "type", "name", "a.b", "\0", "x" * 5000))] = container.pop(key)
    elif way == 1 or way == 2 and isinstance(container, list):
        container.insert(rng.randrange(len(container) + 1), rng.choice([copy.deepcopy(container[key]), odd(rng)]))
    elif way == 2:
        container[f"{key}{_TWICE}"] = rng.choice([copy.deepcopy(container[key]), odd(rng)])
    elif way == 3 and isinstance(container[key], (int, float)):
        container[key] = _beside(container[key], rng)
    elif way == 4:
        container[key] = rng.choice([[container[key]], {"a": container[key]}, str(container[key])])
    elif way == 5:
        container[key] = copy.deepcopy(rng.choice(places)[0])
    else:
        container[key] = odd(rng)
    return document


def _beside(number: Any, rng: Random) -> Any:
    try:
        return rng.choice([-number, number + 1, number - 1, number * 1000, number / 3, float(number), int(number)])
    except (ValueError, OverflowError):
        return 0


def _places(document: Any, depth: int = 0) -> list[tuple[Any, Any]]:
    if depth > 20 or not isinstance(document, (dict, list)):
        return []
    found: list[tuple[Any, Any]] = []
    for key, value in list(document.items()) if isinstance(document, dict) else enumerate(document[:200]):
        found += [(document, key), *_places(value, depth + 1)]
    return found


def json_text(document: Any, rng: Random) -> str:
    """`document` as JSON, with what no object of Python can be: a key twice, thousands of digits or brackets."""
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5)
    text = re.sub(f"({re.escape(_TWICE)})+", "", text)
    depth = rng.choice((50, 990, 5000, 100_000))
    text = text.replace(f'"{_DEEP}"', rng.choice(("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth)))
    return text.replace(f'"{_DIGITS}"', rng.choice(("9" * 5000, "1e999", "-0", "1e-999", "0.1" + "0" * 5000 + "1")))


def json_bytes(document: Any, rng: Random) -> bytes:
    """`document` damaged as JSON (nine of ten times), as text (now and then), as bytes (now and then)."""
    text = json_text(mutated_json(document, rng) if rng.random() < 0.9 else document, rng)
    return text_bytes(text, rng)


# Text ----------------------------------------------------------------------------------------------------------------


def text_bytes(text: str, rng: Random) -> bytes:
    """Mostly UTF-8; now and then another encoding, a byte order mark, or damaged bytes."""
    chance = rng.random()
    if chance < 0.15:
        encoding = rng.choice(("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "utf-7"))
        return text.encode(encoding, "replace")
    content = text.encode("utf-8", "replace")
    return mutated(content, rng) if chance < 0.35 else content


_CELLS = (
    "", " ", "0", "-1", "1e400", "-1e400", "nan", "inf", "1,5", "1.5.1", "1e308", "-1e308", "9" * 400, "9" * 5000,
    "0x10",     "1_000", "٣", "true", "a", "é", '"', '""', '"a', "a\nb", "a\0b", "=1+1", "#", "../x", "a.wav", "time",
    "meta", "name",     "x" * 20_000, "[1]", "{}", "−1", "1 000", "1e-320", "0:0", ":", "|", "a|a", "a|b",
)  # fmt: skip


def mutated_csv(text: str, rng: Random) -> str:
    """A table with one to three cells, lines or columns that are other than they should be."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        text = rng.choice(TABLES)(text, rng)
    return text


def _cell(text: str, rng: Random) -> str:
    lines = text.split("\n")
    line = rng.randrange(len(lines))
    cells = lines[line].split(",")
    cells[rng.randrange(len(cells))] = rng.choice(_CELLS)
    lines[line] = ",".join(cells)
    return "\n".join(lines)


def _line(text: str, rng: Random) -> str:
    lines = text.split("\n")
    line, way = rng.randrange(len(lines)), rng.randrange(6)
    if way == 0:
        del lines[line]
    elif way == 1:
        lines.insert(line, lines[line])
    elif way == 2:
        lines.insert(line, rng.choice(("", ",", "#", "#units,a=hertz", "#meta,[]", "#meta,{", "#units,a")))
    elif way == 3:
        lines[line] += rng.choice((",", ",1", '"', " ", "\0"))
    elif way == 4:
        lines[line] = lines[line].rpartition(",")[0]
    else:
        rng.shuffle(lines)
    return "\n".join(lines)


def _column(text: str, rng: Random) -> str:
    rows = [line.split(",") for line in text.split("\n")]
    column = rng.randrange(len(rows[0]))
    if rng.random() < 0.5:
        rows = [row[:column] + row[column + 1 :] for row in rows]
    else:
        rows = [[*row, row[column]] if column < len(row) else row for row in rows]
    return "\n".join(",".join(row) for row in rows)


def _separator(text: str, rng: Random) -> str:
    return text.replace(",", rng.choice((";", "\t", "|", " ", ", ")))


def _ends(text: str, rng: Random) -> str:
    return text.replace("\n", rng.choice(("\r\n", "\r", "\n\n", "\r\r\n", "\u2028")))


def _quotes(text: str, rng: Random) -> str:
    return "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in text.split("\n"))


def _header(text: str, rng: Random) -> str:
    head, newline, rest = text.partition("\n")
    return rng.choice((head.upper(), f" {head} ", head.title(), "", rest.partition("\n")[0])) + newline + rest


TABLES = (_cell, _cell, _cell, _line, _line, _column, _separator, _ends, _quotes, _header)
