"""What goes wrong with a training, found by its losses: each issue is one sentence and a remedy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tierwave.analysis.issues import Issue
from tierwave.runs.history import LINEAR_PREDICTION, Epoch

PATIENCE_EPOCHS = 3  # after which a network has to beat the simplest model
_RISEN = 0.01  # of a loss, as a share of it, that is no chance
_FALLING = 0.01  # of the loss in the last epoch, as a share of it: training was stopped too early
_DIVERGED = 0.25  # of the best loss that the training loss has risen
_ABSURD = 2.0  # times the loss of the simplest model above it


def loss_issues(
    epochs: Sequence[Epoch], baselines: Mapping[str, float] | None = None, *, unit: str = "nats", ended: bool = False
) -> list[Issue]:
    """What is going wrong by the losses so far, each once.

    Args:
        epochs: in their order, losses in `unit`.
        baselines: what simple models reach on held-out sound, in the same unit, by name, the simplest first.
        ended: training is over, so it also counts whether it should have gone on.
    """
    if not epochs:
        return []
    last = epochs[-1]
    broken = next((each for each in epochs if not math.isfinite(each.train) or not math.isfinite(each.monitored)), None)
    if broken is not None:
        return [
            Issue(
                "loss is not a number",
                f"it became so in epoch {broken.number}",
                "go on from the last good checkpoint with a tenth of the --learning_rate",
            )
        ]
    found = []
    best = min(epochs, key=lambda each: each.monitored)
    lowest = min(epochs, key=lambda each: each.train)
    name, bar = next(iter(baselines.items())) if baselines else ("", math.inf)
    absurd = last.train - bar > _ABSURD * _size(bar)
    diverged = absurd or last.train - lowest.train > _DIVERGED * _size(lowest.train)
    if diverged:
        seen = f"the training loss is {last.train:.4g} {unit}, where the {name} has {bar:.4g}"
        if not absurd:
            seen = f"the training loss rose from {lowest.train:.3f} (epoch {lowest.number}) to {last.train:.3f} {unit}"
        found.append(Issue("diverging", seen, "start again with a tenth of the --learning_rate"))
    elif baselines and last.number >= PATIENCE_EPOCHS and best.monitored >= bar:
        found.append(
            Issue(
                "not learning",
                f"after {last.number} epochs the loss, {best.monitored:.3f} {unit}, is no better than that of the "
                f"{name} ({bar:.3f}), and what is generated will be noise",
                "take a smaller --learning_rate, or look whether the recordings hold more than noise",
            )
        )
    risen = last.monitored - best.monitored > _RISEN * _size(best.monitored)
    if not diverged and last.valid is not None and last.number >= best.number + 2 and risen and last.train < best.train:
        found.append(
            Issue(
                "overfitting",
                f"on held-out sound the loss was best in epoch {best.number} ({best.monitored:.3f} {unit}) and has "
                f"risen to {last.monitored:.3f} since, while it goes on falling in training ({last.train:.3f})",
                "take the best checkpoint (--best), more recordings, a smaller network or dropout",
            )
        )
    fall = epochs[-2].monitored - last.monitored if len(epochs) > 1 else math.inf
    if ended and not diverged and best is last and fall > _FALLING * _size(last.monitored):
        seen = "training ended in its first epochs"
        if math.isfinite(fall):
            seen = f"the loss still fell by {fall:.3f} to {last.monitored:.3f} {unit} in the last epoch"
        found.append(Issue("too short", seen, "go on: the same command takes training up again"))
    return found


def verdict(epochs: Sequence[Epoch], baselines: Mapping[str, float], unit: str = "bits") -> str:
    """What has been learned of held-out sound, in a sentence, by the best epoch; "" where nothing was held out or
    linear prediction is not among the baselines. Losses in `unit`, as in `loss_issues`."""
    held_out = [epoch.valid for epoch in epochs if epoch.valid is not None and math.isfinite(epoch.valid)]
    if not held_out or LINEAR_PREDICTION not in baselines:
        return ""
    loss, bar = min(held_out), baselines[LINEAR_PREDICTION]
    reached = f"{loss:.3f} {unit} per sample on held-out sound, {abs(loss - bar):.3f}"
    simpler = {name: value for name, value in baselines.items() if name != LINEAR_PREDICTION}
    missed = [name for name, value in simpler.items() if loss >= value]
    if loss < bar:
        return f"The network knows more than the colour of the sound: {reached} below linear prediction ({bar:.3f})."
    if not missed:
        return (
            f"The network has learned the colour of the sound, not its course yet: {reached} above linear prediction "
            f"({bar:.3f}), which learns nothing beforehand."
        )
    learned = "nothing yet" if len(missed) == len(simpler) else "little yet"
    return (
        f"The network has learned {learned}: {reached} above linear prediction ({bar:.3f}), and no better than the "
        f"{missed[0]} ({simpler[missed[0]]:.3f})."
    )


def _size(loss: float) -> float:
    """The size by which a change of a loss is measured; losses of values may be 0 or less."""
    return max(abs(loss), 1.0)
