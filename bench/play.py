"""From a slider to the sound: a real server, and pages over WebSockets on loopback that play by the clock.

A page asks for sound up to a lead ahead of what it has played, like the browser's, and moves a slider now and then.
received: from `set` to the block that carries the value; heard: to the moment at which it is played. late: blocks that
came after they should have been played, each a gap that is heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

RATE = 16000
TO_REACH_SECONDS = 0.15  # from slider to sound, 95th percentile
ASK_SECONDS = 0.01  # from one look at the clock to the next
MOVE_SECONDS = 0.12  # from one slider's move to the next, on average


def measure(
    pages: int = 1, seconds: float = 60.0, hidden: int = 48, layers: int = 4, lead: float | None = None
) -> list[dict[str, Any]]:
    """One case: `pages` play at once. lead: seconds of sound that lie ready, None for the server's own."""
    with tempfile.TemporaryDirectory() as folder, _server(_run(Path(folder), hidden, layers), pages) as port:
        found, lead = asyncio.run(_play(port, pages, seconds, lead))
    received = np.concatenate([each.received for each in found])
    heard = np.concatenate([each.heard for each in found])
    return [
        {
            "benchmark": "play",
            "config": f"{layers} x {hidden}, {pages} page(s)",
            "seconds": seconds,
            "lead_ms": 1000 * lead,
            "moves": len(heard),
            "received_ms_median": 1000 * float(np.median(received)),
            "received_ms_p95": 1000 * float(np.quantile(received, 0.95)),
            "heard_ms_p95": 1000 * float(np.quantile(heard, 0.95)),
            "heard_ms_max": 1000 * float(heard.max()),
            "blocks": sum(each.blocks for each in found),
            "late_blocks": sum(each.late for each in found),
            "speed": min(each.speed for each in found),
            "ratio": float(np.quantile(heard, 0.95)) / TO_REACH_SECONDS,
            "of": f"{1000 * TO_REACH_SECONDS:g} ms",
        }
    ]


def _run(folder: Path, hidden: int, layers: int) -> Path:
    """RNNControl's network with weights that nothing was learnt in: it is as fast as any."""
    import conditioning
    from conditioning.config import Config
    from tierwave.controls.schema import Parameter, Schema
    from tierwave.runs.imported import write_imported

    names = ["instID", "a", "p"]
    config = Config(conditioned_on=names, hidden_size=hidden, num_layers=layers, net="rnncontrol")
    schema = Schema(parameters=tuple(Parameter(name=name, lo=0.0, hi=1.0) for name in names))
    documents = {"schema.json": {"parameters": schema.to_document(), "values": {}}}
    run = write_imported(
        conditioning.FAMILY.build(config), config, "bench", folder, sample_rate=RATE, source=folder, documents=documents
    ).run
    return run.folder


@contextlib.contextmanager
def _server(run: Path, pages: int) -> Iterator[int]:
    """A server in a process of its own; its port."""
    words = [sys.executable, "-m", "tierwave", "play", str(run), "--port", "0"]
    words += ["--max_voices", str(pages)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("Play at http://"):
                    yield int(line.partition("//")[2].partition("/")[0].rpartition(":")[2])
                    return
            raise RuntimeError("the server has not started")
        finally:
            process.terminate()


class Page:
    """What one page has measured, in seconds."""

    def __init__(self) -> None:
        self.received: list[float] = []
        self.heard: list[float] = []
        self.blocks = self.late = 0
        self.speed = float("inf")

    async def play(self, port: int, seconds: float, lead: float, seed: int) -> None:
        """Play for so long."""
        from websockets.asyncio.client import connect

        rng = np.random.default_rng(seed)
        waiting: dict[int, float] = {}  # when a slider was moved, by event, until the server has answered
        moved: list[tuple[int, float]] = []  # first sample that carries a move, and when it was made
        origin = f"http://127.0.0.1:{port}"
        async with connect(f"ws://127.0.0.1:{port}/ws", origin=origin, compression=None, max_size=None) as socket:  # type: ignore[arg-type]

            async def say(**message: Any) -> None:
                await socket.send(json.dumps(message))

            await say(type="start", random_seed=seed)
            await say(type="more", until=round(lead * RATE))
            began = asyncio.get_running_loop().create_future()  # when the first sample is played

            async def drive() -> None:
                start = await began
                number, move = 0, time.perf_counter()
                while (now := time.perf_counter()) < start + seconds:
                    await say(type="more", until=round((now - start + lead) * RATE))
                    if now >= move:
                        number += 1
                        waiting[number] = now
                        await say(type="set", event=number, values={"p": float(rng.random())})
                        move = now + rng.uniform(0.5, 1.5) * MOVE_SECONDS
                    await asyncio.sleep(ASK_SECONDS)
                await socket.close()

            driving = asyncio.create_task(drive())
            async for message in socket:
                now = time.perf_counter()
                if isinstance(message, str):
                    document = json.loads(message)
                    if document["type"] == "set":
                        moved.append((document["sample"], waiting.pop(document["event"])))
                    elif document["type"] == "pace":
                        self.speed = min(self.speed, document["speed"])
                    elif document["type"] == "error":
                        raise RuntimeError(document["message"])
                    continue
                first, count = (int.from_bytes(message[at : at + 4], "little") for at in (8, 12))
                if not began.done():
                    if first + count < round(lead * RATE):
                        continue
                    began.set_result(now)
                    continue
                due = began.result() + first / RATE
                self.blocks += 1
                self.late += now > due
                while moved and moved[0][0] < first + count:
                    sample, when = moved.pop(0)
                    self.received.append(now - when)
                    self.heard.append(max(now, began.result() + sample / RATE) - when)
            await driving


async def _play(port: int, pages: int, seconds: float, lead: float | None) -> tuple[list[Page], float]:
    if lead is None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /api/run HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
        lead = float(json.loads((await reader.read()).partition(b"\r\n\r\n")[2])["lead_seconds"])
        writer.close()
    found = [Page() for _ in range(pages)]
    await asyncio.gather(*(page.play(port, seconds, lead, seed) for seed, page in enumerate(found)))
    return found, lead
