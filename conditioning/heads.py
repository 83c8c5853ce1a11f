"""What a tier's outputs mean: the distribution of its next values, its likelihood, and samples from it.

A prediction is a tuple of tensors: (logits) of codes; (means, raw deviations) of Gaussians; (logits, means, raw
deviations) of mixtures. `[...]` stands for `[batch]` or `[batch, time]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from conditioning.config import Stage
from tierwave.nn.distributions import (
    categorical_nats,
    gaussian_nats,
    mixture_nats,
    sample_categorical,
    sample_gaussian,
    sample_mixture,
)
from tierwave.nn.linear import linear

Prediction = tuple[tf.Tensor, ...]
LinearWeights = tuple[tf.Tensor, tf.Tensor | None]


class CategoricalHead:
    """Codes of audio: one of `levels`.

    sizes: the outputs of the linear maps that it takes; uniforms: how many uniform numbers a sample takes per step;
    unit: of the losses; names: of what `named` gives.
    """

    names: tuple[str, ...] = ("logits",)
    unit = "bits"
    uniforms = 1

    def __init__(self, levels: int, compute_dtype: str):
        self.sizes, self.compute_dtype = [levels], compute_dtype

    def predict(self, outputs: Sequence[tf.Tensor], maps: Sequence[LinearWeights]) -> Prediction:
        """The prediction of the outputs `[..., hidden]` of the last recurrent stacks through the linear maps."""
        return (linear(outputs[0], maps[0], self.compute_dtype),)

    def nats(self, prediction: Prediction, targets: tf.Tensor, uniform: tf.Tensor | None = None) -> tf.Tensor:
        """-ln p of each of the codes `[...]`."""
        return categorical_nats(prediction[0], targets)

    def sample(
        self,
        prediction: Prediction,
        uniform: tf.Tensor,
        temperature: tf.Tensor | float = 1.0,
        top_k: tf.Tensor | None = None,
        top_p: float | None = None,
    ) -> tf.Tensor:
        """Codes int32 `[batch]` by uniform numbers `[batch, 1]` (see `sample_categorical`)."""
        return sample_categorical(prediction[0], uniform[:, 0], temperature, top_k, top_p)

    def named(self, prediction: Prediction) -> dict[str, tf.Tensor]:
        """The prediction by its `names`, deviations in the units of the values."""
        return {"logits": prediction[0]}


class GaussianHead:
    """A Gaussian for each of `features` controls, of standard deviation softplus(raw) + floor.

    pathways: every feature has a stack and two maps of its own. squared_error: MTCRNN's loss, the squared error of a
    sample. Attributes and methods as of `CategoricalHead`.
    """

    names: tuple[str, ...] = ("mean", "deviation")

    def __init__(self, features: int, floor: float, *, pathways: bool, squared_error: bool):
        self.sizes = [1, 1] * features if pathways else [features, features]
        self.floor, self.pathways, self.squared_error = floor, pathways, squared_error
        self.unit = "squared error" if squared_error else "nats"
        self.uniforms = features

    def predict(self, outputs: Sequence[tf.Tensor], maps: Sequence[LinearWeights]) -> Prediction:
        """Means and raw deviations `[..., features]`; of several stacks the first gives the means."""
        if not self.pathways:
            return linear(outputs[0], maps[0]), linear(outputs[-1], maps[1])
        parts = zip(outputs, maps[::2], maps[1::2], strict=True)
        pairs = [(linear(output, mean), linear(output, raw)) for output, mean, raw in parts]
        return tuple(tf.concat(parts, axis=-1) for parts in zip(*pairs, strict=True))

    def nats(self, prediction: Prediction, targets: tf.Tensor, uniform: tf.Tensor | None = None) -> tf.Tensor:
        """-ln p of each value `[..., features]`, or the squared error of a sample by `uniform`, None: of the mean."""
        mean, raw = prediction
        if not self.squared_error:
            return gaussian_nats(targets, mean, raw, self.floor)
        values = mean if uniform is None else sample_gaussian(mean, raw, self.floor, uniform)
        return tf.square(values - targets)

    def sample(
        self, prediction: Prediction, uniform: tf.Tensor, temperature: tf.Tensor | float = 1.0, *_: Any
    ) -> tf.Tensor:
        """Values `[batch, features]` by uniform numbers `[batch, features]`; temperature multiplies deviations."""
        mean, raw = prediction
        return sample_gaussian(mean, raw, self.floor, uniform, temperature)

    def named(self, prediction: Prediction) -> dict[str, tf.Tensor]:
        mean, raw = prediction
        return {"mean": mean, "deviation": tf.nn.softplus(raw) + self.floor}


class MixtureHead:
    """A mixture of Gaussians for each of `features` controls. MTCRNN's deviations are softplus(raw), here + floor.

    Attributes and methods as of `CategoricalHead`.
    """

    names: tuple[str, ...] = ("mean", "deviation", "logits")
    unit = "nats"

    def __init__(self, features: int, mixtures: int, floor: float):
        self.features, self.mixtures, self.floor = features, mixtures, floor
        self.sizes = [features * mixtures] * 3
        self.uniforms = 2 * features

    def predict(self, outputs: Sequence[tf.Tensor], maps: Sequence[LinearWeights]) -> Prediction:
        """Logits, means and raw deviations `[..., features, mixtures]`."""
        squashed = tf.tanh(outputs[0])
        lead = [-1 if size is None else size for size in squashed.shape[:-1]]
        if lead.count(-1) > 1:  # neither lanes nor steps are known: one graph for seeds of any length
            lead = tf.unstack(tf.shape(squashed)[:-1])
        shape = [*lead, self.features, self.mixtures]
        return tuple(tf.reshape(linear(squashed, weights), shape) for weights in maps)

    def nats(self, prediction: Prediction, targets: tf.Tensor, uniform: tf.Tensor | None = None) -> tf.Tensor:
        """-ln p of each value `[..., features]`."""
        logits, means, raw = prediction
        return mixture_nats(targets, logits, means, tf.math.log(self._deviation(raw)), 0.0)

    def sample(
        self, prediction: Prediction, uniform: tf.Tensor, temperature: tf.Tensor | float = 1.0, *_: Any
    ) -> tf.Tensor:
        """Values `[batch, features]` by uniform numbers `[batch, 2 features]` (see `sample_mixture`)."""
        logits, means, raw = prediction
        pairs = tf.reshape(uniform, [-1, self.features, 2])
        return sample_mixture(logits, means, tf.math.log(self._deviation(raw)), 0.0, pairs, temperature)

    def named(self, prediction: Prediction) -> dict[str, tf.Tensor]:
        logits, means, raw = prediction
        return {"mean": means, "deviation": self._deviation(raw), "logits": logits}

    def _deviation(self, raw: tf.Tensor) -> tf.Tensor:
        return tf.nn.softplus(raw) + self.floor


Head = CategoricalHead | GaussianHead | MixtureHead


def head_of(stage: Stage, compute_dtype: str) -> Head:
    """The head of a stage. Only logits of codes are computed in `compute_dtype`, controls in float32."""
    features, squared_error = len(stage.generates), stage.loss_name == "sampled_mse"
    if stage.makes_audio:
        return CategoricalHead(stage.q_levels, compute_dtype)
    if stage.net == "mixture":
        return MixtureHead(features, stage.mixtures, stage.scale_floor)
    floor = 0.0 if squared_error else stage.scale_floor
    pathways = stage.net in ("pathways", "shared_pathways")
    return GaussianHead(features, floor, pathways=pathways, squared_error=squared_error)
