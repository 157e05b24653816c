"""The ordered merge: one order of rows on every run, whatever order the partitions arrived in.

Rows are released sorted by (event time, id) once every input's watermark has passed them. Released rows are final: an
older row is a repeat after a restart and is dropped, so resuming needs no table of ids.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tidemill_monitoring.domain.writers import NEVER, NOTHING, Progress

Input = tuple[str, int]
"""Topic and partition."""


@dataclass(frozen=True, slots=True, order=True)
class Row:
    """A row waiting for its turn. Ordered by time, then id; offset and body do not take part."""

    at_us: int
    id: str
    source: Input = field(compare=False)
    offset: int = field(compare=False)
    body: Any = field(compare=False)


class OrderedMerge:
    """Buffers rows of several inputs, releases them in order. Memory grows with how far inputs are apart in time.

    `lanes` are inputs that share one partition, each with the partition: records of their own say how far a lane has
    come, so a restart reads from the latest of those, and not only from the first row that waits.
    """

    def __init__(
        self,
        inputs: list[Input],
        *,
        released_until_us: int = NEVER,
        lanes: Mapping[Input, Input] | None = None,
        progress: Mapping[Input, Progress] | None = None,
    ) -> None:
        """`progress` is that of `resume`, for the inputs that writers tell of."""
        self.released_until_us = released_until_us
        self.dropped = self.raised = 0
        self._lanes = dict(lanes or {})
        known = progress or {}
        self._progress = {source: known.get(source, NOTHING) for source in [*inputs, *self._lanes]}
        self._watermarks = {source: found.watermark_us for source, found in self._progress.items()}
        self._heap: list[Row] = []
        self._waiting: dict[Input, dict[str, tuple[int, Progress]]] = {source: {} for source in self._watermarks}
        self._told: dict[Input, int] = {}

    @property
    def watermark_us(self) -> int:
        """Lowest watermark of all inputs; NEVER while one of them has none."""
        return min(self._watermarks.values(), default=NEVER)

    @property
    def buffered(self) -> int:
        """Rows waiting."""
        return len(self._heap)

    def watermarks(self) -> dict[Input, int]:
        """Watermark by input."""
        return dict(self._watermarks)

    def push(self, row: Row) -> bool:
        """Buffer a row; False for a repeat (already released, or waiting under the same id).

        A row below what the writers of its partition had passed before it is read at that time, and counted.
        """
        waiting, progress = self._waiting[row.source], self._progress[row.source]
        if row.at_us < progress.watermark_us:
            row = replace(row, at_us=progress.watermark_us)
            self.raised += 1
        if row.at_us < self.released_until_us or row.id in waiting:
            self.dropped += 1
            return False
        waiting[row.id] = row.offset, progress
        heapq.heappush(self._heap, row)
        return True

    def advance(self, source: Input, watermark_us: int, offset: int = 0) -> None:
        """Raise an input's watermark; a lower one is ignored. `offset` of the record that says it matters to lanes."""
        if watermark_us > self._watermarks[source]:
            self._watermarks[source] = watermark_us
            if source in self._lanes:
                self._told[source] = offset

    def progress(self, source: Input) -> Progress:
        """What the writers of an input have said so far."""
        return self._progress[source]

    def tell(self, source: Input, progress: Progress) -> None:
        """A writer has said something: what is read of this input from here on stands under it."""
        self._progress[source] = progress
        self.advance(source, progress.watermark_us)

    def release(self) -> list[Row]:
        """Rows below the lowest watermark, in order."""
        limit = self.watermark_us
        rows: list[Row] = []
        while self._heap and self._heap[0].at_us < limit:
            row = heapq.heappop(self._heap)
            del self._waiting[row.source][row.id]
            rows.append(row)
        self.released_until_us = max(self.released_until_us, limit)
        return rows

    def resume(self, source: Input, following: int) -> tuple[int, Progress]:
        """Where a restart must read `source` from, and what its writers had said before.

        That is its first waiting row, else `following` (the next unread offset). The latest word of each lane within
        `source` counts as waiting: its watermark is in no other record.
        """
        lanes = [lane for lane, place in self._lanes.items() if place == source]
        waiting = [place for each in (lanes or [source]) for place in self._waiting[each].values()]
        waiting += [(self._told[lane], NOTHING) for lane in lanes if lane in self._told]
        return min(waiting, key=_offset, default=(following, self._progress.get(source, NOTHING)))


def _offset(place: tuple[int, Progress]) -> int:
    return place[0]
