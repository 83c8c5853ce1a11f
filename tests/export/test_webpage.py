"""Runs as web pages: the engine in WebAssembly gives what the engine gives, and the page's stream the run's stream."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tierwave.cli.export import main
from tierwave.controls.live import Settings
from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.tracks import Track
from tierwave.engine.network import Network
from tierwave.engine.voices import Voices
from tierwave.export import webpage
from tierwave.export.webpage import ENGINE, FOLDERS, bundle, page
from tierwave.family import load_config
from tierwave.generation.load import network_of
from tierwave.play.instrument import Instrument
from tierwave.runs.imported import write_imported

ROOT = Path(__file__).resolve().parents[2]
NODE = shutil.which("node")
RATE = 8000
STEPS = 2000  # that are forced
SAMPLERNN: dict[str, Any] = {"model": "samplernn", "seq_len": 64, "frame_sizes": [4, 8], "dim": 24, "q_levels": 64}
TIER: dict[str, Any] = {
    "model": "conditioning", "conditioned_on": ["p", "inst"], "rate": RATE, "q_levels": 64, "hidden_size": 20,
}  # fmt: skip
VALUES: dict[str, Any] = {**TIER, "generates": ["x", "y"], "rate": 100, "q_levels": 256, "scale_floor": 0.1}
HOT = {"inst": {"categories": ["reed", "</script><b>", "flute"], "encoding": "one_hot"}, "p": {"encoding": "sinusoids"}}
NETWORKS: dict[str, dict[str, Any]] = {
    "samplernn": {**SAMPLERNN, "emb_size": 8, "num_rnn_layers": 2},
    "samplernn-paper": {**SAMPLERNN, "gru_reset": "before", "weight_norm": True, "convention": "paper"},
    "samplernn-lstm": {**SAMPLERNN, "rnn_type": "lstm", "skip_conn": True, "conditioned_on": ["p"], "logit_cap": 9.0},
    "samplernn-plain": {**SAMPLERNN, "frame_sizes": [], "conditioned_on": ["p", "inst"], "controls": HOT},
    "rnncontrol": {**TIER, "net": "rnncontrol", "num_layers": 3, "audio_input": "scalar", "controls": HOT},
    "lstm": {**TIER, "cell": "lstm", "audio_input": "embedding", "net": "wide", "num_layers": 1},
    "phased": {**TIER, "cell": "phased_lstm", "audio_input": "onehot", "num_layers": 1},
    "gaussians": {**VALUES, "net": "shared_pathways", "num_layers": 1},
    "mixtures": {**VALUES, "net": "mixture", "num_layers": 1},
}
CASCADE: dict[str, Any] = {
    "model": "cascade",
    "tiers": [
        {**TIER, "model": None, "name": "slow", "generates": ["x"], "conditioned_on": ["fill"], "rate": 50},
        {**TIER, "model": None, "name": "sound", "conditioned_on": ["x", "p"]},
    ],
}  # fmt: skip
for _tier in CASCADE["tiers"]:
    del _tier["model"]
PARAMETERS = {
    "p": Parameter(name="p", units="midiPitch", lo=60, hi=72),
    "inst": Parameter(name="inst", categories=("reed", "</script><b>", "flute"), lo=0, hi=2),
    "x": Parameter(name="x", lo=-1, hi=1),
    "fill": Parameter(name="fill", lo=0.01, hi=10, scale="log"),
}


def node(entry: str, program: str, given: Any) -> Any:
    """What a program answers that uses a module of the page; both speak JSON. It has `modules`, `given` and `engine`."""
    if NODE is None:
        pytest.skip("there is no Node.js here, with which the page's modules are run: apt-get install nodejs")
    begin = (
        'const read = (path) => require("fs").readFileSync(path);\n'
        "const given = JSON.parse(read(0));\n"
        f"const engine = new WebAssembly.Module(read({json.dumps(str(ENGINE))}));\n"
        "const bytes = (text) => Uint8Array.from(atob(text), (each) => each.charCodeAt(0)).buffer;\n"
    )
    text = f"{bundle(entry)}\n{begin}\n{program}"
    call = [NODE, "-e", text]
    done = subprocess.run(call, input=json.dumps(given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def network(document: dict[str, Any]) -> Network:
    """With random weights, large enough for it to do something."""
    family, config = load_config(document, "here")
    stage = family.stages(config)[-1]
    keras.utils.set_random_seed(0)
    model = family.build(config, stage)
    rng = np.random.default_rng(3)
    for variable in model.variables:
        variable.assign(variable + 0.3 * rng.standard_normal(variable.shape))
    return network_of(family, config, stage, model, "int8")


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_draws_are_those_of_the_engine(name: str) -> None:
    net = network(NETWORKS[name])
    rng = np.random.default_rng(1)
    shape = [1, STEPS, net.features] if net.features else [1, STEPS]
    forced = rng.random(shape).astype(np.float32) if net.features else rng.integers(0, net.choices, shape)
    controls = rng.random([1, STEPS, len(net.about["controls"])]).astype(np.float32)
    if "inst" in NETWORKS[name].get("controls", {}):
        controls[..., 1] = np.round(2 * controls[..., 1]) / 2
    expected = Voices(net, 1, 5).predictions(forced, controls)[0]
    temperature = np.linspace(0, 1.5, STEPS, dtype=np.float32)[None]
    top_k = (np.arange(STEPS, dtype=np.int32) // 500)[None] * 3
    drawn = Voices(net, 1, 5, top_p=0.9).run(Settings(controls, temperature, top_k))[0]
    weights = bytearray()
    about = webpage._network(net, weights)
    found = node(
        "network.js",
        """
        const { Network } = modules["network.js"];
        const controls = Float32Array.from(given.controls);
        const make = (topP) => new Network(engine, given.about, bytes(given.weights), 5n, topP);
        const { run, predictions } = { run: make(0.9), predictions: make(1) };
        const settings = { controls, temperature: Float32Array.from(given.temperature), topK: Int32Array.from(given.topK) };
        const answer = { predictions: [...predictions.predictions(given.forced, controls)], drawn: [...run.run(settings)] };
        console.log(JSON.stringify(answer));
        """,
        {
            "about": about, "weights": base64.b64encode(weights).decode(), "forced": forced.ravel().tolist(),
            "controls": _encoded(net, controls), "temperature": temperature[0].tolist(), "topK": top_k[0].tolist(),
        },
    )  # fmt: skip
    logits = np.reshape(found["predictions"], expected.shape)
    assert np.abs(expected).max() > 0.5 and np.abs(logits - expected).max() < 1e-3
    np.testing.assert_allclose(np.reshape(found["drawn"], drawn.shape), drawn, atol=1e-3)


def _encoded(net: Network, controls: np.ndarray) -> list[float]:
    from tierwave.engine.voices import encoded

    return [] if not net.about["controls"] else list(map(float, encoded(controls, net.about["controls"]).ravel()))
