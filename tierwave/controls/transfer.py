"""Controls as training normalises them, and the weights of controls moved to a network with others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tierwave.controls.schema import Parameter, Schema

_POINTS = 1000  # at which a control does what it did, where its encoding or its range is another


def as_trained(parameter: Parameter, raw: Any) -> np.ndarray:
    """Raw values normalised as in training: clipped without a warning, unless the control may leave its range."""
    lo, hi = parameter.span
    if lo == hi:  # constant where it was trained on: the network knows no other value
        return np.zeros(np.shape(raw), np.float32)
    return parameter.normalise(raw, outside="allow" if parameter.outside == "allow" else "clip", silent=True)


def copy_weights(
    source: Any,
    target: Any,
    maps: Sequence[tuple[Any, Any]],
    names: tuple[Sequence[str], Sequence[str]],
    source_schema: Schema,
    schema: Schema,
    absent: float = 0.5,
    *,
    apart: Sequence[Any] = (),
) -> list[np.ndarray | None]:
    """Copy all variables of a Keras model to another, but the linear maps of controls, (source's, target's), by name.

    None stands for a map that a model lacks; without one in the source, controls start without effect. names: the
    controls of source and target. absent: see `transplanted`. apart: variables that are left as they are. Returns for
    each pair what a map `[outputs]` adds that the target lacks, else None.
    """
    mapped = {id(variable) for pair in maps for layer in pair if layer for variable in layer.variables}
    mapped |= {id(variable) for variable in apart}
    others = [[variable for variable in model.variables if id(variable) not in mapped] for model in (source, target)]
    for old, new in zip(*others, strict=True):
        new.assign(old)
    constants: list[np.ndarray | None] = []
    for theirs, ours in maps:
        constants.append(None)
        if ours is None and theirs is None:
            continue
        outputs = (ours or theirs).kernel.shape[1]
        kernel, bias = np.zeros([0, outputs], np.float32), np.zeros([outputs], np.float32)
        if theirs is not None:
            kernel, bias = theirs.kernel.numpy(), theirs.bias.numpy()
        values = transplanted(kernel, bias, *names, source_schema, schema, absent)
        if ours is None:
            constants[-1] = values[1]
            continue
        for variable, value in zip((ours.kernel, ours.bias), values, strict=True):
            variable.assign(value)
    return constants


def transplanted(
    kernel: np.ndarray,
    bias: np.ndarray,
    names: Sequence[str],
    wanted: Sequence[str],
    schema: Schema,
    wanted_schema: Schema,
    absent: float = 0.5,
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a linear map `kernel [inputs, outputs]` for other controls, and its bias.

    A name that is new has no effect yet (zeros). One whose lo and hi differ is rescaled, so that a raw value does what
    it did; where the scales differ (linear, log) that cannot be, and the row is taken as it is. A name that is gone is
    held at `absent`, within its range of 0 ... 1 (a category that is one_hot: at the mean of all). A category that is
    one_hot, now or before, keeps what each of its values does, and has no effect for those that are new. What is
    encoded as sinusoids, now or before, does what it did as nearly as least squares can tell.
    """
    targets = [wanted_schema.of(name) for name in wanted]
    starts = dict(zip(wanted, np.cumsum([0, *(target.inputs.size for target in targets)]), strict=False))
    result = np.zeros([sum(target.inputs.size for target in targets), kernel.shape[1]], np.float32)
    moved = np.array(bias, np.float64)
    first = 0
    for name in names:
        old = schema.of(name)
        rows = kernel[first : first + old.inputs.size]
        first += old.inputs.size
        if name not in wanted:
            moved += rows.mean(axis=0) if old.encoding == "one_hot" else old.inputs.encode(absent) @ rows
            continue
        new = wanted_schema.of(name)
        start = starts[name]
        if "one_hot" in (old.encoding, new.encoding):
            added = np.stack([_added_by(rows, old, value) for value in _values_of(old, new)])
            if new.encoding == "one_hot":
                result[start : start + new.inputs.size] = added
            else:
                result[start], moved = added[-1] - added[0], moved + added[0]
            continue
        if old.span[0] == old.span[1]:  # never anything but 0 there, so nothing was learned of it
            continue
        if "sinusoids" in (old.encoding, new.encoding):
            if (old.span, old.scale, old.inputs) == (new.span, new.scale, new.inputs):
                result[start : start + new.inputs.size] = rows
                continue
            raw = new.denormalise(np.linspace(0.0, 1.0, _POINTS))
            inputs = np.column_stack([new.inputs.encode(as_trained(new, raw)), np.ones(_POINTS)])
            fitted = np.linalg.lstsq(inputs, old.inputs.encode(as_trained(old, raw)) @ rows, rcond=1e-6)[0]
            result[start : start + new.inputs.size] = fitted[:-1]
            moved += fitted[-1]
            continue
        factor, offset = 1.0, 0.0
        if old.scale == new.scale:
            ends = (old.normalise(np.array(new.span), outside="allow")).astype(np.float64)
            factor, offset = ends[1] - ends[0], ends[0]
        result[start] = factor * rows[0]
        moved += offset * rows[0]
    return result, moved.astype(np.float32)


def _values_of(old: Parameter, new: Parameter) -> list[float | None]:
    """The raw values for `old` of what the inputs of `new` stand for: of all its values, or of lo and hi; None for a
    name that is new."""
    values = [float(value) for value in range(new.nvals)] if new.encoding == "one_hot" else list(new.span)
    if not (old.categories and new.categories):
        return list(values)
    known = {name: float(number) for number, name in enumerate(old.categories)}
    return [known.get(new.categories[int(value)]) for value in values]


def _added_by(rows: np.ndarray, parameter: Parameter, value: float | None) -> np.ndarray:
    """What a raw value of a control adds through its rows of a linear map; nothing for one that there was not."""
    if value is None or not min(parameter.span) <= value <= max(parameter.span):
        return np.zeros(rows.shape[1], np.float32)
    if parameter.encoding == "one_hot":
        return rows[round(value)]
    return np.float32(as_trained(parameter, np.array([value]))[0]) * rows[0]
