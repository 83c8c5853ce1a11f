"""Which parameters belong to which recording, and whether a whole corpus is in order.

Looked for, the first that has a name winning, are

1. the file given for this one sound (`--params`),
2. `<param_dir>/<path of the recording>.csv`, then `.params`; the folder is the recordings' own if none is given,
3. the recording's row in the manifest: the one given, else `params.csv` in either folder,
4. its file name, for the names that may stand in it: `_p76.00_a00.30.wav`, as RNNControl writes it.

The others must then not say anything else, and a name that is asked for must be found. Knows files and their places;
their formats are `files`' matter.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import numpy as np

from tierwave.audio.finding import AUDIO_SUFFIXES, search_audio
from tierwave.audio.recordings import probe
from tierwave.config import validate
from tierwave.controls.files import (
    FILENAME,
    Manifest,
    ParamFile,
    holds_curves,
    is_manifest,
    read_manifest,
    read_param_file,
    read_schema,
)
from tierwave.controls.schema import Parameter, Schema, coverage, mismatch
from tierwave.controls.tracks import Controls, Track
from tierwave.errors import AudioError, RunError, UsageError
from tierwave.files.folders import chunk_stem, told
from tierwave.files.names import folded, located, name_within, printable
from tierwave.files.places import Url, place_of

MANIFEST_NAME = "params.csv"
SCHEMA_NAME = "params_schema.csv"
FEW_VALUES = 32  # that many different values are listed one by one
_TOLERATED_SECONDS = 0.1  # between the ends of a track and of its recording, besides a step of a steady one


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
    names: Sequence[str], pattern: str, units: Mapping[str, str] | None = None
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
    for name in units or {}:
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
        entry: dict[str, Any] = {"name": group, "units": (units or {}).get(group)}
        if all(re.fullmatch(r"-?\d+(\.\d+)?", value, re.ASCII) for value in values):
            columns[group] = {value: float(value) for value in values}
        else:
            columns[group] = {value: float(number) for number, value in enumerate(values)}
            entry |= {"categories": values, "minval": 0, "maxval": len(values) - 1, "lo": 0, "hi": len(values) - 1}
        parameters.append(validate(Parameter, entry, "the pattern"))
    rows = {name: {group: columns[group][text] for group, text in found.items()} for name, found in texts.items()}
    return rows, Schema(parameters=tuple(parameters))


# ---- lookup ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ParamSources:
    """Where the parameters of the recordings under `data_dir` lie; made by `find_param_sources`.

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

    def read(self, recording: Path | str) -> FoundParams:
        """What all sources tell of one recording."""
        name = self._name(recording)
        stem = without_audio_suffix(name)
        files = []
        if self.params is not None:
            if self.data_dir.is_dir() and folded(self.params.stem) != folded(PurePosixPath(stem).name):
                raise UsageError(
                    f"--params {self.params} holds curves of one sound, and {self.data_dir} is a folder of them: give "
                    "a manifest, or a folder of curves with --param_dir"
                )
            files.append(self.params)
        beside = [located(self.param_dir / f"{stem}{suffix}") for suffix in (".csv", ".params")]
        for path in beside:
            # The manifest may stand where the curves of a `params.wav` would.
            if path.is_file() and path not in files and not (path.name == MANIFEST_NAME and is_manifest(path)):
                files.append(path)
        constants: list[tuple[str, dict[str, float]]] = []
        if self.manifest is not None:
            constants.append((str(self.manifest.path), self.manifest.of(name, stem)))
        spelt = {key: name_parameter(name, key) for key in self.name_params}
        constants.append(("its file name", {key: value for key, value in spelt.items() if value is not None}))
        looked = [str(path) for path in ([self.params] if self.params else []) + beside]
        looked += [str(self.manifest.path)] if self.manifest else []
        looked += ["its file name"] if self.name_params else []
        read = tuple(read_param_file(path, lenient=self.lenient) for path in files)
        return FoundParams(name, read, tuple(constants), tuple(looked))

    def schema_of(self, recordings: Iterable[Path | str], names: Sequence[str] | None = None) -> Schema:
        """The schema of the corpus: that of the schema file, and for other parameters what the curves' files declare.

        names: which parameters, in which order; None: those of the schema file, or all that are found if there is
        none. Parameters that a manifest gives by name have these categories. Raises RunError where files declare
        different units.
        """
        if names is None and self.schema.parameters:
            found = self.schema
        elif names is not None and set(names) <= set(self.schema.names):
            found = self.schema.select(names)
        else:
            found = _schema(self.schema, [self.read(recording) for recording in recordings], names)
        if self.manifest is None:
            return found
        named = self.manifest.categories
        changes = {name: {"categories": list(named[name])} for name in found.names if name in named}
        return found.updated(changes, str(self.manifest.path))

    def strays(self, recordings: Iterable[str]) -> list[str]:
        """What is there for no recording, a sentence for each kind: rows of the manifest, files in a folder of curves,
        parameters of the schema. recordings: all there are, by their paths within `data_dir`, usable or not."""
        names = list(recordings)
        stems = {folded(without_audio_suffix(name)) for name in names}
        bare = {stem.rpartition("/")[2] for stem in stems}
        known = stems | bare | {re.sub(r"_chunk_\d+$", "", stem) for stem in stems | bare}
        found = []
        if self.manifest is not None:
            rows = [
                row
                for row in self.manifest.rows
                if folded(stem := without_audio_suffix(row)) not in known
                and folded(chunk_stem(stem.rpartition("/")[2])) not in known
            ]
            if rows:
                listed = without_recording(rows)
                found.append(f"{self.manifest.path} has rows for {listed}: correct the names, or delete the rows")
        base = self.data_dir if self.data_dir.is_dir() else self.data_dir.parent
        if base == self.data_dir and not self.param_dir.samefile(base):
            files = [
                path.relative_to(self.param_dir).as_posix()
                for path in sorted(self.param_dir.rglob("*"))
                if path.suffix.lower() in (".csv", ".params") and path.name.lower() not in (MANIFEST_NAME, SCHEMA_NAME)
            ]
            files = [name for name in files if folded(name.rpartition(".")[0]) not in stems]
            if files:
                listed = without_recording(files)
                found.append(f"{self.param_dir} has curves for {listed}: correct the names, or delete the files")
        unknown = set(self.schema.names)
        for name in names:
            if not unknown:
                break
            with contextlib.suppress(RunError):  # told where the recording is read
                unknown -= set(self.read(name).names)
        if unknown and names:
            listed = ", ".join(name for name in self.schema.names if name in unknown)
            found.append(f"the schema describes {listed}, which no recording has: correct the name, or delete the row")
        return found

    def _name(self, recording: Path | str) -> str:
        base = self.data_dir if self.data_dir.is_dir() else self.data_dir.parent
        path = Path(recording)
        try:
            return name_within(path, base)
        except ValueError:
            return printable(path.name if path.is_absolute() else path.as_posix())


def without_recording(names: Sequence[str]) -> str:
    """The first of some names for which there is no recording, and how many there are."""
    listed = ", ".join(names[:3])
    return f"{listed}, of which there is no recording" + (f" (and {len(names) - 3} more)" if len(names) > 3 else "")


@dataclass(frozen=True)
class FoundParams:
    """What all sources tell of one recording, the first in order winning. looked: where it was looked for."""

    name: str
    files: tuple[ParamFile, ...]
    constants: tuple[tuple[str, dict[str, float]], ...]
    looked: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """All names that any source has."""
        found: list[str] = []
        for file in self.files:
            found += [name for name in file.document if file.holds(name)]
        for _, values in self.constants:
            found += values
        return list(dict.fromkeys(found))

    def controls(self, names: Sequence[str] | None = None) -> Controls:
        """The tracks of `names`, in that order, or all."""
        return {name: self.track(name) for name in (self.names if names is None else names)}

    def track(self, name: str) -> Track:
        """The track of that name. RunError where there is none, it is broken, or sources differ."""
        tracks = [file.track(name) for file in self.files if file.holds(name)]
        tracks += [Track.constant(name, values[name], source) for source, values in self.constants if name in values]
        if not tracks:
            raise RunError(self._missing(name))
        for other in tracks[1:]:
            if not tracks[0].agrees_with(other):
                raise RunError(
                    f"{name} of {self.name} is {_told(tracks[0])} in {tracks[0].source}, but {_told(other)} in "
                    f"{other.source}: correct or remove one of them"
                )
        return tracks[0]

    def declared(self, name: str) -> dict[str, Any]:
        """What the first file that has the curve says of the parameter itself."""
        return next((file.declared(name) for file in self.files if file.holds(name)), {})

    def file_of(self, name: str) -> str:
        """The file that `declared` tells of."""
        return next((str(file.path) for file in self.files if file.holds(name)), self.name)

    def _missing(self, name: str) -> str:
        if "its file name" not in self.looked and name_parameter(self.name, name) is not None:
            remedy = f"it stands in the file name, which --name_params {name} reads"
        else:
            remedy = f"it has {', '.join(self.names)}" if self.names else "it has none at all"
        return f"{self.name} has no parameter {name} ({remedy}); looked for in {', '.join(self.looked)}"


def _told(track: Track) -> str:
    return f"{track.values[0]:g}" if track.is_constant else f"a curve of {len(track.values)} points"


def _schema(given: Schema, sounds: Iterable[FoundParams], names: Sequence[str] | None) -> Schema:
    """`given`, and what the files of `sounds` declare of the other `names` (None: of all that there are)."""
    declared: dict[str, dict[str, Any]] = {}
    first: dict[str, str] = {}
    for sound in sounds:
        for name in sound.names if names is None else names:
            told = declared.setdefault(name, {"name": name})
            if sound.declared(name):
                first.setdefault(name, sound.file_of(name))
            for key, value in sound.declared(name).items():
                if key == "units" and told.setdefault(key, value) != value:
                    raise RunError(
                        f"the units of {name} are {value} for {sound.name}, but {told[key]} before: make them agree"
                    )
                widest = min if key == "minval" else max
                told[key] = widest(told.get(key, value), value)
    known = {parameter.name: parameter for parameter in given.parameters}
    return Schema(
        parameters=tuple(
            known[name]
            if name in known
            else validate(Parameter, declared.get(name, {"name": name}), f"{name} in {first.get(name, 'its files')}")
            for name in (declared if names is None else names)
        )
    )


def find_param_sources(
    data_dir: Path | Url | str,
    *,
    params: Path | str | None = None,
    param_dir: Path | str | None = None,
    manifest: Path | str | None = None,
    schema: Path | str | None = None,
    name_params: Sequence[str] = (),
    categories: Mapping[str, Sequence[str]] = MappingProxyType({}),
    lenient: bool = False,
) -> ParamSources:
    """The sources for recordings under `data_dir` (a folder, or one recording).

    params: a manifest, or curves of the one recording. param_dir: folder of curves that mirrors the recordings'; by
    default they lie beside them. manifest, schema: by default `params.csv` and `params_schema.csv` in param_dir or
    data_dir, if they are there: none is passed over without a remark. name_params: names that may stand in file names.
    categories: the parameters that a manifest may give by name, beside those of the schema (see `read_manifest`).

    Raises:
        UsageError: a file or folder that does not exist, or two manifests.
        RunError: a manifest or a schema that is broken.
    """
    if isinstance(data_dir, Url) or isinstance(place_of(data_dir), Url):
        raise UsageError(
            f"parameters cannot be read at {data_dir}, nor be matched with recordings there: copy the recordings to a "
            "folder of this machine"
        )
    data_dir = Path(data_dir)
    if not data_dir.exists():
        raise UsageError(f"there is no recording or folder {data_dir}: check the path")
    beside = data_dir if data_dir.is_dir() else data_dir.parent
    curves = Path(param_dir) if param_dir is not None else beside
    if not curves.is_dir():
        raise UsageError(f"--param_dir {curves} is no folder: name the folder of .params or .csv files")
    params = None if params is None else located(Path(params))
    if params is not None and is_manifest(params):
        if manifest is not None:
            raise UsageError(f"--params {params} and --manifest {manifest} are both manifests: give one of them")
        manifest, params = params, None
    if params is not None and not Path(params).is_file():
        raise UsageError(f"there is no file {params}: check --params")
    manifest, remarks = _manifest_of(curves, beside, None if manifest is None else Path(manifest), data_dir)
    if schema is None:
        schema = _named(curves, SCHEMA_NAME) or _named(beside, SCHEMA_NAME)
    declared = Schema() if schema is None else read_schema(schema)
    named = {name: categories.get(name) or declared.named.get(name, ()) for name in [*declared.named, *categories]}
    return ParamSources(
        data_dir,
        curves,
        None if params is None else Path(params),
        None if manifest is None else read_manifest(manifest, named),
        declared,
        tuple(name_params),
        lenient,
        tuple(remarks),
    )


def unused_manifest(data_dir: Path | Url) -> list[str]:
    """What to tell of a manifest that lies among recordings of which no parameter is asked for, in a sentence."""
    found = None if isinstance(data_dir, Url) else _named(data_dir, MANIFEST_NAME)
    return [] if found is None else [f"{found} is not used, since the config names no parameters in conditioned_on"]


def _named(folder: Path, name: str) -> Path | None:
    """The file of that name, or of the same letters in another case, as elsewhere it would be found too."""
    if (folder / name).is_file() or not folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    return next((path for path in sorted(folder.iterdir()) if path.name.lower() == name and path.is_file()), None)


def _manifest_of(curves: Path, beside: Path, given: Path | None, data_dir: Path) -> tuple[Path | None, list[str]]:
    """The manifest, the given one or the first that is there, and what becomes of the others."""
    remarks = []
    for path in filter(None, dict.fromkeys(_named(folder, MANIFEST_NAME) for folder in (curves, beside))):
        if not is_manifest(path) and holds_curves(path):
            owners = [name for name in AUDIO_SUFFIXES if _named(beside, f"{path.stem.lower()}{name}")]
            if not owners:
                remarks.append(
                    f"{path} is not used: it holds curves of one sound, and there is none named {path.stem}; "
                    f"a manifest has a column {FILENAME}"
                )
        elif given is None:
            given = path
        elif not given.exists() or not given.samefile(path):
            remarks.append(f"{path} is not used, since {given} is the manifest")
    return given, remarks


# ---- audit -----------------------------------------------------------------------------------------------------------


@dataclass
class Range:
    """Where a parameter was found: in how many recordings, from which to which value, and which values, if few."""

    recordings: int = 0
    lowest: float = float("inf")
    highest: float = float("-inf")
    values: set[float] | None = field(default_factory=set)

    def add(self, track: Track) -> None:
        """Count one recording's track."""
        self.recordings += 1
        self.lowest = min(self.lowest, float(track.values.min()))
        self.highest = max(self.highest, float(track.values.max()))
        if self.values is not None:
            self.values |= set(track.values.tolist())
            if len(self.values) > FEW_VALUES:
                self.values = None


@dataclass(frozen=True)
class Audit:
    """What `audit` found. faults: one sentence each, nothing of which may be left for training; remarks: what is worth
    knowing; ranges: by parameter; recordings: how many were looked at."""

    recordings: int
    ranges: dict[str, Range]
    faults: tuple[str, ...]
    remarks: tuple[str, ...]


def audit(sources: ParamSources, names: Sequence[str] | None = None) -> Audit:
    """Look through a whole corpus for recordings without parameters, broken or contradictory ones, values beyond what
    is declared or mapped, and curves that are not as long as the sound.

    names: what every recording must have; None: the schema's, or else whatever any of them has.
    """
    recordings, left_out = search_audio([sources.data_dir])
    faults: list[str] = []
    remarks = [*sources.remarks, *told(left_out, sources.data_dir)]
    found: dict[str, FoundParams] = {}
    for path in recordings:
        try:
            read = sources.read(path)
            found[read.name] = read
            remarks += [remark for file in read.files for remark in file.remarks]
        except RunError as error:
            faults.append(str(error))
    if names is None:
        everywhere = dict.fromkeys(name for read in found.values() for name in read.names)
        names = list(dict.fromkeys([*sources.schema.names, *everywhere]))
    if recordings and not names:
        faults.append(f"no recording under {sources.data_dir} has any parameter")
    try:
        schema: Schema | None = _schema(sources.schema, found.values(), names)
    except (UsageError, RunError) as error:
        schema = None
        faults.append(str(error))
    ranges = {name: Range() for name in names}
    tracks: dict[str, list[Track]] = {name: [] for name in names}
    for path in recordings:
        name = sources._name(path)
        seconds = None
        try:
            seconds = probe(path).seconds
        except AudioError as error:
            faults.append(str(error))
        for key in names if name in found else []:
            try:
                track = found[name].track(key)
            except RunError as error:
                faults.append(str(error))
                continue
            ranges[key].add(track)
            tracks[key].append(track)
            if seconds is not None:
                faults += _misfits(track, name, seconds)
            if schema is not None:
                faults += _beyond(track, schema.of(key), name)
    for key, extent in ranges.items():
        if extent.recordings > 1 and extent.lowest == extent.highest:
            remarks.append(f"{key} is {extent.lowest:g} everywhere, so it cannot steer anything")
        nvals = 0 if schema is None else schema.of(key).nvals
        if nvals and (extent.values is None or len(extent.values) > nvals):
            faults.append(f"{key} has more different values than its nvals says, {nvals}")
        parameter = None if schema is None else _mapped(schema.of(key))
        if parameter is not None:
            faults += filter(None, [mismatch(parameter, tracks[key])])
            remarks += coverage(parameter, tracks[key])
    remarks += sources.strays(sources._name(path) for path in [*recordings, *(path for path, _ in left_out)])
    return Audit(len(recordings), ranges, tuple(faults), tuple(dict.fromkeys(remarks)))


def _mapped(parameter: Parameter) -> Parameter | None:
    """With the range that training takes if none is given; None where that follows from the recordings."""
    if parameter.categories and None in (parameter.lo, parameter.hi):
        return parameter.model_copy(update={"lo": 0.0, "hi": len(parameter.categories) - 1.0})
    return None if None in (parameter.lo, parameter.hi) else parameter


def _misfits(track: Track, name: str, seconds: float) -> list[str]:
    if len(track.times) == 1:
        return []
    first, last = float(track.times[0]), float(track.times[-1])
    # The last frame of an analysis lies up to a hop before the end.
    steady = len(track.times) > 3 and float(np.diff(track.times).max()) < 1.5 * track.interval
    tolerated = _TOLERATED_SECONDS + (track.interval if steady else 0.0)
    told = f"{track.name} of {name} ({track.source})"
    found = []
    if first > tolerated:
        found.append(f"{told} begins at {first:.2f} s: what comes before has its first value")
    if last < seconds - tolerated:
        found.append(f"{told} ends at {last:.2f} s, and the sound lasts {seconds:.2f} s: the rest has its last value")
    if last > seconds + tolerated or first < -tolerated:
        found.append(f"{told} runs from {first:.2f} to {last:.2f} s, and the sound lasts only {seconds:.2f} s")
    return found


def _beyond(track: Track, parameter: Parameter, name: str) -> list[str]:
    lowest, highest = float(track.values.min()), float(track.values.max())
    slack = 1e-6 * max(abs(lowest), abs(highest))
    limits = {"declared": (parameter.minval, parameter.maxval)}
    if parameter.lo is not None and parameter.hi is not None:
        limits["mapped"] = (min(parameter.lo, parameter.hi), max(parameter.lo, parameter.hi))
    found = []
    for what, (low, high) in limits.items():
        if (low is not None and lowest < low - slack) or (high is not None and highest > high + slack):
            range_ = " to ".join("any" if end is None else f"{end:g}" for end in (low, high))
            found.append(f"{track.name} of {name} goes from {lowest:g} to {highest:g}, beyond the {what} {range_}")
    return found
