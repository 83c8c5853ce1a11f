"""What is sent by OSC: addresses, values, how often; and the flag that asks for it, and the patches in examples/."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import OscMessageBuilder

from commands import Capture, told
from tierwave.cli import play as command
from tierwave.controls.schema import Parameter
from tierwave.play import osc_out, session
from tierwave.play.osc import ORDERS, NotUnderstood, Receiver, address_of, asked_by
from tierwave.play.osc_out import LATE, LEVEL, STARTED, STOPPED, Sender, sending
from tierwave.play.session import Session, Studio

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PARAMETERS = (
    Parameter(name="p", units="midiPitch", lo=60, hi=72),
    Parameter(name="inst", categories=("brass", "reed"), lo=0, hi=1),
    Parameter(name="a/b c", lo=0, hi=1),
)
HALF = np.full(100, 0.5, np.float32)


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    """A UDP socket that receives."""
    with socket.socket(type=socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        found.settimeout(20)
        yield found


@pytest.fixture
def sender(receiver: socket.socket) -> Iterator[Sender]:
    with connected(receiver.getsockname()[1]) as line:
        yield Sender(line, PARAMETERS, said_nothing)


def said_nothing(line: str) -> None:
    raise AssertionError(line)


def connected(port: int) -> socket.socket:
    line = socket.socket(type=socket.SOCK_DGRAM)
    line.connect(("127.0.0.1", port))
    return line


def heard(receiver: socket.socket) -> list[tuple[Any, ...]]:
    """All that has arrived: address and arguments."""
    receiver.setblocking(False)
    found: list[tuple[Any, ...]] = []
    try:
        while True:
            message = OscMessage(receiver.recv(1 << 16))
            found.append((message.address, *message.params))
    except BlockingIOError:
        return found


# ---- what is sent ----------------------------------------------------------------------------------------------------


def test_addresses_and_values(sender: Sender, receiver: socket.socket) -> None:
    sender.started("voice", 2**40, "model.ckpt-3")
    assert heard(receiver) == [(STARTED, str(2**40), "model.ckpt-3", 1)]
    values = {"p": 64.5, "inst": 1.0, "a/b c": 0.25, "temperature": 0.5, "top_k": 3.0, "between tiers": 1.0}
    sender.made("voice", HALF, values, 2)
    sender.send_what_is_due(0.0)
    *changed, level = heard(receiver)
    assert changed == [
        ("/p", 64.5, 1),
        ("/category/inst", "reed", 1),
        ("/a_b_c", 0.25, 1),
        ("/temperature", 0.5, 1),
        ("/top_k", 3.0, 1),
        (LATE, 2, 1),
    ]
    assert level == (LEVEL, pytest.approx(-6.02, abs=0.01), 1)
    sender.stopped("voice")
    assert heard(receiver) == [(LEVEL, -120.0, 1), (STOPPED, 1)]
    sender.send_what_is_due(9.0)
    assert heard(receiver) == []


def test_a_control_is_sent_under_the_address_that_sets_it(sender: Sender, receiver: socket.socket) -> None:
    names = [each.name for each in PARAMETERS]
    sender.started("voice", 1, "c")
    sender.made("voice", HALF, {"p": 64.5, "inst": 1.0, "a/b c": 0.25}, 0)
    sender.send_what_is_due(0.0)
    back: dict[str, Any] = {}
    for address, value, *_ in heard(receiver):
        if address not in (STARTED, LEVEL):
            message = OscMessageBuilder(address)
            message.add_arg(value)
            back |= asked_by(message.build().dgram, names).values
    assert back == {"p": 64.5, "inst": "reed", "a/b c": 0.25}


@pytest.mark.parametrize(("sound", "level"), [(np.zeros(9, np.float32), -120.0), (np.ones(9, np.float32), 0.0)])
def test_levels_are_of_what_was_made_since_the_last_one(
    sound: np.ndarray, level: float, sender: Sender, receiver: socket.socket
) -> None:
    sender.started("voice", 1, "c")
    for now, samples in ((0.0, HALF), (1.0, sound)):
        sender.made("voice", samples, {}, 0)
        sender.send_what_is_due(now)
    sender.send_what_is_due(2.0)  # nothing was made
    assert heard(receiver)[-1] == (LEVEL, level, 1) and len(heard(receiver)) == 0


def test_rates_are_limited(sender: Sender, receiver: socket.socket) -> None:
    sender.started("voice", 1, "c")
    heard(receiver)
    for tick in range(400):  # 10 s, in which 5 blocks come from one tick to the next
        for block in range(5):
            sender.made("voice", HALF[:10], {"p": 60 + (5 * tick + block) / 1000, "temperature": 0.75}, 0)
        sender.send_what_is_due(tick * osc_out.TICK_SECONDS)
        for address, *_ in (found := heard(receiver)):
            assert sum(each[0] == address for each in found) == 1
        levels = [each for each in found if each[0] == LEVEL]
        assert len(levels) == (tick % 2 == 0)
        assert [each for each in found if each[0] == "/temperature"] == (
            [("/temperature", 0.75, 1)] if not tick else []
        )
    assert 1 / osc_out.TICK_SECONDS <= 50


def test_voices_take_the_lowest_number_that_is_free(sender: Sender, receiver: socket.socket) -> None:
    for key in "abc":
        sender.started(key, 1, "c")
    sender.stopped("b")
    sender.started("d", 1, "c")
    sender.made("a", HALF, {"p": 64.0}, 0)
    sender.send_what_is_due(0.0)
    sender.started("a", 2, "c")  # again: all values are sent again
    sender.made("a", HALF, {"p": 64.0}, 0)
    sender.send_what_is_due(1.0)
    found = heard(receiver)
    assert [each[-1] for each in found if each[0] == STARTED] == [1, 2, 3, 2, 1]
    assert found.count(("/p", 64.0, 1)) == 2


def test_the_task_sends_and_ends(receiver: socket.socket) -> None:
    async def play() -> None:
        with connected(receiver.getsockname()[1]) as line:
            async with sending(line, PARAMETERS, said_nothing) as sender:
                sender.started("voice", 1, "c")
                sender.made("voice", HALF, {"p": 64.0}, 0)
                while len(found) < 3:
                    await asyncio.sleep(0.01)
                    found.extend(heard(receiver))

    found: list[tuple[Any, ...]] = []
    asyncio.run(asyncio.wait_for(play(), 20))
    assert [each[0] for each in found] == [STARTED, "/p", LEVEL]


def test_a_receiver_that_is_not_there_is_told_once_and_may_come_later() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as first:
        first.bind(("127.0.0.1", 0))
        port = first.getsockname()[1]
    said: list[str] = []
    with connected(port) as line:
        line.setblocking(False)
        sender = Sender(line, PARAMETERS, said.append)
        sender.started("voice", 1, "c")
        for tick in range(50):
            sender.made("voice", HALF, {"p": 60.0 + tick}, 0)
            sender.send_what_is_due(float(tick))
            time.sleep(0.002)
        assert len(said) <= 1  # systems that do not tell say nothing
        assert all(f"127.0.0.1:{port}" in line and "play on" in line for line in said)
        with socket.socket(type=socket.SOCK_DGRAM) as late:
            late.bind(("127.0.0.1", port))
            sender.stopped("voice")
            assert heard(late)[-1] == (STOPPED, 1)


def test_a_socket_that_is_full_or_closed_does_not_stop_a_voice() -> None:
    said: list[str] = []
    line = connected(9)
    sender = Sender(line, PARAMETERS, said.append)

    class Full:
        def send(self, datagram: bytes) -> int:
            raise BlockingIOError(11, "would block")

        def getpeername(self) -> tuple[str, int]:
            return "127.0.0.1", 9

    sender.line = Full()  # type: ignore[assignment]
    sender.started("voice", 1, "c")
    sender.stopped("voice")
    line.close()
    assert len(said) == 1 and "would block" in said[0]


# ---- what voices tell ------------------------------------------------------------------------------------------------


class FakeVoice:
    """Half of full scale, without a network."""

    remarks: tuple[str, ...] = ()

    def __init__(self, *_: Any) -> None:
        self.made, self.random_seed, self.checkpoint = 0, 7, "model.ckpt-3"
        self.pace = type("Pace", (), {"speed": 9.0, "late_blocks": 1})
        self.reads = 0
        self.threads: set[int] = set()

    def render(self, count: int) -> np.ndarray:
        self.made += count
        self.threads.add(threading.get_ident())
        return np.full(count, 0.5, np.float32)

    def current(self) -> dict[str, float]:
        self.reads += 1
        return {"p": 64.0, "temperature": 0.75}


class FakeSocket:
    """What a page says, and then it waits until it is told to go."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        from starlette.websockets import WebSocketState

        self.application_state = WebSocketState.CONNECTED
        self.messages = [json.dumps(message) for message in messages]
        self.sent: list[Any] = []
        self.goes = asyncio.Event()

    async def accept(self) -> None: ...

    async def receive(self) -> dict[str, Any]:
        if self.messages:
            return {"type": "websocket.receive", "text": self.messages.pop(0)}
        await self.goes.wait()
        return {"type": "websocket.disconnect"}

    async def send_text(self, text: str) -> None:
        self.sent.append(json.loads(text))

    async def send_bytes(self, content: bytes) -> None:
        self.sent.append(content)


class FakeInstrument:
    is_live, current = True, None


async def played(receiver: socket.socket | None) -> tuple[FakeVoice, FakeSocket, list[tuple[Any, ...]]]:
    """A page that starts, hears 1,000 samples, is asked to stop and goes; and what was sent meanwhile."""
    studio = Studio(FakeInstrument(), 1)  # type: ignore[arg-type]
    page = FakeSocket({"type": "start"}, {"type": "more", "until": 1000})
    line = connected(receiver.getsockname()[1] if receiver is not None else 9)
    with closing(line):
        if receiver is not None:
            studio.sender = Sender(line, PARAMETERS, said_nothing)
        one = Session(studio, page)  # type: ignore[arg-type]
        running = asyncio.create_task(one.run())
        while sum(isinstance(each, bytes) for each in page.sent) < -(-1000 // session.BLOCK):
            await asyncio.sleep(0.005)
        voice: Any = one.voice
        if studio.sender is not None:
            studio.sender.send_what_is_due(0.0)
        assert studio.ask_all("stop", "osc") == 1
        while page.sent[-1] != {"type": "asked", "order": "stop", "source": "osc"}:
            await asyncio.sleep(0.005)
        page.goes.set()
        await running
        assert studio.ask_all("start", "osc") == 0
    return voice, page, heard(receiver) if receiver is not None else []


def test_a_session_tells_what_its_voice_does(receiver: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "Voice", FakeVoice)
    voice, _, found = asyncio.run(asyncio.wait_for(played(receiver), 60))
    level = (LEVEL, pytest.approx(-6.02, abs=0.01), 1)
    started = (STARTED, "7", "model.ckpt-3", 1)
    values = [("/p", 64.0, 1), ("/temperature", 0.75, 1)]
    assert found == [started, *values, (LATE, 1, 1), level, (LEVEL, -120.0, 1), (STOPPED, 1)]
    assert threading.get_ident() not in voice.threads  # where all is sent


def test_without_the_flag_nothing_is_read_or_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "Voice", FakeVoice)
    assert command.parser().parse_args(["run"]).osc_to is None
    monkeypatch.setattr(osc_out, "OscMessageBuilder", None)
    voice, page, _ = asyncio.run(asyncio.wait_for(played(None), 60))
    assert voice.reads == 0 and voice.made == 1000 and page.sent[0]["type"] == "started"


# ---- orders ----------------------------------------------------------------------------------------------------------


def packet(address: str, *arguments: Any) -> bytes:
    message = OscMessageBuilder(address)
    for each in arguments:
        message.add_arg(each)
    return message.build().dgram


@pytest.mark.parametrize("address", ORDERS)
def test_orders(address: str) -> None:
    assert asked_by(packet(address), ["start"]) == ({}, ORDERS[address])
    assert asked_by(packet(address, 1), ["start"]) == ({}, ORDERS[address])
    assert asked_by(packet(address, 0.0), ["start"]) == ({}, None)  # a button that is let go
    assert asked_by(packet("/start", 3), ["start"]) == ({"start": 3.0}, None)
    with pytest.raises(NotUnderstood, match="/voice/start"):
        asked_by(packet("/voice/begin"), ["p"])


def test_an_order_that_finds_no_page_is_told() -> None:
    said: list[str] = []
    orders: list[str] = []

    def obey(order: str) -> int:
        orders.append(order)
        return 0

    Receiver(["p"], lambda values: None, obey, said.append).datagram_received(packet("/voice/start"), None)
    assert orders == ["start"]
    assert said == ["OSC: 1 ignored; the last: /voice/start finds no page: open the one whose address was printed"]


# ---- the flag --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("studio", ["--osc_to studio names no port", "HOST:PORT"]),
        ("127.0.0.1:", ["names no port"]),
        ("127.0.0.1:http", ["names no port"]),
        ("127.0.0.1:-1", ["names no port"]),
        ("127.0.0.1:70000", ["70000 is no port", "1 to 65535"]),
        ("0", ["0 is no port"]),
        ("9" * 5000, ["is no port"]),
        (":9001", ["is no host"]),
        ("::1:9001", ["is no host", "[::1]"]),
        ("nobody.invalid:9001", ["no host of the name nobody.invalid is found", "127.0.0.1"]),
        ("a" * 70 + ".invalid:9001", ["no host of the name aaa"]),
    ],
)
def test_bad_receivers_are_told(given: str, words: list[str], tmp_path: Path, capsys: Capture) -> None:
    sentence = told(capsys, command.main, [tmp_path, "--port", 0, "--osc_to", given], 2)
    for each in words:
        assert each in sentence


def test_tierwave_does_not_send_to_itself(tmp_path: Path, capsys: Capture, receiver: socket.socket) -> None:
    port = receiver.getsockname()[1]
    receiver.close()
    sentence = told(capsys, command.main, [tmp_path, "--port", 0, "--osc", port, "--osc_to", port], 2)
    assert f"--osc_to {port} is the port on which --osc receives" in sentence


@pytest.mark.parametrize("given", ["9001", "127.0.0.1:9001", "localhost:9001"])
def test_a_port_alone_is_one_of_this_machine(given: str) -> None:
    with command._connected(given, "--osc_to") as line:
        assert line.getpeername()[:2] == ("127.0.0.1", 9001)


# ---- the patches in examples/ ----------------------------------------------------------------------------------------

DEMO = ("p", "inst", "temperature", "top_k")  # the controls of the demo corpus, which docs/playing.md plays
INWARD = {*map(address_of, DEMO), "/category/inst", *ORDERS}
OUTWARD = {*map(address_of, DEMO), "/category/inst", LEVEL, STARTED, STOPPED, LATE}


def routes_of_pd(text: str) -> set[str]:
    """The addresses that end in an object other than `route`, from the tree of `route` below `oscparse`."""
    objects = [
        line for line in re.findall(r"#[XN] ((?:[^;]|\\;)*);\n", text) if not line.startswith(("canvas", "connect"))
    ]
    words = [re.sub(r"^obj \S+ \S+ ", "", each).split() for each in objects]
    wires = [tuple(map(int, each)) for each in re.findall(r"#X connect (\d+) (\d+) (\d+) (\d+);", text)]
    found = set()

    def follow(at: int, path: str) -> None:
        for source, outlet, target, _ in wires:
            if source != at:
                continue
            if words[at][0] == "route":
                assert outlet < len(words[at]) - 1, words[at]
                follow_into(target, f"{path}/{words[at][1 + outlet]}")
            else:
                follow_into(target, path)

    def follow_into(target: int, path: str) -> None:
        if words[target][0] == "route" or not path:
            follow(target, path)
        else:
            found.add(path)

    follow(next(n for n, each in enumerate(words) if each[0] == "oscparse"), "")
    return found


def test_the_patch_of_pd_names_addresses_that_there_are() -> None:
    text = (EXAMPLES / "tierwave.pd").read_text(encoding="utf-8")
    sent = {"/" + "/".join(each.split()) for each in re.findall(r"oscformat ([^;]+);", text)}
    assert {"/p", *ORDERS} <= sent <= INWARD
    received = routes_of_pd(text)
    assert {LEVEL, "/p", STARTED, STOPPED} <= received <= OUTWARD
    assert "connect 127.0.0.1 9000" in text and "netreceive -u -b 9001" in text


def test_the_patch_of_supercollider_names_addresses_that_there_are() -> None:
    text = (EXAMPLES / "tierwave.scd").read_text(encoding="utf-8")
    sent = set(re.findall(r'"(/[^"]+)"', text))
    assert {"/p", *ORDERS} <= sent <= INWARD
    received = set(re.findall(r"'(/[^']+)'", text))
    assert {LEVEL, "/p", STARTED, STOPPED} <= received <= OUTWARD
    assert 'NetAddr("127.0.0.1", 9000)' in text and "openUDPPort(9001)" in text


def test_the_patch_of_max_names_addresses_that_there_are() -> None:
    patcher = json.loads((EXAMPLES / "tierwave.maxpat").read_text(encoding="utf-8"))["patcher"]
    boxes = {each["box"]["id"]: each["box"] for each in patcher["boxes"]}
    texts = [each.get("text", "") for each in boxes.values() if each["maxclass"] in ("newobj", "message")]
    sent = {word for text in texts if not text.startswith("route") for word in text.split() if word.startswith("/")}
    assert {"/p", *ORDERS} <= sent <= INWARD
    (route,) = (text for text in texts if text.startswith("route "))
    assert {LEVEL, "/p", STARTED, STOPPED} <= set(route.split()[1:]) <= OUTWARD
    assert "udpsend 127.0.0.1 9000" in texts and "udpreceive 9001" in texts
    for each in patcher["lines"]:  # ends of cords are inlets and outlets that there are
        for end, ports in (("source", "numoutlets"), ("destination", "numinlets")):
            name, number = each["patchline"][end]
            assert number < boxes[name][ports]
