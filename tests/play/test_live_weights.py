"""Weights that are exchanged while voices play: another checkpoint, or the blend with another run."""

from __future__ import annotations

import re
import shutil
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pythonosc.osc_message import OscMessage
from pythonosc.udp_client import SimpleUDPClient
from test_play import END, SCHEMA, add_checkpoint, make_run, page, serving, until

from commands import Capture, told
from tierwave.cli import play as command
from tierwave.config import dumps
from tierwave.controls.schema import Schema
from tierwave.controls.tracks import Track
from tierwave.engine.blend import blended
from tierwave.errors import RunError, UsageError
from tierwave.family import load_config
from tierwave.files.writing import write_text
from tierwave.generation.load import Trained, load_run
from tierwave.generation.request import Request, Stream
from tierwave.play import instrument as instrument_module
from tierwave.play import session as session_module
from tierwave.play import watch as watch_module
from tierwave.play.instrument import Instrument
from tierwave.play.morph import STEPS, Morph
from tierwave.play.osc_out import Sender
from tierwave.play.session import Session
from tierwave.play.watch import Watch
from tierwave.runs.folder import CONFIG_NAME, Run

PLAYED = ("steered", "sound", "cascade")
SPREAD = 0.6  # of weights


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "BLOCK", 64)
        patch.setattr(session_module, "STEP_SECONDS", 0.001)
        patch.setattr(watch_module, "LOOK_SECONDS", 0.02)
        yield


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of two checkpoints; `other` is one of the same architecture and controls as `steered`."""
    root = tmp_path_factory.mktemp("runs")
    found = {name: make_run(root, name).folder for name in PLAYED}
    found["other"] = shutil.copytree(found["steered"], root / "other" / found["steered"].name)
    train(found["other"], 1, seed=9)
    return found


@pytest.fixture
def runs(templates: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Copies of them, in which a test may write."""
    return {name: shutil.copytree(folder, tmp_path / name / folder.name) for name, folder in templates.items()}


def train(folder: Path, epoch: int, *, stage: str | None = None, seed: int = 3, size: float = SPREAD) -> None:
    """Write a checkpoint as training does."""
    run = Run(folder)
    family, config = load_config(run.read(CONFIG_NAME), "the test")
    stages = family.stages(config)
    chosen = stage or stages[-1]
    part = run.stage(chosen if len(stages) > 1 else None)
    add_checkpoint(part, family.build(config, chosen), epoch, seed=(seed, epoch), size=size)


def stream_of(trained: Trained, seed: int = 5) -> Stream:
    """What a page hears that starts with `STARTED`."""
    drawn = {"p": Track.constant("p", 64.0), "inst": Track.constant("inst", 2.0)}
    controls = {name: drawn[name] for name in trained.family.steerable(trained.config)}
    return trained.stream(Request(controls=(controls,), temperature=(0.9,), random_seed=seed, averaged=False))


def started(trained: Trained) -> dict[str, Any]:
    values = {"p": 64, "inst": "string"}
    names = trained.family.steerable(trained.config)
    return {"random_seed": 5, "temperature": 0.9, "values": {name: values[name] for name in names}}


def exchanged(first: Trained, networks: Sequence[Any], at: int = 70) -> np.ndarray:
    """The sound of a stream whose networks are exchanged at once, behind sample `at`."""
    stream = stream_of(first)
    before = stream.render(at)[0]
    stream.replace(networks)
    return np.concatenate([before, stream.render(END - at)[0]])


def mixed(first: Trained, second: Trained, share: float) -> list[Any]:
    return [blended(x, y, share) for x, y in zip(first.models, second.models, strict=True)]


# ---- another checkpoint ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PLAYED[:2], pytest.param(PLAYED[2], marks=pytest.mark.slow)])
def test_a_voice_goes_over_to_another_checkpoint(name: str, runs: dict[str, Path]) -> None:
    instrument = Instrument(runs[name])
    with serving(instrument) as server, page(server) as one:
        one.start(**started(instrument.trained))
        before = one.hear(70)
        told = one.ask(type="take_over", checkpoint="model.ckpt-0")
        assert (told["checkpoint"], told["source"]) == ("model.ckpt-0", "page")
        assert told["checkpoints"] == instrument.document()["checkpoints"]
        after = one.hear(END)
        recorded = one.ask(type="record")
        assert recorded["start"]["checkpoint"] == "model.ckpt-1" and "not sound the same" in recorded["remarks"][0]
        one.start(**started(instrument.trained))  # anew, with what the page asks for
        assert np.array_equal(one.hear(70), before) and one.ask(type="record")["remarks"] == []
    first = load_run(runs[name], weights="auto")
    second = instrument.at("model.ckpt-0")
    assert np.array_equal(np.concatenate([before, after]), exchanged(first, second.models))
    assert not np.array_equal(after, stream_of(first).render(END)[0][70:])


def test_the_same_weights_change_nothing(runs: dict[str, Path]) -> None:
    for end in ("index", "data-00000-of-00001"):
        folder = runs["steered"]
        shutil.copy(folder / f"model.ckpt-1.{end}", folder / f"model.ckpt-0.{end}")
    instrument = Instrument(runs["steered"])
    with serving(instrument) as server, page(server) as one:
        one.start(**started(instrument.trained))
        before = one.hear(70)
        for checkpoint in ("model.ckpt-0", "model.ckpt-1", "model.ckpt-1"):
            assert one.ask(type="take_over", checkpoint=checkpoint)["checkpoint"] == checkpoint
        after = one.hear(END)
    assert np.array_equal(np.concatenate([before, after]), stream_of(instrument.trained).render(END)[0])


def test_a_page_goes_over_to_the_newest(runs: dict[str, Path]) -> None:
    instrument = Instrument(runs["steered"])
    with serving(instrument) as server, page(server) as one, page(server) as two:
        two.start()
        assert one.ask(type="take_over")["checkpoint"] == "model.ckpt-1"
        train(runs["steered"], 2)
        told = one.ask(type="take_over", checkpoint=None)  # nothing plays here
        assert told["checkpoint"] == told["checkpoints"][-1]["name"] == "model.ckpt-2"
        one.start(**started(instrument.trained))
        one.hear(70)
        assert one.ask(type="take_over")["checkpoint"] == "model.ckpt-2"
        assert np.array_equal(
            one.hear(END), exchanged(instrument.trained, load_run(runs["steered"], weights="auto").models)[70:]
        )
        assert two.others == [] and instrument.current is instrument.trained  # others play what they played


def test_a_checkpoint_that_cannot_be_read_is_told_and_the_sound_goes_on(runs: dict[str, Path]) -> None:
    instrument = Instrument(runs["steered"])
    train(runs["steered"], 2, size=np.nan)
    with serving(instrument) as server, page(server) as one:
        one.start(**started(instrument.trained))
        parts = [one.hear(70)]
        for checkpoint, words in (("model.ckpt-7", "there are model.ckpt-0"), ("model.ckpt-2", "not finite")):
            refusal = one.ask(type="take_over", checkpoint=checkpoint)
            assert (refusal["type"], refusal["to"]) == ("error", "take_over") and words in refusal["message"]
            parts.append(one.hear(one.heard + 20))
        parts.append(one.hear(END))
    assert np.array_equal(np.concatenate(parts), stream_of(instrument.trained).render(END)[0])


def test_what_is_asked_for_last_plays_at_last(runs: dict[str, Path]) -> None:
    instrument = Instrument(runs["steered"])
    with serving(instrument) as server, page(server) as one:
        one.start(**started(instrument.trained))
        one.hear(70)
        for _ in range(5):
            one.say(type="take_over", checkpoint="model.ckpt-1")
            one.say(type="take_over", checkpoint="model.ckpt-0")
        (session,) = server.studio.playing
        until(lambda: _stands(session) and session.voice is not None and session.voice.checkpoint == "model.ckpt-0")
        assert not np.array_equal(one.hear(END), stream_of(instrument.trained).render(END)[0][70:])


def _stands(session: Session) -> bool:
    """Whether nothing moves or is read any more."""
    return all(task is None or task.done() for task in (session._moving, session._reading))


def test_other_checkpoints_are_stored_as_the_first(runs: dict[str, Path]) -> None:
    """The type that was measured for one checkpoint holds for those that take its place."""
    Run(runs["steered"]).write("weights.json", {"checkpoint": "model.ckpt-1", "weights": "int8"})
    instrument = Instrument(runs["steered"])
    assert [each.models[0].kind for each in (instrument.trained, instrument.at("model.ckpt-0"))] == ["int8", "int8"]


# ---- --watch ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["steered", pytest.param("cascade", marks=pytest.mark.slow)])
def test_new_checkpoints_are_taken_over_in_all_voices(name: str, runs: dict[str, Path]) -> None:
    instrument = Instrument(runs[name])
    first = instrument.trained
    with (
        serving(instrument, watched=True) as server,
        page(server) as one,
        page(server) as two,
        page(server) as silent,
    ):
        for each in (one, two):
            each.start(**started(first))
        heard = [one.hear(70), two.hear(30)]
        train(runs[name], 2)
        for each in (one, two, silent):
            told = each.answer("plays")
            assert (told["checkpoint"], told["source"]) == ("model.ckpt-2", "watch")
        second = load_run(runs[name], weights="auto")
        assert np.array_equal(np.concatenate([heard[0], one.hear(END)]), exchanged(first, second.models))
        assert np.array_equal(np.concatenate([heard[1], two.hear(END)]), exchanged(first, second.models, 30))
        silent.start(**started(first))  # later, and so with what plays now
        assert np.array_equal(silent.hear(END), stream_of(second).render(END)[0])
        assert server.ask("/api/run")[2].count(b'"checkpoint":"model.ckpt-2"') == 1
        if name == "cascade":
            train(runs[name], 1, stage="slow")
            assert one.answer("plays")["checkpoint"] == "model.ckpt-2"
            assert instrument.current.checkpoints["slow"].name == "model.ckpt-1"
    assert "model.ckpt-2 is taken over" in server.said[0]


def test_a_voice_that_starts_while_a_checkpoint_is_taken_over_plays_it(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    instrument = Instrument(runs["steered"])
    asked, goes_on, at = threading.Event(), threading.Event(), instrument.at

    def late(checkpoint: str | None) -> Trained:
        found = at(checkpoint)
        asked.set()
        assert goes_on.wait(20)
        return found

    monkeypatch.setattr(instrument, "at", late)
    with serving(instrument, watched=True) as server, page(server) as one:
        one.say(type="start", **started(instrument.trained))
        assert asked.wait(20)
        train(runs["steered"], 2)
        assert one.answer("plays")["checkpoint"] == "model.ckpt-2"
        goes_on.set()
        one.run = one.answer("started")["run"]
        assert one.answer("plays")["checkpoint"] == "model.ckpt-2"
        assert np.array_equal(one.hear(END), exchanged(instrument.trained, instrument.current.models, 0))


def test_a_damaged_checkpoint_is_read_again_when_it_has_changed(runs: dict[str, Path]) -> None:
    instrument, folder = Instrument(runs["steered"]), runs["steered"]
    watch = Watch(instrument)
    assert watch.look() is None  # there is none
    train(folder, 2)
    data = folder / "model.ckpt-2.data-00000-of-00001"
    whole = data.read_bytes()
    data.write_bytes(whole[:100])  # half written
    assert watch.look() is None
    data.write_bytes(whole[:200])
    assert watch.look() is None
    with pytest.raises(RunError, match="damaged or cut short"):
        watch.look()
    assert watch.look() is None  # nobody is told again
    data.unlink()
    assert watch.look() is None  # as before: model.ckpt-1 is the newest
    data.write_bytes(whole)
    found = watch.look()
    assert found is not None and found.path.name == "model.ckpt-2"


def test_a_checkpoint_without_numbers_is_refused_once(runs: dict[str, Path]) -> None:
    instrument = Instrument(runs["steered"])
    with serving(instrument, watched=True) as server, page(server) as one:
        one.start(**started(instrument.trained))
        before = one.hear(70)
        train(runs["steered"], 2, size=np.nan)
        refusal = one.answer("error")
        assert refusal["to"] is None and "model.ckpt-2 holds weights that are not finite" in refusal["message"]
        after = one.hear(END)
        train(runs["steered"], 3)
        assert one.answer("plays", "error")["checkpoint"] == "model.ckpt-3"
    assert np.array_equal(np.concatenate([before, after]), stream_of(instrument.trained).render(END)[0])
    assert [line.partition(" ")[0] for line in server.said] == ["--watch:", "--watch:"]


def test_the_best_is_watched_where_it_was_asked_for(runs: dict[str, Path]) -> None:
    instrument = Instrument(runs["steered"], best=True)
    train(runs["steered"], 2)  # newer, and not better
    assert instrument.trained.path.name == "model.ckpt-0" and Watch(instrument).look() is None
    assert (instrument.document()["takes_over"], Instrument(runs["steered"]).document()["takes_over"]) == (
        "best",
        "newest",
    )


# ---- --blend ---------------------------------------------------------------------------------------------------------


def test_a_blend_is_set_by_the_page_and_by_osc(runs: dict[str, Path]) -> None:
    instrument = Instrument(runs["steered"], other=runs["other"])
    instrument.warm_up()
    first, other = instrument.trained, load_run(runs["other"], weights="auto")
    assert instrument.document()["blend"]["other"] == f"{runs['other'].parent.name}, model.ckpt-1"
    with serving(instrument) as server, page(server) as one:
        one.start(**started(first))
        (session,) = server.studio.playing
        heard = [one.hear(70)]
        expected = stream_of(first)
        parts = [expected.render(70)[0]]
        for share in (0.3, 1.0, 0.0):
            if share == 1.0:
                SimpleUDPClient("127.0.0.1", server.osc_port).send_message("/blend", share)
                answer = one.answer("values")
            else:
                answer = one.ask(type="set", values={"blend": share, "p": 70})
            assert answer["values"]["blend"] == share and answer["remarks"] == []
            until(lambda: session.voice is not None and session.voice.morph.has_arrived and _stands(session))
            if share != 1.0:
                expected.set(p=70)
            expected.replace(mixed(first, other, share))
            heard.append(one.hear(one.heard + 40))
            parts.append(expected.render(40)[0])
        assert np.array_equal(np.concatenate(heard), np.concatenate(parts))
        assert session.voice is not None and session.voice.current()["blend"] == 0.0
        for value in (1.5, -0.1, "much"):
            assert one.ask(type="set", values={"blend": value})["type"] == "error"
        assert "not sound the same" in one.ask(type="record")["remarks"][0]
        one.start(**started(first), blend=0.25)
        heard = [one.hear(END)]
        again = one.ask(type="record")
        assert again["remarks"] == [] and again["start"]["blend"] == 0.25
    blend = stream_of(first)
    blend.replace(mixed(first, other, 0.25))
    assert np.array_equal(heard[0], blend.render(END)[0])


def test_a_blend_holds_when_another_checkpoint_is_taken_over(runs: dict[str, Path]) -> None:
    instrument = Instrument(runs["steered"], other=runs["other"])
    with serving(instrument) as server, page(server) as one:
        one.start(**started(instrument.trained), blend=0.5)
        one.hear(70)
        one.ask(type="take_over", checkpoint="model.ckpt-0")
        after = one.hear(END)
    other = load_run(runs["other"], weights="auto")
    stream = stream_of(instrument.trained)
    stream.replace(mixed(instrument.trained, other, 0.5))
    stream.render(70)
    stream.replace(mixed(instrument.at("model.ckpt-0"), other, 0.5))
    assert np.array_equal(after, stream.render(END - 70)[0])


def test_there_is_no_blend_without_another_run(runs: dict[str, Path]) -> None:
    with serving(Instrument(runs["steered"])) as server, page(server) as one:
        assert "--blend" in one.ask(type="start", blend=0.5)["message"]
        one.start()
        assert "no control blend" in one.ask(type="set", values={"blend": 0.5})["message"]
    assert Instrument(runs["steered"]).document()["blend"] is None


def changed(folder: Path, target: Path, **keys: Any) -> Path:
    """A run as this one with other keys of its config."""
    run = Run(shutil.copytree(folder, target / folder.name))
    document = {**run.read(CONFIG_NAME), **keys}
    family, config = load_config(document, "the test")
    write_text(run.folder / CONFIG_NAME, dumps(config))
    add_checkpoint(run, family.build(config), 1, seed=(1,))
    return run.folder


def test_runs_that_differ_are_not_blended(runs: dict[str, Path], tmp_path: Path) -> None:
    steered = runs["steered"]
    linear = changed(steered, tmp_path / "linear", q_type="linear")
    others = {
        "(stages.conditioning.hidden_size: 6 -> 7)": changed(steered, tmp_path / "larger", hidden_size=7),
        '(stages.conditioning.quantizer.q_type: "mu-law" -> "linear")': linear,
        "conditioned_on: ": changed(steered, tmp_path / "one", conditioned_on=["p"]),
        '(model: "conditioning" -> "samplernn")': runs["sound"],
        '(model: "conditioning" -> "cascade")': runs["cascade"],
    }
    wider = Run(shutil.copytree(steered, tmp_path / "wider" / steered.name))
    inst, pitch, rmse = SCHEMA.parameters
    schema = Schema(parameters=(inst, pitch.model_copy(update={"hi": 84.0}), rmse))
    wider.write("schema.json", {"parameters": schema.to_document(), "values": {}})
    others["(controls.p.hi: 72.0 -> 84.0)"] = wider.folder
    faster = Run(shutil.copytree(steered, tmp_path / "faster" / steered.name))
    faster.write("run.json", {"sample_rate": 16000, "corpus": None})
    others["(sample_rate: 8000 -> 16000)"] = faster.folder
    for words, folder in others.items():
        with pytest.raises(UsageError, match=f"since they differ .*?{re.escape(words)}"):
            Instrument(steered, other=folder)
    capped = changed(runs["sound"], tmp_path / "capped", logit_cap=5.0)  # no weight is for it
    with pytest.raises(UsageError, match=r"\(logit_cap: null -> 5\.0\)"):
        Instrument(runs["sound"], other=capped)


def test_a_control_of_that_name_is_told(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    instrument = Instrument(runs["steered"], other=runs["other"])
    assert instrument.is_live
    named = Schema(parameters=(SCHEMA.parameters[1].model_copy(update={"name": "blend"}),))
    monkeypatch.setattr(instrument, "schema", named)
    with pytest.raises(UsageError, match="named blend, which cannot be set"):
        instrument.warm_up()


def test_other_programs_are_told(runs: dict[str, Path]) -> None:
    instrument = Instrument(runs["steered"], other=runs["other"])
    with socket.socket(type=socket.SOCK_DGRAM) as receiver, socket.socket(type=socket.SOCK_DGRAM) as line:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(20)
        line.connect(receiver.getsockname())
        with serving(instrument) as server, page(server) as one:
            sender = server.studio.sender = Sender(line, instrument.live_parameters, print)
            one.start(**started(instrument.trained))
            one.ask(type="take_over", checkpoint="model.ckpt-0")
            one.ask(type="set", values={"blend": 0.25})
            one.hear(64)
            sender.send_what_is_due(0.0)
            found = [OscMessage(receiver.recv(1 << 16)) for _ in range(7)]
    told = [(each.address, *each.params) for each in found]
    assert told[:2] == [("/voice/started", "5", "model.ckpt-1", 1), ("/voice/checkpoint", "model.ckpt-0", 1)]
    assert ("/blend", 0.25, 1) in told


# ---- what moves ------------------------------------------------------------------------------------------------------


def way(morph: Morph) -> list[Any]:
    """The networks at each step until it has arrived."""
    found = []
    while not morph.has_arrived:
        (network,) = morph.advance()
        found.append(network)
    return found


def test_ways_have_as_many_steps_as_they_are_long(runs: dict[str, Path]) -> None:
    instrument = Instrument(runs["steered"])
    first, second = instrument.trained.models, instrument.at("model.ckpt-0").models
    other = load_run(runs["other"], weights="auto").models
    (a,), (b,), (c,) = first, second, other
    morph = Morph(first, other)
    assert morph.has_arrived and not morph.has_moved and morph.networks[0] is a
    morph.aim(base=second)
    steps = way(morph)
    assert len(steps) == STEPS and steps[-1] is b and morph.has_moved
    assert np.array_equal(steps[4].weights, blended(a, b, 0.5).weights)
    for share, count in ((0.05, 1), (0.5, 5), (0.45, 1), (1.0, 6), (0.0, STEPS)):
        morph.aim(share=share)
        steps = way(morph)
        assert len(steps) in (count, count + 1)  # of numbers that are no binary fractions
        assert np.array_equal(steps[-1].vectors, blended(b, c, share).vectors)
    morph.aim(base=first)
    for _ in range(4):
        morph.advance()
    before = morph.networks[0]
    morph.aim(share=0.01)  # on the way: what is left of it is not cut short
    steps = way(morph)
    assert len(steps) == STEPS - 4
    assert np.array_equal(steps[0].vectors, blended(before, blended(a, c, 0.01), 1 / 6).vectors)
    assert np.array_equal(steps[-1].vectors, blended(a, c, 0.01).vectors)


# ---- the command -----------------------------------------------------------------------------------------------------


def test_tensorflow_and_what_is_made_whole_are_refused(
    runs: dict[str, Path], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = make_run(tmp_path, "values").folder
    for words in (["--watch"], ["--blend", runs["other"]]):
        sentence = told(capsys, command.main, [runs["steered"], "--port", 0, "--weights", "tensorflow", *words], 2)
        assert words[0] in sentence and "TensorFlow" in sentence
        sentence = told(capsys, command.main, [values, "--port", 0, *words], 2)
        assert words[0] in sentence and "makes values, whole" in sentence
    monkeypatch.setattr(instrument_module, "_TRIED_SECONDS", 0.01)
    with serving(Instrument(runs["sound"], weights="tensorflow")) as server, page(server) as one:
        one.start()
        assert "TensorFlow" in one.ask(type="take_over")["message"]
        assert server.studio.instrument.document()["takes_over"] is None
