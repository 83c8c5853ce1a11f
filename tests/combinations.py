"""Few combinations of options in which every pair, or every three, of their values occur (a covering array)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

CANDIDATES = 100  # combinations compared for each one chosen: all of some thousand would take seconds


def covering(legal: Sequence[tuple], strength: int) -> list[tuple]:
    """Of all `legal` combinations few in which any `strength` values that occur together in one do so (greedy)."""

    covers = [frozenset(itertools.combinations(enumerate(map(str, one)), strength)) for one in legal]
    missing, chosen, rng = set().union(*covers), [], random.Random(0)
    while missing:
        best = max(rng.sample(range(len(legal)), min(len(legal), CANDIDATES)), key=lambda at: len(covers[at] & missing))
        if not covers[best] & missing:
            best = next(at for at, covered in enumerate(covers) if covered & missing)
        chosen.append(legal[best])
        missing -= covers[best]
    return chosen
