"""Run folders in which a file is damaged, as by a full disk or a stranger: read, reported and resumed, or refused with
the name of the file; and nothing is touched beside the run."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import soundfile

import generate
import mutators
import train
from rule import Kind, Refusal, Wrong, commanded, judged
from tierwave.cli.report import main as report
from tierwave.family import load_config
from tierwave.generation.load import load_run, load_schema
from tierwave.runs.folder import CONFIG_NAME, Run, find_checkpoint, runs_of
from tierwave.runs.history import read_history

pytestmark = pytest.mark.usefixtures("eager")

RATE = 4000
CONFIG: dict[str, Any] = {
    "model": "conditioning",
    "conditioned_on": ["p", "inst"],
    "seq_len": 32,
    "hidden_size": 6,
    "num_layers": 1,
    "q_levels": 32,
    "normalize": "corpus",
    "controls": {"inst": {"units": "category"}},
    "training": {
        "batch_size": 4,
        "jit": False,
        "num_steps": 3,
        "generate": False,
        "output_file_dur": 0.01,
        "checkpoint_steps": 2,
    },
}
DOCUMENTS = ("run.json", CONFIG_NAME, "schema.json", "statistics.json", "split.json", "checkpoints.json", "bars.json")
BIRDS = "model.ckpt-9"  # of another run, which is nobody's business
FORGED = (
    f"../birds/{BIRDS}",
    "../../birds",
    "/tmp/x",
    "",
    ".",
    "*",
    "model.ckpt-*",
    "resume.ckpt-2",
    "model.ckpt-1/../x",
)


@functools.cache
def place() -> Path:
    """A folder with recordings and the run of a small network that is steered, with baselines, beside another run."""
    folder = Path(tempfile.mkdtemp(prefix="tierwave-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "data").mkdir()
    rows = ["filename,p,inst"]
    for number in range(4):
        pitch, inst = 60 + 4 * number, number % 2
        time = np.arange(RATE // 2) / RATE
        sound = 0.3 * np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * (1 + inst) * time)
        soundfile.write(folder / "data" / f"t{number}.wav", sound, RATE)
        rows.append(f"t{number}.wav,{pitch},{inst}")
    (folder / "data" / "params.csv").write_text("\n".join([*rows, ""]), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()):
        assert train.main([str(word) for word in words(folder)]) == 0
    run = run_in(folder)
    (run / "bars.json").write_text('{"histogram": 3.4, "last value": 2.5}', encoding="utf-8")
    birds = run.parent / "birds"
    birds.mkdir()
    for suffix in (".index", ".data-00000-of-00001"):
        (birds / f"{BIRDS}{suffix}").write_bytes(b"somebody else's")
    return folder


def words(folder: Path, *more: Any) -> list[Any]:
    """How the run is trained, and goes on."""
    named = {"id": "one", "data_dir": folder / "data", "config_file": folder / "config.json"}
    named |= {"logdir_root": folder / "logdir", "output_dir": folder / "generated"}
    return [word for name, value in named.items() for word in (f"--{name}", value)] + list(more)


def run_in(folder: Path) -> Path:
    """The run's own folder."""
    return runs_of(folder / "logdir" / "one")[-1].folder


def make(rng: Random, folder: Path) -> Path:
    """A copy of the place, with one or two files of the run damaged."""
    for name in ("data", "config.json", "logdir"):
        copy = shutil.copytree if name != "config.json" else shutil.copy
        copy(place() / name, folder / name)
    run = run_in(folder)
    names = sorted(path.name for path in run.iterdir() if path.is_file() and path.name != "log.txt")
    for name in {rng.choice([*DOCUMENTS, *DOCUMENTS, *names]): None for _ in range(rng.choice((1, 1, 2)))}:
        path = run / name
        if not path.exists():
            continue
        if rng.random() < 0.05:
            path.unlink()
        elif path.name == "checkpoints.json" and rng.random() < 0.4:
            entries = json.loads(path.read_bytes())
            forged = {**rng.choice(entries), "name": rng.choice(FORGED), "kept": rng.random() < 0.5, "best": False}
            entries.insert(rng.randrange(len(entries) + 1), forged)
            path.write_text(json.dumps(entries), encoding="utf-8")
        elif path.name in DOCUMENTS:
            path.write_bytes(mutators.json_bytes(json.loads(path.read_bytes()), rng))
        elif path.suffix == ".csv":
            path.write_bytes(mutators.text_bytes(mutators.mutated_csv(path.read_text(encoding="utf-8"), rng), rng))
        else:
            path.write_bytes(mutators.mutated(path.read_bytes(), rng))
    return folder


def _digest(folder: Path, unlike: tuple[str, ...] = ()) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file() and not any(part in unlike for part in path.parts)]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _birds_live(folder: Path) -> None:
    birds = run_in(folder).parent / "birds"
    if sorted(path.name for path in birds.iterdir()) != [f"{BIRDS}.data-00000-of-00001", f"{BIRDS}.index"]:
        raise Wrong(f"another run was touched: {list(birds.iterdir())}", "another run was touched")


def attempt_read(folder: Path) -> str:
    """Reads every document, and the network."""
    run = Run(run_in(folder))
    readers: list[Callable[[], Any]] = [
        lambda: find_checkpoint(run.folder, best=True),
        lambda: [stage.checkpoints for stage in run.stages],
        lambda: run.run_id,
        lambda: load_config(run.read(CONFIG_NAME), CONFIG_NAME),
        lambda: load_schema(run),
        lambda: read_history(run),
        lambda: run.read("run.json"),
        lambda: run.read("split.json"),
    ]
    refused = [found for reader in readers if isinstance(found := judged(reader), Refusal)]
    trained = judged(lambda: load_run(run.folder))
    if isinstance(trained, Refusal):
        return "refused"
    if not all(np.isfinite(variable.numpy()).all() for model in trained.models for variable in model.variables):
        raise Wrong("weights that are no numbers are taken", "no weights")
    return "read in part" if refused else "read"


def attempt_report(folder: Path) -> str:
    """Reports on the run."""
    run, page = run_in(folder), folder / "page.html"
    before = _digest(run, ("report",))
    told = commanded(report, [run, "--output", page, "--seconds", "0.01"])
    if _digest(run, ("report",)) != before:
        raise Wrong("the report changes the run", "changes the run")
    if told:
        return "refused"
    if not page.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        raise Wrong("no whole page", "no page")
    return "reported"


def attempt_generate(folder: Path) -> str:
    """Makes a sound with the run."""
    sound = folder / "sound.wav"
    asked = ["--checkpoint_path", run_in(folder), "--output_path", sound, "--dur", 0.01, "--control", "p=64", "inst=0"]
    told = commanded(generate.main, asked)
    if bool(told) == sound.exists():
        raise Wrong(f"{told or 'no word'}, and sound: {sound.exists()}", "no sound, no word")
    return "refused" if told else "heard"


def attempt_resume(folder: Path) -> str:
    """Goes on with the training."""
    run = run_in(folder)
    before = _digest(run, ("log.txt", "tensorboard"))
    told = commanded(train.main, words(folder, "--num_steps", 5, "--max_checkpoints", 1))
    _birds_live(folder)
    if told and _digest(run, ("log.txt", "tensorboard")) != before:
        changed = {name for name, digest in _digest(run).items() if before.get(name) != digest}
        raise Wrong(f"refused ({told}), and the run is another: {changed}", "refused and changed")
    return "refused" if told else "resumed"


KINDS = [
    Kind("run", make, attempt_read, cost=4),
    Kind("report", make, attempt_report, cost=15),
    Kind("generate", make, attempt_generate, cost=10),
    Kind("resume", make, attempt_resume, cost=15),
]


@pytest.mark.parametrize("kind", KINDS, ids=attrgetter("name"))
def test_a_damaged_run_is_read_or_refused(kind: Kind, tried: Callable[[Kind], None]) -> None:
    tried(kind)
