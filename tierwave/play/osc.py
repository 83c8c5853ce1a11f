"""Controls over OSC, from Max, Pd, SuperCollider ...: `/pitch 64`, `/temperature 0.9`, `/category/inst "reed"`.

Datagrams on loopback, single messages or bundles, whose times are passed over: all is done at once. Slashes and
whatever else has no place in an OSC address are written as underscores. Packets that set nothing are counted, reported
now and then, and otherwise ignored.
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
from typing import Any

from pythonosc.osc_packet import OscPacket

Values = dict[str, float | str]


def _is_not_of_the_parser(record: logging.LogRecord) -> bool:
    return "pythonosc" not in PurePath(record.pathname).parts


# The parser logs every wrong packet as a warning of the root logger: many of them would flood the terminal.
logging.getLogger().addFilter(_is_not_of_the_parser)


class NotUnderstood(ValueError):
    """A packet that sets nothing."""


def values_of(datagram: bytes, names: Sequence[str]) -> Values:
    """What a packet sets, by the names of parameters. Raises NotUnderstood."""
    spelt = {re.sub(r"[\s#*,/?\[\]{}]", "_", name): name for name in names}
    try:
        messages = [timed.message for timed in OscPacket(datagram).messages]
    except Exception as error:  # whatever the parser raises over strangers' bytes
        raise NotUnderstood(f"{type(error).__name__}: {error}") from None
    found: Values = {}
    for message in messages:
        name = spelt.get(message.address.removeprefix("/category").removeprefix("/"))
        if name is None:
            name = spelt.get(message.address.removeprefix("/"))
        if name is None:
            raise NotUnderstood(f"{message.address[:60]} is no control: there are {', '.join(spelt)}")
        if len(message.params) != 1:
            raise NotUnderstood(f"{message.address} has {len(message.params)} values: send one")
        found[name] = _value(message.address, message.params[0])
    return found


def _value(address: str, value: Any) -> float | str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise NotUnderstood(f"{address} is {str(value)[:60]}: send a number, or the name of a category")


class Receiver(asyncio.DatagramProtocol):
    """Hands on what packets set; the 1st, 2nd, 4th, 8th ... that sets nothing is reported by `say`."""

    def __init__(self, names: Sequence[str], hand_on: Callable[[Values], None], say: Callable[[str], None]) -> None:
        self.names, self.hand_on, self.say = names, hand_on, say
        self.ignored = 0

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """One packet."""
        try:
            values = values_of(data, self.names)
            if not values:  # a bundle of nothing, or of what the parser passes over
                raise NotUnderstood("a bundle without a message")
            self.hand_on(values)
        except NotUnderstood as error:
            self.ignored += 1
            if self.ignored & (self.ignored - 1) == 0:
                self.say(f"OSC: {self.ignored} ignored; the last: {error}")


@contextlib.asynccontextmanager
async def listening(
    own: socket.socket, names: Sequence[str], hand_on: Callable[[Values], None], say: Callable[[str], None]
) -> AsyncIterator[None]:
    """Receive on a bound UDP socket."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: Receiver(names, hand_on, say), sock=own)
    try:
        yield
    finally:
        transport.close()
