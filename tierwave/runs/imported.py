"""Weights of another program's network as a run.

Such a run generates, and other trainings start from it; it is not resumed, since it has neither corpus nor optimiser.
"""

from __future__ import annotations

import abc
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel

from tierwave.config import dumps
from tierwave.controls.schema import Schema
from tierwave.errors import RunError, UsageError
from tierwave.files.folders import refuse_name
from tierwave.files.writing import write_text
from tierwave.runs.folder import CONFIG_NAME, CheckpointEntry, Run, create_run, environment, now, runs_of


class ForeignWeights(abc.ABC):
    """The arrays of a file of weights by the other program's names.

    source: the file; shapes: by name; remedy: what to do about a file that lacks an array or holds one that does not
    fit. Subclasses read the values.
    """

    remedy: ClassVar[str]

    def __init__(self, source: Path, shapes: Mapping[str, tuple[int, ...]]):
        self.source, self.shapes = source, shapes
        self._taken: set[str] = set()

    @abc.abstractmethod
    def read(self, name: str) -> np.ndarray:
        """An array that exists."""

    @property
    def left(self) -> list[str]:
        """The names of the arrays that were not taken."""
        return sorted(self.shapes.keys() - self._taken)

    def count(self, pattern: str) -> int:
        """One more than the largest number that `pattern` finds at the beginning of a name; 0 where it finds none."""
        found = [re.match(pattern, name) for name in self.shapes]
        return max((int(match[1]) + 1 for match in found if match), default=0)

    def shape(self, name: str, rank: int) -> tuple[int, ...]:
        """The shape of an array that must have `rank` dimensions. Raises RunError."""
        if name not in self.shapes:
            raise RunError(f"{self.source} holds no {name}, which belongs to its other arrays: {self.remedy}")
        shape = self.shapes[name]
        if len(shape) != rank or 0 in shape:
            raise RunError(
                f"{name} in {self.source} has the shape {list(shape)}, and {rank} dimensions are needed: {self.remedy}"
            )
        return shape

    def take(self, name: str, *shape: int) -> np.ndarray:
        """An array that must have this shape. Raises RunError."""
        found = self.shape(name, len(shape))
        if found != shape:
            raise RunError(
                f"{name} in {self.source} has the shape {list(found)}, but its other arrays need {list(shape)}: "
                f"{self.remedy}"
            )
        self._taken.add(name)
        return self.read(name)


def assign_all(assignments: Iterable[tuple[Any, np.ndarray]]) -> None:
    """Assign each variable its value, after all values have been found."""
    for variable, value in list(assignments):
        variable.assign(value)


@dataclass(frozen=True)
class Imported:
    """A run made of imported weights, and remarks for the user."""

    run: Run
    entry: CheckpointEntry
    config: Any
    schema: Schema
    remarks: tuple[str, ...]

    def next_steps(self, controls: str = "") -> list[str]:
        """Commands that use the run, one line each; controls: flags that generate.py needs."""
        folder = self.run.folder
        return [
            f"To generate:      python generate.py --checkpoint_path {folder} --output_path new.wav{controls}",
            f"To train from it: python train.py --init_from {folder} --config_file {folder / CONFIG_NAME} "
            "--id NEW --data_dir FOLDER",
        ]


def check_identity(identity: str, logdir_root: Path | str) -> None:
    """UsageError unless `identity` is a plain name under which there is no run yet."""
    refuse_name("--id", identity, Path(logdir_root))
    home = Path(logdir_root) / identity
    if runs_of(home):
        raise UsageError(f"--id {identity} has runs already, in {home}: choose another --id for the imported one")


def write_imported(
    model: Any,
    config: BaseModel,
    identity: str,
    logdir_root: Path | str,
    *,
    sample_rate: int,
    source: Path,
    epoch: int = 0,
    step: int = 0,
    schema: Schema | None = None,
    documents: Mapping[str, Any] | None = None,
    remarks: Iterable[str] = (),
) -> Imported:
    """A run folder that holds the model's weights, whole or not at all.

    source: where they come from; epoch, step: how long they were trained; documents: further JSON files by name.
    Raises RunError where it cannot be written.
    """
    import tensorflow as tf

    from tierwave.runs.checkpoints import make_checkpoint

    entry = CheckpointEntry(f"model.ckpt-{epoch}", epoch, step, value=None, best=False, kept=True)
    run = create_run(Path(logdir_root), identity)
    try:
        make_checkpoint({"model": model}).write(str(run.folder / entry.name))
        run.record(entry, None)
        described = {
            "id": identity,
            "created": now(),
            "command": sys.argv,
            "sample_rate": sample_rate,
            "imported_from": str(source.resolve()),
            "corpus": None,
            "versions": environment(),
        }
        for name, document in {"run.json": described, **(documents or {})}.items():
            run.write(name, document)
        write_text(run.folder / CONFIG_NAME, dumps(config))  # last: a folder without it is no run
    except (tf.errors.OpError, OSError) as error:
        shutil.rmtree(run.folder, ignore_errors=True)
        reason = str(getattr(error, "message", None) or error).splitlines()[0]
        raise RunError(
            f"the run could not be written to {run.folder} ({reason}): make room, or name another --logdir_root"
        ) from None
    return Imported(run, entry, config, schema or Schema(), tuple(remarks))
