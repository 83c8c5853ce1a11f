"""What training a SampleRNN keeps in memory, in closed form. Knows no TensorFlow."""

from __future__ import annotations

from samplernn.config import Config
from tierwave.nn.footprint import Footprint, linear, stack


def footprint(config: Config) -> Footprint:
    """All weights, and the activations of one lane."""
    dim, time, normed = config.dim, config.seq_len, config.weight_norm
    paper, parameters = config.convention == "paper", sum(config.input_sizes)

    def recurrent(inputs: int, steps: int) -> Footprint:
        return stack(
            inputs,
            dim,
            config.num_rnn_layers,
            steps,
            cell=config.rnn_type,
            reset=config.gru_reset,
            skip=config.skip_conn,
            weight_norm=normed,
            learned=config.learn_h0,
            dropout=config.rnn_dropout > 0,
            recompute=config.recompute,
        )

    whole = Footprint()
    descending = config.frame_sizes[::-1]
    for index, size in enumerate(descending):
        ratio = size // descending[index + 1] if index + 1 < len(descending) else size
        inputs, steps = size, time // size
        if not (paper and index == 0):
            whole += linear(size, dim, weight_norm=normed)
            inputs = dim
        if parameters:
            whole += linear(parameters, inputs)
        whole += recurrent(inputs, steps) + Footprint(kept=steps * inputs + time)
        whole += linear(dim, ratio * dim, bias=paper, weight_norm=normed) + Footprint(kept=steps * ratio * dim)
    width = config.emb_size or config.q_levels
    whole += Footprint(config.q_levels * config.emb_size)
    whole += linear(config.sample_frame * width, dim, bias=False) + Footprint(dim * normed)
    if not descending:
        whole += recurrent(dim, time)
    if parameters:
        whole += linear(parameters, dim)
    for _ in range(2):
        whole += linear(dim, dim, weight_norm=normed)
    whole += linear(dim, config.q_levels, weight_norm=normed)
    # The table and the effective weights do not depend on the lanes. Of every sample: what it sees, two hidden layers,
    # logits, and the gradients of the last two.
    return whole + Footprint(kept=time * (4 * dim + 2 * config.q_levels), passing=time * dim)
