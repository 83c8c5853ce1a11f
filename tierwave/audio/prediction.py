"""Linear prediction of a sound from its own past, which a network may be told beside the past itself.

At the beginning of each top frame, coefficients are fitted to the last samples by the autocorrelation method (Makhoul
1975), so that what they predict never grows by itself. Before each sample, the network is told two codes: that of the
sample that is predicted from the ORDER before it, as in LPCNet (Valin and Skoglund 2019), and that of how far off the
last predictions were.

    |<-------------- WINDOW samples -------------->|<- a top frame, predicted by them ->|
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_toeplitz

ORDER = 32
WINDOW = 640
ERRORS = 32  # predictions that are looked back upon
NOISE = 1e-3  # white noise beside the sound, of its energy, and at least
LEAST = 1e-9
WIDENING = 0.995  # of resonances: coefficient k is multiplied by its power k, counted from 1

_RISE = 0.95  # of the window: the newest samples count most
_OCTAVES = 14.5  # from the smallest root mean square that is told apart to the largest
_LARGEST = 0.5  # octaves above 1


def window() -> npt.NDArray[np.float64]:
    """What the last samples are multiplied by, oldest first, `[WINDOW]`: a quarter of a sine up, a short one down."""
    rising = round(WINDOW * _RISE)
    falling = WINDOW - rising
    up = np.sin(0.5 * np.pi * (np.arange(rising) + 0.5) / rising)
    down = np.cos(0.5 * np.pi * (np.arange(falling) + 0.5) / falling)
    return np.concatenate([up, down]).astype(np.float32).astype(np.float64)


def scale_edges(levels: int) -> npt.NDArray[np.float32]:
    """Mean squares of errors between two of their codes, `[levels - 1]`: the code of x is how many are <= x."""
    octaves = np.arange(1, levels) / levels * _OCTAVES + _LARGEST - _OCTAVES
    return np.exp2(2.0 * octaves).astype(np.float32)


def early(step: int) -> int:
    """How many samples before the first one a window predicts too, so that the errors behind it are known: whole frames
    of `step` samples."""
    return -(-(ERRORS + 1) // step) * step


def after_silence(amplitude: float) -> npt.NDArray[np.float32]:
    """What a long stretch of this amplitude leaves behind: coefficients, that of the newest sample first, the last
    errors, and the last prediction, `[ORDER + ERRORS + 1]`."""
    sound = amplitude * window()
    correlation = np.array([sound[lag:] @ sound[: WINDOW - lag] for lag in range(ORDER + 1)])
    equations = correlation[:ORDER] + np.eye(1, ORDER)[0] * (NOISE * correlation[0] + LEAST)
    found = solve_toeplitz(equations, correlation[1:]) * WIDENING ** np.arange(1.0, ORDER + 1.0)
    coefficients = found.astype(np.float32)
    expected = np.float32(amplitude * coefficients.astype(np.float64).sum())
    errors = np.full(ERRORS, np.float32(amplitude) - expected)
    return np.concatenate([coefficients, errors, [expected]]).astype(np.float32)
