"""What training a conditional tier keeps in memory, in closed form. Knows no TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence

from conditioning.config import Stage
from tierwave.nn.footprint import Footprint, linear, stack


def footprint(tier: Stage, input_sizes: Sequence[int] | None = None) -> Footprint:
    """All weights, and the activations of one lane; input_sizes: as of `ConditionalTier`."""
    time, hidden, features = tier.seq_len, tier.hidden_size, len(tier.generates)
    inputs = tier.value_width + (len(tier.conditioned_on) if input_sizes is None else sum(input_sizes))
    width = 3 * inputs if tier.net == "wide" else hidden
    whole = linear(inputs, width) + Footprint(kept=2 * width * time)
    if tier.net == "wide":
        whole += linear(width, hidden) + Footprint(kept=hidden * time)
    if tier.makes_audio and tier.audio_input == "embedding":
        whole += Footprint(tier.q_levels * tier.emb_size)
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
    if tier.makes_audio:
        outputs = tier.q_levels
        whole += linear(hidden, outputs)
    elif tier.net == "mixture":
        outputs = 3 * features * tier.mixtures
        whole += linear(hidden, outputs) + Footprint(kept=hidden * time)
    elif tier.net in ("pathways", "shared_pathways"):
        outputs = 2 * features
        whole += Footprint(features * linear(hidden, 2).weights)
    else:
        outputs = 2 * features
        whole += linear(hidden, outputs)
    # Of an output: its value, its gradient, and of a Gaussian what its likelihood is made of.
    each = 2 if tier.makes_audio else 8
    return whole + Footprint(kept=each * outputs * time, passing=outputs * time)
