"""Reads the spool in order: what was appended not long ago from memory, everything else from the disk."""

from tidemill_serving.domain.frames import HEAD
from tidemill_serving.spool.log import Spool
from tidemill_serving.spool.scanning import END
from tidemill_serving.spool.segments import Segment
from tidemill_serving.spool.slabs import Slab, slab

READ_BYTES = 1024 * 1024
"""Of a file at a time."""


class SpoolReader:
    """Reads on from a record number, in order, as far as the spool has got."""

    def __init__(self, spool: Spool, number: int) -> None:
        self._spool, self.number = spool, number
        self._segment: Segment | None = None
        self._offset = 0

    def slab(self, maximum: int) -> Slab | None:
        """At most `maximum` records of one identity; the reader then stands behind them. None: there are none yet."""
        found = self._remembered(maximum)
        while found is None and (segment := self._current()) is not None:
            raw = self._read(segment)
            found = slab(segment.identity, self.number, raw, most=min(maximum, segment.end - self.number), check=True)
            if not len(found):
                found, self.number = None, segment.end  # what follows in this file cannot be read
        if found is None:
            return None
        self.number, self._offset = found.end, self._offset + int(found.table[-1, END])
        return found

    def _remembered(self, maximum: int) -> Slab | None:
        """From memory: whole blocks of one segment, but for the first and the last one."""
        parts: list[bytes] = []
        count, segment = 0, None
        for block in self._spool.tail.since(self.number):
            if segment is None:
                segment, skip = block.segment, 0
                if self.number > block.first:
                    if block.segment is not self._segment:
                        return None
                    skip = self._offset - block.start
                self._segment, self._offset = segment, block.start + skip
                parts.append(block.raw[skip:])
            elif segment is block.segment and count < maximum:
                parts.append(block.raw)
            else:
                break
            count = block.end - self.number
        if segment is None:
            return None
        raw = parts[0] if len(parts) == 1 else b"".join(parts)
        return slab(segment.identity, self.number, raw, most=min(count, maximum), check=False)

    def _read(self, segment: Segment) -> bytes:
        """From the present place on: one frame at least, where it is whole."""
        left = segment.size - self._offset
        with segment.path.open("rb") as file:
            file.seek(self._offset)
            raw = file.read(min(left, READ_BYTES))
            if len(raw) >= HEAD.size and (size := HEAD.size + HEAD.unpack_from(raw)[0]) > len(raw):
                raw += file.read(min(size, left) - len(raw))
        return raw

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
