"""Have the inputs changed? Counts of a pane against the reference's, feature by feature.

A significant difference is not enough: with many rows every difference is. So an alarm needs an effect above a bound
(the population stability index, less what chance alone adds) and a p-value below another, corrected for the number of
features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from tidemill_engine.arrays import Int64s
from tidemill_engine.drift.bins import ColumnBins, HistogramReference
from tidemill_engine.stats.intervals import holm

MINIMUM_ROWS = 100
_HALF = 0.5


@dataclass(frozen=True, slots=True)
class PopulationResult:
    """How one feature compares: effect (bias-corrected PSI), chi-square with its p-value, and what moved most."""

    name: str
    effect: float
    chi_square: float
    p_value: float
    adjusted_p: float
    drifted: bool
    bin: str
    before: float
    after: float


def population_test(
    reference: HistogramReference, window: Sequence[Int64s], *, effect: float = 0.25, alpha: float = 1e-6
) -> tuple[PopulationResult, ...]:
    """Compare a window's counts with the reference's; one result for each feature, in order.

    `before` and `after` are shares of rows in the bin that adds most to the index. A window of fewer than 100 rows
    never alarms. The chi-square is the two-sample one for unequal totals (Press and others, Numerical Recipes, 14.3).
    """
    measured = [_measure(bins, a, b) for bins, a, b in zip(reference.columns, reference.counts, window, strict=True)]
    adjusted = holm([p_value for _, _, p_value, _ in measured])
    enough = min((int(counts.sum()) for counts in window), default=0) >= MINIMUM_ROWS
    results = []
    for j, (index, chi_square, p_value, moved) in enumerate(measured):
        drifted = enough and index > effect and adjusted[j] <= alpha
        before, after = (float(counts[moved] / max(counts.sum(), 1)) for counts in (reference.counts[j], window[j]))
        column = reference.columns[j]
        results.append(
            PopulationResult(
                column.name, index, chi_square, p_value, adjusted[j], drifted, column.label(moved), before, after
            )
        )
    return tuple(results)


def _measure(bins: ColumnBins, first: Int64s, second: Int64s) -> tuple[float, float, float, int]:
    """Effect, chi-square, p-value, and the bin that contributes most."""
    if first.shape != (bins.size,) or second.shape != (bins.size,):
        raise ValueError(f"counts of {bins.name} do not fit its bins")
    used = (first + second) > 0
    a, b = first[used].astype(np.float64), second[used].astype(np.float64)
    rows_a, rows_b, kinds = a.sum(), b.sum(), len(a)
    if kinds < 2 or rows_a == 0 or rows_b == 0:  # noqa: PLR2004 - one bin cannot differ
        return 0.0, 0.0, 1.0, 0
    share_a, share_b = (a + _HALF) / (rows_a + _HALF * kinds), (b + _HALF) / (rows_b + _HALF * kinds)
    parts = (share_b - share_a) * np.log(share_b / share_a)
    by_chance = (kinds - 1) * (1 / rows_a + 1 / rows_b)
    scale = np.sqrt(rows_b / rows_a)
    chi_square = float((((scale * a - b / scale) ** 2) / (a + b)).sum())
    p_value = float(special.chdtrc(kinds - 1, chi_square))
    moved = int(np.flatnonzero(used)[int(np.argmax(parts))])
    return max(0.0, float(parts.sum() - by_chance)), chi_square, p_value, moved
