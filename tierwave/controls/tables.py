"""Tables about many sounds: the manifest (`params.csv`: constants by recording), the schema (`params_schema.csv`)."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from sys import float_info
from types import MappingProxyType
from typing import Any

from tierwave.config import validate
from tierwave.controls.files import (
    FILENAME,
    check_width,
    number_in,
    number_text,
    other_separator,
    refuse_missing,
    row_text,
    shortened,
)
from tierwave.controls.schema import Parameter, Schema
from tierwave.errors import RunError
from tierwave.files.folders import chunk_stem
from tierwave.files.names import located, matcher
from tierwave.files.text import Cells, read_cells, read_header

SCHEMA_COLUMNS = (
    "name", "order", "units", "nvals", "minval", "maxval", "lo", "hi", "scale", "interp", "outside", "categories",
)  # fmt: skip


def is_manifest(path: Path | str) -> bool:
    """Whether a file is a manifest: a CSV with a column `filename`."""
    path = located(Path(path))
    return path.suffix.lower() == ".csv" and path.is_file() and FILENAME in read_header(path)


@dataclass(frozen=True)
class Manifest:
    """Constants of many sounds: by file name as it is written, then by parameter. categories: of the controls whose
    cells are names, what the numbers 0, 1, 2 ... in `rows` stand for."""

    path: Path
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, name: str, without_suffix: str) -> dict[str, float]:
        """The constants of a recording, by its path within the corpus (slashes) with and without the suffix, or by its
        bare name; for a chunk (`<stem>_chunk_<n>`) else those of the recording it was cut from; {} if there is no row.
        """
        row, by_stem = self._rows
        parent = re.sub(r"_chunk_\d+$", "", without_suffix)
        lookups = [(key, row) for key in (name, without_suffix, _bare(name), _bare(without_suffix))]
        if parent != without_suffix:
            lookups += [(key, find) for key in (parent, _bare(parent)) for find in (row, by_stem)]
        found = next((each for key, find in lookups if (each := find(key)) is not None), None)
        return {} if found is None else self.rows[found]

    @functools.cached_property
    def _rows(self) -> tuple[Callable[[str], str | None], Callable[[str], str | None]]:
        """Two look-ups of a row: by its name as it is written, and by that without its suffix."""
        stems: dict[str, str] = {}
        for row in self.rows:
            whole = row.rpartition(".")[0] or row
            stems.setdefault(whole, row)
            stems.setdefault(f"{whole.removesuffix(_bare(whole))}{chunk_stem(_bare(whole))}", row)
        stem = matcher(stems)
        return matcher(self.rows), lambda name: None if (found := stem(name)) is None else stems[found]


def _bare(name: str) -> str:
    return name.rpartition("/")[2]


def read_manifest(path: Path | str, categories: Mapping[str, Sequence[str]] = MappingProxyType({})) -> Manifest:
    """A CSV with a column `filename` and one per control; a blank cell says nothing.

    categories: the controls whose cells may be names, each with the names of 0, 1, 2 ...; where none are given they
    are those of the column in sorted order, if any of its cells is no number.

    Raises:
        UsageError: there is no such file.
        RunError: no such column, a cell that is no finite number and no such name, a file with two rows that differ.
    """
    path = located(Path(path))
    table, entries = _table(path, FILENAME, "a manifest")
    named = {}
    for key, names in categories.items():
        cells = sorted({entry[key].strip() for _, entry in entries if key in entry} - {""})
        if names or not all(_is_written_number(table, cell) for cell in cells):
            named[key] = tuple(names) or tuple(cells)
    rows: dict[str, dict[str, float]] = {}
    for line, entry in entries:
        name = entry.pop(FILENAME).strip().replace("\\", "/").removeprefix("./")
        if not name:
            raise RunError(f"line {line} of {path} has no {FILENAME}: fill it in, or delete the line")
        constants = {
            key: _constant(table, line, key, cell, named.get(key, ())) for key, cell in entry.items() if cell.strip()
        }
        if rows.setdefault(name, constants) != constants:
            raise RunError(f"{path} has two rows for {name} that differ, the second at line {line}: keep one of them")
    header = entries[0][1].keys() if entries else ()
    return Manifest(path, rows, {key: names for key, names in named.items() if key in header})


def _is_written_number(table: Cells, cell: str) -> bool:
    try:
        number_in(table, 0, cell)
    except RunError:
        return False
    return True


def _constant(table: Cells, line: int, column: str, cell: str, names: Sequence[str]) -> float:
    """The number in a cell, or that of the category that it names."""
    if cell.strip() in names:
        return float(names.index(cell.strip()))
    if not _is_written_number(table, cell.strip()):
        if names:
            known = f"there are {', '.join(names)}"
            raise RunError(
                f"line {line} of {table.path} has {cell.strip()!r} for {column}, and {known}: correct it there"
            )
        if cell.strip()[0].isalpha():
            raise RunError(
                f"line {line} of {table.path} has {cell.strip()!r}, where a number is needed: correct it there, or, if "
                f'these are names, give {column} the units "category" in the config'
            )
    return _finite(table, line, column, cell)


def manifest_text(rows: Mapping[str, Mapping[str, float]]) -> str:
    """A manifest as CSV: constants by file name, in columns by control, in order of first appearance."""
    names = list(dict.fromkeys(name for constants in rows.values() for name in constants))
    lines = [row_text([FILENAME, *names])]
    for file, constants in rows.items():
        lines.append(
            row_text([file, *(number_text(float(constants[name])) if name in constants else "" for name in names)])
        )
    return "\n".join([*lines, ""])


def _finite(table: Cells, line: int, column: str, cell: str) -> float:
    number = number_in(table, line, cell.strip())
    if not abs(number) <= float_info.max:
        raise RunError(f"line {line} of {table.path} has {cell} for {column}: give a finite number, or leave it blank")
    return float(number)


def _table(path: Path, column: str, what: str) -> tuple[Cells, list[tuple[int, dict[str, str]]]]:
    """A CSV with a header that has `column`, and its rows with their lines; what begins with # above is a comment."""
    refuse_missing(path)
    table = read_cells(path)
    rows = iter(table.rows)
    header = next(([cell.strip() for cell in row] for _, row in rows if not row[0].startswith("#")), None)
    if header is None:
        raise RunError(f"{path} is empty: it needs a header and a row for each entry")
    if len(set(header)) < len(header) or "" in header:
        raise RunError(f"the header of {path} is {shortened(header)}: every column needs a name of its own")
    if column not in header:
        remedy = other_separator(header) or f"{what} has a column {column}: add it"
        raise RunError(f"{path} begins with {shortened(header)}, but {remedy}")
    entries = []
    for line, row in rows:
        check_width(path, line, row, len(header))
        entries.append((line, dict(zip(header, row, strict=True))))
    return table, entries


# ---- schema ----------------------------------------------------------------------------------------------------------


def read_schema(path: Path | str) -> Schema:
    """A schema CSV: one row per control, blank cells and missing columns for the defaults.

    Raises:
        UsageError: there is no such file; a value or a combination that `Parameter` refuses.
        RunError: not such a table.
    """
    path = located(Path(path))
    table, entries = _table(path, "name", "a schema")
    for column in entries[0][1] if entries else ():
        if column not in SCHEMA_COLUMNS:
            near = difflib.get_close_matches(column, SCHEMA_COLUMNS, n=1)
            known = f"did you mean {near[0]}?" if near else f"there are {', '.join(SCHEMA_COLUMNS)}"
            raise RunError(f"{path} has a column {column}, which a schema does not know; {known}")
    ordered = {}
    for line, cells in entries:
        place = _finite(table, line, "order", cells["order"]) if cells.get("order", "").strip() else float(line)
        ordered[place] = _parameter(table, line, cells)
    if len(ordered) < len(entries):
        raise RunError(f"{path} gives two controls the same order: number them 0, 1, 2 ..., or leave all blank")
    parameters = [ordered[place].model_dump(mode="json", exclude_unset=True) for place in sorted(ordered)]
    return validate(Schema, {"parameters": parameters}, str(path))


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
        lines.append(row_text([_plain(values[column]) for column in columns]))
    return "\n".join([*lines, ""])


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return "" if value is None else str(value)
