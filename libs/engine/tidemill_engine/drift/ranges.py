"""Do the newest panes lie outside the range of the healthy ones before?"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from tidemill_engine.drift.panes import Pane, mean_of, pooled_error

_SMALLEST_SPREAD = 1e-12


@dataclass(frozen=True, slots=True)
class RangeSettings:
    """How many newest panes are averaged, and how many standard errors away from the healthy ones alarm.

    Nothing is said before `baseline` healthy panes. After `patience` alarms in a row what is new counts as healthy.
    """

    panes: int = 10
    z: float = 5.0
    baseline: int = 50
    patience: int = 20

    def __post_init__(self) -> None:
        if self.panes < 1 or self.baseline < 2 * self.panes or self.patience < 1:
            raise ValueError("a range needs newest panes, a baseline of twice as many, and patience")


def leaves_range(healthy: Sequence[Pane], newest: Sequence[Pane]) -> tuple[float, float, float]:
    """Distance in standard errors of the newest panes' mean from the healthy ones', and both means (before, after).

    The error is the spread of averages over as many neighbouring healthy panes, so slow swings (days, weather) are in
    it; it is never less than what the rows alone explain.
    """
    size = len(newest)
    before, after = mean_of(healthy), mean_of(newest)
    sums = [0.0, *accumulate(pane.mean for pane in healthy)]
    averages = [(high - low) / size for low, high in zip(sums, sums[size:], strict=False)]
    swing = (sum((average - before) ** 2 for average in averages) / max(1, len(averages) - 1)) ** 0.5
    error = max(swing, pooled_error(healthy) / size**0.5, _SMALLEST_SPREAD)
    return (after - before) / (error * (1 + size / len(healthy)) ** 0.5), before, after
