"""Starting weights: kept in 8 bits, given to networks with other controls, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train
from samplernn.family import FAMILY
from samplernn.make_start import main as make_start
from samplernn.model import SampleRNN
from tierwave.audio.writer import write_wav
from tierwave.controls.schema import Schema
from tierwave.errors import RunError
from tierwave.family import load_config
from tierwave.generation.load import load_run, take_weights
from tierwave.runs.folder import runs_of
from tierwave.runs.start import read_start, write_start

pytestmark = pytest.mark.usefixtures("eager")

SMALL: dict[str, Any] = {
    "seq_len": 32,
    "frame_sizes": [2, 8],
    "dim": 12,
    "num_rnn_layers": 1,
    "q_levels": 32,
    "emb_size": 6,
}
CONTROLS = {
    "midi": {"lo": 0, "hi": 128, "encoding": "sinusoids"},
    "level": {"lo": -100, "hi": 0, "encoding": "sinusoids"},
}
STEERED = {**SMALL, "conditioned_on": ["midi", "level"], "controls": CONTROLS}
SCHEMA = Schema(parameters=tuple({"name": name, **about} for name, about in CONTROLS.items()))  # type: ignore[misc]


def network(document: dict[str, Any], seed: int) -> SampleRNN:
    _, config = load_config({"model": "samplernn", **document}, "here")
    model = SampleRNN(config)
    random = np.random.default_rng(seed)
    for variable in model.trainable_variables:  # biases too, which begin as zeros
        variable.assign(random.normal(0.0, 0.3, variable.shape))
    return model


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that stands for the program's own."""
    path = tmp_path / "start.npz"
    write_start(path, network(STEERED, 0), {"model": "samplernn", **STEERED}, SCHEMA)
    monkeypatch.setattr(type(FAMILY), "start", path)
    return path


def logits(model: SampleRNN, controls: Any = None) -> np.ndarray:
    codes = np.random.default_rng(1).integers(0, 32, [2, 8 + 32]).astype(np.int32)
    if controls is None:
        return np.asarray(model(codes))
    beside = np.broadcast_to(np.float32(controls), [2, 40, len(controls)])
    return np.asarray(model({"inputs": codes, "controls": beside}))


def test_weights_are_kept_in_eight_bits(start: Path) -> None:
    model, kept = network(STEERED, 0), read_start(start)
    assert kept.schema == SCHEMA and kept.config["dim"] == 12
    other = network(STEERED, 3)
    kept.assign(other)
    for ours, theirs in zip(model.trainable_variables, other.trainable_variables, strict=True):
        columns = np.abs(ours.numpy()).reshape(-1, ours.shape[-1]).max(axis=0)
        wrong = np.abs(ours.numpy() - theirs.numpy()).reshape(-1, ours.shape[-1]).max(axis=0)
        assert (wrong <= (columns / 254 if len(ours.shape) > 1 else 0.0) + 1e-7).all()
    assert start.stat().st_size < 4 * model.count_params()


def test_a_network_without_controls_begins_as_if_they_were_unknown(start: Path) -> None:
    kept = read_start(start)
    steered, plain = network(STEERED, 3), network(SMALL, 4)
    kept.assign(steered)
    take_weights(plain, FAMILY, kept, Schema())
    np.testing.assert_allclose(logits(plain), logits(steered, [0.0, 0.0]), atol=2e-5)


def test_other_controls_begin_without_effect_and_known_ones_with_theirs(start: Path) -> None:
    kept = read_start(start)
    steered = network(STEERED, 3)
    kept.assign(steered)
    about = {"inst": {"categories": ["a", "b"], "encoding": "one_hot"}, "midi": CONTROLS["midi"]}
    target = network({**SMALL, "conditioned_on": ["inst", "midi"], "controls": about}, 5)
    schema = Schema(parameters=tuple({"name": name, **each} for name, each in about.items()))  # type: ignore[misc]
    take_weights(target, FAMILY, kept, schema)
    for inst in (0.0, 1.0):
        np.testing.assert_allclose(logits(target, [inst, 0.5]), logits(steered, [0.5, 0.0]), atol=2e-5)
    assert np.abs(logits(target, [0.0, 0.5]) - logits(target, [0.0, 0.6])).max() > 0.01


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Of train.py, without the config."""
    tone = 0.5 * np.sin(np.arange(2000) * 0.3)
    write_wav(tmp_path / "corpus" / "tone.wav", tone, 4000)
    folders = {"data_dir": "corpus", "logdir_root": "logdir", "output_dir": "generated"}
    given = [word for name, folder in folders.items() for word in (f"--{name}", str(tmp_path / folder))]
    return [*given, "--num_steps", "1", "--learning_rate", "1e-12", "--batch_size", "2", "--generate", "False"]


def trained(tmp_path: Path, words: list[str], identity: str, document: dict[str, Any], *more: str) -> SampleRNN:
    config = tmp_path / f"{identity}.config.json"
    config.write_text(json.dumps(document))
    assert train.main(["--id", identity, "--config_file", str(config), *words, "--jit", "False", *more]) == 0
    found = load_run(runs_of(tmp_path / "logdir" / identity)[-1].folder).models[0]
    assert isinstance(found, SampleRNN)
    return found


def test_training_begins_from_them_where_the_config_or_the_command_says_so(
    start: Path, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = network(SMALL, 4)
    take_weights(wanted, FAMILY, read_start(start), Schema())
    for number, (key, more, begins) in enumerate(
        [
            (True, [], True),
            (False, [], False),
            (True, ["--init_from", "none"], False),
            (False, ["--init_from", "start"], True),
        ]
    ):
        found = trained(tmp_path, words, f"run{number}", {**SMALL, "start": key}, *more)
        assert np.allclose(logits(found), logits(wanted), atol=1e-4) == begins
        assert ("begins from the starting weights" in capsys.readouterr().out) == begins


def test_weights_that_do_not_fit_are_told_or_refused(
    start: Path, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tmp_path, words, "wider", {**SMALL, "dim": 16, "start": True})
    assert "dim: 12 -> 16" in capsys.readouterr().out
    config = tmp_path / "wider.config.json"
    flags = ["--id", "refused", "--config_file", str(config), *words, "--init_from", "start"]
    assert train.main(flags) == 2
    said = capsys.readouterr().err
    assert "dim: 12 -> 16" in said and "small.config.json" in said


def test_a_family_without_starting_weights_says_so(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "tier.config.json"
    config.write_text(json.dumps({"model": "conditioning", "seq_len": 32, "hidden_size": 8, "num_layers": 1}))
    assert train.main(["--id", "tier", "--config_file", str(config), *words, "--init_from", "start"]) == 2
    assert "the model conditioning has none" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut", "empty", "no config", "other weights"])
def test_damaged_starting_weights_are_named(start: Path, damage: str) -> None:
    with np.load(start) as stored:
        arrays = {name: stored[name] for name in stored.files}
    if damage == "cut":
        start.write_bytes(start.read_bytes()[:-200])
    elif damage == "empty":
        start.write_bytes(b"")
    else:
        del arrays["config" if damage == "no config" else "tiers-0-upsample"]
        np.savez(start, **arrays)
    with pytest.raises(RunError, match="install the program again"):
        read_start(start).assign(network(STEERED, 3))


def test_a_run_is_kept_as_starting_weights(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained(tmp_path, words, "run", SMALL)
    assert make_start([str(tmp_path / "logdir" / "run"), str(tmp_path / "made.npz")]) == 0
    kept = read_start(tmp_path / "made.npz")
    other = network(SMALL, 9)
    kept.assign(other)
    np.testing.assert_allclose(logits(other), logits(model), atol=0.05)
    assert "MB" in capsys.readouterr().out
