"""What of a run is handed on: the weights of its models, what generation reads, a sound, and a card that describes it.

The result is a run that plays and that training starts from, but that is not resumed. Names and places of recordings,
paths and command lines of whoever trained it stay at home. Knows runs and files; asks the family for what is its own.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tierwave.errors import RunError, UsageError
from tierwave.export.card import CardSample, card
from tierwave.export.manifest import write_steps
from tierwave.files.folders import refuse_file
from tierwave.files.writing import write_text
from tierwave.generation.load import DATASET_STATE, Trained
from tierwave.generation.outputs import draw_sound, draw_stages, write_curves
from tierwave.generation.prompt import PromptOptions, build_request
from tierwave.generation.request import Request, write_sounds
from tierwave.runs.archive import SUFFIX, pack
from tierwave.runs.folder import CONFIG_NAME, CheckpointEntry, Run, refuse_pattern

CARD = "README.md"
# What of run.json goes along; the rest says where and of what files the corpus was.
_PUBLIC = ("id", "mark", "created", "sample_rate", "versions")
_PRIVATE_OPTIONS = ("seed", "seed_offset")  # of training: a file of the trainer's


@dataclass(frozen=True)
class Sample:
    """The sound that goes along. plain: length, temperature, random seed; control: as typed, `NAME=VALUE`."""

    plain: Request
    control: Sequence[str] = ()


def share(trained: Trained, target: Path, *, sample: Sample | None, formats: Sequence[str] = ()) -> None:
    """Write the run to `target`, a folder or, by its suffix, a zip file; whole or not at all.

    formats: "onnx", "litert": of the generation step. Raises UsageError where the target is there already, and for what
    the run cannot be made into.
    """
    check_target(target)
    told = None if sample is None else _told(trained, sample)  # before what takes long
    with tempfile.TemporaryDirectory(prefix="tierwave-export-", ignore_cleanup_errors=True) as place:
        folder = Path(place) / "run"
        folder.mkdir()
        if formats:
            write_steps(trained, folder / "steps", formats)
        entries = write_run(trained, folder)
        made = None if told is None else write_sample(trained, folder, *told)
        write_text(folder / CARD, card(trained, entries, made, formats))
        if target.suffix.lower() == SUFFIX:
            pack(folder, target)
        else:
            _move(folder, target)


def check_target(target: Path) -> None:
    """UsageError unless something new can be written there."""
    refuse_file("--output", target)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UsageError(f"--output {target} is there already: name something new, or remove it")
    if target.suffix.lower() != SUFFIX:
        refuse_pattern(target)


def write_run(trained: Trained, folder: Path) -> dict[str, CheckpointEntry]:
    """The documents and the weights; the checkpoint of each stage."""
    import tensorflow as tf

    from tierwave.runs.checkpoints import make_checkpoint

    run, source, config = Run(folder), trained.run, trained.config
    described = source.read("run.json")
    run.write("run.json", {key: described[key] for key in _PUBLIC if key in described} | {"corpus": None})
    if (source.folder / "statistics.json").exists():
        run.write("statistics.json", {**source.read("statistics.json"), "left_out": [], "remarks": []})
    if trained.family.parameters(config):
        run.write("schema.json", source.read("schema.json"))
    if trained.dataset_state is not None:
        run.write(DATASET_STATE, trained.dataset_state)
    entries = {}
    for (stage, path), model in zip(trained.checkpoints.items(), trained.models, strict=True):
        part = run.stage(stage if len(trained.models) > 1 else None)
        part.folder.mkdir(exist_ok=True)
        found = next((entry for entry in Run(path.parent).checkpoints if entry.name == path.name), None)
        if found is None:
            raise RunError(f"{path} is gone, as a training that goes on has newer checkpoints: export once more")
        entries[stage] = replace(found, kept=True)
        progress = json.dumps({"epoch": found.epoch, "step": found.step, "run": described.get("mark", "")})
        pieces = {"model": model, "progress": tf.Variable(progress, trainable=False)}
        try:
            make_checkpoint(pieces).write(str(part.folder / found.name))
        except tf.errors.OpError as error:
            raise RunError(f"the weights could not be written ({str(error).splitlines()[0]}): make room") from None
        part.record(entries[stage], None)
    run.write(CONFIG_NAME, _public_config(source.read(CONFIG_NAME)))
    return entries


def _public_config(document: Mapping[str, Any]) -> dict[str, Any]:
    """A config without the files of its training, wherever in it options of training stand."""

    def without(value: Any, is_training: bool) -> Any:
        if isinstance(value, list):
            return [without(each, is_training) for each in value]
        if not isinstance(value, Mapping):
            return value
        return {
            key: without(each, key in ("training", "training_per_tier"))
            for key, each in value.items()
            if not (is_training and key in _PRIVATE_OPTIONS)
        }

    return without(document, False)


def _told(trained: Trained, sample: Sample) -> tuple[Request, tuple[str, ...]]:
    """The whole request and the words for its controls. UsageError for what the run cannot do."""
    control = (*sample.control, *_middle(trained, sample.control))
    _, request, _ = build_request(trained, sample.plain, PromptOptions(control=control))
    return request, control


def write_sample(trained: Trained, folder: Path, request: Request, control: Sequence[str]) -> CardSample:
    """sample.wav with its picture, or of a run that makes no audio its curves. control: how generate.py is told."""
    stream = trained.stream(request)
    path = folder / "sample.wav"
    if stream.makes_audio:
        (sound,) = write_sounds(stream, [path], stream.duration()).sounds
        files = [path, *write_curves(stream, path, request)]
        files += [draw_sound(path, sound, stream.sample_rate, stream, request, trained.schema)]
    else:
        files = write_curves(stream, path, request)
    files += draw_stages(stream, path)
    words = ["--dur", f"{request.seconds:g}", "--temperature", *(f"{value:g}" for value in request.temperature)]
    words += ["--random_seed", str(request.random_seed)]
    words += ["--control", *control] if control else []
    for name in ("inversion", "text"):
        if isinstance(value := request.options.get(name), str):
            words += [f"--{name}", value]
    return CardSample(tuple(words), tuple(each.name for each in files))


def _middle(trained: Trained, given: Sequence[str]) -> Iterator[str]:
    """A value for every control that must be given and is not: the middle one of those that were trained on."""
    names = [text.partition("=")[0] for text in given]
    for name in trained.family.steerable(trained.config, None, names):
        if name in names:
            continue
        parameter = trained.schema.of(name)
        low, high = sorted(parameter.span)
        inside = [value for value in trained.values.get(name, []) if low <= value <= high] or [(low + high) / 2]
        value = inside[len(inside) // 2]
        yield f"{name}={parameter.name_of(value) or f'{value:.9g}'}"


def _move(folder: Path, target: Path) -> None:
    """A folder to its place, also on another disk: copied beside it, then renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.parent / f".{uuid.uuid4().hex}.part"
    try:
        shutil.copytree(folder, beside)
        if target.exists():
            target.rmdir()  # empty, as `check_target` has seen
        os.replace(beside, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
