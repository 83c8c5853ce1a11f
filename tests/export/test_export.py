"""Runs that are handed on: they sound as the original does, say what they are, and give nobody away."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import soundfile

import generate
import train
from commands import call, told, untraced
from melnet.front_end import Normaliser
from tierwave.audio.writer import write_wav
from tierwave.cli.export import main
from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.tracks import Track
from tierwave.export.sharing import Sample, share
from tierwave.family import load_config
from tierwave.generation.load import Trained, load_run
from tierwave.generation.request import Request, write_sounds
from tierwave.runs.folder import CheckpointEntry, Run, runs_of
from tierwave.runs.imported import write_imported

pytestmark = pytest.mark.usefixtures("loaded_once")

ROOT = Path(__file__).resolve().parents[2]
RATE = 8000
SECRET = "the_trainers_own"  # in all paths and names of recordings
TRAINING = {"batch_size": 4, "jit": False, "num_steps": 3, "learning_rate": 0.01, "generate": False}
CASCADE: dict[str, Any] = {
    "model": "cascade",
    "tiers": [
        {
            "name": "slow", "generates": ["rmse"], "conditioned_on": ["fill"], "rate": 50, "seq_len": 4,
            "hidden_size": 6, "num_layers": 1, "net": "baseline",
        },
        {"name": "sound", "conditioned_on": ["rmse"], "seq_len": 32, "q_levels": 32, "hidden_size": 6, "num_layers": 1},
    ],
    "training": {**TRAINING, "num_steps": None, "num_epochs": 1},
}  # fmt: skip
MELNET: dict[str, Any] = {
    "model": "melnet", "audio": {"n_fft": 128, "win_length": 128, "hop_length": 64, "mel_channels": 8}, "tiers": 2,
    "layers": [1, 1], "hidden_size": 5, "mixtures": 2, "seq_len": 8, "text": {"components": 2},
    "training": {},
}  # fmt: skip
SAMPLERNN: dict[str, Any] = {
    "model": "samplernn", "seq_len": 16, "frame_sizes": [2, 4], "dim": 12, "num_rnn_layers": 1, "q_levels": 32,
    "emb_size": 4, "conditioned_on": ["inst", "p"],
}  # fmt: skip
VALUES: dict[str, Any] = {
    "model": "conditioning", "generates": ["pitch"], "conditioned_on": ["p"], "rate": 100, "hidden_size": 6,
    "num_layers": 1, "net": "mixture",
}  # fmt: skip


class Studio:
    """Recordings and runs of a person who wants to be named nowhere."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.corpus, self.logdir = folder, folder / SECRET / "sounds", folder / SECRET / "logdir"
        rng = np.random.default_rng(0)
        for number in range(5):
            time = np.arange(round((0.2 + 0.05 * number) * RATE)) / RATE
            tone = 0.4 * np.sin(2 * np.pi * (300 + 150 * number) * time) + 0.01 * rng.standard_normal(len(time))
            write_wav(self.corpus / f"{SECRET}{number}.wav", tone.astype(np.float32), RATE)
            curves = [f"fill,0,{number / 4}", *(f"rmse,{k / 50},{0.1 + 0.02 * k * number}" for k in range(20))]
            (self.corpus / f"{SECRET}{number}.csv").write_text("\n".join(["name,time,value", *curves, ""]))

    def train(self, identity: str, config: dict[str, Any], *words: Any) -> Path:
        path = self.folder / SECRET / f"{identity}.config.json"
        path.write_text(json.dumps(config))
        flags = ["--id", identity, "--data_dir", self.corpus, "--config_file", path, "--logdir_root", self.logdir]
        with untraced() if config["training"]["num_steps"] else contextlib.nullcontext():
            assert call(train.main, [*flags, "--output_dir", self.folder / "out", *words]) == 0
        return runs_of(self.logdir / identity)[-1].folder

    def imported(self, identity: str, document: dict[str, Any], parameters: list[Parameter]) -> Path:
        """A run of a network with random weights that are large enough for it to do something."""
        family, config = load_config(document, "here")
        keras.utils.set_random_seed(0)
        model = family.build(config, family.stages(config)[-1])
        rng = np.random.default_rng(3)
        for variable in model.variables:
            variable.assign(variable + 0.5 * rng.standard_normal(variable.shape))
        schema = Schema(parameters=tuple(parameters)).to_document()
        values = {
            parameter.name: list(map(float, range(parameter.nvals))) or [parameter.lo, parameter.hi]
            for parameter in parameters
        }
        run = write_imported(
            model,
            config,
            identity,
            self.logdir,
            sample_rate=RATE,
            source=self.folder / SECRET,
            epoch=4,
            documents={"schema.json": {"parameters": schema, "values": values}},
        ).run
        return run.folder


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="module")
def steered(studio: Studio) -> Path:
    return studio.imported(
        "steered",
        SAMPLERNN,
        [
            Parameter(name="inst", lo=0.0, hi=2.0, categories=("reed", "brass", "string"), nvals=3),
            Parameter(name="p", lo=100.0, hi=900.0, scale="log", units="hertz"),
        ],
    )


@pytest.fixture(scope="module")
def cascade(studio: Studio) -> Path:
    private = {**CASCADE["training"], "seed": str(studio.corpus / f"{SECRET}0.wav"), "seed_offset": 5}
    return studio.train("cascade", {**CASCADE, "training": private})


def rendered(trained: Trained, **asked: Any) -> np.ndarray:
    request = Request(seconds=0.03, random_seed=11, **asked)
    return trained.stream(request).render(round(0.03 * RATE))


def assert_nobody_is_named(folder: Path, studio: Studio) -> None:
    for path in folder.rglob("*"):
        assert SECRET not in str(path.relative_to(folder))
        if path.is_file():
            content = path.read_bytes()
            for word in (SECRET, str(studio.folder), str(Path.home()) + "/"):
                assert word.encode() not in content, (path, word)


def unzipped(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return folder


# Sharing ------------------------------------------------------------------------------------------------------------


def test_a_cascade_sounds_the_same_from_its_zip_which_is_the_same_each_time(
    cascade: Path, studio: Studio, tmp_path: Path
) -> None:
    trained = load_run(cascade)
    sample = Sample(Request(seconds=0.03, random_seed=5))
    for name in ("one.zip", "two.zip"):
        share(trained, tmp_path / name, sample=sample)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    folder = unzipped(tmp_path / "one.zip", tmp_path / "unzipped")
    assert_nobody_is_named(folder, studio)
    assert SECRET in (cascade / "run.json").read_text() and SECRET in (cascade / "run.config.json").read_text()
    found = load_run(tmp_path / "one.zip")
    assert [path.name for path in found.checkpoints.values()] == [path.name for path in trained.checkpoints.values()]
    drawn = ({"fill": Track.constant("fill", 0.4)},)
    assert np.array_equal(rendered(found, controls=drawn), rendered(trained, controls=drawn))
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "run.json", "run.config.json", "schema.json", "statistics.json", "slow", "sound",
        "sample.wav", "sample.png", "sample_controls.csv", "sample_slow.csv",
    }  # fmt: skip
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Slow makes rmse from fill. Sound makes audio from rmse." in card
    assert "5 recordings of 8000 Hz, 1.5 seconds in all" in card
    slow, sound = (Run(path.parent).checkpoints[-1] for path in trained.checkpoints.values())
    bits = f"{sound.value / np.log(2):.3f} bits per sample"
    assert f"| sound | {trained.models[1].count_params():,} | {sound.epoch} | {sound.step:,} |" in card
    assert bits in card and f"{slow.value:.3f} nats per value" in card
    markov = json.loads((cascade / "statistics.json").read_text())["markov_bits"]
    assert "5.000 (guessing blindly), " in card and f"{markov:.3f} (first-order Markov model)" in card
    assert "| fill |  | 0 to 1 | given |" in card and "| rmse |  | 0.1 to " in card


def test_a_shared_run_is_started_from_and_not_resumed(
    cascade: Path, studio: Studio, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    share(load_run(cascade), tmp_path / "cascade.zip", sample=None)
    options = {**CASCADE["training"], "num_steps": 1, "learning_rate": 1e-12}
    new = studio.train("new", {**CASCADE, "training": options}, "--init_from", tmp_path / "cascade.zip")
    for ours, theirs in zip(load_run(new).models, load_run(cascade).models, strict=True):
        for one, other in zip(ours.variables, theirs.variables, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
    folder = unzipped(tmp_path / "cascade.zip", studio.logdir / "shared" / "01.01.2026_00.00.00")
    sentence = told(
        capsys,
        train.main,
        ["--id", "shared", "--data_dir", studio.corpus, "--logdir_root", studio.logdir, "--resume_from", folder],
        2,
    )
    assert "--init_from" in sentence


def reader(studio: Studio) -> Trained:
    """A MelNet with random weights that says things of a and b, as a run of two stages."""
    family, config = load_config(MELNET, "here")
    run = Run(studio.logdir / "reader")
    models, checkpoints = [], {}
    for stage in family.stages(config):
        models.append(family.build(config, stage))
        rng = np.random.default_rng(1)
        for variable in models[-1].trainable_variables:
            variable.assign(variable + 0.2 * rng.standard_normal(variable.shape))
        part = run.stage(stage)
        part.folder.mkdir(parents=True)
        checkpoints[stage] = part.folder / "model.ckpt-1"
        for suffix in (".index", ".data-00000-of-00001"):
            Path(f"{checkpoints[stage]}{suffix}").touch()  # the weights are in `models`
        part.record(CheckpointEntry("model.ckpt-1", 1, 7, None, False, True), None)
    run.write("run.config.json", MELNET)
    run.write("run.json", {"id": "reader", "mark": "m", "sample_rate": RATE, "corpus": {f"{SECRET}.wav": ""}})
    dataset_state = {**Normaliser(np.full(8, -5.0), 2.0).to_document(), "text": {"alphabet": " .ab", "longest": 4}}
    last = list(checkpoints.values())[-1]
    entry = Run(last.parent).latest()
    return Trained(
        run,
        entry,
        last,
        checkpoints,
        family,
        config,
        models,
        RATE,
        1.0,
        Schema(),
        {},
        json.loads(json.dumps(dataset_state)),
    )


@pytest.mark.slow
def test_a_melnet_that_reads_sounds_the_same(studio: Studio, tmp_path: Path) -> None:
    trained = reader(studio)
    plain = Request(seconds=0.05, random_seed=5, options={"text": "ab.", "inversion": "griffin_lim"})
    share(trained, tmp_path / "reader", sample=Sample(plain))  # the original's sound
    assert_nobody_is_named(tmp_path / "reader", studio)
    found = load_run(tmp_path / "reader")
    for theirs, ours in zip(found.models, trained.models, strict=True):
        assert all(np.array_equal(one, other) for one, other in zip(theirs.variables, ours.variables, strict=True))
    stream = found.stream(plain)
    write_sounds(stream, [tmp_path / "again.wav"], stream.duration())
    assert (tmp_path / "again.wav").read_bytes() == (tmp_path / "reader" / "sample.wav").read_bytes()
    assert {"prepared.json", "tier1", "tier2", "sample_stages.png"} <= {p.name for p in (tmp_path / "reader").iterdir()}
    card = (tmp_path / "reader" / "README.md").read_text(encoding="utf-8")
    assert "--text ab." in card and "| tier1 |" in card and "| unknown |" in card  # it never trained


def test_a_run_that_makes_curves_is_shared_with_curves(studio: Studio, tmp_path: Path) -> None:
    parameters = [Parameter(name="p", lo=0.0, hi=1.0), Parameter(name="pitch", lo=40.0, hi=80.0)]
    trained = load_run(studio.imported("values", VALUES, parameters))
    share(trained, tmp_path / "values", sample=Sample(Request(seconds=0.2)))
    names = {path.name for path in (tmp_path / "values").iterdir()}
    assert {"sample_conditioning.csv", "sample_controls.csv"} <= names and "sample.wav" not in names
    card = (tmp_path / "values" / "README.md").read_text(encoding="utf-8")
    assert "It makes pitch from p." in card and "of the recordings nothing is known here" in card
    assert "| pitch |  | 40 to 80 | generated |" in card


# The command, and programs without TensorFlow -----------------------------------------------------------------------


ASKED = ["--onnx", "--litert", "--dur", "0.05", "--control", "inst=brass"]


@pytest.fixture(scope="module")
def exported(steered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("exported") / "steered"
    assert call(main, [steered, "--output", target, *ASKED]) == 0
    return target


@pytest.mark.slow
def test_a_process_of_its_own_writes_the_same(exported: Path, steered: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tierwave", "export", steered, "--output", tmp_path / "again", *ASKED]
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"Wrote {tmp_path / 'again'}, from {steered / 'model.ckpt-4'}" in done.stdout
    names = sorted(path.relative_to(exported) for path in exported.rglob("*"))
    assert names == sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*"))
    for name in names:
        if (exported / name).is_file() and name.suffix != ".onnx":
            assert (exported / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_the_card_says_how_its_sound_is_made_again(exported: Path, tmp_path: Path) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert "| inst | category | reed, brass, string | given |" in card and "| p | hertz | 100 to 900 | given |" in card
    (line,) = [line for line in card.splitlines() if "generate.py" in line]
    words = line.split("generate.py ")[1].replace("RUN", str(exported)).replace("sample.wav", str(tmp_path / "a.wav"))
    assert call(generate.main, words.split()) == 0
    assert (tmp_path / "a.wav").read_bytes() == (exported / "sample.wav").read_bytes()


@pytest.mark.parametrize("example", ["onnx_player", "litert_player"])
def test_the_examples_play_what_generate_plays(example: str, exported: Path, steered: Path, tmp_path: Path) -> None:
    sounds = []
    for control in (["inst=brass", "p=300"], ["inst=string", "p=1200"]):  # the second lies outside
        words = [exported / "steps", tmp_path / "theirs.wav", "0.1", "0", *control]
        command = [sys.executable, ROOT / "examples" / f"{example}.py", *words]
        done = subprocess.run([str(word) for word in command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        ours = ["--checkpoint_path", steered, "--output_path", tmp_path / "ours.wav", "--dur", "0.1"]
        assert call(generate.main, [*ours, "--temperature", "0", "--control", *control]) == 0
        theirs, rate = soundfile.read(tmp_path / "theirs.wav", dtype="int16")
        wanted, _ = soundfile.read(tmp_path / "ours.wav", dtype="int16")
        assert rate == RATE and np.array_equal(theirs, wanted)
        sounds.append(theirs)
    assert len(np.unique(sounds[0])) > 5 and not np.array_equal(*sounds)


@pytest.mark.parametrize("example", ["onnx_player", "litert_player"])
def test_the_examples_need_neither_tensorflow_nor_tierwave(example: str) -> None:
    text = (ROOT / "examples" / f"{example}.py").read_text(encoding="utf-8")
    library = {"onnx_player": "onnxruntime", "litert_player": "ai_edge_litert"}[example]
    imported = {line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert imported == {"json", "sys", "wave", "pathlib", "numpy", library}
    assert not [line for line in text.splitlines() if line.startswith(" ") and "import " in line]


def test_wrong_use_is_told_in_a_sentence(
    steered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sentence(*words: Any, code: int = 2, run: Path = steered) -> str:
        found = told(capsys, main, [run, *words], code)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]  # nothing half done
        return found

    (tmp_path / "there").write_text("kept")
    new = tmp_path / "new"
    assert "is there already" in sentence("--output", tmp_path / "there")
    assert "neither a checkpoint" in sentence("--output", new, run=tmp_path / "none")
    assert "square brackets" in sentence("--output", tmp_path / "a[b]")
    assert "dur is -1 seconds" in sentence("--output", new, "--dur", "-1")
    assert "there is no control q" in sentence("--output", new, "--control", "q=1")
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    assert "pip install -e '.[export]'" in sentence("--output", new, "--onnx")
    assert (tmp_path / "there").read_text() == "kept"
