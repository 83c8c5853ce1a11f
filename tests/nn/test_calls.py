"""Calls that are compiled once: what they return, when they compile, and what they hold on to."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from tierwave.nn.compiled import Calls


class Pair(NamedTuple):
    left: Any
    right: Any


def weighted(weights: Pair, values: tf.Tensor, state: dict[str, Any]) -> tuple[tf.Tensor, Pair]:
    total = tf.matmul(values, weights.left)
    if weights.right is not None:
        total += weights.right
    return total, Pair(state["a"] + 1, None)


def arguments(rows: int, *, bias: bool, seed: int = 0) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    weights = Pair(tf.constant(rng.normal(size=[3, 2])), tf.constant(rng.normal(size=[2])) if bias else None)
    return weights, tf.constant(rng.normal(size=[rows, 3])), {"a": tf.constant(seed), "b": None}


@pytest.mark.parametrize("jit", [False, True])
def test_it_returns_what_the_function_does_nested_as_it_is(jit: bool) -> None:
    calls = Calls(weighted, jit=jit)
    for rows, bias, seed in [(2, True, 0), (4, True, 1), (2, False, 2), (2, True, 3), (4, True, 4)]:
        given = arguments(rows, bias=bias, seed=seed)
        total, state = calls((rows, bias), *given)
        np.testing.assert_allclose(total, weighted(*given)[0], rtol=1e-12)
        assert isinstance(state, Pair) and int(state.left) == seed + 1 and state.right is None


def test_it_is_compiled_once_for_each_kind_also_by_threads_at_once() -> None:
    traced = []

    def function(value: tf.Tensor) -> tf.Tensor:
        traced.append(value.shape)
        return 2 * value

    calls = Calls(function, jit=False)
    barrier = threading.Barrier(4)

    def call(size: int) -> None:
        barrier.wait(timeout=30)
        assert np.array_equal(calls(size, tf.ones([size])), np.full(size, 2))

    threads = [threading.Thread(target=call, args=(size,)) for size in (1, 2, 1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(shape.as_list() for shape in traced) == [[1], [2]]


def test_weights_that_it_was_compiled_with_are_let_go_of() -> None:
    calls = Calls(lambda value: value + 1, jit=False)
    value = tf.ones([5])
    gone = weakref.ref(value)
    calls("kind", value)
    del value
    gc.collect()
    assert gone() is None
