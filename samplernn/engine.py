"""A SampleRNN as a program of `tierwave.engine`: the same parts in the same order as `samplernn.sampler`.

As there, what is linear behind one another is multiplied beforehand: the table of embeddings, the lowest upsampling and
the controls' map include the perceptron's first map. Without frame tiers the table includes the first layer's map of
the recurrent stack.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from samplernn.config import Config
from tierwave.audio.lookback import OFFSETS
from tierwave.audio.quantize import Quantizer
from tierwave.engine import kernels
from tierwave.engine.network import Arrays, Builder, Floats, Matrix, Named, Network, Place, WeightKind


def network(config: Config, weights: Named, kind: WeightKind = "float32", *, origin: str = "the model") -> Network:
    """The network of a config with these weights; origin: what errors call them. Raises RunError where they do not fit
    or are not finite."""
    quantizer = Quantizer(config.q_type, config.q_levels)
    builder = Builder(kind, origin=origin, history=config.history)
    arrays = Arrays(weights, origin=origin, weight_norm=config.weight_norm)
    dim = config.dim
    # Behind the inputs that are multiplied stand two lags: that of the control, and the one that is found.
    width = sum(each.size for each in config.control_inputs) if config.conditioned_on else 0
    told = width + (config.lag is not None)
    entering = builder.place(width + 2)
    controls = entering.part(0, width) if config.conditioned_on else None
    sample = arrays.at("sample_tier")
    first = sample.at("hidden", 0)
    hidden, bias = first.kernel("kernel", dim, dim), first.vector("bias", dim)
    condition, ratio = None, 0
    descending = list(reversed(config.frame_sizes))
    for index, size in enumerate(descending):
        lowest = index + 1 == len(descending)
        ratio = size if lowest else size // descending[index + 1]
        folded = hidden if lowest else None
        builder.part(size)
        if index == 0 and config.lookback is not None:
            builder.find_lag(entering.part(width + 1, width + 2), quantizer.table(), config.lookback.limit)
        condition = _frame_tier(builder, arrays.at("tiers", index), config, size, ratio, condition, controls, folded)

    builder.part(1)
    if condition is not None:
        features = builder.place(dim)
        product = hidden()
        builder.set(features, bias + _steer_bias(sample, config, product))
        builder.look_up(features, _table(sample, config) @ product)
        builder.add(features, condition)
        if controls is not None:
            builder.controls(entering.part(0, told))
        if config.lookback is not None:
            past = _embedded(sample, config, sample.vector("lookback", len(OFFSETS), _width(config), dim))
            builder.look_back(features, entering.part(width, width + 2), quantizer.table(), past @ product)
        if controls is not None:
            steer = sample.at("steer").plain().kernel("kernel", controls.size, dim)
            builder.multiply(features, controls, Matrix(controls.size, dim, lambda: steer() @ product))
        builder.relu(features)
    else:
        outputs = _plain(builder, sample, config, controls)
        builder.part(1)
        features = builder.place(dim)
        builder.linear(features, outputs, Matrix(dim, dim, hidden), bias)
        builder.relu(features)
    second, to_logits = sample.at("hidden", 1), sample.at("to_logits")
    after, logits = builder.place(dim), builder.place(config.q_levels)
    builder.linear(after, features, second.matrix("kernel", dim, dim), second.vector("bias", dim))
    builder.relu(after)
    kernel = to_logits.matrix("kernel", dim, config.q_levels)
    builder.logits(logits, after, kernel, to_logits.vector("bias", config.q_levels))
    if config.logit_cap is not None:
        builder.cap(logits, config.logit_cap)
    if config.zero_mean is not None:
        builder.take_mean(quantizer.table(), config.zero_mean)
    arrays.refuse_others()
    return builder.build(
        kernels.CATEGORICAL,
        logits,
        config.q_levels,
        silence=quantizer.silence,
        controls=config.control_inputs,
        controls_ahead=0,
        quantizer=quantizer,
        lookback=config.lag,
    )


def _frame_tier(
    builder: Builder,
    arrays: Arrays,
    config: Config,
    size: int,
    ratio: int,
    condition: Place | None,
    controls: Place | None,
    folded: object,
) -> Place:
    """A frame tier (see `samplernn.model.FrameTier`); what it gives to the steps below, side by side."""
    dim, paper = config.dim, config.convention == "paper"
    levels = np.arange(config.q_levels, dtype=np.float32)
    scaled = (levels / np.float32(config.q_levels / 2) - np.float32(1.0)) * np.float32(2.0)
    frame = builder.place(size)
    builder.codes(frame, scaled)
    inputs = frame
    if not (paper and condition is None):
        project = arrays.at("project")
        inputs = builder.place(dim)
        builder.linear(inputs, frame, project.matrix("kernel", size, dim), project.vector("bias", dim))
    if condition is not None:
        builder.add(inputs, condition, size)
    if controls is not None:
        steer, term = arrays.at("steer").plain(), builder.place(inputs.size)
        builder.controls(controls)
        builder.linear(
            term, controls, steer.matrix("kernel", controls.size, inputs.size), steer.vector("bias", inputs.size)
        )
        builder.add(inputs, term)
    outputs = _stack(builder, arrays.at("stack"), config, inputs)
    upsampled = builder.place(ratio * dim)
    kernel = arrays.kernel("upsample", dim, ratio * dim)
    bias = arrays.optional("upsample_bias", ratio * dim)
    if callable(folded):
        hidden, plain = folded, kernel
        if bias is not None:
            bias = (bias.reshape(ratio, dim) @ hidden()).reshape(-1)

        def kernel() -> Floats:  # noqa: F811
            return np.asarray((plain().reshape(dim * ratio, dim) @ hidden()).reshape(dim, ratio * dim))

    builder.linear(upsampled, outputs, Matrix(dim, ratio * dim, kernel), bias)
    return upsampled


def _plain(builder: Builder, sample: Arrays, config: Config, controls: Place | None) -> Place:
    """The recurrent stack of a network without frame tiers, over single samples; its output."""
    table, steer_bias = _table(sample, config), _steer_bias(sample, config, None)

    def enter(target: Place, layer: Floats | None, added: Floats) -> None:
        """target = what a sample and the controls give, multiplied by a `layer`, and what is `added`."""

        def through(part: Floats) -> Floats:
            return part if layer is None else part @ layer

        builder.set(target, through(steer_bias) + added)
        builder.look_up(target, through(table))
        if controls is not None:
            steer = sample.at("steer").plain().kernel("kernel", controls.size, config.dim)
            builder.controls(controls)
            builder.multiply(target, controls, Matrix(controls.size, target.size, lambda: through(steer())))

    inputs = builder.place(config.dim)
    if not config.skip_conn:  # the first layer alone sees it
        return _stack(builder, sample.at("stack"), config, inputs, enter)
    enter(inputs, None, np.zeros(config.dim, np.float32))
    return _stack(builder, sample.at("stack"), config, inputs)


def _stack(
    builder: Builder,
    arrays: Arrays,
    config: Config,
    inputs: Place,
    enter: Callable[[Place, Floats, Floats], None] | None = None,
) -> Place:
    return builder.stack(
        arrays,
        inputs,
        config.dim,
        config.num_rnn_layers,
        cell=config.rnn_type,
        reset=config.gru_reset,
        skip=config.skip_conn,
        enter=enter,
    )


def _table(sample: Arrays, config: Config) -> Floats:
    """What each of the last samples adds, `[frame, levels, dim]`."""
    return _embedded(sample, config, sample.kernel("window", config.sample_frame, _width(config), config.dim)())


def _width(config: Config) -> int:
    return config.emb_size or config.q_levels


def _embedded(sample: Arrays, config: Config, window: Floats) -> Floats:
    """A map of embeddings `[taps, width, dim]` as a table `[taps, levels, dim]`."""
    return sample.vector("embedding", config.q_levels, _width(config)) @ window if config.emb_size else window


def _steer_bias(sample: Arrays, config: Config, product: Floats | None) -> Floats:
    """What controls of 0 add."""
    if not config.conditioned_on:
        return np.zeros(config.dim, np.float32)
    bias = sample.at("steer").plain().vector("bias", config.dim)
    return bias if product is None else bias @ product
