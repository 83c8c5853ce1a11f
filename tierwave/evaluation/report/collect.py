"""The content of a report, read from a run and measured: losses, sounds of all checkpoints, likelihood, distances.

What cannot be read or measured is left out with its reason: an old run without a file, recordings that are gone, a
stage that was never trained. Generated sounds are kept in the run, under report/, for the next report with the same
options.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tierwave.analysis.control_accuracy import ControlAccuracy, measure_controls
from tierwave.analysis.control_scenarios import controls_in_words, scenarios
from tierwave.analysis.control_summary import ControlSummary
from tierwave.analysis.distances import Comparison, compare
from tierwave.analysis.issues import Issue, find_issues
from tierwave.audio.arrays import Row, read_row
from tierwave.audio.recordings import load
from tierwave.audio.writer import write_wav
from tierwave.controls.tracks import Controls, Track
from tierwave.data.corpus import normalised
from tierwave.errors import AudioError, RunError, UsageError
from tierwave.evaluation.controls import evaluate_controls
from tierwave.evaluation.likelihood import Evaluation, evaluate
from tierwave.family import load_config
from tierwave.files.names import located
from tierwave.generation.load import Trained, hardly_trained, load_run
from tierwave.generation.request import Request
from tierwave.runs.diagnostics import loss_issues, verdict
from tierwave.runs.folder import CONFIG_NAME, CheckpointEntry, Run
from tierwave.runs.history import Epoch, History, read_history
from tierwave.system.progress import SayLine

MOST_SECONDS = 60.0  # of recordings
_MEASURED_SECONDS = 4.0  # of a sound, against its controls


@dataclass(frozen=True)
class ReportOptions:
    """What to put into a report. request: of the sound of every checkpoint. likelihood, controls: whether to measure
    them, which takes minutes."""

    request: Request
    likelihood: bool = True
    controls: bool = False


@dataclass(frozen=True, eq=False)
class CheckpointSound:
    """A sound of a checkpoint. audio: float [samples], None for a run that makes no audio; curves: what that generated
    instead; accuracies: by control, requested against measured."""

    entry: CheckpointEntry
    audio: np.ndarray | None = None
    curves: dict[str, Track] = field(default_factory=dict)
    issues: list[Issue] = field(default_factory=list)
    accuracies: dict[str, ControlAccuracy] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Stage:
    """One stage: its history, in `unit`, its checkpoints and their sounds, the newest first."""

    name: str
    part: Run
    unit: str
    history: History
    issues: list[Issue]
    sounds: list[CheckpointSound] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """What was learned, in a sentence; "" where that cannot be said."""
        return verdict(*self.history.scaled(self.unit), self.unit)

    @property
    def best(self) -> str:
        """The name of the best checkpoint, "" without any."""
        return self.part.best().name if self.part.checkpoints else ""


@dataclass(eq=False)
class Report:
    """The content of a report. documents: of the run, by file name; remarks: what is left out, and why; recordings:
    float [samples] each, as trained on; request_words: the controls of the sounds."""

    run: Run
    model: str
    documents: dict[str, Any]
    sample_rate: int
    stages: list[Stage] = field(default_factory=list)
    parameters: int | None = None
    recordings: list[np.ndarray] = field(default_factory=list)
    recording_issues: list[Issue] = field(default_factory=list)
    likelihood: Evaluation | None = None
    comparison: Comparison | None = None
    control_summary: ControlSummary | None = None
    request_words: str = ""
    remarks: list[str] = field(default_factory=list)

    @property
    def issues(self) -> list[tuple[str, Issue]]:
        """Where, and what: of the losses, and of the newest and the best sound of every stage."""
        found: list[tuple[str, Issue]] = []
        for stage in self.stages:
            where = f"{stage.name}: " if len(self.stages) > 1 else ""
            found += [(where + "training", issue) for issue in stage.issues]
            for number, sound in enumerate(stage.sounds):
                if number == 0 or sound.entry.name == stage.best:
                    found += [(where + sound.entry.name, issue) for issue in sound.issues]
        return found

    @property
    def newest_audio(self) -> np.ndarray | None:
        """The sound of the last stage's newest checkpoint."""
        return self.stages[-1].sounds[0].audio if self.stages and self.stages[-1].sounds else None


def collect(run: Run, options: ReportOptions, say_line: SayLine) -> Report:
    """All there is to report of a run. say_line(text, rewrite): the progress.

    Raises UsageError and RunError with what to do.
    """

    def say(text: str) -> None:
        say_line(text, False)

    def count(what: str, done: int, total: int) -> None:
        say_line(f"{what}: {done}/{total}", True)

    document = run.read(CONFIG_NAME)
    family, config = load_config(document, str(run.folder / CONFIG_NAME))
    names = ("run.json", "statistics.json", "split.json", "schema.json")
    documents = {name: run.read(name) for name in names if (run.folder / name).exists()} | {CONFIG_NAME: document}
    report = Report(
        run, document.get("model", ""), documents, int(documents.get("run.json", {}).get("sample_rate", 0)) or 1
    )
    remarks = report.remarks
    trained = None
    try:
        trained = load_run(run.folder, best=True)
    except (UsageError, RunError) as error:
        remarks.append(f"No sound was made: {error}.")
    stages = family.stages(config)
    if len(stages) > 1:
        remarks += hardly_trained({name: run.stage(name) for name in stages})
    for index, name in enumerate(stages):
        part = run.stage(name if len(stages) > 1 else None)
        history = read_history(part)
        unit = "bits" if history.in_bits else "nats"
        if trained is not None:
            unit = trained.models[index].unit
        # With a loss that is scaled, an update whose gradient is infinite is left out.
        scaled = document.get("training", {}).get("precision") == "mixed_float16"
        report.stages.append(Stage(name, part, unit, history, _loss_issues(history, unit, norms=not scaled)))
    if trained is None:
        return report

    report.parameters = sum(model.count_params() for model in trained.models)
    try:
        report.recordings = _recordings(trained, documents.get("split.json", {}))
        report.recording_issues = find_issues(np.concatenate(report.recordings), report.sample_rate)
    except (UsageError, RunError) as error:
        remarks.append(f"The recordings are left out: {error}.")
    try:
        request, report.request_words = _steered(trained, options.request)
        for index, stage in enumerate(report.stages):
            stage.sounds[:] = _sounds(trained, index, stage, request, say_line, remarks)
    except UsageError as error:
        remarks.append(f"No sound was made: {error}.")
    if options.likelihood:
        try:
            say("Measuring the likelihood of held-out recordings")
            held_out = "valid" if documents["split.json"]["valid"] else "train"
            report.likelihood = evaluate(trained, None, part=held_out, progress=count)
        except (UsageError, RunError, KeyError) as error:
            remarks.append(f"The likelihood was not measured: {error}. The page has the one that training logged.")
    if report.newest_audio is not None and report.recordings:
        say("Comparing with the recordings")
        try:
            report.comparison = compare(
                [report.newest_audio], report.recordings, report.sample_rate, seed=options.request.random_seed
            )
        except UsageError as error:
            remarks.append(f"Nothing was compared: {error}.")
    if options.controls:
        say("Requesting every control")
        try:
            plain = replace(options.request, controls=())
            seconds = options.request.seconds
            report.control_summary = evaluate_controls(trained, seconds=seconds, plain=plain, progress=count)
        except UsageError as error:
            remarks.append(f"No control was requested: {error}.")
    return report


def _loss_issues(history: History, unit: str, *, norms: bool) -> list[Issue]:
    """norms: whether a gradient that is not finite has ended the training."""
    epochs, baselines = history.scaled(unit)
    last = [*history.losses[-1:], *(history.gradient_norms[-1:] if norms else [])]
    if not all(map(math.isfinite, last)):
        epochs.append(Epoch(len(epochs) + 1, math.nan))
    return loss_issues(epochs, baselines, unit=unit, ended=True)


def _recordings(trained: Trained, split: dict[str, Any]) -> list[np.ndarray]:
    """Held-out recordings, or those trained on where none are, a minute at most, float [samples] each."""
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
    if not found:
        raise UsageError("the run has no split")
    return found


def _recording(path: Path, sample_rate: int) -> np.ndarray:
    """One recording, float [samples]: a file, or a row of an array file, whose rate is the run's."""
    array, number = path.parent, path.name
    if array.suffix.lower() == ".npy" and array.is_file() and number.isdecimal():
        return read_row(Row(array, int(number)))
    return load(path, sample_rate)[0]


def _steered(trained: Trained, request: Request) -> tuple[Request, str]:
    """The request with controls, for a run that has some: the first one that can be measured is swept, the others are
    held at the middle of their values; and that in words."""
    names = trained.family.steerable(trained.config)
    if not names:
        return request, ""
    schema = trained.schema.select(names)
    values = {name: sorted(trained.values.get(name) or schema.of(name).span) for name in names}
    sweeps = [each for each in scenarios(schema, values, seconds=request.seconds) if each.kind == "sweep"]
    if sweeps:
        swept = sweeps[0].parameter
        controls: Controls = {name: sweeps[0].controls[name] for name in dict.fromkeys([swept, *names])}
    else:
        middle = {name: points[(len(points) - 1) // 2] for name, points in values.items()}
        controls = {name: Track.constant(name, value) for name, value in middle.items()}
    return replace(request, controls=(controls,)), controls_in_words(controls, schema)


# The sounds of the checkpoints ---------------------------------------------------------------------------------------


def _sounds(
    trained: Trained, index: int, stage: Stage, request: Request, say_line: SayLine, remarks: list[str]
) -> list[CheckpointSound]:
    """A sound of each checkpoint of a stage, made with the best of the other stages. A checkpoint that cannot be read,
    such as one that a training has deleted meanwhile, is named in `remarks`."""
    best = [variable.numpy() for variable in trained.models[index].variables]
    sounds = []
    for entry in reversed(stage.part.checkpoints):
        try:
            sounds.append(_sound(trained, index, stage, entry, request, say_line))
        except (RunError, AudioError, FileNotFoundError) as error:
            remarks.append(f"{entry.name} has no sound: {error}.")
    for variable, value in zip(trained.models[index].variables, best, strict=True):
        variable.assign(value)
    return sounds


def _sound(
    trained: Trained, index: int, stage: Stage, entry: CheckpointEntry, request: Request, say_line: SayLine
) -> CheckpointSound:
    """The sound of a checkpoint of a stage, from the run if it was made before; else the model has its weights then."""
    from tierwave.runs.checkpoints import restore_checkpoint

    path = stage.part.folder / entry.name
    chosen = {**trained.checkpoints, stage.name: path}
    kept = trained.run.folder / "report" / f"{stage.name}_{entry.name}_{_digest(chosen, request)}.wav"
    if kept.exists():
        return _measured(trained, entry, load(kept)[0], request)
    say_line(f"Generating with {path}", False)
    restore_checkpoint(path, {"model": trained.models[index]})
    stream = trained.stream(request)
    stream.progress = lambda what, done, total: say_line(f"{what}: {done}/{total}", True)
    if not stream.makes_audio:
        made = stream.curves(request.seconds, 0).values()
        return CheckpointSound(entry, curves={name: track for curves in made for name, track in curves.items()})
    sound = stream.render(max(1, round(stream.duration() * stream.sample_rate)))[0]
    return _measured(trained, entry, _as_file(sound, trained.sample_rate, kept), request)


def _as_file(sound: np.ndarray, rate: int, kept: Path) -> np.ndarray:
    """A sound as it is read from a file: `kept` for the next report, where the run can be written to."""
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
    """Of everything that a sound depends on: the checkpoints as they were written, and the request."""
    written = {stage: [path.name, os.stat(f"{path}.index").st_mtime_ns] for stage, path in checkpoints.items()}
    controls = [
        {name: [track.times.tolist(), track.values.tolist()] for name, track in tracks.items()}
        for tracks in request.controls
    ]
    options = {
        **{name: getattr(request, name) for name in ("seconds", "temperature", "top_k", "top_p", "random_seed")},
        **request.options,
    }
    whole = json.dumps([written, controls, options], sort_keys=True)
    return hashlib.blake2b(whole.encode(), digest_size=8).hexdigest()


def _measured(trained: Trained, entry: CheckpointEntry, audio: np.ndarray, request: Request) -> CheckpointSound:
    accuracies: dict[str, ControlAccuracy] = {}
    if request.controls:
        start = audio[: round(_MEASURED_SECONDS * trained.sample_rate)]
        with contextlib.suppress(UsageError):  # pitches that cannot be measured at this sample rate
            accuracies = measure_controls(start, trained.sample_rate, request.controls[0], trained.schema)
    return CheckpointSound(entry, audio, {}, find_issues(audio, trained.sample_rate), accuracies)
