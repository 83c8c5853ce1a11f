"""The network in both forms: equal, causal, and of the size the originals have."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from combinations import covering

import samplernn
from commands import undrawn
from samplernn.config import Config
from samplernn.model import SampleRNN, embed_window
from samplernn.sampler import Sampler
from tierwave.controls.live import Settings

LEVELS = 16
LOOKBACK = {"control": "b", "period": 20.0, "octaves": 2.0, "limit": 24}
AXES = {
    "frame_sizes": ([4, 8], [4], [], [2, 4, 8]),
    "rnn_type": ("gru", "lstm"),
    "gru_reset": ("after", "before"),
    "skip_conn": (False, True, "prism"),
    "weight_norm": (False, True),
    "conditioned_on": ([], ["a", "b"]),
    "learn_h0": (False, True),
    "emb_size": (5, 0),
    "convention": ("prism", "paper"),
    "logit_cap": (None, 3.0),
    "lookback": (None, LOOKBACK),
}


def full_product() -> list[dict]:
    """Every legal combination."""
    combinations = [dict(zip(AXES, values, strict=True)) for values in itertools.product(*AXES.values())]
    return [
        c
        for c in combinations
        if not (c["rnn_type"] == "lstm" and c["gru_reset"] == "before")
        and (c["lookback"] is None or (c["frame_sizes"] and c["conditioned_on"]))
    ]


def chosen(strength: int) -> list[dict]:
    """Few of them in which every pair (2) or every three (3) of their values occur."""
    return [dict(zip(AXES, c, strict=True)) for c in covering([tuple(c.values()) for c in full_product()], strength)]


def make_model(**keys) -> SampleRNN:
    """A tiny model with weights large enough that every part matters."""
    keras.utils.set_random_seed(3)
    config = Config(**{"seq_len": 16, "dim": 6, "num_rnn_layers": 2, "q_levels": LEVELS, "emb_size": 5, **keys})
    model = samplernn.FAMILY.build(config)
    rng = np.random.default_rng(5)
    for variable in model.trainable_variables:
        if "gain" not in variable.path:
            variable.assign(rng.normal(0, 0.4, variable.shape))
    return model


def steered(model: SampleRNN, streams: int, steps: int) -> tuple[np.ndarray | None, Settings]:
    """Controls at random for the sequence form (None without), and settings with them for the generation loops."""
    parameters = len(model.config.conditioned_on)
    controls = np.random.default_rng(8).normal(size=[streams, steps, parameters]).astype(np.float32)
    settings = Settings(controls, np.ones([streams, steps], np.float32), np.zeros([streams, steps], np.int32))
    return controls if parameters else None, settings


def check_step_equals_sequence(keys: dict) -> None:
    """Feed the generation loop forced codes, collect its logits, and compare with the teacher-forced pass."""
    model = make_model(**keys)
    overlap, streams = model.config.history, 3
    rng = np.random.default_rng(7)
    codes = rng.integers(0, LEVELS, [streams, 16]).astype(np.int32)
    seen: list[np.ndarray] = []

    def forced(logits, uniform, temperature, top_k, top_p):
        seen.append(logits.numpy())
        return tf.constant(codes[:, len(seen) - 1])

    sampler = Sampler(model, sample=forced, jit=False)
    weights = model.effective_weights(folded=True)
    start = sampler.start(streams)
    controls, settings = steered(model, streams, 16)
    made, last = sampler.block(weights, start, tf.constant(16), tf.zeros([streams, 2], tf.int32), settings)
    stepped = np.stack(seen, axis=1)
    window = tf.concat([start.window, codes], axis=1)
    whole, state = model.logits(window, model.initial_state(streams), controls=controls)
    np.testing.assert_array_equal(made, codes)
    np.testing.assert_allclose(stepped, whole, atol=1e-5)
    # The carried window is the newest one, which the tiers have not read yet.
    np.testing.assert_array_equal(last.window, window[:, -overlap:])
    for ours, theirs in zip(tf.nest.flatten(last.recurrent), tf.nest.flatten(state), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("keys", chosen(2), ids=str)
def test_step_form_equals_sequence_form(keys):
    check_step_equals_sequence(keys)


@pytest.mark.slow
@pytest.mark.parametrize("keys", chosen(3), ids=str)
def test_step_form_equals_sequence_form_in_every_three(keys):
    check_step_equals_sequence(keys)


@pytest.mark.exhaustive
@pytest.mark.parametrize("keys", full_product(), ids=str)
def test_step_form_equals_sequence_form_in_every_combination(keys):
    check_step_equals_sequence(keys)


@pytest.mark.slow
@pytest.mark.parametrize("keys", [{"frame_sizes": [4, 8]}, {"frame_sizes": []}], ids=str)
def test_xla_draws_the_same_codes(keys):
    model, codes = make_model(**keys, conditioned_on=["a"]), []
    for jit in (False, True):
        sampler = Sampler(model, jit=jit)
        given = tf.constant(32), tf.constant([[0, 0], [0, 1]]), steered(model, 2, 32)[1]
        codes.append(sampler.run(sampler.weights(), sampler.start(2), *given)[0])
    np.testing.assert_array_equal(*codes)


@pytest.mark.parametrize("compiled", [False, True])
def test_lookups_and_their_gradient_are_those_of_plain_gathers(compiled):
    rng = np.random.default_rng(4)
    frame, time = 3, 7
    table = tf.constant(rng.normal(size=[frame, LEVELS, 5]), tf.float32)
    codes = tf.constant(rng.integers(0, LEVELS, [2, frame - 1 + time]), tf.int32)
    upstream = tf.constant(rng.normal(size=[2, time, 5]), tf.float32)

    def both(look):
        with tf.GradientTape() as tape:
            tape.watch(table)
            seen = look(table, codes)
        return seen, tape.gradient(seen, table, output_gradients=upstream)

    def plain(table, codes):
        return tf.add_n([tf.gather(table[tap], codes[:, tap : tap + time]) for tap in range(frame)])

    ours = tf.function(lambda: both(embed_window), autograph=False)() if compiled else both(embed_window)
    for one, other in zip(ours, both(plain), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


STEERED = {"conditioned_on": ["a", "b"], "lookback": LOOKBACK}
CARRIED = [{"frame_sizes": s, "skip_conn": k} for s in ([4, 8], [4], []) for k in (False, True)]


@pytest.mark.parametrize("keys", [*CARRIED, {"frame_sizes": [4, 8], **STEERED}])
def test_windows_carry_state(keys):
    """Two windows one after the other give what one long window gives."""
    model = make_model(**keys)
    overlap = model.config.history
    codes = tf.constant(np.random.default_rng(1).integers(0, LEVELS, [2, overlap + 32]), tf.int32)
    controls, _ = steered(model, 2, 32)
    halves = (None, None) if controls is None else (controls[:, :16], controls[:, 16:])
    whole, last = model.logits(codes, model.initial_state(2), controls=controls)
    first, state = model.logits(codes[:, : overlap + 16], model.initial_state(2), controls=halves[0])
    second, state = model.logits(codes[:, 16:], state, controls=halves[1])
    np.testing.assert_allclose(tf.concat([first, second], axis=1), whole, atol=1e-5)
    for ours, theirs in zip(tf.nest.flatten(state), tf.nest.flatten(last), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("keys", [{"frame_sizes": s} for s in ([4, 8], [2, 4, 8], [4], [])])
def test_causal_by_gradient(keys):
    """A target's logits depend on the code before it, and on no code at or after its own place.

    Codes are integers, so the gradient is taken with respect to one table row per position: every position gets a
    level of its own.
    """
    model = make_model(**{**keys, "q_levels": 40, "emb_size": 40})
    overlap, time = model.config.top_frame, 16
    positions = tf.range(overlap + time)[None]
    weights = model.effective_weights(folded=False)
    scaled = model.scaled(positions)
    targets = (0, 3, 8, 15)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([scaled, weights.sample.table])
        model.scaled = lambda codes: scaled
        logits, _ = model.logits(positions, model.initial_state(1), weights)
        sums = [tf.reduce_sum(logits[0, target] * tf.range(40.0)) for target in targets]
    for target, chosen in zip(targets, sums, strict=True):
        frames, table = tape.gradient(chosen, [scaled, weights.sample.table])
        touched = np.zeros(overlap + time)
        if frames is not None:
            touched += np.abs(frames.numpy()[0])
        touched += np.abs(tf.convert_to_tensor(table).numpy()).sum(axis=(0, 2))[: overlap + time]
        assert touched[overlap + target - 1] > 0
        assert np.all(touched[overlap + target :] == 0)


def test_looking_back_adds_what_stood_one_period_ago_and_nothing_later():
    model = make_model(frame_sizes=[4, 8], **STEERED)
    overlap, target = model.config.history, 13
    controls = tf.fill([1, 16, 2], 0.16)
    lag = 20.0 * 2.0 ** (-2.0 * 0.16)  # samples
    kernel = model.sample_tier.lookback.numpy()
    codes = np.random.default_rng(2).integers(0, LEVELS, [1, overlap + 16]).astype(np.int32)

    def added(place=None):
        """By looking back to the features `[time, dim]`, with the code at a place changed."""
        found, given = [], codes.copy()
        if place is not None:
            given[0, place] = (given[0, place] + LEVELS // 2) % LEVELS
        for weights in (kernel, np.zeros_like(kernel)):
            model.sample_tier.lookback.assign(weights)
            effective = model.effective_weights(folded=False)
            state = model.initial_state(1)
            found.append(model.features(tf.constant(given), state, effective, controls=controls)[0].numpy()[0])
        return found[0] - found[1]

    plain, here = added(), overlap + target
    changes = {place: np.abs(added(place) - plain)[target].max() > 1e-3 for place in range(overlap + 16)}
    seen = [place for place, changed in changes.items() if changed]
    assert here - round(lag) in seen
    assert min(seen) >= here - int(lag) - 6
    assert max(seen) < here


def test_folding_changes_nothing():
    for keys in ({}, {"convention": "paper"}, {"weight_norm": True}):
        model = make_model(frame_sizes=[4, 8], **keys)
        codes = tf.constant(np.random.default_rng(2).integers(0, LEVELS, [2, 24]), tf.int32)
        plain, _ = model.logits(codes, model.initial_state(2), model.effective_weights(folded=False))
        folded, _ = model.logits(codes, model.initial_state(2), model.effective_weights(folded=True))
        np.testing.assert_allclose(plain, folded, atol=1e-5)


def test_lookup_table_is_the_convolution_over_embeddings():
    """Against the original's wording: embed every code, then a valid convolution without bias."""
    model = make_model(frame_sizes=[4, 8])
    codes = tf.constant(np.random.default_rng(2).integers(0, LEVELS, [2, 24]), tf.int32)
    weights = model.effective_weights(folded=False)
    zeros = tuple(tier._replace(upsample=tf.zeros_like(tier.upsample)) for tier in weights.tiers)
    features, _ = model.features(codes, model.initial_state(2), weights._replace(tiers=zeros))
    embedded = tf.gather(model.sample_tier.embedding.value, codes[:, 4:-1])
    convolved = tf.nn.conv1d(embedded, model.sample_tier.window.value, stride=1, padding="VALID")
    np.testing.assert_allclose(features, convolved, atol=1e-5)


@pytest.mark.slow
def test_prism_default_has_prisms_size():
    """78.06 M controls (samplernn spec, 1.2), here by the closed form."""
    dim, levels, layers = 1024, 256, 4
    gru = layers * (2 * dim * 3 * dim + 2 * 3 * dim)
    low = (16 * dim + dim) + gru + 16 * dim * dim
    top = (64 * dim + dim) + gru + 4 * dim * dim
    sample = levels * 256 + 16 * 256 * dim + 2 * (dim * dim + dim) + dim * levels + levels
    with undrawn():
        model = samplernn.FAMILY.build(Config())
    assert model.count_params() == low + top + sample
    assert round(model.count_params() / 1e6, 2) == 78.06


@pytest.mark.parametrize(("emb_size", "expected"), [(7, 16 * 7 + 4 * 7 * 6), (0, 4 * 16 * 6)])
def test_embedding_size_is_honoured(emb_size, expected):
    model = make_model(frame_sizes=[4], emb_size=emb_size)
    tier = model.sample_tier
    size = int(np.prod(tier.window.shape)) + (0 if tier.embedding is None else int(np.prod(tier.embedding.shape)))
    assert size == expected


@pytest.mark.parametrize(("q_type", "emb_size"), [("mu-law", 64), ("linear", 5), ("a-law", 1)])
def test_sinusoidal_embeddings_of_neighbouring_levels_are_alike(q_type, emb_size):
    model = SampleRNN(Config(emb_init="sinusoids", emb_size=emb_size, q_type=q_type, dim=8, num_rnn_layers=1))
    embedding = model.sample_tier.embedding.numpy()
    np.testing.assert_allclose(embedding[:, 0], 0.3 * model.quantizer.table(), atol=1e-7)
    apart = [np.linalg.norm(embedding[levels:] - embedding[:-levels], axis=1).mean() for levels in (1, 10, 100)]
    assert apart[0] < apart[1] < apart[2]


def test_weight_norm_reaches_every_linear_map():
    """Scaling a raw kernel changes nothing when its columns are normalised; gains are trained."""
    model = make_model(frame_sizes=[4, 8], weight_norm=True)
    codes = tf.constant(np.random.default_rng(2).integers(0, LEVELS, [2, 24]), tf.int32)
    before, _ = model.logits(codes, model.initial_state(2))
    kernels = [v for v in model.trainable_variables if len(v.shape) > 1 and "embedding" not in v.path]
    gains = [v for v in model.trainable_variables if v.path.endswith("_gain")]
    assert len(kernels) == len(gains) > 10
    for kernel in kernels:
        kernel.assign(3.0 * kernel.value)
    after, _ = model.logits(codes, model.initial_state(2))
    np.testing.assert_allclose(before, after, atol=1e-5)


def outcome_of(model, *, reset=False, state=None, **training):
    rng = np.random.default_rng(2)
    overlap = model.config.top_frame
    inputs = tf.constant(rng.integers(0, LEVELS, [2, overlap + 16]), tf.int32)
    mask = tf.concat([tf.ones([2, 10]), tf.zeros([2, 6])], axis=1)
    batch = {"inputs": inputs, "targets": inputs[:, overlap:], "mask": mask, "reset": tf.fill([2], reset)}
    return model.loss_sums(batch, model.initial_state(2) if state is None else state, **training), batch


def test_outcome_is_masked_cross_entropy():
    model = make_model(frame_sizes=[4, 8])
    outcome, batch = outcome_of(model)
    logits, _ = model.logits(batch["inputs"], model.initial_state(2))
    probabilities = np.exp(logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True)))
    targets = batch["targets"].numpy()
    picked = np.take_along_axis(probabilities, targets[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(outcome.nats, -np.log(picked[:, :10]).sum(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(outcome.elements, [10, 10])
    guessed = probabilities.argmax(-1)[:, :10] == targets[:, :10]
    np.testing.assert_array_equal(outcome.correct, guessed.sum(axis=1))


def test_reset_starts_a_lane_afresh():
    model = make_model(frame_sizes=[4, 8], learn_h0=True)
    dirty = tf.nest.map_structure(lambda part: part + 5.0, model.initial_state(2))
    fresh, _ = outcome_of(model)
    carried, _ = outcome_of(model, state=dirty)
    reset, _ = outcome_of(model, state=dirty, reset=True)
    np.testing.assert_array_equal(fresh.nats, reset.nats)
    assert np.all(np.abs(fresh.nats - carried.nats) > 1e-3)


def test_learned_initial_state_gets_a_gradient_only_where_a_lane_is_reset():
    model = make_model(frame_sizes=[4], learn_h0=True)
    initial = [v.value for v in model.trainable_variables if "initial" in v.path]
    state = tf.nest.map_structure(lambda part: part + 0.0, model.initial_state(2))
    for reset, expected in ((True, True), (False, False)):
        with tf.GradientTape() as tape:
            outcome, _ = outcome_of(model, state=state, reset=reset)
            loss = tf.reduce_sum(outcome.nats)
        gradients = tape.gradient(loss, initial, unconnected_gradients="zero")
        found = [float(tf.reduce_sum(tf.abs(gradient))) > 0 for gradient in gradients]
        assert found == [expected] * len(initial)


def test_dropout_is_seeded_and_off_without_a_seed():
    model = make_model(frame_sizes=[4, 8], rnn_dropout=0.5)
    still, _ = outcome_of(model)
    again, _ = outcome_of(model)
    one, _ = outcome_of(model, dropout_seed=tf.constant([1, 2]))
    same, _ = outcome_of(model, dropout_seed=tf.constant([1, 2]))
    other, _ = outcome_of(model, dropout_seed=tf.constant([1, 3]))
    np.testing.assert_array_equal(still.nats, again.nats)
    np.testing.assert_array_equal(one.nats, same.nats)
    assert np.all(np.abs(one.nats - still.nats) > 1e-4)
    assert np.all(np.abs(one.nats - other.nats) > 1e-4)


def test_noise_is_on_the_inputs_only_in_training_and_follows_the_seed():
    model = make_model(frame_sizes=[4, 8])
    still, _ = outcome_of(model)
    untrained, _ = outcome_of(model, input_noise=0.5)
    one, _ = outcome_of(model, dropout_seed=tf.constant([1, 2]), input_noise=0.5)
    same, _ = outcome_of(model, dropout_seed=tf.constant([1, 2]), input_noise=0.5)
    other, _ = outcome_of(model, dropout_seed=tf.constant([1, 3]), input_noise=0.5)
    without, _ = outcome_of(model, dropout_seed=tf.constant([1, 2]), input_noise=0.0)
    np.testing.assert_array_equal(untrained.nats, still.nats)
    np.testing.assert_array_equal(without.nats, still.nats)
    np.testing.assert_array_equal(one.nats, same.nats)
    assert np.all(np.abs(one.nats - still.nats) > 1e-4)
    assert np.all(np.abs(one.nats - other.nats) > 1e-4)


def test_noise_leaves_silence_as_it_is():
    model, heard = make_model(frame_sizes=[4, 8]), []
    codes = np.full([1, 8 + 16], model.quantizer.silence, np.int32)
    codes[0, 16:] = np.random.default_rng(3).integers(0, LEVELS, 8)
    logits = model.logits
    model.logits = lambda codes, *rest, **more: heard.append(codes.numpy()) or logits(codes, *rest, **more)
    batch = {"inputs": tf.constant(codes), "targets": tf.constant(codes[:, 8:]), "mask": tf.ones([1, 16])}
    batch["reset"] = tf.constant([True])
    model.loss_sums(batch, model.initial_state(1), dropout_seed=tf.constant([1, 2]), input_noise=4.0)
    silent = codes == model.quantizer.silence
    np.testing.assert_array_equal(heard[0][silent], codes[silent])
    assert np.mean(heard[0][~silent] != codes[~silent]) > 0.5


def test_paper_convention_initialises_as_the_paper():
    keras.utils.set_random_seed(0)
    model = samplernn.FAMILY.build(
        Config(dim=64, rnn_type="lstm", num_rnn_layers=1, convention="paper", frame_sizes=[16])
    )
    layer = model.tiers[0].stack.layers[0]
    assert model.tiers[0].project is None and layer.inputs == 16
    np.testing.assert_array_equal(layer.bias.numpy()[64:128], 3.0)
    assert np.abs(layer.kernel.numpy()).max() <= (3 / 16) ** 0.5
    gru = samplernn.FAMILY.build(
        Config(dim=64, num_rnn_layers=1, convention="paper", frame_sizes=[16], gru_reset="before")
    )
    kernel = gru.tiers[0].stack.layers[0].recurrent_kernel.numpy()
    np.testing.assert_allclose(kernel[:, 128:] @ kernel[:, 128:].T, np.eye(64), atol=1e-5)
    assert np.abs(kernel[:, :128]).max() <= (3 / 64) ** 0.5
