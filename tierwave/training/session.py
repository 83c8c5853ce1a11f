"""From a person's request to a training session.

`train` puts config, corpus, parameters, split, run folder, learner and callbacks together, trains the stages in turn,
and refuses to mix what does not belong together. Asks the family for whatever is the family's own.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import json
import os
import shlex
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from tierwave.analysis.control_accuracy import trained_values
from tierwave.analysis.statistics import MOST_LEVELS, CodeStatistics
from tierwave.audio.quantize import Quantizer
from tierwave.config import (
    TrainingOptions,
    apply_overrides,
    difference,
    dumps,
    resolve_training,
    split_training,
)
from tierwave.controls.sources import ParamSources, find_param_sources, unused_manifest
from tierwave.controls.tracks import (
    Controls,
    ControlWarning,
    Parameter,
    Schema,
    constants_of,
    coverage,
    mismatch,
    shifted,
)
from tierwave.data.control_windows import Steering
from tierwave.data.corpus import Corpus, load_corpus, summary
from tierwave.data.splits import Span, Split, make_split
from tierwave.data.windows import LaneWindows, lane_warnings
from tierwave.errors import RunError, UsageError
from tierwave.family import Family, load_config
from tierwave.files.folders import make_own, refuse_name
from tierwave.files.names import ESCAPED, folded
from tierwave.files.places import Url, absolute
from tierwave.files.writing import write_text
from tierwave.generation.load import (
    PREPARED,
    find_source,
    hardly_trained,
    load_model,
    load_schema,
    seed_audio,
    take_weights,
)
from tierwave.generation.request import Request, Stream
from tierwave.runs.folder import (
    CONFIG_NAME,
    CheckpointEntry,
    Run,
    create_run,
    environment,
    find_checkpoint,
    now,
    only_training,
    runs_of,
)
from tierwave.runs.history import audio_bars, read_history
from tierwave.system.progress import ProgressLine, SayLine, unheard
from tierwave.training.memory import Demand, TooLarge, announced, judged, room_of, told_when_it_runs_out
from tierwave.training.tasks import TF_CONFIG, meet, task_of

if TYPE_CHECKING:
    from tierwave.training.callbacks import Limits
    from tierwave.training.devices import Devices
    from tierwave.training.loop import Callback, Learner, Trainer
    from tierwave.training.previews import Generation

# XLA takes up to half a minute to compile a step and makes it up to 1.6 times as fast, so that it pays after this.
LEAST_MINUTES_FOR_XLA = 2.0
SPLIT_OPTIONS = {"val_frac", "test_frac", "num_val_batches"}
MOST_COUNTED = 1 << 27  # samples for a histogram: two hours at 16 kHz are all there is to know


def _unwatched(stage: str) -> Sequence[Callback]:
    return ()


@dataclass(frozen=True)
class Session:
    """What a person asked train.py for.

    document: the config; None takes that of the run that is resumed. overrides: `KEY=VALUE` that win over it, and over
    what the resumed run was trained with. typed: training flags that were typed, by name, which win over both. source:
    what to call the config in messages. rewrite: one statistics line, written over. stages: the only ones to train,
    None: all in turn. param_dir, params: where the parameters of the recordings lie, as of
    `sources.find_param_sources`; a resumed run knows. cache_dir: for the encoded recordings, None: in logdir_root.
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
class Outcome:
    """How a session ended: why, where its run lies, and the signal that ended it, if one did. finished: whether it
    ended by itself, not by the clock or a signal."""

    reason: str
    run: Run
    signal: int | None
    finished: bool = False


def train(
    session: Session,
    default_document: Callable[[], dict[str, Any]] = lambda: {"model": "samplernn"},
    say_line: SayLine = unheard,
    start_tensorflow: Callable[[], None] = lambda: None,
) -> Outcome:
    """Train as the session says, going on from its newest checkpoint where there is one.

    default_document() gives the config for a new run when the session names none. say_line(text, rewrite) is told what
    train.py prints.
    start_tensorflow() is called before TensorFlow is imported, which is after config and recordings were found good.
    Raises UsageError and RunError with what to do.
    """
    refuse_name("--id", session.identity, session.logdir_root)
    task, everyone = task_of(os.environ), say_line
    if task.rank > 0:  # the chief speaks for all, and holds the lock for all
        say_line = unheard
    with contextlib.ExitStack() as locks:
        if task.rank == 0:
            locks.enter_context(only_training(session.logdir_root, session.identity))
        plan, resumed = _planned(session, default_document, say_line)
        if resumed is not None:  # --resume_from leads into another id's run
            owner = resumed[0].root.folder.resolve().parent
            if task.rank == 0 and owner != (session.logdir_root / session.identity).resolve():
                locks.enter_context(only_training(owner.parent, owner.name))

        def start() -> None:
            start_tensorflow()
            if plan.options.strategy == "multiworker":
                from tierwave.training.devices import has_joined

                if not has_joined():  # by a training before, in this process: TensorFlow listens at the address now
                    meet(task, everyone, session.worker_timeout)

        return plan.train(resumed, start)


def encode(
    session: Session, default_document: Callable[[], dict[str, Any]], say_line: SayLine, *, cluster: str | None = None
) -> None:
    """Encode the recordings of a session into its cache and do no more; as tasks of a Ray cluster, if one is named."""
    refuse_name("--id", session.identity, session.logdir_root)
    plan, resumed = _planned(session, default_document, say_line)
    plan.load(None if resumed is None else resumed[0].root.read("run.json"), cluster=cluster)


def _planned(
    session: Session, default_document: Callable[[], dict[str, Any]], say_line: SayLine
) -> tuple[_Plan, tuple[Run, CheckpointEntry] | None]:
    """A session made definite, and where it goes on from."""
    resumed = _checkpoint_to_resume(session)
    if resumed is not None:
        _refuse_imported(resumed[0].root)
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
        _refuse_other_architecture(document, stored, resumed[0].root, session)
        trained_with = apply_overrides(stored, session.overrides)
        source = str(resumed[0].root.folder / CONFIG_NAME)
    options = resolve_training(session.typed, trained_with, source)
    _refuse_foreign_options(options, family)
    return _Plan(session, family, config, options, trained_with, source, say_line), resumed


def _checkpoint_to_resume(session: Session) -> tuple[Run, CheckpointEntry] | None:
    """The stage, or run of one stage, and the checkpoint of it that training goes on from."""
    if not session.resume:
        return None
    if session.resume_from is not None:
        return find_checkpoint(session.resume_from)
    for run in reversed(runs_of(session.logdir_root / session.identity)):
        for stage in reversed(run.stages):
            return stage, stage.latest()
    return None


def _refuse_imported(run: Run) -> None:
    if run.read("run.json")["corpus"] is None:
        raise UsageError(
            f"the run {run.folder} was imported, so it has weights but no training to go on with: start one from them "
            f"under another --id, with --init_from {run.folder} --config_file {run.folder / CONFIG_NAME}"
        )


def _refuse_other_architecture(document: dict[str, Any], stored: dict[str, Any], run: Run, session: Session) -> None:
    def architecture(of: dict[str, Any], source: str) -> dict[str, Any]:
        config = load_config(of, source)[1].model_dump(mode="json")
        # How the tiers are trained is no part of what they are; another bound on gradients is what a sentence advises.
        for name in ("training_per_tier", "recompute", "gradient_clip"):
            config.pop(name, None)
        for tier in config["tiers"] if isinstance(config.get("tiers"), list) else ():
            for name in ("training", "recompute", "gradient_clip"):
                tier.pop(name, None)
        return split_training(config)[0]

    before = architecture(stored, str(run.folder / CONFIG_NAME))
    now = architecture(document, session.source)
    changes = difference(before, now)
    if changes:
        raise UsageError(
            f"the run {run.folder} was trained with another config ({'; '.join(changes)}): give this one another --id, "
            "or train from the run's weights with --init_from, or start over with --resume False"
        )


def _refuse_foreign_options(options: TrainingOptions, family: Family) -> None:
    for name, why in family.foreign_options.items():
        value = getattr(options, name)
        if value != TrainingOptions.model_fields[name].default:
            raise UsageError(f"--{name} {value} does nothing for this model ({why}): leave it out")


@dataclass
class _Plan:
    """A session made definite: its family, config and options. document: what the options of each stage come from."""

    session: Session
    family: Family
    config: Any
    options: TrainingOptions
    document: dict[str, Any]
    source: str
    say_line: SayLine

    def train(self, resumed: tuple[Run, CheckpointEntry] | None, start_tensorflow: Callable[[], None]) -> Outcome:
        """Prepare all, then train the stages in turn."""
        session, family, config = self.session, self.family, self.config
        stages = self._stages()
        by_stage = {stage: self._options_of(stage) for stage in family.stages(config)}
        root = None if resumed is None else resumed[0].root
        described = None if root is None else root.read("run.json")
        encoder = family.encoder(config)
        corpus = self.load(described)
        opening = [summary(corpus), *(f"Warning: {text}" for text in [*corpus.warnings(), *family.warnings(config)])]
        sources, controls = self._parameters(corpus, described)
        if sources is None:
            passed_over = unused_manifest(session.data_dir)
        else:
            everything = [*(recording.name for recording in corpus.recordings), *(name for name, _ in corpus.left_out)]
            passed_over = [*sources.remarks, *sources.strays(everything)]
        opening += [f"Warning: {text}" for text in passed_over]
        if root is not None and described is not None:
            _refuse_other_corpus(corpus, described, session, root)
            _refuse_other_parameters(controls, corpus, described, root)
            ignored = sorted(SPLIT_OPTIONS & session.typed.keys())
            if ignored:
                opening.append(f"Warning: --{ignored[0]} changes nothing here: a resumed run keeps what it held out.")
            split = Split.from_document(root.read("split.json"), corpus)
            schema = Schema() if sources is None else load_schema(root)
            stored = root.read(PREPARED) if (root.folder / PREPARED).exists() else None
        else:
            split = _split(corpus, encoder, family, config, self.options, controls, session.guard)
            opening += [f"Warning: {text}" for text in split.remarks]
            schema = Schema() if sources is None else self._fitted(sources, corpus, split, controls)
            stored = None
        prepared = family.prepare(corpus, split, config, stored, data_dir=session.data_dir)
        opening += [f"Warning: {text}" for text in (() if prepared is None else prepared.remarks)]
        steering = None
        if sources is not None:
            seconds = tuple(recording.samples / corpus.sample_rate for recording in corpus.recordings)
            steering = Steering(schema, controls, seconds)
        weights = self._weights([stage for stage in stages if root is None or not self._part(root, stage).checkpoints])
        self._check(stages, by_stage, corpus, split, steering, prepared)
        # Nothing above leaves anything behind, and nothing below writes to a run before its checkpoint was restored.
        start_tensorflow()
        devices = _devices(self.options)
        self._refuse_too_large(stages, by_stage, corpus, split, steering, prepared, devices)
        entries = {} if root is None else self._entries(stages, root, resumed)
        named = resumed[0].folder if resumed is not None and session.resume_from is not None else None
        if root is not None:
            self._refuse_other_slots(by_stage, root, entries)
        checkpoint = "none" if resumed is None else f"{resumed[0].folder.name}/{resumed[1].name}"
        _refuse_other_workers(
            devices,
            {
                "config": family.with_training(config, self.options, by_stage).model_dump(mode="json"),
                "stages": stages,
                "recordings": len(corpus.recordings),
                "samples": corpus.samples,
                "sound": _digest(corpus.identity),
                "parameters": _digest(_digests(corpus, controls) if controls else {}),
                "prepared": _digest({} if prepared is None else prepared.document),
                "checkpoint to go on from": checkpoint,
            },
        )
        run = _common_run(devices, session, root)
        config_text = dumps(family.with_training(config, self.options, by_stage))
        material = _Material(corpus, split, steering, prepared, weights, run, config_text, self.say_line, devices)
        if not devices.is_chief:  # only one process writes and prints
            return self._train_stages(stages, by_stage, material, entries, named)
        statistics = {
            **corpus.statistics(),
            **_baselines(corpus, split, encoder),
            "noise_floor": _noise_floor(corpus, encoder),
        }
        documents: dict[str, Any] = {"statistics.json": statistics}
        if root is None:
            documents["split.json"] = split.to_document(corpus)
        documents["run.json"] = self._described(corpus, sources, steering, described)
        if prepared is not None:
            documents[PREPARED] = prepared.document
        if steering is not None:
            values = trained_values(schema, controls)
            documents["schema.json"] = {"parameters": schema.to_document(), "values": values}
            opening += [f"Warning: {text}" for text in _beyond(steering)] + [_described_controls(steering, values)]
        log = _Log(run.folder / "log.txt", self.say_line)

        def begin() -> None:
            if log.is_open:
                return
            for name, document in documents.items():
                run.write(name, document)
            write_text(run.folder / CONFIG_NAME, config_text + "\n")
            log.open()

        try:
            for text in [*opening, _described_split(split, corpus, statistics)]:
                log.say(text, False)
            material = replace(material, statistics=statistics, say_line=log.say, begin=begin)
            return self._train_stages(stages, by_stage, material, entries, named)
        finally:
            log.close()
            if root is None:
                with contextlib.suppress(OSError):  # it is empty only if training never began
                    run.folder.rmdir()

    def load(self, described: dict[str, Any] | None, *, cluster: str | None = None) -> Corpus:
        """The recordings, encoded; described: what a run that is resumed knows of them."""
        session = self.session
        return load_corpus(
            session.data_dir,
            self.family.encoder(self.config),
            sample_rate=self._sample_rate(described),
            normalize=self.config.normalize,
            cache_dir=session.cache_dir or session.logdir_root / ".cache",
            # Workers of a machine find the cache made, or make it without taking each other's cores.
            jobs=1 if os.environ.get(TF_CONFIG) else os.cpu_count() or 1,
            cluster=cluster,
            without=[
                root / name for root in (session.logdir_root, session.output_dir) for name in ("", session.identity)
            ],
            progress=lambda done, total: self.say_line(f"Decoding: {done}/{total} recordings", True),
        )

    def _stages(self) -> list[str]:
        known = self.family.stages(self.config)
        wanted = list(known) if self.session.stages is None else list(self.session.stages)
        for stage in wanted:
            if stage not in known:
                near = difflib.get_close_matches(stage, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise UsageError(f"--stage {stage}: the config has {', '.join(known)}{hint}")
        return [stage for stage in known if stage in wanted]

    def _options_of(self, stage: str) -> TrainingOptions:
        """What was typed wins over the stage's own options, those over the options of all."""
        own = self.family.training_of(self.config, stage)
        if not own:
            return self.options
        training = {**split_training(self.document)[1], **own}
        options = resolve_training(self.session.typed, {"training": training}, f"{self.source}: {stage}")
        _refuse_foreign_options(options, self.family)
        return options

    def _sample_rate(self, described: dict[str, Any] | None) -> int | None:
        asked, configured = self.options.sample_rate, self.family.sample_rate(self.config)
        if asked and configured and asked != configured:
            raise UsageError(
                f"--sample_rate {asked} and the config's rate of audio, {configured}, differ: leave one of them out"
            )
        return asked or configured or (described["sample_rate"] if described else None)

    def _check(
        self,
        stages: Sequence[str],
        by_stage: Mapping[str, TrainingOptions],
        corpus: Corpus,
        split: Split,
        steering: Steering | None,
        prepared: Any,
    ) -> None:
        """Refuse what a later stage would be refused for, before anything is trained."""
        for stage in stages:
            monitor = by_stage[stage].monitor
            if monitor.endswith("accuracy") and not self.family.has_accuracy(self.config, stage):
                raise UsageError(
                    f"--monitor {monitor}: {stage} generates values, of which none is right or wrong; take "
                    f"{monitor.replace('accuracy', 'loss')}"
                )
            for part, spans in (("train", split.train), ("validate", split.valid)):
                try:
                    if spans:
                        self.family.dataset(
                            corpus, spans, self.config, stage, lanes=1, steering=steering, prepared=prepared
                        )
                except UsageError as error:
                    raise UsageError(f"what there is to {part} on: {error}") from None

    def _part(self, run: Run, stage: str) -> Run:
        return run.stage(stage if len(self.family.stages(self.config)) > 1 else None)

    def _entries(
        self, stages: Sequence[str], root: Run, resumed: tuple[Run, CheckpointEntry] | None
    ) -> dict[str, CheckpointEntry]:
        """The checkpoint that each stage goes on from: the one that was named, else its newest."""
        parts = {stage: self._part(root, stage) for stage in stages}
        found = {stage: part.latest() for stage, part in parts.items() if part.checkpoints}
        if resumed is not None:
            found |= {stage: resumed[1] for stage, part in parts.items() if part.folder == resumed[0].folder}
        return found

    def _refuse_other_slots(
        self, by_stage: Mapping[str, TrainingOptions], root: Run, entries: Mapping[str, CheckpointEntry]
    ) -> None:
        """UsageError where a checkpoint holds the state of another optimiser than a stage now has; RunError where it,
        or what was noted on the way, is damaged."""
        from tierwave.runs.checkpoints import check_mark, read_progress
        from tierwave.training.loop import slots_of

        stored = root.read(CONFIG_NAME)
        source = str(root.folder / CONFIG_NAME)
        family, config = load_config(stored, source)
        for stage, entry in entries.items():
            part = self._part(root, stage)
            check_mark(part.folder / entry.name, part)
            read_history(part)  # of which training goes on too
            before = read_progress(part.folder / entry.name).get("slots", "")
            if not before:  # a checkpoint of old, which did not say
                training = {**split_training(stored)[1], **family.training_of(config, stage)}
                before = slots_of(resolve_training({}, {"training": training}, source))
            now = slots_of(by_stage[stage])
            if before != now:
                optimizer, momentum = by_stage[stage].optimizer, by_stage[stage].momentum
                typed = f"--optimizer {optimizer}" + (f" --momentum {momentum:g}" if optimizer in before else "")
                raise UsageError(
                    f"{typed} cannot go on in the run {part.folder}, whose checkpoints hold the state of {before}: "
                    f"leave it out, or start from the run's weights under another --id, with --init_from {root.folder}"
                )

    def _refuse_too_large(
        self,
        stages: Sequence[str],
        by_stage: Mapping[str, TrainingOptions],
        corpus: Corpus,
        split: Split,
        steering: Steering | None,
        prepared: Any,
        devices: Devices,
    ) -> None:
        """TooLarge, on every worker, where a stage clearly does not fit into the memory of one."""
        complaint = ""
        try:
            for stage in stages:
                shape = {"lanes": by_stage[stage].batch_size, "steering": steering, "prepared": prepared}
                windows = self.family.dataset(corpus, split.train, self.config, stage, **shape)
                demand = self._demand(stage, by_stage[stage], devices, windows)
                judged(demand, room_of(demand))
        except TooLarge as error:
            complaint = str(error)
        for text in devices.texts(complaint):
            if text:
                raise TooLarge(text)

    def _jit(self, stage: str, on_gpu: bool) -> bool:
        """Whether a stage is compiled with XLA; by its options alone, so that it is when training goes on, too."""
        options = self._options_of(stage)
        if options.jit != "auto":
            return options.jit
        minutes = options.max_minutes
        if minutes is not None and "max_minutes" not in self.family.training_of(self.config, stage):
            minutes /= len(self.family.stages(self.config))
        worth_it = minutes is None or minutes >= LEAST_MINUTES_FOR_XLA
        return worth_it and bool(self.family.prefers_xla(self.config, on_gpu))

    def _demand(self, stage: str, options: TrainingOptions, devices: Devices, windows: LaneWindows) -> Demand:
        import tensorflow as tf

        on_gpu = bool(tf.config.list_physical_devices("GPU"))
        jit = self._jit(stage, on_gpu)
        shared = {"replicas": devices.replicas, "local": devices.local}
        jit = jit and devices.local == 1
        return Demand(self.family, self.config, stage, options, jit, on_gpu, windows, **shared)

    def _weights(self, new: Sequence[str]) -> dict[str, Any]:
        """Where the weights of each new stage come from, if they come from another run."""
        path = self.session.init_from
        if path is None or not new:
            return {}
        found = {stage: find_source(self.family, self.config, stage, path) for stage in new}
        if not any(found.values()):
            raise UsageError(f"--init_from {path} fits none of {', '.join(found)}: use its config with --config_file")
        return found

    def _described(
        self,
        corpus: Corpus,
        sources: ParamSources | None,
        steering: Steering | None,
        before: dict[str, Any] | None,
    ) -> dict[str, Any]:
        described = before or {
            "id": self.session.identity,
            "mark": uuid.uuid4().hex,
            "created": now(),
            "command": sys.argv,
            "sample_rate": corpus.sample_rate,
            "data_dir": absolute(self.session.data_dir),
            "corpus": corpus.identity,
            "versions": environment(),
        }
        if sources is not None and steering is not None:
            given = {"param_dir": self.session.param_dir, "params": self.session.params}
            if before is None or any(given.values()):
                described |= {key: None if path is None else str(path.resolve()) for key, path in given.items()}
            described["controls"] = _digests(corpus, steering.controls)
        return described

    def _parameters(
        self, corpus: Corpus, described: dict[str, Any] | None
    ) -> tuple[ParamSources | None, tuple[Controls, ...]]:
        """Where the parameters lie, None if the config has none; and those of every recording."""
        session, names = self.session, self.family.parameters(self.config)
        if not names:
            for flag, value in (("param_dir", session.param_dir), ("params", session.params)):
                if value is not None:
                    raise UsageError(
                        f"--{flag} {value} has nothing to steer: name parameters in the config's conditioned_on, or "
                        "leave it out"
                    )
            return None, ()
        given = {"param_dir": session.param_dir, "params": session.params}
        if described is not None and not any(given.values()):
            given = {key: Path(described[key]) if described.get(key) else None for key in given}
        # Whether names may stand for the values of a parameter, and which, is the config's to say.
        known = Schema(parameters=tuple(Parameter(name=name) for name in names))
        sources = find_param_sources(
            session.data_dir,
            param_dir=given["param_dir"],
            params=given["params"],
            name_params=names,
            categories=known.updated(self.config.controls, self.source).named,
        )
        return sources, tuple(sources.controls_of(recording.name, names) for recording in corpus.recordings)

    def _fitted(self, sources: ParamSources, corpus: Corpus, split: Split, controls: tuple[Controls, ...]) -> Schema:
        """The schema of the corpus and the config, its open ranges fitted to what is trained on."""
        names = self.family.parameters(self.config)
        schema = sources.schema_of([recording.name for recording in corpus.recordings], names)
        schema = schema.updated(self.config.controls, self.source)
        rate = corpus.sample_rate
        fitted = schema.fit(
            {
                name: track
                if track.is_constant
                else track.between(span.start / rate, span.stop / rate, schema.of(name).interp)
                for name, track in controls[span.recording].items()
            }
            for span in split.train
        )
        for parameter in fitted.parameters:
            if complaint := mismatch(parameter, [tracks[parameter.name] for tracks in controls]):
                raise RunError(complaint)
        return fitted

    def _train_stages(
        self,
        stages: Sequence[str],
        by_stage: Mapping[str, TrainingOptions],
        material: _Material,
        entries: Mapping[str, CheckpointEntry],
        named: Path | None,
    ) -> Outcome:
        """Train the stages in turn, each from its entry on. named: the folder of the stage of which a person named a
        checkpoint to go on from, which it does though it be finished."""
        from tierwave.training.callbacks import Limits

        run, several, devices = material.run, len(self.family.stages(self.config)) > 1, material.devices
        outcome = Outcome("there was nothing left to train", run, None)
        limits = Limits()
        spent = 0.0  # minutes of steps
        cut_short: dict[str, Run] = {}
        for number, stage in enumerate(stages):
            options = by_stage[stage]
            part = self._part(run, stage)
            if several:
                again = part.folder == named
                if devices.from_chief(_is_finished(part, options)) and not again:
                    material.say_line(f"{stage} is finished; --num_epochs and the like make it go on.", False)
                    continue
                material.say_line(f"Stage {stage} ({number + 1} of {len(stages)}):", False)
                own = self.family.training_of(self.config, stage).get("max_minutes")
                if options.max_minutes is not None and own is None:  # the time that is left, in equal shares
                    left = (options.max_minutes - spent) / (len(stages) - number)
                    share = float(devices.from_chief(max(left, options.max_minutes / len(stages) / 2)))
                    options = options.model_copy(update={"max_minutes": share})
                    limits = Limits(is_share=True)
                else:
                    limits = Limits()
            outcome = self._train_stage(stage, options, part, material, entries.get(stage), limits)
            spent += limits.seconds / 60.0
            if not outcome.finished:
                cut_short[stage] = part
            if several and outcome.finished and devices.is_chief:
                part.write("finished.json", by_stage[stage].model_dump(mode="json"))
            if outcome.signal is not None:
                break
        if devices.is_chief and several:
            for remark in hardly_trained(cut_short):
                material.say_line(f"Warning: {remark}", False)
        return Outcome(outcome.reason, run, outcome.signal)

    def _train_stage(
        self,
        stage: str,
        options: TrainingOptions,
        part: Run,
        material: _Material,
        entry: CheckpointEntry | None,
        limits: Limits,
    ) -> Outcome:
        from tierwave.training.devices import lost_workers_told

        session, say_line = self.session, material.say_line
        trainer = self._trainer(stage, options, part, material, limits)
        if entry is not None:
            typed_rate = session.typed.get("learning_rate")
            for remark in trainer.restore(part, entry):
                say_line(remark, False)
            if typed_rate is not None:
                trainer.learning_rate = typed_rate
            say_line(f"Going on from {part.folder / entry.name} (step {entry.step}).", False)
        elif material.weights.get(stage) is not None:
            schema = Schema() if material.steering is None else material.steering.schema
            prepared = None if material.prepared is None else material.prepared.document
            take_weights(trainer.learner.model, self.family, material.weights[stage], schema, prepared)
        material.begin()
        if material.devices.is_chief:
            part.folder.mkdir(exist_ok=True)
        demand = self._demand(stage, options, material.devices, trainer.data)
        with lost_workers_told(material.devices), told_when_it_runs_out(demand):
            trainer.fit()
        reason = trainer.stop_reason or ""
        best = part.best()
        if best.best and best != part.latest():
            say_line(f"The best checkpoint is {best.name}: generate.py --best takes it, without it the newest.", False)
        say_line(f"Stopped: {reason}. The run is in {material.run.folder}", False)
        return Outcome(reason, part, trainer.interrupted, trainer.finished)

    def _trainer(self, stage: str, options: TrainingOptions, part: Run, material: _Material, limits: Limits) -> Trainer:
        import tensorflow as tf

        from tierwave.training.callbacks import standard_callbacks
        from tierwave.training.loop import Learner, Trainer
        from tierwave.training.tensorboard import MOST_SECONDS, HeldAgainst

        devices, session, family = material.devices, self.session, self.family
        config, corpus = self.config, material.corpus
        on_gpu = bool(tf.config.list_physical_devices("GPU"))
        jit = self._jit(stage, on_gpu)
        shape = {
            "lanes": options.batch_size,
            "multiple_of": devices.replicas,
            "worker": (devices.rank, devices.workers),
            "steering": material.steering,
            "prepared": material.prepared,
        }
        spans = material.split
        data = family.dataset(corpus, spans.train, config, stage, seed=options.random_seed, **shape)
        valid = family.dataset(corpus, spans.valid, config, stage, shuffled=False, **shape) if spans.valid else None
        steps = options.num_epochs * data.steps
        learner = Learner(
            lambda: family.build(
                config, stage, compute_dtype=options.precision.removeprefix("mixed_"), fused=on_gpu and not jit
            ),
            options,
            jit=jit,
            devices=devices,
            inputs=family.training_inputs(options, min(steps, options.num_steps or steps)),
            **family.clipping(config, stage),
        )
        for warning in lane_warnings(data, options.batch_size):
            material.say_line(f"Warning: {warning}", False)
        material.say_line(
            f"{learner.model.count_params():,} parameters, {data.lanes} lanes x {data.window} "
            f"{learner.model.steps_are}, {data.steps} steps an epoch, {options.precision}, "
            f"{'XLA' if learner.jit else 'no XLA'}{_shared_by(devices)}",
            False,
        )
        demand = self._demand(stage, options, devices, data)
        room = room_of(demand)
        material.say_line(announced(demand.estimate(), room), False)
        tight = judged(demand, room)
        if tight:
            material.say_line(f"Warning: {tight}.", False)
        bars = family.bars(material.prepared, material.split, config, stage)
        if bars:
            listed = ", ".join(f"{nats:.3f} ({name})" for name, nats in bars.items())
            material.say_line(f"To beat on held-out sound, in nats per value: {listed}", False)
        elif devices.is_chief and learner.model.has_accuracy:
            bars = audio_bars(material.statistics)
        generation = self._generation(stage, options, learner, material) if devices.is_chief else None
        encoder = family.encoder(config)
        callbacks = standard_callbacks(
            config_text=material.config_text,
            generation=generation,
            say_line=material.say_line,
            rewrite=session.rewrite,
            is_chief=devices.is_chief,
            limits=limits,
            bars=bars,
            held_against=HeldAgainst(
                lambda: _sounds(corpus, spans.valid or spans.train, encoder, MOST_SECONDS),
                corpus.sample_rate,
                Schema() if material.steering is None else material.steering.schema,
            ),
        )
        return Trainer(learner, data, valid, options, part, [*session.watch(stage), *callbacks])

    def _generation(
        self, stage: str, options: TrainingOptions, learner: Learner, material: _Material
    ) -> Generation | None:
        """What makes sounds during training, steered as the recordings that are held out."""
        from tierwave.training.callbacks import generation_request
        from tierwave.training.previews import Generation, Sound

        session, family, config, corpus = self.session, self.family, self.config, material.corpus
        if not options.generate or options.max_generate_per_epoch == 0:
            return None
        seed = seed_audio(options.seed, options.seed_offset, corpus.sample_rate, config.normalize, corpus.gain)
        folder = session.output_dir / session.identity
        try:  # now, not after the first epoch
            make_own(session.output_dir)
            make_own(folder)
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be written to ({error.strerror}): name another --output_dir, or leave generating "
                "out with --generate False"
            ) from None
        schema = Schema()
        followed: tuple[Controls, ...] = ()
        if material.steering is not None:
            schema = material.steering.schema
            split = material.split
            spans = (split.valid or split.train)[: options.max_generate_per_epoch]
            names = family.steerable(config, stage)
            for span in spans:
                tracks = material.steering.controls[span.recording]
                followed += (shifted({name: tracks[name] for name in names}, span.start / corpus.sample_rate),)
        name = f"{session.identity}_{stage}" if len(family.stages(config)) > 1 else session.identity
        held_out = material.split.valid or material.split.train
        sounds = []
        for preview in family.previews(corpus, held_out, config, stage, material.prepared):
            below = {each: material.run.stage(each) for each in preview.below}
            if not all(part.checkpoints for part in below.values()):
                continue  # of a stage that is trained alone

            @functools.cache
            def models(below: tuple[tuple[str, Run], ...] = tuple(below.items())) -> list[Any]:
                parts = [load_model(family, config, each, part.folder / part.best().name) for each, part in below]
                return [*parts, learner.model]

            def start(request: Request, models: Callable[[], list[Any]] = models) -> Stream:
                return family.stream(
                    models(),
                    config,
                    request,
                    sample_rate=corpus.sample_rate,
                    schema=schema,
                    stage=stage,
                    prepared=None if material.prepared is None else material.prepared.document,
                )

            request = generation_request(options, seed, followed, preview.asked)
            sounds.append(Sound(name + preview.name, start, request))
        return Generation(sounds, folder, material.say_line)


@dataclass(frozen=True)
class _Material:
    """What all stages of a session are trained on and write to. begin(): what the run keeps of the session is written,
    the first time that it is called."""

    corpus: Corpus
    split: Split
    steering: Steering | None
    prepared: Any
    weights: Mapping[str, Any]
    run: Run
    config_text: str
    say_line: SayLine
    devices: Devices
    statistics: Mapping[str, float] = field(default_factory=dict)
    begin: Callable[[], None] = lambda: None


@dataclass
class _Log:
    """What a session says, said at once, and kept in the file `path` once that is opened; what was said before too."""

    path: Path
    say_line: SayLine
    _before: list[str] = field(default_factory=lambda: [f"{_now()}: {shlex.join(sys.argv)}"])
    _file: TextIO | None = None
    _lines: ProgressLine | None = None

    @property
    def is_open(self) -> bool:
        return self._file is not None

    def open(self) -> None:
        """Write what was said so far, and from now on each line as it is said."""
        self._file = open(self.path, "a", encoding="utf-8", errors=ESCAPED)  # noqa: SIM115 (closed by close)
        self._lines = ProgressLine(self._file)
        for line in self._before:
            self._lines.say(line)

    def say(self, text: str, rewrite: bool) -> None:
        """Say a line and keep it; of how far something is, as much as of a log that grows."""
        if self._lines is not None:
            self._lines.say(text, rewrite)
        elif not rewrite:
            self._before.append(text)
        self.say_line(text, rewrite)

    def close(self) -> None:
        """Close the file, if it was opened."""
        if self._file is not None:
            self._file.write(f"{_now()}: ended\n")
            self._file.close()


def _now() -> str:
    return f"{datetime.now():%Y-%m-%d %H:%M:%S}"


def _devices(options: TrainingOptions) -> Devices:
    from tierwave.nn.runtime import grow_gpu_memory
    from tierwave.training.devices import make_devices

    grow_gpu_memory()
    return make_devices(options.strategy)


def _shared_by(devices: Devices) -> str:
    if devices.replicas == 1:
        return ""
    return f", {devices.replicas} replicas" + (f" on {devices.workers} workers" if devices.workers > 1 else "")


def _digest(document: Any) -> str:
    return hashlib.blake2b(json.dumps(document, sort_keys=True).encode(), digest_size=8).hexdigest()


def _refuse_other_workers(devices: Devices, mine: dict[str, Any]) -> None:
    """UsageError, on every worker, where one would train something else than the chief."""
    texts = devices.texts(json.dumps(mine))
    for rank, text in enumerate(texts[1:], start=1):
        changes = difference(json.loads(texts[0]), json.loads(text))
        if changes:
            raise UsageError(
                f"worker {rank} would train something else than the chief ({'; '.join(changes)}): start all workers "
                "with the same flags, config and recordings, and a --logdir_root that all of them share"
            )


def _common_run(devices: Devices, session: Session, root: Run | None) -> Run:
    """The run of all workers: the one that training goes on in, or a new one that the chief makes."""
    if root is not None:
        return root
    made = create_run(session.logdir_root, session.identity) if devices.is_chief else None
    name = devices.text_from_chief("" if made is None else made.folder.name)
    run = Run(session.logdir_root / session.identity / name)
    seen = devices.total([float(run.folder.is_dir() or other != devices.rank) for other in range(devices.workers)])
    blind = [rank for rank, count in enumerate(seen) if count < devices.workers]
    if blind:
        raise UsageError(
            f"worker {blind[0]} does not see the run folder {run.folder} that the chief has made: --logdir_root must "
            "be a folder that all workers share, such as one on a network file system"
        )
    return run


def _is_finished(part: Run, options: TrainingOptions) -> bool:
    """Whether a stage has ended by itself under these options (however long this command may take)."""
    if not (part.folder / "finished.json").exists() or not part.checkpoints:
        return False
    done = part.read("finished.json")
    now = options.model_dump(mode="json")
    here = {"max_minutes": None, "memory_check": None}
    return {**done, **here} == {**now, **here}


def _beyond(steering: Steering) -> list[str]:
    """What of the corpus lies beyond a range that was given, one sentence per parameter."""
    found: dict[str, str] = {}
    odd: list[str] = []
    for parameter in steering.schema.parameters:
        if parameter.span[0] == parameter.span[1]:
            found[parameter.name] = (
                f"{parameter.name} is {parameter.span[0]:g} wherever it is trained on, so it will steer nothing."
            )
            continue
        odd += [f"{text}." for text in coverage(parameter, [tracks[parameter.name] for tracks in steering.controls])]
        for controls in steering.controls:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", ControlWarning)
                parameter.normalise(controls[parameter.name].values)
            if caught:
                found.setdefault(parameter.name, f"{caught[0].message}, in training too.")
    return [*found.values(), *odd]


def _described_controls(steering: Steering, values: Mapping[str, Sequence[float]]) -> str:
    parts = []
    for parameter in steering.schema.parameters:
        lo, hi = parameter.span
        trained = values[parameter.name]
        many = f"{len(trained)} value{'s' if len(trained) > 1 else ''}"
        constant = all(controls[parameter.name].is_constant for controls in steering.controls)
        unit = f" {parameter.units}" if parameter.units else ""
        names = 0 < len(parameter.categories) <= 6
        span = "|".join(parameter.categories) if names else f"{lo:g} to {hi:g}{unit}"
        parts.append(f"{parameter.name} {span} ({many if constant else 'over time'})")
    return "Parameters: " + ", ".join(parts)


def _digests(corpus: Corpus, controls: Sequence[Controls]) -> dict[str, str]:
    """A digest of the parameters of every recording, by its name."""
    found = {}
    for recording, tracks in zip(corpus.recordings, controls, strict=True):
        digest = hashlib.blake2b(digest_size=8)
        for name, track in sorted(tracks.items()):
            digest.update(name.encode() + track.times.tobytes() + track.values.tobytes())
        found[recording.name] = digest.hexdigest()
    return found


def _refuse_other_parameters(controls: Sequence[Controls], corpus: Corpus, described: dict[str, Any], run: Run) -> None:
    before = described.get("controls")
    if before is None or not controls:
        return
    before = {folded(name): digest for name, digest in before.items()}
    changed = [name for name, digest in _digests(corpus, controls).items() if before.get(folded(name)) != digest]
    if changed:
        raise UsageError(
            f"the parameters of {len(changed)} recordings (such as {changed[0]}) are other ones than the run "
            f"{run.folder} was trained on: give this training another --id, or start from the run's weights with "
            "--init_from"
        )


def _split(
    corpus: Corpus,
    encoder: Any,
    family: Family,
    config: Any,
    options: TrainingOptions,
    controls: Sequence[Controls],
    guard: int,
) -> Split:
    fraction = options.val_frac
    if options.num_val_batches is not None:
        wanted = options.num_val_batches * options.batch_size * family.window_samples(config)
        fraction = wanted / corpus.samples
        if fraction + options.test_frac >= 1:
            raise UsageError(
                f"num_val_batches {options.num_val_batches} holds out {wanted} samples, and the corpus has only "
                f"{corpus.samples}: use a smaller number, or --val_frac"
            )
    return make_split(
        corpus,
        lambda index: encoder.decode(np.asarray(corpus.of(index))),
        valid_fraction=fraction,
        test_fraction=options.test_frac,
        seed=options.random_seed,
        smallest_guard=max(family.overlap(config), guard),
        values=[constants_of(each) for each in controls] or None,
    )


def _refuse_other_corpus(corpus: Corpus, described: dict[str, Any], session: Session, run: Run) -> None:
    if described["sample_rate"] != corpus.sample_rate:
        raise UsageError(
            f"the run {run.folder} was trained at {described['sample_rate']} Hz, and --sample_rate asks for "
            f"{corpus.sample_rate}: leave it out, or give this training another --id"
        )
    before, now = described["corpus"], corpus.identity
    if before != now:  # by another form of their names they are the same
        before, now = ({folded(name): digest for name, digest in each.items()} for each in (before, now))
    if before != now:
        gone, new = sorted(before.keys() - now.keys()), sorted(now.keys() - before.keys())
        changed = sorted(name for name in before.keys() & now.keys() if before[name] != now[name])
        parts = [
            f"{len(names)} {what} (such as {names[0]})"
            for what, names in (("missing", gone), ("new", new), ("changed", changed))
            if names
        ]
        raise UsageError(
            f"--data_dir {session.data_dir} is another corpus than the run {run.folder} was trained on "
            f"({', '.join(parts)}): give this training another --id, or start from the run's weights with --init_from"
        )


def _baselines(corpus: Corpus, split: Split, encoder: Any) -> dict[str, float]:
    """What models without any memory reach on the held-out codes, in bits per sample: the bars to beat."""
    if not isinstance(encoder, Quantizer) or encoder.levels > MOST_LEVELS or not split.valid:
        return {}

    counted = CodeStatistics(encoder.levels)
    left = MOST_COUNTED
    for span in split.train:
        counted.add(corpus.blocks(span.recording, span.start, min(span.stop, span.start + left)))
        left -= span.stop - span.start
        if left <= 0:
            break

    def valid() -> Iterator[Iterator[np.ndarray]]:
        return (corpus.blocks(*span) for span in split.valid)

    return {"histogram_bits": counted.histogram_bits(valid()), "markov_bits": counted.markov_bits(valid())}


def _noise_floor(corpus: Corpus, encoder: Any) -> float:
    """Root mean square of the quiet stretches of 20 ms (the 5th percentile of those that are not digital silence)."""
    length = max(1, round(0.02 * corpus.sample_rate))
    found = []
    for index, recording in enumerate(corpus.recordings[:100]):
        (codes,) = corpus.parts([(index, 0, min(recording.samples, 10 * corpus.sample_rate))])
        sound = encoder.decode(np.asarray(codes))
        frames = sound[: recording.samples // length * length]
        frames = frames[: len(frames) // length * length].reshape(-1, length)
        found.append(np.sqrt(np.mean(np.square(frames - frames.mean(axis=1, keepdims=True)), axis=1)))
    levels = np.concatenate(found)
    levels = levels[levels > 0]
    return float(np.percentile(levels, 5)) if len(levels) else 0.0


def _sounds(corpus: Corpus, spans: Sequence[Span], encoder: Any, seconds: float) -> list[np.ndarray]:
    """The first `seconds` of `spans`, float `[samples]` each."""
    left, wanted = round(seconds * corpus.sample_rate), []
    for span in spans:
        wanted.append((span.recording, span.start, min(span.stop, span.start + left)))
        left -= wanted[-1][2] - span.start
        if left <= 0:
            break
    return [encoder.decode(np.asarray(codes)) for codes in corpus.parts(wanted)]


def _described_split(split: Split, corpus: Corpus, statistics: dict[str, Any]) -> str:
    def seconds(spans: Any) -> float:
        return sum(span.stop - span.start for span in spans) / corpus.sample_rate

    how = "whole recordings" if split.method == "files" else "stretches spread over the recordings"
    text = f"Training on {seconds(split.train):.1f} s, validating on {seconds(split.valid):.1f} s"
    if split.test:
        text += f", testing on {seconds(split.test):.1f} s"
    text += f" ({how} held out)"
    if "markov_bits" in statistics:
        text += (
            f"\nTo beat on held-out sound: {statistics['histogram_bits']:.3f} bits per sample (code histogram), "
            f"{statistics['markov_bits']:.3f} (first-order Markov model)"
        )
    return text
