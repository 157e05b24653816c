"""What requests over Kafka came to, as batches for the transaction that also has their offset."""

from collections.abc import Callable, Iterator, Sequence

from tidemill_runtime.errors import Later
from tidemill_runtime.group import Outgoing
from tidemill_serving.domain.entries import Entry
from tidemill_serving.domain.frames import framed
from tidemill_serving.spool.log import Spool
from tidemill_serving.spool.parcels import batches, by_place
from tidemill_serving.spool.reader import SpoolReader
from tidemill_serving.spool.slabs import OWN_ORIGIN, Opening, Slab, slab

AT_ONCE = 1000
"""Records of the log that are looked through at a stretch."""


class Ordered:
    """Finds in the log what was answered to requests over Kafka: `tidemill_serving.handlers.bulk.Ordered`."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    @property
    def end(self) -> int:
        """The number that the log's next record gets."""
        return self._spool.end

    def answers(self, pipeline: str, numbers: range) -> Iterator[Outgoing]:
        """Those of one pipeline among the records of these numbers."""

        def wanted(opening: Opening) -> bool:
            return opening.kind == "bulk" and opening.pipeline == pipeline

        reader = SpoolReader(self._spool, numbers.start)
        while reader.number < numbers.stop:
            found = reader.slab(min(AT_ONCE, numbers.stop - reader.number))
            if found is None:
                raise Later("what was answered cannot be read on the disk")
            yield from _outgoing(Slab(OWN_ORIGIN, found.first, found.raw, found.table), wanted)

    def letters(self, letters: Sequence[Entry]) -> Iterator[Outgoing]:
        """Which are in no log."""
        found = slab(OWN_ORIGIN, 0, framed(letters), most=len(letters), check=False)
        yield from _outgoing(found, lambda opening: opening.kind == "letter")


def _outgoing(found: Slab, wanted: Callable[[Opening], bool]) -> Iterator[Outgoing]:
    for (topic, partition), rows in by_place(found, wanted)[0].items():
        yield from (Outgoing(topic, partition, batch) for batch in batches(found, rows, transactional=True))
