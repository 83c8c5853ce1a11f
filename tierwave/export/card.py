"""The model card: what was trained, on how much of what, how well it predicts, and how it is played, from the run.

Written as Markdown. What a run cannot know is left for a person to fill in. Knows runs and their histories.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tierwave.generation.load import Trained
from tierwave.runs.folder import CheckpointEntry, Run
from tierwave.runs.history import History, read_history

_KINDS = {
    "samplernn": "a SampleRNN: sound, sample by sample",
    "conditioning": "a conditional tier",
    "cascade": "a cascade of conditional tiers, from slow parameters down to sound",
    "melnet": "a MelNet: mel spectrograms, tier by tier, and sound by inversion",
}


@dataclass(frozen=True)
class Heard:
    """The sound that goes along. words: the flags of generate.py that make it again; files: what was written of it."""

    words: tuple[str, ...]
    files: tuple[str, ...]


def card(
    trained: Trained, entries: Mapping[str, CheckpointEntry], heard: Heard | None, formats: Sequence[str] = ()
) -> str:
    """The whole card. entries: the checkpoint of each stage; formats: those of the exported step."""
    described = trained.run.read("run.json")
    sections = [
        f"# {described.get('id', 'A network')}",
        f"This is {_KINDS.get(trained.config.model, trained.config.model)}, at {trained.sample_rate} Hz, made with "
        f"Tierwave.{_makes(trained)}",
        *_heard(heard),
        "## What it learned from",
        *_corpus(trained),
        "## How well it predicts",
        *_predicts(trained, entries),
        *_parameters(trained),
        "## How to play it",
        *_played(trained, heard, formats),
        "## Versions",
        "Trained with " + ", ".join(f"{name} {version}" for name, version in _versions(described)) + ".",
        "## Licence",
        "Not said yet. Whoever shares this network fills in under which licence it may be used, and whether the "
        "recordings it learned from allow that.",
    ]
    return "\n\n".join(sections) + "\n"


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


def _heard(heard: Heard | None) -> Iterator[str]:
    if heard is None:
        return
    yield from (f"![{name}]({name})" for name in heard.files if name.endswith(".png"))
    listed = ", ".join(f"[{name}]({name})" for name in heard.files if not name.endswith(".png"))
    yield f"Made by it: {listed} (`{shlex.join(heard.words)}`)."


def _corpus(trained: Trained) -> Iterator[str]:
    run = trained.run
    found = run.read("statistics.json") if (run.folder / "statistics.json").exists() else {}
    if "files" not in found:
        yield "The weights were imported: of the recordings nothing is known here. To be filled in."
        return
    files, minutes = found["files"], found["hours"] * 60.0
    length = f"{minutes:.1f} minutes" if minutes >= 1.0 else f"{minutes * 60.0:.1f} seconds"
    rates = ", ".join(f"{rate} Hz" for rate in found["file_rates"])
    as_they_are = list(found["file_rates"]) == [str(trained.sample_rate)]
    resampled = "" if as_they_are else f", resampled to {trained.sample_rate} Hz"
    yield (
        f"{files} {'recording' if files == 1 else 'recordings'} of {rates}, {length} in all{resampled}. What they are, "
        "and whose, is to be filled in."
    )
    yield _table(
        ["", ""],
        [
            ["peak", f"{found['peak']:.3f}"],
            ["RMS", f"{found['rms']:.4f}"],
            ["DC", f"{found['dc']:+.5f}"],
            ["silence", f"{found['silent_share']:.1%}"],
            ["clipped", f"{found['clipped_share']:.2%}"],
            ["level changed", {"none": "no", "corpus": f"by {found['gain']:.3g}"}.get(found["normalize"], "per file")],
        ],
    )


def _predicts(trained: Trained, entries: Mapping[str, CheckpointEntry]) -> Iterator[str]:
    rows, notes = [], []
    for (stage, entry), model in zip(entries.items(), trained.models, strict=True):
        part = Run(trained.checkpoints[stage].parent)
        history = read_history(part)
        scale, unit = (math.log(2.0), "bits per sample") if model.unit == "bits" else (1.0, f"{model.unit} per value")
        held_out = _held_out(history, entry)
        rows.append(
            [
                stage,
                f"{model.count_params():,}",
                f"{entry.epoch}",
                f"{entry.step:,}",
                _duration(trained_seconds(part, entry.step)),
                "unknown" if held_out is None else f"{held_out / scale:.3f} {unit}",
            ]
        )
        baselines = [f"{nats / scale:.3f} ({name})" for name, nats in history.baselines.items()]
        if model.unit == "bits":
            levels = trained.family.encoder(trained.config).levels
            baselines.insert(0, f"{math.log2(levels):.3f} (guessing blindly)")
        if baselines and held_out is not None:
            notes.append(f"To beat for {stage}, in {unit}: {', '.join(baselines)}.")
    yield _table(["network", "weights", "epochs", "steps", "trained for", "on held-out recordings"], rows)
    if notes:
        yield "\n".join(notes)


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
    import csv

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


def _parameters(trained: Trained) -> Iterator[str]:
    if not trained.schema.names:
        return
    given = trained.family.steerable(trained.config)
    rows = []
    for parameter in trained.schema.parameters:
        low, high = sorted(parameter.span)
        span = ", ".join(parameter.categories) or f"{low:g} to {high:g}"
        rows.append([parameter.name, parameter.units or "", span, "given" if parameter.name in given else "generated"])
    yield "## Parameters"
    yield _table(["name", "unit", "trained on", ""], rows)


def _played(trained: Trained, heard: Heard | None, formats: Sequence[str]) -> Iterator[str]:
    words = () if heard is None else heard.words
    again = " The first command makes the sound above again." if words else ""
    yield f"With Tierwave installed, name this folder (or the zip file it came in) instead of RUN.{again}"
    target = "sample.wav" if heard is None or "sample.wav" in heard.files else "sample.csv"
    yield (
        f"    python generate.py --checkpoint_path RUN --output_path {shlex.join([target, *words])}\n"
        "    python -m tierwave play RUN\n"
        "    python train.py --init_from RUN --id NEW --data_dir RECORDINGS"
    )
    if formats:
        names = {"onnx": "ONNX", "litert": "LiteRT (TensorFlow Lite)"}
        listed = " and ".join(names[each] for each in formats)
        yield (
            f"Without Tierwave: `steps/` holds the generation step for {listed}, and `steps/manifest.json` says how to "
            "drive it."
        )


def _versions(described: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, version in described.get("versions", {}).items():
        if name != "machine":
            yield name.capitalize() if name in ("tierwave", "python", "keras") else name, version


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(heads), line(["---"] * len(heads)), *(line(row) for row in rows)])
