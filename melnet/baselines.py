"""What models without a network reach on held-out spectrograms, tier by tier: the bars to beat.

A Gaussian per bin, and a Gaussian per bin around a line through the same bin of the tier's frame before; both fitted to
what is trained on, both in nats per normalised element. Knows spectrograms as arrays; no network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from melnet.config import Config
from melnet.data import Spectrograms, spans_of
from melnet.multiscale import below
from tierwave.splits import Span, Split

_LEAST_DEVIATION = 1e-3


def baselines(spectrograms: Spectrograms, split: Split, config: Config, tier: int) -> dict[str, float]:
    """Nats per element of a tier (from 1) by the name of the model; {} where nothing was held out."""
    if not split.valid:
        return {}
    train = list(_elements(spectrograms, split.train, config, tier))
    valid = list(_elements(spectrograms, split.valid, config, tier))
    frames = np.concatenate(train)
    mean, deviation = frames.mean(axis=0), np.maximum(frames.std(axis=0), _LEAST_DEVIATION)
    alone = [_nats(part, mean, deviation) for part in valid]
    # Least squares per bin, x(t) = slope x(t-1) + level.
    before = np.concatenate([part[:-1] for part in train])
    after = np.concatenate([part[1:] for part in train])
    slope, level, left = np.zeros_like(mean), mean, deviation
    if len(before):
        centred = before - before.mean(axis=0)
        power = np.mean(centred**2, axis=0)
        slope = np.mean(centred * (after - after.mean(axis=0)), axis=0) / np.maximum(power, 1e-12)
        level = after.mean(axis=0) - slope * before.mean(axis=0)
        left = np.maximum((after - slope * before - level).std(axis=0), _LEAST_DEVIATION)
    given = [
        np.concatenate([_nats(part[:1], mean, deviation), _nats(part[1:], slope * part[:-1] + level, left)])
        for part in valid
    ]
    return {
        "a Gaussian per bin": float(np.concatenate(alone).mean()),
        "a Gaussian per bin given the frame before": float(np.concatenate(given).mean()),
    }


def _elements(spectrograms: Spectrograms, spans: Sequence[Span], config: Config, tier: int) -> Iterator[np.ndarray]:
    """A tier's elements of each span, float64 `[frames, bins]`, as training has them, without padding."""
    for span in spans_of(spans, spectrograms.corpus, config):
        whole = spectrograms.of(span.recording)[span.start : span.stop]
        length = len(whole) + -len(whole) % config.time_factor
        places = np.broadcast_to(np.arange(length)[:, None], [length, whole.shape[1]])
        padded = np.pad(whole, [(0, length - len(whole)), (0, 0)])
        values, inside = (below(part, tier, config.tiers)[0] for part in (padded, places < len(whole)))
        yield np.asarray(values, np.float64)[inside[:, 0]]


def _nats(values: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    return 0.5 * ((values - mean) / deviation) ** 2 + np.log(deviation) + 0.5 * math.log(2 * math.pi)
