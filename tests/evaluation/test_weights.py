"""Which type of weights `--weights auto` takes."""

from pathlib import Path

import keras
import numpy as np
import pytest
import soundfile

import conditioning
import samplernn
from conditioning.config import Config as Tier
from samplernn.config import Config
from tierwave.evaluation.likelihood import evaluate
from tierwave.evaluation.weights import WeightChoice
from tierwave.generation.load import load_run
from tierwave.runs.imported import write_imported


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    soundfile.write(folder / "a.wav", np.random.default_rng(1).uniform(-0.5, 0.5, 8 * 60), 8000)
    return folder


@pytest.mark.parametrize("family", ["samplernn", "conditioning"])
def test_the_choice_is_measured_and_taken_for_its_checkpoint(family: str, recordings: Path, tmp_path: Path) -> None:
    keras.utils.set_random_seed(4)
    if family == "samplernn":
        config: object = Config(dim=8, seq_len=8, frame_sizes=[4, 8], emb_size=4, num_rnn_layers=1, q_levels=16)
        model = samplernn.FAMILY.build(config)
    else:
        config = Tier(hidden_size=8, num_layers=1, seq_len=8, q_levels=16)
        model = conditioning.FAMILY.build(config)
    for variable in model.weights:
        variable.assign(3.0 * variable)
    run = write_imported(model, config, "a", tmp_path, sample_rate=8000, source=tmp_path).run
    assert load_run(run.folder, weights="auto").models[0].kind == "float32"
    found = evaluate(load_run(run.folder), recordings, weights=True)
    assert found.weights is not None
    assert found.weights.bits["float32"] == pytest.approx(found.total.bits_per_sample, rel=1e-4)
    assert len(set(found.weights.bits.values())) == 3
    document = run.read("weights.json")
    assert document["weights"] == found.weights.chosen
    for kind in ("bfloat16", "int8"):
        run.write("weights.json", {**document, "weights": kind})
        assert load_run(run.folder, weights="auto").models[0].kind == kind
    for wrong in ({"checkpoint": "model.ckpt-9"}, {"weights": "int4"}, {"weights": 3}):
        run.write("weights.json", {**document, "weights": "int8", **wrong})
        assert load_run(run.folder, weights="auto").models[0].kind == "float32"


def test_the_fastest_that_loses_little_is_chosen() -> None:
    speed = {"float32": 1.0, "bfloat16": 2.0, "int8": 3.0}
    assert WeightChoice({"float32": 2.0, "bfloat16": 2.001, "int8": 2.009}, speed).chosen == "int8"
    assert WeightChoice({"float32": 2.0, "bfloat16": 2.001, "int8": 2.011}, speed).chosen == "bfloat16"
    assert WeightChoice({"float32": 2.0, "bfloat16": 2.001, "int8": 1.9}, {**speed, "int8": 0.5}).chosen == "bfloat16"
