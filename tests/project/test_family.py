"""A family as a stranger would add it: it trains, resumes, generates, is judged, shared and reported."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf

import generate
import train
from commands import call
from tierwave.audio.quantize import Quantizer
from tierwave.cli import evaluate, export, report
from tierwave.config import GlobalNormClip, StrictModel
from tierwave.family import PACKAGES, Family
from tierwave.generation.request import Request, Stream
from tierwave.nn.distributions import LossSums
from tierwave.nn.footprint import Footprint
from tierwave.runs.folder import runs_of

pytestmark = pytest.mark.usefixtures("eager")
RATE = 8000


class Config(StrictModel):
    """A table of which code follows which."""

    model: Literal["markov"] = "markov"
    q_type: Literal["mu-law"] = "mu-law"
    q_levels: int = 16
    seq_len: int = 64
    gradient_clip: GlobalNormClip | None = None
    normalize: Literal["none"] = "none"
    conditioned_on: list[str] = []
    controls: dict[str, Any] = {}
    training: dict[str, Any] = {}


class Markov(keras.Model):
    """Learns the table; has no state."""

    unit, has_accuracy, steps_are = "bits", True, "samples"

    def __init__(self, levels: int):
        super().__init__()
        self.table = self.add_weight(shape=(levels, levels), name="table", initializer="zeros")
        self.built = True

    def initial_state(self, batch: Any) -> tuple[()]:
        return ()

    def loss_sums(self, batch: dict[str, tf.Tensor], state: Any, *, dropout_seed: tf.Tensor | None = None) -> LossSums:
        codes, mask, targets = batch["inputs"], batch["mask"], batch["targets"]
        logits = tf.gather(self.table, codes[:, :-1])
        nats = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits) * mask
        right = tf.cast(tf.argmax(logits, -1, tf.int32) == targets, tf.float32) * mask
        return LossSums(*(tf.reduce_sum(each, axis=1) for each in (nats, right, mask)), state)


class MarkovStream(Stream):
    """Codes drawn one after another."""

    def __init__(self, model: Markov, request: Request, sample_rate: int):
        super().__init__(sample_rate, request.seconds)
        table = model.table.numpy() / max(request.temperatures[0], 1e-3)
        self.likely = np.exp(table - table.max(axis=1, keepdims=True))
        self.code = np.full(request.sequences, len(table) // 2)
        self.random = np.random.default_rng(request.random_seed)
        self.decoded = Quantizer("mu-law", len(table)).table()

    def render(self, samples: int) -> np.ndarray:
        made = np.zeros([len(self.code), samples], np.float32)
        with self.pace.block(samples):
            for at in range(samples):
                sums = np.cumsum(self.likely[self.code], axis=1)
                self.code = (sums < self.random.random([len(self.code), 1]) * sums[:, -1:]).sum(axis=1)
                made[:, at] = self.decoded[self.code]
        return made


class MarkovFamily(Family):
    configs = {"markov": Config}

    def build(self, config: Config, stage: str | None = None, **options: Any) -> Markov:
        return Markov(config.q_levels)

    def stream(self, models: Any, config: Config, request: Request, *, sample_rate: int, **about: Any) -> MarkovStream:
        return MarkovStream(models[0], request, sample_rate)

    def footprint(self, config: Config, stage: str, windows: Any = None) -> Footprint:
        return Footprint()

    def architecture(self, config: Config, stage: str) -> dict[str, Any]:
        return {"q_levels": config.q_levels}

    def take_weights(self, source: Markov, target: Markov, *schemas: Any, **dataset_state: Any) -> None:
        target.table.assign(source.table)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a recording and a config, where the family is known."""
    folder = tmp_path_factory.mktemp("markov")
    (folder / "data").mkdir()
    sound = 0.6 * np.sin(2 * np.pi * 300 * np.arange(RATE * 2) / RATE)
    soundfile.write(folder / "data" / "tone.wav", sound, RATE)
    (folder / "markov.config.json").write_text(json.dumps({"model": "markov"}))
    package = types.ModuleType("markov")
    package.FAMILY = MarkovFamily()  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "markov", package)
        patch.setitem(PACKAGES, "markov", "markov")
        yield folder


def trained(place: Path, identity: str, *words: Any) -> Path:
    command = ["--id", identity, "--data_dir", place / "data", "--config_file", place / "markov.config.json"]
    command += ["--logdir_root", place / "logdir", "--output_dir", place / "sounds", "--batch_size", 8, "--jit", False]
    assert call(train.main, [*command, "--learning_rate", 0.3, "--output_file_dur", 0.1, *words]) == 0
    return runs_of(place / "logdir" / identity)[-1].folder


def losses(run: Path) -> list[str]:
    """The loss of each step."""
    rows = [row.split(",") for row in (run / "losses.csv").read_text().splitlines()]
    column = rows[0].index("loss")
    return [row[column] for row in rows[1:] if row[rows[0].index("gradient_norm")]]


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    return trained(place, "whole", "--num_epochs", 4)


def test_it_learns_which_code_follows_which(place: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = [float(loss) for loss in losses(run)]
    assert found[0] == pytest.approx(np.log(16), abs=1e-4) and found[-1] < 0.6 * found[0]
    assert list((place / "sounds" / "whole").glob("*.wav"))
    capsys.readouterr()
    assert call(evaluate.main, [run, "--data_dir", place / "data", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    baselines = json.loads((run / "bars.json").read_text())
    # A table that has learnt all it can is as good as the one that train.py counts.
    counted = baselines["first-order Markov model"] / np.log(2)
    assert told["total"]["bits_per_sample"] == pytest.approx(counted, rel=0.02)


def test_it_resumes_to_the_same_losses(place: Path, run: Path) -> None:
    first = trained(place, "parts", "--num_epochs", 2)
    assert trained(place, "parts", "--num_epochs", 4) == first
    assert losses(first) == losses(run)


def test_it_generates_and_is_shared_and_reported(place: Path, run: Path) -> None:
    command = ["--checkpoint_path", run, "--output_path", place / "new.wav", "--dur", 0.25, "--num_seqs", 2]
    assert call(generate.main, command) == 0
    sounds = sorted(place.glob("new*.wav"))
    assert len(sounds) == 2 and all(len(soundfile.read(sound)[0]) == RATE // 4 for sound in sounds)
    assert call(export.main, [run, "--output", place / "run.zip", "--dur", 0.1]) == 0
    assert call(generate.main, ["--checkpoint_path", place / "run.zip", *command[2:]]) == 0
    assert call(report.main, [run, "--output", place / "report.html", "--seconds", 0.2, "--likelihood", False]) == 0
    assert "markov" in (place / "report.html").read_text(encoding="utf-8")


def test_what_it_has_not_is_refused(place: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--checkpoint_path", run, "--output_path", place / "a.wav", "--dur", 0.1, "--text", "hello"]
    assert call(generate.main, words) == 2
    assert "it belongs to MelNet" in capsys.readouterr().err
    assert call(export.main, [run, "--output", place / "graph", "--onnx"]) == 2
    assert "no step to export" in capsys.readouterr().err


def test_samplernn_says_at_most_ten_things_of_its_own() -> None:
    import samplernn

    own = {name for name in vars(type(samplernn.FAMILY)) if not name.startswith("_")}
    assert len(own) <= 10 and own - {"configs"} <= set(dir(Family))
