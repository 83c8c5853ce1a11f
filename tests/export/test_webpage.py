"""Runs as web pages: the engine in WebAssembly gives what the engine gives, and the page's stream the run's stream."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tierwave.audio.lookback import LONGEST, found_lag, lags, needed
from tierwave.audio.quantize import Quantizer
from tierwave.cli.export import main
from tierwave.config import dumps
from tierwave.controls.files import read_take
from tierwave.controls.live import Settings
from tierwave.controls.schema import Parameter, Schema
from tierwave.engine import kernels
from tierwave.engine.network import Builder, Matrix, Network
from tierwave.engine.voices import Voices, encoded
from tierwave.export import webpage
from tierwave.export.webpage import ENGINE, FOLDERS, bundle, page
from tierwave.family import load_config
from tierwave.files.writing import write_text
from tierwave.generation.load import network_of
from tierwave.play.instrument import Instrument
from tierwave.play.protocol import Start
from tierwave.play.voice import Voice
from tierwave.runs.checkpoints import make_checkpoint
from tierwave.runs.folder import CONFIG_NAME, CheckpointEntry, create_run
from tierwave.runs.tensors import Tensors

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
# Lags of one period and, towards 1, of two; none below 0.046. More earlier samples are needed than one call makes.
LOOKBACK = {"control": "p", "period": 600.0, "octaves": 7.0, "limit": 480}
NETWORKS: dict[str, dict[str, Any]] = {
    "samplernn": {**SAMPLERNN, "emb_size": 8, "num_rnn_layers": 2},
    "samplernn-paper": {**SAMPLERNN, "gru_reset": "before", "weight_norm": True, "convention": "paper"},
    "samplernn-lstm": {**SAMPLERNN, "rnn_type": "lstm", "skip_conn": True, "conditioned_on": ["p"], "logit_cap": 9.0},
    "samplernn-plain": {**SAMPLERNN, "frame_sizes": [], "conditioned_on": ["p", "inst"], "controls": HOT},
    "samplernn-lookback": {
        **SAMPLERNN, "q_levels": 256, "conditioned_on": ["p", "inst"], "controls": HOT, "lookback": LOOKBACK,
    },
    "samplernn-found": {**SAMPLERNN, "q_levels": 256, "lookback": {"limit": 300}},
    "samplernn-found-beside": {
        **SAMPLERNN, "q_levels": 256, "conditioned_on": ["p", "inst"], "controls": HOT, "lookback": {"limit": 480},
    },
    "rnncontrol": {**TIER, "net": "rnncontrol", "num_layers": 3, "audio_input": "scalar", "controls": HOT},
    "lstm": {**TIER, "cell": "lstm", "audio_input": "embedding", "net": "wide", "num_layers": 1},
    "phased": {**TIER, "cell": "phased_lstm", "audio_input": "onehot", "num_layers": 1},
    "gaussians": {**VALUES, "net": "shared_pathways", "num_layers": 1},
    "mixtures": {**VALUES, "net": "mixture", "num_layers": 1},
}  # fmt: skip
CASCADE: dict[str, Any] = {
    "model": "cascade",
    "tiers": [
        {
            "name": "slow",
            "generates": ["x"],
            "conditioned_on": ["fill"],
            "rate": 50,
            "hidden_size": 20,
            "num_layers": 1,
        },
        {"name": "sound", "conditioned_on": ["x", "p"], "q_levels": 64, "hidden_size": 20, "num_layers": 1},
    ],
}
FOUND: dict[str, Any] = {**SAMPLERNN, "q_levels": 256, "lookback": {"limit": 100}}
STEERED: dict[str, Any] = {
    **SAMPLERNN, "q_levels": 256, "conditioned_on": ["fill", "p"], "lookback": LOOKBACK, "zero_mean": 20,
}  # fmt: skip
PARAMETERS = {
    "p": Parameter(name="p", units="midiPitch", lo=60, hi=72),
    "inst": Parameter(name="inst", categories=("reed", "</script><b>", "flute"), lo=0, hi=2),
    "x": Parameter(name="x", lo=-1, hi=1),
    "fill": Parameter(name="fill", lo=0.01, hi=10, scale="log"),
}


def node(entry: str, program: str, given: Any) -> Any:
    """What a program answers in JSON that uses a module of the page; it has `modules`, `given` and `engine`."""
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


def sound(count: int) -> np.ndarray:
    """Tones that decay, noise, silence and a constant, one after another."""
    rng, time = np.random.default_rng(4), np.arange(count)
    tones = [
        0.5 * np.exp(-time / 3000) * sum(np.sin(2 * np.pi * number * time / period) / number for number in range(1, 6))
        for period in (93.7, 211.3, 29.4)
    ]
    parts = [tones[0], tones[1], np.zeros(count), rng.uniform(-1, 1, count), tones[2], np.full(count, 0.2)]
    return np.concatenate([part[: count // len(parts) + 1] for part in parts])[:count]


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_draws_are_those_of_the_engine(name: str) -> None:
    net = network(NETWORKS[name])
    rng = np.random.default_rng(1)
    shape = [1, STEPS, net.features] if net.features else [1, STEPS]
    forced = rng.random(shape).astype(np.float32) if net.features else rng.integers(0, net.choices, shape)
    controls = rng.random([1, STEPS, len(net.about["controls"])]).astype(np.float32)
    if "inst" in NETWORKS[name].get("controls", {}):
        controls[..., 1] = np.round(2 * controls[..., 1]) / 2
    if "lookback" in NETWORKS[name]:
        forced = net.about["quantizer"].encode(sound(STEPS))[None]
        controls[:, 600:1200, :1] = 0  # of which the lag is too long, so that one is found
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
        const temperature = Float32Array.from(given.temperature), topK = Int32Array.from(given.topK);
        const drawn = [...make(0.9).run({ controls, temperature, topK })];
        console.log(JSON.stringify({ drawn, predictions: [...make(1).predictions(given.forced, controls)] }));
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
    if not net.about["controls"]:
        return []
    return list(map(float, encoded(controls, net.about["controls"], net.about.get("lookback")).ravel()))


def test_lags_are_those_of_the_engine() -> None:
    line = LOOKBACK["period"], LOOKBACK["octaves"], LOOKBACK["limit"]
    values = np.linspace(-0.2, 1.2, 5000, dtype=np.float32)
    expected = lags(values, *line)
    program = (
        'const { lag } = modules["schema.js"];'
        "console.log(JSON.stringify(given.values.map((value) => lag(given.lookback, value))));"
    )
    found = node("schema.js", program, {"lookback": LOOKBACK, "values": values.tolist()})
    assert (expected == 0).any() and (expected > 8).any()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("limit", [16, 480, LONGEST])
@pytest.mark.parametrize("q_type", ["mu-law", "linear"])
def test_lags_that_are_found_are_those_of_the_engine(q_type: str, limit: int) -> None:
    quantizer = Quantizer(q_type, 256)
    amplitudes, history = quantizer.table(), needed(limit)
    forced = quantizer.encode(sound(max(STEPS, 3 * history)))
    period = max(1, len(forced) * limit // 100_000)  # few of the long ones
    builder = Builder("int8", origin="here", history=history)
    found, given, unused = (builder.place(1) for _ in range(3))
    builder.part(period)
    builder.find_lag(found, amplitudes, limit)
    builder.linear(unused, given, Matrix(1, 1, lambda: np.ones([1, 1], np.float32)), None)  # it needs one
    builder.part(1)
    net = builder.build(kernels.CATEGORICAL, found, 256, silence=quantizer.silence, controls=())
    codes = np.concatenate([np.full(history, quantizer.silence), forced])
    expected = [found_lag(amplitudes[codes[step : step + history]], limit) for step in range(0, len(forced), period)]
    expected = np.repeat(expected, period)[: len(forced)]
    assert (expected > 0).mean() > 0.2 and (expected == 0).mean() > 0.1
    np.testing.assert_array_equal(Voices(net, 1, 5).predictions(forced[None])[0, :, 0], expected)
    np.testing.assert_array_equal(_forced(net, forced, []), expected)


def _forced(net: Network, forced: np.ndarray, controls: list[float]) -> list[float]:
    """What the page's network gives for codes."""
    weights = bytearray()
    about = webpage._network(net, weights)
    program = (
        "const network = new modules['network.js'].Network(engine, given.about, bytes(given.weights), 5n);"
        "const found = network.predictions(given.forced, Float32Array.from(given.controls));"
        "console.log(JSON.stringify([...found]));"
    )
    given = {"about": about, "weights": base64.b64encode(weights).decode(), "forced": forced.ravel().tolist()}
    answer: list[float] = node("network.js", program, {**given, "controls": controls})
    return answer


def test_a_sound_on_the_edge_between_two_codes_is_the_same_code() -> None:
    # Half way between four samples of one code and four of the next, what the polynomial is rounded to tells the code.
    lookback = {**LOOKBACK, "period": 8.5, "octaves": 0}
    net = network({**NETWORKS["samplernn-lookback"], "q_type": "linear", "lookback": lookback})
    forced = np.repeat(np.arange(net.choices), 8)[None]
    controls = np.zeros([*forced.shape, 2], np.float32)
    expected = Voices(net, 1, 5).predictions(forced, controls)[0]
    found = _forced(net, forced, _encoded(net, controls))
    assert np.abs(np.reshape(found, expected.shape) - expected).max() < 1e-3


# ---- the whole stream ------------------------------------------------------------------------------------------------


def make_run(root: Path, name: str, document: dict[str, Any]) -> Path:
    """A run with random weights."""
    import tensorflow as tf

    family, config = load_config(document, name)
    stages = family.stages(config)
    run = create_run(root, name)
    run.write("run.json", {"sample_rate": RATE, "corpus": None})
    parameters = tuple(PARAMETERS[each] for each in family.parameters(config))
    run.write("schema.json", {"parameters": Schema(parameters=parameters).to_document(), "values": {}})
    for number, stage in enumerate(stages):
        part = run.stage(stage if len(stages) > 1 else None)
        part.folder.mkdir(exist_ok=True)
        keras.utils.set_random_seed(number)
        model = family.build(config, stage)
        rng = np.random.default_rng(number)
        for variable in model.variables:
            variable.assign(variable + 0.3 * rng.standard_normal(variable.shape))
        entry = CheckpointEntry("model.ckpt-0", 0, 10, 2.0, best=True, kept=True)
        checkpoint = make_checkpoint({"model": model, "progress": tf.Variable(json.dumps({"run": ""}))})
        checkpoint.write(str(part.folder / entry.name))
        part.record(entry, None)
    write_text(run.folder / CONFIG_NAME, dumps(config))
    return run.folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def cascade(root: Path) -> Path:
    return make_run(root, "cascade", CASCADE)


@pytest.fixture(scope="module")
def looking_back(root: Path) -> Path:
    return make_run(root, "looking_back", STEERED)


VOICE = """
    const { Voice } = modules["voice.js"];
    const instrument = { sound: given.sound, weights: bytes(given.weights), engine };
    const voice = new Voice(instrument, given.start);
    const samples = [], changes = [];
    for (const values of given.sets) {
      for (const count of given.blocks) samples.push(...voice.render(count));
      changes.push(voice.set(values));
    }
    samples.push(...voice.render(2000));
    const { csv, start } = voice.record();
    console.log(JSON.stringify({ samples, changes, csv, start }));
"""
# Nothing at first, then one that gives way to the next, then what lies beyond the range.
SETS: list[dict[str, float | str]] = [
    {"p": 71.0},
    {"p": 62.0, "temperature": 0.5},
    {"fill": 5.0, "top_k": 7},
    {"p": 99},
    {"p": 60},
]
START: dict[str, Any] = {
    "random_seed": 2**40 + 3, "temperature": 0.9, "values": {"p": 64},
    "controls": {"fill": [(0, 0.02), (0.05, 3), (0.3, 0.5)]},
}  # fmt: skip


@pytest.mark.parametrize("name", ["cascade", "looking_back"])
def test_what_is_steered_is_that_of_the_run(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    instrument = Instrument(request.getfixturevalue(name), weights="int8")
    blocks = [256, 100, 256]
    expected = Voice(instrument, Start(**START))
    samples, changes = [], []
    for values in SETS:
        samples += [expected.render(count) for count in blocks]
        changes.append(expected.set(values))
    samples.append(expected.render(2000))
    sound, weights = webpage._sound(instrument)
    given = {"sound": sound, "weights": base64.b64encode(weights).decode(), "blocks": blocks}
    found = node("voice.js", VOICE, {**given, "start": START, "sets": SETS})
    assert (np.array(found["samples"], np.float32) == np.concatenate(samples)).all()
    assert len(np.unique(found["samples"])) > 20
    for ours, theirs in zip(found["changes"], changes, strict=True):
        assert (ours["sample"], ours["values"]) == (theirs.sample, theirs.values)
        assert len(ours["remarks"]) == len(theirs.remarks)
    (tmp_path / "take.csv").write_text(found["csv"])
    tracks, is_recorded = read_take(tmp_path / "take.csv")
    recorded = expected.record()
    (tmp_path / "expected.csv").write_text(recorded["csv"])
    theirs, _ = read_take(tmp_path / "expected.csv")
    assert is_recorded and set(tracks) == set(theirs)
    for name, track in theirs.items():
        np.testing.assert_allclose([tracks[name].times, tracks[name].values], [track.times, track.values], rtol=1e-12)
    points = {
        name: list(zip(track.times.tolist(), track.values.tolist(), strict=True)) for name, track in tracks.items()
    }
    again = node(
        "voice.js", VOICE, {**given, "start": {**found["start"], "controls": points}, "sets": [{}] * len(SETS)}
    )
    assert again["samples"] == found["samples"]


def test_a_network_without_controls_that_looks_back_plays(root: Path) -> None:
    instrument = Instrument(make_run(root, "found", FOUND), weights="int8")
    begin = {"random_seed": 3, "temperature": 0.7}
    expected = Voice(instrument, Start(**begin))
    samples = [expected.render(300)]
    expected.set({"temperature": 0.1})  # towards what repeats
    samples.append(expected.render(2000))
    sound, weights = webpage._sound(instrument)
    assert sound["tiers"][0]["lookback"] is None and sound["tiers"][0]["network"]["inputs"] == 0
    given = {"sound": sound, "weights": base64.b64encode(weights).decode(), "blocks": [300]}
    found = node("voice.js", VOICE, {**given, "start": begin, "sets": [{"temperature": 0.1}]})
    assert (np.array(found["samples"], np.float32) == np.concatenate(samples)).all()
    assert len(np.unique(found["samples"])) > 20


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ({"values": {"nothing": 1}}, "there is no control nothing"),
        ({"values": {"p": "loud"}}, "p is loud: give a number"),
        ({"controls": {"x": [[0, 1]]}}, "there is no control x"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_k": 1.5}, "top_k is 1.5"),
    ],
)
def test_what_cannot_be_started_is_said(cascade: Path, start: dict[str, Any], said: str) -> None:
    sound, weights = webpage._sound(Instrument(cascade, weights="int8"))
    program = (
        "const instrument = { sound: given.sound, weights: bytes(given.weights), engine };"
        "try { new modules['voice.js'].Voice(instrument, given.start); }"
        "catch (error) { console.log(JSON.stringify(error.message)); }"
    )
    given = {"sound": sound, "weights": base64.b64encode(weights).decode(), "start": start}
    assert said in node("voice.js", program, given)


# ---- the file --------------------------------------------------------------------------------------------------------


def test_a_page_holds_all_and_asks_for_nothing(
    cascade: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "notes.html"
    assert main([str(cascade), "--output", str(target)]) == 0
    assert str(target) in capsys.readouterr().out
    text = target.read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href|action)=(?!"data:)|@import|url\(""", text.split("<script")[0])
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    assert "connect-src" not in text and "default-src 'none'" in text  # which is then that of connections too
    assert str(cascade.parent.parent) not in text
    run = json.loads(text.split('id="data-run">')[1].split("</script>")[0])
    assert [each["name"] for each in run["checkpoints"]] == ["model.ckpt-0"]
    sound, weights = webpage._sound(Instrument(cascade, weights="int8"))
    assert json.loads(text.split('id="data-sound">')[1].split("</script>")[0]) == sound
    for name, held in (("weights", weights), ("engine", ENGINE.read_bytes())):
        found = gzip.decompress(base64.b64decode(text.split(f'id="data-{name}">')[1].split("</script>")[0]))
        assert found == held, name
    assert main([str(cascade), "--output", str(target)]) == 2  # it is there already
    assert "is there already" in capsys.readouterr().err


def test_names_end_no_element(root: Path) -> None:
    document = {**NETWORKS["rnncontrol"], "controls": {"p": HOT["p"]}}
    text = page(Instrument(make_run(root, "odd", document), weights="int8"))
    assert "</script><b>" not in text.replace("</script>\n<", "")
    run = json.loads(text.split('id="data-run">')[1].split("</script>")[0])
    assert run["parameters"][1]["categories"][1] == "</script><b>"


@pytest.mark.parametrize(
    ("document", "words", "said"),
    [
        ({"model": "melnet", "tiers": 2, "layers": [1, 1], "hidden_size": 4}, [], "a MelNet makes a spectrogram whole"),
        ({**VALUES, "generates": ["x"], "conditioned_on": ["p"]}, [], "this run makes values"),
        (CASCADE, ["--onnx"], "--onnx writes files into a folder"),
        (CASCADE, ["--output", "notes.zip"], "let its name end in .html"),
    ],
    ids=["melnet", "values", "onnx", "suffix"],
)
def test_what_no_page_can_play_is_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    document: dict[str, Any], words: list[str], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    run = make_run(root, f"refused-{document['model']}-{len(words)}", document)
    assert main([str(run), "--format", "html", "--output", str(tmp_path / "page.html"), *words]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_no_numbers_and_networks_that_are_too_large_are_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(root, "plain", NETWORKS["samplernn"])
    words = [str(run), "--output", str(tmp_path / "page.html")]
    with monkeypatch.context() as patch:
        patch.setattr(webpage, "LARGEST", 1e5)
        assert main(words) == 2
    assert "multiply-adds for a second of sound" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(webpage, "MEASURED", 1e5)
        assert main(words) == 0
    assert "plays with gaps" in capsys.readouterr().out
    (tmp_path / "page.html").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Tensors, "__getitem__", lambda self, name: np.full(self.shape(name), np.nan, np.float32))
        assert main(words) == 1
    assert "not finite" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_a_bundle_keeps_modules_apart_and_knows_its_limits(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text(
        'import { two as deux, three } from "./b.js";\nconst own = 1;\nresult = own + deux + three();\n'
    )
    (tmp_path / "b.js").write_text(
        "/** export of nothing */\nconst own = 10;\nexport const two = 2;\nexport function three() { return own; }\n"
    )
    if NODE is not None:
        program = f"globalThis.result = 0;\n{bundle('a.js', [tmp_path])}\nconsole.log(result)"
        assert subprocess.run([NODE, "-e", program], capture_output=True, text=True, check=True).stdout == "13\n"
    for wrong in ('import "./b.js";\n', "export default 1;\n", "const here = import.meta.url;\n"):
        (tmp_path / "c.js").write_text(wrong)
        with pytest.raises(ValueError, match="in a form that is not bundled"):
            bundle("c.js", [tmp_path])


def test_every_module_of_the_page_is_bundled_and_two_are_replaced() -> None:
    scripts = "".join(bundle(entry) for entry in ("main.js", "socket-worker.js", "player-worklet.js", "maker.js"))
    own, played = ({path.name for path in folder.glob("*.js")} for folder in FOLDERS)
    assert own & played == {"server.js", "socket.js"}
    workers = {"main.js", "socket-worker.js", "player-worklet.js", "maker.js"}
    assert set(re.findall(r"^modules\['([\w-]+\.js)'\]", scripts, re.MULTILINE)) == own | played | workers
    assert "fetch(" not in scripts and "new WebSocket" not in scripts


def test_the_engine_is_built_from_its_source(tmp_path: Path) -> None:
    version = (
        subprocess.run(["clang", "--version"], capture_output=True, text=True).stdout if shutil.which("clang") else ""
    )
    if "version 14." not in version or not shutil.which("wasm-ld") or not shutil.which("make"):
        pytest.skip("engine.wasm was built by Debian 12's clang and lld, version 14, which is not here")
    built = tmp_path / "engine.wasm"
    subprocess.run(["make", "wasm", f"WASM={built}"], cwd=ROOT, check=True, capture_output=True)
    assert built.read_bytes() == ENGINE.read_bytes()
