"""One page's WebSocket: messages in, blocks and answers out, until either side goes.

A voice lives in a thread of its own, which makes every call on it in turn, a block at a time: a value that is set waits
for one block at most, the event loop for none.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import traceback
from array import array
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from tierwave.errors import RunError, UsageError
from tierwave.play import protocol
from tierwave.play.instrument import BLOCK, Instrument
from tierwave.play.morph import STEP_SECONDS
from tierwave.play.voice import Voice

if TYPE_CHECKING:
    from tierwave.generation.load import Trained
    from tierwave.play.osc import Order
    from tierwave.play.osc_out import Sender

MOST_REFUSED = 50  # malformed messages in a row after which a page is sent away
PACE_SECONDS = 1.0
REFUSED = 1008  # WebSocket's code for what breaks a rule
GONE = 1006  # for a page that has gone without a word

_T = TypeVar("_T")


class Studio:
    """All pages that are open, and how many of them may play at once."""

    def __init__(self, instrument: Instrument, max_voices: int) -> None:
        self.instrument, self.max_voices = instrument, max_voices
        self.sessions: set[Session] = set()
        self.playing: set[Session] = set()
        self.ending = asyncio.Event()  # set when the server ends: long work stops
        self.sender: Sender | None = None  # told what voices do
        self.blender = ThreadPoolExecutor(1, thread_name_prefix="blend")  # computes steps between networks

    def take(self, session: Session) -> None:
        """Give a session a voice, or say that there is none left (UsageError)."""
        if session not in self.playing and len(self.playing) >= self.max_voices:
            raise UsageError(
                f"all {self.max_voices} voices that this machine carries are playing: close another page, or start the "
                "server with a larger --max_voices"
            )
        self.playing.add(session)

    def set_all(self, values: dict[str, float | str], source: str) -> None:
        """Set values in all voices that play, and report them to their pages."""
        for session in self.playing:
            session.set_soon(values, source)

    def take_over_all(self, trained: Trained, source: str) -> None:
        """Let all voices go over to another checkpoint, which also those play that are started later."""
        self.instrument.current = trained
        for session in self.sessions:
            session.take_over(trained, source)

    def refuse_all(self, sentence: str) -> None:
        """Tell all pages what could not be."""
        for session in self.sessions:
            session.refuse_soon(sentence)

    def ask_all(self, order: Order, source: str) -> int:
        """Ask all pages that are open to start or stop their voices. Returns how many there are."""
        for session in self.sessions:
            session.ask_soon(order, source)
        return len(self.sessions)


class Session:
    """A page and its voice, if it plays."""

    def __init__(self, studio: Studio, socket: WebSocket) -> None:
        self.studio, self.socket = studio, socket
        self.voice: Voice | None = None
        self.runs = 0  # voices that were started here
        self.until = 0  # samples that may be made
        self._thread: ThreadPoolExecutor | None = None
        self._more = asyncio.Event()
        self._curves: dict[str, array[float]] = {}  # of the next start, by name: seconds, value, seconds, value ...
        self._drawn = 0  # points in them
        self._soon: dict[str, float | str] = {}  # set from outside, and not in the voice yet
        self._source = ""
        self._remarked: set[str] = set()  # names whose values from outside were clipped: the page has a remark already
        self._setting: asyncio.Task[None] | None = None
        self._order: Order | None = None  # from outside, and not told to the page yet
        self._telling: asyncio.Task[None] | None = None
        self._refused = 0
        self._wanted: list[str | None] = []  # the checkpoint that the page has asked for, as long as nobody reads it
        self._reading: asyncio.Task[None] | None = None
        self._moving: asyncio.Task[None] | None = None
        self._reason: str | None = None  # who let the voice go over to another checkpoint, while it is on its way
        self._others: set[asyncio.Task[None]] = set()  # that say something to the page

    async def run(self) -> None:
        """Answer until the page goes."""
        await self.socket.accept()
        self.studio.sessions.add(self)
        player = asyncio.create_task(self._play())
        try:
            while True:
                message = await self.socket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                text = message.get("text")
                await self._answer(message.get("bytes") or b"" if text is None else text)
                if self._refused >= MOST_REFUSED:
                    await self.socket.close(REFUSED, "too many messages that are none")
                    break
        except WebSocketDisconnect:
            pass
        finally:
            for task in (player, self._reading, self._moving, *self._others):
                if task is not None:
                    task.cancel()
            self._free()
            self.studio.sessions.discard(self)

    async def _answer(self, text: str | bytes) -> None:
        try:
            message = protocol.parse(text)
        except UsageError as error:
            self._refused += 1
            await self._refuse(error, protocol.type_of(text))
            return
        self._refused = 0
        try:
            await self._do(message)
        except (UsageError, RunError) as error:
            await self._refuse(error, message.type)
        except WebSocketDisconnect:
            raise
        except Exception:
            await self._fail(message.type)

    async def _do(self, message: protocol.Message) -> None:
        voice = self.voice
        if isinstance(message, protocol.Start):
            await self._start(message)
        elif isinstance(message, protocol.Curve):
            self._draw(message)
        elif isinstance(message, protocol.Stop):
            self._free()
            await self._send({"type": "stopped"})
        elif isinstance(message, protocol.TakeOver):
            self.studio.instrument.refuse_fixed("another checkpoint")
            self._wanted = [message.checkpoint]
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read_what_is_wanted())
        elif voice is None:
            raise UsageError(f"nothing plays yet: send start before {message.type}")
        elif isinstance(message, protocol.More):
            self.until = max(self.until, message.until)
            self._more.set()
        elif isinstance(message, protocol.Set):
            change = await self._in_thread(voice.set, message.values)
            self._move()
            answer = {"sample": change.sample, "values": change.values, "remarks": list(change.remarks.values())}
            await self._send({"type": "set", "event": message.event, **answer})
        else:
            recorded = await self._in_thread(voice.record)
            *first, rest = protocol.pieces(recorded["csv"])
            for piece in first:
                await self._send({"type": "csv", "text": piece})
            await self._send({"type": "recorded", **recorded, "csv": rest})

    def _draw(self, message: protocol.Curve) -> None:
        """Keep a piece of a curve. A page that sends some takes a voice, so that few hold so much."""
        self.studio.take(self)
        self._drawn += len(message.points)
        if self._drawn > protocol.MOST_POINTS or len({*self._curves, message.name}) > protocol.MOST_NAMES:
            self._forget_curves()
            most = f"{protocol.MOST_NAMES} curves with {protocol.MOST_POINTS} points"
            raise UsageError(f"a start has {most} at most: play a shorter take")
        self._curves.setdefault(message.name, array("d")).extend(chain.from_iterable(message.points))

    def _forget_curves(self) -> None:
        self._curves, self._drawn = {}, 0

    async def _start(self, message: protocol.Start) -> None:
        instrument = self.studio.instrument
        if not instrument.is_live:
            raise UsageError(f"this run makes {instrument.kind}, whole, and is not played: use generate")
        self.studio.take(self)
        curves = {name: np.array(points).reshape(-1, 2) for name, points in self._curves.items()}
        drawn = self._drawn
        self._forget_curves()
        current = instrument.current
        try:
            if drawn != message.drawn:
                raise UsageError(f"{drawn} points of curves came before this start, and it tells of {message.drawn}")
            voice = await self._in_thread(Voice, instrument, message, curves)
        except BaseException:
            if self.voice is None:
                self._free()
            raise
        self.voice, self.until = voice, 0
        self.runs += 1
        self._reason = None
        if self.studio.sender is not None:
            self.studio.sender.started(self, voice.random_seed, voice.checkpoint)
        await self._send(
            {"type": "started", "run": self.runs, "random_seed": voice.random_seed, "remarks": voice.remarks}
        )
        self._set_what_waits()
        if instrument.current is not current:  # all voices went over while this one was started
            self.take_over(instrument.current, "watch")

    def _free(self) -> None:
        if self.voice is not None and self.studio.sender is not None:
            self.studio.sender.stopped(self)
        self.voice, self.until = None, 0
        self._forget_curves()
        self._soon.clear()
        self.studio.playing.discard(self)
        if self._thread is not None:
            self._thread.shutdown(wait=False)  # a block that is being made is made
            self._thread = None

    # ---- playing ---------------------------------------------------------------------------------------------------

    async def _play(self) -> None:
        """Make blocks as long as some are wanted."""
        reported = time.monotonic()
        while True:
            voice, run = self.voice, self.runs
            if voice is None or voice.made >= self.until:
                self._more.clear()
                await self._more.wait()
                continue
            first = voice.made
            count = min(BLOCK, self.until - first)
            try:
                sender = self.studio.sender
                samples, values = await self._in_thread(_made, voice, count, sender is not None)
                if voice is self.voice:
                    if sender is not None:
                        sender.made(self, samples, values, voice.pace.late_blocks)
                    await self._send(protocol.block(run, first, samples))
                now = time.monotonic()
                if now - reported >= PACE_SECONDS:
                    reported = now
                    pace = voice.pace
                    await self._send({"type": "pace", "speed": pace.speed, "late_blocks": pace.late_blocks})
            except WebSocketDisconnect:
                return
            except Exception:
                await self._fail()

    def set_soon(self, values: dict[str, float | str], source: str) -> None:
        """Set values from outside; what comes while others are being set, or a voice is being started, is set together,
        the newest of each name."""
        self._soon.update(values)
        self._source = source
        self._set_what_waits()

    def _set_what_waits(self) -> None:
        if self._soon and (self._setting is None or self._setting.done()):
            self._setting = asyncio.create_task(self._set_soon())

    async def _set_soon(self) -> None:
        try:
            while self._soon and (voice := self.voice) is not None:
                values, self._soon = self._soon, {}
                await self._hand_on(voice, values)
                if self.voice is not None and self.voice is not voice:  # another began: it is to have them too
                    self._soon = {**values, **self._soon}
        except WebSocketDisconnect:
            pass
        except Exception:
            await self._fail()

    async def _hand_on(self, voice: Voice, values: dict[str, float | str]) -> None:
        try:
            change = await self._in_thread(voice.set, values)
        except UsageError as error:
            if len(values) == 1:
                await self._refuse(error)
                return
            for name, value in values.items():  # those that can be are set
                await self._hand_on(voice, {name: value})
            return
        self._move()
        remarks = [remark for name, remark in change.remarks.items() if name not in self._remarked]
        self._remarked.update(change.remarks)
        await self._send({"type": "values", "values": change.values, "source": self._source, "remarks": remarks})

    def ask_soon(self, order: Order, source: str) -> None:
        """Ask the page to start or stop its voice; of orders that come faster than they can be told, the newest."""
        self._order, self._source = order, source
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell_order())

    async def _tell_order(self) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            while self._order is not None:
                order, self._order = self._order, None
                await self._send({"type": "asked", "order": order, "source": self._source})

    async def _in_thread(self, call: Callable[..., _T], *arguments: Any) -> _T:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="voice")
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    # ---- other weights ---------------------------------------------------------------------------------------------

    async def _read_what_is_wanted(self) -> None:
        """Read the checkpoint that the page has asked for last, and go over to it."""
        instrument = self.studio.instrument
        while self._wanted:
            (wanted,) = self._wanted
            self._wanted, run = [], self.runs
            try:
                read = instrument.newest if wanted is None else partial(instrument.at, wanted)
                trained = await asyncio.to_thread(read)
            except (UsageError, RunError) as error:
                self.refuse_soon(error, "take_over")
            except Exception:
                traceback.print_exc()
                self.refuse_soon("the checkpoint cannot be read: the server's terminal says why", "take_over")
            else:
                if run == self.runs:
                    self.take_over(trained, "page")
                elif self.voice is not None:  # one that has begun since then, with a checkpoint of its own
                    self._tell(self._tell_what_plays, self.voice.checkpoint, "page")

    def take_over(self, trained: Trained, source: str) -> None:
        """Let the voice go over to another checkpoint, and tell the page when it has, or at once where none plays."""
        voice = self.voice
        if voice is None or voice.morph.base is trained.models:
            self._tell(self._tell_what_plays, trained.path.name, source)
            return
        voice.take_over(trained)
        self._reason = source
        self._move()

    def _move(self) -> None:
        """Let the networks of the voice go where they are to go, if nothing does so already."""
        if self._moving is None or self._moving.done():
            self._moving = asyncio.create_task(self._move_on())

    async def _move_on(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while (voice := self.voice) is not None and not voice.morph.has_arrived:
                ready = loop.time() + STEP_SECONDS
                networks = await loop.run_in_executor(self.studio.blender, voice.morph.advance)
                if voice is not self.voice:
                    continue
                await self._in_thread(voice.replace, networks)
                if voice is self.voice and voice.morph.has_arrived and self._reason is not None:
                    source, self._reason = self._reason, None
                    if self.studio.sender is not None:
                        self.studio.sender.taken_over(self, voice.checkpoint)
                    await self._tell_what_plays(voice.checkpoint, source)
                await asyncio.sleep(ready - loop.time())
        except WebSocketDisconnect:
            pass
        except Exception:
            await self._fail()

    async def _tell_what_plays(self, checkpoint: str, source: str) -> None:
        try:
            there = await asyncio.to_thread(self.studio.instrument.checkpoints)
        except RunError as error:
            await self._refuse(error)
            return
        await self._send({"type": "plays", "checkpoint": checkpoint, "checkpoints": there, "source": source})

    # ---- answers ---------------------------------------------------------------------------------------------------

    async def _send(self, content: dict[str, Any] | bytes) -> None:
        """A message or a block. Raises WebSocketDisconnect where the page has gone."""
        if self.socket.application_state is not WebSocketState.CONNECTED:  # an earlier call has noticed
            raise WebSocketDisconnect(GONE)
        if isinstance(content, bytes):
            await self.socket.send_bytes(content)
        else:
            await self.socket.send_text(json.dumps(content, allow_nan=False))

    async def _refuse(self, error: Exception | str, to: str | None = None) -> None:
        await self._send({"type": "error", "to": to, "message": str(error)})

    def refuse_soon(self, error: Exception | str, to: str | None = None) -> None:
        """Tell the page what could not be."""
        self._tell(self._refuse, error, to)

    def _tell(self, say: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
        """Say something to the page that is no answer."""

        async def tell() -> None:
            with contextlib.suppress(WebSocketDisconnect):
                await say(*arguments)

        task = asyncio.create_task(tell())
        self._others.add(task)
        task.add_done_callback(self._others.discard)

    async def _fail(self, to: str | None = None) -> None:
        """A fault of ours: its traceback goes to the terminal, and the page goes on without its voice."""
        traceback.print_exc()
        self._free()
        with contextlib.suppress(WebSocketDisconnect):
            await self._refuse("the voice has failed: the server's terminal says why", to)


def _made(voice: Voice, count: int, reads_values: bool) -> tuple[np.ndarray, dict[str, float]]:
    """The next samples and, if they are wanted, the values that steer the last of them."""
    samples = voice.render(count)
    return samples, voice.current() if reads_values else {}
