"""A voice's networks on their way to others: to those of another checkpoint, or further towards those of another run.

A way is taken in steps, some tenths of a second in all, so that nothing is heard of the exchange itself. The steps are
computed in one thread (`advance`), and others say where to go (`aim`) at any time.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

from tierwave.engine.blend import blended

STEPS = 10  # of the longest way
STEP_SECONDS = 0.05

Networks = Sequence[Any]  # of the engine, one for each stage, or models of Keras, between which there is nothing


class Morph:
    """Networks that move. base: those of a checkpoint; other: those of another run, if there are any; share: how much
    of these is blended in, 0 to 1."""

    def __init__(self, base: Networks, other: Networks | None = None, share: float = 0.0):
        self.base, self.other, self.share = base, other, share
        self.networks = _mixed(base, other, share)
        self.has_moved = False
        self._lock = threading.Lock()
        self._is_aimed = self._is_far = False  # whether the goal has changed since the last step, and its base too
        self._here = share  # that of `networks`
        self._start, self._goal = (self.networks, share), (self.networks, share)
        self._step = self._steps = 0

    def aim(self, *, base: Networks | None = None, share: float | None = None) -> None:
        """Change the goal."""
        with self._lock:
            if base is not None:
                self.base, self._is_far = base, True
            if share is not None:
                self.share = share
            self._is_aimed = self.has_moved = True

    @property
    def has_arrived(self) -> bool:
        """Whether `networks` are those at the goal."""
        return not self._is_aimed and self._step == self._steps

    def advance(self) -> Networks:
        """Go a step further, which takes a while. Returns the networks there."""
        with self._lock:
            is_aimed, is_far, base, share = self._is_aimed, self._is_far, self.base, self.share
            self._is_aimed = self._is_far = False
        if is_aimed:
            distance = 1.0 if is_far else abs(share - self._here)
            self._steps = max(1, math.ceil(STEPS * distance), self._steps - self._step)
            self._step = 0
            self._start, self._goal = (self.networks, self._here), (_mixed(base, self.other, share), share)
        (start, left), (goal, there) = self._start, self._goal
        self._step = min(self._step + 1, self._steps)
        part = self._step / self._steps
        self.networks, self._here = _mixed(start, goal, part), left + part * (there - left)
        if self._step == self._steps:
            self._start = self._goal  # where it came from need not be kept in memory
        return self.networks


def _mixed(first: Networks, second: Networks | None, share: float) -> Networks:
    if second is None or share == 0:
        return first
    return [blended(x, y, share) for x, y in zip(first, second, strict=True)]
