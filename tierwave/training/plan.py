"""What a person asks train.py for, and the plan that becomes of it: family, config, stages and their options."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tierwave.config import TrainingOptions, apply_overrides, resolve_training, split_training
from tierwave.data.windows import LaneWindows
from tierwave.errors import UsageError
from tierwave.family import Family, load_config
from tierwave.files.places import Url
from tierwave.runs.folder import CONFIG_NAME, CheckpointEntry, Run, find_checkpoint, runs_of
from tierwave.system.progress import SayLine
from tierwave.training.checks import refuse_foreign_options, refuse_imported, refuse_other_architecture
from tierwave.training.memory import Demand

if TYPE_CHECKING:
    from tierwave.training.devices import Devices
    from tierwave.training.loop import Callback

# XLA takes up to half a minute to compile a step and makes it up to 1.6 times as fast, so that it pays after this.
LEAST_MINUTES_FOR_XLA = 2.0

Checkpoint: TypeAlias = tuple[Run, CheckpointEntry]
"""A checkpoint, and the folder of the stage that it lies in."""


def _unwatched(stage: str) -> Sequence[Callback]:
    return ()


@dataclass(frozen=True)
class TrainingRequest:
    """What a person asked train.py for.

    document: the config; None takes that of the run that is resumed. overrides: `KEY=VALUE` that win over it, and over
    what the resumed run was trained with. typed: training flags that were typed, by name, which win over both. source:
    what to call the config in messages. rewrite: one statistics line, written over. stages: the only ones to train,
    None: all in turn. param_dir, params: where the parameters of the recordings lie, as of
    `sources.find_control_sources`; a resumed run knows. cache_dir: for the encoded recordings, None: in logdir_root.
    watch(stage): callbacks that come before all others. guard:
    samples that at least lie between training and held-out sound, whatever the model needs. worker_timeout: seconds for
    which other workers are waited for at the start, None: as long as it takes.
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
    init_from: Path | None = None
    rewrite: bool = False
    stages: Sequence[str] | None = None
    param_dir: Path | None = None
    params: Path | None = None
    cache_dir: Path | Url | None = None
    watch: Callable[[str], Sequence[Callback]] = _unwatched
    guard: int = 0
    worker_timeout: float | None = None


@dataclass(frozen=True)
class TrainingResult:
    """How a session ended: why, where its run lies, and the signal that ended it, if one did. finished: whether it
    ended by itself, not by the clock or a signal."""

    reason: str
    run: Run
    signal: int | None
    finished: bool = False


@dataclass(frozen=True)
class Plan:
    """A session made definite. options: of training as a whole; stages: those to train, in order; by_stage: the options
    of each stage of the config; source: what to call the config in messages."""

    session: TrainingRequest
    family: Family
    config: Any
    options: TrainingOptions
    stages: list[str]
    by_stage: Mapping[str, TrainingOptions]
    source: str
    say_line: SayLine

    @property
    def has_several(self) -> bool:
        """Whether the config has several stages, each with a folder of its own in the run."""
        return len(self.by_stage) > 1

    def part(self, run: Run, stage: str) -> Run:
        """The folder of a stage in a run."""
        return run.stage(stage if self.has_several else None)

    def jit(self, stage: str, on_gpu: bool) -> bool:
        """Whether a stage is compiled with XLA; by its options alone, so that it is when training goes on, too."""
        options = self.by_stage[stage]
        if options.jit != "auto":
            return options.jit
        minutes = options.max_minutes
        if minutes is not None and "max_minutes" not in self.family.training_of(self.config, stage):
            minutes /= len(self.by_stage)
        worth_it = minutes is None or minutes >= LEAST_MINUTES_FOR_XLA
        return worth_it and bool(self.family.prefers_xla(self.config, on_gpu))

    def demand(self, stage: str, options: TrainingOptions, devices: Devices, windows: LaneWindows) -> Demand:
        """What training a stage takes of the memory of one worker."""
        import tensorflow as tf

        on_gpu = bool(tf.config.list_physical_devices("GPU"))
        jit = self.jit(stage, on_gpu) and devices.local == 1
        shared = {"replicas": devices.replicas, "local": devices.local}
        return Demand(self.family, self.config, stage, options, jit, on_gpu, windows, **shared)


def plan_of(
    session: TrainingRequest, default_document: Callable[[], dict[str, Any]], say_line: SayLine
) -> tuple[Plan, Checkpoint | None]:
    """A session made definite, and the checkpoint that it goes on from. Raises UsageError and RunError."""
    resumed = _checkpoint_to_resume(session)
    if resumed is not None:
        refuse_imported(resumed[0].root)
    stored = None if resumed is None else resumed[0].root.read(CONFIG_NAME)
    document = session.document
    if document is None and stored is None and session.init_from is not None:
        document, _ = split_training(find_checkpoint(session.init_from)[0].root.read(CONFIG_NAME))
    if document is None:
        document = stored if stored is not None else default_document()
    document = apply_overrides(document, session.overrides)
    family, config = load_config(document, session.source)
    if stored is None:
        trained_with, source = document, session.source
    else:
        assert resumed is not None
        refuse_other_architecture(document, stored, resumed[0].root, session.source)
        trained_with = apply_overrides(stored, session.overrides)
        source = str(resumed[0].root.folder / CONFIG_NAME)
    options = resolve_training(session.typed, trained_with, source)
    refuse_foreign_options(options, family)
    by_stage = {}
    for stage in family.stages(config):
        own = family.training_of(config, stage)
        by_stage[stage] = options
        if own:  # what was typed wins over the stage's own options, those over the options of all
            training = {**split_training(trained_with)[1], **own}
            by_stage[stage] = resolve_training(session.typed, {"training": training}, f"{source}: {stage}")
            refuse_foreign_options(by_stage[stage], family)
    stages = _stages(session, list(by_stage))
    return Plan(session, family, config, options, stages, by_stage, source, say_line), resumed


def _stages(session: TrainingRequest, known: Sequence[str]) -> list[str]:
    """The stages that are asked for, in the order of the config."""
    wanted = known if session.stages is None else session.stages
    for stage in wanted:
        if stage not in known:
            near = difflib.get_close_matches(stage, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"--stage {stage}: the config has {', '.join(known)}{hint}")
    return [stage for stage in known if stage in wanted]


def _checkpoint_to_resume(session: TrainingRequest) -> Checkpoint | None:
    """The stage, or run of one stage, and the checkpoint of it that training goes on from."""
    if not session.resume:
        return None
    if session.resume_from is not None:
        return find_checkpoint(session.resume_from)
    for run in reversed(runs_of(session.logdir_root / session.identity)):
        for stage in reversed(run.stages):
            return stage, stage.latest()
    return None
