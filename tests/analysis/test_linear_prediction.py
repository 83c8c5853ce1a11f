"""The bits of adaptive linear prediction: against a plain implementation, an entropy in closed form, and itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.signal import lfilter

from tierwave.analysis import linear_prediction
from tierwave.analysis.linear_prediction import linear_prediction_bits
from tierwave.audio.quantize import Quantizer

MU_LAW = Quantizer("mu-law", 256)


def plainly(codes: np.ndarray, quantizer: Quantizer) -> float:
    """Bits per sample by textbook recursive least squares in matrix form, one code after the other."""
    table = quantizer.table().astype(float)
    edges = np.concatenate([[-np.inf], (table[1:] + table[:-1]) / 2, [np.inf]])
    order, widths = linear_prediction.ORDER, np.array(linear_prediction.WIDTHS)
    past, coefficients, inverse = np.zeros(order), np.zeros(order), np.eye(order) * 100.0
    error, weights, bits = 0.05, np.full(len(widths), 1 / len(widths)), 0.0
    for code in codes:
        predicted = float(np.clip(coefficients @ past, -1, 1))
        scaled = (edges[code : code + 2] - predicted) / max(error, 1e-9)
        tails = 0.5 * (1 + np.tanh(0.5 * scaled[:, None] / widths))  # the logistic function
        likelihood = np.maximum(tails[1] - tails[0], 1e-300)
        bits -= math.log2((1 - 1e-4) * float(weights @ likelihood) + 1e-4 / len(table))
        posterior = weights * likelihood / (weights @ likelihood)
        weights = 0.98 * posterior + 0.02 / len(widths)
        missed = table[code] - predicted
        error = 0.99 * error + 0.01 * abs(missed)
        gain = inverse @ past / (0.998 + past @ inverse @ past)
        coefficients = coefficients + gain * missed
        inverse = (inverse - np.outer(gain, past @ inverse)) / 0.998
        past = np.concatenate([[table[code]], past[:-1]])
    return bits / len(codes)


def resonance(samples: int, noise: float, seed: int = 0) -> np.ndarray:
    """A Gaussian autoregressive process of order two."""
    return lfilter([noise], [1.0, -1.6, 0.9], np.random.default_rng(seed).standard_normal(samples))


@pytest.mark.parametrize("quantizer", [MU_LAW, Quantizer("linear", 256), Quantizer("a-law", 64)], ids=str)
def test_it_is_recursive_least_squares(quantizer: Quantizer) -> None:
    codes = quantizer.encode(resonance(1500, 0.05))
    assert linear_prediction_bits([codes], quantizer) == pytest.approx(plainly(codes, quantizer), abs=1e-6)


def test_a_gaussian_process_costs_little_more_than_its_entropy() -> None:
    quantizer, noise = Quantizer("linear", 4096), 0.02
    bits = linear_prediction_bits([quantizer.encode(resonance(60_000, noise))], quantizer)
    entropy = 0.5 * math.log2(2 * math.pi * math.e * noise**2) - math.log2(2 / 4096)
    assert entropy < bits < entropy + 0.15


def test_probabilities_of_all_codes_add_up_to_one() -> None:
    quantizer = Quantizer("mu-law", 32)
    codes = quantizer.encode(resonance(300, 0.05))
    before = linear_prediction_bits([codes], quantizer) * len(codes)
    each = [
        linear_prediction_bits([np.append(codes, np.uint8(code))], quantizer) * (len(codes) + 1) - before
        for code in range(32)
    ]
    assert np.exp2(-np.array(each)).sum() == pytest.approx(1.0, abs=1e-6)


def test_blocks_of_any_size_give_the_same_and_segments_begin_afresh() -> None:
    codes = MU_LAW.encode(resonance(5000, 0.05))
    whole = linear_prediction_bits([codes], MU_LAW)
    assert linear_prediction_bits([iter(np.split(codes, [1, 7, 1000, 1001]))], MU_LAW) == pytest.approx(
        whole, rel=1e-12
    )
    assert linear_prediction_bits([codes, codes], MU_LAW) == pytest.approx(whole, rel=1e-12)
    halves = np.split(codes, 2)
    each = [linear_prediction_bits([half], MU_LAW) for half in halves]
    assert linear_prediction_bits(halves, MU_LAW) == pytest.approx(np.mean(each), rel=1e-12)


def test_minutes_of_silence_do_no_harm() -> None:
    sound = resonance(20_000, 0.05)
    silence = np.full(500_000, MU_LAW.silence, np.uint8)
    quiet = linear_prediction_bits([silence], MU_LAW)
    assert 0.0 < quiet < 0.01
    together = linear_prediction_bits([np.concatenate([silence, MU_LAW.encode(sound)])], MU_LAW)
    alone = linear_prediction_bits([MU_LAW.encode(sound)], MU_LAW)
    assert together * 520_000 == pytest.approx(alone * 20_000 + quiet * 500_000, rel=0.02)


def test_nothing_has_no_bits() -> None:
    with pytest.raises(ValueError, match="no codes to measure"):
        linear_prediction_bits([], MU_LAW)
