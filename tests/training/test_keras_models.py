"""The networks as Keras users expect them: called, summarised, saved, and made anew from their config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tierwave.family import load_config

pytestmark = pytest.mark.usefixtures("eager")
DOCUMENTS: dict[str, dict[str, Any]] = {
    "samplernn": {"dim": 6, "frame_sizes": [2, 4], "emb_size": 3, "q_levels": 8, "seq_len": 8, "num_rnn_layers": 2},
    "plain": {"dim": 6, "frame_sizes": [], "q_levels": 8, "seq_len": 8, "num_rnn_layers": 1, "conditioned_on": ["p"]},
    "audio": {"model": "conditioning", "conditioned_on": ["p"], "q_levels": 8, "hidden_size": 6, "seq_len": 8},
    "values": {
        "model": "conditioning", "generates": ["a", "b"], "rate": 50, "net": "mixture", "mixtures": 2,
        "hidden_size": 6, "seq_len": 8, "cell": "lstm",
    },
    "melnet": {
        "model": "melnet", "tiers": 2, "layers": [1, 1], "hidden_size": 4, "mixtures": 2, "seq_len": 8,
        "audio": {"sample_rate": 8000, "n_fft": 64, "win_length": 64, "hop_length": 16, "mel_channels": 4},
    },
}  # fmt: skip


@pytest.fixture(params=DOCUMENTS)
def model(request: pytest.FixtureRequest) -> Any:
    """A small network with weights that are not those it began with, so that nothing is equal by chance."""
    family, config = load_config(DOCUMENTS[request.param], request.param)
    keras.utils.set_random_seed(3)
    return family.build(config)


def window(model: Any, lanes: int = 2, seed: int = 0) -> dict[str, Any]:
    """Inputs of a window of eight steps, with whatever context the network needs before it."""
    random = np.random.default_rng(seed)
    name = type(model).__name__
    if name == "SampleRNN":
        before, given = model.config.top_frame, model.config.conditioned_on
        found: dict[str, Any] = {"inputs": random.integers(0, 8, [lanes, before + 8]).astype(np.int32)}
    elif name == "ConditionalTier":
        before, given = 0, model.stage.conditioned_on
        codes = random.integers(0, 8, [lanes, 8]).astype(np.int32)
        found = {"inputs": codes if model.stage.makes_audio else random.random([lanes, 8, 2]).astype(np.float32)}
    else:
        before, given = model.config.time_factor, model.config.conditioned_on
        found = {"inputs": random.random([lanes, before + 8, 4]).astype(np.float32)}
    if given:
        found["controls"] = random.random([lanes, before + 8, len(given)]).astype(np.float32)
    return found


def flat(found: Any) -> list[np.ndarray]:
    return [np.asarray(part) for part in tf.nest.flatten(found)]


def test_a_call_begins_with_fresh_lanes_and_goes_on_from_a_state(model: Any) -> None:
    given = window(model)
    alone = model(given)
    prediction, state = model(given, model.initial_state(2))
    for first, second in zip(flat(alone), flat(prediction), strict=True):
        np.testing.assert_array_equal(first, second)
    later, _ = model(given, state)
    assert any(not np.array_equal(a, b) for a, b in zip(flat(alone), flat(later), strict=True))
    if len(given) == 1:
        np.testing.assert_array_equal(flat(model(given["inputs"]))[0], flat(alone)[0])


def test_what_is_called_is_what_is_trained(model: Any) -> None:
    """The likelihood of training is that of what a call predicts."""
    given = window(model)
    batch = {**given, "mask": tf.ones([2, 8]), "reset": tf.constant([True, True])}
    if type(model).__name__ == "SampleRNN":
        batch["targets"] = given["inputs"][:, model.config.top_frame :]
        expected = keras.losses.sparse_categorical_crossentropy(batch["targets"], model(given), from_logits=True)
        np.testing.assert_allclose(
            model.loss_sums(batch, model.initial_state(2)).nats, tf.reduce_sum(expected, 1), rtol=1e-5
        )
        return
    called = []
    call = type(model).call
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(model), "call", lambda self, *given, **options: called.append(1) or call(self, *given, **options)
        )
        if type(model).__name__ == "ConditionalTier":
            batch = {name: tf.concat([each, each[:, :1]], axis=1) for name, each in given.items()} | {
                name: batch[name] for name in ("mask", "reset")
            }
        nats = model.loss_sums(batch, model.initial_state(2)).nats
    assert called == [1] and np.all(np.isfinite(nats))


def test_its_config_makes_the_same_network(model: Any) -> None:
    document = json.loads(json.dumps(model.get_config()))
    again = type(model).from_config(document)
    assert again.get_config() == model.get_config()
    assert [tuple(weight.shape) for weight in again.weights] == [tuple(weight.shape) for weight in model.weights]
    again.set_weights(model.get_weights())
    given = window(model)
    for first, second in zip(flat(model(given)), flat(again(given)), strict=True):
        np.testing.assert_array_equal(first, second)
    architecture = keras.saving.serialize_keras_object(model)
    assert type(keras.saving.deserialize_keras_object(architecture)) is type(model)


def test_weights_are_saved_and_loaded(model: Any, tmp_path: Path) -> None:
    model.save_weights(tmp_path / "model.weights.h5")
    again = type(model).from_config(model.get_config())
    for weight in again.weights:
        weight.assign(tf.zeros_like(weight))
    again.load_weights(tmp_path / "model.weights.h5")
    for first, second in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_summary_counts_every_weight(model: Any) -> None:
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    assert f"Total params: {model.count_params():,}" in "\n".join(lines)
    assert model.count_params() == sum(int(np.prod(weight.shape)) for weight in model.weights)
