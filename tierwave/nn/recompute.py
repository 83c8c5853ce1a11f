"""Computing again in the backward pass what would otherwise be stored from the forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tensorflow as tf


def zero_after(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """A zero that cannot be computed before `tensors` are.

    XLA ignores control dependencies, but may not simplify 0 * x to 0, since x may be infinite or NaN.
    """
    total = tf.add_n([tf.reshape(part, [-1])[0] for part in tensors])
    return tf.where(tf.math.is_finite(total), 0.0 * total, 0.0)


def recomputed(run: Callable[..., Any]) -> Callable[..., Any]:
    """`run`, whose intermediate results are computed again in the backward pass instead of stored (Chen et al. 2016).

    Arguments and results of `run` are any nests of tensors and None. Gradients flow to its arguments only, so weights
    must be among them.
    """

    def wrapped(*arguments: Any) -> Any:
        result: Any = None

        def call(floats: Iterable[tf.Tensor]) -> Any:
            return run(*_with_floats(arguments, floats))

        # Only float tensors pass through the custom gradient; the others are those of the one forward call.
        @tf.custom_gradient
        def run_floats(*floats: tf.Tensor) -> Any:
            nonlocal result
            result = call(floats)

            def gradient(*upstream: tf.Tensor) -> list[tf.Tensor]:
                zero = zero_after(upstream)  # without it the compiler would reuse, and so store, the forward pass
                with tf.control_dependencies(upstream), tf.GradientTape() as tape:
                    delayed = [part + zero for part in floats]
                    tape.watch(delayed)
                    outputs = _floats(call(delayed))
                return tape.gradient(outputs, delayed, list(upstream), unconnected_gradients="zero")

            return _floats(result), gradient

        outputs = run_floats(*_floats(arguments))
        return _with_floats(result, outputs)

    return wrapped


def _is_float(part: tf.Tensor | None) -> bool:
    return part is not None and part.dtype.is_floating


def _floats(nest: Any) -> list[tf.Tensor]:
    """The float tensors of a nest."""
    return [part for part in tf.nest.flatten(nest) if _is_float(part)]


def _with_floats(nest: Any, floats: Iterable[tf.Tensor]) -> Any:
    """The nest with other float tensors."""
    rest = iter(floats)
    return tf.nest.pack_sequence_as(nest, [next(rest) if _is_float(part) else part for part in tf.nest.flatten(nest)])
