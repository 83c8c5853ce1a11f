"""Voices that TensorFlow generates side by side, as `tierwave.engine.voices` does without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tierwave.controls.live import Settings
from tierwave.nn.distributions import voice_seeds

BLOCK = 1024  # steps of one compiled call


class Sampler(Protocol):
    """The loop of one model over steps; see `samplernn.sampler` and `conditioning.sampler`."""

    weights: Callable[[], Any]
    run: Callable[..., tuple[tf.Tensor, Any]]

    def start(self, voices: int) -> Any: ...

    def prime(self, state: Any, values: np.ndarray, controls: np.ndarray | None, weights: Any) -> Any: ...


class SampledVoices:
    """Voices of one model, and what they remember.

    seeds: int32 `[voices, 2]`; a voice's random numbers depend on its own and on the step alone.
    """

    def __init__(self, sampler: Sampler, voices: int, seed: int, *, top_p: float | None = None):
        self.sampler, self.top_p = sampler, top_p
        self.weights, self.state = sampler.weights(), sampler.start(voices)
        self.seeds = voice_seeds(seed, voices)

    def prime(self, values: np.ndarray, controls: np.ndarray | None) -> None:
        """Continue from `values` with their controls (see `prime` of the sampler)."""
        self.state = self.sampler.prime(self.state, values, controls, self.weights)

    def run(self, settings: Settings) -> np.ndarray:
        """As many values as `settings` has steps: `[voices, steps]`, or with a last axis of features."""
        steps, limited = settings.temperature.shape[1], bool(settings.top_k.any())
        made = []
        for start in range(0, max(steps, 1), BLOCK):
            count = min(BLOCK, steps - start)
            part = Settings(*(_padded(each[:, start : start + count]) for each in settings))
            values, self.state = self.sampler.run(
                self.weights, self.state, tf.constant(count), self.seeds, part, self.top_p, limited
            )
            made.append(values.numpy()[:, :count])
        return np.concatenate(made, axis=1)


def _padded(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Settings `[voices, steps, ...]` of a whole block, since each length would be compiled."""
    return np.pad(array, [(0, 0), (0, BLOCK - array.shape[1]), *[(0, 0)] * (array.ndim - 2)])
