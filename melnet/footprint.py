"""What training a tier of a MelNet stores besides weights, in closed form. Knows no TensorFlow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melnet.config import Config
from melnet.multiscale import sizes
from tierwave.nn.footprint import Footprint, recurrent

if TYPE_CHECKING:
    from tierwave.data.windows import LaneWindows

CHARACTERS = 64  # of a text, where no corpus says how long they are


def footprint(config: Config, tier: int, windows: LaneWindows | None = None) -> Footprint:
    """The activations of one lane; windows: what is trained on, as long as the texts there."""
    units = config.hidden_size
    window = config.seq_len if windows is None else windows.window
    size = sizes(window, config.audio.mel_channels, config.tiers)[tier - 1]
    frames, elements = size.frames, size.frames * size.bins

    def rnns(count: int, steps: int) -> Footprint:
        return sum((recurrent(units, steps, config.cell) for _ in range(count)), Footprint())

    whole = Footprint(stored=2 * elements * (units + 1))
    if tier == 1:
        whole += Footprint(stored=frames * units)
    else:
        look = rnns(4, elements) + Footprint(stored=4 * units * elements)
        outputs = 2 * units * elements
        whole += look.again(outputs) if config.recompute else look + Footprint(stored=outputs)
    for _ in range(config.layers[tier - 1]):
        # Three RNNs see their input turned; their outputs stand side by side, and three sums are stored.
        layer = rnns(4, elements) + Footprint(stored=9 * units * elements)
        if tier == 1:
            layer += rnns(1, frames)
        whole += layer.again(2 * units * elements) if config.recompute else layer
    outputs = 3 * config.mixtures
    whole += Footprint(stored=4 * outputs * elements, transient=outputs * elements)
    if tier == 1 and config.text is not None:
        characters = CHARACTERS if windows is None else windows.sources["text"].shape[0]
        for half in (units - units // 2, units // 2):
            whole += recurrent(half, characters, "lstm")
        whole += recurrent(units, frames, "lstm")
        # Every frame looks at every character with every component.
        looks = frames * characters * (3 * config.text.components + 2)
        whole += Footprint(stored=looks + 3 * characters * units)
    return whole
