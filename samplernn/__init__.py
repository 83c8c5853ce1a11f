"""SampleRNN (Mehri et al. 2017, PRiSM 2020): raw audio, sample by sample, in tiers of falling frame size.

What every family exports: `Config`, `stages`, `encoder`, `dataset`, `build`, `clipping`, `prefers_xla`, `generate`,
`stream`. TensorFlow is imported only when a model is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from samplernn.config import Config, GlobalNormClip, ValueClip
from tierwave.corpus import Corpus
from tierwave.dataset import Codes, LaneWindows
from tierwave.generation import Request
from tierwave.quantize import Quantizer
from tierwave.splits import Span

if TYPE_CHECKING:
    from samplernn.model import SampleRNN
    from samplernn.sampler import SampleStream

__all__ = [
    "FOREIGN_OPTIONS",
    "WEIGHTLESS_KEYS",
    "Config",
    "build",
    "clipping",
    "dataset",
    "encoder",
    "generate",
    "overlap",
    "prefers_xla",
    "stages",
    "stream",
    "warnings",
]


# Options of train.py that mean nothing to this family, and what they belong to.
FOREIGN_OPTIONS = {
    "tfr": "teacher forcing rates belong to the conditioning family",
    "ss": "scheduled sampling belongs to the conditioning family",
    "input_noise": "input noise belongs to the conditioning family",
}


# Keys that may differ from those of the run whose weights are taken over.
WEIGHTLESS_KEYS = ("seq_len", "rnn_dropout", "gradient_clip", "normalize", "logit_cap", "q_type")


def stages(config: Config) -> list[str]:
    """The models to train, in order: one."""
    return ["samplernn"]


def warnings(config: Config) -> list[str]:
    """What a person should know about this config, one sentence each."""
    if config.q_type == "mu-law" and config.q_levels != 256:
        return [f"q_levels is {config.q_levels}: mu-law has 256 levels by tradition, and PRiSM always takes 256."]
    return []


def encoder(config: Config) -> Quantizer:
    """How a corpus is kept for this family: as codes."""
    return Quantizer(config.q_type, config.q_levels)


def overlap(config: Config) -> int:
    """Samples of context that a window needs, and that must at least lie between training and held-out sound."""
    return config.top_frame


def dataset(
    corpus: Corpus, spans: Sequence[Span], config: Config, stage: str, *, lanes: int, **options: Any
) -> LaneWindows:
    """Windows over `spans` of a corpus; options as of `LaneWindows` (seed, shuffled, whole_spans, multiple_of)."""
    return LaneWindows(
        corpus,
        spans,
        window=config.seq_len,
        overlap=config.top_frame,
        lanes=lanes,
        silence=encoder(config).silence,
        **options,
    )


def build(
    config: Config, stage: str = "samplernn", *, compute_dtype: str = "float32", fused: bool = False
) -> SampleRNN:
    """A new model of this config; weights from Keras' global seed. Options as of `SampleRNN`."""
    from samplernn.model import SampleRNN

    return SampleRNN(config, compute_dtype=compute_dtype, fused=fused)


def clipping(config: Config) -> dict[str, float | None]:
    """The config's gradient_clip as `Learner` takes it."""
    clip = config.gradient_clip
    return {
        "clip_norm": clip.global_norm if isinstance(clip, GlobalNormClip) else None,
        "clip_value": clip.value if isinstance(clip, ValueClip) else None,
    }


def prefers_xla(config: Config, on_gpu: bool) -> bool:
    """The measured choice of `--jit auto` (bench/README.md): on a CPU XLA wins at every size that was tried, by 1.1 to
    1.6 times; on a GPU cuDNN's recurrent kernels, which XLA lacks, are taken instead."""
    return not on_gpu


def generate(models: Sequence[SampleRNN], config: Config, request: Request, *, sample_rate: int) -> np.ndarray:
    """Float32 `[sequences, samples]`, exactly round(seconds * sample_rate) samples each."""
    return stream(models, config, request, sample_rate=sample_rate).render(request.samples(sample_rate))


def stream(models: Sequence[SampleRNN], config: Config, request: Request, *, sample_rate: int) -> SampleStream:
    """An object with `set(name=value)` and `render(n)`: the sound as it is made."""
    from samplernn.sampler import SampleStream

    return SampleStream(models[0], sample_rate, request)
