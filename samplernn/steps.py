"""A SampleRNN's step as graphs for other runtimes: one per frame tier, and one per sample.

The same parts in the same order as `samplernn.sampler`, with the loops left to the host.
"""

from __future__ import annotations

import tensorflow as tf

from samplernn.model import SampleRNN
from tierwave.errors import UsageError
from tierwave.nn.linear import encoded
from tierwave.nn.step_graph import FlatState, StepGraph, constants, frozen


def step_graphs(model: SampleRNN) -> list[StepGraph]:
    """The tiers, slowest first.

    A frame tier takes the last `frame_size` codes, at every `frame_size`-th sample, and gives `spread [ratio, width]`,
    a row for each step of the tier below, which takes it as `condition`. The sample tier gives the next code's logits.
    """
    config = model.config
    if config.lookback is not None:
        raise UsageError(
            "this network looks back one period, and the graphs of its steps see the last samples only: export it as a "
            "page with --format html, or train one without lookback"
        )
    if config.zero_mean is not None:
        raise UsageError(
            "this network's sound has its running mean taken away between two samples, which the graphs of its steps "
            "do not hold: export it as a page with --format html, or train one without zero_mean"
        )
    weights = frozen(model.effective_weights(folded=True))
    initial = model.initial_state(1)
    parameters = {"controls": tf.TensorSpec([len(config.conditioned_on)], tf.float32)} if config.conditioned_on else {}
    condition = {"condition": tf.TensorSpec([config.dim], tf.float32)}

    def frame_graph(index: int) -> StepGraph:
        """The graph of one step of frame tier `index`."""
        tier, state = model.tiers[index], FlatState(initial[index])

        def step(codes, condition=None, controls=None, **carried):
            tier_weights = constants(weights.tiers[index])
            inputs = None if controls is None else encoded(controls[None], config.control_inputs)
            term = tier.control_term(inputs, tier_weights)
            above = None if condition is None else condition[None]
            rnn_input = tier.rnn_input(model.scaled(codes[None]), above, tier_weights, term)
            output, following = tier.stack.step(rnn_input, state.nest(**carried), tier_weights.stack)
            return {"spread": tier.upsampled(output, tier_weights)[0], **state.flat(following)}

        inputs = {
            "codes": tf.TensorSpec([tier.frame_size], tf.int32),
            **(condition if index else {}),
            **parameters,
            **state.inputs,
        }
        outputs = ("spread", *state.outputs)
        return StepGraph(f"frame_{tier.frame_size}", tier.frame_size, inputs, outputs, step, state.initial)

    stack = model.sample_tier.stack
    state = FlatState(initial[0]) if stack is not None else None

    def sample(codes, condition=None, controls=None, **carried):
        sample_weights = constants(weights.sample)
        frame, levels, dim = sample_weights.table.shape
        rows = tf.reshape(sample_weights.table, [frame * levels, dim])
        features = tf.reduce_sum(tf.gather(rows, codes + levels * tf.range(frame)), axis=0)[None]
        if controls is not None:
            kernel, bias = sample_weights.steer
            features = features + tf.matmul(encoded(controls[None], config.control_inputs), kernel) + bias
        if condition is not None:
            features = features + condition[None]
        following = {}
        if stack is not None and state is not None:
            features, nest = stack.step(features, state.nest(**carried), sample_weights.stack)
            following = state.flat(nest)
        return {"logits": model.perceptron(features, sample_weights)[0], **following}

    inputs = {
        "codes": tf.TensorSpec([config.sample_frame], tf.int32),
        **(condition if model.tiers else {}),
        **parameters,
        **(state.inputs if state is not None else {}),
    }
    outputs = ("logits", *(state.outputs if state is not None else ()))
    last = StepGraph("sample", 1, inputs, outputs, sample, state.initial if state is not None else {})
    return [*(frame_graph(index) for index in range(len(model.tiers))), last]
