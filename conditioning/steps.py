"""A conditional tier's step as one graph for other runtimes. Knows the model."""

from __future__ import annotations

import tensorflow as tf

from conditioning.model import ConditionalTier
from tierwave.nn.step_graph import FlatState, StepGraph, constants, frozen


def step_graphs(model: ConditionalTier) -> list[StepGraph]:
    """One graph. Of audio it takes the last code and gives `logits` of the next one; of parameters it takes the last
    `values`, as the network sees them, and gives `mean` and `deviation` of each of the next ones, or of each Gaussian
    of a mixture with its `logits`. Its parameters are those of the step before, as those of the last values."""
    stage = model.stage
    weights = frozen(model.weights_in_effect())
    state = FlatState(model.initial_state(1))

    def step(codes=None, values=None, controls=None, **carried):
        tier_weights = constants(weights)
        steered = model.steered(None if controls is None else controls[None], tier_weights)
        seen = codes if stage.makes_audio else values[None]
        prediction, following = model.step(seen, steered, state.nest(**carried), tier_weights)
        if stage.makes_audio:
            told = {"logits": prediction[0][0]}
        else:
            *logits, mean, raw = (part[0] for part in prediction)
            told = {"mean": mean, "deviation": tf.nn.softplus(raw) + model.floor}
            if logits:
                told["logits"] = logits[0]
        return {**told, **state.flat(following)}

    inputs = {
        **(
            {"codes": tf.TensorSpec([1], tf.int32)}
            if stage.makes_audio
            else {"values": tf.TensorSpec([model.features], tf.float32)}
        ),
        **({"controls": tf.TensorSpec([len(stage.conditioned_on)], tf.float32)} if stage.conditioned_on else {}),
        **state.inputs,
    }
    told = ("logits",) if stage.makes_audio else ("mean", "deviation", *(["logits"] if stage.net == "mixture" else []))
    reason = "a phased LSTM counts time in float64, which LiteRT has not" if stage.cell == "phased_lstm" else None
    outputs = (*told, *state.outputs)
    return [StepGraph("step", 1, inputs, outputs, step, state.initial, reason, controls_at=-1)]
