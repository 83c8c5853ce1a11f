"""Controls in files: paramManager's JSON, and three kinds of CSV.

| file | holds | columns |
| --- | --- | --- |
| `<stem>.params` | curves of one sound, as paramManager writes them | JSON |
| `<stem>.csv` | the same, as a table | `name,time,value`; or wide: `time,rmse,centroid`, a blank is no point |
| `params.csv` | constants of many sounds: the manifest | `filename,inst,p,a` |
| `params_schema.csv` | what the controls mean: the schema | those of `schema.Parameter`, and `order` |

Written in UTF-8 with commas, quotes as in RFC 4180, a decimal point, and numbers in their shortest form that reads back
the same; read as spreadsheets write them (see `tierwave.files.text.read_cells`).

A `.params` file and a CSV of curves both read as one *document*, the JSON object of paramManager:

    {"meta": {"filename": ...}, "<name>": {"times": [...], "values": [...], "units": ..., "nvals": ..., ...}, ...}

JSON holds all of it. A CSV holds the points, and above its header, where readers of plain CSV expect comments, meta and
units; any other row there that begins with # is a comment:

    #meta,<json of meta>
    #units,p=midiPitch,rmse=amplitude
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tierwave.controls.tracks import Controls, Track
from tierwave.errors import RunError, UsageError
from tierwave.files.names import located
from tierwave.files.text import Cells, parse_json, read_cells, read_header, read_text
from tierwave.files.writing import write_text

Document = dict[str, Any]

TRACK_COLUMNS = ("name", "time", "value")
FILENAME = "filename"

# A string, or a comma before a closing bracket. Strings come first: what is in them is left alone.
_TRAILING_COMMA = re.compile(r'("(?:\\.|[^"\\])*")|,(?=\s*[}\]])', re.DOTALL)


@dataclass(frozen=True)
class ControlFile:
    """A file of curves that was read. document: see above; remarks: what is odd or was repaired, one sentence each."""

    path: Path
    document: Document
    remarks: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The names of its curves, broken or not, in order."""
        return [
            name
            for name, entry in self.document.items()
            if name != "meta"
            and isinstance(entry, dict)
            and all(isinstance(entry.get(key), list) for key in ("times", "values"))
        ]

    def tracks(self) -> Controls:
        """The curves. RunError for one that is no track: see `Track`."""
        return {name: self.track(name) for name in self.names}

    def track(self, name: str) -> Track:
        """The curve of that name."""
        times, values = self._points(name)
        return Track(name, times, values, str(self.path))

    def _points(self, name: str) -> tuple[Any, Any]:
        entry = self.document[name]
        for key in ("times", "values"):
            for value in entry[key]:
                if not _is_number(value):
                    raise RunError(
                        f"the control {name} in {self.path} has {json.dumps(value)} among its {key}, which is not a "
                        "number: correct it there"
                    )
        return entry["times"], entry["values"]

    def declared(self, name: str) -> dict[str, Any]:
        """What the file itself says of a control: units, nvals, minval, maxval, as far as it has them."""
        entry = self.document[name]
        found = {key: entry.get(key) for key in ("units", "nvals", "minval", "maxval")}
        found = {key: value for key, value in found.items() if value not in (None, "null", "None", "")}
        for key, value in found.items():
            if key == "units" and not isinstance(value, str):
                raise RunError(f"units of {name} in {self.path} is {value!r}, not a text: correct it there")
            if key != "units" and not (_is_number(value) and -math.inf < value < math.inf):
                raise RunError(f"{key} of {name} in {self.path} is {value!r}, not a number: correct it there")
        if "nvals" in found:
            found["nvals"] = round(found["nvals"])
        return found

    def csv_text(self) -> str:
        """Points, units and meta as a CSV. RunError for a curve that is not numbers, one value for each time."""
        lines = [row_text(["#meta", json.dumps(self.document["meta"])])] if "meta" in self.document else []
        units = [(name, self.document[name].get("units")) for name in self.names]
        cells = [f"{name}={unit}" for name, unit in units if isinstance(unit, str) and unit and "=" not in unit]
        lines += [row_text(["#units", *cells])] if cells else []
        lines.append(",".join(TRACK_COLUMNS))
        for name in self.names:
            times, values = self._points(name)
            if len(times) != len(values):
                raise RunError(_unequal(self.path, name, times, values) + ": a CSV cannot hold that, correct it there")
            for time, value in zip(times, values, strict=True):
                lines.append(row_text([name, number_text(time), number_text(value)]))
        return "\n".join([*lines, ""])

    def not_in_csv(self) -> list[str]:
        """What `csv_text` leaves out, by name."""
        curves = [self.document[name] for name in self.names]
        keys = {key for entry in curves for key, value in entry.items() if value is not None}
        empty = [name for name in self.names if not self.document[name]["times"]]
        others = [name for name in self.document if name not in ("meta", *self.names)]
        return [*sorted(keys - {"times", "values", "units"}), *empty, *others]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def read_control_file(path: Path | str, *, lenient: bool = False) -> ControlFile:
    """A `.params` file (JSON) or a CSV of curves, long or wide.

    lenient: repair what can be repaired, with a remark: commas before a closing bracket, a key that stands twice, an
    empty file, curves with more times than values or the other way round (both are cut to the shorter).

    Raises:
        UsageError: there is no such file.
        RunError: it cannot be read or repaired; the message names file, place and remedy.
    """
    path = located(Path(path))
    refuse_missing(path)
    return (_read_csv if path.suffix.lower() == ".csv" else _read_json)(path, lenient)


def write_control_file(path: Path | str, document: Document) -> None:
    """Write a document as JSON or, where `path` ends in .csv, as a CSV; whole or not at all."""
    path = Path(path)
    is_csv = path.suffix.lower() == ".csv"
    write_text(path, ControlFile(path, document).csv_text() if is_csv else json_text(document))


def write_controls(path: Path | str, controls: Controls, meta: Mapping[str, Any] | None = None) -> None:
    """Write tracks as JSON or CSV, as `write_control_file`."""
    write_control_file(path, document_of(controls, meta=meta))


def document_of(
    controls: Controls,
    declared: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    meta: Mapping[str, Any] | None = None,
) -> Document:
    """Tracks as a document, with what `declared` says of each by name (units, nvals, minval, maxval)."""
    return {
        **({} if meta is None else {"meta": dict(meta)}),
        **{
            name: {"times": track.times.tolist(), "values": track.values.tolist(), **declared.get(name, {})}
            for name, track in controls.items()
        },
    }


def json_text(document: Document) -> str:
    """A document as paramManager writes it."""
    return json.dumps(document, indent=4)


# ---- takes -----------------------------------------------------------------------------------------------------------


def take_document(
    controls: Controls, sample_rate: int, *, averaged: bool = False, about: Mapping[str, Any] = MappingProxyType({})
) -> Document:
    """What `LiveControls.record` returned, as a document.

    averaged: as of the `LiveControls`; what was set live is not averaged, and is marked so. about: more for its meta,
    such as the random seed.
    """
    return document_of(controls, meta={"gestures": not averaged, "sample_rate": sample_rate, **about})


def write_take(path: Path | str, controls: Controls, sample_rate: int, **options: Any) -> None:
    """Write `take_document`; options: its own. Raises RunError where it cannot be written."""
    write_control_file(path, take_document(controls, sample_rate, **options))


def read_take(path: Path | str) -> tuple[Controls, bool]:
    """The tracks in a file, and whether they were recorded (then `LiveControls` must not average them).

    Raises UsageError and RunError as `read_control_file`.
    """
    file = read_control_file(path)
    meta = file.document.get("meta")
    return file.tracks(), isinstance(meta, dict) and meta.get("gestures") is True


# ---- paramManager's JSON ---------------------------------------------------------------------------------------------


def refuse_missing(path: Path) -> None:
    """UsageError where `path` is no file."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder, where a file with controls is needed: name the file")
    if not path.exists():
        raise UsageError(f"there is no control file {path}: check the path")


def _read_json(path: Path, lenient: bool) -> ControlFile:
    text = read_text(path)
    remarks: list[str] = []
    if not text.strip():
        if lenient:
            return ControlFile(path, {}, (f"{path} is empty: taken as a file without controls",))
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
        raise RunError(f"{path} holds no object of controls: a .params file begins with {{")
    for name in ControlFile(path, document).names:
        entry = document[name]
        points = min(len(entry["times"]), len(entry["values"]))
        if len(entry["times"]) != len(entry["values"]):
            found = _unequal(path, name, entry["times"], entry["values"])
            remarks.append(
                f"{found}: " + (f"cut to {points}" if lenient else "kept as it is, but of no use for training")
            )
            if lenient:
                entry["times"], entry["values"] = entry["times"][:points], entry["values"][:points]
    return ControlFile(path, document, tuple(remarks))


def _unequal(path: Path, name: str, times: Sequence[Any], values: Sequence[Any]) -> str:
    return f"{name} in {path} has {len(times)} times but {len(values)} values"


# ---- CSV of curves ---------------------------------------------------------------------------------------------------


def number_text(value: float) -> str:
    """The shortest text that reads back as the same number; `1` and `1.0` stay apart."""
    return json.dumps(value)


def row_text(cells: Sequence[str]) -> str:
    quoted = ('"' + cell.replace('"', '""') + '"' if re.search('[",;\t\r\n]|^ | $', cell) else cell for cell in cells)
    return ",".join(quoted)


def _read_csv(path: Path, lenient: bool) -> ControlFile:
    table = read_cells(path)
    rows = iter(table.rows)
    document: Document = {}
    units: dict[str, str] = {}
    header = None
    for line, row in rows:
        if not row[0].startswith("#"):
            header = [column.strip() for column in row]
            break
        if row[0] == "#units":
            units |= {name: unit for name, _, unit in (cell.rpartition("=") for cell in row[1:])}
        elif row[0] == "#meta":
            try:
                (text,) = row[1:]
                document["meta"] = parse_json(text, finite=False)
            except ValueError as error:
                raise RunError(f"line {line} of {path} cannot be read ({error}): correct or delete it") from None
    if header is None:
        if lenient:
            return ControlFile(path, document, (f"{path} has no table: taken as a file without controls",))
        raise RunError(f"{path} has no table: its header must be {','.join(TRACK_COLUMNS)}, or time and the names")
    if sorted(header) == sorted(TRACK_COLUMNS):
        points = _long_points(table, rows, header)
    elif _are_curves(header):
        points = _wide_points(table, rows, header)
    else:
        raise RunError(f"{path} begins with {shortened(header)}, but {_expected(header)}")
    for name, time, value in points:
        entry = document.setdefault(name, {"times": [], "values": []})
        entry["times"].append(time)
        entry["values"].append(value)
    for name, unit in units.items():
        if name == "meta" or name not in document:
            raise RunError(f"{path} has a unit for {name!r}, of which it has no points: write NAME=UNIT behind #units")
        document[name]["units"] = unit
    return ControlFile(path, document)


def _expected(header: Sequence[str]) -> str:
    if separated := other_separator(header):
        return separated
    if FILENAME in header:
        return "that is a manifest of many sounds, not curves of one: give it as --manifest or --params"
    return f"a file of curves has the header {','.join(TRACK_COLUMNS)}, or time and the names: correct the first line"


_Points = Iterator[tuple[str, float, float]]


def _long_points(table: Cells, rows: Iterable[tuple[int, list[str]]], header: Sequence[str]) -> _Points:
    columns = [header.index(column) for column in TRACK_COLUMNS]
    for line, row in rows:
        check_width(table.path, line, row, 3)
        name, time, value = (row[column] for column in columns)
        if name == "meta":
            raise RunError(f"line {line} of {table.path} has a control named meta, which paramManager keeps for itself")
        if not (time.strip() and value.strip()):
            raise RunError(
                f"line {line} of {table.path} has no time or no value for {name}: fill it in, or delete the line"
            )
        yield name, number_in(table, line, time), number_in(table, line, value)


def _wide_points(table: Cells, rows: Iterable[tuple[int, list[str]]], header: Sequence[str]) -> _Points:
    if len(set(header)) < len(header) or "" in header or "meta" in header:
        raise RunError(
            f"the header of {table.path} is {shortened(header)}: every column needs a name of its own, and none meta"
        )
    for line, row in rows:
        check_width(table.path, line, row, len(header))
        cells = dict(zip(header, row, strict=True))
        time = number_in(table, line, cells.pop("time"))
        for name, cell in cells.items():
            if cell.strip():
                yield name, time, number_in(table, line, cell)


def check_width(path: Path, line: int, row: Sequence[str], columns: int) -> None:
    if len(row) != columns:
        remedy = "put names with commas in quotes, and write decimals with a point" if len(row) > 3 else "complete it"
        raise RunError(f"line {line} of {path} has {len(row)} cells, not {columns}: {remedy}")


def number_in(table: Cells, line: int, cell: str) -> float:
    text = table.number(cell)
    try:
        if "_" in text or not text.isascii():
            raise ValueError
        return int(text) if re.fullmatch(r"-?\d+", text) else float(text)
    except ValueError:
        remedy = (
            "write decimals with a point" if re.fullmatch(r"\s*[-+]?[\d.]*,[\d.,]*\s*", cell) else "correct it there"
        )
        raise RunError(f"line {line} of {table.path} has {cell!r}, where a number is needed: {remedy}") from None


def other_separator(header: Sequence[str]) -> str:
    if len(header) == 1 and re.search(r"\S[|:,;\s]+\S", header[0]):
        return "columns are separated by commas, semicolons or tabs: save it as such a CSV"
    return ""


def shortened(cells: Sequence[str]) -> str:
    text = ",".join(cells)
    return text if len(text) <= 60 else text[:57] + "..."


def holds_curves(path: Path) -> bool:
    """Whether a CSV has the header of a file of curves, long or wide."""
    return _are_curves(read_header(path))


def _are_curves(header: Sequence[str]) -> bool:
    return sorted(header) == sorted(TRACK_COLUMNS) or ("time" in header and FILENAME not in header)
