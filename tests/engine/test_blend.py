"""What lies between two networks, against arithmetic on their weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwave.controls.live import Settings
from tierwave.engine import kernels
from tierwave.engine.blend import blended
from tierwave.engine.network import Builder, Matrix, Network, WeightKind
from tierwave.engine.voices import Voices

KINDS: tuple[WeightKind, ...] = ("float32", "bfloat16", "int8")
LEVELS = 5
WIDTH = 70  # of what is looked up: more than a tile of a matrix


def made(kind: WeightKind, seed: int, sizes: tuple[int, ...] = (3, 17)) -> Network:
    """A recurrent network of random weights of all sizes, with layers of `sizes`."""
    rng = np.random.default_rng(seed)

    def drawn(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) * 10.0 ** rng.integers(-3, 1, shape[-1:])).astype(np.float32)

    builder = Builder(kind, origin="the test")
    builder.part(1)
    below = builder.place(WIDTH)
    builder.set(below, None)
    builder.look_up(below, drawn(1, LEVELS, WIDTH))
    for size in sizes:
        state, gates, scratch = builder.place(size, drawn(size)), builder.place(3 * size), builder.place(3 * size)
        kernel, recurrent = drawn(below.size, 3 * size), drawn(size, 3 * size)
        builder.linear(gates, below, Matrix(*kernel.shape, lambda kernel=kernel: kernel), drawn(3 * size))
        builder.gru(state, gates, Matrix(*recurrent.shape, lambda it=recurrent: it), drawn(3 * size), scratch=scratch)
        below = state
    logits, kernel = builder.place(LEVELS), 4 * drawn(below.size, LEVELS)
    builder.linear(logits, below, Matrix(*kernel.shape, lambda: kernel), drawn(LEVELS))
    return builder.build(kernels.CATEGORICAL, logits, LEVELS, controls=())


def scales(network: Network) -> list[np.ndarray]:
    """What the numbers of its matrices and tables are multiplied by."""
    if network.kind != "int8":
        return [np.ones(1, np.float32)] * len(network.matrices)
    return [
        network.vectors[at : at + (rows if is_table else columns)].reshape((-1, 1) if is_table else (1, -1))
        for (_, rows, columns, at), is_table in zip(network.matrices.tolist(), network.are_tables, strict=True)
    ]


def matrices(network: Network) -> list[np.ndarray]:
    """What its matrices and tables hold, float32."""
    found = []
    for number, (at, inputs, outputs, _) in enumerate(network.matrices.tolist()):
        is_table = bool(network.are_tables[number])
        stored = kernels.unpacked(network.weights[at:], inputs, outputs, is_table=is_table)[:, :outputs]
        if network.kind == "bfloat16":
            stored = (stored.astype(np.uint32) << 16).view(np.float32)
        found.append(stored * scales(network)[number])
    return found


def settings(steps: int) -> Settings:
    """Of two voices that choose freely."""
    shape = (2, steps)
    return Settings(np.zeros([*shape, 0], np.float32), np.ones(shape, np.float32), np.zeros(shape, np.int32))


@given(
    st.sampled_from(KINDS),
    st.integers(0, 1000),
    st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple),
    st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1, width=32),
)
def test_weights_lie_on_the_line_between_two(kind: WeightKind, seed: int, sizes: tuple[int, ...], share: float) -> None:
    first, second = made(kind, seed, sizes), made(kind, seed + 1, sizes)
    found = blended(first, second, share)

    def between(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return y if share == 1 else x + np.float32(share) * (y - x)

    if share in (0, 1):
        assert found is (second if share else first)
    assert found.fits(first)
    for name in ("vectors", "initial"):
        assert np.array_equal(getattr(found, name), between(getattr(first, name), getattr(second, name)))
    assert found.are_tables.sum() == 1
    for scale, mixed, x, y in zip(scales(found), *map(matrices, (found, first, second)), strict=True):
        expected = between(x, y)
        if kind == "float32":
            assert np.array_equal(mixed, expected)
            continue
        error = 2**-8 * np.abs(expected)
        if kind == "int8":  # half of what its numbers are multiplied by, and a little for the division
            error = np.broadcast_to(0.5001 * scale, x.shape)
        assert (np.abs(mixed - expected) <= error).all()


@given(st.sampled_from(KINDS), st.integers(0, 1000), st.floats(0, 1, width=32))
def test_equal_weights_stay_equal(kind: WeightKind, seed: int, share: float) -> None:
    first, same = made(kind, seed), made(kind, seed)
    found = blended(first, same, share)
    for name in ("weights", "vectors", "initial"):
        assert np.array_equal(getattr(found, name), getattr(first, name)), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_voice_goes_on_with_another_network(kind: WeightKind) -> None:
    first, second = made(kind, 1), made(kind, 2)
    alone, same, other, late = (Voices(first, 2, 7) for _ in range(4))
    before = alone.run(settings(50))
    rest = alone.run(settings(150))
    assert np.array_equal(same.run(settings(50)), before)
    same.replace(blended(first, made(kind, 1), 0.3))  # equal: nothing changes
    assert np.array_equal(same.run(settings(150)), rest)
    other.run(settings(50))
    for share in (0.25, 0.5, 0.75, 1.0):
        other.replace(blended(first, second, share))
        passed = other.run(settings(25))
    late._memory[:], late._codes[:], late._age, late._position = other._memory, other._codes, other._age, 150
    late.replace(second)  # at once, from the same state
    after = other.run(settings(80))
    assert np.array_equal(after, late.run(settings(80)))
    assert not np.array_equal(np.concatenate([passed, after], axis=1)[:, -80:], rest[:, -80:])


def test_networks_that_do_not_fit_are_refused() -> None:
    first = made("float32", 1)
    for other in (made("int8", 1), made("float32", 1, (3, 18)), made("float32", 1, (3, 17, 2))):
        assert not first.fits(other)
        with pytest.raises(ValueError, match="do not fit"):
            blended(first, other, 0.5)
        with pytest.raises(ValueError, match="fits its own only"):
            Voices(first, 1, 0).replace(other)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="must lie in 0 to 1"):
            blended(first, made("float32", 2), share)
