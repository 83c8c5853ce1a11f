"""Baselines: the likelihood that models without a network reach on held-out spectrograms, tier by tier.

A Gaussian per bin, and a Gaussian per bin around a linear function of the same bin in the tier's last frame; both
fitted to the training split, both in nats per normalised element.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from melnet.config import Config
from melnet.data import Spectrograms, spans_of
from melnet.multiscale import below
from tierwave.data.splits import Span, Split

_LEAST_DEVIATION = 1e-3
_FRAMES = 4096  # per block


def baselines(spectrograms: Spectrograms, split: Split, config: Config, tier: int) -> dict[str, float]:
    """Nats per element of a tier (from 1) by the name of the model; {} where nothing was held out. Memory does not
    depend on the size of the corpus."""
    if not split.valid:
        return {}
    alone, pairs, products = _Moments(), (_Moments(), _Moments()), _Moments()
    for before, frames in _elements(spectrograms, split.train, config, tier):
        alone.add(frames)
        after = frames[len(frames) - len(before) :]
        for moments, values in zip((*pairs, products), (before, after, before * after), strict=True):
            moments.add(values)
    mean, deviation = alone.mean, np.maximum(np.sqrt(alone.power), _LEAST_DEVIATION)
    # Least squares per bin, x(t) = slope x(t-1) + level.
    slope, level, left = np.zeros_like(mean), mean, deviation
    if products.count:
        before_, after_ = pairs
        common = products.mean - before_.mean * after_.mean
        slope = common / np.maximum(before_.power, 1e-12)
        level = after_.mean - slope * before_.mean
        unexplained = after_.power - 2 * slope * common + slope**2 * before_.power
        left = np.maximum(np.sqrt(np.maximum(unexplained, 0.0)), _LEAST_DEVIATION)
    nats, given, elements = 0.0, 0.0, 0
    for before, frames in _elements(spectrograms, split.valid, config, tier):
        first = len(frames) - len(before)
        each = _nats(frames, mean, deviation)
        nats += float(each.sum())
        given += float(each[:first].sum() + _nats(frames[first:], slope * before + level, left).sum())
        elements += frames.size
    return {
        "a Gaussian per bin": nats / elements,
        "a Gaussian per bin given the frame before": given / elements,
    }


class _Moments:
    """Mean and variance per bin of blocks of frames, by plain sums, since frames are normalised."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: np.ndarray = np.zeros(1)
        self._squares: np.ndarray = np.zeros(1)

    def add(self, frames: np.ndarray) -> None:
        self.count += len(frames)
        self._sum = self._sum + frames.sum(axis=0)
        self._squares = self._squares + np.square(frames).sum(axis=0)

    @property
    def mean(self) -> np.ndarray:
        return self._sum / self.count

    @property
    def power(self) -> np.ndarray:
        """The variance."""
        return np.maximum(self._squares / self.count - self.mean**2, 0.0)


def _elements(
    spectrograms: Spectrograms, spans: Sequence[Span], config: Config, tier: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of a tier's elements, (the frame before each frame, frames), float64 `[frames, bins]`, without padding;
    the first frame of a span has none before it."""
    step = -(-_FRAMES // config.time_factor) * config.time_factor
    for span in spans_of(spans, spectrograms.corpus, config):
        whole = spectrograms.of(span.recording)[span.start : span.stop]
        last: np.ndarray | None = None
        for start in range(0, len(whole), step):
            part = whole[start : start + step]
            length = len(part) + -len(part) % config.time_factor
            places = np.broadcast_to(np.arange(length)[:, None], [length, part.shape[1]])
            padded = np.pad(part, [(0, length - len(part)), (0, 0)])
            values, inside = (below(each, tier, config.tiers)[0] for each in (padded, places < len(part)))
            frames = np.asarray(values, np.float64)[inside[:, 0]]
            if len(frames):
                yield np.concatenate([frames[:0] if last is None else last, frames[:-1]]), frames
                last = frames[-1:]


def _nats(values: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    return 0.5 * ((values - mean) / deviation) ** 2 + np.log(deviation) + 0.5 * math.log(2 * math.pi)
