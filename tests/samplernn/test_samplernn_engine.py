"""SampleRNN on the engine against the model and the sampler of TensorFlow."""

import numpy as np
import pytest
import tensorflow as tf
from test_samplernn_model import chosen, make_model

from samplernn.config import Config
from samplernn.engine import network
from samplernn.model import SampleRNN
from samplernn.stream import SampleStream
from tierwave.engine.network import InMemory, Network, WeightKind
from tierwave.engine.voices import Voices
from tierwave.errors import RunError, UsageError
from tierwave.generation.request import Request
from tierwave.runs.checkpoints import named_weights

VOICES = 2


def engine(model: SampleRNN, kind: WeightKind = "float32") -> Network:
    return network(model.config, InMemory(named_weights(model)), kind)


def forced(model: SampleRNN, steps: int, kind: WeightKind = "float32") -> tuple[np.ndarray, np.ndarray]:
    """Logits of the engine and of the model, both fed the same codes and controls."""
    config, rng = model.config, np.random.default_rng(4)
    top = config.history
    steps -= steps % top
    silence = np.full([VOICES, top], model.quantizer.silence)
    codes = np.concatenate([silence, rng.integers(0, config.q_levels, [VOICES, steps])], axis=1).astype(np.int32)
    controls = rng.uniform(size=[VOICES, steps, len(config.conditioned_on)]).astype(np.float32)
    found = Voices(engine(model, kind), VOICES, 0).predictions(codes[:, top:], controls)
    run = tf.function(lambda codes, controls: model.logits(codes, model.initial_state(VOICES), controls=controls)[0])
    return found, run(tf.constant(codes), tf.constant(controls) if config.conditioned_on else None).numpy()


def compared(steps: int, combinations: list[dict]) -> None:
    for keys in combinations:
        found, expected = forced(make_model(**keys), steps)
        assert np.abs(found - expected).max() < 1e-4, keys


def test_logits_are_those_of_the_model() -> None:
    compared(96, chosen(2)[:6])


@pytest.mark.slow
def test_logits_are_those_of_the_model_for_every_pair_of_options() -> None:
    compared(2000, chosen(2))


def request(**keys) -> Request:
    return Request(sequences=3, seconds=1.0, temperature=(1.0, 0.7, 0.0), random_seed=9, **keys)


@pytest.mark.parametrize(
    "keys", [{}, {"frame_sizes": []}, {"rnn_type": "lstm", "convention": "paper"}, {"zero_mean": 20}]
)
@pytest.mark.parametrize("asked", [{}, {"top_k": 3}, {"top_p": 0.8}, {"seed_audio": np.linspace(-0.5, 0.5, 21)}])
def test_codes_are_those_of_the_sampler(keys: dict, asked: dict) -> None:
    model = make_model(**{"frame_sizes": [4, 8], **keys})
    theirs = SampleStream(model, 8000, request(**asked)).render(256)
    ours = SampleStream(engine(model), 8000, request(**asked)).render(256)
    assert (ours == theirs).all()


def test_sound_that_would_drift_stays_around_zero() -> None:
    """A network that likes loud positive sound: it hears what is left without the mean, and goes on from there."""
    drifting, kept = make_model(frame_sizes=[4, 8]), make_model(frame_sizes=[4, 8], zero_mean=20)
    for model in (drifting, kept):
        bias = model.sample_tier.to_logits.bias
        bias.assign(bias + np.linspace(-6, 6, bias.shape[0]))
    far, near = (SampleStream(engine(model), 8000, request()).render(2000) for model in (drifting, kept))
    assert (far.mean(axis=1) > 0.5).all()
    assert (np.abs(near.mean(axis=1)) < 0.05).all()


def test_blocks_and_voices_change_no_sample() -> None:
    for keys in ({"frame_sizes": [4, 8]}, {"frame_sizes": []}, {"frame_sizes": [4, 8], "zero_mean": 20}):
        ready = engine(make_model(**keys), "int8")
        whole = SampleStream(ready, 8000, request()).render(201)
        stream = SampleStream(ready, 8000, request())
        blocks = [stream.render(samples) for samples in (1, 7, 64, 3, 126)]
        assert (np.concatenate(blocks, axis=1) == whole).all()
        alone = SampleStream(ready, 8000, Request(sequences=1, temperature=(1.0,), random_seed=9)).render(201)
        assert (alone == whole[:1]).all()


@pytest.mark.parametrize(("kind", "error"), [("bfloat16", 0.1), ("int8", 0.2)])
def test_smaller_weights_change_little(kind: WeightKind, error: float) -> None:
    found, expected = forced(make_model(frame_sizes=[4, 8], dim=48), 96, kind)
    assert 0 < np.sqrt(np.mean((found - expected) ** 2)) < error * expected.std()


def test_weights_of_another_network_are_refused() -> None:
    weights = InMemory(named_weights(make_model(num_rnn_layers=2, frame_sizes=[4, 8])))
    config = Config(
        **{"seq_len": 16, "dim": 6, "num_rnn_layers": 3, "q_levels": 16, "emb_size": 5, "frame_sizes": [4, 8]}
    )
    with pytest.raises(RunError, match="another architecture than its config says .*holds no tiers-0-stack-layers-2"):
        network(config, weights)
    with pytest.raises(RunError, match="weights, and the network has"):
        network(config.model_copy(update={"num_rnn_layers": 1}), weights)
    with pytest.raises(RunError, match=r"has the shape \[6, 6\], and \[12, 12\] is needed"):
        network(config.model_copy(update={"num_rnn_layers": 2, "dim": 12}), weights)


def test_a_stream_goes_on_with_another_network() -> None:
    model = make_model(frame_sizes=[4, 8])
    first = engine(model)
    for variable in model.trainable_variables:
        variable.assign(-variable)
    second, plain = engine(model), SampleStream(first, 8000, request()).render(300)
    same, other = SampleStream(first, 8000, request()), SampleStream(first, 8000, request())
    for stream, networks in ((same, [first]), (other, [second])):
        assert (stream.render(101) == plain[:, :101]).all()
        stream.replace(networks)
    assert (same.render(199) == plain[:, 101:]).all()
    assert (other.render(199) != plain[:, 101:]).any()
    with pytest.raises(UsageError, match="TensorFlow"):
        SampleStream(model, 8000, request()).replace([first])
