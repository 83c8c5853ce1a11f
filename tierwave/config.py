"""JSON documents in, validated and frozen configurations out.

Every family describes its config as a `StrictModel`; what training itself needs is `TrainingOptions`, which train.py
also turns into flags. Of libraries this module imports only pydantic, so that a wrong key is reported before anything
heavy is loaded.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from tierwave.config_errors import KeyPath, dotted, sentence, shown
from tierwave.errors import RunError, UsageError
from tierwave.files.names import json_text
from tierwave.files.text import MOST_NESTED, parse_json, parse_typed, read_text

# Numbers of a config. Upper bounds lie far above what anybody trains: a slip is refused before it fills the memory.
START, NO_START = "start", "none"  # what --init_from takes besides a run
Positive = Annotated[int, Field(ge=1, le=1_000_000_000)]
Width = Annotated[int, Field(ge=1, le=1_000_000)]
Layers = Annotated[int, Field(ge=1, le=256)]
Amount = Annotated[float, Field(gt=0, le=1_000_000)]


class StrictModel(BaseModel):
    """A config without unknown keys and values of another type: a number may be whole, but neither a text nor true.

    Instances cannot be changed: `model_copy(update=...)` makes another one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True)


class GlobalNormClip(StrictModel):
    """Scale all gradients so that their joint norm is at most this (PRiSM)."""

    global_norm: Annotated[float, Field(gt=0, le=1e30)] = 5.0


class ValueClip(StrictModel):
    """Clip every element of the gradient of the loss in bits to +-value (the original SampleRNN)."""

    value: Annotated[float, Field(gt=0, le=1e30)] = 1.0


def clipping(clip: GlobalNormClip | ValueClip | None) -> dict[str, float | None]:
    """A config's gradient_clip as `Learner` takes it."""
    return {
        "clip_norm": clip.global_norm if isinstance(clip, GlobalNormClip) else None,
        "clip_value": clip.value if isinstance(clip, ValueClip) else None,
    }


Model = TypeVar("Model", bound=StrictModel)


# Reading ---------------------------------------------------------------------------------------------------------


def read_document(path: str | Path) -> dict[str, Any]:
    """The JSON object in the file `path`.

    Raises UsageError where there is no such file, or it is not text, not JSON (with line and column), has a key twice,
    or holds anything but an object.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(_no_config_at(path))
    try:
        document = parse_json(read_text(path))
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}; correct it there"
        ) from error
    except RunError as error:  # no text
        raise UsageError(str(error)) from error
    except ValueError as error:  # a key that stands twice, NaN, lists without end
        raise UsageError(f"{path} is not a config: {error}") from error
    if not isinstance(document, dict):
        raise UsageError(f"{path} holds {shown(document)}, but a config is an object: write {{...}}")
    return document


def _no_config_at(path: Path) -> str:
    folder = path if path.is_dir() else path.parent
    found = "is a folder, not a config" if path.is_dir() else "does not exist"
    if not folder.is_dir():
        return f"the config {path} does not exist, nor does the folder {folder}: give the path of a *.config.json"
    beside = sorted(entry.name for entry in folder.glob("*.config.json"))
    there = "there are " + ", ".join(beside) if beside else "there is no *.config.json"
    return f"{path} {found}; in {folder.resolve()} {there}"


# Overriding ------------------------------------------------------------------------------------------------------


def apply_overrides(document: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `document` in which every `KEY=VALUE` of `overrides` holds, the later ones winning.

    KEY is dotted for nested objects, with a number for an entry of a list (`tiers.0.rate=125`); missing objects are
    created. VALUE is JSON, also without its quotes, or else a text (see `text.parse_typed`). Raises UsageError for what
    is not KEY=VALUE, for a list or an object that is no JSON, and for a key below a value that has none.
    """
    result = copy.deepcopy(dict(document))
    for override in overrides:
        key, equals, text = override.partition("=")
        steps = key.strip().split(".")
        if not equals or not all(steps):
            raise UsageError(f"--set {override} is not KEY=VALUE: write for example --set dim=512")
        if len(steps) > MOST_NESTED:
            raise UsageError(f"--set {shown(key)} leads {len(steps)} deep, where no config goes: correct the dots")
        try:
            value = parse_typed(text)
        except ValueError as error:
            raise UsageError(f"--set {key}: {error}") from None
        _set_at(result, steps, value, override)
    return result


def _set_at(container: Any, steps: list[str], value: Any, override: str) -> None:
    for depth, step in enumerate(steps):
        where, place = ".".join(steps[:depth]), cast(Any, step)
        if isinstance(container, list):
            if not (step.isascii() and step.isdigit() and int(step) < len(container)):
                raise UsageError(
                    f"--set {override}: {where} is a list of {len(container)}, and {step!r} is none of its entries; "
                    f"count from 0, or set the whole list"
                )
            place = int(step)
        elif not isinstance(container, dict):
            raise UsageError(f"--set {override}: {where} is {shown(container)}, which has no keys; set {where} itself")
        if depth == len(steps) - 1:
            container[place] = value
        elif isinstance(container, dict):
            container = container.setdefault(step, {})
        else:
            container = container[place]


# Validating ------------------------------------------------------------------------------------------------------


def validate(model_class: type[Model], document: Mapping[str, Any], source: str) -> Model:
    """`document` as a `model_class`; `source` is where it comes from, such as the file's name.

    Raises UsageError, one sentence that names source, key, value and what is accepted, for the first fault.
    """
    return _validate(model_class, document, lambda path: f"{source}: {dotted(path)}" if path else f"{source}:")


def _validate(model_class: type[Model], document: Mapping[str, Any], label: Callable[[KeyPath], str]) -> Model:
    try:
        # Validate as JSON: accepts a list for a tuple but still rejects "1" for 1.
        return model_class.model_validate_json(json.dumps(document))
    except ValidationError as error:
        elsewhere = TrainingOptions.model_fields if "training" in model_class.model_fields else ()
        moved = {key: f"training.{key}" for key in elsewhere}
        raise UsageError(sentence(error, model_class, document, label, moved)) from error


# Writing and comparing -------------------------------------------------------------------------------------------


def dumps(model: BaseModel) -> str:
    """`model` as indented JSON, keys in the order of their declaration; `validate` makes the same model of it."""
    return json_text(model.model_dump(mode="json"), 2) + "\n"


def difference(old: Any, new: Any, key: str = "") -> list[str]:
    """Where two JSON values differ, one readable line for each place: `dim: 1024 -> 512`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines = []
        for name in dict.fromkeys([*old, *new]):
            inner = f"{key}.{name}" if key else str(name)
            if name not in new:
                lines.append(f"{inner}: {shown(old[name])} -> absent")
            elif name not in old:
                lines.append(f"{inner}: absent -> {shown(new[name])}")
            else:
                lines += difference(old[name], new[name], inner)
        return lines
    if isinstance(old, list) and isinstance(new, list) and any(isinstance(entry, Mapping) for entry in [*old, *new]):
        return difference(dict(enumerate(old)), dict(enumerate(new)), key)
    if old == new and isinstance(old, bool) == isinstance(new, bool):
        return []
    return [f"{key}: {shown(old)} -> {shown(new)}"]


# Training --------------------------------------------------------------------------------------------------------


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else value


_SECONDS = re.compile(r"(\d+(\.\d*)?|\.\d+)s")


def _check_offset(value: int | str) -> int | str:
    if (isinstance(value, str) and not _SECONDS.fullmatch(value)) or (isinstance(value, int) and value < 0):
        raise ValueError("write samples from 0 up, such as 8000, or seconds with an s, such as 1.5s")
    return value


Offset = Annotated[int | str, AfterValidator(_check_offset)]


def offset_in_samples(offset: int | str, sample_rate: int) -> int:
    """The samples, at `sample_rate` Hz, of an offset in samples (8000) or in seconds ("1.5s")."""
    return round(float(offset[:-1]) * sample_rate) if isinstance(offset, str) else offset


Fraction = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(ge=0, le=1)]


class TrainingOptions(StrictModel):
    """Training options: flags of train.py, and the `training` object of a config. Descriptions are the flags' help.

    The places of recordings and runs are not among them.
    """

    num_epochs: Positive = Field(100, description="epochs to train for")
    num_steps: Positive | None = Field(None, description="stop after this many steps, if that is sooner")
    max_minutes: Annotated[float, Field(gt=0, le=1e9)] | None = Field(
        None, description="stop after this much wall-clock time, with a checkpoint"
    )
    batch_size: Width = Field(64, description="lanes, that is windows trained in parallel")
    accumulate: Width = Field(
        1, description="compute a batch's gradient in so many parts, one after the other: less memory"
    )
    optimizer: Literal["adam", "sgd", "rmsprop"] = Field("adam", description="the optimiser")
    learning_rate: float = Field(
        0.001, gt=0, le=1e30, description="learning rate; on resume, a typed one replaces the checkpoint's"
    )
    epsilon: float | None = Field(
        None, gt=0, le=1e6, description="the optimiser's epsilon; None: PRiSM's, 1e-4 for adam and 1e-5 for rmsprop"
    )
    reduce_learning_rate_after: Positive | None = Field(
        None, description="from this epoch on, multiply the learning rate by exp(-0.1) each epoch"
    )
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000_000)] = Field(
        0, description="raise the learning rate from 0 over so many first steps"
    )
    learning_rate_decay: Literal["none", "linear"] = Field(
        "none",
        description="linear: lower the learning rate to 0 by the end of num_steps, num_epochs or max_minutes, "
        "whichever comes first",
    )
    fresh_starts: Fraction = Field(
        0.0, description="share of windows that begin from silence, as generation without a seed does"
    )
    joined: Fraction = Field(
        0.0, description="share of recordings that begin with the state at the end of another, as in one sound"
    )
    momentum: Fraction = Field(0.9, description="momentum of sgd and rmsprop")
    monitor: Literal["loss", "accuracy", "val_loss", "val_accuracy"] = Field(
        "val_loss", description="the value that decides which checkpoint is best, and when to stop early"
    )
    checkpoint_every: Positive = Field(1, description="epochs between checkpoints")
    checkpoint_steps: Positive | None = Field(None, description="also a checkpoint every so many steps")
    checkpoint_minutes: Annotated[float, Field(gt=0, le=1e9)] | None = Field(
        10, description="also a resumable checkpoint within an epoch, at this interval of minutes"
    )
    checkpoint_policy: Literal["Always", "Best"] = Field(
        "Always", description="Best: a checkpoint only when the monitored value has improved"
    )
    max_checkpoints: Positive | None = Field(5, description="how many checkpoints to keep; None keeps all")
    early_stopping_patience: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = Field(
        3, description="epochs without improvement after which to stop, with the best weights; None never stops early"
    )
    generate: bool = Field(True, description="generate audio after each new checkpoint")
    max_generate_per_epoch: Annotated[int, Field(ge=0, le=10_000)] = Field(1, description="files to generate each time")
    sample_rate: Annotated[int, Field(ge=100, le=768_000)] | None = Field(
        None, description="Hz, to which the corpus is resampled, and the rate of generated audio; None: the corpus's"
    )
    output_file_dur: float = Field(3, gt=0, le=1_000_000, description="seconds of each generated file")
    temperature: Annotated[list[Annotated[float, Field(ge=0, le=1e6)]], BeforeValidator(_as_list)] = Field(
        [0.75],
        min_length=1,
        description="sampling temperature, one or more, for the files in turn; 0 takes the most likely value",
    )
    seed: str | None = Field(None, description="audio file to start generation from, any length, any rate")
    seed_offset: Offset = Field(
        0, description="where to start in the seed: samples, or seconds with an s, such as 1.5s"
    )
    val_frac: Fraction = Field(0.1, description="fraction of the recordings held out for validation")
    test_frac: Fraction = Field(0.0, description="fraction of the recordings held out for a later test")
    num_val_batches: Positive | None = Field(
        None, description="hold out this many batches of windows instead; not together with val_frac"
    )
    random_seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="seed of all random numbers")
    strategy: Literal["one", "mirrored", "multiworker"] = Field(
        "one", description="one device, mirrored over all GPUs of this machine, or multiworker over those of TF_CONFIG"
    )
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = Field(
        "float32", description="arithmetic of the model"
    )
    jit: bool | Literal["auto"] = Field(
        "auto", description="compile the training step with XLA; auto: as measured for family and size"
    )
    memory_check: bool = Field(True, description="refuse to train what clearly does not fit into memory")
    tfr: Rate = Field(1.0, description="teacher forcing rate")
    ss: Rate | None = Field(None, description="scheduled sampling: the teacher forcing rate at the end of training")
    input_noise: float = Field(0, ge=0, le=1e6, description="noise added to the inputs in training")
    loss_cutoff: float | None = Field(None, description="stop when the loss falls below this")

    @model_validator(mode="after")
    def _possible(self) -> TrainingOptions:
        by_batches = self.num_val_batches is not None
        if by_batches and "val_frac" in self.model_fields_set:
            raise ValueError(
                f"num_val_batches {self.num_val_batches} and val_frac {self.val_frac:g} both say what is held out; "
                "leave one of them out"
            )
        if not by_batches and self.val_frac + self.test_frac >= 1:
            raise ValueError(
                f"val_frac {self.val_frac:g} and test_frac {self.test_frac:g} leave nothing to train on; "
                "lower them until their sum is below 1"
            )
        if not by_batches and self.val_frac == 0 and self.monitor.startswith("val_"):
            raise ValueError(
                f"monitor {self.monitor} needs held-out recordings, but val_frac is 0; "
                f"raise val_frac, or set monitor to {self.monitor.removeprefix('val_')}"
            )
        if self.seed is None and self.seed_offset not in (0, "0s"):
            raise ValueError(f"seed_offset {self.seed_offset} has no seed to lie in; give seed, or leave it out")
        return self

    @model_serializer(mode="wrap")
    def _without_the_unused_fraction(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The default val_frac, written out, would count as set, and the pair would be refused when it is read again.
        values = serialize(self)
        if self.num_val_batches is not None:
            values.pop("val_frac", None)
        return values


def split_training(document: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config without its `training` object, and that object ({} where there is none).

    Raises UsageError where `training` is not an object.
    """
    training = document.get("training", {})
    if not isinstance(training, Mapping):
        raise UsageError(f"training is {shown(training)}, but must be an object of training flags, such as batch_size")
    return {key: value for key, value in document.items() if key != "training"}, dict(training)


_EXCLUSIVE = {"num_val_batches": "val_frac", "val_frac": "num_val_batches"}


def resolve_training(typed: Mapping[str, Any], document: Mapping[str, Any], source: str) -> TrainingOptions:
    """The training options: what was typed wins over `document["training"]`, that over the defaults.

    `typed` holds only the flags that were typed; `document` is the whole config with `--set` already applied, and
    `source` its name. Raises UsageError, which names the flag where one is at fault, else the key of the config.
    """
    _, training = split_training(document)
    for name, value in typed.items():
        if value is not None and name in _EXCLUSIVE:
            training.pop(_EXCLUSIVE[name], None)

    def label(path: KeyPath) -> str:
        if path and path[0] in typed:
            return f"--{path[0]}"
        if path:
            return f"{source}: training.{dotted(path)}"
        return f"{source}:" if training else ""

    return _validate(TrainingOptions, {**training, **typed}, label)
