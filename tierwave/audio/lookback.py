"""How far a network looks back: to where the sound stood one period ago.

Speech coders predict a voiced sound from its last period (long-term prediction; as an input of a network: FARGAN, Valin
et al. 2024). Here the period comes from a pitch among the controls, so that what is played is in tune; where none is
known, it is found in the sound before. For the sample at n, the sound around n - lag is read between its samples, and
encoded again.

    ... o   o   o   o | o   o   o   o ...    REACH samples on either side, through which a polynomial is laid
                    ^
            n - lag + offset, for each of OFFSETS
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

OFFSETS = (-2, -1, 0, 1)  # from the point one period ago, in samples
REACH = 4  # samples on either side that interpolate
SHORTEST = 8.0  # samples; of a shorter period several make a lag, so that all that is read lies in the past
LONGEST = 4096  # samples, that may be asked for: a piano's lowest note at 96 kHz has 3491
BEFORE = REACH - OFFSETS[0]  # samples behind a lag that are read

# How a period is found: the last samples are compared with as many that lie a lag before, for each lag.
WHOLE = 32768.0  # amplitudes are whole numbers up to this, whose sums are exact in any order
LEAST = 0.3  # of the correlation
PRICE = 0.1  # of the longest lag, in units of the correlation: two periods are as like as one


class Lag(NamedTuple):
    """Which control tells how far a network looks back, and by what lag (see `lags`)."""

    column: int
    period: float
    octaves: float
    limit: int


def compared(limit: int) -> int:
    """How many of the last samples are compared with earlier ones to find a period."""
    return (8 * limit + 14) // 15


def needed(limit: int) -> int:
    """How many earlier samples a network sees that looks back."""
    return max(compared(limit) + limit + 1, limit + BEFORE)


def lags(values: npt.ArrayLike, period: float, octaves: float, limit: float) -> npt.NDArray[np.float32]:
    """Lags in samples for a control's values in 0 ... 1, of any shape; 0 where nothing is looked up.

    period: in samples, where the control is 0; octaves: from there to where it is 1; limit: the longest lag.
    """
    one = period * np.exp2(-octaves * np.asarray(values, np.float64))
    lag = one * np.maximum(1.0, np.ceil(SHORTEST / one))
    return np.where(lag > limit, 0.0, lag).astype(np.float32)


def found_lag(sound: npt.ArrayLike, limit: int) -> np.float32:
    """The lag by which the end of a sound, float `[needed(limit)]`, is most like what was before; 0 where nothing is.

    The largest peak of the normalised correlation, less a price for long lags, and between samples by a parabola.
    """
    whole = np.rint(np.asarray(sound, np.float64)[-compared(limit) - limit - 1 :] * WHOLE)
    count = compared(limit)
    last = whole[-count:]
    before = np.stack([whole[len(whole) - count - lag : len(whole) - lag] for lag in range(limit + 2)])
    energies = np.square(before).sum(axis=1)
    scale = np.sqrt(energies) * np.sqrt(energies[0])
    alike = np.where(scale > 0, before @ last / np.where(scale > 0, scale, 1.0), 0.0)
    inner = np.arange(int(SHORTEST), limit + 1)
    here, left, right = alike[inner], alike[inner - 1], alike[inner + 1]
    score = np.where((here > left) & (here >= right) & (here > LEAST), here - prices(limit)[inner], -1.0)
    best = int(score.argmax())
    if score[best] <= -1.0:
        return np.float32(0.0)
    bend = (left[best] - here[best]) + (right[best] - here[best])  # below 0, however they round
    return np.float32(inner[best] + 0.5 * (left[best] - right[best]) / bend)


def prices(limit: int) -> npt.NDArray[np.float64]:
    """What the score of each lag is lowered by, `[limit + 2]`."""
    return PRICE * np.arange(limit + 2) / limit


def interpolation(share: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Lagrange's weights `[..., 2 * REACH]` of the samples around a point that lies `share` (0 to 1) behind the last
    one before it."""
    at = np.asarray(share, np.float64)[..., None]
    points = np.arange(1 - REACH, 1 + REACH)
    weights = [
        np.prod([(at - other) / (point - other) for other in points if other != point], axis=0) for point in points
    ]
    return np.concatenate(weights, axis=-1)
