"""Measured controls, against closed forms and other implementations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import fft, signal

import tierwave.analysis.features as features
from tierwave.analysis.features import FEATURES, Analysis, measure
from tierwave.data.demo import make_tone
from tierwave.errors import UsageError

RATE = 16000
QUICK = Analysis(("rmse", "level", "centroid", "bandwidth", "flatness", "zcr", "mfcc", "onset"))


def sine(frequency: float, seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def inner(track: object) -> np.ndarray:
    return track.values[5:-5]  # type: ignore[attr-defined]


def test_frames_are_a_hop_apart_and_centred_there() -> None:
    click = np.zeros(RATE, np.float32)
    click[8000] = 1.0
    measured = measure(click, RATE, QUICK)
    assert list(measured) == list(QUICK.names)
    for track in measured.values():
        np.testing.assert_allclose(track.times, np.arange(67) * 240 / RATE)
    around = measured["rmse"].times[measured["rmse"].values > 0]
    # A window of 480 samples holds the click from 240 before to 240 after it.
    assert np.abs(around - 0.5).max() <= 0.015 and len(around) in (2, 3)


def test_a_sine_is_what_it_is() -> None:
    measured = measure(sine(1000), RATE, QUICK)
    np.testing.assert_allclose(inner(measured["rmse"]), 0.5 / np.sqrt(2), rtol=0.01)
    np.testing.assert_allclose(inner(measured["level"]), 20 * np.log10(0.5 / np.sqrt(2)), atol=0.1)
    np.testing.assert_allclose(inner(measured["centroid"]), 1000, rtol=0.01)
    np.testing.assert_allclose(inner(measured["zcr"]), 2000 / RATE, atol=2.1 / 480)
    assert inner(measured["flatness"]).max() < 1e-3
    assert inner(measured["bandwidth"]).max() < 150


def test_noise_and_silence_are_what_they_are() -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * RATE).astype(np.float32)
    measured = measure(noise, RATE, QUICK)
    assert inner(measured["centroid"]).mean() == pytest.approx(4000, rel=0.02)
    assert inner(measured["bandwidth"]).mean() == pytest.approx(8000 / np.sqrt(12), rel=0.03)  # of a uniform spread
    assert inner(measured["flatness"]).mean() == pytest.approx(np.exp(-np.euler_gamma), abs=0.02)
    assert inner(measured["zcr"]).mean() == pytest.approx(0.5, abs=0.01)
    silence = measure(np.zeros(RATE), RATE, QUICK)
    for name, value in (("rmse", 0), ("level", -100), ("centroid", 0), ("bandwidth", 0), ("zcr", 0), ("onset", 0)):
        assert (silence[name].values == value).all(), name


def test_mfcc_are_a_cosine_transform_of_a_mel_spectrogram_in_decibels() -> None:
    from tierwave.audio.spectrogram import log_mel

    noise = signal.lfilter([1], [1, -0.9], np.random.default_rng(0).normal(0, 0.05, RATE)).astype(np.float32)
    measured = measure(noise, RATE, Analysis(("mfcc",)))
    decibels = log_mel(noise, RATE, 1024, 480, 240, 64)  # reflects at the ends, hence only the inner frames agree
    expected = fft.dct(decibels, norm="ortho")[:, :13]
    got = np.stack([measured[name].values for name in measured], axis=1)
    np.testing.assert_allclose(got[5:-5], expected[5:-5], atol=0.01)


def test_onsets_rise_where_sound_begins() -> None:
    sound = np.zeros(2 * RATE)
    for start in (8000, 20000):
        sound[start : start + 6400] = make_tone(0, 60, 1.0, seconds=0.4)
    onset = measure(sound, RATE, Analysis(("onset",)))["onset"]
    peaks, _ = signal.find_peaks(onset.values, height=0.5 * onset.values.max())
    found = onset.times[peaks]
    assert len(found) == 2
    np.testing.assert_allclose(found, [0.5, 1.25], atol=0.035)


@pytest.mark.parametrize("pitch", [45.0, 64.5, 83.0])
def test_pitch_in_hertz_and_midi_with_voicing(pitch: float) -> None:
    tone = make_tone(0, pitch, 1.0, seconds=0.6)
    sound = np.concatenate([tone, np.zeros(4000), tone])
    measured = measure(sound, RATE, Analysis(("pitch", "midi")))
    assert list(measured) == ["pitch", "voicing", "midi"]
    assert set(measured["voicing"].values) == {0.0, 1.0}
    # Its first frames, half of them silence, may be a semitone off; the gap glides between neighbours.
    off = np.abs(measured["midi"].values - pitch)
    assert off.max() < 1.5 and np.mean(off < 0.2) > 0.85
    np.testing.assert_allclose(measured["pitch"].values, 440 * 2 ** ((measured["midi"].values - 69) / 12), rtol=1e-5)


def test_gaps_glide_in_semitones_and_ends_are_held() -> None:
    pitch = np.array([np.nan, 100, np.nan, np.nan, np.nan, 1600, np.nan], np.float32)
    filled = features._without_gaps(pitch, np.isfinite(pitch), 300.0)
    np.testing.assert_allclose(filled, [100, 100, 200, 400, 800, 1600, 1600], rtol=1e-6)


def test_a_sound_without_pitch_says_so() -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, RATE // 2)
    measured = measure(noise, RATE, Analysis(("pitch",), lowest_pitch=100, highest_pitch=400))
    assert not measured["voicing"].values.any()
    np.testing.assert_allclose(measured["pitch"].values, 200)


def test_stretches_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded memory: a long sound measured bit by bit is the same as measured at once."""
    sound = np.concatenate([make_tone(1, 57, 1.0, seconds=0.5), np.zeros(2000), make_tone(2, 60, 0.5, seconds=0.3)])
    analysis = Analysis(tuple(FEATURES))
    whole = measure(sound, RATE, analysis)
    monkeypatch.setattr(features, "_STRETCH_SECONDS", 0.15)
    monkeypatch.setattr(features, "_PITCH_CONTEXT_SECONDS", 0.3)
    parts = measure(sound, RATE, analysis)
    for name in whole:
        np.testing.assert_array_equal(parts[name].times, whole[name].times)
        if name not in ("pitch", "midi", "voicing"):
            np.testing.assert_allclose(parts[name].values, whole[name].values, rtol=1e-4, atol=1e-3, err_msg=name)
    assert np.mean(np.abs(parts["midi"].values - whole["midi"].values) < 0.05) > 0.99


@pytest.mark.parametrize("samples", [1, 2, 239, 240, 241])
def test_even_the_shortest_sound_can_be_measured(samples: int) -> None:
    measured = measure(np.full(samples, 0.5), RATE, Analysis(tuple(FEATURES)))
    assert {len(track.values) for track in measured.values()} == {1 + samples // 240}


def test_other_rates_and_windows() -> None:
    analysis = Analysis(("centroid", "mfcc", "pitch"), window_seconds=0.05, hop_seconds=0.02, lowest_pitch=100)
    for rate in (8000, 44100):
        measured = measure(sine(441, 0.5, rate), rate, analysis)
        np.testing.assert_allclose(inner(measured["pitch"]), 441, rtol=0.01)
        np.testing.assert_allclose(inner(measured["centroid"]), 441, rtol=0.03)
        assert measured["pitch"].times[1] == pytest.approx(0.02)
    assert analysis.declared(8000)["centroid"]["maxval"] == 4000


def test_what_is_measured_lies_within_what_is_declared() -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, RATE // 2)
    analysis = Analysis(tuple(FEATURES))
    declared = analysis.declared(RATE)
    assert list(declared) == list(analysis.names)
    for sound in (noise, sine(300, 0.5), np.zeros(RATE // 4)):
        for name, track in measure(sound, RATE, analysis).items():
            low, high = declared[name]["minval"], declared[name]["maxval"]
            assert low is None or track.values.min() >= low - 1e-4 * abs(low), name
            assert high is None or track.values.max() <= high + 1e-4 * abs(high), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": ("rmse", "loudness")}, "there is no feature loudness: choose from rmse"),
        ({"features": ()}, "no feature is named"),
        ({"hop_seconds": 0.0}, "window and hop are 30 and 0 ms"),
        ({"window_seconds": 11.0}, "window and hop are 11000 and 15 ms"),
        ({"lowest_pitch": 500.0, "highest_pitch": 400.0}, "the pitch goes from 500 to 400 Hz"),
    ],
)
def test_analyses_that_cannot_be(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Analysis(**settings)


def test_a_pitch_too_high_for_the_rate_is_refused() -> None:
    with pytest.raises(UsageError, match="at 2000 Hz no pitch above 500 Hz can be told"):
        measure(sine(100, rate=2000), 2000, Analysis(("pitch",), lowest_pitch=600))
    with pytest.raises(ValueError, match="one channel"):
        measure(np.zeros((2, 5)), RATE, QUICK)
