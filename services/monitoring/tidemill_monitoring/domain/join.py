"""Each label joins its prediction once, whichever comes first; what does not join is counted by class."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from tidemill_contracts.events import Prediction
from tidemill_monitoring.domain.rivals import Answered, Said

LabelClass = Literal["joined", "pending", "unmatched", "expired", "conflicting", "duplicate"]
Kind = Literal["prediction", "label", "closed", "said"]


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
    """A key that has had its label (`value`) or expired without one (None): later labels are classed by it.

    The answer's id, score and version stand there while shadows have said nothing to it: they still may.
    """

    key: str
    at_us: int
    value: float | None
    prediction_id: str | None = None
    score: float | None = None
    version: int | None = None


Entry = Prediction | Label | Closed | Said


@dataclass(slots=True)
class Counts:
    """Labels by class (they sum to `received`), predictions by state, and records of what shadows said."""

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
    shadowed: int = 0
    shadowed_joined: int = 0
    shadowed_unmatched: int = 0


@dataclass(slots=True)
class Join:
    """The streaming join. Rows must come in merge order; state is bounded by `expiry_us` of event time."""

    expiry_us: int
    counts: Counts = field(default_factory=Counts)
    predictions: dict[str, Prediction] = field(default_factory=dict)
    labels: dict[str, Label] = field(default_factory=dict)
    closed: dict[str, Closed] = field(default_factory=dict)
    said: dict[str, Said] = field(default_factory=dict)
    """Of predictions that wait for their label; and of closed keys whose label was there first."""
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

    def on_said(self, said: Said) -> Answered | None:
        """What shadows say to a prediction; the answer, when its label was there before."""
        self.counts.shadowed += 1
        waiting, closed = self.predictions.get(said.key), self.closed.get(said.key)
        if said.key not in self.said:
            if waiting is not None and str(waiting.prediction_id) == said.prediction_id:
                self._add("said", said.key, said)
                return None
            if closed is not None and closed.prediction_id == said.prediction_id:
                self._add("said", said.key, said)  # a repeat finds it there
                self.counts.shadowed_joined += 1
                return _answered(closed)
        self.counts.shadowed_unmatched += 1
        return None

    def take_said(self, prediction: Prediction, label: Label) -> tuple[Said, Answered] | None:
        """What shadows had said to a prediction that was joined just now."""
        said = self.said.get(prediction.key)
        if said is None:
            return None
        self._remove("said", prediction.key)
        self.counts.shadowed_joined += 1
        at_us = max(label.at_us, prediction.at_us)
        return said, Answered(label.value, prediction.score, prediction.version, at_us)

    def expire(self, now_us: int) -> None:
        """Close what has waited longer than the expiry at event time `now_us`; forget closed keys after one more."""
        limit = now_us - self.expiry_us
        for key in list(_older(self.predictions, limit)):
            self._remove("prediction", key)
            self._add("closed", key, Closed(key, now_us, None))
            if key in self.said:
                self._remove("said", key)
                self.counts.shadowed_unmatched += 1
            self.counts.predictions_pending -= 1
            self.counts.predictions_expired += 1
        for key in list(_older(self.labels, limit)):
            self._remove("label", key)
            self.counts.pending -= 1
            self.counts.unmatched += 1
        for key in list(_older(self.closed, limit)):
            self._remove("closed", key)
            if key in self.said:
                self._remove("said", key)

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
        answer = () if label.key in self.said else (str(prediction.prediction_id), prediction.score, prediction.version)
        self._add("closed", label.key, Closed(label.key, max(label.at_us, prediction.at_us), label.value, *answer))
        return prediction, label

    def _table(self, kind: Kind) -> dict[str, Any]:
        """The table of a kind; the class of its entries follows from the kind."""
        tables: dict[Kind, dict[str, Any]] = {
            "prediction": self.predictions,
            "label": self.labels,
            "closed": self.closed,
            "said": self.said,
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


def _answered(closed: Closed) -> Answered | None:
    """The labelled answer of a closed key, where it is kept."""
    if closed.value is None or closed.score is None or closed.version is None:
        return None
    return Answered(closed.value, closed.score, closed.version, closed.at_us)


def _older(table: dict[str, Prediction] | dict[str, Label] | dict[str, Closed], limit: int) -> Iterator[str]:
    """Keys at the front of a table, which is in time order, whose time is below `limit`."""
    for key, entry in table.items():
        if entry.at_us >= limit:
            return
        yield key
