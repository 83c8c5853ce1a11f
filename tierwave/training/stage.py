"""Training of one stage: its network, windows, callbacks and the sounds that it makes on the way."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tierwave.config import TrainingOptions
from tierwave.controls.tracks import Controls, shifted
from tierwave.data.splits import Span
from tierwave.data.windows import LaneWindows, lane_warnings
from tierwave.engine.voices import prepare
from tierwave.errors import UsageError
from tierwave.files.folders import make_own
from tierwave.generation.load import Source, load_model, load_seed, network_of, take_weights
from tierwave.generation.request import Request, Stream
from tierwave.runs.folder import CheckpointEntry, Run
from tierwave.runs.history import code_baselines
from tierwave.runs.start import StartingWeights
from tierwave.system.progress import SayLine
from tierwave.training.checks import refuse_monitor
from tierwave.training.memory import Demand, announced, judged, room_of, told_when_it_runs_out
from tierwave.training.plan import Plan, TrainingResult
from tierwave.training.prepare import Material
from tierwave.training.summary import sounds_of

if TYPE_CHECKING:
    from tierwave.training.callbacks import Limits
    from tierwave.training.devices import Devices
    from tierwave.training.loop import Callback
    from tierwave.training.previews import Generation
    from tierwave.training.step import Learner


@dataclass(frozen=True)
class Stage:
    """A stage ready to be trained: its options, its windows, whether XLA compiles it, and the memory it needs."""

    name: str
    options: TrainingOptions
    data: LaneWindows
    valid: LaneWindows | None
    jit: bool
    demand: Demand


@dataclass(frozen=True)
class RunContext:
    """The run that the stages are trained in, and what they share of it.

    devices: that train it; sources: where the weights of a new stage come from, if from another run; config_text: the
    config as it is trained; statistics: of the corpus; begin(): writes what the run records, at its first call.
    """

    run: Run
    devices: Devices
    sources: Mapping[str, Source | StartingWeights | None]
    config_text: str
    say_line: SayLine
    statistics: Mapping[str, float] = field(default_factory=dict)
    begin: Callable[[], None] = lambda: None

    def say(self, text: str) -> None:
        """Print a line that is not rewritten."""
        self.say_line(text, False)


def stage_of(plan: Plan, name: str, material: Material, devices: Devices) -> Stage:
    """Make a stage ready. Raises UsageError where it cannot be trained on what there is."""
    import tensorflow as tf

    family, config, options = plan.family, plan.config, plan.by_stage[name]
    refuse_monitor(family, config, name, options.monitor)

    def windows(part: str, spans: Sequence[Span], **order: Any) -> LaneWindows:
        try:
            return family.dataset(
                material.corpus,
                spans,
                config,
                name,
                steering=material.steering,
                dataset_state=material.dataset_state,
                lanes=options.batch_size,
                multiple_of=devices.replicas,
                worker=(devices.rank, devices.workers),
                **order,
            )
        except UsageError as error:
            raise UsageError(f"what there is to {part} on: {error}") from None

    split = material.split
    starts = {"fresh_starts": options.fresh_starts, "joined": options.joined}
    data = windows("train", split.train, seed=options.random_seed, **starts)
    silent = options.fresh_starts > 0.0
    valid = windows("validate", split.valid, shuffled=False, silent_starts=silent) if split.valid else None
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    jit = family.uses_xla(config, name, options, on_gpu) and devices.local == 1
    shared = {"replicas": devices.replicas, "local": devices.local}
    demand = Demand(family, config, name, options, jit, on_gpu, data, **shared)
    return Stage(name, options, data, valid, jit, demand)


def train_stage(
    plan: Plan,
    stage: Stage,
    options: TrainingOptions,
    material: Material,
    context: RunContext,
    entry: CheckpointEntry | None,
    limits: Limits,
) -> TrainingResult:
    """Train a stage, from its checkpoint `entry` on where there is one. options: the stage's, with the minutes that it
    has; limits: of time and steps."""
    from tierwave.training.devices import lost_workers_told
    from tierwave.training.loop import Trainer
    from tierwave.training.step import Learner

    family, config, devices, part = plan.family, plan.config, context.devices, plan.part(context.run, stage.name)
    steps = options.num_epochs * stage.data.steps
    learner = Learner(
        lambda: family.build(
            config,
            stage.name,
            compute_dtype=options.precision.removeprefix("mixed_"),
            fused=stage.demand.on_gpu and not stage.jit,
        ),
        options,
        jit=stage.jit,
        devices=devices,
        inputs=family.training_inputs(options, min(steps, options.num_steps or steps)),
        **family.clipping(config, stage.name),
    )
    _announce(stage, learner, context)
    callbacks = _callbacks(plan, stage, options, learner, material, context, limits)
    trainer = Trainer(learner, stage.data, stage.valid, options, part, [*plan.request.watch(stage.name), *callbacks])
    if entry is not None:
        for remark in trainer.restore(part, entry):
            context.say(remark)
        typed_rate = plan.request.typed.get("learning_rate")
        if typed_rate is not None:
            trainer.learning_rate = typed_rate
        context.say(f"Going on from {part.folder / entry.name} (step {entry.step}).")
    elif (source := context.sources.get(stage.name)) is not None:
        take_weights(learner.model, family, source, material.schema, material.dataset_json)
    context.begin()
    if devices.is_chief:
        part.folder.mkdir(exist_ok=True)
    with lost_workers_told(devices), told_when_it_runs_out(stage.demand):
        trainer.fit()
    reason = trainer.stop_reason or ""
    best = part.best()
    if best.best and best != part.latest():
        context.say(f"The best checkpoint is {best.name}: generate.py --best takes it, without it the newest.")
    context.say(f"Stopped: {reason}. The run is in {context.run.folder}")
    return TrainingResult(reason, part, trainer.interrupted, trainer.finished)


def _announce(stage: Stage, learner: Learner, context: RunContext) -> None:
    """Say how large the network is, in which steps it learns, and how much memory it will need."""
    devices, data, options = context.devices, stage.data, stage.options
    for warning in lane_warnings(data, options.batch_size):
        context.say(f"Warning: {warning}")
    shared = "" if devices.replicas == 1 else f", {devices.replicas} replicas"
    shared += f" on {devices.workers} workers" if devices.replicas > 1 and devices.workers > 1 else ""
    context.say(
        f"{learner.model.count_params():,} weights, {data.lanes} lanes x {data.window} "
        f"{learner.model.steps_are}, {data.steps} steps an epoch, {options.precision}, "
        f"{'XLA' if stage.jit else 'no XLA'}{shared}"
    )
    room = room_of(stage.demand)
    context.say(announced(stage.demand.estimate(), room))
    if tight := judged(stage.demand, room):
        context.say(f"Warning: {tight}.")


def _callbacks(
    plan: Plan,
    stage: Stage,
    options: TrainingOptions,
    learner: Learner,
    material: Material,
    context: RunContext,
    limits: Limits,
) -> list[Callback]:
    from tierwave.training.callbacks import standard_callbacks
    from tierwave.training.tensorboard import MOST_SECONDS, HeldAgainst

    split, is_chief, encoder = material.split, context.devices.is_chief, plan.family.encoder(plan.config)
    baselines = plan.family.baselines(material.dataset_state, split, plan.config, stage.name)
    if baselines:
        listed = ", ".join(f"{nats:.3f} ({name})" for name, nats in baselines.items())
        context.say(f"To beat on held-out sound, in nats per value: {listed}")
    elif is_chief and learner.model.has_accuracy:
        baselines = code_baselines(context.statistics)
    return standard_callbacks(
        config_text=context.config_text,
        generation=_generation(plan, stage.name, options, learner, material, context) if is_chief else None,
        say_line=context.say_line,
        rewrite=plan.request.rewrite,
        is_chief=is_chief,
        limits=limits,
        baselines=baselines,
        steered=bool(material.schema.names),
        held_against=HeldAgainst(
            lambda: sounds_of(material.corpus, split.valid or split.train, encoder, MOST_SECONDS),
            material.corpus.sample_rate,
            material.schema,
        ),
    )


def _generation(
    plan: Plan, stage: str, options: TrainingOptions, learner: Learner, material: Material, context: RunContext
) -> Generation | None:
    """What makes sounds during training, steered as the recordings that are held out."""
    import tensorflow as tf

    from tierwave.training.callbacks import generation_request
    from tierwave.training.previews import Generation, Sound

    request, family, config, corpus = plan.request, plan.family, plan.config, material.corpus
    if not options.generate or options.max_generate_per_epoch == 0:
        return None
    seed = None
    if options.seed is not None:
        seed = load_seed(options.seed, options.seed_offset, corpus.sample_rate, config.normalize, corpus.gain)
    folder = request.output_dir / request.identity
    try:  # now, not after the first epoch
        make_own(request.output_dir)
        make_own(folder)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written to ({error.strerror}): name another --output_dir, or leave generating "
            "out with --generate False"
        ) from None
    held_out = material.split.valid or material.split.train
    followed: tuple[Controls, ...] = ()
    if material.steering is not None:
        names = family.steerable(config, stage)
        for span in held_out[: options.max_generate_per_epoch]:
            tracks = material.steering.controls[span.recording]
            followed += (shifted({name: tracks[name] for name in names}, span.start / corpus.sample_rate),)
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    name = f"{request.identity}_{stage}" if plan.has_several else request.identity
    sounds = []
    for preview in family.previews(corpus, held_out, config, stage, material.dataset_state):
        below = {each: context.run.stage(each) for each in preview.below}
        if not all(part.checkpoints for part in below.values()):
            continue  # of a stage that is trained alone

        @functools.cache
        def models(below: tuple[tuple[str, Run], ...] = tuple(below.items())) -> list[Any]:
            parts = [load_model(family, config, each, part.folder / part.best().name) for each, part in below]
            return [*parts, learner.model]

        def start(
            request: Request, models: Callable[[], list[Any]] = models, below: tuple[str, ...] = preview.below
        ) -> Stream:
            playing = models()
            if family.has_networks and not on_gpu:
                names = [*below, stage]
                playing = [network_of(family, config, *pair) for pair in zip(names, playing, strict=True)]
                for network in playing:
                    prepare(network, lambda text: context.say_line(text, False))
            return family.stream(
                playing,
                config,
                request,
                sample_rate=corpus.sample_rate,
                schema=material.schema,
                stage=stage,
                dataset_state=material.dataset_json,
            )

        sounds.append(Sound(name + preview.name, start, generation_request(options, seed, followed, preview.options)))
    return Generation(sounds, folder, context.say_line)
