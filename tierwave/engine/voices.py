"""Voices that are generated side by side by one network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tierwave.audio.lookback import Lag, lags
from tierwave.controls.live import Settings
from tierwave.controls.schema import ControlInputs
from tierwave.engine import kernels
from tierwave.engine.network import Floats, Network
from tierwave.system.compiling import is_cached, is_ready
from tierwave.system.cores import usable_cores

_MOST_STEPS = 1 << 14  # of one call that only takes in what is given


class Voices:
    """What voices of a network remember, and how they go on; in threads, as many voices each as is fair.

    controls: the inputs that each control takes (see `encoded`). seed: a voice's random numbers depend on it, on the
    voice's number and on the step alone. first: the value before the first step, a code or 0. threads: None for as many
    as there are cores.
    """

    def __init__(
        self, network: Network, voices: int, seed: int, *, top_p: float | None = None, threads: int | None = None
    ):
        self.network, self.voices = network, voices
        groups = min(voices, threads or usable_cores())
        self._edges = [voices * edge // groups for edge in range(groups + 1)]
        self._threads = ThreadPoolExecutor(groups) if groups > 1 else None
        self._seeds = kernels.voice_seeds(np.uint64(seed & 0xFFFFFFFFFFFFFFFF), voices)
        self._top_p = np.float32(1.0 if top_p is None else top_p)
        self._memory = kernels.aligned([voices, network.initial.size], np.float32)
        self._memory[:] = network.initial
        self._shares = np.zeros([groups, 2 * network.choices + 4], np.float32)
        # The last values, at the beginning silence or zeros: codes, or numbers of features.
        silence = int(network.about.get("silence", 0))
        self._codes = np.full([voices, network.history], silence, np.int32)
        self._values = np.zeros([voices, 1, network.features], np.float32)
        self._age = self._position = 0  # steps, and those that were drawn

    def begin(self, values: np.ndarray) -> None:
        """Take values for those before the next step: codes `[voices, history]` or numbers `[voices, 1, features]`."""
        if self.network.features:
            self._values[:] = values
        else:
            self._codes[:] = values

    def replace(self, network: Network) -> None:
        """Go on with another network, which fits the one before. Raises ValueError where it does not."""
        if not self.network.fits(network):
            raise ValueError("a voice goes on with a network that fits its own only")
        self.network = network

    def prime(self, values: np.ndarray, controls: Floats | None) -> None:
        """Take in values that are given: codes `[voices, steps]` or numbers `[voices, steps, features]`; with the
        controls that lead to each of them, `[voices, steps, controls]`."""
        for start in range(0, values.shape[1], _MOST_STEPS):
            piece = values[:, start : start + _MOST_STEPS]
            beside = None if controls is None else controls[:, start : start + _MOST_STEPS]
            self._go_on(piece.shape[1], beside, None, piece)

    def predictions(self, values: np.ndarray, controls: Floats | None = None) -> Floats:
        """What the network gives for each of the values that are given (see `prime`), before it takes it in: float32
        `[voices, steps, numbers]`."""
        found = np.zeros([self.voices, values.shape[1], int(self.network.head[4])], np.float32)
        self._go_on(values.shape[1], controls, None, values, found)
        return found

    def run(self, settings: Settings) -> np.ndarray:
        """As many new values as `settings` has steps: codes int32 `[voices, steps]`, or float32 with features."""
        return self._go_on(settings.temperature.shape[1], settings.controls, settings)

    def _go_on(
        self,
        steps: int,
        controls: Floats | None,
        settings: Settings | None,
        given: np.ndarray | None = None,
        predictions: Floats | None = None,
        say: Callable[[str], None] | None = None,
    ) -> np.ndarray:
        network, voices = self.network, self.voices
        codes, values = _continued(self._codes, steps), _continued(self._values, steps)
        made = values[:, 1:] if network.features else codes[:, network.history :]
        if given is not None:
            made[:] = given
        inputs = np.zeros([voices, steps, network.inputs], np.float32)
        if network.inputs and controls is not None:
            inputs = encoded(controls, network.about["controls"], network.about.get("lookback"))
        if predictions is None:
            predictions = np.zeros([voices, 0, 1], np.float32)
        if settings is None:
            temperature, top_k = np.zeros([voices, steps], np.float32), np.zeros([voices, steps], np.int32)
        else:
            temperature, top_k = settings.temperature, settings.top_k

        def arguments(group: int) -> tuple[Any, ...]:
            part = slice(self._edges[group], self._edges[group + 1])
            return (
                network.program, network.parts, network.head, network.floor, network.matrices, network.weights,
                network.vectors, self._memory[part], self._shares[group], codes[part],
                values[part], inputs[part], self._seeds[part], temperature[part], top_k[part], self._top_p,
                predictions[part], self._age, self._position, given is not None,
            )  # fmt: skip

        if say is not None and not is_ready(kernels.run, *arguments(0)):
            again = "this once" if is_cached() else "at each start, since there is no folder for numba's cache"
            say(f"Compiling for {network.kind} weights, some ten seconds, {again}")
        if self._threads is None:
            kernels.run(*arguments(0))
        else:
            list(self._threads.map(lambda group: kernels.run(*arguments(group)), range(len(self._edges) - 1)))
        self._age += steps
        self._position += steps if given is None else 0
        self._codes = codes[:, codes.shape[1] - network.history :].copy()
        self._values = values[:, -1:].copy()
        return made


def prepare(network: Network, say: Callable[[str], None]) -> None:
    """Compile the kernels for a network, or take them from the cache; `say` is told before they are compiled."""
    Voices(network, 1, 0, threads=1)._go_on(0, None, None, say=say)


def _continued(before: np.ndarray, steps: int) -> np.ndarray:
    """`before`, `[voices, steps before, ...]`, with room for more steps; np.pad would take four times as long."""
    room = np.zeros([before.shape[0], before.shape[1] + steps, *before.shape[2:]], before.dtype)
    room[:, : before.shape[1]] = before
    return room


def encoded(controls: Floats, inputs: Sequence[ControlInputs], lookback: Lag | None = None) -> Floats:
    """Controls `[..., controls]` in 0 ... 1 as inputs of the network, by `ControlInputs.encode`, and last the lag of a
    network that looks back."""
    if lookback is None and all(each.encoding == "number" for each in inputs):
        return np.ascontiguousarray(controls, np.float32)
    parts = [each.encode(controls[..., column]) for column, each in enumerate(inputs)]
    if lookback is not None:
        column, *line = lookback
        parts.append(lags(controls[..., column], *line)[..., None])
    return np.ascontiguousarray(np.concatenate(parts, axis=-1), np.float32)
