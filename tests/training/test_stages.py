"""How several stages share a command's time, and what is told of one that got too little of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tierwave.config import TrainingOptions
from tierwave.generation.load import hardly_trained
from tierwave.runs.folder import CheckpointEntry, Run
from tierwave.training.callbacks import Limits
from tierwave.training.loop import Trainer
from tierwave.training.plan import Plan, TrainingRequest, TrainingResult, plan_of
from tierwave.training.session import _train_stages
from tierwave.training.stage import RunContext, Stage

MEL = {"model": "melnet", "tiers": 3, "layers": [1, 1, 1], "hidden_size": 8}


def planned(document: dict[str, Any], said: list[str], **typed: Any) -> Plan:
    session = TrainingRequest("one", Path("data"), document, "here", typed=typed, logdir_root=Path("nowhere"))
    plan = plan_of(session, dict, lambda text, rewrite: said.append(text))
    assert plan.resumed is None
    return plan


def entry(step: int, epoch: int = 0) -> CheckpointEntry:
    return CheckpointEntry(f"resume.ckpt-{step}", epoch, step, None, False, False)


def saved(part: Run, made: CheckpointEntry) -> None:
    part.folder.mkdir(exist_ok=True)
    for suffix in ("index", "data-00000-of-00001"):
        (part.folder / f"{made.name}.{suffix}").touch()
    part.record(made, None)


def test_a_share_begins_with_the_first_step_done() -> None:
    """All compiling lies in the first step."""
    for is_share in (True, False):
        stopped: list[str] = []
        trainer = SimpleNamespace(
            options=TrainingOptions(max_minutes=0.1),
            progress=SimpleNamespace(step=1),
            elapsed=0.0,
            stop=lambda reason, finished, into=stopped: into.append(reason),
        )
        limits = Limits(is_share=is_share)
        limits.on_train_begin(cast(Trainer, trainer))
        for trainer.elapsed in (22.0, 25.0, 28.0, 29.0):
            limits.on_step_end(cast(Trainer, trainer), {"loss": 1.0})
            assert bool(stopped) == (trainer.elapsed >= (28.0 if is_share else 22.0))
        assert limits.seconds == (7.0 if is_share else 29.0)


@pytest.mark.parametrize(("took", "expected"), [([40.0, 40.0, 40.0], [40, 40, 40]), ([90.0, 90.0, 20.0], [40, 20, 20])])
def test_what_one_stage_overruns_leaves_the_next_half_of_its_share_at_least(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, took: list[float], expected: list[float]
) -> None:
    said: list[str] = []
    plan = planned(MEL, said, max_minutes=2.0)
    run, shares = Run(tmp_path), []

    def train_stage(
        plan: Plan, stage: Stage, options: TrainingOptions, material: Any, context: Any, entry_: Any, limits: Limits
    ) -> TrainingResult:
        part = plan.part(context.run, stage.name)
        shares.append(60.0 * (options.max_minutes or 0.0))
        limits.seconds = took[len(shares) - 1]
        saved(part, entry(22, epoch=0 if stage.name == "tier3" else 1))
        return TrainingResult("max_minutes is over", part, None)

    monkeypatch.setattr("tierwave.training.session.train_stage", train_stage)
    devices: Any = SimpleNamespace(is_chief=True, from_chief=lambda value: value)
    material: Any = None
    windows: Any = None
    stages = [Stage(name, plan.by_stage[name], windows, None, False, windows) for name in plan.stages]
    _train_stages(plan, stages, material, RunContext(run, devices, {}, "", plan.say_line))
    assert shares == pytest.approx(expected)
    (warning,) = [text for text in said if text.startswith("Warning")]
    assert "tier3 was trained for 22 steps, less than one epoch" in warning and "--max_minutes" in warning


def test_xla_is_left_out_where_it_costs_more_time_than_it_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melnet.FAMILY.prefers_xla", lambda config, on_gpu: True)

    def uses_xla(stage: str, document: dict[str, Any] = MEL, **typed: Any) -> bool:
        plan = planned(document, [], **typed)
        return plan.family.uses_xla(plan.config, stage, plan.by_stage[stage], False)

    chosen = {minutes: uses_xla("tier1", max_minutes=minutes) for minutes in (None, 2.0, 5.9, 6.0)}
    assert chosen == {None: True, 2.0: False, 5.9: False, 6.0: True}  # three tiers share it
    assert uses_xla("tier1", max_minutes=1.0, jit=True)
    own = {**MEL, "training_per_tier": [{"max_minutes": 3.0}, {}, {}]}
    assert [uses_xla(stage, own, max_minutes=3.0) for stage in ("tier1", "tier2")] == [True, False]


def test_stages_that_were_hardly_trained_are_named(tmp_path: Path) -> None:
    parts = {name: Run(tmp_path / name) for name in ("one", "whole", "imported", "none")}
    for name, made in (("one", entry(1)), ("whole", entry(9, epoch=1)), ("imported", entry(0))):
        saved(parts[name], made)
    (text,) = hardly_trained(parts)
    assert text.startswith("one was trained for 1 step, less than one epoch") and "--stage one" in text
