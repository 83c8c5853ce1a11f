import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tierwave.audio.quantize import Quantizer
from tierwave.errors import UsageError

TYPES = ["mu-law", "a-law", "linear", "mu-law-floor"]
SIXTEEN_BIT = (np.arange(-32768, 32769) / 32768).astype(np.float32)  # what a 16-bit file can hold, and +1


def companded(q_type: str, x: float, mu: int) -> float:
    """The textbook formulas for one number: ITU-T G.711 and its continuous mu-law."""
    size = min(abs(x), 1.0)
    if q_type == "mu-law":
        y = math.log(1 + mu * size) / math.log(1 + mu)
    elif size < 1 / 87.6:
        y = 87.6 * size / (1 + math.log(87.6))
    else:
        y = (1 + math.log(87.6 * size)) / (1 + math.log(87.6))
    return math.copysign(y, x)


@pytest.mark.parametrize("q_type", ["mu-law", "a-law"])
@pytest.mark.parametrize("levels", [2, 3, 16, 255, 256, 1000, 65536])
def test_companding_follows_the_textbook_formula(q_type, levels):
    audio = np.random.default_rng(1).uniform(-1.2, 1.2, 400)
    expected = [int((companded(q_type, x, levels - 1) + 1) / 2 * (levels - 1) + 0.5) for x in audio]
    np.testing.assert_array_equal(Quantizer(q_type, levels).encode(audio), expected)


def test_mu_law_at_256_levels_is_prisms_on_every_16_bit_amplitude():
    audio = tf.constant(SIXTEEN_BIT)
    magnitude = tf.math.log1p(255.0 * tf.minimum(tf.abs(audio), 1.0)) / tf.math.log1p(255.0)
    prism = tf.cast((tf.sign(audio) * magnitude + 1.0) / 2.0 * 255.0 + 0.5, tf.int32)
    np.testing.assert_array_equal(Quantizer("mu-law", 256).encode(SIXTEEN_BIT), prism.numpy())


def test_mu_law_decodes_like_prism():
    y = 2.0 * np.arange(256) / 255.0 - 1.0
    expected = np.sign(y) * (256.0 ** np.abs(y) - 1.0) / 255.0
    decoded = Quantizer("mu-law", 256).decode(np.arange(256))
    np.testing.assert_allclose(decoded, expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(decoded[[127, 128]], [-8.6e-5, 8.6e-5], rtol=1e-2)
    np.testing.assert_array_equal(decoded, -decoded[::-1])


def test_linear_at_256_levels_is_prisms_in_float32_on_every_16_bit_amplitude():
    scaled = (SIXTEEN_BIT + np.float32(1)) / np.float32(2)
    prism = (scaled * np.float32(256 - 1e-5) + np.float32(1e-5 / 2)).astype(np.int32)
    quantizer = Quantizer("linear", 256)
    np.testing.assert_array_equal(quantizer.encode(SIXTEEN_BIT), prism)
    np.testing.assert_array_equal(quantizer.encode(np.array([-1.0, 0.0, 1.0])), [0, 128, 255])


@pytest.mark.parametrize("levels", [2, 5, 64, 256, 4096])
def test_linear_decodes_like_prism_to_within_its_margin(levels):
    prism = np.arange(levels) / (levels / 2) - 1.0
    np.testing.assert_allclose(Quantizer("linear", levels).table(), prism, rtol=0, atol=1e-5 / levels + 1.2e-7)


def test_prisms_linear_pair_needs_the_correction():
    """If this fails, PRiSM's decoder has become good enough and the correction in the table can go."""
    prism = (np.arange(256) / 128 - 1.0).astype(np.float32)
    lost = Quantizer("linear", 256).encode(prism) != np.arange(256)
    np.testing.assert_array_equal(np.flatnonzero(lost), np.arange(129, 256))


@pytest.mark.parametrize("q_type", TYPES)
def test_every_code_of_256_survives_the_round_trip(q_type):
    quantizer = Quantizer(q_type, 256)
    codes = np.arange(256)
    np.testing.assert_array_equal(quantizer.encode(quantizer.decode(codes)), codes)
    np.testing.assert_array_equal(quantizer.encode(quantizer.decode(codes).astype(np.float64)), codes)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(TYPES), st.one_of(st.integers(2, 65536), st.sampled_from([2, 3, 255, 256, 257, 65535, 65536])))
def test_every_code_of_any_number_of_levels_survives(q_type, levels):
    quantizer = Quantizer(q_type, levels)
    codes = np.arange(levels)
    table = quantizer.table()
    np.testing.assert_array_equal(quantizer.encode(table), codes)
    assert (np.diff(table) > 0).all() and table[0] >= -1.0 and table[-1] <= 1.0
    assert quantizer.encode(np.zeros(1))[0] == quantizer.silence


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(TYPES),
    st.integers(2, 65536),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50),
)
def test_codes_never_leave_their_range_and_rise_with_amplitude(q_type, levels, amplitudes):
    quantizer = Quantizer(q_type, levels)
    codes = quantizer.encode(np.sort(np.array(amplitudes, np.float32)))
    assert codes.dtype == (np.uint8 if levels <= 256 else np.uint16)
    assert (np.diff(codes.astype(int)) >= 0).all()
    assert codes.max() < levels
    np.testing.assert_array_equal(quantizer.encode_tensor(tf.constant(np.sort(amplitudes), tf.float32)), codes)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("levels", [256, 1000])
@pytest.mark.parametrize("q_type", TYPES)
def test_tensorflow_gives_the_same_codes_and_amplitudes(q_type, levels, jit):
    quantizer = Quantizer(q_type, levels)
    # The hard cases: decoded values, the float32 numbers on both sides of each edge between cells, beyond full scale.
    table = quantizer.table()
    below, above = table[:-1].astype(np.float64), table[1:].astype(np.float64)
    for _ in range(50):
        middle = (below + above) / 2
        inside = quantizer.encode(middle) < np.arange(1, levels)
        below, above = np.where(inside, middle, below), np.where(inside, above, middle)
    edges = above.astype(np.float32)
    near = np.concatenate([np.nextafter(edges, np.float32(-2)), edges, np.nextafter(edges, np.float32(2))])
    assert len(np.unique(quantizer.encode(near))) == levels
    noise = np.random.default_rng(2).uniform(-1.1, 1.1, 20_000)
    audio = np.concatenate([near, table, noise, SIXTEEN_BIT, [np.inf, -np.inf]]).astype(np.float32)
    encode = tf.function(quantizer.encode_tensor, jit_compile=jit)
    decode = tf.function(quantizer.decode_tensor, jit_compile=jit)
    codes = quantizer.encode(audio)
    np.testing.assert_array_equal(encode(tf.constant(audio)), codes)
    np.testing.assert_array_equal(decode(tf.constant(codes)), quantizer.decode(codes))


def test_shapes_are_kept_and_long_audio_is_encoded_in_pieces_like_short():
    quantizer = Quantizer("mu-law", 256)
    audio = np.random.default_rng(3).uniform(-1, 1, (2, 300_001)).astype(np.float32)
    codes = quantizer.encode(audio)
    assert codes.shape == audio.shape
    np.testing.assert_array_equal(codes[1, -1000:], quantizer.encode(audio[1, -1000:]))
    assert quantizer.encode(np.zeros((0,), np.float32)).shape == (0,)
    assert quantizer.decode(codes[:, :5]).shape == (2, 5)


@pytest.mark.parametrize("q_type", TYPES)
def test_nan_is_refused_and_named(q_type):
    quantizer = Quantizer(q_type, 256)
    audio = np.zeros(300_000, np.float32)
    audio[290_000] = np.nan
    with pytest.raises(ValueError, match="sample 290000"):
        quantizer.encode(audio)
    with pytest.raises(tf.errors.InvalidArgumentError, match="NaN"):
        quantizer.encode_tensor(tf.constant(audio))
    in_xla = tf.function(quantizer.encode_tensor, jit_compile=True)(tf.constant([np.nan]))
    assert in_xla.numpy().tolist() == [quantizer.silence]


def test_wrong_kinds_of_arrays_are_refused():
    quantizer = Quantizer("mu-law", 256)
    with pytest.raises(ValueError, match="int16"):
        quantizer.encode(np.array([0, 1000], np.int16))
    with pytest.raises(ValueError, match="float32"):
        quantizer.decode(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="from 0 to 256"):
        quantizer.decode(np.array([0, 256]))
    with pytest.raises(ValueError, match="from -1"):
        quantizer.decode(np.array([-1]))


@pytest.mark.parametrize("levels", [1, 0, -5, 65537, 256.0, True, "256"])
def test_impossible_levels_are_named(levels):
    with pytest.raises(UsageError, match="q_levels is .*2 to 65536"):
        Quantizer("linear", levels)


def test_unknown_types_are_named():
    with pytest.raises(UsageError, match='q_type is "mulaw".*"mu-law"'):
        Quantizer("mulaw", 256)


def test_the_table_is_the_callers_own():
    quantizer = Quantizer("linear", 16)
    quantizer.table()[:] = 7.0
    assert quantizer.table().max() < 1.0
