import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from scipy.signal import butter, sosfilt

from tierwave.analysis.control_accuracy import accuracy_picture, aspect_of, correlations, measure_controls
from tierwave.analysis.control_scenarios import Scenario, controls_in_words, scenarios, trained_values
from tierwave.analysis.control_summary import Result, median_errors, summarise
from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.tracks import Track
from tierwave.errors import RunError, UsageError

RATE = 16000
SECONDS = 1.0

PITCH = Parameter(name="pitch", units="midiPitch", lo=57, hi=69)
HERTZ = Parameter(name="f0", units="hertz", lo=220, hi=440)
LEVEL = Parameter(name="rmse", units="amplitude", lo=0.001, hi=0.3)
LOUD = Parameter(name="a", units="amplitude", lo=0, hi=1)
BRIGHT = Parameter(name="centroid", units="hertz", lo=500, hi=4000)
REED = Parameter(name="instrument", categories=("brass", "reed"), lo=0, hi=1)


def schema_of(*parameters):
    return Schema(parameters=parameters)


def clock(seconds=SECONDS):
    return np.arange(int(seconds * RATE)) / RATE


def tone(midi, amplitude=0.2, seconds=SECONDS):
    """A tone of five harmonics; midi and amplitude are numbers or curves `[samples]`."""
    hertz = 440.0 * 2.0 ** ((np.broadcast_to(midi, len(clock(seconds))) - 69.0) / 12.0)
    phase = 2 * np.pi * np.cumsum(hertz) / RATE
    return amplitude * sum(np.sin(number * phase) / number for number in range(1, 6))


def ramp(name, start, stop, seconds=SECONDS):
    return Track.from_events(name, [(0.0, start), (seconds, stop)])


def followed(audio, parameter, track):
    result = measure_controls(audio, RATE, {parameter.name: track}, schema_of(parameter))
    assert list(result) == [parameter.name]
    return result[parameter.name]


# What a control is in the sound ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "units", "sound"),
    [
        ("pitch", "midiPitch", "pitch"),
        ("note", "midiPitch", "pitch"),
        ("f0", "hertz", "pitch"),
        ("midiPitch", "frequency", "pitch"),
        ("main_pitch", "hertz", "pitch"),
        ("midi", None, "pitch"),
        ("rmse", "amplitude", "loudness"),
        ("a", "amplitude", "loudness"),
        ("level", "dB", "loudness"),
        ("loudness", None, "loudness"),
        ("amplitude", "norm", "loudness"),
        ("power", "energy", "loudness"),
        ("centroid", "hertz", "brightness"),
        ("spectral_centroid", "hertz", "brightness"),
        ("bandwidth", "hertz", "feature"),
        ("flatness", "norm", "feature"),
        ("zcr", "norm", "feature"),
        ("mfcc3", None, "feature"),
        ("onset", "dB", "feature"),
        ("voicing", "category", "feature"),
        ("instrument", "category", None),
        ("pitch", "category", None),
        ("pitch", "norm", None),
        ("velocity", "velocity", None),
        ("midi_velocity", None, None),
        ("mfcc", None, None),
        ("mfcc99", None, None),
        ("cutoff", "hertz", None),
        ("p", None, None),
    ],
)
def test_units_and_names_tell_what_a_parameter_is(name, units, sound):
    aspect = aspect_of(Parameter(name=name, units=units))
    assert (aspect and aspect.sound) == sound


def test_only_measured_loudness_is_absolute():
    assert aspect_of(LEVEL).absolute and aspect_of(Parameter(name="level", units="dB")).absolute
    assert not aspect_of(LOUD).absolute and not aspect_of(Parameter(name="gain", units="dB")).absolute


# Pitch ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("midi", [57, 64, 69])
def test_a_tone_as_asked_for_has_no_error(midi):
    result = followed(tone(midi), PITCH, Track.constant("pitch", midi))
    assert result.error < 5 and result.error_p90 < 10 and abs(result.bias) < 5
    assert result.share > 0.95 and result.octave_errors == 0 and result.in_tune
    assert result.rank_correlation is None and result.correlation is None
    assert result.times[0] >= 0.05 and result.times[-1] <= SECONDS - 0.05
    assert len(result.times) == len(result.requested) == len(result.measured) > 50
    np.testing.assert_array_equal(result.requested, midi)
    assert np.nanmedian(result.measured) == pytest.approx(midi, abs=0.05)


@pytest.mark.parametrize("cents", [30, -30, 80])
def test_a_detuned_tone_is_as_far_off_as_it_is(cents):
    result = followed(tone(64 + cents / 100), PITCH, Track.constant("pitch", 64))
    assert result.error == pytest.approx(abs(cents), abs=5) and result.bias == pytest.approx(cents, abs=5)
    assert result.in_tune == (abs(cents) <= 50)


def test_hertz_and_midi_say_the_same():
    audio = tone(64.3)
    hertz = followed(audio, HERTZ, Track.constant("f0", 440 * 2 ** (-5 / 12)))
    assert hertz.error == pytest.approx(30, abs=5)
    np.testing.assert_allclose(hertz.requested, 64)


def test_a_range_tells_the_unit_where_none_is_given():
    as_midi = Parameter(name="pitch", lo=57, hi=69)
    as_hertz = Parameter(name="pitch", lo=220, hi=440)
    assert followed(tone(57), as_midi, Track.constant("pitch", 57)).error < 5
    assert followed(tone(57), as_hertz, Track.constant("pitch", 220)).error < 5


def test_a_glide_is_followed_and_its_opposite_is_not():
    curve = np.interp(clock(), [0, SECONDS], [57, 69])
    up = followed(tone(curve), PITCH, ramp("pitch", 57, 69))
    assert up.rank_correlation > 0.98 and up.correlation > 0.98 and up.error < 20 and up.in_tune
    down = followed(tone(curve), PITCH, ramp("pitch", 69, 57))
    assert down.rank_correlation < -0.98 and down.correlation < -0.98 and not down.in_tune


def test_a_tone_that_stays_does_not_follow_a_glide():
    result = followed(tone(63), PITCH, ramp("pitch", 57, 69))
    assert abs(result.rank_correlation) < 0.3 and 200 < result.error < 400


@pytest.mark.parametrize("octave", [-12, 12])
def test_an_octave_off_is_counted_as_such(octave):
    curve = np.where(clock() < 0.5, 60, 60 + octave)
    result = followed(tone(curve), PITCH, Track.constant("pitch", 60))
    assert result.octave_errors == pytest.approx(0.5, abs=0.1)
    whole = followed(tone(60 + octave), PITCH, Track.constant("pitch", 60))
    assert whole.octave_errors > 0.95 and whole.error == pytest.approx(1200, abs=5) and not whole.in_tune
    fifth = followed(tone(67), PITCH, Track.constant("pitch", 60))
    assert fifth.octave_errors == 0


def test_half_a_tone_is_half_voiced():
    audio = tone(60) * (clock() < 0.5)
    result = followed(audio, PITCH, Track.constant("pitch", 60))
    assert result.share == pytest.approx(0.5, abs=0.1) and result.error < 5


def test_noise_has_no_pitch():
    noise = 0.1 * np.random.default_rng(0).normal(size=RATE)
    result = followed(noise, PITCH, Track.constant("pitch", 60))
    assert result.share < 0.3 and not result.in_tune


def test_where_no_pitch_is_asked_for_none_is_compared():
    track = Track.from_events("f0", [(0, 220), (0.5, 220), (0.5, 0), (1, 0)])
    result = followed(tone(57), HERTZ, track)
    assert result.error < 5 and result.share > 0.95
    assert np.isnan(result.requested).mean() == pytest.approx(0.5, abs=0.05)


def test_a_pitch_above_all_that_can_be_told_is_an_error():
    high = Parameter(name="f0", units="hertz", lo=9000, hi=10000)
    with pytest.raises(UsageError, match="sample rate"):
        measure_controls(tone(60), RATE, {"f0": Track.constant("f0", 9000)}, schema_of(high))


# Loudness, brightness, features --------------------------------------------------------------------------------------


def test_absolute_loudness_has_an_error_in_decibels():
    audio = tone(60)
    rms = float(np.sqrt(np.mean(audio**2)))
    assert followed(audio, LEVEL, Track.constant("rmse", rms)).error < 0.3
    half = followed(audio / 2, LEVEL, Track.constant("rmse", rms))
    assert half.error == pytest.approx(6.02, abs=0.3) and half.bias == pytest.approx(-6.02, abs=0.3)


@pytest.mark.parametrize("gain", [1.0, 0.05])
def test_loudness_on_its_own_scale_is_compared_without_offset(gain):
    curve = np.interp(clock(), [0, SECONDS], [0, 1])
    result = followed(gain * tone(60, curve), LOUD, ramp("a", 0, 1))
    assert result.error < 1 and result.rank_correlation > 0.98 and result.correlation > 0.98
    assert np.median(np.abs(result.aligned - result.measured)) < 1
    against = followed(gain * tone(60, curve), LOUD, ramp("a", 1, 0))
    assert against.error > 5 and against.rank_correlation < -0.98 and against.correlation < -0.8


def test_one_value_on_a_scale_of_its_own_is_neither_right_nor_wrong():
    """Whatever loudness came, an offset would fit it."""
    loud = followed(tone(60), LOUD, Track.constant("a", 0.5))
    assert loud.error is None and loud.error_p90 is None and loud.bias is None and not loud.comparable
    assert np.isnan(loud.aligned).all() and np.isfinite(loud.measured).all()
    assert loud.words == "nothing to compare: one value, on a scale of its own"
    silent = followed(np.zeros(RATE), LOUD, Track.constant("a", 0.5))
    assert silent.words == "nothing to compare"
    assert followed(tone(60), LEVEL, Track.constant("rmse", 0.1)).words.endswith(" dB off")


def test_cents_are_told_with_the_share_that_is_voiced():
    half = followed(tone(60.4) * (clock() < 0.5), PITCH, Track.constant("pitch", 60))
    assert half.words == f"{half.error:.1f} cents off ({100 * half.share:.0f} % of its frames voiced)"
    assert 0.4 < half.share < 0.6 and half.error == pytest.approx(40, abs=5)
    assert followed(np.zeros(RATE), PITCH, Track.constant("pitch", 60)).words == "none of its frames voiced"


def test_loudness_upside_down_is_far_off_over_several_sounds():
    sounds = [
        measure_controls(tone(60, 0.1 / value), RATE, {"a": Track.constant("a", value)}, schema_of(LOUD))
        for value in (0.25, 0.5, 1.0)
    ]
    assert median_errors(sounds)["a"] == pytest.approx(12, abs=1)
    assert median_errors(sounds[:1]) == {} and median_errors([]) == {}
    upright = [
        measure_controls(tone(60, 0.01 * value), RATE, {"a": Track.constant("a", value)}, schema_of(LOUD))
        for value in (0.25, 0.5, 1.0)
    ]
    assert median_errors(upright)["a"] < 1


def test_all_that_was_asked_for_is_told():
    asked = {"pitch": ramp("pitch", 57, 69), "instrument": Track.constant("instrument", 1)}
    asked["a"] = Track.constant("a", 0.5)
    assert controls_in_words(asked, SCHEMA) == "pitch=57 to 69, instrument=reed, a=0.5"


def test_a_decibel_ramp_gives_a_straight_line():
    decibels = np.interp(clock(), [0, SECONDS], [-40, -10])
    parameter = Parameter(name="level", units="dB", lo=-40, hi=-10)
    audio = np.sqrt(2) * 10 ** (decibels / 20) * np.sin(2 * np.pi * 440 * clock())
    result = followed(audio, parameter, ramp("level", -40, -10))
    assert result.correlation > 0.999 and result.error < 0.5 and result.offset == 0


def test_energy_counts_half_the_decibels():
    parameter = Parameter(name="power", units="energy", lo=0, hi=1)
    curve = np.interp(clock(), [0, SECONDS], [0.1, 1])
    result = followed(tone(60, np.sqrt(curve)), parameter, ramp("power", 0.1, 1))
    assert result.error < 0.5


def noise_below(cutoff, seed=0):
    low_pass = butter(8, cutoff, fs=RATE, output="sos")
    return 0.3 * sosfilt(low_pass, np.random.default_rng(seed).normal(size=RATE))


def test_brightness_is_compared_in_hertz_and_octaves():
    sine = 0.3 * np.sin(2 * np.pi * 1000 * clock())
    exact = followed(sine, BRIGHT, Track.constant("centroid", 1000))
    assert exact.error < 20 and exact.octaves < 0.03
    octave_up = followed(sine, BRIGHT, Track.constant("centroid", 500))
    assert octave_up.error == pytest.approx(500, abs=20) and octave_up.octaves == pytest.approx(1, abs=0.03)
    # White noise below a cutoff has its centroid in the middle.
    noise = followed(noise_below(4000), BRIGHT, Track.constant("centroid", 2000))
    assert noise.octaves < 0.2


def test_noise_that_grows_brighter_follows():
    parts = [noise_below(cutoff, seed)[: RATE // 4] for seed, cutoff in enumerate((1000, 2000, 4000, 7000))]
    result = followed(np.concatenate(parts), BRIGHT, ramp("centroid", 500, 3500))
    assert result.rank_correlation > 0.9 and result.correlation > 0.9
    backwards = followed(np.concatenate(parts)[::-1], BRIGHT, ramp("centroid", 500, 3500))
    assert backwards.rank_correlation < -0.9


def test_a_parameter_named_like_a_feature_is_compared_with_it():
    flatness = Parameter(name="flatness", units="norm", lo=0, hi=1)
    assert followed(noise_below(7900), flatness, Track.constant("flatness", 0.5)).error < 0.3
    assert followed(tone(60), flatness, Track.constant("flatness", 0.5)).error > 0.4


def test_several_parameters_at_once_and_what_cannot_be_measured_is_left_out():
    schema = schema_of(REED, PITCH, LOUD, BRIGHT)
    asked = {parameter.name: Track.constant(parameter.name, 60) for parameter in schema.parameters[:2]}
    asked["a"] = Track.constant("a", 0.5)
    asked["unknown"] = Track.constant("unknown", 1)
    assert list(measure_controls(tone(60), RATE, asked, schema)) == ["pitch", "a"]
    assert measure_controls(tone(60), RATE, {}, schema) == {}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("samples", [1, 500, RATE])
def test_silence_gives_no_numbers_and_no_trouble(samples):
    schema = schema_of(PITCH, LOUD, BRIGHT)
    asked = {"pitch": Track.constant("pitch", 60), "a": ramp("a", 0, 1), "centroid": Track.constant("centroid", 900)}
    result = measure_controls(np.zeros(samples), RATE, asked, schema)
    for each in result.values():
        assert each.error is None and each.error_p90 is None and each.bias is None and each.octave_errors is None
        assert each.rank_correlation is None and each.correlation is None
    assert result["pitch"].share == 0 and not result["pitch"].in_tune and np.isnan(result["pitch"].measured).all()
    assert result["a"].offset is None


def test_sound_that_was_asked_to_be_loud_but_is_silent_is_not_excused():
    result = followed(np.zeros(RATE), LEVEL, Track.constant("rmse", 0.1))
    assert result.error == pytest.approx(40)  # down to -60 dB


def test_broken_sound_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        followed(np.full(RATE, np.nan), PITCH, Track.constant("pitch", 60))


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=30))
def test_correlations_are_those_of_the_textbook(pairs):
    want, got = np.array(pairs, np.float64).T
    if len(want) < 3 or np.ptp(want) == 0:
        assert correlations(want, got) == (None, None)
    elif np.ptp(got) == 0:
        assert correlations(want, got) == (0, 0)
    else:
        ranks = [[(values < each).sum() + (values == each).sum() / 2 for each in values] for values in (want, got)]
        expected = np.corrcoef(ranks)[0, 1], np.corrcoef(want, got)[0, 1]
        assert correlations(want, got) == pytest.approx(expected, abs=1e-9)


# Scenarios -----------------------------------------------------------------------------------------------------------


def by_kind(found, kind):
    return [scenario for scenario in found if scenario.kind == kind]


def test_two_instruments_and_ten_pitches():
    schema = schema_of(PITCH, REED)
    found = scenarios(schema, {"pitch": range(60, 70), "instrument": [0, 1]}, seconds=2.0)
    assert len({scenario.name for scenario in found}) == len(found)
    assert [len(by_kind(found, kind)) for kind in ("trained", "between", "sweep")] == [20, 18, 2]
    assert {scenario.parameter for scenario in found} == {"pitch"}
    assert {scenario.group for scenario in found} == {"instrument=brass", "instrument=reed"}
    asked = {(float(s.controls["pitch"].values[0]), float(s.controls["instrument"].values[0])) for s in found}
    assert {(60.0, 0.0), (69.0, 1.0), (60.5, 0.0), (68.5, 1.0)} <= asked
    sweep = by_kind(found, "sweep")[1]
    assert sweep.name == "pitch=60 to 69, instrument=reed" and sweep.seconds == 2.0
    np.testing.assert_array_equal(sweep.controls["pitch"].at([0, 1, 2]), [60, 64.5, 69])
    for scenario in found:
        assert schema.inputs(scenario.controls, 100, 200).shape == (200, 2)


def test_many_values_are_spread_and_what_is_between_is_next_to_them():
    found = scenarios(schema_of(PITCH), {"pitch": [value / 2 for value in range(114, 140)]})
    trained = [float(scenario.controls["pitch"].values[0]) for scenario in by_kind(found, "trained")]
    assert len(trained) == 7 and trained[0] == 57 and trained[-1] == 69.5
    assert [float(s.controls["pitch"].values[0]) for s in by_kind(found, "between")] == [v + 0.25 for v in trained[:-1]]


def test_the_others_are_held_at_a_trained_value():
    values = {"pitch": [60, 64, 67], "a": [0.2, 0.5, 0.9]}
    found = scenarios(schema_of(PITCH, LOUD), values)
    assert [scenario.parameter for scenario in found] == ["pitch"] * 6 + ["a"] * 6
    assert all(scenario.controls["a"].values.tolist() == [0.5] for scenario in found[:6])
    assert all(scenario.controls["pitch"].values.tolist() == [64] for scenario in found[6:])
    assert scenarios(schema_of(PITCH, LOUD), values, names=["a"])[0].parameter == "a"


def test_a_category_has_nothing_between_and_a_large_one_is_held():
    stepped = Parameter(name="note", units="midiPitch", nvals=3, lo=60, hi=67)
    found = scenarios(schema_of(stepped), {"note": [60, 64, 67]}, names=["note"])
    assert [scenario.kind for scenario in found] == ["trained"] * 3
    many = Parameter(name="instrument", units="category", nvals=5, lo=0, hi=4)
    found = scenarios(schema_of(PITCH, many), {"pitch": [60], "instrument": [0, 1, 2, 3, 4]})
    assert [scenario.controls["instrument"].values.tolist() for scenario in found] == [[2]]


def test_a_sweep_of_what_is_held_moves_all_the_same():
    held = Parameter(name="pitch", units="midiPitch", lo=60, hi=70, interp="previous")
    sweep = scenarios(schema_of(held), {"pitch": [60, 70]})[-1]
    assert sweep.kind == "sweep"
    np.testing.assert_allclose(sweep.controls["pitch"].at([0, 1, 1.99], "previous"), [60, 65, 70], atol=0.1)


def test_no_pitch_is_not_asked_for():
    found = scenarios(schema_of(HERTZ), {"f0": [0, 220, 440]})
    assert [scenario.name for scenario in found] == ["f0=220", "f0=440", "f0=330", "f0=220 to 440"]


def test_impossible_scenarios_are_explained():
    with pytest.raises(UsageError, match="instrument cannot be measured in a sound: choose from pitch"):
        scenarios(schema_of(PITCH, REED), {"pitch": [60], "instrument": [0]}, names=["instrument"])
    with pytest.raises(UsageError, match="did you mean pitch"):
        scenarios(schema_of(PITCH), {"pitch": [60]}, names=["pich"])
    with pytest.raises(UsageError, match="a has no trained values"):
        scenarios(schema_of(PITCH, LOUD), {"pitch": [60]})
    assert scenarios(schema_of(REED), {"instrument": [0, 1]}) == []


def test_trained_values_are_the_different_ones_or_quantiles():
    sounds = [
        {"pitch": Track.constant("pitch", note), "a": Track.regular("a", np.linspace(0, 1, 500), 100)}
        for note in (62, 60, 62)
    ]
    values = trained_values(schema_of(PITCH, LOUD, REED), sounds)
    assert values["pitch"] == [60, 62] and values["instrument"] == []
    assert len(values["a"]) == 13
    np.testing.assert_allclose(values["a"], np.linspace(0.05, 0.95, 13), atol=0.01)


# All sounds ----------------------------------------------------------------------------------------------------------

SCHEMA = schema_of(PITCH, LOUD, REED)


def performed(scenario, detuned=0.0, gains=(1.0, 0.25)):
    """A network that follows: what the scenario asks for, the second instrument softer."""
    pitch = scenario.controls["pitch"].at(clock(scenario.seconds))
    gain = gains[int(scenario.controls["instrument"].values[0])]
    loud = scenario.controls["a"].at(clock(scenario.seconds))
    return tone(pitch + detuned, 0.3 * gain * loud, scenario.seconds)


def results_of(perform, names=None, kinds=("trained", "between", "sweep")):
    values = {"pitch": [60, 62, 64], "a": [0.1, 0.3, 0.9], "instrument": [0, 1]}
    found = [one for one in scenarios(SCHEMA, values, names=names, seconds=0.5) if one.kind in kinds]
    return [Result(s, measure_controls(perform(s), RATE, s.controls, SCHEMA)) for s in found]


@pytest.fixture(scope="module")
def obedient():
    return summarise(results_of(performed))


def row_of(following, parameter, kind):
    return next(row for row in following.rows if (row.parameter, row.kind) == (parameter, kind))


def test_a_network_that_follows_is_summed_up_as_one(obedient):
    assert [(row.parameter, row.kind) for row in obedient.rows] == [
        (name, kind) for name in ("pitch", "a") for kind in ("trained", "between", "sweep", "held")
    ]
    for kind, sounds in (("trained", 6), ("between", 4), ("sweep", 2), ("held", 12)):
        row = row_of(obedient, "pitch", kind)
        assert (row.sounds, row.compared, row.in_tune, row.octave_off) == (sounds, sounds, sounds, 0)
        assert row.error < 5 or kind == "sweep" and row.error < 15
        loud = row_of(obedient, "a", kind)
        assert loud.sounds == sounds and loud.error < 1 and loud.in_tune is None
    for name in ("pitch", "a"):
        for kind in ("trained", "sweep"):
            assert row_of(obedient, name, kind).rank_correlation > 0.98
            assert row_of(obedient, name, kind).correlation > 0.98
        assert row_of(obedient, name, "between").rank_correlation is None  # two values in a group
    assert obedient.missed == []


def test_a_constant_loudness_that_is_not_followed_has_an_error_and_no_correlation():
    def deaf(scenario):
        return tone(scenario.controls["pitch"].at(clock(scenario.seconds)), 0.2, scenario.seconds)

    row = row_of(summarise(results_of(deaf, ["a"], ["trained"])), "a", "trained")
    assert row.error > 5 and abs(row.rank_correlation) < 1e-9

    def inverse(scenario):
        loud = 0.1 / scenario.controls["a"].at(clock(scenario.seconds))
        return tone(scenario.controls["pitch"].values[0], 0.2 * loud, scenario.seconds)

    row = row_of(summarise(results_of(inverse, ["a"], ["trained"])), "a", "trained")
    assert row.rank_correlation == pytest.approx(-1) and row.correlation < -0.98


def test_loudness_that_was_asked_for_once_has_no_error():
    row = row_of(summarise(results_of(performed, ["pitch"], ["trained"])), "a", "held")
    assert (row.error, row.compared) == (None, 0)


def test_what_is_out_of_tune_is_counted_and_named():
    def half_broken(scenario):
        if scenario.group == "instrument=reed":
            return np.zeros(int(scenario.seconds * RATE))
        return performed(scenario, detuned=12.0 if scenario.name.startswith("pitch=62,") else 0.0)

    following = summarise(results_of(half_broken, ["pitch"], ["trained"]))
    row = row_of(following, "pitch", "trained")
    assert (row.sounds, row.compared, row.in_tune, row.octave_off) == (6, 3, 2, 1)
    table = following.table()
    assert "2 of 6" in table and "3 of 6" in table and "an octave off: 1 sound" in table
    assert "not in tune: pitch=62, instrument=brass: 1200 cents off (100 % of its frames voiced)" in table
    assert "not in tune: pitch=60, instrument=reed: none of its frames voiced\n" in table
    assert row.voiced == pytest.approx(0.5, abs=0.05)
    assert "pitch, trained: 50 % of the frames are voiced, and only they are compared" in table


def test_the_table_has_a_line_for_each_row(obedient):
    lines = obedient.table().splitlines()
    assert len(lines) == 1 + len(obedient.rows)
    assert lines[0].split()[:3] == ["parameter", "request", "sounds"]
    assert "6 of 6" in lines[1] and "cents" in lines[1] and "dB" in lines[5]
    assert max(map(len, lines)) <= 120


def test_the_document_is_json_without_nan_also_of_silence(obedient):
    silent = summarise(results_of(lambda scenario: np.zeros(4000), ["pitch"], ["trained", "sweep"]))
    for following in (obedient, silent):
        document = json.loads(json.dumps(following.document(), allow_nan=False))
        assert len(document["summary"]) == len(following.rows)
        assert len(document["sounds"]) == len(following.results)
    assert document["summary"][0]["in_tune"] == 0 and document["summary"][0]["error"] is None
    sweep = document["sounds"][-1]
    assert sweep["controls"]["pitch"]["values"] and sweep["followed"]["pitch"]["share"] == 0
    assert "-" in silent.table()
    assert summarise([]).table().startswith("parameter") and summarise([]).document() == {"summary": [], "sounds": []}


# Pictures ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning")
def test_a_picture_shows_what_was_asked_for_and_what_came(tmp_path):
    curve = np.interp(clock(), [0, SECONDS], [57, 69])
    audio = tone(curve + 1.0, np.interp(clock(), [0, SECONDS], [0.02, 0.4]))
    asked = {"pitch": ramp("pitch", 57, 69), "a": ramp("a", 0.05, 1), "instrument": Track.constant("instrument", 1)}
    accuracy_picture(tmp_path / "p.png", measure_controls(audio, RATE, asked, SCHEMA), audio, RATE, title="a glide")
    picture = (imread(tmp_path / "p.png")[..., :3] * 255).astype(int)
    for colour in ((0x67, 0xE8, 0xF9), (0x86, 0xEF, 0xAC)):  # both overlays
        assert (np.abs(picture - colour).max(axis=-1) < 8).sum() > 200
    constant = {"a": Track.constant("a", 0.5)}
    accuracy_picture(tmp_path / "c.png", measure_controls(audio, RATE, constant, SCHEMA), audio, RATE)
    assert imread(tmp_path / "c.png").shape[0] < picture.shape[0]  # one strip instead of two
    asked["pitch"] = ramp("pitch", 69, 57)
    accuracy_picture(tmp_path / "o.png", measure_controls(audio, RATE, asked, SCHEMA), audio, RATE, title="a glide")
    assert (imread(tmp_path / "o.png")[-300:, :, :3] * 255 != picture[-300:]).any()  # the strips show the request


@pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning")
@pytest.mark.parametrize("samples", [1, RATE])
def test_silence_has_a_picture_too(tmp_path, samples):
    asked = {"pitch": Track.constant("pitch", 60), "a": Track.constant("a", 0.5)}
    audio = np.zeros(samples)
    accuracy_picture(tmp_path / "s.png", measure_controls(audio, RATE, asked, SCHEMA), audio, RATE)
    assert (tmp_path / "s.png").stat().st_size > 1000
    with pytest.raises(RunError, match="cannot write the picture"):
        accuracy_picture(tmp_path / "none" / "s.png", {}, audio, RATE)


def test_a_scenario_needs_no_schema_to_be_made():
    scenario = Scenario("mine", "sweep", {"pitch": ramp("pitch", 57, 69)}, SECONDS, "pitch")
    audio = tone(np.interp(clock(), [0, SECONDS], [57, 69]))
    following = summarise([Result(scenario, measure_controls(audio, RATE, scenario.controls, schema_of(PITCH)))])
    assert following.rows[0].kind == "sweep" and following.rows[0].in_tune == 1
