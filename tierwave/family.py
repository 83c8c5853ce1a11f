"""What a family of networks offers to the rest, with defaults; and the families by name.

This is the only place that knows all of them, and each is imported when it is asked for. What is named in the
signatures lies above this module; it is imported by nothing but type checkers.
"""

from __future__ import annotations

import abc
import difflib
import importlib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tierwave.config import StrictModel, TrainingOptions, clipping, validate
from tierwave.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from tierwave.audio.quantize import Quantizer
    from tierwave.controls.schema import Schema
    from tierwave.data.corpus import Corpus
    from tierwave.data.splits import Span, Split
    from tierwave.data.windows import LaneWindows, Steering
    from tierwave.engine.network import Named, Network, WeightKind
    from tierwave.files.urls import Place
    from tierwave.generation.request import Request, Stream
    from tierwave.nn.footprint import Footprint
    from tierwave.nn.step_graph import StepGraph

PACKAGES = {"samplernn": "samplernn", "conditioning": "conditioning", "cascade": "conditioning", "melnet": "melnet"}
"""The packages of families by what the config key `model` says; each has its family as `FAMILY`."""


# XLA takes up to half a minute to compile a step and makes it up to 1.6 times as fast, so that it pays after this.
LEAST_MINUTES_FOR_XLA = 2.0


@dataclass(frozen=True)
class Preview:
    """A sound that training makes after each checkpoint. name: after the stage's name in the file's; below: the stages
    that it needs besides the one in training, in their order; options: of its `Request`."""

    name: str = ""
    below: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Product:
    """What a stage makes: "audio" or the names of controls, from which controls, at which rate in Hz (None: the run's
    sample rate), and how its codes become sound (None where it makes no codes)."""

    generates: tuple[str, ...]
    conditioned_on: tuple[str, ...]
    rate: float | None
    quantizer: Quantizer | None

    @property
    def is_audio(self) -> bool:
        return self.generates == ("audio",)


class Family(abc.ABC):
    """A family of networks. What every family has to say is abstract; the defaults are those of a network of one stage
    that learns codes of audio, sample by sample, and may be conditioned on controls.

    A config is one of `configs`, validated. `stage` is the name of one of the models that are trained after another.
    """

    configs: ClassVar[Mapping[str, type[StrictModel]]]
    """Its configs by what the key `model` says."""

    foreign_options: ClassVar[Mapping[str, str]] = {
        "tfr": "teacher forcing rates belong to the conditioning family",
        "ss": "scheduled sampling belongs to the conditioning family",
    }
    """Flags of train.py that mean nothing to it, and why: they are refused."""

    foreign_requests: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            ("frames", "text", "bias", "from_tier", "low_resolution", "inversion", "vocoder"), "it belongs to MelNet"
        ),
        **dict.fromkeys(("tier_temperature", "tier_seed", "override"), "it has one tier"),
    }
    """Flags of generate.py that mean nothing to it, and why: they are refused."""

    @property
    def start(self) -> Path | None:
        """Its starting weights (see `runs.start`), `start.npz` in its package, if they are there; a training whose
        config says `start` begins from them."""
        path = Path(inspect.getfile(type(self))).with_name("start.npz")
        return path if path.is_file() else None

    @property
    def has_networks(self) -> bool:
        """Whether the engine can run it: whether it has a `network` of its own."""
        return type(self).network is not Family.network

    # ---- what a family has to say ----------------------------------------------------------------------------------

    @abc.abstractmethod
    def build(
        self, config: Any, stage: str | None = None, *, compute_dtype: str = "float32", fused: bool = False
    ) -> Any:
        """A new model of a stage (None: the last), a `keras.Model`; its weights from Keras' global seed.

        It has `initial_state(batch)` and `loss_sums(batch, state, dropout_seed, ...)`, a `LossSums`; state is passed in
        and out, never hidden. It says what its losses are: `unit`, `has_accuracy`, `steps_are`.
        compute_dtype: of its products; fused: whether cuDNN's layers may be used.
        """

    @abc.abstractmethod
    def stream(
        self,
        models: Sequence[Any],
        config: Any,
        request: Request,
        *,
        sample_rate: int,
        schema: Schema | None = None,
        stage: str | None = None,
        dataset_state: Any = None,
    ) -> Stream:
        """The sound as it is made. models: one per stage, or those up to `stage`, or its own alone. dataset_state: the
        document that `prepare` left in the run."""

    @abc.abstractmethod
    def footprint(self, config: Any, stage: str, windows: LaneWindows | None = None) -> Footprint:
        """What training a stage stores of one lane besides weights, added up from its parts. windows: what it is
        trained on, where that says more than the config."""

    @abc.abstractmethod
    def architecture(self, config: Any, stage: str) -> dict[str, Any]:
        """The keys that must agree for weights to be taken over."""

    def completed(self, config: Any, schema: Schema, sample_rate: int) -> Any:
        """The config with what only the controls' ranges and the rate of the corpus tell."""
        complete = getattr(config, "completed", None)
        return config if complete is None else complete(schema, sample_rate)

    @abc.abstractmethod
    def take_weights(
        self,
        source: Any,
        target: Any,
        source_schema: Schema,
        schema: Schema,
        *,
        source_state: Mapping[str, Any] | None = None,
        dataset_state: Mapping[str, Any] | None = None,
        absent: float = 0.5,
    ) -> None:
        """Start the model `target` from the weights of `source`; controls are matched by name.

        source_state, dataset_state: the documents that `prepare` left in the two runs. absent: where within its range,
        in 0 ... 1, a control is held that `target` lacks.
        """

    # ---- stages and options ----------------------------------------------------------------------------------------

    def stages(self, config: Any) -> list[str]:
        """The models to train, in order."""
        return [config.model]

    def training_of(self, config: Any, stage: str) -> dict[str, Any]:
        """The training options of one stage that differ from those of all."""
        return {}

    def with_training(self, config: Any, options: TrainingOptions, by_stage: Mapping[str, TrainingOptions]) -> Any:
        """The config as it was trained: the options of all, and what differs for a stage."""
        return config.model_copy(update={"training": options.model_dump(mode="json")})

    def key_of(self, config: Any, stage: str, key: str) -> str:
        """Where a key of a stage stands in the config, dotted as `--set` takes it."""
        return key

    def warnings(self, config: Any) -> list[str]:
        """What a person should know about this config before training, one sentence each."""
        return []

    def count_weights(self, config: Any, stage: str) -> int:
        """How many weights the model of a stage has; none of them is allocated."""
        import tensorflow as tf

        with tf.Graph().as_default():  # where a variable is no more than its shape
            return int(self.build(config, stage).count_params())

    def clipping(self, config: Any, stage: str | None = None) -> dict[str, float | None]:
        """How the gradients of a stage are bounded, as `Learner` takes it."""
        return clipping(config.gradient_clip)

    def prefers_xla(self, config: Any, on_gpu: bool) -> bool:
        """The measured choice of `--jit auto` (bench/README.md): on a CPU XLA wins at every size that was tried, by 1.1
        to 1.6 times; on a GPU cuDNN's recurrent kernels, which XLA lacks, are taken instead."""
        return not on_gpu

    def uses_xla(self, config: Any, stage: str, options: TrainingOptions, on_gpu: bool) -> bool:
        """Whether the training of a stage is compiled with XLA; by its options alone, so that a resumed one is too."""
        if options.jit != "auto":
            return options.jit
        minutes = options.max_minutes
        if minutes is not None and "max_minutes" not in self.training_of(config, stage):
            minutes /= len(self.stages(config))
        return (minutes is None or minutes >= LEAST_MINUTES_FOR_XLA) and bool(self.prefers_xla(config, on_gpu))

    def training_inputs(self, options: TrainingOptions, steps: int) -> Callable[[Any], dict[str, Any]]:
        """A function of the optimiser step, of `steps` in all: further arguments of `loss_sums` in training."""
        noise = {"input_noise": options.input_noise} if options.input_noise else {}
        return lambda step: noise

    def has_accuracy(self, config: Any, stage: str) -> bool:
        """Whether a stage says what is right or wrong, as codes are."""
        return True

    def product(self, config: Any, stage: str) -> Product:
        """What a stage makes, and of what."""
        return Product(("audio",), tuple(config.conditioned_on), None, self.encoder(config))

    def reads_text(self, config: Any) -> bool:
        """Whether it says a text."""
        return False

    # ---- data ------------------------------------------------------------------------------------------------------

    def encoder(self, config: Any) -> Quantizer:
        """How a corpus is kept for it."""
        from tierwave.audio.quantize import Quantizer

        return Quantizer(config.q_type, config.q_levels)

    def sample_rate(self, config: Any) -> int | None:
        """The sample rate in Hz that the config asks for, None for the corpus's."""
        return None

    def window_samples(self, config: Any) -> int:
        """Samples of a training window."""
        return int(config.seq_len)

    def overlap(self, config: Any) -> int:
        """Samples of context that a window needs, and that lie at least between training and held-out sound."""
        return 1

    def parameters(self, config: Any) -> list[str]:
        """Every control that training needs of the corpus."""
        return list(config.conditioned_on)

    def steerable(self, config: Any, stage: str | None = None, given: Collection[str] = ()) -> list[str]:
        """The controls that come from the user; given: those that were named."""
        return list(config.conditioned_on)

    def prepare(
        self,
        corpus: Corpus,
        split: Split | None,
        config: Any,
        stored: dict[str, Any] | None,
        *,
        data_dir: Place | None = None,
    ) -> Any:
        """What is made of a corpus before training and handed to `dataset`: None, or an object whose `document` the run
        keeps as prepared.json, and whose `remarks` training tells. stored: that document of a run, for which no
        split is needed."""
        return None

    def dataset(
        self,
        corpus: Corpus,
        spans: Sequence[Span],
        config: Any,
        stage: str,
        *,
        lanes: int,
        steering: Steering | None = None,
        dataset_state: Any = None,
        **options: Any,
    ) -> LaneWindows:
        """Windows over `spans` of a corpus and its controls; options: see `LaneWindows` (seed, shuffled, whole_spans,
        multiple_of)."""
        from tierwave.data.windows import Codes, LaneWindows, Source

        sources: dict[str, Source] = {"inputs": Codes(corpus, self.encoder(config).silence)}
        if steering is not None and config.conditioned_on:
            sources["controls"] = steering.source(config.conditioned_on, corpus.sample_rate)
        window, overlap = self.window_samples(config), self.overlap(config)
        return LaneWindows(sources, spans, window=window, overlap=overlap, lanes=lanes, **options)

    def baselines(self, dataset_state: Any, split: Split, config: Any, stage: str) -> dict[str, float]:
        """What simple models reach on held-out sound, in nats per element by name, the simplest first, besides those of
        codes; training warns where it is not beaten."""
        return {}

    def nats_per_db_offset(self, stored: Mapping[str, Any] | None) -> float | None:
        """What makes nats per value nats per dB when it is added; None where values are no levels of a spectrogram.
        stored: what the run keeps as prepared.json."""
        return None

    # ---- sound -----------------------------------------------------------------------------------------------------

    def previews(
        self, corpus: Corpus, spans: Sequence[Span], config: Any, stage: str, dataset_state: Any = None
    ) -> list[Preview]:
        """The sounds that training makes after a checkpoint."""
        return [Preview()]

    def generate(self, models: Sequence[Any], config: Any, request: Request, **about: Any) -> np.ndarray:
        """Float32 `[sequences, samples]`, round(seconds * sample_rate) samples each; arguments: see `stream`."""
        made = self.stream(models, config, request, **about)
        return made.render(request.samples(made.sample_rate))

    def network(self, config: Any, stage: str, weights: Named, kind: WeightKind, origin: str) -> Network:
        """A stage as a network of the engine, which `stream` takes as it takes a model.

        weights: by their names in a checkpoint; kind: how they are stored; origin: what errors call them.
        """
        raise NotImplementedError(f"{type(self).__name__} is generated by TensorFlow")

    def step_graphs(self, model: Any) -> list[StepGraph]:
        """The generation step of a stage as graphs of flat tensors, slowest first; none where sound is not made step by
        step."""
        return []


def load_family(name: Any) -> Family:
    """A family by what the config key `model` says.

    Raises UsageError that lists the families, and the nearest, for an unknown name.
    """
    if not isinstance(name, str) or name not in PACKAGES:
        near = difflib.get_close_matches(str(name), PACKAGES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"model {name!r} is not a family: the config key model takes {', '.join(PACKAGES)}{hint}")
    family: Family = importlib.import_module(PACKAGES[name]).FAMILY
    return family


def load_config(document: Mapping[str, Any], source: str) -> tuple[Family, Any]:
    """A config's family and the config itself; source: where it comes from. Raises UsageError as `validate`."""
    model = document.get("model", "samplernn")
    family = load_family(model)
    return family, validate(family.configs[model], document, source)
