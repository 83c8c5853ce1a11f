"""How a training went, read from its run folder: the losses of every step and epoch (`losses.csv`, which
`callbacks.LossTable` writes), and the baselines to beat."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from tierwave.errors import RunError
from tierwave.files.text import decode
from tierwave.runs.folder import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSSES, BASELINES = "losses.csv", "bars.json"
LINEAR_PREDICTION = "linear prediction"  # that adapts as it goes: a baseline's name
MOST_STEPS, MOST_NATS = 1 << 53, float(np.finfo(np.float32).max)


@overload
def in_unit(nats: float, unit: str) -> float: ...
@overload
def in_unit(nats: np.ndarray, unit: str) -> np.ndarray: ...
def in_unit(nats: Any, unit: str) -> Any:
    """Losses in their unit: in bits where that is it, else as they are."""
    return nats / math.log(2.0) if unit == "bits" else nats


@dataclass(frozen=True)
class Epoch:
    """The losses of an epoch, per element, in nats or another unit; valid: None without held-out recordings."""

    number: int
    train: float
    valid: float | None = None

    def scaled(self, unit: str) -> Epoch:
        """The same in `unit`."""
        valid = None if self.valid is None else in_unit(self.valid, unit)
        return Epoch(self.number, in_unit(self.train, unit), valid)

    @property
    def monitored(self) -> float:
        """The loss that counts: on held-out recordings, where there are any."""
        return self.train if self.valid is None else self.valid


@dataclass(frozen=True, eq=False)
class History:
    """The losses of one stage, in nats per element.

    steps, losses, gradient_norms: of every update [updates]. epochs: in their order; ends: the step at which each
    ended. baselines: what simple models reach on held-out sound, the simplest first. in_bits: whether losses are those
    of codes, which are shown in bits.
    """

    steps: np.ndarray
    losses: np.ndarray
    gradient_norms: np.ndarray
    epochs: tuple[Epoch, ...]
    ends: tuple[int, ...]
    in_bits: bool
    baselines: dict[str, float] = field(default_factory=dict)

    def scaled(self, unit: str) -> tuple[list[Epoch], dict[str, float]]:
        """Epochs and baselines in `unit`."""
        baselines = {name: in_unit(bar, unit) for name, bar in self.baselines.items()}
        return [epoch.scaled(unit) for epoch in self.epochs], baselines


def losses_figure(history: History, unit: str, title: str = "") -> Figure:
    """A chart of the losses in `unit`: every update and smoothed, held-out sound, the baselines to beat."""
    from tierwave.analysis.plots import losses_chart

    epochs, baselines = history.scaled(unit)
    held_out = [(end, epoch.valid) for end, epoch in zip(history.ends, epochs, strict=True) if epoch.valid is not None]
    ends, losses = np.array(held_out, np.float64).reshape(-1, 2).T
    up = f"{title}, {unit} per {'sample' if unit == 'bits' else 'value'}".removeprefix(", ")
    return losses_chart(history.steps, in_unit(history.losses, unit), (ends, losses), baselines, up)


def read_history(part: Run) -> History:
    """The history of a stage, or of a run of one stage. One that was never trained has none: all is empty.

    Raises RunError for a table that is damaged.
    """
    path = part.folder / LOSSES
    try:
        rows = [row for row in csv.DictReader(_lines(path)) if None not in row.values()]  # the last may be half written
        for row in rows:
            _count(row["step"]), _count(row["epoch"])
        updates = [
            (int(row["step"]), _nats(row["loss"]), _nats(row["gradient_norm"])) for row in rows if row["gradient_norm"]
        ]
        ended = [row for row in rows if row["loss"] and not row["gradient_norm"]]
        epochs = [
            Epoch(int(row["epoch"]), _nats(row["loss"]), _nats(row["val_loss"]) if row["val_loss"] else None)
            for row in ended
        ]
        ends = [int(row["step"]) for row in ended]
        in_bits = any(row["bits"] for row in rows)
        table = np.array(updates, np.float64).reshape(-1, 3)
    except (KeyError, TypeError, ValueError, OverflowError, csv.Error) as error:
        told = f"no column {error}" if isinstance(error, KeyError) else error
        raise RunError(f"{path} is damaged ({told}): remove it, or name another run") from None
    return History(table[:, 0], table[:, 1], table[:, 2], tuple(epochs), tuple(ends), in_bits, _bars(part, in_bits))


def _count(text: str) -> int:
    count = int(text)
    if not 0 <= count <= MOST_STEPS:
        raise ValueError(f"{text[:20]} is no step or epoch")
    return count


def _nats(text: str) -> float:
    """A loss, which may be no number where training broke."""
    value = float(text)
    if math.isfinite(value) and abs(value) > MOST_NATS:
        raise ValueError(f"{text[:20]} is no loss")
    return value


def _lines(path: Path) -> io.StringIO:
    """The table's text, none if there is none. Raises ValueError where it is no text."""
    return io.StringIO(decode(path.read_bytes()) if path.exists() else "", newline="")


def _bars(part: Run, in_bits: bool) -> dict[str, float]:
    if (part.folder / BASELINES).exists():
        return {str(name): float(nats) for name, nats in part.read(BASELINES).items()}
    known = in_bits and (part.root.folder / "statistics.json").exists()
    return code_baselines(part.root.read("statistics.json")) if known else {}


def code_baselines(statistics: Mapping[str, float]) -> dict[str, float]:
    """The baselines of models of codes, in nats per sample, the simplest first, from `statistics.json`."""
    named = {
        "code histogram": "histogram_bits",
        "first-order Markov model": "markov_bits",
        LINEAR_PREDICTION: "linear_prediction_bits",
    }
    return {name: statistics[key] * math.log(2.0) for name, key in named.items() if key in statistics}
