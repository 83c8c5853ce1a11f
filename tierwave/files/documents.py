"""What the documents of a run hold: a schema of each, which is checked where it is read.

A run may come from anywhere and its files may be damaged, so they are validated before use. The family validates its
config and `prepared.json`. Files that only this program reads are sealed with a digest, which reveals any damage.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from tierwave.files.text import parse_json

STRICT = ConfigDict(strict=True, frozen=True, allow_inf_nan=False, extra="ignore")
CHECKPOINT_NAME = r"^(?:model|resume)\.ckpt-\w+$"
MOST_SAMPLES = 1 << 62


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} is no name of a recording within a folder")
    return name


Name = Annotated[str, AfterValidator(_inside)]
Index = Annotated[int, Field(ge=0, le=MOST_SAMPLES)]
Share = Annotated[float, Field(ge=0, le=1e38)]


def _ordered(span: tuple[str, int, int]) -> tuple[str, int, int]:
    name, start, stop = span
    if not start < stop:
        raise ValueError(f"{name} from sample {start} to {stop} is no stretch")
    return span


Stretch = Annotated[tuple[Name, Index, Index], AfterValidator(_ordered)]


class Described(BaseModel):
    """`run.json`: where a run comes from. corpus: digests of the recordings by name; None for imported weights."""

    model_config = STRICT
    sample_rate: Annotated[int, Field(ge=1, le=10_000_000)]
    corpus: dict[Name, str] | None
    id: str = ""
    mark: str = ""
    created: str = ""
    command: list[str] = []
    data_dir: str | None = None
    param_dir: str | None = None
    params: str | None = None
    controls: dict[str, str] = {}
    measured: list[str] = []
    versions: dict[str, str] = {}


class Held(BaseModel):
    """`split.json`: stretches of recordings, in samples."""

    model_config = STRICT
    method: Literal["files", "stretches"]
    train: list[Stretch]
    valid: list[Stretch]
    test: list[Stretch]


class Statistics(BaseModel):
    """`statistics.json`: what the recordings are like. An imported run knows only the gain."""

    model_config = STRICT
    gain: Annotated[float, Field(gt=0, le=1e38)]
    noise_floor: Share | None = None
    files: Index = 0
    hours: Share = 0.0
    samples: Index = 0
    file_rates: dict[str, Index] = {}
    channels: dict[str, Index] = {}
    peak: Share = 0.0
    rms: Share = 0.0
    dc: float = 0.0
    silent_share: Share = 0.0
    clipped_share: Share = 0.0
    normalize: str = "none"
    left_out: list[list[str]] = []
    remarks: list[list[str]] = []
    histogram_bits: Share | None = None
    markov_bits: Share | None = None
    linear_prediction_bits: Share | None = None

    @model_validator(mode="after")
    def _both_bars(self) -> Statistics:
        given = {"histogram_bits", "markov_bits"} & self.model_fields_set
        if len(given) == 1 or any(getattr(self, name) is None for name in given):
            raise ValueError("histogram_bits and markov_bits are two numbers, or neither is there")
        return self


class Parameters(BaseModel):
    """`schema.json`: how raw values map (`controls.Schema` says what each holds), and which were trained on."""

    model_config = STRICT
    parameters: list[dict[str, Any]]
    values: dict[str, list[float]] = {}


@dataclasses.dataclass(frozen=True)
class CheckpointEntry:
    """One checkpoint. name: file prefix; epoch: finished epochs; step: steps taken; value: of the monitored quantity;
    best: the best so far when it was written; kept: False for a resume point in mid-epoch; written: when, ISO 8601
    with a zone, "" for one of old."""

    __pydantic_config__ = STRICT
    name: Annotated[str, Field(pattern=CHECKPOINT_NAME)]
    epoch: Index
    step: Index
    value: Annotated[float, Field(allow_inf_nan=True)] | None
    best: bool
    kept: bool
    written: str = dataclasses.field(default="", compare=False)


class Trial(BaseModel):
    """`trial.json`: what a stage reached in a trial of a search. history: an epoch each, all with the same values, of
    which one may be no number; elements: predicted values in an epoch; reason: why it ended."""

    model_config = STRICT
    history: list[dict[str, Annotated[float, Field(allow_inf_nan=True)]]]
    elements: Share
    epochs: Index
    steps: Index
    minutes: Share
    parameters: Index
    reason: str | None

    @model_validator(mode="after")
    def _alike(self) -> Trial:
        keys = [row.keys() for row in self.history]
        if any(each != keys[0] or "epoch" not in each for each in keys):
            raise ValueError("history: its epochs do not all say the same of themselves")
        if not all(1 <= row["epoch"] <= MOST_SAMPLES for row in self.history):
            raise ValueError("history: an epoch has no number")
        return self


CHECKPOINTS = "checkpoints.json"
_ENTRIES = TypeAdapter(list[CheckpointEntry])
_SCHEMAS: dict[str, TypeAdapter[Any]] = {
    "run.json": TypeAdapter(Described),
    "split.json": TypeAdapter(Held),
    "statistics.json": TypeAdapter(Statistics),
    "schema.json": TypeAdapter(Parameters),
    "trial.json": TypeAdapter(Trial),
    "bars.json": TypeAdapter(dict[str, Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-1e9, le=1e9)]]),
    CHECKPOINTS: _ENTRIES,
}
_OBJECT: TypeAdapter[Any] = TypeAdapter(dict[str, Any])


def parsed(name: str, text: str) -> Any:
    """The document called `name`, as JSON has it. Raises ValueError that says where it is not what it must be."""
    document = parse_json(text, finite=False)
    _validated(_SCHEMAS.get(name, _OBJECT), document)
    return document


def entries_of(document: Any) -> list[CheckpointEntry]:
    """The checkpoints that `checkpoints.json` lists. Raises ValueError as `parsed` does."""
    entries: list[CheckpointEntry] = _validated(_ENTRIES, document)
    return entries


def validated(kind: Any, document: Any) -> Any:
    """`document` as an instance of `kind`, a dataclass or a type. Raises ValueError as `parsed` does."""
    return _validated(TypeAdapter(kind), document)


SEAL = "seal"


def sealed(document: dict[str, Any]) -> dict[str, Any]:
    """`document`, which JSON can hold, its keys texts, with a digest of all that stands in it, by which `unsealed`
    knows it again."""
    return {**document, SEAL: _digest(document)}


def unsealed(text: str | bytes) -> dict[str, Any]:
    """The document of which `text` is what `sealed` made. Raises ValueError for anything else."""
    document = parse_json(text, finite=False)
    if not isinstance(document, dict) or document.pop(SEAL, None) != _digest(document):
        raise ValueError("it is not as it was written")
    return document


def _digest(document: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(document, sort_keys=True).encode(), digest_size=8).hexdigest()


def _validated(schema: TypeAdapter[Any], document: Any) -> Any:
    # By way of JSON, where a list fits a tuple and still no text fits a number; half characters of odd names aside.
    text = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
    try:
        return schema.validate_json(text)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))
        said = fault["msg"].removeprefix("Value error, ")
        raise ValueError(f"{place}: {said}" if place else said) from None
