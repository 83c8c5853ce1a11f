"""The commands that write, at the smallest size, and what counts of what they leave."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import chunk_audio
import generate
import train
import tune
from commands import Main, call
from tierwave.audio.writer import write_wav
from tierwave.cli.export import main as export
from tierwave.cli.report import main as report
from tierwave.runs.folder import runs_of

RATE = 4000
TRAINING = {"batch_size": 2, "jit": False, "num_steps": 4, "checkpoint_steps": 2, "generate": False}
CONFIG = {
    "seq_len": 8, "frame_sizes": [2], "dim": 4, "num_rnn_layers": 1, "q_levels": 16, "emb_size": 2,
    "training": TRAINING,
}  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A command line. words(folder): what is typed; result(folder): what it has made, without times and dates."""

    name: str
    main: Main
    words: Callable[[Path], Sequence[Any]]
    result: Callable[[Path], Any]

    def __call__(self, folder: Path) -> int:
        return call(self.main, self.words(folder))


def lay(folder: Path) -> None:
    """A folder with two recordings and a config."""
    rng = np.random.default_rng(0)
    for number, samples in enumerate((150, 120)):
        tone = 0.5 * np.sin(np.arange(samples) * (0.3 + 0.1 * number)) + 0.05 * rng.standard_normal(samples)
        write_wav(folder / "corpus" / f"{number}.wav", tone.astype(np.float32), RATE)
    (folder / "tiny.config.json").write_text(json.dumps(CONFIG))


def training(folder: Path) -> list[Any]:
    words = ["--id", "r", "--data_dir", folder / "corpus", "--config_file", folder / "tiny.config.json"]
    return [*words, "--logdir_root", folder / "logdir", "--output_dir", folder / "generated", "--val_frac", 0.3]


def generating(folder: Path) -> list[Any]:
    words = ["--checkpoint_path", folder / "logdir" / "r", "--output_path", folder / "x.wav"]
    return [*words, "--dur", 0.01, "--random_seed", 3]


def searching(folder: Path) -> list[Any]:
    words = ["--id", "s", "--data_dir", folder / "corpus", "--config_file", folder / "tiny.config.json"]
    words += ["--logdir_root", folder / "logdir", "--max_trials", 2, "--num_epochs", 1]
    return [*words, "--search", "learning_rate=0.1,0.01", "--set", "training.num_steps=2"]


def sounds_below(folder: Path) -> dict[str, bytes]:
    """Every finished file; what begins with a dot is the program's own."""
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {str(name): (folder / name).read_bytes() for name in names if not str(name).startswith(".")}


def trained(folder: Path) -> Any:
    """The losses of the newest run, and the weights of its newest checkpoint."""
    run = runs_of(folder / "logdir" / "r")[-1]
    with open(run.folder / "losses.csv", encoding="utf-8", newline="") as file:
        losses = [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]
    newest = sorted(run.folder.glob("*.index"), key=lambda path: int(re.sub(r"\D", "", path.stem)))[-1]
    reader = tf.train.load_checkpoint(str(newest.with_suffix("")))
    weights = {
        name: hashlib.sha256(reader.get_tensor(name).tobytes()).hexdigest()
        for name in sorted(reader.get_variable_to_shape_map())
        if name.startswith("model/")
    }
    return losses, weights


def searched(folder: Path) -> Any:
    search = folder / "logdir" / "s"
    with open(search / "trials.csv", encoding="utf-8", newline="") as file:
        rows = [{name: value for name, value in row.items() if name != "minutes"} for row in csv.DictReader(file)]
    return rows, (search / "best.config.json").read_text()


def reported(path: Path) -> Any:
    """The headings and the sounds of a page, which ends as it should."""
    page = path.read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    return re.findall(r"<h[1-3][^>]*>(.*?)</h", page), re.findall(r'data:audio[^"]*', page)


def zipped(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


COMMANDS = [
    Command(
        "chunk",
        chunk_audio.main,
        lambda folder: ["--input_file", folder / "corpus", "--output_dir", folder / "cut", "--chunk_length", 10],
        lambda folder: sounds_below(folder / "cut"),
    ),
    Command("train", train.main, training, trained),
    Command(
        "generate",
        generate.main,
        generating,
        lambda folder: (folder / "x.wav").read_bytes(),
    ),
    Command(
        "report",
        report,
        lambda folder: [folder / "logdir" / "r", "--output", folder / "page.html", "--seconds", 0.01],
        lambda folder: reported(folder / "page.html"),
    ),
    Command(
        "export",
        export,
        lambda folder: [folder / "logdir" / "r", "--output", folder / "run.zip", "--dur", 0.01],
        lambda folder: zipped(folder / "run.zip"),
    ),
    Command("tune", tune.main, searching, searched),
]
NEED_A_RUN = ("generate", "report", "export")


def prepare(folder: Path, command: Command, run: Path) -> None:
    """The folder as the command finds it; `run`: a folder with a trained run."""
    shutil.rmtree(folder, ignore_errors=True)
    lay(folder)
    if command.name in NEED_A_RUN:
        shutil.copytree(run / "logdir", folder / "logdir")
