"""MelNet: resolution tiers, the network, and sampling with cached state."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from combinations import covering
from hypothesis import given
from hypothesis import strategies as st

import melnet
from commands import eagerly, undrawn
from melnet.config import Config
from melnet.model import MelTier
from melnet.multiscale import below, factors, interleave, sizes, split
from melnet.sampler import BLOCK_FRAMES, TierSampler
from tierwave.config import difference, dumps
from tierwave.data.splits import Span, Split
from tierwave.errors import UsageError
from tierwave.family import load_config
from tierwave.training.step import Learner

ORACLE = Path(__file__).parents[1] / "oracle" / "melnet" / "tier1.npz"
TINY: dict[str, Any] = {
    "model": "melnet",
    "audio": {"n_fft": 64, "win_length": 64, "hop_length": 16, "mel_channels": 16},
    "tiers": 4,
    "layers": [3, 2, 2, 1],
    "hidden_size": 5,
    "mixtures": 3,
    "seq_len": 8,
}


def config_of(**keys: Any) -> Config:
    return load_config({**TINY, **keys}, "here")[1]


def tier_of(number: int, **keys: Any) -> MelTier:
    """A tier with weights large enough that every part matters."""
    keras.utils.set_random_seed(1)
    model = MelTier(config_of(**keys), number)
    rng = np.random.default_rng(number)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(0, 0.4, variable.shape))
    return model


def material(model: MelTier, streams: int = 2, frames: int = 5) -> tuple[np.ndarray, ...]:
    """Values, the tiers below and controls, at random; None where there are none."""
    rng = np.random.default_rng(7)
    shape = [streams, frames, model.bins]
    values = rng.normal(size=shape).astype(np.float32)
    lower = rng.normal(size=shape).astype(np.float32) if model.tier > 1 else None
    names = model.config.conditioned_on
    controls = rng.normal(size=[streams, frames, len(names)]).astype(np.float32) if names else None
    return values, lower, controls


# Tiers of resolution -------------------------------------------------------------------------------------------------


def owners(frames: int, bins: int, tiers: int) -> np.ndarray:
    """The tier of each element, int `[frames, bins]`."""
    whole = np.ones(sizes(frames, bins, tiers)[0], int)
    for tier in range(2, tiers + 1):
        whole = interleave(whole, np.full_like(whole, tier), tier)
    return whole


@given(st.integers(1, 7), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_a_spectrogram_is_split_and_put_together_again(tiers: int, wide: int, high: int, batched: bool) -> None:
    by_time, by_frequency = factors(tiers)
    frames, bins = by_time * wide, by_frequency * high
    whole = np.arange(frames * bins).reshape([1, frames, bins] if batched else [frames, bins])
    parts = split(whole, tiers)
    assert [part.shape[-2:] for part in parts] == [tuple(size) for size in sizes(frames, bins, tiers)]
    joined = parts[0]
    for number in range(2, tiers + 1):
        values, lower = below(whole, number, tiers)
        np.testing.assert_array_equal(values, parts[number - 1])
        np.testing.assert_array_equal(lower, joined)  # what a tier is conditioned on is all below it
        joined = interleave(joined, parts[number - 1], number)
    np.testing.assert_array_equal(joined, whole)
    counts = np.bincount(owners(frames, bins, tiers).ravel(), minlength=tiers + 1)[1:]
    assert counts.tolist() == [size.frames * size.bins for size in sizes(frames, bins, tiers)]


def test_the_owners_are_those_of_the_paper() -> None:
    rows = ["1535", "6666", "4545", "6666", "2535", "6666", "4545", "6666"]
    expected = np.array([[int(digit) for digit in row] for row in rows])
    np.testing.assert_array_equal(owners(8, 16, 6).T, np.tile(expected, [2, 2]))
    assert sizes(320, 256, 6) == [(80, 32), (80, 32), (80, 64), (160, 64), (160, 128), (320, 128)]


def test_what_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="frames must be a multiple of 4 and bins of 8"):
        sizes(6, 16, 6)
    with pytest.raises(ValueError, match="tier 2"):
        interleave(np.zeros([2, 2]), np.zeros([2, 4]), 2)


# Config --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"layers": [3, 2]}, r"layers \[3, 2\] are 2, and tiers is 4"),
        ({"audio": {**TINY["audio"], "mel_channels": 18}}, "mel_channels 18 must be a multiple of 4"),
        ({"seq_len": 9}, "seq_len 9 must be a multiple of 2 with 4 tiers; use 8"),
        ({"training_per_tier": [{}]}, "training_per_tier has 1 entries, and tiers is 4"),
        ({"text": {"layer": 4}}, "text.layer 4 is above the first tier's 3 layers"),
        ({"controls": {"p": {"lo": 1}}}, "controls names p, which is not in conditioned_on"),
        ({"hiden_size": 3}, "did you mean hidden_size?"),
        ({"mixtures": 0}, "mixtures is 0, but must be at least 1"),
    ],
)
def test_a_wrong_config(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        config_of(**keys)


def test_a_config_is_written_and_read() -> None:
    config = config_of(training_per_tier=[{}, {"num_epochs": 3}, {}, {}])
    again = load_config(json.loads(dumps(config)), "again")[1]
    assert again == config
    assert (
        melnet.FAMILY.training_of(again, "tier2") == {"num_epochs": 3}
        and melnet.FAMILY.training_of(again, "tier1") == {}
    )
    assert melnet.FAMILY.stages(config) == ["tier1", "tier2", "tier3", "tier4"]
    assert (
        difference(
            melnet.FAMILY.architecture(config, "tier1"), melnet.FAMILY.architecture(config_of(seq_len=16), "tier1")
        )
        == []
    )
    assert difference(
        melnet.FAMILY.architecture(config, "tier1"), melnet.FAMILY.architecture(config_of(mixtures=2), "tier1")
    )


# The network ---------------------------------------------------------------------------------------------------------


ALL = [*itertools.product((1, 2, 3, 4), ("", "pq"), ("lstm", "gru"))]
PAIRS = covering(ALL, 2)
REST = [pytest.param(*case, marks=pytest.mark.exhaustive) for case in ALL if case not in PAIRS]


@pytest.mark.parametrize(("number", "parameters", "cell"), [*PAIRS, *REST])
def test_cached_state_gives_what_whole_windows_give(number: int, parameters: str, cell: str) -> None:
    model = tier_of(number, conditioned_on=list(parameters), cell=cell)
    values, lower, controls = material(model, frames=3)
    streams, frames, bins = values.shape
    weights = model.effective_weights()
    start = model.initial_state(streams)
    first = tf.zeros([streams, bins])
    whole, after = model.sequence(tf.constant(values), first, lower, controls, start, weights)
    seen: list[list[np.ndarray]] = []
    order = values.transpose(1, 2, 0).reshape(-1, streams)

    def forced(logits, means, log_scales, floor, uniform, temperature, bias):
        seen.append([logits.numpy(), means.numpy(), log_scales.numpy()])
        return tf.constant(order[len(seen) - 1])

    sampler = TierSampler(model, sample=forced, jit=False)
    conditions = model.conditioning(
        None if lower is None else tf.constant(lower), None if controls is None else tf.constant(controls), weights
    )
    pads = [[0, 0], [0, BLOCK_FRAMES - frames]]
    padded = tuple(
        None if part is None else tf.pad(part, [*pads, *[[0, 0]] * (len(part.shape) - 2)]) for part in conditions
    )
    seeds = tf.zeros([streams, 2], tf.int32)
    made, last = sampler.block(
        weights, sampler.start(streams), padded, tf.constant(frames), seeds, tf.ones([streams]), tf.constant(0.0)
    )
    np.testing.assert_array_equal(made.values[:, :frames], values)
    for kind, expected in enumerate(whole):
        found = np.stack([each[kind] for each in seen]).reshape(frames, bins, streams, -1).transpose(2, 0, 1, 3)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    for ours, theirs in zip(tf.nest.flatten(last.recurrent), tf.nest.flatten(after), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_element_depends_on_what_comes_before_it_and_on_all_below(number: int) -> None:
    """By gradient: earlier frames whole, lower bins of the same frame; of the tiers below everything."""
    model = tier_of(number)
    values, lower, _ = material(model, streams=1, frames=3)
    at = (1, model.bins // 2)
    with tf.GradientTape() as tape:
        given, under = tf.constant(values), None if lower is None else tf.constant(lower)
        tape.watch([each for each in (given, under) if each is not None])
        weights, start = model.effective_weights(), model.initial_state(1)
        (logits, means, scales), _ = model.sequence(given, tf.zeros([1, model.bins]), under, None, start, weights)
        target = sum(tf.reduce_sum(tf.sin(part[0, at[0], at[1]] * 3.0)) for part in (logits, means, scales))
    gradients = tape.gradient(target, [given] if under is None else [given, under])
    reached = np.abs(gradients[0][0].numpy()) > 0
    expected = np.zeros_like(reached)
    expected[: at[0]] = True
    expected[at[0], : at[1]] = True
    np.testing.assert_array_equal(reached, expected)
    if under is not None:
        assert (np.abs(gradients[1].numpy()) > 0).all()


@pytest.mark.parametrize("number", [1, 4])
def test_windows_with_carried_state_are_one_window(number: int) -> None:
    """The first tier as it is; of others the features of the tiers below are those of the window they stand in."""
    model = tier_of(number, layers=[2, 1, 1, 2])
    values, _, _ = material(model, streams=2, frames=6)
    weights = model.effective_weights()
    conditions = (None, None, None)
    zero = tf.zeros([2, model.bins])
    whole, state, _ = model.stacks(tf.constant(values), zero, conditions, model.initial_state(2), weights)
    first, middle, _ = model.stacks(tf.constant(values[:, :4]), zero, conditions, model.initial_state(2), weights)
    second, after, _ = model.stacks(tf.constant(values[:, 4:]), tf.constant(values[:, 3]), conditions, middle, weights)
    for one, early, late in zip(whole, first, second, strict=True):
        np.testing.assert_allclose(np.concatenate([early, late], axis=1), one, atol=1e-5)
    for one, other in zip(tf.nest.flatten(after), tf.nest.flatten(state), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def batch_of(config: Config, lanes: int = 3, seed: int = 0) -> dict[str, tf.Tensor]:
    rng = np.random.default_rng(seed)
    frames, channels = config.seq_len, config.audio.mel_channels
    inputs = rng.normal(size=[lanes, config.time_factor + frames, channels]).astype(np.float32)
    mask = np.ones([lanes, frames], np.float32)
    mask[1, 5:] = 0.0
    return {"inputs": tf.constant(inputs), "mask": tf.constant(mask), "reset": tf.constant([True] * lanes)}


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_elements_are_counted_once_and_padding_never(number: int) -> None:
    model = tier_of(number)
    config = model.config
    batch = batch_of(config)
    outcome = model.loss_sums(batch, model.initial_state(3))
    frames, bins = sizes(config.seq_len, config.audio.mel_channels, config.tiers)[number - 1]
    rows = np.broadcast_to(np.arange(config.seq_len)[:, None], [config.seq_len, config.audio.mel_channels])
    inside = int((below(rows, number, config.tiers)[0] < 5).sum())
    np.testing.assert_array_equal(outcome.elements, [frames * bins, inside, frames * bins])
    other = {**batch, "inputs": tf.concat([batch["inputs"][:, :-2], batch["inputs"][:, -2:] + 5.0], axis=1)}
    changed = model.loss_sums(other, model.initial_state(3))
    if number == 1:  # later tiers look at the padding of the tiers below, as they look at all of them
        assert float(changed.nats[1]) == pytest.approx(float(outcome.nats[1]), rel=1e-5)
    assert float(changed.nats[0]) != pytest.approx(float(outcome.nats[0]), rel=1e-3)


def test_layers_computed_again_have_the_same_gradients() -> None:
    gradients = []
    for recompute in (False, True):
        model = tier_of(1, recompute=recompute, layers=[2, 1, 1, 1])
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model.loss_sums(batch_of(model.config), model.initial_state(3)).nats)
        gradients.append(tape.gradient(loss, [variable.value for variable in model.trainable_variables]))
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_tier_learns_and_a_batch_in_parts_is_the_same() -> None:
    from tierwave.config import TrainingOptions

    config, found = config_of(layers=[1, 1, 1, 1]), []
    for accumulate in (1, 3):
        options = TrainingOptions(learning_rate=0.02, epsilon=1e-8, accumulate=accumulate)
        learner = Learner(lambda: melnet.FAMILY.build(config, "tier2"), options, clip_norm=5.0)
        state = learner.initial_state(3)
        with eagerly():
            found.append([learner.train_step(batch_of(config), state, step)[0]["loss"] for step in range(5)])
    assert found[0][-1] < found[0][0] - 0.05
    np.testing.assert_allclose(*found, rtol=1e-4)


def test_a_public_first_tier_says_the_same() -> None:
    """Deepest-Project's, in PyTorch, with zero initial states; frames inside the lengths."""
    stored = np.load(ORACLE)
    config = config_of(
        audio={**TINY["audio"], "mel_channels": 8}, tiers=1, layers=[3], hidden_size=6, mixtures=4, seq_len=10
    )
    model = MelTier(config, 1)

    def take(layer: Any, name: str) -> None:
        layer.kernel.assign(stored[f"weights/{name}.weight"].T)
        layer.bias.assign(stored[f"weights/{name}.bias"])

    def take_rnn(rnn: Any, name: str, suffix: str = "") -> None:
        # PyTorch's gates are i, f, g, o as ours, its kernels transposed, its biases two.
        rnn.cell.kernel.assign(stored[f"weights/{name}.weight_ih_l0{suffix}"].T)
        rnn.cell.recurrent_kernel.assign(stored[f"weights/{name}.weight_hh_l0{suffix}"].T)
        rnn.cell.bias.assign(sum(stored[f"weights/{name}.bias_{part}_l0{suffix}"] for part in ("ih", "hh")))

    for ours, theirs in (("time_input", "W_t_0"), ("frequency_input", "W_f_0"), ("central_input", "W_c_0")):
        take(getattr(model, ours), theirs)
    for number, layer in enumerate(model.layers_of_stacks):
        name = f"layers.{number}"
        take_rnn(layer.time, f"{name}.t_delay_RNN_x")
        take_rnn(layer.up, f"{name}.t_delay_RNN_yz")
        take_rnn(layer.down, f"{name}.t_delay_RNN_yz", "_reverse")
        take_rnn(layer.central, f"{name}.c_RNN")
        take_rnn(layer.frequency, f"{name}.f_delay_RNN")
        for ours, theirs in (("to_time", "W_t"), ("to_central", "W_c"), ("to_frequency", "W_f")):
            take(getattr(layer, ours), f"{name}.{theirs}")
    take(model.output_map, "W_theta")
    values = tf.constant(stored["spectrogram"].transpose(0, 2, 1))
    (logits, means, log_scales), _ = model.sequence(
        values, tf.zeros([2, 8]), None, None, model.initial_state(2), model.effective_weights()
    )
    for ours, theirs in ((means, "mu_hat"), (log_scales, "sigma_hat"), (logits, "pi_hat")):
        expected = stored[theirs].transpose(0, 2, 1, 3)
        for item, length in enumerate(stored["lengths"]):
            np.testing.assert_allclose(ours[item, :length], expected[item, :length], atol=1e-5)


# Sampling ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_xla_draws_the_same_spectrogram() -> None:
    model, made = tier_of(1, layers=[1, 1, 1, 1]), []
    for jit in (False, True):
        sampler = TierSampler(model, jit=jit)
        weights = sampler.weights()
        conditions, seeds = sampler.condition(None, None, weights), np.array([[1, 0]], np.int32)
        run = sampler.run(weights, sampler.start(1), conditions, 0, 3, seeds, np.ones(1, np.float32), 0.0)
        made.append(run[0].values)
    np.testing.assert_allclose(*made, atol=1e-4)


def test_sampling_does_not_depend_on_blocks_and_follows_the_seed() -> None:
    model = tier_of(1, layers=[2, 1, 1, 1])
    sampler = TierSampler(model)
    weights = sampler.weights()
    conditions = sampler.condition(None, None, weights)

    def sample(cuts: list[int], seed: int) -> np.ndarray:
        last, pieces, made = sampler.start(2), [], 0
        seeds = np.array([[seed, 0], [seed, 1]], np.int32)
        for count in cuts:
            found, last = sampler.run(weights, last, conditions, made, count, seeds, np.ones(2, np.float32), 0.0)
            pieces.append(found.values)
            made += count
        return np.concatenate(pieces, axis=1)

    whole = sample([12], 1)
    np.testing.assert_array_equal(sample([5, 1, 6], 1), whole)
    assert np.isfinite(whole).all() and not np.array_equal(sample([12], 2), whole)
    assert not np.array_equal(whole[0], whole[1])


def closed_form(config: Config, tier: int) -> int:
    """The controls of a tier with LSTMs, from the paper's equations."""
    hidden, bins = config.hidden_size, sizes(config.seq_len, config.audio.mel_channels, config.tiers)[tier - 1].bins

    def rnn(inputs: int) -> int:
        return 4 * hidden * (inputs + hidden + 1) + 2 * hidden  # with the learned initial state

    layer = 4 * rnn(hidden) + (3 * hidden + 1) * hidden + (hidden + 1) * hidden
    first = rnn(hidden) + (hidden + 1) * hidden if tier == 1 else 0
    inputs = 2 * 2 * hidden + ((bins + 1) * hidden if tier == 1 else 0)
    features = 4 * rnn(1) + 2 * 4 * hidden * hidden if tier > 1 else 0
    return config.layers[tier - 1] * (layer + first) + inputs + features + (hidden + 1) * 3 * config.mixtures


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "total"),
    [("blizzard", 324_649_652), ("maestro", 349_810_296), ("voxceleb2", 384_481_430), ("jgarciapueyo", 40_657_380)],
)
def test_presets_have_the_parameters_of_the_paper(preset: str, total: int) -> None:
    path = Path(__file__).parents[2] / "configs" / f"melnet_{preset}.config.json"
    document = json.loads(path.read_text())
    config = Config(**document)
    counts = [closed_form(config, tier) for tier in range(1, config.tiers + 1)]
    assert sum(counts) == total
    # The smallest of them is built at its size, all of them at another width.
    narrow = Config(**{**document, "hidden_size": 4})
    with undrawn():
        assert melnet.FAMILY.build(config, f"tier{config.tiers}").count_params() == counts[-1]
        for tier in range(1, config.tiers + 1):
            assert melnet.FAMILY.build(narrow, f"tier{tier}").count_params() == closed_form(narrow, tier)


# ---- what is to be beaten --------------------------------------------------------------------------------------------


def test_the_bars_are_those_of_least_squares_however_many_frames_are_taken_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    sounds = [np.cumsum(rng.normal(0, 0.3, (frames, 16)), axis=0).astype(np.float32) for frames in (57, 101)]
    config, hop = config_of(), 16
    corpus = SimpleNamespace(sample_rate=16_000)
    spectrograms: Any = SimpleNamespace(corpus=corpus, of=lambda recording: sounds[recording])
    spans = [Span(number, 0, len(sound) * hop) for number, sound in enumerate(sounds)]
    held_out = (Span(1, 8 * hop, 40 * hop),)

    def nats(left: np.ndarray, deviation: np.ndarray) -> float:
        return float((0.5 * (left / deviation) ** 2 + np.log(deviation) + 0.5 * np.log(2 * np.pi)).sum())

    train = [below(sound[: len(sound) // 2 * 2], 4, 4)[0].astype(np.float64) for sound in sounds]
    (valid,) = [below(sounds[1][8:40], 4, 4)[0].astype(np.float64)]
    alone, line, frames = 0.0, 0.0, np.concatenate(train)
    for each in range(valid.shape[1]):
        before, after = (np.concatenate([part[cut, each] for part in train]) for cut in (slice(-1), slice(1, None)))
        slope, level = np.polyfit(before, after, 1)
        deviation = frames[:, each].std()
        alone += nats(valid[:, each] - frames[:, each].mean(), deviation)
        line += nats(valid[:1, each] - frames[:, each].mean(), deviation)
        line += nats(valid[1:, each] - slope * valid[:-1, each] - level, (after - slope * before - level).std())
    split_ = Split("files", tuple(Span(span.recording, 0, span.stop // 32 * 32) for span in spans), held_out, ())
    for at_a_time in (4096, 8):
        monkeypatch.setattr(sys.modules["melnet.baselines"], "_FRAMES", at_a_time)
        found = melnet.FAMILY.baselines(spectrograms, split_, config, "tier4")
        assert list(found.values()) == pytest.approx([alone / valid.size, line / valid.size], rel=1e-6)
