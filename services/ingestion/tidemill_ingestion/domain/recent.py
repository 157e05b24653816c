"""Events that this process checked at its edge and will soon read from the log: one check is enough."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from tidemill_ingestion.domain.readings import Reading, Record, read
from tidemill_ingestion.domain.source import Event, Headers, Source

MAXIMUM_BYTES = 32 * 1024 * 1024
_OVERHEAD_BYTES = 1500
"""Of an event beside its body: its headers, its id, its place here."""


class _Written(NamedTuple):
    source: Source
    event: Event
    headers: Headers


class RecentEvents:
    """A bounded memory from (source, id) to what was written; `read` gives what `readings.read` would give.

    It never decides: only a record that is equal in every part to what was written, under the same definition of the
    source, is answered from memory, and everything else is read anew.
    """

    def __init__(self, maximum_bytes: int = MAXIMUM_BYTES) -> None:
        self._maximum, self._bytes = maximum_bytes, 0
        self._written: OrderedDict[tuple[str, bytes], _Written] = OrderedDict()

    def __len__(self) -> int:
        return len(self._written)

    def add(self, source: Source, event: Event, headers: Headers) -> None:
        """Remember an event that is about to be written with these headers (the second is its id)."""
        name = (source.name, headers[1][1])
        before = self._written.pop(name, None)
        self._bytes += _size(event) - (_size(before.event) if before is not None else 0)
        self._written[name] = _Written(source, event, headers)
        while self._bytes > self._maximum:
            self._bytes -= _size(self._written.popitem(last=False)[1].event)

    def read(self, source: Source, record: Record) -> Reading:
        """What the record is; an event is forgotten with the record that held it."""
        headers = record.headers
        if len(headers) > 1:
            found = self._written.pop((source.name, headers[1][1]), None)
            if found is not None:
                self._bytes -= _size(found.event)
                if found.source is source and _is_same(found, record, headers):
                    return found.event
        return read(source, record)


def _is_same(found: _Written, record: Record, headers: Sequence[tuple[str, bytes]]) -> bool:
    event = found.event
    return (
        record.value == event.data
        and record.key == event.key
        and (headers if type(headers) is list else list(headers)) == found.headers
        and record.partition == found.source.partition(event.key)
    )


def _size(event: Event) -> int:
    return len(event.data) + _OVERHEAD_BYTES
