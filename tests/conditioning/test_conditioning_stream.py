"""Sounds and curves as they are made: the same whatever the blocks, steered live, on one timeline from tier to tier."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import conditioning
import conditioning.sampler as sampler_module
import tierwave.generation.voices as voices_module
from conditioning.cascade import TierStream
from conditioning.config import Cascade, Config
from tierwave.controls.files import read_take, write_take
from tierwave.controls.schema import ControlWarning, Parameter, Schema
from tierwave.controls.tracks import Controls, Track
from tierwave.engine.network import InMemory
from tierwave.errors import UsageError
from tierwave.generation.request import Request
from tierwave.nn.distributions import counter_uniform, voice_seeds
from tierwave.runs.checkpoints import named_weights

RATE = 1000
KNOT = 4  # samples, at that rate
TOTAL = 240  # samples: within the capacity of one compiled call
BLOCK = 128  # steps of one compiled call
LEVELS = 16
SCHEMA = Schema(
    parameters=(
        Parameter(name="u", lo=0, hi=10),
        Parameter(name="v", lo=100, hi=1600, scale="log"),
        Parameter(name="s", lo=60, hi=72),
        Parameter(name="f", lo=-1, hi=1, outside="allow"),
        Parameter(name="g", lo=0, hi=4, interp="previous"),
    )
)
TINY = {"hidden_size": 5, "num_layers": 1}
CASCADE = Cascade.model_validate(
    {
        "model": "cascade",
        "tiers": [
            {"name": "slow", "generates": ["s"], "conditioned_on": ["u"], "rate": 50, **TINY},
            {"name": "fast", "generates": ["f", "g"], "conditioned_on": ["s", "u"], "rate": 200, "net": 5, **TINY},
            {"name": "sound", "generates": ["audio"], "conditioned_on": ["g", "v", "f", "s"], **TINY}
            | {"q_levels": LEVELS},
        ],
    }
)
SINGLE = Config.model_validate({"conditioned_on": ["v", "u"], "q_levels": LEVELS, **TINY})
DRAWN: Controls = {
    "u": Track.from_events("u", [(0, 1), (0.11, 9), (0.11, 2), (0.4, 6)]),
    "v": Track.constant("v", 400),
}
CONSTANT: Controls = {"u": Track.constant("u", 3), "v": Track.constant("v", 400)}


def curves_of(found: Mapping[str, Controls]) -> Controls:
    """The curves of all tiers together."""
    return {name: track for controls in found.values() for name, track in controls.items()}


@functools.cache
def models(single: bool = False) -> list[Any]:
    """One model per tier, with weights large enough that everything is heard; compiled functions are kept with them."""
    config = SINGLE if single else CASCADE
    keras.utils.set_random_seed(3)
    found = []
    for stage in conditioning.FAMILY.stages(config):
        model = conditioning.FAMILY.build(config, stage)
        rng = np.random.default_rng(len(found))
        for variable in model.trainable_variables:
            variable.assign(rng.normal(0, 0.6, variable.shape))
        found.append(model)
    return found


@pytest.fixture(scope="module", autouse=True)
def short_calls() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(voices_module, "BLOCK", BLOCK)
        yield


def stream_of(
    config: Cascade | Config = CASCADE,
    drawn: Controls = DRAWN,
    *,
    only: str | None = None,
    rate: int = RATE,
    schema: Schema = SCHEMA,
    made: Sequence[Any] | None = None,
    **asked: Any,
) -> TierStream:
    if made is None:
        made = models(isinstance(config, Config))
        if only is not None:
            made = [made[conditioning.FAMILY.stages(config).index(only)]]
    request = Request(**{"sequences": 2, "temperature": (1.0,), "random_seed": 5, "controls": (drawn,), **asked})
    return TierStream(made, config, request, sample_rate=rate, schema=schema, only=only)


class Move(NamedTuple):
    position: int
    voice: int | None
    values: dict[str, float]


def play(stream: TierStream, moves: Sequence[Move] = (), cuts: Sequence[int] = (), total: int = TOTAL) -> np.ndarray:
    """Render in blocks that end at `cuts`, and where something is set."""
    parts, position, moves = [], 0, list(moves)
    for stop in sorted({*cuts, *(move.position for move in moves), total}):
        if stop > position:
            parts.append(stream.render(stop - position))
        position = stop
        while moves and moves[0].position == position:
            _, voice, values = moves.pop(0)
            stream.set(voice=voice, **values)
    return np.concatenate(parts, axis=1)


@functools.cache
def still(single: bool = False, constant: bool = False) -> np.ndarray:
    """What is heard where nothing is set; nobody may write into it."""
    return play(stream_of(SINGLE if single else CASCADE, CONSTANT if constant else DRAWN))


class Heard(NamedTuple):
    """All settings that a tier was run with, joined; and what it made."""

    controls: np.ndarray
    temperature: np.ndarray
    values: np.ndarray


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tier notes what it is run with, and what it makes of it."""
    run = voices_module.SampledVoices.run

    def noting(self: Any, given: Any) -> np.ndarray:
        values = run(self, given)
        self.__dict__.setdefault("noted", []).append((given.controls, given.temperature, values))
        return values

    monkeypatch.setattr(voices_module.SampledVoices, "run", noting)


def heard_by(stream: TierStream) -> dict[str, Heard]:
    """By tier, of those that have run; needs the fixture `noted`."""
    return {
        tier.name: Heard(*(np.concatenate(part, axis=1) for part in zip(*tier.voices.noted, strict=True)))
        for tier in stream._tiers
        if tier.generated
    }


# ---- blocks ----------------------------------------------------------------------------------------------------------

VALUES = {
    "u": st.floats(0, 10),
    "v": st.floats(100, 1600),
    "temperature": st.floats(0, 2),
    "top_k": st.sampled_from([0, 1, 3]),
}
POSITIONS = st.integers(0, TOTAL) | st.integers(0, TOTAL // KNOT).map(lambda knot: knot * KNOT)


@st.composite
def performances(draw: st.DrawFn, names: Sequence[str], voices: int = 2) -> list[Move]:
    moves = []
    for position in sorted(draw(st.lists(POSITIONS, max_size=6))):
        chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
        voice = draw(st.none() | st.integers(0, voices - 1))
        moves.append(Move(position, voice, {name: draw(VALUES[name]) for name in chosen}))
    return moves


CUTS = st.lists(st.integers(1, TOTAL), max_size=12)


@settings(max_examples=8)
@given(moves=performances(["u", "v", "temperature", "top_k"]), cuts=CUTS)
def test_one_tier_sounds_the_same_in_any_blocks(moves: list[Move], cuts: list[int]) -> None:
    """Longer ones take several compiled calls; with and without top-k these are different functions."""
    whole = play(stream_of(SINGLE), moves, total=300)
    assert whole.shape == (2, 300) and whole.dtype == np.float32
    np.testing.assert_array_equal(play(stream_of(SINGLE), moves, cuts, total=300), whole)


@settings(max_examples=8)
@given(moves=performances(["u", "v", "temperature"]), cuts=CUTS)
def test_a_cascade_sounds_the_same_in_any_blocks(moves: list[Move], cuts: list[int]) -> None:
    first, second = stream_of(), stream_of()
    whole = play(first, moves)
    np.testing.assert_array_equal(play(second, moves, cuts), whole)
    for voice in range(2):
        one, other = first.curves(0.24, voice), second.curves(0.24, voice)
        assert list(one) == list(other) == ["slow", "fast"]
        for name, track in curves_of(one).items():
            np.testing.assert_array_equal(track.values, curves_of(other)[name].values)
            np.testing.assert_array_equal(track.times, curves_of(other)[name].times)


def test_the_seed_decides_and_what_is_set_is_heard() -> None:
    sounds = [still(), *(play(stream_of(random_seed=seed)) for seed in (5, 6))]
    np.testing.assert_array_equal(sounds[0], sounds[1])
    assert np.any(sounds[0] != sounds[2])
    for values in ({"u": 10.0}, {"v": 1600.0}, {"temperature": 0.0}):
        moved = play(stream_of(), [Move(100, None, values)])
        np.testing.assert_array_equal(moved[:, :100], sounds[0][:, :100])
        assert np.any(moved[:, 100:] != sounds[0][:, 100:])


@pytest.mark.parametrize(("seconds", "samples"), [(0.1, 100), (0.0333, 33), (0.0336, 34), (0.0001, 1)])
def test_exactly_as_many_samples_as_were_asked_for(seconds: float, samples: int) -> None:
    request = Request(sequences=2, seconds=seconds, controls=(DRAWN,))
    sound = conditioning.FAMILY.generate(models(), CASCADE, request, sample_rate=RATE, schema=SCHEMA)
    assert sound.shape == (2, samples)
    assert set(np.unique(sound)) <= set(models()[-1].quantizer.table())
    stream = conditioning.FAMILY.stream(models(), CASCADE, request, sample_rate=RATE, schema=SCHEMA)
    np.testing.assert_array_equal(stream.render(samples), sound)


def test_no_samples_are_no_samples() -> None:
    assert stream_of(SINGLE).render(0).shape == (2, 0)


# ---- steering --------------------------------------------------------------------------------------------------------

MOVES = [
    Move(0, None, {"u": 7.5}),
    Move(33, 0, {"v": 200.0, "temperature": 0.5}),
    Move(36, None, {"u": 1.0}),
    Move(110, 1, {"u": 9.0, "temperature": 1.5}),
    Move(180, 0, {"v": 1500.0}),
]


@pytest.mark.parametrize("config", [SINGLE, CASCADE], ids=["single", "cascade"])
def test_a_performance_sounds_the_same_from_its_file(config: Any, tmp_path: Path) -> None:
    first = stream_of(config, CONSTANT)
    sound = play(first, [*MOVES[:2], Move(34, None, {"top_k": 3}), *MOVES[2:]], [40, 41, 200])
    records = []
    for voice in range(2):
        path = tmp_path / f"{voice}.csv"
        write_take(path, first.record(voice), RATE)
        tracks, live = read_take(path)
        assert live
        records.append(tracks)
    assert any(np.any(records[0][name].values != track.values) for name, track in records[1].items() if name == "v")
    again = stream_of(config, controls=tuple(records), averaged=False)
    np.testing.assert_array_equal(play(again), sound)
    assert np.any(still(config is SINGLE, constant=True) != sound)


@pytest.mark.parametrize("config", [SINGLE, CASCADE], ids=["single", "cascade"])
@pytest.mark.parametrize("values", [{"u": 9.0}, {"temperature": 0.1}], ids=str)
def test_a_voice_is_set_alone(config: Any, values: dict[str, float]) -> None:
    before = still(config is SINGLE, constant=True)
    moved = play(stream_of(config, CONSTANT), [Move(100, 1, values)])
    np.testing.assert_array_equal(moved[0], before[0])
    np.testing.assert_array_equal(moved[1, :100], before[1, :100])
    assert np.any(moved[1, 100:] != before[1, 100:])


@functools.cache
def compiled(model: Any) -> Any:
    """`model.sequence` over windows of any length, compiled once."""
    free = [None, None] if model.stage.makes_audio else [None, None, model.features]
    signature = [
        tf.TensorSpec(free, tf.int32 if model.stage.makes_audio else tf.float32),
        tf.TensorSpec([None, None, len(model.stage.conditioned_on)], tf.float32),
        tf.nest.map_structure(lambda part: tf.TensorSpec([None, *part.shape[1:]], part.dtype), model.initial_state(1)),
    ]

    def run(values: Any, controls: Any, state: Any) -> Any:
        return model.sequence(values, controls, state, model.effective_weights())

    return tf.function(run, input_signature=signature, autograph=False)


def logits_of(model: Any, codes: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """Of every code, given all before it, from silence on."""
    start = np.full([len(codes), 1], model.quantizer.silence, np.int32)
    inputs = tf.constant(np.concatenate([start, codes[:, :-1]], axis=1))
    state = model.initial_state(len(codes))
    return compiled(model)(inputs, tf.constant(controls), state)[0][0].numpy()


@pytest.mark.parametrize("values", [{"temperature": 0.0}, {"top_k": 1}, {"top_k": 2}], ids=str)
def test_temperature_and_top_k_are_heard_once_they_have_arrived(values: dict[str, float], noted: None) -> None:
    stream = stream_of(SINGLE)
    play(stream, [Move(81, None, values), Move(161, None, {"temperature": 1.0, "top_k": 0})])
    heard = heard_by(stream)["conditioning"]
    logits = logits_of(models(True)[0], heard.values, heard.controls)
    ranks = (logits > np.take_along_axis(logits, heard.values[..., None], axis=-1)).sum(axis=-1)
    limit = values.get("top_k", 1)
    arrived = slice(84 + KNOT, 164)
    assert ranks[:, arrived].max() < limit
    assert ranks[:, :84].max() >= limit and ranks[:, 164 + KNOT :].max() >= limit


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hum": 1.0}, "there is no hum to set: there are u, v, temperature, top_k"),
        ({"s": 64.0}, "there is no s to set"),  # a tier generates it
        ({"top_k": -1}, "top_k is -1, and it must be a whole number"),
        ({"temperature": -0.5}, "temperature is -0.5, and it must be 0 or more"),
        ({"u": math.nan}, "give a finite number"),
        ({"u": 3.0, "voice": 2}, "there is no voice 2: give one from 0 to 1"),
    ],
)
def test_what_cannot_be_set_is_refused_and_changes_nothing(values: dict[str, Any], message: str) -> None:
    stream = stream_of()
    parts = [stream.render(10)]
    with pytest.raises(UsageError, match=message):
        stream.set(**values)
    parts.append(stream.render(30))
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), still()[:, :40])


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(UsageError, match="the control u is missing"):
        stream_of(drawn={"v": DRAWN["v"]})
    with pytest.raises(UsageError, match="there is no control hum"):
        stream_of(drawn={**DRAWN, "hum": Track.constant("hum", 1)})
    with pytest.raises(UsageError, match="this run generates controls, no audio"):
        stream_of(only="slow", drawn={"u": DRAWN["u"]}).render(10)


# ---- the timeline ----------------------------------------------------------------------------------------------------


def normalised(name: str, raw: np.ndarray) -> np.ndarray:
    parameter = SCHEMA.of(name)
    return np.clip(raw, *parameter.span) if parameter.outside != "allow" else raw


def user_at(name: str, times: np.ndarray, drawn: Controls = DRAWN) -> np.ndarray:
    return SCHEMA.of(name).normalise(drawn[name].at(times, SCHEMA.of(name).interp))


def generated_at(name: str, frames: np.ndarray, rate: float, times: np.ndarray) -> np.ndarray:
    """Frames `[frames]` at rate Hz joined by straight lines or held, beyond the range only where that is allowed."""
    parameter = SCHEMA.of(name)
    values = frames if parameter.outside == "allow" else np.clip(frames, 0, 1)
    if parameter.interp == "previous":
        return values[np.clip(np.floor(times * rate + 1e-9), 0, None).astype(int)]
    return np.interp(times, np.arange(len(frames)) / rate, values)


def check_timeline(heard: dict[str, Heard], drawn: Controls = DRAWN, skip: int = 0) -> None:
    """Step k of a tier sees what holds at (k - 1) / rate, and before 0 s what holds there."""
    rates = {"slow": 50.0, "fast": 200.0, "sound": 1000.0}
    makers = {name: tier.name for tier in CASCADE.tiers for name in tier.generates}
    for tier in CASCADE.tiers:
        if tier.name not in heard:
            continue
        controls = heard[tier.name].controls
        times = np.maximum(np.arange(controls.shape[1]) - 1, 0) / rates[tier.name]
        for column, name in enumerate(tier.conditioned_on):
            for voice in range(len(controls)):
                if name in drawn:
                    expected = user_at(name, times, drawn)
                else:
                    maker = makers[name]
                    index = [one for one in CASCADE.tiers if one.name == maker][0].generates.index(name)
                    expected = generated_at(name, heard[maker].values[voice, :, index], rates[maker], times)
                np.testing.assert_allclose(controls[voice, skip:, column], expected[skip:], atol=1e-6, err_msg=name)


def check_values(stream: TierStream, heard: dict[str, Heard], seeds: dict[str, int]) -> None:
    """What every tier made is what its network, given all of it at once, draws from the numbers of its own."""
    for tier in stream._tiers:
        if tier.name not in heard:
            continue
        model, (controls, temperature, values) = tier.model, heard[tier.name]
        voices, steps = temperature.shape
        start = sampler_module.TierSampler(model, jit=False).start(voices)
        inputs = tf.concat([start.values[:, None], values[:, :-1]], axis=1)
        prediction, _ = compiled(model)(inputs, tf.constant(controls), start.recurrent)
        uniform = counter_uniform(voice_seeds(seeds[tier.name], voices), 0, steps * model.head.uniforms)
        check_draws(model, prediction, uniform, temperature, values)


def check_draws(model: Any, prediction: Any, uniform: Any, temperature: np.ndarray, values: np.ndarray) -> None:
    voices, steps = temperature.shape
    flat = [tf.reshape(part[:, -steps:], [voices * steps, *part.shape[2:]]) for part in prediction]
    drawn = model.head.sample(tuple(flat), tf.reshape(uniform, [voices * steps, -1]), temperature.ravel())
    np.testing.assert_allclose(np.reshape(drawn, values.shape), values, atol=2e-4)


def test_every_tier_sees_what_holds_one_step_before(noted: None) -> None:
    stream = stream_of(temperature=(1.0, 0.6))
    play(stream, cuts=[1, 7, 100])
    heard = heard_by(stream)
    check_timeline(heard)
    check_values(stream, heard, {"slow": 5 * 1_000_003 + 1, "fast": 5 * 1_000_003 + 2, "sound": 5})
    # No tier runs further ahead than the last sample asks for: it follows from what holds at 238 ms.
    assert [tier.generated for tier in stream._tiers] == [math.ceil(0.238 * 50) + 1, math.ceil(0.238 * 200) + 1, TOTAL]
    for tier in heard.values():
        assert (tier.temperature == np.float32([[1.0], [0.6]])).all()


@pytest.mark.parametrize("averaged", [True, False])
def test_what_is_drawn_is_averaged_for_a_slower_tier_unless_it_was_played(averaged: bool, noted: None) -> None:
    drawn = {**DRAWN, "u": Track.regular("u", [2, 8] * 1000, 2000)}
    stream = stream_of(drawn=drawn, averaged=averaged)
    play(stream, total=100)
    np.testing.assert_allclose(heard_by(stream)["slow"].controls[:, 2:], 0.5 if averaged else 0.2, atol=0.02)


def test_curves_are_what_the_tiers_below_heard_in_raw_units(noted: None) -> None:
    stream = stream_of()
    sound = play(stream)
    curves = stream.curves(TOTAL / RATE, 1)
    heard = heard_by(stream)
    raw = curves_of(curves)
    assert {name: list(tracks) for name, tracks in curves.items()} == {"slow": ["s"], "fast": ["f", "g"]}
    times = np.arange(TOTAL - 1) / RATE
    for column, name in enumerate(["g", "v", "f", "s"]):
        if name != "v":
            seen = SCHEMA.of(name).normalise(raw[name].at(times, SCHEMA.of(name).interp))
            np.testing.assert_allclose(heard["sound"].controls[1, 1:, column], seen, atol=1e-5)
            assert raw[name].times[-1] >= TOTAL / RATE - 1e-9
    assert raw["s"].values.min() >= 60 and raw["s"].values.max() <= 72
    np.testing.assert_array_equal(sound, still())  # asking for curves changed nothing


def test_curves_of_audio_alone_are_none() -> None:
    assert stream_of(SINGLE).curves(0.1) == {}


def test_a_given_curve_takes_the_place_of_a_tier(noted: None) -> None:
    given = {**DRAWN, "s": Track.from_events("s", [(0, 61), (0.1, 70), (0.1, 62), (0.4, 66)])}
    stream = stream_of(drawn=given)
    sound = play(stream, [Move(160, 1, {"s": 71.0})], [50])
    heard = heard_by(stream)
    assert "slow" not in heard and [tier.name for tier in stream._tiers] == ["fast", "sound"]
    times = np.maximum(np.arange(TOTAL) - 1, 0) / RATE
    np.testing.assert_allclose(heard["sound"].controls[0, :, 3], user_at("s", times, given), atol=1e-6)
    np.testing.assert_allclose(heard["sound"].controls[1, :160, 3], user_at("s", times[:160], given), atol=1e-6)
    np.testing.assert_allclose(heard["sound"].controls[1, 180:, 3], 11 / 12, atol=1e-6)
    times = np.maximum(np.arange(heard["fast"].controls.shape[1]) - 1, 0) / 200
    np.testing.assert_allclose(heard["fast"].controls[0, :, 0], user_at("s", times, given), atol=1e-6)
    assert np.any(sound != still())
    assert "s" in stream.record(0)


def test_tiers_below_one_that_is_replaced_draw_as_before(noted: None) -> None:
    primer: dict[str, Any] = {"seed_audio": SEED_SOUND, "primed_at_random": True}
    whole, replaced = stream_of(**primer), stream_of(drawn={**DRAWN, "s": Track.constant("s", 66)}, **primer)
    assert [tier.name for tier in replaced._tiers] == ["fast", "sound"]
    np.testing.assert_array_equal(replaced._tiers[0]._before, whole._tiers[1]._before)
    for tier, same in zip(replaced._tiers, whole._tiers[1:], strict=True):
        np.testing.assert_array_equal(tier.voices.seeds, same.voices.seeds)
    again = stream_of(drawn={**DRAWN, **whole.curves(0.4)["slow"]}, **primer)
    play(again)
    play(whole)
    heard, before = heard_by(again), heard_by(whole)
    steps = heard["fast"].values.shape[1]
    np.testing.assert_allclose(heard["fast"].values[0], before["fast"].values[0, :steps], atol=1e-4)


def test_one_of_two_generated_names_may_be_given(noted: None) -> None:
    given = {**DRAWN, "f": Track.constant("f", 0.5)}
    stream = stream_of(drawn=given)
    play(stream)
    heard = heard_by(stream)
    check_timeline(heard, given)
    assert (heard["sound"].controls[..., 2] == 0.75).all()
    assert np.unique(heard["sound"].controls[..., 0]).size > 5


def test_curves_leave_out_what_a_given_curve_replaces() -> None:
    stream = stream_of(drawn={**DRAWN, "s": Track.constant("s", 61), "f": Track.constant("f", 0)})
    play(stream)
    curves = curves_of(stream.curves(0.4))
    assert list(curves) == ["g"]
    assert [tier.name for tier in stream._tiers] == ["fast", "sound"]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rates=st.tuples(*[st.sampled_from([0.7, 12.5, 50, 62.5, 66.7, 99.9, 100 / 3, 125, 333.3])] * 2),
    sample_rate=st.sampled_from([1000, 11025, 16000, 44100]),
    interps=st.tuples(*[st.sampled_from(["linear", "previous"])] * 2),
    cuts=st.lists(st.integers(1, 3000), max_size=8),
    primed=st.booleans(),
)
def test_reading_does_not_depend_on_blocks_at_any_rates(
    rates: tuple, sample_rate: int, interps: tuple, cuts: list[int], primed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With tiers that make up numbers, many of them at the very ends of the range."""

    class MadeUp:
        """Values that are a function of the step alone."""

        def __init__(self, model: Any, streams: int, *_: Any):
            self.features, self.streams, self.position, self.seen = model.features, streams, 0, []

        def prime(self, *_: Any) -> None:
            pass

        def run(self, given: Any) -> np.ndarray:
            self.seen.append(given.controls)
            steps = given.temperature.shape[1]
            rows = [np.random.default_rng(self.position + k).normal(0.3, 0.6, 2) for k in range(steps)]
            self.position += steps
            values = np.repeat(np.float32(rows)[None], self.streams, axis=0)
            return values[..., : self.features] if self.features else np.zeros([self.streams, steps], int)

    monkeypatch.setattr("conditioning.cascade._voices", MadeUp)

    codec = SimpleNamespace(table=lambda: np.zeros(1, np.float32), encode=lambda sound: np.zeros(len(sound), int))
    made = [SimpleNamespace(features=1), SimpleNamespace(features=1), SimpleNamespace(features=0, quantizer=codec)]
    slow, fast = sorted(rates)
    config = Cascade.model_validate(
        {
            "model": "cascade",
            "tiers": [
                {"name": "slow", "generates": ["a"], "rate": slow},
                {"name": "fast", "generates": ["b"], "rate": fast, "conditioned_on": ["a"]},
                {"name": "sound", "generates": ["audio"], "conditioned_on": ["a", "b"]},
            ],
        }
    )
    named = zip("ab", interps, strict=True)
    schema = Schema(parameters=tuple(Parameter(name=name, lo=0, hi=1, interp=interp) for name, interp in named))
    primer: dict[str, Any] = {}
    if primed:
        silence = np.zeros(4 * math.ceil(sample_rate / slow), np.float32)
        primer = {"seed_audio": silence, "primed_at_random": True}
    runs = []
    for blocks in ([], cuts):
        stream = stream_of(config, {}, schema=schema, rate=sample_rate, made=made, sequences=1, random_seed=0, **primer)
        play(stream, cuts=blocks, total=3000)
        runs.append({tier.name: np.concatenate(tier.voices.seen, axis=1) for tier in stream._tiers})
        positions = {tier.name: tier.generated for tier in stream._tiers}
    for name in runs[0]:
        np.testing.assert_array_equal(runs[0][name], runs[1][name])
    assert positions["sound"] == 3000
    # And it is what the definition says, away from the edges of steps, where a rounding may decide.
    rows = np.array([np.random.default_rng(k).normal(0.3, 0.6, 2) for k in range(positions["fast"] + 1)])
    frames = np.clip(rows[:, 0].astype(np.float32), 0, 1)
    for column, (rate, interp) in enumerate(zip((slow, fast), interps, strict=True)):
        times = np.arange(2999) / sample_rate
        share = times * rate % 1.0
        clear = (share > 1e-6) & (share < 1 - 1e-6)
        if interp == "previous":
            expected = frames[np.floor(times * rate).astype(int)]
        else:
            expected = np.interp(times, np.arange(len(frames)) / rate, frames)
        np.testing.assert_allclose(runs[0]["sound"][0, 1:, column][clear], expected[clear], atol=1e-5)


# ---- going on from a recording ---------------------------------------------------------------------------------------

SEED_SECONDS = 0.2
SEED_SOUND = (0.8 * np.sin(np.arange(200) * 0.7)).astype(np.float32)
SEED: Controls = {
    name: Track.regular(name, np.random.default_rng(index).uniform(*sorted(SCHEMA.of(name).span), 12), 50)
    for index, name in enumerate(SCHEMA.names)
}


def seen_in_seed(names: Sequence[str], rate: float, steps: int) -> np.ndarray:
    """The last `steps` steps of the seed: they lie at whole steps before its end."""
    times = SEED_SECONDS - np.arange(steps, 0, -1) / rate
    return np.stack([SCHEMA.of(n).normalise(SEED[n].at(times + 1e-12, SCHEMA.of(n).interp)) for n in names], axis=-1)


@pytest.mark.parametrize("known", [True, False], ids=["with its controls", "sound alone"])
def test_tiers_go_on_from_a_recording_as_mtcrnn_primes(known: bool, noted: None) -> None:
    """All but the last step build the state, the last is the first input: as if it had been generated so far."""
    stream = stream_of(seed_audio=SEED_SOUND, seed_controls=SEED if known else None)
    play(stream, cuts=[30], total=120)
    heard = heard_by(stream)
    check_timeline(heard, skip=1)
    seeds = {"slow": 5 * 1_000_003 + 1, "fast": 5 * 1_000_003 + 2, "sound": 5}
    for tier, config in zip(stream._tiers, CASCADE.tiers, strict=True):
        steps = round(SEED_SECONDS * tier.rate)
        names = config.conditioned_on
        if tier.stage.makes_audio:
            primer = tier.model.quantizer.encode(SEED_SOUND).astype(np.int32)
        elif known:
            primer = seen_in_seed(config.generates, tier.rate, steps).astype(np.float32)
        else:
            continue
        controls, temperature, values = heard[tier.name]
        if known:
            before = seen_in_seed(names, tier.rate, steps)
            np.testing.assert_allclose(controls[:, 0], np.repeat(before[None, -1], 2, axis=0), atol=1e-6)
        else:  # what is asked for at the start holds before it too
            before = None
            np.testing.assert_allclose(controls[:, 0], controls[:, 1], atol=1e-6)
        past = controls[:, :1].repeat(steps, axis=1) if before is None else before[None].repeat(2, axis=0)
        inputs = np.concatenate([primer[None].repeat(2, axis=0), values[:, :-1]], axis=1)
        given = np.concatenate([past, controls[:, 1:]], axis=1).astype(np.float32)
        prediction, _ = compiled(tier.model)(tf.constant(inputs), tf.constant(given), tier.model.initial_state(2))
        uniform = counter_uniform(voice_seeds(seeds[tier.name], 2), 0, values.shape[1] * tier.model.head.uniforms)
        check_draws(tier.model, prediction, uniform, temperature, values)


def test_a_tier_without_a_past_sees_that_of_the_tier_above(noted: None) -> None:
    """Its step 0 follows from what holds a step before: between the seed's last step of the slower tier and the new."""
    known = {name: SEED[name] for name in ("u", "s")}
    stream = stream_of(seed_audio=SEED_SOUND, seed_controls=known)
    play(stream, total=40)
    heard = heard_by(stream)
    before = seen_in_seed(["s"], 50, 1)[0, 0]
    after = np.clip(heard["slow"].values[:, 0, 0], 0, 1)
    np.testing.assert_allclose(heard["fast"].controls[:, 0, 0], 0.25 * before + 0.75 * after, atol=1e-6)
    assert np.all(np.abs(before - after) > 0.01)
    check_timeline(heard, skip=1)


def test_a_primed_sound_does_not_depend_on_blocks_and_long_seeds_are_cut_up(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"seed_audio": SEED_SOUND, "seed_controls": SEED}
    whole = play(stream_of(**given), [Move(0, None, {"u": 8.0})])
    np.testing.assert_array_equal(play(stream_of(**given), [Move(0, None, {"u": 8.0})], [1, 2, 90, 200]), whole)
    assert np.any(whole[:, :90] != play(stream_of(), [Move(0, None, {"u": 8.0})], total=90))
    monkeypatch.setattr(sampler_module, "BLOCK", 64)
    pieces = voices_module.SampledVoices(sampler_module.sampler_of(models(True)[0]), 1, 0)
    codes = np.random.default_rng(0).integers(0, LEVELS, [1, 200]).astype(np.int32)
    controls = np.random.default_rng(0).random([1, 200, 2]).astype(np.float32)
    pieces.prime(codes, controls)
    model = models(True)[0]
    _, state = compiled(model)(tf.constant(codes[:, :-1]), tf.constant(controls[:, :-1]), model.initial_state(1))
    for ours, theirs in zip(tf.nest.flatten(pieces.state.recurrent), tf.nest.flatten(state), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_array_equal(pieces.state.values, codes[:, -1])


def test_parameters_may_start_from_noise() -> None:
    given: dict[str, Any] = {"seed_audio": SEED_SOUND, "primed_at_random": True}
    sounds = [play(stream_of(**given, random_seed=seed), total=100) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(sounds[0], sounds[1])
    stream = stream_of(**given, random_seed=1)
    first = stream._tiers[0]._before
    assert first is not None and first.shape == (2, 1) and 0 <= first.min() <= first.max() < 1
    assert np.any(first != stream_of(**given, random_seed=2)._tiers[0]._before)


# ---- tiers and voices by themselves ----------------------------------------------------------------------------------


def test_one_tier_by_itself_is_conditioned_on_what_is_drawn(noted: None) -> None:
    drawn = {"s": Track.from_events("s", [(0, 60), (0.4, 72)]), "u": DRAWN["u"]}
    stream = stream_of(only="fast", drawn=drawn)
    curves = stream.curves(0.4)
    assert list(curves) == ["fast"] and stream.makes_audio is False
    heard = heard_by(stream)
    check_timeline(heard, drawn)
    check_values(stream, heard, {"fast": 5 * 1_000_003 + 2})
    assert len(curves["fast"]["f"].values) == 81
    np.testing.assert_allclose(
        curves["fast"]["f"].values, SCHEMA.of("f").denormalise(heard["fast"].values[0, :, 0]), rtol=1e-6
    )


def test_the_last_tier_alone_is_the_cascade_with_everything_given() -> None:
    first = stream_of()
    sound = play(first)
    curves = {**DRAWN, **curves_of(first.curves(0.45))}
    fully = play(stream_of(drawn=curves, averaged=False))
    alone = stream_of(only="sound", drawn={name: curves[name] for name in ("g", "v", "f", "s")}, averaged=False)
    np.testing.assert_array_equal(play(alone), fully)
    assert np.mean(fully[0] == sound[0]) > 0.99  # but for what raw units round


def test_temperature_of_parameters_alone_is_live() -> None:
    drawn = {"s": Track.constant("s", 66), "u": DRAWN["u"]}
    still, moved = (stream_of(only="fast", drawn=drawn) for _ in range(2))
    for stream in (still, moved):
        stream.curves(0.1)
    moved.set(temperature=0.0)
    one, other = (stream.curves(0.4)["fast"]["f"].values for stream in (still, moved))
    assert np.any(one != other)


def test_temperature_and_seed_of_one_tier(noted: None) -> None:
    plain, tamed, other = stream_of(), stream_of(tier_temperature={"slow": 0.0}), stream_of(tier_seed={"slow": 77})
    for stream in (plain, tamed, other):
        play(stream)
    heard = [heard_by(stream) for stream in (plain, tamed, other)]
    check_values(tamed, heard[1], {"slow": 5 * 1_000_003 + 1, "fast": 5 * 1_000_003 + 2, "sound": 5})
    check_values(other, heard[2], {"slow": 77, "fast": 5 * 1_000_003 + 2, "sound": 5})
    assert (heard[1]["slow"].temperature == 0).all() and (heard[1]["fast"].temperature == 1).all()
    assert np.any(heard[0]["slow"].values != heard[2]["slow"].values)
    everywhere = stream_of(SINGLE, tier_temperature={"conditioning": 0.0})
    np.testing.assert_array_equal(play(everywhere), play(stream_of(SINGLE, temperature=(0.0,))))


def test_voices_are_what_they_are_alone() -> None:
    """Each of nine is what a stream of one gives with its random numbers."""
    drawn = tuple({"u": Track.constant("u", voice), "v": DRAWN["v"]} for voice in range(9))
    temperatures = tuple(0.5 + 0.1 * voice for voice in range(9))
    together = stream_of(sequences=9, controls=drawn, temperature=temperatures)
    sound = play(together, [Move(60, 6, {"u": 1.0})], [17], total=120)
    for voice in (4, 6):  # one that is left alone, and one that is moved
        alone = stream_of(sequences=1, controls=(drawn[voice],), temperature=(temperatures[voice],))
        for tier, seed in zip(alone._tiers, (5 * 1_000_003 + 1, 5 * 1_000_003 + 2, 5), strict=True):
            tier.voices.seeds = voice_seeds(seed, 9)[voice : voice + 1]
        moves = [Move(60, None, {"u": 1.0})] if voice == 6 else []
        np.testing.assert_array_equal(play(alone, moves, total=120)[0], sound[voice])
    assert len({row.tobytes() for row in sound}) == 9


# ---- what must be refused --------------------------------------------------------------------------------------------


def test_parameters_faster_than_the_sound_are_refused() -> None:
    document = CASCADE.model_dump(mode="json")
    document["tiers"][1]["rate"] = 3000.0
    with pytest.raises(UsageError, match="Hz"):
        stream_of(Cascade.model_validate(document))


def test_values_beyond_the_range_are_clipped_once_and_told() -> None:
    stream = stream_of()
    with pytest.warns(ControlWarning, match="u: 11 lies outside the trained range 0 to 10"):
        stream.set(u=11.0)
    sound = play(stream)
    other = stream_of()
    other.set(u=10.0)
    np.testing.assert_array_equal(play(other), sound)


# ---- other networks --------------------------------------------------------------------------------------------------


def networks(negated: bool = False) -> list[Any]:
    """The cascade's for the engine; negated: with the opposite of all weights."""
    found = []
    for model, stage in zip(models(False), conditioning.FAMILY.stages(CASCADE), strict=True):
        weights = named_weights(model)
        if negated:
            weights = {name: -value for name, value in weights.items()}
        found.append(conditioning.FAMILY.network(CASCADE, stage, InMemory(weights), "float32", "the test"))
    return found


def test_a_cascade_goes_on_with_other_networks_of_all_its_tiers() -> None:
    first, second = networks(), networks(negated=True)
    replaced = [first[:index] + second[index : index + 1] + first[index + 1 :] for index in range(3)]
    plain = stream_of(made=first).render(TOTAL)
    for others in (first, *replaced):
        stream = stream_of(made=first)
        assert np.array_equal(stream.render(50), plain[:, :50])
        stream.replace(others)
        assert np.array_equal(stream.render(TOTAL - 50), plain[:, 50:]) == (others is first)


def test_tiers_that_are_not_run_are_passed_over() -> None:
    first, second = networks(), networks(negated=True)
    drawn = {**DRAWN, "s": Track.constant("s", 66)}  # which `slow` makes otherwise
    streams = [stream_of(drawn=drawn, made=first) for _ in range(2)]
    for stream, slow in zip(streams, (first[0], second[0]), strict=True):
        stream.render(50)
        stream.replace([slow, *second[1:]])
    assert np.array_equal(*(stream.render(TOTAL - 50) for stream in streams))
    given = {"u": DRAWN["u"]}
    alone = stream_of(drawn=given, only="slow", made=first[:1])
    before = alone.curves(0.1)["slow"]["s"].values
    alone.replace(second[:1])
    after = alone.curves(1.0)["slow"]["s"].values
    plain = stream_of(drawn=given, only="slow", made=first[:1]).curves(1.0)["slow"]["s"].values
    assert np.array_equal(after[: len(before)], before)
    assert not np.array_equal(after, plain)


def test_networks_of_tensorflow_are_not_exchanged() -> None:
    with pytest.raises(UsageError, match="TensorFlow"):
        stream_of().replace(networks())
