"""What a report tells, read from a run and measured: losses, sounds of all checkpoints, likelihood, distances.

What cannot be had is left out with its reason: an old run without a file, recordings that are gone, a stage that was
never trained. Generated sounds are kept in the run, under report/, and made again only where something else is asked.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tierwave.analysis.control_accuracy import Followed, Following, asked_for, measure_following, scenarios
from tierwave.analysis.distances import Comparison, compare
from tierwave.analysis.faults import Epoch, Fault, in_unit, sound_faults, training_faults
from tierwave.audio.arrays import Row, read_row
from tierwave.audio.recordings import load
from tierwave.audio.writer import write_wav
from tierwave.controls.tracks import Controls, Track
from tierwave.data.corpus import normalised
from tierwave.errors import AudioError, RunError, UsageError
from tierwave.evaluation.likelihood import Evaluation, evaluate, follow
from tierwave.family import load_config
from tierwave.files.names import located
from tierwave.generation.load import Trained, hardly_trained, load_run
from tierwave.generation.request import Request
from tierwave.runs.folder import CONFIG_NAME, CheckpointEntry, Run
from tierwave.runs.history import History, read_history
from tierwave.system.progress import SayLine

MOST_SECONDS = 60.0  # of recordings
_FOLLOWED_SECONDS = 4.0


@dataclass(frozen=True)
class Asked:
    """What to put into a report. request: for the sound of every checkpoint. likelihood, controls: measured anew, which
    takes its time."""

    request: Request
    likelihood: bool = True
    controls: bool = False


@dataclass(frozen=True, eq=False)
class Heard:
    """A sound of a checkpoint. audio: float [samples]; curves: what was generated instead, where the run makes no
    audio; followed: what was asked for against what came."""

    entry: CheckpointEntry
    audio: np.ndarray | None
    curves: dict[str, Track]
    faults: list[Fault]
    followed: dict[str, Followed]


@dataclass(frozen=True, eq=False)
class Stage:
    """One stage: its history, in `unit`, its checkpoints and their sounds, the newest first."""

    name: str
    part: Run
    unit: str
    history: History
    faults: list[Fault]
    sounds: list[Heard] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Report:
    """Everything that is told. documents: of the run, by file name; remarks: what could not be had, and why;
    recordings: float [samples] each, as trained on; asked: in words, what steered the sounds."""

    run: Run
    model: str
    stages: list[Stage]
    documents: dict[str, Any]
    sample_rate: int
    parameters: int | None = None
    recordings: list[np.ndarray] = field(default_factory=list)
    recording_faults: list[Fault] = field(default_factory=list)
    likelihood: Evaluation | None = None
    comparison: Comparison | None = None
    following: Following | None = None
    asked: str = ""
    remarks: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[tuple[str, Fault]]:
        """Where, and what: of the losses, and of the newest and the best sound of every stage."""
        found: list[tuple[str, Fault]] = []
        for stage in self.stages:
            where = f"{stage.name}: " if len(self.stages) > 1 else ""
            found += [(where + "training", fault) for fault in stage.faults]
            best = stage.part.best().name if stage.part.checkpoints else None
            for number, heard in enumerate(stage.sounds):
                if number == 0 or heard.entry.name == best:
                    found += [(where + heard.entry.name, fault) for fault in heard.faults]
        return found


def collect(run: Run, asked: Asked, say_line: SayLine) -> Report:
    """All there is to tell of a run. say_line(text, rewrite): what is being done.

    Raises UsageError and RunError with what to do.
    """

    def say(text: str) -> None:
        say_line(text, False)

    def count(what: str, done: int, total: int) -> None:
        say_line(f"{what}: {done}/{total}", True)

    document = run.read(CONFIG_NAME)
    family, config = load_config(document, str(run.folder / CONFIG_NAME))
    documents = {
        name: run.read(name)
        for name in ("run.json", "statistics.json", "split.json", "schema.json")
        if (run.folder / name).exists()
    }
    documents[CONFIG_NAME] = document
    described = documents.get("run.json", {})
    remarks: list[str] = []
    trained = None
    try:
        trained = load_run(run.folder, best=True)
    except (UsageError, RunError) as error:
        remarks.append(f"No sound was made: {error}.")
    names = family.stages(config)
    if len(names) > 1:
        remarks += hardly_trained({name: run.stage(name) for name in names})
    recordings = []
    if trained is not None:
        try:
            recordings = _recordings(trained, documents.get("split.json", {}))
        except (UsageError, RunError) as error:
            remarks.append(f"The recordings are not told of: {error}.")
    stages = []
    for index, name in enumerate(names):
        part = run.stage(name if len(names) > 1 else None)
        history = read_history(part)
        unit = "bits" if history.in_bits else "nats"
        if trained is not None:
            unit = trained.models[index].unit
        # With a loss that is scaled, an update whose gradient is infinite is left out.
        scaled = document.get("training", {}).get("precision") == "mixed_float16"
        stages.append(Stage(name, part, unit, history, _training_faults(history, unit, norms=not scaled)))
    words = ""
    if trained is not None:
        try:
            request, words = _steered(trained, asked.request)
            stages = _with_sounds(trained, stages, request, say_line, remarks)
        except UsageError as error:
            remarks.append(f"No sound was made: {error}.")
    likelihood = comparison = following = None
    if trained is not None and asked.likelihood:
        try:
            say("Measuring the likelihood of what was held out")
            held_out = "valid" if documents["split.json"]["valid"] else "train"
            likelihood = evaluate(trained, None, part=held_out, progress=count)
        except (UsageError, RunError, KeyError) as error:
            remarks.append(f"The likelihood was not measured anew: {error}. What training logged is told.")
    made = [heard.audio for stage in stages[-1:] for heard in stage.sounds[:1] if heard.audio is not None]
    rate = int(described.get("sample_rate", 0)) or 1
    if made and recordings:
        say("Comparing with the recordings")
        try:
            comparison = compare(made, recordings, rate, seed=asked.request.random_seed)
        except UsageError as error:
            remarks.append(f"Nothing was compared: {error}.")
    if trained is not None and asked.controls:
        say("Asking for every parameter")
        try:
            plain = replace(asked.request, controls=())
            following = follow(trained, seconds=asked.request.seconds, plain=plain, progress=count)
        except UsageError as error:
            remarks.append(f"No parameter was asked for: {error}.")
    return Report(
        run,
        document.get("model", ""),
        stages,
        documents,
        rate,
        None if trained is None else sum(model.count_params() for model in trained.models),
        recordings,
        sound_faults(np.concatenate(recordings), rate) if recordings else [],
        likelihood,
        comparison,
        following,
        words,
        remarks,
    )


def _training_faults(history: History, unit: str, *, norms: bool) -> list[Fault]:
    """norms: whether a gradient that is not finite has ended the training."""
    epochs = [epoch.scaled(unit) for epoch in history.epochs]
    last = [*history.losses[-1:], *(history.gradient_norms[-1:] if norms else [])]
    if not all(map(math.isfinite, last)):
        epochs.append(Epoch(len(epochs) + 1, math.nan))
    baselines = {name: in_unit(bar, unit) for name, bar in history.baselines.items()}
    return training_faults(epochs, baselines, unit=unit, ended=True)


def _recordings(trained: Trained, split: dict[str, Any]) -> list[np.ndarray]:
    """What was held out, or trained on where nothing was, a minute at most, float [samples] each."""
    root = Path(trained.run.read("run.json").get("data_dir") or "")
    if not root.is_absolute() or not root.exists():
        gone = f"{root} is not there any more"
        raise UsageError("the run does not know where they lie" if str(root) == "." else gone)
    root = root.resolve()
    left, found = MOST_SECONDS * trained.sample_rate, []
    for name, start, stop in split.get("valid") or split.get("train") or []:
        path = located((root if root.is_dir() else root.parent) / name).resolve()
        if not path.is_relative_to(root):  # a run is a file from outside
            raise UsageError(f"{name} of the run's split lies outside {root}")
        try:
            sound = _recording(path, trained.sample_rate)
        except AudioError as error:
            raise UsageError(str(error)) from None
        piece = normalised(sound, trained.config.normalize, trained.gain)[int(start) : int(stop)][: round(left)]
        if len(piece):
            found.append(piece)
            left -= len(piece)
        if left < 1:
            break
    return found


def _recording(path: Path, sample_rate: int) -> np.ndarray:
    """One recording, float [samples]: a file, or a row of an array file, whose rate is the run's."""
    array, number = path.parent, path.name
    if array.suffix.lower() == ".npy" and array.is_file() and number.isdecimal():
        return read_row(Row(array, int(number)))
    return load(path, sample_rate)[0]


def _steered(trained: Trained, request: Request) -> tuple[Request, str]:
    """The request with parameters, for a run that is steered: the first one that can be heard is swept through, the
    others rest in the middle of their values; and that in words."""
    names = trained.family.steerable(trained.config)
    if not names:
        return request, ""
    schema = trained.schema.select(names)
    values = {name: sorted(trained.values.get(name) or schema.of(name).span) for name in names}
    asked = [each for each in scenarios(schema, values, seconds=request.seconds) if each.kind == "sweep"]
    if asked:
        swept = asked[0].parameter
        controls: Controls = {name: asked[0].controls[name] for name in dict.fromkeys([swept, *names])}
    else:
        middle = {name: points[(len(points) - 1) // 2] for name, points in values.items()}
        controls = {name: Track.constant(name, value) for name, value in middle.items()}
    return replace(request, controls=(controls,)), asked_for(controls, schema)


# The sounds of the checkpoints ---------------------------------------------------------------------------------------


def _with_sounds(
    trained: Trained, stages: Sequence[Stage], request: Request, say_line: SayLine, remarks: list[str]
) -> list[Stage]:
    """The stages with a sound of each of their checkpoints, made with the best of the other stages. What cannot be
    heard, such as a checkpoint that a training has deleted meanwhile, is told in `remarks`."""
    found = []
    for index, stage in enumerate(stages):
        best = [variable.numpy() for variable in trained.models[index].variables]
        sounds = []
        for entry in reversed(stage.part.checkpoints):
            try:
                sounds.append(_sound_of(trained, index, stage, entry, request, say_line))
            except (RunError, AudioError, FileNotFoundError) as error:
                remarks.append(f"{entry.name} was not heard: {error}.")
        for variable, value in zip(trained.models[index].variables, best, strict=True):
            variable.assign(value)
        found.append(replace(stage, sounds=sounds))
    return found


def _sound_of(
    trained: Trained, index: int, stage: Stage, entry: CheckpointEntry, request: Request, say_line: SayLine
) -> Heard:
    """The sound of a checkpoint of a stage, from the run if it was made before; the model has its weights then."""
    from tierwave.runs.checkpoints import restore_checkpoint

    path = stage.part.folder / entry.name
    chosen = {**trained.checkpoints, stage.name: path}
    kept = trained.run.folder / "report" / f"{stage.name}_{entry.name}_{_digest(chosen, request)}.wav"
    if kept.exists():
        return _heard(trained, entry, load(kept)[0], {}, request)
    say_line(f"Generating with {path}", False)
    restore_checkpoint(path, {"model": trained.models[index]})
    stream = trained.stream(request)
    stream.progress = lambda what, done, total: say_line(f"{what}: {done}/{total}", True)
    if not stream.makes_audio:
        made = stream.curves(request.seconds, 0).values()
        return _heard(trained, entry, None, {name: track for curves in made for name, track in curves.items()}, request)
    sound = stream.render(max(1, round(stream.seconds * stream.sample_rate)))[0]
    return _heard(trained, entry, _as_file(sound, trained.sample_rate, kept), {}, request)


def _as_file(sound: np.ndarray, rate: int, kept: Path) -> np.ndarray:
    """A sound as a file gives it back, `kept` for the next report where the run can be written to."""
    try:
        kept.parent.mkdir(exist_ok=True)
        write_wav(kept, sound, rate)
        return load(kept)[0]
    except (OSError, UsageError):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / kept.name
            write_wav(path, sound, rate)
            return load(path)[0]


def _digest(checkpoints: dict[str, Path], request: Request) -> str:
    """What a sound was made of: the checkpoints as they were written, and all that was asked for."""
    written = {stage: [path.name, os.stat(f"{path}.index").st_mtime_ns] for stage, path in checkpoints.items()}
    controls = [
        {name: [track.times.tolist(), track.values.tolist()] for name, track in tracks.items()}
        for tracks in request.controls
    ]
    asked = {
        **{name: getattr(request, name) for name in ("seconds", "temperature", "top_k", "top_p", "random_seed")},
        **request.options,
    }
    whole = json.dumps([written, controls, asked], sort_keys=True)
    return hashlib.blake2b(whole.encode(), digest_size=8).hexdigest()


def _heard(
    trained: Trained, entry: CheckpointEntry, audio: np.ndarray | None, curves: dict[str, Track], request: Request
) -> Heard:
    if audio is None:
        return Heard(entry, None, curves, [], {})
    faults = sound_faults(audio, trained.sample_rate)
    followed: dict[str, Followed] = {}
    if request.controls:
        start = audio[: round(_FOLLOWED_SECONDS * trained.sample_rate)]
        try:
            followed = measure_following(start, trained.sample_rate, request.controls[0], trained.schema)
        except UsageError:  # pitches that cannot be told at this sample rate
            followed = {}
    return Heard(entry, audio, curves, faults, followed)
