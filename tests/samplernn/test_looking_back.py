"""By what period a network looks back: what train.py fills in, what is refused, and how weights are taken over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import generate
import train
from samplernn.config import Config, period_of
from samplernn.family import FAMILY
from samplernn.model import SampleRNN, transplant
from samplernn.steps import step_graphs
from tierwave.audio.writer import write_wav
from tierwave.controls.schema import Parameter, Schema
from tierwave.errors import UsageError
from tierwave.runs.folder import runs_of

SIZES: dict[str, Any] = {"seq_len": 32, "frame_sizes": [2, 8], "dim": 6, "num_rnn_layers": 1, "emb_size": 4}
MIDI = Parameter(name="midi", units="midiPitch", lo=33, hi=93)
SCHEMA = Schema(parameters=(MIDI,))
STEERED: dict[str, Any] = {**SIZES, "conditioned_on": ["midi"], "lookback": {"control": "midi", "limit": 64}}
RATE = 8000


def test_a_period_is_that_of_the_pitch() -> None:
    period, octaves = period_of(MIDI, RATE)
    assert period == pytest.approx(RATE / 55.0) and octaves == 5.0
    period, octaves = period_of(Parameter(name="pitch", units="hertz", scale="log", lo=100, hi=800), RATE)
    assert (period, octaves) == (80.0, 3.0)


@pytest.mark.parametrize("wrong", [{"units": "dB"}, {"units": "hertz"}, {"units": "midiPitch", "scale": "log"}])
def test_what_is_no_pitch_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="lookback needs a pitch, and x has the units"):
        period_of(Parameter(**{"name": "x", "lo": 1.0, "hi": 2.0, **wrong}), RATE)


def test_a_config_is_completed_from_the_schema_and_the_rate() -> None:
    found = FAMILY.completed(Config(**STEERED), SCHEMA, RATE).lookback
    assert found is not None and found.limit == 64
    assert (found.control, found.octaves, found.period) == ("midi", 5.0, pytest.approx(RATE / 55.0))
    without = FAMILY.completed(Config(**STEERED), Schema(), RATE).lookback
    assert without is not None and without.control is None and without.limit == 64
    assert FAMILY.completed(Config(**SIZES), Schema(), RATE).lookback is None
    assert FAMILY.overlap(Config(**STEERED)) == 104  # what is compared, 35, the limit and 1, in whole frames of 8


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"lookback": {"control": "midi"}}, "lookback names the control midi, which is not in conditioned_on"),
        ({"lookback": {}, "frame_sizes": []}, "lookback is for networks with frame tiers"),
        ({"lookback": {"limit": 3}}, "limit"),
        ({"lookback": {"limit": 4097}}, "limit"),
    ],
)
def test_configs_that_cannot_be_are_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Config(**{**SIZES, **keys})


def network(keys: dict[str, Any], seed: int) -> SampleRNN:
    schema = SCHEMA if keys.get("conditioned_on") else Schema()
    model = SampleRNN(FAMILY.completed(Config(**keys), schema, RATE))
    random = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(random.normal(0.0, 0.3, variable.shape))
    return model


def logits(model: SampleRNN, midi: float | None = None) -> np.ndarray:
    overlap = model.config.history
    codes = np.random.default_rng(1).integers(0, 256, [2, 104 + 32]).astype(np.int32)[:, 104 - overlap :]
    if midi is None:
        return np.asarray(model(codes))
    return np.asarray(model({"inputs": codes, "controls": np.full([2, overlap + 32, 1], midi, np.float32)}))


def test_looking_back_is_taken_over_and_begins_without_effect() -> None:
    blind = {key: value for key, value in STEERED.items() if key != "lookback"}
    source, target, other = network(blind, 1), network(STEERED, 2), network(STEERED, 3)
    target.sample_tier.lookback.assign(np.zeros(target.sample_tier.lookback.shape))
    kept = target.sample_tier.lookback.numpy()
    transplant(source, target, SCHEMA, SCHEMA)
    np.testing.assert_array_equal(target.sample_tier.lookback, kept)
    np.testing.assert_allclose(logits(target, 0.5), logits(source, 0.5), atol=1e-5)
    transplant(other, target, SCHEMA, SCHEMA)
    np.testing.assert_allclose(logits(target, 0.5), logits(other, 0.5), atol=1e-5)


def test_a_network_that_finds_periods_takes_over_one_that_is_told_them() -> None:
    low = Schema(parameters=(MIDI.model_copy(update={"lo": 0.0}),))  # at 0 the period is beyond the limit
    model = SampleRNN(FAMILY.completed(Config(**STEERED), low, RATE))
    for variable in model.trainable_variables:
        variable.assign(np.random.default_rng(5).normal(0.0, 0.3, variable.shape))
    plain = network({**SIZES, "lookback": {"limit": 64}}, 4)
    transplant(model, plain, low, Schema(), absent=0.0)
    np.testing.assert_allclose(logits(plain), logits(model, 0.0), atol=1e-5)


def test_graphs_of_single_steps_are_refused() -> None:
    with pytest.raises(UsageError, match="this network looks back one period"):
        step_graphs(network(STEERED, 1))
    with pytest.raises(UsageError, match="running mean taken away between two samples.* without zero_mean"):
        step_graphs(network({**SIZES, "zero_mean": 20}, 1))


@pytest.mark.usefixtures("eager")
def test_a_run_is_trained_resumed_and_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    time = np.arange(2 * RATE) / RATE
    for number, hertz in enumerate((220.0, 330.0)):
        write_wav(tmp_path / "data" / f"{number}.wav", 0.4 * np.sin(2 * np.pi * hertz * time), RATE)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(STEERED))
    words = [
        "--id", "one", "--follow", "--data_dir", str(tmp_path / "data"), "--config_file", str(config), "--jit", "False",
        "--logdir_root", str(tmp_path / "logdir"), "--output_dir", str(tmp_path / "out"), "--batch_size", "2",
    ]  # fmt: skip
    assert train.main([*words, "--num_steps", "1", "--generate", "False"]) == 0
    (run,) = runs_of(tmp_path / "logdir" / "one")
    kept = json.loads((run.folder / "run.config.json").read_text())["lookback"]
    assert kept["control"] == "midi" and kept["period"] > 0 and kept["octaves"] > 0
    assert train.main([*words, "--num_steps", "2", "--generate", "False"]) == 0
    assert "Going on from" in capsys.readouterr().out
    for number, more in enumerate(([], ["--seed", str(tmp_path / "data" / "0.wav")])):
        made = tmp_path / f"{number}.wav"
        played = [
            "--checkpoint_path",
            str(run.folder),
            "--dur",
            "0.1",
            "--control",
            "midi=60",
            "--output_path",
            str(made),
        ]
        assert generate.main([*played, *more]) == 0
        assert made.stat().st_size > 0.1 * RATE * 2
