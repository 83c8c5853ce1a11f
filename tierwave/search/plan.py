"""The plan of a search: what a person typed, checked, and with all that makes its trials comparable."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tierwave.audio.arrays import find_rows
from tierwave.audio.finding import find_audio
from tierwave.config import difference
from tierwave.errors import RunError, UsageError
from tierwave.files.documents import unsealed
from tierwave.files.folders import refuse_name
from tierwave.files.names import name_within
from tierwave.search.space import EQUAL_TIME, OBJECTIVES, Axis, Space

SEARCH_FILE, TRIALS = "search.json", "trials"
TYPES = ("bayesian", "random_search", "hyperband")
DEFAULT_EPOCHS, DEFAULT_TRIALS = 30, 10
MOST_EPOCHS = 10_000  # of a trial that is ended by the clock


class ChiefLost(RunError):
    """The chief of a search does not answer."""


@dataclass(frozen=True)
class Search:
    """What a person asked tune.py for; the fields that are not explained here are its flags.

    document: the config in which the keys of `axes` are set; source: its name in messages. max_trials: None is
    Hyperband's own number. data_dir may be None for a chief; a worker needs no document and no axes.
    """

    id: str
    data_dir: Path | None
    document: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    axes: Sequence[Axis] = ()
    logdir_root: Path = Path("logdir")
    type: str = "bayesian"
    objective: str = "val_loss"
    num_epochs: int | None = None
    max_trials: int | None = None
    early_stopping_patience: int | None = 3
    val_frac: float = 0.1
    random_seed: int = 0
    max_minutes: float | None = None
    max_minutes_per_trial: float | None = None
    stage: str | None = None
    resume: bool = True
    param_dir: Path | None = None
    params: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder of the search."""
        return self.logdir_root / self.id


@dataclass(frozen=True)
class Plan:
    """What makes trials comparable: the same for every process of a search, and whenever it is resumed."""

    space: Space
    type: str
    objective: str
    num_epochs: int
    max_minutes_per_trial: float | None
    guard: int
    random_seed: int
    recordings: str | None

    @property
    def goal(self) -> tuple[str, str]:
        """Name of the objective, and "min" or "max"."""
        return self.objective, OBJECTIVES[self.objective]

    @property
    def sign(self) -> float:
        """1 if less of the objective is better, else -1."""
        return -1.0 if self.goal[1] == "max" else 1.0

    @property
    def measure(self) -> str:
        """What of an epoch is the objective."""
        return "val_loss" if self.objective == EQUAL_TIME else self.objective

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {**self.space.document_of_search(), **{name: getattr(self, name) for name in _PLANNED}}

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> Plan:
        """What `document` made. Raises RunError if another version made it."""
        try:
            return Plan(Space.from_document(document), **{name: document[name] for name in _PLANNED})
        except (KeyError, TypeError, AttributeError) as error:
            raise RunError(
                f"the chief's plan cannot be read ({error!r}): install the same version of Tierwave on all machines"
            ) from None


_PLANNED = [field.name for field in dataclasses.fields(Plan) if field.name != "space"]


def plan_of(search: Search) -> Plan:
    """The plan of a search. Raises UsageError for whatever is wrong with it before anything is trained."""
    refuse_name("--id", search.id, search.logdir_root)
    minutes, epochs = search.max_minutes_per_trial, search.num_epochs or DEFAULT_EPOCHS
    if search.objective == EQUAL_TIME:
        if search.type == "hyperband":
            raise UsageError(
                f"--objective {EQUAL_TIME} and --type hyperband exclude each other, since Hyperband compares after "
                "equal epochs: take random_search or bayesian"
            )
        if minutes is None and search.max_minutes is None:
            raise UsageError(f"--objective {EQUAL_TIME} needs to know the time: add --max_minutes_per_trial")
        if minutes is None and search.max_minutes is not None:
            minutes = search.max_minutes / (search.max_trials or DEFAULT_TRIALS)
        epochs = search.num_epochs or MOST_EPOCHS
    if search.val_frac == 0 and search.objective.startswith("val_"):
        raise UsageError(
            f"--objective {search.objective} needs held-out recordings, and --val_frac is 0: raise it, or take "
            f"--objective {'loss' if search.objective == EQUAL_TIME else search.objective.removeprefix('val_')}"
        )
    monitor = {"val_bits": "val_loss", "bits": "loss", EQUAL_TIME: "val_loss"}.get(search.objective, search.objective)
    typed = {
        "num_epochs": epochs,
        "early_stopping_patience": search.early_stopping_patience,
        "val_frac": search.val_frac,
        "monitor": monitor,
        "random_seed": search.random_seed,
        "generate": False,
        "max_minutes": None,
        "max_checkpoints": 1,
    }
    recordings = None if search.data_dir is None else digest_of(search.data_dir)
    space = Space.of(search.document, search.source, search.axes, typed, search.stage)
    return Plan(space, search.type, search.objective, epochs, minutes, space.guard(), search.random_seed, recordings)


def need_recordings(search: Search) -> Path:
    """The folder of recordings. Raises UsageError if none was named."""
    if search.data_dir is None:
        raise UsageError("--data_dir is missing: name a folder of recordings")
    return search.data_dir


def digest_of(data_dir: Path) -> str:
    """A digest of the names and sizes of the recordings in a folder. Raises UsageError if there are none."""
    if not data_dir.is_dir():
        raise UsageError(f"--data_dir {data_dir} is no folder: name a folder of recordings")
    found = [*find_audio([data_dir]), *dict.fromkeys(row.path for row in find_rows(data_dir)[0])]
    if not found:
        raise UsageError(f"--data_dir {data_dir} holds no recordings: name a folder of wav, flac, mp3 or the like")
    digest = hashlib.blake2b(digest_size=8)
    for path in found:
        digest.update(f"{name_within(path, data_dir)} {path.stat().st_size}\n".encode())
    return f"{len(found)} recordings {digest.hexdigest()}"


def read_plan(path: Path) -> dict[str, Any]:
    """The plan in the file of a search. Raises RunError if it is damaged."""
    try:
        plan = unsealed(path.read_bytes())["plan"]
        if not isinstance(plan, dict):
            raise ValueError("plan: it is no object")
    except (ValueError, KeyError) as error:
        raise RunError(
            f"{path} is damaged ({error}): its trials are still there, but a search has to start over, with another "
            "--id or --resume False"
        ) from None
    return plan


def refuse_another(path: Path, document: dict[str, Any], search: Search) -> None:
    stored, now = read_plan(path), json.loads(json.dumps(document))
    if None in (stored.get("recordings"), now["recordings"]):  # a chief without recordings of its own
        stored["recordings"] = now["recordings"]
    changes = difference(stored, now)
    if changes:
        raise UsageError(
            f"the search {search.folder} was begun as another one ({'; '.join(changes)}): give this one another --id, "
            "or start over with --resume False"
        )
