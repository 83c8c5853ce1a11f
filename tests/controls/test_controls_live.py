"""Live controls: the same bits whatever the blocks, ramps between points, and takes that play again from a file."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierwave.controls.files import read_control_file, read_take, write_take
from tierwave.controls.live import LiveControls
from tierwave.controls.schema import ControlWarning, Parameter, Schema
from tierwave.controls.tracks import Controls, Track
from tierwave.errors import UsageError

RATE = 16000
POINT = 64
FRAME = 16  # samples of a slower tier
AHEAD = 3  # frames it wants early

PITCH = Parameter(name="p", units="midiPitch", lo=64, hi=76)
LEVEL = Parameter(name="a", units="amplitude", lo=0.01, hi=1, scale="log")
INSTRUMENT = Parameter(name="inst", categories=("brass", "reed", "string"), lo=0, hi=2)
SCHEMA = Schema(parameters=(PITCH, INSTRUMENT, LEVEL))
CONSTANT: Controls = {"p": Track.constant("p", 70.1), "inst": Track.constant("inst", 1), "a": Track.constant("a", 0.3)}
TOTAL = 1000

quick = settings(deadline=None, max_examples=30)


def made(drawn: Controls = CONSTANT, schema: Schema = SCHEMA, voices: int = 1, **given: Any) -> LiveControls:
    return LiveControls(schema, voices, RATE, drawn=[drawn], **given)


def curve(name: str, low: float, high: float, points: int = 9, interval: float = 0.0071) -> Track:
    rng = np.random.default_rng([points, *map(ord, name)])
    return Track.regular(name, rng.uniform(low, high, points), 1 / interval)


# Steps on a point, and finer than the frames below.
STEPS: Controls = {
    **CONSTANT,
    "p": Track.from_events("p", [(0.0, 64), (0.02, 66), (0.02, 75), (0.036, 65), (0.036, 70)]),
}
FINE: Controls = {**CONSTANT, "p": curve("p", 64, 76, 180, 0.0004)}
CURVES: Controls = {
    "p": curve("p", 64, 76),
    "inst": Track.from_events("inst", [(0, 0), (0.01, 2), (0.03, 1)]),
    "a": curve("a", 0.1, 1),
}


# ---- a performance ---------------------------------------------------------------------------------------------------


class Move(NamedTuple):
    position: int
    voice: int | None
    values: dict[str, float | str]


VALUES: dict[str, st.SearchStrategy[float | str]] = {
    "p": st.floats(64, 76),
    "inst": st.sampled_from([0, 1.0, "brass", "reed", "string"]),
    "a": st.floats(0.01, 1),
    "temperature": st.floats(0, 2),
    "top_k": st.sampled_from([0, 1, 40, 256]),
}
POSITIONS = st.integers(0, TOTAL) | st.integers(0, TOTAL // POINT).map(lambda point: point * POINT)


@st.composite
def performances(draw: st.DrawFn, voices: int = 1) -> list[Move]:
    positions = sorted(draw(st.lists(POSITIONS, max_size=12)))
    moves = []
    for position in positions:
        names = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=3, unique=True))
        voice = draw(st.none() | st.integers(0, voices - 1))
        moves.append(Move(position, voice, {name: draw(VALUES[name]) for name in names}))
    return moves


class Played(NamedTuple):
    inputs: np.ndarray
    frames: np.ndarray
    temperature: np.ndarray
    top_k: np.ndarray

    def same_as(self, other: Played) -> None:
        for one, two in zip(self, other, strict=True):
            np.testing.assert_array_equal(one, two)


def frames_for(samples: int) -> int:
    """How many frames are needed to render so many samples."""
    return -(-samples // FRAME) + AHEAD if samples else 0


def play(live: LiveControls, moves: list[Move], cuts: Sequence[int] = ()) -> Played:
    """Render TOTAL samples in blocks that end at `cuts`, and where something is set."""
    parts: list[list[np.ndarray]] = [[], [], [], []]
    moves = list(moves)
    position = 0
    for stop in sorted({*cuts, *(move.position for move in moves), TOTAL}):
        count, frame = stop - position, frames_for(position)
        parts[0].append(live.inputs(position, count))
        parts[1].append(live.inputs(frame, frames_for(stop) - frame, rate=RATE / FRAME))
        parts[2].append(live.temperature(position, count))
        parts[3].append(live.top_k(position, count))
        position = stop
        while moves and moves[0].position == position:
            _, voice, values = moves.pop(0)
            live.set(position, voice=voice, **values)
    return Played(*(np.concatenate(part, axis=1) for part in parts))


def at_once(live: LiveControls) -> Played:
    return Played(
        live.inputs(0, TOTAL),
        live.inputs(0, frames_for(TOTAL), rate=RATE / FRAME),
        live.temperature(0, TOTAL),
        live.top_k(0, TOTAL),
    )


@quick
@given(
    moves=performances(voices=3),
    cuts=st.lists(st.integers(0, TOTAL), max_size=20),
    drawn=st.sampled_from([CONSTANT, CURVES, STEPS, FINE]),
    averaged=st.booleans(),
)
def test_blocks_of_any_sizes_give_the_same_bits(
    moves: list[Move], cuts: list[int], drawn: Controls, averaged: bool
) -> None:
    live = made(drawn, voices=3, averaged=averaged)
    coarse = play(live, moves)
    coarse.same_as(play(made(drawn, voices=3, averaged=averaged), moves, cuts))
    coarse.same_as(at_once(live))  # what was asked for stays as it was


@quick
@given(moves=performances(), temperature=st.floats(0, 2), level=st.floats(0.01, 1))
def test_a_performance_plays_again_from_its_file(moves: list[Move], temperature: float, level: float) -> None:
    drawn = {**CONSTANT, "a": Track.constant("a", level)}
    live = made(drawn, temperatures=[temperature], top_k=7)
    first = play(live, moves)
    record = live.record()
    again = made(record, temperatures=[temperature], top_k=7, averaged=False)
    first.same_as(at_once(again))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "performance.csv"
        write_take(path, record, RATE)
        read, recorded = read_take(path)
    assert recorded
    assert list(read) == list(record)
    first.same_as(at_once(made(read, temperatures=[temperature], top_k=7, averaged=False)))
    for name, track in again.record().items():  # a record of a record
        np.testing.assert_array_equal(track.times, record[name].times)
        np.testing.assert_array_equal(track.values, record[name].values)


@quick
@given(moves=performances(), drawn=st.sampled_from([CURVES, STEPS, FINE]))
def test_a_curve_that_is_cut_plays_again_up_to_rounding(moves: list[Move], drawn: Controls) -> None:
    live = made(drawn, averaged=False)
    first = play(live, moves)
    again = at_once(made(live.record(), averaged=False))
    np.testing.assert_allclose(again.inputs, first.inputs, rtol=0, atol=3e-7)
    np.testing.assert_allclose(again.frames, first.frames, rtol=0, atol=3e-7)


@quick
@given(moves=performances())
def test_ramps_against_break_points_worked_out_apart(moves: list[Move]) -> None:
    """The rule in the plainest words: at each point, what was set since the last one becomes the next target."""
    moves = [move for move in moves if "p" in move.values]
    live = made()
    for stop in range(TOTAL):  # sample by sample, so that nothing is asked for early
        for move in moves:
            if move.position == stop:
                live.set(stop, voice=None, **move.values)
        live.inputs(stop, 1)
    levels = [70.1]
    for point in range(TOTAL // POINT + 1):
        new = [move.values["p"] for move in moves if (point - 1) * POINT < move.position <= point * POINT]
        levels.append(float(new[-1]) if new else levels[-1])
    samples = np.arange(TOTAL)
    expected = np.interp(samples, np.arange(len(levels)) * POINT, levels)
    found = PITCH.denormalise(live.inputs(0, TOTAL)[0, :, 0])
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.abs(np.diff(found)).max() <= 12 / POINT + 2e-6  # no zipper noise


# ---- what is asked for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [RATE, RATE / FRAME, 44100.0, 62.5])
@pytest.mark.parametrize("drawn", [CONSTANT, CURVES], ids=["constant", "curves"])
def test_what_is_drawn_is_what_training_saw(drawn: Controls, rate: float) -> None:
    live = made(drawn)
    expected = SCHEMA.inputs(drawn, rate, 300, first_sample=-20)
    np.testing.assert_array_equal(live.inputs(-20, 300, rate=rate)[0], expected)
    assert expected.dtype == live.inputs(0, 1).dtype == np.float32


def test_only_drawn_curves_are_averaged() -> None:
    fine = Track.regular("p", 70 + 5 * (-1.0) ** np.arange(2000), RATE)
    schema = Schema(parameters=(PITCH,))
    mean = made({"p": fine}, schema).inputs(10, 50, rate=500)
    point = made({"p": fine}, schema, averaged=False).inputs(10, 50, rate=500)
    np.testing.assert_allclose(PITCH.denormalise(mean), 70, atol=0.2)
    np.testing.assert_allclose(PITCH.denormalise(point), 75, atol=1e-5)


def test_each_voice_has_its_own_curve_and_the_last_is_repeated() -> None:
    drawn = [{"p": Track.constant("p", 64)}, {"p": Track.constant("p", 70), "temperature": Track.constant("t", 0.25)}]
    live = LiveControls(Schema(parameters=(PITCH,)), 3, RATE, drawn=drawn, temperatures=(0.5, 0.75), top_k=3)
    assert live.inputs(0, 1)[:, 0, 0].tolist() == [0, 0.5, 0.5]
    assert live.temperature(0, 2).tolist() == [[0.5, 0.5], [0.25, 0.25], [0.25, 0.25]]
    assert live.top_k(0, 1).tolist() == [[3], [3], [3]]
    assert live.top_k(0, 1).dtype == np.int32
    assert list(live.record(0)) == ["p"]
    assert list(live.record(1)) == ["p", "temperature"]
    live.set(0, voice=2, p=76)
    assert live.inputs(0, 200)[:, -1, 0].tolist() == [0, 0.5, 1]
    live.set(200, p=70)
    assert live.inputs(200, 200)[:, -1, 0].tolist() == [0.5, 0.5, 0.5]
    assert [live.record(voice)["p"].values.tolist() for voice in range(3)] == [
        [64, 64, 70],
        [70, 70, 70],
        [70, 76, 76, 70],
    ]


def test_no_parameters_and_no_samples() -> None:
    live = LiveControls(Schema(), 2, RATE)
    assert live.inputs(0, 5).shape == (2, 5, 0)
    assert live.names == ("temperature", "top_k")
    assert live.record() == {}
    assert made().inputs(0, 0).shape == (1, 0, 3)


def test_a_category_and_top_k_step_where_a_ramp_ends() -> None:
    live = made()
    live.set(1, inst="string", top_k=5, temperature=0.0)
    assert (live.inputs(0, 3 * POINT)[0, :, 1] == np.repeat([0.5, 0.5, 1], POINT)).all()
    assert (live.top_k(0, 3 * POINT)[0] == np.repeat([0, 0, 5], POINT)).all()
    expected = np.interp(np.arange(3 * POINT), [POINT, 2 * POINT], [1, 0])
    np.testing.assert_allclose(live.temperature(0, 3 * POINT)[0], expected, atol=1e-7)


def test_a_ramp_that_has_begun_is_not_cut_and_one_that_has_not_gives_way() -> None:
    live = made(voices=2)
    live.set(0, p=64)
    live.set(0, p=76)
    live.inputs(0, 2)  # a sample in the ramp
    live.set(2, p=67)
    live.set(3, voice=1, p=73)
    assert live.record(0)["p"].values.tolist() == [70.1, 76, 67]
    assert live.record(1)["p"].values.tolist() == [70.1, 76, 73]
    assert live.record(0)["p"].times.tolist() == [0, POINT / RATE, 2 * POINT / RATE]


@pytest.mark.parametrize("count", [12, 13])  # up to sample 176, and up to the point at 192
@pytest.mark.parametrize("drawn", [CONSTANT, FINE], ids=["constant", "fine"])
def test_what_was_asked_for_early_stays(drawn: Controls, count: int) -> None:
    """A slower tier looks ahead: its name moves later, others do not."""
    live = made(drawn)
    before = live.inputs(0, count, rate=RATE / FRAME)
    live.set(10, p=76, temperature=0.5)
    np.testing.assert_array_equal(live.inputs(0, 20, rate=RATE / FRAME)[:, :count], before)
    assert live.record()["p"].times[-2:].tolist() == [192 / RATE, 256 / RATE]
    assert live.record()["temperature"].times.tolist() == [0, 64 / RATE, 128 / RATE]


@quick
@given(rate=st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000]), last=st.integers(0, 3000))
def test_a_moment_asked_for_at_any_rate_never_changes(rate: int, last: int) -> None:
    """Times as quotients of different rates differ by rounding; the ramp must begin at or after all of them."""
    for other in (rate, rate / FRAME, rate / 7, 1000.0):
        live = LiveControls(Schema(parameters=(PITCH,)), 1, rate, drawn=[{"p": Track.constant("p", 64)}])
        live.inputs(0, last + 1, rate=other)
        live.set(0, p=76)
        start = live.record()["p"].times[-2]
        point = live.point / rate
        assert last / other <= start <= last / other + point * (1 + 1e-9)
        assert not live.inputs(0, last + 1, rate=other).any()


def test_control_points_are_samples_where_the_rate_is_low() -> None:
    live = LiveControls(Schema(), 1, 60, temperatures=[1.0])
    assert live.point == 1
    live.set(2, temperature=0.5)
    assert live.temperature(0, 5).tolist() == [[1, 1, 1, 0.5, 0.5]]


def test_current_is_what_is_drawn_and_then_what_was_set() -> None:
    track = Track.from_events("p", [(0, 64), (1, 74)])
    live = made({**CONSTANT, "p": track}, top_k=4)
    assert live.current() == {"p": 64, "inst": 1, "a": 0.3, "temperature": 1, "top_k": 4}
    live.inputs(0, RATE // 2 + 1)
    assert live.current()["p"] == 69
    live.set(RATE // 2 + 1, inst="brass", top_k=0)
    assert [live.current()[name] for name in ("p", "inst", "top_k")] == [69, 0, 0]


def test_the_same_value_again_costs_nothing() -> None:
    live = made()
    for position in range(0, 20 * POINT, POINT):
        live.set(position, p=65)
        live.inputs(position, POINT)
    assert live.record()["p"].values.tolist() == [70.1, 65]


@quick
@given(
    moves=performances(voices=2),
    drawn=st.sampled_from([CONSTANT, CURVES]),
    at=st.integers(0, TOTAL),
    back=st.integers(0, TOTAL),
)
def test_what_is_forgotten_changes_nothing_that_follows(moves: list[Move], drawn: Controls, at: int, back: int) -> None:
    before = [move for move in moves if move.position < at]
    after = [move for move in moves if move.position >= at]
    found = []
    for forgetful in (False, True):
        live = made(drawn, voices=2)
        for move in before:
            live.inputs(0, move.position)
            live.set(move.position, voice=move.voice, **move.values)
        live.inputs(0, at)
        if forgetful:
            live.forget(at - back)
        for move in after:
            live.set(move.position, voice=move.voice, **move.values)
        first = max(0, at - back)
        settings = live.settings(first, TOTAL - first)
        found.append([*settings, live.inputs(-(-first // FRAME), 80, rate=RATE / FRAME), live.current(1)])
    for kept, forgotten in zip(*found, strict=True):
        np.testing.assert_equal(kept, forgotten)


def test_a_curve_without_end_takes_no_more_memory_and_is_not_recorded() -> None:
    live = made()
    for position in range(0, 100 * POINT, POINT):
        live.set(position, p=64 + position % 7)
        live.inputs(position, POINT)
        live.forget(position - 10 * POINT)
    (control,) = live._by_name["p"]
    assert len(control.ramps) <= 12
    with pytest.raises(UsageError, match="the beginning of p is forgotten .* shorter take"):
        live.record()


def test_a_steady_voice_has_nothing_to_forget() -> None:
    live = made()
    live.set(0, p=65)
    live.inputs(0, 9 * POINT)
    live.forget(8 * POINT)
    assert live.record()["p"].values.tolist() == [70.1, 65]


def test_a_parameter_hides_what_else_has_its_name() -> None:
    room = Parameter(name="temperature", lo=-10, hi=30)
    live = made({"temperature": Track.constant("temperature", -10)}, Schema(parameters=(room,)), temperatures=[0.5])
    live.set(0, temperature=10)
    assert live.inputs(0, POINT + 1)[0, -1, 0] == 0.5
    assert live.temperature(0, POINT + 1).tolist() == [[0.5] * (POINT + 1)]
    assert live.names == ("temperature", "top_k")


# ---- what is not allowed ---------------------------------------------------------------------------------------------


def test_beyond_the_range_is_decided_once() -> None:
    drawn = {"p": Track.from_events("p", [(0, 60), (0.05, 80)])}
    with pytest.warns(ControlWarning, match="64 to 76 midiPitch") as told:
        live = made(drawn, Schema(parameters=(PITCH,)), voices=3)
    assert len(told) == 1
    with pytest.warns(ControlWarning, match="p: 90 lies outside") as told:
        live.set(500, p=90)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = live.inputs(0, 2000)
    assert (found.min(), found.max(), live.current()["p"]) == (0, 1, 76)
    with pytest.warns(ControlWarning):
        np.testing.assert_array_equal(found[0, :500], SCHEMA.select(["p"]).inputs(drawn, RATE, 500))
    free = Schema(parameters=(PITCH.model_copy(update={"outside": "allow"}),))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        live = made(drawn, free)
        live.set(0, p=88)
        assert live.inputs(0, 2 * POINT)[0, -1, 0] == 2


def test_a_parameter_that_was_constant_stays_so() -> None:
    schema = Schema(parameters=(Parameter(name="p", lo=64, hi=64),))
    live = made({"p": Track.constant("p", 64)}, schema)
    live.set(0, p=64)
    with pytest.raises(UsageError, match="all through training"):
        live.set(0, p=65)
    assert not live.inputs(0, 200).any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pitch": 1}, "there is no pitch to set: there are p, inst, a, temperature, top_k"),
        ({"inst": 3}, "inst: 3 lies outside the trained range 0 to 2"),
        ({"inst": "brss"}, "'brss': give a number or one of brass, reed, string"),
        ({"p": "high"}, "p is 'high': give a number"),
        ({"p": math.nan}, "p is nan: give a finite number"),
        ({"p": 1e300}, "give a finite number"),
        ({"temperature": -0.1}, "temperature is -0.1, and it must be 0 or more"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top_k": 2.5}, "top_k is 2.5, and it must be a whole number"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_k": 2**31}, "top_k is 2.14"),
    ],
)
def test_what_cannot_be_set_leaves_all_as_it_was(values: dict[str, float | str], message: str) -> None:
    live = made()
    before = live.current()
    with pytest.raises(UsageError) as error:
        live.set(0, voice=None, a=0.5, **values)
    assert message in str(error.value)
    assert live.current() == before


def test_there_is_no_such_voice() -> None:
    for voice in (-1, 2):
        with pytest.raises(UsageError, match="voice -?[12]: give one from 0 to 1"):
            made(voices=2).set(0, voice=voice, p=64)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"p": None}, {}, "the control p is missing, 64 to 76 midiPitch: give it too, as in --control p=70"),
        ({"inst": None}, {}, "inst is missing, 0 to 2 brass, reed, string: give it too, as in --control inst=brass"),
        ({"aa": 1}, {}, "there is no control aa; did you mean a?"),
        ({"inst": 7}, {}, "inst: 7 lies outside"),
        ({"temperature": -1}, {}, "temperature is -1"),
        ({"top_k": 0.5}, {}, "top_k is 0.5"),
        ({}, {"temperatures": [-1.0]}, "temperature is -1"),
        ({}, {"top_k": -3}, "top_k is -3"),
    ],
)
def test_what_cannot_be_drawn(changes: dict[str, float | None], options: dict[str, Any], message: str) -> None:
    drawn = {**CONSTANT, **{name: Track.constant(name, value or 0.0) for name, value in changes.items()}}
    drawn = {name: track for name, track in drawn.items() if changes.get(name, 0) is not None}
    with pytest.raises(UsageError) as error:
        made(drawn, **options)
    assert message in str(error.value)


# ---- files -----------------------------------------------------------------------------------------------------------


def test_other_tracks_are_no_recording(tmp_path: Path) -> None:
    plain = tmp_path / "plain.csv"
    plain.write_text("name,time,value\np,0,64\np,1,76\n", encoding="utf-8")
    tracks, recorded = read_take(plain)
    assert (tracks["p"].values.tolist(), recorded) == ([64, 76], False)
    write_take(tmp_path / "own.csv", tracks, RATE)
    assert read_control_file(tmp_path / "own.csv").document["meta"] == {"gestures": True, "sample_rate": RATE}
    assert read_take(tmp_path / "own.csv")[1]
    with pytest.raises(UsageError, match="there is no control file"):
        read_take(tmp_path / "none.csv")


@quick
@given(start=st.floats(-1e6, 1e6), stop=st.floats(-1e6, 1e6), shares=st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_a_line_is_exact_at_both_ends_and_stays_between(start: float, stop: float, shares: list[float]) -> None:
    track = Track.from_events("x", [(1 / 3, start), (2 / 3, stop)])
    times = np.array([1 / 3, 2 / 3, *(1 / 3 + share / 3 for share in shares)])
    found = track.at(times)
    assert found[:2].tolist() == [start, stop]
    assert (found >= min(start, stop)).all() and (found <= max(start, stop)).all()
    share = np.clip((times - 1 / 3) * 3, 0, 1)
    np.testing.assert_allclose(found, start * (1 - share) + stop * share, rtol=1e-9, atol=1e-6)
    assert (Track.from_events("x", [(1 / 3, start), (2 / 3, start)]).at(times) == start).all()
