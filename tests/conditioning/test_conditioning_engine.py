"""Conditional tiers on the engine against the model and the sampler of TensorFlow."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from test_conditioning_model import LEVELS, ONES, PAIRS, Case, config_of, made, model_of

from conditioning.config import Config
from conditioning.engine import EngineVoices, network
from conditioning.model import ConditionalTier
from conditioning.sampler import sampler_of
from tierwave.controls.live import Settings
from tierwave.engine.network import InMemory, Network, WeightKind
from tierwave.engine.voices import Voices
from tierwave.generation.voices import SampledVoices
from tierwave.runs.checkpoints import named_weights

VOICES = 3


def engine(model: ConditionalTier, kind: WeightKind = "float32") -> Network:
    return network(model.stage, InMemory(named_weights(model)), kind, control_inputs=model.control_inputs)


def inputs_of(model: ConditionalTier, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Values and controls at random."""
    rng = np.random.default_rng(6)
    if model.stage.makes_audio:
        values = rng.integers(0, LEVELS, [VOICES, steps]).astype(np.int32)
    else:
        values = rng.random([VOICES, steps, model.features]).astype(np.float32)
    return values, rng.random([VOICES, steps, len(model.stage.conditioned_on)]).astype(np.float32)


def settings(controls: np.ndarray, temperature: float = 1.0, top_k: int = 0) -> Settings:
    shape = controls.shape[:2]
    return Settings(controls, np.full(shape, temperature, np.float32), np.full(shape, top_k, np.int32))


def compare(case: Case, steps: int, **keys: Any) -> None:
    """Predictions of both, fed the same values and controls."""
    model = model_of(config_of(case, **keys))
    values, controls = inputs_of(model, steps)
    voices = Voices(engine(model), VOICES, 0)
    voices.begin(values[:, :1])
    found = voices.predictions(values[:, 1:], controls[:, :-1])
    given = tf.constant(controls[:, :-1]) if model.stage.conditioned_on else None
    run = tf.function(
        lambda values: model.sequence(values, given, model.initial_state(VOICES), model.effective_weights())[0]
    )
    expected = [part.numpy().reshape([VOICES, steps - 1, -1]) for part in run(tf.constant(values[:, :-1]))]
    np.testing.assert_allclose(found, np.concatenate(expected, axis=-1), rtol=0, atol=1e-4, err_msg=str(case))


@pytest.mark.parametrize("case", ONES, ids=str)
def test_predictions_are_those_of_the_model(case: Case) -> None:
    compare(case, 40)


@pytest.mark.slow
@pytest.mark.parametrize("case", PAIRS, ids=str)
def test_predictions_are_those_of_the_model_for_every_pair_of_options(case: Case) -> None:
    compare(case, 2000, num_layers=2)


def both(model: ConditionalTier) -> tuple[EngineVoices, SampledVoices]:
    """The same voices on the engine and by TensorFlow."""
    return EngineVoices(engine(model), VOICES, 5), SampledVoices(sampler_of(model), VOICES, 5)


@pytest.mark.parametrize("primed", [False, True])
@pytest.mark.parametrize(
    ("net", "kind", "cell"),
    [("rnncontrol", "scalar", "gru"), ("wide", "embedding", "lstm"), ("baseline", "onehot", "phased_lstm")],
)
def test_codes_are_those_of_the_sampler(net: str, kind: str, cell: str, primed: bool) -> None:
    model = made(net, kind, cell, 2)
    values, controls = inputs_of(model, 60)
    for asked in ({}, {"temperature": 0.6, "top_k": 4}, {"temperature": 0.0}):
        ours, theirs = both(model)
        for voices in (ours, theirs):
            if primed:
                voices.prime(values, controls)
        found, expected = (voices.run(settings(controls, **asked)) for voices in (ours, theirs))
        assert (found == expected).all()


@pytest.mark.parametrize("net", ["baseline", "shared_split", "shared_pathways", "mixture"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_values_are_those_of_the_sampler(net: str, temperature: float) -> None:
    model = made(net, "three", "gru", 1, scale_floor=0.05)
    values, controls = inputs_of(model, 20)
    ours, theirs = both(model)
    for voices in (ours, theirs):
        voices.prime(values, controls)
    found, expected = (voices.run(settings(controls, temperature)) for voices in (ours, theirs))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_controls_are_encoded() -> None:
    config = Config.model_validate(
        {"q_levels": LEVELS, "hidden_size": 6, "num_layers": 1, "seq_len": 5, "conditioned_on": ["a", "kind"]}
        | {"controls": {"kind": {"categories": ["x", "y", "z"], "encoding": "one_hot"}, "a": {"encoding": "sinusoids"}}}
    )
    model = model_of(config)
    values, controls = inputs_of(model, 30)
    controls[..., 1] = np.random.default_rng(1).integers(0, 3, [VOICES, 30]) / 2
    ours, theirs = both(model)
    assert (ours.run(settings(controls)) == theirs.run(settings(controls))).all()


def test_blocks_and_voices_change_nothing() -> None:
    for kind in ("scalar", "three"):
        ready = engine(made("baseline", kind, "phased_lstm", 1, num_layers=2), "int8")
        _, controls = inputs_of(made("baseline", kind, "gru", 1), 50)
        whole = EngineVoices(ready, VOICES, 5).run(settings(controls))
        pieces, alone = EngineVoices(ready, VOICES, 5), EngineVoices(ready, 1, 5)
        parts = [pieces.run(settings(controls[:, first:last])) for first, last in ((0, 1), (1, 30), (30, 50))]
        assert (np.concatenate(parts, axis=1) == whole).all()
        assert (alone.run(settings(controls[:1])) == whole[:1]).all()
