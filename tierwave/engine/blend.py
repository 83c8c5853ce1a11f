"""What lies between two networks that fit each other, for voices that go over from one to the other while they play."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tierwave.engine import kernels
from tierwave.engine.network import Network, bfloat16, from_bfloat16


def blended(first: Network, second: Network, share: float) -> Network:
    """The network whose every weight is x + share (y - x), where x is the first's and y the second's: at 0 and 1 these
    themselves, and equal weights stay equal.

    Weights are stored as those of the two. For int8 the scales are blended too, which no blended weight exceeds, and
    products of weights and scales are rounded anew. Raises ValueError where the two do not fit (`Network.fits`).
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share is {share:g}, and it must lie in 0 to 1")
    if not first.fits(second):
        raise ValueError("there is nothing between networks that do not fit")
    if share in (0, 1):
        return second if share else first
    part = np.float32(share)

    def between(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return x + part * (y - x)

    vectors = between(first.vectors, second.vectors)
    if first.kind == "float32":
        weights = between(first.weights, second.weights)
    elif first.kind == "bfloat16":
        weights = bfloat16(between(from_bfloat16(first.weights), from_bfloat16(second.weights)))
    else:
        weights = np.zeros_like(first.weights)
        tables = first.are_tables.tolist()
        for (at, inputs, outputs, scales), is_table in zip(first.matrices.tolist(), tables, strict=True):
            shape = (inputs, 1) if is_table else (1, outputs)
            mine, others, new = (
                each[scales : scales + max(shape)].reshape(shape) for each in (first.vectors, second.vectors, vectors)
            )
            x, y = (
                kernels.unpacked(each.weights[at:], inputs, outputs, is_table=is_table)[:, :outputs] * own
                for each, own in ((first, mine), (second, others))
            )
            packed = kernels.packed(np.rint(between(x, y) / new).astype(np.int8), is_table=is_table)
            weights[at : at + packed.size] = packed
    return replace(first, weights=weights, vectors=vectors, initial=between(first.initial, second.initial))
