"""Voices that are generated side by side."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tierwave.generation.request import group_sizes
from tierwave.nn.distributions import voice_seeds
from tierwave.system.cores import usable_cores


class VoiceGroups:
    """Voices in groups (see `group_sizes`), each of which is one compiled call in a thread of its own.

    seeds: of each group, int32 `[voices, 2]`; a voice's seed does not depend on how many others there are. states: of
    each group, at first `start(voices)`.
    """

    def __init__(self, voices: int, seed: int, start: Callable[[int], Any]):
        sizes = group_sizes(voices, usable_cores())
        stops = np.cumsum(sizes).tolist()
        self.slices = [slice(stop - size, stop) for stop, size in zip(stops, sizes, strict=True)]
        seeds = voice_seeds(seed, voices)
        self.seeds = [seeds[voices] for voices in self.slices]
        self.states = [start(size) for size in sizes]
        self._threads = ThreadPoolExecutor(len(sizes)) if len(sizes) > 1 else None

    def prime(self, prime: Callable[[slice, Any], Any]) -> None:
        """Replace each group's state by `prime(voices, state)`."""
        self.states = [prime(*each) for each in zip(self.slices, self.states, strict=True)]

    def run(self, run: Callable[[slice, np.ndarray, Any], tuple[np.ndarray, Any]]) -> np.ndarray:
        """`run(voices, seeds, state)` of every group gives its values `[voices, ...]` and its next state; the values of
        all voices, in order."""

        def group(index: int) -> np.ndarray:
            values, self.states[index] = run(self.slices[index], self.seeds[index], self.states[index])
            return values

        if self._threads is None:
            return group(0)
        return np.concatenate(list(self._threads.map(group, range(len(self.slices)))), axis=0)
