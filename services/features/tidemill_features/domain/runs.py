"""Runs of plain events: everything that is done for each of them alike, in columns."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill_features.domain.bulk import Bodies, Wanted
from tidemill_features.domain.records import BadRecordError
from tidemill_features.domain.scan import MARK, PLAIN, SEQ, TIME, TRACE, TRACE_END, Columns, Words, scan
from tidemill_features.domain.taken import Rejected, Taken


class Run(NamedTuple):
    """Plain events of one source partition: places in `records`, what their headers say, decoded bodies.

    Trace contexts are None where no event has one.
    """

    records: Columns
    places: Words
    headers: Words
    bodies: Sequence[Any]
    traces: list[bytes | None] | None

    def those(self, kept: NDArray[np.intp]) -> "Run":
        """Some of them, by place."""
        if len(kept) == len(self.places):
            return self
        bodies = [self.bodies[place] for place in kept.tolist()]
        return Run(self.records, self.places[kept], self.headers[kept], bodies, _chosen(self.traces, kept.tolist()))

    def fresh(self, known: int) -> NDArray[np.bool_]:
        """Which of them are no repeats, with `known` the highest number seen."""
        return fresh(self.headers[:, SEQ], known)

    def taken(self, wanted: Wanted) -> Taken:
        """What a view wants of them."""
        everything = len(wanted.places) == len(self.places)
        headers = self.headers if everything else self.headers[wanted.places]
        places = self.places if everything else self.places[wanted.places]
        return Taken(
            wanted.keys, headers[:, TIME], headers[:, MARK].copy().view(np.uint64), wanted.values,
            np.full(len(headers), self.records.partition, np.int32), headers[:, SEQ],
            self.traces if everything else _chosen(self.traces, wanted.places),
            lambda place: self.records[int(places[place])],
        )  # fmt: skip


def fresh(seqs: Words, known: int) -> NDArray[np.bool_]:
    """Which numbers are of no repeats, with `known` the highest one seen: a new one is higher than all before."""
    before = np.maximum.accumulate(np.concatenate([[known], seqs[:-1]]))
    return np.asarray(seqs > before)


def _chosen(traces: list[bytes | None] | None, places: Sequence[int]) -> list[bytes | None] | None:
    return None if traces is None else [traces[place] for place in places]


def _traces(buffer: bytes, headers: Words) -> list[bytes | None] | None:
    if not len(headers) or headers[:, TRACE].max() < 0:
        return None
    places = zip(headers[:, TRACE].tolist(), headers[:, TRACE_END].tolist(), strict=True)
    return [buffer[at:end] if at >= 0 else None for at, end in places]


def in_order(
    records: Columns, bodies: Bodies, take_run: Callable[[Run], dict[int, str]], take_one: Callable[[Any], None]
) -> list[Rejected]:
    """Hand over runs of plain events and single odd records in the order of the log.

    `take_run` returns why events of a run cannot be read, by place in it; `take_one` raises BadRecordError.
    """
    headers, _ = scan(records)
    decoded = bodies.read(records, headers)
    rejected = []
    for start, stop in _stretches(headers[:, PLAIN]):
        if headers[start, PLAIN]:
            traces = _traces(records.buffer, headers[start:stop])
            run = Run(records, np.arange(start, stop), headers[start:stop], decoded[start:stop], traces)
            rejected += [Rejected(records[start + at], why) for at, why in sorted(take_run(run).items())]
            continue
        for at in range(start, stop):
            record = records[at]
            try:
                take_one(record)
            except BadRecordError as error:
                rejected.append(Rejected(record, str(error)))
    return rejected


def _stretches(plain: Words) -> Iterator[tuple[int, int]]:
    ends = [*(np.flatnonzero(np.diff(plain)) + 1).tolist(), len(plain)]
    start = 0
    for end in ends:
        if end > start:
            yield start, end
        start = end
