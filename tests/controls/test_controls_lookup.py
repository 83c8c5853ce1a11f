"""Which controls belong to which recording: order, contradictions, file names, and the audit of a corpus."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tierwave.audio.writer import write_wav
from tierwave.controls.check import audit
from tierwave.controls.files import write_controls
from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.sources import (
    find_control_sources,
    name_parameter,
    pattern_manifest,
    unused_manifest,
    without_audio_suffix,
)
from tierwave.controls.tables import schema_text
from tierwave.controls.tracks import Track
from tierwave.errors import RunError, UsageError

EXAMPLE_NAME = "nsynth_instID02.00_p76.00_a00.30.wav"


def sound(path: Path, seconds: float = 0.5) -> Path:
    time = np.arange(round(seconds * 8000)) / 8000
    write_wav(path, 0.5 * np.sin(2 * np.pi * 440 * time), 8000)
    return path


def curves(path: Path, **tracks: float | list[tuple[float, float]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = {
        name: Track.from_events(name, given) if isinstance(given, list) else Track.constant(name, given)
        for name, given in tracks.items()
    }
    write_controls(path, made)
    return path


def values(controls: dict) -> dict[str, float]:
    return {name: float(track.values[0]) for name, track in controls.items()}


# ---- file names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file_name", "name", "value"),
    [
        (EXAMPLE_NAME, "instID", 2.0),
        (EXAMPLE_NAME, "p", 76.0),
        (EXAMPLE_NAME, "a", 0.3),
        (EXAMPLE_NAME, "q", None),
        ("demo_inst00.00_p64.00_a00.50.wav", "inst", 0.0),
        ("x_p76.wav", "p", 76.0),  # dropped without a word by RNNControl
        ("x_p76", "p", 76.0),
        ("x_p76_a1.wav", "p", 76.0),
        ("x_p76_a1.wav", "a", 1.0),
        ("x_p-1.5_chunk_12.wav", "p", -1.5),
        ("x_p-3-a.wav", "p", -3.0),
        ("x_a00.30", "a", 0.3),  # no suffix, whatever the dot suggests
        ("x_a00.30.FLAC", "a", 0.3),
        ("x_p76.00b.wav", "p", 76.0),  # as RNNControl reads it
        ("x_p76b.wav", "p", None),
        ("x_pitch76.wav", "p", None),
        ("xp76.wav", "p", None),
        ("folder_p1.00/x_p2.00.wav", "p", 2.0),
        ("x_a.b5.wav", "a.b", 5.0),
        ("x_aXb5.wav", "a.b", None),
    ],
)
def test_parameters_in_file_names(file_name: str, name: str, value: float | None) -> None:
    assert name_parameter(file_name, name) == value


def test_a_file_name_must_not_contradict_itself() -> None:
    assert name_parameter("x_p64_p64.00.wav", "p") == 64
    with pytest.raises(RunError, match="x_p64_p65.wav has two values of p, 64 and 65"):
        name_parameter("x_p64_p65.wav", "p")


def test_suffixes_are_only_those_of_audio() -> None:
    assert [without_audio_suffix(name) for name in ("a.wav", "b/a00.30", "a00.30.wav", "x.Ogg", "x")] == [
        "a", "b/a00.30", "a00.30", "x", "x",
    ]  # fmt: skip


def test_nsynths_names_become_a_manifest_and_categories() -> None:
    names = ["reed_acoustic_000-070-127.wav", "sub/brass_acoustic_018-071-100.flac", "brass_acoustic_018-072-127.wav"]
    rows, schema = pattern_manifest(names, r"(?P<inst>[^/]+)-(?P<p>\d+)-(?P<velocity>\d+)$", {"p": "midiPitch"})
    assert rows == {
        names[0]: {"inst": 1, "p": 70, "velocity": 127},
        names[1]: {"inst": 0, "p": 71, "velocity": 100},
        names[2]: {"inst": 0, "p": 72, "velocity": 127},
    }
    assert schema.of("inst").categories == ("brass_acoustic_018", "reed_acoustic_000")
    assert (schema.of("inst").span, schema.of("p").units, schema.of("p").lo) == ((0, 1), "midiPitch", None)


@pytest.mark.parametrize(
    ("pattern", "units", "error", "message"),
    [
        ("(", {}, UsageError, "is no regular expression"),
        (r"\d+", {}, UsageError, "names nothing"),
        (r"(?P<p>\d+)", {"q": "hertz"}, UsageError, "a unit is given for q, but the pattern has p"),
        (r"^(?P<p>\d+)$", {}, RunError, "the name of 7x.wav does not fit"),
        (r"(?P<p>\d+)(?P<q>z)?", {}, RunError, "does not fit"),
        (r"(?P<p>\d+)", {"p": "midipich"}, UsageError, "did you mean midiPitch"),
    ],
)
def test_patterns_that_do_not_do(pattern: str, units: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pattern_manifest(["5.wav", "7x.wav"], pattern, units)


# ---- lookup ----------------------------------------------------------------------------------------------------------


def test_the_first_source_wins_and_the_last_is_the_name(tmp_path: Path) -> None:
    data, params = tmp_path / "data", tmp_path / "params"
    recording = sound(data / "deep" / "x_p64_a00.50.wav")
    curves(params / "deep" / "x_p64_a00.50.csv", rmse=0.25)
    curves(params / "deep" / "x_p64_a00.50.params", centroid=1000)
    (params / "params.csv").write_text("filename,inst\ndeep/x_p64_a00.50.wav,2\n")
    sources = find_control_sources(data, param_dir=params, name_params=["p", "a"])
    found = sources.controls_of(recording)
    assert values(found) == {"rmse": 0.25, "centroid": 1000, "inst": 2, "p": 64, "a": 0.5}
    assert found["p"].source == "its file name" and found["rmse"].source.endswith("x_p64_a00.50.csv")
    assert list(sources.controls_of("deep/x_p64_a00.50.wav", ["a", "rmse"])) == ["a", "rmse"]


def test_sources_may_agree_but_not_differ(tmp_path: Path) -> None:
    recording = sound(tmp_path / "x_p64.wav")
    curves(tmp_path / "x_p64.csv", p=[(0, 64), (0.5, 64)])
    manifest = tmp_path / "params.csv"
    manifest.write_text("filename,p\nx_p64.wav,64\n")
    sources = find_control_sources(tmp_path, name_params=["p"])
    assert len(sources.controls_of(recording)["p"].times) == 2
    manifest.write_text("filename,p\nx_p64.wav,65\n")
    sources = find_control_sources(tmp_path, name_params=["p"])
    with pytest.raises(
        RunError, match=r"p of x_p64.wav is 64 in .*x_p64.csv, but 65 in .*params.csv: correct or remove"
    ):
        sources.controls_of(recording)
    curves(tmp_path / "x_p64.params", p=[(0, 64), (0.5, 65)])
    manifest.unlink()
    with pytest.raises(RunError, match=r"64 in .*x_p64.csv, but a curve of 2 points in .*x_p64.params"):
        find_control_sources(tmp_path).controls_of(recording)


def test_a_missing_name_is_an_error_that_names_the_file_and_where_it_was_looked_for(tmp_path: Path) -> None:
    recording = sound(tmp_path / "x_p64.wav")
    with pytest.raises(
        RunError, match=r"x_p64.wav has no control q \(it has none at all\); looked for in .*x_p64.csv, "
    ):
        find_control_sources(tmp_path).controls_of(recording, ["q"])
    with pytest.raises(RunError, match=r"no control p \(it stands in the file name, which --name_params p reads\)"):
        find_control_sources(tmp_path).controls_of(recording, ["p"])
    with pytest.raises(RunError, match=r"no control q \(it has p\); looked for in .*, its file name"):
        find_control_sources(tmp_path, name_params=["p", "q"]).controls_of(recording, ["p", "q"])
    assert find_control_sources(tmp_path).controls_of(recording) == {}


def test_one_sound_with_its_own_curves(tmp_path: Path) -> None:
    """MTCRNN's single-file mode fails for nested sets; the stem's dots are no suffix."""
    recording = sound(tmp_path / "data" / "nested" / "x_a00.30.wav")
    gesture = curves(tmp_path / "gesture.csv", a=[(0, 0), (1, 1)])
    sources = find_control_sources(recording, params=gesture)
    assert len(sources.controls_of(recording)["a"].times) == 2
    curves(tmp_path / "params" / "nested" / "x_a00.30.params", p=5)
    both = find_control_sources(tmp_path / "data", param_dir=tmp_path / "params")
    assert values(both.controls_of(recording)) == {"p": 5}
    with pytest.raises(UsageError, match="gesture.csv holds curves of one sound, and .*data is a folder"):
        find_control_sources(tmp_path / "data", params=gesture).controls_of(recording)


def test_params_may_be_a_manifest_but_only_one(tmp_path: Path) -> None:
    recording = sound(tmp_path / "data" / "x.wav")
    manifest = tmp_path / "all.csv"
    manifest.write_text("filename,p\nx.wav,64\n")
    assert values(find_control_sources(tmp_path / "data", params=manifest).controls_of(recording)) == {"p": 64}
    with pytest.raises(UsageError, match="are both manifests"):
        find_control_sources(tmp_path / "data", params=manifest, manifest=manifest)


def test_places_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no recording or folder"):
        find_control_sources(tmp_path / "none")
    with pytest.raises(UsageError, match="--param_dir .*none is no folder"):
        find_control_sources(tmp_path, param_dir=tmp_path / "none")
    for flag in ("params", "manifest", "schema"):
        with pytest.raises(UsageError, match="there is no"):
            find_control_sources(tmp_path, **{flag: tmp_path / "none.csv"})


def test_a_broken_curve_that_nobody_asks_for_does_no_harm(tmp_path: Path) -> None:
    recording = sound(tmp_path / "x.wav")
    (tmp_path / "x.params").write_text(
        json.dumps({"p": {"times": [0], "values": [1]}, "q": {"times": [0], "values": []}})
    )
    sources = find_control_sources(tmp_path)
    assert values(sources.controls_of(recording, ["p"])) == {"p": 1}
    with pytest.raises(RunError, match="q in .*x.params has 1 times but 0 values"):
        sources.controls_of(recording)


def test_schema_from_its_file_and_from_what_curves_declare(tmp_path: Path) -> None:
    recordings = [sound(tmp_path / "x.wav"), sound(tmp_path / "y.wav")]
    for path, high in zip(recordings, (1.0, 3.0), strict=True):
        entry = {"times": [0], "values": [1], "units": "category", "nvals": 2, "minval": -high, "maxval": high}
        path.with_suffix(".params").write_text(json.dumps({"q": entry}))
    sources = find_control_sources(tmp_path)
    declared = Parameter(name="q", units="category", nvals=2, minval=-3, maxval=3)
    assert sources.schema_of(recordings) == Schema(parameters=(declared,))
    assert sources.schema_of(recordings, ["p", "q"]) == Schema(parameters=(Parameter(name="p"), declared))
    given = Parameter(name="p", lo=0, hi=1)
    (tmp_path / "params_schema.csv").write_text(schema_text(Schema(parameters=(given,))))
    sources = find_control_sources(tmp_path)
    assert sources.schema_of(recordings).parameters == (given,)
    assert sources.schema_of(recordings, ["q", "p"]).parameters == (declared, given)
    recordings[1].with_suffix(".params").write_text(json.dumps({"q": {"times": [0], "values": [1], "units": "hertz"}}))
    with pytest.raises(RunError, match="the units of q are hertz for y.wav, but category before"):
        sources.schema_of(recordings, ["q"])


@pytest.mark.parametrize("text", ["file,p\nx.wav,1\n", "filename|p\nx.wav|1\n", "Filename,p\nx.wav,1\n", "", "p\0"])
def test_a_manifest_that_is_there_is_read_or_refused(tmp_path: Path, text: str) -> None:
    sound(tmp_path / "x.wav")
    (tmp_path / "params.csv").write_text(text)
    with pytest.raises(RunError, match=r"params\.csv"):
        find_control_sources(tmp_path)


def test_a_manifest_in_other_letters_is_found(tmp_path: Path) -> None:
    sound(tmp_path / "x.wav")
    (tmp_path / "Params.CSV").write_bytes("\ufefffilename;p\r\nx.wav;60,5\r\n".encode())
    assert values(find_control_sources(tmp_path).controls_of("x.wav")) == {"p": 60.5}
    assert "Params.CSV is not used" in unused_manifest(tmp_path)[0]


def test_a_manifest_that_is_not_used_is_told(tmp_path: Path) -> None:
    sound(tmp_path / "data" / "x.wav")
    (tmp_path / "curves").mkdir()
    for path, value in (("data/params.csv", 1), ("curves/params.csv", 2), ("other.csv", 3)):
        (tmp_path / path).write_text(f"filename,p\nx.wav,{value}\n")
    data, both = tmp_path / "data", {"param_dir": tmp_path / "curves"}
    for given, value, told in (
        ({}, 1, []),
        (both, 2, ["data"]),
        ({"params": tmp_path / "other.csv"}, 3, ["data"]),
        ({"params": data / "params.csv"}, 1, []),
        ({**both, "manifest": tmp_path / "other.csv"}, 3, ["curves", "data"]),
    ):
        sources = find_control_sources(data, **given)
        assert values(sources.controls_of("x.wav")) == {"p": value}
        assert [remark.startswith(f"{tmp_path / name / 'params.csv'} is not used, since") for name, remark in zip(
            told, sources.remarks, strict=True
        )] == [True] * len(told)  # fmt: skip


def test_curves_of_a_sound_named_params_are_no_manifest(tmp_path: Path) -> None:
    sound(tmp_path / "x.wav")
    (tmp_path / "params.csv").write_text("time;p\n0;1,5\n")
    assert "there is none named params" in find_control_sources(tmp_path).remarks[0]
    sound(tmp_path / "params.wav")
    sources = find_control_sources(tmp_path)
    assert sources.remarks == () and values(sources.controls_of("params.wav")) == {"p": 1.5}


# ---- audit -----------------------------------------------------------------------------------------------------------


def test_an_orderly_corpus_has_no_faults(tmp_path: Path) -> None:
    for number, pitch in enumerate((64, 65, 64)):
        path = sound(tmp_path / f"{number}.wav")
        curves(path.with_suffix(".csv"), p=pitch, rmse=[(0, 0.1), (0.25, 0.5), (0.49, 0.25)])
    found = audit(find_control_sources(tmp_path))
    assert (found.recordings, found.faults, found.remarks) == (3, (), ())
    assert (found.ranges["p"].recordings, found.ranges["p"].values) == (3, {64, 65})
    assert (found.ranges["rmse"].lowest, found.ranges["rmse"].highest) == (0.1, 0.5)


def test_every_fault_of_a_corpus_is_told_once(tmp_path: Path) -> None:
    faulty = {
        "a": {"p": {"times": [0, 0.5], "values": [64, float("nan")]}},
        "b": {"p": {"times": [0, 0.2], "values": [64, 65]}},
        "c": {"p": {"times": [0.3, 1.5], "values": [64, 65]}},
        "d": {"p": {"times": [0], "values": [90], "units": "midiPitch", "minval": 60, "maxval": 80}},
        "e": {"q": {"times": [0], "values": [1]}},
        "f": {"p": {"times": [0, 0.3, 0.2], "values": [64, 64, 64]}},
        "h": {"p": {"times": [0], "values": [66]}},
    }
    for stem, document in faulty.items():
        sound(tmp_path / f"{stem}.wav")
        (tmp_path / f"{stem}.params").write_text(json.dumps(document))
    sound(tmp_path / "g.wav")
    (tmp_path / "g.params").write_text("{")
    (tmp_path / "h.wav").write_text("no sound")
    found = audit(find_control_sources(tmp_path), ["p"])
    expected = [
        "g.params is not JSON",
        "a.params holds nan at 0.5 s (1 of 2 values)",
        "ends at 0.20 s, and the sound lasts 0.50 s",
        "begins at 0.30 s",
        "runs from 0.30 to 1.50 s, and the sound lasts only 0.50 s",
        "p of d.wav goes from 90 to 90, beyond the declared 60 to 80",
        "e.wav has no control p (it has q)",
        "f.params goes back in time at point 3",
        "h.wav",
    ]
    assert len(found.faults) == len(expected)
    for text in expected:
        assert sum(text in fault for fault in found.faults) == 1, (text, found.faults)
    assert found.ranges["p"].recordings == 4


def test_what_is_mapped_or_declared_is_held_against_the_values(tmp_path: Path) -> None:
    for number in range(3):
        sound(tmp_path / f"x_p{number}.wav")
    schema = Schema(parameters=(Parameter(name="p", nvals=2, lo=0, hi=1),))
    (tmp_path / "params_schema.csv").write_text(schema_text(schema))
    found = audit(find_control_sources(tmp_path, name_params=["p"]))
    assert found.faults == (
        "p of x_p2.wav goes from 2 to 2, beyond the mapped 0 to 1",
        "p has more different values than its nvals says, 2",
    )


def test_remarks_on_constants_and_repairs_and_a_corpus_without_anything(tmp_path: Path) -> None:
    for stem in "xy":
        sound(tmp_path / f"{stem}.wav")
    assert "has any control" in audit(find_control_sources(tmp_path)).faults[0]
    for stem in "xy":
        (tmp_path / f"{stem}.params").write_text('{"p": {"times": [0], "values": [5,]}}')
    found = audit(find_control_sources(tmp_path, lenient=True))
    assert found.faults == () and len(found.remarks) == 3
    assert found.remarks[-1] == "p is 5 everywhere, so it cannot steer anything"


def test_an_analysis_may_end_a_hop_early(tmp_path: Path) -> None:
    sound(tmp_path / "x.wav", seconds=2.0)
    curves(tmp_path / "x.csv", p=[(0.4 * step, step) for step in range(5)])
    assert audit(find_control_sources(tmp_path)).faults == ()
    curves(tmp_path / "x.csv", p=[(0.3 * step, step) for step in range(5)])
    assert "ends at 1.20 s" in audit(find_control_sources(tmp_path)).faults[0]


def test_a_chunk_has_the_constants_of_the_recording_it_was_cut_from(tmp_path: Path) -> None:
    for name in ("a_chunk_0.wav", "a_chunk_1.wav", "b_chunk_0.wav"):
        write_wav(tmp_path / name, np.zeros(100, np.float32), 8000)
    (tmp_path / "params.csv").write_text("filename,p\na.wav,64\na_chunk_1.wav,65\nb,70\n")
    sources = find_control_sources(tmp_path)
    found = {name: sources.controls_of(name, ["p"])["p"].values[0] for name in ("a_chunk_0.wav", "a_chunk_1.wav")}
    assert found == {"a_chunk_0.wav": 64.0, "a_chunk_1.wav": 65.0}  # its own row, where it has one
    assert sources.controls_of("b_chunk_0.wav", ["p"])["p"].values[0] == 70.0


def test_what_is_there_for_no_recording_is_named(tmp_path: Path) -> None:
    for name in ("a.wav", "deep/b_chunk_0.wav", "fl\u006f\u0308te.wav"):
        sound(tmp_path / "data" / name)
    rows = ["a.wav", "b.wav", "fl\u00f6te", "s9.wav", *(f"t{number}.wav" for number in range(9))]
    (tmp_path / "data" / "params.csv").write_text("\n".join(["filename,p", *(f"{row},1" for row in rows)]) + "\n")
    (tmp_path / "data" / "params_schema.csv").write_text("name,lo,hi\np,0,2\nq,0,1\n")
    curves(tmp_path / "curves" / "a.csv", r=1)
    curves(tmp_path / "curves" / "c.params", r=1)
    sources = find_control_sources(tmp_path / "data", param_dir=tmp_path / "curves")
    names = ["a.wav", "deep/b_chunk_0.wav", "fl\u006f\u0308te.wav"]
    rows_told, curves_told, schema_told = sources.strays(names)
    assert "params.csv has rows for s9.wav, t0.wav, t1.wav, of which there is no recording (and 7 more)" in rows_told
    assert f"{tmp_path / 'curves'} has curves for c.params, of which there is no recording" in curves_told
    assert "the schema describes q, which no recording has" in schema_told
    assert set(sources.strays(names)) <= set(audit(sources, ["p"]).remarks)
