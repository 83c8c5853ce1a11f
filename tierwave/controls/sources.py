"""Which controls belong to which recording.

They are looked up in this order, and the first source that has a name wins:

1. the file given for this one sound (`--params`),
2. `<param_dir>/<path of the recording>.csv`, then `.params`; the folder is the recordings' own if none is given,
3. the recording's row in the manifest: the one given, else `params.csv` in either folder,
4. its file name, for the names that may stand in it: `_p76.00_a00.30.wav`, as RNNControl writes it.

Sources that disagree are an error, and so is a name that none of them has. `check` goes through a whole corpus.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from tierwave.audio.finding import AUDIO_SUFFIXES
from tierwave.config import validate
from tierwave.controls.files import FILENAME, ControlFile, holds_curves, read_control_file
from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.tables import Manifest, is_manifest, read_manifest, read_schema
from tierwave.controls.tracks import Controls, Track
from tierwave.errors import RunError, UsageError
from tierwave.files.folders import chunk_stem
from tierwave.files.names import folded, located, name_within, printable
from tierwave.files.urls import Url, place_of

MANIFEST_NAME = "params.csv"
SCHEMA_NAME = "params_schema.csv"


# ---- file names ------------------------------------------------------------------------------------------------------


def without_audio_suffix(name: str) -> str:
    """A file name or path without `.wav` or the like; the dot of `_a00.30` is none."""
    suffix = PurePosixPath(name).suffix
    return name[: -len(suffix)] if suffix.lower() in AUDIO_SUFFIXES else name


def name_parameter(file_name: str, name: str) -> float | None:
    """The value of `_NAMExx.xx` in a file name, as RNNControl writes it, or None where it does not stand.

    `_p76` is read too, without a decimal point, if no letter or digit follows. RunError for two values that differ.
    """
    stem = without_audio_suffix(PurePosixPath(file_name).name)
    found = re.findall(rf"_{re.escape(name)}(-?(?:\d+\.\d+|\d+(?![A-Za-z\d])))", stem, re.ASCII)
    if len(set(map(float, found))) > 1:
        raise RunError(f"the name of {file_name} has two values of {name}, {' and '.join(found)}: rename the file")
    return float(found[0]) if found else None


def pattern_manifest(
    names: Sequence[str], pattern: str, units: Mapping[str, str] = MappingProxyType({})
) -> tuple[dict[str, dict[str, float]], Schema]:
    """A manifest's rows, and a schema, from recordings' names and a regular expression with named groups.

    names: paths within the corpus, slashes between folders; the pattern is searched in them, without their suffixes.
    A group that is a number in every name gives that number; any other is a category, numbered 0, 1, 2 ... in sorted
    order, which the schema stores. NSynth's `brass_acoustic_018-070-127.wav` is read by

        (?P<inst>[^/]+)-(?P<p>\\d+)-(?P<velocity>\\d+)$

    Raises:
        UsageError: no regular expression, none with named groups, or a unit for a name that is none of them.
        RunError: a name that it does not fit.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"the pattern {pattern} is no regular expression ({error}): correct it") from None
    if not expression.groupindex:
        raise UsageError(f"the pattern {pattern} names nothing: write groups such as (?P<p>\\d+)")
    for name in units:
        if name not in expression.groupindex:
            raise UsageError(f"a unit is given for {name}, but the pattern has {', '.join(expression.groupindex)}")
    texts: dict[str, dict[str, str]] = {}
    for name in names:
        match = expression.search(without_audio_suffix(name))
        if match is None or None in match.groupdict().values():
            raise RunError(f"the name of {name} does not fit {pattern}: change the pattern, or move the file elsewhere")
        texts[name] = match.groupdict()
    columns: dict[str, dict[str, float]] = {}
    parameters = []
    for group in expression.groupindex:
        values = sorted({found[group] for found in texts.values()})
        entry: dict[str, Any] = {"name": group, "units": units.get(group)}
        if all(re.fullmatch(r"-?\d+(\.\d+)?", value, re.ASCII) for value in values):
            columns[group] = {value: float(value) for value in values}
        else:
            columns[group] = {value: float(number) for number, value in enumerate(values)}
            entry |= {"categories": values, "minval": 0, "maxval": len(values) - 1, "lo": 0, "hi": len(values) - 1}
        parameters.append(validate(Parameter, entry, "the pattern"))
    rows = {name: {group: columns[group][text] for group, text in found.items()} for name, found in texts.items()}
    return rows, Schema(parameters=tuple(parameters))


# ---- one recording ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FoundControls:
    """What all sources say of one recording, the first in order winning. looked: where it was looked for."""

    name: str
    files: tuple[ControlFile, ...]
    constants: tuple[tuple[str, dict[str, float]], ...]
    looked: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """All names that any source has."""
        sources: list[Iterable[str]] = [file.names for file in self.files] + [values for _, values in self.constants]
        return list(dict.fromkeys(name for source in sources for name in source))

    def controls(self, names: Sequence[str] | None = None) -> Controls:
        """The tracks of `names`, in that order, or all."""
        return {name: self.track(name) for name in (self.names if names is None else names)}

    def track(self, name: str) -> Track:
        """The track of that name. RunError where there is none, it is broken, or sources differ."""
        tracks = [file.track(name) for file in self.files if name in file.names]
        tracks += [Track.constant(name, values[name], source) for source, values in self.constants if name in values]
        if not tracks:
            raise RunError(self._missing(name))
        for other in tracks[1:]:
            if not tracks[0].agrees_with(other):
                raise RunError(
                    f"{name} of {self.name} is {_summary(tracks[0])} in {tracks[0].source}, but {_summary(other)} in "
                    f"{other.source}: correct or remove one of them"
                )
        return tracks[0]

    def declared(self, name: str) -> tuple[dict[str, Any], str]:
        """What the first file with that curve says of the control, and which file that is."""
        return next(
            ((file.declared(name), str(file.path)) for file in self.files if name in file.names), ({}, self.name)
        )

    def _missing(self, name: str) -> str:
        if "its file name" not in self.looked and name_parameter(self.name, name) is not None:
            remedy = f"it stands in the file name, which --name_params {name} reads"
        else:
            remedy = f"it has {', '.join(self.names)}" if self.names else "it has none at all"
        return f"{self.name} has no control {name} ({remedy}); looked for in {', '.join(self.looked)}"


def _summary(track: Track) -> str:
    return f"{track.values[0]:g}" if track.is_constant else f"a curve of {len(track.values)} points"


# ---- a corpus --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ControlSources:
    """Where the controls of the recordings under `data_dir` lie; made by `find_control_sources`.

    data_dir: a folder of recordings, or one recording. params: curves of this one sound. remarks: which manifest that
    is there is not used, and why, one sentence each.
    """

    data_dir: Path
    param_dir: Path
    params: Path | None = None
    manifest: Manifest | None = None
    schema: Schema = field(default_factory=Schema)
    name_params: tuple[str, ...] = ()
    lenient: bool = False
    remarks: tuple[str, ...] = ()

    def controls_of(self, recording: Path | str, names: Sequence[str] | None = None) -> Controls:
        """The tracks of one recording: those of `names`, in that order, or all that are found.

        recording: its path, or its path within `data_dir`. Raises RunError where a name is missing, two sources differ
        or one is broken; the message names the recording and the sources.
        """
        return self.read(recording).controls(names)

    def read(self, recording: Path | str) -> FoundControls:
        """What all sources say of one recording."""
        name = self.name_of(recording)
        stem = without_audio_suffix(name)
        is_other = self.params is not None and folded(self.params.stem) != folded(PurePosixPath(stem).name)
        if is_other and self.data_dir.is_dir():
            raise UsageError(
                f"--params {self.params} holds curves of one sound, and {self.data_dir} is a folder of them: give "
                "a manifest, or a folder of curves with --param_dir"
            )
        looked = [] if self.params is None else [self.params]
        looked += [located(self.param_dir / f"{stem}{suffix}") for suffix in (".csv", ".params")]
        # The manifest may stand where the curves of a `params.wav` would.
        files = [
            path
            for path in dict.fromkeys(looked)
            if path == self.params or (path.is_file() and not (path.name == MANIFEST_NAME and is_manifest(path)))
        ]
        constants: dict[str, dict[str, float]] = {}
        if self.manifest is not None:
            constants[str(self.manifest.path)] = self.manifest.of(name, stem)
        if self.name_params:
            spelt = {key: name_parameter(name, key) for key in self.name_params}
            constants["its file name"] = {key: value for key, value in spelt.items() if value is not None}
        read = tuple(read_control_file(path, lenient=self.lenient) for path in files)
        return FoundControls(name, read, tuple(constants.items()), (*map(str, looked), *constants))

    def schema_of(self, recordings: Iterable[Path | str], names: Sequence[str] | None = None) -> Schema:
        """The schema of the corpus: that of the schema file, and for other controls what the curves' files declare.

        names: which controls, in which order; None: those of the schema file, or all that are found if there is
        none. Controls that a manifest gives by name have these categories. Raises RunError where files declare
        different units.
        """
        if names is None and self.schema.parameters:
            found = self.schema
        elif names is not None and set(names) <= set(self.schema.names):
            found = self.schema.select(names)
        else:
            found = self.declared_schema([self.read(recording) for recording in recordings], names)
        if self.manifest is None:
            return found
        named = self.manifest.categories
        changes = {name: {"categories": list(named[name])} for name in found.names if name in named}
        return found.updated(changes, str(self.manifest.path))

    def declared_schema(self, sounds: Iterable[FoundControls], names: Sequence[str] | None) -> Schema:
        """The schema file's controls, and what the files of `sounds` declare of the other `names` (None: of all)."""
        declared: dict[str, dict[str, Any]] = {}
        first: dict[str, str] = {}
        for sound in sounds:
            for name in sound.names if names is None else names:
                entry = declared.setdefault(name, {"name": name})
                fields, source = sound.declared(name)
                if fields:
                    first.setdefault(name, source)
                for key, value in fields.items():
                    if key == "units" and entry.setdefault(key, value) != value:
                        raise RunError(
                            f"the units of {name} are {value} for {sound.name}, but {entry[key]} before: make them "
                            "agree"
                        )
                    widest = min if key == "minval" else max
                    entry[key] = widest(entry.get(key, value), value)
        known = {parameter.name: parameter for parameter in self.schema.parameters}
        return Schema(
            parameters=tuple(
                known[name]
                if name in known
                else validate(
                    Parameter, declared.get(name, {"name": name}), f"{name} in {first.get(name, 'its files')}"
                )
                for name in (declared if names is None else names)
            )
        )

    def strays(self, recordings: Iterable[str]) -> list[str]:
        """What is there for no recording, a sentence for each kind: rows of the manifest, files in a folder of curves,
        controls of the schema. recordings: all there are, by their paths within `data_dir`, usable or not."""
        names = list(recordings)
        stems = {folded(without_audio_suffix(name)) for name in names}
        known = stems | {stem.rpartition("/")[2] for stem in stems}
        known |= {re.sub(r"_chunk_\d+$", "", stem) for stem in known}
        found = []
        if self.manifest is not None:
            rows = {row: without_audio_suffix(row) for row in self.manifest.rows}
            strays = [
                row
                for row, stem in rows.items()
                if known.isdisjoint([folded(stem), folded(chunk_stem(stem.rpartition("/")[2]))])
            ]
            if strays:
                listed = without_recording(strays)
                found.append(f"{self.manifest.path} has rows for {listed}: correct the names, or delete the rows")
        if self.data_dir.is_dir() and not self.param_dir.samefile(self.data_dir):
            files = [
                path.relative_to(self.param_dir).as_posix()
                for path in sorted(self.param_dir.rglob("*"))
                if path.suffix.lower() in (".csv", ".params") and path.name.lower() not in (MANIFEST_NAME, SCHEMA_NAME)
            ]
            strays = [name for name in files if folded(name.rpartition(".")[0]) not in stems]
            if strays:
                listed = without_recording(strays)
                found.append(f"{self.param_dir} has curves for {listed}: correct the names, or delete the files")
        unknown = set(self.schema.names)
        for name in names:
            if not unknown:
                break
            with contextlib.suppress(RunError):  # which whoever reads the recording reports
                unknown -= set(self.read(name).names)
        if unknown and names:
            listed = ", ".join(name for name in self.schema.names if name in unknown)
            found.append(f"the schema describes {listed}, which no recording has: correct the name, or delete the row")
        return found

    def name_of(self, recording: Path | str) -> str:
        """A recording's path within `data_dir`."""
        path = Path(recording)
        try:
            return name_within(path, self.data_dir if self.data_dir.is_dir() else self.data_dir.parent)
        except ValueError:
            return printable(path.name if path.is_absolute() else path.as_posix())


def without_recording(names: Sequence[str]) -> str:
    """The first of some names for which there is no recording, and how many there are."""
    listed = ", ".join(names[:3])
    return f"{listed}, of which there is no recording" + (f" (and {len(names) - 3} more)" if len(names) > 3 else "")


def find_control_sources(
    data_dir: Path | Url | str,
    *,
    params: Path | str | None = None,
    param_dir: Path | str | None = None,
    manifest: Path | str | None = None,
    schema: Path | str | None = None,
    name_params: Sequence[str] = (),
    categories: Mapping[str, Sequence[str]] = MappingProxyType({}),
    lenient: bool = False,
) -> ControlSources:
    """The sources for recordings under `data_dir` (a folder, or one recording).

    params: a manifest, or curves of the one recording. param_dir: folder of curves that mirrors the recordings'; by
    default they lie beside them. manifest, schema: by default `params.csv` and `params_schema.csv` in param_dir or
    data_dir, if they are there: none is passed over without a remark. name_params: names that may stand in file names.
    categories: the controls that a manifest may give by name, besides those of the schema (see `read_manifest`).

    Raises:
        UsageError: a file or folder that does not exist, or two manifests.
        RunError: a manifest or a schema that is broken.
    """
    if isinstance(data_dir, Url) or isinstance(place_of(data_dir), Url):
        raise UsageError(
            f"controls cannot be read at {data_dir}, nor be matched with recordings there: copy the recordings to a "
            "folder of this machine"
        )
    data_dir = Path(data_dir)
    if not data_dir.exists():
        raise UsageError(f"there is no recording or folder {data_dir}: check the path")
    beside = data_dir if data_dir.is_dir() else data_dir.parent
    curves = Path(param_dir) if param_dir is not None else beside
    if not curves.is_dir():
        raise UsageError(f"--param_dir {curves} is no folder: name the folder of .params or .csv files")
    own = None if params is None else located(Path(params))
    if own is not None and is_manifest(own):
        if manifest is not None:
            raise UsageError(f"--params {own} and --manifest {manifest} are both manifests: give one of them")
        manifest, own = own, None
    if own is not None and not own.is_file():
        raise UsageError(f"there is no file {own}: check --params")
    manifest, remarks = _manifest_of(curves, beside, None if manifest is None else Path(manifest))
    schema = schema or _named(curves, SCHEMA_NAME) or _named(beside, SCHEMA_NAME)
    declared = Schema() if schema is None else read_schema(schema)
    named = {name: categories.get(name) or declared.named.get(name, ()) for name in [*declared.named, *categories]}
    constants = None if manifest is None else read_manifest(manifest, named)
    return ControlSources(data_dir, curves, own, constants, declared, tuple(name_params), lenient, tuple(remarks))


def unused_manifest(data_dir: Path | Url) -> list[str]:
    """A sentence where a manifest lies among recordings of which the config wants no control, or []."""
    found = None if isinstance(data_dir, Url) else _named(data_dir, MANIFEST_NAME)
    return [] if found is None else [f"{found} is not used, since the config names no controls in conditioned_on"]


def _named(folder: Path, name: str) -> Path | None:
    """The file of that name, or of the same letters in another case: other systems find it by either."""
    if (folder / name).is_file():
        return folder / name
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return next((path for path in files if path.name.lower() == name and path.is_file()), None)


def _manifest_of(curves: Path, beside: Path, given: Path | None) -> tuple[Path | None, list[str]]:
    """The manifest, the given one or the first that is there, and what becomes of the others."""
    remarks = []
    for path in filter(None, dict.fromkeys(_named(folder, MANIFEST_NAME) for folder in (curves, beside))):
        if not is_manifest(path) and holds_curves(path):
            if not any(_named(beside, f"{path.stem.lower()}{suffix}") for suffix in AUDIO_SUFFIXES):
                remarks.append(
                    f"{path} is not used: it holds curves of one sound, and there is none named {path.stem}; "
                    f"a manifest has a column {FILENAME}"
                )
        elif given is None:
            given = path
        elif not given.exists() or not given.samefile(path):
            remarks.append(f"{path} is not used, since {given} is the manifest")
    return given, remarks
