"""Compiled functions that are called every few milliseconds.

In each call `tf.function` inspects every tensor of its arguments to choose a graph, which for a small network takes
longer than a live block. Here the caller says what differs between calls.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

import tensorflow as tf


class Calls:
    """`function`, which takes and returns nests of tensors and None, compiled once for each `kind`.

    All calls of a kind have arguments of the same structure, shapes and types. jit: with XLA.
    """

    def __init__(self, function: Callable[..., Any], *, jit: bool) -> None:
        self.function, self.jit = function, jit
        self._compiled: dict[Hashable, tuple[Any, Any]] = {}
        self._compiling = threading.Lock()

    def __call__(self, kind: Hashable, *arguments: Any) -> Any:
        """What the function returns for these arguments."""
        given = [tensor for tensor in tf.nest.flatten(arguments) if tensor is not None]
        compiled = self._compiled.get(kind)
        if compiled is None:
            with self._compiling:
                compiled = self._compiled.get(kind) or self._compile(arguments, given)
                self._compiled[kind] = compiled
        call, structure = compiled
        return tf.nest.pack_sequence_as(structure, call(*given))

    def _compile(self, arguments: Any, given: list[tf.Tensor]) -> tuple[Any, Any]:
        """The compiled function, from and to a flat list of tensors, and the structure of its result."""
        there = tf.nest.map_structure(lambda tensor: tensor is not None, arguments)  # keeps no tensor alive
        structure: Any = None

        def flat(*tensors: tf.Tensor) -> list[tf.Tensor]:
            nonlocal structure
            left = iter(tensors)
            filled = [next(left) if given else None for given in tf.nest.flatten(there)]
            result = self.function(*tf.nest.pack_sequence_as(there, filled))
            structure = tf.nest.map_structure(lambda _: 0, result)
            return tf.nest.flatten(result)

        compiled = tf.function(flat, jit_compile=self.jit, autograph=False)
        call = compiled.get_concrete_function(*[tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in given])
        return call, structure
