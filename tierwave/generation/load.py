"""From a run folder to trained models (`load_run`), seeds, and another run's weights to start from (`take_weights`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from tierwave.audio.recordings import load
from tierwave.config import difference, offset_in_samples
from tierwave.controls.schema import Schema
from tierwave.controls.sources import find_control_sources
from tierwave.controls.tracks import Controls, shifted
from tierwave.data.corpus import Normalize, normalised
from tierwave.data.measured import measure_sound
from tierwave.engine.network import InMemory, Network, WeightKind
from tierwave.engine.voices import prepare
from tierwave.errors import RunError, UsageError
from tierwave.family import Family, load_config, load_family
from tierwave.generation.request import Request, Stream
from tierwave.nn.runtime import has_gpu
from tierwave.runs.archive import opened
from tierwave.runs.folder import CONFIG_NAME, CheckpointEntry, Run, find_checkpoint
from tierwave.runs.start import StartingWeights, read_start
from tierwave.runs.tensors import Tensors, check_run_id

DATASET_STATE = "prepared.json"
Weights = Literal["auto", "float32", "bfloat16", "int8", "tensorflow"]
WEIGHTS_CHOSEN = "weights.json"
WEIGHTS: tuple[Weights, ...] = get_args(Weights)
MANY = 16  # sounds at once for which a GPU is taken where there is one


@dataclass(frozen=True)
class Trained:
    """A run made ready: its family, config, models (one per stage, of Keras or networks of the engine), sample rate and
    the corpus's gain.

    run: the whole run; entry: the checkpoint that was asked for, of the last stage if none was; path: where it lies;
    checkpoints: the paths of those of all stages, by stage; schema: of the controls, empty if there are none; values:
    which raw values of each were trained on; dataset_state: what the family stored of the corpus (see
    `Family.prepare`), or None; by_tensorflow: whether models of Keras make sound themselves, and not the engine with
    their weights.
    """

    run: Run
    entry: CheckpointEntry
    path: Path
    checkpoints: dict[str, Path]
    family: Family
    config: Any
    models: list[Any]
    sample_rate: int
    gain: float
    schema: Schema
    values: dict[str, list[float]]
    dataset_state: dict[str, Any] | None = None
    by_tensorflow: bool = False

    def prepare(self, say: Callable[[str], None]) -> None:
        """Compile what the engine needs for these networks, and say so before, if no earlier process has."""
        for network in self.models:
            if isinstance(network, Network):
                prepare(network, say)

    def on_engine(self, kind: WeightKind = "float32") -> Trained:
        """The same with networks of the engine, as far as the family has them, with the weights that its models have
        now."""
        if not self.family.has_networks or any(isinstance(model, Network) for model in self.models):
            return self
        stages = self.family.stages(self.config)
        pairs = zip(stages, self.models, strict=True)
        return replace(
            self, models=[network_of(self.family, self.config, stage, model, kind) for stage, model in pairs]
        )

    def generate(self, request: Request) -> np.ndarray:
        """New sound, float32 `[sequences, samples]` at `sample_rate`."""
        stream = self.stream(request)
        return stream.render(round(stream.duration() * self.sample_rate))

    def stream(self, request: Request) -> Stream:
        """New sound while it is made: the family's stream of this run's models, by the engine where it can."""
        return self.family.stream(
            (self if self.by_tensorflow else self.on_engine()).models,
            self.config,
            request,
            sample_rate=self.sample_rate,
            schema=self.schema,
            dataset_state=self.dataset_state,
        )


def load_schema(run: Run) -> Schema:
    """The run's schema, the only mapping of its parameters."""
    document = run.read("schema.json")
    return Schema.from_document(document["parameters"], str(run.folder / "schema.json"))


def load_run(
    path: str | Path,
    *,
    best: bool = False,
    config_document: dict[str, Any] | None = None,
    weights: Weights | Sequence[WeightKind] | None = None,
) -> Trained:
    """Everything that generation needs from a checkpoint, run folder, its zip, or id's folder (`runs.find_checkpoint`).

    Stages that `path` does not name take their newest checkpoint, or their best. config_document: for a checkpoint
    without a config beside it. weights: how networks of the engine store theirs, all or by stage (the last is
    repeated), for a run that only makes sound, and without TensorFlow; "tensorflow": it makes the sound; None: models
    of Keras, for anything, with whose weights the engine makes sound. Raises UsageError or RunError with what to do.
    """
    path = opened(path)
    named, entry = find_checkpoint(path, best=best)
    run = named.root
    document = run.read(CONFIG_NAME) if config_document is None else config_document
    family, config = load_config(document, str(run.folder / CONFIG_NAME))
    described = run.read("run.json")
    models, entries = [], {}
    stages = family.stages(config)
    for number, stage in enumerate(stages):
        part = run.stage(stage if len(stages) > 1 else None)
        chosen = entry if part.folder == named.folder else _chosen(part, stage, best)
        if len(stages) > 1:
            check_run_id(part.folder / chosen.name, run)
        checkpoint = part.folder / chosen.name
        if weights is None or weights == "tensorflow" or not family.has_networks:
            models.append(load_model(family, config, stage, checkpoint))
        else:
            kind = weights if isinstance(weights, str) else weights[min(number, len(weights) - 1)]
            models.append(load_network(family, config, stage, checkpoint, kind))
        entries[stage] = chosen, part.folder / chosen.name
    gain = float(run.read("statistics.json")["gain"]) if config.normalize == "corpus" else 1.0
    schema, values = Schema(), {}
    if family.parameters(config):
        schema, values = load_schema(run), run.read("schema.json").get("values", {})
    dataset_state = run.read(DATASET_STATE) if (run.folder / DATASET_STATE).exists() else None
    asked, place = (entry, named.folder / entry.name) if not Path(path).is_dir() else entries[stages[-1]]
    checkpoints = {stage: found for stage, (_, found) in entries.items()}
    rate = int(described["sample_rate"])
    return Trained(
        run, asked, place, checkpoints, family, config, models, rate, gain, schema, values, dataset_state,
        by_tensorflow=weights == "tensorflow",
    )  # fmt: skip


def weights_for(weights: Weights, sequences: int, has_gpu: Callable[[], bool] = has_gpu) -> Weights:
    """What `auto` means for so many sounds at once: TensorFlow where they are many and it sees a GPU."""
    return "tensorflow" if weights == "auto" and sequences >= MANY and has_gpu() else weights


def needs_tensorflow(path: str | Path, weights: Weights, config_document: dict[str, Any] | None = None) -> bool:
    """Whether `load_run` will make models of Keras; as far as can be told, since it says what is wrong with a path."""
    if weights == "tensorflow":
        return True
    try:
        if config_document is None:
            run = find_checkpoint(opened(path))[0].root
            config_document = run.read(CONFIG_NAME)
        return not load_family(config_document.get("model", "samplernn")).has_networks
    except (UsageError, RunError):
        return False


def hardly_trained(parts: Mapping[str, Run]) -> list[str]:
    """A sentence for each stage, in these parts of a run of several, that ended before its first epoch."""
    found = []
    for stage, part in parts.items():
        entry = part.latest() if part.checkpoints else None
        if entry is not None and entry.epoch == 0 and entry.step > 0:
            steps = f"{entry.step} step{'s' if entry.step > 1 else ''}"
            found.append(
                f"{stage} was trained for {steps}, less than one epoch, so what it makes may be noise: go on training "
                f"it (train.py --stage {stage} with the same --id, and more --max_minutes)"
            )
    return found


def load_model(family: Family, config: Any, stage: str, checkpoint: Path) -> Any:
    """The model of a stage with the weights of a checkpoint."""
    from tierwave.nn.runtime import grow_gpu_memory
    from tierwave.runs.checkpoints import restore_checkpoint

    grow_gpu_memory()
    model = family.build(config, stage)
    restore_checkpoint(checkpoint, {"model": model})
    return model


def load_network(family: Family, config: Any, stage: str, checkpoint: Path, weights: Weights) -> Network:
    """The stage with the weights of a checkpoint for the engine, without TensorFlow."""
    kind: WeightKind = "float32"
    if weights == "auto":
        kind = _measured(checkpoint)
    elif weights != "tensorflow":
        kind = weights
    return family.network(config, stage, Tensors(checkpoint), kind, f"checkpoint {checkpoint}")


def _measured(checkpoint: Path) -> WeightKind:
    """The type of weights that `tierwave evaluate --weights` has found best for a checkpoint; float32 before that."""
    run = Run(checkpoint.parent).root
    if not (run.folder / WEIGHTS_CHOSEN).exists():
        return "float32"
    document = run.read(WEIGHTS_CHOSEN)
    is_its = document.get("checkpoint") == checkpoint.name and document.get("weights") in get_args(WeightKind)
    return document["weights"] if is_its else "float32"


def network_of(family: Family, config: Any, stage: str, model: Any, kind: WeightKind = "float32") -> Network:
    """A stage for the engine, with the weights that a model of Keras has now."""
    from tierwave.runs.checkpoints import named_weights

    return family.network(config, stage, InMemory(named_weights(model)), kind, f"the model of {stage}")


def _chosen(part: Run, stage: str, best: bool) -> CheckpointEntry:
    if not part.checkpoints:
        raise RunError(
            f"the stage {stage} has no checkpoint in {part.folder}: train it first, with train.py --stage {stage} and "
            "the same --id"
        )
    return part.best() if best else part.latest()


@dataclass(frozen=True)
class Source:
    """A stage of another run whose weights a new model starts from."""

    run: Run
    checkpoint: Path
    config: Any
    stage: str


def find_source(family: Family, config: Any, stage: str, path: Path) -> Source | None:
    """The stage that `--init_from` means for one of ours; None if a single-stage run matches none of our stages.

    Raises UsageError where the weights do not fit.
    """
    path = opened(path)
    named, entry = find_checkpoint(path)
    run = named.root
    theirs_family, theirs = load_config(run.read(CONFIG_NAME), str(run.folder / CONFIG_NAME))
    stages, ours = theirs_family.stages(theirs), family.stages(config)
    if theirs_family is not family:
        raise UsageError(f"--init_from {path} is of another model ({theirs.model}): use its config with --config_file")
    named_stage = named.folder.name if named.folder != run.folder else None
    if len(ours) == 1 and len(stages) > 1 and not path.is_dir() and named_stage in stages:
        other: str | None = named_stage
    else:
        other = stage if stage in stages else stages[-1] if len(stages) == 1 else None
    if other is None:
        raise UsageError(f"--init_from {path} has no stage {stage}, only {', '.join(stages)}")
    changes = difference(family.architecture(theirs, other), family.architecture(config, stage))
    if changes:
        if len(stages) == 1 and len(ours) > 1 and stage not in stages:
            return None
        raise UsageError(
            f"--init_from {path} has another architecture ({'; '.join(changes)}): use its config "
            f"({run.folder / CONFIG_NAME}) with --config_file"
        )
    part = run.stage(other if len(stages) > 1 else None)
    chosen = entry if part.folder == named.folder else _chosen(part, other, False)
    return Source(run, part.folder / chosen.name, theirs, other)


def find_start(family: Family, config: Any, stage: str) -> tuple[StartingWeights | None, list[str]]:
    """The family's starting weights; None, and what differs, where they are of another architecture."""
    if family.start is None:
        return None, [f"the model {config.model} has none"]
    start = read_start(family.start)
    theirs = load_config(start.config, str(family.start))[1]
    changes = difference(family.architecture(theirs, stage), family.architecture(config, stage))
    return (None if changes else start), changes


def take_weights(
    model: Any,
    family: Family,
    source: Source | StartingWeights,
    schema: Schema,
    dataset_state: dict[str, Any] | None = None,
) -> None:
    """Start `model` from the weights of another run, or from starting weights. dataset_state: what the family stores of
    the new run's corpus."""
    if isinstance(source, StartingWeights):
        other = family.build(load_config(source.config, str(source.source))[1])
        source.assign(other)
        # Their controls are 0 where nothing is known of them.
        family.take_weights(other, model, source.schema, schema, absent=0.0)
        return
    other = load_model(family, source.config, source.stage, source.checkpoint)
    their_schema = load_schema(source.run) if family.parameters(source.config) else Schema()
    their_state = None if dataset_state is None else source.run.read(DATASET_STATE)
    family.take_weights(other, model, their_schema, schema, source_state=their_state, dataset_state=dataset_state)


def seed_audio(trained: Trained, path: str | Path, offset: int | str = 0) -> np.ndarray:
    """A recording to continue from `offset` (samples, or "1.5s"), float32 `[samples]` at the run's rate and level."""
    return load_seed(path, offset, trained.sample_rate, trained.config.normalize, trained.gain)


def load_seed(path: str | Path, offset: int | str, sample_rate: int, normalize: Normalize, gain: float) -> np.ndarray:
    """`seed_audio` of a run that is not trained yet: its level is changed as the corpus's."""
    sound, _ = load(path, sample_rate)
    first = offset_in_samples(offset, sample_rate)
    if first >= len(sound):
        raise UsageError(
            f"--seed_offset {offset} lies past the end of {path}, which has {len(sound)} samples "
            f"({len(sound) / sample_rate:.2f} s) at {sample_rate} Hz: use a smaller offset"
        )
    return normalised(sound, normalize, gain)[first:]


def seed_controls(trained: Trained, path: Path, offset: int | str) -> Controls | None:
    """The controls of a recording from `offset` on, as far as they can be found; None where there are none.

    Looked for as in training if it is one of the corpus's recordings, else beside the recording; what was measured in
    training is measured again where it is nowhere.
    """
    described = trained.run.read("run.json")
    names = trained.family.parameters(trained.config)
    given = described.get("data_dir")  # an imported run has none
    root = path if given is None else Path(given)
    inside = given is not None and root.is_dir() and path.resolve().is_relative_to(root)
    param_dir, params = (described.get(key) if inside else None for key in ("param_dir", "params"))
    recording = path.resolve() if inside else path
    try:
        sources = find_control_sources(
            root if inside else path,
            param_dir=param_dir,
            params=params,
            name_params=names,
            categories=trained.schema.named,
        )
        there = sources.read(recording)
        found = {**there.controls([name for name in names if name in there.names])}
    except UsageError:  # a folder that is gone
        return None
    if measured := [name for name in described.get("measured", ()) if name not in found]:
        found |= measure_sound(seed_audio(trained, path), trained.sample_rate, measured)
    if not found:
        return None
    return shifted(found, offset_in_samples(offset, trained.sample_rate) / trained.sample_rate)
