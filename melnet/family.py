"""What MelNet offers to the rest (see `tierwave.family`). TensorFlow is imported only when a model is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from melnet.baselines import baselines
from melnet.config import Config
from melnet.data import ENCODER, Spectrograms, prepare, sound_of, spans_of, text_window
from melnet.footprint import footprint
from melnet.front_end import Normaliser, filter_warnings
from melnet.text import alphabet_of
from tierwave.audio.quantize import Quantizer
from tierwave.config import TrainingOptions
from tierwave.controls.schema import Schema
from tierwave.data.corpus import Corpus
from tierwave.data.splits import Span, Split
from tierwave.data.windows import LaneWindows, Source, Steering
from tierwave.family import Family, Preview, Product
from tierwave.files.urls import Place
from tierwave.generation.request import Request
from tierwave.nn.footprint import Footprint

if TYPE_CHECKING:
    from melnet.generation import MelStream
    from melnet.model import MelTier


LEAST_STEPS = 20  # in an epoch: an hour of sound has few windows of frames
PREVIEW_SECONDS = 3
_ARCHITECTURE = ("tiers", "layers", "hidden_size", "mixtures", "cell")


def _stages(config: Config) -> list[str]:
    return [f"tier{number}" for number in range(1, config.tiers + 1)]


def _tier(config: Config, stage: str | None) -> int:
    """The number of a stage's tier, None: the last."""
    return config.tiers if stage is None else _stages(config).index(stage) + 1


class MelNetFamily(Family):
    """MelNet (Vasquez & Lewis 2019): mel spectrograms in tiers of resolution, made audible."""

    configs = {"melnet": Config}
    foreign_options = {**Family.foreign_options, "input_noise": "input noise belongs to networks of codes"}
    foreign_requests = {
        "top_k": "its mixtures have no levels to choose from; --bias sharpens them",
        "top_p": "its mixtures have no levels to choose from; --bias sharpens them",
        "override": "it belongs to cascades",
    }

    def stages(self, config: Config) -> list[str]:
        return _stages(config)

    def training_of(self, config: Config, stage: str) -> dict[str, Any]:
        return dict(config.training_per_tier[_tier(config, stage) - 1]) if config.training_per_tier else {}

    def with_training(
        self, config: Config, options: TrainingOptions, by_stage: Mapping[str, TrainingOptions]
    ) -> Config:
        training = options.model_dump(mode="json")
        per_tier = []
        for stage in _stages(config):
            own = by_stage[stage].model_dump(mode="json")
            per_tier.append({key: value for key, value in own.items() if value != training.get(key)})
        return config.model_copy(update={"training": training, "training_per_tier": per_tier if any(per_tier) else []})

    def sample_rate(self, config: Config) -> int | None:
        return config.audio.sample_rate

    def warnings(self, config: Config) -> list[str]:
        return filter_warnings(config.audio, config.audio.sample_rate) if config.audio.sample_rate else []

    def encoder(self, config: Config) -> Quantizer:
        return ENCODER

    def reads_text(self, config: Config) -> bool:
        return config.text is not None

    def product(self, config: Config, stage: str) -> Product:
        return Product(("audio",), tuple(config.conditioned_on), None, None)

    def prepare(
        self,
        corpus: Corpus,
        split: Split | None,
        config: Config,
        stored: dict[str, Any] | None,
        *,
        data_dir: Place | None = None,
    ) -> Spectrograms:
        return prepare(corpus, split, config, stored, data_dir=data_dir)

    def previews(
        self, corpus: Corpus, spans: Sequence[Span], config: Config, stage: str, dataset_state: Any = None
    ) -> list[Preview]:
        """The tier on top of the low tiers of a held-out recording, and on top of generated ones, quickly inverted."""
        whole: dict[str, Any] = {"inversion": "griffin_lim"}
        if dataset_state.texts is not None:
            whole["text"] = dataset_state.texts.said[spans[0].recording]
        tier = _tier(config, stage)
        if tier == 1:
            return [Preview(options=whole)]
        span = max(spans, key=lambda each: each.stop - each.start)
        sound = sound_of(corpus, span.recording)[span.start : span.stop]
        upsampled = {"inversion": "griffin_lim", "low_audio": sound[: PREVIEW_SECONDS * corpus.sample_rate]}
        return [Preview(options=upsampled), Preview("_whole", tuple(_stages(config)[: tier - 1]), whole)]

    def baselines(self, dataset_state: Spectrograms, split: Split, config: Config, stage: str) -> dict[str, float]:
        return baselines(dataset_state, split, config, _tier(config, stage))

    def nats_per_db_offset(self, stored: Mapping[str, Any] | None) -> float:
        return Normaliser.from_document(stored or {}).nats_per_db_offset

    def has_accuracy(self, config: Any, stage: str) -> bool:
        return False

    def overlap(self, config: Config) -> int:
        return config.audio.n_fft

    def window_samples(self, config: Config) -> int:
        return config.seq_len * config.audio.hop_length

    def architecture(self, config: Config, stage: str) -> dict[str, Any]:
        found = {key: getattr(config, key) for key in _ARCHITECTURE}
        reads = config.text is not None and _tier(config, stage) == 1
        found["text"] = config.text.model_dump(mode="json", exclude={"column"}) if config.text and reads else None
        return {**found, "mel_channels": config.audio.mel_channels}

    def take_weights(
        self,
        source: MelTier,
        target: MelTier,
        source_schema: Schema,
        schema: Schema,
        *,
        source_state: Mapping[str, Any] | None = None,
        dataset_state: Mapping[str, Any] | None = None,
        absent: float = 0.5,
    ) -> None:
        from melnet.model import transplant

        states = (source_state, dataset_state) if source.text else ()
        alphabets = [alphabet_of((each or {}).get("text", {})) for each in states]
        transplant(source, target, source_schema, schema, alphabets or None)

    def dataset(
        self,
        corpus: Corpus,
        spans: Sequence[Span],
        config: Config,
        stage: str,
        *,
        lanes: int,
        dataset_state: Spectrograms | None = None,
        steering: Steering | None = None,
        **options: Any,
    ) -> LaneWindows:
        """Windows of frames, of whole recordings where text is read. Raises UsageError where a part of such a recording
        is missing."""
        if dataset_state is None:
            raise ValueError("a MelNet is trained on prepared spectrograms: pass what `prepare` gave")
        sources: dict[str, Source] = {"inputs": dataset_state}
        if steering is not None and config.conditioned_on:
            sources["controls"] = steering.source(config.conditioned_on, dataset_state.front_end.frame_rate)
        options.setdefault("least_steps", LEAST_STEPS)
        frames, window = spans_of(spans, corpus, config), config.seq_len
        if dataset_state.texts is not None and _tier(config, stage) == 1:
            window = text_window(frames, corpus, config)
            sources["text"] = dataset_state.texts
        return LaneWindows(sources, frames, window=window, overlap=config.time_factor, lanes=lanes, **options)

    def footprint(self, config: Config, stage: str, windows: LaneWindows | None = None) -> Footprint:
        return footprint(config, _tier(config, stage), windows)

    def build(self, config: Config, stage: str | None = None, *, compute_dtype: str = "float32", **_: Any) -> MelTier:
        from melnet.model import MelTier

        return MelTier(config, _tier(config, stage), compute_dtype=compute_dtype)

    def prefers_xla(self, config: Config, on_gpu: bool) -> bool:
        return True

    def stream(
        self,
        models: Sequence[MelTier],
        config: Config,
        request: Request,
        **options: Any,
    ) -> MelStream:
        from melnet.generation import MelStream

        return MelStream(models, config, request, **options)


FAMILY = MelNetFamily()
