"""SampleRNN (Mehri et al. 2017, PRiSM 2020): raw audio, sample by sample, in tiers of falling frame size.

What every family exports: see CONTRIBUTING.md. TensorFlow is imported only when a model is built.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samplernn.config import Config
from samplernn.footprint import footprint as _footprint
from tierwave.audio.quantize import Quantizer
from tierwave.config import TrainingOptions
from tierwave.config import clipping as _clipping
from tierwave.controls.tracks import Schema
from tierwave.data.control_windows import Steering
from tierwave.data.corpus import Corpus
from tierwave.data.splits import Span, Split
from tierwave.data.windows import Codes, LaneWindows, Source
from tierwave.generation.request import Preview, Request
from tierwave.training.memory import Footprint

if TYPE_CHECKING:
    from samplernn.model import SampleRNN
    from samplernn.sampler import SampleStream
    from tierwave.nn.step_graph import StepGraph

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
    "step_graphs",
    "stream",
    "take_weights",
    "training_inputs",
    "training_of",
    "warnings",
    "window_samples",
    "with_training",
]


# Options of train.py that mean nothing to this family, and what they belong to.
FOREIGN_OPTIONS = {
    "tfr": "teacher forcing rates belong to the conditioning family",
    "ss": "scheduled sampling belongs to the conditioning family",
    "input_noise": "input noise belongs to the conditioning family",
}


# Keys that may differ from those of the run whose weights are taken over.
_WEIGHTLESS = (
    "seq_len", "rnn_dropout", "gradient_clip", "normalize", "logit_cap", "q_type", "conditioned_on", "controls",
    "training", "recompute",
)  # fmt: skip

CONFIGS = {"samplernn": Config}


FOREIGN_REQUESTS = {
    name: "it belongs to MelNet"
    for name in ("frames", "text", "bias", "from_tier", "low_resolution", "inversion", "vocoder")
} | {name: "it has one tier" for name in ("tier_temperature", "tier_seed", "override")}


def stages(config: Config) -> list[str]:
    """The models to train, in order: one."""
    return ["samplernn"]


def training_of(config: Config, stage: str) -> dict[str, Any]:
    """The training options of one stage that differ from those of all: none."""
    return {}


def with_training(config: Config, options: TrainingOptions, by_stage: Mapping[str, TrainingOptions]) -> Config:
    """The config as it was trained."""
    return config.model_copy(update={"training": options.model_dump(mode="json")})


def training_inputs(options: TrainingOptions, steps: int) -> Callable[[Any], dict[str, Any]]:
    """What `SampleRNN.outcome` is told in training besides: nothing."""
    return lambda step: {}


def parameters(config: Config) -> list[str]:
    """Every parameter that training needs of the corpus."""
    return list(config.conditioned_on)


def steerable(config: Config, stage: str | None = None, given: Collection[str] = ()) -> list[str]:
    """The parameters that come from the user."""
    return list(config.conditioned_on)


def sample_rate(config: Config) -> int | None:
    """The sample rate that the config asks for: the corpus's."""
    return None


def window_samples(config: Config) -> int:
    """Samples of a training window."""
    return config.seq_len


def architecture(config: Config, stage: str) -> dict[str, Any]:
    """The keys that must agree for weights to be taken over."""
    return {key: value for key, value in config.model_dump(mode="json").items() if key not in _WEIGHTLESS}


def take_weights(source: SampleRNN, target: SampleRNN, source_schema: Schema, schema: Schema) -> None:
    """Start `target` from the weights of `source`; parameters are matched by name (see `steering.transplanted`)."""
    from samplernn.model import transplant

    transplant(source, target, source_schema, schema)


def warnings(config: Config) -> list[str]:
    """What a person should know about this config, one sentence each."""
    if config.q_type == "mu-law" and config.q_levels != 256:
        return [f"q_levels is {config.q_levels}: mu-law has 256 levels by tradition, and PRiSM always takes 256."]
    return []


def encoder(config: Config) -> Quantizer:
    """How a corpus is kept for this family: as codes."""
    return Quantizer(config.q_type, config.q_levels)


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
    """Whether a stage says what is right or wrong: every sample is one of some levels."""
    return True


def overlap(config: Config) -> int:
    """Samples of context that a window needs, and that must at least lie between training and held-out sound."""
    return config.top_frame


def dataset(
    corpus: Corpus,
    spans: Sequence[Span],
    config: Config,
    stage: str,
    *,
    lanes: int,
    steering: Steering | None = None,
    prepared: None = None,
    **options: Any,
) -> LaneWindows:
    """Windows over `spans` of a corpus; options as of `LaneWindows` (seed, shuffled, whole_spans, multiple_of)."""
    sources: dict[str, Source] = {"inputs": Codes(corpus, encoder(config).silence)}
    if steering is not None and config.conditioned_on:
        sources["controls"] = steering.source(config.conditioned_on, corpus.sample_rate)
    return LaneWindows(sources, spans, window=config.seq_len, overlap=config.top_frame, lanes=lanes, **options)


def footprint(config: Config, stage: str, windows: LaneWindows | None = None) -> Footprint:
    """What training keeps in memory."""
    return _footprint(config)


def build(
    config: Config, stage: str = "samplernn", *, compute_dtype: str = "float32", fused: bool = False
) -> SampleRNN:
    """A new model of this config; weights from Keras' global seed. Options as of `SampleRNN`."""
    from samplernn.model import SampleRNN

    return SampleRNN(config, compute_dtype=compute_dtype, fused=fused)


def clipping(config: Config, stage: str | None = None) -> dict[str, float | None]:
    """The config's gradient_clip as `Learner` takes it."""
    return _clipping(config.gradient_clip)


def prefers_xla(config: Config, on_gpu: bool) -> bool:
    """The measured choice of `--jit auto` (bench/README.md): on a CPU XLA wins at every size that was tried, by 1.1 to
    1.6 times; on a GPU cuDNN's recurrent kernels, which XLA lacks, are taken instead."""
    return not on_gpu


def generate(models: Sequence[SampleRNN], config: Config, request: Request, **about: Any) -> np.ndarray:
    """Float32 `[sequences, samples]`, exactly round(seconds * sample_rate) samples each; arguments as of `stream`."""
    made = stream(models, config, request, **about)
    return made.render(request.samples(made.sample_rate))


def stream(
    models: Sequence[SampleRNN],
    config: Config,
    request: Request,
    *,
    sample_rate: int,
    schema: Schema | None = None,
    stage: str | None = None,
    prepared: None = None,
) -> SampleStream:
    """The sound as it is made, an object with `set(name=value)` and `render(n)`."""
    from samplernn.sampler import SampleStream

    return SampleStream(models[0], sample_rate, request, schema or Schema())


def step_graphs(model: SampleRNN) -> list[StepGraph]:
    """The generation step as graphs of flat tensors, slowest first."""
    from samplernn.steps import step_graphs

    return step_graphs(model)
