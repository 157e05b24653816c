"""The newest records of the spool in memory, as they were written: who ships them need not read them again."""

from collections import deque
from typing import NamedTuple

from tidemill_serving.spool.segments import Segment

TAIL_BYTES = 8 * 1024 * 1024


class Block(NamedTuple):
    """What was written at a time: the frames of records `first` to `end` (exclusive), and where they begin on disk."""

    segment: Segment
    first: int
    end: int
    raw: bytes
    start: int


class Tail:
    """Blocks in their order; the oldest go when all have more than `TAIL_BYTES`."""

    def __init__(self) -> None:
        self._blocks: deque[Block] = deque()
        self._bytes = 0

    def add(self, block: Block) -> None:
        """What was written just now."""
        self._blocks.append(block)
        self._bytes += len(block.raw)
        while self._bytes > TAIL_BYTES:
            self._bytes -= len(self._blocks.popleft().raw)

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
