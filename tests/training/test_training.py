"""The training loop and its callbacks, on a network of width 8 and codes that are made up."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from corpora import corpus_of

import samplernn
from tierwave.analysis.statistics import average_spectrum, log_spectral_distance
from tierwave.audio.writer import write_wav
from tierwave.config import TrainingOptions
from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.tracks import Track
from tierwave.data.splits import Span
from tierwave.data.windows import LaneWindows
from tierwave.errors import RunError
from tierwave.generation.request import Request
from tierwave.runs.checkpoints import restore_checkpoint
from tierwave.runs.folder import CheckpointEntry, Run
from tierwave.runs.tensors import read_progress
from tierwave.training import loop
from tierwave.training.callbacks import (
    CheckpointPolicy,
    LearningRateSchedule,
    Limits,
    LossTable,
    LossWatch,
    Monitor,
    StatisticsLines,
    generation_request,
    standard_callbacks,
)
from tierwave.training.loop import Callback, Trainer
from tierwave.training.previews import Generation, Sound
from tierwave.training.step import LN2, Learner
from tierwave.training.tensorboard import HeldAgainst, TensorBoard

ROOT = Path(__file__).resolve().parents[2]
RATE = 8000
PATTERN = np.array([2, 5, 9, 13, 7])
REAL = np.random.default_rng(8).normal(0.0, 0.1, 6000)
TRAIN = (Span(0, 0, 200), Span(1, 0, 120))
VALID = (Span(0, 230, 300), Span(1, 140, 185))
SHORT = tuple(Span(0, start, start + 16) for start in (0, 50, 100, 150))  # a window for each lane: epochs of one step
STEPS = 6  # of an epoch over TRAIN: 13 + 8 windows of 16 samples in 4 lanes


def config(**keys: Any) -> samplernn.Config:
    tiny = {"seq_len": 16, "frame_sizes": [2, 4], "dim": 8, "num_rnn_layers": 1, "q_levels": 16, "emb_size": 4}
    return samplernn.Config(**{**tiny, **keys})


DROPOUT: dict[str, Any] = {"num_rnn_layers": 2, "rnn_dropout": 0.3}
CORPUS = corpus_of([np.tile(PATTERN, times).astype(np.uint8) for times in (60, 37)], RATE)


def windows(spans: Sequence[Span] = TRAIN, **options: Any) -> LaneWindows:
    return samplernn.FAMILY.dataset(CORPUS, spans, config(), "samplernn", **{"lanes": 4, **options})


_MADE: dict[str, tuple[Learner, list[np.ndarray]]] = {}


def learner(
    options: TrainingOptions | None = None, *, jit: bool = False, clip: dict[str, Any] | None = None, **keys: Any
) -> Learner:
    """A learner as new. Tracing one takes a second, so those that differ in nothing that is traced are used again."""
    options = options or TrainingOptions()
    settings = config(**keys)
    bounds = samplernn.FAMILY.clipping(settings) if clip is None else clip
    traced = (options.optimizer, options.momentum, options.epsilon, options.precision, options.random_seed)
    key = repr((settings, bounds, jit, traced))
    if key not in _MADE:
        dtype = options.precision.removeprefix("mixed_")
        made = Learner(lambda: samplernn.FAMILY.build(settings, compute_dtype=dtype), options, jit=jit, **bounds)
        _MADE[key] = made, values_of(made)
    made, first = _MADE[key]
    for variable, value in zip(variables_of(made), first, strict=True):
        variable.assign(value)
    made.optimizer.learning_rate = options.learning_rate
    return made


def variables_of(made: Learner) -> list[Any]:
    """Everything of a learner that training changes."""
    scale = [made.loss_scale, made.finite_steps] if made.scaled else []
    return [*made.model.variables, *made.optimizer.variables, *scale]


def values_of(made: Learner) -> list[np.ndarray]:
    return [np.array(variable.numpy()) for variable in variables_of(made)]


def batches_of(made: Learner, data: LaneWindows, count: int) -> list[dict[str, tf.Tensor]]:
    epochs = -(-count // data.steps)
    return [batch for epoch in range(epochs) for batch in data.epoch(epoch)][:count]


def losses_of(made: Learner, count: int) -> np.ndarray:
    data = windows()
    state, losses = made.initial_state(data.lanes), []
    for step, batch in enumerate(batches_of(made, data, count)):
        results, state = made.train_step(batch, state, step)
        losses.append(results["loss"])
    return np.array(losses)


def weights_of(made: Learner) -> list[np.ndarray]:
    return [np.array(variable.numpy()) for variable in made.model.trainable_variables]


def equal(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


class Losses(Callback):
    """Keeps what every step and every epoch gave, and the learning rate of the epochs."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.epochs: list[dict[str, float]] = []
        self.rates: list[float] = []

    def on_step_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        self.steps.append(results["loss"])

    def on_epoch_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        self.epochs.append(dict(results))
        self.rates.append(trainer.learning_rate)


class Scripted(Callback):
    """Writes the script's value over the monitored one, and keeps the weights of every epoch."""

    def __init__(self, name: str, values: Sequence[float]) -> None:
        self.name, self.values = name, values
        self.weights: list[list[np.ndarray]] = []

    def on_epoch_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        results[self.name] = self.values[trainer.progress.epoch - 1]
        self.weights.append(weights_of(trainer.learner))


def trainer(
    folder: Path,
    callbacks: Callable[[Monitor], Sequence[Callback]] = lambda monitor: [],
    *,
    spans: Sequence[Span] = TRAIN,
    valid: Sequence[Span] = (),
    keys: dict[str, Any] | None = None,
    **options: Any,
) -> Trainer:
    folder.mkdir(exist_ok=True)
    settings = {"monitor": "val_loss" if valid else "loss", "learning_rate": 0.01, "num_epochs": 2, "batch_size": 4}
    asked = TrainingOptions(**{**settings, **options})
    data = windows(spans, lanes=asked.batch_size)
    held_out = windows(valid, shuffled=False) if valid else None
    return Trainer(learner(asked, **(keys or {})), data, held_out, asked, Run(folder), callbacks(Monitor()))


def saving(monitor: Monitor) -> list[Callback]:
    limits = Limits()
    return [limits, LearningRateSchedule(limits), monitor, CheckpointPolicy(monitor)]


def scripted(script: Scripted) -> Callable[[Monitor], list[Callback]]:
    return lambda monitor: [script, *saving(monitor)]


def alone(callback: Callback) -> Callable[[Monitor], list[Callback]]:
    return lambda monitor: [callback]


def names(run: Run) -> list[str]:
    return [entry.name for entry in run.checkpoints]


# One step --------------------------------------------------------------------------------------------------------


def test_the_loss_falls_from_that_of_guessing_on_a_signal_that_can_be_learnt() -> None:
    losses = losses_of(learner(TrainingOptions(learning_rate=0.01)), 60)
    assert losses[0] == pytest.approx(math.log(16), abs=0.1)
    assert losses[-1] < 0.05


def gradients_of(made: Learner, batch: dict[str, tf.Tensor], state: Any) -> list[np.ndarray]:
    """Of the mean negative log-likelihood in nats, from the model's logits alone."""
    with tf.GradientTape() as tape:
        logits, _ = made.model.logits(batch["inputs"], state)
        each = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["targets"], logits)
        loss = tf.reduce_sum(each * batch["mask"]) / tf.reduce_sum(batch["mask"])
    raw = [variable.value for variable in made.model.trainable_variables]
    return [tf.convert_to_tensor(gradient).numpy() for gradient in tape.gradient(loss, raw)]


def sgd_step(clip: dict[str, Any]) -> tuple[list[np.ndarray], list[np.ndarray], float]:
    """(gradients before clipping, what one step of rate 1 has taken off the weights, the norm that was told)."""
    made = learner(TrainingOptions(optimizer="sgd", learning_rate=1.0, momentum=0.0), clip=clip)
    (batch,) = batches_of(made, windows(), 1)
    state = made.initial_state(4)
    gradients, before = gradients_of(made, batch, state), weights_of(made)
    results, _ = made.train_step(batch, state, 0)
    return gradients, [a - b for a, b in zip(before, weights_of(made), strict=True)], results["gradient_norm"]


def joint_norm(gradients: Sequence[np.ndarray]) -> float:
    return math.sqrt(sum(float(np.sum(np.square(gradient, dtype=np.float64))) for gradient in gradients))


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("share", [0.1, 10.0])
def test_clipping_by_global_norm_scales_all_gradients_alike_and_only_where_they_are_longer(share: float) -> None:
    free, taken, told = sgd_step({})
    norm = joint_norm(free)
    assert told == pytest.approx(norm, rel=1e-4)
    for gradient, difference in zip(free, taken, strict=True):
        np.testing.assert_allclose(difference, gradient, atol=1e-6)
    free, taken, told = sgd_step({"clip_norm": share * norm})
    assert told == pytest.approx(norm, rel=1e-4)
    for gradient, difference in zip(free, taken, strict=True):
        np.testing.assert_allclose(difference, gradient * min(1.0, share), atol=1e-6)


@pytest.mark.usefixtures("eagerly")
def test_clipping_by_value_bounds_the_gradient_of_the_loss_in_bits() -> None:
    free, _, _ = sgd_step({})
    bound = float(np.quantile(np.abs(np.concatenate([gradient.ravel() for gradient in free])), 0.9)) / LN2
    _, taken, _ = sgd_step({"clip_value": bound})
    clipped = 0
    for gradient, difference in zip(free, taken, strict=True):
        in_bits = gradient / LN2
        clipped += int(np.sum(np.abs(in_bits) > bound))
        np.testing.assert_allclose(difference / LN2, np.clip(in_bits, -bound, bound), atol=1e-6)
    assert clipped > 20


def adam(gradients: list[np.ndarray], *, rate: float, epsilon: float) -> np.ndarray:
    """Kingma & Ba 2015, in the order of computation of section 2 (epsilon beside the uncorrected root)."""
    mean, square, total = np.zeros_like(gradients[0]), np.zeros_like(gradients[0]), np.zeros_like(gradients[0])
    for step, gradient in enumerate(gradients, 1):
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        corrected = rate * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        total -= corrected * mean / (np.sqrt(square) + epsilon)
    return total


def sgd(gradients: list[np.ndarray], *, rate: float, momentum: float) -> np.ndarray:
    speed, total = np.zeros_like(gradients[0]), np.zeros_like(gradients[0])
    for gradient in gradients:
        speed = momentum * speed - rate * gradient
        total += speed
    return total


def rmsprop(gradients: list[np.ndarray], *, rate: float, momentum: float, epsilon: float) -> np.ndarray:
    square, speed, total = np.zeros_like(gradients[0]), np.zeros_like(gradients[0]), np.zeros_like(gradients[0])
    for gradient in gradients:
        square = 0.9 * square + 0.1 * gradient**2
        speed = momentum * speed + rate * gradient / np.sqrt(square + epsilon)
        total -= speed
    return total


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    ("options", "formula"),
    [
        ({"optimizer": "adam"}, lambda g: adam(g, rate=0.01, epsilon=1e-4)),
        ({"optimizer": "adam", "epsilon": 1e-8}, lambda g: adam(g, rate=0.01, epsilon=1e-8)),
        ({"optimizer": "sgd"}, lambda g: sgd(g, rate=0.01, momentum=0.9)),
        ({"optimizer": "sgd", "momentum": 0.5}, lambda g: sgd(g, rate=0.01, momentum=0.5)),
        ({"optimizer": "rmsprop"}, lambda g: rmsprop(g, rate=0.01, momentum=0.9, epsilon=1e-5)),
    ],
    ids=["adam", "adam-epsilon", "sgd", "sgd-momentum", "rmsprop"],
)
def test_three_steps_of_an_optimiser_follow_its_formula(
    options: dict[str, Any], formula: Callable[[list[np.ndarray]], np.ndarray]
) -> None:
    made = learner(TrainingOptions(learning_rate=0.01, **options), clip={})
    state, before, seen = made.initial_state(4), weights_of(made), []
    for step, batch in enumerate(batches_of(made, windows(), 3)):
        # The state goes on from batch to batch, but for the lanes whose next window begins a recording.
        fresh = [tf.where(batch["reset"][:, None], 0.0, part) for part in tf.nest.flatten(state)]
        state = tf.nest.pack_sequence_as(state, fresh)
        seen.append(gradients_of(made, batch, state))
        _, state = made.train_step(batch, state, step)
    for start, end, *gradients in zip(before, weights_of(made), *seen, strict=True):
        np.testing.assert_allclose(end - start, formula(gradients), rtol=2e-3, atol=2e-6)


@pytest.mark.slow
def test_dropout_is_drawn_anew_at_every_step_from_seed_and_step() -> None:
    losses = []
    for seed, step in ((0, 1), (0, 1), (0, 2), (1, 1)):
        made = learner(TrainingOptions(random_seed=seed), **DROPOUT)
        same = learner(TrainingOptions(), **DROPOUT).model.variables
        for variable, value in zip(made.model.variables, same, strict=True):
            variable.assign(value)
        (batch,) = batches_of(made, windows(), 1)
        results, _ = made.train_step(batch, made.initial_state(4), step)
        losses.append(results["loss"])
    assert losses[0] == losses[1] and len(set(losses)) == 3


@pytest.mark.slow
def test_xla_gives_the_same_losses() -> None:
    options = TrainingOptions(learning_rate=0.01)
    np.testing.assert_allclose(losses_of(learner(options, jit=True), 20), losses_of(learner(options), 20), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_trains_close_to_float32_without_being_it(precision: Any) -> None:
    full = losses_of(learner(TrainingOptions(learning_rate=0.01)), 40)
    half_learner = learner(TrainingOptions(learning_rate=0.01, precision=precision))
    half = losses_of(half_learner, 40)
    assert not np.array_equal(half, full)
    np.testing.assert_allclose(half, full, rtol=0.05, atol=0.02)
    assert all(variable.dtype == "float32" for variable in half_learner.model.trainable_variables)


def test_the_loss_scale_of_float16_halves_on_overflow_and_that_step_changes_nothing() -> None:
    made = learner(TrainingOptions(learning_rate=0.01, precision="mixed_float16"))
    (batch,) = batches_of(made, windows(), 1)
    made.loss_scale.assign(2.0**126)
    made.finite_steps.assign(7)
    before = weights_of(made)
    results, _ = made.train_step(batch, made.initial_state(4), 0)
    assert math.isfinite(results["loss"]) and not math.isfinite(results["gradient_norm"])
    assert equal(weights_of(made), before) and int(made.optimizer.iterations) == 0
    assert made.loss_scale.numpy() == 2.0**125 and made.finite_steps.numpy() == 0

    made.loss_scale.assign(2.0**10)
    made.finite_steps.assign(1999)
    results, _ = made.train_step(batch, made.initial_state(4), 1)
    assert math.isfinite(results["gradient_norm"]) and int(made.optimizer.iterations) == 1
    assert not equal(weights_of(made), before)
    assert made.loss_scale.numpy() == 2.0**11 and made.finite_steps.numpy() == 0


@pytest.mark.usefixtures("eagerly")
def test_the_loss_scale_does_not_show_in_the_update() -> None:
    taken = []
    options = TrainingOptions(optimizer="sgd", momentum=0.0, learning_rate=1.0, precision="mixed_float16")
    for scale in (2.0**5, 2.0**12):
        made = learner(options, clip={})
        made.loss_scale.assign(scale)
        (batch,) = batches_of(made, windows(), 1)
        before = weights_of(made)
        made.train_step(batch, made.initial_state(4), 0)
        taken.append(np.concatenate([(a - b).ravel() for a, b in zip(before, weights_of(made), strict=True)]))
    np.testing.assert_allclose(taken[0], taken[1], rtol=0.02, atol=2e-4)


MIRRORED = """
import json, sys
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
import test_training as tests
from tierwave.config import TrainingOptions
from tierwave.training.devices import make_devices
from tierwave.training.loop import Trainer
from tierwave.training.step import Learner
from tierwave.generation.request import Request
from tierwave.analysis.statistics import average_spectrum, log_spectral_distance
from tierwave.runs.folder import CheckpointEntry, Run
from pathlib import Path

found = {}
for name in ("one", "mirrored"):
    options = TrainingOptions(learning_rate=0.01, num_epochs=4, num_steps=20, batch_size=4, strategy=name)
    devices = make_devices(name, {})
    build = lambda: tests.samplernn.FAMILY.build(tests.config())
    made = Learner(build, options, devices=devices, clip_norm=0.2)
    kept, folder = tests.Losses(), Path(sys.argv[1]) / name
    folder.mkdir()
    valid = tests.windows(tests.VALID, shuffled=False, multiple_of=2)
    trainer = Trainer(made, tests.windows(multiple_of=2), valid, options, Run(folder), [tests.Limits(), kept])
    trainer.fit()
    # Saved in the middle of an epoch, and gone on from.
    entry = trainer.save("model.ckpt-20")
    trainer.options = options.model_copy(update={"num_steps": 24})
    trainer.restore(Run(folder), entry)
    trainer.stop_reason = None
    trainer.fit()
    found[name] = {
        "replicas": devices.replicas,
        "losses": kept.steps,
        "val_loss": [epoch["val_loss"] for epoch in kept.epochs],
        "weights": [float(abs(value).sum()) for value in tests.weights_of(made)],
    }
print(json.dumps(found))
"""


@pytest.mark.slow
def test_two_replicas_learn_what_one_device_learns(tmp_path: Path) -> None:
    # Devices are divided before TensorFlow starts, so this takes a process of its own.
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-c", MIRRORED, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    one, two = found["one"], found["mirrored"]
    assert (one["replicas"], two["replicas"]) == (1, 2)
    assert len(one["losses"]) == 24 and len(one["val_loss"]) == 4
    np.testing.assert_allclose(two["losses"], one["losses"], atol=1e-5)
    np.testing.assert_allclose(two["val_loss"], one["val_loss"], atol=1e-5)
    np.testing.assert_allclose(two["weights"], one["weights"], rtol=1e-4)


# Validation ------------------------------------------------------------------------------------------------------


def test_validation_changes_nothing_in_training(tmp_path: Path) -> None:
    found = []
    for name, valid in (("with", VALID), ("without", ())):
        kept = Losses()
        made = trainer(tmp_path / name, alone(kept), valid=valid, keys=DROPOUT, num_epochs=2)
        made.fit()
        found.append((kept, weights_of(made.learner)))
    (with_valid, weights), (without, other_weights) = found
    assert with_valid.steps == without.steps and len(without.steps) == 2 * STEPS
    assert equal(weights, other_weights)
    assert "val_loss" in with_valid.epochs[0] and "val_loss" not in without.epochs[0]


def test_an_epoch_is_the_mean_over_samples_in_nats_and_bits(tmp_path: Path) -> None:
    kept = Losses()
    made = trainer(tmp_path / "run", lambda _: [kept], valid=VALID, num_epochs=1)
    made.fit()
    (epoch,) = kept.epochs
    elements = [
        int(np.sum(made.data.batch(tuple(part[step] for part in made.data.layout(0)))["mask"])) for step in range(STEPS)
    ]
    assert sum(elements) == 320  # every sample of TRAIN, the padded window's too
    assert epoch["loss"] == pytest.approx(np.average(kept.steps, weights=elements), rel=1e-6)
    assert epoch["bits"] == pytest.approx(epoch["loss"] / math.log(2))
    assert epoch["val_bits"] == pytest.approx(epoch["val_loss"] / math.log(2))


@pytest.mark.slow
def test_a_measured_span_is_its_likelihood_from_a_fresh_state_without_dropout() -> None:
    made = learner(TrainingOptions(learning_rate=0.01), num_rnn_layers=2, rnn_dropout=0.5)
    losses_of(made, 10)
    held_out = windows(VALID, shuffled=False, whole_spans=True, lanes=2)
    first, second = made.evaluator.measure(held_out), made.evaluator.measure(held_out)
    np.testing.assert_array_equal(first, second)
    for span, (nats, correct, elements) in zip(VALID, first, strict=True):
        signal = CORPUS.read(span.recording, span.start, span.stop).astype(np.int32)
        padded = np.concatenate([np.full(4, 8), signal, np.full(-len(signal) % 16, 8)])[None]
        logits, _ = made.model.logits(tf.constant(padded, tf.int32), made.model.initial_state(1))
        logits = logits[0, : len(signal)].numpy().astype(np.float64)
        likelihood = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        assert elements == len(signal)
        assert nats == pytest.approx(-likelihood[np.arange(len(signal)), signal].sum(), rel=1e-4)
        assert correct == np.sum(logits.argmax(axis=1) == signal)


# Learning rate, limits -------------------------------------------------------------------------------------------


def test_the_learning_rate_falls_by_exp_of_a_tenth_from_the_epoch_on(tmp_path: Path) -> None:
    kept = Losses()
    callbacks = [LearningRateSchedule(Limits()), kept]
    made = trainer(tmp_path / "run", lambda _: callbacks, spans=SHORT, reduce_learning_rate_after=2, num_epochs=5)
    made.fit()
    expected = 0.01 * np.exp([0.0, 0.0, -0.1, -0.2, -0.3])
    np.testing.assert_allclose(kept.rates, expected, rtol=1e-5)


class Rates(Callback):
    """Keeps the learning rate of every step, and stops after some."""

    def __init__(self, most: int = 1000) -> None:
        self.most = most
        self.rates: list[float] = []

    def on_train_begin(self, trainer: Trainer) -> None:
        self.next = trainer.learning_rate

    on_epoch_begin = on_train_begin

    def on_step_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        self.rates.append(self.next)
        self.next = trainer.learning_rate
        if trainer.progress.step >= self.most:
            trainer.stop("enough", finished=False)


def rates_of(folder: Path, most: int = 1000, **options: Any) -> tuple[list[float], Trainer]:
    """The learning rates of the steps from the newest checkpoint on, in epochs of one step, and the trainer."""
    kept = Rates(most)
    made = trainer(folder, lambda monitor: [*saving(monitor), kept], spans=SHORT, **{"num_epochs": 1000, **options})
    if made.run.checkpoints:
        made.restore(made.run, made.run.latest())
    made.fit()
    return kept.rates, made


def test_the_learning_rate_rises_and_falls_to_nothing_by_the_end(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"warmup_steps": 4, "learning_rate_decay": "linear"}
    falling = 0.01 * (1.0 - np.arange(10) / 10)
    rising = np.minimum(1.0, np.arange(1, 11) / 4)
    for name, options in (("steps", {"num_steps": 10}), ("epochs", {"num_epochs": 10})):
        found, _ = rates_of(tmp_path / name, **settings, **options)
        np.testing.assert_allclose(found, falling * rising, rtol=1e-5)
    found, _ = rates_of(tmp_path / "both", warmup_steps=4, reduce_learning_rate_after=3, num_steps=6)
    np.testing.assert_allclose(found, 0.01 * rising[:6] * np.exp([0, 0, 0, -0.1, -0.2, -0.3]), rtol=1e-5)


def test_the_learning_rate_falls_with_the_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(1000))
    monkeypatch.setattr(loop.time, "monotonic", lambda: 3.0 * next(seconds))
    found, _ = rates_of(tmp_path / "run", learning_rate_decay="linear", max_minutes=0.5)
    np.testing.assert_allclose(found[0], 0.01, rtol=1e-5)
    assert all(late < early for early, late in itertools.pairwise(found)) and 0.0 <= found[-1] < 0.002


def test_a_schedule_resumes_where_it_stopped(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"warmup_steps": 4, "learning_rate_decay": "linear", "num_steps": 12}
    whole, first = rates_of(tmp_path / "whole", **settings)
    pieces: list[float] = []
    for most in (2, 7, 1000):
        found, second = rates_of(tmp_path / "pieces", most, **settings)
        pieces += found
    assert pieces == whole and equal(values_of(first.learner), values_of(second.learner))
    longer, _ = rates_of(tmp_path / "whole", **{**settings, "num_steps": 24})
    np.testing.assert_allclose(longer, 0.01 * (1.0 - np.arange(12, 24) / 24), rtol=1e-5)
    without, _ = rates_of(tmp_path / "pieces", num_steps=14)
    np.testing.assert_allclose(without, 0.01, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "steps", "reason"),
    [
        ({"num_steps": 8}, 8, "num_steps (8)"),
        ({"num_epochs": 1}, STEPS, "all 1 epochs"),
        ({"max_minutes": 1e-9}, 1, "max_minutes (1e-09)"),
        ({"loss_cutoff": 100.0}, 1, "loss_cutoff (100)"),
    ],
)
def test_training_stops_where_it_is_told_to_with_a_checkpoint(
    tmp_path: Path, options: dict[str, Any], steps: int, reason: str
) -> None:
    kept = Losses()
    made = trainer(tmp_path / "run", lambda monitor: [*saving(monitor), kept], **options)
    made.fit()
    assert len(kept.steps) == made.progress.step == steps
    assert made.stop_reason is not None and reason in made.stop_reason
    assert made.run.latest().step == steps
    assert read_progress(made.run.folder / made.run.latest().name)["step"] == steps


class Sends(Callback):
    """Sends this process a signal at the first step."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def on_step_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        if trainer.progress.step == 1:
            os.kill(os.getpid(), self.number)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("is_ignored", [False, True], ids=["heard", "nohup"])
def test_a_signal_ends_training_with_a_checkpoint_unless_it_is_ignored(
    tmp_path: Path, number: signal.Signals, is_ignored: bool
) -> None:
    before = signal.signal(number, signal.SIG_IGN if is_ignored else signal.SIG_DFL)
    try:
        made = trainer(tmp_path / "run", lambda monitor: [*saving(monitor), Sends(number)], num_steps=3)
        made.fit()
        assert signal.getsignal(number) == (signal.SIG_IGN if is_ignored else signal.SIG_DFL)
    finally:
        signal.signal(number, before)
    assert made.stop_reason == ("num_steps (3) are done" if is_ignored else number.name)
    assert made.interrupted == (None if is_ignored else number)
    assert made.run.latest().step == made.progress.step == (3 if is_ignored else 2)


def test_the_loss_cutoff_waits_for_the_loss(tmp_path: Path) -> None:
    kept = Losses()
    made = trainer(tmp_path / "run", lambda monitor: [*saving(monitor), kept], loss_cutoff=1.5, num_epochs=20)
    made.fit()
    assert kept.steps[-1] < 1.5 <= min(kept.steps[:-1])


def test_training_that_is_over_does_nothing_when_it_is_started_again(tmp_path: Path) -> None:
    made = trainer(tmp_path / "run", saving, num_epochs=1)
    made.fit()
    before, listed = weights_of(made.learner), names(made.run)
    again = trainer(tmp_path / "run", saving, num_epochs=1)
    again.restore(again.run, again.run.latest())
    again.fit()
    assert equal(weights_of(again.learner), before) and names(again.run) == listed
    assert again.progress.step == STEPS


# Monitor and early stopping --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("monitor", "values", "best"),
    [
        ("val_loss", [3.0, 2.0, 2.5, 2.0, 9.0, 9.0], 2),
        ("loss", [3.0, 2.0, 2.5, 2.0, 9.0, 9.0], 2),
        ("val_accuracy", [0.3, 0.5, 0.4, 0.5, 0.1, 0.9], 2),
        ("accuracy", [0.3, 0.5, 0.4, 0.5, 0.1, 0.9], 2),
    ],
)
def test_early_stopping_brings_the_best_weights_back(
    tmp_path: Path, monitor: str, values: list[float], best: int
) -> None:
    script = Scripted(monitor, values)
    settings = {"spans": SHORT, "valid": VALID, "num_epochs": 6, "early_stopping_patience": 2}
    made = trainer(tmp_path / "run", scripted(script), monitor=monitor, **settings)
    made.fit()
    assert made.progress.epoch == best + 2  # an equal value is no improvement
    assert made.stop_reason is not None and monitor in made.stop_reason
    assert equal(weights_of(made.learner), script.weights[best - 1])
    assert not equal(weights_of(made.learner), script.weights[-1])
    assert made.run.best().name == f"model.ckpt-{best}"
    assert made.run.latest().name == f"model.ckpt-{best + 2}"  # what training would go on from


def test_improvement_resets_the_patience_and_none_never_stops(tmp_path: Path) -> None:
    values = [3.0, 3.1, 2.0, 2.1, 1.0, 1.1, 1.2]
    ended = {}
    for patience in (1, 2, None):
        script, settings = Scripted("loss", values), {"num_epochs": 7, "early_stopping_patience": patience}
        made = trainer(tmp_path / str(patience), scripted(script), spans=SHORT, **settings)
        made.fit()
        ended[patience] = made.progress.epoch
    assert ended == {1: 2, 2: 7, None: 7}


def test_the_monitor_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    values, settings = [1.0, 2.0, 2.0, 2.0, 2.0], {"spans": SHORT, "early_stopping_patience": 3}
    made = trainer(tmp_path / "run", scripted(Scripted("loss", values)), num_epochs=2, **settings)
    made.fit()
    again = trainer(tmp_path / "run", scripted(Scripted("loss", values)), num_epochs=5, **settings)
    again.restore(again.run, again.run.latest())
    again.fit()
    assert again.progress.epoch == 4
    assert again.stop_reason is not None and "best 1.0000" in again.stop_reason
    assert again.run.best().name == "model.ckpt-1"


# Checkpoints -----------------------------------------------------------------------------------------------------


VALUES = [5.0, 4.0, 4.5, 4.4, 3.0, 3.5, 3.6]  # epochs 1, 2 and 5 are the best so far


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({}, [5, 6, 7]),
        ({"max_checkpoints": 1}, [5, 7]),
        ({"max_checkpoints": None}, [1, 2, 3, 4, 5, 6, 7]),
        ({"max_checkpoints": None, "checkpoint_every": 3}, [1, 2, 3, 5, 6]),
        ({"max_checkpoints": None, "checkpoint_policy": "Best"}, [1, 2, 5]),
        ({"max_checkpoints": 1, "checkpoint_policy": "Best"}, [5]),
    ],
)
def test_which_checkpoints_stay(tmp_path: Path, options: dict[str, Any], epochs: list[int]) -> None:
    settings = {"max_checkpoints": 3, "num_epochs": 7, "early_stopping_patience": None, **options}
    script = Scripted("loss", VALUES)
    made = trainer(tmp_path / "run", scripted(script), spans=SHORT, **settings)
    made.fit()
    expected = [f"model.ckpt-{epoch}" for epoch in epochs]
    listed = made.run.checkpoints
    if epochs[-1] != 7:  # training goes on from its end, whatever the policy
        assert listed[-1].name == "resume.ckpt-7" and not listed[-1].kept
        listed = listed[:-1]
    assert [entry.name for entry in listed] == expected
    assert made.run.best().name == "model.ckpt-5" and made.run.best().value == 3.0
    assert equal(weights_of(made.learner), script.weights[4])
    on_disk = sorted(path.name.removesuffix(".index") for path in made.run.folder.glob("*.index"))
    assert on_disk == sorted(names(made.run))
    for entry in listed:
        restore_checkpoint(made.run.folder / entry.name, {"model": made.learner.model})
        assert equal(weights_of(made.learner), script.weights[entry.epoch - 1])


def test_checkpoints_by_steps_and_by_minutes(tmp_path: Path) -> None:
    made = trainer(tmp_path / "steps", saving, checkpoint_steps=4, max_checkpoints=None, num_epochs=2)
    made.fit()
    assert names(made.run) == [f"model.ckpt-{which}" for which in ("step4", "1", "step8", "step12", "2")]
    assert [entry.step for entry in made.run.checkpoints] == [4, STEPS, 8, 12, 12]

    seen: list[list[str]] = []

    class Seen(Callback):
        def on_step_end(self, trainer: Trainer, results: dict[str, float]) -> None:
            seen.append(names(trainer.run))

    made = trainer(tmp_path / "minutes", lambda m: [*saving(m), Seen()], checkpoint_minutes=1e-9, num_epochs=1)
    made.fit()
    # Every step is a resume point, of which only the newest stays, and none beside a newer checkpoint.
    assert seen == [[f"resume.ckpt-{step}"] for step in range(1, STEPS + 1)]
    assert names(made.run) == ["model.ckpt-1"]
    assert sorted(path.name for path in made.run.folder.glob("resume*")) == []


def run_on(folder: Path, total: int, kept: Losses, **options: Any) -> Trainer:
    """Train up to step `total`, going on from the newest checkpoint where there is one."""
    settings = {"num_epochs": 9, "num_steps": total, **options}
    made = trainer(folder, lambda monitor: [*saving(monitor), kept], valid=VALID, keys=DROPOUT, **settings)
    if made.run.checkpoints:
        made.restore(made.run, made.run.latest())
    made.fit()
    return made


@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"precision": "mixed_float16", "optimizer": "rmsprop"}, marks=pytest.mark.slow)],
    ids=str,
)
def test_stopped_anywhere_and_gone_on_is_as_never_stopped(tmp_path: Path, options: dict[str, Any]) -> None:
    whole, pieces = Losses(), Losses()
    settings = {"reduce_learning_rate_after": 1, "early_stopping_patience": None, **options}
    first = run_on(tmp_path / "whole", 20, whole, **settings)
    values = values_of(first.learner)
    # Within an epoch, at its last step, right after it, and one step further.
    for total in (4, STEPS, 2 * STEPS, 2 * STEPS + 1, 20):
        second = run_on(tmp_path / "pieces", total, pieces, **settings)
    assert pieces.steps == whole.steps and len(whole.steps) == 20
    assert equal(values_of(second.learner), values)  # the optimiser's moments and counters too

    def told(kept: Losses) -> list[dict[str, float]]:
        return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in kept.epochs]

    assert told(pieces) == told(whole) and pieces.rates == whole.rates
    assert second.progress.callbacks == first.progress.callbacks


@pytest.mark.slow
@pytest.mark.parametrize("stop", [8, STEPS])
def test_another_batch_size_starts_the_epoch_anew_and_can_be_resumed_again(tmp_path: Path, stop: int) -> None:
    """And the learning rate is reduced once per epoch, however often the epoch is begun."""
    settings: dict[str, Any] = {"reduce_learning_rate_after": 1, "early_stopping_patience": None}
    run_on(tmp_path / "run", stop, Losses(), **settings)
    made = trainer(tmp_path / "run", saving, keys=DROPOUT, num_epochs=3, batch_size=3, **settings)
    remarks = made.restore(made.run, made.run.latest())
    assert bool(remarks) == (stop == 8)  # between two epochs nothing is lost
    assert made.progress.step_in_epoch == 0 and made.progress.epoch == 1
    made.options = made.options.model_copy(update={"num_steps": stop + 2})
    made.fit()
    assert made.learning_rate == pytest.approx(0.01 * math.exp(-0.1), rel=1e-5)
    for lanes in (3, 4):
        again = trainer(tmp_path / "run", saving, keys=DROPOUT, num_epochs=3, batch_size=lanes, **settings)
        remarks = again.restore(again.run, again.run.latest())
        assert bool(remarks) == (lanes == 4)
        assert again.progress.step_in_epoch == (2 if lanes == 3 else 0)


# Not a number ----------------------------------------------------------------------------------------------------


class Break(Callback):
    """Makes the weights NaN after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Trainer, results: dict[str, float]) -> None:
        if trainer.progress.step == self.step:
            variable = trainer.learner.model.trainable_variables[0]
            variable.assign(np.full(variable.shape, np.nan))


def test_a_loss_that_is_no_number_stops_training_and_the_last_checkpoint_is_good(tmp_path: Path) -> None:
    made = trainer(tmp_path / "run", lambda m: [*saving(m), Break(STEPS + 2)])
    with pytest.raises(RunError, match=rf"nan at step {STEPS + 3}.*--learning_rate.*gradient_clip"):
        made.fit()
    assert names(made.run) == ["model.ckpt-1"]
    good = trainer(tmp_path / "run", saving)
    good.restore(good.run, good.run.latest())
    assert all(np.isfinite(weights).all() for weights in weights_of(good.learner))
    good.fit()
    assert good.progress.epoch == 2


def test_no_checkpoint_holds_weights_that_a_broken_gradient_has_spoilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(tmp_path / "run", lambda m: [*saving(m)], checkpoint_steps=1)
    step = made.learner.train_step

    def broken(batch: Any, state: Any, number: int) -> Any:
        results, state = step(batch, state, number)
        return ({**results, "gradient_norm": math.inf} if number == 3 else results), state

    monkeypatch.setattr(made.learner, "train_step", broken)
    with pytest.raises(RunError, match="gradient.*step 4"):
        made.fit()
    assert made.run.latest().step == 3


# What training leaves behind -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, list[tuple[str, bool]], Path, Losses]:
    """Two epochs with all callbacks of train.py: the trainer, its lines, the folder of its sounds, its losses."""
    folder = tmp_path_factory.mktemp("finished")
    lines: list[tuple[str, bool]] = []
    kept = Losses()
    made = trainer(
        folder / "run",
        valid=VALID,
        num_epochs=2,
        checkpoint_steps=4,
        max_generate_per_epoch=2,
        output_file_dur=0.0151,
        temperature=[0.9, 0.5, 0.1],
    )
    sound = Sound(
        "name",
        lambda request: samplernn.FAMILY.stream([made.learner.model], config(), request, sample_rate=RATE),
        generation_request(made.options, None),
    )
    generation = Generation([sound], folder / "sounds", lambda *line: lines.append(line))
    made.callbacks = standard_callbacks(
        config_text='{"dim": 8}',
        generation=generation,
        say_line=lambda text, rewrite: lines.append((text, rewrite)),
        rewrite=True,
        baselines={"code histogram": 5 * LN2, "first-order Markov model": 4 * LN2},
        held_against=HeldAgainst(lambda: [REAL[:3000], REAL[3000:]], RATE, Schema()),
    )
    made.callbacks.append(kept)
    next(part for part in made.callbacks if isinstance(part, TensorBoard)).steps_between = 5
    made.fit()
    return made, lines, folder / "sounds", kept


def table(run: Run) -> list[dict[str, str]]:
    with open(run.folder / "losses.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_loss_table_has_a_row_for_every_step_and_epoch_in_full_precision(finished: Any) -> None:
    made, _, _, kept = finished
    rows = table(made.run)
    steps = [row for row in rows if row["gradient_norm"]]
    epochs = [row for row in rows if not row["gradient_norm"]]
    assert [int(row["step"]) for row in steps] == list(range(1, 2 * STEPS + 1))
    assert [int(row["epoch"]) for row in steps] == [1] * STEPS + [2] * STEPS
    assert [np.float32(row["loss"]) for row in steps] == [np.float32(loss) for loss in kept.steps]
    assert [float(row["bits"]) for row in steps] == pytest.approx([loss / math.log(2) for loss in kept.steps])
    assert [(int(row["step"]), int(row["epoch"])) for row in epochs] == [(STEPS, 1), (2 * STEPS, 2)]
    assert [float(row["val_loss"]) for row in epochs] == pytest.approx([epoch["val_loss"] for epoch in kept.epochs])
    assert not any(row["val_loss"] for row in steps)


def test_the_loss_table_goes_on_after_the_last_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    for total in (STEPS, 9, 2 * STEPS):
        made = trainer(tmp_path / "run", lambda m: [*saving(m), LossTable()], num_steps=total, checkpoint_steps=STEPS)
        if run.checkpoints:
            made.restore(run, next(entry for entry in run.checkpoints if entry.step == STEPS))
        if total == 9:  # torn off in the middle of a row by a power cut
            with open(run.folder / "losses.csv", "a", encoding="utf-8") as file:
                file.write("\n7,2,0.1")
        made.fit()
    rows = table(run)
    first, second = range(1, STEPS + 1), range(STEPS + 1, 2 * STEPS + 1)
    assert [int(row["step"]) for row in rows] == [*first, STEPS, *second, 2 * STEPS]
    assert all(None not in row and None not in row.values() for row in rows)


def test_rows_are_on_disk_as_soon_as_the_checkpoint_they_lead_to(tmp_path: Path) -> None:
    seen = []

    class Read(Callback):
        def on_checkpoint(self, trainer: Trainer, entry: Any) -> None:
            seen.append(max(int(row["step"]) for row in table(trainer.run)))

    made = trainer(tmp_path / "run", lambda m: [LossTable(), *saving(m), Read()], checkpoint_steps=2, num_steps=4)
    made.fit()
    assert seen == [2, 4]


def test_the_lines_are_prisms(finished: Any) -> None:
    _, lines, _, kept = finished
    steps = [(text, rewrite) for text, rewrite in lines if "sec/step" in text]
    assert len(steps) == 2 * STEPS and all(rewrite for _, rewrite in steps)
    assert steps[STEPS][0].startswith(f"Epoch: 2/2, Step: 1/{STEPS}, Loss: {kept.steps[STEPS]:.3f}, Accuracy: ")
    ends = [text for text, rewrite in lines if "Total Steps" in text and not rewrite]
    assert len(ends) == 2
    epoch = kept.epochs[1]
    assert ends[1].startswith(
        f"Epoch: 2/2, Total Steps: {2 * STEPS}, Loss: {epoch['loss']:.3f}, Accuracy: {100 * epoch['accuracy']:.3f}, "
        f"Val Loss: {epoch['val_loss']:.3f}, Val Accuracy: {100 * epoch['val_accuracy']:.3f}, "
        f"Bits: {epoch['bits']:.3f}, Val Bits: {epoch['val_bits']:.3f}, ("
    )
    assert ends[1].endswith("0:00:00 left)")


def test_the_time_left_is_that_of_what_ends_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("tierwave.training.callbacks.time.monotonic", lambda: now)
    cases: list[tuple[dict[str, Any], float]] = [
        ({"num_epochs": 100}, 30.0 * (100 * STEPS - 2)),
        ({"num_steps": 12}, 300.0),
        ({"num_steps": 12, "max_minutes": 2.0}, 60.0),
    ]
    for options, left in cases:
        now = 100.0
        made = trainer(tmp_path / "run", **options)
        lines = StatisticsLines(lambda text, rewrite: None, rewrite=False)
        lines.on_train_begin(made)
        made.progress.step, now = 2, 160.0
        assert lines._left(made) == pytest.approx(left)


def test_sounds_of_training_have_prisms_names_and_the_asked_length(finished: Any) -> None:
    from tierwave.audio.recordings import load, probe

    made, lines, folder, _ = finished
    # Checkpoints of --checkpoint_steps are told from those of epochs; the third temperature has no sequence.
    marks = ["_e=1", "_e=2", "_s=4_e=0", "_s=8_e=1", "_s=12_e=1"]
    expected = [f"name{mark}({index})_t={t}.wav" for mark in marks for index, t in ((0, "0.9"), (1, "0.5"))]
    sounds = list(folder.glob("*.wav"))
    assert sorted(path.name for path in sounds) == sorted(expected)
    for path in sounds:
        assert (probe(path).sample_rate, probe(path).frames) == (RATE, round(0.0151 * RATE))
    first, second = (load(folder / f"name_e=2({index})_t={t}.wav")[0] for index, t in ((0, "0.9"), (1, "0.5")))
    assert not np.array_equal(first, second)
    said = [text for text, _ in lines if text.startswith("Generated")]
    assert len(said) == 2 * 5  # steps 4, 8 and 12, and both epochs
    assert "name_e=2(1)_t=0.5.wav" in said[-1]


def test_a_sound_of_training_is_what_generation_gives_from_its_checkpoint(finished: Any) -> None:
    from tierwave.audio.recordings import load

    made, _, folder, _ = finished
    model = samplernn.FAMILY.build(config())
    restore_checkpoint(made.run.folder / "model.ckpt-2", {"model": model})
    request = generation_request(made.options, None)
    sound = samplernn.FAMILY.stream([model], config(), request, sample_rate=RATE).render(request.samples(RATE))
    for index, temperature in enumerate(("0.9", "0.5")):
        written, _ = load(folder / f"name_e=2({index})_t={temperature}.wav")
        np.testing.assert_allclose(written, sound[index], atol=1.0 / 32768)


def test_tensorboard_has_curves_in_bits_sounds_and_the_config(finished: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    made, _, _, kept = finished
    (path,) = (made.run.folder / "tensorboard").iterdir()
    events = EventAccumulator(str(path), size_guidance={"tensors": 0})
    events.Reload()
    values = {
        tag: [(event.step, tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }
    bits = values["train/bits"]
    assert [step for step, _ in bits] == [5, 10]
    assert float(bits[0][1]) == pytest.approx(kept.steps[4] / math.log(2), rel=1e-5)
    assert [step for step, _ in values["epoch/val_bits"]] == [STEPS, 2 * STEPS]
    assert float(values["epoch/val_bits"][1][1]) == pytest.approx(kept.epochs[1]["val_bits"], rel=1e-5)
    assert float(values["epoch/learning_rate"][0][1]) == pytest.approx(0.01, rel=1e-5)
    assert b'"dim": 8' in values["config"][0][1].item()
    saved = [4, STEPS, 8, 2 * STEPS, 2 * STEPS]
    for tag, plugin in {"generated": "audio", "spectrogram": "images"}.items():
        for index in (0, 1):
            assert [step for step, _ in values[f"{tag}/name/{index}"]] == saved
            assert events.SummaryMetadata(f"{tag}/name/{index}").plugin_data.plugin_name == plugin


def values_of_tensorboard(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (path,) = folder.iterdir()
    events = EventAccumulator(str(path), size_guidance={"tensors": 0})
    events.Reload()
    return {
        tag: [(event.step, tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def test_tensorboard_compares_the_sounds_with_the_recordings(finished: Any) -> None:
    from tierwave.audio.recordings import load

    made, _, folder, _ = finished
    values = values_of_tensorboard(made.run.folder / "tensorboard")
    real = average_spectrum(REAL, RATE)
    sounds = [load(folder / f"name_e=2({index})_t={t}.wav")[0] for index, t in ((0, "0.9"), (1, "0.5"))]
    expected = log_spectral_distance(average_spectrum(np.concatenate(sounds), RATE), real)
    assert float(values["spectrum/name/distance_db"][-1][1]) == pytest.approx(expected, rel=1e-4)
    halves = log_spectral_distance(average_spectrum(REAL[:3000], RATE), average_spectrum(REAL[3000:], RATE))
    assert {round(float(value), 4) for _, value in values["spectrum/name/halves_of_the_recordings_db"]} == {
        round(halves, 4)
    }
    width, height, png = values["spectrum/name"][-1][1]
    assert int(width) > 500 and int(height) > 200 and png.startswith(b"\x89PNG")
    assert not any(tag.startswith("controls") for tag in values)


def test_runs_are_compared_by_their_hyper_parameters_and_best_values(finished: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    made, *_ = finished
    (path,) = (made.run.folder / "tensorboard").iterdir()
    events = EventAccumulator(str(path))
    events.Reload()
    kept = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    started = metadata.parse_session_start_info_plugin_data(kept)
    assert started.hparams["dim"].number_value == 8
    assert started.hparams["batch_size"].number_value == made.options.batch_size
    assert "max_minutes" not in started.hparams
    best = values_of_tensorboard(made.run.folder / "tensorboard")["best/val_bits"][-1][1]
    assert float(best) == pytest.approx(made.run.best().value / LN2, rel=1e-5)


def test_tensorboard_measures_what_a_steered_sound_follows(tmp_path: Path) -> None:
    """A tone that is a quarter of a semitone above what was asked for."""
    schema = Schema(parameters=(Parameter(name="p", lo=60, hi=72, units="midiPitch"),))
    times = np.arange(2 * RATE) / RATE
    sound = 0.3 * np.sin(2 * np.pi * 440 * 2 ** ((66.25 - 69) / 12) * times)
    write_wav(tmp_path / "a.wav", sound, RATE)
    generation = Generation([], tmp_path, print)
    request = Request(controls=({"p": Track.constant("p", 66.0)},))
    generation.sounds = [Sound("a", lambda request: None, request)]  # type: ignore[arg-type]
    generation.made = {"a": [tmp_path / "a.wav"]}
    board = TensorBoard("{}", generation, HeldAgainst(lambda: [REAL], RATE, schema))
    made = trainer(tmp_path / "run", lambda monitor: [])
    board.on_train_begin(made)
    board.on_checkpoint(made, CheckpointEntry("model.ckpt-1", 1, 0, None, False, True))
    board.on_train_end(made)
    values = values_of_tensorboard(tmp_path / "run" / "tensorboard")
    assert float(values["controls/a/p_error_cents"][0][1]) == pytest.approx(25.0, abs=6.0)
    assert float(values["controls/a/p_voiced_share"][0][1]) > 0.9
    assert values["controls/a/0"][0][1][2].startswith(b"\x89PNG")


def test_faults_are_said_once_as_soon_as_they_show_and_not_again_after_a_resume(tmp_path: Path) -> None:
    said: list[str] = []
    script = Scripted("loss", [5.0, 4.9, 4.8, 4.7, 4.6])
    baselines = {"code histogram": 4.0}

    def watching(monitor: Monitor) -> list[Callback]:
        return [script, LossWatch(baselines, said.append), *saving(monitor)]

    made = trainer(tmp_path / "run", watching, spans=SHORT, num_epochs=4)
    made.fit()
    assert len(said) == 1 and "not learning: after 3 epochs" in said[0] and "smaller --learning_rate" in said[0]
    assert made.run.read("bars.json") == baselines
    again = trainer(tmp_path / "run", watching, spans=SHORT, num_epochs=5)
    again.restore(again.run, again.run.latest())
    again.fit()
    assert len(said) == 1


def test_of_steered_networks_it_is_said_where_more_is_to_be_seen(tmp_path: Path) -> None:
    baselines = {"code histogram": 40.0, "linear prediction": 30.0}
    for steered in (False, True):
        said: list[str] = []

        def watching(monitor: Monitor, said: list[str] = said, steered: bool = steered) -> list[Callback]:
            watch = LossWatch(baselines, said.append, steered=steered)
            return [Scripted("val_loss", [5.0]), watch, *saving(monitor)]

        trainer(tmp_path / str(steered), watching, spans=SHORT, num_epochs=1).fit()
        assert "below linear prediction" in said[-1]
        assert ("evaluate RUN --controls" in said[-1]) == steered


def test_a_broken_step_is_the_last_row_of_the_table(tmp_path: Path) -> None:
    made = trainer(tmp_path / "run", lambda m: [LossTable(), *saving(m), Break(STEPS + 2)])
    with pytest.raises(RunError, match="nan"):
        made.fit()
    last = table(made.run)[-1]
    assert last["loss"] == "nan" and int(last["step"]) == STEPS + 3
    good = trainer(tmp_path / "run", lambda m: [LossTable(), *saving(m)], num_epochs=2)
    good.restore(good.run, good.run.latest())
    good.fit()
    assert all(row["loss"] != "nan" for row in table(good.run))


def test_measured_times_are_not_in_the_state_of_anything_that_decides(finished: Any) -> None:
    made, *_ = finished
    progress = read_progress(made.run.folder / "model.ckpt-2")
    assert progress["epoch"] == 2 and progress["step"] == 2 * STEPS and progress["lanes"] == 4
    assert progress["callbacks"]["Monitor"]["best"] == made.run.best().value


@pytest.mark.slow
def test_the_same_steps_give_the_same_bits_without_xla() -> None:
    """At a size where TensorFlow works in parallel: sixteen taps of a table are summed, in one order only."""
    large = samplernn.Config(seq_len=1024, frame_sizes=[16, 64], dim=256, num_rnn_layers=1, emb_size=64)
    inputs = tf.constant(np.random.default_rng(0).integers(0, 256, [16, 1088]), tf.int32)
    mask, reset = tf.ones([16, 1024]), tf.zeros([16], tf.bool)
    batch = {"inputs": inputs, "targets": inputs[:, 64:], "mask": mask, "reset": reset}
    learner = Learner(
        lambda: samplernn.FAMILY.build(large), TrainingOptions(optimizer="sgd", learning_rate=1e-30), jit=False
    )
    results = []
    for _ in range(12):  # a learning rate that changes nothing: every step is the same step
        found, _ = learner.train_step(batch, learner.initial_state(16), 0)
        results.append((found["loss"], found["gradient_norm"]))
    assert len(set(results)) == 1


def test_two_callbacks_that_would_share_a_place_in_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two callbacks with a state have one name: .*LossWatch, LossWatch"):
        trainer(tmp_path / "run", lambda m: [LossWatch({}, print), LossWatch({}, print), *saving(m)])
