"""The results of a search: a table, a CSV, a picture, TensorBoard's HParams, and the best config."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tierwave.files.names import json_text
from tierwave.files.writing import write_text
from tierwave.search.space import Choices, Space
from tierwave.training.hparams import plain, write_hparams

BEST, TABLE, PICTURE, TENSORBOARD = "best.config.json", "trials.csv", "trials.png", "tensorboard"
_MEASURED = [
    "loss",
    "val_loss",
    "bits",
    "val_bits",
    "accuracy",
    "val_accuracy",
    "epochs",
    "steps",
    "minutes",
    "parameters",
]
_WIDEST = 24  # letters of a value in the table


@dataclass(frozen=True)
class TrialResult:
    """A trial. status: "ended", "failed", "skipped" or "unfinished"; values: by key; score: the objective; metrics: all
    that was measured; reason: why it failed or was skipped."""

    number: str
    status: str
    values: Mapping[str, Any]
    score: float | None = None
    metrics: Mapping[str, float] | None = None
    reason: str | None = None


@dataclass(frozen=True)
class SearchResults:
    """All trials of a search in their order; objective: its name, and "min" or "max"."""

    space: Space
    objective: tuple[str, str]
    trials: Sequence[TrialResult]

    def of_status(self, status: str) -> list[TrialResult]:
        """The trials of a status."""
        return [trial for trial in self.trials if trial.status == status]

    @property
    def best(self) -> TrialResult | None:
        """The best trial that ended, None if none did."""
        return next(iter(self.ranked), None)

    @property
    def ranked(self) -> list[TrialResult]:
        """The trials that ended, best first, the earlier of equal ones first."""
        sign = -1.0 if self.objective[1] == "max" else 1.0
        ended = [trial for trial in self.trials if trial.score is not None]
        return sorted(ended, key=lambda trial: sign * (trial.score or 0.0))

    def table(self) -> list[str]:
        """Lines: the trials that ended, best first, then the others, and why they failed or were skipped."""
        keys = [axis.key for axis in self.space.axes]
        head = ["trial", *(key.removeprefix("training.") for key in keys), self.objective[0], "epochs", "minutes"]
        others = [trial for trial in self.trials if trial.score is None]
        rows = [head]
        for trial in [*self.ranked, *others]:
            metrics = trial.metrics or {}
            score = trial.status if trial.score is None else f"{trial.score:.5g}"
            epochs = f"{metrics['epochs']:g}" if "epochs" in metrics else ""
            minutes = f"{metrics['minutes']:.2f}" if "minutes" in metrics else ""
            rows.append([trial.number, *(_shown(trial.values[key]) for key in keys), score, epochs, minutes])
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return lines + [f"Trial {trial.number} {trial.status}: {trial.reason}" for trial in others if trial.reason]

    def write(self, folder: Path, config: Mapping[str, Any] | None) -> list[Path]:
        """Write the table, the HParams and, if a trial ended, the picture and the best config; their paths."""
        from tierwave.analysis.plots import parallel_picture

        written = [folder / TABLE]
        write_text(written[0], self._csv())
        if config is not None:
            written.insert(0, folder / BEST)
            write_text(written[0], json_text(config, 2) + "\n")
        ended = list(reversed(self.ranked))  # the best is drawn last, over the others
        if ended:
            axes: dict[str, list[Any]] = {
                axis.key.removeprefix("training."): [trial.values[axis.key] for trial in ended]
                for axis in self.space.axes
            }
            axes[self.objective[0]] = [trial.score for trial in ended]
            title = f"{len(ended)} trials, the best is {ended[-1].number}"
            logarithmic = {
                axis.key.removeprefix("training.")
                for axis in self.space.axes
                if not isinstance(axis, Choices) and axis.log
            }
            parallel_picture(
                folder / PICTURE, axes, title=title, logarithmic=logarithmic, rising=self.objective[1] == "max"
            )
            written.append(folder / PICTURE)
        self._write_hparams(folder / TENSORBOARD)
        return [*written, folder / TENSORBOARD]

    def _csv(self) -> str:
        keys = [axis.key for axis in self.space.axes]
        measured = {name for trial in self.trials for name in trial.metrics or {}}
        names = [name for name in _MEASURED if name in measured] + sorted(measured - set(_MEASURED))
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(["trial", "status", *keys, *names, "reason"])
        for trial in self.trials:
            metrics = trial.metrics or {}
            cells = [f"{metrics[name]:.9g}" if name in metrics else "" for name in names]
            values = [_written(trial.values[key]) for key in keys]
            lines.writerow([trial.number, trial.status, *values, *cells, trial.reason or ""])
        return text.getvalue()

    def _write_hparams(self, folder: Path) -> None:
        """Replace TensorBoard's events: of the search, and in a folder each of the trials that ended."""
        import tensorflow as tf
        from tensorboard.plugins.hparams import api

        shutil.rmtree(folder, ignore_errors=True)
        parameters = {axis.key: self._hparam(axis) for axis in self.space.axes}
        with tf.summary.create_file_writer(str(folder)).as_default():
            api.hparams_config(hparams=list(parameters.values()), metrics=[api.Metric(self.objective[0])])
        for trial in self.ranked:
            with tf.summary.create_file_writer(str(folder / trial.number)).as_default():
                values = {parameter.name: trial.values[key] for key, parameter in parameters.items()}
                write_hparams(values, f"trial {trial.number}")
                for name, value in (trial.metrics or {}).items():
                    tf.summary.scalar(name, value, step=0)

    @staticmethod
    def _hparam(axis: Any) -> Any:
        from tensorboard.plugins.hparams import api

        name = axis.key.removeprefix("training.")
        if isinstance(axis, Choices):
            values = [plain(value) for value in axis.values]
            if len({type(value) for value in values}) > 1:
                values = [str(value) for value in values]
            return api.HParam(name, api.Discrete(values))
        interval = api.IntInterval if axis.whole else api.RealInterval
        return api.HParam(name, interval(axis.lo, axis.hi))


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _shown(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else _written(value)
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."
