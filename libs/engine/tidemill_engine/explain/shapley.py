"""Shapley values of a forest by the paths to its leaves (path-dependent TreeSHAP).

Lundberg, Erion and Lee, "Consistent individualized feature attribution for tree ensembles", 2018 (algorithm 2), and
Lundberg et al., "From local explanations to global understanding with explainable AI for trees", Nature Machine
Intelligence 2, 2020. A feature that is not known follows the training rows. Work per row: the sum over paths of the
square of their number of features.
"""

import math

import numba
import numpy as np

from tidemill_engine.arrays import Bools, Float32s, Float64s, Int32s, Int64s
from tidemill_engine.explain.paths import Paths


def shapley_values(paths: Paths, rows: Float32s) -> Float64s:
    """What each feature adds [N, F] to the raw scores of float32 rows [N, F]; a row adds up to score less mean."""
    longest = int(np.diff(paths.start).max(initial=0))
    found: Float64s = _values(
        np.ascontiguousarray(rows, np.float32), paths.start, paths.feature, (paths.low, paths.high),
        (paths.takes_null, paths.share, paths.value, longest),
    )  # fmt: skip
    return found


@numba.njit(cache=True, nogil=True)
def _values(
    rows: Float32s, start: Int64s, feature: Int32s, interval: tuple[Float64s, Float64s],
    rest: tuple[Bools, Float64s, Float64s, int],
) -> Float64s:  # fmt: skip
    low, high = interval
    takes_null, share, value, longest = rest
    out = np.zeros(rows.shape)
    weights, goes_on = np.empty(longest + 1), np.empty(longest, np.float64)
    for i in range(rows.shape[0]):
        for p in range(len(value)):
            first, count = start[p], start[p + 1] - start[p]
            weights[0] = 1.0
            for k in range(count):
                x = float(rows[i, feature[first + k]])
                if math.isnan(x):
                    goes_on[k] = 1.0 if takes_null[first + k] else 0.0
                else:
                    goes_on[k] = 1.0 if low[first + k] < x <= high[first + k] else 0.0
                _extend(weights, k + 1, share[first + k], goes_on[k])
            for k in range(count):
                total = _without(weights, count, share[first + k], goes_on[k])
                out[i, feature[first + k]] += total * (goes_on[k] - share[first + k]) * value[p]
    return out


@numba.njit(cache=True, nogil=True)
def _extend(weights: Float64s, depth: int, share: float, goes_on: float) -> None:
    """Take one more feature into the weights of subsets by their size; `depth` features are in it afterwards."""
    weights[depth] = 0.0
    for k in range(depth - 1, -1, -1):
        weights[k + 1] += goes_on * weights[k] * (k + 1) / (depth + 1)
        weights[k] = share * weights[k] * (depth - k) / (depth + 1)


@numba.njit(cache=True, nogil=True)
def _without(weights: Float64s, depth: int, share: float, goes_on: float) -> float:
    """The sum of the weights with one feature taken out again."""
    total, carried = 0.0, weights[depth]
    for k in range(depth - 1, -1, -1):
        if goes_on != 0.0:
            part = carried * (depth + 1) / ((k + 1) * goes_on)
            total += part
            carried = weights[k] - part * share * (depth - k) / (depth + 1)
        elif share != 0.0:
            total += weights[k] * (depth + 1) / (share * (depth - k))
    return total
