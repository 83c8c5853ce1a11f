"""A conditional tier's step as one graph for other runtimes."""

from __future__ import annotations

import tensorflow as tf

from conditioning.model import ConditionalTier
from tierwave.nn.step_graph import FlatState, StepGraph, constants, frozen


def step_graphs(model: ConditionalTier) -> list[StepGraph]:
    """One graph. Of audio it takes the last code, else the last `values`, as the network sees them, and the controls
    there; it gives what `head.named` gives of the next ones."""
    stage = model.stage
    weights = frozen(model.effective_weights())
    state = FlatState(model.initial_state(1))

    def step(codes=None, values=None, controls=None, **carried):
        """One step of one voice: the prediction by name, and the state after it."""
        tier_weights = constants(weights)
        term = model.control_term(None if controls is None else controls[None], tier_weights)
        current = codes if stage.makes_audio else values[None]
        prediction, following = model.step(current, term, state.nest(**carried), tier_weights)
        return {**model.head.named(tuple(part[0] for part in prediction)), **state.flat(following)}

    inputs = {
        **(
            {"codes": tf.TensorSpec([1], tf.int32)}
            if stage.makes_audio
            else {"values": tf.TensorSpec([model.features], tf.float32)}
        ),
        **({"controls": tf.TensorSpec([len(stage.conditioned_on)], tf.float32)} if stage.conditioned_on else {}),
        **state.inputs,
    }
    reason = "a phased LSTM counts time in float64, which LiteRT has not" if stage.cell == "phased_lstm" else None
    outputs = (*model.head.names, *state.outputs)
    return [StepGraph("step", 1, inputs, outputs, step, state.initial, reason, controls_at=-1)]
