"""A spectrogram cut into tiers of resolution, and put together again (Vasquez & Lewis 2019, section 5.1).

The last tier holds every other row of the whole, the one before it every other row of the rest, alternately along
frequency (even tiers) and time (odd tiers from the third on); the first tier is what remains. Tier g and all tiers
below it together have the same shape, so these condition it element by element.

    tier      1 2 3 4 5 6          the tiers of a block of 8 bins x 4 frames with six tiers:
    axis      - F T F T F
                                   f0  1 5 3 5      f4  2 5 3 5
                                   f1  6 6 6 6      f5  6 6 6 6
                                   f2  4 5 4 5      f6  4 5 4 5
                                   f3  6 6 6 6      f7  6 6 6 6

Shapes are `[..., frames, bins]`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


def splits_frequency(tier: int) -> bool:
    """Whether tier `tier` (from 1) was split off along frequency; the first was not split off at all."""
    return tier % 2 == 0


def factors(tiers: int) -> tuple[int, int]:
    """The numbers of which frames and bins of a whole with `tiers` tiers must be multiples."""
    along_frequency = tiers // 2
    return 2 ** (tiers - 1 - along_frequency), 2**along_frequency


class Size(NamedTuple):
    """Frames and bins of a tier."""

    frames: int
    bins: int


def sizes(frames: int, bins: int, tiers: int) -> list[Size]:
    """The sizes of the tiers, the first first. Raises ValueError where the whole does not divide."""
    by_time, by_frequency = factors(tiers)
    if frames % by_time or bins % by_frequency:
        raise ValueError(
            f"{frames} frames x {bins} bins do not divide into {tiers} tiers: frames must be a multiple of {by_time} "
            f"and bins of {by_frequency}"
        )
    found = []
    for tier in range(tiers, 1, -1):
        if splits_frequency(tier):
            bins //= 2
        else:
            frames //= 2
        found.append(Size(frames, bins))
    return [Size(frames, bins), *reversed(found)]


def _halves(whole: Any, tier: int) -> tuple[Any, Any]:
    """Tier `tier` and what is below it: the odd and the even rows along the axis that the tier splits."""
    axis = len(whole.shape) - (1 if splits_frequency(tier) else 2)
    every = (slice(None),) * axis
    return whole[(*every, slice(1, None, 2))], whole[(*every, slice(0, None, 2))]


def split(whole: Any, tiers: int) -> list[Any]:
    """The tiers of a spectrogram (array or tensor), the first first."""
    found = []
    for tier in range(tiers, 1, -1):
        values, whole = _halves(whole, tier)
        found.append(values)
    return [whole, *reversed(found)]


def below(whole: Any, tier: int, tiers: int) -> tuple[Any, Any]:
    """Tier `tier` (from 1) and all tiers below it, of one shape; (tier, None) for the first."""
    for number in range(tiers, tier, -1):
        whole = _halves(whole, number)[1]
    return (whole, None) if tier == 1 else _halves(whole, tier)


def interleave(lower: np.ndarray, added: np.ndarray, tier: int) -> np.ndarray:
    """The tiers below `tier` and that tier `[..., frames, bins]` together: the inverse of one split."""
    if lower.shape != added.shape:
        raise ValueError(f"tier {tier} has the shape {added.shape}, and the tiers below it {lower.shape}")
    axis = lower.ndim - (1 if splits_frequency(tier) else 2)
    stacked = np.stack([lower, added], axis=axis + 1)
    shape = list(lower.shape)
    shape[axis] *= 2
    return stacked.reshape(shape)
