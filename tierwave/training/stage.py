"""Training of one stage: its network, windows, callbacks and the sounds that it makes on the way."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tierwave.config import TrainingOptions
from tierwave.controls.tracks import Controls, shifted
from tierwave.data.windows import LaneWindows, lane_warnings
from tierwave.errors import UsageError
from tierwave.files.folders import make_own
from tierwave.generation.load import Source, load_model, seed_audio, take_weights
from tierwave.generation.request import Request, Stream
from tierwave.runs.folder import CheckpointEntry, Run
from tierwave.runs.history import code_baselines
from tierwave.system.progress import SayLine
from tierwave.training.memory import announced, judged, room_of, told_when_it_runs_out
from tierwave.training.plan import Plan, TrainingResult
from tierwave.training.prepare import Material
from tierwave.training.summary import sounds_of

if TYPE_CHECKING:
    from tierwave.training.callbacks import Limits
    from tierwave.training.devices import Devices
    from tierwave.training.loop import Trainer
    from tierwave.training.previews import Generation
    from tierwave.training.step import Learner


@dataclass(frozen=True)
class RunContext:
    """The run that the stages are trained in, and what of it concerns all of them.

    devices: that train it; weights: where those of a new stage come from, if from another run; config_text: the config
    as it is trained; statistics: of the corpus; begin(): writes what the run keeps of the session, the first time that
    it is called.
    """

    run: Run
    devices: Devices
    weights: Mapping[str, Source | None]
    config_text: str
    say_line: SayLine
    statistics: Mapping[str, float] = field(default_factory=dict)
    begin: Callable[[], None] = lambda: None

    def say(self, text: str) -> None:
        """A line that stays."""
        self.say_line(text, False)


def train_stage(
    plan: Plan,
    stage: str,
    options: TrainingOptions,
    material: Material,
    context: RunContext,
    entry: CheckpointEntry | None,
    limits: Limits,
) -> TrainingResult:
    """Train a stage, from its checkpoint `entry` on where there is one; limits: of time and steps."""
    from tierwave.training.devices import lost_workers_told

    part = plan.part(context.run, stage)
    trainer = _trainer(plan, stage, options, part, material, context, limits)
    if entry is not None:
        for remark in trainer.restore(part, entry):
            context.say(remark)
        typed_rate = plan.session.typed.get("learning_rate")
        if typed_rate is not None:
            trainer.learning_rate = typed_rate
        context.say(f"Going on from {part.folder / entry.name} (step {entry.step}).")
    elif (source := context.weights.get(stage)) is not None:
        take_weights(trainer.learner.model, plan.family, source, material.schema, material.dataset_json)
    context.begin()
    if context.devices.is_chief:
        part.folder.mkdir(exist_ok=True)
    demand = plan.demand(stage, options, context.devices, trainer.data)
    with lost_workers_told(context.devices), told_when_it_runs_out(demand):
        trainer.fit()
    reason = trainer.stop_reason or ""
    best = part.best()
    if best.best and best != part.latest():
        context.say(f"The best checkpoint is {best.name}: generate.py --best takes it, without it the newest.")
    context.say(f"Stopped: {reason}. The run is in {context.run.folder}")
    return TrainingResult(reason, part, trainer.interrupted, trainer.finished)


def _trainer(
    plan: Plan,
    stage: str,
    options: TrainingOptions,
    part: Run,
    material: Material,
    context: RunContext,
    limits: Limits,
) -> Trainer:
    import tensorflow as tf

    from tierwave.training.callbacks import standard_callbacks
    from tierwave.training.loop import Trainer
    from tierwave.training.step import Learner
    from tierwave.training.tensorboard import MOST_SECONDS, HeldAgainst

    devices, family, config = context.devices, plan.family, plan.config
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    jit = plan.jit(stage, on_gpu)
    shape = {
        "lanes": options.batch_size,
        "multiple_of": devices.replicas,
        "worker": (devices.rank, devices.workers),
    }
    split = material.split
    data = material.windows(plan, stage, split.train, seed=options.random_seed, **shape)
    valid = material.windows(plan, stage, split.valid, shuffled=False, **shape) if split.valid else None
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
    _announce(plan, stage, options, learner, data, context)
    baselines = family.baselines(material.dataset_state, split, config, stage)
    if baselines:
        listed = ", ".join(f"{nats:.3f} ({name})" for name, nats in baselines.items())
        context.say(f"To beat on held-out sound, in nats per value: {listed}")
    elif devices.is_chief and learner.model.has_accuracy:
        baselines = code_baselines(context.statistics)
    generation = _generation(plan, stage, options, learner, material, context) if devices.is_chief else None
    encoder = family.encoder(config)
    callbacks = standard_callbacks(
        config_text=context.config_text,
        generation=generation,
        say_line=context.say_line,
        rewrite=plan.session.rewrite,
        is_chief=devices.is_chief,
        limits=limits,
        baselines=baselines,
        held_against=HeldAgainst(
            lambda: sounds_of(material.corpus, split.valid or split.train, encoder, MOST_SECONDS),
            material.corpus.sample_rate,
            material.schema,
        ),
    )
    return Trainer(learner, data, valid, options, part, [*plan.session.watch(stage), *callbacks])


def _announce(
    plan: Plan, stage: str, options: TrainingOptions, learner: Learner, data: LaneWindows, context: RunContext
) -> None:
    """Say how large the network is, in which steps it learns, and how much memory it will need."""
    devices = context.devices
    for warning in lane_warnings(data, options.batch_size):
        context.say(f"Warning: {warning}")
    shared = "" if devices.replicas == 1 else f", {devices.replicas} replicas"
    shared += f" on {devices.workers} workers" if devices.replicas > 1 and devices.workers > 1 else ""
    context.say(
        f"{learner.model.count_params():,} parameters, {data.lanes} lanes x {data.window} "
        f"{learner.model.steps_are}, {data.steps} steps an epoch, {options.precision}, "
        f"{'XLA' if learner.jit else 'no XLA'}{shared}"
    )
    demand = plan.demand(stage, options, devices, data)
    room = room_of(demand)
    context.say(announced(demand.estimate(), room))
    if tight := judged(demand, room):
        context.say(f"Warning: {tight}.")


def _generation(
    plan: Plan, stage: str, options: TrainingOptions, learner: Learner, material: Material, context: RunContext
) -> Generation | None:
    """What makes sounds during training, steered as the recordings that are held out."""
    from tierwave.training.callbacks import generation_request
    from tierwave.training.previews import Generation, Sound

    session, family, config, corpus = plan.session, plan.family, plan.config, material.corpus
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
    held_out = material.split.valid or material.split.train
    followed: tuple[Controls, ...] = ()
    if material.steering is not None:
        names = family.steerable(config, stage)
        for span in held_out[: options.max_generate_per_epoch]:
            tracks = material.steering.controls[span.recording]
            followed += (shifted({name: tracks[name] for name in names}, span.start / corpus.sample_rate),)
    name = f"{session.identity}_{stage}" if plan.has_several else session.identity
    sounds = []
    for preview in family.previews(corpus, held_out, config, stage, material.dataset_state):
        below = {each: context.run.stage(each) for each in preview.below}
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
                schema=material.schema,
                stage=stage,
                dataset_state=material.dataset_json,
            )

        sounds.append(Sound(name + preview.name, start, generation_request(options, seed, followed, preview.asked)))
    return Generation(sounds, folder, context.say_line)
