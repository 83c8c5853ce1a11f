"""Checkpoints of TensorFlow: pieces (a model, an optimiser, states, progress) by name, written and restored.

Where they lie in a run, and which are kept, is `tierwave.runs.folder`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tierwave.errors import RunError


def make_checkpoint(pieces: dict[str, Any]) -> tf.train.Checkpoint:
    """A checkpoint of `pieces` by name, to write or to read.

    TensorFlow does not see what Keras layers keep in lists, so a layer goes in as one dict of all its variables. It is
    flat, because TensorFlow names a variable by the shortest way to it, and one leads through the optimiser.
    """
    dicts = {
        name: dict(named_variables(piece)) for name, piece in pieces.items() if isinstance(piece, keras.layers.Layer)
    }
    for name, found in dicts.items():
        if len(found) != len(pieces[name].weights):
            raise TypeError(f"{name}: {len(pieces[name].weights)} weights, and public attributes lead to {len(found)}")
    return tf.train.Checkpoint(**{**pieces, **dicts})


def named_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """The values of a model's weights by their names in a checkpoint (see `tierwave.runs.tensors`)."""
    return {name: keras.ops.convert_to_numpy(variable) for name, variable in named_variables(model)}


def named_variables(part: Any, way: tuple[str, ...] = ()) -> Iterator[tuple[str, keras.Variable]]:
    """The variables of a layer, or of a list of layers or variables, by attributes and numbers: `tiers-0-upsample`."""
    if isinstance(part, keras.Variable):
        yield "-".join(way), part
        return
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(part, keras.layers.Layer):
        inside = [(name, value) for name, value in vars(part).items() if not name.startswith("_")]
    elif isinstance(part, (list, tuple)):
        inside = enumerate(part)
    for name, value in inside:
        yield from named_variables(value, (*way, str(name)))


def restore_checkpoint(path: Path, pieces: dict[str, Any]) -> None:
    """Restore `pieces` from a checkpoint; RunError if it is damaged or of another architecture."""
    tf.get_logger().addFilter(_is_of_no_rest)
    try:
        status = make_checkpoint(pieces).read(str(path))
        status.assert_existing_objects_matched()
        status.expect_partial()
        if "model" in pieces:  # otherwise a smaller model restores silently from a larger checkpoint
            stored = sum(name.startswith("model/") for name, _ in tf.train.list_variables(str(path)))
            if stored != len(pieces["model"].weights):
                raise ValueError(f"it holds {stored} weights, and the model has {len(pieces['model'].weights)}")
    except (tf.errors.OpError, IndexError) as error:
        raise RunError(
            f"checkpoint {path} is damaged or cut short ({str(error).splitlines()[0]}): use an earlier one, for "
            "example with --resume_from or --checkpoint_path"
        ) from None
    except (ValueError, AssertionError) as error:
        first = str(error).strip().splitlines()[0]
        raise RunError(f"checkpoint {path} is of another architecture than its config says ({first})") from None


def _is_of_no_rest(record: logging.LogRecord) -> bool:
    """Whether a log line of TensorFlow is no remark about objects that a checkpoint holds and nothing restored. It
    cannot be silenced in another way where restoring fails, and then the exception says why."""
    return not str(record.msg).startswith(
        (
            "Detecting that an object or model or tf.train.Checkpoint is being deleted",
            "Value in checkpoint could not be found",
            "An attribute in the restored object could not be found",
        )
    )


def holds(path: Path, piece: str) -> bool:
    """Whether the checkpoint at `path` has a piece of this name."""
    return any(name.split("/")[0] == piece for name, _ in tf.train.list_variables(str(path)))
