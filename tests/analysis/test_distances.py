"""Distances of sets of sounds: against closed forms, and the properties that make them distances."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, signal
from scipy.stats import energy_distance as scipy_energy

from commands import call, told
from tierwave.analysis.distances import (
    common_rate,
    compare,
    distance,
    energy_distance,
    frechet_distance,
    load_sounds,
    log_mel_frames,
)
from tierwave.audio.writer import write_wav
from tierwave.cli.distances import main
from tierwave.errors import AudioWarning

RATE = 8000


def gaussian(seed: int, frames: int, dimensions: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((frames, dimensions)) @ rng.standard_normal((dimensions, dimensions)) + rng.uniform(
        -3, 3, dimensions
    )


@given(seed=st.integers(0, 10_000), dimensions=st.integers(1, 12), few=st.booleans())
@settings(max_examples=20)
def test_frechet_is_that_of_the_root_of_the_product(seed: int, dimensions: int, few: bool) -> None:
    first = gaussian(seed, 5 if few else 200, dimensions)  # of few frames the covariance has no full rank
    second = gaussian(seed + 1, 150, dimensions)
    one, other = (np.atleast_2d(np.cov(frames, rowvar=False)) for frames in (first, second))
    root = linalg.sqrtm(one @ other)
    difference = first.mean(axis=0) - second.mean(axis=0)
    expected = difference @ difference + np.trace(one + other - 2 * np.real(root))
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert frechet_distance(second, first) == pytest.approx(frechet_distance(first, second), rel=1e-6, abs=1e-6)


def test_frechet_of_known_gaussians_is_their_closed_form() -> None:
    """Diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2."""
    frames = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    scale, shift = np.array([3.0, 0.5]), np.array([2.0, -1.0])
    deviation = np.sqrt(2 / 3)
    expected = 4.0 + 1.0 + (2.0 * deviation) ** 2 + (0.5 * deviation) ** 2
    assert frechet_distance(frames, frames * scale + shift) == pytest.approx(expected)


def test_energy_distance_is_scipys_in_one_dimension() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, 300), rng.normal(0.7, 2, 200)
    expected = scipy_energy(first, second) ** 2
    assert energy_distance(first[:, None], second[:, None]) == pytest.approx(expected, rel=1e-9)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10)
def test_a_set_has_no_distance_from_itself_and_turning_and_moving_both_changes_nothing(seed: int) -> None:
    first, second = gaussian(seed, 80, 6), gaussian(seed + 1, 60, 6)
    for value in vars(distance(first, np.random.default_rng(seed).permutation(first))).values():
        assert value == pytest.approx(0.0, abs=1e-5)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((6, 6)))
    moved = [frames @ turn + 5.0 for frames in (first, second)]
    assert frechet_distance(*moved) == pytest.approx(frechet_distance(first, second), rel=1e-6)
    assert energy_distance(*moved) == pytest.approx(energy_distance(first, second), rel=1e-5, abs=1e-6)


def sounds(seed: int, count: int = 8, seconds: float = 1.0) -> list[np.ndarray]:
    """Coloured noise that swells."""
    rng = np.random.default_rng(seed)
    length = round(seconds * RATE)
    return [
        0.1 * signal.lfilter([1.0], [1.0, -0.9], rng.normal(size=length)) * np.hanning(length) for _ in range(count)
    ]


def test_distances_grow_with_noise_and_start_at_the_floor() -> None:
    recordings, rng = sounds(0, 4), np.random.default_rng(9)
    found = []
    for level in (0.0, 0.01, 0.03, 0.1):
        noisy = [sound + level * rng.standard_normal(len(sound)) for sound in sounds(1, 4)]
        found.append(compare(noisy, recordings, RATE))
    for name in ("mean", "frechet", "energy"):
        values = [getattr(each.generated, name) for each in found]
        assert values == sorted(values) and values[-1] > 3 * values[0], name
        assert values[0] < 3 * getattr(found[0].floor_p90, name)
        assert values[1] > getattr(found[0].floor, name)
        assert getattr(found[0].floor, name) < getattr(found[0].floor_p90, name) < getattr(found[0].noise, name)


def test_the_same_seed_gives_the_same_and_the_recordings_themselves_have_none() -> None:
    recordings = sounds(0, 5)
    found = compare(recordings, recordings, RATE, seed=4)
    assert found == compare(recordings, recordings, RATE, seed=4)
    assert max(vars(found.generated).values()) < 1e-6 < min(vars(found.floor).values())
    assert compare(recordings, recordings, RATE, seed=5).floor != found.floor
    one_long = compare(recordings, [np.concatenate(recordings)], RATE)
    assert one_long.floor.mean > 0


def test_frames_are_in_decibels_and_silence_has_a_floor() -> None:
    sound = sounds(2, 1)[0] + 1e-3 * np.random.default_rng(0).standard_normal(RATE)
    louder = log_mel_frames(2 * sound, RATE) - log_mel_frames(sound, RATE)
    np.testing.assert_allclose(louder, 20 * np.log10(2), atol=0.01)
    assert (log_mel_frames(np.zeros(100), RATE) == -80).all()


# The command line ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> list[Any]:
    for name, seed in (("made", 1), ("real", 0)):
        for number, sound in enumerate(sounds(seed, 4)):
            write_wav(tmp_path / name / f"{number}.wav", sound, RATE)
    (tmp_path / "real" / "torn.wav").write_bytes(b"RIFF????WAVE")
    return ["--generated", tmp_path / "made", "--recordings", tmp_path / "real"]


def test_the_command_says_what_the_library_finds(folders: list[Any], tmp_path: Path, capsys: Any) -> None:
    assert call(main, [*folders, "--json", tmp_path / "out.json", "--random_seed", 3]) == 0
    said = capsys.readouterr().out
    assert "4 sounds (4.0 s) against 4 recordings (4.0 s) at 8000 Hz" in said and "white noise" in said
    document = json.loads((tmp_path / "out.json").read_text())["log-mel spectra"]
    again = compare(sounds(1, 4), sounds(0, 4), RATE, seed=3)
    assert document["generated"]["frechet"] == pytest.approx(again.generated.frechet, rel=0.02)  # 16 bits


def test_what_is_wrong_is_told_in_one_sentence(folders: list[Any], tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "real" / "torn.wav").unlink()  # of which there would be a sentence too
    assert "do not exist" in told(capsys, main, ["--generated", "x", "--recordings", "y"], 2).replace("does", "do")
    (tmp_path / "empty").mkdir()
    words = ["--generated", tmp_path / "empty", "--recordings", tmp_path / "empty"]
    assert "no sound" in told(capsys, main, words, 2)


def test_a_sound_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.full(800, 0.1, np.float32), 8000)
    slow = bytearray((tmp_path / "a.wav").read_bytes())
    slow[24:28] = (1).to_bytes(4, "little")
    (tmp_path / "slow.wav").write_bytes(slow)
    assert common_rate([tmp_path]) == 8000
    with pytest.warns(AudioWarning, match=r"left out: .*slow\.wav: its header gives a sample rate of 1 Hz"):
        assert len(load_sounds([tmp_path], 8000)) == 1
