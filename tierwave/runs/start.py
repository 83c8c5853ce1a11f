"""Weights to start from that come with the program: what a network has learned of sound in general.

They are a `.npz` of plain arrays: `config` and `schema`, JSON as bytes, and of each weight by its name in a checkpoint
`NAME`, 8-bit integers, and `NAME.scale`, one for each index of its last axis; what has one axis is kept as float32.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tierwave.controls.schema import Schema
from tierwave.errors import RunError
from tierwave.files.writing import write_bytes

_SCALE = ".scale"


@dataclass(frozen=True)
class StartingWeights:
    """Weights by name, float32, and the config and the controls of the network they belong to. source: the file."""

    source: Path
    config: dict[str, Any]
    schema: Schema
    weights: Mapping[str, np.ndarray]

    def assign(self, model: Any) -> None:
        """Give a model of this config its weights. Raises RunError where they do not fit."""
        from tierwave.runs.checkpoints import named_variables

        variables = dict(named_variables(model))
        shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
        if shapes != {name: array.shape for name, array in self.weights.items()}:
            raise RunError(f"{self.source} holds other weights than its config says: install the program again")
        for name, variable in variables.items():
            variable.assign(self.weights[name])


def write_start(path: Path, model: Any, config: Mapping[str, Any], schema: Schema) -> None:
    """Write the weights of a model as starting weights; config, schema: of its run."""
    from tierwave.runs.checkpoints import named_weights

    arrays: dict[str, np.ndarray] = {
        "config": np.frombuffer(json.dumps(config, sort_keys=True).encode(), np.uint8),
        "schema": np.frombuffer(json.dumps(schema.to_document(), sort_keys=True).encode(), np.uint8),
    }
    for name, array in named_weights(model).items():
        if array.ndim > 1:
            largest = np.abs(array).max(axis=tuple(range(array.ndim - 1)))
            scale = np.maximum(largest, np.float32(1e-12)) / np.float32(127.0)
            arrays[name + _SCALE] = scale
            array = np.round(array / scale).astype(np.int8)
        arrays[name] = array
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]
    write_bytes(path, packed.getvalue())


def read_start(path: Path) -> StartingWeights:
    """The starting weights in a file. Raises RunError for one that is damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        config, schema = (json.loads(arrays.pop(name).tobytes()) for name in ("config", "schema"))
        weights = {
            name: array * arrays[name + _SCALE] if name + _SCALE in arrays else array
            for name, array in arrays.items()
            if not name.endswith(_SCALE)
        }
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise RunError(
            f"the starting weights {path} cannot be read ({error}): install the program again, or begin without them, "
            "with --init_from none"
        ) from None
    return StartingWeights(path, config, Schema.from_document(schema, str(path)), weights)
