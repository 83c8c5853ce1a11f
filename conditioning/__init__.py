"""Conditional tiers (MTCRNN, Huzaifah & Wyse 2020; RNNControl, Wyse 2018): sound steered by parameters over time.

One stage (`"model": "conditioning"`) generates audio or parameters; a cascade (`"model": "cascade"`) lists stages from
slow parameters down to audio. What every family exports: see CONTRIBUTING.md. TensorFlow is imported only when a model
is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conditioning.config import Cascade, Config, Stage, parameters, sizes_of, steerable
from conditioning.footprint import footprint as _footprint
from tierwave.audio.quantize import Quantizer
from tierwave.config import TrainingOptions
from tierwave.config import clipping as _clipping
from tierwave.controls.tracks import Schema
from tierwave.data.control_windows import Steering, frame_spans
from tierwave.data.corpus import Corpus
from tierwave.data.splits import Span, Split
from tierwave.data.windows import Codes, LaneWindows, Source
from tierwave.errors import UsageError
from tierwave.generation.request import Preview, Request
from tierwave.training.memory import Footprint

if TYPE_CHECKING:
    import tensorflow as tf

    from conditioning.cascade import TierStream
    from conditioning.model import ConditionalTier
    from tierwave.nn.step_graph import StepGraph

__all__ = [
    "CONFIGS",
    "FOREIGN_OPTIONS",
    "FOREIGN_REQUESTS",
    "architecture",
    "bars",
    "build",
    "clipping",
    "dataset",
    "encoder",
    "footprint",
    "generate",
    "has_accuracy",
    "overlap",
    "parameters",
    "prefers_xla",
    "prepare",
    "previews",
    "sample_rate",
    "stages",
    "steerable",
    "step_graphs",
    "stream",
    "take_weights",
    "training_inputs",
    "training_of",
    "warnings",
    "window_samples",
    "with_training",
]

CONFIGS = {"conditioning": Config, "cascade": Cascade}
LEAST_STEPS = 50  # of an epoch of a tier that generates parameters
FOREIGN_OPTIONS: dict[str, str] = {}
# What decides the shapes of a stage's weights; columns of what it is conditioned on are matched by name.
_ARCHITECTURE = (
    "generates", "hidden_size", "num_layers", "net", "cell", "audio_input", "emb_size", "q_levels", "mixtures",
)  # fmt: skip


FOREIGN_REQUESTS = {
    name: "it belongs to MelNet"
    for name in ("frames", "text", "bias", "from_tier", "low_resolution", "inversion", "vocoder")
}


def stages(config: Config | Cascade) -> list[str]:
    """The models to train, in order: one per tier."""
    return [tier.name for tier in config.tiers]


def _stage(config: Config | Cascade, stage: str) -> Stage:
    return config.tiers[stages(config).index(stage)]


def training_of(config: Config | Cascade, stage: str) -> dict[str, Any]:
    """The training options of one stage that differ from those of all."""
    return dict(config.tiers[stages(config).index(stage)].training) if isinstance(config, Cascade) else {}


def with_training(
    config: Config | Cascade, options: TrainingOptions, by_stage: Mapping[str, TrainingOptions]
) -> Config | Cascade:
    """The config as it was trained: the options of all, and in a cascade what differs for a tier."""
    training = options.model_dump(mode="json")
    if not isinstance(config, Cascade):
        return config.model_copy(update={"training": training})
    tiers = []
    for tier in config.tiers:
        own = by_stage[tier.name].model_dump(mode="json")
        differing = {key: value for key, value in own.items() if value != training.get(key)}
        tiers.append(tier.model_copy(update={"training": differing}))
    return config.model_copy(update={"training": training, "tiers": tiers})


def window_samples(config: Config | Cascade) -> int:
    """Samples of a training window of the last stage."""
    return config.tiers[-1].seq_len


def architecture(config: Config | Cascade, stage: str) -> dict[str, Any]:
    """The keys that must agree for weights to be taken over."""
    tier = _stage(config, stage)
    return {key: getattr(tier, key) for key in _ARCHITECTURE}


def take_weights(source: ConditionalTier, target: ConditionalTier, source_schema: Schema, schema: Schema) -> None:
    """Start `target` from the weights of `source`, which may be conditioned on fewer parameters, or more.

    A parameter that only the target has starts without any effect. One whose range differs is mapped, so that the same
    raw value does the same as before.
    """
    from conditioning.model import transplant

    transplant(source, target, source_schema, schema)


def sample_rate(config: Config | Cascade) -> int | None:
    """The sample rate that the config asks for, None for the corpus's."""
    last = config.tiers[-1]
    return int(last.rate) if last.makes_audio and last.rate is not None else None


def warnings(config: Config | Cascade) -> list[str]:
    """What a person should know about this config, one sentence each."""
    return [
        'q_type "mu-law-floor" is for weights that come from MTCRNN: "mu-law" has half its error.'
        for tier in config.tiers
        if tier.q_type == "mu-law-floor"
    ]


def encoder(config: Config | Cascade) -> Quantizer:
    """How a corpus is kept for this family: as codes."""
    return Quantizer(config.tiers[-1].q_type, config.tiers[-1].q_levels)


def prepare(
    corpus: Corpus, split: Split, config: Any, stored: dict[str, Any] | None, *, data_dir: Path | None = None
) -> None:
    """What is made of a corpus before training: nothing."""
    return None


def previews(corpus: Corpus, spans: Sequence[Span], config: Any, stage: str, prepared: None = None) -> list[Preview]:
    """The sounds that training makes: those of the stage."""
    return [Preview()]


def bars(prepared: None, split: Split, config: Any, stage: str) -> dict[str, float]:
    """What a stage has to beat on held-out sound, in nats per element by name: nothing of the family's own."""
    return {}


def has_accuracy(config: Any, stage: str) -> bool:
    """Whether a stage says what is right or wrong: only of audio, which has levels."""
    return _stage(config, stage).makes_audio


def overlap(config: Config | Cascade) -> int:
    """Samples of context that a window needs."""
    return 1


def dataset(
    corpus: Corpus,
    spans: Sequence[Span],
    config: Config | Cascade,
    stage: str,
    *,
    lanes: int,
    steering: Steering | None = None,
    prepared: None = None,
    **options: Any,
) -> LaneWindows:
    """Windows over `spans` of a corpus: codes, or parameters at the stage's rate, and what conditions them.

    options as of `LaneWindows` (seed, shuffled, whole_spans, multiple_of). Raises UsageError where nothing is left of
    the spans at a slow rate.
    """
    from conditioning.cascade import refuse_faster

    tier = _stage(config, stage)
    refuse_faster([tier], corpus.sample_rate)
    rate = float(corpus.sample_rate if tier.makes_audio else tier.rate or 0.0)
    shuffled, seed = options.get("shuffled", True), options.get("seed", 0)
    sources: dict[str, Source] = {}
    if tier.makes_audio:
        sources["inputs"] = Codes(corpus, encoder(config).silence)
    else:
        spans = frame_spans(spans, corpus.sample_rate, rate)
        if not spans:
            raise UsageError(
                f"it is all shorter than one step of {stage}, {1.0 / rate:.3g} s at {rate:g} Hz: raise its rate, or "
                "change --val_frac"
            )
        if steering is not None:
            sources["inputs"] = steering.source(tier.generates, rate, outside_zero=True)
    if tier.conditioned_on and steering is not None:
        exposure = tier.exposure
        through = {} if exposure is None else _through(config, tier)
        noise = exposure.noise if exposure is not None and shuffled else 0.0
        sources["controls"] = steering.source(tier.conditioned_on, rate, through=through, noise=noise, seed=seed)
    if not tier.makes_audio:  # slow parameters make short epochs
        options.setdefault("least_steps", LEAST_STEPS)
    return LaneWindows(sources, spans, window=tier.seq_len, overlap=1, lanes=lanes, **options)


def _through(config: Config | Cascade, tier: Stage) -> dict[str, float]:
    """The lower rates that a tier's conditioning passes through."""
    made_at = {name: other.rate for other in config.tiers for name in other.generates}
    given = tier.exposure.rate if tier.exposure is not None else None
    if not isinstance(config, Cascade):
        return {name: given for name in tier.conditioned_on if given is not None}
    rates = {name: given or made_at[name] for name in tier.conditioned_on if name in made_at}
    return {name: rate for name, rate in rates.items() if rate is not None}


def footprint(config: Config | Cascade, stage: str, windows: LaneWindows | None = None) -> Footprint:
    """What training a stage keeps in memory."""
    tier = _stage(config, stage)
    return _footprint(tier, sizes_of(config, tier))


def build(
    config: Config | Cascade, stage: str | None = None, *, compute_dtype: str = "float32", fused: bool = False
) -> ConditionalTier:
    """A new model of one stage (None: the last); weights from Keras' global seed. Options as of `ConditionalTier`."""
    from conditioning.model import ConditionalTier

    tier = config.tiers[-1] if stage is None else _stage(config, stage)
    return ConditionalTier(tier, input_sizes=sizes_of(config, tier), compute_dtype=compute_dtype, fused=fused)


def clipping(config: Config | Cascade, stage: str | None = None) -> dict[str, float | None]:
    """The stage's gradient_clip as `Learner` takes it."""
    return _clipping((config.tiers[-1] if stage is None else _stage(config, stage)).gradient_clip)


def prefers_xla(config: Config | Cascade, on_gpu: bool) -> bool:
    """The measured choice of `--jit auto` (bench/README.md)."""
    return not on_gpu


def training_inputs(options: TrainingOptions, steps: int) -> Callable[[tf.Tensor], dict[str, Any]]:
    """What `ConditionalTier.outcome` is told in training at an optimiser step, of `steps` in all.

    Scheduled sampling is MTCRNN's: the teacher forcing rate runs from `tfr` to `ss` in equal steps.
    """
    import tensorflow as tf

    def told(step: tf.Tensor) -> dict[str, Any]:
        given: dict[str, Any] = {"input_noise": options.input_noise}
        if options.ss is not None:
            share = tf.minimum(tf.cast(step, tf.float32) / max(1, steps - 1), 1.0)
            given["teacher_forcing"] = options.tfr + share * (options.ss - options.tfr)
        elif options.tfr < 1.0:
            given["teacher_forcing"] = tf.constant(options.tfr)
        return given

    return told


def generate(models: Sequence[ConditionalTier], config: Config | Cascade, request: Request, **about: Any) -> np.ndarray:
    """Float32 `[sequences, samples]`, exactly round(seconds * sample_rate) samples each; arguments as of `stream`."""
    made = stream(models, config, request, **about)
    return made.render(request.samples(made.sample_rate))


def stream(
    models: Sequence[ConditionalTier],
    config: Config | Cascade,
    request: Request,
    *,
    sample_rate: int,
    schema: Schema | None = None,
    stage: str | None = None,
    prepared: None = None,
) -> TierStream:
    """The sound, or the curves, as they are made. models: one per tier; stage: of this one tier only."""
    from conditioning.cascade import TierStream

    return TierStream(models, config, request, sample_rate=sample_rate, schema=schema or Schema(), only=stage)


def step_graphs(model: ConditionalTier) -> list[StepGraph]:
    """The generation step of a stage as graphs of flat tensors."""
    from conditioning.steps import step_graphs

    return step_graphs(model)
