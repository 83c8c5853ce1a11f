"""How well linear prediction that adapts as it goes, and has learned nothing, predicts codes.

Recursive least squares over the decoded codes predicts each sample from those before it; a mixture of logistic
distributions around the prediction, as wide as the recent errors, gives every code its probability. A network that is
no better has learned the colour of the sound at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np

from tierwave.analysis.statistics import Segment
from tierwave.audio.quantize import Quantizer

ORDER = 32  # samples that a prediction is made of
FORGETTING = 0.998  # per sample, of least squares
WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the logistic distributions, in running mean absolute errors
_ERROR_FORGETTING = 0.99  # per sample, of the running mean absolute error
_FIRST_ERROR = 0.05  # in full scales
_SHARED = 0.02  # share of a component's weight that is spread over all of them at each sample (Herbster & Warmuth 1998)
_UNIFORM = 1e-4  # probability that all codes share equally, so that no code is impossible
_UNKNOWN = 100.0  # the inverse correlations before the first sample, large because no coefficient is known yet
_LARGEST_TRACE = 1e6  # of the inverse correlations, beyond which nothing is forgotten


def linear_prediction_bits(segments: Iterable[Segment], quantizer: Quantizer) -> float:
    """Cross-entropy in bits per sample of segments of codes under adaptive linear prediction, begun afresh at each.

    The coefficients follow recursive least squares (Haykin, Adaptive Filter Theory, table 10.1) of order `ORDER`.

    Args:
        segments: integer codes [samples] each, or the blocks of each in turn.

    Raises:
        ValueError: there is no code.
    """
    table = quantizer.table().astype(np.float64)
    edges = np.concatenate([[-np.inf], (table[1:] + table[:-1]) / 2, [np.inf]])
    advance = _compiled()
    nats, samples = 0.0, 0
    for segment in segments:
        state = _begin()
        for block in [segment] if isinstance(segment, np.ndarray) else segment:
            nats += advance(np.ascontiguousarray(block, np.int64), table, edges, np.array(WIDTHS), *state)
            samples += len(block)
    if not samples:
        raise ValueError("there are no codes to measure; hold out at least one sample.")
    return nats / samples / math.log(2.0)


def _begin() -> tuple[np.ndarray, ...]:
    """past [order], coefficients [order], inverse correlations [order, order], mean error [1], weights [widths]."""
    return (
        np.zeros(ORDER),
        np.zeros(ORDER),
        np.eye(ORDER) * _UNKNOWN,
        np.array([_FIRST_ERROR]),
        np.full(len(WIDTHS), 1.0 / len(WIDTHS)),
    )


@cache
def _compiled() -> Any:
    import numba  # takes half a second, and comes with librosa

    options: dict[str, Any] = {"fastmath": {"contract", "reassoc", "nsz", "arcp"}}
    try:
        return numba.njit(_advance, cache=True, **options)
    except RuntimeError:  # no folder for compiled code can be written to: it is compiled again each time
        return numba.njit(_advance, **options)


def _advance(
    codes: np.ndarray,
    table: np.ndarray,
    edges: np.ndarray,
    widths: np.ndarray,
    past: np.ndarray,
    coefficients: np.ndarray,
    inverse: np.ndarray,
    error: np.ndarray,
    weights: np.ndarray,
) -> float:
    """The surprise at `codes` in nats; the state that `_begin` gives is moved on in place."""
    order, components, levels = len(past), len(widths), len(table)
    gain = np.empty(order)
    likelihood = np.empty(components)
    nats = 0.0
    for position in range(len(codes)):
        code = codes[position]
        predicted = 0.0
        for i in range(order):
            predicted += coefficients[i] * past[i]
        predicted = min(1.0, max(-1.0, predicted))
        total = 0.0
        for j in range(components):
            width = max(error[0] * widths[j], 1e-6)
            # The difference of two logistic functions on the side of the tail where it keeps its digits.
            low, high = (edges[code] - predicted) / width, (edges[code + 1] - predicted) / width
            if low > 0.0:
                low, high = -high, -low
            below = 1.0 / (1.0 + math.exp(min(-low, 700.0)))
            likelihood[j] = max(1.0 / (1.0 + math.exp(min(-high, 700.0))) - below, 1e-300)
            total += weights[j] * likelihood[j]
        nats -= math.log((1.0 - _UNIFORM) * total + _UNIFORM / levels)
        for j in range(components):
            weights[j] = (1.0 - _SHARED) * weights[j] * likelihood[j] / total + _SHARED / components

        missed = table[code] - predicted
        error[0] = _ERROR_FORGETTING * error[0] + (1.0 - _ERROR_FORGETTING) * abs(missed)
        power = FORGETTING
        for i in range(order):
            product = 0.0
            for j in range(order):
                product += inverse[i, j] * past[j]
            gain[i] = product
            power += product * past[i]
        trace = 0.0
        for i in range(order):
            coefficients[i] += gain[i] / power * missed
            share = gain[i] / power
            for j in range(order):
                inverse[i, j] -= share * gain[j]
            trace += inverse[i, i]
        # Forgetting in silence, where nothing is learned, would let the inverse correlations grow without end.
        if trace < _LARGEST_TRACE:
            for i in range(order):
                for j in range(order):
                    inverse[i, j] /= FORGETTING
        for i in range(order - 1, 0, -1):
            past[i] = past[i - 1]
        past[0] = table[code]
    return nats
