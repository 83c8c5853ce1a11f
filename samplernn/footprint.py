"""What training a SampleRNN stores besides weights, in closed form. Knows no TensorFlow."""

from __future__ import annotations

from samplernn.config import Config
from tierwave.nn.footprint import Footprint, stack


def footprint(config: Config) -> Footprint:
    """The activations of one lane."""
    dim, time = config.dim, config.seq_len

    def recurrent(inputs: int, steps: int) -> Footprint:
        return stack(
            inputs,
            dim,
            config.num_rnn_layers,
            steps,
            cell=config.rnn_type,
            skip=config.skip_conn,
            dropout=config.rnn_dropout > 0,
            recompute=config.recompute,
        )

    whole = Footprint()
    descending = config.frame_sizes[::-1]
    for index, size in enumerate(descending):
        ratio = size // descending[index + 1] if index + 1 < len(descending) else size
        inputs, steps = size if config.convention == "paper" and index == 0 else dim, time // size
        whole += recurrent(inputs, steps) + Footprint(stored=steps * inputs + time + steps * ratio * dim)
    if not descending:
        whole += recurrent(dim, time)
    # The table and the effective weights do not depend on the lanes. Of every sample: its input, two hidden layers,
    # logits, and the gradients of the last two.
    return whole + Footprint(stored=time * (4 * dim + 2 * config.q_levels), transient=time * dim)
