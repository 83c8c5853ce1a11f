"""The page to play on in a real browser: what it streams, records, saves, and what it keeps to itself."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import math
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
import tensorflow as tf
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright

from melnet.front_end import Normaliser
from tierwave.config import dumps
from tierwave.controls.files import read_take
from tierwave.controls.schema import Parameter, Schema
from tierwave.export.webpage import write_page
from tierwave.family import load_config
from tierwave.files.writing import write_text
from tierwave.play import app
from tierwave.play.app import build_app
from tierwave.play.instrument import BLOCK, Instrument
from tierwave.play.protocol import LARGEST_MESSAGE
from tierwave.play.session import Studio
from tierwave.play.voice import Voice
from tierwave.runs.checkpoints import make_checkpoint
from tierwave.runs.folder import CONFIG_NAME, CheckpointEntry, Run, create_run

pytestmark = pytest.mark.slow

RATE = 8000
LOWEST, HIGHEST = 60, 72  # MIDI notes
LEVELS = 64
GRAIN = 100  # samples within which a value begins to hold
SCHEMA = Schema(
    parameters=(
        Parameter(name="inst", categories=("reed", "<b>brass</b>"), lo=0, hi=1),
        Parameter(name="p", units="midiPitch", lo=LOWEST, hi=HIGHEST),
        Parameter(name="rmse", lo=0, hi=1),
    )
)
STEERED: dict[str, Any] = {
    "model": "conditioning", "conditioned_on": ["inst", "p"], "generates": ["audio"], "rate": RATE, "q_levels": LEVELS,
    "q_type": "linear", "hidden_size": 2, "num_layers": 1, "net": "rnncontrol",
}  # fmt: skip
MEL: dict[str, Any] = {
    "model": "melnet", "audio": {"mel_channels": 8, "n_fft": 64, "win_length": 64, "hop_length": 32}, "tiers": 2,
    "layers": [1, 1], "hidden_size": 4, "mixtures": 2, "seq_len": 8,
}  # fmt: skip
VALUES: dict[str, Any] = {
    "model": "conditioning", "generates": ["rmse"], "conditioned_on": ["p"], "rate": 50, "hidden_size": 4,
    "num_layers": 1,
}  # fmt: skip
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
KEYBOARD = """window.device = { name: "keys", state: "connected" };
    navigator.requestMIDIAccess = async () => ({ inputs: new Map([["1", window.device]]) });
    window.midi = (...data) => device.onmidimessage({ data, timeStamp: performance.now() })"""
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip


# ---- runs ------------------------------------------------------------------------------------------------------------


def oscillator(shift: float) -> list[np.ndarray]:
    """Weights of the network `STEERED` with which its pitch follows the control p, `shift` semitones off.

    The recurrent kernel turns both units of the GRU by 45 degrees a step, tanh holds them to a circle, and a part 1 - z
    of it is made: an angle v where 1 - z = 1 - cos v + sin v. As a sigmoid of p it grows nearly as pitch does: within
    half a semitone. The logits are -60 (level - unit 0)^2 but for what all levels share.
    """
    angles = [2 * np.pi * 440 * 2 ** ((note + shift - 69) / 12) / RATE for note in (LOWEST, HIGHEST)]
    parts = [1 - math.cos(angle) + math.sin(angle) for angle in angles]
    low, high = (math.log(part / (1 - part)) for part in parts)
    first = np.zeros([3, 2])
    first[2, 0] = 1.0  # p, of the previous sample, inst and p
    kernel = np.zeros([2, 6])  # z, r, candidate
    kernel[0, :2] = low - high
    recurrent = np.zeros([2, 6])
    recurrent[:, 4:] = 1.2 * np.array([[1, 1], [-1, 1]])
    bias = np.array([-low, -low, 20, 20, 0.02, 0])  # r is 1; a little push, so that it begins to turn
    levels = np.linspace(-1, 1, LEVELS)
    head = np.stack([120 * levels, np.zeros(LEVELS)])
    return [first, np.zeros(2), kernel, recurrent, bias, np.zeros(6), head, -60 * levels**2]


def make_run(root: Path, name: str, document: dict[str, Any], weights: Callable[[int], Any] | None = None) -> Path:
    """A run with two checkpoints; weights: of each, random where there are none."""
    family, config = load_config(document, name)
    stages = family.stages(config)
    run = create_run(root, name)
    run.write("run.json", {"sample_rate": RATE, "corpus": None})
    run.write("schema.json", {"parameters": SCHEMA.to_document(), "values": {"inst": [0, 1], "p": [60, 64, 67, 72]}})
    run.write("prepared.json", Normaliser(np.zeros(8), 1.0).to_document())
    for stage in stages:
        part = run.stage(stage if len(stages) > 1 else None)
        part.folder.mkdir(exist_ok=True)
        model = family.build(config, stage)
        for epoch in range(2):
            rng = np.random.default_rng(epoch)
            variables = model.trainable_variables
            given = weights(epoch) if weights is not None else [rng.normal(0, 0.1, each.shape) for each in variables]
            for variable, value in zip(variables, given, strict=True):
                variable.assign(value)
            entry = CheckpointEntry(f"model.ckpt-{epoch}", epoch, 10 * epoch, 2.0 - epoch, best=epoch == 0, kept=True)
            checkpoint = make_checkpoint({"model": model, "progress": tf.Variable(json.dumps({"run": ""}))})
            checkpoint.write(str(part.folder / entry.name))
            part.record(entry, None)
    write_text(run.folder / CONFIG_NAME, dumps(config))
    return run.folder


# ---- server and browser ----------------------------------------------------------------------------------------------


@dataclass
class Server:
    studio: Studio
    address: str

    def until_playing(self, count: int) -> None:
        until(lambda: len(self.studio.playing) == count)


def until(there: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait until something is the case."""
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.02)


@contextlib.contextmanager
def serving(instrument: Instrument, port: int = 0) -> Iterator[Server]:
    studio = Studio(instrument, 3)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        config = uvicorn.Config(
            build_app(studio), log_level="warning", ws_max_size=LARGEST_MESSAGE, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until(lambda: server.started)
            yield Server(studio, f"http://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def oscillating(tmp_path_factory: pytest.TempPathFactory) -> Instrument:
    """Its first checkpoint, which is the best, plays a fifth higher than the last, which is played."""
    root = tmp_path_factory.mktemp("oscillating")
    instrument = Instrument(make_run(root, "oscillator", STEERED, lambda epoch: oscillator(7.0 * (1 - epoch))))
    instrument.warm_up()
    instrument.speed = instrument.speed_of_all = 10.0  # on a busy machine too: of a slow one the page looks different
    return instrument


@pytest.fixture(scope="module")
def steered(oscillating: Instrument) -> Iterator[Server]:
    with serving(oscillating) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        assert not os.environ.get("CI"), "CI has no Chromium, and without one the page is not tested"
        pytest.skip("there is no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Tab:
    """A page that is open, and what it did that it should not."""

    page: Page
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(60_000)
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.faults.append(said.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))

    def go(self, server: Server) -> Tab:
        def asked(url: str) -> None:
            host, own = urlsplit(url), urlsplit(server.address)
            if host.scheme != "blob" and host.netloc != own.netloc:
                self.faults.append(f"another origin was asked for: {url}")

        self.page.on("request", lambda request: asked(request.url))
        self.page.on("websocket", lambda opened: asked(opened.url))
        self.page.goto(server.address)
        self.page.wait_for_selector("body.ready")
        return self

    def start(self, seed: int = 1) -> None:
        self.page.wait_for_selector("#start:enabled")
        self.page.evaluate("seed => { document.getElementById('seed').value = seed }", str(seed))
        self.page.click("#start")
        self.hear(0.1)

    def hear(self, seconds: float) -> None:
        """Wait until that much of what plays now was heard; the position of what was stopped does not count."""
        self.page.wait_for_function(
            "position => { const now = tierwave.state(); return now.playing && now.position >= position; }",
            arg=seconds * RATE,
        )

    def stop(self) -> None:
        self.page.click("#start")
        self.page.wait_for_selector("#start[aria-pressed=false]")

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.page.evaluate("tierwave.state()")
        return found

    def received(self) -> tuple[int, np.ndarray]:
        """Which sample is the first that is kept, and all of them."""
        found = self.page.evaluate("tierwave.received()")
        return found["first"], np.array(found["samples"], np.float32)

    def slide(self, name: str, position: float) -> None:
        """Move a slider as a hand does; 0 to 1."""
        slider = self.page.locator(f"#control-{name}")
        slider.scroll_into_view_if_needed()
        box = slider.bounding_box()
        assert box is not None
        self.page.mouse.move(box["x"] + 10 + position * (box["width"] - 20), box["y"] + box["height"] / 2)
        self.page.mouse.down()
        self.page.mouse.up()

    def until_heard(self, name: str, position: float) -> None:
        """Move a slider, and play until its value has been heard for more than half a second."""
        before = len(self.page.evaluate("tierwave.latencies()"))
        self.slide(name, position)
        self.page.wait_for_function("before => tierwave.latencies().length > before", arg=before)
        self.hear(self.state()["position"] / RATE + 0.6)

    def unfold(self, name: str) -> None:
        """Unfold a control's curve, or fold it."""
        self.page.locator(f"[aria-controls='curve-{name}']").click()

    def until_said(self, told: str) -> None:
        """Wait for a sentence of the page in which this stands."""
        self.page.wait_for_function("told => document.getElementById('sentence').textContent.includes(told)", arg=told)

    def download(self, button: str, path: Path) -> Path:
        with self.page.expect_download() as waiting:
            self.page.get_by_role("button", name=button).click()
        waiting.value.save_as(path)
        return path


@pytest.fixture
def tab(browser: Browser, steered: Server) -> Iterator[Tab]:
    with opened(browser, steered) as tab:
        yield tab
    steered.until_playing(0)


@contextlib.contextmanager
def opened(browser: Browser, server: Server) -> Iterator[Tab]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    tab = Tab(context.new_page()).go(server)
    yield tab
    context.close()
    assert tab.faults == []


def pitch(samples: np.ndarray) -> float:
    """The MIDI note of the strongest partial, by a parabola through the peak of the spectrum."""
    spectrum = np.log(np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) + 1e-12)
    peak = int(np.argmax(spectrum[20:])) + 20
    left, middle, right = spectrum[peak - 1 : peak + 2]
    hertz = (peak + 0.5 * (left - right) / (left - 2 * middle + right)) * RATE / len(samples)
    return float(69 + 12 * np.log2(hertz / 440))


# ---- playing ---------------------------------------------------------------------------------------------------------


def test_a_slider_changes_the_pitch_of_what_is_streamed(tab: Tab) -> None:
    tab.start()
    for position in (0.0, 1.0, 0.5):
        tab.until_heard("p", position)
        asked = LOWEST + position * (HIGHEST - LOWEST)
        assert abs(pitch(tab.received()[1][-RATE // 2 :]) - asked) < 0.7
    tab.stop()


# A clock of the test's own, since that of a busy machine proves nothing: the last link before the loudspeaker plays up
# to the sample that it is told, and only what is there. It tells what lies ready, what it will report, what it played.
PACED = """
class Paced extends Player {
  constructor() {
    super();
    const { onmessage } = this.port;
    this.until = 0;
    this.port.onmessage = (message) => {
      if ("until" in message.data) this.until = message.data.until;
      else onmessage(message);
    };
  }

  process(inputs, outputs) {
    const [[output]] = outputs;
    const plays = this.read < this.until && this.write - this.read >= output.length;
    if (plays) super.process(inputs, outputs);
    const { run, read, write, lead, marks } = this;
    this.port.postMessage({ seen: { run, read, write, lead, marks }, output: plays ? output : [] });
    return true;
  }
}

registerProcessor("tierwave-player", Paced);
"""
WATCHED = """window.seen = { run: 0 };
    window.played = [];
    window.AudioWorkletNode = class extends AudioWorkletNode {
      constructor(...given) {
        super(...given);
        window.play = (until) => this.port.postMessage({ until });
        this.port.addEventListener("message", ({ data }) => {
          if (!data.seen) return;
          window.seen = data.seen;
          window.played.push(...data.output);
        });
      }
    }"""


@pytest.fixture
def paced(oscillating: Instrument, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of the page with the clock of the test."""
    page = shutil.copytree(app.PAGE, tmp_path / "page")
    worklet = page / "player-worklet.js"
    source, last = worklet.read_text(encoding="utf-8"), 'registerProcessor("tierwave-player", Player);'
    assert source.count(last) == 1
    worklet.write_text(source.replace(last, PACED), encoding="utf-8")
    monkeypatch.setattr(app, "PAGE", page)
    with serving(oscillating) as server:
        yield server


def test_what_is_moved_is_heard_after_the_lead_and_nothing_is_left_out(browser: Browser, paced: Server) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.add_init_script(WATCHED)
    tab = Tab(context.new_page()).go(paced)
    page = tab.page
    page.wait_for_selector("#start:enabled")
    page.click("#start")
    stop = 0
    for move in range(1, 13):
        page.wait_for_function(  # while nothing is played
            "until => seen.run && seen.read >= until && seen.write - seen.read >= seen.lead", arg=stop
        )
        tab.slide("p", move % 4 / 3)
        page.wait_for_function("() => seen.marks.length === 1")
        seen = page.evaluate("seen")
        (mark,) = seen["marks"]
        assert seen["lead"] == round(paced.studio.instrument.document()["lead_seconds"] * RATE)
        assert seen["read"] < mark["sample"] <= seen["read"] + seen["lead"] + BLOCK + GRAIN
        stop = mark["sample"] + 1
        page.evaluate("until => play(until)", stop)
        page.wait_for_function("count => tierwave.latencies().length === count", arg=move)
    stop += RATE
    page.evaluate("until => play(until)", stop)
    page.wait_for_function("until => seen.read >= until", arg=stop)
    page.wait_for_function("() => played.length === seen.read")
    played = np.array(page.evaluate("played"), np.float32)
    first, received = tab.received()
    assert first == 0 and np.array_equal(played, received[: len(played)])
    assert abs(pitch(played[-RATE // 2 :]) - LOWEST) < 0.7  # where the last move led
    assert tab.page.evaluate("tierwave.underruns()") == 0 and min(page.evaluate("tierwave.latencies()")) >= 0
    page.wait_for_function("() => document.getElementById('latency').textContent.endsWith(' ms')")
    context.close()
    assert tab.faults == []


def test_a_gap_is_counted_and_raises_the_buffer(tab: Tab, monkeypatch: pytest.MonkeyPatch) -> None:
    tab.start()
    before = tab.state()["underruns"]
    buffer = int(tab.page.locator("#lead").input_value())
    made = Voice.render

    def late(voice: Voice, samples: int) -> np.ndarray:
        time.sleep(0.5)
        monkeypatch.setattr(Voice, "render", made)
        return made(voice, samples)

    monkeypatch.setattr(Voice, "render", late)
    tab.page.wait_for_function("before => tierwave.underruns() > before", arg=before)
    tab.page.wait_for_function("buffer => Number(document.getElementById('lead').value) > buffer", arg=buffer)
    tab.until_said("There was a gap")
    tab.hear(tab.state()["position"] / RATE + 0.3)  # and it goes on


def test_two_pages_play_each_its_own_and_a_closed_one_frees_its_voice(browser: Browser, steered: Server) -> None:
    with opened(browser, steered) as low, opened(browser, steered) as high:
        low.start()
        high.start()
        low.until_heard("p", 0.0)
        high.until_heard("p", 1.0)
        steered.until_playing(2)
        assert abs(pitch(low.received()[1][-RATE // 2 :]) - LOWEST) < 0.7
        assert abs(pitch(high.received()[1][-RATE // 2 :]) - HIGHEST) < 0.7
        high.page.close()
        steered.until_playing(1)
        low.hear(low.state()["position"] / RATE + 0.5)
    steered.until_playing(0)


def test_a_hidden_page_frees_its_voice_unless_it_may_play_on(tab: Tab, steered: Server) -> None:
    hide = """Object.defineProperty(document, 'hidden', { get: () => true, configurable: true });
              document.dispatchEvent(new Event('visibilitychange'))"""
    tab.start()
    steered.until_playing(1)
    tab.page.evaluate(hide)
    steered.until_playing(0)
    assert "hidden" in tab.page.inner_text("#sentence")
    tab.page.evaluate("document.getElementById('play-on').checked = true")
    tab.start()
    tab.page.evaluate(hide)
    tab.hear(tab.state()["position"] / RATE + 0.5)
    steered.until_playing(1)


def test_starts_in_quick_succession_end_in_the_last(tab: Tab, steered: Server) -> None:
    tab.start()
    tab.page.evaluate(
        """() => {
            const press = (id) => document.getElementById(id).click();
            for (const id of ["start", "start", "start", "record"]) press(id); // stop, start, start, record
        }"""
    )
    tab.page.wait_for_function("() => tierwave.state().recording")
    tab.hear(0.5)
    steered.until_playing(1)
    tab.stop()
    assert tab.page.locator("#take-list li").count() == 1


def test_a_stop_while_it_starts_anew_holds(tab: Tab, steered: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    instrument = steered.studio.instrument
    at, asked = instrument.at, []

    def late(checkpoint: str | None) -> Any:
        asked.append(checkpoint)
        time.sleep(0.4)
        return at(checkpoint)

    tab.start()
    monkeypatch.setattr(instrument, "at", late)
    tab.page.click("#record")  # which starts anew
    until(lambda: asked)
    tab.stop()
    steered.until_playing(0)
    tab.page.wait_for_timeout(100)
    assert not tab.state()["playing"]
    tab.start()


def test_a_restart_that_is_refused_stops_what_played(tab: Tab, steered: Server) -> None:
    tab.start()
    tab.page.evaluate(
        """() => {
            const choice = document.getElementById("checkpoint");
            choice.append(new Option("none", "none", true, true));
        }"""
    )
    tab.page.click("#record")
    tab.page.evaluate("document.getElementById('checkpoint').lastChild.remove()")
    tab.until_said("there is no checkpoint")
    assert not tab.state()["playing"]
    steered.until_playing(0)
    tab.start()


def test_a_browser_that_gives_no_sound_is_told_each_time(browser: Browser, steered: Server) -> None:
    context = browser.new_context()
    context.add_init_script("delete BaseAudioContext.prototype.audioWorklet")
    tab = Tab(context.new_page()).go(steered)
    tab.page.wait_for_selector("#start:enabled")
    for _ in range(2):
        tab.page.click("#start")
        tab.until_said("take a tunnel")
        tab.page.evaluate("document.getElementById('sentence').textContent = ''")
    assert not steered.studio.playing
    context.close()
    assert tab.faults == []


def test_a_start_that_is_refused_is_told(tab: Tab, steered: Server) -> None:
    steered.studio.max_voices = 0
    try:
        tab.page.click("#start")
        tab.until_said("voices")
    finally:
        steered.studio.max_voices = 3
    assert not tab.state()["playing"]
    tab.start()


# ---- other weights ---------------------------------------------------------------------------------------------------


def heard_note(tab: Tab) -> float:
    """The pitch of what is heard when all that was heard before has passed."""
    tab.hear(tab.state()["position"] / RATE + 0.7)
    return pitch(tab.received()[1][-RATE // 2 :])


@pytest.fixture
def growing(oscillating: Instrument, tmp_path: Path) -> Path:
    """A copy of the run, in which a checkpoint may be written."""
    folder = oscillating.trained.run.folder
    return shutil.copytree(folder, tmp_path / "growing" / folder.name)


def test_the_sound_goes_over_to_another_checkpoint(browser: Browser, growing: Path) -> None:
    instrument = Instrument(growing)
    instrument.speed = instrument.speed_of_all = 10.0
    with serving(instrument) as server, opened(browser, server) as tab:
        page = tab.page
        assert page.locator("#checkpoint").input_value() == "model.ckpt-1"
        assert not page.locator("#control-blend").count()
        page.locator("#generate summary").click()
        page.uncheck("#checkpoints input[value='model.ckpt-1']")
        tab.start()
        tab.until_heard("p", 0.0)
        run = page.evaluate("tierwave.received()")["run"]
        page.select_option("#checkpoint", "model.ckpt-0")
        tab.until_said("Now plays epoch 0, step 0, best.")
        assert abs(heard_note(tab) - LOWEST - 7) < 0.7
        for part in ("index", "data-00000-of-00001"):
            shutil.copy(growing / f"model.ckpt-1.{part}", growing / f"model.ckpt-2.{part}")
        Run(growing).record(CheckpointEntry("model.ckpt-2", 2, 20, 3.0, best=False, kept=True), None)
        page.click("#newest")
        tab.until_said("Now plays epoch 2, step 20.")
        assert page.locator("#checkpoint").input_value() == "model.ckpt-2"
        assert abs(heard_note(tab) - LOWEST) < 0.7
        received = page.evaluate("tierwave.received()")
        assert received["run"] == run and received["first"] + len(received["samples"]) >= 1.5 * RATE  # never anew
        boxes = page.locator("#checkpoints input")
        assert [(box.input_value(), box.is_checked()) for box in boxes.all()] == [
            ("model.ckpt-0", True),
            ("model.ckpt-1", False),
            ("model.ckpt-2", False),
        ]
        (growing / "model.ckpt-1.index").unlink()
        page.select_option("#checkpoint", "model.ckpt-1")
        tab.until_said("Now plays model.ckpt-1.")  # which the server still has in memory
        page.click("#newest")
        tab.until_said("Now plays epoch 2, step 20.")
        page.evaluate("document.getElementById('checkpoint').append(new Option('none'))")
        page.select_option("#checkpoint", "none")
        tab.until_said("there is no checkpoint")
        assert page.locator("#checkpoint").input_value() == "model.ckpt-2" and tab.state()["playing"]
        tab.stop()
        page.select_option("#checkpoint", "model.ckpt-0")
        tab.start()
        assert abs(heard_note(tab) - LOWEST - 7) < 0.7


def test_a_slider_blends_two_runs(browser: Browser, oscillating: Instrument, tmp_path: Path) -> None:
    other = make_run(tmp_path, "higher", STEERED, lambda epoch: oscillator(5.0))
    instrument = Instrument(oscillating.trained.run.folder, other=other)
    instrument.speed = instrument.speed_of_all = 10.0
    with serving(instrument) as server, opened(browser, server) as tab:
        assert tab.page.get_by_text("0: oscillator, 1: higher, model.ckpt-1").is_visible()
        tab.start()
        tab.until_heard("p", 0.0)
        moves = len(tab.page.evaluate("tierwave.latencies()"))
        tab.slide("blend", 1.0)
        tab.hear(tab.state()["position"] / RATE + 1.0)
        assert abs(heard_note(tab) - LOWEST - 5) < 0.7
        assert len(tab.page.evaluate("tierwave.latencies()")) == moves  # of what moves at once
        tab.page.click("#record")  # anew, where the slider stands
        assert abs(heard_note(tab) - LOWEST - 5) < 0.7
        tab.page.click("#record")
        tab.page.wait_for_selector("#take-list li")
        tab.slide("blend", 0.0)
        tab.hear(tab.state()["position"] / RATE + 1.0)
        assert abs(heard_note(tab) - LOWEST) < 0.7
        tab.page.get_by_role("button", name="Replay take 1").click()
        expect(tab.page.locator("#control-blend")).to_have_value("1")
        tab.page.wait_for_selector("#start[aria-pressed=false]")
        assert abs(pitch(tab.received()[1][-RATE // 2 :]) - LOWEST - 5) < 0.7


# ---- what is drawn, pressed and turned -------------------------------------------------------------------------------


def test_a_curve_is_followed_as_it_is_written_and_as_it_is_drawn(tab: Tab) -> None:
    curve = tab.page.locator(".parameter", has=tab.page.get_by_role("heading", name="p", exact=True))
    tab.unfold("p")
    curve.locator(".points").fill("0:60, 1:60, 1:72")
    curve.locator(".points").press("Enter")
    tab.page.uncheck("#curve-loop")
    tab.page.fill("#curve-seconds", "2")
    tab.page.press("#curve-seconds", "Enter")
    curve.locator(".points").fill("0:60, 1:60, 1:72")
    curve.locator(".points").press("Enter")
    tab.page.click("#play-curves")
    tab.hear(2.2)
    first, samples = tab.received()
    assert first == 0
    assert abs(pitch(samples[RATE // 4 : 7 * RATE // 8]) - LOWEST) < 0.7
    assert abs(pitch(samples[9 * RATE // 8 : 7 * RATE // 4]) - HIGHEST) < 0.7
    tab.page.wait_for_selector("#play-curves[aria-pressed=false]")

    curve.locator("canvas").scroll_into_view_if_needed()
    box = curve.locator("canvas").bounding_box()
    assert box is not None
    tab.page.mouse.move(box["x"] + 1, box["y"] + box["height"] - 8)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + box["width"] - 1, box["y"] + 8, steps=8)
    tab.page.mouse.up()
    points = curve.locator(".points").input_value()
    times, values = zip(*(map(float, point.split(":")) for point in points.split(",")), strict=True)
    assert (times[0], times[-1]) == (0, 2) and (values[0], values[-1]) == (60, 72)
    assert np.allclose(np.interp([0.5, 1, 1.5], times, values), [63, 66, 69], atol=0.3)


def test_the_hand_wins_over_a_curve_at_once(tab: Tab) -> None:
    curve = tab.page.locator(".parameter", has=tab.page.get_by_role("heading", name="p", exact=True))
    tab.unfold("p")
    curve.locator(".points").fill("0:62, 4:72")
    curve.locator(".points").press("Enter")
    tab.page.click("#play-curves")
    tab.hear(0.1)
    tab.page.evaluate(
        """() => {
            const { requestAnimationFrame } = window;
            window.requestAnimationFrame = () => 1; // the page never comes to tell that the curve is left
            const slider = document.getElementById("control-p");
            slider.value = "0";
            slider.dispatchEvent(new Event("input"));
            window.requestAnimationFrame = requestAnimationFrame;
        }"""
    )
    tab.hear(tab.state()["position"] / RATE + 0.8)
    assert abs(pitch(tab.received()[1][-RATE // 2 :]) - LOWEST) < 0.7


def test_break_points_that_are_none_are_told(tab: Tab) -> None:
    tab.unfold("p")
    field = tab.page.locator(".points").nth(1)
    field.fill("0:60, x")
    field.press("Enter")
    assert "no break-point" in field.evaluate("field => field.validationMessage")
    field.fill("0:60, 1:99")  # beyond what was trained on
    field.press("Enter")
    assert field.input_value() == "0:60, 1:72, 4:72"


def test_what_lies_outside_of_the_range_is_told_once(tab: Tab) -> None:
    told = "document.getElementById('sentence').textContent"
    tab.unfold("p")
    line = tab.page.get_by_label("p over time, as seconds:value, seconds:value")
    line.fill("0:64, 2:200")
    line.blur()
    tab.until_said("p: 200 MIDI lies outside the trained range 60 to 72: 72 MIDI C5 is taken.")
    tab.page.evaluate(f"{told} = ''")
    number = tab.page.get_by_label("p, the value")
    number.fill("10")
    number.blur()
    assert number.input_value() == "60" and tab.page.evaluate(told) == ""
    number = tab.page.get_by_label("Temperature, the value")
    number.fill("3")
    number.blur()
    tab.until_said("Temperature: 3 lies outside the range 0 to 2: 2 is taken.")
    tab.page.evaluate(f"{told} = ''")
    tab.page.locator("#control-temperature").press("ArrowRight")  # the end of a slider is seen
    assert tab.page.evaluate(told) == ""


def test_names_are_text_and_categories_are_buttons(tab: Tab) -> None:
    assert tab.page.locator(".choices label").all_inner_texts() == ["reed", "<b>brass</b>"]
    tab.page.get_by_text("<b>brass</b>").click()
    assert tab.page.get_by_role("radio", name="<b>brass</b>").is_checked()
    tab.start()
    tab.page.get_by_text("reed").click()
    tab.page.wait_for_function("() => tierwave.latencies().length === 1")
    offered = """async (control) => (await import("/page/units.js")).choices(control)"""
    assert tab.page.evaluate(offered, {"categories": ["a", "b", "c"], "values": [2, 0]}) == [0, 2]  # what occurred
    assert tab.page.evaluate(offered, {"categories": ["a", "b", "c"], "values": []}) == [0, 1, 2]


def test_computer_keys_play_notes(tab: Tab) -> None:
    value = tab.page.locator(".parameter .value")
    tab.page.keyboard.press("k")  # the octave from C4 on, in which most of the trained notes lie
    assert value.input_value() == "72"
    tab.page.keyboard.down("a")
    tab.page.keyboard.down("d")
    assert value.input_value() == "64"
    tab.page.keyboard.up("d")
    assert value.input_value() == "60"  # which is still held
    tab.page.keyboard.up("a")
    tab.page.keyboard.press("x")
    tab.page.keyboard.press("a")
    assert value.input_value() == "72"
    tab.page.keyboard.press("Space")
    tab.hear(0.1)
    tab.page.keyboard.press("Space")
    tab.page.wait_for_selector("#start[aria-pressed=false]")
    tab.page.focus("#curve-loop")
    tab.page.keyboard.press("Space")
    assert not tab.page.is_checked("#curve-loop") and not tab.state()["playing"]  # which is the box's own
    value.first.fill("999")
    value.first.press("Enter")
    assert value.input_value() == "72"
    tab.page.focus("#control-p")
    tab.page.keyboard.press("ArrowLeft")
    assert value.input_value() == "71"
    assert tab.page.get_attribute("#control-p", "aria-valuetext") == "71 MIDI B4"


def test_midi_notes_play_and_a_controller_is_taught(browser: Browser, steered: Server) -> None:
    context = browser.new_context()
    context.add_init_script(KEYBOARD)
    tab = Tab(context.new_page()).go(steered)
    tab.page.click("#midi")
    tab.page.wait_for_selector(".parameter .learn:visible")
    assert tab.page.inner_text("#sentence") == "MIDI: keys"
    tab.page.evaluate("midi(0x90, 67, 100)")
    assert tab.page.locator(".parameter .value").input_value() == "67"
    value = tab.page.locator(".parameter .value")
    for message, expected in (
        ("0xe0, 0, 96", "68"),  # bent half way up
        ("0xb0, 64, 127", "68"),  # the pedal
        ("0x90, 62, 100", "63"),
        ("0x80, 62, 0", "63"),
        ("0xe0, 0, 64", "62"),
        ("0xb0, 64, 0", "67"),  # which is still held
    ):
        tab.page.evaluate(f"midi({message})")
        assert value.input_value() == expected, message
    tab.page.locator(".parameter .learn").nth(1).click()
    tab.page.evaluate("midi(0xb3, 74, 127)")
    assert tab.page.locator(".parameter .value").input_value() == "72"
    tab.page.evaluate("midi(0xb3, 74, 0)")
    assert tab.page.locator(".parameter .value").input_value() == "60"
    assert tab.page.locator(".parameter .learn").nth(1).inner_text() == "CC 74"
    context.close()
    assert tab.faults == []


class Five:
    """The run of another instrument, as if it had five controls: what a page that does not play asks for."""

    def __init__(self, instrument: Instrument) -> None:
        plain = {"units": None, "low": 0, "high": 1, "scale": "linear", "interp": "linear", "outside": "clip"}
        plain |= {"category": False, "categories": [], "values": [], "initial": 0.5}
        kinds = ["reed", "brass", "string"]
        self.parameters = [
            {
                **plain,
                "name": "inst",
                "high": 2,
                "category": True,
                "categories": kinds,
                "interp": "previous",
                "initial": 1,
            },
            {**plain, "name": "p", "units": "midiPitch", "low": 60, "high": 72, "initial": 66},
            {**plain, "name": "a", "units": "amplitude", "low": 0.25},
            {**plain, "name": "centroid", "units": "hertz", "low": 200, "high": 3000, "scale": "log", "initial": 900},
            {**plain, "name": "vibrato"},
        ]
        self.instrument = instrument

    def document(self) -> dict[str, Any]:
        return {**self.instrument.document(), "parameters": self.parameters}


@pytest.fixture
def laptop(browser: Browser, oscillating: Instrument) -> Iterator[Tab]:
    """A page in a window of a laptop's size, with a MIDI keyboard."""
    with serving(cast(Instrument, Five(oscillating))) as server:
        context = browser.new_context(viewport={"width": 1366, "height": 768})
        context.add_init_script(KEYBOARD)
        tab = Tab(context.new_page()).go(server)
        tab.page.click("#midi")
        yield tab
        context.close()
        assert tab.faults == []


def test_the_sliders_of_a_usual_run_fit_a_laptops_window(laptop: Tab) -> None:
    page = laptop.page
    cards = page.locator(".parameter")
    boxes = [card.bounding_box() for card in cards.all()]
    assert len(boxes) == 5 and all(box is not None and box["y"] + box["height"] <= 768 for box in boxes)
    assert page.locator("canvas.draw:visible").count() == 0
    fold = page.locator("[aria-controls='curve-p']")
    assert fold.inner_text() == "curve" and fold.get_attribute("aria-expanded") == "false"
    fold.click()
    page.get_by_label("p over time, as seconds:value, seconds:value").fill("0:60, 4:72")
    page.get_by_label("p over time, as seconds:value, seconds:value").press("Enter")
    painted = "() => document.querySelector('#curve-p canvas').width > 100"
    page.wait_for_function(painted)
    fold.click()
    assert page.locator("canvas.draw:visible").count() == 0
    assert fold.inner_text() == "curve, followed" and fold.get_attribute("aria-expanded") == "false"
    page.focus("#control-p")
    page.keyboard.press("ArrowLeft")  # which takes the slider out of its curve
    assert fold.inner_text() == "curve, drawn"


def test_a_released_key_lets_loudness_fall_and_the_next_one_brings_it_back(laptop: Tab) -> None:
    page = laptop.page
    value = page.get_by_label("a, the value")

    def until_it_is(expected: str) -> None:
        page.wait_for_function(
            "it => document.querySelector('[aria-label=\"a, the value\"]').value === it", arg=expected
        )

    page.keyboard.down("a")
    page.keyboard.down("d")
    page.keyboard.up("a")
    page.wait_for_timeout(100)
    assert value.input_value() == "0.5"  # a key is held
    page.keyboard.up("d")
    until_it_is("0.25")
    page.keyboard.down("a")
    assert value.input_value() == "0.5"
    page.keyboard.up("a")
    until_it_is("0.25")
    value.fill("0.8")  # the hand opens it
    value.press("Enter")
    value.evaluate("field => field.blur()")
    page.keyboard.down("a")
    assert value.input_value() == "0.8"
    page.evaluate("midi(0xb0, 64, 127)")  # the pedal
    page.keyboard.up("a")
    page.evaluate("midi(0x90, 67, 127); midi(0x80, 67, 0)")
    page.wait_for_timeout(100)
    assert value.input_value() == "1"  # which is the velocity's
    page.evaluate("midi(0xb0, 64, 0)")
    until_it_is("0.25")
    page.uncheck("#gate")
    assert value.input_value() == "1"
    page.keyboard.press("a")
    page.wait_for_timeout(100)
    assert value.input_value() == "1"  # a drone
    page.check("#gate")
    laptop.unfold("a")
    page.get_by_label("a over time, as seconds:value, seconds:value").fill("0:0.3, 4:1")
    page.get_by_label("a over time, as seconds:value, seconds:value").press("Enter")
    page.focus("#gate")
    page.keyboard.press("a")
    page.wait_for_timeout(100)
    assert page.locator("[aria-controls='curve-a']").inner_text() == "curve, followed" and value.input_value() == "1"


# ---- takes -----------------------------------------------------------------------------------------------------------


def test_a_take_is_replayed_sample_by_sample_and_saved(tab: Tab, tmp_path: Path) -> None:
    tab.page.wait_for_selector("#record:enabled")
    tab.page.click("#record")
    tab.hear(0.4)
    tab.slide("p", 0.9)
    tab.hear(0.8)
    tab.page.get_by_text("<b>brass</b>").click()
    tab.slide("temperature", 0.8)
    tab.hear(3.0)
    tab.page.click("#record")
    tab.page.wait_for_selector("#take-list li")
    tab.stop()
    wav = tab.download("Save the sound of take 1", tmp_path / "take.wav")
    sound, rate = soundfile.read(wav, dtype="float32")
    assert rate == RATE and soundfile.info(wav).subtype == "FLOAT" and len(sound) >= 3 * RATE and sound.std() > 0.1

    tab.page.get_by_role("button", name="Replay take 1").click()
    tab.hear(1.0)
    assert tab.state()["replaying"] and tab.page.locator("#control-p").input_value() > "0.85"
    tab.page.wait_for_selector("#start[aria-pressed=false]")  # it ends by itself
    first, samples = tab.received()
    assert first == 0 and np.array_equal(samples, sound)

    csv = tab.download("Save the gestures of take 1", tmp_path / "take.csv")
    controls, recorded = read_take(csv)
    assert recorded and {"inst", "p", "temperature"} <= set(controls)
    assert controls["p"].values[0] == 67 and abs(controls["p"].values[-1] - 70.8) < 0.1

    tab.page.evaluate("document.getElementById('checkpoint').value = 'model.ckpt-0'")  # the file tells another
    tab.page.set_input_files("#load", csv)
    tab.page.wait_for_selector("#take-list li:nth-child(2)")
    assert tab.page.get_by_role("button", name="Save the sound of take.csv").is_disabled()
    tab.page.get_by_role("button", name="Replay take.csv").click()
    tab.page.wait_for_selector("button[aria-label='Save the sound of take.csv']:enabled")
    tab.page.evaluate("document.getElementById('checkpoint').value = 'model.ckpt-1'")
    again, _ = soundfile.read(tab.download("Save the sound of take.csv", tmp_path / "again.wav"), dtype="float32")
    assert np.array_equal(again, sound)


def test_a_file_that_never_ends_is_played_and_not_kept(tab: Tab, tmp_path: Path) -> None:
    path = tmp_path / "endless.csv"
    meta = json.dumps({"checkpoint": "model.ckpt-9"}).replace('"', '""')
    path.write_text(f'#meta,"{meta}"\nname,time,value\np,0,72\n', encoding="utf-8")
    tab.page.set_input_files("#load", path)
    tab.until_said("Its model.ckpt-9 is not here")
    tab.page.evaluate(
        """() => {
            const post = Worker.prototype.postMessage;
            window.asked = [];
            Worker.prototype.postMessage = function (message, ...more) {
                if (message.to === "start") asked.push(message);
                post.call(this, message, ...more);
            };
        }"""
    )
    tab.page.wait_for_selector("#start:enabled")
    tab.page.get_by_role("button", name="Replay endless.csv").click()
    tab.hear(0.5)
    (asked,) = tab.page.evaluate("asked")
    assert asked["recording"] is False and asked["message"]["controls"] == {"p": [[0, 72]]}
    tab.stop()


def test_takes_are_not_lost_without_a_word(browser: Browser, oscillating: Instrument, tmp_path: Path) -> None:
    context = browser.new_context()
    with serving(oscillating) as first:
        tab = Tab(context.new_page()).go(first)
        tab.page.wait_for_selector("#record:enabled")
        tab.page.click("#record")
        tab.hear(0.2)
        tab.page.click("#record")
        tab.page.wait_for_selector("#take-list li")
        port = urlsplit(first.address).port
        assert port is not None
    tab.until_said("The server is gone.")
    with pytest.MonkeyPatch.context() as changed:
        document = {**oscillating.document(), "id": "another"}
        changed.setattr(oscillating, "document", lambda: document)
        with serving(oscillating, port):
            tab.until_said("back with another run")
            assert tab.page.is_disabled("#start")
            tab.page.keyboard.press("Space")  # keys and replays know it too
            tab.until_said("another run: reload")
            asked: list[str] = []
            tab.page.once("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
            tab.page.close(run_before_unload=True)
            until(lambda: tab.page.wait_for_timeout(50) or asked)
            assert asked == ["beforeunload"]
            tab.download("Save the gestures of take 1", tmp_path / "take.csv")
            tab.page.reload()  # which asks nobody now
            tab.page.wait_for_selector("body.ready")
            assert tab.page.inner_text("#title") == "another"
            context.close()


def test_a_file_that_holds_no_gestures_is_told(tab: Tab, tmp_path: Path) -> None:
    for text, told in (("a,b\n1,2\n", "no gestures CSV"), ("name,time,value\np,0,x\n", "Line 2")):
        path = tmp_path / "odd.csv"
        path.write_text(text, encoding="utf-8")
        tab.page.set_input_files("#load", path)
        tab.until_said(told)
    assert tab.page.locator("#take-list li").count() == 0


# ---- what it keeps to itself -----------------------------------------------------------------------------------------


def test_a_malformed_message_is_refused_without_harm(tab: Tab) -> None:
    tab.start()
    answers = tab.page.evaluate(
        """async () => {
            const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws");
            const answers = [];
            await new Promise((resolve) => (socket.onopen = resolve));
            const wrong = ["nonsense", '{"type": "set"}', '{"type": "start", "values": {"p": "loud"}}'];
            for (const message of [...wrong, '{"type": "stop"}']) {
                socket.send(message);
                const { data } = await new Promise((resolve) => (socket.onmessage = resolve));
                answers.push(JSON.parse(data));
            }
            socket.close();
            return answers;
        }"""
    )
    assert [answer["type"] for answer in answers] == ["error", "error", "error", "stopped"]
    tab.hear(tab.state()["position"] / RATE + 0.5)
    assert tab.state()["playing"]


def test_a_page_of_another_origin_is_refused(browser: Browser, steered: Server) -> None:
    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty) as other:
        threading.Thread(target=other.serve_forever).start()
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{other.server_port}/")
        ended = page.evaluate(
            """async (address) => {
                const socket = new WebSocket(address.replace("http", "ws") + "/ws");
                const { type } = await new Promise((resolve) => (socket.onopen = socket.onclose = resolve));
                return [type, await fetch(address + "/api/run").then(() => "answered", () => "refused")];
            }""",
            steered.address,
        )
        other.shutdown()
        page.close()
    assert ended == ["close", "refused"]
    assert not steered.studio.sessions


def test_a_server_that_goes_and_comes_back_is_told(browser: Browser, oscillating: Instrument) -> None:
    context = browser.new_context()
    with serving(oscillating) as first:
        tab = Tab(context.new_page()).go(first)
        tab.start()
        port = urlsplit(first.address).port
        assert port is not None
    tab.until_said("The server is gone.")
    assert tab.page.is_disabled("#start") and not tab.state()["playing"]
    tab.page.keyboard.press("r")
    tab.until_said("The server is not there.")
    with serving(oscillating, port):
        tab.until_said("The server is back.")
        tab.start()
        context.close()


# ---- generating ------------------------------------------------------------------------------------------------------


def generated(tab: Tab) -> list[Any]:
    """What the server answers to the form, an answer for each checkpoint."""
    answers: list[Any] = []
    tab.page.on("response", lambda answer: answer.url.endswith("/api/generate") and answers.append(answer))
    tab.page.click("#generate-go")
    tab.page.wait_for_timeout(100)
    tab.page.get_by_role("button", name="Cancel").wait_for(state="detached", timeout=150_000)
    assert tab.page.inner_text("#sentence") == "Done."
    cards = tab.page.locator(".result")
    assert cards.count() == 2 and len(answers) == 2
    left, right = (card.bounding_box() for card in cards.all())
    assert left is not None and right is not None
    assert left["y"] == right["y"] and left["x"] + left["width"] < right["x"]  # side by side
    tab.page.wait_for_function(  # until they are painted
        """() => [...document.querySelectorAll('.result canvas')].every((canvas) => new Set(new Uint32Array(
                 canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size > 5)"""
    )
    return answers


def test_checkpoints_are_compared_as_the_sliders_stand(tab: Tab, tmp_path: Path) -> None:
    tab.slide("p", 0.0)
    tab.page.locator("#generate summary").click()
    tab.page.fill("#generate-seconds", "5")
    tab.page.fill("#generate-seed", "5")
    answers = generated(tab)
    orders = [json.loads(answer.request.post_data) for answer in answers]
    assert [order["checkpoint"] for order in orders] == ["model.ckpt-0", "model.ckpt-1"]
    sounds = [soundfile.read(io.BytesIO(answer.body()))[0] for answer in answers]
    assert [len(sound) for sound in sounds] == [5 * RATE, 5 * RATE]
    assert abs(pitch(sounds[0]) - LOWEST - 7) < 0.7 and abs(pitch(sounds[1]) - LOWEST) < 0.7
    card = tab.page.locator(".result").first
    card.get_by_role("button", name="Play").click()
    tab.page.wait_for_function("() => parseFloat(document.querySelector('.playhead').style.left) > 5")
    card.get_by_role("button", name="Play").click()  # which stops it now
    assert card.locator(".playhead").is_hidden()
    with tab.page.expect_download() as waiting:
        card.get_by_role("button", name="Save").click()
    waiting.value.save_as(tmp_path / "saved.wav")
    assert (tmp_path / "saved.wav").read_bytes() == answers[0].body()
    for left in (1, 0):
        tab.page.get_by_role("button", name="Remove the result").first.click()
        assert tab.page.locator(".result").count() == left
    assert tab.page.locator(".results").count() == 0


def test_a_run_that_is_too_slow_is_told_and_generated(browser: Browser, oscillating: Instrument) -> None:
    with pytest.MonkeyPatch.context() as slow:
        slow.setattr(oscillating, "speed", 0.4)
        with serving(oscillating) as server, opened(browser, server) as tab:
            assert "too slow to play" in tab.page.inner_text("#warning") and tab.page.is_visible("#generate-go")


@pytest.mark.parametrize("kind", ["spectrogram", "values"])
def test_a_run_that_is_not_played_gets_a_simpler_page(kind: str, browser: Browser, tmp_path: Path) -> None:
    instrument = Instrument(make_run(tmp_path, kind, {"spectrogram": MEL, "values": VALUES}[kind]))
    assert instrument.kind == kind
    with serving(instrument) as server, opened(browser, server) as tab:
        assert tab.page.is_hidden("#start") and tab.page.is_visible("#generate-go")
        assert tab.page.is_visible("#for-bias") == (kind == "spectrogram")
        tab.page.fill("#generate-seconds", "0.5")
        if kind == "values":
            tab.page.fill(".parameter .value", "61.5")
        answers = generated(tab)
        steered = {"p": 61.5} if kind == "values" else {}
        assert all(json.loads(answer.request.post_data)["values"] == steered for answer in answers)
        if kind == "spectrogram":
            assert len(soundfile.read(io.BytesIO(answers[0].body()))[0]) == RATE // 2
        else:
            with tab.page.expect_download() as waiting:
                tab.page.get_by_role("button", name="Save").first.click()
            waiting.value.save_as(tmp_path / "curves.csv")
            assert set(read_take(tmp_path / "curves.csv")[0]) == {"rmse"}


# ---- the page as one file --------------------------------------------------------------------------------------------


@pytest.fixture
def alone(browser: Browser, oscillating: Instrument, tmp_path: Path) -> Iterator[Tab]:
    """The page without a server, opened from a file, without a network."""
    path = tmp_path / "oscillator.html"
    write_page(Instrument(oscillating.trained.run.folder, weights="int8"), path)
    context = browser.new_context(viewport={"width": 1280, "height": 800}, offline=True)
    context.add_init_script(KEYBOARD)
    tab = Tab(context.new_page())

    def asked(url: str) -> None:
        if not url.startswith(("blob:", "data:", path.as_uri())):
            tab.faults.append(f"asked for {url}")

    tab.page.on("request", lambda request: asked(request.url))
    tab.page.goto(path.as_uri())
    tab.page.wait_for_selector("body.ready")
    yield tab
    context.close()
    assert tab.faults == []


def test_a_file_plays_what_sliders_keys_and_midi_say(alone: Tab) -> None:
    page = alone.page
    assert page.is_hidden("#checkpoint-choice") and not page.locator("#control-blend").count()
    assert page.is_hidden("#warning") and page.inner_text("#speed") != "–" and page.is_hidden("[data-server] >> nth=0")
    alone.start()
    for position in (0.0, 1.0):
        alone.until_heard("p", position)
        assert abs(pitch(alone.received()[1][-RATE // 2 :]) - (LOWEST + position * (HIGHEST - LOWEST))) < 0.7
    for play, note in (("key", 60), ("midi", 69)):
        before = len(page.evaluate("tierwave.latencies()"))
        if play == "key":
            page.keyboard.press("k")  # as in the test of the keys: an octave up, then down
            page.keyboard.press("a")
        else:
            page.click("#midi")
            page.wait_for_selector(".parameter .learn:visible")
            page.evaluate(f"midi(0x90, {note}, 100)")
        page.wait_for_function("before => tierwave.latencies().length > before", arg=before)
        alone.hear(alone.state()["position"] / RATE + 0.7)
        assert abs(pitch(alone.received()[1][-RATE // 2 :]) - note) < 0.7, play
    alone.stop()


def test_a_file_records_replays_and_generates(alone: Tab, tmp_path: Path) -> None:
    page = alone.page
    page.wait_for_selector("#record:enabled")
    page.click("#record")
    alone.hear(0.4)
    alone.slide("p", 1.0)
    alone.hear(2.0)
    page.click("#record")
    page.wait_for_selector("#take-list li")
    alone.stop()
    sound, rate = soundfile.read(alone.download("Save the sound of take 1", tmp_path / "take.wav"), dtype="float32")
    assert rate == RATE and len(sound) >= 2 * RATE
    assert abs(pitch(sound[: 3 * RATE // 8]) - 67) < 0.7 and abs(pitch(sound[-RATE // 2 :]) - HIGHEST) < 0.7
    page.get_by_role("button", name="Replay take 1").click()
    page.wait_for_selector("#start[aria-pressed=true]")
    page.wait_for_selector("#start[aria-pressed=false]")  # it ends by itself
    first, samples = alone.received()
    assert first == 0 and np.array_equal(samples, sound)
    controls, recorded = read_take(alone.download("Save the gestures of take 1", tmp_path / "take.csv"))
    assert recorded and controls["p"].values[0] == 67 and abs(controls["p"].values[-1] - HIGHEST) < 0.1

    page.click("#generate summary")
    page.fill("#generate-seconds", "1.5")
    page.fill("#generate-seed", "5")
    page.click("#generate-go")
    alone.until_said("Done.")
    wav = alone.download("Save the sound of epoch 1, step 10", tmp_path / "made.wav")
    made, _ = soundfile.read(wav, dtype="float32")
    assert len(made) == 1.5 * RATE and abs(pitch(made[-RATE // 2 :]) - HIGHEST) < 0.7


def test_a_curve_is_followed_in_a_file(alone: Tab) -> None:
    curve = alone.page.locator(".parameter", has=alone.page.get_by_role("heading", name="p", exact=True))
    alone.unfold("p")
    alone.page.uncheck("#curve-loop")
    alone.page.fill("#curve-seconds", "2")
    alone.page.press("#curve-seconds", "Enter")
    curve.locator(".points").fill("0:60, 1:60, 1:72")
    curve.locator(".points").press("Enter")
    alone.page.click("#play-curves")
    alone.hear(2.2)
    first, samples = alone.received()
    assert first == 0
    assert abs(pitch(samples[RATE // 4 : 7 * RATE // 8]) - LOWEST) < 0.7
    assert abs(pitch(samples[9 * RATE // 8 : 7 * RATE // 4]) - HIGHEST) < 0.7
    alone.page.wait_for_selector("#play-curves[aria-pressed=false]")
