"""Schemas and tracks: what they refuse, how they map, and one value for every time at every rate."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import integrate, interpolate

from tierwave.config import validate
from tierwave.controls.parse import parse_control, parse_controls, read_array
from tierwave.controls.schema import ControlWarning, Parameter, Schema, coverage, mismatch
from tierwave.controls.tracks import Controls, Track, constants_of, resample_track
from tierwave.errors import RunError, UsageError

PITCH = Parameter(name="p", units="midiPitch", lo=64, hi=76)
INSTRUMENT = Parameter(name="inst", categories=("brass", "reed"), lo=0, hi=1)
SCHEMA = Schema(parameters=(INSTRUMENT, PITCH))

VALUES = st.floats(-1e6, 1e6, allow_subnormal=False)


@st.composite
def tracks(draw: st.DrawFn, steps: bool = True, most: int = 30) -> Track:
    gaps = draw(
        st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.25, 1.0 / 3] if steps else [0.002, 0.05, 1 / 3]), max_size=most)
    )
    times = draw(st.sampled_from([0.0, -0.1, 0.5])) + np.cumsum([0.0, *gaps])
    values = draw(st.lists(VALUES, min_size=len(times), max_size=len(times)))
    return Track("x", times, np.array(values))


# ---- controls ------------------------------------------------------------------------------------------------------


@given(
    scale=st.sampled_from(["linear", "log", "log1p"]),
    lo=st.floats(0.01, 1e4),
    hi=st.floats(0.01, 1e4),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=8),
)
def test_normalise_and_back(scale: str, lo: float, hi: float, shares: list[float]) -> None:
    assume(abs(lo - hi) > 0.01 * max(lo, hi))
    parameter = Parameter(name="x", lo=lo, hi=hi, scale=scale)
    curve = {"linear": lambda v: v, "log": math.log, "log1p": math.log1p}[scale]
    raw = np.array([lo + share * (hi - lo) for share in shares])
    mapped = parameter.normalise(raw)
    assert mapped.dtype == np.float32 and mapped.shape == raw.shape
    expected = [(curve(value) - curve(lo)) / (curve(hi) - curve(lo)) for value in raw]
    np.testing.assert_allclose(mapped, expected, atol=2e-6)
    np.testing.assert_allclose(parameter.denormalise(mapped), raw, rtol=1e-3)
    np.testing.assert_array_equal(parameter.normalise([lo, hi]), [0, 1])


def test_rnncontrols_example_maps_as_there() -> None:
    """`nsynth_instID02.00_p76.00_a00.30.wav` with {"instID": (1, 2), "a": (0, 1), "p": (64, 76)}."""
    schema = Schema(
        parameters=tuple(
            Parameter(name=name, lo=lo, hi=hi) for name, lo, hi in (("instID", 1, 2), ("a", 0, 1), ("p", 64, 76))
        )
    )
    controls = {name: Track.constant(name, value) for name, value in (("p", 76.0), ("instID", 2.0), ("a", 0.3))}
    np.testing.assert_allclose(schema.inputs(controls, 16000, 3), [[1.0, 0.3, 1.0]] * 3, rtol=1e-7)


def test_outside_is_clipped_with_a_warning_allowed_or_refused() -> None:
    with pytest.warns(ControlWarning, match="p: 81 lies outside the trained range 64 to 76 midiPitch"):
        np.testing.assert_array_equal(PITCH.normalise([60, 70, 81]), [0, 0.5, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(PITCH.normalise([58, 82], outside="allow"), [-0.5, 1.5])
        # What float32 makes of 0.3 is a little more than 0.3, and no reason to warn.
        level = Parameter(name="a", lo=0.1, hi=0.3)
        np.testing.assert_allclose(level.normalise(np.float32([0.1, 0.3])), [0, 1], atol=1e-7)
    with pytest.raises(
        UsageError, match='inst: 3 lies outside the trained range 0 to 1 .brass, reed.*"outside" of inst'
    ):
        INSTRUMENT.normalise(3)
    with pytest.raises(UsageError, match="f: -1 has no place on a log scale"):
        Parameter(name="f", lo=20, hi=2000, scale="log", outside="allow").normalise([30, -1])
    for value in (math.nan, math.inf):
        with pytest.raises(UsageError, match="p holds NaN or infinity"):
            PITCH.normalise([64, value], outside="allow")


def test_a_reversed_range_is_a_range() -> None:
    np.testing.assert_allclose(Parameter(name="x", lo=10, hi=0).normalise([10, 4, 0]), [0, 0.6, 1], rtol=1e-6)


def test_a_parameter_that_was_constant_takes_nothing_else() -> None:
    constant = Parameter(name="v", lo=127, hi=127, outside="allow")
    np.testing.assert_array_equal(constant.normalise(np.full((2, 2), 127)), np.zeros((2, 2)))
    assert constant.denormalise(0.0) == 127
    with pytest.raises(UsageError, match="v was 127 all through training and cannot be 100"):
        constant.normalise(100)


def test_a_range_that_is_not_known_is_told_with_the_remedy() -> None:
    with pytest.raises(UsageError, match="x has no lo and hi: run .*fit.* controls.x.lo"):
        Parameter(name="x", lo=1).normalise(1)


def test_categories_hold_and_refuse_unless_said_otherwise() -> None:
    assert (INSTRUMENT.nvals, INSTRUMENT.units, INSTRUMENT.interp, INSTRUMENT.outside) == (
        2, "category", "previous", "error",
    )  # fmt: skip
    assert Parameter(name="x", nvals=3).interp == "previous"
    assert Parameter(name="x", units="Category").interp == "previous"
    assert Parameter(name="x", nvals=3, interp="linear").interp == "linear"
    assert (Parameter(name="x").interp, Parameter(name="x").outside) == ("linear", "clip")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"name": "x", "units": "midipich"}, 'units is "midipich": the unit is unknown; did you mean midiPitch'),
        ({"name": "x", "scale": "log", "lo": 0, "hi": 1}, "x: lo is 0, and the scale log needs more than 0"),
        ({"name": "x", "scale": "log1p", "lo": 0, "hi": -1}, "hi is -1, and the scale log1p needs more than -1"),
        ({"name": "x", "minval": 2, "maxval": 1}, "minval 2 is above maxval 1"),
        ({"name": "x", "categories": ["a", "a"]}, "different names"),
        ({"name": "x", "categories": ["a|b"]}, "none of them empty, with | in it"),
        ({"name": "x", "categories": ["a"], "nvals": 2}, "nvals is 2, but 1 categories"),
        ({"name": "x", "low": 2}, "did you mean lo"),
        ({"name": "x", "lo": "2"}, 'lo is "2", but must be a number'),
        ({"name": "x", "scale": "square"}, 'scale is "square", but must be'),
        ({"name": ""}, "name"),
        ({"units": "hertz"}, "name is missing"),
    ],
)
def test_impossible_parameters_are_refused(document: dict, message: str) -> None:
    with pytest.raises(UsageError) as error:
        validate(Parameter, document, "test")
    assert message in str(error.value)


def test_units_nobody_knows_are_kept_and_empty_ones_are_none() -> None:
    assert Parameter(name="x", units="pascal").units == "pascal"
    assert [Parameter(name="x", units=units).units for units in ("None", "null", " ", None, "HERTZ")] == [
        None, None, None, None, "hertz",
    ]  # fmt: skip


# ---- schemas ---------------------------------------------------------------------------------------------------------


def test_schema_document_round_trip_and_selection() -> None:
    assert Schema.from_document(SCHEMA.to_document()) == SCHEMA
    assert SCHEMA.select(["p", "inst"]).names == ("p", "inst")
    with pytest.raises(UsageError, match="there is no control ints; did you mean inst"):
        SCHEMA.select(["ints"])
    with pytest.raises(UsageError, match="the control p stands twice"):
        Schema.from_document([{"name": "p"}, {"name": "p"}])


def test_changes_of_a_config_win_and_what_follows_follows() -> None:
    schema = Schema(parameters=(Parameter(name="p"), Parameter(name="q", lo=0, hi=1)))
    changed = schema.updated({"p": {"units": "category", "lo": 1, "hi": 2}, "q": {"hi": 5}})
    assert changed.of("p").interp == "previous" and changed.of("p").span == (1, 2)
    assert changed.of("q").span == (0, 5)
    with pytest.raises(UsageError, match="there is no control r"):
        schema.updated({"r": {"lo": 0}})
    with pytest.raises(UsageError, match=r"controls\.p: .*did you mean lo"):
        schema.updated({"p": {"low": 0}})


def test_fit_takes_extremes_of_what_it_is_given_and_keeps_what_was_said() -> None:
    schema = Schema(
        parameters=(INSTRUMENT.model_copy(update={"lo": None}), Parameter(name="a"), Parameter(name="b", lo=-1))
    )
    sounds: list[Controls] = [
        {"a": Track("a", [0, 1], [3, 5]), "b": Track.constant("b", 2), "inst": Track.constant("inst", 1)},
        {"a": Track("a", [0, 1], [4, 1]), "b": Track.constant("b", 7)},
    ]
    fitted = schema.fit(sounds)
    assert [parameter.span for parameter in fitted.parameters] == [(0, 1), (1, 5), (-1, 7)]
    assert fitted.unfitted().of("b").lo is None
    with pytest.raises(RunError, match="no sound has the control c"):
        Schema(parameters=(Parameter(name="c"),)).fit(sounds)
    with pytest.raises(RunError, match="f goes down to 0 and cannot have the scale log"):
        Schema(parameters=(Parameter(name="f", scale="log"),)).fit([{"f": Track("f", [0, 1], [0, 9])}])


def test_inputs_follow_the_schema_and_name_what_is_missing() -> None:
    controls = {
        "p": Track("p", [0, 1], [64, 76]),
        "inst": Track("inst", [0, 0.5], [0, 1]),
        "other": Track.constant("o", 1),
    }
    inputs = SCHEMA.inputs(controls, 4, 5)
    np.testing.assert_array_equal(inputs, [[0, 0], [0, 0.25], [1, 0.5], [1, 0.75], [1, 1]])
    np.testing.assert_array_equal(SCHEMA.inputs(controls, 4, 2, first_sample=2), inputs[2:4])
    with pytest.raises(UsageError, match=r"the control inst is missing.*given: p"):
        SCHEMA.inputs({"p": controls["p"]}, 4, 5)


# ---- tracks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "values", "fault"),
    [
        ([], [], "has no points"),
        ([0, 1], [1], "has 2 times but 1 values"),
        ([0, 1, 0.5], [1, 2, 3], "goes back in time at point 3, from 1 s to 0.5 s"),
        ([0, 1, 2], [1, math.nan, math.nan], r"holds nan at 1 s \(2 of 3 values\)"),
        ([0, 1], [1, math.inf], "holds inf at 1 s"),
        ([0, 1], [1, 1e39], "holds 1e.39 at 1 s"),
        ([0, math.nan], [1, 1], "has a time that is not a number, at point 2"),
        ([[0]], [[1]], "has times of shape"),
        (["x"], [1], "has times that are not numbers"),
        ([0], [None], "holds nan"),
        ([0], [10**400], "has values that are not numbers"),
    ],
)
def test_broken_tracks_are_refused_with_their_source(times: list, values: list, fault: str) -> None:
    with pytest.raises(RunError, match=f"the control p in a/b.csv {fault}.*: correct it there"):
        Track("p", times, values, "a/b.csv")  # type: ignore[arg-type]


@given(tracks(steps=False), st.lists(st.floats(-1, 12), min_size=1, max_size=20))
def test_values_between_points_are_those_of_numpy_and_scipy(track: Track, wanted: list[float]) -> None:
    times = np.array([*wanted, *track.times])
    expected = np.interp(times, track.times, track.values)
    np.testing.assert_allclose(track.at(times), expected, rtol=1e-9, atol=1e-6)
    if len(track.times) > 1:
        ends = (track.values[0], track.values[-1])
        held = interpolate.interp1d(track.times, track.values, "previous", bounds_error=False, fill_value=ends)
        np.testing.assert_array_equal(track.at(times, "previous"), held(times))


def test_a_repeated_time_is_a_step_and_ends_are_held() -> None:
    track = Track("p", [0.0, 0.5, 0.5, 0.5, 1.0, 1.0], [1, 1, 9, 3, 5, 7])
    assert track.at([-1, 0.25, np.nextafter(0.5, 0), 0.5, 0.75, np.nextafter(1, 0), 1.0, 9]).tolist() == pytest.approx(
        [1, 1, 1, 3, 4, 5, 7, 7]
    )
    assert track.at([-1, 0.4999, 0.5, 0.75, 1.0, 9], "previous").tolist() == [1, 1, 3, 3, 7, 7]
    start = Track("p", [0.0, 0.0], [1, 2])
    assert start.at([-0.1, 0.0, 0.1]).tolist() == [1, 2, 2]


@given(tracks(), st.sampled_from([8.0, 62.5, 125, 16000, 44100.0, 100 / 3]), st.integers(0, 40), st.integers(0, 40))
def test_any_window_is_the_slice_of_the_whole(track: Track, rate: float, first: int, samples: int) -> None:
    for interp in ("linear", "previous"):
        whole = resample_track(track, rate, 80, interp=interp)
        assert whole.dtype == np.float32 and whole.shape == (80,)
        window = resample_track(track, rate, samples, first_sample=first, interp=interp)
        np.testing.assert_array_equal(window, whole[first : first + samples])


@given(tracks(), st.sampled_from([8.0, 125.0, 16000.0]))
def test_long_results_made_in_blocks_are_the_same(track: Track, rate: float) -> None:
    import tierwave.controls.tracks as controls

    whole = resample_track(track, rate, 70)
    kept = controls._BLOCK_SAMPLES
    try:
        controls._BLOCK_SAMPLES = 16
        np.testing.assert_array_equal(resample_track(track, rate, 70), whole)
    finally:
        controls._BLOCK_SAMPLES = kept


def test_the_grid_is_exact_and_ends_are_held() -> None:
    """paramManager reads 10 frames of 125 Hz as if they were 11 % slower, and goes on straight beyond the end."""
    ramp = Track.regular("r", np.arange(10), 125)
    np.testing.assert_allclose(resample_track(ramp, 500, 60)[:37], np.arange(37) / 4, rtol=1e-6)
    assert (resample_track(ramp, 500, 60)[36:] == 9).all()
    np.testing.assert_array_equal(resample_track(ramp, 125, 10), np.arange(10))
    np.testing.assert_allclose(resample_track(ramp, 125, 3, start_seconds=0.02), [2.5, 3.5, 4.5], rtol=1e-6)
    # first / rate + k / rate would round, and miss some of these steps by a sample.
    stairs = Track("s", np.repeat(np.arange(60) / 10, 2), np.repeat(np.arange(61), 2)[1:-1])
    for first in range(30):
        steps = resample_track(stairs, 10, 20, first_sample=first, interp="previous")
        np.testing.assert_array_equal(steps, np.arange(first, first + 20) + 1)
    # A step falls on the very sample, however late.
    late = Track("s", [0, 3599.1, 3599.1], [0, 0, 1])
    sample = round(3599.1 * 16000)
    np.testing.assert_array_equal(resample_track(late, 16000, 3, first_sample=sample - 1), [0, 1, 1])


@given(tracks(most=60), st.sampled_from([2.0, 8.0, 50.0, 400.0]))
def test_finer_tracks_are_averaged_over_a_target_period(track: Track, rate: float) -> None:
    assume(track.interval < 0.99 / rate)
    result = resample_track(track, rate, 12)
    for sample in (0, 3, 11):
        low, high = (sample - 0.5) / rate, (sample + 0.5) / rate
        corners = [low, *track.times[(track.times > low) & (track.times < high)], high]
        area = sum(
            integrate.quad(track.at, left, np.nextafter(right, left))[0]
            for left, right in zip(corners, corners[1:], strict=False)
            if right > left
        )
        scale = np.abs(track.values).max()
        assert result[sample] == pytest.approx(area * rate, rel=1e-5, abs=1e-5 * scale + 1e-9)


def test_what_would_fold_back_is_damped_as_a_box_damps() -> None:
    """The response of a box of one period is sinc(f / rate): 180 Hz at 100 Hz would alias to 20 Hz at full strength."""
    track = Track.regular("x", np.sin(2 * np.pi * 180 * np.arange(8000) / 4000), 4000)
    plain = track.at(np.arange(10, 180) / 100)
    averaged = resample_track(track, 100, 170, first_sample=10)
    assert np.abs(plain).max() > 0.9
    assert np.abs(averaged).max() == pytest.approx(np.abs(plain).max() * abs(np.sinc(1.8)), rel=0.02)
    slow = Track.regular("x", np.sin(2 * np.pi * 2 * np.arange(8000) / 4000), 4000)
    np.testing.assert_allclose(
        resample_track(slow, 100, 170, first_sample=10), np.sinc(0.02) * slow.at(np.arange(10, 180) / 100), atol=1e-4
    )


def test_categories_are_never_mixed_and_constants_stay_exact() -> None:
    fine = Track.regular("inst", np.tile([0.0, 7.0], 500), 1000)
    assert set(resample_track(fine, 30, 30, interp="previous")) <= {0.0, 7.0}
    constant = Track.regular("c", np.full(1000, 0.1), 1000)
    assert set(resample_track(constant, 30, 40)) == {np.float32(0.1)}
    assert set(resample_track(Track.constant("c", 0.1), 16000, 40)) == {np.float32(0.1)}


def test_nothing_to_resample_is_nothing_and_a_rate_must_be_one() -> None:
    assert resample_track(Track.constant("c", 1), 100, 0).shape == (0,)
    with pytest.raises(ValueError, match="a rate above 0 Hz"):
        resample_track(Track.constant("c", 1), 0, 5)


@given(tracks(), st.floats(-0.2, 3), st.floats(0.01, 3))
def test_a_part_has_the_values_of_the_whole(track: Track, start: float, length: float) -> None:
    part = track.between(start, start + length)
    inside = np.linspace(start, start + length, 23)[:-1]
    scale = np.abs(track.values).max()
    np.testing.assert_allclose(part.at(inside), track.at(inside), rtol=1e-6, atol=1e-6 * scale + 1e-9)
    assert part.times[0] == start and part.times[-1] == start + length


def test_a_part_does_not_see_what_lies_outside() -> None:
    track = Track("x", [0, 1, 1, 2], [0, 1, 100, 200])
    assert track.between(0, 1).values.max() == pytest.approx(1)
    assert track.between(1, 2).values.min() == 100


def test_agreement_is_of_values_not_of_points() -> None:
    line = Track("x", [0, 2], [0, 2])
    assert line.agrees_with(Track("x", [0, 0.5, 2], [0, 0.5, 2]))
    assert not line.agrees_with(Track("x", [0, 2], [0, 2.1]))
    assert not line.agrees_with(Track("x", [0, 1, 1, 2], [0, 1, 1.5, 2]))
    assert not line.agrees_with(Track("x", [0, 1, 1, 2], [0, 5, 1, 2]))  # differs before the step only
    assert not line.agrees_with(Track.constant("x", 0))
    assert Track.constant("x", 64).agrees_with(Track("x", [0, 2.5], [64, 64]))


def test_gestures_and_constants() -> None:
    gesture = Track.from_events("a", [(0, 0), (0.25, 1), (1, 0)])
    np.testing.assert_allclose(
        resample_track(gesture, 8, 9), [0, 0.5, 1, 5 / 6, 4 / 6, 0.5, 2 / 6, 1 / 6, 0], rtol=1e-6
    )
    with pytest.raises(RunError, match="has no points"):
        Track.from_events("a", [])
    assert constants_of({"a": gesture, "p": Track.constant("p", 64)}) == (None, 64.0)


def test_tracks_cannot_be_changed_by_accident() -> None:
    values = np.array([1.0, 2.0])
    track = Track("x", np.array([0.0, 1.0]), values)
    values[0] = 5
    assert track.values[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        track.values[0] = 3


# ---- controls that are typed -----------------------------------------------------------------------------------------


def test_the_three_forms_of_a_control() -> None:
    value, ramp = parse_control("p=64"), parse_control("p=64:76", seconds=2.0)
    points = parse_control(" p=-1e1:64,.5:70,.5:76", seconds=None)
    assert (value.values.tolist(), ramp.times.tolist(), ramp.values.tolist()) == ([64], [0, 2], [64, 76])
    assert (points.name, points.times.tolist(), points.values.tolist()) == (" p", [-10, 0.5, 0.5], [64, 70, 76])
    assert parse_control("p=-3:-5", seconds=1).values.tolist() == [-3, -5]


def test_names_of_parameters_and_categories() -> None:
    assert parse_control("inst=reed", schema=SCHEMA).values.tolist() == [1]
    assert parse_control("inst=brass:reed", schema=SCHEMA, seconds=1).values.tolist() == [0, 1]
    assert parse_control("inst=0:brass,1.5:reed", schema=SCHEMA).times.tolist() == [0, 1.5]
    odd = Schema(parameters=(Parameter(name="a, b"), Parameter(name="x=y")))
    assert parse_control("a, b=3", schema=odd).name == "a, b"
    assert parse_control("x=y=3", schema=odd).name == "x=y"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p", "is not NAME=VALUE: write for example inst=64"),
        ("=5", "is not NAME=VALUE"),
        ("q=5", "there is no control q"),
        ("insst=5", "did you mean inst"),
        ("p=high", "'high' is not a number"),
        ("p=", "'' is not a number"),
        ("p=nan", "'nan' is not a number"),
        ("p=1e999", "'1e999' is not a number"),
        ("p=1_0", "'1_0' is not a number"),
        ("inst=flute", "'flute' is not a number or one of brass, reed"),
        ("p=1:2:3", "break-points as seconds:value"),
        ("p=0:64,76", "break-points as seconds:value"),
        ("p=1:64,0:76", "the seconds must not go back"),
        ("p=64:76", "is a ramp, but over no known length"),
    ],
)
def test_controls_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_control(text, schema=SCHEMA)
    assert message in str(error.value)


def test_a_control_given_twice_is_refused() -> None:
    assert list(parse_controls(["p=64", "inst=0"], schema=SCHEMA)) == ["p", "inst"]
    with pytest.raises(UsageError, match="--control gives p twice"):
        parse_controls(["p=64", "p=65"])


# ---- arrays ----------------------------------------------------------------------------------------------------------


def test_arrays_are_controls_at_their_rate(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    np.save(tmp_path / "x.npy", array)
    first, second = read_array(tmp_path / "x.npy", ["a", "b", "c"], 125)
    assert list(first) == ["a", "b", "c"]
    np.testing.assert_array_equal(second["b"].values, array[1, :, 1])
    np.testing.assert_allclose(second["b"].times, np.arange(4) / 125)
    np.testing.assert_array_equal(resample_track(second["b"], 125, 6), [13, 16, 19, 22, 22, 22])


@pytest.mark.parametrize("shape", [(4, 3), (2, 4, 2), (2, 4, 3, 1), (0, 4, 3), (2, 0, 3), (3,), ()])
def test_arrays_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "x.npy", np.zeros(shape))
    with pytest.raises(UsageError) as error:
        read_array(tmp_path / "x.npy", ["a", "b", "c"], 125)
    assert f"has the shape {list(shape)}, but [batch, length, 3] (a, b, c) is needed" in str(error.value)
    assert ("array[None]" in str(error.value)) == (len(shape) == 2)


def test_arrays_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    with pytest.raises(UsageError, match="there is no array"):
        read_array(path, ["a"], 125)
    for content in (b"", b"hello", b"\x93NUMPY"):
        path.write_bytes(content)
        with pytest.raises(RunError, match="x.npy is not an .npy array"):
            read_array(path, ["a"], 125)
    np.save(path, np.array([[[None]]]))
    with pytest.raises(RunError, match="x.npy is not an .npy array"):
        read_array(path, ["a"], 125)
    np.save(path, np.ones((1, 2, 1), complex))
    with pytest.raises(RunError, match="holds an array of complex128"):
        read_array(path, ["a"], 125)
    np.savez(tmp_path / "x.npz", np.ones((1, 2, 1)))
    with pytest.raises(RunError, match="holds several arrays"):
        read_array(tmp_path / "x.npz", ["a"], 125)
    np.save(path, np.full((1, 2, 1), 0x7FA00000, np.uint32).view(np.float32))  # a NaN of which NumPy warns
    with warnings.catch_warnings(), pytest.raises(RunError, match="the control a in .*x.npy holds nan"):
        warnings.simplefilter("error")
        read_array(path, ["a"], 125)
    np.save(path, np.full((1, 2, 1), np.nan))
    with pytest.raises(RunError, match="the control a in .*x.npy holds nan"):
        read_array(path, ["a"], 125)
    with pytest.raises(UsageError, match="--external_sr is 0"):
        read_array(path, ["a"], 0)


# ---- a range and what it is for --------------------------------------------------------------------------------------


def held(*values: float | list[float]) -> list[Track]:
    return [
        Track.regular("p", np.array(value), 10.0) if isinstance(value, list) else Track.constant("p", value)
        for value in values
    ]


@pytest.mark.parametrize(
    ("fields", "values", "told"),
    [
        (
            {"lo": 61, "hi": 61},
            (60, 61),
            "from 61 to 61, which steers nothing, but the recordings hold 60 to 61: set its",
        ),
        ({"lo": 61, "hi": 61}, (60, 60), "the recordings hold 60 everywhere"),
        ({"lo": 61, "hi": 61}, (61, [61, 61.5]), "the recordings hold 61 to 61.5"),
        ({"lo": 61, "hi": 61, "outside": "allow"}, (60, 61), "steers nothing"),
        ({"lo": 10, "hi": 5}, (60, 61), "is to go from 5 to 10, but the recordings hold 60 to 61"),
        (
            {"lo": 0, "hi": 1, "categories": ["a", "b"]},
            (0, 1, 2),
            "hold p 0 to 2, and its categories are 0 a, 1 b: name",
        ),
        ({"lo": 61, "hi": 61}, (61, 61 + 1e-6), ""),
        ({"lo": 60, "hi": 61}, (60, 70), ""),
        ({"lo": 5, "hi": 10, "outside": "allow"}, (60, 61), ""),
        ({"lo": 0, "hi": 1}, (), ""),
    ],
)
def test_a_range_that_cannot_be_says_what_the_recordings_hold(fields: dict, values: tuple, told: str) -> None:
    complaint = mismatch(Parameter(name="p", **fields), held(*values))
    assert told in complaint and bool(told) == bool(complaint)


def test_what_a_range_leaves_out_is_told() -> None:
    narrow = Parameter(name="p", lo=60, hi=61)
    assert coverage(narrow, held(60, 61, [60, 70])) == []
    assert coverage(narrow, held(60, 70, [70, 71])) == ["p is to go from 60 to 61, and 67% of its points lie beyond"]
    named = Parameter(name="p", lo=0, hi=2, categories=("plucked", "bowed", "blown"))
    assert coverage(named, held(0, 2)) == ["no recording has p bowed, so it cannot be asked for"]
