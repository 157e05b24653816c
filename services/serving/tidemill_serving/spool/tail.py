"""The newest records of the spool in memory, as they were written: who ships them need not read them again."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from tidemill_serving.domain.entries import Entry
from tidemill_serving.spool.segments import Segment

TAIL_BYTES = 8 * 1024 * 1024


class Kept(NamedTuple):
    """A new record, and where it begins on disk."""

    entry: Entry
    segment: Segment
    offset: int


class Block(NamedTuple):
    """What was written at a time: records `first` to `end` (exclusive), and where each ends on disk."""

    segment: Segment
    first: int
    entries: Sequence[Entry]
    ends: Sequence[int]
    start: int

    @property
    def end(self) -> int:
        """The number after its last record."""
        return self.first + len(self.entries)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.ends[-1] - self.start


class Tail:
    """Blocks in their order; the oldest go when all have more than `TAIL_BYTES`."""

    def __init__(self) -> None:
        self._blocks: deque[Block] = deque()
        self._bytes = 0

    def add(self, block: Block) -> None:
        """What was written just now."""
        self._blocks.append(block)
        self._bytes += block.size
        while self._bytes > TAIL_BYTES:
            self._bytes -= self._blocks.popleft().size

    def find(self, number: int) -> Kept | None:
        """A record that was written not long ago."""
        for block in reversed(self._blocks):
            if block.first <= number < block.end:
                at = number - block.first
                return Kept(block.entries[at], block.segment, block.ends[at - 1] if at else block.start)
        return None

    def since(self, number: int) -> list[Block]:
        """Blocks from the one that holds a record on; none where memory does not hold it any more."""
        if not self._blocks or number < self._blocks[0].first:
            return []
        found: list[Block] = []
        for block in reversed(self._blocks):
            if block.end <= number:
                break
            found.append(block)
        return found[::-1]
