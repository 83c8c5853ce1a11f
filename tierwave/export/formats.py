"""Graphs of a step as ONNX and as LiteRT models.

Weights are constants of the graphs: TensorFlow's converter for LiteRT makes NaN of the variables of a Keras 3 model.
The same graph gives the same bytes each time. Knows `StepGraph`s; no family and no run.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tierwave.errors import RunError, UsageError
from tierwave.nn.step_graph import StepGraph

OPSET = 17  # ONNX Runtime has it since 1.12
_DONE = " "  # the name of a node that has its place
_LARGEST = 2**31 - 2**24  # bytes of weights: both formats are messages of less than 2 GiB


def to_onnx(graph: StepGraph) -> bytes:
    """The graph as an ONNX model. UsageError where what converts it is not installed."""
    try:
        import onnx
        import tf2onnx
    except ImportError as error:
        raise missing("--onnx", error) from None
    function = _traced(graph)
    with _quiet("tf2onnx"):
        model, _ = tf2onnx.convert.from_function(function, input_signature=function.input_signature, opset=OPSET)
    _put_in_order(model.graph, list(graph.inputs), graph.outputs)
    model.graph.name, model.graph.doc_string = graph.name, ""
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def to_litert(graph: StepGraph) -> bytes:
    """The graph as a LiteRT (TensorFlow Lite) model, whose only signature has the inputs' and outputs' names.

    Raises UsageError for a graph that LiteRT cannot run.
    """
    if graph.beyond_litert is not None:
        raise UsageError(f"{graph.name} cannot become a LiteRT model, since {graph.beyond_litert}: take --onnx")
    function = _traced(graph)
    holder = tf.Module()  # without variables: all is in the graph
    with _quiet("tensorflow", "absl"):
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], holder)
        return bytes(converter.convert())


def missing(flag: str, error: ImportError) -> UsageError:
    """What to say of a library that is not there."""
    return UsageError(f"{flag} needs {error.name}, which is not installed: pip install -e '.[export]' (in this folder)")


FORMATS: dict[str, tuple[str, Callable[[StepGraph], bytes]]] = {
    "onnx": (".onnx", to_onnx),
    "litert": (".tflite", to_litert),
}


def _traced(graph: StepGraph) -> Any:
    function = graph.traced()
    size = function.get_concrete_function().graph.as_graph_def().ByteSize()
    if size > _LARGEST:
        raise RunError(f"{graph.name} has {size / 2**30:.1f} GiB of weights, and a model file can hold less than 2")
    return function


def _put_in_order(graph: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Order and names by what depends on what: those of tf2onnx change from call to call."""
    made_by = {name: node for node in graph.node for name in node.output}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    names = {name: name for name in ["", *inputs, *outputs]}
    nodes: list[Any] = []
    tensors: list[Any] = []

    def visit(name: str) -> None:
        node = made_by.get(name)
        if node is None:
            if name not in names:
                tensors.append(stored[name])
                names[name] = stored[name].name = f"constant_{len(tensors)}"
            return
        if node.name == _DONE:
            return
        for needed in node.input:
            visit(needed)
        nodes.append(node)
        node.name = _DONE
        for made in node.output:
            names.setdefault(made, f"{node.op_type}_{len(nodes)}_{list(node.output).index(made)}")

    for name in outputs:
        visit(name)
    for number, node in enumerate(nodes):
        node.name = f"{node.op_type}_{number + 1}"
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    values = {value.name: value for value in [*graph.input, *graph.output]}
    for field, ordered in (
        ("node", nodes),
        ("initializer", tensors),
        ("input", [values[name] for name in inputs if name in values]),
        ("output", [values[name] for name in outputs]),
        ("value_info", []),
    ):
        kept = [type(part).FromString(part.SerializeToString()) for part in ordered]
        graph.ClearField(field)
        getattr(graph, field).extend(kept)


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Without what converters log about themselves."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
