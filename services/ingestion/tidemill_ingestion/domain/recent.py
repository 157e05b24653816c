"""Events that this process checked at its edge and will soon read from the log: one check is enough."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tidemill_ingestion.domain.framing import Body, frame
from tidemill_ingestion.domain.readings import Reading, Record, columns_of, read
from tidemill_ingestion.domain.source import Event, Source

MAXIMUM_BYTES = 32 * 1024 * 1024
_OVERHEAD_BYTES = 1500
"""Of an event beside its bytes: its objects, its place here."""


class Remembered(NamedTuple):
    """A record that is what was written for an event, to the byte."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    event: Event
    body: Body

    @property
    def key(self) -> bytes:
        """The event's."""
        return self.event.key

    @property
    def value(self) -> bytes:
        """The event's."""
        return self.event.data

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        """The event's."""
        return self.event.envelope().headers()


class _Written(NamedTuple):
    source: Source
    event: Event
    body: Body
    partition: int


class RecentEvents:
    """A bounded memory of what was written; `read` gives what `readings.read` would give.

    It never decides: only a record that is equal in every byte to what was written, under the same definition of the
    source, is answered from memory, and everything else is read anew.
    """

    def __init__(self, maximum_bytes: int = MAXIMUM_BYTES) -> None:
        self._maximum, self._bytes = maximum_bytes, 0
        self._written: OrderedDict[bytes, _Written] = OrderedDict()

    def __len__(self) -> int:
        return len(self._written)

    def add(self, source: Source, event: Event, body: Body, partition: int) -> None:
        """Remember an event that is about to be written as `body` to `partition`."""
        before = self._written.pop(body.data, None)
        if before is None:
            self._bytes += _size(body.data)
        self._written[body.data] = _Written(source, event, body, partition)
        while self._bytes > self._maximum:
            self._bytes -= _size(self._written.popitem(last=False)[0])

    def read(self, source: Source, record: Record) -> Reading:
        """What the record is; an event is forgotten with the record that held it."""
        if record.key is not None:
            body = frame(record.key, record.value, record.headers)
            found = self._take(source, body, len(record.key), record.partition)
            if found is not None:
                return found.event
        return read(source, record)

    def read_all(self, source: Source, records: Sequence[Record]) -> Iterator[tuple[Record, Reading]]:
        """Each record with what it is; for columns without taking apart those that are known."""
        columns = columns_of(records)
        if columns is None:
            yield from ((record, self.read(source, record)) for record in records)
            return
        buffer, topic, partition = columns.buffer, columns.topic, columns.partition
        for place, (offset, at_ms, key, key_end, _, _, _, _, end) in enumerate(columns.table.tolist()):
            found = self._take(source, buffer[key:end], key_end - key, partition) if key >= 0 else None
            if found is None:
                record = columns[place]
                yield record, read(source, record)
            else:
                yield Remembered(topic, partition, offset, at_ms, found.event, found.body), found.event

    def _take(self, source: Source, body: bytes, key_bytes: int, partition: int) -> _Written | None:
        """What was written as these bytes; the same bytes behind a key of another length are another record."""
        found = self._written.pop(body, None)
        if found is None:
            return None
        self._bytes -= _size(body)
        same = found.source is source and found.partition == partition and len(found.event.key) == key_bytes
        return found if same else None


def _size(body: bytes) -> int:
    return 2 * len(body) + _OVERHEAD_BYTES
