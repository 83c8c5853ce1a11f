"""Controls beside the windows of sound: slices of whole tracks, through a lower rate with noise, other schemas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
from corpora import corpus_of
from hypothesis import example, given
from hypothesis import strategies as st

import conditioning
from conditioning.config import Cascade, Config
from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.tracks import Controls, Track, resample_track
from tierwave.controls.transfer import transplanted
from tierwave.data.corpus import Corpus
from tierwave.data.splits import Span
from tierwave.data.windows import LaneWindows, Steering, Where, frame_spans
from tierwave.errors import UsageError

RATE = 1000
LENGTHS = (900, 310, 40)
SCHEMA = Schema(
    parameters=(
        Parameter(name="p", lo=60, hi=72),
        Parameter(name="f", lo=100, hi=6400, scale="log"),
        Parameter(name="inst", categories=("reed", "brass", "string"), lo=0, hi=2),
        Parameter(name="wide", lo=0, hi=1, outside="allow"),
    )
)


def tracks_of(number: int) -> Controls:
    """Finer than some rates and coarser than others, beyond the range, with steps; f is constant in recording 1."""
    rng = np.random.default_rng(number)
    seconds = LENGTHS[number] / RATE
    fine = Track.regular("p", rng.uniform(55, 75, math.ceil(seconds * 300)), 300.0)
    coarse = Track("f", np.sort(rng.uniform(0, seconds, 7)), rng.uniform(100, 6400, 7))
    steps = Track.from_events("inst", [(0, number), (0.013, 2), (0.31, 0)])
    return {
        "p": fine,
        "f": Track.constant("f", 800) if number == 1 else coarse,
        "inst": steps,
        "wide": Track.from_events("wide", [(0, -1), (seconds, 2)]),
    }


STEERING = Steering(SCHEMA, tuple(tracks_of(number) for number in range(3)), tuple(length / RATE for length in LENGTHS))


def whole(names: Sequence[str], number: int, rate: float, first: int, count: int) -> np.ndarray:
    """The definition: each track resampled at once, and mapped; beyond the range clipped, unless that is allowed."""
    columns = []
    for name in names:
        parameter = SCHEMA.of(name)
        raw = resample_track(
            STEERING.controls[number][name], rate, count, first_sample=first, interp=parameter.interp
        ).astype(np.float64)
        if parameter.outside != "allow":
            raw = np.clip(raw, *parameter.span)
        start, stop = parameter.span
        log = parameter.scale == "log"
        columns.append(np.log(raw / start) / np.log(stop / start) if log else (raw - start) / (stop - start))
    return np.stack(columns, axis=-1)


def where(number: int, first: int, count: int, inside: np.ndarray | None = None, epoch: int = 0) -> Where:
    at = first + np.arange(count)[None]
    here = np.ones([1, count], bool) if inside is None else inside[None]
    return Where(np.array([number]), at, here, epoch)


# Windows -------------------------------------------------------------------------------------------------------------


@given(
    number=st.integers(0, 2),
    first=st.integers(-20, 1200),
    count=st.integers(1, 60),
    rate=st.sampled_from([1000.0, 125.0, 66.7]),
    names=st.permutations(SCHEMA.names).flatmap(lambda all: st.integers(1, 4).map(lambda n: all[:n])),
)
def test_a_window_is_a_slice_of_the_whole_track(
    number: int, first: int, count: int, rate: float, names: Sequence[str]
) -> None:
    source = STEERING.source(names, rate)
    read = source.read(where(number, first, count))
    assert (read.dtype, read.shape, source.shape) == (np.float32, (1, count, len(names)), (len(names),))
    begin = min(first, 0)
    entire = whole(names, number, rate, begin, 1300)
    np.testing.assert_allclose(read[0], entire[first - begin : first - begin + count], atol=1e-6)
    again = STEERING.source(names, rate).read(where(number, first - 7, count + 20))
    np.testing.assert_array_equal(again[:, 7 : 7 + count], read)  # bit for bit, wherever the window begins


def test_lanes_have_their_own_recordings_and_idle_ones_are_left_alone() -> None:
    source = STEERING.source(SCHEMA.names, RATE)
    at = np.array([[5, 6, 7], [100, 101, 102], [-1, 0, 1], [0, 1, 2]])
    inside = np.array([[True] * 3, [True] * 3, [False, True, True], [False] * 3])
    read = source.read(Where(np.array([2, 0, 1, 0]), at, inside, 0))
    for lane, (number, first) in enumerate(((2, 5), (0, 100), (1, -1))):
        np.testing.assert_allclose(read[lane], whole(SCHEMA.names, number, RATE, first, 3), atol=1e-6)
    assert np.isfinite(read).all()
    zeroed = STEERING.source(SCHEMA.names, RATE, outside_zero=True).read(Where(np.array([2, 0, 1, 0]), at, inside, 0))
    np.testing.assert_array_equal(zeroed[inside], read[inside])
    assert not zeroed[~inside].any()
    assert read[2, 0].any()  # what conditions a step before the span is its first value, not zero


# Exposure ------------------------------------------------------------------------------------------------------------


def through(lower: float, *, noise: float = 0.0, seed: int = 0, names: Sequence[str] = ("p", "f", "inst", "wide")):
    rates = {name: lower for name in names}
    return STEERING.source(SCHEMA.names, RATE, through=rates, noise=noise, seed=seed)


@pytest.mark.parametrize("lower", [125.0, 40.0, 66.7])
def test_values_pass_through_the_lower_rate(lower: float) -> None:
    """What a slower tier would give is resampled again, in one step after the other."""
    for number in range(3):
        count = LENGTHS[number]
        read = through(lower).read(where(number, 0, count))[0]
        frames = whole(SCHEMA.names, number, lower, 0, math.ceil(count / RATE * lower) + 1)
        times = np.arange(count) / RATE
        for column, parameter in enumerate(SCHEMA.parameters):
            if parameter.interp == "linear":
                expected = np.interp(times, np.arange(len(frames)) / lower, frames[:, column])
            else:
                expected = frames[np.floor(times * lower + 1e-9).astype(int), column]
            np.testing.assert_allclose(read[:, column], expected, atol=2e-6)
        direct = STEERING.source(SCHEMA.names, RATE).read(where(number, 0, count))[0]
        assert np.abs(read - direct)[:, 0].max() > 0.05  # and that is not the same
        part = through(lower).read(where(number, 11, 9))[0]
        np.testing.assert_array_equal(part, read[11:20])


def test_only_the_named_parameters_pass_through() -> None:
    read = through(40.0, names=("p",)).read(where(0, 0, 200))[0]
    direct = STEERING.source(SCHEMA.names, RATE).read(where(0, 0, 200))[0]
    np.testing.assert_array_equal(read[:, 1:], direct[:, 1:])
    np.testing.assert_array_equal(read[:, 0], through(40.0).read(where(0, 0, 200))[0, :, 0])


def noise_of(source: Any, number: int, epoch: int) -> np.ndarray:
    clean = through(125.0).read(where(number, 0, LENGTHS[number]))[0]
    return source.read(where(number, 0, LENGTHS[number], epoch=epoch))[0] - clean


def test_noise_is_new_in_each_epoch_and_a_function_of_the_seed() -> None:
    source = through(125.0, noise=0.1)
    first, second = noise_of(source, 0, 0), noise_of(source, 0, 1)
    assert [bool(each > 0.05) for each in np.abs(first - second).max(axis=0)] == [True, True, False, True]
    np.testing.assert_array_equal(first[:, 2], 0)  # nothing lies between categories
    np.testing.assert_array_equal(noise_of(source, 0, 0), first)
    np.testing.assert_array_equal(noise_of(through(125.0, noise=0.1), 0, 1), second)
    assert np.abs(noise_of(through(125.0, noise=0.1, seed=1), 0, 0) - first).max() > 0.05
    # One window after the other sees the same noise as all at once: it belongs to the frames, not to the windows.
    pieces = [source.read(where(0, start, 50, epoch=1)) for start in range(0, 900, 50)]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1)[0], source.read(where(0, 0, 900, epoch=1))[0])
    assert np.abs(first[:300] - noise_of(source, 1, 0)[:300]).max() > 0.05  # each recording has its own
    assert np.abs(np.corrcoef(first[:, [0, 1, 3]].T) - np.eye(3)).max() < 0.5  # and each control


def test_noise_has_the_standard_deviation_that_was_asked_for_also_on_constants() -> None:
    """On frames of 125 Hz; between them it is interpolated. f is constant in recording 1."""
    source = through(125.0, noise=0.1, names=("f", "wide"))
    at_frames = np.concatenate([noise_of(source, 1, epoch)[::8, [1, 3]] for epoch in range(40)])
    np.testing.assert_allclose(at_frames.mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose(at_frames.std(axis=0), 0.1, atol=0.01)
    untouched = source.read(where(1, 0, 300, epoch=3))[0]
    np.testing.assert_array_equal(untouched[:, 0], STEERING.source(["p"], RATE).read(where(1, 0, 300))[0, :, 0])


def test_few_tracks_are_kept() -> None:
    source = through(125.0, noise=0.1)
    for epoch in range(30):
        for number in range(3):
            source.read(where(number, 0, 20, epoch=epoch))
    assert len(source._coarse) <= 4 * 3 * 4


# In the family's data ------------------------------------------------------------------------------------------------


CODES = [
    (np.arange(sum(LENGTHS[:number]), sum(LENGTHS[: number + 1])) * 7 % 30 + 1).astype(np.uint8)
    for number in range(len(LENGTHS))
]


@cache
def corpus() -> Corpus:
    return corpus_of(CODES, RATE)


CASCADE = Cascade.model_validate(
    {
        "model": "cascade",
        "tiers": [
            {"name": "slow", "generates": ["wide", "p"], "conditioned_on": ["inst"], "rate": 40.0, "seq_len": 8},
            {"name": "mid", "generates": ["f"], "conditioned_on": ["p", "inst"], "rate": 125.0, "seq_len": 8}
            | {"exposure": {"noise": 0.1}},
            {"name": "sound", "generates": ["audio"], "conditioned_on": ["f", "wide", "inst"], "seq_len": 16}
            | {"q_levels": 32, "exposure": {}},
        ],
    }
)
SPANS = (Span(0, 100, 500), Span(1, 0, 310), Span(2, 3, 40))


def batches(windows: LaneWindows, epoch: int = 0) -> list[dict[str, np.ndarray]]:
    layout = windows.layout(epoch)
    return [windows.batch(tuple(part[step] for part in layout), epoch) for step in range(windows.steps)]


def unrolled(windows: LaneWindows, spans: Sequence[Span]) -> list[dict[str, np.ndarray]]:
    """All that a reader of whole spans sees of each span, its windows joined: inputs, controls, mask."""
    layout = windows.layout(0)[0]
    found: list[dict[str, list[np.ndarray]]] = [{} for _ in spans]
    for step, batch in enumerate(batches(windows)):
        for lane, span in enumerate(layout[step]):
            if span >= 0:
                for name in ("inputs", "controls", "mask"):
                    found[span].setdefault(name, []).append(batch[name][lane])
    return [{name: np.stack(parts) for name, parts in span.items()} for span in found]


def test_each_tier_reads_its_own_names_at_its_own_rate() -> None:
    lower: Mapping[str, Mapping[str, float]] = {"mid": {"p": 40.0}, "sound": {"f": 125.0, "wide": 40.0}}
    for tier in CASCADE.tiers:
        windows = conditioning.FAMILY.dataset(
            corpus(), SPANS, CASCADE, tier.name, lanes=2, steering=STEERING, shuffled=False, whole_spans=True
        )
        rate = float(tier.rate or RATE)
        spans = SPANS if tier.makes_audio else frame_spans(SPANS, RATE, rate)
        for span, read in zip(spans, unrolled(windows, spans), strict=True):
            exposed = STEERING.source(tier.conditioned_on, rate, through=lower.get(tier.name, {}))
            for index, (inputs, controls, mask) in enumerate(
                zip(read["inputs"], read["controls"], read["mask"], strict=True)
            ):
                first = span.start + index * tier.seq_len - 1
                np.testing.assert_array_equal(controls, exposed.read(where(span.recording, first, tier.seq_len + 1))[0])
                inside = (first + np.arange(tier.seq_len + 1) >= span.start) & (
                    first + np.arange(tier.seq_len + 1) < span.stop
                )
                np.testing.assert_array_equal(mask, inside[1:])
                if tier.makes_audio:
                    codes = CODES[span.recording]
                    expected = [codes[first + i] if ok else 16 for i, ok in enumerate(inside)]  # silence of 32 levels
                    np.testing.assert_array_equal(inputs, expected)
                else:
                    seen = whole(tier.generates, span.recording, rate, first, tier.seq_len + 1)
                    np.testing.assert_allclose(inputs, np.where(inside[:, None], seen, 0), atol=1e-6)


def controls_of(tier: str, epoch: int, **options: Any) -> np.ndarray:
    options = {"lanes": 100, "steering": STEERING, "whole_spans": True, **options}
    windows = conditioning.FAMILY.dataset(corpus(), SPANS, CASCADE, tier, **options)
    return np.concatenate([batch["controls"] for batch in batches(windows, epoch)], axis=1)


def test_noise_is_in_training_only() -> None:
    still = controls_of("mid", 0, shuffled=False)
    np.testing.assert_array_equal(controls_of("mid", 1, shuffled=False), still)
    noisy = controls_of("mid", 0)  # whole spans stay where they are also when shuffled
    assert np.abs(noisy - still)[:, :, 0].max() > 0.05
    np.testing.assert_array_equal(noisy[:, :, 1], still[:, :, 1])  # inst comes from the user, not from a tier
    assert np.abs(controls_of("mid", 1) - noisy).max() > 0.05
    np.testing.assert_array_equal(controls_of("mid", 0), noisy)
    assert np.abs(controls_of("mid", 0, seed=1) - noisy).max() > 0.05
    np.testing.assert_array_equal(controls_of("sound", 0), controls_of("sound", 1))  # its exposure has no noise


def test_a_single_stage_exposes_all_that_conditions_it() -> None:
    config = Config(conditioned_on=["p", "inst"], seq_len=16, q_levels=32, **{"exposure": {"rate": 40.0, "noise": 0.0}})
    windows = conditioning.FAMILY.dataset(
        corpus(), SPANS[:1], config, "conditioning", lanes=1, steering=STEERING, shuffled=False
    )
    exposed = STEERING.source(["p", "inst"], RATE, through={"p": 40.0, "inst": 40.0})
    for index, batch in enumerate(batches(windows)):
        np.testing.assert_array_equal(batch["controls"], exposed.read(where(0, 99 + 16 * index, 17)))


def test_spans_shorter_than_a_step_are_refused_where_nothing_is_left() -> None:
    config = Config(generates=["p"], rate=2.0)
    with pytest.raises(UsageError, match="shorter than one step of conditioning, 0.5 s at 2 Hz: raise its rate"):
        conditioning.FAMILY.dataset(corpus(), [Span(0, 1, 300)], config, "conditioning", lanes=1, steering=STEERING)
    few = conditioning.FAMILY.dataset(
        corpus(), [Span(0, 1, 300), Span(0, 400, 700)], config, "conditioning", lanes=1, steering=STEERING
    )
    assert few.samples == 1  # the frame at 0.5 s


# Spans of frames -----------------------------------------------------------------------------------------------------


@given(
    edges=st.lists(st.integers(0, 400), min_size=2, max_size=8, unique=True),
    rates=st.sampled_from([(1000, 125.0), (44100, 66.7), (16000, 62.5), (48000, 48000.0), (8000, 7999.0), (100, 0.25)])
    | st.tuples(st.integers(100, 2000), st.floats(0.5, 3000).map(lambda rate: round(rate, 3))),
)
@example(edges=[2990, 3000, 3200], rates=(100, 1.1))  # 3000 * 1.1 / 100 is 33 and a rounding
def test_frames_belong_to_the_span_in_which_their_time_lies(edges: list[int], rates: tuple[int, float]) -> None:
    sample_rate, rate = rates
    spans = [Span(3, start, stop) for start, stop in zip(sorted(edges), sorted(edges)[1:], strict=False)]
    step = Fraction(sample_rate) / Fraction(str(rate))  # samples from one frame to the next
    expected = []
    for span in spans:
        inside = [k for k in range(int(max(edges) / step) + 2) if span.start <= k * step < span.stop]
        if inside:
            assert inside == list(range(inside[0], inside[-1] + 1))
            expected.append(Span(3, inside[0], inside[-1] + 1))
    assert frame_spans(spans, sample_rate, rate) == expected


# Weights for another schema ------------------------------------------------------------------------------------------


def effect(kernel: np.ndarray, bias: np.ndarray, names: Sequence[str], schema: Schema, raw: Mapping[str, float]):
    seen = [schema.of(name).normalise(raw[name], outside="allow") for name in names]
    return np.array(seen, np.float64) @ kernel + bias


OLD = Schema(
    parameters=(
        Parameter(name="a", lo=2, hi=6),
        Parameter(name="f", lo=100, hi=800, scale="log"),
        Parameter(name="gone", lo=10, hi=20),
    )
)
NEW = Schema(
    parameters=(
        Parameter(name="f", lo=50, hi=12800, scale="log"),
        Parameter(name="new", lo=-1, hi=1),
        Parameter(name="a", lo=7, hi=1),  # wider, and the other way round
    )
)
RNG = np.random.default_rng(0)
KERNEL, BIAS = RNG.normal(size=[3, 5]).astype(np.float32), RNG.normal(size=5).astype(np.float32)


@given(a=st.floats(2, 6), f=st.floats(100, 800), new=st.floats(-1, 1))
def test_a_raw_value_does_what_it_did(a: float, f: float, new: float) -> None:
    kernel, bias = transplanted(KERNEL, BIAS, OLD.names, ["new", "a", "f"], OLD, NEW)
    assert kernel.dtype == bias.dtype == np.float32
    after = effect(kernel, bias, ["new", "a", "f"], NEW, {"a": a, "f": f, "new": new})
    before = effect(KERNEL, BIAS, OLD.names, OLD, {"a": a, "f": f, "gone": 15})
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_superset_subset_and_the_same() -> None:
    same = transplanted(KERNEL, BIAS, OLD.names, OLD.names, OLD, OLD)
    np.testing.assert_allclose(same[0], KERNEL, rtol=1e-6)
    np.testing.assert_allclose(same[1], BIAS, rtol=1e-6)
    more = Schema(parameters=(*OLD.parameters, Parameter(name="x", lo=0, hi=1)))
    kernel, bias = transplanted(KERNEL, BIAS, OLD.names, ["x", "gone", "a", "f"], OLD, more)
    np.testing.assert_allclose(kernel, [np.zeros(5), KERNEL[2], KERNEL[0], KERNEL[1]], rtol=1e-6)
    np.testing.assert_array_equal(bias, BIAS)
    none, bias = transplanted(KERNEL, BIAS, OLD.names, [], OLD, Schema())
    assert none.shape == (0, 5)
    np.testing.assert_allclose(bias, BIAS + 0.5 * KERNEL.sum(axis=0), rtol=1e-5)
    fresh, bias = transplanted(np.zeros([0, 5], np.float32), BIAS, [], ["a"], Schema(), OLD)
    np.testing.assert_array_equal(fresh, np.zeros([1, 5]))
    np.testing.assert_array_equal(bias, BIAS)


def test_another_scale_leaves_the_row_as_it_is() -> None:
    linear = Schema(parameters=(Parameter(name="f", lo=50, hi=3200),))
    kernel, bias = transplanted(KERNEL[1:2], BIAS, ["f"], ["f"], OLD, linear)
    np.testing.assert_array_equal(kernel, KERNEL[1:2])
    np.testing.assert_array_equal(bias, BIAS)


def test_a_parameter_that_is_now_constant_stands_at_its_value() -> None:
    still = Schema(parameters=(Parameter(name="a", lo=5, hi=5),))
    kernel, bias = transplanted(KERNEL[:1], BIAS, ["a"], ["a"], OLD, still)
    after = effect(kernel, bias, ["a"], still, {"a": 5})
    np.testing.assert_allclose(after, effect(KERNEL[:1], BIAS, ["a"], OLD, {"a": 5}), atol=1e-6)


def test_a_parameter_that_was_constant_has_no_effect_yet() -> None:
    still = Schema(parameters=(Parameter(name="a", lo=5, hi=5),))
    kernel, bias = transplanted(KERNEL[:1], BIAS, ["a"], ["a"], still, OLD)
    np.testing.assert_array_equal(kernel, np.zeros([1, 5]))
    np.testing.assert_array_equal(bias, BIAS)


def test_what_is_seen_in_training_stays_within_the_range_as_in_generation() -> None:
    read = through(125.0, noise=0.3).read(where(0, 0, 900))[0]
    assert read[:, :2].min() >= 0 and read[:, :2].max() <= 1
    assert read[:, 3].max() > 1  # where beyond is allowed, it is


def test_what_was_constant_in_training_stays_so_without_a_word() -> None:
    """The range is fitted to what is trained on; a recording that is held out may go beyond it."""
    schema = Schema(parameters=(Parameter(name="c", lo=5, hi=5),))
    tracks = ({"c": Track.constant("c", 5)}, {"c": Track.constant("c", 6)})
    source = Steering(schema, tracks, (1.0, 1.0)).source(["c"], RATE)
    assert not source.read(where(1, 0, 10)).any()
