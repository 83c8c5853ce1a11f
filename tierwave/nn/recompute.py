"""Computing again in the backward pass what would otherwise be stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def zero_after(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """A 0 that is there when `tensors` are. XLA heeds no control dependencies, but this one: it cannot work it out,
    since 0 * x may be no number."""
    total = tf.add_n([tf.reshape(part, [-1])[0] for part in tensors])
    return tf.where(tf.math.is_finite(total), 0.0 * total, 0.0)


def recomputed(run: Callable[..., Any]) -> Callable[..., Any]:
    """`run` without keeping what it computes on the way: it is computed again in the backward pass (Chen et al. 2016).

    Arguments and results of `run` are any nests of tensors and None. Gradients flow to its arguments only, so weights
    must be among them.
    """

    def wrapped(*arguments: Any) -> Any:
        flat = tf.nest.flatten(arguments)
        places = [place for place, part in enumerate(flat) if part is not None and part.dtype.is_floating]
        results: list[Any] = []

        def floats(given: Sequence[tf.Tensor]) -> list[tf.Tensor]:
            filled = list(flat)
            for place, part in zip(places, given, strict=True):
                filled[place] = part
            results.append(run(*tf.nest.pack_sequence_as(arguments, filled)))
            return [part for part in tf.nest.flatten(results[-1]) if part is not None and part.dtype.is_floating]

        @tf.custom_gradient
        def kept(*given: tf.Tensor) -> Any:
            def gradient(*upstream: tf.Tensor) -> list[tf.Tensor]:
                zero = zero_after(upstream)  # else a compiler would find that all has been computed before
                with tf.control_dependencies(upstream), tf.GradientTape() as tape:
                    late = [part + zero for part in given]
                    tape.watch(late)
                    made = floats(late)
                return tape.gradient(made, late, list(upstream), unconnected_gradients="zero")

            return floats(given), gradient

        made = iter(kept(*(flat[place] for place in places)))
        shape = results[0]
        return tf.nest.pack_sequence_as(
            shape,
            [next(made) if part is not None and part.dtype.is_floating else part for part in tf.nest.flatten(shape)],
        )

    return wrapped
