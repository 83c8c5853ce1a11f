"""Files of controls that are damaged, and curves that are typed: read as they say, or refused with the place."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import numpy as np
import pytest
import soundfile

import mutators
from melnet.text import Alphabet, find_transcripts, normalised
from rule import Kind, Refusal, Wrong, judged
from tierwave.controls.check import Audit, audit
from tierwave.controls.files import ControlFile, json_text, read_control_file, read_take
from tierwave.controls.live import LiveControls
from tierwave.controls.parse import parse_controls, read_array
from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.sources import find_control_sources
from tierwave.controls.tables import manifest_text, read_manifest, read_schema, schema_text
from tierwave.controls.tracks import Controls, Track, resample_track

T = TypeVar("T")

SECONDS = 1.0
SCHEMA = Schema(
    parameters=(
        Parameter(name="p", units="midiPitch", lo=60, hi=72),
        Parameter(name="a", lo=0.1, hi=1, scale="log"),
        Parameter(name="inst", categories=("reed", "string"), lo=0, hi=1),
    )
)
LONG = "name,time,value\n" + "".join(
    f"{name},{time / 20},{value}\n"
    for name, values in {"p": (60, 61.5, 64, 72), "a": (0.1, 0.5, 0.9, 1), "inst": (0, 1, 1, 0)}.items()
    for time, value in enumerate(values)
)
ABOVE = '#meta,"{""filename"": ""take.wav""}"\n#units,p=midiPitch\n' + LONG
WIDE = "time,p,a\n0,60,0.1\n0.05,61.5,\n0.1,64,0.9\n0.15,,1\n"
GESTURES = '#meta,"{""gestures"": true, ""sample_rate"": 16000, ""random_seed"": 7}"\n' + LONG
MANIFEST = "filename,inst,p,a\ntake.wav,0,60,0.5\nother/take 2.wav,1,64.5,\n./third.wav,1,72,0.25\n"
SCHEMA_TEXT = (
    "name,order,units,nvals,minval,maxval,lo,hi,scale,interp,outside,categories\n"
    "p,0,midiPitch,0,21,108,60,72,linear,linear,clip,\n"
    "a,1,,0,0,1,0.1,1,log,linear,allow,\n"
    "inst,2,category,2,0,1,0,1,linear,previous,error,reed|string\n"
)
PARAMS: dict[str, Any] = {
    "meta": {"filename": "take.wav"},
    "p": {"times": [0, 0.05, 0.1], "values": [60, 61.5, 64], "units": "midiPitch", "nvals": 0, "minval": 21},
    "a": {"times": [0.0, 0.5], "values": [0.1, 1], "units": None, "nvals": 0, "minval": 0.0, "maxval": 1.0},
}


def _table(text: str, name: str) -> Callable[[Random, Path], Path]:
    def make(rng: Random, folder: Path) -> Path:
        path = folder / name
        path.write_bytes(mutators.text_bytes(mutators.mutated_csv(text, rng), rng))
        return path

    return make


def _any_of(*makers: Callable[[Random, Path], T]) -> Callable[[Random, Path], T]:
    return lambda rng, folder: rng.choice(makers)(rng, folder)


def _json(rng: Random, folder: Path) -> Path:
    path = folder / "take.params"
    path.write_bytes(mutators.json_bytes(PARAMS, rng))
    return path


def check_curves(curves: Controls) -> None:
    """Curves are finite, go forward, and stay between their points at any rate."""
    for name, track in curves.items():
        if not (
            np.isfinite(track.times).all() and np.isfinite(track.values).all() and (np.diff(track.times) >= 0).all()
        ):
            raise Wrong(f"the curve {name} is none: {track}", "no curve")
        values = resample_track(track, 50.0, 60)
        low, high = track.values.min(), track.values.max()
        slack = 1e-5 * max(abs(low), abs(high)) + 1e-30
        if not (np.isfinite(values).all() and (values >= low - slack).all() and (values <= high + slack).all()):
            raise Wrong(f"{name} leaves its points: {values} of {track.values}", "leaves its points")


def attempt_curves(path: Path) -> str:
    """As training, --controls and `controls convert` read a file of curves."""
    outcome = "refused"
    for lenient in (False, True):
        file = judged(partial(read_control_file, path, lenient=lenient))
        if isinstance(file, Refusal):
            continue
        outcome = "read" if outcome == "refused" and not lenient else outcome
        written(file)
        curves = judged(file.tracks)
        if isinstance(curves, Refusal):
            continue
        outcome = "repaired" if outcome == "refused" else outcome
        for name in curves:
            judged(partial(file.declared, name))
        checked = judged(partial(check_curves, curves))
        if isinstance(checked, Refusal):
            raise Wrong(f"curves that were read cannot be followed: {checked.sentence}", "cannot be followed")
    return outcome


def written(file: ControlFile) -> None:
    """A document that was read is written in both forms and read again: JSON without loss, CSV with all points."""
    for suffix, text in ((".params", lambda: json_text(file.document)), (".csv", file.csv_text)):
        again = file.path.with_name(f"again{suffix}")
        told = judged(text)
        if isinstance(told, Refusal):
            if suffix == ".params" or not isinstance(judged(file.tracks), Refusal):
                raise Wrong(f"what was read cannot be written: {told.sentence}", f"not written {suffix}")
            continue
        again.write_text(told, encoding="utf-8", errors="surrogatepass", newline="")
        back = judged(partial(read_control_file, again))
        again.unlink()
        if isinstance(back, Refusal):
            raise Wrong(f"what was written as {suffix} cannot be read: {back.sentence}", f"not read again {suffix}")
        if points(back, suffix) != points(file, suffix):
            raise Wrong(f"written as {suffix}, {file.document} became {back.document}", f"changed by {suffix}")


def points(file: ControlFile, suffix: str) -> str:
    """What a form of file keeps."""
    kept = file.document
    if suffix == ".csv":
        kept = {name: [file.document[name][key] for key in ("times", "values")] for name in file.names}
        kept = {name: entry for name, entry in kept.items() if entry[0]}
    return json.dumps(kept, sort_keys=True)


def attempt_manifest(path: Path) -> str:
    """Constants are finite numbers, and come back when they are written."""
    found = judged(lambda: read_manifest(path))
    if isinstance(found, Refusal):
        return "refused"
    if not all(np.isfinite(list(constants.values())).all() for constants in found.rows.values()):
        raise Wrong(f"constants that are no numbers: {found.rows}", "no number")
    told = judged(lambda: manifest_text(found.rows))
    if isinstance(told, Refusal):
        raise Wrong(f"what was read cannot be written: {told.sentence}", "not written")
    path.write_text(told, encoding="utf-8", newline="")
    again = judged(lambda: read_manifest(path))
    if isinstance(again, Refusal) or again.rows != found.rows:
        raise Wrong(f"{found.rows} became {again}", "not read again")
    return "read"


def attempt_schema(path: Path) -> str:
    """A schema maps what lies in its ranges to [0, 1], and comes back when it is written."""
    found = judged(lambda: read_schema(path))
    if isinstance(found, Refusal):
        return "refused"
    for parameter in found.parameters:
        ends = judged(lambda parameter=parameter: parameter.normalise(parameter.span))
        if not isinstance(ends, Refusal) and not np.isfinite(ends).all():
            raise Wrong(f"{parameter} maps its ends to {ends}", "maps to what is none")
    path.write_text(schema_text(found), encoding="utf-8", newline="")
    again = judged(lambda: read_schema(path))
    if isinstance(again, Refusal) or again.names != found.names:
        raise Wrong(f"{found} became {again}", "not read again")
    return "read"


def make_array(rng: Random, folder: Path) -> Path:
    """Curves as an array [batch, length, features]."""
    array = np.random.default_rng(rng.randrange(3)).uniform(
        0, 1, rng.choice(((1, 5, 2), (1, 5, 2), (2, 40, 2), (5, 2)))
    )
    kind = rng.choice(("<f8", "<f8", "<f4", "<i8", ">f8", "?", "<c16", "<U3", "<f2", "<M8[s]"))
    file = io.BytesIO()
    np.save(file, array.astype(kind) if kind != "<M8[s]" else array.astype("<i8").astype(kind))
    header = rng.choice(
        (b"(1, 5, 2)", b"\xd31, 5, 2)", b"(-1, 5, 2)", b"(1, 5, 2, 0)", b"(10, 500000000, 2)", b"(1, ?, 2)")
    )
    content = file.getvalue().replace(b"(1, 5, 2)", header)
    path = folder / "curves.npy"
    path.write_bytes(content if rng.random() < 0.2 else mutators.mutated(content, rng))
    return path


def attempt_array(path: Path) -> str:
    """As --external_array is read."""
    found = judged(lambda: read_array(path, ("p", "a"), 100.0))
    if isinstance(found, Refusal):
        return "refused"
    for curves in found:
        check_curves(curves)
    return "read"


def make_folder(rng: Random, folder: Path) -> Path:
    """A corpus whose controls lie in all places, one or two of which are damaged."""
    files = {
        "params.csv": MANIFEST,
        "params_schema.csv": SCHEMA_TEXT,
        "take.csv": LONG.replace("inst", "b"),
        "other/take 2.csv": WIDE,
        "third.params": json.dumps(PARAMS),
    }
    for name in ("take.wav", "other/take 2.wav", "third.wav"):
        (folder / name).parent.mkdir(exist_ok=True)
        soundfile.write(folder / name, np.full(1600, 0.1), 16000)
    damaged = rng.sample(sorted(files), rng.choice((1, 1, 2)))
    for name, text in files.items():
        if name in damaged and name.endswith(".params"):
            content = mutators.json_bytes(PARAMS, rng)
        elif name in damaged:
            content = mutators.text_bytes(mutators.mutated_csv(text, rng), rng)
        else:
            content = text.encode()
        if name in damaged or rng.random() < 0.7:
            (folder / name).write_bytes(content)
    return folder


def attempt_folder(folder: Path) -> str:
    """As `controls check` and training look through a corpus."""
    sources = judged(lambda: find_control_sources(folder, name_params=("p",)))
    if isinstance(sources, Refusal):
        return "refused"
    found = judged(lambda: audit(sources))
    if isinstance(found, Refusal):
        raise Wrong(f"one file ends the whole check: {found.sentence}", "ends the check")
    assert isinstance(found, Audit)
    for sentence in (*found.faults, *found.remarks):
        if not sentence.strip() or len(sentence) > 1500:
            raise Wrong(f"told in {len(sentence)} characters: {sentence[:200]}", "long")
    return "faults" if found.faults else "in order"


# What is typed -------------------------------------------------------------------------------------------------------

_TYPED = ("p=64", "p=60:72", "p=0:60,0.5:72,1:64", "a=0.5", "inst=reed", "inst=0:0,0.5:1", "a=0:0.1,0.5:1,0.5:0.2")
_PIECES = (
    "=",
    ":",
    ",",
    ".",
    "-",
    "e",
    "0",
    "1e999",
    "nan",
    "inf",
    " ",
    "p",
    "reed",
    "1_0",
    "٣",
    "\0",
    "9" * 400,
    "-0",
    "",
)


def make_typed(rng: Random, folder: Path) -> list[str]:
    """What may stand behind --control."""
    texts = rng.sample(_TYPED, rng.choice((1, 1, 2, 3)))
    for _ in range(rng.choice((1, 1, 2, 4))):
        which = rng.randrange(len(texts))
        start = rng.randrange(len(texts[which]) + 1)
        texts[which] = texts[which][:start] + rng.choice(_PIECES) + texts[which][start + rng.choice((0, 0, 1, 3)) :]
    return texts


def attempt_typed(texts: Sequence[str]) -> str:
    """As generate.py reads and plays it."""
    found = judged(lambda: parse_controls(texts, seconds=SECONDS, schema=SCHEMA))
    if isinstance(found, Refusal):
        return "refused"
    check_curves(found)
    return follow(found)


def follow(found: Controls) -> str:
    """What a network would see of curves."""
    names = SCHEMA.names
    drawn = {**{name: Track.constant(name, value) for name, value in zip(names, (64, 0.5, 0), strict=True)}, **found}
    steered = judged(lambda: LiveControls(SCHEMA, 1, 16000, drawn=[drawn]).settings(0, 2048))
    if isinstance(steered, Refusal):
        return "refused"
    if not all(np.isfinite(array).all() for array in steered):
        raise Wrong(f"a network would see {steered}", "not finite")
    return "followed"


def attempt_gestures(path: Path) -> str:
    """As generate.py --controls reads and plays a performance."""
    found = judged(lambda: read_take(path))
    return "refused" if isinstance(found, Refusal) else follow(found[0])


# What recordings say -------------------------------------------------------------------------------------------------

TRANSCRIPTS = 'filename,text\ntake.wav,nine\nother/take 2.wav,"one, two"\nthird.wav,drei für mich\n'
METADATA = "take|Nine|nine\ntake 2|Dr. X|doctor x\nthird|a b|a b\n"


def make_transcripts(rng: Random, folder: Path) -> tuple[Path, str | int]:
    """The texts of a corpus, in either form."""
    if rng.random() < 0.5:
        return _table(TRANSCRIPTS, "text.csv")(rng, folder).parent, "text"
    text = mutators.mutated_csv(METADATA.replace("|", ","), rng).replace(",", "|")
    (folder / "metadata.csv").write_bytes(mutators.text_bytes(text, rng))
    return folder, rng.choice((1, 2, 2, 9, 0, -1))


def attempt_transcripts(given: tuple[Path, str | int]) -> str:
    """As a MelNet that reads looks for them, and encodes them."""
    found = judged(lambda: find_transcripts(*given))
    if isinstance(found, Refusal):
        return "refused"
    said = [normalised(text) for text in found[1].values() if text]
    codes = judged(lambda: [Alphabet.fit(said).encode(text) for text in said] if said else [])
    if isinstance(codes, Refusal):
        return "refused"
    return "read"


KINDS = [
    Kind(
        "curves csv",
        _any_of(_table(LONG, "take.csv"), _table(ABOVE, "take.csv"), _table(WIDE, "a.csv")),
        attempt_curves,
    ),
    Kind("curves params", _json, attempt_curves),
    Kind("curves npy", make_array, attempt_array),
    Kind("manifest", _table(MANIFEST, "params.csv"), attempt_manifest),
    Kind("schema", _table(SCHEMA_TEXT, "params_schema.csv"), attempt_schema),
    Kind("folder of controls", make_folder, attempt_folder, cost=2),
    Kind("transcripts", make_transcripts, attempt_transcripts),
    Kind("typed curves", make_typed, attempt_typed),
    Kind("gestures", _table(GESTURES, "gestures.csv"), attempt_gestures),
]


@pytest.mark.parametrize("kind", KINDS, ids=attrgetter("name"))
def test_damaged_parameters_are_read_or_refused(kind: Kind, tried: Callable[[Kind], None]) -> None:
    tried(kind)
