"""Categories by name, from the manifest to what is asked for, in every family alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import generate
import train
from commands import call, told
from tierwave.audio import write_wav
from tierwave.errors import RunError
from tierwave.paramfiles import read_manifest
from tierwave.paramlookup import find_param_sources
from tierwave.runs import runs_of
from tierwave.writing import write_text

RATE = 4000
TRAINING = {
    "batch_size": 2, "jit": False, "num_steps": 2, "num_epochs": 1, "generate": False, "val_frac": 0.25,
    "checkpoint_minutes": None,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "samplernn": {"model": "samplernn", "seq_len": 32, "frame_sizes": [4], "dim": 6, "num_rnn_layers": 1},
    "conditioning": {"model": "conditioning", "seq_len": 32, "hidden_size": 6, "num_layers": 1},
    "melnet": {
        "model": "melnet", "audio": {"n_fft": 128, "win_length": 128, "hop_length": 64, "mel_channels": 4}, "tiers": 2,
        "layers": [1, 1], "hidden_size": 4, "mixtures": 1, "seq_len": 8,
    },
}  # fmt: skip
WHO = ("george", "jackson", "lucas", "theo")


@pytest.fixture(scope="module", autouse=True)
def eager() -> Iterator[None]:
    """Compiling takes longer than two steps do."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


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
    """The folder of a run of two steps."""
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
    command = ["--checkpoint_path", run, "--output_path", run / "x.wav", "--dur", 0.03, "--control"]
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
    sources = find_param_sources(tmp_path, categories={"who": ()})
    assert sources.controls_of("a.wav")["who"].values[0] == 3
    assert sources.schema_of(["a.wav"]).of("who").categories == WHO
