"""Prequential metrics by day and segment: a labelled row is scored by the answer given before its label was known."""

from dataclasses import dataclass, field

import numpy as np

from tidemill_contracts.events import Outcome
from tidemill_engine.stats import LossSums

MOST = 1000
"""Values of a field that have sums of their own in a pane, the first to come; all others are `field: other`."""
Place = tuple[str, int]
"""Segment (`field=value`, empty for everything) and start of the pane in microseconds."""


@dataclass(slots=True)
class PaneSums:
    """Exact sums of one pane: of the answers, and of each shadow on the same rows."""

    answers: LossSums = field(default_factory=LossSums)
    shadows: dict[str, LossSums] = field(default_factory=dict)


@dataclass(slots=True)
class Segments:
    """Sums by pane and segment. Panes close when labels of a later one come: rows arrive in merge order."""

    pane_us: int
    panes: dict[Place, PaneSums] = field(default_factory=dict)
    changed: set[Place] = field(default_factory=set)

    def add(self, outcome: Outcome) -> None:
        """Count one labelled row."""
        start = outcome.labelled_us // self.pane_us * self.pane_us
        label = np.array([outcome.label])
        sums = LossSums.of(label, np.array([outcome.score]))
        shadows = {name: LossSums.of(label, np.array([score])) for name, score in outcome.shadows.items()}
        if outcome.reference is not None:
            shadows["reference"] = LossSums.of(label, np.array([outcome.reference]))
        for segment in ["", *(self._named(name, value, start) for name, value in sorted(outcome.segments.items()))]:
            pane = self.panes.setdefault((segment, start), PaneSums())
            pane.answers += sums
            for name, extra in shadows.items():
                pane.shadows[name] = pane.shadows.get(name, LossSums()) + extra
            self.changed.add((segment, start))

    def _named(self, name: str, value: str, start: int) -> str:
        """The segment that a value is counted in: a client that sends ever new ones must not fill the memory."""
        segment, other = f"{name}={value}", f"{name}: other"  # no value makes a name like that
        if (segment, start) in self.panes:
            return segment
        if (other, start) in self.panes:
            return other
        known = sum(at == start and place.startswith(f"{name}=") for place, at in self.panes)
        return segment if known < MOST else other

    def take_changed(self) -> dict[Place, tuple[dict[str, int], dict[str, dict[str, int]]]]:
        """Panes changed since the last call, as plain sums; those before the newest are closed and then forgotten."""
        out = {}
        for place in sorted(self.changed):
            pane = self.panes[place]
            out[place] = (pane.answers.to_dict(), {name: sums.to_dict() for name, sums in sorted(pane.shadows.items())})
        newest = max((start for _, start in self.panes), default=0)
        self.panes = {place: pane for place, pane in self.panes.items() if place[1] == newest}
        self.changed = set()
        return out
