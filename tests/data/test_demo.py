"""The demo corpus: in tune, free of clicks and aliases, the same again for the same seed."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy import signal

from tierwave.cli.demo import main
from tierwave.controls.parse import parse_control
from tierwave.controls.sources import find_control_sources
from tierwave.data import demo
from tierwave.errors import UsageError

SMALL = {"pitches": (48, 64.5, 76), "loudnesses": (0.5, 1.0), "seconds": 0.5}
TABLES = ("params.csv", "params_schema.csv")
EVERY_TONE = [(instrument, pitch) for instrument in range(3) for pitch in (36, 57, 64.5, 76, 96)]


def measured_frequency(audio: np.ndarray, sample_rate: int, expected: float) -> float:
    """Hz. The octave from the autocorrelation, the cents from the phase of the fundamental, cut out around it."""
    samples, finer = len(audio), 8
    fine = signal.resample(audio, finer * samples)
    correlation = signal.correlate(fine, fine, method="fft")[finer * samples - 1 :]
    lags = np.arange(int(finer * sample_rate / (4.3 * expected)), int(4.3 * finer * sample_rate / expected))
    # Every multiple of the period correlates almost as well as the period itself, which is the first to do so.
    peaks, _ = signal.find_peaks(correlation[lags], height=0.9 * correlation[lags].max())
    coarse = finer * sample_rate / lags[peaks[0]]
    assert abs(np.log2(coarse / expected)) < 1 / 12, f"half an octave or more off: {coarse} for {expected}"
    spectrum = np.fft.fft(audio)
    frequencies = np.fft.fftfreq(samples, 1 / sample_rate)
    spectrum[(frequencies < 0.6 * coarse) | (frequencies > 1.4 * coarse)] = 0
    phase = np.unwrap(np.angle(np.fft.ifft(spectrum)))
    inner = np.arange(samples // 5, samples - samples // 5)
    return float(np.polyfit(inner, phase[inner], 1)[0] * sample_rate / (2 * np.pi))


@pytest.mark.parametrize(("instrument", "pitch"), EVERY_TONE)
def test_every_tone_is_in_tune(instrument: int, pitch: float) -> None:
    expected = 440 * 2 ** ((pitch - 69) / 12)
    for sample_rate in (8000, 16000) if pitch < 90 else (16000, 44100):
        tone = demo.make_tone(instrument, pitch, 0.7, sample_rate=sample_rate, seconds=1.0)
        cents = 1200 * np.log2(measured_frequency(tone, sample_rate, expected) / expected)
        assert abs(cents) < 5


@pytest.mark.parametrize(("instrument", "pitch"), EVERY_TONE)
def test_level_ends_and_direct_current(instrument: int, pitch: float) -> None:
    for loudness in (0.01, 0.5, 1.0):
        tone = demo.make_tone(instrument, pitch, loudness, seconds=0.6)
        assert len(tone) == 9600
        assert np.abs(tone).max() == pytest.approx(loudness * demo.FULL_LOUDNESS)
        assert abs(tone.mean()) < 1e-9 * loudness
        # No click: it starts and ends at nothing, by way of little.
        assert abs(tone[0]) < 1e-9 and abs(tone[-1]) < 1e-9
        assert np.abs(tone[-16:]).max() < 0.01 * loudness


@pytest.mark.parametrize(("instrument", "pitch"), [(0, 83.3), (1, 83.3), (0, 90.7), (1, 90.7)])
def test_nothing_lies_between_the_partials(instrument: int, pitch: float) -> None:
    sample_rate = 16000
    frequency = 440 * 2 ** ((pitch - 69) / 12)
    tone = demo.make_tone(instrument, pitch, 1.0, sample_rate=sample_rate, seconds=2.0)
    steady = tone[6000:-6000]
    power = np.abs(np.fft.rfft(steady * np.blackman(len(steady)))) ** 2
    frequencies = np.fft.rfftfreq(len(steady), 1 / sample_rate)
    number = np.maximum(1, np.rint(frequencies / frequency))
    near = np.abs(frequencies - number * frequency) < 20 + 0.02 * number * frequency
    assert power[~near].max() < 1e-8 * power.max()


def test_instruments_are_what_they_are_called() -> None:
    plucked, bowed, blown = (demo.make_tone(instrument, 60, 1.0, seconds=1.0) for instrument in range(3))

    def rms(tone: np.ndarray, start: float, stop: float) -> float:
        return float(np.sqrt(np.mean(tone[round(start * 16000) : round(stop * 16000)] ** 2)))

    assert rms(plucked, 0, 0.1) > 2 * rms(plucked, 0.8, 0.9)
    assert rms(bowed, 0, 0.05) < 0.5 * rms(bowed, 0.4, 0.9)
    frequencies = np.fft.rfftfreq(16000, 1 / 16000)
    spectrum = np.abs(np.fft.rfft(blown))
    second, third = (spectrum[np.abs(frequencies - number * 261.63) < 10].max() for number in (2, 3))
    assert third > 10 * second


def test_names_and_manifest_agree_with_each_other_and_the_sound(tmp_path: Path) -> None:
    paths = demo.make_corpus(tmp_path / "demo", **SMALL)
    assert len(paths) == 18 and paths[0].name == "demo_inst00.00_p48.00_a00.50.wav"
    text = (tmp_path / "demo/params.csv").read_text()
    assert text.splitlines()[0] == "filename,inst,p,a" and text.endswith("\n")
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["filename"] for row in rows] == [path.name for path in paths]
    for path, row in zip(paths, rows, strict=True):
        # RNNControl's pattern for a control in a file name.
        told = {name: float(value) for name, value in re.findall(r"_(inst|p|a)(\d\d\.\d\d)", path.name)}
        assert told == {name: float(row[name]) for name in ("inst", "p", "a")}
        audio, rate = soundfile.read(path)
        assert (rate, len(audio)) == (16000, 8000)
        assert np.abs(audio).max() == pytest.approx(0.9 * told["a"], abs=1e-4)
    assert set((tmp_path / "demo").iterdir()) == {*paths, *(tmp_path / "demo" / name for name in TABLES)}


def test_the_instruments_have_names_and_numbers(tmp_path: Path) -> None:
    paths = demo.make_corpus(tmp_path, **{**SMALL, "pitches": [60], "loudnesses": [1]})
    sources = find_control_sources(tmp_path, name_params=["inst", "p", "a"])
    schema = sources.schema_of(paths, ["inst", "p", "a"])
    assert [schema.of(name).units for name in ("inst", "p", "a")] == ["category", "midiPitch", "amplitude"]
    for path, name in zip(paths, ("plucked", "bowed", "blown"), strict=True):
        number = sources.controls_of(path)["inst"].values[0]
        assert parse_control(f"inst={name}", schema=schema).values == number == demo.INSTRUMENTS.index(name)
        assert parse_control(f"inst={number:g}", schema=schema).values == number


def test_same_seed_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first = demo.make_corpus(tmp_path / "1", seed=3, **SMALL)
    again = demo.make_corpus(tmp_path / "2", seed=3, **SMALL)
    other = demo.make_corpus(tmp_path / "3", seed=4, **SMALL)
    for one, two, three in zip(first, again, other, strict=True):
        assert one.read_bytes() == two.read_bytes() != three.read_bytes()
    # A tone is the same whatever else is made.
    few = demo.make_corpus(tmp_path / "4", seed=3, pitches=[76], loudnesses=[1], seconds=0.5)
    assert few[1].read_bytes() == (tmp_path / "1" / few[1].name).read_bytes()


def test_what_is_there_is_left_as_it_is_and_what_differs_is_made_anew(tmp_path: Path) -> None:
    paths = demo.make_corpus(tmp_path, **SMALL)
    files = [*paths, *(tmp_path / name for name in TABLES)]
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}
    whole = paths[3].read_bytes()
    assert demo.make_corpus(tmp_path, **SMALL) == paths
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files} == before
    paths[3].write_bytes(whole[:1000])
    demo.make_corpus(tmp_path, **SMALL)
    assert paths[3].read_bytes() == whole


def test_other_recordings_are_not_mixed_in(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "mine.wav", np.zeros(100), 8000)
    with pytest.raises(UsageError, match=r"mine\.wav"):
        demo.make_corpus(tmp_path, **SMALL)
    assert len(list(tmp_path.iterdir())) == 1


def test_the_corpus_by_default_lasts_two_to_three_minutes(tmp_path: Path) -> None:
    paths = demo.make_corpus(tmp_path)
    assert 120 <= sum(soundfile.info(path).duration for path in paths) <= 180
    assert len({path.name[:15] for path in paths}) == 3


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"pitches": [130]}, "130"), ({"pitches": [5]}, "12"), ({"loudnesses": [0.001]}, "loudness"),
     ({"loudnesses": [1.5]}, "1.5"), ({"seconds": 0}, "seconds"), ({"seed": -1}, "seed"), ({"sample_rate": 0}, "rate")],
)  # fmt: skip
def test_values_out_of_range_are_told(tmp_path: Path, wrong: dict, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        demo.make_corpus(tmp_path / "demo", **wrong)
    assert not (tmp_path / "demo").exists()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(tmp_path / "ä b"), "--random_seed", "1", "--sample_rate", "8000", "--seconds", "0.25"]
    assert main(arguments) == 0
    assert "117 tones, 29 s" in capsys.readouterr().out
    assert len(list((tmp_path / "ä b").glob("*.wav"))) == 117
    assert main([*arguments, "--seconds", "0"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    with pytest.raises(SystemExit, match="2"):
        main([])
