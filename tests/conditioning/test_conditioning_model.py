"""The networks of conditioning stages: both forms equal, causal, with the losses they say and inputs of their own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
from combinations import covering

import conditioning
from conditioning.config import Config
from conditioning.model import ConditionalTier
from conditioning.sampler import TierSampler
from tierwave.config import TrainingOptions
from tierwave.controls.live import Settings
from tierwave.controls.schema import Parameter, Schema
from tierwave.errors import UsageError
from tierwave.nn.distributions import counter_uniform, voice_seeds
from tierwave.training.step import Learner

LEVELS = 16
TIME = 5
KINDS: dict[str, dict[str, Any]] = {
    "one": {"generates": ["x"], "rate": 100.0},
    "three": {"generates": ["x", "y", "z"], "rate": 100.0},
    "scalar": {"q_levels": LEVELS},
    "onehot": {"q_levels": LEVELS, "audio_input": "onehot"},
    "embedding": {"q_levels": LEVELS, "audio_input": "embedding", "emb_size": 5},
}
NETS = ("baseline", "split", "shared_split", "pathways", "shared_pathways", "mixture", "wide", "rnncontrol")
AXES: dict[str, tuple] = {
    "net": NETS,
    "kind": tuple(KINDS),
    "cell": ("gru", "lstm", "phased_lstm"),
    "controls": (0, 1, 3),
}
Case = tuple[str, str, str, int]


def full_product() -> list[Case]:
    """Every legal combination."""
    sound = ("baseline", "wide", "rnncontrol")
    return [case for case in itertools.product(*AXES.values()) if case[1] in ("one", "three") or case[0] in sound]


ONES: list[Case] = covering(full_product(), 1)  # type: ignore[assignment]
PAIRS: list[Case] = covering(full_product(), 2)  # type: ignore[assignment]


@pytest.fixture
def eager() -> Iterator[None]:
    """Run compiled functions as they are written: with a few steps of a tiny network tracing would take longest."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def config_of(case: Case, **keys: Any) -> Config:
    net, kind, cell, controls = case
    return Config.model_validate(
        {"net": net, "cell": cell, "conditioned_on": ["a", "b", "c"][:controls], **KINDS[kind]}
        | {"hidden_size": 6, "num_layers": 1, "seq_len": TIME, **keys}
    )


def model_of(config: Config) -> ConditionalTier:
    """A tiny model with weights large enough that every part matters, and time gates that are hardly ever closed."""
    keras.utils.set_random_seed(3)
    model = conditioning.FAMILY.build(config)
    rng = np.random.default_rng(5)
    for variable in model.trainable_variables:
        name = variable.path.rsplit("/", 1)[-1]
        if name == "ratio_on":
            variable.assign(rng.uniform(1.2, 1.8, variable.shape))
        elif name not in ("period", "phase"):
            variable.assign(rng.normal(0, 0.4, variable.shape))
    model.first.bias.assign(rng.uniform(0.5, 1.0, model.first.bias.shape))  # most rectifiers let through
    return model


def made(net: str = "rnncontrol", kind: str = "three", cell: str = "gru", controls: int = 1, **keys: Any):
    return model_of(config_of((net, kind, cell, controls), **keys))


def batch_of(model: ConditionalTier, lanes: int = 3, time: int = TIME, seed: int = 1) -> dict[str, tf.Tensor]:
    rng = np.random.default_rng(seed)
    shape = [lanes, 1 + time]
    if model.stage.makes_audio:
        inputs = rng.integers(0, LEVELS, shape).astype(np.int32)
    else:
        inputs = rng.random([*shape, model.features]).astype(np.float32)
    batch = {"inputs": inputs, "mask": np.ones([lanes, time], np.float32), "reset": np.zeros(lanes, bool)}
    if model.stage.conditioned_on:
        batch["controls"] = rng.random([*shape, len(model.stage.conditioned_on)]).astype(np.float32)
    return {name: tf.constant(value) for name, value in batch.items()}


def state_of(model: ConditionalTier, lanes: int = 3) -> Any:
    """A state in the middle of things."""
    rng = np.random.default_rng(9)
    return tf.nest.map_structure(
        lambda part: part + 5 if part.dtype.is_integer else tf.constant(rng.normal(0, 0.5, part.shape), tf.float32),
        model.initial_state(lanes),
    )


def same(one: Any, other: Any, tolerance: float = 1e-5) -> None:
    for ours, theirs in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=tolerance)


def stepped(model: ConditionalTier, values: Any, controls: Any, state: Any) -> tuple[Any, Any]:
    """The predictions of single steps, one after the other, stacked as a window's; and the last state."""
    weights, predictions = model.effective_weights(), []
    for index in range(values.shape[1]):
        at = model.control_term(None if controls is None else controls[:, index], weights)
        prediction, state = model.step(values[:, index], at, state, weights)
        predictions.append(prediction)
    return tuple(tf.stack(parts, axis=1) for parts in zip(*predictions, strict=True)), state


# Every network in every form -----------------------------------------------------------------------------------------


def check_forms(model: ConditionalTier) -> None:
    """Steps equal windows, two windows one long one, and a lane's neighbours do not matter."""
    batch, state, weights = batch_of(model), state_of(model), model.effective_weights()
    values, controls = batch["inputs"], batch.get("controls")
    whole, last = model.sequence(values, controls, state, weights)
    same((whole, last), stepped(model, values, controls, state))
    shape = [model.features] if not model.stage.makes_audio else [LEVELS]
    shape = [*shape, model.stage.mixtures] if model.stage.net == "mixture" else shape
    assert [part.shape for part in whole] == [[3, TIME + 1, *shape]] * len(whole)
    early, late = (None, None) if controls is None else (controls[:, :3], controls[:, 3:])
    first, middle = model.sequence(values[:, :3], early, state, weights)
    second, end = model.sequence(values[:, 3:], late, middle, weights)
    same(tuple(tf.concat(parts, axis=1) for parts in zip(first, second, strict=True)), whole)
    same(end, last)
    for lane in range(3):
        one = model.sequence(
            values[lane : lane + 1],
            None if controls is None else controls[lane : lane + 1],
            tf.nest.map_structure(lambda part, lane=lane: part[lane : lane + 1], state),
            weights,
        )[0]
        same(one, tuple(part[lane : lane + 1] for part in whole))


def check_causality(case: Case) -> None:
    """By gradient: a prediction at t depends on what is fed at t and before, and on nothing later.

    Codes are whole numbers: there every position has a level of its own, and the gradient is that of the table's row.
    """
    model = made(*case, **({"q_levels": 20} if case[1] not in ("one", "three") else {}))
    batch, weights, state = batch_of(model, 1), model.effective_weights(), state_of(model, 1)
    values, controls = batch["inputs"], batch.get("controls")
    if model.stage.makes_audio:
        values = tf.range(TIME + 1)[None]
    fed = values
    if model.stage.makes_audio:
        fed = model.scaled(values) if model.stage.audio_input == "scalar" else weights.values
        if model.stage.audio_input == "scalar":
            model.scaled = lambda codes: fed
    rng = np.random.default_rng(2)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([fed] + ([] if controls is None else [controls]))
        prediction, _ = model.sequence(values, controls, state, weights)
        sums = [
            sum(tf.reduce_sum(part[0, t] * rng.normal(size=part[0, t].shape)) for part in prediction)
            for t in range(TIME + 1)
        ]
    for t in (0, 2, TIME):
        gradient = tf.convert_to_tensor(tape.gradient(sums[t], fed)).numpy()
        by_place = np.abs(gradient[0] if gradient.shape[0] == 1 else gradient[: TIME + 1]).reshape(TIME + 1, -1)
        assert np.all(by_place[t].reshape(-1, max(1, model.features)).max(axis=0) > 0)
        assert not by_place[t + 1 :].any()
        assert np.all(by_place[:t].max(axis=1) > 0)
        if controls is not None:
            steered = np.abs(tape.gradient(sums[t], controls)[0])
            assert np.all(steered[t] > 0)
            assert not steered[t + 1 :].any()


def check_generation(model: ConditionalTier) -> None:
    """What is generated is what its own predictions, given all of it as a window, draw from the same numbers."""
    weights, steps = model.effective_weights(), 4
    sampler = TierSampler(model, jit=False)
    rng = np.random.default_rng(4)
    for streams in (1, 3):
        controls = rng.random([streams, steps, len(model.stage.conditioned_on)]).astype(np.float32)
        temperature = np.repeat(np.float32([[0.8], [1.0], [0.0]])[:streams], steps, axis=1)
        settings = Settings(controls, temperature, np.zeros([streams, steps], np.int32))
        seeds = voice_seeds(5, streams)
        start = sampler.start(streams)
        # As it is written: to trace it would take longest.
        values, after = sampler.block(weights, start, tf.constant(steps), seeds, settings)
        assert values.shape == (streams, steps) if model.stage.makes_audio else (streams, steps, model.features)
        inputs = tf.concat([start.values[:, None], values[:, :-1]], axis=1)
        given = tf.constant(controls) if model.stage.conditioned_on else None
        prediction, state = model.sequence(inputs, given, start.recurrent, weights)
        same(after.recurrent, state)
        same(after.values, values[:, -1], 0)
        uniform = tf.reshape(
            counter_uniform(seeds, 0, steps * model.head.uniforms), [streams, steps, model.head.uniforms]
        )
        for t in range(steps):
            drawn = model.head.sample(tuple(part[:, t] for part in prediction), uniform[:, t], temperature[:, t])
            np.testing.assert_allclose(drawn, values[:, t], atol=1e-4)


def check_training(config: Config, *, jit: bool = False, batches: Sequence[int] = (3, 1)) -> None:
    """A step with as many lanes as each of `batches` says, and all that is special in training: finite losses, and
    every variable moves."""
    options = TrainingOptions(learning_rate=0.01, tfr=0.5, ss=0.25, input_noise=0.1)
    learner = Learner(
        lambda: conditioning.FAMILY.build(config),
        options,
        jit=jit,
        inputs=conditioning.FAMILY.training_inputs(options, 2),
        **conditioning.FAMILY.clipping(config),
    )
    for variable in learner.model.trainable_variables:
        if variable.path.endswith("ratio_on"):  # in so few steps every gate opens
            variable.assign(np.full(variable.shape, 1.5))
    before = [np.array(variable.numpy()) for variable in learner.model.trainable_variables]
    state = None
    for step, lanes in enumerate(batches):
        if step == 0 or lanes != batches[step - 1]:
            state = learner.initial_state(lanes)
        results, state = learner.train_step(batch_of(learner.model, lanes, seed=step), state, step)
        assert np.isfinite(list(results.values())).all()
        features = 1 if learner.model.stage.makes_audio else learner.model.features
        assert results["elements"] == lanes * TIME * features
        assert results["gradient_norm"] > 0
    for variable, old in zip(learner.model.trainable_variables, before, strict=True):
        assert np.isfinite(variable.numpy()).all()
        assert np.any(variable.numpy() != old), variable.path


def ident(case: Case) -> str:
    return "-".join(map(str, case))


@pytest.mark.parametrize("case", ONES, ids=ident)
def test_networks(case: Case, eager: None) -> None:
    model = model_of(config_of(case))
    check_forms(model)
    check_causality(case)
    check_generation(model)
    check_training(config_of(case))


@pytest.mark.parametrize("kind", ["three", pytest.param("onehot", marks=pytest.mark.slow)])
def test_xla_draws_the_same_values(kind: str) -> None:
    model, values, seeds, steps = model_of(config_of(("rnncontrol", kind, "gru", 1))), [], voice_seeds(5, 2), 6
    controls = np.random.default_rng(4).random([2, steps, 1]).astype(np.float32)
    settings = Settings(controls, np.ones([2, steps], np.float32), np.zeros([2, steps], np.int32))
    for jit in (False, True):
        sampler = TierSampler(model, jit=jit)
        given = model.effective_weights(), sampler.start(2), tf.constant(steps), seeds, settings
        values.append(sampler.run(*given)[0])
    np.testing.assert_allclose(*values, atol=1e-4)


def test_one_graph_goes_on_from_seeds_of_any_length_in_any_number() -> None:
    """Of the first seeds TensorFlow compiles each for itself; then one graph for unknown numbers of lanes and steps."""
    model, rng = made("mixture"), np.random.default_rng(4)
    sampler, weights = TierSampler(model, jit=False), model.effective_weights()
    for streams, steps in ((1, 3), (2, 4), (3, 5)):
        values = rng.random([streams, steps, model.features]).astype(np.float32)
        controls = rng.random([streams, steps, 1]).astype(np.float32)
        after = sampler.prime(sampler.start(streams), values, controls, weights)
        _, state = model.sequence(
            tf.constant(values[:, :-1]), tf.constant(controls[:, :-1]), model.initial_state(streams), weights
        )
        same(after.recurrent, state)
        same(after.values, values[:, -1], 0)


@pytest.mark.slow
@pytest.mark.parametrize("case", covering(full_product(), 3), ids=ident)
def test_networks_in_every_three(case: Case, eager: None) -> None:
    """What `test_networks` asserts, of more networks; trained are those of the test after it."""
    model = model_of(config_of(case))
    check_forms(model)
    check_causality(case)
    check_generation(model)


@pytest.mark.slow
@pytest.mark.parametrize("case", PAIRS, ids=ident)
def test_training_of_every_pair(case: Case, eager: None) -> None:
    check_training(config_of(case))


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", full_product(), ids=ident)
def test_every_network(case: Case, eager: None) -> None:
    """What `test_networks` asserts, of all of them."""
    test_networks(case, eager)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "jit"), [(case, bool(at % 2)) for at, case in enumerate(ONES)], ids=str)
def test_networks_compiled(case: Case, jit: bool) -> None:
    """The assertions are those of `check_training`; here it is traced, and every other network compiled by XLA."""
    check_training(config_of(case), jit=jit, batches=(3, 3))


@pytest.mark.exhaustive
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("case", PAIRS, ids=ident)
def test_every_pair_compiled(case: Case, jit: bool) -> None:
    check_training(config_of(case), jit=jit)


@pytest.mark.parametrize("cell", ["gru", "lstm", "phased_lstm"])
def test_several_layers(cell: str) -> None:
    check_forms(model_of(config_of(("baseline", "three", cell, 3), num_layers=3)))


def test_a_compiled_step() -> None:
    """All else here runs as it is written; this is traced, with loops and shapes as in training."""
    check_training(config_of(("rnncontrol", "three", "gru", 3)), batches=(3, 3))


def test_pairs_are_all_there() -> None:
    """Else the test above would test less than it says."""
    chosen = PAIRS
    assert len(chosen) < len(full_product()) / 4
    for one, other in itertools.combinations(range(4), 2):
        assert {(case[one], case[other]) for case in chosen} == {(case[one], case[other]) for case in full_product()}


@pytest.mark.parametrize(
    ("keys", "size"),
    [
        ({"generates": ["a", "b", "c"], "conditioned_on": ["f"], "hidden_size": 300}, 1_628_706),
        ({"generates": [f"m{i}" for i in range(13)], "conditioned_on": list("abc"), "hidden_size": 500}, 4_530_526),
        ({"conditioned_on": [f"m{i}" for i in range(13)], "hidden_size": 800, "rate": 16000.0}, 11_751_456),
    ],
)
def test_mtcrnns_recipes_have_their_sizes(keys: dict, size: int) -> None:
    config = Config.model_validate({"net": 0, "num_layers": 3, "rate": 125.0, **keys})
    assert conditioning.FAMILY.build(config).count_params() == size


@pytest.mark.parametrize(("layers", "hidden", "levels", "size"), [(4, 48, 256, 69_232), (3, 24, 128, 14_120)])
def test_rnncontrols_networks_have_their_sizes(layers: int, hidden: int, levels: int, size: int) -> None:
    names = ["instID", "a", "p"]
    config = Config(conditioned_on=names, num_layers=layers, hidden_size=hidden, q_levels=levels)
    assert conditioning.FAMILY.build(config).count_params() == size


def test_only_rnncontrols_network_has_no_rectifier() -> None:
    for net, least in (("baseline", 0.0), ("rnncontrol", -np.inf)):
        model = made(net)
        weights = model.effective_weights()
        seen = model.rnn_input(
            tf.random.normal([50, 3]), model.control_term(tf.random.normal([50, 1]), weights), weights
        )
        assert (seen.numpy().min() == 0.0) == (least == 0.0)


def test_scalar_codes_are_shares_of_the_largest() -> None:
    model = made(kind="scalar")
    np.testing.assert_allclose(model.scaled(tf.constant([0, 5, LEVELS - 1])), [0, 5 / 15, 1], rtol=1e-6)


# Losses --------------------------------------------------------------------------------------------------------------


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


def predictions_of(model: ConditionalTier, batch: dict) -> list[np.ndarray]:
    controls = batch["controls"][:, :-1] if model.stage.conditioned_on else None
    lanes = batch["inputs"].shape[0]
    prediction, _ = model.sequence(
        batch["inputs"][:, :-1], controls, model.initial_state(lanes), model.effective_weights()
    )
    return [part.numpy().astype(np.float64) for part in prediction]


def expected_nats(model: ConditionalTier, batch: dict) -> np.ndarray:
    """By scipy, for each value."""
    targets = batch["inputs"].numpy()[:, 1:]
    floor = model.stage.scale_floor
    if model.stage.makes_audio:
        (logits,) = predictions_of(model, batch)
        return -np.take_along_axis(scipy.special.log_softmax(logits, axis=-1), targets[..., None], axis=-1)[..., 0]
    if model.stage.net == "mixture":
        logits, means, raw = predictions_of(model, batch)
        density = scipy.stats.norm.logpdf(targets[..., None], means, softplus(raw) + floor)
        return -scipy.special.logsumexp(scipy.special.log_softmax(logits, axis=-1) + density, axis=-1)
    mean, raw = predictions_of(model, batch)
    if model.stage.loss_name == "sampled_mse":
        return (mean - targets) ** 2
    return -scipy.stats.norm.logpdf(targets, mean, softplus(raw) + floor)


LOSSES: list[dict[str, Any]] = [
    {"kind": "scalar"},
    {"kind": "one", "scale_floor": 0.05},
    {"kind": "three", "net": "pathways"},
    {"kind": "one", "net": "mixture", "mixtures": 2},
    {"kind": "three", "net": "mixture", "scale_floor": 0.05},
    {"kind": "three", "loss": "sampled_mse"},
    {"kind": "one", "loss": "sampled_mse"},
]


@pytest.mark.parametrize("keys", LOSSES, ids=str)
def test_losses_are_sums_per_lane_of_what_the_mask_leaves(keys: dict[str, Any]) -> None:
    model = made(**keys)
    batch = batch_of(model)
    mask = np.ones([3, TIME], np.float32)
    mask[1, 4:] = 0.0
    mask[2] = 0.0
    outcome = model.loss_sums(batch | {"mask": tf.constant(mask)}, model.initial_state(3))
    nats = expected_nats(model, batch)
    per_value = mask if model.stage.makes_audio else mask[..., None] * np.ones(model.features)
    assert nats.shape == per_value.shape
    np.testing.assert_allclose(outcome.nats, (nats * per_value).reshape(3, -1).sum(axis=1), rtol=2e-5, atol=1e-5)
    features = 1 if model.stage.makes_audio else model.features
    np.testing.assert_array_equal(outcome.elements, [TIME * features, 4 * features, 0])
    correct = np.zeros(3)
    if model.stage.makes_audio:
        (logits,) = predictions_of(model, batch)
        correct = ((logits.argmax(axis=-1) == batch["inputs"].numpy()[:, 1:]) * mask).sum(axis=1)
        assert correct.any()
    np.testing.assert_array_equal(outcome.correct, correct)
    assert model.has_accuracy == model.stage.makes_audio


@pytest.mark.parametrize("features", [1, 3])
def test_sampled_squared_error_is_that_of_mtcrnns_draws(features: int) -> None:
    """Its expectation is (mean - target)^2 + deviation^2, without a floor; and one feature is not broadcast."""
    model = made(kind="one" if features == 1 else "three", loss="sampled_mse")
    rng = np.random.default_rng(6)
    lanes, time = 4, 5
    mean, raw, target = (rng.normal(size=[lanes, time, features]).astype(np.float32) for _ in range(3))
    draws = 4000
    uniform = rng.random([draws * lanes, time, features]).astype(np.float32)
    tiled = [np.tile(part, [draws, 1, 1]) for part in (mean, raw, target)]
    found = model.head.nats((tiled[0], tiled[1]), tiled[2], uniform).numpy()
    assert found.shape == (draws * lanes, time, features)
    drawn = tiled[0] + softplus(tiled[1]) * scipy.stats.norm.ppf(uniform.astype(np.float64) + 2.0**-25)
    np.testing.assert_allclose(found, (drawn - tiled[2]) ** 2, rtol=1e-3, atol=1e-4)
    average = found.reshape(draws, lanes, time, features).mean(axis=0)
    np.testing.assert_allclose(average, (mean - target) ** 2 + softplus(raw) ** 2, rtol=0.15, atol=0.05)
    # In training that is the loss, and each lane's is its own.
    batch, seed = batch_of(model, 4), tf.constant([1, 2])
    sampled = model.loss_sums(batch, model.initial_state(4), dropout_seed=seed)
    plain = model.loss_sums(batch, model.initial_state(4))
    assert np.all(np.abs(sampled.nats - plain.nats) > 1e-3)
    assert model.unit == "squared error" and sampled.nats.shape == [4]


@pytest.mark.parametrize("kind", ["scalar", "three"])
@pytest.mark.parametrize("cell", ["gru", "phased_lstm"])
def test_state_is_reset_and_carried(kind: str, cell: str) -> None:
    model = made(kind=kind, cell=cell)
    batch = batch_of(model, time=2 * TIME)
    dirty = state_of(model)
    fresh = model.loss_sums(batch, model.initial_state(3))
    carried = model.loss_sums(batch, dirty)
    reset = model.loss_sums(batch | {"reset": tf.constant([True, False, True])}, dirty)
    np.testing.assert_array_equal(reset.nats, np.where([True, False, True], fresh.nats, carried.nats))
    assert np.all(np.abs(fresh.nats - carried.nats) > 1e-3)
    pieces, state = [], dirty
    for start in (0, TIME):  # a window begins with the last value of the one before
        part = {name: batch[name][:, start : start + TIME + 1] for name in ("inputs", "controls")}
        outcome = model.loss_sums({**part, "mask": batch["mask"][:, :TIME], "reset": batch["reset"]}, state)
        pieces.append(outcome.nats)
        state = outcome.state
    np.testing.assert_allclose(sum(pieces), carried.nats, rtol=1e-5)
    same(state, carried.state)


# Scheduled sampling --------------------------------------------------------------------------------------------------


def drawn_by_hand(model: ConditionalTier, prediction: Any, uniform: np.ndarray) -> np.ndarray:
    """Inverse distribution functions, by scipy. uniform `[batch, draws]`."""
    parts = [np.asarray(part, np.float64) for part in prediction]
    if model.stage.makes_audio:
        edges = np.cumsum(scipy.special.softmax(parts[0], axis=-1), axis=-1)
        return np.array([np.searchsorted(edge, u) for edge, u in zip(edges, uniform[:, 0], strict=True)], np.int32)
    if model.stage.net == "mixture":
        logits, means, raw = parts
        which = np.cumsum(scipy.special.softmax(logits, axis=-1), axis=-1)
        component = (which < uniform[:, 0::2, None]).sum(axis=-1)[..., None]
        mean, raw = (np.take_along_axis(part, component, axis=-1)[..., 0] for part in (means, raw))
        uniform = uniform[:, 1::2]
    else:
        mean, raw = parts
    floor = 0.0 if model.stage.loss == "sampled_mse" else model.stage.scale_floor
    return (mean + (softplus(raw) + floor) * scipy.stats.norm.ppf(uniform.astype(np.float64) + 2.0**-25)).astype(
        np.float32
    )


def by_hand(model: ConditionalTier, values: Any, controls: Any, state: Any, coins: Any, uniform: np.ndarray):
    """MTCRNN's loop: step, toss one coin for all, feed the truth or the draw. All inputs and the predictions."""
    weights = model.effective_weights()
    fed, inputs, predictions = values[:, 0], [], []
    for t in range(values.shape[1]):
        inputs.append(fed)
        at = model.control_term(None if controls is None else controls[:, t], weights)
        prediction, state = model.step(fed, at, state, weights)
        predictions.append(prediction)
        if t + 1 < values.shape[1]:
            fed = values[:, t + 1] if coins[t] else tf.constant(drawn_by_hand(model, prediction, uniform[:, t]))
    return tf.stack(inputs, axis=1), tuple(tf.stack(parts, axis=1) for parts in zip(*predictions, strict=True))


SAMPLED: list[dict[str, Any]] = [
    {"kind": "scalar", "controls": 0},
    {"kind": "onehot", "cell": "lstm"},
    {"kind": "embedding", "controls": 3},
    {"kind": "one", "controls": 0},
    {"kind": "three", "net": "shared_pathways"},
    {"kind": "three", "net": "mixture", "controls": 3},
    {"kind": "one", "net": "mixture"},
    {"kind": "three", "loss": "sampled_mse", "cell": "phased_lstm"},
]
COINS = np.array([True, False, False, True, False])


@pytest.mark.parametrize("keys", SAMPLED, ids=str)
def test_inputs_are_mixed_as_in_mtcrnns_loop(keys: dict[str, Any]) -> None:
    model = made(**keys)
    batch, state, weights = batch_of(model), state_of(model), model.effective_weights()
    values = batch["inputs"][:, :-1]
    controls = batch["controls"][:, :-1] if "controls" in batch else None
    uniform = np.random.default_rng(8).random([3, TIME, model.head.uniforms]).astype(np.float32)
    for coins in (COINS, np.ones(TIME, bool), np.zeros(TIME, bool)):
        mixed = model.scheduled_inputs(values, controls, state, weights, tf.constant(coins), tf.constant(uniform))
        assert mixed.dtype == values.dtype and mixed.shape == values.shape
        if coins.all():
            np.testing.assert_array_equal(mixed, values)
            continue
        np.testing.assert_array_equal(mixed[:, 0], values[:, 0])
        np.testing.assert_allclose(mixed, by_hand(model, values, controls, state, coins, uniform)[0], atol=2e-4)
        if not coins.any() and not model.stage.makes_audio:
            assert np.all(mixed[:, 1:] != values[:, 1:])


@pytest.mark.parametrize("keys", SAMPLED[:-1], ids=str)
def test_the_gradient_of_scheduled_sampling_is_that_of_the_loop(keys: dict[str, Any]) -> None:
    """Nothing flows through a draw; everything else is as if the steps were taken one by one."""
    model = made(**keys)
    batch, state = batch_of(model), state_of(model)
    seen: dict[str, Any] = {}
    mixed = model.scheduled_inputs

    def noted(values, controls, state, weights, truth_next, uniform):
        seen.update(coins=truth_next.numpy(), uniform=uniform.numpy())
        return mixed(values, controls, state, weights, truth_next, uniform)

    model.scheduled_inputs = noted
    variables = model.trainable_variables
    raw = [variable.value for variable in variables]
    with tf.GradientTape() as tape:
        outcome = model.loss_sums(batch, state, dropout_seed=tf.constant([3, 4]), teacher_forcing=tf.constant(0.4))
        loss = tf.reduce_sum(outcome.nats)
    found = tape.gradient(loss, raw)
    assert seen["coins"].shape == (TIME,)  # one for the whole batch
    assert 0 < seen["coins"].sum() < TIME
    values, targets = batch["inputs"][:, :-1], batch["inputs"][:, 1:]
    controls = batch["controls"][:, :-1] if "controls" in batch else None
    with tf.GradientTape() as tape:
        _, predictions = by_hand(model, values, controls, state, seen["coins"], seen["uniform"])
        expected = tf.reduce_sum(model.head.nats(predictions, targets))
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    for variable, ours, theirs in zip(variables, found, tape.gradient(expected, raw), strict=True):
        theirs = tf.convert_to_tensor(theirs).numpy()
        np.testing.assert_allclose(ours, theirs, rtol=5e-3, atol=5e-4 * np.abs(theirs).max(), err_msg=variable.path)


def test_the_drawn_value_that_is_fed_is_the_one_that_is_scored() -> None:
    """MTCRNN's squared error is that of the very draw that becomes the next input (network/model.py, 81-130)."""
    model = made(kind="three", loss="sampled_mse", controls=0)
    batch, fed = batch_of(model), []
    sequence = model.sequence

    def noted(values, *rest, **options):
        fed.append(values)
        return sequence(values, *rest, **options)

    model.sequence = noted
    outcome = model.loss_sums(batch, model.initial_state(3), dropout_seed=tf.constant([1, 2]), teacher_forcing=0.0)
    drawn = fed[0].numpy()[:, 1:]
    errors = (drawn - batch["inputs"].numpy()[:, 1:-1]) ** 2
    # All but the last draw are fed, so the sum of their errors is all but one step's of the loss.
    last = model.loss_sums(
        batch | {"mask": tf.constant(np.eye(TIME)[[-1] * 3], tf.float32)},
        model.initial_state(3),
        dropout_seed=tf.constant([1, 2]),
        teacher_forcing=0.0,
    )
    np.testing.assert_allclose(errors.sum(axis=(1, 2)), outcome.nats - last.nats, rtol=1e-3)


@pytest.mark.parametrize("kind", ["scalar", "three"])
def test_the_rate_of_teacher_forcing_and_its_ends(kind: str) -> None:
    model = made(kind=kind)
    batch, state, seed = batch_of(model), model.initial_state(3), tf.constant([1, 2])
    plain = model.loss_sums(batch, state, dropout_seed=seed)
    always = model.loss_sums(batch, state, dropout_seed=seed, teacher_forcing=tf.constant(1.0))
    never = model.loss_sums(batch, state, dropout_seed=seed, teacher_forcing=tf.constant(0.0))
    same(always, plain)
    assert np.all(np.abs(never.nats - plain.nats) > 1e-3)
    untrained = model.loss_sums(batch, state, teacher_forcing=tf.constant(0.0), input_noise=0.5)
    same(untrained, plain)  # without a seed this is no training
    counts = []

    class EnoughError(Exception):
        """The coins were seen; the network need not run over so many steps."""

    def counted(values: Any, controls: Any, state: Any, weights: Any, coins: Any, uniform: Any) -> None:
        counts.append(coins.numpy().mean())
        raise EnoughError

    model.scheduled_inputs = counted
    long = batch_of(model, 1, 2000)
    for rate in (0.2, 0.9):
        with pytest.raises(EnoughError):
            model.loss_sums(long, model.initial_state(1), dropout_seed=seed, teacher_forcing=tf.constant(rate))
    np.testing.assert_allclose(counts, [0.2, 0.9], atol=0.04)


@pytest.mark.parametrize(("tfr", "ss", "steps"), [(1.0, 0.0, 11), (0.5, 0.9, 7), (1.0, 0.25, 2), (0.75, 0.5, 1)])
def test_the_schedule_is_linspace_over_steps(tfr: float, ss: float, steps: int) -> None:
    """MTCRNN's: linspace(tfr, END, num_steps)[i] at the i-th step; it stays where it ends."""
    told = conditioning.FAMILY.training_inputs(TrainingOptions(tfr=tfr, ss=ss), steps)
    found = [float(told(tf.constant(step))["teacher_forcing"]) for step in range(steps)]
    np.testing.assert_allclose(found, np.linspace(tfr, ss, steps), atol=1e-6)
    if steps > 1:
        assert float(told(tf.constant(steps + 5))["teacher_forcing"]) == pytest.approx(ss)


def test_without_a_schedule_the_rate_stays_and_the_truth_costs_nothing() -> None:
    constant = conditioning.FAMILY.training_inputs(TrainingOptions(tfr=0.3, input_noise=0.2), 10)
    for step in (0, 9, 100):
        told = constant(tf.constant(step))
        assert float(told["teacher_forcing"]) == pytest.approx(0.3)
        assert told["input_noise"] == 0.2
    assert "teacher_forcing" not in conditioning.FAMILY.training_inputs(TrainingOptions(), 10)(tf.constant(3))
    none_at_all = conditioning.FAMILY.training_inputs(TrainingOptions(ss=0.0), 10)  # 0 is a rate
    assert float(none_at_all(tf.constant(9))["teacher_forcing"]) == 0.0


# Noise and dropout ---------------------------------------------------------------------------------------------------


def test_noise_on_parameters_has_no_offset_and_the_width_of_each_window() -> None:
    model = made(kind="three")
    rng = np.random.default_rng(0)
    lows, highs = np.array([[0.5, 0.2, 0.9], [0.1, 0.0, 0.3]]), np.array([[0.9, 0.3, 1.0], [0.2, 1.0, 0.3]])
    values = (lows[:, None] + (highs - lows)[:, None] * rng.random([2, 5000, 3])).astype(np.float32)
    noise = model.add_input_noise(tf.constant(values), 0.4, tf.constant([1, 2])).numpy() - values
    half = 0.4 * (values.max(axis=1) - values.min(axis=1)) / 2
    assert np.all(np.abs(noise) <= half[:, None] + 1e-6)
    np.testing.assert_allclose(np.abs(noise).max(axis=1), half, rtol=0.01, atol=1e-6)
    np.testing.assert_allclose(noise.mean(axis=1), 0, atol=4 / np.sqrt(3 * 5000) * half.max())
    np.testing.assert_allclose(noise.std(axis=1), half / np.sqrt(3), rtol=0.03, atol=1e-6)
    flat = np.abs(np.corrcoef(np.concatenate([noise[0, :, :2], noise[1, :, :2]], axis=1).T) - np.eye(4))
    assert flat.max() < 0.1  # each value has its own


def test_noise_on_audio_is_added_to_the_sound_between_codes() -> None:
    """RNNControl's noise has the offset w (min + max) / 2; this one has none."""
    model = made(kind="scalar", q_levels=4096, q_type="linear")
    codec = model.quantizer
    sound = np.random.default_rng(0).uniform(0.3, 0.7, [2, 4000]).astype(np.float32)
    codes = tf.constant(codec.encode(sound).astype(np.int32))
    noisy = model.add_input_noise(codes, 0.5, tf.constant([1, 2]))
    assert noisy.dtype == tf.int32
    noise = codec.decode(noisy.numpy()) - codec.decode(codes.numpy())
    np.testing.assert_allclose(noise.mean(axis=1), 0, atol=4 * 0.1 / np.sqrt(3 * 4000))
    np.testing.assert_allclose(np.abs(noise).max(axis=1), 0.1, rtol=0.02)
    edge = model.add_input_noise(tf.constant([[0, 4095] * 50]), 1.0, tf.constant([1, 2])).numpy()
    assert edge.min() >= 0 and edge.max() <= 4095
    np.testing.assert_array_equal(model.add_input_noise(codes, 0.0, tf.constant([1, 2])), codes)


@pytest.mark.parametrize("kind", ["scalar", "three"])
def test_noise_is_on_the_inputs_only_in_training_and_follows_the_seed(kind: str) -> None:
    model = made(kind=kind)
    batch, state, seen = batch_of(model, time=30), model.initial_state(3), []
    sequence, nats = model.sequence, model.head.nats

    def noted(values, controls, *rest, **options):
        seen.append((values.numpy(), controls.numpy()))
        return sequence(values, controls, *rest, **options)

    def scored(prediction, targets, *rest):
        np.testing.assert_array_equal(targets, batch["inputs"][:, 1:])
        return nats(prediction, targets, *rest)

    model.sequence, model.head.nats = noted, scored
    for seed, noise in (((1, 2), 0.5), ((1, 2), 0.5), ((1, 3), 0.5), ((1, 2), 0.0), (None, 0.5)):
        given = None if seed is None else tf.constant(seed)
        model.loss_sums(batch, state, dropout_seed=given, input_noise=noise)
    truth = batch["inputs"].numpy()[:, :-1]
    first, again, other, clean, untrained = (values for values, _ in seen)
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other) and np.any(first != truth)
    np.testing.assert_array_equal(clean, truth)
    np.testing.assert_array_equal(untrained, truth)
    for _, controls in seen:
        np.testing.assert_array_equal(controls, batch["controls"][:, :-1])


@pytest.mark.parametrize("net", ["rnncontrol", "shared_split"])
def test_dropout_is_seeded_and_only_in_training(net: str) -> None:
    model = made(net, dropout=0.5, num_layers=2)
    without = made(net, num_layers=2)
    batch, state = batch_of(model), model.initial_state(3)
    still = model.loss_sums(batch, state)
    np.testing.assert_array_equal(still.nats, without.loss_sums(batch, state).nats)
    one, same_seed, other = (
        model.loss_sums(batch, state, dropout_seed=tf.constant(seed)).nats.numpy() for seed in ((1, 2), (1, 2), (1, 3))
    )
    np.testing.assert_array_equal(one, same_seed)
    assert np.all(np.abs(one - still.nats) > 1e-4)
    assert np.all(np.abs(one - other) > 1e-4)


def test_parallel_stacks_drop_different_inputs() -> None:
    model = made("split", dropout=0.5)
    batch = batch_of(model, 1)
    inputs = tf.ones([1, TIME, 6])
    seen = []
    for stack in model.stacks:
        sequence = stack.layers[0].sequence
        stack.layers[0].sequence = lambda fed, *rest, sequence=sequence, **options: (
            seen.append(fed.numpy()) or sequence(fed, *rest, **options)
        )
    for seed in range(4):
        model.seen = lambda *_: inputs
        model.loss_sums(batch, model.initial_state(1), dropout_seed=tf.constant([1, seed]))
    assert any(np.any(mean != deviation) for mean, deviation in zip(seen[::2], seen[1::2], strict=True))


# Weights of another run ----------------------------------------------------------------------------------------------

OLD = Schema(
    parameters=(
        Parameter(name="a", lo=0, hi=4),
        Parameter(name="b", lo=1, hi=2),
        Parameter(name="x", lo=0, hi=1),
    )
)
NEW = Schema(
    parameters=(
        Parameter(name="n", lo=0, hi=1),
        Parameter(name="b", lo=0, hi=4),
        Parameter(name="x", lo=0, hi=1),
        Parameter(name="a", lo=-4, hi=4),
    )
)


@pytest.mark.parametrize("kind", ["one", "onehot", "embedding", "scalar"])
def test_a_network_with_more_parameters_starts_as_the_old_one(kind: str) -> None:
    config = config_of(("baseline", kind, "gru", 0)).model_copy(update={"conditioned_on": ["a", "b"]})
    source, target = (
        model_of(config),
        conditioning.FAMILY.build(config.model_copy(update={"conditioned_on": ["b", "n", "a"]})),
    )
    conditioning.FAMILY.take_weights(source, target, OLD, NEW)
    values = batch_of(source)["inputs"]
    rng = np.random.default_rng(1)
    raw = {name: rng.uniform(*OLD.of(name).span, [3, TIME + 1]) for name in ("a", "b")}
    raw["n"] = rng.random([3, TIME + 1])
    predictions = []
    for model, schema in ((source, OLD), (target, NEW)):
        controls = np.stack([schema.of(name).normalise(raw[name]) for name in model.stage.conditioned_on], axis=-1)
        predictions.append(
            model.sequence(values, tf.constant(controls), model.initial_state(3), model.effective_weights())[0]
        )
    same(*predictions)


def test_the_wide_net_takes_only_as_many_parameters() -> None:
    config = config_of(("wide", "one", "gru", 2))
    source, same_size = (
        model_of(config),
        conditioning.FAMILY.build(config.model_copy(update={"conditioned_on": ["b", "a"]})),
    )
    conditioning.FAMILY.take_weights(source, same_size, OLD, OLD)
    batch = batch_of(source)
    values, controls = batch["inputs"], batch["controls"]
    one = source.sequence(values, controls, source.initial_state(3), source.effective_weights())[0]
    turned = tf.reverse(controls, [-1])
    same(one, same_size.sequence(values, turned, source.initial_state(3), same_size.effective_weights())[0])
    larger = conditioning.FAMILY.build(config.model_copy(update={"conditioned_on": ["a", "b", "x"]}))
    with pytest.raises(UsageError, match="weights go only to the same number of controls"):
        conditioning.FAMILY.take_weights(source, larger, OLD, OLD)
