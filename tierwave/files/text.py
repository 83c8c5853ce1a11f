"""Text that people write, or that others send: how a file is decoded, tables of cells, and JSON that may be hostile.

Configs, controls, transcripts and messages are all read here, so that every reader accepts the same.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tierwave.errors import RunError

# Of lists and objects within each other. No config comes near; json.dumps, deepcopy and pydantic fail at some hundred.
MOST_NESTED = 64

# UTF-32's begins as UTF-16's does, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

# Decoding --------------------------------------------------------------------------------------------------------


def decode(content: bytes) -> str:
    """The text of a file: UTF-8, or what the byte order mark at its beginning says, which is taken off.

    Line ends stay as they are. Raises ValueError, whose text goes on after the file's name, for anything else.
    """
    mark, encoding = next((each for each in _MARKS if content.startswith(each[0])), (b"", "utf-8"))
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        found = f"{error.reason} at byte {len(mark) + error.start}"
        name = encoding.upper().removesuffix("-LE").removesuffix("-BE")
        raise ValueError(f"is not {name} text ({found}): save it as UTF-8") from None
    if "\0" in text:  # UTF-16 without a mark, or no text at all
        raise ValueError("is not UTF-8 text (it has zero bytes): save it as UTF-8")
    return text


def read_text(path: Path) -> str:
    """The text of the file at `path`, as `decode` reads it. Raises RunError, which names the file, and OSError."""
    try:
        return decode(path.read_bytes())
    except ValueError as error:
        raise RunError(f"{path} {error}") from None


# Tables of cells -------------------------------------------------------------------------------------------------

SEPARATORS = ",;\t"  # the first where none occurs, or several equally often


@dataclass(frozen=True)
class Cells:
    """A CSV as spreadsheets write it in any language. rows: line number and cells, without blank lines; rows above the
    header that begin with # among them. separator: between the cells, one of `SEPARATORS`. decimal_comma: whether
    numbers have a comma where others have a point."""

    path: Path
    rows: tuple[tuple[int, list[str]], ...]
    separator: str = ","
    decimal_comma: bool = False

    def number(self, cell: str) -> str:
        """The cell of a number, with a decimal point."""
        return cell.replace(",", ".") if self.decimal_comma and _COMMA.fullmatch(cell) else cell


_COMMA = re.compile(r"\s*[-+]?\d*,\d+([eE][-+]?\d+)?\s*", re.ASCII)
_POINT = re.compile(_COMMA.pattern.replace(",", r"\."), re.ASCII)


def read_cells(path: Path) -> Cells:
    """The table in the file at `path`, separated by what stands most often in its header: commas, semicolons or tabs.

    A first line such as `sep=;`, Excel's own, says it too; rows above the header that begin with # always have commas.
    A comma within a number is a decimal comma where something else separates and no number has a point.
    Raises RunError, which names file and line, for what is no text or no CSV, and OSError.
    """
    separator, remaining = _opened(path)
    rows = tuple(remaining)
    cells = [] if separator == "," else [cell for _, row in rows for cell in row]
    decimal_comma = any(map(_COMMA.fullmatch, cells)) and not any(map(_POINT.fullmatch, cells))
    return Cells(path, rows, separator, decimal_comma)


def read_header(path: Path) -> list[str]:
    """The first row that does not begin with #, its cells stripped; [] if there is none. Raises as `read_cells`."""
    _, rows = _opened(path)
    return next(([cell.strip() for cell in row] for _, row in rows if not row[0].startswith("#")), [])


def _opened(path: Path) -> tuple[str, Iterator[tuple[int, list[str]]]]:
    """A table's separator, and its rows that are not blank with their line numbers, as they are read."""
    csv.field_size_limit(2**31 - 1)  # the JSON of meta may be long
    text = read_text(path)
    lines = io.StringIO(text, newline="")
    above: list[tuple[int, list[str]]] = []
    passed = 0  # lines

    def rows(separator: str, most: int | None = None) -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(lines, delimiter=separator, strict=True)
        try:
            for row in itertools.islice(reader, most):
                if row:
                    yield passed + reader.line_num, row
        except csv.Error as error:
            place = passed + reader.line_num
            raise RunError(f"{path} is not CSV at line {place} ({error}): correct it there") from None

    while True:
        start = lines.tell()
        line = lines.readline()
        if said := re.fullmatch(rf'"?sep=([{SEPARATORS}])"?\s*', line):
            passed += 1
            return said[1], itertools.chain(above, rows(said[1]))
        if line and not line.strip("\r\n"):
            passed += 1
            continue
        lines.seek(start)
        if not line.startswith(("#", '"#')):
            separator = _separator(line)
            return separator, itertools.chain(above, rows(separator))
        above += rows(",", 1)
        passed = above[-1][0]


def _separator(header: str) -> str:
    outside = re.sub(r'"[^"]*"', "", header)
    return max(SEPARATORS, key=outside.count)


# JSON ------------------------------------------------------------------------------------------------------------


def refuse_repeated(key: str, times: int) -> None:
    """What `parse_json` does about a key that stands several times in one object. Raises ValueError."""
    name = _shortened(json.dumps(key, ensure_ascii=False))
    raise ValueError(f"the key {name} stands {times} times in one object; keep one of them")


def parse_json(
    text: str | bytes, *, finite: bool = True, repeated: Callable[[str, int], None] = refuse_repeated
) -> Any:
    """The value that a JSON text holds, nested no deeper than `MOST_NESTED`, so that whatever walks it may recurse.

    finite: refuse NaN, Infinity and numbers too large for a float. repeated: told of a key that stands several times
    in one object, of which the last is kept. Costs time in proportion to the text: who takes texts from strangers
    limits their length first. Raises ValueError (`json.JSONDecodeError` with line and column, where the text is no
    JSON at all) and never RecursionError.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            repeated(*Counter(key for key, _ in pairs).most_common(1)[0])
        return result

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a JSON number; write a finite one")

    def number(digits: str) -> float:
        value = float(digits)
        if math.isinf(value):
            raise ValueError(f"the number {_shortened(digits)} is too large; write a smaller one")
        return value

    def whole(digits: str) -> int:
        number(digits)
        return int(digits)

    limits: dict[str, Any] = {"parse_constant": refuse, "parse_float": number, "parse_int": whole} if finite else {}
    try:
        value = json.loads(text, object_pairs_hook=unique, **limits)
    except RecursionError:  # the parser's own end, which lies deeper or not, as the version of Python has it
        raise ValueError(_too_deep()) from None
    _check_depth(value)
    return value


_WORDS = {"None": "null", "True": "true", "False": "false"}  # as they are written elsewhere on the command line
_PIECE = re.compile(r"""("(?:[^"\\]|\\.)*")|'([^']*)'|([][{},:])|([^][{},:"']+)""", re.DOTALL)


def parse_typed(text: str) -> Any:
    """What a value on a command line means: JSON, None, True or False, or else the text itself.

    Lists and objects may lack their quotes, which Windows' shells take away: `[p,q]` and `{p:{lo:1}}` are read as
    `["p","q"]` and `{"p":{"lo":1}}`. Raises ValueError, which says what to write, for a list or an object that cannot
    be read so.
    """
    try:
        return parse_json(_WORDS.get(text, text))
    except ValueError as error:
        if not text.lstrip().startswith(("[", "{")):
            return text
        fault = error
    if isinstance(fault, json.JSONDecodeError) and "".join(match[0] for match in _PIECE.finditer(text)) == text:
        with contextlib.suppress(json.JSONDecodeError):
            return parse_json("".join(_quoted_again(*match.groups()) for match in _PIECE.finditer(text)))
    if isinstance(fault, json.JSONDecodeError):
        raise ValueError(
            f"{_shortened(text)} is no JSON ({fault.msg} at column {fault.colno}): put quotes around every text in it, "
            'and a \\ before each in PowerShell and cmd, such as "[\\"p\\"]"'
        )
    raise fault


def _quoted_again(quoted: str | None, single: str | None, mark: str | None, word: str | None) -> str:
    """A piece of a list or an object whose quotes were lost, as JSON."""
    if word is None:
        return quoted or mark or json.dumps(single)
    bare = word.strip()
    try:
        json.loads(_WORDS.get(bare, bare) or "null")
    except ValueError:
        return json.dumps(bare)
    return _WORDS.get(bare, bare)


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MOST_NESTED):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
    if level:
        raise ValueError(_too_deep())


def _too_deep() -> str:
    return f"lists and objects lie within each other more than {MOST_NESTED} deep; write it flatter"


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
