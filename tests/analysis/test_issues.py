"""What is wrong with sounds and with losses: made issues are found, ordinary sounds are not, whatever their level."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from tierwave.analysis.issues import Issue, find_issues, loop_share
from tierwave.audio.quantize import Quantizer
from tierwave.data.demo import make_tone
from tierwave.runs.diagnostics import loss_issues
from tierwave.runs.history import Epoch

RATE = 16000


def tone(frequency: float = 440.0, samples: int = RATE, amplitude: float = 0.5) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(samples) / RATE)


def noise(samples: int = RATE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples)


def names(audio: np.ndarray, rate: int = RATE) -> list[str]:
    return [issue.name for issue in find_issues(np.asarray(audio, np.float32), rate)]


def random_codes() -> np.ndarray:
    return Quantizer("mu-law", 256).decode(np.random.default_rng(3).integers(0, 256, RATE))


@pytest.mark.parametrize(
    ("audio", "expected"),
    [
        (tone(), []),
        (tone(440) * np.hanning(RATE) + tone(1234, amplitude=0.1), []),
        (0.5 * signal.chirp(np.arange(RATE) / RATE, 20, 1, 7900), []),  # flat over time, a tone at every moment
        (0.5 * (np.arange(RATE) % 100 == 0), []),  # a buzz has a flat spectrum too, but is not noise
        (np.zeros(RATE), ["silent"]),
        (1e-5 * noise(), ["silent"]),
        (np.concatenate([np.zeros(14_000), tone(samples=2000)]), ["mostly silent"]),
        (noise(), ["white noise-like"]),
        (random_codes(), ["white noise-like"]),
        (np.full(RATE, 0.01), ["stuck at one value"]),
        (np.concatenate([tone(samples=8000), np.full(8000, 0.01)]), ["stuck at one value"]),
        (np.full(RATE, -0.5), ["stuck at one value", "DC offset"]),
        (tone() + 0.2, ["DC offset"]),
        (np.clip(3 * tone(), -1, 1), ["clipped"]),
    ],
)
def test_what_is_wrong_with_a_sound(audio: np.ndarray, expected: list[str]) -> None:
    assert names(audio) == expected


def melody(seed: int, seconds: float, longest: float = 0.4) -> np.ndarray:
    """Tones of random pitch, length and loudness, with some breath, none like another."""
    rng = np.random.default_rng(seed)
    pieces = []
    while sum(map(len, pieces)) < seconds * RATE:
        length = rng.uniform(0.03, longest)
        time = np.arange(round(length * RATE)) / RATE
        partials = sum(np.sin(2 * np.pi * rng.uniform(100, 900) * k * time) / k for k in (1, 2, 3))
        pieces.append(rng.uniform(0.05, 0.3) * partials * np.hanning(len(time)))
    sound = np.concatenate(pieces)[: round(seconds * RATE)]
    return sound + 0.005 * rng.standard_normal(len(sound))


@given(
    seed=st.integers(0, 1000), period=st.floats(0.08, 0.9), level=st.floats(0.02, 1.0), snr=st.sampled_from([20, 99])
)
@settings(max_examples=20)
def test_the_same_stretch_again_and_again_is_a_loop_and_its_period_is_told(
    seed: int, period: float, level: float, snr: float
) -> None:
    stretch = melody(seed, period, longest=0.06)  # more than one note, since a held note is none
    loop = np.tile(stretch, math.ceil(3.0 / period))[: 3 * RATE]
    loop = loop + loop.std() * 10 ** (-snr / 20) * np.random.default_rng(seed).standard_normal(len(loop))
    share, found = loop_share(level * loop, RATE)
    assert share > 0.6
    repeats = found / (len(stretch) / RATE)
    assert round(repeats) >= 1 and abs(repeats - round(repeats)) < 0.02
    assert "loop" in names(level * loop)


@given(seed=st.integers(0, 1000), seconds=st.floats(0.1, 8.0))
def test_what_goes_on_is_no_loop(seed: int, seconds: float) -> None:
    assert loop_share(melody(seed, seconds), RATE) == (0.0, 0.0)


@pytest.mark.parametrize("instrument", [0, 1, 2])
@pytest.mark.parametrize("pitch", [40.0, 64.3, 76.0])
def test_a_held_tone_is_no_loop_though_it_repeats_itself_exactly(instrument: int, pitch: float) -> None:
    assert names(make_tone(instrument, pitch, 0.5, seconds=3.0)) == []


def test_a_sound_that_falls_into_a_loop_is_told_from_one_that_repeats_once() -> None:
    stretch = melody(5, 0.3, longest=0.06)
    assert "loop" in names(np.concatenate([melody(1, 1.0), np.tile(stretch, 10)]))
    assert "loop" not in names(np.concatenate([melody(1, 2.0), np.tile(stretch, 2), melody(2, 2.0)]))


@pytest.mark.parametrize("rate", [4000, 8000, 44100])
def test_loops_are_found_at_every_rate_and_short_sounds_are_none(rate: int) -> None:
    stretch = signal.resample_poly(melody(3, 0.25, longest=0.06), rate, RATE)
    share, period = loop_share(np.tile(stretch, 10), rate)
    assert share > 0.8 and period == pytest.approx(0.25, abs=0.002)
    assert loop_share(np.zeros(0), rate) == (0.0, 0.0)
    assert loop_share(np.ones(1), rate) == (0.0, 0.0)


def test_every_issue_is_one_sentence_with_a_remedy() -> None:
    (issue,) = find_issues(np.zeros(RATE, np.float32), RATE)
    assert issue.sentence == f"{issue.name}: {issue.seen}; {issue.remedy}."
    assert "100%" in issue.seen and "--seed" in issue.remedy and "\n" not in issue.sentence
    with pytest.raises(ValueError, match="NaN"):
        find_issues(np.array([0.0, np.nan]), RATE)


# Losses --------------------------------------------------------------------------------------------------------------

BASELINES = {"code histogram": 6.0, "first-order Markov model": 5.0}


def epochs(*pairs: tuple[float, float | None]) -> list[Epoch]:
    return [Epoch(number, train, valid) for number, (train, valid) in enumerate(pairs, start=1)]


@pytest.mark.parametrize(
    ("losses", "ended", "expected"),
    [
        ([], True, []),
        ([(5.5, 5.6), (5.0, 5.1), (4.8, 4.9), (4.75, 4.86)], True, []),
        ([(5.5, 5.6), (5.0, 5.1), (4.6, 4.7)], True, ["too short"]),
        ([(5.5, 5.6), (5.0, 5.1), (4.6, 4.7)], False, []),
        ([(5.5, 5.6)], True, ["too short"]),
        ([(7.9, 7.8), (6.5, 6.4)], False, []),  # it has just begun
        ([(7.9, 7.8), (6.5, 6.4), (6.2, 6.3)], False, ["not learning"]),
        ([(7.9, 7.8), (6.5, 6.4), (6.2, 6.3), (5.8, 5.9)], False, []),
        ([(5.5, 5.6), (5.0, 5.1), (4.5, 5.2), (4.0, 5.5)], True, ["overfitting"]),
        ([(5.5, 5.6), (5.0, 5.1), (4.9, 5.11), (4.8, 5.12)], True, []),  # flat
        ([(5.5, 5.6), (5.0, 5.1), (4.5, 5.5)], True, []),  # one bad epoch is none
        ([(5.5, None), (5.0, None), (4.95, None), (4.93, None)], True, []),
        ([(5.5, 5.6), (5.0, 5.1), (7.5, 7.7)], False, ["diverging"]),
        ([(1e5, 6.8)], False, ["diverging"]),
        ([(5.5, 5.6), (math.nan, math.nan)], True, ["loss is not a number"]),
    ],
)
def test_what_the_losses_tell(losses: list[tuple[float, float | None]], ended: bool, expected: list[str]) -> None:
    found = loss_issues(epochs(*losses), BASELINES, unit="bits", ended=ended)
    assert [issue.name for issue in found] == expected
    assert all(isinstance(issue, Issue) and issue.remedy for issue in found)


def test_losses_of_values_may_be_below_zero() -> None:
    falling = epochs((1.0, 1.1), (0.2, 0.3), (-0.5, -0.4), (-0.505, -0.404))
    assert loss_issues(falling, {"mean": 0.5}, unit="nats", ended=True) == []
    rising = epochs((1.0, 1.1), (-0.5, -0.4), (-0.8, -0.3), (-1.2, 0.1))
    assert [issue.name for issue in loss_issues(rising, {"mean": 0.5})] == ["overfitting"]
    assert loss_issues(falling) == []
    assert [issue.name for issue in loss_issues(epochs((-0.5, -0.4), (0.5, 0.6)))] == ["diverging"]


def test_bits_are_told_in_bits() -> None:
    epoch = Epoch(1, math.log(2), 2 * math.log(2)).scaled("bits")
    assert (epoch.train, epoch.valid) == pytest.approx((1.0, 2.0))
    assert Epoch(1, 1.0).scaled("nats") == Epoch(1, 1.0)
