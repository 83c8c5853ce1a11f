"""Names that are no UTF-8, and names in two Unicode forms: shown, kept, and found again."""

from __future__ import annotations

import io
import json
import os
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import chunk_audio
from melnet.text import Texts
from tierwave.audio.finding import find_audio
from tierwave.audio.quantize import Quantizer
from tierwave.audio.recordings import load
from tierwave.audio.writer import write_wav
from tierwave.cli.controls import main as controls
from tierwave.cli.running import run
from tierwave.controls.files import read_take
from tierwave.controls.parse import read_array
from tierwave.controls.sources import find_control_sources
from tierwave.data.cache import load_corpus
from tierwave.data.corpus import Corpus, summary
from tierwave.data.splits import Span, Split, find_sources
from tierwave.errors import RunError, UsageError
from tierwave.evaluation.report.collect import _recordings
from tierwave.files.folders import chunk_stem
from tierwave.files.names import ESCAPED, folded, json_text, located, matcher, printable
from tierwave.files.writing import write_text
from tierwave.runs.folder import Run, find_checkpoint
from tierwave.training.checks import refuse_other_corpus

RATE = 4000
ODD = os.fsdecode(b"fl\xf6te.wav")
NFC = "flöte.wav"
NFD = unicodedata.normalize("NFD", NFC)

pytestmark = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names there are Unicode, in one form")


def record(path: Path, seed: int = 0, samples: int = 2000) -> Path:
    write_wav(path, np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32), RATE)
    return path


def corpus_of(folder: Path, cache: Path) -> Corpus:
    return load_corpus(folder, Quantizer("linear", 16), cache_dir=cache)


# ---- text ------------------------------------------------------------------------------------------------------------


def test_only_what_is_no_text_is_escaped() -> None:
    assert printable(Path("a/東京 ö") / ODD) == "a/東京 ö/fl\\xf6te.wav"
    assert printable("\ud800") == "\\ud800"
    assert "ö 東 \udcf6".encode("latin-1", ESCAPED) == b"\xf6 \\u6771 \\xf6"
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("utf-8", ESCAPED)


def test_json_is_utf_8_and_reads_back_the_same(tmp_path: Path) -> None:
    document = {ODD: ["\\xf6", NFC, "\ud800"]}
    write_text(tmp_path / "a.json", json_text(document))
    text = (tmp_path / "a.json").read_bytes().decode("utf-8")
    assert json.loads(text) == document and NFC in text
    Run(tmp_path).write("b.json", {"data_dir": ODD})
    assert Run(tmp_path).read("b.json") == {"data_dir": ODD}


def test_other_text_bears_odd_names(tmp_path: Path) -> None:
    write_text(tmp_path / "a.csv", f"{ODD},1")
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == "fl\\xf6te.wav,1"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_command_prints_any_name(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    printed, told = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", printed)
    monkeypatch.setattr(sys, "stderr", told)

    def body() -> None:
        print(ODD)
        raise RunError(f"no {ODD}")

    assert run(body, debug=False) == 1
    for stream in (printed, told):
        stream.flush()
        assert b"fl\\xf6te.wav" in stream.buffer.getvalue()  # type: ignore[attr-defined]


# ---- finding again ---------------------------------------------------------------------------------------------------


def test_a_name_is_matched_exactly_first_and_then_in_another_form() -> None:
    assert NFC != NFD and folded(NFC) == folded(NFD)
    both = matcher([NFD, NFC, "a"])
    assert (both(NFC), both(NFD), both("a"), both("b")) == (NFC, NFD, "a", None)
    assert matcher([NFD])(NFC) == NFD
    assert matcher(["fl/xf6te.wav"])(printable(ODD)) == "fl/xf6te.wav"  # a table's backslash is a slash


def test_a_path_leads_to_the_file_of_that_name_in_another_form(tmp_path: Path) -> None:
    folder = tmp_path / unicodedata.normalize("NFD", "Übung")
    for name in (NFD, ODD):
        record(folder / name)
    assert located(tmp_path / "Übung" / NFC) == folder / NFD
    assert located(tmp_path / "Übung" / printable(ODD)) == folder / ODD
    record(folder / NFC)
    assert located(folder / NFC) == folder / NFC
    missing = tmp_path / "no" / "where.wav"
    assert located(missing) == missing
    assert find_audio([tmp_path / "Übung" / printable(ODD)]) == [folder / ODD]


# ---- names that are not UTF-8 ----------------------------------------------------------------------------------------


def test_recordings_of_odd_names_are_read_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"b\xfccher")
    for seed, name in enumerate(("a.wav", "b.wav", ODD)):
        record(folder / name, seed)
    (folder / os.fsdecode(b"kaputt\xe9.wav")).write_bytes(b"no sound at all")
    corpus = corpus_of(folder, tmp_path / "cache")
    assert sorted(corpus.identity) == ["a.wav", "b.wav", "fl\\xf6te.wav"]
    text = summary(corpus)
    assert "left out: kaputt\\xe9.wav: " in text and text.encode("utf-8")
    assert corpus_of(folder, tmp_path / "cache").identity == corpus.identity
    # As a report finds them again.
    run = Run(tmp_path)
    run.write("run.json", {"data_dir": str(folder), "sample_rate": RATE, "corpus": corpus.identity})
    trained: Any = SimpleNamespace(run=run, sample_rate=RATE, gain=1.0, config=SimpleNamespace(normalize="none"))
    (sound,) = _recordings(trained, {"valid": [["fl\\xf6te.wav", 0, 500]]})
    np.testing.assert_array_equal(sound, load(folder / ODD)[0][:500])


def test_two_names_that_are_shown_alike_are_not_taken_for_one(tmp_path: Path) -> None:
    record(tmp_path / "in" / ODD, 0)
    record(tmp_path / "in" / printable(ODD), 1)
    corpus = corpus_of(tmp_path / "in", tmp_path / "cache")
    assert list(corpus.identity) == ["fl\\xf6te.wav"]
    assert corpus.left_out == (("fl\\xf6te.wav", "another recording has the same name"),)


def test_chunks_of_odd_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.wav", ODD):
        record(tmp_path / "in" / name)
    (tmp_path / "in" / os.fsdecode(b"kaputt\xe9.wav")).write_bytes(b"no sound at all")
    output = tmp_path / os.fsdecode(b"st\xfccke")
    words = ["--input_file", str(tmp_path / "in"), "--output_dir", str(output), "--chunk_length", "250"]
    assert chunk_audio.main(words) == 0
    assert sorted(path.name for path in output.iterdir()) == [
        *(f"a_chunk_{number}.wav" for number in (0, 1)),
        *(f"{chunk_stem(ODD.removesuffix('.wav'))}_chunk_{number}.wav" for number in (0, 1)),
    ]
    said = capsys.readouterr().out
    assert "kaputt\\xe9.wav" in said and "st\\xfccke" in said


def test_parameters_of_odd_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a_p60.wav", os.fsdecode(b"fl\xf6te_p62.wav")):
        record(tmp_path / name)
    (tmp_path / os.fsdecode(b"fl\xf6te_p62.csv")).write_text("name,time,value\nq,0,1\n")
    assert controls(["manifest", str(tmp_path), "--name_params", "p"]) == 0, capsys.readouterr()
    sources = find_control_sources(tmp_path)
    for recording in (tmp_path / os.fsdecode(b"fl\xf6te_p62.wav"), "fl\\xf6te_p62.wav"):
        tracks = sources.controls_of(recording)
        assert {name: track.values[0] for name, track in tracks.items()} == {"q": 1, "p": 62}
    assert controls(["check", str(tmp_path), "--names", "p"]) == 0, capsys.readouterr()


def test_a_run_is_refused_where_tensorflow_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only names that are UTF-8"):
        find_checkpoint(tmp_path / ODD)


# ---- names in two Unicode forms --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("saved", "written"), [(NFD, NFC), (NFC, NFD)])
def test_tables_and_curves_are_found_in_either_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], saved: str, written: str
) -> None:
    record(tmp_path / saved)
    (tmp_path / "params.csv").write_text(f"filename,p\n{written},60\n", encoding="utf-8")
    (tmp_path / "text.csv").write_text(f"filename,text\n{written},la la\n", encoding="utf-8")
    (tmp_path / written).with_suffix(".csv").write_text("name,time,value\nq,0,1\n")
    assert controls(["check", str(tmp_path), "--names", "p", "q"]) == 0, capsys.readouterr()
    corpus = corpus_of(tmp_path, tmp_path / "cache")
    assert list(Texts.of(corpus, tmp_path, "text").document["alphabet"])


def test_a_chunk_takes_the_row_of_its_recording_in_either_form(tmp_path: Path) -> None:
    record(tmp_path / f"{Path(NFD).stem}_chunk_0.wav")
    record(tmp_path / "b.wav")
    (tmp_path / "params.csv").write_text(f"filename,p\n{NFC},60\nb,61\n", encoding="utf-8")
    sources = find_control_sources(tmp_path)
    assert sources.controls_of(f"{Path(NFD).stem}_chunk_0.wav")["p"].values == [60]
    assert sources.controls_of("b.wav")["p"].values == [61] and not sources.controls_of("c_chunk_0.wav")


def test_a_run_goes_on_with_its_recordings_under_the_other_form(tmp_path: Path) -> None:
    record(tmp_path / "in" / NFD)
    corpus = corpus_of(tmp_path / "in", tmp_path / "cache")
    document = {"method": "files", "train": [[NFC, 0, 10]], "valid": [], "test": []}
    assert Split.from_document(document, corpus).train == (Span(0, 0, 10),)
    digest = corpus.identity[NFD]
    refuse_other_corpus(corpus, {"sample_rate": RATE, "corpus": {NFC: digest}}, tmp_path / "in", Run(tmp_path))
    with pytest.raises(UsageError, match="another corpus"):
        refuse_other_corpus(corpus, {"sample_rate": RATE, "corpus": {NFC: "other"}}, tmp_path, Run(tmp_path))


def test_chunks_and_their_recording_in_two_forms_are_one_source(tmp_path: Path) -> None:
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 2000).astype(np.float32)
    write_wav(tmp_path / "in" / NFC, sound, RATE)
    for number in range(2):
        chunk = sound[1000 * number : 1000 * (number + 1)]
        write_wav(tmp_path / "in" / f"{Path(NFD).stem}_chunk_{number}.wav", chunk, RATE)
    corpus = corpus_of(tmp_path / "in", tmp_path / "cache")
    encoder = Quantizer("linear", 16)
    (source,) = find_sources(corpus, lambda index: encoder.decode(corpus.read(index)))
    assert source.length == 2000


def test_a_file_that_is_typed_in_the_other_form_is_found(tmp_path: Path) -> None:
    record(tmp_path / NFD)
    (tmp_path / f"kurve_{NFD}.csv").write_text("name,time,value\np,0,1\n", encoding="utf-8")
    (tmp_path / f"liste_{NFD}.csv").write_text(f"filename,p\n{NFC},60\n", encoding="utf-8")
    assert len(load(tmp_path / NFC)[0]) == 2000
    assert read_take(tmp_path / f"kurve_{NFC}.csv")[0]["p"].values == [1]
    sources = find_control_sources(tmp_path, params=tmp_path / f"liste_{NFC}.csv")
    assert sources.controls_of(NFD)["p"].values == [60]
    np.save(tmp_path / f"{NFD}.npy", np.ones((1, 3, 1), np.float32))
    assert read_array(tmp_path / f"{NFC}.npy", ["p"], 10)[0]["p"].values[0] == 1
    with pytest.raises(UsageError, match="there is no control file"):
        read_take(tmp_path / "nichts.csv")
