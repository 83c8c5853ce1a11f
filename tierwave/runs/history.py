"""How a training went, read from its run folder: the losses of every step and epoch, and the baselines to beat.

Knows `losses.csv` as `callbacks.LossTable` writes it; no models.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tierwave.analysis.faults import Epoch
from tierwave.errors import RunError
from tierwave.files.text import decode
from tierwave.runs.folder import Run

LOSSES, BASELINES = "losses.csv", "bars.json"
MOST_STEPS, MOST_NATS = 1 << 53, float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class History:
    """The losses of one stage, in nats per element.

    steps, losses, gradient_norms: of every update [updates]. epochs: in their order; ends: the step at which each
    ended. baselines: what simple models reach on held-out sound, the simplest first. in_bits: whether losses are those
    of codes, which are told in bits.
    """

    steps: np.ndarray
    losses: np.ndarray
    gradient_norms: np.ndarray
    epochs: tuple[Epoch, ...]
    ends: tuple[int, ...]
    in_bits: bool
    baselines: dict[str, float] = field(default_factory=dict)


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
    """The baselines of models of codes, in nats per sample, from what a run knows of its recordings."""
    named = {"code histogram": "histogram_bits", "first-order Markov model": "markov_bits"}
    return {name: statistics[key] * math.log(2.0) for name, key in named.items() if key in statistics}
