"""Checkpoints of PRiSM SampleRNN: the same logits here, in a run that generates and that training starts from."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf

import generate
import train
from commands import eagerly
from samplernn.import_prism import Imported, PrismCheckpoint, import_checkpoint, main
from tierwave.audio.recordings import load
from tierwave.errors import RunError, UsageError
from tierwave.generation.load import load_run

ORACLE = Path(__file__).parents[1] / "oracle" / "prism"
CONFIG: dict[str, Any] = {
    "seq_len": 8, "frame_sizes": [2, 4], "dim": 5, "rnn_type": "gru", "num_rnn_layers": 2, "q_type": "linear",
    "q_levels": 8, "emb_size": 8, "skip_conn": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """PRiSM's GRU network as a run."""
    root = tmp_path_factory.mktemp("logdir")
    return import_checkpoint(ORACLE / "gru", "gru", logdir_root=root, sample_rate=8000)


# PRiSM's own numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_logits_are_prisms(cell: str, tmp_path: Path) -> None:
    path = str(ORACLE / cell / "model.ckpt-7")
    assert main(["--checkpoint", path, "--id", "prism", "--logdir_root", str(tmp_path), "--sample_rate", "22050"]) == 0
    trained = load_run(tmp_path / "prism")
    assert trained.sample_rate == 22050
    assert (trained.entry.name, trained.entry.epoch) == ("model.ckpt-7", 7)
    (model,) = trained.models
    state = model.initial_state(2)
    with np.load(ORACLE / cell / "forward.npz") as forward:
        for window in (1, 2):
            logits, state = model.logits(tf.constant(forward[f"codes_{window}"]), state)
            np.testing.assert_allclose(logits, forward[f"logits_{window}"], rtol=0, atol=1e-4)


# Wirings that the oracle does not have: PRiSM's network written down once more, with Keras' own layers --------------


def prism_weights(cell: str, wiring: bool | str, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Random weights by PRiSM's names."""
    rng = np.random.default_rng(1)
    (frame, top), dim, levels = config["frame_sizes"], config["dim"], config["q_levels"]
    shapes: dict[str, tuple[int, ...]] = {
        "sample_mlp/embedding/embeddings": (levels, levels),
        "sample_mlp/inputs/kernel": (frame, levels, dim),
        "sample_mlp/hidden1/kernel": (dim, dim),
        "sample_mlp/hidden2/kernel": (dim, dim),
        "sample_mlp/outputs/kernel": (dim, levels),
        "sample_mlp/hidden1/bias": (dim,),
        "sample_mlp/hidden2/bias": (dim,),
        "sample_mlp/outputs/bias": (levels,),
    }
    gates = 3 if cell == "gru" else 4
    for tier, size, ratio in (("big_frame_rnn", top, top // frame), ("frame_rnn", frame, frame)):
        shapes |= {f"{tier}/inputs/kernel": (size, dim), f"{tier}/inputs/bias": (dim,)}
        shapes[f"{tier}/upsample"] = (ratio, dim, dim)
        for layer in range(config["num_rnn_layers"]):
            twice = wiring == "prism" if layer == 0 else wiring is True
            name = f"{tier}/rnn/layer_{layer}"
            shapes[f"{name}/cell/kernel"] = (2 * dim if twice else dim, gates * dim)
            shapes[f"{name}/cell/recurrent_kernel"] = (dim, gates * dim)
            shapes[f"{name}/cell/bias"] = (2, 3 * dim) if cell == "gru" else (4 * dim,)
            if wiring:
                shapes[f"{name}_skip_out/kernel"] = (dim, dim)
                if layer == 0:
                    shapes[f"{name}_skip_out/bias"] = (dim,)
    return {name: rng.normal(0, 0.6, shape).astype(np.float32) for name, shape in shapes.items()}


def prism_logits(
    weights: dict[str, np.ndarray], codes: np.ndarray, cell: str, wiring: bool | str, config: dict[str, Any]
) -> np.ndarray:
    """What PRiSM's network makes of one window with a fresh state, with TensorFlow's and Keras' own operations."""
    (frame, top), dim, levels = config["frame_sizes"], config["dim"], config["q_levels"]
    batch = len(codes)

    def tier(name: str, seen: np.ndarray, size: int, ratio: int, above: Any) -> Any:
        frames = ((seen / (levels / 2) - 1) * 2).astype(np.float32).reshape(batch, -1, size)
        inputs = frames @ weights[f"{name}/inputs/kernel"] + weights[f"{name}/inputs/bias"] + above
        below, summed = inputs, 0.0
        for layer in range(config["num_rnn_layers"]):
            joined = (wiring == "prism" and layer == 0) or (wiring is True and layer > 0)
            fed = tf.concat([below, inputs], axis=2) if joined else below
            rnn = (keras.layers.GRU if cell == "gru" else keras.layers.LSTM)(dim, return_sequences=True)
            rnn.build(fed.shape)
            parts = ("kernel", "recurrent_kernel", "bias")
            rnn.set_weights([weights[f"{name}/rnn/layer_{layer}/cell/{part}"] for part in parts])
            below = rnn(fed)
            if wiring:
                out = f"{name}/rnn/layer_{layer}_skip_out"
                summed = summed + below @ weights[f"{out}/kernel"] + weights.get(f"{out}/bias", 0.0)
        steps = frames.shape[1]
        return tf.nn.conv1d_transpose(
            summed if wiring else below, weights[f"{name}/upsample"], [batch, steps * ratio, dim], strides=ratio
        )

    above = tier("big_frame_rnn", codes[:, :-top], top, top // frame, 0.0)
    above = tier("frame_rnn", codes[:, top - frame : -frame], frame, frame, above)
    embedded = weights["sample_mlp/embedding/embeddings"][codes[:, top - frame : -1]]
    hidden = tf.nn.conv1d(embedded, weights["sample_mlp/inputs/kernel"], 1, "VALID") + above
    for name in ("hidden1", "hidden2"):
        hidden = tf.nn.relu(hidden @ weights[f"sample_mlp/{name}/kernel"] + weights[f"sample_mlp/{name}/bias"])
    return (hidden @ weights["sample_mlp/outputs/kernel"] + weights["sample_mlp/outputs/bias"]).numpy()


def write_checkpoint(folder: Path, weights: dict[str, Any], config: dict[str, Any] | None, epoch: int = 3) -> Path:
    """`weights` in an object-based checkpoint, and the config beside it."""
    tree: dict[str, Any] = {}
    for name, value in weights.items():
        *above, leaf = name.split("/")
        branch = tree
        for part in above:
            branch = branch.setdefault(part, {})
        branch[leaf] = tf.Variable(value)
    folder.mkdir(exist_ok=True)
    prefix = folder / f"model.ckpt-{epoch}"
    tf.train.Checkpoint(**tree).write(str(prefix))
    if config is not None:
        (folder / "that.config.json").write_text(json.dumps(config))
    return prefix


@pytest.mark.parametrize(("cell", "wiring"), [("gru", "prism"), ("lstm", True)])
def test_skip_connections_in_both_of_prisms_wirings(cell: str, wiring: bool | str, tmp_path: Path) -> None:
    config = {**CONFIG, "rnn_type": cell.upper(), "skip_conn": True}  # PRiSM takes either case
    weights = prism_weights(cell, wiring, config)
    steps = {"optimizer/_iterations": np.int64(41)}
    prefix = write_checkpoint(tmp_path / "prism", {**weights, **steps}, config)
    made = import_checkpoint(prefix, "skip", logdir_root=tmp_path / "logdir")
    assert made.config.skip_conn == wiring and made.config.rnn_type == cell
    assert made.config.q_type == "linear" and made.entry.step == 41 and not made.remarks
    (model,) = load_run(made.run.folder).models
    codes = np.random.default_rng(2).integers(0, 8, (2, 12)).astype(np.int32)
    logits, _ = model.logits(codes, model.initial_state(2))
    np.testing.assert_allclose(logits, prism_logits(weights, codes, cell, wiring, config), rtol=0, atol=1e-5)


# What the run is good for -----------------------------------------------------------------------------------------


def test_it_generates(imported: Imported, tmp_path: Path) -> None:
    path = tmp_path / "new.wav"
    flags = ["--checkpoint_path", str(imported.run.folder), "--output_path", str(path), "--dur", "0.0501"]
    assert generate.main([*flags, "--random_seed", "5"]) == 0
    sound, rate = load(path)
    assert (rate, len(sound)) == (8000, 401)
    assert sound.std() > 0.01


def train_flags(imported: Imported, folder: Path, identity: str) -> list[str]:
    recordings = folder / "recordings"
    recordings.mkdir()
    for index in range(2):
        sound = np.random.default_rng(index).uniform(-0.5, 0.5, 4000)
        soundfile.write(recordings / f"{index}.wav", sound, 8000)
    flags = {
        "id": identity,
        "data_dir": recordings,
        "logdir_root": imported.run.folder.parent.parent,
        "output_dir": folder,
        "batch_size": 4,
        "num_steps": 2,
        "learning_rate": 0.01,
        "generate": False,
        "jit": False,
    }
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


@pytest.mark.slow
def test_training_starts_from_it(imported: Imported, tmp_path: Path) -> None:
    run = imported.run.folder
    flags = train_flags(imported, tmp_path, "further")
    with eagerly():
        assert train.main([*flags, "--init_from", str(run), "--config_file", str(run / "run.config.json")]) == 0
    before, after = load_run(run), load_run(run.parent.parent / "further")
    assert after.entry.step == 2 and after.sample_rate == 8000
    for old, new in zip(before.models[0].weights, after.models[0].weights, strict=True):
        change = np.abs(old.numpy() - new.numpy()).max()
        assert 0 < change < 0.025, old.path  # two steps of Adam, each of 0.01 at most; random weights would be afar


def test_it_is_not_resumed(imported: Imported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(train_flags(imported, tmp_path, "gru")) == 2
    said = capsys.readouterr().err.strip()
    assert f"--init_from {imported.run.folder}" in said and "--config_file" in said and "\n" not in said


def test_what_is_said_can_be_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(ORACLE / "lstm" / "model.ckpt-7.index")
    assert main(["--checkpoint", path, "--id", "x", "--logdir_root", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    (folder,) = (tmp_path / "x").iterdir()
    assert f"generate.py --checkpoint_path {folder} " in said
    assert f"--init_from {folder} --config_file {folder / 'run.config.json'} " in said
    assert json.loads((folder / "run.json").read_text())["imported_from"] == str(ORACLE / "lstm" / "model.ckpt-7")


# What is refused, in one sentence -----------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkpoint of PRiSM's that may be damaged."""
    return Path(shutil.copytree(ORACLE / "lstm", tmp_path / "prism"))


def refused(path: Path, kind: type[Exception], *said: str, **options: Any) -> None:
    """Importing `path` raises `kind` with one sentence, and leaves nothing behind."""
    logdir = path.parent / "logdir"
    with pytest.raises(kind) as caught:
        import_checkpoint(path, "new", logdir_root=logdir, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    for part in said:
        assert part in sentence
    assert not logdir.exists()


def test_a_path_without_a_checkpoint(copy: Path, tmp_path: Path) -> None:
    refused(copy / "model.ckpt-9", UsageError, "model.ckpt-9.index", "found in", "model.ckpt-7")
    refused(copy / "forward.npz", UsageError, "forward.npz is no checkpoint", "model.ckpt-7")
    refused(tmp_path / "nowhere" / "model.ckpt-1", UsageError, "no checkpoint")
    refused(tmp_path, UsageError, "folder", f"one lies in {copy}")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", UsageError, "no checkpoint in TensorFlow's format")


DATA = "model.ckpt-7.data-00000-of-00001"


@pytest.mark.parametrize("damage", ["index", "data", "missing"])
def test_a_damaged_checkpoint(copy: Path, damage: str) -> None:
    if damage == "index":
        (copy / "model.ckpt-7.index").write_bytes(b"no table" * 50)
    elif damage == "data":
        os.truncate(copy / DATA, 30000)
    else:
        (copy / DATA).unlink()
    refused(copy / "model.ckpt-7", RunError, "damaged or cut short")


def test_a_checkpoint_of_something_else(tmp_path: Path) -> None:
    weights = prism_weights("gru", False, CONFIG)
    prefix = write_checkpoint(tmp_path / "other", {"dense/kernel": np.ones((2, 2))}, CONFIG)
    refused(prefix, RunError, "big_frame_rnn/inputs/kernel", "model.ckpt-<epoch>")
    less = {name: value for name, value in weights.items() if name != "frame_rnn/rnn/layer_1/cell/bias"}
    refused(write_checkpoint(tmp_path / "less", less, CONFIG), RunError, "holds no frame_rnn/rnn/layer_1/cell/bias")
    flat = {**weights, "frame_rnn/upsample": np.zeros(50, np.float32)}
    refused(write_checkpoint(tmp_path / "flat", flat, CONFIG), RunError, "frame_rnn/upsample", "[50]", "3 dimensions")
    odd = {**weights, "sample_mlp/hidden2/bias": np.zeros(6, np.float32)}
    refused(write_checkpoint(tmp_path / "odd", odd, CONFIG), RunError, "sample_mlp/hidden2/bias", "[6]", "[5]")


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("frame_sizes", [8, 16], "[4, 16]"),
        ("dim", 1024, "12"),
        ("rnn_type", "gru", "lstm"),
        ("num_rnn_layers", 4, "1"),
        ("skip_conn", True, "False"),
    ],
)
def test_a_config_of_another_network(copy: Path, key: str, value: Any, found: str) -> None:
    path = copy / "oracle.config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    refused(copy, UsageError, str(path), f"{key} is {value}", f"{found} in the checkpoint", "--config_file")


def test_a_config_that_is_wrong_in_itself(copy: Path) -> None:
    path = copy / "oracle.config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seq_len": 50}))
    refused(copy, UsageError, "seq_len 50 must be a multiple of the top frame size 16")


def test_which_config_is_taken(copy: Path) -> None:
    shutil.copy(copy / "oracle.config.json", copy / "second.config.json")
    refused(copy, UsageError, "oracle.config.json, second.config.json", "--config_file")
    given = copy / "second.config.json"
    given.write_text(json.dumps({**json.loads(given.read_text()), "seq_len": 128, "skip_conn": None}))
    made = import_checkpoint(copy, "new", config_file=given, logdir_root=copy)
    assert made.config.seq_len == 128 and made.config.skip_conn is False
    for path in copy.glob("*.config.json"):
        path.unlink()
    with pytest.raises(UsageError, match=r"there is no \*\.config\.json.*--config_file"):
        import_checkpoint(copy, "other", logdir_root=copy)


def test_what_prism_ignores_is_remarked_on(copy: Path) -> None:
    path = copy / "oracle.config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "emb_size": 64, "q_levels": 128, "colour": "red"}))
    made = import_checkpoint(copy, "new", logdir_root=copy)
    assert made.config.emb_size == made.config.q_levels == 256
    assert len(made.remarks) == 3
    for part in ("colour", "emb_size is 64", "q_levels is 128"):
        assert any(part in remark for remark in made.remarks)


def test_weights_that_nobody_knows_are_remarked_on(tmp_path: Path) -> None:
    weights = {**prism_weights("gru", False, CONFIG), "frame_rnn/rnn/layer_2/cell/bias": np.zeros((2, 15), np.float32)}
    made = import_checkpoint(write_checkpoint(tmp_path, weights, CONFIG), "new", logdir_root=tmp_path)
    assert len(made.remarks) == 1 and "frame_rnn/rnn/layer_2/cell/bias" in made.remarks[0]


def test_the_newest_of_a_folder(tmp_path: Path) -> None:
    for epoch in (9, 10):
        write_checkpoint(tmp_path, prism_weights("gru", False, CONFIG), None, epoch)
    checkpoint = PrismCheckpoint(tmp_path)
    assert checkpoint.source.name == "model.ckpt-10" and checkpoint.epoch == 10 and checkpoint.step == 0


def test_an_id_that_has_runs_or_is_no_name(imported: Imported) -> None:
    root = imported.run.folder.parent.parent
    with pytest.raises(UsageError, match="--id gru has runs already"):
        import_checkpoint(ORACLE / "gru", "gru", logdir_root=root)
    for identity in ("a/b", "", ".."):
        with pytest.raises(UsageError, match="plain name"):
            import_checkpoint(ORACLE / "gru", identity, logdir_root=root)


def test_a_sample_rate_that_is_none(imported: Imported, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--checkpoint", str(ORACLE / "gru"), "--id", "x", "--logdir_root", str(imported.run.folder)]
    assert main([*flags, "--sample_rate", "0"]) == 2
    assert "--sample_rate is 0" in capsys.readouterr().err
