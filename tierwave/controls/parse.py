"""Controls given for generation: typed with `--control`, or as an array with `--external_array`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tierwave.controls.schema import Schema
from tierwave.controls.tracks import Controls, Track
from tierwave.errors import RunError, UsageError
from tierwave.files.names import located
from tierwave.files.writing import ArrayError, load_array

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def parse_control(text: str, *, seconds: float | None = None, schema: Schema | None = None) -> Track:
    """The track of a `--control`.

    `NAME=64` is a value; `NAME=64:76` a ramp over `seconds`, the length of the sound; `NAME=0:64,1.5:76` break-points,
    seconds:value, joined by straight lines (by a hold if the control's interp is "previous"; a repeated time is a
    step). With a schema the name must be in it, and a category's value may be its name.

    Raises:
        UsageError: anything else; the message says what was found and what to write.
    """
    names = sorted(schema.names, key=len, reverse=True) if schema is not None else []
    name = next((name for name in names if text.startswith(f"{name}=")), text.partition("=")[0])
    value = text[len(name) + 1 :]
    if not name or "=" not in text:
        raise UsageError(f"--control {text} is not NAME=VALUE: write for example {(names or ['p'])[0]}=64")
    parameter = schema.of(name) if schema is not None else None

    def number(word: str) -> float:
        if parameter is not None and word in parameter.categories:
            return float(parameter.categories.index(word))
        if not re.fullmatch(_NUMBER, word.strip(), re.ASCII) or not math.isfinite(float(word)):
            known = f" or one of {', '.join(parameter.categories)}" if parameter and parameter.categories else ""
            raise UsageError(f"--control {text}: {word!r} is not a number{known}")
        return float(word)

    source = f"--control {text}"
    if parameter is not None and value in parameter.categories or ":" not in value:
        return Track.constant(name, number(value), source)
    pairs = [pair.split(":") for pair in value.split(",")]
    if any(len(pair) != 2 for pair in pairs):
        raise UsageError(
            f"--control {text}: write a value (64), a ramp (64:76) or break-points as seconds:value (0:64,1.5:76)"
        )
    first, second = pairs[0]
    if len(pairs) == 1:
        if seconds is None:
            raise UsageError(f"--control {text} is a ramp, but over no known length: give break-points (0:64,1.5:76)")
        return Track.from_events(name, [(0.0, number(first)), (seconds, number(second))], source)
    events = [(number(time), number(level)) for time, level in pairs]
    if any(after < before for (before, _), (after, _) in zip(events, events[1:], strict=False)):
        raise UsageError(f"--control {text}: the seconds must not go back; put the break-points in order")
    return Track.from_events(name, events, source)


def parse_controls(texts: Iterable[str], *, seconds: float | None = None, schema: Schema | None = None) -> Controls:
    """`parse_control` of several; UsageError where one control is given twice."""
    controls: dict[str, Track] = {}
    for text in texts:
        track = parse_control(text, seconds=seconds, schema=schema)
        if track.name in controls:
            raise UsageError(f"--control gives {track.name} twice: keep one of them, or write its break-points in one")
        controls[track.name] = track
    return controls


def read_array(path: Path | str, names: Sequence[str], rate: float) -> list[Controls]:
    """The controls of an `.npy` file `[batch, length, features]` at `rate` Hz, one `Controls` for each of the batch.

    Features are raw values in the order of `names`; beyond the end the last ones are held.

    Raises:
        UsageError: no such file, or another shape.
        RunError: not an array of finite numbers.
    """
    path = located(Path(path))
    if not rate > 0:
        raise UsageError(f"--external_sr is {rate:g}; give the array's rate in Hz, above 0")
    try:
        array = load_array(path)
    except FileNotFoundError:
        raise UsageError(f"there is no array {path}: check --external_array") from None
    except ArrayError as error:
        raise RunError(f"{path} is not an .npy array ({error.reason}): write one with numpy.save") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        found = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else "several arrays"
        raise RunError(f"{path} holds {found}: save one array of real numbers with numpy.save")
    wanted = f"[batch, length, {len(names)}] ({', '.join(names)})"
    if array.ndim != 3 or array.shape[2] != len(names) or 0 in array.shape:
        hint = "array[None] adds a batch, array[..., None] a last axis" if array.ndim == 2 else "save it so"
        raise UsageError(f"{path} has the shape {list(array.shape)}, but {wanted} is needed: {hint}")
    with np.errstate(invalid="ignore"):  # of a signalling NaN, which a track refuses
        array = array.astype(np.float64)
    return [
        {name: Track.regular(name, sound[:, column], rate, str(path)) for column, name in enumerate(names)}
        for sound in array
    ]
