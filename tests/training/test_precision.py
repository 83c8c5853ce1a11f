"""Half precision in every family and cell: the same losses within stated bounds, float32 wherever something is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from networks import LANES, NETWORKS, STEPS, batch_of, learner
from tierwave.runs.checkpoints import make_checkpoint, restore_checkpoint
from tierwave.training.step import Learner

ROOT = Path(__file__).resolve().parents[2]
# Of the training loss after 20 steps, as a share of how far float32's fell: README states them.
BOUNDS = {"mixed_bfloat16": 0.05, "mixed_float16": 0.05}

PRECISIONS = tuple(BOUNDS)
# Every cell of a family with a precision or a way of compiling, every pair of those two: slow, but for the first. The
# rest is exhaustive.
QUICK = [name for name in NETWORKS if name not in ("samplernn-paper", "values-gaussian", "melnet-lstm-3")]
PAIRS = [(name, PRECISIONS[number % 2], bool(number // 2 % 2)) for number, name in enumerate(QUICK)]
PRODUCT = [(name, precision, jit) for name in NETWORKS for precision in PRECISIONS for jit in (False, True)]
CASES = [pytest.param(*case, marks=pytest.mark.slow if index else ()) for index, case in enumerate(PAIRS)]
CASES += [pytest.param(*case, marks=pytest.mark.exhaustive) for case in PRODUCT if case not in PAIRS]


def losses_of(made: Learner, name: str) -> tuple[np.ndarray, Any]:
    batch, state, losses = batch_of(name), made.initial_state(LANES), []
    for step in range(STEPS):
        results, state = made.train_step(batch, state, step)
        losses.append(results["loss"])
    return np.array(losses), state


_FULL: dict[tuple[str, bool], np.ndarray] = {}


def full(name: str, jit: bool) -> np.ndarray:
    if (name, jit) not in _FULL:
        _FULL[name, jit] = losses_of(learner(name, "float32", jit), name)[0]
    return _FULL[name, jit]


def deviation(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of the last five losses, as a share of how far the loss fell."""
    return float(np.abs(found - expected)[-5:].max() / (expected[0] - expected[-1]))


@pytest.mark.parametrize(("name", "precision", "jit"), CASES)
def test_losses_are_those_of_float32_and_nothing_kept_is_rounded(name: str, precision: str, jit: bool) -> None:
    expected = full(name, jit)
    assert expected[-1] < expected[0] - 0.1
    made = learner(name, precision, jit)
    found, state = losses_of(made, name)
    assert not np.array_equal(found, expected), "the precision does nothing"
    assert deviation(found, expected) < BOUNDS[precision]
    kept = [*made.model.variables, *made.optimizer.variables, *tf.nest.flatten(state)]
    types = {np.dtype(str(keras.backend.standardize_dtype(part.dtype))) for part in kept}
    assert np.dtype("float32") in types and not any(each.kind == "f" and each.itemsize != 4 for each in types)
    if precision == "mixed_float16":
        before = [np.array(variable.numpy()) for variable in made.model.variables]
        made.loss_scale.assign(2.0**126)
        results, _ = made.train_step(batch_of(name), state, STEPS)
        assert not np.isfinite(results["gradient_norm"]) and made.loss_scale.numpy() == 2.0**125
        assert int(made.optimizer.iterations) == STEPS
        for variable, value in zip(made.model.variables, before, strict=True):
            np.testing.assert_array_equal(variable.numpy(), value)


MIRRORED = """
import json
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
import keras
import networks as tests
from tierwave.training.devices import make_devices

found = {}
for name in ("one", "mirrored"):
    made = tests.learner("conditioning-gru", "mixed_float16", False, devices=make_devices(name))
    batch, state, losses = made.devices.shard(tests.batch_of("conditioning-gru")), made.initial_state(4), []
    made.loss_scale.assign(2.0**126)
    scales = []
    for step in range(6):
        results, state = made.train_step(batch, state, step)
        losses.append(results["loss"])
        scales.append(float(made.loss_scale.numpy()))
        if step == 0:
            made.loss_scale.assign(2.0**12)
    found[name] = [losses, scales, int(keras.ops.convert_to_numpy(made.optimizer.iterations))]
print(json.dumps(found))
"""


def test_two_replicas_skip_a_step_together_and_learn_what_one_does() -> None:
    # Devices are divided before TensorFlow starts, so this takes a process of its own.
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", MIRRORED], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    (one, scales, updates), (two, both, together) = found["one"], found["mirrored"]
    assert scales == both == [2.0**125, *[2.0**12] * 5] and updates == together == 5
    np.testing.assert_allclose(two, one, atol=2e-3)
    assert one[-1] < one[0] - 0.1


def test_a_gradient_is_passed_over_only_while_a_smaller_scale_may_help() -> None:
    half, whole = (learner("conditioning-gru", precision, False) for precision in ("mixed_float16", "float32"))
    assert half.can_skip and not whole.can_skip
    half.loss_scale.assign(1.0)
    assert not half.can_skip


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("name", ["samplernn-gru", pytest.param("melnet-gru-2", marks=pytest.mark.slow)])
def test_a_run_that_goes_on_has_the_scale_it_stopped_with(tmp_path: Path, name: str) -> None:
    first, second = (learner(name, "mixed_float16", False) for _ in range(2))
    batch, state = batch_of(name), first.initial_state(LANES)
    for step in range(4):
        first.loss_scale.assign(2.0 ** (120 if step == 1 else 9))
        _, state = first.train_step(batch, state, step)
    first.loss_scale.assign(2.0**9)
    make_checkpoint(first.trackables()).write(str(tmp_path / "model.ckpt"))
    restore_checkpoint(tmp_path / "model.ckpt", second.trackables())
    assert second.loss_scale.numpy() == 2.0**9 and second.finite_steps.numpy() == 2
    losses = [[made.train_step(batch, state, 4)[0], made.train_step(batch, state, 5)[0]] for made in (first, second)]
    assert losses[0] == losses[1]
