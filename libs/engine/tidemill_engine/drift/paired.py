"""Has the concept changed? A stream of values, one for each labelled row, watched in panes of rows.

The value is the champion's log-loss less the reference learner's on the same row (difficulty cancels, season with
it), or label minus score. Two detectors may look at the pane means: ADWIN, which finds where a mean changed, and a
range check, which compares the newest panes with the range of all healthy ones before. State is a list of panes and
one open pane; it is restored by replaying the panes, so that a restart gives the same alarms at the same rows.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from tidemill_contracts.pipeline import DriftSpec
from tidemill_engine.drift.adwin import Shift, ShiftDetector
from tidemill_engine.drift.panes import OpenPane, Pane
from tidemill_engine.drift.ranges import RangeSettings, leaves_range

Direction = Literal["up", "both"]
_DEFAULT_RANGE = RangeSettings()
_BASELINE = _DEFAULT_RANGE.baseline


@dataclass(frozen=True, slots=True)
class PairedSettings:
    """How a stream is watched. `direction` up: only a rise alarms. `cap` bounds the panes kept by each detector."""

    pane_rows: int = 200
    warm_up: int = 10
    delta: float = 0.002
    direction: Direction = "both"
    minimum_effect: float = 0.0
    adwin: bool = True
    newest: RangeSettings | None = _DEFAULT_RANGE
    cap: int = 400

    def __post_init__(self) -> None:
        if self.pane_rows < 1 or self.warm_up < 2 or self.cap < 4 * self.warm_up:  # noqa: PLR2004 - a spread needs two
            raise ValueError("panes need rows, a warm-up of two panes or more, and a cap of four warm-ups")
        if not self.adwin and self.newest is None:
            raise ValueError("no detector is on")
        if self.newest is not None and self.newest.baseline > self.cap:
            raise ValueError("the baseline is longer than the panes kept")

    @classmethod
    def concept(cls, spec: DriftSpec) -> Self:
        """For the paired log-loss difference: ADWIN, and only a champion falling behind its reference is news."""
        return cls(spec.pane_rows, max(2, spec.warm_up_panes), spec.delta, "up", newest=None)

    @classmethod
    def calibration(cls, spec: DriftSpec) -> Self:
        """For label minus score: either direction is news, once it is large enough to matter.

        ADWIN dates the change; the range check goes on alarming until a release brings the mean back.
        """
        newest = RangeSettings(spec.bias_panes, spec.bias_z, max(_BASELINE, 2 * spec.bias_panes))
        warm_up = max(2, spec.warm_up_panes)
        return cls(spec.pane_rows, warm_up, spec.delta, "both", spec.bias_minimum, newest=newest)


@dataclass(frozen=True, slots=True)
class Alarm:
    """A change. `rows` and `panes` are the range after it, upper end exclusive; `effect` is after less before."""

    detector: Literal["adwin", "range"]
    effect: float
    before: float
    after: float
    z: float | None
    rows: tuple[int, int]
    panes: tuple[int, int]


@dataclass(slots=True)
class PairedDetector:
    """Watches one stream. Feed every labelled row once, in the order of the merge, with its outcome number."""

    settings: PairedSettings = field(default_factory=PairedSettings)
    _open: OpenPane = field(default_factory=OpenPane)
    _closed: int = 0
    _shift: ShiftDetector = field(init=False)
    _healthy: list[Pane] = field(default_factory=list)
    _newest: list[Pane] = field(default_factory=list)
    _in_a_row: int = 0

    def __post_init__(self) -> None:
        self._shift = ShiftDetector(self.settings.delta, self.settings.warm_up, self.settings.cap)

    def update(self, value: float, row: int) -> tuple[Alarm, ...]:
        """Take the value of row number `row`; returns the alarms of the pane that it closes, if it closes one."""
        if not math.isfinite(value):
            raise ValueError("a value is not finite")
        self._open.add(value, row)
        if self._open.count < self.settings.pane_rows:
            return ()
        pane = self._open.close(self._closed)
        self._open, self._closed = OpenPane(), self._closed + 1
        found = (self._by_adwin(pane) if self.settings.adwin else None, self._by_range(pane))
        return tuple(alarm for alarm in found if alarm is not None)

    def update_many(self, values: Iterable[float], first_row: int) -> list[Alarm]:
        """Take consecutive rows, numbered from `first_row`."""
        return [alarm for i, value in enumerate(values) for alarm in self.update(float(value), first_row + i)]

    def reset(self) -> None:
        """Start anew because the champion changed: ADWIN and the open pane forget all.

        The range of healthy panes stays: a new champion that is no better than the one that alarmed must alarm again.
        """
        self._open, self._newest = OpenPane(), []
        self._shift = ShiftDetector(self.settings.delta, self.settings.warm_up, self.settings.cap)

    def to_state(self) -> dict[str, Any]:
        """Plain JSON values; numbers survive JSON exactly."""
        return {
            "closed": self._closed,
            "open": self._open.to_state(),
            "shift": [pane.to_state() for pane in self._shift.panes],
            "healthy": [pane.to_state() for pane in self._healthy],
            "newest": [pane.to_state() for pane in self._newest],
            "in_a_row": self._in_a_row,
        }

    @classmethod
    def from_state(cls, settings: PairedSettings, state: Mapping[str, Any]) -> Self:
        """The detector that `to_state` described, under the same settings."""
        detector = cls(settings, OpenPane.from_state(state["open"]), state["closed"])
        for values in state["shift"]:
            detector._shift.update(Pane.from_state(values))
        detector._healthy = [Pane.from_state(values) for values in state["healthy"]]
        detector._newest = [Pane.from_state(values) for values in state["newest"]]
        detector._in_a_row = int(state["in_a_row"])
        return detector

    def _by_adwin(self, pane: Pane) -> Alarm | None:
        shift = self._shift.update(pane)
        if shift is None or not self._matters(shift.after - shift.before):
            return None
        return self._alarm("adwin", shift, None)

    def _by_range(self, pane: Pane) -> Alarm | None:
        """Newest panes become healthy one by one, unless they alarm: those are dropped, and the range stays."""
        newest = self.settings.newest
        if newest is None:
            return None
        self._newest.append(pane)
        if len(self._newest) < newest.panes:
            return None
        if len(self._healthy) >= newest.baseline:
            z, before, after = leaves_range(self._healthy, self._newest)
            if abs(z) >= newest.z and self._matters(after - before):
                return self._left_range(Shift(before, after, tuple(self._newest)), z, newest.patience)
        self._in_a_row = 0
        self._healthy.append(self._newest.pop(0))
        del self._healthy[: -self.settings.cap]
        return None

    def _left_range(self, shift: Shift, z: float, patience: int) -> Alarm:
        self._newest = []
        self._in_a_row += 1
        if self._in_a_row >= patience:
            self._healthy, self._in_a_row = [], 0
        return self._alarm("range", shift, z)

    def _matters(self, effect: float) -> bool:
        return (effect if self.settings.direction == "up" else abs(effect)) > self.settings.minimum_effect

    def _alarm(self, detector: Literal["adwin", "range"], shift: Shift, z: float | None) -> Alarm:
        first, last = shift.panes[0], shift.panes[-1]
        rows, panes = (first.first_row, last.next_row), (first.number, last.number + 1)
        return Alarm(detector, shift.after - shift.before, shift.before, shift.after, z, rows, panes)
