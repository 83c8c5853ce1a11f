"""`python -m tierwave controls`: what it writes, says and returns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tierwave.audio.writer import write_wav
from tierwave.cli import controls
from tierwave.cli.controls import main
from tierwave.controls.files import read_control_file
from tierwave.controls.sources import find_control_sources
from tierwave.controls.tables import read_manifest, read_schema
from tierwave.data.demo import make_corpus, make_tone

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for name, pitch in (("a_p60.wav", 60), ("deep/b_p72.00.wav", 72)):
        write_wav(folder / name, make_tone(0, pitch, 1.0, seconds=0.5), 16000)
    return folder


def test_extract_writes_curves_that_are_found_again(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "curves"
    flags = ["extract", str(recordings), "--param_dir", str(target), "--jobs", "1", "--hop", "20", "--window", "40"]
    assert main([*flags, "--features", "rmse,centroid", "midi"]) == 0
    assert "2 of 2 recordings measured: rmse, centroid, midi, voicing" in capsys.readouterr().out
    found = find_control_sources(recordings, param_dir=target).controls_of(recordings / "deep" / "b_p72.00.wav")
    assert list(found) == ["rmse", "centroid", "midi", "voicing"]
    assert np.median(found["midi"].values) == pytest.approx(72, abs=0.1)
    assert found["rmse"].times.tolist() == pytest.approx(0.02 * np.arange(26))
    file = read_control_file(target / "deep" / "b_p72.00.csv")
    assert file.document["meta"] == {"filename": "b_p72.00.wav"}
    assert [file.declared(name) for name in found] == [
        {"units": unit} for unit in ("amplitude", "hertz", "midiPitch", "category")
    ]


def test_extract_adds_to_a_file_and_replaces_only_when_told(
    recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recordings / "a_p60.params"
    path.write_text(
        json.dumps({"meta": {"filename": "kept.wav"}, "fill": {"times": [0], "values": [1], "units": None}})
    )
    flags = ["extract", str(recordings / "a_p60.wav"), "--jobs", "1", "--format", "params", "--features", "rmse"]
    assert main(flags) == 0
    document = json.loads(path.read_text())
    assert list(document) == ["meta", "fill", "rmse"] and document["meta"] == {"filename": "kept.wav"}
    capsys.readouterr()
    assert main([*flags, "--sample_rate", "8000"]) == 0
    output = capsys.readouterr().out
    assert "0 of 1 recordings measured" in output and "1 of them had all of these curves already" in output
    assert main([*flags, "zcr"]) == 1
    output = capsys.readouterr()
    assert "has rmse already: --overwrite replaces them" in output.out and "none of the 1" in output.err
    assert main([*flags, "--overwrite"]) == 0


def test_extract_tells_what_is_odd_about_a_recording(recordings: Path, capfd: pytest.CaptureFixture[str]) -> None:
    half = recordings / "a_p60.wav"
    half.write_bytes(half.read_bytes()[:8044])
    assert main(["extract", str(half), "--features", "rmse", "--jobs", "1"]) == 0
    said = capfd.readouterr()
    assert f"{half}: it holds 0.500 s by its header, 0.250 s could be read: it is cut off" in said.out
    assert "AudioWarning" not in said.err


def test_extract_names_what_it_cannot_use(recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (recordings / "c.wav").write_text("no sound")
    assert main(["extract", str(recordings), "--features", "zcr", "--jobs", "1"]) == 0
    output = capsys.readouterr().out
    assert "c.wav" in output and "2 of 3 recordings measured" in output


@pytest.mark.slow
def test_extract_in_processes_of_its_own(recordings: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tierwave",
        "controls",
        "extract",
        str(recordings),
        "--features",
        "rmse",
        "--jobs",
        "2",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 recordings measured" in done.stdout
    assert (recordings / "a_p60.csv").exists() and (recordings / "deep" / "b_p72.00.csv").exists()


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_extract_by_processes_writes_the_same_bytes(recordings: Path, tmp_path: Path) -> None:
    write_wav(recordings / "c.wav", np.zeros(8000, np.float32) + 0.1, 16000)
    (recordings / "d.wav").write_text("no sound")
    for jobs in ("1", "2"):
        flags = ["extract", str(recordings), "--param_dir", str(tmp_path / jobs), "--jobs", jobs]
        assert main([*flags, "--features", "rmse", "flatness"]) == 0
    assert tree(tmp_path / "1") == tree(tmp_path / "2") and len(tree(tmp_path / "1")) == 3


def test_extract_goes_on_where_it_was_interrupted(
    recordings: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["extract", str(recordings), "--features", "rmse", "--jobs", "1"]
    assert main(flags) == 0
    whole = tree(recordings)
    (recordings / "deep" / "b_p72.00.csv").unlink()
    (recordings / f".{'0a' * 16}.part").touch()  # as a process leaves that is killed
    measured = []
    measure = controls.measure
    monkeypatch.setattr(controls, "measure", lambda *given: (measured.append(1), measure(*given))[1])
    capsys.readouterr()
    assert main(flags) == 0
    output = capsys.readouterr().out
    assert "1 of 2 recordings measured" in output and "1 of them had all of these curves already" in output
    assert len(measured) == 1 and tree(recordings) == whole


def test_extract_refuses_two_recordings_whose_curves_differ_in_case_only(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (recordings / "a_p60.wav").rename(recordings / "a.wav")
    write_wav(recordings / "A.wav", make_tone(0, 60, 1.0, seconds=0.3), 16000)
    if len(list(recordings.glob("[aA].wav"))) < 2:
        pytest.skip("this disk has one file for both names")
    assert main(["extract", str(recordings), "--param_dir", str(tmp_path / "curves"), "--jobs", "1"]) == 2
    error = capsys.readouterr().err
    assert "A.wav" in error and "a.wav would share" in error and not (tmp_path / "curves").exists()


def test_convert_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in"
    (source / "deep").mkdir(parents=True)
    document = {"meta": {"filename": "x"}, "a, b": {"times": [0, 1.0], "values": [float("nan"), 5e-324]}}
    for path in (source / "x.params", source / "deep" / "y_a00.30.params"):
        path.write_text(json.dumps(document, indent=4))
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "params.csv").write_text("filename,p\nx.wav,1\n")
    (tmp_path / "csv" / "params_schema.csv").write_text("name\np\n")
    assert main(["convert", str(source), str(tmp_path / "csv"), "--to", "csv"]) == 0
    assert main(["convert", str(tmp_path / "csv"), str(tmp_path / "out"), "--to", "params"]) == 0
    assert "Not in the CSV" not in capsys.readouterr().out
    written = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert [path.relative_to(tmp_path / "out").as_posix() for path in written] == ["deep/y_a00.30.params", "x.params"]
    assert all(path.read_bytes() == (source / "x.params").read_bytes() for path in written)


def test_convert_reports_repairs_and_never_replaces_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "x.params", tmp_path / "x.csv"
    source.write_text('{"p": {"times": [0, 1], "values": [5, 6,]}}')
    assert main(["convert", str(source), str(target)]) == 1
    assert "is not JSON" in capsys.readouterr().err and not target.exists()
    assert main(["convert", str(source), str(target), "--lenient"]) == 0
    assert "1 commas before a closing bracket" in capsys.readouterr().out
    assert main(["convert", str(source), str(target), "--lenient"]) == 1
    assert "x.csv is there already: --overwrite replaces it" in capsys.readouterr().err
    source.write_text('{"p": {"times": [0, 1], "values": [5, 6], "nvals": 2, "maxval": null}, "notes": "loud"}')
    assert main(["convert", str(source), str(target), "--overwrite"]) == 0
    assert "Not in the CSV, which holds points, units and meta: nvals, notes" in capsys.readouterr().out
    (tmp_path / "folder").mkdir()
    for name, text in (("a", "{"), ("b", "{}")):
        (tmp_path / "folder" / f"{name}.params").write_text(text)
    assert main(["convert", str(tmp_path / "folder"), str(tmp_path / "out"), "--to", "csv"]) == 1
    assert "1 files could not be converted" in capsys.readouterr().err and (tmp_path / "out" / "b.csv").exists()


def test_manifest_fit_and_check_of_the_demo_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_corpus(tmp_path, pitches=(60, 64, 67), loudnesses=(0.25, 1.0), seconds=0.3)
    made = read_manifest(tmp_path / "params.csv")
    flags = ["manifest", str(tmp_path), "--name_params", "inst,p,a", "--units", "inst=category", "p=midiPitch"]
    assert main(flags) == 2
    assert "params.csv is there already" in capsys.readouterr().err
    assert main([*flags, "--overwrite"]) == 0
    assert read_manifest(tmp_path / "params.csv").rows == made.rows
    assert read_schema(tmp_path / "params_schema.csv").of("p").units == "midiPitch"
    assert main(["fit", str(tmp_path), "--val_frac", "0.2"]) == 0
    assert "p: 60 to 67 midiPitch (linear)" in capsys.readouterr().out
    fitted = read_schema(tmp_path / "params_schema.csv")
    # Every combination stays in training, so every range is whole.
    assert [parameter.span for parameter in fitted.parameters] == [(0, 2), (60, 67), (0.25, 1)]
    assert main(["check", str(tmp_path), "--name_params", "inst", "p", "a"]) == 0
    output = capsys.readouterr().out
    assert "18 recordings, 3 controls: all in order" in output and "60 64 67" in output
    (tmp_path / "params.csv").unlink()
    assert main(["check", str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert output.out.count("Fault: ") == 20 and "54 faults in 18 recordings: see above, and --all shows" in output.err
    assert main(["check", str(tmp_path), "--all"]) == 1
    assert capsys.readouterr().out.count("Fault: ") == 54


def test_manifest_by_pattern(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("reed-070-127.wav", "brass-071-127.wav"):
        write_wav(tmp_path / name, make_tone(0, 60, 1.0, seconds=0.3), 16000)
    assert main(["manifest", str(tmp_path), "--name_pattern", r"(?P<inst>[^/]+)-(?P<p>\d+)-(?P<velocity>\d+)$"]) == 0
    assert "inst 0 is brass" in capsys.readouterr().out
    assert read_manifest(tmp_path / "params.csv").rows["reed-070-127.wav"] == {"inst": 1, "p": 70, "velocity": 127}
    assert read_schema(tmp_path / "params_schema.csv").of("inst").categories == ("brass", "reed")
    for flags in ([], ["--name_params", "p", "--name_pattern", "x"]):
        assert main(["manifest", str(tmp_path), *flags]) == 2
        assert "give --name_params or --name_pattern" in capsys.readouterr().err


def test_fit_sees_only_what_is_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run's split says that the second half of the curve is held out."""
    data, run = tmp_path / "data", tmp_path / "run"
    write_wav(data / "x.wav", make_tone(0, 60, 1.0, seconds=1.0), 16000)
    (data / "x.csv").write_text("name,time,value\nrmse,0,0.25\nrmse,1,1.25\nlevel,0,1\n")
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"sample_rate": 16000, "corpus": {}}))
    split = {"method": "stretches", "train": [["x.wav", 0, 8000]], "valid": [["x.wav", 8000, 16000]], "test": []}
    (run / "split.json").write_text(json.dumps(split))
    output = tmp_path / "fitted.csv"
    assert main(["fit", str(data), "--run", str(run), "--output_path", str(output), "--names", "rmse", "level"]) == 0
    assert "level: 1 to 1 (linear, constant: it cannot steer anything)" in capsys.readouterr().out
    assert read_schema(output).of("rmse").span == pytest.approx((0.25, 0.75))
    assert main(["fit", str(data), "--val_frac", "0", "--schema", str(output), "--output_path", str(output)]) == 0
    assert read_schema(output).of("rmse").span == pytest.approx((0.25, 0.75))  # what is given stays
    assert main(["fit", str(data), "--val_frac", "0", "--schema", str(output), "--refit"]) == 0
    assert read_schema(output).of("rmse").span == (0.25, 1.25)
    split["train"] = [["y.wav", 0, 8000]]
    (run / "split.json").write_text(json.dumps(split))
    assert main(["fit", str(data), "--run", str(run)]) == 2
    assert "was trained on y.wav, which" in capsys.readouterr().err


def test_plot_draws_held_ends_and_steps(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import tierwave.analysis.plots as pictures

    drawn: dict = {}
    original = pictures.sound_picture
    monkeypatch.setattr(
        pictures, "sound_picture", lambda *given, **named: (drawn.update(named), original(*given, **named))
    )
    (recordings / "a_p60.csv").write_text(
        "#units,gate=category\nname,time,value\np,0.1,60\np,0.2,62\ngate,0,0\ngate,0.25,1\n"
    )
    png = tmp_path / "new" / "x.png"
    assert main(["plot", str(recordings / "a_p60.wav"), "--output_path", str(png)]) == 0
    assert png.read_bytes().startswith(b"\x89PNG") and png.stat().st_size > 10_000
    assert list(drawn["curves"]) == ["p", "gate"]
    times, values = drawn["curves"]["p"]
    assert np.interp([0, 0.15, 0.5], times, values).tolist() == pytest.approx([60, 61, 62])
    times, values = drawn["curves"]["gate"]
    assert np.interp([0.249, 0.251, 0.5], times, values).tolist() == pytest.approx([0, 1, 1])
    assert main(["plot", str(recordings / "deep" / "b_p72.00.wav")]) == 1
    assert "has no controls: run extract" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "extract"),
        (["exract"], 2, "'exract' is no verb; did you mean extract?"),
        (["extract", "{none}"], 2, "There is no file or folder"),
        (["extract", "{empty}"], 1, "no recording was found under"),
        (["extract", "{data}", "--features", "loudness"], 2, "there is no feature loudness"),
        (["extract", "{data}", "--jobs", "0"], 2, "--jobs 0"),
        (["extract", "gs://bucket/corpus"], 2, "gs://bucket/corpus is no folder of this machine"),
        (["extract", "{data}", "--hops", "3"], 2, "--hops is not a flag; did you mean --hop?"),
        (["convert", "{none}", "x.csv"], 2, "there is no file or folder"),
        (["convert", "{data}", "x"], 2, "say what to make of it, --to csv or --to params"),
        (["convert", "{data}", "x", "--to", "csv"], 1, "there is no .params file with curves"),
        (["convert", "{file}", "x.txt"], 2, "must end in .csv or .params"),
        (["fit", "{data}", "--val_frac", "0.9", "--test_frac", "0.2", "--name_params", "p"], 2, "their sum below 1"),
        (["fit", "{data}"], 1, "run extract or manifest first"),
        (["check", "{empty}"], 1, "no recording was found"),
        (["manifest", "{data}", "--name_params", "q"], 1, "a_p60.wav has no control q"),
        (["manifest", "{data}", "--name_params", "p", "--units", "hertz"], 2, "--units hertz is not NAME=UNIT"),
        (["plot", "{none}"], 2, "there is no recording"),
    ],
)
def test_wrong_use_is_one_sentence(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    places = {
        "none": tmp_path / "none",
        "empty": tmp_path / "empty",
        "data": recordings,
        "file": recordings / "a_p60.wav",
    }
    try:
        got = main([word.format(**places) for word in words])
    except SystemExit as leaving:
        got = leaving.code
    assert got == code
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    output = capsys.readouterr().out
    assert all(verb in output for verb in controls.VERBS)
    for verb in controls.VERBS:
        with pytest.raises(SystemExit) as leaving:
            main([verb, "--help"])
        assert leaving.value.code == 0


def test_the_module_is_light_and_runs() -> None:
    code = (
        "import sys, tierwave.analysis.features; from tierwave.controls import files, sources, tracks; "
        "print([name for name in ('tensorflow', 'librosa', 'matplotlib', 'scipy', 'pydub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    command = [sys.executable, "-m", "tierwave", "controls", "--help"]
    assert "extract" in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
