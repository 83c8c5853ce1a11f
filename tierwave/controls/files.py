"""How parameters lie in files: paramManager's JSON, and three kinds of CSV.

| file | holds | columns |
| --- | --- | --- |
| `<stem>.params` | curves of one sound, as paramManager writes them | JSON |
| `<stem>.csv` | the same, as a table | `name,time,value`; or wide: `time,rmse,centroid`, a blank is no point |
| `params.csv` | constants of many sounds: the manifest | `filename,inst,p,a` |
| `params_schema.csv` | what the parameters mean: the schema | those of `tracks.Parameter`, and `order` |

Written in UTF-8 with commas, quotes as in RFC 4180, a decimal point, and numbers in their shortest form that reads back
the same; read as spreadsheets write them (see `tierwave.files.text.read_cells`).

A `.params` file and a track CSV both read as one *document*, the JSON object of paramManager:

    {"meta": {"filename": ...}, "<name>": {"times": [...], "values": [...], "units": ..., "nvals": ..., ...}, ...}

and either is written from it without loss. What is no time or value goes into lines above the table, which readers of
plain CSV skip as comments, in the order of the JSON object:

    #newline,crlf                     the JSON has Windows' line ends
    #meta,<json of meta>
    #param,<name>,<json of the rest>  "@order": all keys, if times and values are not the first; "@json": true, if the
                                      cells are JSON, not numbers
    #json,<json of {name: entry}>     an entry that is no curve, or that cells cannot hold

Knows formats only: which file belongs to which recording is `sources`' matter.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from sys import float_info
from types import MappingProxyType
from typing import Any, TypeVar

from tierwave.config import validate
from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.tracks import Controls, Track
from tierwave.errors import RunError, UsageError
from tierwave.files.folders import chunk_stem
from tierwave.files.names import located, matcher
from tierwave.files.text import Cells, parse_json, read_cells, read_header, read_text
from tierwave.files.writing import write_text

Document = dict[str, Any]
_Content = TypeVar("_Content")

TRACK_COLUMNS = ("name", "time", "value")
SCHEMA_COLUMNS = (
    "name", "order", "units", "nvals", "minval", "maxval", "lo", "hi", "scale", "interp", "outside", "categories",
)  # fmt: skip
FILENAME = "filename"

# A string, or a comma before a closing bracket. Strings come first, so that what is in them is left alone.
_TRAILING_COMMA = re.compile(r'("(?:\\.|[^"\\])*")|,(?=\s*[}\]])', re.DOTALL)


@dataclass(frozen=True)
class ParamFile:
    """A track file that was read. document: see above; remarks: what is odd or was repaired, one sentence each;
    newline: of the JSON."""

    path: Path
    document: Document
    remarks: tuple[str, ...] = ()
    newline: str = "\n"

    def tracks(self, names: Iterable[str] | None = None) -> Controls:
        """The curves, or those of `names` that are there. RunError for one that is no track: see `Track`."""
        wanted = track_names(self.document) if names is None else [name for name in names if self.holds(name)]
        return {name: self.track(name) for name in wanted}

    def holds(self, name: str) -> bool:
        """Whether there is a curve of that name, broken or not."""
        return name in track_names(self.document)

    def track(self, name: str) -> Track:
        """The curve of that name."""
        entry = self.document[name]
        for key in ("times", "values"):
            wrong = next((value for value in entry[key] if not _is_number(value)), None)
            if wrong is not None or None in entry[key]:
                raise RunError(
                    f"the parameter {name} in {self.path} has {json.dumps(wrong)} among its {key}, which is not a "
                    "number: correct it there"
                )
        return Track(name, entry["times"], entry["values"], str(self.path))

    def declared(self, name: str) -> dict[str, Any]:
        """What the file says of a parameter itself: units, nvals, minval, maxval, as far as they are told."""
        entry = self.document[name]
        told = {key: entry.get(key) for key in ("units", "nvals", "minval", "maxval")}
        told = {key: None if value in ("null", "None", "") else value for key, value in told.items()}
        for key in ("nvals", "minval", "maxval"):
            if told[key] is not None and not (_is_number(told[key]) and -math.inf < told[key] < math.inf):
                raise RunError(f"{key} of {name} in {self.path} is {told[key]!r}, not a number: correct it there")
        if told["nvals"] is not None:
            told["nvals"] = round(told["nvals"])
        if told["units"] is not None and not isinstance(told["units"], str):
            raise RunError(f"units of {name} in {self.path} is {told['units']!r}, not a text: correct it there")
        return {key: value for key, value in told.items() if value is not None}


def track_names(document: Document) -> list[str]:
    """The names of the curves in a document, in order."""
    return [name for name, entry in document.items() if name != "meta" and _is_curve(entry)]


def _is_curve(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), list) for key in ("times", "values"))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def read_param_file(path: Path | str, *, lenient: bool = False) -> ParamFile:
    """A `.params` file (JSON) or a track CSV, long or wide.

    lenient: repair what can be repaired, with a remark: commas before a closing bracket, a key that stands twice, an
    empty file, curves with more times than values or the other way round (both are cut to the shorter).

    Raises:
        UsageError: there is no such file.
        RunError: it cannot be read or repaired; the message names file, place and remedy.
    """
    path = located(Path(path))
    if path.suffix.lower() == ".csv":
        return _read_track_csv(path, lenient)
    return _read_json(path, lenient)


def _read(path: Path, read: Callable[[Path], _Content]) -> _Content:
    try:
        return read(path)
    except FileNotFoundError:
        raise UsageError(f"there is no parameter file {path}: check the path") from None
    except (IsADirectoryError, PermissionError):  # the latter of folders too, on Windows
        if not path.is_dir():
            raise
        raise UsageError(f"{path} is a folder, where a file with parameters is needed: name the file") from None


# ---- paramManager's JSON ---------------------------------------------------------------------------------------------


def _read_json(path: Path, lenient: bool) -> ParamFile:
    text = _read(path, read_text)
    remarks: list[str] = []
    if not text.strip():
        if lenient:
            return ParamFile(path, {}, (f"{path} is empty: taken as a file without parameters",))
        raise RunError(
            f"{path} is empty (paramManager leaves such files behind under NumPy 2): delete it and make it anew, or "
            "pass it over with --lenient"
        )

    def repeated(key: str, times: int) -> None:
        if not lenient:
            raise RunError(f"{path} has the key {json.dumps(key)} twice in one object: keep one of them")
        remarks.append(f"{path} had the key {json.dumps(key)} twice in one object: the last one was kept")

    try:
        try:
            document = parse_json(text, finite=False, repeated=repeated)
        except json.JSONDecodeError:
            repaired = _TRAILING_COMMA.sub(lambda match: match[1] or "", text)
            commas = len(text) - len(repaired)
            if not (lenient and commas):
                raise
            remarks.clear()
            document = parse_json(repaired, finite=False, repeated=repeated)
            remarks.append(f"{path} had {commas} commas before a closing bracket: they were taken out")
    except ValueError as error:
        remedy = "" if lenient else ", or try --lenient, which repairs commas before a closing bracket"
        raise RunError(f"{path} is not JSON ({error}): correct it there{remedy}") from None
    if not isinstance(document, dict):
        raise RunError(f"{path} holds no object of parameters: a .params file begins with {{")
    remarks += _cut_to_shorter(path, document, lenient)
    return ParamFile(path, document, tuple(remarks), "\r\n" if "\r\n" in text else "\n")


def _cut_to_shorter(path: Path, document: Document, lenient: bool) -> list[str]:
    remarks = []
    for name in track_names(document):
        times, values = document[name]["times"], document[name]["values"]
        if len(times) != len(values):
            found = f"{name} in {path} has {len(times)} times but {len(values)} values"
            if lenient:
                points = min(len(times), len(values))
                document[name]["times"], document[name]["values"] = times[:points], values[:points]
                remarks.append(f"{found}: cut to {points}")
            else:
                remarks.append(f"{found}: kept as it is, but of no use for training")
    return remarks


def json_text(document: Document, newline: str = "\n") -> str:
    """A document as paramManager writes it."""
    return json.dumps(document, indent=4).replace("\n", newline)


# ---- track CSV -------------------------------------------------------------------------------------------------------


def csv_text(file: ParamFile) -> str:
    """A document as a track CSV, without loss."""
    document = file.document
    curves = {name: entry for name, entry in document.items() if name in track_names(document) and _fits(name, entry)}
    lines = [] if file.newline == "\n" else ["#newline,crlf"]
    for name, entry in document.items():
        if name == "meta":
            lines.append(_row(["#meta", json.dumps(entry)]))
        elif name in curves:
            rest: Document = {key: value for key, value in entry.items() if key not in ("times", "values")}
            if list(entry)[:2] != ["times", "values"]:
                rest["@order"] = list(entry)
            if not all(map(_is_number, [*entry["times"], *entry["values"]])):
                rest["@json"] = True
            lines.append(_row(["#param", name, json.dumps(rest)]))
        else:
            lines.append(_row(["#json", json.dumps({name: entry})]))
    # A file that tells nothing but points stays as plain as that.
    if all(line.startswith("#param,") and line.endswith(",{}") for line in lines) and all(
        entry["times"] or entry["values"] for entry in curves.values()
    ):
        lines = []
    lines.append(",".join(TRACK_COLUMNS))
    for name, entry in curves.items():
        start = _row([name]) + ","
        quoted = not all(map(_is_number, [*entry["times"], *entry["values"]]))
        times, values = ([_cell(value, quoted) for value in entry[key]] for key in ("times", "values"))
        points = max(len(times), len(values))
        times += [""] * (points - len(times))
        values += [""] * (points - len(values))
        lines += [f"{start}{time},{value}" for time, value in zip(times, values, strict=True)]
    return "\n".join([*lines, ""])


def _fits(name: str, entry: Document) -> bool:
    """Whether a curve can stand in cells: a name that UTF-8 and CSV can hold, no key that means something else."""
    return not re.search("[\0\ud800-\udfff]", name) and not any(key.startswith("@") for key in entry)


def _cell(value: Any, quoted: bool) -> str:
    if quoted:
        return _row([json.dumps(value)])
    return number_text(value)


def number_text(value: float) -> str:
    """The shortest text that reads back as the same number; `1` and `1.0` stay apart."""
    return json.dumps(value)


def _row(cells: Sequence[str]) -> str:
    return ",".join(_quoted(cell) if re.search('[",;\t\r\n]|^ | $', cell) else cell for cell in cells)


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


def _read_track_csv(path: Path, lenient: bool) -> ParamFile:
    table = _read(path, read_cells)
    rows = iter(table.rows)
    document: Document = {}
    verbatim: set[str] = set()
    newline, header = "\n", None
    for line, row in rows:
        if not row[0].startswith("#"):
            header = [column.strip() for column in row]
            break
        if row == ["#newline", "crlf"]:
            newline = "\r\n"
        elif row[0] in ("#meta", "#param", "#json"):
            name, entry = _read_directive(path, line, row)
            document[name] = entry
            (verbatim.discard if row[0] == "#param" else verbatim.add)(name)
    if header is None:
        if lenient and not document:
            return ParamFile(path, {}, (f"{path} has no table: taken as a file without parameters",))
        raise RunError(f"{path} has no table: its header must be {','.join(TRACK_COLUMNS)}, or time and the names")
    if sorted(header) == sorted(TRACK_COLUMNS):
        _read_long(table, rows, header, document, verbatim)
    elif _are_curves(header):
        _read_wide(table, rows, header, document, verbatim)
    else:
        raise RunError(f"{path} begins with {_shown(header)}, but {_expected(header)}")
    for name in document.keys() - verbatim:
        document[name] = _in_order(document[name])
    remarks = _cut_to_shorter(path, document, lenient)
    return ParamFile(path, document, tuple(remarks), newline)


def _expected(header: Sequence[str]) -> str:
    if separated := _other_separator(header):
        return separated
    if FILENAME in header:
        return "that is a manifest of many sounds, not curves of one: give it as --manifest or --params"
    return f"a file of curves has the header {','.join(TRACK_COLUMNS)}, or time and the names: correct the first line"


def _read_directive(path: Path, line: int, row: Sequence[str]) -> tuple[str, Any]:
    """The name and the entry that a line above the table tells of."""
    try:
        content = parse_json(row[-1], finite=False)
        if row[0] == "#meta" and len(row) == 2:
            return "meta", content
        if row[0] == "#json" and len(row) == 2:
            ((name, entry),) = content.items()
            return name, entry
        if row[0] == "#param" and len(row) == 3 and isinstance(content.get("@order", []), list):
            return row[1], {"times": [], "values": [], **content}
        raise ValueError(f"{len(row)} cells")
    except (ValueError, TypeError, AttributeError) as error:
        raise RunError(f"line {line} of {path} cannot be read ({error}): correct or delete it") from None


def _read_long(
    table: Cells, rows: Iterable[tuple[int, list[str]]], header: Sequence[str], document: Document, verbatim: set[str]
) -> None:
    path = table.path
    columns = [header.index(column) for column in TRACK_COLUMNS]
    blank: dict[str, int] = {}  # by name: which column has run out, 1 or 2
    for line, row in rows:
        if len(row) != 3:
            raise RunError(f"line {line} of {path} has {len(row)} cells, not 3: {_decimal_comma(row)}")
        name, *cells = (row[column] for column in columns)
        if name == "meta":
            raise RunError(f"line {line} of {path} has a parameter named meta, which paramManager keeps for itself")
        if name in verbatim:
            raise RunError(f"line {line} of {path} has points of {name}, which #json tells already: delete one of them")
        entry = document.setdefault(name, {"times": [], "values": []})
        missing = [place for place, cell in enumerate(cells, 1) if cell == ""]
        if missing and blank.setdefault(name, missing[0]) != missing[0] or len(missing) == 2:
            raise RunError(f"line {line} of {path} has no time or no value for {name}: fill it in, or delete the line")
        if name in blank and not missing:
            raise RunError(
                f"a line of {name} before line {line} of {path} has no time or no value: fill it in, or delete it"
            )
        for key, cell in zip(("times", "values"), cells, strict=True):
            if cell != "":
                entry[key].append(_value(table, line, cell, entry.get("@json") is True))


def _read_wide(
    table: Cells, rows: Iterable[tuple[int, list[str]]], header: Sequence[str], document: Document, verbatim: set[str]
) -> None:
    path = table.path
    names = [name for name in header if name != "time"]
    if len(set(header)) < len(header) or "" in names or not verbatim.union(["meta"]).isdisjoint(names):
        raise RunError(f"the header of {path} is {_shown(header)}: every column needs a name of its own, and none meta")
    for line, row in rows:
        if len(row) != len(header):
            raise RunError(f"line {line} of {path} has {len(row)} cells, not {len(header)}: {_decimal_comma(row)}")
        cells = dict(zip(header, row, strict=True))
        time = _value(table, line, cells["time"])
        for name in names:
            if cells[name].strip():
                entry = document.setdefault(name, {"times": [], "values": []})
                entry["times"].append(time)
                entry["values"].append(_value(table, line, cells[name]))


def _in_order(entry: Document) -> Document:
    order = entry.get("@order", list(entry))
    return {key: entry[key] for key in order if key in entry and key not in ("@order", "@json")}


def _value(table: Cells, line: int, cell: str, as_json: bool = False) -> Any:
    try:
        if as_json:
            return parse_json(cell, finite=False)
        written = table.number(cell)
        digits = written[1:] if written[:1] == "-" else written
        if digits.isascii() and digits.isdigit():
            return int(written)
        if "_" in written or not written.isascii():
            raise ValueError
        return float(written)
    except ValueError:
        remedy = (
            "write decimals with a point" if re.fullmatch(r"\s*[-+]?[\d.]*,[\d.,]*\s*", cell) else "correct it there"
        )
        raise RunError(f"line {line} of {table.path} has {cell!r}, where a number is needed: {remedy}") from None


def _finite(table: Cells, line: int, column: str, cell: str) -> float:
    number = _value(table, line, cell.strip())
    if not -math.inf < number < math.inf or abs(number) > float_info.max:
        raise RunError(f"line {line} of {table.path} has {cell} for {column}: give a finite number, or leave it blank")
    return float(number)


def _other_separator(header: Sequence[str]) -> str:
    if len(header) == 1 and re.search(r"\S[|:,;\s]+\S", header[0]):
        return "columns are separated by commas, semicolons or tabs: save it as such a CSV"
    return ""


def _decimal_comma(row: Sequence[str]) -> str:
    return "put names with commas in quotes, and write decimals with a point" if len(row) > 3 else "complete it"


def _shown(cells: Sequence[str]) -> str:
    text = ",".join(cells)
    return text if len(text) <= 60 else text[:57] + "..."


def write_param_file(path: Path | str, file: ParamFile) -> None:
    """Write a document as JSON or, where `path` ends in .csv, as a track CSV; whole or not at all."""
    path = Path(path)
    write_text(path, csv_text(file) if path.suffix.lower() == ".csv" else json_text(file.document, file.newline))


def document_of(controls: Controls, declared: Mapping[str, Mapping[str, Any]] | None = None) -> Document:
    """Tracks as a document, with what `declared` says of each by name (units, nvals, minval, maxval)."""
    return {
        name: {"times": track.times.tolist(), "values": track.values.tolist(), **(declared or {}).get(name, {})}
        for name, track in controls.items()
    }


def is_manifest(path: Path | str) -> bool:
    """Whether a file is a manifest: a CSV with a column `filename`."""
    path = located(Path(path))
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    return FILENAME in _read(path, read_header)


def holds_curves(path: Path) -> bool:
    """Whether a CSV has the header of a file of curves, long or wide."""
    return _are_curves(_read(path, read_header))


def _are_curves(header: Sequence[str]) -> bool:
    return sorted(header) == sorted(TRACK_COLUMNS) or ("time" in header and FILENAME not in header)


# ---- manifest --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Manifest:
    """Constants of many sounds: by file name as it is written, then by parameter. categories: of the parameters whose
    cells are names, what the numbers 0, 1, 2 ... in `rows` stand for."""

    path: Path
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, name: str, without_suffix: str) -> dict[str, float]:
        """The constants of a recording, by its path within the corpus (slashes) with and without the suffix, or by its
        bare name; for a chunk (`<stem>_chunk_<n>`) else those of the recording it was cut from; {} if there is no row.
        """
        for key in (name, without_suffix, name.rpartition("/")[2], without_suffix.rpartition("/")[2]):
            row = self._row(key)
            if row is not None:
                return self.rows[row]
        parent = re.sub(r"_chunk_\d+$", "", without_suffix)
        if parent != without_suffix:
            for key in (parent, parent.rpartition("/")[2]):
                row = self._row(key) or self._row_without_suffix(key)
                if row is not None:
                    return self.rows[row]
        return {}

    @functools.cached_property
    def _row(self) -> Callable[[str], str | None]:
        return matcher(self.rows)

    @functools.cached_property
    def _row_without_suffix(self) -> Callable[[str], str | None]:
        rows: dict[str, str] = {}
        for row in self.rows:
            whole = row.rpartition(".")[0] or row
            folder, slash, name = whole.rpartition("/")
            rows.setdefault(whole, row)
            rows.setdefault(f"{folder}{slash}{chunk_stem(name)}", row)
        stem = matcher(rows)
        return lambda name: None if (found := stem(name)) is None else rows[found]


def read_manifest(path: Path | str, categories: Mapping[str, Sequence[str]] = MappingProxyType({})) -> Manifest:
    """A CSV with a column `filename` and one per parameter; a blank cell tells nothing.

    categories: the parameters whose cells may be names, each with the names of 0, 1, 2 ...; where none are given they
    are those of the column in sorted order, if any of its cells is no number.

    Raises:
        UsageError: there is no such file.
        RunError: no such column, a cell that is no finite number and no such name, a file with two rows that differ.
    """
    path = located(Path(path))
    table = _table(path)
    if FILENAME not in table.header:
        remedy = _other_separator(table.header) or f"a manifest has a column {FILENAME}: add it"
        raise RunError(f"{path} begins with {_shown(table.header)}, but {remedy}")
    rows: dict[str, dict[str, float]] = {}
    named = {key: _names(table, key, categories[key]) for key in table.header if key in categories}
    for line, cells in table.rows:
        name = cells.pop(FILENAME).strip().replace("\\", "/").removeprefix("./")
        if not name:
            raise RunError(f"line {line} of {path} has no {FILENAME}: fill it in, or delete the line")
        constants = {}
        for key, cell in cells.items():
            if cell.strip() and named.get(key):
                constants[key] = _category(table.cells, line, key, cell.strip(), named[key])
            elif cell.strip():
                constants[key] = _constant(table.cells, line, key, cell)
        if rows.setdefault(name, constants) != constants:
            raise RunError(f"{path} has two rows for {name} that differ, the second at line {line}: keep one of them")
    return Manifest(path, rows, {key: names for key, names in named.items() if names})


def _names(table: _Table, column: str, given: Sequence[str]) -> tuple[str, ...]:
    """The names of a category: the given ones, or those of a column with any; none where all of it is numbers."""
    if given:
        return tuple(given)
    cells = sorted({cells[column].strip() for _, cells in table.rows} - {""})
    return () if all(_is_written_number(table.cells, cell) for cell in cells) else tuple(cells)


def _is_written_number(table: Cells, cell: str) -> bool:
    try:
        _value(table, 0, cell)
    except RunError:
        return False
    return True


def _category(table: Cells, line: int, column: str, cell: str, names: Sequence[str]) -> float:
    if cell in names:
        return float(names.index(cell))
    if not _is_written_number(table, cell):
        known = f"there are {', '.join(names)}"
        raise RunError(f"line {line} of {table.path} has {cell!r} for {column}, and {known}: correct it there")
    return _finite(table, line, column, cell)


def _constant(table: Cells, line: int, column: str, cell: str) -> float:
    try:
        return _finite(table, line, column, cell)
    except RunError as error:
        if not cell.strip()[0].isalpha() or _is_written_number(table, cell.strip()):
            raise
        raise RunError(f'{error}, or, if these are names, give {column} the units "category" in the config') from None


def manifest_text(rows: Mapping[str, Mapping[str, float]]) -> str:
    """A manifest as CSV: constants by file name, in columns by parameter, in order of first appearance."""
    names = list(dict.fromkeys(name for constants in rows.values() for name in constants))
    lines = [_row([FILENAME, *names])]
    for file, constants in rows.items():
        cells = [number_text(float(constants[name])) if name in constants else "" for name in names]
        lines.append(_row([file, *cells]))
    return "\n".join([*lines, ""])


@dataclass(frozen=True)
class _Table:
    cells: Cells
    header: list[str]
    rows: list[tuple[int, dict[str, str]]]


def _table(path: Path) -> _Table:
    """A CSV with a header; lines above it that begin with # are passed over."""
    header: list[str] | None = None
    rows = []
    table = _read(path, read_cells)
    for line, row in table.rows:
        if header is None:
            if row[0].startswith("#"):
                continue
            header = [column.strip() for column in row]
            if len(set(header)) < len(header) or "" in header:
                raise RunError(f"the header of {path} is {_shown(header)}: every column needs a name of its own")
        elif len(row) != len(header):
            raise RunError(f"line {line} of {path} has {len(row)} cells, not {len(header)}: {_decimal_comma(row)}")
        else:
            rows.append((line, dict(zip(header, row, strict=True))))
    if header is None:
        raise RunError(f"{path} is empty: it needs a header and a row for each entry")
    return _Table(table, header, rows)


# ---- schema ----------------------------------------------------------------------------------------------------------


def read_schema(path: Path | str) -> Schema:
    """A schema CSV: one row per parameter, blank cells and missing columns for the defaults.

    Raises:
        UsageError: there is no such file; a value or a combination that `Parameter` refuses.
        RunError: not such a table.
    """
    path = located(Path(path))
    table = _table(path)
    if "name" not in table.header:
        remedy = _other_separator(table.header) or "a schema has a column name: add it"
        raise RunError(f"{path} begins with {_shown(table.header)}, but {remedy}")
    for column in table.header:
        if column not in SCHEMA_COLUMNS:
            near = difflib.get_close_matches(column, SCHEMA_COLUMNS, n=1)
            known = f"did you mean {near[0]}?" if near else f"there are {', '.join(SCHEMA_COLUMNS)}"
            raise RunError(f"{path} has a column {column}, which a schema does not know; {known}")
    ordered = []
    for line, cells in table.rows:
        place = _finite(table.cells, line, "order", cells["order"]) if cells.get("order", "").strip() else float(line)
        ordered.append((place, _parameter(table.cells, line, cells)))
    places = [place for place, _ in ordered]
    if len(set(places)) < len(places):
        raise RunError(f"{path} gives two parameters the same order: number them 0, 1, 2 ..., or leave all blank")
    parameters = [parameter for _, parameter in sorted(ordered, key=lambda pair: pair[0])]
    document = {"parameters": [parameter.model_dump(mode="json", exclude_unset=True) for parameter in parameters]}
    return validate(Schema, document, str(path))


def _parameter(table: Cells, line: int, cells: Mapping[str, str]) -> Parameter:
    document: dict[str, Any] = {"name": cells["name"]}
    for key, cell in cells.items():
        if key in ("name", "order") or not cell.strip():
            continue
        if key in ("nvals", "minval", "maxval", "lo", "hi"):
            number = _finite(table, line, key, cell)
            document[key] = int(number) if key == "nvals" and number.is_integer() else number
        else:
            document[key] = cell.split("|") if key == "categories" else cell.strip()
    return validate(Parameter, document, f"line {line} of {table.path}")


def schema_text(schema: Schema) -> str:
    """A schema as CSV, every value written out."""
    columns = [key for key in SCHEMA_COLUMNS if key != "categories" or any(p.categories for p in schema.parameters)]
    lines = [",".join(columns)]
    for place, parameter in enumerate(schema.parameters):
        values = {**parameter.model_dump(), "order": place, "categories": "|".join(parameter.categories)}
        lines.append(_row([_plain(values[column]) for column in columns]))
    return "\n".join([*lines, ""])


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return "" if value is None else str(value)
