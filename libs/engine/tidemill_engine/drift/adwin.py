"""river's ADWIN over pane means.

ADWIN's bound adds a term for values in [0, 1] (Bifet and Gavalda, 2007, theorem 3.2 with the variance), so means of a
few hundredths would never be told apart. Here each mean is first divided by the spread of the warm-up's means.
Settings that differ from river's defaults: `clock=1` (look at every pane, not at every 32nd) and `grace_period` = the
warm-up; sub-windows shorter than `min_window_length` panes are never compared, which sets the shortest delay.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from river.drift import ADWIN

from tidemill_engine.drift.panes import Pane, mean_of, pooled_error

SHORTEST = 5
_SMALLEST_SPREAD = 1e-12


class Shift(NamedTuple):
    """Means before and after a change, and the panes after it."""

    before: float
    after: float
    panes: tuple[Pane, ...]


class ShiftDetector:
    """ADWIN with the panes it has seen since it last started; those panes are its whole state."""

    def __init__(self, delta: float, warm_up: int, cap: int) -> None:
        self._delta, self._warm_up, self._cap = delta, warm_up, cap
        self.panes: list[Pane] = []
        self._scale = 1.0
        self._adwin = self._fresh()

    def update(self, pane: Pane) -> Shift | None:
        """Take a pane; a change found starts the detector anew, with a new warm-up."""
        self.panes.append(pane)
        if len(self.panes) < self._warm_up:
            return None
        if len(self.panes) == self._warm_up:
            self._restart(self.panes)
            return None
        if len(self.panes) > self._cap:
            self._halve()
            return None
        self._feed(pane)
        if not self._adwin.drift_detected:
            return None
        panes = self.panes
        self._restart([])
        return steepest(panes)

    def _halve(self) -> None:
        """Start anew from the newer half, in the way that a restored detector would."""
        kept = self.panes[-self._cap // 2 :]
        self._restart([])
        for pane in kept:
            self.update(pane)

    def _restart(self, panes: list[Pane]) -> None:
        self.panes = list(panes)
        self._adwin = self._fresh()
        if panes:
            self._scale = _spread(panes[: self._warm_up])
        for pane in panes:
            self._feed(pane)

    def _feed(self, pane: Pane) -> None:
        self._adwin.update(pane.mean / self._scale)  # type: ignore[no-untyped-call]  # river's update is bare

    def _fresh(self) -> ADWIN:
        return ADWIN(  # type: ignore[no-untyped-call]  # river's constructor is bare
            delta=self._delta, clock=1, min_window_length=SHORTEST, grace_period=self._warm_up
        )


def steepest(panes: Sequence[Pane]) -> Shift:
    """The cut that separates the means best, by least squares: ADWIN itself only drops the oldest panes.

    Raises ValueError for fewer than two panes.
    """
    total, left, best, cut = sum(pane.mean for pane in panes), 0.0, -1.0, 0
    for i in range(1, len(panes)):
        left += panes[i - 1].mean
        gap = left / i - (total - left) / (len(panes) - i)
        gain = gap * gap * i * (len(panes) - i)
        if gain > best:
            best, cut = gain, i
    if not cut:
        raise ValueError("one pane has no change in it")
    return Shift(mean_of(panes[:cut]), mean_of(panes[cut:]), tuple(panes[cut:]))


def _spread(panes: list[Pane]) -> float:
    """Standard deviation of the panes' means, but at least what their rows alone explain."""
    mean = mean_of(panes)
    variance = sum((pane.mean - mean) ** 2 for pane in panes) / (len(panes) - 1)
    return max(math.sqrt(variance), pooled_error(panes), _SMALLEST_SPREAD)
