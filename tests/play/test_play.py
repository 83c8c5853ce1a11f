"""The server of the page to play on: over real sockets on loopback, and equal to what the run streams without it."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import gc
import importlib.util
import io
import itertools
import json
import math
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tensorflow as tf
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from pythonosc.osc_bundle_builder import IMMEDIATELY, OscBundleBuilder
from pythonosc.osc_message_builder import OscMessageBuilder
from pythonosc.udp_client import SimpleUDPClient
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import generate
from commands import Capture, call, load_once, told
from melnet.front_end import Normaliser
from tierwave.cli import play as command
from tierwave.config import dumps, validate
from tierwave.controls.files import read_take, write_take
from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.tracks import Controls, Track
from tierwave.errors import UsageError
from tierwave.family import load_config
from tierwave.files.writing import write_text
from tierwave.generation.load import Trained, load_run
from tierwave.generation.request import Request
from tierwave.play import instrument as instrument_module
from tierwave.play import protocol, voice
from tierwave.play import session as session_module
from tierwave.play.app import build_app, hosts_of
from tierwave.play.instrument import Instrument
from tierwave.play.offline import Order
from tierwave.play.osc import listening
from tierwave.play.protocol import LARGEST_MESSAGE
from tierwave.play.session import MOST_REFUSED, Studio
from tierwave.play.watch import watching
from tierwave.runs.checkpoints import make_checkpoint
from tierwave.runs.folder import CONFIG_NAME, CheckpointEntry, Run, create_run
from tierwave.runs.history import BASELINES, LOSSES

RATE = 8000
SMALL = {"hidden_size": 6, "num_layers": 1}
SCHEMA = Schema(
    parameters=(
        Parameter(name="inst", categories=("brass", "reed", "string"), lo=0, hi=2),
        Parameter(name="p", units="midiPitch", lo=60, hi=72),
        Parameter(name="rmse", lo=0, hi=1),
    )
)
VALUES = {"inst": [0.0, 2.0], "p": [60.0, 65.0, 72.0], "rmse": [0.0, 0.5, 1.0]}
SOUND = {"generates": ["audio"], "rate": RATE, "q_levels": 32, **SMALL}
LARGEST_BLOCK = session_module.BLOCK
CONFIGS: dict[str, dict[str, Any]] = {
    "steered": {"model": "conditioning", "conditioned_on": ["inst", "p"], **SOUND},
    "sound": {"model": "samplernn", "seq_len": 16, "frame_sizes": [2, 4], "dim": 8, "q_levels": 32, "emb_size": 4},
    "values": {"model": "conditioning", "generates": ["rmse"], "conditioned_on": ["p"], "rate": 50, **SMALL},
    "cascade": {
        "model": "cascade",
        "tiers": [
            {"name": "slow", "generates": ["rmse"], "conditioned_on": ["p"], "rate": 50, **SMALL},
            {"name": "fast", "conditioned_on": ["rmse", "p"], **SOUND},
        ],
    },
    "spectrogram": {
        "model": "melnet", "audio": {"mel_channels": 8, "n_fft": 64, "win_length": 64, "hop_length": 32}, "tiers": 2,
        "layers": [1, 1], "hidden_size": 4, "mixtures": 2, "seq_len": 8,
    },
}  # fmt: skip
LIVE = ("steered", "sound", "cascade")


def make_run(root: Path, name: str) -> Run:
    """A run with weights large enough that everything is heard (a spectrogram's small enough to be finite), and two
    checkpoints of its last stage."""
    size = 0.1 if name == "spectrogram" else 0.6
    family, config = load_config(CONFIGS[name], name)
    stages = family.stages(config)
    run = create_run(root, name)
    run.write("run.json", {"sample_rate": RATE, "corpus": None})
    run.write("schema.json", {"parameters": SCHEMA.to_document(), "values": VALUES})
    run.write("prepared.json", Normaliser(np.zeros(8), 1.0).to_document())
    for number, stage in enumerate(stages):
        part = run.stage(stage if len(stages) > 1 else None)
        part.folder.mkdir(exist_ok=True)
        model = family.build(config, stage)
        for epoch in range(2 if stage == stages[-1] else 1):
            add_checkpoint(part, model, epoch, seed=(number, epoch), size=size)
    write_text(run.folder / CONFIG_NAME, dumps(config))
    return run


def add_checkpoint(part: Run, model: Any, epoch: int, *, seed: Sequence[int], size: float = 0.6) -> None:
    """A checkpoint of random weights in a part of a run."""
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(0, size, variable.shape))
    entry = CheckpointEntry(f"model.ckpt-{epoch}", epoch, 10 * epoch, 2.0 - epoch, best=epoch == 0, kept=True)
    progress = tf.Variable(json.dumps({"run": ""}))
    make_checkpoint({"model": model, "progress": progress}).write(str(part.folder / entry.name))
    part.record(entry, None)


@pytest.fixture(scope="module", autouse=True)
def frozen_again() -> Iterator[None]:
    """What this module has left, and its servers have frozen, is garbage at its end; see tests/conftest.py."""
    yield
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    return {name: make_run(root, name).folder for name in CONFIGS}


@pytest.fixture(scope="module")
def instruments(runs: dict[str, Path]) -> Iterator[dict[str, Instrument]]:
    """The runs opened. Loops are not compiled by XLA, which takes longer here than they run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "BLOCK", 64)  # a short sound has several blocks
        for module, name in (("conditioning.sampler", "TierSampler"), ("samplernn.sampler", "Sampler")):
            sampler = getattr(importlib.import_module(module), name)
            patch.setattr(f"{module}.{name}", functools.partial(sampler, jit=False))
        patch.setattr("tierwave.generation.load.load_run", load_once)  # generate.py's
        patch.setattr("tierwave.play.instrument.load_run", load_once)
        yield {name: Instrument(path) for name, path in runs.items()}


@dataclass
class Server:
    """A server in a thread of this process."""

    studio: Studio
    port: int
    osc_port: int
    said: list[str]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def open(self, **changes: Any) -> ClientConnection:
        """A page's WebSocket."""
        options = {"origin": f"http://{self.address}", "compression": None, "max_size": None, **changes}
        return connect(f"ws://{self.address}/ws", **options)

    def ask(
        self, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of an answer over HTTP."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **(headers or {})} if data is not None else dict(headers or {})
        request = urllib.request.Request(f"http://{self.address}{path}", data, sent)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.headers, refusal.read()

    def generate(self, **order: Any) -> np.ndarray:
        """The samples of a sound, in 16-bit steps."""
        status, headers, body = self.ask("/api/generate", order)
        assert status == 200 and headers["Content-Type"] == "audio/wav", body
        return soundfile.read(io.BytesIO(body), dtype="int16")[0]


@contextlib.contextmanager
def serving(
    instrument: Instrument, max_voices: int = 4, host: str = "127.0.0.1", *, watched: bool = False
) -> Iterator[Server]:
    studio = Studio(instrument, max_voices)
    said: list[str] = []
    with socket.socket() as listener, socket.socket(type=socket.SOCK_DGRAM) as osc:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        osc.bind(("127.0.0.1", 0))
        names = [*(each.name for each in instrument.live_parameters), "temperature", "top_k"]

        @contextlib.asynccontextmanager
        async def started(studio: Studio) -> AsyncIterator[None]:
            hand_on = lambda values: studio.set_all(values, "osc")  # noqa: E731
            obey = lambda order: studio.ask_all(order, "osc")  # noqa: E731
            async with contextlib.AsyncExitStack() as open_ones:
                await open_ones.enter_async_context(listening(osc, names, hand_on, obey, said.append))
                if watched:
                    await open_ones.enter_async_context(watching(studio, said.append))
                yield

        config = uvicorn.Config(
            build_app(studio, host=host, started=started), log_config=None, ws_max_size=LARGEST_MESSAGE
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until(lambda: server.started)
            yield Server(studio, listener.getsockname()[1], osc.getsockname()[1], said)
        finally:
            server.should_exit = True
            thread.join(30)
            gc.freeze()  # which the server has ended, and the tests want
            assert not thread.is_alive()


def until(there: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait until something is the case."""
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)


@pytest.fixture(scope="module", params=[*LIVE[:2], pytest.param(LIVE[2], marks=pytest.mark.slow)])
def live(request: pytest.FixtureRequest, instruments: dict[str, Instrument]) -> Iterator[Server]:
    with serving(instruments[request.param]) as server:
        yield server


@pytest.fixture(scope="module")
def steered(instruments: dict[str, Instrument]) -> Iterator[Server]:
    with serving(instruments["steered"]) as server:
        yield server


def points_of(csv: str) -> dict[str, list[list[float]]]:
    """The curves of a recording."""
    _, *rows = [line.split(",") for line in csv.splitlines() if not line.startswith("#")]
    found: dict[str, list[list[float]]] = {}
    for name, seconds, value in rows:
        found.setdefault(name, []).append([float(seconds), float(value)])
    return found


class Page:
    """What a page does, over a socket."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.run = self.heard = 0
        self.others: list[dict[str, Any]] = []  # what came besides blocks and answers

    def say(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))

    def answer(self, *kinds: str) -> dict[str, Any]:
        """The next message of one of these kinds."""
        while True:
            message = self.socket.recv(timeout=60)
            assert isinstance(message, str), "a block that nobody has asked for"
            document = json.loads(message)
            if document["type"] in kinds:
                return document
            self.others.append(document)

    def ask(self, **message: Any) -> dict[str, Any]:
        """Say something; its answer."""
        kinds = {"start": "started", "set": "set", "record": "recorded", "stop": "stopped", "take_over": "plays"}
        self.say(**message)
        csv = ""
        while (answer := self.answer("error", "csv", kinds[message["type"]]))["type"] == "csv":
            csv += answer["text"]
        if answer["type"] == "recorded":
            answer["csv"] = csv + answer["csv"]
            answer["controls"] = points_of(answer["csv"])
            answer["start"]["controls"] = answer["controls"]
        return answer

    def start(self, **message: Any) -> dict[str, Any]:
        answer = self.ask(type="start", **message)
        assert answer["type"] == "started", answer
        assert answer["run"] == self.run + 1
        self.run, self.heard = answer["run"], 0
        return answer

    def hear(self, stop: int) -> np.ndarray:
        """The samples up to `stop`."""
        self.say(type="more", until=stop)
        blocks = [np.zeros(0, np.float32)]
        while self.heard < stop:
            message = self.socket.recv(timeout=60)
            if isinstance(message, str):
                self.others.append(json.loads(message))
                assert self.others[-1]["type"] != "error", message
                continue
            magic, run, first, count = struct.unpack("<4sIII", message[:16])
            assert (magic, run, first) == (b"TWAV", self.run, self.heard)
            assert len(message) == 16 + 4 * count and 0 < count <= LARGEST_BLOCK
            blocks.append(np.frombuffer(message[16:], "<f4"))
            self.heard += count
        assert self.heard == stop, "more than was asked for"
        return np.concatenate(blocks)


@contextlib.contextmanager
def page(server: Server) -> Iterator[Page]:
    with server.open() as socket:
        yield Page(socket)


# ---- playing ---------------------------------------------------------------------------------------------------------

MOVES = [(70, {"temperature": 1.4}), (105, {"p": 70.5}), (108, {"p": 62}), (150, {"top_k": 3})]
END = 210


def moves_of(trained: Trained) -> list[tuple[int, dict[str, float]]]:
    """Those that a run takes."""
    return [move for move in MOVES if "p" not in move[1] or "p" in trained.family.steerable(trained.config)]


def direct(trained: Trained, moves: Sequence[tuple[int, dict[str, float]]], seed: int = 5) -> tuple[np.ndarray, Any]:
    """The same without a server, and its stream."""
    names = trained.family.steerable(trained.config)
    drawn = {"p": Track.constant("p", 64.0), "inst": Track.constant("inst", 2.0)}
    controls = {name: drawn[name] for name in names}
    stream = trained.stream(Request(controls=(controls,), temperature=(0.9,), random_seed=seed, averaged=False))
    parts, made = [], 0
    for position, values in moves:
        parts.append(stream.render(position - made)[0])
        stream.set(**values)
        made = position
    parts.append(stream.render(END - made)[0])
    return np.concatenate(parts), stream


def started(where: Page, trained: Trained, **more: Any) -> dict[str, Any]:
    values = {"p": 64, "inst": "string"}
    names = trained.family.steerable(trained.config)
    return where.start(random_seed=5, temperature=0.9, values={name: values[name] for name in names}, **more)


def test_what_is_streamed_is_the_runs_own_stream(live: Server) -> None:
    trained = live.studio.instrument.trained
    moves = moves_of(trained)
    with page(live) as one:
        started(one, trained)
        parts = []
        for number, (position, values) in enumerate(moves):
            parts.append(one.hear(position))
            answer = one.ask(type="set", event=number, values=values)
            assert answer["event"] == number and answer["values"] == values and answer["remarks"] == []
            assert position < answer["sample"] <= position + 100
        parts.append(one.hear(END))
    expected, _ = direct(trained, moves)
    assert np.array_equal(np.concatenate(parts), expected)
    assert not np.array_equal(expected[70:], direct(trained, [])[0][70:])


def test_a_recording_plays_again_and_is_what_generate_takes(live: Server, tmp_path: Path) -> None:
    trained = live.studio.instrument.trained
    moves = moves_of(trained)
    with page(live) as one:
        started(one, trained)
        parts = []
        for position, values in moves:
            parts.append(one.hear(position))
            one.ask(type="set", values=values)
        parts.append(one.hear(END))
        recorded = one.ask(type="record")
        again = one.start(**{key: value for key, value in recorded["start"].items() if key != "type"})
        assert again["random_seed"] == recorded["random_seed"] == 5
        assert np.array_equal(one.hear(END), np.concatenate(parts))
    assert recorded["seconds"] == END / RATE
    path = tmp_path / "played.csv"
    path.write_text(recorded["csv"], encoding="utf-8", newline="")
    tracks, was_live = read_take(path)
    assert was_live
    assert {n: np.stack([t.times, t.values], 1).tolist() for n, t in tracks.items()} == recorded["controls"]
    about = {"random_seed": 5, "seconds": END / RATE, "checkpoint": trained.path.name}
    about |= {"temperature": 0.9, "top_k": None}
    write_take(tmp_path / "written.csv", tracks, RATE, about=about)
    assert (tmp_path / "written.csv").read_bytes() == path.read_bytes()
    if trained.schema.names:  # generate.py takes no curves of a run without controls
        words = ["--checkpoint_path", trained.run.folder, "--controls", path, "--random_seed", 5, "--dur", END / RATE]
        words += ["--temperature", 0.9]  # of the tiers above
        assert call(generate.main, [*words, "--output_path", tmp_path / "new.wav"]) == 0
        made = soundfile.read(tmp_path / "new.wav", dtype="float32")[0]
        assert np.abs(made - np.concatenate(parts)).max() <= 1 / 2**15


def test_a_voice_that_plays_for_ever_forgets_its_beginning(steered: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice, "REMEMBERED_SECONDS", 250 / RATE)
    with page(steered) as one:
        one.start()
        until(lambda: len(steered.studio.playing) == 1)
        for number in range(40):
            one.hear(25 * number + 25)
            one.ask(type="set", values={"p": 62 + number % 5})
            if number == 18:  # nothing is forgotten for twice that time
                assert one.ask(type="record")["type"] == "recorded"
        (session,) = steered.studio.playing
        (control,) = session.voice._stream.live._by_name["p"]
        assert len(control.ramps) < 24
        refused = one.ask(type="record")
        assert refused["type"] == "error" and "forgotten" in refused["message"]
        assert len(one.hear(1050)) == 50


def test_nothing_is_made_beyond_what_is_asked_for(live: Server) -> None:
    with page(live) as one:
        one.start()
        until(lambda: len(live.studio.playing) == 1)  # another page may be closing yet
        (session,) = live.studio.playing
        for stop in (1, 90, 90, 211):
            one.hear(stop)
            time.sleep(0.05)
            assert session.voice is not None and session.voice.made == stop
        one.say(type="more", until=5)  # already made
        assert one.ask(type="record")["seconds"] == 211 / RATE  # and no block came before
        one.start()
        assert session.voice.made == 0
        assert len(one.hear(100)) == 100


def test_curves_drawn_beforehand_are_followed(steered: Server) -> None:
    trained = steered.studio.instrument.trained
    points = [[0, 60], [0.01, 72], [0.02, 61]]
    with page(steered) as one:
        one.start(random_seed=3, controls={"p": points}, values={"inst": 0, "p": 71})
        heard = one.hear(END)
    controls: Controls = {"p": Track.from_events("p", points), "inst": Track.constant("inst", 0.0)}
    stream = trained.stream(Request(controls=(controls,), temperature=(0.75,), random_seed=3, averaged=False))
    assert np.array_equal(heard, stream.render(END)[0])


def test_parameters_that_are_not_said_stand_in_the_middle(steered: Server) -> None:
    _, _, body = steered.ask("/api/run")
    first = {each["name"]: each["initial"] for each in json.loads(body)["parameters"]}
    assert first == {"inst": 2.0, "p": 65.0}  # the second of two categories; 66 is the middle, 65 was trained on
    with page(steered) as one:
        one.start(random_seed=3)
        silent = one.hear(150)
        one.start(random_seed=3, values={"p": 65, "inst": "string"})
        assert np.array_equal(silent, one.hear(150))


def test_a_value_beyond_the_range_is_clipped_and_told(steered: Server) -> None:
    with page(steered) as one:
        answer = one.start(controls={"p": [[0, 90], [1, 65]]})
        assert "p: 90" in answer["remarks"][0] and "60 to 72 midiPitch" in answer["remarks"][0]
        answer = one.ask(type="set", values={"p": 1e6, "inst": "brass"})
        assert answer["values"] == {"p": 72.0, "inst": 0.0} and "clipped" in answer["remarks"][0]


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"q": 1}, "no control q"),
        ({"inst": "reed"}, "never occurred in training; give one of brass, string"),
        ({"inst": "violin"}, "one of brass, reed, string"),
        ({"inst": 1}, "never occurred"),
        ({"p": "high"}, "a number"),
        ({"temperature": -1}, "0 or more"),
        ({"temperature": "hot"}, "a number"),
        ({"top_k": 1.5}, "whole number"),
        ({"voice": 3}, "no control voice"),
        ({"self": 3}, "no control self"),
        ({"p": 70, "inst": 7}, "never occurred"),
    ],
)
def test_a_value_that_cannot_be_changes_nothing(steered: Server, values: dict[str, Any], part: str) -> None:
    with page(steered) as one:
        one.start(random_seed=3, values={"p": 64})
        one.hear(70)
        for kind in ("set", "start"):
            answer = one.ask(type=kind, values=values)
            assert (answer["type"], answer["to"]) == ("error", kind) and part in answer["message"]
        assert one.ask(type="record")["controls"]["p"] == [[0.0, 64.0]]
        assert len(one.hear(150)) == 80  # the voice that was there plays on


def test_another_checkpoint_is_another_sound(steered: Server, runs: dict[str, Path]) -> None:
    with page(steered) as one:
        sounds = {}
        for name in (None, "model.ckpt-0", "model.ckpt-1"):
            one.start(random_seed=5, temperature=0.9, values={"p": 64, "inst": "string"}, checkpoint=name)
            sounds[name] = one.hear(END)
        answer = one.ask(type="start", checkpoint="../model.ckpt-1")
    assert np.array_equal(sounds[None], sounds["model.ckpt-1"])
    assert np.array_equal(sounds["model.ckpt-0"], direct(load_run(runs["steered"] / "model.ckpt-0"), [])[0])
    assert not np.array_equal(sounds["model.ckpt-0"], sounds["model.ckpt-1"])
    assert "there are model.ckpt-0, model.ckpt-1" in answer["message"]


def test_pace_is_told_while_it_plays(steered: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "PACE_SECONDS", 0.0)
    with page(steered) as one:
        one.start()
        one.hear(3 * session_module.BLOCK)
        assert one.answer("pace")["speed"] > 0
        assert all(pace["late_blocks"] <= 3 for pace in one.others)


# ---- several pages ---------------------------------------------------------------------------------------------------


def test_two_pages_at_once_have_a_voice_each(steered: Server) -> None:
    trained = steered.studio.instrument.trained
    with page(steered) as one, page(steered) as two:
        started(one, trained)
        two.start(random_seed=5, temperature=0.9, values={"p": 71, "inst": "brass"})
        heard: list[list[np.ndarray]] = [[], []]
        for stop in range(30, END + 1, 60):
            for number, each in enumerate((one, two)):
                heard[number].append(each.hear(stop))
            two.ask(type="set", values={"p": 60 + stop % 12})
    assert np.array_equal(np.concatenate(heard[0]), direct(trained, [])[0][:stop])
    assert not np.array_equal(np.concatenate(heard[0]), np.concatenate(heard[1]))


def test_voices_are_counted_and_a_closed_page_frees_its_own(
    instruments: dict[str, Instrument], caplog: pytest.LogCaptureFixture
) -> None:
    with serving(instruments["steered"], max_voices=2) as server:
        with page(server) as one, page(server) as two:
            one.start()
            two.start()
            one.start()  # anew, which takes no other voice
            with page(server) as three:
                refusal = three.ask(type="start")
                assert refusal["type"] == "error" and "all 2 voices" in refusal["message"]
                assert one.ask(type="stop") == {"type": "stopped"}
                three.start()
                assert len(three.hear(100)) == 100
                assert one.ask(type="set", values={"p": 64})["type"] == "error"  # it has no voice any more
                assert len(server.studio.playing) == 2
            until(lambda: len(server.studio.playing) == 1)
            one.start()
        until(lambda: not server.studio.playing and not server.studio.sessions)
        with page(server) as one:  # a page that goes without a word, in the middle of a block
            one.start()
            one.say(type="more", until=10_000_000)
            one.socket.recv(timeout=60)
            one.socket.socket.shutdown(socket.SHUT_RDWR)
            until(lambda: not server.studio.playing and not server.studio.sessions, 5)
        with page(server) as one:  # with answers under way
            one.start()
            for number in range(30):
                one.say(type="more", until=300 * number)
                one.say(type="set", values={"p": 64})
            one.socket.socket.shutdown(socket.SHUT_RDWR)
            until(lambda: not server.studio.playing and not server.studio.sessions, 20)
        until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("voice")])
    assert not [record for record in caplog.records if record.exc_info]


# ---- what is no message ----------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NUMBERS = st.floats() | st.integers(-(2**70), 2**70)
NAMES = st.sampled_from(["p", "inst", "temperature", "top_k", "voice", "q"])
LIKE_MESSAGES = st.fixed_dictionaries(
    {"type": st.sampled_from(["start", "set", "more", "take_over", "record", "stop", "none", 3])},
    optional={
        "values": st.dictionaries(NAMES, NUMBERS | st.text(max_size=5), max_size=3) | JSON,
        "controls": st.dictionaries(NAMES, st.lists(st.tuples(NUMBERS, NUMBERS), max_size=3), max_size=2) | JSON,
        "random_seed": NUMBERS | st.none(),
        "temperature": NUMBERS,
        "top_k": NUMBERS | JSON,
        "event": NUMBERS | JSON,
        "checkpoint": st.text(max_size=5) | st.none(),
        "blend": NUMBERS | JSON,
        "gestures": st.booleans() | JSON,
    },
)


@pytest.fixture(scope="module")
def pestered(instruments: dict[str, Instrument]) -> Iterator[Page]:
    with serving(instruments["steered"]) as server, page(server) as one:
        yield one


SEEDS = itertools.count(987654321)  # that no other start has


@settings(max_examples=50)
@given(st.one_of(JSON.map(json.dumps), LIKE_MESSAGES.map(json.dumps), st.text(max_size=40), st.binary(max_size=40)))
def test_no_message_does_harm(pestered: Page, message: str | bytes) -> None:
    pestered.socket.send(message.encode("utf-8", "replace").decode() if isinstance(message, str) else message)
    seed = next(SEEDS)
    pestered.say(type="start", random_seed=seed)
    while isinstance(answer := pestered.socket.recv(timeout=60), bytes) or f'"random_seed": {seed}' not in answer:
        assert isinstance(answer, bytes) or "the voice has failed" not in answer
    pestered.run, pestered.heard = json.loads(answer)["run"], 0
    assert len(pestered.hear(20)) == 20


@pytest.mark.parametrize(
    "text",
    ["", "[" * 60_000, '{"type": "set", "values": {"p": 1e999}}', '{"type": "set", "values": {"p": NaN}}', r'"\ud800"',
     r'{"type": "\ud800"}', r'{"type": "start", "checkpoint": "\ud800"}', '{"type": "more", "until": -1}',
     '{"type": "more", "until": 1e300}', '{"a":' * 900 + "1" + "}" * 900, b"\x00\xff", b"",
     *['{"type": "set", "values": ' + "[" * depth + "]" * depth + "}" for depth in (60, 70, 5000, 30_000)]],
)  # fmt: skip
def test_what_is_no_message_is_answered_by_a_sentence(steered: Server, text: str | bytes) -> None:
    with page(steered) as one:
        one.start(random_seed=2)
        before = one.hear(70)
        one.socket.send(text)
        assert len(one.answer("error")["message"]) < 400
        after = one.hear(140)
        one.start(random_seed=2)
        assert np.array_equal(one.hear(140), np.concatenate([before, after]))


def test_a_refusal_says_what_it_answers(steered: Server) -> None:
    with page(steered) as one:
        assert one.ask(type="record")["to"] == "record"
        assert one.ask(type="start", temperature=-1)["to"] == "start"
        one.socket.send('{"type": "none"}')
        assert one.answer("error")["to"] is None


def test_who_sends_nothing_but_nonsense_is_sent_away(steered: Server) -> None:
    with page(steered) as one, page(steered) as other:
        other.start()
        for _ in range(2):  # not in a row
            for _ in range(MOST_REFUSED - 1):
                one.socket.send("nonsense")
            one.say(type="start")
            one.answer("started")
        for _ in range(MOST_REFUSED):
            one.socket.send("nonsense")
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                one.socket.recv(timeout=60)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008
        assert len(other.hear(100)) == 100


def full(first: str, entry: str, last: str) -> str:
    """As many equal entries as one message holds; `%x` in them is their number."""
    room = LARGEST_MESSAGE - len(first) - len(last)
    longest = len(entry) + (3 if "%" in entry else 1)  # a number of five digits for "%x", and a comma
    entries = itertools.repeat(entry, room // longest)
    return first + ",".join(each.replace("%x", f"{number:x}") for number, each in enumerate(entries)) + last


LARGE = {
    "wrong points": full('{"type": "start", "controls": {"p": [', '["a"]', "]}}"),
    "right points": full('{"type": "start", "controls": {"p": [', "[0, 60]", "]}}"),
    "wrong curves": full('{"type": "start", "controls": {', '"%x": []', "}}"),
    "wrong values": full('{"type": "set", "values": {', '"%x": []', "}}"),
    "right values": full('{"type": "set", "values": {', '"%x": 0', "}}"),
    "unknown keys": full('{"type": "set", ', '"%x": 0', "}"),
    "wrong piece": full('{"type": "curve", "name": "p", "points": [', "[0]", "]}"),
    "nested": full('{"type": "set", "values": [', "[[[{}]]]", "]}"),
    "one text": full('{"type": "', "\\u0000", '"}'),
    "one number": '{"type": "more", "until": ' + "1" * (LARGEST_MESSAGE - 30) + "}",
}


def work(call: Callable[[], Any]) -> float:
    """Seconds of its core that a call takes, however busy the machine is with other things; the quickest of three."""
    took = []
    for _ in range(3):
        began = time.thread_time()
        with contextlib.suppress(UsageError):
            call()
        took.append(time.thread_time() - began)
    return min(took)


@pytest.fixture(scope="module")
def decoding() -> float:
    """Seconds of a core in which the largest message is read as JSON: what it is checked for may take longer, but not
    as long as a sentence for each of its faults would."""
    return work(lambda: json.loads(LARGE["nested"]))


@pytest.mark.parametrize("kind", LARGE)
def test_no_message_keeps_the_event_loop_long(kind: str, decoding: float) -> None:
    text = LARGE[kind]
    assert len(text) <= LARGEST_MESSAGE
    assert work(lambda: protocol.parse(text)) < 40 * decoding  # 12 at most
    order = text.replace('"type": "start", ', "").encode()
    assert work(lambda: validate(Order, protocol.parse_object(order), "generate")) < 40 * decoding
    with pytest.raises(UsageError, match="bytes at most"):
        protocol.parse_object(text + " " * LARGEST_MESSAGE)


def test_nobodys_sound_waits_for_anothers_messages(
    steered: Server, decoding: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one page sends large messages of all kinds, the event loop does nothing that takes long, answers another's
    pings, and sound comes."""
    took: list[float] = []
    run = asyncio.Handle._run  # type: ignore[attr-defined]

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        took.append(time.thread_time() - began)

    monkeypatch.setattr(asyncio.Handle, "_run", timed)
    with page(steered) as one, page(steered) as other:
        other.start()
        other.hear(20)  # compiled
        sent = threading.Event()

        def pester() -> None:
            for text in LARGE.values():
                one.socket.send(text)
            steered.ask("/api/generate", LARGE["wrong points"].encode())
            sent.set()

        pestering = threading.Thread(target=pester)
        pestering.start()
        stop = 20
        while not sent.is_set() or stop < 120:
            assert other.socket.ping().wait(60)
            stop += 20
            other.hear(stop)
        pestering.join()
        for kind in LARGE:
            if kind != "right points":
                assert one.answer("error")["message"]
        assert len(took) > len(LARGE) and max(took) < 100 * decoding  # a message is read twice to be refused


def test_no_collection_of_garbage_looks_through_tensorflow_while_a_server_runs(
    instruments: dict[str, Instrument],
) -> None:
    gc.unfreeze()
    with serving(instruments["steered"]):
        assert gc.get_freeze_count() > 100_000  # or each message may begin a collection, in which nothing plays


def test_long_curves_come_in_pieces(steered: Server) -> None:
    """Ten times as much as one message holds, there and back, sounds as the same curve does without a server."""
    trained = steered.studio.instrument.trained
    times = np.arange(20_000) / 1000
    curve = np.stack([times, 66 + 5 * np.sin(30 * times)], 1)
    asked = {"random_seed": 3, "values": {"inst": 0}}
    with page(steered) as one:
        for piece in np.split(curve, 40):
            one.say(type="curve", name="p", points=piece.tolist())
        one.start(**asked, drawn=len(curve))
        heard = one.hear(END)
        recorded = one.ask(type="record")
        assert recorded["controls"]["p"] == curve.tolist()
        answer = one.ask(type="start", **asked, drawn=len(curve))  # which none came for
        assert answer["type"] == "error" and "20000" in answer["message"]
        one.start(**asked)  # and a curve holds for one start only
        assert not np.array_equal(one.hear(END), heard)
    tracks: Controls = {"p": Track("p", *curve.T), "inst": Track.constant("inst", 0.0)}
    stream = trained.stream(Request(controls=(tracks,), temperature=(0.75,), random_seed=3, averaged=False))
    assert np.array_equal(heard, stream.render(END)[0])


def test_curves_have_an_end(steered: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MOST_POINTS", 10)
    monkeypatch.setattr(protocol, "MOST_NAMES", 3)
    with page(steered) as one:
        for points, name in ((6, "p"), (6, "p"), (1, "a"), (1, "b"), (1, "c"), (1, "d")):
            one.say(type="curve", name=name, points=[[0, 60]] * points)
        for _ in range(2):
            answer = one.answer("error")
            assert answer["to"] == "curve" and "10 points" in answer["message"]
        assert one.ask(type="start", drawn=4)["type"] == "error"
        one.start()


def test_a_message_that_is_too_long_ends_only_its_own_socket(steered: Server) -> None:
    with page(steered) as one, page(steered) as other:
        other.start()
        with pytest.raises(ConnectionClosed):
            one.socket.send("x" * (LARGEST_MESSAGE + 1))
            one.socket.recv(timeout=60)
        assert len(other.hear(100)) == 100


def test_a_fault_of_ours_is_told_and_the_page_can_go_on(
    steered: Server, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    with page(steered) as one:
        one.start()
        one.hear(20)
        with monkeypatch.context() as broken:
            broken.setattr("tierwave.play.voice.Voice.render", lambda voice, samples: 1 / 0)
            one.say(type="more", until=100)
            assert "failed" in one.answer("error")["message"]
            assert not steered.studio.playing
        one.start()
        assert len(one.hear(100)) == 100
    assert "ZeroDivisionError" in capsys.readouterr().err


# ---- who is answered -------------------------------------------------------------------------------------------------


def test_only_this_servers_own_page_opens_the_socket(steered: Server) -> None:
    foreign = [
        {"origin": None},
        {"origin": "null"},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1"},
        {"origin": f"https://{steered.address}"},
        {"origin": f"http://127.0.0.1:{steered.port + 1}"},
        {"origin": f"http://localhost:{steered.port}"},  # itself, under another name than it was asked for
    ]
    for changes in foreign:
        with pytest.raises(InvalidStatus) as refused:
            steered.open(**changes).close()
        assert refused.value.response.status_code == 403
    assert not steered.studio.sessions
    with page(steered) as one:
        one.start()


def raw(server: Server, *lines: str) -> bytes:
    """The answer to a request that is written by hand."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as line:
        line.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())
        answer = b""
        while piece := line.recv(65536):
            answer += piece
        return answer


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "192.168.0.7", "a@127.0.0.1", "", "[::1"]
)
def test_a_foreign_host_is_refused(steered: Server, host: str) -> None:
    for first in ("GET / HTTP/1.1", "GET /api/run HTTP/1.1", "POST /api/generate HTTP/1.1"):
        assert raw(steered, first, f"Host: {host}").startswith(b"HTTP/1.1 403"), first
    upgrade = ["Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
    with socket.create_connection(("127.0.0.1", steered.port), timeout=20) as line:
        asked = ["GET /ws HTTP/1.1", f"Host: {host}", f"Origin: http://{host}", "Connection: Upgrade", *upgrade, "", ""]
        line.sendall("\r\n".join(asked).encode())
        assert line.recv(100).startswith((b"HTTP/1.1 403", b"HTTP/1.1 400"))


def test_another_sites_requests_are_refused(steered: Server) -> None:
    for path, body in (("/", None), ("/api/run", None), ("/api/generate", {"seconds": 0.01})):
        status, headers, _ = steered.ask(path, body, {"Origin": "http://evil.example"})
        assert status == 403 and not [name for name in headers if name.lower().startswith("access-control")]
        assert steered.ask(path, body, {"Origin": f"http://{steered.address}"})[0] == 200
    # A form of another site can send this without being asked first.
    assert steered.ask("/api/generate", b"{}", {"Content-Type": "text/plain"})[0] == 400
    preflight = raw(
        steered, "OPTIONS /api/generate HTTP/1.1", f"Host: {steered.address}", "Origin: http://evil.example"
    )
    assert preflight.startswith(b"HTTP/1.1 403")


def test_names_of_hosts() -> None:
    assert all(map(hosts_of("127.0.0.1"), ["127.0.0.1", "localhost", "::1"]))
    assert not any(map(hosts_of("127.0.0.1"), ["10.0.0.7", "studio.example", ""]))
    assert hosts_of("studio.example")("studio.example") and not hosts_of("studio.example")("other.example")
    everywhere = hosts_of("0.0.0.0")
    assert all(map(everywhere, ["10.0.0.7", "fe80::1", socket.gethostname().lower()]))
    assert all(hosts_of(host)("10.0.0.7") for host in ("::", "[::]", "0.0.0.0", "0:0:0:0:0:0:0:0"))
    assert not any(map(everywhere, ["evil.example", "10.0.0.7.evil.example", ""]))


def test_what_a_browser_may_do_is_said_with_every_answer(steered: Server) -> None:
    for path in ("/", "/api/run", "/page/none.js", "/nowhere"):
        _, headers, _ = steered.ask(path)
        assert headers["Content-Security-Policy"].startswith("default-src 'self'; ")
        assert headers["X-Content-Type-Options"] == "nosniff"
    assert steered.ask("/")[0] == 200
    for path in ("/page/../app.py", "/page/%2e%2e/app.py", "/page/..%2fapp.py", "/page//etc/passwd"):
        assert steered.ask(path)[0] == 404


# ---- OSC -------------------------------------------------------------------------------------------------------------


def test_osc_sets_all_voices_and_their_pages_hear_of_it(steered: Server) -> None:
    client = SimpleUDPClient("127.0.0.1", steered.osc_port)
    with page(steered) as one, page(steered) as two:
        for each in (one, two):
            each.start(random_seed=4, values={"p": 64, "inst": "brass"})
            each.hear(64)
        client.send_message("/p", 70)
        for each in (one, two):
            told = each.answer("values")
            assert told == {"type": "values", "values": {"p": 70.0}, "source": "osc", "remarks": []}
        client.send_message("/category/inst", "string")
        assert one.answer("values")["values"] == {"inst": 2.0}
        bundle = OscBundleBuilder(IMMEDIATELY)
        for name, value in (("/p", 61.5), ("/temperature", 0.5), ("/top_k", 4)):
            message = OscMessageBuilder(name)
            message.add_arg(value)
            bundle.add_content(message.build())
        client.send(bundle.build())
        assert one.answer("values")["values"] == {"p": 61.5, "temperature": 0.5, "top_k": 4.0}
        bundle = OscBundleBuilder(IMMEDIATELY)
        for name, value in (("/inst", "violin"), ("/p", 61.5)):  # one that cannot be keeps no other from being set
            message = OscMessageBuilder(name)
            message.add_arg(value)
            bundle.add_content(message.build())
        client.send(bundle.build())
        assert "one of brass" in one.answer("error")["message"]
        assert one.answer("values")["values"] == {"p": 61.5}
        one.hear(600)
        assert one.ask(type="record")["controls"]["p"][-1][1] == 61.5


def test_osc_that_comes_while_a_voice_starts_is_heard_by_it(steered: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    client = SimpleUDPClient("127.0.0.1", steered.osc_port)
    at = steered.studio.instrument.at
    asked = threading.Event()
    goes_on = threading.Event()

    def late(checkpoint: str | None) -> Trained:
        asked.set()
        assert goes_on.wait(20)
        return at(checkpoint)

    monkeypatch.setattr(steered.studio.instrument, "at", late)
    with page(steered) as one:
        for note in (70, 71):  # at first, and in place of a voice that plays
            asked.clear()
            goes_on.clear()
            one.say(type="start", values={"p": 64, "inst": "brass"})
            assert asked.wait(20)
            client.send_message("/p", note)
            until(lambda: any(session._soon or session._setting for session in steered.studio.playing))
            time.sleep(0.1)
            goes_on.set()
            one.run, one.heard = one.answer("started")["run"], 0
            assert one.answer("values")["values"] == {"p": note}
            time.sleep(0.2)  # the voice that was there before has heard it too
            one.hear(150)
            assert one.ask(type="record")["controls"]["p"][-1][1] == note


def test_a_value_that_osc_sets_beyond_the_range_is_told_once(steered: Server) -> None:
    client = SimpleUDPClient("127.0.0.1", steered.osc_port)
    with page(steered) as one:
        one.start(random_seed=4)
        one.hear(20)
        remarks = []
        for note in (90, 95, 64):
            client.send_message("/p", note)
            remarks.append(one.answer("values")["remarks"])
    assert remarks == [["p: 90 lies outside the trained range 60 to 72 midiPitch: clipped."], [], []]


def test_osc_that_is_none_is_ignored_and_counted(steered: Server) -> None:
    already = len(steered.said)
    with socket.socket(type=socket.SOCK_DGRAM) as line, page(steered) as one:
        one.start(random_seed=4)
        one.hear(20)
        bundles = [b"#bundle\0", b"#bundle\0" + bytes(8)]
        for packet in (
            b"",
            b"x",
            b"/p",
            b"/p\0\0,Q\0\0",
            *bundles,
            b"/p\0\0,s\0\0\xff\xff",
            np.random.default_rng(0).bytes(200),
        ):
            line.sendto(packet, ("127.0.0.1", steered.osc_port))
        SimpleUDPClient("127.0.0.1", steered.osc_port).send_message("/p", 70)
        assert one.answer("values")["values"] == {"p": 70.0}
    assert len(steered.said) - already in range(1, 5)  # not one for each
    assert "OSC: 1 ignored" in steered.said[0]


# ---- generating ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "sound" else pytest.mark.slow) for name in [*LIVE, "spectrogram"]]
)
def test_what_is_generated_is_what_generate_makes(
    name: str, instruments: dict[str, Instrument], runs: dict[str, Path], tmp_path: Path
) -> None:
    words: list[Any] = ["--checkpoint_path", runs[name], "--random_seed", 11, "--dur", 0.04]
    order: dict[str, Any] = {"random_seed": 11, "seconds": 0.04, "temperature": 1.1}
    names = instruments[name].schema.names
    if "p" in names:
        words += ["--control", "p=60:72", *(["inst=brass"] if "inst" in names else [])]
        order |= {"controls": {"p": [[0, 60], [0.04, 72]]}, "gestures": False}
        order["values"] = {"inst": "brass"} if "inst" in names else {}
    if name == "spectrogram":
        words += ["--bias", 0.5, "--inversion", "griffin_lim"]
        order["bias"] = 0.5
    else:
        words += ["--top_k", 20]
        order["top_k"] = 20
    assert call(generate.main, [*words, "--temperature", 1.1, "--output_path", tmp_path / "new.wav"]) == 0
    with serving(instruments[name]) as server:
        assert np.array_equal(server.generate(**order), soundfile.read(tmp_path / "new.wav", dtype="int16")[0])
        if name == "steered":
            other = server.generate(**order, checkpoint="model.ckpt-0")
            assert not np.array_equal(other, server.generate(**order))
            assert np.array_equal(other, server.generate(**order, checkpoint="model.ckpt-0"))


def test_what_is_clipped_is_told_with_the_sound(steered: Server) -> None:
    sentence = "p: 90 lies outside the trained range 60 to 72 midiPitch: clipped."
    for pitch, remarks in ((90, [sentence]), (70, None)):
        _, headers, _ = steered.ask("/api/generate", {"seconds": 0.01, "controls": {"p": [[0, 60], [1, pitch]]}})
        assert json.loads(headers.get("X-Remarks", "null")) == remarks


def test_curves_are_given_as_points_and_as_a_csv(instruments: dict[str, Instrument], tmp_path: Path) -> None:
    instrument = instruments["values"]
    with serving(instrument) as server:
        assert json.loads(server.ask("/api/run")[2])["kind"] == "values"
        with page(server) as one:
            assert "generate" in one.ask(type="start")["message"]
        status, _, body = server.ask("/api/generate", {"random_seed": 3, "seconds": 0.5, "values": {"p": 70}})
    assert status == 200
    found = json.loads(body)
    stream = instrument.trained.stream(
        Request(controls=({"p": Track.constant("p", 70.0)},), random_seed=3, averaged=False)
    )
    (expected,) = stream.curves(0.5).values()
    ((tier, curves),) = found["curves"].items()
    assert curves["rmse"] == np.stack([expected["rmse"].times, expected["rmse"].values], 1).tolist()
    (tmp_path / "made.csv").write_text(found["csv"][tier], encoding="utf-8", newline="")
    read, _ = read_take(tmp_path / "made.csv")
    assert np.allclose(read["rmse"].values, expected["rmse"].values)


@pytest.mark.parametrize(
    ("order", "part"),
    [
        ({"seconds": 0}, "seconds"),
        ({"seconds": 1e9}, "seconds"),
        ({"second": 1}, "second"),
        ({"text": "hello"}, "does nothing for this model"),
        ({"bias": 1}, "does nothing for this model"),
        ({"values": {"q": 1}}, "no control q"),
        ({"controls": {"p": []}}, "controls.p"),
        ({"controls": {"p": [[1, 60], [0, 61]]}}, "p"),
        ({"checkpoint": "../../x"}, "there are model.ckpt-0"),
        ([], "JSON object"),
        (b"{", "JSON object"),
        (b"\xff\xfe", "JSON object"),
    ],
)
def test_an_order_that_cannot_be_is_refused_in_a_sentence(steered: Server, order: Any, part: str) -> None:
    status, _, body = steered.ask("/api/generate", order)
    assert status == 400 and part in json.loads(body)["error"]
    assert "\n" not in json.loads(body)["error"]


@settings(max_examples=40)
@given(
    st.one_of(
        JSON,
        st.dictionaries(
            st.sampled_from(["checkpoint", "values", "controls", "gestures", "top_k", "top_p", "bias", "text"]), JSON
        ),
    )
)
def test_no_order_does_harm(steered: Server, order: Any) -> None:
    order = {**order, "seconds": 0.01} if isinstance(order, dict) else order
    assert steered.ask("/api/generate", json.dumps(order).encode())[0] in (200, 400)


def test_what_nobody_waits_for_is_not_made_to_its_end(instruments: dict[str, Instrument]) -> None:
    with serving(instruments["steered"]) as server:
        server.generate(seconds=0.01)  # compiled
        body = json.dumps({"seconds": 600}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as line:
            head = ["POST /api/generate HTTP/1.1", f"Host: {server.address}", "Content-Type: application/json"]
            line.sendall("\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body)
            time.sleep(0.2)
        server.generate(seconds=0.01)  # waits until the other's place is free: longer than `ask` does, if it was made


def test_a_server_that_ends_lets_go_of_what_is_generated(instruments: dict[str, Instrument]) -> None:
    answers: list[tuple[int, bytes]] = []
    with serving(instruments["steered"]) as server:
        server.generate(seconds=0.01)  # compiled

        def ask() -> None:
            status, _, body = server.ask("/api/generate", {"seconds": 600})
            answers.append((status, body))

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(0.2)
        server.studio.ending.set()
        server.ask("/api/run")  # which wakes its loop
        asking.join(60)  # 600 seconds of sound take many times as long
        assert answers == [(503, b'{"error":"the server is stopped"}')]


# ---- the run ---------------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_is(runs: dict[str, Path], instruments: dict[str, Instrument]) -> None:
    kinds = {name: instrument.document()["kind"] for name, instrument in instruments.items()}
    assert kinds == {name: {"cascade": "steered"}.get(name, name) for name in CONFIGS}
    about = json.loads(json.dumps(instruments["steered"].document(), allow_nan=False))
    assert (about["id"], about["family"], about["sample_rate"], about["block"]) == (
        "steered",
        "conditioning",
        RATE,
        256,
    )
    assert about["top_k"] == {"initial": 0, "high": 32}
    assert [each["name"] for each in about["parameters"]] == ["inst", "p"]
    inst, pitch = about["parameters"]
    assert inst["categories"] == ["brass", "reed", "string"] and inst["values"] == [0.0, 2.0] and inst["category"]
    assert (pitch["units"], pitch["low"], pitch["high"], pitch["category"]) == ("midiPitch", 60.0, 72.0, False)
    assert about["checkpoint"] == "model.ckpt-1"
    assert [(each["name"], each["best"]) for each in about["checkpoints"]] == [
        ("model.ckpt-0", True),
        ("model.ckpt-1", False),
    ]
    assert Instrument(runs["steered"], best=True).document()["checkpoint"] == "model.ckpt-0"
    assert [each["name"] for each in instruments["cascade"].document()["parameters"]] == ["p"]
    assert instruments["spectrogram"].document()["takes"] == ["bias", "text"]
    assert (about["rate"], about["takes"]) == (RATE, ["top_k", "top_p"])
    curves = instruments["values"].document()
    assert (curves["rate"], curves["takes"], curves["top_k"]["high"]) == (50, [], None)


def test_a_control_begins_at_the_middle_one_of_its_values_not_in_the_middle_of_its_range(
    instruments: dict[str, Instrument],
) -> None:
    instrument = copy.copy(instruments["steered"])
    pitch = instrument.schema.of("p")
    for values, first in (([72.0, 60.0, 70.0, 71.0, 71.5], 71.0), ([], 66.0), ([90.0], 72.0)):
        instrument.trained = replace(instrument.trained, values={"p": values})
        assert instrument.initial(pitch) == first


def test_what_was_learned_is_told(tmp_path: Path, runs: dict[str, Path], instruments: dict[str, Instrument]) -> None:
    assert instruments["sound"].document()["verdict"] == ""
    folder = tmp_path / "sound"
    shutil.copytree(runs["sound"], folder)
    header, row = "step,epoch,loss,gradient_norm,bits,val_loss", f"3,1,2.0,,2.9,{math.log(2) * 3.5}"
    (folder / LOSSES).write_text(f"{header}\n{row}\n")
    (folder / BASELINES).write_text(json.dumps({"code histogram": 4.0, "linear prediction": 3.0 * math.log(2)}))
    instrument = Instrument(folder)
    assert "0.500 above linear prediction (3.000)" in instrument.document()["verdict"]
    (folder / LOSSES).write_text(f"{header}\n3,1,nonsense,,2.9,1\n")
    assert instrument.document()["verdict"] == ""  # and it is played all the same
    shutil.copytree(runs["steered"], tmp_path / "steered")
    shutil.copy(folder / BASELINES, tmp_path / "steered" / BASELINES)
    (tmp_path / "steered" / LOSSES).write_text(f"{header}\n{row}\n")
    assert Instrument(tmp_path / "steered").document()["verdict"] == ""  # whether it follows says more


def test_speed_is_measured_and_too_little_of_it_is_told(
    instruments: dict[str, Instrument], monkeypatch: pytest.MonkeyPatch
) -> None:
    instrument = instruments["steered"]
    monkeypatch.setattr(instrument_module, "BLOCK", 64)
    monkeypatch.setattr(instrument_module, "_TRIED_SECONDS", 0.1)
    instrument.warm_up()
    assert instrument.speed > 0 and instrument.speed_of_all > 0 and instrument.voices >= 1
    instrument.speed_of_all = 10.0
    instrument.speed = 5.0
    assert instrument.voices == 7 and instrument.warning is None
    instrument.speed = instrument.speed_of_all = 0.4
    assert instrument.voices == 1 and instrument.warning is not None and "0.40" in instrument.warning


@pytest.mark.parametrize("name", ["position", "self", "voice"])
def test_a_parameter_whose_name_cannot_be_set_is_told(
    name: str, instruments: dict[str, Instrument], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert instruments["steered"].is_live
    monkeypatch.setattr(instruments["steered"], "schema", Schema(parameters=(Parameter(name=name, lo=0, hi=1),)))
    with pytest.raises(UsageError, match=f"named {name}, which cannot be set"):
        instruments["steered"].warm_up()


# ---- the command -----------------------------------------------------------------------------------------------------


def test_mistakes_are_told_in_a_sentence(
    runs: dict[str, Path], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = [runs["sound"]]
    assert "nothing_here" in told(capsys, command.main, [tmp_path / "nothing_here", "--port", 0], 2)
    assert "no checkpoint was found" in told(capsys, command.main, [tmp_path, "--port", 0], 2)
    assert "--port 70000" in told(capsys, command.main, [*right, "--port", 70000], 2)
    assert "--max_voices 0" in told(capsys, command.main, [*right, "--max_voices", 0], 2)
    assert "--host" in told(capsys, command.main, [*right, "--host", "no such host", "--port", 0], 2)
    assert "RUN" in told(capsys, command.main, [], 2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        sentence = told(capsys, command.main, [*right, "--port", port], 1)
        assert f"127.0.0.1:{port}" in sentence and "--port" in sentence
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        sentence = told(capsys, command.main, [*right, "--port", 0, "--osc", taken.getsockname()[1]], 1)
        assert "--osc" in sentence
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else there(name))
    sentence = told(capsys, command.main, right, 2)
    assert "uvicorn" in sentence and "pip install -e '.[play]'" in sentence and "Starlette" not in sentence


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_command_serves_until_it_is_interrupted(runs: dict[str, Path], tmp_path: Path) -> None:
    command_line = [sys.executable, "-m", "tierwave", "play", runs["steered"], "--port", "0"]
    with (tmp_path / "errors.txt").open("w+") as errors:
        process = subprocess.Popen(
            [*command_line, "--osc", "0", "--host", "0.0.0.0"], stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            assert process.stdout is not None
            lines = []
            while not (lines and "Play at" in lines[-1]):
                lines.append(process.stdout.readline())
                assert lines[-1], lines
            text = "".join(lines)
            assert "steered by inst, p" in text and "x real time" in text
            assert "network that you trust" in text and "/p" in text
            port = int(text.rpartition("http://127.0.0.1:")[2].partition("/")[0])
            server = Server(None, port, 0, [])  # type: ignore[arg-type]
            with page(server) as one:
                one.start()
                assert len(one.hear(1000)) == 1000
                process.send_signal(signal.SIGINT)
                assert process.wait(20) == 130
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        told_lines = errors.read().splitlines()
        assert told_lines == ["tierwave play: stopped by Ctrl-C"]
