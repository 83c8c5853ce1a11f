"""What the parts of networks store while they are trained, besides weights, in closed form. Knows no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass

_STORED = {"gru": 6, "lstm": 8, "phased_lstm": 9}
_GATES = {"gru": 3, "lstm": 4, "phased_lstm": 4}


@dataclass(frozen=True)
class Footprint:
    """What training stores of one lane, in numbers of 32 bits, which add up.

    stored: from the forward to the backward pass; recurrent: the same, by recurrent layers. transient: besides, while
    one part of the network is computed; parts do that in turn, so of several it is the largest. loops: recurrent
    layers, each of which is compiled.
    """

    stored: int = 0
    recurrent: int = 0
    transient: int = 0
    loops: int = 0

    def __add__(self, other: Footprint) -> Footprint:
        return Footprint(
            self.stored + other.stored,
            self.recurrent + other.recurrent,
            max(self.transient, other.transient),
            self.loops + other.loops,
        )

    def again(self, outputs: int) -> Footprint:
        """The same where only `outputs` are stored and the rest is computed again (see `tierwave.nn.recompute`)."""
        return Footprint(outputs, 0, self.stored + self.recurrent + self.transient, self.loops + (self.loops + 1) // 2)


def recurrent(units: int, steps: int, cell: str = "gru") -> Footprint:
    """A recurrent layer over `steps`."""
    return Footprint(0, _STORED[cell] * units * steps, 2 * _GATES[cell] * units * steps, 1)


def stack(
    inputs: int,
    units: int,
    layers: int,
    steps: int,
    *,
    cell: str = "gru",
    skip: bool | str = False,
    dropout: bool = False,
    recompute: bool = False,
) -> Footprint:
    """A `RecurrentStack` over `steps`. Its input is stored by the part that makes it."""
    whole = Footprint()
    for number in range(layers):
        width = units if number else inputs
        if skip == "prism" and number == 0:
            width = 2 * inputs
        elif skip is True and number:
            width = units + inputs
        layer = recurrent(units, steps, cell)
        if dropout or width not in (units, inputs):
            layer += Footprint(stored=width * steps)
        whole += layer.again(units * steps) if recompute else layer
        whole += Footprint(stored=units * steps * bool(skip))
    return whole
