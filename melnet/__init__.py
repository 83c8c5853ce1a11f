"""MelNet (Vasquez & Lewis 2019): mel spectrograms in tiers of resolution, made audible.

What every family exports: see CONTRIBUTING.md. TensorFlow is imported only when a model is built.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from melnet.baselines import baselines
from melnet.config import Config
from melnet.data import ENCODER, Spectrograms, prepare, sound_of, spans_of, text_window
from melnet.footprint import footprint as _footprint
from melnet.text import alphabet_of
from tierwave.audio.mel import filter_warnings
from tierwave.audio.quantize import Quantizer
from tierwave.config import TrainingOptions
from tierwave.config import clipping as _clipping
from tierwave.controls.tracks import Schema
from tierwave.data.control_windows import Steering
from tierwave.data.corpus import Corpus
from tierwave.data.splits import Span, Split
from tierwave.data.windows import LaneWindows, Source
from tierwave.generation.request import Preview, Request
from tierwave.training.memory import Footprint

if TYPE_CHECKING:
    from melnet.generation import MelStream
    from melnet.model import MelTier

__all__ = [
    "CONFIGS",
    "FOREIGN_OPTIONS",
    "FOREIGN_REQUESTS",
    "Config",
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
    "stream",
    "take_weights",
    "training_inputs",
    "training_of",
    "warnings",
    "window_samples",
    "with_training",
]

LEAST_STEPS = 20  # of an epoch: there are few windows of frames in an hour of sound
CONFIGS = {"melnet": Config}
PREVIEW_SECONDS = 3
FOREIGN_OPTIONS = {
    "tfr": "teacher forcing rates belong to the conditioning family",
    "ss": "scheduled sampling belongs to the conditioning family",
    "input_noise": "input noise belongs to the conditioning family",
}
FOREIGN_REQUESTS = {
    "top_k": "its mixtures have no levels to choose from; --bias sharpens them",
    "top_p": "its mixtures have no levels to choose from; --bias sharpens them",
    "override": "it belongs to cascades",
}
_ARCHITECTURE = ("tiers", "layers", "hidden_size", "mixtures", "cell")


def stages(config: Config) -> list[str]:
    """The models to train, in order: the tiers, coarse to fine."""
    return [f"tier{number}" for number in range(1, config.tiers + 1)]


def _tier(config: Config, stage: str) -> int:
    return stages(config).index(stage) + 1


def training_of(config: Config, stage: str) -> dict[str, Any]:
    """The training options of one tier that differ from those of all."""
    return dict(config.training_per_tier[_tier(config, stage) - 1]) if config.training_per_tier else {}


def with_training(config: Config, options: TrainingOptions, by_stage: Mapping[str, TrainingOptions]) -> Config:
    """The config as it was trained: the options of all, and what differs for a tier."""
    training = options.model_dump(mode="json")
    per_tier = []
    for stage in stages(config):
        own = by_stage[stage].model_dump(mode="json")
        per_tier.append({key: value for key, value in own.items() if value != training.get(key)})
    return config.model_copy(update={"training": training, "training_per_tier": per_tier if any(per_tier) else []})


def training_inputs(options: TrainingOptions, steps: int) -> Callable[[Any], dict[str, Any]]:
    """What `MelTier.outcome` is told in training besides: nothing."""
    return lambda step: {}


def sample_rate(config: Config) -> int | None:
    """The sample rate that the config asks for, None for the corpus's."""
    return config.audio.sample_rate


def parameters(config: Config) -> list[str]:
    """Every parameter that training needs of the corpus."""
    return list(config.conditioned_on)


def steerable(config: Config, stage: str | None = None, given: Collection[str] = ()) -> list[str]:
    """The parameters that come from the user."""
    return list(config.conditioned_on)


def warnings(config: Config) -> list[str]:
    """What a person should know about this config, one sentence each."""
    return filter_warnings(config.audio, config.audio.sample_rate) if config.audio.sample_rate else []


def encoder(config: Config) -> Quantizer:
    """How a corpus is kept for this family: as sound of 16 bits."""
    return ENCODER


def previews(
    corpus: Corpus, spans: Sequence[Span], config: Config, stage: str, prepared: Spectrograms
) -> list[Preview]:
    """The sounds that training makes, the quicker way: the tier on top of the low tiers of a held-out recording, and on
    top of generated ones."""
    whole: dict[str, Any] = {"inversion": "griffin_lim"}
    if prepared.texts is not None:
        whole["text"] = prepared.texts.said[spans[0].recording]
    tier = _tier(config, stage)
    if tier == 1:
        return [Preview(asked=whole)]
    span = max(spans, key=lambda each: each.stop - each.start)
    sound = sound_of(corpus, span.recording)[span.start : span.stop]
    asked = {"inversion": "griffin_lim", "low_audio": sound[: PREVIEW_SECONDS * corpus.sample_rate]}
    return [Preview(asked=asked), Preview("_whole", tuple(stages(config)[: tier - 1]), whole)]


def bars(prepared: Spectrograms, split: Split, config: Config, stage: str) -> dict[str, float]:
    """What a stage has to beat on held-out sound, in nats per element by name."""
    return baselines(prepared, split, config, _tier(config, stage))


def has_accuracy(config: Any, stage: str) -> bool:
    """Whether a stage says what is right or wrong: the values of a spectrogram have no levels."""
    return False


def overlap(config: Config) -> int:
    """Samples that must lie between training and held-out sound: a window of the front end."""
    return config.audio.n_fft


def window_samples(config: Config) -> int:
    """Samples of a training window."""
    return config.seq_len * config.audio.hop_length


def architecture(config: Config, stage: str) -> dict[str, Any]:
    """The keys that must agree for weights to be taken over."""
    found = {key: getattr(config, key) for key in _ARCHITECTURE}
    reads = config.text is not None and _tier(config, stage) == 1
    found["text"] = config.text.model_dump(mode="json", exclude={"column"}) if config.text and reads else None
    return {**found, "mel_channels": config.audio.mel_channels}


def take_weights(
    source: MelTier,
    target: MelTier,
    source_schema: Schema,
    schema: Schema,
    *,
    source_prepared: Mapping[str, Any],
    prepared: Mapping[str, Any],
) -> None:
    """Start `target` from the weights of `source`; parameters are matched by name (see `steering.transplanted`),
    letters by what they are. source_prepared, prepared: what the two runs store of their corpora."""
    from melnet.model import transplant

    alphabets = [alphabet_of(each.get("text", {})) for each in (source_prepared, prepared)] if source.text else None
    transplant(source, target, source_schema, schema, alphabets)


def dataset(
    corpus: Corpus,
    spans: Sequence[Span],
    config: Config,
    stage: str,
    *,
    lanes: int,
    prepared: Spectrograms | None = None,
    steering: Steering | None = None,
    **options: Any,
) -> LaneWindows:
    """Windows of frames over `spans` of a corpus, of whole recordings where text is read; options as of `LaneWindows`.
    Raises UsageError where only a part of such a recording is there."""
    if prepared is None:
        raise ValueError("a MelNet is trained on prepared spectrograms: pass what `prepare` gave")
    sources: dict[str, Source] = {"inputs": prepared}
    if steering is not None and config.conditioned_on:
        sources["controls"] = steering.source(config.conditioned_on, prepared.front_end.frame_rate)
    options.setdefault("least_steps", LEAST_STEPS)
    frames, window = spans_of(spans, corpus, config), config.seq_len
    if prepared.texts is not None and _tier(config, stage) == 1:
        window = text_window(frames, corpus, config)
        sources["text"] = prepared.texts
    return LaneWindows(
        sources,
        frames,
        window=window,
        overlap=config.time_factor,
        lanes=lanes,
        **options,
    )


def footprint(config: Config, stage: str, windows: LaneWindows | None = None) -> Footprint:
    """What training a tier keeps in memory."""
    return _footprint(config, _tier(config, stage), windows)


def build(config: Config, stage: str = "tier1", *, compute_dtype: str = "float32", fused: bool = False) -> MelTier:
    """A new model of one tier; weights from Keras' global seed."""
    from melnet.model import MelTier

    return MelTier(config, _tier(config, stage), compute_dtype=compute_dtype)


def clipping(config: Config, stage: str | None = None) -> dict[str, float | None]:
    """The config's gradient_clip as `Learner` takes it."""
    return _clipping(config.gradient_clip)


def prefers_xla(config: Config, on_gpu: bool) -> bool:
    """The measured choice of `--jit auto` (bench/README.md)."""
    return True


def generate(models: Sequence[MelTier], config: Config, request: Request, **about: Any) -> np.ndarray:
    """Float32 `[sequences, samples]`, exactly round(seconds * sample_rate) samples each; arguments as of `stream`."""
    made = stream(models, config, request, **about)
    return made.render(request.samples(made.sample_rate))


def stream(
    models: Sequence[MelTier],
    config: Config,
    request: Request,
    *,
    sample_rate: int,
    schema: Schema | None = None,
    stage: str | None = None,
    prepared: dict[str, Any] | None = None,
) -> MelStream:
    """The sound of new spectrograms; they are made whole at the first `render`. models, stage: one per tier, or those
    of the tiers up to `stage`, or its own alone (see `MelStream`). prepared: the normalisation that the run stores."""
    from melnet.generation import MelStream

    return MelStream(
        models, config, request, sample_rate=sample_rate, schema=schema or Schema(), prepared=prepared, stage=stage
    )
