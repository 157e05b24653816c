"""Which rows a decision rests on, as trace contexts: what its span is linked to. In memory only, it decides nothing."""

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import TypeVar

from tidemill_contracts.events import DriftDetected, Event, Outcome, Prediction
from tidemill_monitoring.domain.merge import Row

KEPT = 20_000
"""Rows whose contexts are remembered, newest first to stay."""
LINKS = 32
T = TypeVar("T")


class Evidence:
    """Contexts of the newest predictions and labels, by row; what was read before a restart is not known any more."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._contexts: OrderedDict[str, str] = OrderedDict()
        self._outcomes: deque[tuple[int, str, str]] = deque(maxlen=kept)
        self._predictions: deque[tuple[int, str]] = deque(maxlen=kept)

    def note(self, row_id: str, context: str) -> None:
        """Remember the context that a prediction (by its id) or a label (by its event) came in."""
        self._contexts[row_id] = context
        if len(self._contexts) > self._kept:
            self._contexts.popitem(last=False)

    def contexts(self, rows: Sequence[Row]) -> list[str]:
        """The contexts of rows, as far as they are known."""
        return self._known([row.id for row in rows])

    def folded(self, rows: Sequence[Row], outcomes: Sequence[Outcome]) -> None:
        """These rows were folded and led to these outcomes."""
        self._predictions.extend((row.at_us, row.id) for row in rows if isinstance(row.body, Prediction))
        self._outcomes.extend((each.seq, str(each.prediction_id), each.label_event) for each in outcomes)

    def behind(self, event: Event) -> list[str]:
        """At most 32 contexts, spread evenly over a drift's window or outcomes; else those of the newest outcomes."""
        if isinstance(event, DriftDetected) and event.window_us is not None:
            low, high = event.window_us
            return self._known(_spread([row_id for at_us, row_id in self._predictions if low <= at_us < high], LINKS))
        outcomes = list(self._outcomes)
        if isinstance(event, DriftDetected) and event.outcomes is not None:
            first, end = event.outcomes
            outcomes = [each for each in outcomes if first <= each[0] < end]
        else:
            outcomes = outcomes[-LINKS // 2 :]
        return self._known([row_id for _, *pair in _spread(outcomes, LINKS // 2) for row_id in pair])

    def _known(self, row_ids: Sequence[str]) -> list[str]:
        return [context for row_id in row_ids if (context := self._contexts.get(row_id)) is not None]


def _spread(items: Sequence[T], count: int) -> list[T]:
    step = max(len(items) / count, 1.0)
    return [items[int(n * step)] for n in range(min(len(items), count))]
