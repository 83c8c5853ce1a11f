"""The exported generation step: driven by its manifest alone, it gives TensorFlow's numbers, 2,000 steps on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tierwave.audio.quantize import Quantizer
from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.tracks import Track
from tierwave.errors import RunError, UsageError
from tierwave.export import formats
from tierwave.export.manifest import write_steps
from tierwave.family import load_config
from tierwave.generation.request import Request

STEPS = 2000
LEVELS = 32
TOLERANCE = 1e-4
SAMPLE: dict[str, Any] = {
    "model": "samplernn", "seq_len": 16, "frame_sizes": [2, 8], "dim": 16, "num_rnn_layers": 2, "q_levels": LEVELS,
    "emb_size": 8,
}  # fmt: skip
TIER: dict[str, Any] = {
    "model": "conditioning", "conditioned_on": ["p", "q"], "hidden_size": 16, "num_layers": 2, "q_levels": LEVELS,
}  # fmt: skip
VALUES: dict[str, Any] = {**TIER, "generates": ["x", "y"], "rate": 100, "q_levels": 256}
# Every value of every key that shapes a step is in one of them.
AUDIO_CASES: dict[str, dict[str, Any]] = {
    "three tiers, GRU": {**SAMPLE, "skip_conn": "prism"},
    "two tiers, LSTM": {**SAMPLE, "frame_sizes": [4], "rnn_type": "lstm", "skip_conn": True, "learn_h0": True},
    "plain": {**SAMPLE, "frame_sizes": [], "emb_size": 0, "q_type": "linear", "conditioned_on": ["p"]},
    "steered, paper": {
        **SAMPLE, "conditioned_on": ["p", "q"], "convention": "paper", "weight_norm": True, "gru_reset": "before",
        "logit_cap": 10.0, "num_rnn_layers": 1, "controls": {"q": {"nvals": 4, "encoding": "one_hot"}},
    },
    "tier, scalar": TIER,
    "tier, one-hot, LSTM": {
        **TIER, "audio_input": "onehot", "cell": "lstm", "net": "wide",
        "controls": {"q": {"categories": ["a", "b", "c"], "encoding": "one_hot"}},
    },
    "tier, embedding, phased LSTM": {**TIER, "audio_input": "embedding", "cell": "phased_lstm", "net": "baseline"},
}  # fmt: skip
VALUE_CASES: dict[str, dict[str, Any]] = {
    "gaussian, shared": {**VALUES, "net": "shared_pathways"},
    "mixture, unsteered": {**VALUES, "net": "mixture", "cell": "lstm", "conditioned_on": []},
}


def trained_like(document: dict[str, Any], **more: Any) -> Any:
    """What of a `Trained` a manifest is written from: a network with random weights."""
    family, config = load_config(document, "here")
    rng = np.random.default_rng(0)
    models = [family.build(config, stage) for stage in family.stages(config)]
    for model in models:
        for variable in model.variables:
            variable.assign(variable + 0.15 * rng.standard_normal(variable.shape))
    names = family.parameters(config) if document["model"] != "melnet" else []
    schema = Schema(parameters=tuple(Parameter(name=name, lo=1.0, hi=8.0, scale="log") for name in names))
    return SimpleNamespace(
        family=family, config=config, models=models, sample_rate=8000, schema=schema, values={"p": [1.0, 8.0]}, **more
    )


def runner(kind: str, path: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    if kind == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options)
        names = [output.name for output in session.get_outputs()]
        return lambda given: dict(zip(names, session.run(names, given), strict=True))
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    signature = interpreter.get_signature_runner()
    return lambda given: {**signature(**given), **({} if interpreter else {})}  # the interpreter must live as long


class Host:
    """A program that knows a manifest and nothing else."""

    def __init__(self, folder: Path, kind: str, stage: int = -1):
        self.manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.stage = self.manifest["stages"][stage]
        self.graphs = self.stage["graphs"]
        self.run = [runner(kind, folder / graph["files"][kind]) for graph in self.graphs]
        self.state: list[dict[str, np.ndarray]] = []
        for graph in self.graphs:
            carried = [part for part in graph["inputs"] if "next" in part]
            self.state.append(
                {part["name"]: np.array(part["initial"] or np.zeros(part["shape"]), part["dtype"]) for part in carried}
            )
        self.spread: list[Any] = [None] * len(self.graphs)

    def step(self, now: int, **seen: np.ndarray) -> dict[str, np.ndarray]:
        """seen: codes before `now`, at least as many as any graph wants; values; controls of `now + controls_at`."""
        result: dict[str, np.ndarray] = {}
        for number, graph in enumerate(self.graphs):
            if now % graph["every"]:
                continue
            given = dict(self.state[number])
            for part in graph["inputs"]:
                name = part["name"]
                if name == "codes":
                    given[name] = seen[name][len(seen[name]) - part["shape"][0] :]
                elif name == "condition":
                    above = self.graphs[number - 1]["every"]
                    given[name] = self.spread[number - 1][now % above // graph["every"]]
                elif "next" not in part:
                    given[name] = seen[name]
                assert given[name].shape == tuple(part["shape"]) and given[name].dtype == part["dtype"]
            result = self.run[number](given)
            for part in graph["outputs"]:
                made = result[part["name"]]
                assert made.shape == tuple(part["shape"]) and made.dtype == part["dtype"]
            assert sorted(result) == sorted(part["name"] for part in graph["outputs"])
            self.state[number] = {p["name"]: result[p["next"]] for p in graph["inputs"] if "next" in p}
            self.spread[number] = result.get("spread")
        return result


# What is converted quickly: each network once, and each format with networks and cells of both families.
QUICK = [
    ("three tiers, GRU", "onnx"), ("two tiers, LSTM", "litert"), ("plain", "onnx"), ("steered, paper", "litert"),
    ("tier, scalar", "litert"), ("tier, one-hot, LSTM", "onnx"), ("tier, embedding, phased LSTM", "onnx"),
    ("gaussian, shared", "litert"), ("mixture, unsteered", "onnx"),
]  # fmt: skip


def conversions(cases: dict[str, dict[str, Any]]) -> list[Any]:
    """Each network of the cases with each format that can hold it."""
    found = []
    for name, document in cases.items():
        for kind in ["onnx"] if document.get("cell") == "phased_lstm" else ["onnx", "litert"]:
            found.append(pytest.param(name, kind, marks=() if (name, kind) in QUICK else pytest.mark.slow))
    return found


@pytest.mark.parametrize(("name", "kind"), conversions(AUDIO_CASES))
def test_logits_are_tensorflows_over_2000_steps(name: str, kind: str, tmp_path: Path) -> None:
    document = AUDIO_CASES[name]
    trained = trained_like(document)
    (model,) = trained.models
    write_steps(trained, tmp_path, [kind])
    rng = np.random.default_rng(1)
    past = trained.config.top_frame if document["model"] == "samplernn" else 1
    silence = np.full(past, model.quantizer.silence)
    codes = np.concatenate([silence, rng.integers(0, LEVELS, STEPS)]).astype(np.int32)
    controls = rng.random([STEPS, len(trained.config.conditioned_on)], np.float32)
    steered = tf.constant(controls[None]) if controls.size else None

    def whole() -> tf.Tensor:
        state = model.initial_state(1)
        if document["model"] == "samplernn":
            return model.logits(tf.constant(codes[None]), state, controls=steered)[0]
        return model.sequence(tf.constant(codes[None, :-1]), steered, state, model.effective_weights())[0][0]

    wanted = tf.function(whole, autograph=False)().numpy()[0]
    assert wanted.std() > 0.1  # something to get wrong
    host = Host(tmp_path, kind)
    found = [host.step(now, codes=codes[now : past + now], controls=controls[now])["logits"] for now in range(STEPS)]
    assert np.abs(np.array(found) - wanted).max() < TOLERANCE


@pytest.mark.parametrize(("name", "kind"), conversions(VALUE_CASES))
def test_parameter_tiers_predict_what_tensorflow_does(name: str, kind: str, tmp_path: Path) -> None:
    trained = trained_like(VALUE_CASES[name])
    (model,) = trained.models
    write_steps(trained, tmp_path, [kind])
    rng = np.random.default_rng(2)
    values = rng.random([STEPS, 2], np.float32)
    controls = rng.random([STEPS, len(trained.config.conditioned_on)], np.float32)
    steered = tf.constant(controls[None]) if controls.size else None

    def whole() -> Any:
        return model.sequence(tf.constant(values[None]), steered, model.initial_state(1), model.effective_weights())[0]

    wanted = tf.function(whole, autograph=False)()
    host = Host(tmp_path, kind)
    assert host.stage["generates"] == ["x", "y"] and host.stage["rate"] == 100
    found = [host.step(now, values=values[now], controls=controls[now]) for now in range(STEPS)]
    *logits, mean, raw = (part.numpy()[0] for part in wanted)
    expected = {"mean": mean, "deviation": np.log1p(np.exp(raw)) + model.stage.scale_floor}
    expected |= {"logits": logits[0]} if logits else {}
    for key, numbers in expected.items():
        assert np.abs(np.array([each[key] for each in found]) - numbers).max() < TOLERANCE, key


def test_a_cascade_has_a_step_for_every_tier_and_says_how_values_are_mapped(tmp_path: Path) -> None:
    tier = {"hidden_size": 6, "num_layers": 1}
    trained = trained_like(
        {
            "model": "cascade",
            "tiers": [
                {"name": "slow", "generates": ["x"], "conditioned_on": ["p"], "rate": 50, **tier, "net": "baseline"},
                {"name": "sound", "conditioned_on": ["x"], "q_levels": LEVELS, "q_type": "a-law", **tier},
            ],
        }
    )
    write_steps(trained, tmp_path, ["onnx"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "slow_step.onnx", "sound_step.onnx"]
    slow, sound = Host(tmp_path, "onnx", 0), Host(tmp_path, "onnx", 1)
    assert (slow.stage["rate"], sound.stage["rate"]) == (50, 8000)
    assert (slow.stage["controls_at"], sound.stage["controls_at"]) == (-1, -1)
    quantizer = Quantizer("a-law", LEVELS)
    assert np.array_equal(np.float32(sound.stage["quantizer"]["decoded"]), quantizer.table())
    assert sound.stage["quantizer"]["silence"] == quantizer.silence
    told = {parameter["name"]: parameter for parameter in sound.manifest["parameters"]}
    assert (told["p"]["lo"], told["p"]["hi"], told["p"]["scale"]) == (1.0, 8.0, "log")
    assert told["p"]["trained_on"] == [1.0, 8.0] and told["x"]["trained_on"] is None


def mapped(manifest: dict[str, Any], name: str, raw: float) -> float:
    known = next(parameter for parameter in manifest["parameters"] if parameter["name"] == name)
    scale = {"linear": float, "log": np.log, "log1p": np.log1p}[known["scale"]]
    lo, hi = sorted((known["lo"], known["hi"]))
    return float((scale(np.clip(raw, lo, hi)) - scale(known["lo"])) / (scale(known["hi"]) - scale(known["lo"])))


def performed(
    folder: Path, samples: int, curves: dict[str, Callable[[float], float]]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Codes and generated controls of all stages at temperature 0, from the manifest alone."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    seconds = samples / manifest["sample_rate"]
    made: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for number, stage in enumerate(manifest["stages"]):
        host, rate = Host(folder, "onnx", number), stage["rate"]
        audio = stage["generates"] == ["audio"]
        steps = samples if audio else int(np.ceil(seconds * rate)) + 1
        past = max(graph["inputs"][0]["shape"][0] for graph in stage["graphs"])
        shape = [past + steps] if audio else [1 + steps, len(stage["generates"])]
        values = np.full(shape, stage["quantizer"]["silence"], np.int32) if audio else np.zeros(shape, np.float32)
        for now in range(steps):
            at = max(0, now + stage["controls_at"]) / rate
            controls = [
                np.interp(at, *made[name]) if name in made else mapped(manifest, name, curves[name](at))
                for name in stage["conditioned_on"]
            ]
            seen = {"codes": values[now : past + now]} if audio else {"values": values[now]}
            told = host.step(now, controls=np.array(controls, np.float32), **seen)
            if audio:
                values[past + now] = np.argmax(told["logits"])
            else:
                values[1 + now] = told["mean"]
        if audio:
            return np.array(stage["quantizer"]["decoded"], np.float32)[values[past:]], {
                name: points for name, (_, points) in made.items()
            }
        for column, name in enumerate(stage["generates"]):
            made[name] = (np.arange(steps) / rate, np.clip(values[1:, column], 0.0, 1.0))
    raise AssertionError("no stage makes audio")


FAST = {"hidden_size": 6, "num_layers": 1}
DRIVEN: dict[str, dict[str, Any]] = {
    "cascade": {
        "model": "cascade",
        "tiers": [
            {"name": "slow", "generates": ["x"], "conditioned_on": ["p"], "rate": 500, **FAST, "net": "baseline"},
            {"name": "sound", "conditioned_on": ["x", "p"], "q_levels": LEVELS, **FAST},
        ],
    },
    "samplernn": {**SAMPLE, "frame_sizes": [4], "conditioned_on": ["p"]},
}


@pytest.mark.parametrize("name", DRIVEN)
def test_a_host_that_reads_the_manifest_plays_what_generate_plays(name: str, tmp_path: Path) -> None:
    """The control moves at every step, so one that is a step late or early is heard."""
    trained = trained_like(DRIVEN[name])
    for model in trained.models:  # enough that the control decides
        for variable in model.variables:
            variable.assign(4.0 * variable)
    write_steps(trained, tmp_path, ["onnx"])
    samples = 320

    def curve(seconds: float) -> float:
        return 1.0 + 7.0 * seconds / 0.04

    drawn = {"p": Track.from_events("p", [(0.0, curve(0.0)), (0.04, curve(0.04))])}
    request = Request(seconds=samples / 8000, temperature=(0.0,), controls=(drawn,))
    stream = trained.family.stream(trained.models, trained.config, request, sample_rate=8000, schema=trained.schema)
    wanted = stream.render(samples)[0]
    found, made = performed(tmp_path, samples, {"p": curve})
    assert len(np.unique(wanted)) > 3
    np.testing.assert_array_equal(found, wanted)
    for curves in stream.curves(samples / 8000).values():
        for parameter, track in curves.items():
            asked = trained.schema.of(parameter).normalise(track.values)
            np.testing.assert_allclose(made[parameter][: len(asked)], asked, atol=1e-5)
            assert np.ptp(asked) > 0.1


@pytest.mark.parametrize(
    ("document", "kind", "told"),
    [
        (AUDIO_CASES["tier, embedding, phased LSTM"], "litert", "counts time in float64, which LiteRT has not"),
        ({"model": "melnet", "tiers": 2, "layers": [1, 1], "hidden_size": 4}, "onnx", "no step to export"),
    ],
)
def test_what_has_no_step_is_told(document: dict[str, Any], kind: str, told: str, tmp_path: Path) -> None:
    family, config = load_config(document, "here")
    trained = (
        trained_like(document)
        if document["model"] != "melnet"
        else SimpleNamespace(family=family, config=config, models=[None])
    )
    with pytest.raises(UsageError, match=told):
        write_steps(trained, tmp_path, [kind])


def test_what_is_not_installed_or_too_large_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = trained_like(TIER)
    with monkeypatch.context() as patch:
        patch.setattr(formats, "_LARGEST", 1000)
        with pytest.raises(RunError, match="step has .* GiB of weights"):
            write_steps(trained, tmp_path, ["litert"])
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(UsageError, match=r"--onnx needs tf2onnx, .* pip install -e '\.\[export\]'"):
        write_steps(trained, tmp_path, ["onnx"])
