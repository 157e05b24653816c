"""Uncertainty of a mean over correlated rows: days are the independent units, not rows.

Source of the variance: the ratio estimator for clusters of unequal size, Cochran, Sampling Techniques, 1977, chapter 6;
it equals the delete-one block jackknife to first order. No resampling, so there is nothing to seed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from tidemill_engine.arrays import Float64s, Int64s

DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class BlockMean:
    """A mean of n rows in blocks, and its standard error; None with fewer than two blocks."""

    mean: float
    standard_error: float | None
    rows: int
    blocks: int

    def bound(self, error: float, side: int) -> float | None:
        """One-sided confidence bound at this error: upper for side 1, lower for side -1; None without an error."""
        if self.standard_error is None:
            return None
        quantile = float(special.stdtrit(self.blocks - 1, 1.0 - error))
        return self.mean + side * quantile * self.standard_error

    def p_above(self, value: float = 0.0) -> float:
        """One-sided p-value of the hypothesis that the true mean is at most `value`; 1 without a standard error."""
        if self.standard_error is None:
            return 1.0
        if self.standard_error == 0.0:
            return 0.0 if self.mean > value else 1.0
        return float(special.stdtr(self.blocks - 1, -(self.mean - value) / self.standard_error))


def block_mean(values: Float64s, times_us: Int64s, *, block_us: int = DAY_US) -> BlockMean:
    """Mean of values [N] with days (of UTC, unless `block_us` says otherwise) as blocks, each weighing its rows.

    Sums are exactly rounded, so the order of rows does not matter. Raises ValueError without rows.
    """
    if len(values) == 0:
        raise ValueError("no rows")
    blocks = np.asarray(times_us, dtype=np.int64) // block_us
    order = np.argsort(blocks, kind="stable")
    edges = np.flatnonzero(np.diff(blocks[order])) + 1
    parts = np.split(values[order], edges)
    return block_mean_of_sums([math.fsum(part) for part in parts], [len(part) for part in parts])


def block_mean_of_sums(sums: Sequence[float], sizes: Sequence[int]) -> BlockMean:
    """As `block_mean`, from the sum and the number of rows of each block; raises ValueError without rows."""
    rows, blocks = sum(sizes), len(sums)
    if rows == 0:
        raise ValueError("no rows")
    mean = math.fsum(sums) / rows
    if blocks == 1:
        return BlockMean(mean, None, rows, 1)
    squares = math.fsum((total - mean * size) ** 2 for total, size in zip(sums, sizes, strict=True))
    variance = blocks / (blocks - 1) * squares / rows**2
    return BlockMean(mean, math.sqrt(variance), rows, blocks)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: rejecting those <= alpha keeps the chance of any false rejection <= alpha (Holm, 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted
