"""Compiled functions that are called every few milliseconds.

In each call `tf.function` looks at every tensor of its arguments anew, to find out what it was compiled for. For the
thirty tensors of a small network that takes longer than what the network does in a live block. Here the caller knows
what can differ between calls, and the rest is looked at once.

Knows nested tensors, not what they mean.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

import tensorflow as tf


class Calls:
    """The calls of `function`, which takes and returns nested tensors, among which there may be None.

    It is compiled once for each `kind`, by which the caller tells calls with other shapes apart: all calls of a kind
    have arguments of the same structure, shapes and types. jit: with XLA.
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
        """The function for arguments like these, of a flat list of tensors and giving one; and how that is nested."""
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
