"""What training a conditional tier stores besides weights, in closed form. Knows no TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence

from conditioning.config import Stage
from tierwave.controls.schema import ControlInputs
from tierwave.nn.footprint import Footprint, stack


def footprint(tier: Stage, control_inputs: Sequence[ControlInputs] | None = None) -> Footprint:
    """The activations of one lane; control_inputs: see `ConditionalTier`."""
    time, hidden, features = tier.seq_len, tier.hidden_size, len(tier.generates)
    inputs = tier.value_width + (
        len(tier.conditioned_on) if control_inputs is None else sum(each.size for each in control_inputs)
    )
    width = 3 * inputs if tier.net == "wide" else hidden
    whole = Footprint(stored=2 * width * time)
    if tier.net == "wide":
        whole += Footprint(stored=hidden * time)
    for _ in range(tier.stacks):
        whole += stack(
            hidden,
            hidden,
            tier.num_layers,
            time,
            cell=tier.cell,
            dropout=tier.dropout > 0,
            recompute=tier.recompute,
        )
    outputs = tier.q_levels if tier.makes_audio else 2 * features
    if not tier.makes_audio and tier.net == "mixture":
        outputs = 3 * features * tier.mixtures
        whole += Footprint(stored=hidden * time)
    # Of an output: its value, its gradient, and of a Gaussian what its likelihood is made of.
    each = 2 if tier.makes_audio else 8
    return whole + Footprint(stored=each * outputs * time, transient=outputs * time)
