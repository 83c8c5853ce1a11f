"""One tier of a MelNet: stacks of recurrent layers over time and frequency, and a mixture of Gaussians per element.

A tier models its elements frame by frame, bins from low to high (section 4). The input of the time-delayed stack is the
earlier frames (three RNNs: along time, up and down the bins), of the centralised stack of the first tier each earlier
frame whole, of the frequency-delayed stack the lower bins of the frame and the outputs of both others:

    x(t-1, f) -> time-delayed layers  (time, up, down) -> h_t                     layer by layer, residual
    x(t-1, :) -> centralised layers   (time)           -> h_c   (first tier)
    x(t, f-1) -> frequency-delayed    (up)             -> h_f   sees h_t + h_c of its own layer
    h_f of the last layer -> means, deviations and weights of the mixture at (t, f)

The first tier may attend to a text, whose context is added to h_c after a layer in the middle (`melnet.attention`).
Tiers from the second on are conditioned on all tiers below, through a feature extractor in all four directions.
`MelTier.sequence` runs whole windows (training, likelihoods); `melnet.sampler` runs the same weights with cached state.
Source: Vasquez & Lewis 2019, equations 3 to 9, with the centralised stack of the paper's first version.

Shapes: frames T and bins F of this tier; `[batch, T, F]`, hidden D.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from melnet.attention import Alignment, AttentionState, AttentionWeights, Memory, TextAttention
from melnet.config import Config
from melnet.multiscale import below, factors, sizes
from melnet.text import MOST_CHARACTERS, Alphabet
from tierwave.config import validate
from tierwave.controls.schema import Schema
from tierwave.controls.transfer import copy_weights
from tierwave.errors import UsageError
from tierwave.nn.cells import CellName, CellWeights, State
from tierwave.nn.distributions import LossSums, mixture_nats
from tierwave.nn.linear import Linear, NormalisableLayer, encoded, linear, weights_of, width_of
from tierwave.nn.recompute import recomputed
from tierwave.nn.recurrent import Recurrent, reset_lanes

Conditions = tuple[tf.Tensor | None, tf.Tensor | None, tf.Tensor | None]
LinearWeights = tuple[tf.Tensor, tf.Tensor | None]


class RnnWeights(NamedTuple):
    """A recurrent layer and its learned initial state, one tensor `[units]` per part."""

    cell: CellWeights
    initial: tuple[tf.Tensor, ...]


class LayerWeights(NamedTuple):
    """Effective weights of one layer of all stacks; `central` and `to_central` in the first tier only."""

    time: RnnWeights
    up: RnnWeights
    down: RnnWeights
    to_time: LinearWeights
    central: RnnWeights | None
    to_central: LinearWeights | None
    frequency: RnnWeights
    to_frequency: LinearWeights


class TierWeights(NamedTuple):
    """Effective weights of a tier. features: of the extractor, forward and backward along time, up and down."""

    time_input: LinearWeights
    frequency_input: LinearWeights
    central_input: LinearWeights | None
    layers: tuple[LayerWeights, ...]
    features: tuple[RnnWeights, ...]
    features_to_time: LinearWeights | None
    features_to_frequency: LinearWeights | None
    controls_to_time: LinearWeights | None
    controls_to_frequency: LinearWeights | None
    controls_to_central: LinearWeights | None
    output: LinearWeights
    text: AttentionWeights | None


class MelState(NamedTuple):
    """The state between windows: per layer the time RNN's `[batch, F, D]` and the central one's `[batch, D]`, each a
    tuple of parts; text: of the attention, () without text."""

    time: tuple[State, ...]
    central: tuple[State, ...]
    text: AttentionState | tuple[()] = ()


class Reading(NamedTuple):
    """What the layer with attention needs: the encoded text, and the attention's state and weights."""

    memory: Memory
    state: AttentionState
    weights: AttentionWeights


class Rnn(NormalisableLayer):
    """A recurrent layer with a learned initial state."""

    def __init__(self, inputs: int, units: int, *, cell: CellName, compute_dtype: str, name: str):
        super().__init__(name=name)
        self.cell = Recurrent(inputs, units, cell=cell, compute_dtype=compute_dtype, name="cell")
        self.initial = [
            self.add_weight(name=f"initial_{part}", shape=(units,), initializer="zeros")
            for part in range(len(self.cell.state_parts))
        ]
        self.built = True

    def effective_weights(self) -> RnnWeights:
        """All weights as tensors."""
        return RnnWeights(weights_of(self.cell), weights_of(self.initial))


def initial_state(weights: RnnWeights, batch: int | tf.Tensor) -> State:
    """The learned initial state for a batch."""
    return tuple(tf.repeat(part[None], batch, axis=0) for part in weights.initial)


class MelLayer(NormalisableLayer):
    """One layer of the three stacks."""

    def __init__(self, units: int, *, central: bool, cell: CellName, compute_dtype: str, name: str):
        super().__init__(name=name)

        def rnn(name: str) -> Rnn:
            return Rnn(units, units, cell=cell, compute_dtype=compute_dtype, name=name)

        self.time, self.up, self.down = rnn("time"), rnn("up"), rnn("down")
        self.to_time = Linear(3 * units, units, name="to_time")
        self.central = rnn("central") if central else None
        self.to_central = Linear(units, units, name="to_central") if central else None
        self.frequency = rnn("frequency")
        self.to_frequency = Linear(units, units, name="to_frequency")
        self.built = True

    def effective_weights(self) -> LayerWeights:
        """All weights as tensors."""
        return LayerWeights(*(weights_of(getattr(self, name)) for name in LayerWeights._fields))


@keras.saving.register_keras_serializable("tierwave")
class MelTier(keras.Model):
    """Tier `tier` (from 1) of a `Config`. State is passed in and out.

    `model(spectrogram)` or `model({"inputs": spectrogram, "controls": ..., "text": ...})` begins with new lanes;
    `model(inputs, state)` continues from a state, and returns the next one too.

    compute_dtype: of matrix products; sums, states, outputs and losses stay float32, and so do maps of spectrograms and
    controls and to the mixtures.
    """

    def __init__(self, config: Config, tier: int, *, compute_dtype: str = "float32"):
        super().__init__(name=f"tier_{tier}", dtype="float32")
        self.config, self.tier, self.product_dtype = config, tier, compute_dtype
        self.unit, self.has_accuracy, self.steps_are = "nats", False, "frames"
        units, controls = config.hidden_size, width_of(config.control_inputs)
        self.units = units
        self.bins = _bins(config, tier)
        self.central = tier == 1
        self.time_input = Linear(1, units, name="time_input")
        self.frequency_input = Linear(1, units, name="frequency_input")
        self.central_input = Linear(self.bins, units, name="central_input") if self.central else None
        self.layers_of_stacks = [
            MelLayer(units, central=self.central, cell=config.cell, compute_dtype=compute_dtype, name=f"layer_{index}")
            for index in range(config.layers[tier - 1])
        ]
        self.features = [
            Rnn(1, units, cell=config.cell, compute_dtype=compute_dtype, name=f"features_{name}")
            for name in (("forward", "backward", "up", "down") if tier > 1 else ())
        ]
        self.features_to_time = Linear(4 * units, units, use_bias=False, name="features_to_time") if tier > 1 else None
        self.features_to_frequency = (
            Linear(4 * units, units, use_bias=False, name="features_to_frequency") if tier > 1 else None
        )
        self.controls_to_time = Linear(controls, units, name="controls_to_time") if controls else None
        self.controls_to_frequency = Linear(controls, units, name="controls_to_frequency") if controls else None
        self.controls_to_central = (
            Linear(controls, units, name="controls_to_central") if controls and self.central else None
        )
        self.output_map = Linear(units, 3 * config.mixtures, name="output")
        self.text = None
        self.text_layer = -1  # the index of the layer after which it is read
        if config.text is not None and self.central:
            self.text = TextAttention(
                MOST_CHARACTERS, units, config.text.components, compute_dtype=compute_dtype, name="text"
            )
            self.text_layer = (config.text.layer or max(1, config.layers[0] // 2)) - 1
        self.built = True

    def call(self, inputs: Any, state: MelState | None = None, training: bool = False) -> Any:
        """Logits, means and log deviations, each `[batch, T, F, mixtures]`, of this tier's elements of a spectrogram,
        teacher-forced; with a state given, the pair of them and the next state.

        inputs: the whole normalised spectrogram float32 `[batch, overlap + frames, mel_channels]`, the overlap being
        one frame of the first tier (`config.time_factor`); or a dict of it as "inputs", of "controls", float32
        `[batch, overlap + frames, controls]`, and "text", int32 `[batch, U]`.
        """
        inputs = inputs if isinstance(inputs, dict) else {"inputs": inputs}
        values, lower, ratio = self._own(tf.convert_to_tensor(inputs["inputs"]))
        overlap = self.config.time_factor
        before = overlap // ratio
        start = self.initial_state(tf.shape(values)[0]) if state is None else state
        prediction, after = self.sequence(
            values[:, before:],
            values[:, before - 1],
            None if lower is None else lower[:, before:],
            inputs["controls"][:, overlap::ratio] if self.config.conditioned_on else None,
            start,
            self.effective_weights(),
            None if self.text is None else inputs["text"],
        )
        return prediction if state is None else (prediction, after)

    def _own(self, whole: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None, int]:
        """This tier's part of a spectrogram, that of the tiers below it, and how many frames one of its own spans."""
        values, lower = below(whole, self.tier, self.config.tiers)
        return values, lower, whole.shape[1] // values.shape[1]

    def get_config(self) -> dict[str, Any]:
        """What `from_config` makes the same network of, as JSON; without weights."""
        return {
            "config": self.config.model_dump(mode="json"),
            "tier": self.tier,
            "compute_dtype": self.product_dtype,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> MelTier:
        """A network with new weights."""
        options = {key: value for key, value in config.items() if key != "config"}
        return cls(validate(Config, config["config"], "get_config()"), **options)

    def effective_weights(self) -> TierWeights:
        """All effective weights as plain tensors."""
        attributes = {"layers": "layers_of_stacks", "output": "output_map"}  # which Keras' own names forbid
        return TierWeights(*(weights_of(getattr(self, attributes.get(name, name))) for name in TierWeights._fields))

    def initial_state(self, batch: int | tf.Tensor) -> MelState:
        """The state before the first frame of a recording: learned, repeated for every lane and bin."""
        time, central = [], []
        for layer in self.layers_of_stacks:
            weights = layer.time.effective_weights()
            time.append(tuple(tf.tile(part[None, None], [batch, self.bins, 1]) for part in weights.initial))
            if layer.central is not None:
                central.append(initial_state(layer.central.effective_weights(), batch))
        return MelState(tuple(time), tuple(central), () if self.text is None else self.text.initial_state(batch))

    def encode_text(self, text: tf.Tensor | None, weights: TierWeights) -> Memory | None:
        """The encoded text of codes int32 `[batch, U]`, or None where this tier reads none."""
        if self.text is None or weights.text is None:
            return None
        if text is None:
            raise ValueError("this tier needs a text")
        return self.text.encode_text(text, weights.text)

    # --- whole windows ----------------------------------------------------------------------------------------------

    def extract(self, lower: tf.Tensor, weights: TierWeights) -> tf.Tensor:
        """Features of the tiers below at each element, from all four directions: `[batch, T, F]` -> `[..., 4 D]`."""
        forward, backward, up, down = weights.features
        rnns = self.features
        columns = lower[..., None]
        return tf.concat(
            [
                _along_time(rnns[0], columns, forward),
                tf.reverse(_along_time(rnns[1], tf.reverse(columns, [1]), backward), [1]),
                _along_bins(rnns[2], columns, up),
                tf.reverse(_along_bins(rnns[3], tf.reverse(columns, [2]), down), [2]),
            ],
            axis=-1,
        )

    def conditioning(self, lower: tf.Tensor | None, controls: tf.Tensor | None, weights: TierWeights) -> Conditions:
        """The conditioning of the stacks' inputs: of the time-delayed and the frequency-delayed `[batch, T, F, D]`, of
        the centralised `[batch, T, D]`; None where there is none. controls `[batch, T, controls]`."""
        to_time = to_frequency = to_central = None
        if lower is not None:

            def run(lower, features, to_time, to_frequency):
                found = self.extract(lower, weights._replace(features=features))
                return linear(found, to_time, self.product_dtype), linear(found, to_frequency, self.product_dtype)

            extract = recomputed(run) if self.config.recompute else run
            maps = weights.features_to_time, weights.features_to_frequency
            to_time, to_frequency = extract(lower, weights.features, *maps)
        if controls is not None and weights.controls_to_time is not None:
            controls = encoded(controls, self.config.control_inputs)
            to_time = _plus(linear(controls, weights.controls_to_time)[:, :, None], to_time)
            assert weights.controls_to_frequency is not None
            added = linear(controls, weights.controls_to_frequency)[:, :, None]
            to_frequency = _plus(added, to_frequency)
            if weights.controls_to_central is not None:
                to_central = linear(controls, weights.controls_to_central)
        return to_time, to_frequency, to_central

    def sequence(
        self,
        values: tf.Tensor,
        previous: tf.Tensor,
        lower: tf.Tensor | None,
        controls: tf.Tensor | None,
        state: MelState,
        weights: TierWeights,
        text: tf.Tensor | None = None,
    ) -> tuple[tuple[tf.Tensor, tf.Tensor, tf.Tensor], MelState]:
        """A whole window, teacher-forced.

        values `[batch, T, F]`, previous `[batch, F]` the frame before it, lower `[batch, T, F]` the tiers below (None
        for the first), controls `[batch, T, controls]` or None, text int32 `[batch, U]` or None. Returns (logits,
        means, log deviations), each `[batch, T, F, mixtures]`, of every element given those before it, and the state
        after the window.
        """
        conditions, memory = self.conditioning(lower, controls, weights), self.encode_text(text, weights)
        prediction, state, _ = self.stacks(values, previous, conditions, state, weights, memory)
        return prediction, state

    def stacks(
        self,
        values: tf.Tensor,
        previous: tf.Tensor,
        conditions: Conditions,
        state: MelState,
        weights: TierWeights,
        memory: Memory | None = None,
    ) -> tuple[tuple[tf.Tensor, tf.Tensor, tf.Tensor], MelState, Alignment | None]:
        """`sequence`, given what `conditioning` and `encode_text` return; also the frames' attention to the text."""
        to_time, to_frequency, to_central = conditions
        delayed = tf.concat([previous[:, None], values[:, :-1]], axis=1)
        lowered = tf.pad(values, [[0, 0], [0, 0], [1, 0]])[:, :, :-1]
        h_time = _plus(linear(delayed[..., None], weights.time_input), to_time)
        h_frequency = _plus(linear(lowered[..., None], weights.frequency_input), to_frequency)
        h_central = None
        if weights.central_input is not None:
            h_central = _plus(linear(delayed, weights.central_input), to_central)
        time_states, central_states = [], []
        text_state, alignment = state.text, None
        for index, (layer, layer_weights) in enumerate(zip(self.layers_of_stacks, weights.layers, strict=True)):
            central_state = state.central[index] if h_central is not None else ()

            def run(h_time, h_frequency, h_central, time_state, central_state, layer_weights, reading, layer=layer):
                return layer_sequence(
                    layer,
                    h_time,
                    h_frequency,
                    h_central,
                    time_state,
                    central_state,
                    layer_weights,
                    self.product_dtype,
                    self.text,
                    reading,
                )

            reading = None
            if index == self.text_layer:
                assert memory is not None and weights.text is not None and state.text
                reading = Reading(memory, state.text, weights.text)
            arguments = (h_time, h_frequency, h_central, state.time[index], central_state, layer_weights, reading)
            run_layer = recomputed(run) if self.config.recompute else run
            h_time, h_frequency, h_central, time_state, central_state, read = run_layer(*arguments)
            if read is not None:
                alignment, text_state = read
            time_states.append(time_state)
            central_states.append(central_state)
        outputs = linear(h_frequency, weights.output)
        after = MelState(tuple(time_states), tuple(central_states) if h_central is not None else (), text_state)
        return split_parameters(outputs), after, alignment

    def loss_sums(
        self, batch: dict[str, tf.Tensor], state: MelState, *, dropout_seed: tf.Tensor | None = None
    ) -> LossSums:
        """Likelihood of a batch of windows; each lane continues from its state.

        batch: `inputs`, `controls` and `text` as of `call`; `mask` float32 `[batch, frames]`, 0 for padding; `reset`
        bool `[batch]`.
        """
        config, mask = self.config, batch["mask"]
        state = reset_lanes(state, self.initial_state(tf.shape(mask)[0]), batch["reset"])
        inputs = {name: batch[name] for name in ("inputs", "controls", "text") if name in batch}
        (logits, means, deviations), state = self(inputs, state, training=dropout_seed is not None)
        counted, _, ratio = self._own(mask[..., None] * tf.ones([1, 1, config.audio.mel_channels]))
        targets = self._own(batch["inputs"])[0][:, config.time_factor // ratio :]
        nats = mixture_nats(targets, logits, means, deviations, config.scale_floor) * counted
        total = tf.reduce_sum(nats, axis=[1, 2])
        return LossSums(total, tf.zeros_like(total), tf.reduce_sum(counted, axis=[1, 2]), state)


def layer_sequence(
    layer: MelLayer,
    h_time: tf.Tensor,
    h_frequency: tf.Tensor,
    h_central: tf.Tensor | None,
    time_state: State,
    central_state: State,
    weights: LayerWeights,
    dtype: str,
    text: TextAttention | None = None,
    reading: Reading | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None, State, State, tuple[Alignment, AttentionState] | None]:
    """One layer of all stacks over a window; time_state: parts `[batch, F, D]`, central_state: `[batch, D]`. With a
    `reading` the last result is the alignment and the attention's next state."""
    along, time_state = _along_time_from(layer.time, h_time, time_state, weights.time)
    up = _along_bins(layer.up, h_time, weights.up)
    down = tf.reverse(_along_bins(layer.down, tf.reverse(h_time, [2]), weights.down), [2])
    h_time = h_time + linear(tf.concat([along, up, down], axis=-1), weights.to_time, dtype)
    total, read = h_frequency + h_time, None
    if h_central is not None and layer.central is not None:
        assert weights.central is not None and weights.to_central is not None
        output, central_state = layer.central.cell.sequence(h_central, central_state, weights.central.cell)
        h_central = h_central + linear(output, weights.to_central, dtype)
        if text is not None and reading is not None:
            context, alignment, text_state = text.sequence(h_central, *reading)
            h_central, read = h_central + context, (alignment, text_state)
        total = total + h_central[:, :, None]
    output = _along_bins(layer.frequency, total, weights.frequency)
    h_frequency = h_frequency + linear(output, weights.to_frequency, dtype)
    return h_time, h_frequency, h_central, time_state, central_state, read


def transplant(
    source: MelTier,
    target: MelTier,
    source_schema: Schema,
    schema: Schema,
    alphabets: Sequence[Alphabet] | None = None,
) -> None:
    """Copy all weights; the maps of controls by name, the embedding by characters (alphabets: of source and target). A
    control that only the target has starts without effect, a character with the target's own embedding."""
    own = None if target.text is None else keras.ops.convert_to_numpy(target.text.embedding)
    maps = [
        (getattr(source, name), getattr(target, name))
        for name in ("controls_to_time", "controls_to_frequency", "controls_to_central")
    ]
    names = source.config.conditioned_on, target.config.conditioned_on
    if any(theirs is not None and ours is None for theirs, ours in maps):
        raise UsageError("the run to start from is steered by controls: name at least one in conditioned_on")
    copy_weights(source, target, maps, names, source_schema, schema)
    if own is not None and source.text is not None and target.text is not None and alphabets is not None:
        learned = keras.ops.convert_to_numpy(source.text.embedding)
        theirs, ours = (alphabet.characters for alphabet in alphabets)
        rows = [learned[theirs.index(each) + 1] if each in theirs else own[ours.index(each) + 1] for each in ours]
        target.text.embedding.assign(np.concatenate([learned[:1], rows, own[1 + len(rows) :]]))


def split_parameters(outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The output map's `[..., 3 K]` (means, log deviations, logits, as in public implementations) as (logits, means,
    log deviations), the order of `distributions.mixture_nats`."""
    means, log_scales, logits = tf.split(outputs, 3, axis=-1)
    return logits, means, log_scales


def _bins(config: Config, tier: int) -> int:
    """Bins of a tier."""
    return sizes(factors(config.tiers)[0], config.audio.mel_channels, config.tiers)[tier - 1].bins


def _plus(first: tf.Tensor, second: tf.Tensor | None) -> tf.Tensor:
    return first if second is None else first + second


def _along_time_from(rnn: Rnn, inputs: tf.Tensor, state: State, weights: RnnWeights) -> tuple[tf.Tensor, State]:
    """Over the frames of `[batch, T, F, D]`, every bin by itself; state parts `[batch, F, units]`."""
    frames, bins, width = inputs.shape[1:]
    rows = tf.reshape(tf.transpose(inputs, [0, 2, 1, 3]), [-1, frames, width])
    flat = tuple(tf.reshape(part, [-1, part.shape[-1]]) for part in state)
    output, flat = rnn.cell.sequence(rows, flat, weights.cell)
    output = tf.transpose(tf.reshape(output, [-1, bins, frames, output.shape[-1]]), [0, 2, 1, 3])
    return output, tuple(tf.reshape(part, [-1, bins, part.shape[-1]]) for part in flat)


def _along_time(rnn: Rnn, inputs: tf.Tensor, weights: RnnWeights) -> tf.Tensor:
    bins = inputs.shape[2]
    batch = tf.shape(inputs)[0]
    state = tuple(tf.tile(part[None, None], [batch, bins, 1]) for part in weights.initial)
    return _along_time_from(rnn, inputs, state, weights)[0]


def _along_bins(rnn: Rnn, inputs: tf.Tensor, weights: RnnWeights) -> tf.Tensor:
    """Over the bins of `[batch, T, F, D]`, every frame by itself, from the learned initial state."""
    frames, bins, width = inputs.shape[1:]
    rows = tf.reshape(inputs, [-1, bins, width])
    output, _ = rnn.cell.sequence(rows, initial_state(weights, tf.shape(rows)[0]), weights.cell)
    return tf.reshape(output, [-1, frames, bins, output.shape[-1]])
