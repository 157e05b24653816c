"""Events that a view wants, in columns, on their way into its state."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill_features.domain.records import Record
from tidemill_features.domain.repartition import RoutedRow, Row


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
        keep = np.setdiff1d(np.arange(len(self.keys)), bad)
        places: list[int] = keep.tolist()
        return Taken(
            [self.keys[place] for place in places], self.times[keep], self.marks[keep], self.values[keep],
            self.sources[keep], self.seqs[keep],
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
        traces if any(trace is not None for trace in traces) else None,
        lambda place: items[place].record,
    )


def of_rows(items: Sequence[RoutedRow], source_partition: int, record: Record, fields: int) -> Taken:
    """Rows of one record as columns; there are some."""
    rows, seqs, traces = zip(*items, strict=True)
    keys, times, marks, values = zip(*rows, strict=True)
    return Taken(
        list(keys), np.array(times, np.int64), np.array(marks, np.uint64),
        np.array(values, np.float64).reshape(len(items), fields), np.full(len(items), source_partition, np.int32),
        np.array(seqs, np.int64), None if traces.count(None) == len(items) else list(traces), lambda _: record,
    )  # fmt: skip


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
