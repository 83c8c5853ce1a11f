"""jgarciapueyo's files become ours, and what is lost on the way is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from melnet.convert_yaml import command_of, config_of, main, read_yaml
from tierwave.config import resolve_training
from tierwave.errors import UsageError
from tierwave.family import load_config

TRAIN = """
name: "ljspeech"
audio: {sample_rate: 22050, spectrogram_type: 'power', n_fft: 1536, mel_channels: 256, hop_length: 256,
        win_length: 1536, ref_level_db: 30, min_level_db: -100}
network: {n_tiers: 6, layers: [12, 5, 4, 3, 2, 2], hidden_size: 200, gmm_size: 10}
data: {dataset: 'ljspeech', path: 'datasets/lj speech'}
training: {optimizer: 'Adam', epochs: 4, batch_size: 1, lr: 0.000004, momentum: 0.9, num_workers: 2,
           save_iterations: 1600, accumulation_steps: 16, dir_chkpt: 'models/'}
logging: {dir_log: 'logs/', log_iterations: 100}
"""
SYNTHESIS = "name: ljspeech\ncheckpoints_path: [a.pt, b.pt]\noutput_path: out/my sounds\n"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "train.yml").write_text(TRAIN)
    (tmp_path / "synth.yml").write_text(SYNTHESIS)
    return tmp_path


def test_a_training_file_becomes_a_config(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = files / "mine.config.json"
    assert main([str(files / "train.yml"), "--output_path", str(target)]) == 0
    document = json.loads(target.read_text())
    family, config = load_config(document, "mine")
    assert config.tiers == 6 and config.layers == [11, 4, 3, 2, 1, 1]  # his counts are one more than there are
    assert (config.hidden_size, config.mixtures) == (200, 10)
    audio = config.audio
    assert (audio.sample_rate, audio.n_fft, audio.win_length, audio.mel_scale) == (22050, 1536, 1536, "htk")
    assert (audio.normalise, audio.ref_level_db, audio.min_level_db) == ("db", 30.0, -100.0)
    options = resolve_training({}, document, "mine")
    assert (options.optimizer, options.learning_rate, options.batch_size, options.accumulate) == (
        "rmsprop", 4e-6, 16, 16,
    )  # fmt: skip
    assert options.num_epochs == 4 and options.checkpoint_steps == 100
    told = capsys.readouterr().err
    for part in ("11-4-3-2-1-1", "optimizer Adam was never used", "--data_dir 'datasets/lj speech'", "16 parts"):
        assert part in told
    assert family.stages(config)[-1] == "tier6"


def test_a_synthesis_file_becomes_a_command(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(files / "synth.yml"), "-t", "320"]) == 0
    told = capsys.readouterr().out
    assert "--checkpoint_path logdir/ljspeech" in told and "'out/my sounds/ljspeech.wav'" in told
    assert told.rstrip().endswith("--frames 320")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "there is no file"),
        ("a: [1", "is not YAML"),
        ("a: 2024-13-45\n", "is not YAML (month must be in 1..12): correct it there"),
        (f"a: {'9' * 5000}\n", "is not YAML"),
        ("- 1\n- 2\n", "holds a list, but one of his files is a mapping"),
        ("a: 1\n", "has no audio, so it is none of his training files"),
        (TRAIN.replace("gmm_size: 10", "size: 10"), "lacks gmm_size"),
        (TRAIN.replace("hop_length: 256,", ""), "lacks hop_length"),
        (TRAIN.replace("n_tiers: 6", "n_tiers: 5"), "has 5 tiers, but layers"),
        (TRAIN.replace("layers: [12, 5, 4, 3, 2, 2]", "layers: 12"), "has the layers 12: give a list"),
        (TRAIN.replace("[12, 5,", "[12, {},"), "has {} for 2: write a number"),
        (TRAIN.replace("hidden_size: 200", "hidden_size: .inf"), "has inf for hidden_size: write a number"),
        (TRAIN.replace("batch_size: 1", "batch_size: 0"), "has 0 for batch_size: write a whole number from 1 up"),
        (TRAIN.replace("lr: 0.000004", "lr: [1]"), "has [1] for lr: write a number"),
        ("checkpoints_path: [a.pt]\n", "has no output_path"),
        ("!!python/object/apply:os.system ['true']\n", "is not YAML"),  # nothing in a file is run
    ],
)
def test_what_is_none_of_his_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, sentence: str
) -> None:
    path = tmp_path / "x.yml"
    if text is not None:
        path.write_text(text)
    assert main([str(path)]) == 2
    assert sentence in capsys.readouterr().err


def test_the_functions_name_the_source(files: Path) -> None:
    document: dict[str, Any] = read_yaml(files / "train.yml")
    with pytest.raises(UsageError, match="here has no network"):
        config_of({**document, "network": None}, "here")
    with pytest.raises(UsageError, match="there has no checkpoints_path"):
        command_of(document, "there", 3)
