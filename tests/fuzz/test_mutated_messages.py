"""Messages of pages, orders and OSC packets that are damaged: understood, or refused in a sentence, and at once."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from random import Random
from typing import Any

import pytest

import mutators
from rule import Kind, Refusal, Wrong, judged

pytest.importorskip("starlette")
pytest.importorskip("pythonosc")

from pythonosc.osc_bundle_builder import IMMEDIATELY, OscBundleBuilder
from pythonosc.osc_message_builder import OscMessageBuilder

from tierwave.config import validate
from tierwave.play.offline import Order
from tierwave.play.osc import ORDERS, NotUnderstood, Receiver, asked_by
from tierwave.play.protocol import LARGEST_MESSAGE, parse, parse_object, type_of

SOON = 0.5  # seconds of a busy machine; nobody's sound waits for somebody else's message
MANY = 20_000

START = {
    "type": "start",
    "random_seed": 7,
    "temperature": 0.75,
    "top_k": None,
    "checkpoint": "model.ckpt-3",
    "blend": 0.5,
    "values": {"pitch": 64, "inst": "reed"},
    "controls": {"pitch": [[0, 64], [1.5, 76]], "temperature": [[0, 1]]},
    "gestures": True,
}
MESSAGES: list[dict[str, Any]] = [
    START,
    START,
    {"type": "more", "until": 4096},
    {"type": "set", "event": 3, "values": {"pitch": 70, "temperature": 1}},
    {"type": "take_over", "checkpoint": "model.ckpt-4"},
    {"type": "record"},
    {"type": "stop"},
]
ORDER = {
    "seconds": 3.0,
    "temperature": 0.75,
    "top_k": 10,
    "top_p": 0.9,
    "random_seed": 7,
    "values": {"pitch": 64, "inst": "reed"},
    "controls": {"pitch": [[0, 64], [1.5, 76]]},
    "gestures": True,
    "text": "nine",
    "bias": 0.5,
    "inversion": "griffin_lim",
}


def _large(document: dict[str, Any], rng: Random) -> dict[str, Any]:
    """With many entries, right or wrong."""
    point = rng.choice(([0, 64], ["a"], [], None, [0, "64"], {}, "a"))
    many = rng.choice(
        (
            {"controls": {"pitch": [point] * MANY}},
            {"controls": {f"p{number}": [point] for number in range(MANY)}},
            {"values": {f"p{number}": rng.choice((0, None, [])) for number in range(MANY)}},
            {f"p{number}": 0 for number in range(MANY)},
            {"type": "x" * MANY},
        )
    )
    return {**document, **many}


def _json(documents: list[dict[str, Any]]) -> Callable[[Random, Path], bytes]:
    def make(rng: Random, folder: Path) -> bytes:
        document = rng.choice(documents)
        if rng.random() < 0.05:
            return json.dumps(_large(document, rng)).encode()
        return mutators.json_bytes(document, rng)

    return make


def attempt_message(content: bytes) -> str:
    """As the WebSocket takes it, as bytes and as text."""
    if len(content) > LARGEST_MESSAGE:
        return "too long"
    began = time.process_time()
    found = judged(lambda: parse(content))
    judged(lambda: type_of(content))
    spent = time.process_time() - began
    if spent > SOON:
        raise Wrong(f"{len(content)} bytes take {spent:.2f} s", "takes long")
    text = content.decode("utf-8", "replace")
    judged(lambda: parse(text))
    if isinstance(found, Refusal):
        return "refused"
    judged(lambda: json.dumps(found.model_dump(mode="json"), allow_nan=False))
    return "understood"


def attempt_order(content: bytes) -> str:
    """As POST /api/generate takes it."""
    began = time.process_time()
    found = judged(lambda: validate(Order, parse_object(content), "generate"))
    spent = time.process_time() - began
    if spent > SOON:
        raise Wrong(f"{len(content)} bytes take {spent:.2f} s", "takes long")
    return "refused" if isinstance(found, Refusal) else "understood"


def make_packet(rng: Random, folder: Path) -> bytes:
    """A datagram of OSC, a message or a bundle."""

    def message() -> Any:
        builder = OscMessageBuilder(
            rng.choice(("/pitch", "/temperature", "/category/inst", "/a_b", "/nothing", "/", *ORDERS))
        )
        for _ in range(rng.choice((1, 1, 1, 0, 2))):
            builder.add_arg(
                rng.choice((64, 0.5, "reed", 2**31 - 1, True, None, b"blob", "x" * 300, float("nan"), 1e38))
            )
        return builder.build()

    if rng.random() < 0.6:
        content = message().dgram
    else:
        bundle = OscBundleBuilder(IMMEDIATELY)
        for _ in range(rng.randint(0, 3)):
            bundle.add_content(message())
        content = bundle.build().dgram
        if rng.random() < 0.3:  # one within another, many times
            for _ in range(rng.choice((1, 3, 500))):
                content = content[:16] + len(content).to_bytes(4, "big") + content
    return content if rng.random() < 0.1 else mutators.mutated(content, rng)[:65_507]


def attempt_packet(content: bytes) -> str:
    """As the receiver hears it: what it understands is numbers and names, of what it does not it tells now and then."""
    set_values: list[dict[str, Any]] = []
    said: list[str] = []
    orders: list[str] = []

    def obeyed(order: str) -> int:
        orders.append(order)
        return len(orders)

    receiver = Receiver(["pitch", "a b", "inst", "temperature", "top_k"], set_values.append, obeyed, said.append)
    for _ in range(4):
        judged(lambda: receiver.datagram_received(content, ("127.0.0.1", 9000)))
    if len(said) > 3 or any(not text.strip() or len(text) > 500 for text in said):
        raise Wrong(f"said: {said}", "says too much")
    for values in set_values:
        if not all(isinstance(value, str) or abs(value) < float("inf") for value in values.values()):
            raise Wrong(f"sets {values}", "sets what is none")
    if not {*orders} <= {"start", "stop"}:
        raise Wrong(f"orders {orders}", "orders what is none")
    return "ignored" if said else "understood"


KINDS = [
    Kind("message", _json(MESSAGES), attempt_message),
    Kind("order", _json([ORDER]), attempt_order),
    Kind("osc", make_packet, attempt_packet),
]


@pytest.mark.parametrize("kind", KINDS, ids=attrgetter("name"))
def test_a_damaged_message_is_understood_or_refused(kind: Kind, tried: Callable[[Kind], None]) -> None:
    tried(kind)


def test_the_parser_of_packets_does_not_speak_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(NotUnderstood):
        asked_by(b"#bundle\0" + bytes(8) + b"\0\0\0\4none", ["p"])
    logging.getLogger().warning("ours")
    assert [record.getMessage() for record in caplog.records] == ["ours"]
