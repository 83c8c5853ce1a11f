import functools
import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from tierwave.errors import UsageError
from tierwave.nn.distributions import (
    categorical_nats,
    counter_uniform,
    gaussian_nats,
    mixture_nats,
    sample_categorical,
    sample_gaussian,
    sample_mixture,
    standard_normal,
    voice_seeds,
)

LAST = 1.0 - 2.0**-24  # the largest uniform number


def softmax(logits):
    return special.softmax(np.asarray(logits, np.float64), axis=-1)


@functools.cache
def compiled(**filters):
    """By XLA, once for each shape: tests that draw as many codes share it."""
    return tf.function(functools.partial(sample_categorical, **filters), jit_compile=True, autograph=False)


def draw(logits, uniform, temperature=1.0, jit=False, **filters):
    """Codes for one set of logits [levels] and many uniform numbers, or for logits [streams, levels]."""
    logits = np.broadcast_to(np.asarray(logits, np.float32), (len(uniform), np.shape(logits)[-1]))
    function = compiled(**filters) if jit else functools.partial(sample_categorical, **filters)
    temperature = np.broadcast_to(np.float32(temperature), (len(uniform),))
    return function(tf.constant(logits), tf.constant(uniform, tf.float32), tf.constant(temperature)).numpy()


def uniforms(count, seed=0):
    return counter_uniform(voice_seeds(seed, 1), 0, count)[0].numpy()


# Categorical


def test_categorical_nats_is_the_negative_log_softmax():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(0, 5, (3, 4, 50)), rng.integers(0, 50, (3, 4))
    expected = -np.take_along_axis(special.log_softmax(logits, axis=-1), targets[..., None], -1)[..., 0]
    nats = categorical_nats(tf.constant(logits, tf.float32), tf.constant(targets, tf.uint8))
    assert nats.dtype == tf.float32
    np.testing.assert_allclose(nats, expected, rtol=1e-5)
    half = categorical_nats(tf.constant(logits, tf.bfloat16), tf.constant(targets))
    assert half.dtype == tf.float32
    extreme = categorical_nats(tf.constant([[1e4, -1e4]]), tf.constant([1]))
    np.testing.assert_allclose(extreme, [2e4])


@pytest.mark.parametrize("levels", [2, 3, 5, 256, 300, 1000])
def test_the_draw_inverts_the_cumulative_distribution(levels):
    logits = np.random.default_rng(levels).normal(0, 2, levels)
    uniform = np.linspace(0.0, LAST, 4001)
    cumulative = np.cumsum(softmax(logits))
    expected = np.searchsorted(cumulative, uniform, side="right").clip(max=levels - 1)
    codes = draw(logits, uniform)
    # Float32 sums move an edge by some 1e-7, which may put a number that lies on it into the next cell.
    near = np.abs(cumulative[None] - uniform[:, None]).min(axis=1) < 1e-5
    np.testing.assert_array_equal(codes[~near], expected[~near])
    assert near.mean() < 0.1
    assert (np.diff(codes) >= 0).all()


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_draws_are_distributed_as_the_softmax(temperature):
    logits = np.random.default_rng(1).normal(0, 1.5, 60)
    count = 40_000
    observed = np.bincount(draw(logits, uniforms(count), temperature, jit=True), minlength=60)
    expected = softmax(logits / temperature) * count
    rare = expected < 5
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum() + 1e-9)
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_temperature_zero_is_the_argmax_and_mixes_with_other_temperatures():
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 1e-6, (500, 256)).astype(np.float32)  # differences that any soft rule would lose
    temperature = np.where(np.arange(500) % 2 == 0, 0.0, 1.0).astype(np.float32)
    uniform = rng.random(500, dtype=np.float32)
    uniform[0] = LAST
    codes = draw(logits, uniform, temperature)
    greedy = temperature == 0.0
    np.testing.assert_array_equal(codes[greedy], logits[greedy].argmax(axis=-1))
    np.testing.assert_array_equal(codes[~greedy], draw(logits[~greedy], uniform[~greedy]))
    np.testing.assert_array_equal(draw(logits, uniform, temperature, jit=True), codes)
    assert draw([0.0, 3.0, 3.0, 1.0], [LAST], 0.0).tolist() == [1]
    assert draw(np.float32([1e-37, 3e-37, 2e-37]), [0.5], 0.0).tolist() == [1]


def test_tiny_and_huge_temperatures_stay_finite():
    logits = np.random.default_rng(3).normal(0, 1, 256)
    assert draw(logits, [0.9], 1e-20).tolist() == [logits.argmax()]
    codes = draw(logits, np.linspace(0.0, LAST, 256), 1e30)
    np.testing.assert_allclose(codes, np.arange(256), atol=1)


@pytest.mark.parametrize("jit", [False, True])
def test_codes_without_probability_are_never_drawn(jit):
    rng = np.random.default_rng(4)
    for levels in (16, 100, 256):
        logits = rng.normal(0, 3, (500, levels)).astype(np.float32)
        logits[rng.random((500, levels)) < 0.7] = -np.inf
        logits[:, 0] = logits[:, -1] = -np.inf  # both ends
        logits[:, levels // 2] = 0.0
        for uniform in (np.zeros(500), np.full(500, LAST), rng.random(500)):
            codes = draw(logits, uniform, jit=jit)
            assert np.isfinite(logits[np.arange(500), codes]).all()


def test_underflowing_tails_are_never_drawn_and_nothing_leaves_the_range():
    logits = np.full(250, -200.0, np.float32)  # exp(-200) is 0 in float32
    logits[130] = 0.0
    assert set(draw(logits, [0.0, 0.3, LAST])) == {130}
    flat = np.zeros(250, np.float32)
    assert draw(flat, [0.0, LAST]).tolist() == [0, 249]


@pytest.mark.parametrize("filters", [{}, {"top_k": 7}, {"top_p": 0.8}])
def test_compiled_draws_equal_eager_draws(filters):
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 2, (500, 256))
    uniform = rng.random(500, dtype=np.float32)
    temperature = rng.choice(np.float32([0.0, 0.7, 1.0, 1.3]), 500)
    eager = draw(logits, uniform, temperature, **filters)
    np.testing.assert_array_equal(draw(logits, uniform, temperature, jit=True, **filters), eager)


def test_the_draw_works_in_nested_compiled_loops():
    table = tf.constant(np.random.default_rng(6).normal(0, 2, (64, 64)), tf.float32)
    seeds = voice_seeds(1, 3)

    def frame(index, code, made):
        uniform = counter_uniform(seeds, index * 8, 8)

        def sample(inner, code, made):
            code = sample_categorical(tf.gather(table, code), uniform[:, inner], tf.ones([3]))
            return inner + 1, code, made.write(index * 8 + inner, code)

        _, code, made = tf.while_loop(lambda inner, *_: inner < 8, sample, (0, code, made))
        return index + 1, code, made

    @tf.function(jit_compile=True)
    def run():
        made = tf.TensorArray(tf.int32, 40, element_shape=[3])
        return tf.while_loop(lambda index, *_: index < 5, frame, (0, tf.zeros([3], tf.int32), made))[2].stack()

    code, expected = np.zeros(3, int), []
    uniform = counter_uniform(seeds, 0, 40).numpy()
    for step in range(40):
        code = draw(table.numpy()[code], uniform[:, step])
        expected.append(code)
    np.testing.assert_array_equal(run(), expected)


# Top k and top p


@pytest.mark.parametrize(("top_k", "jit"), [(1, False), (2, False), (10, False), (10, True), (255, False)])
def test_top_k_draws_from_the_k_most_likely(top_k, jit):
    logits = np.random.default_rng(7).normal(0, 1, 256).astype(np.float32)
    codes = draw(logits, np.linspace(0.0, LAST, 10_000), jit=jit, top_k=top_k)
    kept = np.argsort(-logits)[:top_k]
    assert set(codes) == set(kept.tolist())
    share = np.bincount(codes, minlength=256)[kept] / len(codes)
    np.testing.assert_allclose(share, softmax(logits[kept]), atol=2e-3)


@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.9, 0.999])
def test_top_p_draws_from_the_smallest_sufficient_set(top_p):
    logits = np.random.default_rng(8).normal(0, 2, 100).astype(np.float32)
    order = np.argsort(-logits)
    mass = np.cumsum(softmax(logits)[order])
    kept = order[: 1 + np.searchsorted(mass, top_p)]
    codes = draw(logits, np.linspace(0.0, LAST, 10_000), top_p=top_p)
    assert set(codes) == set(kept.tolist())


def test_filters_follow_the_temperature_and_each_other():
    logits = np.log(np.float32([0.5, 0.3, 0.15, 0.05]))
    fine = np.linspace(0.0, LAST, 5000)
    assert set(draw(logits, fine, 1.0, top_p=0.75)) == {0, 1}
    assert set(draw(logits, fine, 10.0, top_p=0.75)) == {0, 1, 2}  # flatter: two hold too little
    assert set(draw(logits, fine, 1.0, top_k=2, top_p=0.6)) == {0}  # 0.5 of the 0.8 that top_k leaves
    assert set(draw(logits, fine, 0.0, top_k=3, top_p=0.9)) == {0}


def test_filters_tell_the_nearest_weights_apart():
    logits = np.float32(1.0) - np.arange(40, dtype=np.float32)[::-1] * np.float32(2e-7)
    assert len(np.unique(np.exp(logits - logits.max()))) == 40
    fine = np.linspace(0.0, LAST, 5000)
    assert set(draw(logits, fine, top_k=5)) == {35, 36, 37, 38, 39}
    assert set(draw(logits, fine, top_p=0.2)) == set(range(32, 40))
    tail = np.append(np.zeros(3, np.float32), np.float32([-60.0, -61.0, -62.0]))
    assert set(draw(tail, np.append(fine, 0.5), top_k=4)) <= {0, 1, 2, 3}


def test_filters_keep_what_is_equally_likely():
    assert set(draw([1.0, 2.0, 2.0, 2.0, 0.0], np.linspace(0.0, LAST, 999), top_k=2)) == {1, 2, 3}


def test_filters_that_filter_nothing_change_nothing():
    rng = np.random.default_rng(9)
    logits, uniform = rng.normal(0, 2, (200, 50)), rng.random(200)
    plain = draw(logits, uniform)
    for filters in ({"top_k": 50}, {"top_k": 500}, {"top_p": 1.0}):
        np.testing.assert_array_equal(draw(logits, uniform, **filters), plain)


@pytest.mark.parametrize("filters", [{"top_k": 0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_impossible_filters_are_named(filters):
    (name,) = filters
    with pytest.raises(UsageError, match=f"{name} is "):
        draw([0.0, 1.0], [0.5], **filters)


# Random numbers


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [  # the known answers of Random123 (Salmon et al. 2011) for threefry2x32, 20 rounds
        ((0, 0), (0, 0), 0x6B200159),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), 0x1CB996FC),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), 0xC4923A9C),
    ],
)
def test_uniforms_are_threefry(key, counter, expected):
    seeds = np.array([key], np.uint32).astype(np.int32)
    position = np.array(counter[0] + (counter[1] << 32), np.uint64).astype(np.int64)
    number = counter_uniform(tf.constant(seeds), tf.constant(position), 1)
    assert number.numpy().tolist() == [[(expected >> 8) * 2.0**-24]]


def test_uniforms_depend_on_nothing_but_seed_stream_and_position():
    whole = counter_uniform(voice_seeds(7, 5), 0, 240).numpy()
    for count in (3, 16, 48, 240):
        pieces = [counter_uniform(voice_seeds(7, 5), start, count) for start in range(0, 240, count)]
        np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)
    np.testing.assert_array_equal(counter_uniform(voice_seeds(7, 2), 0, 240), whole[:2])
    other = counter_uniform(voice_seeds(8, 5), 0, 240).numpy()
    assert (other != whole).mean() > 0.99
    later = counter_uniform(voice_seeds(7, 5), 1 << 32, 240).numpy()
    assert (later != whole).mean() > 0.99


def test_uniforms_are_the_same_bits_compiled_and_with_either_type_of_position():
    seeds = voice_seeds(3, 4)
    compiled = tf.function(lambda position: counter_uniform(seeds, position, 1000), jit_compile=True)
    eager = counter_uniform(seeds, 5000, 1000).numpy()
    np.testing.assert_array_equal(compiled(tf.constant(5000, tf.int32)), eager)
    np.testing.assert_array_equal(compiled(tf.constant(5000, tf.int64)), eager)
    far = (1 << 40) + 3
    np.testing.assert_array_equal(
        compiled(tf.constant(far, tf.int64)), counter_uniform(seeds, tf.constant(far, tf.int64), 1000)
    )


def test_uniforms_are_uniform_and_independent_of_neighbours():
    numbers = counter_uniform(voice_seeds(0, 50), 0, 4000).numpy().astype(np.float64)
    assert numbers.min() >= 0.0 and numbers.max() < 1.0
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    counts = np.bincount((numbers.ravel() * 256).astype(int), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-3
    low_bits = (numbers.ravel() * 2**24).astype(int) % 256
    assert stats.chisquare(np.bincount(low_bits, minlength=256)).pvalue > 1e-3
    cells = (numbers * 16).astype(int)
    for pairs in (
        cells[:, :-1] * 16 + cells[:, 1:],  # neighbours in time
        cells[:, :-64] * 16 + cells[:, 64:],  # the same place in the next frame
        cells[:-1] * 16 + cells[1:],  # neighbouring streams
    ):
        assert stats.chisquare(np.bincount(pairs.ravel(), minlength=256)).pvalue > 1e-3
    other = counter_uniform(voice_seeds(1, 50), 0, 4000).numpy()
    correlation = np.corrcoef(numbers.ravel(), other.ravel())[0, 1]
    assert abs(correlation) < 4 / math.sqrt(numbers.size)


def test_seeds_of_all_sizes_give_distinct_streams():
    seeds = [0, 1, 2, -1, 1 << 31, 1 << 32, (1 << 32) + 1, (1 << 63) + 5]
    keys = np.concatenate([voice_seeds(seed, 100) for seed in seeds])
    assert keys.dtype == np.int32 and len(np.unique(keys, axis=0)) == len(keys)
    np.testing.assert_array_equal(voice_seeds(-1, 3), voice_seeds((1 << 64) - 1, 3))


def test_standard_normal_is_the_inverse_of_the_normal_distribution_function():
    uniform = np.concatenate([uniforms(5000), [0.0, 0.25, 0.5, LAST]])
    normal = standard_normal(tf.constant(uniform, tf.float32)).numpy()
    np.testing.assert_allclose(normal, stats.norm.ppf(uniform + 2.0**-25), rtol=2e-5, atol=1e-6)
    assert np.isfinite(normal).all() and normal[-4] == -normal[-1] and 5.0 < normal[-1] < 5.5
    assert stats.kstest(normal[:5000], "norm").pvalue > 1e-3


# Gaussian and mixtures


def test_gaussian_nats_is_the_normal_density_with_a_floor():
    rng = np.random.default_rng(10)
    target, mean, raw = rng.normal(0, 2, (3, 50))
    scale = np.log1p(np.exp(raw)) + 0.01
    nats = gaussian_nats(*(tf.constant(value, tf.float32) for value in (target, mean, raw)), 0.01)
    np.testing.assert_allclose(nats, -stats.norm.logpdf(target, mean, scale), rtol=1e-4, atol=1e-5)
    certain = gaussian_nats(tf.zeros([1]), tf.zeros([1]), tf.constant([-1e4]), 0.01)
    np.testing.assert_allclose(certain, -stats.norm.logpdf(0, 0, 0.01), rtol=1e-5)


def test_gaussian_draws_follow_the_density_and_scale_with_temperature():
    uniform = uniforms(20_000)[None]
    mean, raw = np.full((1, 20_000), 1.5, np.float32), np.full((1, 20_000), 0.3, np.float32)
    scale = math.log1p(math.exp(0.3)) + 0.05
    drawn = sample_gaussian(mean, raw, 0.05, uniform).numpy()[0]
    assert stats.kstest(drawn, "norm", (1.5, scale)).pvalue > 1e-3
    wilder = sample_gaussian(mean, raw, 0.05, uniform, tf.constant([2.0])).numpy()[0]
    np.testing.assert_allclose(wilder - 1.5, 2 * (drawn - 1.5), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(sample_gaussian(mean, raw, 0.05, uniform, 0.0)[0], mean[0])
    two = sample_gaussian(
        tf.zeros([2, 3]), tf.zeros([2, 3]), 0.0, tf.fill([2, 3], 0.9), tf.constant([0.0, 1.0])
    ).numpy()
    assert (two[0] == 0.0).all() and (two[1] > 0.5).all()


def mixture(shape, components=4, seed=11):
    rng = np.random.default_rng(seed)
    return tuple(
        rng.normal(0, spread, (*shape, components)).astype(np.float32) for spread in (1.0, 2.0, 0.7)
    )  # logits, means, log scales


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_mixture_nats_is_the_log_of_the_weighted_densities(floor):
    logits, means, log_scales = mixture((6, 7))
    target = np.random.default_rng(12).normal(0, 3, (6, 7)).astype(np.float32)
    density = (softmax(logits) * stats.norm.pdf(target[..., None], means, np.exp(log_scales) + floor)).sum(-1)
    nats = mixture_nats(tf.constant(target), logits, means, log_scales, floor)
    assert nats.shape == (6, 7)
    np.testing.assert_allclose(nats, -np.log(density), rtol=1e-4, atol=1e-5)


def test_mixture_nats_stays_finite_with_gradients_where_densities_underflow():
    logits = tf.Variable([[0.0, -300.0]])
    means = tf.Variable([[0.0, 100.0]])
    log_scales = tf.Variable([[-50.0, -50.0]])
    with tf.GradientTape() as tape:
        nats = mixture_nats(tf.constant([3.0]), logits, means, log_scales, 0.01)
    assert np.isfinite(nats.numpy()).all() and nats.numpy()[0] > 1e4
    for gradient in tape.gradient(nats, [logits, means, log_scales]):
        assert np.isfinite(gradient.numpy()).all()
    point = mixture_nats(tf.zeros([1]), tf.zeros([1, 1]), tf.zeros([1, 1]), tf.constant([[-1e4]]), 0.01)
    np.testing.assert_allclose(point, -stats.norm.logpdf(0, 0, 0.01), rtol=1e-5)


@pytest.mark.parametrize(("temperature", "bias"), [(1.0, 0.0), (0.5, 0.0), (1.0, 1.5)])
def test_mixture_draws_follow_the_tempered_and_biased_density(temperature, bias):
    count, floor = 20_000, 0.05
    logits, means, log_scales = (np.broadcast_to(part, (1, count, 4)) for part in mixture(()))
    uniform = counter_uniform(voice_seeds(2, 1), 0, 2 * count)
    drawn = sample_mixture(
        logits, means, log_scales, floor, tf.reshape(uniform, [1, count, 2]), temperature, bias
    ).numpy()[0]
    weights = softmax(logits[0, 0] * (1 + bias))
    scales = temperature * (np.exp(log_scales[0, 0] - bias) + floor)

    def distribution(value):
        return (weights * stats.norm.cdf(value[:, None], means[0, 0], scales)).sum(-1)

    assert stats.kstest(drawn, distribution).pvalue > 1e-3


def test_mixture_draws_at_temperature_zero_are_the_mean_of_the_heaviest_component():
    logits, means, log_scales = mixture((3, 20))
    uniform = np.random.default_rng(13).random((3, 20, 2)).astype(np.float32)
    drawn = sample_mixture(logits, means, log_scales, 0.1, uniform, tf.constant([0.0, 1.0, 0.0])).numpy()
    heaviest = np.take_along_axis(means, logits.argmax(-1)[..., None], -1)[..., 0]
    np.testing.assert_array_equal(drawn[[0, 2]], heaviest[[0, 2]])
    assert (drawn[1] != heaviest[1]).all()


def test_loss_and_draw_share_one_density():
    """The mean of the loss over draws is the entropy, which for one component has a closed form."""
    count, floor, log_scale = 20_000, 0.2, -1.0
    parts = [np.full((1, count, 1), value, np.float32) for value in (0.0, 0.7, log_scale)]
    uniform = tf.reshape(counter_uniform(voice_seeds(3, 1), 0, 2 * count), [1, count, 2])
    nats = mixture_nats(sample_mixture(*parts, floor, uniform), *parts, floor)
    entropy = 0.5 * math.log(2 * math.pi * math.e * (math.exp(log_scale) + floor) ** 2)
    np.testing.assert_allclose(np.mean(nats), entropy, atol=0.03)


def test_mixture_draws_compile():
    logits, means, log_scales = mixture((3, 20))
    uniform = np.random.default_rng(14).random((3, 20, 2)).astype(np.float32)
    arguments = (logits, means, log_scales, 0.1, uniform, tf.constant([0.0, 1.0, 0.5]), 0.3)
    compiled = tf.function(sample_mixture, jit_compile=True)(*arguments)
    np.testing.assert_allclose(compiled, sample_mixture(*arguments), rtol=1e-5, atol=1e-6)
