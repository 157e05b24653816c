"""Events that a view wants, in columns, on their way into its state."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill_features.domain.records import Record
from tidemill_features.domain.repartition import RoutedRow, Row, Section


class Rejected(NamedTuple):
    """A record that goes to the dead letters, and why."""

    record: Record
    reason: str


class Single(NamedTuple):
    """One event."""

    row: Row
    source_partition: int
    seq: int
    trace: bytes | None
    record: Record


class Taken(NamedTuple):
    """Events in the order of their log. `traces` is None where no event has one; `record` gives that of a place."""

    keys: list[bytes]
    times: NDArray[np.int64]
    marks: NDArray[np.uint64]
    values: NDArray[np.float64]
    sources: NDArray[np.int32]
    seqs: NDArray[np.int64]
    traces: list[bytes | None] | None
    record: Callable[[int], Record]

    def without(self, bad: Sequence[int]) -> "Taken":
        """The others."""
        return self.those(np.setdiff1d(np.arange(len(self.keys)), bad))

    def those(self, kept: NDArray[np.intp]) -> "Taken":
        """Some of them, by place."""
        places: list[int] = kept.tolist()
        return Taken(
            [self.keys[place] for place in places], self.times[kept], self.marks[kept], self.values[kept],
            self.sources[kept], self.seqs[kept],
            None if self.traces is None else [self.traces[place] for place in places],
            lambda place: self.record(places[place]),
        )  # fmt: skip

    def traced(self) -> dict[bytes, bytes]:
        """Of each key that has one the newest trace."""
        if self.traces is None:
            return {}
        return {key: trace for key, trace in zip(self.keys, self.traces, strict=True) if trace is not None}


def of_singles(items: Sequence[Single], fields: int) -> Taken:
    """Single events as columns."""
    values = np.array([item.row.values for item in items], np.float64).reshape(len(items), fields)
    traces = [item.trace for item in items]
    return Taken(
        [item.row.key for item in items],
        np.array([item.row.time_us for item in items], np.int64),
        np.array([item.row.mark for item in items], np.uint64),
        values,
        np.array([item.source_partition for item in items], np.int32),
        np.array([item.seq for item in items], np.int64),
        _some(traces),
        lambda place: items[place].record,
    )


def of_rows(items: Sequence[RoutedRow], source_partition: int, fields: int) -> Taken:
    """Rows on their way as columns; nobody asks for their records."""
    return Taken(
        [item.row.key for item in items],
        np.array([item.row.time_us for item in items], np.int64),
        np.array([item.row.mark for item in items], np.uint64),
        np.array([item.row.values for item in items], np.float64).reshape(len(items), fields),
        np.full(len(items), source_partition, np.int32),
        np.array([item.seq for item in items], np.int64),
        _some([item.trace for item in items]),
        _nobody,
    )


def of_section(section: Section, source_partition: int, record: Callable[[int], Record]) -> Taken:
    """Rows as they came, all of one record."""
    sources = np.full(len(section.keys), source_partition, np.int32)
    return Taken(
        list(section.keys), section.times, section.marks, section.values, sources, section.seqs,
        None if section.traces is None else list(section.traces), record,
    )  # fmt: skip


def as_section(taken: Taken, owner: str, places: NDArray[np.intp]) -> Section:
    """Some rows, by place, for their way."""
    at: list[int] = places.tolist()
    keys, traces = [taken.keys[place] for place in at], None
    if taken.traces is not None:
        traces = _some([taken.traces[place] for place in at])
    return Section(
        owner, keys, taken.times[places], taken.marks[places], taken.seqs[places], taken.values[places], traces
    )


def _some(traces: list[bytes | None]) -> list[bytes | None] | None:
    return None if traces.count(None) == len(traces) else traces


def _nobody(place: int) -> Record:
    raise LookupError(place)


def joined(parts: Sequence[Taken]) -> Taken:
    """One behind the other."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(len(part.keys) for part in parts)])

    def record(place: int) -> Record:
        part = int(np.searchsorted(starts, place, side="right")) - 1
        return parts[part].record(place - int(starts[part]))

    def column(name: str) -> Any:  # noqa: ANN401 - arrays of three kinds
        return np.concatenate([getattr(part, name) for part in parts])

    traces = [part.traces if part.traces is not None else [None] * len(part.keys) for part in parts]
    return Taken(
        [key for part in parts for key in part.keys], column("times"), column("marks"), column("values"),
        column("sources"), column("seqs"), [trace for each in traces for trace in each], record,
    )  # fmt: skip
