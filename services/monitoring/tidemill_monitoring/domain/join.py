"""Each label joins its prediction once, whichever comes first; what does not join is counted by class."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from tidemill_contracts.events import Prediction

LabelClass = Literal["joined", "pending", "unmatched", "expired", "conflicting", "duplicate"]
Kind = Literal["prediction", "label", "closed"]


@dataclass(frozen=True, slots=True)
class Label:
    """A truth from the label source: value of the label expression, and where it came from."""

    key: str
    at_us: int
    value: float
    event_id: str
    partition: int
    seq: int


@dataclass(frozen=True, slots=True)
class Closed:
    """A key that has had its label (`value`) or expired without one (None): later labels are classed by it."""

    key: str
    at_us: int
    value: float | None


Entry = Prediction | Label | Closed


@dataclass(slots=True)
class Counts:
    """Labels by class (they sum to `received`) and predictions by state."""

    received: int = 0
    joined: int = 0
    pending: int = 0
    unmatched: int = 0
    expired: int = 0
    conflicting: int = 0
    duplicate: int = 0
    predictions: int = 0
    predictions_pending: int = 0
    predictions_expired: int = 0
    predictions_repeated: int = 0


@dataclass(slots=True)
class Join:
    """The streaming join. Rows must come in merge order; state is bounded by `expiry_us` of event time."""

    expiry_us: int
    counts: Counts = field(default_factory=Counts)
    predictions: dict[str, Prediction] = field(default_factory=dict)
    labels: dict[str, Label] = field(default_factory=dict)
    closed: dict[str, Closed] = field(default_factory=dict)
    added: dict[tuple[Kind, str], Entry] = field(default_factory=dict)
    removed: set[tuple[Kind, str]] = field(default_factory=set)

    def on_prediction(self, prediction: Prediction) -> tuple[Prediction, Label] | None:
        """A prediction; the pair when its label was already here."""
        self.counts.predictions += 1
        key = prediction.key
        if key in self.predictions or key in self.closed:
            self.counts.predictions_repeated += 1
            return None
        label = self.labels.get(key)
        if label is not None:
            self._remove("label", key)
            self.counts.pending -= 1
            return self._joined(prediction, label)
        self._add("prediction", key, prediction)
        self.counts.predictions_pending += 1
        return None

    def on_label(self, label: Label) -> tuple[Prediction, Label] | None:
        """A label; the pair when it joins a waiting prediction, None when it waits or is classed otherwise."""
        self.counts.received += 1
        known = self.closed.get(label.key)
        waiting = self.labels.get(label.key)
        if known is not None and known.value is None:
            self.counts.expired += 1
        elif known is not None or waiting is not None:
            earlier = known.value if known is not None else waiting.value if waiting is not None else None
            if earlier == label.value:
                self.counts.duplicate += 1
            else:
                self.counts.conflicting += 1
        elif (prediction := self.predictions.get(label.key)) is not None:
            self._remove("prediction", label.key)
            self.counts.predictions_pending -= 1
            return self._joined(prediction, label)
        else:
            self._add("label", label.key, label)
            self.counts.pending += 1
        return None

    def expire(self, now_us: int) -> None:
        """Close what has waited longer than the expiry at event time `now_us`; forget closed keys after one more."""
        limit = now_us - self.expiry_us
        for key in list(_older(self.predictions, limit)):
            self._remove("prediction", key)
            self._add("closed", key, Closed(key, now_us, None))
            self.counts.predictions_pending -= 1
            self.counts.predictions_expired += 1
        for key in list(_older(self.labels, limit)):
            self._remove("label", key)
            self.counts.pending -= 1
            self.counts.unmatched += 1
        for key in list(_older(self.closed, limit)):
            self._remove("closed", key)

    def restore(self, kind: Kind, entry: Entry) -> None:
        """Put back an entry read from the store, oldest first."""
        self._table(kind)[entry.key] = entry

    def take_changes(self) -> tuple[list[tuple[Kind, Entry]], list[tuple[Kind, str]]]:
        """What was added and removed since the last call, for the store."""
        added = [(kind, entry) for (kind, _), entry in self.added.items()]
        removed = sorted(self.removed)
        self.added, self.removed = {}, set()
        return added, removed

    def _joined(self, prediction: Prediction, label: Label) -> tuple[Prediction, Label]:
        self.counts.joined += 1
        self._add("closed", label.key, Closed(label.key, max(label.at_us, prediction.at_us), label.value))
        return prediction, label

    def _table(self, kind: Kind) -> dict[str, Any]:
        """The table of a kind; the class of its entries follows from the kind."""
        tables: dict[Kind, dict[str, Any]] = {
            "prediction": self.predictions,
            "label": self.labels,
            "closed": self.closed,
        }
        return tables[kind]

    def _add(self, kind: Kind, key: str, entry: Entry) -> None:
        self._table(kind)[key] = entry
        self.added[kind, key] = entry
        self.removed.discard((kind, key))

    def _remove(self, kind: Kind, key: str) -> None:
        del self._table(kind)[key]
        if self.added.pop((kind, key), None) is None:
            self.removed.add((kind, key))


def _older(table: dict[str, Prediction] | dict[str, Label] | dict[str, Closed], limit: int) -> Iterator[str]:
    """Keys at the front of a table, which is in time order, whose time is below `limit`."""
    for key, entry in table.items():
        if entry.at_us >= limit:
            return
        yield key
