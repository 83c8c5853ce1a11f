"""The engine's kernels against TensorFlow's distributions and exact sums."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tierwave.audio.quantize import Quantizer
from tierwave.controls.live import Settings
from tierwave.controls.schema import ControlInputs
from tierwave.engine import kernels
from tierwave.engine.network import Builder, Matrix, Network, WeightKind
from tierwave.engine.voices import Voices
from tierwave.errors import RunError
from tierwave.nn.distributions import counter_uniform, sample_categorical, voice_seeds

VOICES = 3
KINDS: tuple[WeightKind, ...] = ("float32", "bfloat16", "int8")


def settings(voices: int, steps: int, *, temperature: float = 1.0, top_k: int = 0) -> Settings:
    return Settings(
        np.zeros([voices, steps, 0], np.float32),
        np.full([voices, steps], temperature, np.float32),
        np.full([voices, steps], top_k, np.int32),
    )


def bigram(table: np.ndarray, kind: WeightKind = "float32") -> Network:
    """A network whose logits `table [levels, levels]` are a function of the last code."""
    builder = Builder(kind, origin="the test")
    levels = len(table)
    builder.part(1)
    chosen, logits = builder.place(levels), builder.place(levels)
    builder.set(chosen, None)
    builder.look_up(chosen, np.eye(levels, dtype=np.float32)[None])
    builder.linear(logits, chosen, Matrix(levels, levels, lambda: table), None)
    return builder.build(kernels.CATEGORICAL, logits, levels, silence=levels // 2, controls=())


@pytest.mark.parametrize("seed", [0, 1, 2**31 + 5, 2**63 + 17, -3])
def test_voices_have_the_keys_of_tensorflow(seed: int) -> None:
    found = kernels.voice_seeds(np.uint64(seed & (2**64 - 1)), 5)
    assert (found.view(np.int32) == voice_seeds(seed, 5)).all()


@pytest.mark.parametrize("levels", [7, 16, 256])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, None), (0.0, 0, None), (0.8, 3, None), (1.3, 0, 0.7)]
)
def test_draws_are_those_of_tensorflow(levels: int, temperature: float, top_k: int, top_p: float | None) -> None:
    table = np.random.default_rng(levels).normal(0, 2, [levels, levels]).astype(np.float32)
    steps, seed = 300, 11
    codes = Voices(bigram(table), VOICES, seed, top_p=top_p).run(
        settings(VOICES, steps, temperature=temperature, top_k=top_k)
    )
    before = np.concatenate([np.full([VOICES, 1], levels // 2), codes[:, :-1]], axis=1)
    uniform = counter_uniform(voice_seeds(seed, VOICES), 0, steps)
    expected = sample_categorical(
        tf.constant(table[before.ravel()]), tf.reshape(uniform, [-1]), temperature, top_k or None, top_p
    )
    assert (codes.ravel() == expected.numpy()).all()


def test_blocks_voices_and_threads_change_nothing() -> None:
    table = np.random.default_rng(1).normal(0, 1, [64, 64]).astype(np.float32)
    for kind in KINDS:
        network = bigram(table, kind)
        whole = Voices(network, 7, 5, threads=1).run(settings(7, 90))
        pieces = Voices(network, 7, 5, threads=3)
        parts = [pieces.run(settings(7, steps)) for steps in (1, 40, 0, 49)]
        assert (np.concatenate(parts, axis=1) == whole).all()
        for voices in (1, 2, 3, 5):
            assert (Voices(network, voices, 5).run(settings(voices, 90)) == whole[:voices]).all()


@pytest.mark.parametrize("inputs", [1, 5, 48])
@pytest.mark.parametrize("outputs", [1, 16, 17, 65, 90, 144])
def test_products_of_every_shape(inputs: int, outputs: int) -> None:
    rng = np.random.default_rng(inputs + outputs)
    kernel, given = rng.normal(size=[inputs, outputs]), rng.normal(size=[5, 9, inputs])
    exact = given @ kernel
    for kind, error in (("float32", 1e-5), ("bfloat16", 0.1), ("int8", 0.2)):
        builder = Builder(kind, origin="the test")
        builder.part(1)
        source, target = builder.place(inputs), builder.place(outputs)
        builder.controls(source)
        builder.linear(target, source, Matrix(inputs, outputs, lambda: kernel.astype(np.float32)), None)
        network = builder.build(kernels.CATEGORICAL, target, outputs, controls=(ControlInputs(),) * inputs)
        found = Voices(network, 5, 0, threads=1).predictions(np.zeros([5, 9], np.int32), given.astype(np.float32))
        scale = np.sqrt(inputs)
        assert np.abs(found - exact).max() < error * scale, kind
        if kind != "float32":
            assert np.abs(found - exact).max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_weights_may_lie_anywhere(kind: WeightKind) -> None:
    network = bigram(np.random.default_rng(2).normal(0, 1, [90, 90]).astype(np.float32), kind)
    weights = network.weights
    room = np.zeros(weights.size + 64, weights.dtype)
    first = -room.ctypes.data % 64 // room.itemsize + 1
    room[first : first + weights.size] = weights
    moved = replace(network, weights=room[first : first + weights.size])
    for voices in (1, 2, 5):
        found = [Voices(each, voices, 5, threads=1).run(settings(voices, 90)) for each in (network, moved)]
        assert (found[0] == found[1]).all()


def test_a_product_of_its_own_target_is_refused() -> None:
    builder = Builder("float32", origin="the test")
    builder.part(1)
    place = builder.place(20)
    kernel = np.zeros([10, 10], np.float32)
    builder.multiply(place.part(10, 20), place.part(0, 10), Matrix(10, 10, lambda: kernel))
    with pytest.raises(ValueError, match="cannot replace"):
        builder.multiply(place.part(5, 15), place.part(0, 10), Matrix(10, 10, lambda: kernel))


def test_int8_keeps_the_largest_weight_of_every_output() -> None:
    kernel = np.diag([1e-6, 1.0, 1000.0]).astype(np.float32)
    builder = Builder("int8", origin="the test")
    builder.part(1)
    source, target = builder.place(3), builder.place(3)
    builder.controls(source)
    builder.linear(target, source, Matrix(3, 3, lambda: kernel), None)
    network = builder.build(kernels.CATEGORICAL, target, 3, controls=(ControlInputs(),) * 3)
    found = Voices(network, 1, 0).predictions(np.zeros([1, 1], np.int32), np.ones([1, 1, 3], np.float32))
    np.testing.assert_allclose(found[0, 0], np.diag(kernel), rtol=1e-6)


def test_logits_lose_next_to_nothing_as_int8() -> None:
    kernel = (np.random.default_rng(3).normal(size=[48, 70]) * np.geomspace(1, 100, 70)).astype(np.float32)
    builder = Builder("int8", origin="the test")
    builder.part(1)
    source, target = builder.place(48), builder.place(70)
    builder.controls(source)
    builder.logits(target, source, Matrix(48, 70, lambda: kernel), np.zeros(70, np.float32))
    network = builder.build(kernels.CATEGORICAL, target, 70, controls=(ControlInputs(),) * 48)
    found = Voices(network, 48, 0).predictions(np.zeros([48, 1], np.int32), np.eye(48, dtype=np.float32)[:, None])[:, 0]
    step = np.abs(kernel).max(axis=0) / 127  # of the first matrix; the second has steps of a 254th of it or less
    assert (np.abs(found - kernel) <= step / 254 / 2 * 1.01).all()


@pytest.mark.parametrize("samples", [1.0, 20.0, 500.0])
def test_the_running_mean_of_what_is_drawn_is_taken_away(samples: float) -> None:
    quantizer = Quantizer("mu-law", 256)
    table = quantizer.table()
    always = np.zeros(256, np.float32)
    always[200] = 1.0
    builder = Builder("float32", origin="the test")
    builder.part(1)
    liked, logits = builder.place(256), builder.place(256)
    builder.set(liked, always)
    builder.linear(logits, liked, Matrix(256, 256, lambda: np.eye(256, dtype=np.float32)), None)
    builder.take_mean(table, samples)
    network = builder.build(kernels.CATEGORICAL, logits, 256, silence=quantizer.silence, controls=())
    voices = Voices(network, 2, 0)
    found = np.concatenate([voices.run(settings(2, steps, temperature=0.0)) for steps in (1, 30, 69)], axis=1)
    left = table[200] * np.exp(-np.arange(1, 101) / samples)  # of a constant, by a mean that begins at 0
    assert (found[0] == found[1]).all()
    assert np.abs(found[0] - quantizer.encode(left.astype(np.float32)).astype(int)).max() <= 1  # rounding at an edge


def looked_up(table: np.ndarray, kind: WeightKind) -> Network:
    """A network whose logits are the sums of rows of `table [positions, levels, levels]`."""
    positions, levels, _ = table.shape
    builder = Builder(kind, origin="the test", history=positions)
    builder.part(1)
    logits, beside = builder.place(levels), builder.place(levels)
    builder.set(logits, None)
    builder.set(beside, np.ones(levels, np.float32))
    builder.look_up(logits, table)
    builder.multiply(logits, beside, Matrix(levels, levels, lambda: np.eye(levels, dtype=np.float32)))
    return builder.build(kernels.CATEGORICAL, logits, levels, silence=0, controls=())


@pytest.mark.parametrize("levels", [4, 16, 70])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_tables_in_every_type_of_weights(kind: WeightKind, levels: int) -> None:
    positions, rng = 3, np.random.default_rng(levels)
    sizes = 10.0 ** rng.uniform(-3, 3, [positions, levels, 1])  # each row is as exact as its own largest number allows
    table = (sizes * rng.uniform(-1, 1, [positions, levels, levels])).astype(np.float32)
    codes = rng.integers(0, levels, [VOICES, 40]).astype(np.int32)
    found = Voices(looked_up(table, kind), VOICES, 0, threads=1).predictions(codes)
    past = np.pad(codes, [(0, 0), (positions, 0)])
    windows = np.stack([past[:, first : first + 40] for first in range(positions)], axis=-1)
    rows = table[np.arange(positions), windows]
    expected = 1.0 + rows.sum(axis=2)
    step = {"float32": 1e-6, "bfloat16": 2.0**-8, "int8": 1 / 254}[kind]
    allowed = step * np.abs(rows).max(axis=3).sum(axis=2)[..., None] + 1e-6
    assert (np.abs(found - expected) <= 1.01 * allowed).all()
    assert kind == "float32" or np.abs(found - expected).max() > 0.1 * allowed.min()


@pytest.mark.parametrize("kind", KINDS)
def test_tables_take_the_room_of_their_type(kind: WeightKind) -> None:
    table = np.ones([8, 16, 16], np.float32)
    built = looked_up(table, kind)
    assert built.weights.size == table.size + 16 * 16
    assert built.vectors.size < 200


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(kind: WeightKind, value: float) -> None:
    table = np.zeros([4, 4], np.float32)
    table[2, 1] = value
    for make in (bigram, lambda table, kind: looked_up(table[None], kind)):
        with pytest.raises(RunError, match="the test holds weights that are not finite"):
            make(table, kind)
