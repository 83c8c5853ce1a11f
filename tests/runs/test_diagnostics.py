"""What the losses of a training say in words."""

from __future__ import annotations

import math

import pytest

from tierwave.runs.diagnostics import verdict
from tierwave.runs.history import Epoch, code_baselines

BASELINES = {"code histogram": 5.0, "first-order Markov model": 4.0, "linear prediction": 3.0}


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (5.2, ["nothing yet", "2.200 above linear prediction (3.000)", "code histogram (5.000)"]),
        (4.5, ["little yet", "1.500 above", "first-order Markov model (4.000)"]),
        (3.4, ["the colour of the sound, not its course", "0.400 above linear prediction (3.000)"]),
        (2.6, ["more than the colour", "2.600 bits", "0.400 below linear prediction (3.000)"]),
    ],
)
def test_what_was_learned_is_said_by_the_best_epoch(bits: float, words: list[str]) -> None:
    said = verdict([Epoch(1, 5.0, bits + 1.0), Epoch(2, 2.0, bits), Epoch(3, 1.5, bits + 0.5)], BASELINES)
    assert all(word in said for word in words), said


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert verdict([], BASELINES) == ""
    assert verdict([Epoch(1, 2.0), Epoch(2, 2.0, math.nan)], BASELINES) == ""
    assert verdict([Epoch(1, 2.0, 2.5)], {"code histogram": 5.0}) == ""


def test_a_run_before_linear_prediction_keeps_its_baselines() -> None:
    known = code_baselines({"histogram_bits": 2.0, "markov_bits": 1.0})
    assert known == {"code histogram": 2.0 * math.log(2), "first-order Markov model": math.log(2)}
    more = code_baselines({"linear_prediction_bits": 1.0})
    assert more == {"linear prediction": math.log(2)}
