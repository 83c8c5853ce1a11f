"""What the parts of networks keep in memory while they are trained, in closed form. Knows no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_KEPT = {"gru": 6, "lstm": 8, "phased_lstm": 9}
_GATES = {"gru": 3, "lstm": 4, "phased_lstm": 4}


@dataclass(frozen=True)
class Footprint:
    """What training keeps, in numbers of 32 bits, which add up.

    weights: parameters. kept: of one lane, from the forward to the backward pass; looped: the same, by recurrent
    layers. passing: of one lane, besides, while one part of the network is computed; parts do that in turn, so of
    several it is the largest. loops: recurrent layers, each of which is compiled.
    """

    weights: int = 0
    kept: int = 0
    looped: int = 0
    passing: int = 0
    loops: int = 0

    def __add__(self, other: Footprint) -> Footprint:
        return Footprint(
            self.weights + other.weights,
            self.kept + other.kept,
            self.looped + other.looped,
            max(self.passing, other.passing),
            self.loops + other.loops,
        )

    def again(self, outputs: int) -> Footprint:
        """The same where only `outputs` are kept and the rest is computed again (`recurrent.recomputed`)."""
        loops = self.loops + (self.loops + 1) // 2
        return Footprint(self.weights, outputs, 0, self.kept + self.looped + self.passing, loops)


def linear(inputs: int, outputs: int, *, bias: bool = True, weight_norm: bool = False) -> Footprint:
    """The weights of a `recurrent.Linear`."""
    return Footprint(inputs * outputs + outputs * (bias + weight_norm))


def cell(
    inputs: int, units: int, steps: int, *, cell: str = "gru", reset: str = "after", weight_norm: bool = False
) -> Footprint:
    """A `recurrent.Recurrent` over `steps`."""
    gates = _GATES[cell]
    weights = gates * units * (inputs + units + 1 + 2 * weight_norm)
    weights += gates * units * (cell == "gru" and reset == "after") + 3 * units * (cell == "phased_lstm")
    return Footprint(weights, 0, _KEPT[cell] * units * steps, 2 * gates * units * steps, 1)


def stack(
    inputs: int,
    units: int,
    layers: int,
    steps: int,
    *,
    skip: bool | str = False,
    learned: bool = False,
    dropout: bool = False,
    recompute: bool = False,
    **options: Any,
) -> Footprint:
    """A `recurrent.RecurrentStack` over `steps`; options as of `cell`. What it is fed is kept by who feeds it."""
    whole = Footprint()
    for number in range(layers):
        width = units if number else inputs
        if skip == "prism" and number == 0:
            width = 2 * inputs
        elif skip is True and number:
            width = units + inputs
        made = cell(width, units, steps, **options)
        if dropout or width not in (units, inputs):
            made += Footprint(kept=width * steps)
        whole += made.again(units * steps) if recompute else made
        if skip:
            weights = linear(units, units, bias=number == 0, weight_norm=bool(options.get("weight_norm"))).weights
            whole += Footprint(weights, units * steps)
    if learned:
        whole += Footprint(layers * units * (1 if options.get("cell", "gru") == "gru" else 2))
    return whole


# --- bytes --------------------------------------------------------------------------------------------------------
