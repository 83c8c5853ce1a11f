"""What linear prediction tells a network, against scipy, closed forms, and the engine against tensors."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_toeplitz
from scipy.signal import lfilter

from tierwave.audio.prediction import (
    ERRORS,
    LEAST,
    NOISE,
    ORDER,
    WIDENING,
    WINDOW,
    after_silence,
    early,
    scale_edges,
    window,
)
from tierwave.audio.quantize import Quantizer, edges
from tierwave.engine import kernels
from tierwave.nn import prediction

QUANTIZER = Quantizer("mu-law", 256)
TABLE = QUANTIZER.table()


def tone(samples: int, seed: int = 0) -> np.ndarray:
    """Codes of two partials in noise, whose level rises."""
    at, rng = np.arange(samples), np.random.default_rng(seed)
    sound = np.sin(0.2 * at) + 0.3 * np.sin(0.61 * at) + 0.02 * rng.normal(size=samples)
    return QUANTIZER.encode((0.6 * np.linspace(0.2, 1.0, samples) * sound).astype(np.float32)).astype(np.int32)


def fit_by_the_engine(codes: np.ndarray) -> np.ndarray:
    result = np.zeros(ORDER, np.float32)
    kernels._fit(result, codes[-WINDOW:], np.concatenate([window(), TABLE]).astype(np.float32))
    return result


def told_by_the_engine(codes: np.ndarray, step: int) -> np.ndarray:
    """Two codes for each sample of a sound behind silence, `[2, samples]`."""
    heard = np.concatenate([np.full(WINDOW, QUANTIZER.silence), codes]).astype(np.int32)
    kept = np.concatenate([TABLE, edges(TABLE), scale_edges(256)])
    fitted_from = np.concatenate([window(), TABLE]).astype(np.float32)
    state, told = after_silence(TABLE[QUANTIZER.silence]), np.zeros([len(codes), 2], np.float32)
    for at in range(len(codes)):
        if at % step == 0:
            kernels._fit(state[:ORDER], heard[at : at + WINDOW], fitted_from)
        kernels._expect(told[at], state, heard[at + WINDOW - ORDER : at + WINDOW], kept)
    return told.T.astype(int)


def by_scipy(codes: np.ndarray) -> np.ndarray:
    sound = TABLE[codes[-WINDOW:]].astype(np.float64) * window()
    correlation = np.correlate(sound, sound, "full")[WINDOW - 1 : WINDOW + ORDER]
    column = correlation[:ORDER].copy()
    column[0] = column[0] * (1 + NOISE) + LEAST
    return solve_toeplitz(column, correlation[1:]) * WIDENING ** np.arange(1, ORDER + 1)


@pytest.mark.parametrize("seed", range(3))
def test_coefficients_are_those_of_scipy(seed):
    codes = tone(900, seed)
    expected = by_scipy(codes)
    np.testing.assert_allclose(fit_by_the_engine(codes), expected, atol=1e-6)
    found = prediction.fitted(tf.constant(codes[None]), tf.constant([len(codes)]), TABLE)[0, 0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


SOUNDS = st.one_of(
    st.just(np.zeros(WINDOW)),
    st.floats(-1, 1).map(lambda level: np.full(WINDOW, level)),
    st.floats(0.001, np.pi).map(lambda pitch: np.sin(pitch * np.arange(WINDOW))),
    st.floats(0.001, 0.5).map(lambda pitch: np.sign(np.sin(pitch * np.arange(WINDOW)))),
    st.integers(0, 1000).map(lambda seed: np.random.default_rng(seed).uniform(-1, 1, WINDOW)),
    st.integers(0, WINDOW - 1).map(lambda at: np.eye(1, WINDOW, at)[0]),
)


@settings(deadline=None, max_examples=60)
@given(SOUNDS)
def test_predictions_of_predictions_die_away(sound):
    """All roots lie within the circle, as far in as the widening takes them."""
    coefficients = fit_by_the_engine(QUANTIZER.encode(sound.astype(np.float32)).astype(np.int32))
    assert np.isfinite(coefficients).all()
    assert np.abs(np.roots(np.concatenate([[1.0], -coefficients.astype(np.float64)]))).max() < WIDENING + 1e-4


def test_what_stays_of_a_resonant_sound_is_its_noise():
    noise = 0.02 * np.random.default_rng(0).normal(size=6000)
    sound = lfilter([1.0], [1.0, -1.7, 0.9], noise)
    codes = QUANTIZER.encode(sound.astype(np.float32)).astype(np.int32)
    expected = TABLE[told_by_the_engine(codes, 64)[0]]
    left = np.sqrt(np.mean((sound - expected)[1000:] ** 2))
    assert 0.9 < left / 0.02 < 1.35
    assert np.std(sound) > 4 * left


@pytest.mark.parametrize("step", [1, 4, 24, 64])
def test_tensors_tell_what_the_engine_tells(step):
    """In windows that begin anywhere, and step by step."""
    samples, overlap = 384, -(-(WINDOW + early(step)) // step) * step
    codes = tone(samples)
    told = told_by_the_engine(codes, step)
    heard = np.concatenate([np.full(overlap, QUANTIZER.silence), codes]).astype(np.int32)[None]
    for first in (0, 2 * step, 192):
        found = prediction.of_window(tf.constant(heard[:, first:]), overlap, step, TABLE)
        np.testing.assert_array_equal(found[:, 0], told[:, first:])
    state = prediction.after_window(tf.constant(heard[:, : overlap + step]), step, TABLE)
    for at in range(step, step + 70):
        so_far = tf.constant(heard[:, : overlap + at])
        found, state = prediction.of_step(so_far, tf.constant(at % step == 0), state, TABLE)
        np.testing.assert_array_equal(found[:, 0, 0], told[:, at])


def test_nothing_is_told_of_what_comes():
    codes, changed = (np.stack([tone(1024, seed), tone(1024, 9)]) for seed in (0, 1))
    changed[:, :900], changed[:, 900] = codes[:, :900], 255 - codes[:, 900]
    first, second = (prediction.of_window(tf.constant(one), 768, 64, TABLE).numpy() for one in (codes, changed))
    np.testing.assert_array_equal(first[..., : 900 - 768 + 1], second[..., : 900 - 768 + 1])
    assert (first[..., 900 - 768 + 1 :] != second[..., 900 - 768 + 1 :]).any()


def test_silence_leaves_what_running_through_it_leaves():
    silent = tf.fill([1, WINDOW + early(64)], QUANTIZER.silence)
    left = prediction.after_window(silent, 64, TABLE)
    np.testing.assert_allclose(
        after_silence(TABLE[QUANTIZER.silence]), np.concatenate([np.ravel(part) for part in left]), atol=1e-9, rtol=1e-4
    )


@pytest.mark.parametrize("levels", [2, 16, 256, 1000])
def test_codes_of_errors_are_octaves(levels):
    between = scale_edges(levels)
    assert len(between) == levels - 1 and (np.diff(between) > 0).all()
    largest = np.sum(between <= 1.0)
    assert largest == levels - np.ceil(levels * 0.5 / 14.5)
    if levels == 1000:  # an octave of the root mean square is always as many codes
        codes = [np.sum(between <= np.float32(2.0**octave) ** 2) for octave in range(-13, 1)]
        np.testing.assert_allclose(np.diff(codes), 1000 / 14.5, atol=1)


@pytest.mark.parametrize("step", [1, 7, 32, 33, 64, 500])
def test_errors_before_a_window_are_known(step):
    assert early(step) % step == 0 and early(step) >= ERRORS + 1 > early(step) - step
