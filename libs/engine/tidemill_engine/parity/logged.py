"""Logged answers in columns. Many answers read the same vector of a view, so each of those is kept once."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.entities import EntityKey
from tidemill_engine.parity.layout import Layout
from tidemill_engine.windows.steps import Told

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_BLOCK = 4096
_NO_TIME = -1


class Answer(NamedTuple):
    """What parity needs of a logged prediction; `request` and the values of `revisions` are JSON."""

    prediction_id: str
    place: tuple[int, int]
    at_us: int
    watermark_us: int | None
    vector: Sequence[float | None] | Floats
    request: bytes
    revisions: Mapping[str, bytes]


class States:
    """The distinct vectors of one version of a view that answers have read."""

    def __init__(self) -> None:
        self._places: dict[bytes, int] = {}
        self.entities: list[str] = []
        self.revisions: list[int] = []
        self.at_us: list[int] = []
        self.positions: list[dict[str, int]] = []

    def place(self, raw: bytes) -> int:
        """Where the state of a `ViewRevision` in JSON stands; raises ValueError for anything else."""
        known = self._places.get(raw)
        if known is not None:
            return known
        body: dict[str, Any] = json.loads(raw)
        self.entities.append(body["entity"])
        self.revisions.append(int(body["revision"]))
        self.at_us.append(_NO_TIME if body.get("at_us") is None else int(body["at_us"]))
        self.positions.append({str(name): int(seq) for name, seq in body.get("positions", {}).items()})
        self._places[raw] = len(self.entities) - 1
        return self._places[raw]

    def below(self, partitions: int) -> dict[int, int]:
        """For each source partition the number of events that the states may reflect."""
        ends = dict.fromkeys(range(partitions), 0)
        for each in self.positions:
            for name, seq in each.items():
                ends[int(name)] = max(ends.get(int(name), 0), seq + 1)
        return {partition: end for partition, end in ends.items() if end > 0}

    def told(self, partitions: int) -> tuple[Told, NDArray[np.intp]]:
        """The states of known entities, and their places."""
        known = np.flatnonzero(np.array(self.revisions, np.int64) > 0)
        reached = np.full((len(known), partitions), -1, np.int64)
        for row, place in enumerate(known.tolist()):
            for name, seq in self.positions[place].items():
                reached[row, int(name)] = seq
        told = Told(
            [self.entities[place].encode() for place in known.tolist()], np.array(self.at_us, np.int64)[known],
            np.array(self.revisions, np.int64)[known], reached,
        )  # fmt: skip
        return told, known


class Columns:
    """Answers of one layout: vectors [n, features], times, and for each view the place of its state."""

    def __init__(self, layout: Layout, states: Mapping[tuple[str, str], States]) -> None:
        self.layout = layout
        self.ids: list[str] = []
        self.places: list[tuple[int, int]] = []
        self.at_us: list[int] = []
        self.watermarks: list[int] = []
        self.requests: list[bytes] = []
        self.read: dict[str, list[int]] = {part.view: [] for part in layout.views}
        self._states = {part.view: states[part.view, part.version] for part in layout.views}
        self._blocks: list[Floats] = []
        self._rows: list[Sequence[float | None] | Floats] = []

    def add(self, answer: Answer) -> None:
        if len(answer.vector) != len(self.layout.features):
            raise ValueError("the vector has another width than its release")
        found = {view: states.place(answer.revisions[view]) for view, states in self._states.items()}
        for view, place in found.items():
            self.read[view].append(place)
        self.ids.append(answer.prediction_id)
        self.places.append(answer.place)
        self.at_us.append(answer.at_us)
        self.watermarks.append(_NO_TIME if answer.watermark_us is None else answer.watermark_us)
        self.requests.append(answer.request)
        self._rows.append(answer.vector)
        if len(self._rows) == _BLOCK:
            self._close()

    def _close(self) -> None:
        self._blocks.append(np.array(self._rows, np.float64).reshape(len(self._rows), len(self.layout.features)))
        self._rows = []

    def vectors(self) -> Floats:
        """All vectors, float64 (n, features), NaN for null."""
        self._close()
        self._blocks = [np.concatenate(self._blocks)]
        return self._blocks[0]

    def __len__(self) -> int:
        return len(self.ids)


class Logged:
    """Answers by the epoch of their release."""

    def __init__(self, layouts: Mapping[int, Layout]) -> None:
        self.states: dict[tuple[str, str], States] = {
            (part.view, part.version): States() for layout in layouts.values() for part in layout.views
        }
        self.specs = {(part.view, part.version): layout.spec for layout in layouts.values() for part in layout.views}
        self.columns = {epoch: Columns(layout, self.states) for epoch, layout in layouts.items()}
        self.unknown = 0

    def add(self, epoch: int, digest: str, answer: Answer) -> bool:
        """Take an answer; false (and counted in `unknown`) when its release is not known or its record is not whole."""
        columns = self.columns.get(epoch)
        if columns is None or columns.layout.digest != digest:
            self.unknown += 1
            return False
        try:
            columns.add(answer)
        except (KeyError, TypeError, ValueError):
            self.unknown += 1
            return False
        return True

    def chooser(self, source: str) -> Callable[[Mapping[str, Any]], bool]:
        """Whether an event's body may count for an entity that answers have read: few of them need few events."""
        keys: dict[tuple[str, ...], tuple[EntityKey, set[str]]] = {}
        for (view, version), states in self.states.items():
            spec = self.specs[view, version]
            if spec.views[view].source == source:
                key = tuple(spec.entities[spec.views[view].entity].key)
                known = keys.setdefault(key, (EntityKey(key, spec.sources[source].fields), set()))
                known[1].update(states.entities)
        return lambda body: any(_names(key, body, entities) for key, entities in keys.values())

    def fields(self, source: str) -> frozenset[str]:
        """Fields of a source's events that its views look at; nobody needs the others."""
        found: set[str] = set()
        for view, version in self.states:
            spec = self.specs[view, version]
            declared = spec.views[view]
            if declared.source != source:
                continue
            texts = [text for text in (declared.where, *(item.where for item in declared.aggregations)) if text]
            found.update(
                spec.entities[declared.entity].key, (item.field for item in declared.aggregations if item.field)
            )
            found.update(name for name in spec.sources[source].fields if any(name in text for text in texts))
        return frozenset(found)

    def wanted(self) -> dict[str, dict[int, int]]:
        """For each source and partition the number of events that must be replayed."""
        out: dict[str, dict[int, int]] = {}
        for (view, version), states in self.states.items():
            spec = self.specs[view, version]
            ends = out.setdefault(spec.views[view].source, {})
            for partition, end in states.below(spec.partitions).items():
                ends[partition] = max(ends.get(partition, 0), end)
        return {source: ends for source, ends in out.items() if ends}


def _names(key: EntityKey, body: Mapping[str, Any], entities: set[str]) -> bool:
    try:
        return key(body) in entities
    except ValueError:
        return False  # the stream buried it
