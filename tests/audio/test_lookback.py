"""Where a network looks back to, and what it finds there, against closed forms."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tierwave.audio.lookback import (
    BEFORE,
    LONGEST,
    OFFSETS,
    REACH,
    SHORTEST,
    WHOLE,
    compared,
    found_lag,
    interpolation,
    lags,
    needed,
)
from tierwave.audio.quantize import Quantizer, edges
from tierwave.engine import kernels
from tierwave.nn import lookback as tensors

RATE, LIMIT = 16000, 480


def midi_lags(pitches: np.ndarray) -> np.ndarray:
    """Lags at 16 kHz of MIDI pitches, whose control goes from 0 to 128."""
    return lags(pitches / 128, RATE / (440 * 2 ** (-69 / 12)), 128 / 12, LIMIT)


def test_a_lag_is_one_period_within_what_is_looked_back_by():
    pitches = np.array([33.0, 40.0, 69.0, 80.5])
    np.testing.assert_allclose(midi_lags(pitches)[1:], RATE / (440 * 2 ** ((pitches[1:] - 69) / 12)), rtol=1e-6)
    assert midi_lags(pitches)[0] > 0  # 55 Hz, 291 samples
    assert midi_lags(np.array([0.0, 20.0])).tolist() == [0.0, 0.0]  # below 33 Hz


@given(st.floats(24, 128))
def test_a_lag_is_a_whole_number_of_periods_and_long_enough(pitch):
    (lag,) = midi_lags(np.array([pitch]))
    period = RATE / (440 * 2 ** ((pitch - 69) / 12))
    if lag == 0:
        assert period > LIMIT
        return
    assert lag >= SHORTEST * (1 - 1e-6)
    assert lag / period == pytest.approx(round(lag / period), rel=1e-5)
    assert lag / period < 2 or lag < 2 * SHORTEST  # never more periods than needed


def test_what_is_read_lies_in_the_past():
    assert SHORTEST - OFFSETS[-1] - REACH > 0
    assert REACH - OFFSETS[0] == BEFORE


@given(st.floats(0, 1))
def test_interpolation_is_exact_for_polynomials(share):
    weights = interpolation(share)
    points = np.arange(1 - REACH, 1 + REACH)
    for degree in range(2 * REACH):
        assert weights @ (points.astype(float) ** degree) == pytest.approx(share**degree, abs=1e-9)


@pytest.mark.parametrize("q_type", ["mu-law", "linear", "a-law"])
def test_edges_lie_between_neighbours(q_type):
    quantizer = Quantizer(q_type, 256)
    table = quantizer.table()
    found = edges(table)
    assert np.all(table[:-1] < found) and np.all(found < table[1:])
    assert np.array_equal(np.searchsorted(found, table, side="right"), np.arange(256))


def test_tensors_give_the_same_lags():
    values = np.random.default_rng(0).uniform(0, 1, [3, 500]).astype(np.float32)
    line = (RATE / 8.1757989, 128 / 12, LIMIT)
    np.testing.assert_array_equal(tensors.lags(tf.constant(values), *line).numpy(), lags(values, *line))


@pytest.mark.parametrize("hertz", [110.0, 441.7, 1234.5])
def test_a_tone_comes_back_from_one_period_ago(hertz):
    quantizer = Quantizer("mu-law", 4096)
    time = np.arange(1000)
    sound = 0.5 * np.sin(2 * np.pi * hertz / RATE * time)
    at = np.arange(600, 700)
    lag = lags(np.zeros([1, 100]), RATE / hertz, 1.0, LIMIT)
    codes = tf.constant(quantizer.encode(sound)[None].astype(np.int32))
    found = tensors.past_codes(codes, tf.constant(at, tf.int32), tf.constant(lag), quantizer.table()).numpy()
    for offset, each in zip(OFFSETS, found[:, 0], strict=True):
        np.testing.assert_allclose(quantizer.decode(each), sound[at + offset], atol=3e-3)


def test_without_a_lag_any_code_comes_back_and_none_from_the_future():
    quantizer = Quantizer("mu-law", 256)
    codes = np.full([1, 64], 128, np.int32)
    codes[0, 40:] = 255
    lag = tf.constant([[SHORTEST, 0.0, SHORTEST + 0.9]])
    found = tensors.past_codes(tf.constant(codes), tf.constant([40, 40, 40]), lag, quantizer.table()).numpy()
    assert (found == 128).all()


# ---- lags that are found ---------------------------------------------------------------------------------------------


def tone(period: float, count: int = needed(LIMIT)) -> np.ndarray:
    """A decaying sound of six harmonics."""
    time = np.arange(count)
    harmonics = [np.sin(2 * np.pi * number * time / period + number) / number for number in range(1, 7)]
    return 0.4 * np.exp(-time / 4000) * np.sum(harmonics, axis=0)


def odd_sounds() -> dict[str, np.ndarray]:
    """What a network may have behind it, each of the length that it looks back by."""
    rng, size = np.random.default_rng(5), needed(LIMIT)
    noise = rng.uniform(-1, 1, size)
    return {
        **{f"tone {period}": tone(period) for period in (8.0, 8.3, 12.7, 100.0, 137.4, 444.4, 480.0, 481.0, 700.0)},
        "noisy tone": tone(90.0) + 0.1 * noise,
        "noise": noise,
        "silence": np.zeros(size),
        "constant": np.full(size, -0.3),
        "one click": np.eye(1, size, size - 100)[0],
        "two clicks": np.eye(1, size, size - 100)[0] + np.eye(1, size, size - 300)[0],
        "it begins": np.where(np.arange(size) < size - 40, 0.0, tone(20.0)),
        "it ends": np.where(np.arange(size) < size - 300, tone(20.0), 0.0),
        "a square": np.where(np.arange(size) % 64 < 32, 0.5, -0.5),
    }


@pytest.mark.parametrize("period", [40.7, 61.0, 100.5, 227.27, 333.3, 460.0])
def test_the_lag_of_a_tone_is_its_period(period):
    assert found_lag(tone(period), LIMIT) == pytest.approx(period, rel=5e-3)
    assert found_lag(np.round(100 * tone(period)) / 100, LIMIT) == pytest.approx(period, rel=5e-3)


@pytest.mark.parametrize("name", ["silence", "constant", "one click"])
def test_in_what_never_repeats_no_lag_is_found(name):
    assert found_lag(odd_sounds()[name], LIMIT) == 0.0


def test_in_noise_a_lag_is_seldom_found():
    rng = np.random.default_rng(7)
    found = [found_lag(rng.uniform(-1, 1, needed(LIMIT)), LIMIT) for _ in range(200)]
    assert np.mean(np.array(found) > 0) < 0.05


def test_of_several_periods_the_shortest_is_found_and_none_beyond_the_limit():
    assert found_lag(tone(100.0), LIMIT) == pytest.approx(100.0, rel=5e-3)  # and not 200, 300, 400
    assert found_lag(tone(5.0), LIMIT) == pytest.approx(10.0, rel=5e-3)
    several = found_lag(tone(17.3), LIMIT) / 17.3  # one lies too badly between samples for its harmonics
    assert several == pytest.approx(round(several), rel=5e-3) and several < 4
    for sound in odd_sounds().values():
        lag = found_lag(sound, LIMIT)
        assert lag == 0.0 or SHORTEST - 0.5 <= lag <= LIMIT + 0.5


@pytest.mark.parametrize("limit", [16, 47, 480])
@pytest.mark.parametrize("q_type", ["mu-law", "linear"])
def test_tensors_and_kernels_find_the_same_lags(limit, q_type):
    quantizer = Quantizer(q_type, 256)
    amplitudes, size = quantizer.table(), needed(limit)
    codes = np.stack([quantizer.encode(sound) for sound in odd_sounds().values()]).astype(np.int32)
    at = np.arange(size, codes.shape[1] + 1, max(1, (codes.shape[1] - size) // 12))
    expected = [[found_lag(amplitudes[each[:stop]], limit) for stop in at] for each in codes]
    tensor = tf.constant(at, tf.int32)

    def lags_of(codes, at):
        return tensors.found_lags(codes, at, amplitudes, limit)

    for call in (lags_of, tf.function(lags_of)):
        np.testing.assert_array_equal(call(tf.constant(codes), tensor).numpy(), expected)
    vectors = np.concatenate([[7.0], np.rint(amplitudes * np.float32(WHOLE))]).astype(np.float32)
    width = (8 * limit + 14) // 15 + limit + 1
    found = [[kernels._find_lag(each[stop - width : stop].copy(), vectors, 1, limit) for stop in at] for each in codes]
    np.testing.assert_array_equal(np.array(found, np.float32), expected)
    assert np.any(np.array(expected) > 0) and np.any(np.array(expected) == 0)


# ---- edges between codes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("q_type", ["mu-law", "linear"])
def test_tensors_and_kernels_find_the_same_codes_on_edges_and_everywhere(q_type):
    # Where as many samples of one code as of the next lie around a point half way, rounding tells the code.
    amplitudes, rng = Quantizer(q_type, 256).table(), np.random.default_rng(2)
    codes = np.stack([np.repeat(np.arange(256), 8), rng.integers(0, 256, 2048)]).astype(np.int32)
    at = np.arange(600, 2000)
    chosen = np.array([8.5, 7.5, 16.5, 100.5, 7.9999995, 8.0, 7.7, 300.25, 480.0, 480.5], np.float32)
    lag = np.where(
        rng.random([2, len(at)]) < 0.7, rng.choice(chosen, [2, len(at)]), rng.uniform(7.5, 480, [2, len(at)])
    )
    lag = lag.astype(np.float32)
    arguments = tf.constant(codes), tf.constant(at, tf.int32), tf.constant(lag)

    def codes_of(codes, at, lag):
        return tensors.past_codes(codes, at, lag, amplitudes)

    for call in (codes_of, tf.function(codes_of)):
        found = call(*arguments).numpy()
        for voice, index in itertools.product(range(2), range(len(at))):
            ours = kernel_codes(codes[voice], at[index], lag[voice, index], amplitudes)
            assert found[:, voice, index].tolist() == ours, (at[index], lag[voice, index])


def kernel_codes(codes: np.ndarray, at: int, lag: np.float32, amplitudes: np.ndarray) -> list[int]:
    """What `kernels` finds, one code for each offset: the rows of its table tell which one was taken."""
    levels, taps = len(amplitudes), len(OFFSETS)
    rows = np.zeros([taps, levels, taps], np.float32)
    for tap in range(taps):
        rows[tap, :, tap] = np.arange(levels)
    weights = kernels.packed(rows.reshape(-1, taps), is_table=True)
    result = np.zeros(kernels.LANES, np.float32)
    first = int(at) - int(np.floor(lag)) - BEFORE
    past = codes[first : first + taps + 2 * REACH - 1].copy()
    table = np.array([0, taps * levels, taps, -1])
    kernels._look_back(result, lag, amplitudes, edges(amplitudes), past, table, weights, np.zeros(1, np.float32))
    return result[:taps].astype(int).tolist()


def test_sums_of_the_longest_lag_at_full_scale_are_exact():
    """Where a Fourier transform of the loudest sound would not round to whole numbers, lags of tensors would differ."""
    amplitudes, size = Quantizer("mu-law", 256).table(), needed(LONGEST)
    rng = np.random.default_rng(8)
    loud = np.where(np.arange(size + 64) % 1500 < 700, 255, 0) + rng.integers(0, 2, size + 64)
    codes = np.stack([np.clip(loud, 0, 255), rng.integers(0, 256, size + 64)]).astype(np.int32)
    at = np.array([size, size + 17, size + 64])
    vectors = np.rint(amplitudes * np.float32(WHOLE)).astype(np.float32)
    width = compared(LONGEST) + LONGEST + 1
    expected = [
        [kernels._find_lag(each[stop - width : stop].copy(), vectors, 0, LONGEST) for stop in at] for each in codes
    ]
    found = tensors.found_lags(tf.constant(codes), tf.constant(at, tf.int32), amplitudes, LONGEST)
    np.testing.assert_array_equal(found.numpy(), expected)
    assert expected[0][0] == pytest.approx(1500, abs=1)
