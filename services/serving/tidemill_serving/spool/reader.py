"""Reads the spool in order: what was appended not long ago from memory, everything else from the disk."""

from itertools import repeat

from tidemill_serving.domain.entries import Entry
from tidemill_serving.spool.log import Spool
from tidemill_serving.spool.segments import Segment


class SpoolReader:
    """Reads on from a record number, in order, as far as the spool has got."""

    def __init__(self, spool: Spool, number: int) -> None:
        self._spool, self.number = spool, number
        self._segment: Segment | None = None
        self._offset = 0

    def batch(self, maximum: int) -> list[tuple[int, int, Entry]]:
        """At most `maximum` records as (identity, number, record); the reader then stands behind them."""
        out: list[tuple[int, int, Entry]] = []
        for block in self._spool.tail.since(self.number):
            at = self.number - block.first
            stop = min(len(block.entries), at + maximum - len(out))
            if stop <= at:
                break
            entries = block.entries if stop - at == len(block.entries) else block.entries[at:stop]
            out += zip(repeat(block.segment.identity), range(self.number, block.first + stop), entries, strict=False)
            self.number, self._segment, self._offset = block.first + stop, block.segment, block.ends[stop - 1]
        while len(out) < maximum and (segment := self._current()) is not None:
            for number, entry, end in segment.entries(self.number, self._offset):
                if number >= segment.end or len(out) >= maximum:
                    break
                out.append((segment.identity, number, entry))
                self.number, self._offset = number + 1, end
            else:
                self.number = segment.end
        return out

    def _current(self) -> Segment | None:
        """The segment that holds the next record; None when there is none yet."""
        segment = next((segment for segment in self._spool.segments if segment.end > self.number), None)
        if segment is not None and segment is not self._segment:
            self._segment, self._offset = segment, segment.start
            wanted, self.number = self.number, segment.first
            for number, _, end in segment.entries(segment.first, segment.start):
                if number >= wanted:
                    break
                self.number, self._offset = number + 1, end
        return segment
