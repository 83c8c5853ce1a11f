"""Configs that are damaged, and --set: a config that holds, or a sentence that names the key; and no network of them is
so large that looking at it takes long."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

import mutators
from melnet.convert_yaml import command_of, config_of, read_yaml
from rule import ROOT, Kind, Refusal, Wrong, judged
from tierwave.config import apply_overrides, dumps, read_document
from tierwave.family import load_config

CONFIGS = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "configs").glob("*.config.json")}


class Given(NamedTuple):
    """A config file and what is typed besides."""

    path: Path
    typed: list[str]


def _makers() -> dict[str, Callable[[Random, Path], Given]]:
    by_model: dict[str, list[dict[str, Any]]] = {}
    for document in CONFIGS.values():
        by_model.setdefault(document.get("model", "samplernn"), []).append(document)
    return {model: _damaged(documents) for model, documents in by_model.items()}


def _damaged(documents: list[dict[str, Any]]) -> Callable[[Random, Path], Given]:
    def make(rng: Random, folder: Path) -> Given:
        path = folder / "odd.config.json"
        path.write_bytes(mutators.json_bytes(rng.choice(documents), rng))
        return Given(path, [])

    return make


def typed(rng: Random, folder: Path) -> Given:
    """A good config with odd --set."""
    name = rng.choice(sorted(CONFIGS))
    path = folder / "good.config.json"
    path.write_text(json.dumps(CONFIGS[name]), encoding="utf-8")
    texts = []
    for _ in range(rng.choice((1, 1, 2))):
        keys = [
            *CONFIGS[name],
            "training.num_steps",
            "tiers.0.rate",
            "controls.p.lo",
            "dim",
            "conditioned_on.0",
            "seq_len",
        ]
        value = rng.choice(
            (
                lambda: mutators.json_text(mutators.odd(rng), rng),
                lambda: rng.choice(("None", "True", "[p]", "{a:1}", "x=y")),
            )
        )()
        text = f"{rng.choice(keys)}={value}"
        if rng.random() < 0.3:
            start = rng.randrange(min(len(text), 60))
            text = (
                text[:start]
                + rng.choice((".", "=", "..", " ", "[", "0", "\0", "-1", ""))
                + text[start + rng.choice((0, 1)) :]
            )
        texts.append(text)
    return Given(path, texts)


def attempt(given: Given) -> str:
    """As train.py reads a config, and looks at the network that it describes."""
    document = judged(lambda: apply_overrides(read_document(given.path), given.typed))
    if isinstance(document, Refusal):
        return "refused"
    loaded = judged(lambda: load_config(document, str(given.path)))
    if isinstance(loaded, Refusal):
        return "refused"
    family, config = loaded
    written = judged(lambda: json.loads(dumps(config)))
    if isinstance(written, Refusal):
        raise Wrong(f"what was read cannot be written: {written.sentence}", "not written")
    again = judged(lambda: load_config(written, "written"))
    if isinstance(again, Refusal) or again[1] != config:
        raise Wrong(f"{config} became {again}", "not read again")
    stages = judged(lambda: family.stages(config))
    for stage in () if isinstance(stages, Refusal) else stages:
        judged(partial(family.architecture, config, stage))
    return "taken"


YAML: dict[str, Any] = {
    "name": "ljspeech",
    "audio": {"sample_rate": 22050, "n_fft": 1536, "mel_channels": 256, "hop_length": 256, "win_length": 1536},
    "network": {"n_tiers": 6, "layers": [12, 5, 4, 3, 2, 2], "hidden_size": 200, "gmm_size": 10},
    "data": {"dataset": "ljspeech", "path": "datasets/lj speech"},
    "training": {"optimizer": "Adam", "epochs": 4, "batch_size": 1, "lr": 0.000004, "accumulation_steps": 16},
    "logging": {"dir_log": "logs/"},
}


def make_yaml(rng: Random, folder: Path) -> Path:
    """A YAML file of another MelNet's; JSON is YAML, mostly."""
    path = folder / "train.yml"
    document = YAML if rng.random() < 0.7 else {"checkpoints_path": ["a.pt"], "output_path": "out", "name": "x"}
    text = mutators.json_text(mutators.mutated_json(document, rng), rng)
    if rng.random() < 0.3:
        start = rng.randrange(len(text))
        odd = (
            "!!python/object/apply:os.system ['x']",
            "&a [*a]",
            "- ",
            "? ",
            "\t",
            "%YAML 9",
            "---",
            "<<: *b",
            "2024-01-01",
        )
        text = text[:start] + rng.choice(odd) + text[start + rng.choice((0, 1)) :]
    path.write_bytes(mutators.text_bytes(text, rng))
    return path


def attempt_yaml(path: Path) -> str:
    """As `python -m melnet.convert_yaml` reads it."""
    document = judged(lambda: read_yaml(path))
    if isinstance(document, Refusal):
        return "refused"
    made = judged(lambda: config_of(document, str(path)))
    command = judged(lambda: command_of(document, str(path), 100))
    return "refused" if isinstance(made, Refusal) and isinstance(command, Refusal) else "converted"


KINDS = [*(Kind(f"config {model}", make, attempt) for model, make in _makers().items()), Kind("set", typed, attempt)]
if importlib.util.find_spec("yaml"):
    KINDS.append(Kind("yaml", make_yaml, attempt_yaml, cost=5))


@pytest.mark.parametrize("kind", KINDS, ids=attrgetter("name"))
def test_a_damaged_config_is_taken_or_refused(kind: Kind, tried: Callable[[Kind], None]) -> None:
    tried(kind)
