"""Bits per sample of a folder: against whole files in one pass, and what the command line says."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf

import samplernn
from samplernn.config import Config
from tierwave.audio.quantize import Quantizer
from tierwave.audio.recordings import load
from tierwave.cli.evaluate import main
from tierwave.config import dumps
from tierwave.errors import RunError, UsageError
from tierwave.evaluation.likelihood import Evaluation, Score, evaluate
from tierwave.files.writing import write_text
from tierwave.generation.load import load_run
from tierwave.runs.checkpoints import make_checkpoint
from tierwave.runs.folder import CONFIG_NAME, CheckpointEntry, Run, create_run

RATE = 4000
LEVELS = 16
WINDOW = 16
SAMPLES = {"a/one.wav": 5 * WINDOW + 7, "b.wav": 5, "c.wav": WINDOW, "d.flac": 2 * WINDOW + 1, "e.wav": 20}
OTHER = 40  # samples of f.wav, at the rate of the run


pytestmark = pytest.mark.usefixtures("eager")  # compiling takes longer than all the rest; one test does it


def make_run(root: Path, gain: float = 1.0, **keys: Any) -> Run:
    """A run with two checkpoints of random weights: the older one is the best."""
    keras.utils.set_random_seed(4)
    run = create_run(root, "run")
    keys = {"seq_len": WINDOW, "frame_sizes": [4, 8], "dim": 6, "num_rnn_layers": 2, "emb_size": 5, **keys}
    config = Config(q_levels=LEVELS, training={"batch_size": 2}, **keys)
    model = samplernn.FAMILY.build(config)
    for epoch in (1, 2):
        for variable in model.weights:
            variable.assign(np.random.default_rng(epoch).normal(0.0, 0.7, variable.shape))
        make_checkpoint({"model": model}).write(str(run.folder / f"model.ckpt-{epoch}"))
        run.record(CheckpointEntry(f"model.ckpt-{epoch}", epoch, 10 * epoch, 1.0, epoch == 1, True), None)
    run.write("run.json", {"sample_rate": RATE, "corpus": {}})
    run.write("statistics.json", {"gain": gain})
    write_text(run.folder / CONFIG_NAME, dumps(config))
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run as most are."""
    return make_run(tmp_path_factory.mktemp("logdir"))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of unequal lengths, shorter than a frame and longer than windows; another rate; what cannot be used."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(7)
    (folder / "a").mkdir()
    for name, samples in SAMPLES.items():
        soundfile.write(folder / name, rng.uniform(-0.4, 0.6, samples), RATE)
    soundfile.write(folder / "f.wav", rng.uniform(-0.3, 0.3, (2 * OTHER, 2)), 2 * RATE)
    soundfile.write(folder / "silent.wav", np.zeros(300), RATE)
    (folder / "torn.wav").write_bytes(b"RIFF????WAVE")
    return folder


def one_pass(run: Run, sound: np.ndarray) -> tuple[float, int]:
    """Bits of a whole recording, and how many of its samples were the likeliest, from one window of its length."""
    trained = load_run(run.folder)
    (model,), config = trained.models, trained.config
    quantizer = Quantizer(config.q_type, LEVELS)
    codes = quantizer.encode(sound).astype(np.int64)
    padding = -len(codes) % config.top_frame
    silence = quantizer.silence
    padded = np.concatenate([np.full(config.top_frame, silence), codes, np.full(padding, silence)])
    logits, _ = model.logits(padded[None].astype(np.int32), model.initial_state(1))
    logits = logits[0, : len(codes)].numpy().astype(np.float64)
    nats = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(codes)), codes]
    return float(nats.sum() / np.log(2.0)), int((logits.argmax(axis=1) == codes).sum())


CASES = [
    ({}, 3),
    ({"normalize": "corpus", "rnn_type": "lstm"}, 2),
    ({"normalize": "file", "learn_h0": True, "frame_sizes": [4]}, 1),
    ({"frame_sizes": [], "q_type": "linear"}, 64),
]


@pytest.mark.parametrize(("keys", "batch_size"), CASES)
def test_against_whole_files_in_one_pass(
    keys: dict[str, Any], batch_size: int, recordings: Path, tmp_path: Path
) -> None:
    gain = 1.4 if keys.get("normalize") == "corpus" else 1.0
    run = make_run(tmp_path, gain, **keys)
    found = evaluate(load_run(run.folder), recordings, batch_size=batch_size)
    assert list(found.files) == ["a/one.wav", "b.wav", "c.wav", "d.flac", "e.wav", "f.wav"]
    for name, score in found.files.items():
        sound, _ = load(recordings / name, RATE)
        assert score.samples == len(sound) == SAMPLES.get(name, OTHER)
        if keys.get("normalize") == "file":
            low, high = sound.min(), sound.max()
            sound = (sound - low) * np.float32(2.0 / (high - low)) - 1.0
        bits, correct = one_pass(run, sound * np.float32(gain))
        assert score.bits == pytest.approx(bits, rel=1e-5)
        assert score.correct == correct


@pytest.fixture(scope="module")
def found(run: Run, recordings: Path) -> Evaluation:
    """What the run reaches."""
    return evaluate(load_run(run.folder), recordings)


def test_the_compiled_step_gives_the_same(
    found: Evaluation, run: Run, recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With XLA, as it is by default for a small network on a CPU."""
    asked: list[bool] = []

    def asks(config: Config, on_gpu: bool) -> bool:
        asked.append(on_gpu)
        return True

    monkeypatch.setattr(samplernn.FAMILY, "prefers_xla", asks)
    tf.config.run_functions_eagerly(False)
    try:
        compiled = evaluate(load_run(run.folder), recordings)
    finally:
        tf.config.run_functions_eagerly(True)
    assert asked and compiled.files.keys() == found.files.keys()
    for name, score in found.files.items():
        assert score.bits == pytest.approx(compiled.files[name].bits, rel=1e-5)


def test_files_add_up(found: Evaluation) -> None:
    total = found.total
    assert total.samples == sum(SAMPLES.values()) + OTHER
    assert total.bits_per_sample * total.samples == pytest.approx(
        sum(score.bits_per_sample * score.samples for score in found.files.values())
    )
    assert total.accuracy * total.samples == pytest.approx(
        sum(score.accuracy * score.samples for score in found.files.values())
    )
    assert found.chance_bits == 4.0
    assert [name for name, _ in found.left_out] == ["silent.wav", "torn.wav"]
    assert all(reason for _, reason in found.left_out)


def test_a_uniform_network_is_at_chance(recordings: Path, tmp_path: Path) -> None:
    trained = load_run(make_run(tmp_path).folder)
    for variable in trained.models[0].weights:
        variable.assign(np.zeros(variable.shape))
    found = evaluate(trained, recordings)
    assert found.total.bits_per_sample == pytest.approx(found.chance_bits, rel=1e-6)


def test_damaged_weights(recordings: Path, tmp_path: Path) -> None:
    trained = load_run(make_run(tmp_path).folder)
    trained.models[0].weights[0].assign(np.full(trained.models[0].weights[0].shape, np.nan))
    with pytest.raises(RunError, match="no finite likelihood.*name another checkpoint"):
        evaluate(trained, recordings)


def test_progress_is_told(run: Run, recordings: Path) -> None:
    told: list[tuple[str, int, int]] = []
    evaluate(load_run(run.folder), recordings, batch_size=1, progress=lambda *step: told.append(step))
    steps = sum(math.ceil(samples / WINDOW) for samples in [*SAMPLES.values(), OTHER])
    assert [step for step in told if step[0].startswith("Measuring")] == [
        ("Measuring samplernn", done, steps) for done in range(1, steps + 1)
    ]
    assert [step[0] for step in told[:7]] == ["Decoding"] * 7  # torn.wav falls out before it is decoded


def test_the_table() -> None:
    found = Evaluation({"a.wav": Score(100, 250.0, 25), "b.wav": Score(300, 450.0, 3)}, (("c.wav", "torn"),), 50, 8)
    rows = [line.split() for line in found.table().splitlines()]
    assert rows[1:4] == [
        ["a.wav", "100", "2.00", "2.5000", "25.00%"],
        ["b.wav", "300", "6.00", "1.5000", "1.00%"],
        ["all", "files", "400", "8.00", "1.7500", "7.00%"],
    ]
    assert rows[4][:2] == ["chance:", "3.0000"] and found.table().endswith("left out: c.wav: torn")


# The command line ----------------------------------------------------------------------------------------------------


def test_json_on_stdout_is_all_there_is(run: Run, recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run.folder), "--data_dir", str(recordings), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["checkpoint"] == str(run.folder / "model.ckpt-2") and document["epoch"] == 2
    assert document["sample_rate"] == RATE and document["levels"] == LEVELS and document["chance_bits"] == 4.0
    assert set(document["left_out"]) == {"silent.wav", "torn.wav"}
    files = document["files"].values()
    for sums in ("samples", "seconds"):
        assert document["total"][sums] == pytest.approx(sum(entry[sums] for entry in files))
    for means in ("bits_per_sample", "accuracy"):
        weighted = sum(entry[means] * entry["samples"] for entry in files)
        assert document["total"][means] == pytest.approx(weighted / document["total"]["samples"])


def test_json_in_a_file_beside_the_table(
    found: Evaluation, run: Run, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "result.json"
    flags = [str(run.folder.parent), "--data_dir", str(recordings), "--best"]
    assert main([*flags, "--batch_size", "4", "--json", str(path)]) == 0
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["checkpoint"].endswith("model.ckpt-1")
    said = capsys.readouterr().out
    assert f"{document['total']['bits_per_sample']:.4f}" in said and "left out: silent.wav" in said
    assert document["total"]["bits_per_sample"] != pytest.approx(found.total.bits_per_sample, rel=1e-3)


def test_nothing_is_left_behind(run: Run, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = sorted(run.folder.rglob("*")), sorted(recordings.rglob("*"))
    assert main([str(run.folder), "--data_dir", str(recordings)]) == 0
    assert list(tmp_path.iterdir()) == []
    assert before == (sorted(run.folder.rglob("*")), sorted(recordings.rglob("*")))


def test_what_is_refused(run: Run, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(code: int, checkpoint: Path, folder: Path, *flags: str) -> str:
        assert main([str(checkpoint), "--data_dir", str(folder), *flags]) == code
        output = capsys.readouterr()
        assert output.out == "" and output.err.count("\n") == 1
        return output.err

    assert "--data_dir" in said(2, run.folder, tmp_path / "nowhere")
    assert "no recording was found" in said(1, run.folder, tmp_path)
    assert "neither a checkpoint" in said(2, tmp_path / "no_run", recordings)
    assert "--batch_size 0" in said(2, run.folder, recordings, "--batch_size", "0")
    (tmp_path / "only_torn").mkdir()
    (tmp_path / "only_torn" / "torn.wav").write_bytes(b"RIFF????WAVE")
    assert "torn.wav" in said(1, run.folder, tmp_path / "only_torn")


def test_a_model_of_something_else_than_samples(run: Run, recordings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplernn.FAMILY, "encoder", lambda config: object())
    with pytest.raises(UsageError, match="no bits per sample"):
        evaluate(load_run(run.folder), recordings)
