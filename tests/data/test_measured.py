"""Controls that are measured from a corpus: once, in the names asked for, and only where the sources have none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from corpora import corpus_of

from tierwave.analysis.features import Analysis, measure
from tierwave.audio.quantize import Quantizer
from tierwave.controls.sources import find_control_sources
from tierwave.controls.tracks import Track
from tierwave.data.measured import complete, declared, measurable, measure_corpus, voiced_share

RATE = 8000
QUANTIZER = Quantizer("mu-law", 256)


def tone(hertz: float, seconds: float = 0.5) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return (0.4 * time / seconds * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def test_what_can_be_measured_and_in_which_unit() -> None:
    assert measurable(["inst", "midi", "level", "mfcc3", "glass"]) == ["midi", "level", "mfcc3"]
    assert declared("midi", RATE) == {"units": "midiPitch"} and declared("level", RATE) == {"units": "dB"}
    assert declared("mfcc3", RATE) == {}


def test_curves_are_those_of_the_codes_and_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = [QUANTIZER.encode(tone(hertz)) for hertz in (220.0, 440.0)]
    corpus = corpus_of(codes, RATE)
    counted: list[tuple[int, int]] = []

    def measured() -> tuple:
        wanted = [["level"], ["midi", "level"]]
        return measure_corpus(
            corpus,
            QUANTIZER.decode,
            wanted,
            cache_dir=tmp_path,
            progress=lambda done, total: counted.append((done, total)),
        )

    first = measured()
    assert [list(tracks) for tracks in first] == [["level"], ["midi", "voicing", "level"]] and counted[-1] == (3, 3)
    for tracks, sound in zip(first, codes, strict=True):
        expected = measure(QUANTIZER.decode(sound), RATE, Analysis(("level",)))["level"]
        np.testing.assert_array_equal(tracks["level"].values, expected.values)
    assert np.median(first[1]["midi"].values) == pytest.approx(69.0, abs=0.1) and voiced_share(first) > 0.5
    monkeypatch.setattr("tierwave.data.measured.measure", None)
    again = measured()
    np.testing.assert_array_equal(again[1]["midi"].values, first[1]["midi"].values)
    monkeypatch.undo()
    victim = next(iter(sorted((tmp_path / "controls").iterdir())))
    victim.write_text("name,time,value\nlevel,0,")  # as after a loss of power
    np.testing.assert_array_equal(measured()[0]["level"].values, first[0]["level"].values)


def test_sources_come_first(tmp_path: Path) -> None:
    (tmp_path / "params.csv").write_text("filename,level,inst\n0.wav,-7,1\n1.wav,,0\n")
    corpus = corpus_of([QUANTIZER.encode(tone(hertz)) for hertz in (220.0, 440.0)], RATE)
    sources = find_control_sources(tmp_path)
    names = ["inst", "level"]
    controls, missing = complete(sources, corpus, QUANTIZER.decode, names, ["level"], cache_dir=tmp_path / "cache")
    assert missing == ["level"] and all(set(tracks) == set(names) for tracks in controls)
    assert controls[0]["level"].is_constant and controls[0]["level"].values[0] == -7
    assert not controls[1]["level"].is_constant and controls[1]["inst"].values[0] == 0


def test_silence_is_neither_voiced_nor_unvoiced() -> None:
    times = np.arange(4) * 0.1
    tracks = {
        "voicing": Track("voicing", times, np.array([1.0, 0.0, 1.0, 0.0])),
        "level": Track("level", times, np.array([-10.0, -10.0, -90.0, -90.0])),
    }
    assert voiced_share([tracks]) == 0.5 and voiced_share([]) == 0.0
