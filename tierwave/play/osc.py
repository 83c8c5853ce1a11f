"""Controls over OSC, from Max, Pd, SuperCollider ...: `/pitch 64`, `/temperature 0.9`, `/category/inst "reed"`; and
`/voice/start`, `/voice/stop`, which the pages that are open obey.

Datagrams on loopback, single messages or bundles, whose times are passed over: all is done at once. Slashes and
whatever else has no place in an OSC address are written as underscores, so that no control lies below `/voice/`.
Packets that ask for nothing are counted, reported now and then, and otherwise ignored. What is sent: `osc_out`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import PurePath
from typing import Any, Literal, NamedTuple

from pythonosc.osc_packet import OscPacket

Values = dict[str, float | str]
Order = Literal["start", "stop"]
ORDERS: dict[str, Order] = {"/voice/start": "start", "/voice/stop": "stop"}


def _is_not_of_the_parser(record: logging.LogRecord) -> bool:
    return "pythonosc" not in PurePath(record.pathname).parts


# The parser logs every wrong packet as a warning of the root logger: many of them would flood the terminal.
logging.getLogger().addFilter(_is_not_of_the_parser)


class NotUnderstood(ValueError):
    """A packet that asks for nothing."""


class Asked(NamedTuple):
    """What a packet asks for. values: by the names of parameters; order: the last one in it."""

    values: Values
    order: Order | None


def address_of(name: str) -> str:
    """The address of a parameter."""
    return "/" + re.sub(r"[\s#*,/?\[\]{}]", "_", name)


def asked_by(datagram: bytes, names: Sequence[str]) -> Asked:
    """What a packet asks for, where there are parameters of these `names`. Raises NotUnderstood."""
    meant = {address_of(name): name for name in names}
    try:
        messages = [timed.message for timed in OscPacket(datagram).messages]
    except Exception as error:  # whatever the parser raises over strangers' bytes
        raise NotUnderstood(f"{type(error).__name__}: {error}") from None
    if not messages:  # nothing, or what the parser passes over
        raise NotUnderstood("a bundle without a message")
    values: Values = {}
    order: Order | None = None
    for message in messages:
        address = "/" + message.address.removeprefix("/")
        if address in ORDERS:
            if message.params != [0]:  # a button that is let go
                order = ORDERS[address]
            continue
        name = meant.get(address.removeprefix("/category")) or meant.get(address)
        if name is None:
            there = ", ".join([*meant, *ORDERS])
            raise NotUnderstood(f"{address[:60]} is no control: there are {there}")
        if len(message.params) != 1:
            raise NotUnderstood(f"{address} has {len(message.params)} values: send one")
        values[name] = _value(address, message.params[0])
    return Asked(values, order)


def _value(address: str, value: Any) -> float | str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise NotUnderstood(f"{address} is {str(value)[:60]}: send a number, or the name of a category")


class Receiver(asyncio.DatagramProtocol):
    """Hands on what packets ask for; the 1st, 2nd, 4th, 8th ... that asks for nothing is reported by `say`.

    obey: hands an order to all pages, and returns how many there are.
    """

    def __init__(
        self,
        names: Sequence[str],
        hand_on: Callable[[Values], None],
        obey: Callable[[Order], int],
        say: Callable[[str], None],
    ) -> None:
        self.names, self.hand_on, self.obey, self.say = names, hand_on, obey, say
        self.ignored = 0

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """One packet."""
        try:
            values, order = asked_by(data, self.names)
            if values:
                self.hand_on(values)
            if order is not None and not self.obey(order):
                raise NotUnderstood(f"/voice/{order} finds no page: open the one whose address was printed")
        except NotUnderstood as error:
            self.ignored += 1
            if self.ignored & (self.ignored - 1) == 0:
                self.say(f"OSC: {self.ignored} ignored; the last: {error}")


@contextlib.asynccontextmanager
async def listening(
    own: socket.socket,
    names: Sequence[str],
    hand_on: Callable[[Values], None],
    obey: Callable[[Order], int],
    say: Callable[[str], None],
) -> AsyncIterator[None]:
    """Receive on a bound UDP socket; what is handed on: `Receiver`."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: Receiver(names, hand_on, obey, say), sock=own)
    try:
        yield
    finally:
        transport.close()
