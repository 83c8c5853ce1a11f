"""The model card: what was trained, on how much of what, how well it predicts, and how it is played, from the run.

`card.md.j2` is its text, in Markdown. What a run cannot know is left for a person to fill in.
"""

from __future__ import annotations

import csv
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from tierwave.generation.load import Trained
from tierwave.runs.folder import CheckpointEntry, Run
from tierwave.runs.history import History, in_unit, read_history

_KINDS = {
    "samplernn": "a SampleRNN: sound, sample by sample",
    "conditioning": "a conditional tier",
    "cascade": "a cascade of conditional tiers, from slow controls down to sound",
    "melnet": "a MelNet: mel spectrograms, tier by tier, and sound by inversion",
}


_FORMATS = {"onnx": "ONNX", "litert": "LiteRT (TensorFlow Lite)"}


@dataclass(frozen=True)
class CardSample:
    """The sound that goes along. words: the flags of generate.py that make it again; files: their names."""

    words: tuple[str, ...]
    files: tuple[str, ...]


def card(
    trained: Trained,
    entries: Mapping[str, CheckpointEntry],
    sample: CardSample | None,
    formats: Sequence[str] = (),
) -> str:
    """The whole card. entries: the checkpoint of each stage; formats: those of the exported step."""
    run = trained.run
    described = run.read("run.json")
    environment = jinja2.Environment(  # Markdown, no HTML
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(cell=_cell, shell=shlex.join, duration_in_words=_recorded)
    target = "sample.wav" if sample is None or "sample.wav" in sample.files else "sample.csv"
    stages = [(stage, entry, model) for (stage, entry), model in zip(entries.items(), trained.models, strict=True)]
    given = trained.family.steerable(trained.config)
    capitals = ("tierwave", "python", "keras")
    return environment.get_template("card.md.j2").render(
        trained=trained,
        described=described,
        kind=_KINDS.get(trained.config.model, trained.config.model),
        makes=_makes(trained),
        sample=sample,
        statistics=run.read("statistics.json") if (run.folder / "statistics.json").exists() else {},
        networks=[_network(trained, *each) for each in stages],
        notes=[note for each in stages if (note := _baselines(trained, *each))],
        controls=[
            [
                parameter.name,
                parameter.units or "",
                ", ".join(parameter.categories) or "{:g} to {:g}".format(*sorted(parameter.span)),
                "given" if parameter.name in given else "generated",
            ]
            for parameter in trained.schema.parameters
        ],
        output=[target, *(sample.words if sample else ())],
        formats=[_FORMATS[each] for each in formats],
        versions=[
            (name.capitalize() if name in capitals else name, version)
            for name, version in described.get("versions", {}).items()
            if name != "machine"
        ],
    )


def _makes(trained: Trained) -> str:
    """What tiers make of what, one sentence each."""
    told = ""
    stages = trained.family.stages(trained.config)
    products = {stage: trained.family.product(trained.config, stage) for stage in stages}
    for stage, product in products.items():
        if product.is_audio and (product.quantizer is None or not product.conditioned_on):
            continue  # a tier of a spectrogram, or nothing to say
        name = stage.capitalize() if len(stages) > 1 else "It"
        source = f" from {', '.join(product.conditioned_on)}" if product.conditioned_on else ""
        told += f" {name} makes {', '.join(product.generates)}{source}."
    return told


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _recorded(hours: float) -> str:
    minutes = hours * 60.0
    return f"{minutes:.1f} minutes" if minutes >= 1.0 else f"{minutes * 60.0:.1f} seconds"


def _network(trained: Trained, stage: str, entry: CheckpointEntry, model: Any) -> list[str]:
    """A row of the table of networks."""
    part = Run(trained.checkpoints[stage].parent)
    held_out = _held_out(read_history(part), entry)
    return [
        stage,
        f"{model.count_params():,}",
        f"{entry.epoch}",
        f"{entry.step:,}",
        _duration(trained_seconds(part, entry.step)),
        "unknown" if held_out is None else f"{in_unit(held_out, model.unit):.3f} {_unit(model.unit)}",
    ]


def _baselines(trained: Trained, stage: str, entry: CheckpointEntry, model: Any) -> str:
    """What a network has to beat, where its held-out loss is known."""
    unit, history = model.unit, read_history(Run(trained.checkpoints[stage].parent))
    found = [f"{in_unit(nats, unit):.3f} ({name})" for name, nats in history.baselines.items()]
    if unit == "bits":
        found.insert(0, f"{math.log2(trained.family.encoder(trained.config).levels):.3f} (guessing blindly)")
    if not found or _held_out(history, entry) is None:
        return ""
    return f"To beat for {stage}, in {_unit(unit)}: {', '.join(found)}."


def _unit(unit: str) -> str:
    return "bits per sample" if unit == "bits" else f"{unit} per value"


def _held_out(history: History, entry: CheckpointEntry) -> float | None:
    """The validation loss of the last epoch that the checkpoint has seen the end of, nats per element."""
    seen = [
        epoch.valid
        for epoch, end in zip(history.epochs, history.ends, strict=True)
        if end <= entry.step and epoch.valid is not None
    ]
    return seen[-1] if seen else None


def trained_seconds(part: Run, steps: int) -> float:
    """How long the first `steps` updates of a stage took, by its table of losses; 0 if there is none."""
    path = part.folder / "losses.csv"
    if not path.exists():
        return 0.0
    with open(path, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]  # the last may be half written
    updates = [row for row in rows if row.get("gradient_norm") and int(row["step"]) <= steps]
    return sum(float(row["seconds"]) for row in updates)


def _duration(seconds: float) -> str:
    if not seconds:
        return "unknown"
    for size, name in ((3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} s"
