"""What a person asks train.py for, and the plan that becomes of it: family, config, stages and their options."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tierwave.config import NO_START, START, TrainingOptions, apply_overrides, resolve_training, split_training
from tierwave.errors import UsageError
from tierwave.family import Family, load_config
from tierwave.files.urls import Url
from tierwave.generation.load import Source, find_source, find_start
from tierwave.runs.folder import CONFIG_NAME, CheckpointEntry, Run, find_checkpoint, runs_of
from tierwave.runs.start import StartingWeights
from tierwave.system.progress import SayLine
from tierwave.training.checks import refuse_foreign_options, refuse_imported, refuse_other_architecture

if TYPE_CHECKING:
    from tierwave.training.loop import Callback


def _unwatched(stage: str) -> Sequence[Callback]:
    return ()


@dataclass(frozen=True)
class TrainingRequest:
    """What a person asked train.py for.

    document: the config; None takes that of the run that is resumed. overrides: `KEY=VALUE` that win over it, and over
    what the resumed run was trained with. typed: training flags that were typed, by name, which win over both. source:
    what to call the config in messages. rewrite: one statistics line, written over. stages: the only ones to train,
    None: all in turn. param_dir, params: where the controls of the recordings lie, as of
    `sources.find_control_sources`; a resumed run knows. cache_dir: for the encoded recordings, None: in logdir_root.
    init_from: a run, or one of `START` and `NO_START`. follow: controls that the recordings come without are measured;
    a resumed run knows. watch(stage): callbacks that come before all others. guard: samples that at least lie between
    training and held-out sound, whatever the model needs. worker_timeout: seconds for which other workers are waited
    for at the start, None: as long as it takes.
    """

    identity: str
    data_dir: Path | Url
    document: dict[str, Any] | None = None
    source: str = "the config"
    overrides: Sequence[str] = ()
    typed: Mapping[str, Any] = field(default_factory=dict)
    logdir_root: Path = Path("logdir")
    output_dir: Path = Path("generated")
    resume: bool = True
    resume_from: Path | None = None
    init_from: Path | str | None = None
    follow: bool = False
    rewrite: bool = False
    stages: Sequence[str] | None = None
    param_dir: Path | None = None
    params: Path | None = None
    cache_dir: Path | None = None
    watch: Callable[[str], Sequence[Callback]] = _unwatched
    guard: int = 0
    worker_timeout: float | None = None


@dataclass(frozen=True)
class TrainingResult:
    """How training ended: why, where its run lies, and the signal that ended it, if one did. finished: whether it ended
    by itself, not by the clock or a signal."""

    reason: str
    run: Run
    signal: int | None
    finished: bool = False


@dataclass(frozen=True)
class Resumed:
    """The checkpoint that training resumes from: the folder of its stage, its entry, and the config of its run."""

    part: Run
    entry: CheckpointEntry
    document: dict[str, Any]
    config: Any

    @property
    def root(self) -> Run:
        """The run that the stage belongs to."""
        return self.part.root


@dataclass(frozen=True)
class Plan:
    """A request made definite. options: of training as a whole; stages: those to train, in order; by_stage: the options
    of each stage of the config; source: what to call the config in messages."""

    request: TrainingRequest
    family: Family
    config: Any
    options: TrainingOptions
    stages: list[str]
    by_stage: Mapping[str, TrainingOptions]
    source: str
    say_line: SayLine
    resumed: Resumed | None

    @property
    def has_several(self) -> bool:
        """Whether the config has several stages, each with a folder of its own in the run."""
        return len(self.by_stage) > 1

    @property
    def root(self) -> Run | None:
        """The run that training resumes in."""
        return None if self.resumed is None else self.resumed.root

    def part(self, run: Run, stage: str) -> Run:
        """The folder of a stage in a run."""
        return run.stage(stage if self.has_several else None)

    def entries(self) -> dict[str, tuple[Run, CheckpointEntry]]:
        """The checkpoint that each stage resumes from: the one that was named, else its newest."""
        if self.resumed is None:
            return {}
        parts = {stage: self.part(self.resumed.root, stage) for stage in self.stages}
        found = {stage: (part, part.latest()) for stage, part in parts.items() if part.checkpoints}
        named = self.resumed.part.folder
        return found | {stage: (part, self.resumed.entry) for stage, part in parts.items() if part.folder == named}

    def sources(self) -> dict[str, Source | StartingWeights | None]:
        """Where the weights of each new stage come from, by --init_from, else by the config."""
        path, root = self.request.init_from, self.root
        new = [stage for stage in self.stages if root is None or not self.part(root, stage).checkpoints]
        if not isinstance(path, Path):
            begins = path == START or (path is None and getattr(self.config, "start", False))
            return {stage: self._start(stage) for stage in new} if begins else {}
        if not new:
            return {}
        found: dict[str, Source | StartingWeights | None] = {}
        found |= {stage: find_source(self.family, self.config, stage, path) for stage in new}
        if not any(found.values()):
            raise UsageError(f"--init_from {path} fits none of {', '.join(found)}: use its config with --config_file")
        return found

    def _start(self, stage: str) -> StartingWeights | None:
        start, changes = find_start(self.family, self.config, stage)
        if start is not None:
            self.say_line(f"Training begins from the starting weights of {start.source.parent.name}.", False)
            return start
        if self.request.init_from is not None:
            raise UsageError(
                f"--init_from {START}: the starting weights do not fit ({'; '.join(changes)}): take --config_file "
                "configs/small.config.json, or leave --init_from out"
            )
        self.say_line(
            f"Warning: the starting weights do not fit this network ({'; '.join(changes)}): it begins from random "
            f"ones, which may learn faster at a higher rate (--learning_rate 0.002). --init_from {NO_START} does so "
            "without this warning.",
            False,
        )
        return None


def plan_of(request: TrainingRequest, default_document: Callable[[], dict[str, Any]], say_line: SayLine) -> Plan:
    """A request made definite. Raises UsageError and RunError."""
    checkpoint = _checkpoint_to_resume(request)
    stored: dict[str, Any] | None = None
    if checkpoint is not None:
        refuse_imported(checkpoint[0].root)
        stored = checkpoint[0].root.read(CONFIG_NAME)
    document = request.document
    if document is None and stored is None and isinstance(request.init_from, Path):
        document, _ = split_training(find_checkpoint(request.init_from)[0].root.read(CONFIG_NAME))
    if document is None:
        document = stored if stored is not None else default_document()
    document = apply_overrides(document, request.overrides)
    family, config = load_config(document, request.source)
    trained_with, source, resumed = document, request.source, None
    if checkpoint is not None and stored is not None:
        source = str(checkpoint[0].root.folder / CONFIG_NAME)
        resumed = Resumed(*checkpoint, stored, load_config(stored, source)[1])
        refuse_other_architecture(config, resumed.config, resumed.root)
        trained_with = apply_overrides(stored, request.overrides)
    options = resolve_training(request.typed, trained_with, source)
    refuse_foreign_options(options, family)
    by_stage = {}
    for stage in family.stages(config):
        own = family.training_of(config, stage)
        by_stage[stage] = options
        if own:  # typed options win over a stage's own, and those over the options of all
            training = {**split_training(trained_with)[1], **own}
            by_stage[stage] = resolve_training(request.typed, {"training": training}, f"{source}: {stage}")
            refuse_foreign_options(by_stage[stage], family)
    stages = _stages(request, list(by_stage))
    return Plan(request, family, config, options, stages, by_stage, source, say_line, resumed)


def _stages(request: TrainingRequest, known: Sequence[str]) -> list[str]:
    """The stages that are asked for, in the order of the config."""
    wanted = known if request.stages is None else request.stages
    for stage in wanted:
        if stage not in known:
            near = difflib.get_close_matches(stage, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"--stage {stage}: the config has {', '.join(known)}{hint}")
    return [stage for stage in known if stage in wanted]


def _checkpoint_to_resume(request: TrainingRequest) -> tuple[Run, CheckpointEntry] | None:
    """The stage, or run of one stage, and the checkpoint of it that training resumes from."""
    if not request.resume:
        return None
    if request.resume_from is not None:
        return find_checkpoint(request.resume_from)
    for run in reversed(runs_of(request.logdir_root / request.identity)):
        for stage in reversed(run.stages):
            return stage, stage.latest()
    return None
