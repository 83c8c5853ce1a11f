"""The command lines as the tests call them, in this process and with each run loaded once; and what they log."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tierwave.generation.load import Trained, Weights, load_run

Main = Callable[[Sequence[str] | None], int]
Capture = pytest.CaptureFixture[str]


def call(main: Main, words: Sequence[Any]) -> int:
    try:
        return main([str(word) for word in words])
    except SystemExit as left:  # argparse leaves by itself
        assert isinstance(left.code, int)
        return left.code


def told(capsys: Capture, main: Main, words: Sequence[Any], code: int) -> str:
    """The one sentence on stderr of a command that ends with `code`."""
    capsys.readouterr()
    found = call(main, words)
    errors = capsys.readouterr().err
    assert found == code, errors
    lines = errors.splitlines()
    assert len(lines) == 1 and "Traceback" not in errors, errors
    return lines[0]


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """A training of few steps is not traced first, here; the fixture `eager` is for a whole module."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Weights are nought, for networks of which only shapes matter: large ones take half a minute to draw."""
    import keras

    with pytest.MonkeyPatch.context() as patch:
        for kind in (keras.initializers.Orthogonal, keras.initializers.VarianceScaling):
            patch.setattr(kind, "__call__", lambda self, shape, dtype=None: keras.ops.zeros(shape, dtype))
        yield


@functools.lru_cache
def load_once(path: Path, best: bool = False, config_document: None = None, weights: Weights = "tensorflow") -> Trained:
    """`load_run`; the same run for the same words. The fixture `loaded_once` has the command lines use it."""
    return load_run(path, best=best, config_document=config_document, weights=weights)


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """What is run a few times only is not traced first: a training of two steps takes a third of the time."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def tags_of(folder: Path) -> set[str]:
    """The names of what TensorBoard would show of a folder of logs."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: set[str] = set()
    for path in folder.iterdir():
        events = EventAccumulator(str(path))
        events.Reload()
        found.update(events.Tags()["tensors"])
    return found
