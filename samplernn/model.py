"""The SampleRNN network: frame tiers over a sample-level perceptron, any number of tiers.

One set of weights in two forms: `SampleRNN.logits` runs whole windows (training, likelihoods), `samplernn.sampler` the
same tiers step by step. Both use `effective_weights`, in which the sample tier's first map is a lookup table.

Layout of a window with frame sizes F = [4, 16], seq_len 32 (overlap = top frame = 16, more where the network looks back
one period; codes `[batch, 16 + 32]`):

    index            0         16        32        48
    codes            |overlap  |targets            |
    top tier, F=16   |frame 0  |frame 1  |                  conditions targets 16-31 and 32-47
    low tier, F=4            ....|....|....|....|...         each frame ends right before the four targets it conditions
    sample tier              windows of the 4 samples before each target

So a target at position a depends on samples up to a-1 only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from samplernn.config import Config
from tierwave.audio.lookback import OFFSETS
from tierwave.audio.quantize import Quantizer
from tierwave.config import validate
from tierwave.controls.schema import Schema
from tierwave.controls.transfer import copy_weights
from tierwave.errors import UsageError
from tierwave.nn.distributions import LossSums, categorical_nats
from tierwave.nn.linear import Linear, NormalisableLayer, encoded, fan_in_uniform, linear, matmul, weights_of, width_of
from tierwave.nn.lookback import found_lags, lags, past_codes
from tierwave.nn.noise import with_drift
from tierwave.nn.recurrent import RecurrentStack, StackState, StackWeights, reset_lanes

_STEERED = "the run to start from is steered by controls: name at least one in conditioned_on"

ModelState = tuple[StackState, ...]  # one stack state per recurrent tier, top tier first


class FrameWeights(NamedTuple):
    """Effective weights of a frame tier.

    upsample: a kernel `[dim, ratio * dim]`; its bias `[ratio * dim]` or None.
    steer: the map of the controls, or None.
    """

    project: tuple[tf.Tensor, tf.Tensor | None] | None
    stack: StackWeights
    upsample: tf.Tensor
    upsample_bias: tf.Tensor | None
    steer: tuple[tf.Tensor, tf.Tensor | None] | None = None


class SampleWeights(NamedTuple):
    """Effective weights of the sample tier.

    table `[frame, levels, dim]`: the embedding of each of the last `frame` samples, oldest first; lookback `[offsets,
    levels, dim]`: the same of what stood one period ago (see `tierwave.audio.lookback`). Folded: both tables, `steer`
    and the lowest frame tier's upsampling include the first hidden map, of which only the bias remains; not
    folded: `hidden[0]` is still to be applied. steer: the map of the controls, or None.
    """

    table: tf.Tensor
    stack: StackWeights | None
    hidden: tuple[tuple[tf.Tensor, tf.Tensor | None], ...]
    logits: tuple[tf.Tensor, tf.Tensor | None]
    folded_bias: tf.Tensor | None
    steer: tuple[tf.Tensor, tf.Tensor | None] | None = None
    lookback: tf.Tensor | None = None


class ModelWeights(NamedTuple):
    """All effective weights of a SampleRNN as plain tensors; top tier first."""

    tiers: tuple[FrameWeights, ...]
    sample: SampleWeights


def _linear_initializer(config: Config, inputs: int) -> Any:
    return fan_in_uniform(inputs, 2.0**0.5) if config.convention == "paper" else "glorot_uniform"


class PaperRecurrentKernel(keras.initializers.Initializer):
    """The original's recurrent kernels: LeCun uniform, but orthogonal for a GRU's candidate (lib/ops.py, 333-369)."""

    def __call__(self, shape: tuple[int, int], dtype: Any = None) -> Any:
        units, width = shape
        lecun = keras.initializers.LecunUniform()
        if width != 3 * units:
            return lecun(shape, dtype)
        candidate = keras.initializers.Orthogonal()((units, units), dtype)
        return keras.ops.concatenate([lecun((units, 2 * units), dtype), candidate], axis=1)


def _make_stack(config: Config, inputs: int, compute_dtype: str, fused: bool) -> RecurrentStack:
    paper = config.convention == "paper"
    return RecurrentStack(
        inputs,
        config.dim,
        config.num_rnn_layers,
        cell=config.rnn_type,
        reset=config.gru_reset,
        skip=config.skip_conn,
        dropout=config.rnn_dropout,
        weight_norm=config.weight_norm,
        learn_initial_state=config.learn_h0,
        forget_bias=3.0 if paper else 1.0,
        kernel_initializer=keras.initializers.LecunUniform if paper else "glorot_uniform",
        recurrent_initializer=PaperRecurrentKernel if paper else "orthogonal",
        output_initializer="he_uniform",
        compute_dtype=compute_dtype,
        fused=fused,
        recompute=config.recompute,
        name="rnn",
    )


def _make_steer(config: Config, outputs: int) -> Linear | None:
    """The map of the controls to what they add to a tier."""
    if not config.conditioned_on:
        return None
    inputs = width_of(config.control_inputs)
    return Linear(inputs, outputs, initializer=_linear_initializer(config, inputs), name="steer")


class FrameTier(NormalisableLayer):
    """An RNN over frames of `frame_size` samples whose output conditions the `ratio` steps of the tier below."""

    def __init__(self, config: Config, frame_size: int, ratio: int, *, top: bool, compute_dtype: str, fused: bool):
        super().__init__(weight_norm=config.weight_norm, name=f"frame_tier_{frame_size}")
        paper = config.convention == "paper"
        self.frame_size, self.ratio, self.dim, self.product_dtype = frame_size, ratio, config.dim, compute_dtype
        self.project = None
        if not (paper and top):
            self.project = Linear(
                frame_size,
                config.dim,
                weight_norm=config.weight_norm,
                initializer=_linear_initializer(config, frame_size),
                name="project",
            )
        inputs = config.dim if self.project else frame_size
        self.stack = _make_stack(config, inputs, compute_dtype, fused)
        self.steer = _make_steer(config, inputs)
        # PRiSM's transposed convolution is `ratio` linear maps side by side, initialised with the fans of all of them.
        initializer = (
            _linear_initializer(config, config.dim)
            if paper
            else keras.initializers.VarianceScaling(1.0 / ratio, mode="fan_in", distribution="truncated_normal")
        )
        self.upsample = self.add_kernel("upsample", (config.dim, ratio * config.dim), initializer)
        self.upsample_bias = None
        if paper:
            self.upsample_bias = self.add_weight(name="upsample_bias", shape=(ratio * config.dim,), initializer="zeros")
        self.built = True

    def effective_weights(self) -> FrameWeights:
        """Effective weights as tensors."""
        return FrameWeights(
            weights_of(self.project),
            weights_of(self.stack),
            self.effective("upsample"),
            weights_of(self.upsample_bias),
            weights_of(self.steer),
        )

    def rnn_input(
        self,
        frames: tf.Tensor,
        condition: tf.Tensor | None,
        weights: FrameWeights,
        control_term: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The RNN's input: scaled frames `[..., frame_size]`, projected, plus the output of the tier above and the
        control term, both of the same shape."""
        total = frames if weights.project is None else linear(frames, weights.project)
        for part in (condition, control_term):
            total = total if part is None else total + part
        return total

    def add_constant(self, constant: np.ndarray) -> None:
        """Add what a map of controls added all the time, `[inputs of the RNN]`. UsageError where there is no bias."""
        if self.project is None or self.project.bias is None:
            raise UsageError(_STEERED)
        self.project.bias.assign_add(constant)

    def control_term(self, controls: tf.Tensor | None, weights: FrameWeights) -> tf.Tensor | None:
        """What controls `[..., controls]` add: those at the first sample that a frame conditions."""
        if controls is None or weights.steer is None:
            return None
        return linear(controls, weights.steer)

    def upsampled(self, outputs: tf.Tensor, weights: FrameWeights) -> tf.Tensor:
        """RNN outputs `[..., dim]` -> conditioning of the steps below `[..., ratio, width]`."""
        wide = matmul(outputs, weights.upsample, self.product_dtype)
        if weights.upsample_bias is not None:
            wide = wide + weights.upsample_bias
        lead = [-1 if size is None else size for size in outputs.shape[:-1]]
        return tf.reshape(wide, [*lead, self.ratio, wide.shape[-1] // self.ratio])


class SinusoidalEmbedding(keras.initializers.Initializer):
    """Embeddings `[levels, width]` in which neighbouring levels are alike, so that a network need not learn their
    order: the amplitude, the level on a line from -1 to 1, then sines and cosines of it, as Vaswani et al. (2017)
    encode positions, from half a period over all levels to 64 periods, each divided by the root of its frequency."""

    def __init__(self, quantizer: Quantizer):
        self.quantizer = quantizer

    def __call__(self, shape: tuple[int, int], dtype: Any = None) -> Any:
        levels, width = shape
        line = np.linspace(-1.0, 1.0, levels)
        columns = [self.quantizer.table().astype(np.float64), line]
        for frequency in np.geomspace(0.5, 64.0, max(1, (width - 1) // 2)):
            phase = np.pi * frequency * line
            columns += [np.sin(phase) / frequency**0.5, np.cos(phase) / frequency**0.5]
        return keras.ops.convert_to_tensor(0.3 * np.stack(columns[:width], axis=1), dtype=dtype)


class SampleTier(NormalisableLayer):
    """A perceptron over the last `frame_size` samples and the tiers above, which gives the next sample's logits.

    Its first layer is a convolution over embeddings in the original; here an exact lookup table, which is many times
    cheaper: `table[position, level] = embedding[level] @ kernel[position]`. Without frame tiers above, an RNN over
    single samples takes their place.
    """

    def __init__(self, config: Config, *, compute_dtype: str, fused: bool):
        super().__init__(weight_norm=config.weight_norm, name="sample_tier")
        paper = config.convention == "paper"
        self.frame_size, self.levels, self.dim = config.sample_frame, config.q_levels, config.dim
        self.product_dtype = compute_dtype
        self.embedding = None
        width = config.q_levels
        if config.emb_size:
            width = config.emb_size
            random = (
                keras.initializers.RandomNormal(stddev=1.0) if paper else keras.initializers.RandomUniform(-0.05, 0.05)
            )
            self.embedding = self.add_weight(
                name="embedding",
                shape=(config.q_levels, width),
                initializer=random
                if config.emb_init == "random"
                else SinusoidalEmbedding(Quantizer(config.q_type, config.q_levels)),
            )
        fan_in = self.frame_size * width
        limit = (6.0 / fan_in if paper else 6.0 / (fan_in + self.frame_size * config.dim)) ** 0.5
        self.window = self.add_kernel(
            "window", (self.frame_size, width, config.dim), keras.initializers.RandomUniform(-limit, limit)
        )
        self.lookback = None
        if config.lookback is not None:  # without effect at first
            shape = (len(OFFSETS), width, config.dim)
            self.lookback = self.add_weight(name="lookback", shape=shape, initializer="zeros")
        self.stack = None if config.frame_sizes else _make_stack(config, config.dim, compute_dtype, fused)
        self.steer = _make_steer(config, config.dim)
        self.hidden = [
            Linear(
                config.dim,
                config.dim,
                weight_norm=config.weight_norm,
                initializer=_linear_initializer(config, config.dim),
                name=f"hidden_{layer}",
            )
            for layer in range(2)
        ]
        self.to_logits = Linear(
            config.dim,
            config.q_levels,
            weight_norm=config.weight_norm,
            initializer=keras.initializers.LecunUniform() if paper else "glorot_uniform",
            name="logits",
        )
        self.built = True

    def effective_weights(self) -> SampleWeights:
        """Effective weights as tensors, not folded."""
        table = self._embedded(self.effective("window"))
        return SampleWeights(
            table,
            weights_of(self.stack),
            weights_of(self.hidden),
            weights_of(self.to_logits),
            None,
            weights_of(self.steer),
            None if self.lookback is None else self._embedded(tf.convert_to_tensor(self.lookback)),
        )

    def _embedded(self, kernel: tf.Tensor) -> tf.Tensor:
        """A kernel `[frame, width, dim]` of embeddings as a table `[frame, levels, dim]`."""
        if self.embedding is None:
            return kernel
        embedding, dtype = tf.convert_to_tensor(self.embedding), self.product_dtype
        return tf.cast(tf.einsum("le,fed->fld", tf.cast(embedding, dtype), tf.cast(kernel, dtype)), tf.float32)

    def add_constant(self, constant: np.ndarray) -> None:
        """Add what a map of controls added all the time, `[dim]`. UsageError where an RNN stands behind it."""
        first = self.hidden[0]
        if self.stack is not None or first.bias is None:
            raise UsageError(_STEERED)
        first.bias.assign_add(tf.linalg.matvec(first.effective_weights()[0], constant, transpose_a=True))


def embed_window(table: tf.Tensor, codes: tf.Tensor) -> tf.Tensor:
    """The sum of the last `frame` samples' embeddings: codes `[batch, frame - 1 + time]` -> `[batch, time, dim]`;
    table: `[frame, levels, dim]`."""
    time = codes.shape[1] - table.shape[0] + 1
    return _embed(table, lambda tap: tf.slice(codes, [0, tap], [-1, time]))


def embed_taps(table: tf.Tensor, codes: tf.Tensor) -> tf.Tensor:
    """The sum of embeddings: codes `[taps, batch, time]` -> `[batch, time, dim]`; table: `[taps, levels, dim]`."""
    return _embed(table, lambda tap: codes[tap])


def _embed(table: tf.Tensor, codes_of: Callable[[int | tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """The sum over taps of `table[tap, codes]`. A loop adds one tap after another: XLA would compute a sum of all
    gathers twice, for the rectifier and for its gradient, from stored gathers. The gradient is one segment sum per tap.
    Both are compiled by XLA even where the rest of the step is not: TensorFlow's gather and scatter take five times as
    long, and their order of summation varies.
    """
    taps, levels, _ = table.shape

    def forward(table: tf.Tensor) -> tf.Tensor:
        def add(tap: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return tap + 1, total + tf.gather(table[tap], codes_of(tap))

        first = (tf.constant(1), tf.gather(table[0], codes_of(0)))
        return tf.while_loop(lambda tap, _: tap < taps, add, first, maximum_iterations=taps - 1)[1]

    def backward(upstream: tf.Tensor) -> tf.Tensor:
        return tf.stack([tf.math.unsorted_segment_sum(upstream, codes_of(tap), levels) for tap in range(taps)])

    @tf.custom_gradient
    def run(table: tf.Tensor) -> tuple[tf.Tensor, Any]:
        return _compiled(forward)(table), _compiled(backward)

    return run(table)


def _compiled(function: Any) -> Any:
    """With XLA inside a graph; unchanged in eager code, where every call would be compiled again."""
    return tf.function(function, jit_compile=True, autograph=False) if tf.inside_function() else function


@keras.saving.register_keras_serializable("tierwave")
class SampleRNN(keras.Model):
    """The network of `Config` (Mehri et al. 2017): codes in, logits out, state passed in and out.

    `model(codes)` or `model({"inputs": codes, "controls": ...})` begins with new lanes; `model(inputs, state)`
    continues from a state, and returns the next one too.

    compute_dtype: of matrix products (float32, bfloat16, float16); sums, states, logits and losses stay float32, and so
    do maps of sound and controls. fused: run the RNNs' sequences by Keras' layers (cuDNN on a GPU; not under XLA).
    """

    def __init__(self, config: Config, *, compute_dtype: str = "float32", fused: bool = False):
        super().__init__(name="samplernn", dtype="float32")
        self.unit, self.has_accuracy, self.steps_are = "bits", True, "samples"
        self.config, self.fused = config, fused
        self.quantizer = Quantizer(config.q_type, config.q_levels)
        self.reach = 0 if config.lookback is None else config.lookback.limit
        self.product_dtype = compute_dtype
        descending = list(reversed(config.frame_sizes))
        self.tiers = [
            FrameTier(
                config,
                size,
                size // descending[index + 1] if index + 1 < len(descending) else size,
                top=index == 0,
                compute_dtype=compute_dtype,
                fused=fused,
            )
            for index, size in enumerate(descending)
        ]
        self.sample_tier = SampleTier(config, compute_dtype=compute_dtype, fused=fused)
        self.built = True

    def call(
        self,
        inputs: Any,
        state: ModelState | None = None,
        training: bool = False,
        dropout_seed: tf.Tensor | None = None,
    ) -> Any:
        """Teacher-forced logits `[batch, time, levels]`; with a state given, the pair of them and the next state.

        inputs: codes int32 `[batch, overlap + time]` (overlap: `config.history`), or a dict of them as "inputs" and
        of "controls", float32 `[batch, overlap + time, controls]`. dropout_seed: int32 `[2]`, for dropout in training.
        """
        inputs = inputs if isinstance(inputs, dict) else {"inputs": inputs}
        codes = tf.convert_to_tensor(inputs["inputs"])
        controls = None
        if self.config.conditioned_on:
            controls = tf.convert_to_tensor(inputs["controls"])[:, self.config.history :]
        before = self.initial_state(tf.shape(codes)[0]) if state is None else state
        weights = self.effective_weights(folded=self._folds(codes))
        seed = dropout_seed if training else None
        logits, after = self.logits(codes, before, weights, controls=controls, dropout_seed=seed)
        return logits if state is None else (logits, after)

    def _folds(self, codes: tf.Tensor) -> bool:
        """Whether folding pays: it costs frame * (levels + dim) rows of a dim x dim product, and saves one a sample."""
        samples = (codes.shape[0] or 0) * (codes.shape[1] - self.config.history)
        return samples > self.config.sample_frame * (self.config.q_levels + self.config.dim)

    def get_config(self) -> dict[str, Any]:
        """What `from_config` makes the same network of, as JSON; without weights."""
        return {
            "config": self.config.model_dump(mode="json"),
            "compute_dtype": self.product_dtype,
            "fused": self.fused,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> SampleRNN:
        """A network with new weights."""
        options = {key: value for key, value in config.items() if key != "config"}
        return cls(validate(Config, config["config"], "get_config()"), **options)

    def initial_state(self, batch: int | tf.Tensor) -> ModelState:
        """The state before the first sample of a recording, for `batch` lanes."""
        stacks = [tier.stack for tier in self.tiers]
        if self.sample_tier.stack is not None:
            stacks.append(self.sample_tier.stack)
        return tuple(stack.initial_state(batch) for stack in stacks)

    def effective_weights(self, *, folded: bool) -> ModelWeights:
        """All effective weights as plain tensors.

        folded: multiply the table, the controls' map and the lowest upsampling by the sample tier's first hidden map,
        which is exact since nothing non-linear stands between; saves a dim x dim product per sample and costs frame *
        (levels + dim) of them once.
        """
        tiers, sample = weights_of(self.tiers), self.sample_tier.effective_weights()
        if folded and tiers:
            kernel, bias = sample.hidden[0]
            lowest, ratio, dim = tiers[-1], self.tiers[-1].ratio, self.config.dim
            dtype = self.product_dtype
            upsample = tf.reshape(lowest.upsample, [dim, ratio, dim])
            upsample_bias = lowest.upsample_bias
            if upsample_bias is not None:
                upsample_bias = tf.reshape(matmul(tf.reshape(upsample_bias, [ratio, dim]), kernel, dtype), [-1])
            lowest = lowest._replace(
                upsample=tf.reshape(matmul(upsample, kernel, dtype), [dim, ratio * dim]),
                upsample_bias=upsample_bias,
            )
            tiers = (*tiers[:-1], lowest)
            sample = sample._replace(
                table=matmul(sample.table, kernel, dtype),
                lookback=None if sample.lookback is None else matmul(sample.lookback, kernel, dtype),
                hidden=sample.hidden[1:],
                folded_bias=bias,
            )
            if sample.steer is not None:
                steer, steer_bias = sample.steer
                if steer_bias is not None:
                    steer_bias = matmul(steer_bias[None], kernel, dtype)[0]
                sample = sample._replace(steer=(matmul(steer, kernel, dtype), steer_bias))
        return ModelWeights(tiers, sample)

    def scaled(self, codes: tf.Tensor) -> tf.Tensor:
        """Codes as the input of frame tiers, in [-2, 2)."""
        return (tf.cast(codes, tf.float32) / (self.config.q_levels / 2) - 1.0) * 2.0

    def logits(
        self,
        codes: tf.Tensor,
        state: ModelState,
        weights: ModelWeights | None = None,
        *,
        controls: tf.Tensor | None = None,
        dropout_seed: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, ModelState]:
        """Teacher-forced logits of a window.

        codes: int32 `[batch, overlap + time]`, the first `overlap` (`config.history`) of them context; controls:
        float32 `[batch, time, controls]` of the codes after it. Returns logits `[batch, time, levels]` of the codes
        after the overlap, and the state after the window.
        """
        weights = self.effective_weights(folded=False) if weights is None else weights
        features, state = self.features(codes, state, weights, controls=controls, dropout_seed=dropout_seed)
        return self.perceptron(features, weights.sample), state

    def features(
        self,
        codes: tf.Tensor,
        state: ModelState,
        weights: ModelWeights,
        *,
        controls: tf.Tensor | None = None,
        dropout_seed: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, ModelState]:
        """The perceptron's input `[batch, time, dim]` for the codes after the overlap, and the state."""
        overlap, frame = self.config.history, self.config.sample_frame
        time, step = codes.shape[1] - overlap, self.config.top_frame
        scaled = self.scaled(codes)
        past = None
        if self.reach:
            found = found_lags(codes, overlap + tf.range(0, time, step), self.quantizer.table(), self.reach)
            past = self.past(codes, overlap + tf.range(time), tf.repeat(found, step, axis=1), controls)
        if controls is not None:
            controls = encoded(controls, self.config.control_inputs)
        condition: tf.Tensor | None = None
        states = []
        for index, (tier, tier_weights) in enumerate(zip(self.tiers, weights.tiers, strict=True)):
            size = tier.frame_size
            frames = tf.reshape(scaled[:, overlap - size : overlap - size + time], [-1, time // size, size])
            seed = None if dropout_seed is None else tf.random.experimental.stateless_fold_in(dropout_seed, index)
            term = tier.control_term(None if controls is None else controls[:, ::size], tier_weights)
            outputs, tier_state = tier.stack.sequence(
                tier.rnn_input(frames, condition, tier_weights, term),
                state[index],
                tier_weights.stack,
                dropout_seed=seed,
            )
            condition = tier.upsampled(outputs, tier_weights)
            condition = tf.reshape(condition, [-1, time // size * tier.ratio, condition.shape[-1]])
            states.append(tier_state)
        start = overlap - frame
        features = embed_window(weights.sample.table, codes[:, start : start + frame + time - 1])
        if past is not None:
            stood, known = past
            features = features + known[..., None] * embed_taps(weights.sample.lookback, stood)
        if controls is not None and weights.sample.steer is not None:
            features = features + linear(controls, weights.sample.steer)
        stack, stack_weights = self.sample_tier.stack, weights.sample.stack
        if stack is None or stack_weights is None:
            return features + condition, tuple(states)
        features, stack_state = stack.sequence(features, state[0], stack_weights, dropout_seed=dropout_seed)
        return features, (stack_state,)

    def past(
        self, codes: tf.Tensor, at: tf.Tensor, found: tf.Tensor, controls: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """What stood one period before the samples `at` of codes `[batch, samples]`: codes `[offsets, batch, time]`,
        and float32 `[batch, time]`, 0 where there is no period, else 1.

        found: lags `[batch, time]` in the sound, for where controls `[batch, time, controls]` in 0 ... 1 tell none.
        """
        lag = found
        told_by = self.config.lag
        if told_by is not None and controls is not None:
            column, *line = told_by
            told = lags(controls[..., column], *line)
            lag = tf.where(told > 0.0, told, found)
        return past_codes(codes, at, lag, self.quantizer.table()), tf.cast(lag > 0.0, tf.float32)

    def perceptron(self, features: tf.Tensor, weights: SampleWeights) -> tf.Tensor:
        """The sample tier behind its first layer: `features [..., dim]` -> logits `[..., levels]`."""
        if weights.folded_bias is not None:
            features = tf.nn.relu(features + weights.folded_bias)
        for layer in weights.hidden:
            features = tf.nn.relu(linear(features, layer, self.product_dtype))
        logits = linear(features, weights.logits, self.product_dtype)
        cap = self.config.logit_cap
        return logits if cap is None else cap * tf.tanh(logits / cap)

    def loss_sums(
        self,
        batch: dict[str, tf.Tensor],
        state: ModelState,
        *,
        dropout_seed: tf.Tensor | None = None,
        input_noise: float = 0.0,
    ) -> LossSums:
        """Likelihood of a batch of windows; each lane continues from its state.

        batch: `inputs` int32 `[batch, overlap + time]`, `targets` int32 `[batch, time]`, `mask` float32 `[batch, time]`
        (0 for padding), `reset` bool `[batch]` (true where a new recording starts), and `controls` float32 `[batch,
        overlap + time, controls]` if there are any. In training only: dropout_seed, the seed of all random numbers;
        input_noise, the width of `with_drift`. Loss in nats.
        """
        mask = batch["mask"]
        state = reset_lanes(state, self.initial_state(tf.shape(mask)[0]), batch["reset"])
        inputs = {name: batch[name] for name in ("inputs", "controls") if name in batch}
        if dropout_seed is not None and input_noise > 0.0:
            sound = self.quantizer.decode_tensor(inputs["inputs"])
            seed = tf.random.experimental.stateless_fold_in(dropout_seed, 101)
            noisy = self.quantizer.encode_tensor(with_drift(sound, input_noise, seed))
            # Silence stays what it is in generation: or sound would only be learned to begin from noise.
            silent = tf.equal(inputs["inputs"], self.quantizer.silence)
            inputs["inputs"] = tf.where(silent, inputs["inputs"], noisy)
        logits, state = self(inputs, state, training=dropout_seed is not None, dropout_seed=dropout_seed)
        targets = batch["targets"]
        nats = categorical_nats(logits, targets) * mask
        guesses = tf.argmax(logits, axis=-1, output_type=tf.int32)
        correct = tf.cast(tf.equal(guesses, targets), tf.float32) * mask
        return LossSums(tf.reduce_sum(nats, axis=1), tf.reduce_sum(correct, axis=1), tf.reduce_sum(mask, axis=1), state)


def transplant(
    source: SampleRNN, target: SampleRNN, source_schema: Schema, schema: Schema, absent: float = 0.5
) -> None:
    """Copy all weights; the maps of controls by name.

    A control that only the target has starts without effect, and so does the sample tier's looking back. A control that
    only the source has is held at `absent`, within its range of 0 ... 1; what it adds there goes to the biases where
    the target has no controls at all.
    """
    tiers = zip([*source.tiers, source.sample_tier], [*target.tiers, target.sample_tier], strict=True)
    maps = [(theirs.steer, ours.steer) for theirs, ours in tiers]
    theirs, ours = source.sample_tier.lookback, target.sample_tier.lookback
    if theirs is not None and ours is not None:
        ours.assign(theirs)
    names = source.config.conditioned_on, target.config.conditioned_on
    apart = [weight for weight in (theirs, ours) if weight is not None]
    constants = copy_weights(source, target, maps, names, source_schema, schema, absent, apart=apart)
    for tier, constant in zip([*target.tiers, target.sample_tier], constants, strict=True):
        if constant is not None:
            tier.add_constant(constant)
