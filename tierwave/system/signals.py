"""Signals that end a program: which ones this system has, and handlers for as long as a block lasts."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

# The word of an operating system or a batch system, and a terminal that is closed. Windows has no SIGHUP.
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextlib.contextmanager
def handled(signals: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Handle signals so while the block lasts.

    Ignored ones stay ignored, as `nohup` wants it, but for Ctrl-C's, which a shell ignores for what is in its
    background. Outside the main thread, where Python sets no handlers, those of the caller stay.
    """
    before = {}
    for number in signals:
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
            with contextlib.suppress(ValueError):  # not in the main thread
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous or signal.SIG_DFL)  # None: set by no Python
