"""Graphs of a step as ONNX and as LiteRT models.

Weights are constants of the graphs: TensorFlow's converter for LiteRT makes NaN of the variables of a Keras 3 model.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tierwave.errors import RunError, UsageError
from tierwave.nn.step_graph import StepGraph

OPSET = 17  # ONNX Runtime has it since 1.12
_LARGEST = 2**31 - 2**24  # bytes of weights: both formats are messages of less than 2 GiB


def to_onnx(graph: StepGraph) -> bytes:
    """The graph as an ONNX model. Raises UsageError where its converter is not installed."""
    try:
        import onnx
        import tf2onnx
    except ImportError as error:
        raise missing("--onnx", error) from None
    function = _traced(graph)
    with _quiet("tf2onnx"):
        model, _ = tf2onnx.convert.from_function(function, input_signature=function.input_signature, opset=OPSET)
    model.graph.name, model.graph.doc_string = graph.name, ""
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


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
