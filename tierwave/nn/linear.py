"""Linear maps, weight normalisation, and controls as inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tierwave.controls.schema import ControlInputs


def matmul(inputs: tf.Tensor, kernel: tf.Tensor, compute_dtype: str = "float32") -> tf.Tensor:
    """`inputs [..., a] @ kernel [a, b]`, multiplied in `compute_dtype`, returned as float32."""
    if compute_dtype != "float32":
        inputs, kernel = tf.cast(inputs, compute_dtype), tf.cast(kernel, compute_dtype)
    # tensordot flattens the leading axes into one large product, where tf.matmul would repeat the kernel over them.
    product = tf.matmul(inputs, kernel) if len(inputs.shape) == 2 else tf.tensordot(inputs, kernel, 1)
    return tf.cast(product, tf.float32)


def column_normalised(kernel: tf.Tensor, gain: tf.Tensor) -> tf.Tensor:
    """Weight normalisation per output column: `gain * kernel / ||kernel||` (Salimans & Kingma 2016, eq. 2)."""
    axes = list(range(len(kernel.shape) - 1))
    return kernel * (gain * tf.math.rsqrt(tf.reduce_sum(tf.square(kernel), axis=axes)))


def weights_of(part: Any) -> Any:
    """The effective weights of a layer or a variable, as tensors; of a list of them a tuple, of None None."""
    if part is None:
        return None
    if isinstance(part, Sequence):
        return tuple(map(weights_of, part))
    return part.effective_weights() if hasattr(part, "effective_weights") else tf.convert_to_tensor(part)


class NormalisableLayer(keras.layers.Layer):
    """A layer whose kernels may be weight-normalised."""

    def __init__(self, *, weight_norm: bool = False, **options: Any):
        super().__init__(dtype="float32", **options)
        self.weight_norm = weight_norm

    def add_kernel(self, name: str, shape: Sequence[int], initializer: Any) -> Any:
        """A new kernel variable; with weight normalisation also `<name>_gain`, initially its column norms."""
        kernel = self.add_weight(name=name, shape=tuple(shape), initializer=initializer)
        if self.weight_norm:
            gain = self.add_weight(name=f"{name}_gain", shape=kernel.shape[-1:], initializer="ones")
            if tf.executing_eagerly():  # in a graph only shapes are wanted (`Family.count_weights`)
                values = keras.ops.convert_to_numpy(kernel)
                gain.assign(((values.astype("float64") ** 2).sum(axis=tuple(range(values.ndim - 1)))) ** 0.5)
            setattr(self, f"{name}_gain", gain)
        return kernel

    def effective(self, name: str) -> tf.Tensor:
        """A kernel as a tensor, normalised if it is to be."""
        kernel = tf.convert_to_tensor(getattr(self, name))
        if not self.weight_norm:
            return kernel
        return column_normalised(kernel, tf.convert_to_tensor(getattr(self, f"{name}_gain")))


class Linear(NormalisableLayer):
    """`x @ kernel + bias`; kernel `[inputs, outputs]`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        use_bias: bool = True,
        weight_norm: bool = False,
        initializer: Any = "glorot_uniform",
        **options: Any,
    ):
        super().__init__(weight_norm=weight_norm, **options)
        self.kernel = self.add_kernel("kernel", (inputs, outputs), initializer)
        self.bias = self.add_weight(name="bias", shape=(outputs,), initializer="zeros") if use_bias else None
        self.built = True

    def effective_weights(self) -> tuple[tf.Tensor, tf.Tensor | None]:
        """(kernel, bias or None) as tensors."""
        return self.effective("kernel"), weights_of(self.bias)


def linear(inputs: tf.Tensor, weights: tuple[tf.Tensor, tf.Tensor | None], compute_dtype: str = "float32") -> tf.Tensor:
    """Apply the weights of a `Linear` to `inputs [..., features]`."""
    kernel, bias = weights
    product = matmul(inputs, kernel, compute_dtype)
    return product if bias is None else product + bias


def width_of(inputs: Sequence[ControlInputs]) -> int:
    """How many inputs of a network all controls take."""
    return sum(each.size for each in inputs)


def encoded(controls: tf.Tensor, inputs: Sequence[ControlInputs]) -> tf.Tensor:
    """Controls `[..., controls]` in 0 ... 1 as inputs `[..., width_of(inputs)]`, by `ControlInputs.encode`."""
    if all(each.encoding == "number" for each in inputs):
        return controls
    parts = []
    for column, (size, encoding) in enumerate(inputs):
        values = controls[..., column : column + 1]
        if encoding == "one_hot":
            values = tf.one_hot(tf.cast(tf.round(values[..., 0] * (size - 1.0)), tf.int32), size)
        elif encoding == "sinusoids":
            phases = values * tf.constant(math.pi * 2.0 ** np.arange(size // 2), tf.float32)
            values = tf.concat([values, tf.sin(phases), 1.0 - tf.cos(phases)], axis=-1)
        parts.append(values)
    return tf.concat(parts, axis=-1)


def fan_in_uniform(inputs: int, gain: float) -> keras.Initializer:
    """U(+-gain * sqrt(3 / inputs)): gain sqrt(2) is He's, 1 is LeCun's."""
    limit = gain * math.sqrt(3.0 / inputs)
    return keras.initializers.RandomUniform(-limit, limit)
