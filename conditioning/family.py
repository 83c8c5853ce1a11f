"""What conditional tiers offer to the rest (see `tierwave.family`). TensorFlow is imported when a model is built."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from conditioning.config import Cascade, Config, Stage, Tier, control_inputs_of, parameters, steerable
from conditioning.footprint import footprint
from tierwave.audio.quantize import Quantizer
from tierwave.config import TrainingOptions, clipping
from tierwave.controls.schema import Schema
from tierwave.data.corpus import Corpus
from tierwave.data.splits import Span
from tierwave.data.windows import Codes, LaneWindows, Source, Steering, frame_spans
from tierwave.errors import UsageError
from tierwave.family import Family, Product
from tierwave.generation.request import Request
from tierwave.nn.footprint import Footprint

if TYPE_CHECKING:
    import tensorflow as tf

    from conditioning.cascade import TierStream
    from conditioning.model import ConditionalTier
    from tierwave.engine.network import Named, Network, WeightKind
    from tierwave.nn.step_graph import StepGraph


LEAST_STEPS = 50  # in an epoch of a tier that generates controls
# The keys that decide the shapes of a stage's weights; the maps of controls are matched by name.
_ARCHITECTURE = (
    "generates", "hidden_size", "num_layers", "net", "cell", "audio_input", "emb_size", "q_levels", "mixtures",
)  # fmt: skip


def _stage(config: Config | Cascade, stage: str | None) -> Stage:
    """The tier of a stage, None: the last."""
    return config.tiers[-1] if stage is None else next(tier for tier in config.tiers if tier.name == stage)


def _through(config: Config | Cascade, tier: Stage) -> dict[str, float]:
    """The rates in Hz through which a tier's controls are resampled in training."""
    made_at = {name: other.rate for other in config.tiers for name in other.generates}
    given = tier.exposure.rate if tier.exposure is not None else None
    if not isinstance(config, Cascade):
        return {name: given for name in tier.conditioned_on if given is not None}
    rates = {name: given or made_at[name] for name in tier.conditioned_on if name in made_at}
    return {name: rate for name, rate in rates.items() if rate is not None}


class ConditioningFamily(Family):
    """Conditional tiers (MTCRNN, Huzaifah & Wyse 2020; RNNControl, Wyse 2018): sound steered by controls over time.

    One stage (`"model": "conditioning"`) generates audio or controls; a cascade (`"model": "cascade"`) lists stages
    from slow controls down to audio.
    """

    configs = {"conditioning": Config, "cascade": Cascade}
    foreign_options = {}
    foreign_requests = {
        name: why
        for name, why in Family.foreign_requests.items()
        if name not in ("tier_temperature", "tier_seed", "override")
    }

    def stages(self, config: Config | Cascade) -> list[str]:
        return [tier.name for tier in config.tiers]

    def training_of(self, config: Config | Cascade, stage: str) -> dict[str, Any]:
        tier = _stage(config, stage)
        return dict(tier.training) if isinstance(tier, Tier) else {}

    def with_training(
        self, config: Config | Cascade, options: TrainingOptions, by_stage: Mapping[str, TrainingOptions]
    ) -> Config | Cascade:
        if not isinstance(config, Cascade):
            return super().with_training(config, options, by_stage)
        training = options.model_dump(mode="json")
        tiers = []
        for tier in config.tiers:
            own = by_stage[tier.name].model_dump(mode="json")
            differing = {key: value for key, value in own.items() if value != training.get(key)}
            tiers.append(tier.model_copy(update={"training": differing}))
        return config.model_copy(update={"training": training, "tiers": tiers})

    def key_of(self, config: Config | Cascade, stage: str, key: str) -> str:
        return f"tiers.{self.stages(config).index(stage)}.{key}" if isinstance(config, Cascade) else key

    def parameters(self, config: Config | Cascade) -> list[str]:
        return parameters(config)

    def steerable(self, config: Config | Cascade, stage: str | None = None, given: Collection[str] = ()) -> list[str]:
        return steerable(config, stage, given)

    def product(self, config: Config | Cascade, stage: str) -> Product:
        tier = _stage(config, stage)
        quantizer = Quantizer(tier.q_type, tier.q_levels) if tier.makes_audio else None
        rate = None if tier.makes_audio else tier.rate
        return Product(tuple(tier.generates), tuple(tier.conditioned_on), rate, quantizer)

    def window_samples(self, config: Config | Cascade) -> int:
        return config.tiers[-1].seq_len

    def architecture(self, config: Config | Cascade, stage: str) -> dict[str, Any]:
        tier = _stage(config, stage)
        return {key: getattr(tier, key) for key in _ARCHITECTURE}

    def take_weights(
        self,
        source: ConditionalTier,
        target: ConditionalTier,
        source_schema: Schema,
        schema: Schema,
        **dataset_states: Any,
    ) -> None:
        from conditioning.model import transplant

        transplant(source, target, source_schema, schema)

    def sample_rate(self, config: Config | Cascade) -> int | None:
        last = config.tiers[-1]
        return int(last.rate) if last.makes_audio and last.rate is not None else None

    def warnings(self, config: Config | Cascade) -> list[str]:
        return [
            'q_type "mu-law-floor" is for weights that come from MTCRNN: "mu-law" has half its error.'
            for tier in config.tiers
            if tier.q_type == "mu-law-floor"
        ]

    def encoder(self, config: Config | Cascade) -> Quantizer:
        return Quantizer(config.tiers[-1].q_type, config.tiers[-1].q_levels)

    def has_accuracy(self, config: Any, stage: str) -> bool:
        return _stage(config, stage).makes_audio

    def dataset(
        self,
        corpus: Corpus,
        spans: Sequence[Span],
        config: Config | Cascade,
        stage: str,
        *,
        lanes: int,
        steering: Steering | None = None,
        dataset_state: Any = None,
        **options: Any,
    ) -> LaneWindows:
        """Windows of codes, or of controls at the stage's rate, and of the controls that condition them. Raises
        UsageError where all spans are shorter than a step."""
        from conditioning.cascade import refuse_faster

        tier = _stage(config, stage)
        refuse_faster([tier], corpus.sample_rate)
        rate = float(corpus.sample_rate if tier.makes_audio else tier.rate or 0.0)
        shuffled, seed = options.get("shuffled", True), options.get("seed", 0)
        sources: dict[str, Source] = {}
        if tier.makes_audio:
            sources["inputs"] = Codes(corpus, self.encoder(config).silence)
        else:
            spans = frame_spans(spans, corpus.sample_rate, rate)
            if not spans:
                raise UsageError(
                    f"it is all shorter than one step of {stage}, {1.0 / rate:.3g} s at {rate:g} Hz: raise its rate, "
                    "or change --val_frac"
                )
            if steering is not None:
                sources["inputs"] = steering.source(tier.generates, rate, outside_zero=True)
        if tier.conditioned_on and steering is not None:
            exposure = tier.exposure
            through = {} if exposure is None else _through(config, tier)
            noise = exposure.noise if exposure is not None and shuffled else 0.0
            sources["controls"] = steering.source(tier.conditioned_on, rate, through=through, noise=noise, seed=seed)
        if not tier.makes_audio:  # slow controls make short epochs
            options.setdefault("least_steps", LEAST_STEPS)
        return LaneWindows(sources, spans, window=tier.seq_len, overlap=1, lanes=lanes, **options)

    def footprint(self, config: Config | Cascade, stage: str, windows: LaneWindows | None = None) -> Footprint:
        tier = _stage(config, stage)
        return footprint(tier, control_inputs_of(config, tier))

    def build(self, config: Config | Cascade, stage: str | None = None, **options: Any) -> ConditionalTier:
        from conditioning.model import ConditionalTier

        tier = _stage(config, stage)
        return ConditionalTier(tier, control_inputs=control_inputs_of(config, tier), **options)

    def clipping(self, config: Config | Cascade, stage: str | None = None) -> dict[str, float | None]:
        return clipping(_stage(config, stage).gradient_clip)

    def training_inputs(self, options: TrainingOptions, steps: int) -> Callable[[tf.Tensor], dict[str, Any]]:
        """Scheduled sampling as in MTCRNN: the teacher forcing rate runs from `tfr` to `ss` in equal steps."""
        import tensorflow as tf

        def inputs(step: tf.Tensor) -> dict[str, Any]:
            found: dict[str, Any] = {"input_noise": options.input_noise}
            if options.ss is not None:
                share = tf.minimum(tf.cast(step, tf.float32) / max(1, steps - 1), 1.0)
                found["teacher_forcing"] = options.tfr + share * (options.ss - options.tfr)
            elif options.tfr < 1.0:
                found["teacher_forcing"] = tf.constant(options.tfr)
            return found

        return inputs

    def stream(
        self,
        models: Sequence[ConditionalTier | Network],
        config: Config | Cascade,
        request: Request,
        *,
        sample_rate: int,
        schema: Schema | None = None,
        stage: str | None = None,
        **_: Any,
    ) -> TierStream:
        from conditioning.cascade import TierStream

        return TierStream(models, config, request, sample_rate=sample_rate, schema=schema or Schema(), only=stage)

    def network(self, config: Config | Cascade, stage: str, weights: Named, kind: WeightKind, origin: str) -> Network:
        from conditioning.engine import network

        tier = _stage(config, stage)
        return network(tier, weights, kind, control_inputs=control_inputs_of(config, tier), origin=origin)

    def step_graphs(self, model: ConditionalTier) -> list[StepGraph]:
        from conditioning.steps import step_graphs

        return step_graphs(model)


FAMILY = ConditioningFamily()
