"""A conditional tier as a program of `tierwave.engine`: the same parts in the same order as `conditioning.model`.

Codes enter by a table of what each adds to the first map. In RNNControl's network nothing lies between that map and the
first recurrent layer, so that the table and the controls' map include the layer's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from conditioning.config import Stage
from tierwave.audio.quantize import Quantizer
from tierwave.controls.live import Settings
from tierwave.controls.schema import ControlInputs
from tierwave.engine import kernels
from tierwave.engine.network import Arrays, Builder, Floats, Matrix, Named, Network, Place, WeightKind
from tierwave.engine.voices import Voices


def network(
    stage: Stage,
    weights: Named,
    kind: WeightKind = "float32",
    *,
    control_inputs: Sequence[ControlInputs] | None = None,
    origin: str = "the model",
) -> Network:
    """The network of a stage with these weights; control_inputs: the inputs that each control takes, None: one number
    each; origin: what errors call the weights. Raises RunError where they do not fit or are not finite."""
    builder, arrays = Builder(kind, origin=origin), Arrays(weights, origin=origin)
    inputs_of = tuple(control_inputs or [ControlInputs()] * len(stage.conditioned_on))
    count = sum(each.size for each in inputs_of)
    hidden, entry = stage.hidden_size, stage.value_width
    width = 3 * (entry + count) if stage.net == "wide" else hidden
    first = arrays.at("first")
    kernel, bias = first.kernel("kernel", entry + count, width), first.vector("bias", width)
    table = _table(stage, arrays, kernel()[:entry]) if stage.makes_audio else None
    controls = builder.place(count) if inputs_of else None

    def enter(target: Place, layer: Floats | None, added: Floats) -> None:
        """target = what values and controls give by the first map, multiplied by a `layer`, and what is `added`."""

        def through(part: Floats) -> Floats:
            return part if layer is None else part @ layer

        if table is not None:
            builder.set(target, through(bias) + added)
            builder.look_up(target, through(table)[None])
        else:
            values = builder.place(entry)
            builder.values(values)
            matrix = Matrix(entry, target.size, lambda: through(kernel()[:entry]))
            builder.linear(target, values, matrix, through(bias) + added)
        if controls is not None:
            builder.controls(controls)
            matrix = Matrix(controls.size, target.size, lambda: through(kernel()[entry:]))
            builder.multiply(target, controls, matrix)

    def stack(index: int, inputs: Place) -> Place:
        own = arrays.at("stacks", index)
        direct = stage.net == "rnncontrol" and index == 0
        return builder.stack(own, inputs, hidden, stage.num_layers, cell=stage.cell, enter=enter if direct else None)

    builder.part(1)
    inputs = builder.place(width)
    if stage.net != "rnncontrol":
        enter(inputs, None, np.zeros(width, np.float32))
        builder.relu(inputs)
    if stage.net == "wide":
        wide, wider = arrays.at("wide"), inputs
        inputs = builder.place(hidden)
        builder.linear(inputs, wider, wide.matrix("kernel", width, hidden), wide.vector("bias", hidden))
    shared = int(stage.net in ("shared_split", "shared_pathways"))
    if shared:
        inputs = stack(0, inputs)
    outputs = [stack(index, inputs) for index in range(shared, stage.stacks)]
    builder.part(1)
    about: dict[str, Any] = {"silence": 0, "controls": inputs_of, "controls_ahead": 1}

    def head(target: Place, output: Place, index: int) -> None:
        own = arrays.at("heads", index)
        builder.linear(target, output, own.matrix("kernel", hidden, target.size), own.vector("bias", target.size))

    features = len(stage.generates)
    if stage.makes_audio:
        logits = builder.place(stage.q_levels)
        head(logits, outputs[0], 0)
        arrays.refuse_others()
        about["silence"] = Quantizer(stage.q_type, stage.q_levels).silence
        return builder.build(kernels.CATEGORICAL, logits, stage.q_levels, **about)
    if stage.net == "mixture":
        each = features * stage.mixtures
        squashed, found = builder.place(hidden), builder.place(3 * each)
        builder.tanh(squashed, outputs[0])
        for index in range(3):
            head(found.part(index * each, (index + 1) * each), squashed, index)
        arrays.refuse_others()
        return builder.build(
            kernels.MIXTURES, found, features, mixtures=stage.mixtures, floor=stage.scale_floor, **about
        )
    found = builder.place(2 * features)
    if stage.net in ("pathways", "shared_pathways"):
        for feature, output in enumerate(outputs):
            head(found.part(feature, feature + 1), output, 2 * feature)
            head(found.part(features + feature, features + feature + 1), output, 2 * feature + 1)
    else:
        head(found.part(0, features), outputs[0], 0)
        head(found.part(features, 2 * features), outputs[-1], 1)
    arrays.refuse_others()
    floor = 0.0 if stage.loss_name == "sampled_mse" else stage.scale_floor
    return builder.build(kernels.GAUSSIANS, found, features, floor=floor, **about)


def _table(stage: Stage, arrays: Arrays, kernel: Floats) -> Floats:
    """What each code adds to the first map, `[levels, width]`."""
    if stage.audio_input == "scalar":
        scaled = np.arange(stage.q_levels, dtype=np.float32) * np.float32(1.0 / (stage.q_levels - 1))
        return np.asarray(scaled[:, None] * kernel, np.float32)
    if stage.audio_input == "embedding":
        return np.asarray(arrays.at("embedding").vector("table", stage.q_levels, stage.emb_size) @ kernel, np.float32)
    return kernel


class EngineVoices:
    """The voices of one tier on the engine; primed as by `conditioning.sampler.TierSampler`."""

    def __init__(self, network: Network, voices: int, seed: int, *, top_p: float | None = None):
        self._voices = Voices(network, voices, seed, top_p=top_p)

    def prime(self, values: np.ndarray, controls: np.ndarray | None) -> None:
        """Continue from `values` `[voices, steps]` or with features, and these controls: all but the last are run over,
        the last is the first input (MTCRNN's rule)."""
        self._voices.begin(values[:, :1])
        self._voices.prime(values[:, 1:], None if controls is None else controls[:, :-1])

    def replace(self, network: Network) -> None:
        """Go on with another network, which fits the one before."""
        self._voices.replace(network)

    def run(self, settings: Settings) -> np.ndarray:
        """As many values as `settings` has steps: `[voices, steps]`, or with a last axis of features."""
        return self._voices.run(settings)
