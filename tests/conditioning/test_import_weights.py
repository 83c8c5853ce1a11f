"""Weights of RNNControl and MTCRNN: the same outputs here, in a run that generates and that training starts from."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tensorflow as tf

import conditioning
import generate
import train
from commands import eagerly, undrawn
from conditioning.config import Config
from conditioning.import_weights import Imported, import_weights, main
from tierwave.audio.recordings import load
from tierwave.config import read_document
from tierwave.controls.tracks import Track
from tierwave.errors import RunError, UsageError
from tierwave.family import load_config
from tierwave.generation.load import load_run
from tierwave.generation.request import Request
from tierwave.nn import cells

ROOT = Path(__file__).resolve().parents[2]
ORACLE = Path(__file__).parents[1] / "oracle"
RNNCONTROL = ORACLE / "rnncontrol" / "forward.npz"
MTCRNN = ORACLE / "mtcrnn"
PARAMETERS: dict[str, Any] = {"generates": ["x", "y", "z"], "conditioned_on": ["a", "b"], "rate": 125}
AUDIO: dict[str, Any] = {"conditioned_on": ["a", "b"]}
NETS = {
    "net0": "baseline", "net1": "split", "net2": "shared_split", "net3": "pathways", "net4": "shared_pathways",
    "net5": "mixture",
}  # fmt: skip


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def weights_of(path: Path) -> dict[str, np.ndarray]:
    """By PyTorch's names, without prefix."""
    prefix = "weights/"
    return {name.removeprefix(prefix): value for name, value in arrays_of(path).items() if name.startswith(prefix)}


def made(path: Path, folder: Path, **options: Any) -> tuple[Imported, Any]:
    """What was imported, and its model as generation loads it."""
    imported = import_weights(path, "theirs", logdir_root=folder / "logdir", **options)
    (model,) = load_run(imported.run.folder).models
    return imported, model


def outputs(model: Any, inputs: np.ndarray, **options: Any) -> list[np.ndarray]:
    """Of whole windows of theirs, values first and controls after them."""
    width = model.features
    values = tf.constant(inputs[..., 0] if model.stage.makes_audio else inputs[..., :width])
    controls = tf.constant(inputs[..., width:])
    state = model.initial_state(len(inputs))
    prediction, _ = model.sequence(values, controls, state, model.effective_weights(), **options)
    return [part.numpy() for part in prediction]


def outputs_by_steps(model: Any, inputs: np.ndarray) -> list[np.ndarray]:
    width, weights = model.features, model.effective_weights()
    state = model.initial_state(len(inputs))
    found = []
    for at in np.moveaxis(inputs, 1, 0):
        values = tf.constant(at[:, 0] if model.stage.makes_audio else at[:, :width])
        prediction, state = model.step(values, model.control_term(tf.constant(at[:, width:]), weights), state, weights)
        found.append([part.numpy() for part in prediction])
    return [np.stack(parts, axis=1) for parts in zip(*found, strict=True)]


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


# Their own numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NETS if name != "net5"])
def test_the_means_and_deviations_are_mtcrnns(name: str, tmp_path: Path) -> None:
    imported, model = made(MTCRNN / f"{name}.npz", tmp_path, **PARAMETERS)
    config, oracle = imported.config, arrays_of(MTCRNN / f"{name}.npz")
    assert (config.net, config.cell, config.hidden_size, config.num_layers) == (NETS[name], "gru", 8, 2)
    assert model.head.floor == 0.0  # MTCRNN's deviations have none
    expected = [oracle["output_0"], oracle["output_1"]]
    same(outputs(model, oracle["inputs"]), expected)
    same(outputs_by_steps(model, oracle["inputs"]), expected)


def test_the_mixtures_are_mtcrnns(tmp_path: Path) -> None:
    """Means, softplus deviations (without our floor) and softmax probabilities; theirs go component by component."""
    imported, model = made(MTCRNN / "net5.npz", tmp_path, **PARAMETERS)
    assert (imported.config.net, imported.config.loss_name, imported.config.mixtures) == ("mixture", "mixture", 3)
    oracle = arrays_of(MTCRNN / "net5.npz")
    expected = [np.swapaxes(oracle[f"output_{index}"], 2, 3) for index in (2, 0, 1)]
    for run in (outputs, outputs_by_steps):
        logits, means, raw = run(model, oracle["inputs"])
        same([softmax(logits), means, np.log1p(np.exp(raw))], expected)


def test_fewer_parameters_than_components(tmp_path: Path) -> None:
    """Three of either would hide a wrong order of axes that have three entries; here are two parameters."""
    weights, oracle = weights_of(MTCRNN / "net5.npz"), arrays_of(MTCRNN / "net5.npz")
    for name, value in weights.items():
        if name.split(".")[0] in ("pi", "mu", "sigma"):
            weights[name] = value.reshape(3, 3, -1)[:, :2].reshape(6, *value.shape[1:])
    np.savez(tmp_path / "two.npz", **weights)
    names = {"generates": ["x", "y"], "conditioned_on": ["z", "a", "b"], "rate": 125}
    _, model = made(tmp_path / "two.npz", tmp_path, **names)
    logits, means, _ = outputs(model, oracle["inputs"])
    expected = [np.swapaxes(oracle[f"output_{index}"][:, :, :, :2], 2, 3) for index in (2, 0)]
    same([softmax(logits), means], expected)


@pytest.mark.parametrize(
    ("path", "output", "net", "levels", "fed"),
    [
        (RNNCONTROL, "logits", "rnncontrol", 64, 1.0),
        (MTCRNN / "net0_audio.npz", "output_0", "baseline", 32, 32 / 31),
        (MTCRNN / "net6_audio.npz", "output_0", "wide", 32, 32 / 31),
    ],
    ids=["rnncontrol", "net0", "net6"],
)
def test_the_logits_are_theirs(
    path: Path, output: str, net: str, levels: int, fed: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle's sound is any number in [0, 1), no code, so it goes in where codes are scaled: as it is in
    RNNControl's code / (levels - 1), and by levels / (levels - 1) more than MTCRNN's code / levels."""
    imported, model = made(path, tmp_path, **AUDIO)
    config, oracle = imported.config, arrays_of(path)
    assert (config.net, config.q_levels, config.audio_input, config.rate) == (net, levels, "scalar", 16000)
    assert config.q_type == ("mu-law" if net == "rnncontrol" else "mu-law-floor")
    monkeypatch.setattr(model, "scaled", lambda values: values * np.float32(fed))
    same(outputs(model, oracle["inputs"]), [oracle[output]])
    same(outputs_by_steps(model, oracle["inputs"]), [oracle[output]])


@pytest.mark.parametrize(
    ("path", "first", "of"),
    [(RNNCONTROL, "i2h", 63), (MTCRNN / "net0_audio.npz", "i2d", 32)],
    ids=["rnncontrol", "mtcrnn"],
)
def test_a_code_does_what_it_did_there(path: Path, first: str, of: int, tmp_path: Path) -> None:
    """All codes through the first map: RNNControl feeds code / (levels - 1), MTCRNN code / levels."""
    _, model = made(path, tmp_path, **AUDIO)
    codes = np.arange(model.stage.q_levels)
    controls = np.random.default_rng(3).random([len(codes), 2]).astype(np.float32)
    weights, theirs = model.effective_weights(), weights_of(path)
    seen = model.rnn_input(tf.constant(codes), model.control_term(tf.constant(controls), weights), weights)
    inputs = np.concatenate([codes[:, None] / of, controls], axis=1)
    expected = inputs @ theirs[f"{first}.weight"].T + theirs[f"{first}.bias"]
    if first == "i2d":
        expected = np.maximum(expected, 0.0)
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-6)


def test_one_hot_audio(tmp_path: Path) -> None:
    """As many inputs as levels and controls together."""
    weights = weights_of(MTCRNN / "net0_audio.npz")
    rng = np.random.default_rng(4)
    weights["i2d.weight"] = rng.normal(size=[8, 34]).astype(np.float32)
    np.savez(tmp_path / "onehot.npz", **weights)
    imported, model = made(tmp_path / "onehot.npz", tmp_path, **AUDIO)
    assert imported.config.audio_input == "onehot"
    codes, controls = np.array([0, 7, 31]), rng.random([3, 2]).astype(np.float32)
    effective = model.effective_weights()
    seen = model.rnn_input(tf.constant(codes), model.control_term(tf.constant(controls), effective), effective)
    inputs = np.concatenate([np.eye(32)[codes], controls], axis=1)
    expected = np.maximum(inputs @ weights["i2d.weight"].T + weights["i2d.bias"], 0.0)
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-6)


def test_the_phased_lstm_is_mtcrnns_but_for_its_negative_phases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in test_recurrent: with MTCRNN's truncating modulo, outputs to 1.8e10, each step on its own scale.

    dropout_seed turns on the leak, which MTCRNN always has; there is no dropout. The step form has no leak.
    """
    imported, model = made(MTCRNN / "net0_plstm.npz", tmp_path, **PARAMETERS)
    config, oracle = imported.config, arrays_of(MTCRNN / "net0_plstm.npz")
    assert (config.net, config.cell, config.num_layers) == ("baseline", "phased_lstm", 1)
    assert any("time gates" in remark for remark in imported.remarks)
    expected = np.concatenate([oracle["output_0"], oracle["output_1"]], axis=-1)
    scale = np.maximum(1.0, np.abs(expected).max(axis=(0, 2)))[None, :, None]
    ours = np.concatenate(outputs(model, oracle["inputs"]), axis=-1)
    assert np.abs(ours).max() < 10 < np.abs(expected).max()
    monkeypatch.setattr(cells, "_positive_modulo", tf.truncatemod)
    seed = tf.constant([1, 2])
    for found in (outputs(model, oracle["inputs"], dropout_seed=seed), outputs_by_steps(model, oracle["inputs"])):
        assert (np.abs(np.concatenate(found, axis=-1) - expected) / scale).max() < 1e-5


def test_an_lstm_in_place_of_the_gru(tmp_path: Path) -> None:
    """PyTorch's equations written down: gates i, f, g, o, two biases."""
    rng = np.random.default_rng(5)
    weights = {name: value for name, value in weights_of(RNNCONTROL).items() if not name.startswith("gru.")}
    shapes = {"weight_ih_l0": (40, 10), "weight_hh_l0": (40, 10), "bias_ih_l0": (40,), "bias_hh_l0": (40,)}
    weights |= {f"lstm.{name}": rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    np.savez(tmp_path / "lstm.npz", **weights)
    imported, model = made(tmp_path / "lstm.npz", tmp_path, **AUDIO)
    assert (imported.config.cell, imported.config.num_layers) == ("lstm", 1)
    codes = rng.integers(0, 64, [2, 12])
    controls = rng.random([2, 12, 2]).astype(np.float32)
    state = model.initial_state(2)
    (found,), _ = model.sequence(tf.constant(codes), tf.constant(controls), state, model.effective_weights())
    h, c = np.zeros([2, 10]), np.zeros([2, 10])

    def sigmoid(sums: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-sums))

    for time in range(12):
        inputs = np.concatenate([codes[:, time, None] / 63, controls[:, time]], axis=1)
        fed = inputs @ weights["i2h.weight"].T + weights["i2h.bias"]
        sums = fed @ weights["lstm.weight_ih_l0"].T + weights["lstm.bias_ih_l0"]
        sums += h @ weights["lstm.weight_hh_l0"].T + weights["lstm.bias_hh_l0"]
        i, f, g, o = np.split(sums, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        expected = h @ weights["decoder.weight"].T + weights["decoder.bias"]
        np.testing.assert_allclose(found[:, time], expected, rtol=0, atol=1e-5)


def test_the_later_name_of_rnncontrols_decoder(tmp_path: Path) -> None:
    weights = {name.replace("decoder.", "decoders.0."): value for name, value in weights_of(RNNCONTROL).items()}
    np.savez(tmp_path / "later.npz", **weights)
    _, model = made(tmp_path / "later.npz", tmp_path, **AUDIO)
    np.testing.assert_array_equal(model.heads[0].bias, weights["decoders.0.bias"])


# Sizes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "counts"),
    [
        ("mtcrnn_tier3", [1_628_706]),
        ("mtcrnn_tier2", [4_530_526]),
        ("mtcrnn_tier1", [11_751_456]),
        ("mtcrnn_cascade", [1_628_706, 4_530_526, 11_751_456]),
        ("rnncontrol", [69_232]),
        ("rnncontrol_small", [14_120]),
    ],
)
def test_presets_have_as_many_weights_as_the_originals(preset: str, counts: list[int]) -> None:
    path = ROOT / "configs" / f"{preset}.config.json"
    family, config = load_config(read_document(path), path.name)
    with undrawn():
        assert [family.build(config, stage).count_params() for stage in family.stages(config)] == counts


def test_the_cascade_is_its_three_tiers() -> None:
    cascade = read_document(ROOT / "configs" / "mtcrnn_cascade.config.json")
    for number, tier in zip((3, 2, 1), cascade["tiers"], strict=True):
        alone = read_document(ROOT / "configs" / f"mtcrnn_tier{number}.config.json")
        together = {**tier, "model": "conditioning", "training": {**cascade["training"], **tier["training"]}}
        assert {key: value for key, value in together.items() if key != "name"} == alone


# What the run is good for --------------------------------------------------------------------------------------------


def test_it_makes_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--weights", str(RNNCONTROL), "--id", "x", "--logdir_root", str(tmp_path), "--rate", "8000"]
    steered = ["--conditioned_on", "a", "p", "--range", "p=64:76", "--units", "p=midiPitch"]
    assert main([*flags, *steered]) == 0
    said = capsys.readouterr().out
    (folder,) = (tmp_path / "x").iterdir()
    assert f"--checkpoint_path {folder} --output_path new.wav --control a=0 p=64\n" in said
    assert f"--init_from {folder} --config_file {folder / 'run.config.json'} " in said
    assert "Without --range the network takes values from 0 to 1: a." in said
    document = json.loads((folder / "run.json").read_text())
    assert (document["imported_from"], document["corpus"]) == (str(RNNCONTROL), None)
    schema = load_run(folder).schema
    assert schema.names == ("a", "p") and schema.of("p").units == "midiPitch" and schema.of("p").span == (64.0, 76.0)
    path = tmp_path / "new.wav"
    asked = ["--checkpoint_path", str(folder), "--output_path", str(path), "--dur", "0.0501", "--random_seed", "5"]
    assert generate.main([*asked, "--control", "a=0.5", "p=64:76"]) == 0
    sound, rate = load(path)
    assert (rate, len(sound)) == (8000, 401)
    assert sound.std() > 0.01


def test_it_makes_curves(tmp_path: Path) -> None:
    """MTCRNN's values went in as they were, so they may lie outside [0, 1]."""
    imported = import_weights(MTCRNN / "net5.npz", "curves", logdir_root=tmp_path, **PARAMETERS)
    trained = load_run(imported.run.folder)
    controls = {name: Track.constant(name, value) for name, value in (("a", 3.5), ("b", -2.0))}
    stream = trained.stream(Request(seconds=0.2, temperature=[1.0], random_seed=1, controls=(controls,)))
    (curves,) = stream.curves(0.2).values()
    assert list(curves) == ["x", "y", "z"] and curves["x"].times[-1] == pytest.approx(0.2)
    values = np.stack([track.values for track in curves.values()])
    assert np.ptp(values) > 1.0 and values.min() < 0.0


@pytest.mark.slow
def test_training_starts_from_it_and_does_not_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "logdir"
    names = {"conditioned_on": ["a", "p"], "ranges": {"p": (64.0, 76.0)}}
    run = import_weights(RNNCONTROL, "theirs", rate=8000, logdir_root=root, **names).run.folder
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    for index, pitch in enumerate((64, 70)):
        sound = np.random.default_rng(index).uniform(-0.5, 0.5, 4000)
        soundfile.write(recordings / f"x_a0.{index}_p{pitch}.0.wav", sound, 8000)
    flags = {
        "data_dir": recordings, "logdir_root": root, "output_dir": tmp_path, "batch_size": 4, "num_steps": 2,
        "learning_rate": 0.01, "generate": False, "jit": False,
    }  # fmt: skip
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    assert train.main([*words, "--id", "theirs"]) == 2
    said = capsys.readouterr().err.strip()
    assert f"--init_from {run}" in said and "\n" not in said
    started = ["--id", "further", "--init_from", str(run), "--config_file", str(run / "run.config.json")]
    with eagerly():
        assert train.main([*words, *started]) == 0
    before, after = load_run(run), load_run(root / "further")
    assert after.entry.step == 2 and after.schema.of("p").span == (64.0, 76.0)
    for old, new in zip(before.models[0].weights, after.models[0].weights, strict=True):
        change = np.abs(old.numpy() - new.numpy()).max()
        assert 0 < change < 0.025, old.path  # two steps of Adam, each of 0.01 at most; random weights would be afar


# What is refused, in one sentence ------------------------------------------------------------------------------------


def refused(path: Path, folder: Path, kind: type[Exception], *said: str, **options: Any) -> None:
    """Importing `path` raises `kind` with one sentence, and leaves nothing behind."""
    logdir = folder / "nothing"
    with pytest.raises(kind) as caught:
        import_weights(path, "new", logdir_root=logdir, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence and (str(path) in sentence or "--" in sentence)
    for part in said:
        assert part in sentence, sentence
    assert not logdir.exists()


def test_the_wrong_number_of_names(tmp_path: Path) -> None:
    path = MTCRNN / "net0.npz"
    told = ("generates 3 controls", "other 2 of its 5 inputs", "names 0", "names 3")
    refused(path, tmp_path, UsageError, *told, conditioned_on=["a", "b", "c"], rate=125)
    four = {**PARAMETERS, "generates": ["w", "x", "y", "z"], "conditioned_on": ["a"]}
    refused(path, tmp_path, UsageError, "--generates names 4 and --conditioned_on names 1", **four)
    refused(path, tmp_path, UsageError, "audio, which it does not make", **{**PARAMETERS, "generates": ["audio"]})
    audio = MTCRNN / "net0_audio.npz"
    refused(
        audio, tmp_path, UsageError, "3 inputs, which is scalar audio (1) and 2 controls", "--conditioned_on names 0"
    )
    refused(audio, tmp_path, UsageError, "makes audio of 32 levels, not x", generates=["x"], conditioned_on=["a", "b"])
    refused(audio, tmp_path, UsageError, "--audio_input is onehot", audio_input="onehot", **AUDIO)
    refused(path, tmp_path, UsageError, "--audio_input scalar is for audio", audio_input="scalar", **PARAMETERS)
    twice = {**PARAMETERS, "conditioned_on": ["a", "a"]}
    refused(path, tmp_path, UsageError, "must be different names", **twice)
    both = {**PARAMETERS, "conditioned_on": ["a", "x"]}
    refused(path, tmp_path, UsageError, "x is both generated and conditioned on", **both)
    wide = weights_of(audio)
    wide["i2d.weight"] = np.ones([8, 40], np.float32)
    np.savez(tmp_path / "wide.npz", **wide)
    told = ("scalar audio (1) and 39 controls", "onehot audio (32) and 8 controls")
    refused(tmp_path / "wide.npz", tmp_path, UsageError, *told, **AUDIO)


def test_the_rate(tmp_path: Path) -> None:
    path = MTCRNN / "net0.npz"
    refused(path, tmp_path, UsageError, "give --rate", **{**PARAMETERS, "rate": None})
    for rate in (0.0, -1.0, float("nan"), float("inf")):
        refused(path, tmp_path, UsageError, f"--rate {rate:g}", **{**PARAMETERS, "rate": rate})
    refused(RNNCONTROL, tmp_path, UsageError, "a whole number of Hz", rate=62.5, **AUDIO)


def test_ranges_and_units(tmp_path: Path) -> None:
    path = MTCRNN / "net0.npz"
    refused(path, tmp_path, UsageError, "--range names q", ranges={"q": (0.0, 2.0)}, **PARAMETERS)
    refused(path, tmp_path, UsageError, "--range a=2:2", ranges={"a": (2.0, 2.0)}, **PARAMETERS)
    refused(path, tmp_path, UsageError, "--units names q", units={"q": "norm"}, **PARAMETERS)
    refused(path, tmp_path, UsageError, "--units.a", "did you mean midiPitch?", units={"a": "midipich"}, **PARAMETERS)
    imported = import_weights(
        path, "x", ranges={"a": (2.0, 4.0)}, units={"b": "norm"}, logdir_root=tmp_path, **PARAMETERS
    )
    a, b, x = (imported.schema.of(name) for name in ("a", "b", "x"))
    assert (a.span, a.outside) == ((2.0, 4.0), "clip")
    assert (b.span, b.outside, b.units) == ((0.0, 1.0), "allow", "norm")
    assert (x.span, x.outside) == ((0.0, 1.0), "allow")
    np.testing.assert_array_equal(b.normalise([-3.0, 0.25, 7.0]), np.float32([-3.0, 0.25, 7.0]))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--range", "p"], "--range p is not NAME=VALUE"),
        (["--range", "p=64-76"], "--range p=64-76 is not NAME=LOW:HIGH"),
        (["--range", "p=1:2", "p=1:3"], "--range gives p twice"),
        (["--units", "=norm"], "--units =norm is not NAME=VALUE"),
        (["--range", "p=nan:1"], "is not NAME=LOW:HIGH"),
    ],
)
def test_flags_that_are_wrong_in_themselves(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = ["--weights", str(RNNCONTROL), "--id", "x", "--logdir_root", str(tmp_path), "--conditioned_on", "a", "p"]
    assert main([*shared, *flags]) == 2
    told = capsys.readouterr().err.strip()
    assert said in told and "\n" not in told
    assert not (tmp_path / "x").exists()


def test_an_id_that_has_runs_or_is_no_name(tmp_path: Path) -> None:
    import_weights(RNNCONTROL, "x", logdir_root=tmp_path, **AUDIO)
    with pytest.raises(UsageError, match="--id x has runs already"):
        import_weights(RNNCONTROL, "x", logdir_root=tmp_path, **AUDIO)
    for identity in ("a/b", "", ".."):
        with pytest.raises(UsageError, match="plain name"):
            import_weights(RNNCONTROL, identity, logdir_root=tmp_path, **AUDIO)


Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("name", "change", "kind", "said"),
    [
        ("net0", lambda w: w.pop("i2d.weight"), UsageError, "neither RNNControl nor MTCRNN (it holds gru.bias_hh_l0"),
        ("net0", lambda w: w.clear(), UsageError, "it holds nothing"),
        ("net0", lambda w: w.pop("gru.bias_hh_l1"), RunError, "holds no gru.bias_hh_l1"),
        ("net0", lambda w: w.pop("gru.weight_hh_l0"), RunError, "holds no gru.weight_hh_l0"),
        ("net0", lambda w: w.pop("h2v.weight"), RunError, "holds no h2v.weight"),
        ("net1", lambda w: w.pop("sigma1.weight_ih_l1"), RunError, "holds no sigma1.weight_ih_l1"),
        ("net3", lambda w: w.pop("out_pro.1.rec.bias_ih_l0"), RunError, "holds no out_pro.1.rec.bias_ih_l0"),
        ("net5", lambda w: w.update({"mu.weight": w["mu.weight"][:6]}), RunError, "mu.weight"),
        ("net5", lambda w: w.update({"pi.weight": w["pi.weight"][:8]}), RunError, "8 mixture components"),
        ("net0", lambda w: w.update({"h2v.bias": w["h2v.bias"][:2]}), RunError, "has the shape [2], but"),
        (
            "net0",
            lambda w: w.update({"i2d.weight": w["i2d.weight"][0]}),
            RunError,
            "has the shape [5], and 2 dimensions",
        ),
        ("net0", lambda w: w.update({"i2d.weight": w["i2d.weight"][:, :2]}), RunError, "fewer than the 3 controls"),
        ("net0", lambda w: w.update({"gru.weight_ih_l0_reverse": w["h2n.bias"]}), RunError, "gru.weight_ih_l0_reverse"),
        ("net0", lambda w: w.update({"h2v.bias": np.array([0.0, np.nan, 0.0])}), RunError, "NaN or infinity"),
        ("net0", lambda w: w.update({"h2v.bias": np.arange(3)}), RunError, "h2v.bias"),
        ("net0", lambda w: w.update({"h2v.bias": np.array([{}, 1, 2], object)}), RunError, "h2v.bias"),
        ("net0_plstm", lambda w: w.pop("plstm_layer.cells.0.phase"), RunError, "holds no plstm_layer.cells.0.phase"),
        ("net0_plstm", lambda w: w.pop("plstm_layer.cells.0.linear_hh.weight"), RunError, "linear_hh.weight"),
    ],
)
def test_arrays_that_are_no_network(
    name: str, change: Change, kind: type[Exception], said: str, tmp_path: Path
) -> None:
    weights: dict[str, Any] = weights_of(MTCRNN / f"{name}.npz")
    change(weights)
    np.savez(tmp_path / "changed.npz", **weights)
    refused(tmp_path / "changed.npz", tmp_path, kind, said, str(tmp_path / "changed.npz"), **PARAMETERS)


def test_several_decoders_are_no_audio(tmp_path: Path) -> None:
    """RNNControl's later networks of codec tokens."""
    weights = {name.replace("decoder.", "decoders.0."): value for name, value in weights_of(RNNCONTROL).items()}
    weights |= {name.replace(".0.", ".1."): value for name, value in weights.items() if name.startswith("decoders")}
    np.savez(tmp_path / "tokens.npz", **weights)
    refused(tmp_path / "tokens.npz", tmp_path, RunError, "decoders.1.bias", "RNNControl", **AUDIO)


def test_pickled_arrays_are_not_read(tmp_path: Path) -> None:
    weights: dict[str, Any] = weights_of(RNNCONTROL)
    weights["i2h.bias"] = np.array([b"anything"] * 10, object)
    np.savez(tmp_path / "pickled.npz", **weights)
    refused(tmp_path / "pickled.npz", tmp_path, RunError, "i2h.bias", "is pickled", "numpy.savez", **AUDIO)


def test_files_that_hold_no_arrays(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.npz", tmp_path, UsageError, "there is no file")
    refused(tmp_path, tmp_path, UsageError, "there is no file")
    for name, content in (("empty.npz", b""), ("old.pkl", b"\x80\x02cthings\n."), ("text.npz", b"no arrays at all")):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, tmp_path, UsageError, "is no .npz file", "numpy.savez")
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:  # as PyTorch writes it
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", b"\0" * 40)
    refused(tmp_path / "model.pt", tmp_path, UsageError, "is a PyTorch checkpoint", "numpy.savez")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", b"hello")
    refused(tmp_path / "other.zip", tmp_path, RunError, "readme.txt", "is no weight")
    np.save(tmp_path / "one.npy", np.ones(3))
    refused(tmp_path / "one.npy", tmp_path, UsageError, "a single array")


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_file(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "theirs.npz"
    path.write_bytes(RNNCONTROL.read_bytes())
    if damage == "cut":
        os.truncate(path, path.stat().st_size // 2)
    else:
        content = bytearray(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            start = archive.getinfo("weights/i2h.weight.npy").header_offset
        content[start + 60 : start + 120] = bytes(60)
        path.write_bytes(content)
    refused(path, tmp_path, RunError, "damaged or cut short", **AUDIO)


def test_half_precision_is_taken(tmp_path: Path) -> None:
    weights = {name: value.astype(np.float16) for name, value in weights_of(RNNCONTROL).items()}
    np.savez(tmp_path / "half.npz", **weights)
    _, model = made(tmp_path / "half.npz", tmp_path, **AUDIO)
    np.testing.assert_array_equal(model.heads[0].bias, weights["decoder.bias"].astype(np.float32))
    assert model.heads[0].bias.dtype == "float32"


def test_configs_that_are_built_agree_with_what_is_imported(tmp_path: Path) -> None:
    imported, model = made(RNNCONTROL, tmp_path, **AUDIO)
    weights = sum(value.size for value in weights_of(RNNCONTROL).values())
    config = Config(conditioned_on=["a", "b"], rate=16000.0, hidden_size=10, num_layers=3, q_levels=64)
    assert model.count_params() == weights == conditioning.FAMILY.build(config).count_params()
    assert conditioning.FAMILY.architecture(imported.config, "conditioning") == conditioning.FAMILY.architecture(
        config, "conditioning"
    )
