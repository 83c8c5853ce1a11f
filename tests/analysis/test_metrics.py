import math
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from tierwave.analysis.statistics import (
    CodeStatistics,
    average_spectrum,
    bits,
    describe,
    log_spectral_distance,
    spectral_comparison,
)

RATE = 16000


def noise(samples=RATE, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, samples)


def tone(frequency=440.0, samples=RATE, amplitude=0.5):
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(samples) / RATE)


def test_bits_are_nats_over_the_logarithm_of_two():
    assert bits(math.log(2)) == pytest.approx(1.0)
    assert bits(math.log(256)) == pytest.approx(8.0)


# Codes


def counted(segments, levels):
    statistics = CodeStatistics(levels)
    for segment in segments:
        statistics.add(np.array(segment, np.int64))
    return statistics


def brute_force(train, held_out, levels):
    """Histogram and Markov bits by dictionaries, one sample at a time."""
    codes = Counter(code for segment in train for code in segment)
    pairs = Counter(pair for segment in train for pair in zip(segment, segment[1:], strict=False))
    samples = sum(codes.values())
    histogram_total = markov_total = 0.0
    for segment in held_out:
        for index, code in enumerate(segment):
            alone = (codes[code] + 0.5) / (samples + 0.5 * levels)
            histogram_total -= math.log2(alone)
            chained = alone
            if index:
                before = segment[index - 1]
                seen = sum(count for (first, _), count in pairs.items() if first == before)
                different = sum(first == before for first, _ in pairs)
                if seen:
                    chained = (pairs[before, code] + different * alone) / (seen + different)
            markov_total -= math.log2(chained)
    count = sum(map(len, held_out))
    return histogram_total / count, markov_total / count


SEGMENTS = st.lists(st.lists(st.integers(0, 5), max_size=12), max_size=5)


@settings(deadline=None, max_examples=30)
@given(SEGMENTS, SEGMENTS.filter(any))
def test_code_statistics_equal_brute_force(train, held_out):
    statistics = counted(train, 6)
    held_arrays = [np.array(segment, np.int64) for segment in held_out]
    histogram, markov = brute_force(train, held_out, 6)
    assert statistics.histogram_bits(held_arrays) == pytest.approx(histogram)
    assert statistics.markov_bits(held_arrays) == pytest.approx(markov)


@settings(deadline=None, max_examples=30)
@given(SEGMENTS, st.integers(0, 5))
def test_the_smoothed_models_are_probability_distributions(train, before):
    statistics = counted(train, 6)
    alone = [2 ** -statistics.histogram_bits([np.array([code])]) for code in range(6)]
    # Bits are a mean over both samples of a segment; take the first one's away.
    pairs = [2 ** -(2 * statistics.markov_bits([np.array([before, code])])) / alone[before] for code in range(6)]
    assert sum(alone) == pytest.approx(1.0)
    assert sum(pairs) == pytest.approx(1.0)


def test_markov_bits_find_the_entropy_rate_of_a_known_chain():
    transition = np.array([[0.9, 0.1, 0.0], [0.0, 0.5, 0.5], [0.25, 0.25, 0.5]])
    rng = np.random.default_rng(0)
    uniform, cumulative = rng.random(100_000), transition.cumsum(axis=1)
    codes = [0]
    for number in uniform:
        codes.append(int(np.searchsorted(cumulative[codes[-1]], number, side="right").clip(max=2)))
    values, vectors = np.linalg.eig(transition.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    stationary /= stationary.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        row_entropy = -np.nansum(transition * np.log2(transition), axis=1)
    statistics = counted([codes[:50_000]], 3)
    held_out = [np.array(codes[50_000:])]
    with_the_true_chain = -np.log2(transition[held_out[0][:-1], held_out[0][1:]]).mean()
    assert statistics.markov_bits(held_out) == pytest.approx(with_the_true_chain, abs=1e-3)
    assert statistics.markov_bits(held_out) == pytest.approx(stationary @ row_entropy, abs=0.02)
    entropy = -(stationary * np.log2(stationary)).sum()
    assert statistics.histogram_bits(held_out) == pytest.approx(entropy, abs=0.02)


def test_segments_are_not_each_others_neighbours():
    apart, joined = counted([[0, 1], [1, 0]], 2), counted([[0, 1, 1, 0]], 2)
    assert apart.markov_bits([np.array([1, 1])]) > joined.markov_bits([np.array([1, 1])])


def test_a_segment_in_blocks_counts_as_one(monkeypatch):
    codes = np.random.default_rng(1).integers(0, 1024, 2000).astype(np.uint16)
    train, held_out = codes[:1500], codes[1500:]
    once = counted([train], 1024)
    bars = once.histogram_bits([held_out]), once.markov_bits([held_out])
    monkeypatch.setattr("tierwave.analysis.statistics._BLOCK", 7)
    blocks = CodeStatistics(1024)
    blocks.add(train[start : start + 10] for start in range(0, 1500, 10))
    parts = [iter([held_out[:1], held_out[1:]])]
    assert (blocks.histogram_bits([held_out]), blocks.markov_bits(parts)) == pytest.approx(bars)


def test_counting_takes_the_same_memory_however_much_there_is():
    rng = np.random.default_rng(2)
    tracemalloc.start()
    statistics = CodeStatistics(256)
    statistics.add(rng.integers(0, 256, 1 << 20).astype(np.uint8) for _ in range(8))
    statistics.markov_bits([rng.integers(0, 256, 1 << 21).astype(np.uint8)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6  # 10 million codes as int64 are 80 MB, without anything made of them


def test_more_levels_than_a_table_of_pairs_has_are_refused():
    with pytest.raises(ValueError, match="at most 1024 levels"):
        CodeStatistics(65536)


def test_a_model_of_nothing_knows_nothing_and_nothing_cannot_be_measured():
    empty = CodeStatistics(256)
    assert empty.histogram_bits([np.arange(256)]) == pytest.approx(8.0)
    assert empty.markov_bits([np.arange(256)]) == pytest.approx(8.0)
    with pytest.raises(ValueError, match="hold out"):
        empty.histogram_bits([])
    with pytest.raises(ValueError, match="hold out"):
        empty.markov_bits([np.zeros(0, int)])


def test_wrong_codes_are_refused():
    statistics = CodeStatistics(16)
    for wrong, words in (([0, 16], "0 to 16"), ([-1, 0], "-1"), ([0.5], "float64"), ([[1, 2]], r"\(1, 2\)")):
        with pytest.raises(ValueError, match=words):
            statistics.add(np.array(wrong))


# Spectra


@pytest.mark.parametrize("samples", [300, 1024, 1700, 20_000])
def test_the_average_spectrum_is_that_of_half_overlapping_frames_under_hanns_window(samples):
    audio = noise(samples) + tone(samples=samples)
    padded = np.pad(audio, (0, max(0, 1024 - samples)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, 1024)[::512]
    power = (np.abs(np.fft.rfft(frames * np.hanning(1025)[:-1])) ** 2).mean(axis=0)
    power[1:-1] *= 2  # the mirrored half
    power /= power.sum() * RATE / 1024
    np.testing.assert_allclose(average_spectrum(audio, RATE), 10 * np.log10(power), atol=1e-6)


def test_a_normalised_spectrum_does_not_know_the_level_and_sums_to_one():
    audio = noise()
    spectrum = average_spectrum(audio, RATE)
    np.testing.assert_allclose(average_spectrum(0.01 * audio, RATE), spectrum, atol=1e-9)
    assert (10 ** (spectrum / 10)).sum() * RATE / 1024 == pytest.approx(1.0)
    assert (average_spectrum(np.zeros(100), RATE) == -120.0).all()


def test_spectral_distance_is_the_root_mean_square_of_the_difference():
    spectrum = average_spectrum(noise(), RATE)
    assert log_spectral_distance(spectrum, spectrum) == 0.0
    assert log_spectral_distance(spectrum, spectrum + 3.0) == pytest.approx(3.0)
    assert log_spectral_distance(np.zeros(4), np.array([0.0, 0.0, 0.0, 4.0])) == pytest.approx(2.0)
    another = log_spectral_distance(spectrum, average_spectrum(noise(seed=1), RATE))
    assert another < 2.0 < log_spectral_distance(spectrum, average_spectrum(tone(), RATE))
    with pytest.raises(ValueError, match="513"):
        log_spectral_distance(spectrum, spectrum[:129])


# Descriptions


def test_a_sine_is_described_by_its_closed_form():
    described = describe(tone(1000.0, amplitude=0.5) + 0.01, RATE)
    assert described.offset == pytest.approx(0.01, abs=1e-9)
    assert described.crest == pytest.approx(math.sqrt(2), rel=0.05)
    assert described.flatness < 0.01
    assert described.silent_share == described.stuck_share == described.clipped_share == 0.0


def test_clipped_silent_and_stuck_shares_are_shares():
    audio = np.concatenate([np.zeros(3200), np.full(3200, 0.3), np.full(1600, -1.0), tone(samples=8000)])
    described = describe(audio.astype(np.float32), RATE)
    assert described.silent_share == pytest.approx(0.2)
    assert described.stuck_share == pytest.approx(0.3)
    assert described.clipped_share == pytest.approx(0.1)
    assert described.longest_stuck_seconds == pytest.approx(0.2)


def test_short_and_long_audio_are_described():
    assert describe(np.array([0.25]), RATE).offset == 0.25
    assert describe(np.zeros(1), RATE).silent_share == 1.0
    long = describe(np.tile(tone(), 40), RATE)
    assert long.crest == pytest.approx(describe(tone(), RATE).crest, rel=1e-3)


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (np.zeros(0), "empty"),
        (np.array([0.0, np.nan]), "NaN"),
        (np.array([0.0, np.inf]), "infinity"),
        (np.zeros((10, 2)), r"\(10, 2\)"),
        (np.zeros(10, np.int16), "int16"),
    ],
)
def test_unusable_audio_is_refused(audio, words):
    with pytest.raises(ValueError, match=words):
        describe(audio, RATE)
    with pytest.raises(ValueError, match=words):
        average_spectrum(audio, RATE)


def test_spectral_comparison_tells_like_from_unlike():
    """Filtered noise against more of it, white noise, and its own samples shuffled."""
    rng = np.random.default_rng(0)

    def coloured(samples):
        return signal.lfilter([1.0], [1.0, -0.95], rng.normal(size=samples)) / 10

    recordings = [coloured(30_000), coloured(20_000)]
    found = spectral_comparison(recordings, [coloured(20_000)], 16_000)
    assert found["generated"] < 1.5 and found["halves"] < 1.5
    assert found["white_noise"] > 5 and found["shuffled"] > 5
    noise = spectral_comparison(recordings, [rng.normal(size=20_000)], 16_000)
    assert noise["generated"] == pytest.approx(noise["white_noise"], abs=0.5)
