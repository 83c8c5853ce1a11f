"""Newer checkpoints, which all voices go over to while they play: `python -m tierwave play RUN --watch`."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from tierwave.errors import RunError, UsageError
from tierwave.generation.load import Trained
from tierwave.play.instrument import Instrument
from tierwave.play.session import Studio

LOOK_SECONDS = 3.0  # from one look to the next


class Watch:
    """Looks for newer checkpoints of what an instrument plays."""

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument
        # Files that could not be read at the last look, and those that were told of; () where not even their names
        # could be.
        self._failed: tuple[Any, ...] | None = None
        self._refused: tuple[Any, ...] | None = None

    def look(self) -> Trained | None:
        """A newer checkpoint, if there is one.

        Raises UsageError or RunError for one that cannot be read, at the second look, since it may have been half
        written at the first; then not again before its files have changed.
        """
        files: tuple[Any, ...] = ()
        try:
            there = self.instrument.newest_checkpoints()
            if there == self.instrument.current.checkpoints:
                return None
            files = _files(there)
            return None if files == self._refused else self.instrument.newest()
        except (UsageError, RunError):
            if files == self._refused:
                return None
            if files != self._failed:
                self._failed = files
                return None
            self._refused = files
            raise


def _files(checkpoints: Mapping[str, Path]) -> tuple[Any, ...]:
    """What tells the files of checkpoints from those of others, and from themselves before they were written to."""
    found: list[Any] = []
    for checkpoint in checkpoints.values():
        for path in sorted(checkpoint.parent.glob(f"{checkpoint.name}.*")):
            with contextlib.suppress(OSError):
                state = path.stat()
                found.append((str(path), state.st_mtime_ns, state.st_size))
    return tuple(found)


@contextlib.asynccontextmanager
async def watching(studio: Studio, say: Callable[[str], None]) -> AsyncIterator[None]:
    """Look for newer checkpoints every `LOOK_SECONDS`, and let all voices go over to them. say: is told of them."""
    watch = Watch(studio.instrument)

    async def look() -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                found = await asyncio.to_thread(watch.look)
            except (UsageError, RunError) as error:
                say(f"--watch: {error}")
                studio.refuse_all(str(error))
                continue
            except Exception:
                traceback.print_exc()
                say("--watch: no newer checkpoints are looked for any more")
                return
            if found is not None:
                say(f"--watch: {found.path} is taken over")
                studio.take_over_all(found, "watch")

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
