"""What training a tier of a MelNet keeps in memory, in closed form. Knows no TensorFlow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melnet.config import Config
from melnet.multiscale import sizes
from melnet.text import MOST_CHARACTERS
from tierwave.nn.footprint import Footprint, cell, linear

if TYPE_CHECKING:
    from tierwave.data.windows import LaneWindows

CHARACTERS = 64  # of a text, where no corpus says how long they are


def footprint(config: Config, tier: int, windows: LaneWindows | None = None) -> Footprint:
    """All weights, and the activations of one lane; windows: what is trained on, as long as the texts there."""
    units, parameters, kind = config.hidden_size, sum(config.input_sizes), config.cell
    window = config.seq_len if windows is None else windows.window
    size = sizes(window, config.audio.mel_channels, config.tiers)[tier - 1]
    frames, bins, elements = size.frames, size.bins, size.frames * size.bins
    parts = 2 if kind == "lstm" else 1

    def rnn(inputs: int, steps: int) -> Footprint:
        return cell(inputs, units, steps, cell=kind) + Footprint(parts * units)

    whole = Footprint()
    for _ in range(2):
        whole += linear(1, units) + Footprint(kept=elements * (units + 1))
    if tier == 1:
        whole += linear(bins, units) + Footprint(kept=frames * units)
    else:
        look = sum((rnn(1, elements) for _ in range(4)), Footprint(kept=4 * units * elements))
        for _ in range(2):
            look += linear(4 * units, units, bias=False)
        whole += look.again(2 * units * elements) if config.recompute else look + Footprint(kept=2 * units * elements)
    if parameters:
        whole += Footprint((3 if tier == 1 else 2) * linear(parameters, units).weights)
    for _ in range(config.layers[tier - 1]):
        layer = linear(3 * units, units) + linear(units, units)
        # Three RNNs see their input turned; their outputs stand side by side, and three sums are kept.
        layer += sum((rnn(units, elements) for _ in range(4)), Footprint(kept=9 * units * elements))
        if tier == 1:
            layer += rnn(units, frames) + linear(units, units)
        whole += layer.again(2 * units * elements) if config.recompute else layer
    outputs = 3 * config.mixtures
    whole += linear(units, outputs) + Footprint(kept=4 * outputs * elements, passing=outputs * elements)
    if tier == 1 and config.text is not None:
        whole += _reader(config, frames, windows)
    return whole


def _reader(config: Config, frames: int, windows: LaneWindows | None) -> Footprint:
    assert config.text is not None
    units, components = config.hidden_size, config.text.components
    characters = CHARACTERS if windows is None else windows.sources["text"].shape[0]
    whole = Footprint((MOST_CHARACTERS + 1) * units) + linear(units, 3 * components) + linear(units, units)
    for half in (units - units // 2, units // 2):
        whole += cell(units, half, characters, cell="lstm")
    whole += cell(2 * units, units, frames, cell="lstm")
    # Every frame looks at every character with every component.
    return whole + Footprint(kept=frames * characters * (3 * components + 2) + 3 * characters * units)
