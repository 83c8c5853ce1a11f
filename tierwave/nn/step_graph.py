"""One step of a network as graphs of flat tensors, for other runtimes.

Each graph takes and returns plain vectors by name, of one voice, with the recurrent state as one vector that goes in as
`state` and comes out as `next_state`. Weights are constants of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

NEXT = "next_"  # prefix of an output that is the input of the next step


@dataclass(frozen=True)
class StepGraph:
    """A part of the step. name: of its file; every: it runs every so many steps of the stage.

    inputs: dtype and shape by name, in order. outputs: names of the results of `function`, in order; `next_x` is the
    input x of the next step. function: tensors by the inputs' names -> tensors by the outputs' names. initial: inputs
    of the first step that are not zeros. beyond_litert: why LiteRT cannot run it, if so. controls_at: the step of the
    `controls`, counted from the predicted one: 0, or -1.
    """

    name: str
    every: int
    inputs: Mapping[str, tf.TensorSpec]
    outputs: tuple[str, ...]
    function: Callable[..., dict[str, tf.Tensor]]
    initial: Mapping[str, np.ndarray] = field(default_factory=dict)
    beyond_litert: str | None = None
    controls_at: int = 0

    def traced(self) -> Any:
        """`function` as a graph, of inputs in their order."""
        names = list(self.inputs)
        signature = [tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in self.inputs.items()]
        return tf.function(
            lambda *tensors: self.function(**dict(zip(names, tensors, strict=True))),
            input_signature=signature,
            autograph=False,
        )

    def output_shapes(self) -> dict[str, tuple[list[int], str]]:
        """Shape and dtype of each output."""
        made = self.traced().get_concrete_function().structured_outputs
        return {name: (made[name].shape.as_list(), made[name].dtype.name) for name in self.outputs}


def frozen(weights: Any) -> Any:
    """A nest of tensors (and None) as arrays, for `constants`."""
    return tf.nest.map_structure(lambda part: None if part is None else part.numpy(), weights)


def constants(weights: Any) -> Any:
    """A nest of arrays as constants of the graph that is being made."""
    return tf.nest.map_structure(lambda part: None if part is None else tf.constant(part), weights)


class FlatState:
    """Any nest of `[1, units]` tensors as the vector `state`, and `time`, the steps since the first, if it counts them.

    initial: the nest before the first step. All counters of a nest are equal, so one represents them.
    """

    def __init__(self, initial: Any):
        self._like = initial
        leaves = tf.nest.flatten(initial)
        self._floats = [leaf for leaf in leaves if leaf.dtype.is_floating]
        self.counts = len(self._floats) < len(leaves)

    @property
    def inputs(self) -> dict[str, tf.TensorSpec]:
        """Its specs as inputs of a graph."""
        width = sum(leaf.shape[-1] for leaf in self._floats)
        found = {"state": tf.TensorSpec([width], tf.float32)}
        return {**found, "time": tf.TensorSpec([1], tf.int32)} if self.counts else found

    @property
    def outputs(self) -> tuple[str, ...]:
        """Its names as outputs of a graph."""
        return tuple(NEXT + name for name in self.inputs)

    @property
    def initial(self) -> dict[str, np.ndarray]:
        """The vector before the first step, where it is not zeros."""
        flat = np.concatenate([leaf.numpy()[0] for leaf in self._floats])
        return {"state": flat} if flat.any() else {}

    def nest(self, state: tf.Tensor, time: tf.Tensor | None = None) -> Any:
        """The network's own state."""
        parts = iter(tf.split(state[None], [leaf.shape[-1] for leaf in self._floats], axis=1))
        count = None if time is None else time[None]
        leaves = [next(parts) if leaf.dtype.is_floating else count for leaf in tf.nest.flatten(self._like)]
        return tf.nest.pack_sequence_as(self._like, leaves)

    def flat(self, state: Any) -> dict[str, tf.Tensor]:
        """The network's own state as the outputs of a graph."""
        leaves = tf.nest.flatten(state)
        found = {f"{NEXT}state": tf.concat([leaf for leaf in leaves if leaf.dtype.is_floating], axis=1)[0]}
        counters = [leaf for leaf in leaves if not leaf.dtype.is_floating]
        return {**found, f"{NEXT}time": counters[0][0]} if counters else found
