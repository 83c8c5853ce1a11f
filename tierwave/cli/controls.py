"""Controls on the command line: `python -m tierwave controls VERB ...`.

extract   measure controls of recordings (librosa)
convert   paramManager's .params to CSV and back
manifest  constants from file names, as params.csv and params_schema.csv
fit       lo and hi of every control from the training split, as params_schema.csv
check     look through a corpus for what is missing, broken or out of range
plot      a PNG of a recording's curves under its spectrogram
"""

from __future__ import annotations

import difflib
import functools
import math
import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from tierwave.analysis.features import FEATURES, Analysis, measure
from tierwave.audio.finding import search_audio
from tierwave.audio.recordings import load, open_recording
from tierwave.cli.flags import REPEATABLE, FlagParser, optional
from tierwave.config import TrainingOptions
from tierwave.controls.check import Audit, audit
from tierwave.controls.files import document_of, read_control_file, write_control_file
from tierwave.controls.schema import Schema
from tierwave.controls.sources import (
    MANIFEST_NAME,
    SCHEMA_NAME,
    ControlSources,
    find_control_sources,
    pattern_manifest,
    without_audio_suffix,
)
from tierwave.controls.tables import is_manifest, manifest_text, schema_text
from tierwave.controls.tracks import Controls, constants_of
from tierwave.errors import AudioError, RunError, UsageError
from tierwave.files.folders import allowed_name, refuse_file, refuse_shared, told, walk
from tierwave.files.names import matcher, name_within, printable
from tierwave.files.writing import unfinished_files, write_text
from tierwave.runs.folder import Run
from tierwave.system.parallel import parallel_map
from tierwave.system.progress import ProgressLine

FORMATS = {"csv": ".csv", "params": ".params"}
MOST_CURVES = 20  # in one picture
MOST_FAULTS = 20  # that `check` lists without --all


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, do what its verb says, return the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or words[0] in ("-h", "--help"):
        ProgressLine("stdout" if words else "stderr").say(str(__doc__))
        return 0 if words else 2
    if words[0] not in VERBS:
        near = difflib.get_close_matches(words[0], VERBS, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"choose from {', '.join(VERBS)}"
        ProgressLine("stderr").say(f"tierwave controls: {words[0]!r} is no verb; {remedy}")
        return 2
    description, add_flags, body = VERBS[words[0]]
    parser = FlagParser(prog=f"tierwave controls {words[0]}", description=description)
    add_flags(parser)
    return parser.run(body, words[1:])


def _listed(words: Sequence[str] | None) -> tuple[str, ...]:
    """Names separated by spaces or commas."""
    return tuple(name for word in words or () for name in word.split(",") if name)


def _add_sources(parser: FlagParser) -> None:
    """The flags of `find_control_sources`."""
    parser.add_argument("--param_dir", type=Path, metavar="FOLDER", help="curves (default: with the recordings)")
    parser.add_argument("--params", type=Path, metavar="FILE", help="a manifest, or the curves of one recording")
    parser.add_argument("--manifest", type=Path, metavar="FILE", help=f"constants (default: {MANIFEST_NAME}, if there)")
    parser.add_argument("--schema", type=Path, metavar="FILE", help=f"mapping (default: {SCHEMA_NAME}, if there)")
    parser.add_argument(
        "--name_params", nargs="+", metavar="NAME", help="controls in file names: inst,p,a for _inst00.00_p64.00_a00.50"
    )
    parser.add_argument("--names", nargs="+", metavar="NAME", help="only these controls (default: all)")
    parser.add_switch("--lenient", help="repair broken .params files when reading them")


def _recordings(data_dir: Path) -> list[Path]:
    """All recordings under a folder; what was left out is printed. RunError where there are none."""
    recordings, left_out = search_audio([data_dir])
    for line in told(left_out, data_dir):
        print(line)
    if not recordings:
        raise RunError(f"no recording was found under {data_dir}: name a folder with some")
    return recordings


def _base(flags: Namespace) -> Path:
    """The folder of the recordings."""
    data_dir: Path = flags.data_dir
    return data_dir if data_dir.is_dir() else data_dir.parent


def _sources(flags: Namespace, data_dir: Path) -> ControlSources:
    typed = {name: getattr(flags, name) for name in ("params", "param_dir", "manifest", "schema", "lenient")}
    return find_control_sources(data_dir, name_params=_listed(flags.name_params), **typed)


# ---- extract ---------------------------------------------------------------------------------------------------------


def _extract_flags(parser: FlagParser) -> None:
    usual = Analysis()
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR", help="recordings: a folder, or one of them")
    parser.add_argument(
        "--param_dir", type=Path, metavar="FOLDER", help="for the curves; mirrors DATA_DIR (default: DATA_DIR itself)"
    )
    parser.add_argument(
        "--features", nargs="+", metavar="NAME", default=list(usual.features),
        help=f"which: {','.join(FEATURES)} (default: {','.join(usual.features)}); pitch and midi take the longest",
    )  # fmt: skip
    for flag, seconds in (("--window", usual.window_seconds), ("--hop", usual.hop_seconds)):
        parser.add_argument(flag, type=float, default=1000 * seconds, metavar="MS", help="milliseconds (%(default)g)")
    for flag, hertz in (("--pitch_min", usual.lowest_pitch), ("--pitch_max", usual.highest_pitch)):
        parser.add_argument(flag, type=float, default=hertz, metavar="HZ", help="range of the pitch (%(default)g)")
    parser.add_argument(
        "--sample_rate", type=optional(int), metavar="HZ", help="resample first (default: the recording's)"
    )
    parser.add_argument("--format", choices=list(FORMATS), default="csv", help="of the curves (%(default)s)")
    parser.add_switch("--overwrite", help="replace curves of the same names")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="files in parallel (default: all cores)"
    )


def _extract(flags: Namespace) -> None:
    analysis = Analysis(
        _listed(flags.features), flags.window / 1000, flags.hop / 1000, flags.pitch_min, flags.pitch_max
    )
    if flags.jobs < 1:
        raise UsageError(f"--jobs {flags.jobs} must be 1 or more")
    recordings = _recordings(flags.data_dir)
    base = _base(flags)
    folder = flags.param_dir or base
    targets = {
        path: folder / f"{without_audio_suffix(path.relative_to(base).as_posix())}{FORMATS[flags.format]}"
        for path in recordings
    }
    refuse_shared(targets)
    work = functools.partial(_measure, analysis=analysis, sample_rate=flags.sample_rate, overwrite=flags.overwrite)
    abandoned = unfinished_files(target.parent for target in targets.values())
    outcomes = []
    with ProgressLine() as line:
        for each in parallel_map(work, list(targets.items()), jobs=flags.jobs):
            outcomes.append(each)
            line.count("Measuring", len(outcomes), len(targets))
    for path in abandoned:
        path.unlink(missing_ok=True)
    counts = dict.fromkeys(("measured", "there", "unusable"), 0)
    for outcome, remark in outcomes:
        counts[outcome] += 1
        if remark:
            print(remark)
    print(f"{counts['measured']} of {len(targets)} recordings measured: {', '.join(analysis.names)}; in {folder}")
    if counts["there"]:
        print(f"{counts['there']} of them had all of these curves already: --overwrite replaces them")
    if counts["unusable"] == len(targets):
        raise RunError(f"none of the {len(targets)} recordings could be measured: see the reasons above")


def _measure(task: tuple[Path, Path], analysis: Analysis, sample_rate: int | None, overwrite: bool) -> tuple[str, str]:
    """Measure one recording, of (its path, file of curves), and add the curves to that file. "measured", "there" or
    "unusable", and a remark."""
    from threadpoolctl import threadpool_limits

    path, target = task
    try:
        document = read_control_file(target).document if target.exists() else {"meta": {"filename": path.name}}
        there = [name for name in analysis.names if name in document]
        if there and not overwrite:
            if there == list(analysis.names):
                return "there", ""
            return "unusable", f"{target} has {', '.join(there)} already: --overwrite replaces them"
        with open_recording(path) as reading:
            audio, rate = reading.whole(sample_rate), sample_rate or reading.info.sample_rate
        with threadpool_limits(1):  # the last digits of a matrix product depend on how many threads share it
            tracks = measure(audio, rate, analysis)
        write_control_file(target, {**document, **document_of(tracks, analysis.declared(rate))})
    except (AudioError, RunError) as error:
        return "unusable", str(error)
    said = [f"{path}: {remark}" for remark in reading.remarks]
    if "voicing" in tracks and not tracks["voicing"].values.any():
        said.append(f"{path} has no pitch anywhere: its voicing is 0")
    return "measured", "\n".join(said)


# ---- convert ---------------------------------------------------------------------------------------------------------


def _convert_flags(parser: FlagParser) -> None:
    parser.add_argument("input", type=Path, metavar="INPUT", help="a .params or .csv file, or a folder of them")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="a .csv or .params file; for a folder, a folder")
    parser.add_argument("--to", choices=list(FORMATS), help="for a folder: what to write")
    parser.add_switch("--lenient", help="repair trailing commas, empty files, curves of unequal lengths")
    parser.add_switch("--overwrite", help="replace existing files")


def _convert(flags: Namespace) -> None:
    if not flags.input.exists():
        raise UsageError(f"there is no file or folder {flags.input}: check the path")
    if flags.input.is_file():
        if flags.output.suffix.lower() not in FORMATS.values():
            raise UsageError(f"OUTPUT {flags.output} must end in .csv or .params, which says what to write")
        refuse_file("OUTPUT", flags.output)
        pairs = {flags.input: flags.output}
    else:
        if flags.to is None:
            raise UsageError(f"{flags.input} is a folder: say what to make of it, --to csv or --to params")
        source = ".params" if flags.to == "csv" else ".csv"
        files, left_out = walk(flags.input, lambda name: name.endswith(source), own=True)
        for line in told(left_out, flags.input):
            print(line)
        pairs = {
            path: flags.output / path.relative_to(flags.input).with_suffix(FORMATS[flags.to])
            for path in sorted(files)
            if not is_manifest(path) and path.name != SCHEMA_NAME
        }
        if not pairs:
            raise RunError(f"there is no {source} file with curves under {flags.input}: name another folder")
    broken = 0
    lost: dict[str, None] = {}
    for path, target in pairs.items():
        try:
            file = read_control_file(path, lenient=flags.lenient)
            if target.exists() and not flags.overwrite:
                raise RunError(f"{target} is there already: --overwrite replaces it")
            write_control_file(target, file.document)
        except RunError as error:
            if len(pairs) == 1:
                raise
            broken += 1
            print(error)
            continue
        for remark in file.remarks:
            print(remark)
        if target.suffix.lower() == ".csv":
            lost |= dict.fromkeys(file.not_in_csv())
    print(f"{len(pairs) - broken} of {len(pairs)} files converted, into {flags.output}")
    if lost:
        print(f"Not in the CSV, which holds points, units and meta: {', '.join(lost)}")
    if broken:
        raise RunError(f"{broken} files could not be converted: see the reasons above, or try --lenient")


# ---- manifest --------------------------------------------------------------------------------------------------------


def _manifest_flags(parser: FlagParser) -> None:
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR", help="folder of recordings")
    parser.add_argument(
        "--name_params", nargs="+", metavar="NAME", help="RNNControl's form: inst,p,a for _inst00.00_p64.00_a00.50"
    )
    parser.add_argument(
        "--name_pattern", metavar="REGEX",
        help="named groups, searched in the path without suffix; NSynth: (?P<inst>[^/]+)-(?P<p>\\d+)-(?P<v>\\d+)$",
    )  # fmt: skip
    parser.add_argument("--units", **REPEATABLE, metavar="NAME=UNIT", help="such as p=midiPitch")
    parser.add_argument(
        "--output_path", type=Path, metavar="FILE", help=f"the manifest (default: {MANIFEST_NAME} in DATA_DIR)"
    )
    parser.add_switch("--overwrite", help="replace existing files")


def _manifest(flags: Namespace) -> None:
    if (flags.name_params is None) == (flags.name_pattern is None):
        raise UsageError("how to read the names must be said once: give --name_params or --name_pattern")
    units = {}
    for text in flags.units:
        name, equals, unit = text.rpartition("=")
        if not equals or not name or not unit:
            raise UsageError(f"--units {text} is not NAME=UNIT: write for example p=midiPitch")
        units[name] = unit
    recordings = _recordings(flags.data_dir)
    base = _base(flags)
    names = [name_within(path, base) for path in recordings]
    manifest = flags.output_path or base / MANIFEST_NAME
    refuse_file("--output_path", manifest)
    mapping = manifest.with_name(SCHEMA_NAME)
    for path in (manifest, mapping):
        if path.exists() and not flags.overwrite:
            raise UsageError(f"{path} is there already: --overwrite replaces it")
    if flags.name_pattern is not None:
        rows, schema = pattern_manifest(names, flags.name_pattern, units)
    else:
        wanted = _listed(flags.name_params)
        sources = ControlSources(base, Path(os.devnull), name_params=wanted)
        found = {name: sources.controls_of(name, wanted) for name in names}
        rows = {name: {key: float(track.values[0]) for key, track in tracks.items()} for name, tracks in found.items()}
        schema = Schema.from_document([{"name": name, "units": units.get(name)} for name in wanted], "--units")
    write_text(manifest, manifest_text(rows))
    write_text(mapping, schema_text(schema))
    print(f"{len(rows)} recordings in {manifest}, {len(schema.parameters)} controls in {mapping}")
    for parameter in schema.parameters:
        for number, category in enumerate(parameter.categories):
            print(f"  {parameter.name} {number} is {category}")


# ---- fit -------------------------------------------------------------------------------------------------------------


def _fit_flags(parser: FlagParser) -> None:
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR", help="folder of recordings")
    _add_sources(parser)
    options = TrainingOptions()
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="use the split of this run (default: a new split)")
    for flag, kind, default in (
        ("--val_frac", float, options.val_frac),
        ("--test_frac", float, options.test_frac),
        ("--random_seed", int, options.random_seed),
    ):
        parser.add_argument(flag, type=kind, default=default, metavar="X", help="as for train.py (%(default)s)")
    parser.add_argument("--sample_rate", type=optional(int), metavar="HZ", help="as for train.py")
    parser.add_switch("--refit", help="also fit ranges for which lo and hi are given")
    parser.add_argument(
        "--output_path", type=Path, metavar="FILE",
        help=f"the schema (default: --schema, or {SCHEMA_NAME} in the folder of the curves)",
    )  # fmt: skip


def _fit(flags: Namespace) -> None:
    sources = _sources(flags, flags.data_dir)
    recordings = _recordings(flags.data_dir)
    schema = sources.schema_of(recordings, flags.names)
    if not schema.parameters:
        raise RunError(f"no recording under {flags.data_dir} has any control: run extract or manifest first")
    if flags.refit:
        schema = schema.unfitted()
    base = _base(flags)
    sounds = {name_within(path, base): sources.controls_of(path, schema.names) for path in recordings}
    stretches = _training_stretches(flags, sounds)
    fitted = schema.fit(
        {
            name: track.between(start, stop, schema.of(name).interp) if stop < math.inf else track
            for name, track in sounds[recording].items()
        }
        for recording, start, stop in stretches
    )
    target = flags.output_path or flags.schema or sources.param_dir / SCHEMA_NAME
    refuse_file("--output_path", target)
    write_text(target, schema_text(fitted))
    print(f"{len({name for name, _, _ in stretches})} of {len(sounds)} recordings are trained on; {target}:")
    for parameter in fitted.parameters:
        lo, hi = parameter.span
        constant = ", constant: it cannot steer anything" if lo == hi else ""
        units = f" {parameter.units}" if parameter.units else ""
        print(f"  {parameter.name}: {lo:g} to {hi:g}{units} ({parameter.scale}{constant})")


def _training_stretches(flags: Namespace, sounds: dict[str, Controls]) -> list[tuple[str, float, float]]:
    """(recording, start, stop) in seconds of what is trained on."""
    if flags.run is not None:
        split, rate = Run(flags.run).read("split.json"), Run(flags.run).read("run.json")["sample_rate"]
        found = matcher(sounds)
        missing = [name for name, _, _ in split["train"] if found(name) is None]
        if missing:
            raise UsageError(f"{flags.run} was trained on {missing[0]}, which {flags.data_dir} lacks: name its corpus")
        return [(found(name) or name, start / rate, stop / rate) for name, start, stop in split["train"]]
    if flags.val_frac == 0 and flags.test_frac == 0:
        return [(name, 0.0, math.inf) for name in sounds]
    if min(flags.val_frac, flags.test_frac) < 0 or flags.val_frac + flags.test_frac >= 1:
        raise UsageError(
            f"--val_frac {flags.val_frac:g} and --test_frac {flags.test_frac:g} must be 0 or more, their sum below 1"
        )
    from tierwave.audio.quantize import Quantizer
    from tierwave.data.cache import load_corpus
    from tierwave.data.splits import make_split

    encoder = Quantizer("mu-law", 256)
    with tempfile.TemporaryDirectory(prefix="tierwave-") as cache:
        corpus = load_corpus(flags.data_dir, encoder, sample_rate=flags.sample_rate, cache_dir=cache)
        split_ = make_split(
            corpus,
            lambda index: encoder.decode(corpus.read(index)),
            valid_fraction=flags.val_frac,
            test_fraction=flags.test_frac,
            seed=flags.random_seed,
            values=[constants_of(sounds[recording.name]) for recording in corpus.recordings],
        )
        rate = corpus.sample_rate
        return [(corpus.recordings[index].name, start / rate, stop / rate) for index, start, stop in split_.train]


# ---- check -----------------------------------------------------------------------------------------------------------


def _check_flags(parser: FlagParser) -> None:
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR", help="folder of recordings")
    _add_sources(parser)
    parser.add_switch("--all", help=f"show all faults, not only {MOST_FAULTS}")


def _check(flags: Namespace) -> None:
    found = audit(_sources(flags, flags.data_dir), flags.names)
    if not found.recordings:
        raise RunError(f"no recording was found under {flags.data_dir}: name a folder with some")
    print(_table(found))
    for remark in found.remarks:
        print(f"Note: {remark}")
    for fault in found.faults if flags.all else found.faults[:MOST_FAULTS]:
        print(f"Fault: {fault}")
    if found.faults:
        hidden = "" if flags.all or len(found.faults) <= MOST_FAULTS else ", and --all shows the rest"
        raise RunError(f"{len(found.faults)} faults in {found.recordings} recordings: see above{hidden}")
    order = "in order but for the notes" if found.remarks else "all in order"
    print(f"{found.recordings} recordings, {len(found.ranges)} controls: {order}")


def _table(found: Audit) -> str:
    width = max(len(name) for name in [*found.ranges, "parameter"])
    lines = [f"{'parameter':{width}}  {'recordings':>10}  {'lowest':>12}  {'highest':>12}  values"]
    for name, extent in found.ranges.items():
        ends = f"{'-':>12}  {'-':>12}"
        if extent.recordings:
            listed = sorted(extent.values or ())
            values = " ".join(f"{value:g}" for value in listed) if listed else "continuous"
            ends = f"{extent.lowest:>12.6g}  {extent.highest:>12.6g}  {values}"
        lines.append(f"{name:{width}}  {extent.recordings:>10}  {ends}".rstrip())
    return "\n".join(lines)


# ---- plot ------------------------------------------------------------------------------------------------------------


def _plot_flags(parser: FlagParser) -> None:
    parser.add_argument("recording", type=Path, metavar="RECORDING", help="the sound")
    parser.add_argument("--output_path", type=Path, metavar="PNG", help="(default: named after RECORDING, here)")
    parser.add_argument(
        "--data_dir", type=Path, metavar="FOLDER", help="corpus folder that the curves mirror (default: RECORDING's)"
    )
    _add_sources(parser)


def _plot(flags: Namespace) -> None:
    from tierwave.analysis.plots import controls_picture

    if not flags.recording.is_file():
        raise UsageError(f"there is no recording {flags.recording}: check the path")
    sources = _sources(flags, flags.data_dir or flags.recording)
    controls = sources.controls_of(flags.recording, flags.names)
    if not controls:
        raise RunError(f"{flags.recording} has no controls: run extract, or say with --param_dir where they lie")
    audio, rate = load(flags.recording)
    schema = sources.schema_of([flags.recording], list(controls))
    shown = list(controls)[:MOST_CURVES]
    target = flags.output_path or Path(f"{allowed_name(without_audio_suffix(printable(flags.recording.name)))}.png")
    refuse_file("--output_path", target)
    target.parent.mkdir(parents=True, exist_ok=True)
    controls_picture(
        target, audio, rate, {name: controls[name] for name in shown}, schema, printable(flags.recording.name)
    )
    hidden = list(controls)[MOST_CURVES:]
    left_out = f"; not shown: {', '.join(hidden)} (--names chooses)" if hidden else ""
    print(f"{target}: {', '.join(shown)}{left_out}")


VERBS: dict[str, tuple[str, Callable[[FlagParser], None], Callable[[Namespace], None]]] = {
    "extract": (
        "Measure controls of recordings and write them as curves, a file per recording.", _extract_flags, _extract
    ),
    "convert": ("Convert paramManager's .params into CSVs of curves and back.", _convert_flags, _convert),
    "manifest": (
        "Read constants from file names and write them as a manifest and a schema.", _manifest_flags, _manifest
    ),
    "fit": ("Fit lo and hi of every control to the training recordings.", _fit_flags, _fit),
    "check": ("Check a corpus for controls that are missing, broken or out of range.", _check_flags, _check),
    "plot": ("Draw a recording's waveform, spectrogram and curves.", _plot_flags, _plot),
}  # fmt: skip
