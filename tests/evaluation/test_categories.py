"""Categories by name, from the manifest to what is asked for, in every family alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import generate
import train
from commands import call, told
from tierwave.audio.writer import write_wav
from tierwave.controls.schema import ControlInputs, Parameter, Schema
from tierwave.controls.sources import find_control_sources
from tierwave.controls.tables import read_manifest
from tierwave.controls.transfer import transplanted
from tierwave.errors import RunError, UsageError
from tierwave.family import load_config
from tierwave.files.writing import write_text
from tierwave.nn.linear import encoded
from tierwave.runs.folder import runs_of

pytestmark = pytest.mark.usefixtures("eager")

RATE = 4000
TRAINING = {
    "batch_size": 2, "jit": False, "num_steps": 1, "num_epochs": 1, "generate": False, "val_frac": 0.25,
    "checkpoint_minutes": None,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "samplernn": {"model": "samplernn", "seq_len": 16, "frame_sizes": [4], "dim": 6, "num_rnn_layers": 1},
    "conditioning": {"model": "conditioning", "seq_len": 16, "hidden_size": 6, "num_layers": 1},
    "melnet": {
        "model": "melnet", "audio": {"n_fft": 128, "win_length": 128, "hop_length": 64, "mel_channels": 4}, "tiers": 2,
        "layers": [1, 1], "hidden_size": 4, "mixtures": 1, "seq_len": 8,
    },
}  # fmt: skip
WHO = ("george", "jackson", "lucas", "theo")


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """A recording of each of four people, whom the manifest names in another order."""
    rows = ["filename,who"]
    for number, name in enumerate(reversed(WHO)):
        sound = 0.4 * np.sin(2 * np.pi * 200 * (number + 1) * np.arange(RATE // 8) / RATE)
        write_wav(tmp_path / "digits" / f"{number}.wav", sound, RATE)
        rows.append(f"{number}.wav,{name}")
    write_text(tmp_path / "people.csv", "\n".join([*rows, ""]))
    return tmp_path / "digits"


def trained(config: dict[str, Any], digits: Path) -> Path:
    """The folder of a run of one step."""
    root = digits.parent
    write_text(root / "a.config.json", json.dumps({**config, "conditioned_on": ["who"], "training": TRAINING}))
    command = ["--id", "a", "--data_dir", digits, "--config_file", root / "a.config.json", "--verbose", "False"]
    assert call(train.main, [*command, "--params", root / "people.csv", "--logdir_root", root / "logdir"]) == 0
    return runs_of(root / "logdir" / "a")[-1].folder


@pytest.mark.parametrize("family", FAMILIES)
def test_names_are_trained_on_and_asked_for(family: str, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained({**FAMILIES[family], "controls": {"who": {"units": "category"}}}, digits)
    (who,) = json.loads((run / "schema.json").read_text())["parameters"]
    assert (who["categories"], who["units"], who["lo"], who["hi"]) == (list(WHO), "category", 0.0, 3.0)
    command = ["--checkpoint_path", run, "--output_path", run / "x.wav", "--dur", 0.03]
    command += ["--inversion", "griffin_lim"] if family == "melnet" else []
    command.append("--control")
    assert call(generate.main, [*command, "who=theo"]) == 0
    assert (run / "x.wav").exists()
    assert "who=mary" in told(capsys, generate.main, [*command, "who=mary"], 2)


def test_names_are_those_of_the_column_or_the_given_ones(tmp_path: Path) -> None:
    write_text(tmp_path / "params.csv", "filename,who,p\na.wav,theo,60\nb.wav,george,61\nc.wav,,62\n")
    found = read_manifest(tmp_path / "params.csv", {"who": (), "absent": ()})
    assert found.categories == {"who": ("george", "theo")}
    assert found.rows == {"a.wav": {"who": 1, "p": 60}, "b.wav": {"who": 0, "p": 61}, "c.wav": {"p": 62}}
    assert read_manifest(tmp_path / "params.csv", {"who": WHO}).rows["a.wav"]["who"] == 3
    with pytest.raises(RunError, match="has 'theo' for who, and there are george, lucas"):
        read_manifest(tmp_path / "params.csv", {"who": ("george", "lucas")})
    with pytest.raises(RunError, match="has 'theo'.* give who the units \"category\" in the config"):
        read_manifest(tmp_path / "params.csv")


def test_numbers_of_categories_stay_numbers(tmp_path: Path) -> None:
    write_text(tmp_path / "params.csv", "filename,inst\na.wav,2\nb.wav,0\n")
    found = read_manifest(tmp_path / "params.csv", {"inst": ()})
    assert (found.categories, found.rows) == ({}, {"a.wav": {"inst": 2}, "b.wav": {"inst": 0}})
    assert read_manifest(tmp_path / "params.csv", {"inst": ("x", "y", "z")}).rows == found.rows


def test_a_schema_beside_the_recordings_names_them_too(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.zeros(100), RATE)
    write_text(tmp_path / "params.csv", "filename,who\na.wav,theo\n")
    write_text(tmp_path / "params_schema.csv", f"name,categories\nwho,{'|'.join(WHO)}\n")
    sources = find_control_sources(tmp_path, categories={"who": ()})
    assert sources.controls_of("a.wav")["who"].values[0] == 3
    assert sources.schema_of(["a.wav"]).of("who").categories == WHO


# One-hot -------------------------------------------------------------------------------------------------------------

ONE_HOT = {"who": {"categories": list(WHO), "encoding": "one_hot"}}


def built(family: str, **more: Any) -> tuple[Any, Any, Any]:
    """Family, config and a model of the last stage."""
    found, config = load_config({**FAMILIES[family], **more}, "here")
    return found, config, found.build(config, found.stages(config)[-1])


def test_sinusoids_tell_small_differences_apart_and_are_zero_at_zero() -> None:
    inputs = Parameter(name="p", encoding="sinusoids").inputs
    values = np.linspace(0.0, 1.0, 129, dtype=np.float32)
    rows = inputs.encode(values)
    assert rows.shape == (129, inputs.size) and not rows[0].any()
    np.testing.assert_allclose(encoded(tf.constant(values[:, None]), (inputs,)), rows, atol=1e-6)
    np.testing.assert_allclose(rows[:, 3], np.sin(4 * np.pi * values), atol=1e-6)
    assert np.linalg.norm(rows[64] - rows[65]) > 50 * abs(values[64] - values[65])


def test_what_a_control_does_survives_another_encoding_and_range() -> None:
    random = np.random.default_rng(0)
    number = Schema(parameters=(Parameter(name="p", lo=40.0, hi=80.0),))
    waves = Schema(parameters=(Parameter(name="p", lo=40.0, hi=80.0, encoding="sinusoids"),))
    wider = Schema(parameters=(Parameter(name="p", lo=0.0, hi=128.0, encoding="sinusoids"),))
    kernel, bias = random.normal(size=[1, 3]).astype(np.float32), random.normal(size=3).astype(np.float32)

    def added(schema: Schema, rows: np.ndarray, moved: np.ndarray) -> np.ndarray:
        parameter = schema.of("p")
        return parameter.inputs.encode(parameter.normalise(np.arange(40.0, 81.0))) @ rows + moved

    there = transplanted(kernel, bias, ["p"], ["p"], number, waves)
    np.testing.assert_allclose(added(waves, *there), added(number, kernel, bias), atol=1e-3)
    back = transplanted(*there, ["p"], ["p"], waves, number)
    np.testing.assert_allclose(added(number, *back), added(number, kernel, bias), atol=1e-3)
    wide = random.normal(size=[wider.of("p").inputs.size, 3]).astype(np.float32) * 0.1
    narrow = transplanted(wide, bias, ["p"], ["p"], wider, waves)
    error = added(waves, *narrow) - added(wider, wide, bias)
    assert np.sqrt(np.mean(error**2)) < 0.3 * np.std(added(wider, wide, bias))
    same = transplanted(wide, bias, ["p"], ["p"], wider, wider)
    np.testing.assert_array_equal(same[0], wide)
    assert np.allclose(transplanted(wide, bias, ["p"], [], wider, Schema(), 0.0)[1], bias)


def test_a_category_is_as_many_inputs_as_it_has_values() -> None:
    seen = tf.constant([[0.25, 0.0], [0.5, 1 / 3], [1.0, 1.0]])
    wanted = [[0.25, 1, 0, 0, 0], [0.5, 0, 1, 0, 0], [1.0, 0, 0, 0, 1]]
    np.testing.assert_allclose(encoded(seen, (ControlInputs(), ControlInputs(4, "one_hot"))), wanted)
    assert encoded(seen, (ControlInputs(), ControlInputs())) is seen


@pytest.mark.parametrize("family", FAMILIES)
def test_one_hot_where_a_config_asks_for_it_and_one_number_elsewhere(family: str) -> None:
    shapes = {}
    for name, controls in (("number", {}), ("one_hot", ONE_HOT)):
        module, config, model = built(family, conditioned_on=["who", "p"], controls=controls)
        shapes[name] = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
        stage = module.stages(config)[-1]
        assert module.count_weights(config, stage) == shapes[name]
    assert shapes["one_hot"] > shapes["number"]
    with pytest.raises(UsageError, match="needs to know how many values"):
        built(family, conditioned_on=["who"], controls={"who": {"units": "category", "encoding": "one_hot"}})
    with pytest.raises(UsageError, match="leave lo, hi and scale out"):
        built(family, conditioned_on=["who"], controls={"who": {**ONE_HOT["who"], "hi": 9}})


def test_a_one_hot_network_is_trained_and_asked_by_name(digits: Path) -> None:
    run = trained({**FAMILIES["conditioning"], "controls": ONE_HOT}, digits)
    (who,) = json.loads((run / "schema.json").read_text())["parameters"]
    assert (who["encoding"], who["nvals"]) == ("one_hot", 4)
    command = ["--checkpoint_path", run, "--output_path", run / "x.wav", "--dur", 0.03, "--control", "who=theo"]
    assert call(generate.main, command) == 0


def test_a_melnet_adds_the_row_of_a_class_everywhere() -> None:
    _, _, model = built("melnet", conditioned_on=["who"], controls=ONE_HOT)
    weights = model.effective_weights()
    kernel, bias = weights.controls_to_time
    lower = tf.zeros([1, 2, model.bins])
    plain = model.conditioning(lower, None, weights)[0]
    for number in range(4):
        steered = model.conditioning(lower, tf.fill([1, 2, 1], number / 3), weights)[0]
        added = np.broadcast_to(kernel[number] + bias, steered.shape)
        np.testing.assert_allclose(steered - plain, added, atol=1e-5)


def test_weights_go_from_numbers_to_one_hot_and_from_names_to_names() -> None:
    number = Schema(parameters=(Parameter(name="who", categories=WHO, lo=0, hi=3),))
    one_hot = number.updated({"who": {"encoding": "one_hot"}})
    kernel, bias = np.array([[3.0, -6.0]], np.float32), np.array([1.0, 0.0], np.float32)
    rows, moved = transplanted(kernel, bias, ["who"], ["who"], number, one_hot)
    np.testing.assert_allclose(rows, [[0, 0], [1, -2], [2, -4], [3, -6]])
    np.testing.assert_allclose(moved, bias)
    back = transplanted(rows, bias, ["who"], ["who"], one_hot, number)
    np.testing.assert_allclose(back[0], kernel)
    np.testing.assert_allclose(back[1], bias)
    others = Schema(parameters=(Parameter(name="who", categories=("theo", "mary"), lo=0, hi=1, encoding="one_hot"),))
    np.testing.assert_allclose(transplanted(rows, bias, ["who"], ["who"], one_hot, others)[0], [[3, -6], [0, 0]])
    gone, moved = transplanted(rows, bias, ["who"], [], one_hot, Schema())
    assert gone.shape == (0, 2)
    np.testing.assert_allclose(moved, bias + rows.mean(axis=0))
