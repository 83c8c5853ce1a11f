"""Play a trained network on a web page: `python -m tierwave play logdir/notes`.

Parses, calls, prints.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import socket
import sys
import time
import warnings
import webbrowser
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from tierwave.cli.flags import FlagParser, optional
from tierwave.cli.running import loading
from tierwave.errors import RunError, UsageError
from tierwave.nn.runtime import import_tensorflow
from tierwave.system.signals import ENDING, handled

NEEDED = {"starlette": "Starlette", "uvicorn": "uvicorn", "websockets": "websockets", "pythonosc": "python-osc"}
_MAKES = {"steered": "sound", "sound": "sound", "values": "curves of controls", "spectrogram": "spectrograms"}
GRACE_SECONDS = 1  # for which a server that is stopped waits for pages to close


def parser() -> FlagParser:
    """All flags of `python -m tierwave play`."""
    flags = FlagParser("tierwave play", description="Play a trained network on a web page.")
    flags.add_argument("run", metavar="RUN", type=Path, help="a checkpoint, its .index file, a run or an id's folder")
    flags.add_switch("--best", help="use the best checkpoint of a folder, not the newest")
    flags.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    flags.add_argument("--port", type=int, default=8765, help="port to listen on; 0: any free port (default: 8765)")
    flags.add_argument("--osc", type=optional(int), metavar="PORT", help="also receive OSC on this loopback UDP port")
    flags.add_argument(
        "--osc_to",
        type=optional(str),
        metavar="[HOST:]PORT",
        help="also send levels, values and events by OSC to this UDP port (default host: 127.0.0.1, this machine)",
    )
    flags.add_switch("--watch", help="take over checkpoints that training writes meanwhile, while the sound goes on")
    flags.add_argument(
        "--blend",
        type=optional(Path),
        metavar="OTHER",
        help="also blend this run's weights in, of the same architecture and controls, by a slider on the page",
    )
    flags.add_switch("--open", help="open the page in a browser")
    flags.add_argument(
        "--max_voices", type=optional(int), metavar="N", help="how many pages may play at once (default: as measured)"
    )
    flags.add_argument(
        "--weights",
        choices=("auto", "float32", "bfloat16", "int8", "tensorflow"),
        default="auto",
        help="how weights are stored while sound is made; tensorflow: by TensorFlow (default: auto)",
    )
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, serve until Ctrl-C, return the exit code."""
    return parser().run(_play, argv)


def _play(arguments: Any) -> None:
    missing = [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(
            f"the page needs {', '.join(missing)}: pip install 'tierwave[play]', or pip install -e '.[play]'"
        )
    if arguments.max_voices is not None and arguments.max_voices < 1:
        raise UsageError(f"--max_voices {arguments.max_voices} lets nobody play: give 1 or more")
    with contextlib.ExitStack() as opened:
        # Before minutes go by until networks are compiled.
        listener = opened.enter_context(_bound(arguments.host, arguments.port, "--port", socket.SOCK_STREAM))
        osc = None
        if arguments.osc is not None:
            osc = opened.enter_context(_bound("127.0.0.1", arguments.osc, "--osc", socket.SOCK_DGRAM))
        osc_out = None
        if arguments.osc_to is not None:
            osc_out = opened.enter_context(_connected(arguments.osc_to, "--osc_to"))
            if osc is not None and osc.getsockname() == osc_out.getpeername():
                raise UsageError(
                    f"--osc_to {arguments.osc_to} is the port on which --osc receives: give the one on which your "
                    "other program receives"
                )
        _serve(arguments, listener, osc, osc_out)


def _bound(host: str, port: int, flag: str, kind: socket.SocketKind) -> socket.socket:
    """A socket on a port; UsageError or RunError that says why there is none."""
    if not 0 <= port < 65536:
        raise UsageError(f"{flag} {port} is no port: give one from 1 to 65535, or 0 for any that is free")
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=kind, flags=socket.AI_PASSIVE)[0]
    except OSError:
        raise UsageError(f"--host {host} is no address of this machine: give 127.0.0.1, or 0.0.0.0 for all") from None
    found = socket.socket(family, kind)
    try:
        if kind is socket.SOCK_STREAM and sys.platform != "win32":  # where it means that two may listen
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        if kind is socket.SOCK_STREAM:
            found.listen()
    except OSError as error:
        found.close()
        raise RunError(
            f"{host}:{port} cannot be listened on ({error.strerror}): give {flag} another port, or end what holds it"
        ) from None
    return found


def _connected(receiver: str, flag: str) -> socket.socket:
    """A UDP socket that sends to `[HOST:]PORT`; UsageError or RunError that says why there is none."""
    host, colon, digits = receiver.rpartition(":")
    if not (digits.isascii() and digits.isdigit()):
        raise UsageError(
            f"{flag} {receiver} names no port: give HOST:PORT, as in 192.168.1.20:9001, or a port of this machine alone"
        )
    if len(digits) > 5 or not 0 < int(digits) < 65536:
        raise UsageError(f"{flag} {receiver}: {digits} is no port: give one from 1 to 65535")
    bare = host.strip("[]")
    if (colon and not bare) or (":" in bare and not host.startswith("[")):
        raise UsageError(f"{flag} {receiver}: {host!r} is no host: give a name, an address such as 127.0.0.1, or [::1]")
    try:
        found = socket.getaddrinfo(bare or "127.0.0.1", int(digits), type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: what can be no name
        raise UsageError(
            f"{flag} {receiver}: no host of the name {bare} is found ({getattr(error, 'strerror', None) or error}): "
            "give a name that this machine knows, or an address such as 127.0.0.1"
        ) from None
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)  # where most programs receive
    line = socket.socket(family, socket.SOCK_DGRAM)
    try:
        line.connect(address)
    except OSError as error:
        line.close()
        raise RunError(
            f"{flag} {receiver} cannot be sent to ({error.strerror}): give the address of one machine that this one "
            "reaches"
        ) from None
    return line


def _serve(arguments: Any, listener: socket.socket, osc: socket.socket | None, osc_out: socket.socket | None) -> None:
    with loading():
        import uvicorn

        from tierwave.controls.live import LIVE_NAMES
        from tierwave.controls.schema import ControlWarning
        from tierwave.generation.load import needs_tensorflow
        from tierwave.play.app import LOOPBACK, build_app
        from tierwave.play.instrument import Instrument
        from tierwave.play.osc import ORDERS, address_of, listening
        from tierwave.play.osc_out import sending
        from tierwave.play.protocol import LARGEST_MESSAGE
        from tierwave.play.session import Studio
        from tierwave.play.watch import watching

        warnings.filterwarnings("ignore", category=ControlWarning)  # pages are told, by a remark
        began = time.perf_counter()
        if needs_tensorflow(arguments.run, arguments.weights):
            import_tensorflow(debug=arguments.debug)
        instrument = Instrument(arguments.run, best=arguments.best, weights=arguments.weights, other=arguments.blend)
        if arguments.watch:
            instrument.refuse_fixed("--watch")
        instrument.trained.prepare(lambda line: print(line, flush=True))
        instrument.warm_up()
    took = time.perf_counter() - began
    studio = Studio(instrument, arguments.max_voices or instrument.voices)
    names = list(dict.fromkeys([*(each.name for each in instrument.live_parameters), *LIVE_NAMES]))
    about = f", steered by {', '.join(instrument.schema.names)}" if instrument.schema.names else ""
    print(f"{instrument.trained.path}: {_MAKES[instrument.kind]}{about}")
    if instrument.other is not None:
        print(f"Blended with {instrument.other.path}")
    if instrument.is_live:
        carried = f"{instrument.speed:.1f} x real time, {studio.max_voices} voice(s) at once"
        print(f"Loaded and compiled in {took:.0f} s; {carried}")
    if instrument.warning is not None:
        print(f"Warning: {instrument.warning}")

    def say(line: str) -> None:
        print(line, flush=True)

    @contextlib.asynccontextmanager
    async def started(studio: Studio) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as open_ones:
            if osc_out is not None:
                sender = sending(osc_out, instrument.live_parameters, say)
                studio.sender = await open_ones.enter_async_context(sender)
                say(f"OSC to {studio.sender.receiver}: levels, values and events of voices")
            if osc is not None:
                hand_on = lambda values: studio.set_all(values, "osc")  # noqa: E731
                obey = lambda order: studio.ask_all(order, "osc")  # noqa: E731
                await open_ones.enter_async_context(listening(osc, names, hand_on, obey, say))
                say(f"OSC on 127.0.0.1:{osc.getsockname()[1]}: {', '.join([*map(address_of, names), *ORDERS])}")
            if arguments.watch:
                await open_ones.enter_async_context(watching(studio, say))
                say(f"Newer checkpoints of {instrument.trained.run.folder} are taken over")
            if arguments.host.strip("[]") not in LOOPBACK:
                say(
                    "Warning: pages and server talk without password or encryption: whoever reaches this address can "
                    "play and generate. Use it on a network that you trust."
                )
            url = f"http://{_shown(arguments.host)}:{listener.getsockname()[1]}/"
            say(f"Play at {url} (Ctrl-C ends it)")
            if arguments.open:
                webbrowser.open(url)
            yield

    class Server(uvicorn.Server):
        """One that a closed terminal ends as Ctrl-C does, and that lets go of what is being generated."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            with super().capture_signals(), handled(ENDING, self.handle_exit):
                yield

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            studio.ending.set()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        build_app(studio, host=arguments.host, started=started),
        log_level="info" if arguments.debug else "warning",
        ws_max_size=LARGEST_MESSAGE,
        ws_per_message_deflate=False,  # sound is not made smaller by it, only later
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
    )
    try:
        Server(config).run(sockets=[listener])
    finally:
        gc.freeze()  # what is left ends with the process, and looking through it takes a second


def _shown(host: str) -> str:
    """The host as a browser on this machine takes it."""
    bare = host.strip("[]")
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bare, bare)
    return f"[{name}]" if ":" in name else name
