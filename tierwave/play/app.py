"""The server over HTTP: its routes, and whom it answers.

    GET  /              the page; /page/NAME what belongs to it
    GET  /api/run       the run as JSON (`Instrument.document`), with "max_voices", "largest_message" and "most_points"
    POST /api/generate  a JSON object (`offline.Order`) -> audio/wav with the headers X-Random-Seed, X-Checkpoint,
                        X-Speed and, where values are clipped, X-Remarks (sentences, as JSON), or JSON of a run that
                        makes curves; 400 or 500 {"error": sentence}. One at a time.
    /ws                 the page's WebSocket (`protocol`)

Only pages of this server are answered: another site that a browser shows may reach loopback too, under its own name
(`Origin`) or under one that it has pointed here (`Host`, DNS rebinding). Programs send no Origin, and may ask for all
but the WebSocket.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import json
import mimetypes
import socket as sockets
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketClose

from tierwave.config import validate
from tierwave.errors import RunError, UsageError
from tierwave.play.instrument import Instrument
from tierwave.play.offline import Made, Order, Stopped, make
from tierwave.play.protocol import LARGEST_MESSAGE, MOST_POINTS, parse_object
from tierwave.play.session import Session, Studio

PAGE = Path(__file__).parent / "page"
LOOPBACK = ("127.0.0.1", "localhost", "::1")

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}

mimetypes.add_type("text/javascript", ".js")  # a worklet of another type is refused, and some systems say another


def build_app(
    studio: Studio,
    *,
    host: str = LOOPBACK[0],
    started: Callable[[Studio], contextlib.AbstractAsyncContextManager[None]] | None = None,
) -> ASGIApp:
    """The server's application. host: what it listens on; started: what runs as long as it does."""
    workshop = ThreadPoolExecutor(1, thread_name_prefix="generate")  # one sound at a time, others wait

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        gc.freeze()  # TensorFlow's half a million objects: a full collection takes a second, and no voice plays in it
        try:
            async with started(studio) if started is not None else contextlib.nullcontext():
                yield
        finally:
            gc.unfreeze()
            for threads in (workshop, studio.blender):
                threads.shutdown(wait=False, cancel_futures=True)

    async def index(_: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    async def run(_: Request) -> Response:
        limits = {"largest_message": LARGEST_MESSAGE, "most_points": MOST_POINTS}
        document = await asyncio.to_thread(studio.instrument.document)  # which reads files, and no voice waits for it
        return JSONResponse({**document, "max_voices": studio.max_voices, **limits})

    async def generate(request: Request) -> Response:
        try:
            order = validate(Order, parse_object(await _body(request)), "generate")
            made = await _unless_gone(request, studio.ending, _made(workshop, studio.instrument, order))
        except (UsageError, RunError) as error:
            return JSONResponse({"error": str(error)}, 400)
        except Stopped:
            return JSONResponse({"error": "the server is stopped"}, 503)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except Exception:  # a fault of ours
            traceback.print_exc()
            return JSONResponse({"error": "the sound has failed: the server's terminal says why"}, 500)
        if made.wav is None:
            return JSONResponse(made.document())
        about = {
            "X-Random-Seed": str(made.random_seed),
            "X-Checkpoint": made.checkpoint,
            "X-Speed": f"{made.speed:.3f}",
            **({"X-Remarks": json.dumps(made.remarks)} if made.remarks else {}),
        }
        return Response(made.wav, media_type="audio/wav", headers=about)

    async def play(socket: WebSocket) -> None:
        await Session(studio, socket).run()

    routes = [
        Route("/", index),
        Mount("/page", StaticFiles(directory=PAGE)),
        Route("/api/run", run),
        Route("/api/generate", generate, methods=["POST"]),
        WebSocketRoute("/ws", play),
    ]
    return Guard(Starlette(routes=routes, lifespan=lifespan), hosts_of(host))


# ---- generating ------------------------------------------------------------------------------------------------------


async def _body(request: Request) -> bytes:
    """The body of a request, if it is JSON and not too long; UsageError otherwise."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise UsageError("what is to be generated is told as JSON: send it as application/json")
    found = bytearray()
    async for piece in request.stream():
        found += piece
        if len(found) > LARGEST_MESSAGE:  # stop reading
            raise UsageError(f"what is to be generated is told in {LARGEST_MESSAGE} bytes at most: send less")
    return bytes(found)


async def _made(workshop: ThreadPoolExecutor, instrument: Instrument, order: Order) -> Made:
    """Make it in the workshop's thread, and stop there too when this is cancelled."""
    stopped = threading.Event()
    try:
        return await asyncio.get_running_loop().run_in_executor(workshop, make, instrument, order, stopped)
    finally:
        stopped.set()


async def _unless_gone(request: Request, ending: asyncio.Event, making: Coroutine[Any, Any, Made]) -> Made:
    """The result of `making`, unless the client leaves (ClientDisconnect) or the server ends (Stopped) first."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task = asyncio.create_task(making)
    ends = [asyncio.create_task(gone()), asyncio.create_task(ending.wait())]
    try:
        await asyncio.wait([task, *ends], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Stopped if ending.is_set() else ClientDisconnect
        return task.result()
    finally:
        for each in (task, *ends):
            each.cancel()


# ---- who is answered -------------------------------------------------------------------------------------------------


def hosts_of(host: str) -> Callable[[str], bool]:
    """Whether a name in a URL may mean a server that listens on `host`: loopback's, `host` itself; of a server that
    listens everywhere any address of numbers, which no foreign site can be shown under, and this machine's name."""
    bare = host.lower().strip("[]")
    names = {*LOOPBACK, bare}
    everywhere = _is_address(bare) and ipaddress.ip_address(bare).is_unspecified
    if everywhere:
        own = sockets.gethostname().lower()
        names |= {own, f"{own}.local"}

    def known(name: str) -> bool:
        return name in names or (everywhere and _is_address(name))

    return known


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """Refuses requests that do not come from this server's own page, and adds security headers to every answer."""

    def __init__(self, app: ASGIApp, known: Callable[[str], bool]) -> None:
        self.app, self.known = app, known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        fault = self.fault(Headers(scope=scope), socket=scope["type"] == "websocket")
        if fault is not None and scope["type"] == "websocket":
            await WebSocketClose(reason=fault)(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        app = self.app if fault is None else PlainTextResponse(fault, 403)
        await app(scope, receive, guarded)

    def fault(self, headers: Headers, *, socket: bool) -> str | None:
        """Why a request is refused; None if it is not."""
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or not self.known(_name(hosts[0])):
            return "This server is asked for under a name that is not its own: use the address that it has printed."
        if socket and not origins:
            return "A WebSocket is opened by this server's own page only: send its Origin."
        if origins and origins != [f"http://{hosts[0]}"]:
            return "Another site's page asks: only this server's own may."
        return None


def _name(host: str) -> str:
    """The name in a Host header, "" if it is none."""
    try:
        parts = urlsplit(f"//{host}")
        parts.port  # noqa: B018 (raises where it is no number)
        plain = not (parts.path or parts.query or parts.fragment or "@" in host)
        return (parts.hostname or "") if plain else ""
    except ValueError:
        return ""
