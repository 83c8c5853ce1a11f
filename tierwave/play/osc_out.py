"""What voices do, over OSC, for Max, Pd, SuperCollider ...: levels, values and events.

    /pitch 64.0 1                          a control, under the address that sets it (`osc.address_of`)
    /category/inst "reed" 1                a category that has names
    /voice/level -18.2 1                   RMS in dBFS
    /voice/started "7" "model.ckpt-3" 1    random seed, as text: Pd's numbers hold 24 bits only; checkpoint
    /voice/checkpoint "model.ckpt-4" 1     another checkpoint has been taken over
    /voice/stopped 1
    /voice/late 3 1                        blocks so far that took longer to make than they last

The last argument is always the voice, from 1: the lowest number that was free when it started. A message is a datagram
of its own. Voices only leave word here, and one task sends what is due, so that no voice waits for the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import time
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from pythonosc.osc_message_builder import OscMessageBuilder

from tierwave.controls.live import LIVE_NAMES
from tierwave.controls.schema import Parameter
from tierwave.play.osc import address_of

TICK_SECONDS = 0.025  # between looks at what is due, and so between two values of one control
LEVEL_SECONDS = 0.05
LOWEST_LEVEL = -120.0  # dBFS, of silence too

LEVEL, STARTED, STOPPED, LATE = "/voice/level", "/voice/started", "/voice/stopped", "/voice/late"
TAKEN_OVER = "/voice/checkpoint"

_EARLY = 0.2 * TICK_SECONDS  # by which a tick may come, and a level be sent with it nevertheless


@dataclass
class _Heard:
    """What was left about a voice since something was sent. level_at: when its level is due."""

    number: int
    level_at: float = 0.0
    energy: float = 0.0
    samples: int = 0
    late: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    sent: dict[str, float | str] = field(default_factory=dict)  # by address


class Sender:
    """Sends what voices do. line: a UDP socket that is connected and does not block; parameters: the controls whose
    values are sent; say: told once if nobody receives. Voices are known by any key that is theirs alone."""

    def __init__(self, line: socket.socket, parameters: Sequence[Parameter], say: Callable[[str], None]) -> None:
        self.line, self.say = line, say
        self.parameters = {name: Parameter(name=name) for name in LIVE_NAMES} | {each.name: each for each in parameters}
        self._voices: dict[Hashable, _Heard] = {}
        self._has_failed = False

    # ---- what voices tell ------------------------------------------------------------------------------------------

    def started(self, key: Hashable, random_seed: int, checkpoint: str) -> None:
        """A voice begins, or begins again, under the number that it has."""
        there = self._voices.get(key)
        taken = {voice.number for voice in self._voices.values()}
        number = there.number if there else next(n for n in range(1, len(taken) + 2) if n not in taken)
        self._voices[key] = _Heard(number)
        self._send(STARTED, str(random_seed), checkpoint, number)

    def taken_over(self, key: Hashable, checkpoint: str) -> None:
        """A voice plays another checkpoint."""
        self._send(TAKEN_OVER, checkpoint, self._voices[key].number)

    def made(
        self, key: Hashable, samples: npt.NDArray[np.float32], values: Mapping[str, float], late_blocks: int
    ) -> None:
        """A voice has made float32 `[samples]`; values: raw, by name, at the last of them; late_blocks: so far."""
        voice = self._voices[key]
        voice.energy += float(np.dot(samples, samples))
        voice.samples += len(samples)
        voice.values = values
        voice.late = late_blocks

    def stopped(self, key: Hashable) -> None:
        """A voice has ended."""
        voice = self._voices.pop(key)
        self._send(LEVEL, LOWEST_LEVEL, voice.number)  # or a meter would stand where it was
        self._send(STOPPED, voice.number)

    # ---- what is sent ----------------------------------------------------------------------------------------------

    def send_what_is_due(self, now: float) -> None:
        """Send levels, and what has changed. now: a time in seconds; call it every `TICK_SECONDS`."""
        for voice in self._voices.values():
            for name, value in voice.values.items():
                if name in self.parameters:
                    self._send_changed(voice, *self._message(self.parameters[name], value))
            if voice.late:
                self._send_changed(voice, LATE, voice.late)
            if voice.samples and now >= voice.level_at - _EARLY:
                power = voice.energy / voice.samples
                level = 10 * math.log10(power) if power > 0 else LOWEST_LEVEL
                self._send(LEVEL, max(LOWEST_LEVEL, level), voice.number)
                voice.level_at, voice.energy, voice.samples = now + LEVEL_SECONDS, 0.0, 0

    def _send_changed(self, voice: _Heard, address: str, value: float | str) -> None:
        if voice.sent.get(address) != value:
            voice.sent[address] = value
            self._send(address, value, voice.number)

    def _message(self, parameter: Parameter, value: float) -> tuple[str, float | str]:
        address, category = address_of(parameter.name), parameter.name_of(value)
        return (address, float(value)) if category is None else (f"/category{address}", category)

    def _send(self, address: str, *arguments: float | str) -> None:
        message = OscMessageBuilder(address)
        for argument in arguments:
            message.add_arg(argument)
        datagram = message.build().dgram
        try:
            try:
                self.line.send(datagram)
            except ConnectionError:  # of an earlier one, which nobody has taken: this one has not been sent
                self.line.send(datagram)
                raise
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                self.say(
                    f"OSC to {self.receiver} does not arrive ({error.strerror}): start what receives it. Voices play "
                    "on, and sending goes on."
                )

    @property
    def receiver(self) -> str:
        """Address and port of the receiver."""
        host, port, *_ = self.line.getpeername()
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextlib.asynccontextmanager
async def sending(
    line: socket.socket, parameters: Sequence[Parameter], say: Callable[[str], None]
) -> AsyncIterator[Sender]:
    """A `Sender` and its task."""
    line.setblocking(False)
    sender = Sender(line, parameters, say)

    async def send() -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            sender.send_what_is_due(time.monotonic())

    task = asyncio.create_task(send())
    try:
        yield sender
    finally:
        task.cancel()
