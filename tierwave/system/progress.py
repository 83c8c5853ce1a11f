"""Progress of what takes long: on a terminal one line that is written over, elsewhere a line every few seconds.

Every command line speaks through a `ProgressLine`, which knows whether its line is still open and ends or erases it
before anything else is said. Functions are handed its `say`, or a callback that counts; they print nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from time import monotonic  # a clock that is set must neither silence progress nor let it pour
from typing import Literal, TextIO

from tierwave.files.names import ESCAPED

SECONDS = 5.0  # of silence after which progress is told where there is no terminal
REDRAWN = 0.1  # seconds between the states of a line on a terminal
TICK = 1.0  # seconds between two looks at the clock of what only lasts

SayLine = Callable[[str, bool], None]
"""say_line(text, rewrite): a line that stays, or (rewrite) how far something is."""

Count = Callable[[str, int, int], None]
"""count(what, done, total)"""

_lock = threading.RLock()
_open: ProgressLine | None = None  # whose line stands on the terminal without an end: there is one terminal


class ProgressLine:
    """Says lines that stay and, between them, how far something is.

    stream: a name stands for what `sys` calls so at each call. Where nobody reads it any more, nothing more is said
    and no error is raised. What its encoding cannot hold is escaped. As a context, takes an open line away, or ends it
    where an error goes through.
    """

    def __init__(self, stream: TextIO | Literal["stdout", "stderr"] = "stdout") -> None:
        self._stream = stream
        self._told_at = monotonic()
        self._pending = ""
        self._width = 0

    def say(self, text: str, rewrite: bool = False) -> None:
        """A line that stays, in the place of the open one; or (rewrite) the state of what is going on.

        Without a terminal a state is told only if nothing was said for `SECONDS`.
        """
        with _lock:
            if not rewrite:
                erase()
                self._write(text + "\n")
                self._told_at = monotonic()
                return
            now, state = monotonic(), text.replace("\n", " ")
            if not _is_terminal(self._current()):
                if now - self._told_at >= SECONDS:
                    self.say(state)
            elif _open is not self or now - self._told_at >= REDRAWN:
                self._draw(state)
                self._told_at = now
            else:
                self._pending = state

    def count(self, what: str, done: int, total: int) -> None:
        """`say` of the state "what: done/total"."""
        self.say(f"{what}: {done}/{total}", True)

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if _open is self:
            erase() if kind is None else end()

    def _draw(self, state: str) -> None:
        global _open
        if _open is not self:
            erase()
        columns = _columns(self._current())
        shown = state[: columns - 1]
        # Spaces, not an escape sequence, which some terminals show as it is.
        self._write("\r" + shown.ljust(min(self._width, columns - 1)))
        self._width, self._pending, _open = len(shown), "", self

    def _finish(self, *, keep: bool) -> None:
        global _open
        if keep and self._pending:
            self._draw(self._pending)
        _open = None
        self._write("\n" if keep else "\r" + " " * self._width + "\r")
        self._width, self._pending = 0, ""

    def _current(self) -> TextIO | None:
        stream: TextIO | None = getattr(sys, self._stream) if isinstance(self._stream, str) else self._stream
        return stream

    def _write(self, text: str) -> None:
        stream = self._current()
        if stream is None:  # as Python has it where a process is started without one
            return
        try:
            try:
                stream.write(text)
            except UnicodeEncodeError:
                encoding = stream.encoding or "ascii"
                stream.write(text.encode(encoding, ESCAPED).decode(encoding))
            stream.flush()
        except BlockingIOError:  # a terminal that others have made non-blocking, and that is behind
            pass
        except OSError as error:
            gone = (errno.EPIPE, errno.EIO) if stream in (sys.stdout, sys.stderr) else (errno.EPIPE,)
            if error.errno not in gone:  # a pipe that nobody reads any more, a terminal that was closed
                raise
            _close(stream)


def uncounted(what: str, done: int, total: int) -> None:
    """What counts for nobody."""


def unheard(text: str, rewrite: bool) -> None:
    """What is said to nobody."""


def end() -> None:
    """End the line that is open on the terminal, if there is one: what comes next stands on its own."""
    with _lock:
        if _open is not None:
            _open._finish(keep=True)


def erase() -> None:
    """Take the open line away, if there is one: what comes next stands in its place."""
    with _lock:
        if _open is not None:
            _open._finish(keep=False)


def amounts(line: ProgressLine, what: str) -> Callable[[int, int | None], None]:
    """tell(bytes done, bytes in all or None), which says megabytes; where the whole is known, speed and time left."""
    begun = monotonic()
    first: int | None = None

    def tell(done: int, total: int | None) -> None:
        nonlocal first
        first = done if first is None else min(first, done)
        speed = (done - first) / max(monotonic() - begun, 1e-3)
        text = f"{what}: {done / 1e6:.1f}"
        if total:
            left = f", {clock((total - done) / speed)} left" if speed else ""
            text += f" of {total / 1e6:.1f} MB, {speed / 1e6:.1f} MB/s{left}"
        else:
            text += " MB"
        line.say(text, True)

    return tell


@contextlib.contextmanager
def every(seconds: float, tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` in a thread of its own each so many seconds while the block lasts."""
    over = threading.Event()

    def follow() -> None:
        while not over.wait(seconds):
            tell()

    thread = threading.Thread(target=follow, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def waiting(say_line: SayLine, what: str) -> Iterator[None]:
    """Tells, while the block lasts, that it does and for how long: of what says nothing itself."""
    begun = monotonic()
    say_line(f"{what} ...", True)
    with every(TICK, lambda: say_line(f"{what}: {clock(monotonic() - begun)}", True)):
        yield


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _is_terminal(stream: TextIO | None) -> bool:
    if stream is None or os.environ.get("TERM") == "dumb":  # which cannot go back to the start of a line
        return False
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def _columns(stream: TextIO | None) -> int:
    with contextlib.suppress(AttributeError, OSError, ValueError):
        columns = os.get_terminal_size(stream.fileno()).columns  # type: ignore[union-attr]
        if columns > 1:
            return columns
    return 80


def _close(stream: TextIO) -> None:
    """Let all that this process may still write there vanish, also what Python writes at its end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)
