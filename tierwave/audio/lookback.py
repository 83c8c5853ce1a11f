"""How far a network that knows the pitch looks back: to where the sound stood one period ago.

Speech coders predict a voiced sound from its last period (long-term prediction; as an input of a network: FARGAN, Valin
et al. 2024). Here the period comes from a control, so that what is played is in tune: for the sample at n, the sound
around n - lag is read between its samples, and encoded again.

    ... o   o   o   o | o   o   o   o ...    REACH samples on either side, through which a polynomial is laid
                    ^
            n - lag + offset, for each of OFFSETS
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

OFFSETS = (-2, -1, 0, 1)  # from the point one period ago, in samples
REACH = 4  # samples on either side that interpolate
SHORTEST = 8.0  # samples; of a shorter period several make a lag, so that all that is read lies in the past
BEFORE = REACH - OFFSETS[0]  # samples behind a lag that are read
_SECONDS = 0.03  # of the longest period that is looked back by


def longest_lag(sample_rate: float) -> float:
    """In samples: of a longer period nothing is looked up."""
    return max(2 * SHORTEST, round(_SECONDS * sample_rate))


def lags(values: npt.ArrayLike, period: float, octaves: float, limit: float) -> npt.NDArray[np.float32]:
    """Lags in samples for a control's values in 0 ... 1, of any shape; 0 where nothing is looked up.

    period: in samples, where the control is 0; octaves: from there to where it is 1; limit: the longest lag.
    """
    one = period * np.exp2(-octaves * np.asarray(values, np.float64))
    lag = one * np.maximum(1.0, np.ceil(SHORTEST / one))
    return np.where(lag > limit, 0.0, lag).astype(np.float32)


def interpolation(share: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Lagrange's weights `[..., 2 * REACH]` of the samples around a point that lies `share` (0 to 1) behind the last
    one before it."""
    at = np.asarray(share, np.float64)[..., None]
    points = np.arange(1 - REACH, 1 + REACH)
    weights = [
        np.prod([(at - other) / (point - other) for other in points if other != point], axis=0) for point in points
    ]
    return np.concatenate(weights, axis=-1)


def edges(amplitudes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Half way between the rising amplitudes of the codes, `[levels - 1]`: the code of x is how many are <= x."""
    return np.asarray((amplitudes[1:].astype(np.float64) + amplitudes[:-1]) / 2, np.float32)
