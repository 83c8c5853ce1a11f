"""Where a network looks back to, and what it finds there, against closed forms."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tierwave.audio.lookback import BEFORE, OFFSETS, REACH, SHORTEST, edges, interpolation, lags
from tierwave.audio.quantize import Quantizer
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
