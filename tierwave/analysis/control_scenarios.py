"""What to request of a network in order to hear whether it follows its controls: trained values, values between them,
and sweeps."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tierwave.analysis.control_accuracy import Floats, aspect_of, natural
from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.tracks import Controls, Track
from tierwave.errors import UsageError

Kind = Literal["trained", "between", "sweep"]

_MOST_TRAINED, _FEWER = 12, 7  # values of a control that are all requested; how many of more than that
_MOST_COMBINED = 4  # values of a category with which every scenario is repeated
_STEP_SECONDS = 0.01  # of a sweep through a control whose values are held
_DISTINCT, _QUANTILES = 128, 13  # values that are taken one by one; how many stand for more than that


@dataclass(frozen=True, eq=False)
class Scenario:
    """What to request of a network.

    name: the request in words. kind: whether `parameter` has a value that occurred in training, one between two of
    those, or runs from the lowest to the highest. group: the values of the categories it was combined with, as text;
    scenarios of one group differ in nothing else.
    """

    name: str
    kind: Kind
    controls: Controls
    seconds: float
    parameter: str
    group: str = ""


def trained_values(schema: Schema, sounds: Iterable[Controls]) -> dict[str, list[float]]:
    """The values each control takes in `sounds` (the training split), rising: all different ones, or, of a control with
    more than 128 that is no category, 13 quantiles from 5 % to 95 % of the points."""
    points: dict[str, list[Floats]] = {name: [] for name in schema.names}
    for controls in sounds:
        for name in points:
            if name in controls:
                track = controls[name]
                points[name].append(track.values[:1] if track.is_constant else track.values)
    result = {}
    for parameter in schema.parameters:
        values = np.concatenate([np.zeros(0), *points[parameter.name]])
        distinct = np.unique(values)
        if len(distinct) > _DISTINCT and not parameter.is_category:
            distinct = np.unique(np.quantile(values, np.linspace(0.05, 0.95, _QUANTILES)))
        result[parameter.name] = [float(value) for value in distinct]
    return result


def scenarios(
    schema: Schema,
    values: Mapping[str, Sequence[float]],
    *,
    names: Sequence[str] | None = None,
    seconds: float = 2.0,
) -> list[Scenario]:
    """What to request: one control after another at trained values, between them, and swept from end to end.

    All values of a control if there are at most twelve, else seven spread over them; halfway to the next trained value;
    one sweep. Other controls are held at their middle value, but everything is repeated with every value of a category
    that has up to four. A category has nothing between its values.

    Args:
        schema: of the network.
        values: by name the values each control was trained on, as `trained_values` gives them.
        names: controls to go through; by default all that can be measured and are no categories.
        seconds: length of each sound.

    Raises:
        UsageError: a name that is not in the schema or cannot be measured, or a control without values.
    """
    trained = {parameter.name: _distinct(parameter, values.get(parameter.name, ())) for parameter in schema.parameters}
    measurable = [parameter.name for parameter in schema.parameters if aspect_of(parameter) is not None]
    if names is None:
        names = [name for name in measurable if not schema.of(name).is_category]
    for name in names:
        if schema.of(name).name not in measurable:
            known = f"choose from {', '.join(measurable)}" if measurable else "and no other control can either"
            raise UsageError(f"{name} cannot be measured in a sound: {known}")
    found: list[Scenario] = []
    for name in names:
        parameter = schema.of(name)
        combined = [
            other
            for other in schema.parameters
            if other.name != name and other.is_category and len(trained[other.name]) <= _MOST_COMBINED
        ]
        held = {key: points[(len(points) - 1) // 2] for key, points in trained.items()}
        requests = _requests(parameter, trained[name], seconds)
        for choice in itertools.product(*(trained[other.name] for other in combined)):
            chosen = dict(zip((other.name for other in combined), choice, strict=True))
            group = ", ".join(f"{other.name}={in_words(other, chosen[other.name])}" for other in combined)
            others = {key: Track.constant(key, value) for key, value in (held | chosen).items()}
            for kind, label, track in requests:
                title = f"{name}={label}" + (f", {group}" if group else "")
                found.append(Scenario(title, kind, {**others, name: track}, seconds, name, group))
    return found


def _distinct(parameter: Parameter, given: Sequence[float]) -> list[float]:
    points = np.unique(np.asarray(given, np.float64))
    points = points[np.isfinite(points)]
    aspect = aspect_of(parameter)
    if aspect is not None and len(points):
        points = points[np.isfinite(natural(parameter, aspect, points))]  # 0 Hz is no pitch
    if not len(points):
        raise UsageError(f"{parameter.name} has no trained values to ask for: give the values that occur in training")
    return [float(point) for point in points]


def _requests(parameter: Parameter, points: list[float], seconds: float) -> list[tuple[Kind, str, Track]]:
    """Kind, text and track of all requests for one control."""
    places = list(range(len(points)))
    if len(points) > _MOST_TRAINED:
        places = sorted({round(place) for place in np.linspace(0, len(points) - 1, _FEWER)})
    name = parameter.name
    requests: list[tuple[Kind, str, Track]] = [
        ("trained", in_words(parameter, points[place]), Track.constant(name, points[place])) for place in places
    ]
    if parameter.is_category or len(points) < 2:
        return requests
    for place in places:
        if place + 1 < len(points):
            middle = (points[place] + points[place + 1]) / 2
            requests.append(("between", in_words(parameter, middle), Track.constant(name, middle)))
    # A control whose values are held needs many points to move.
    steps = 2 if parameter.interp == "linear" else max(2, round(seconds / _STEP_SECONDS))
    track = Track(name, np.linspace(0.0, seconds, steps), np.linspace(points[0], points[-1], steps))
    requests.append(("sweep", f"{in_words(parameter, points[0])} to {in_words(parameter, points[-1])}", track))
    return requests


def controls_in_words(controls: Controls, schema: Schema) -> str:
    """The request in words: `p=64 to 76, inst=bowed, a=0.5`; of a curve its first and last value."""
    words = []
    for name, track in controls.items():
        ends = [in_words(schema.of(name), float(value)) for value in (track.values[0], track.values[-1])]
        words.append(f"{name}={ends[0]}" if track.is_constant else f"{name}={' to '.join(ends)}")
    return ", ".join(words)


def in_words(parameter: Parameter, value: float) -> str:
    return parameter.name_of(value) or f"{value:.6g}"
