"""What a spool holds, record by record."""

from collections.abc import Iterator

from tidemill_serving.domain.entries import Entry
from tidemill_serving.spool import SpoolReader


def everything(reader: SpoolReader) -> Iterator[tuple[int, int, Entry]]:
    """(identity, number, record) of all that a reader finds from where it stands."""
    while (slab := reader.slab(1000)) is not None:
        yield from slab.entries()
