"""From dense numbers to places: the archive knows the Kafka offset of every applied event."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tidemill.client.errors import TidemillError
from tidemill_runtime.archive import archive_path, read_events
from tidemill_runtime.errors import RuntimeFailure

COLUMNS = ("partition", "seq", "offset", "raw_offset", "id", "event_us")


@dataclass(frozen=True, slots=True)
class SourceEvent:
    """An event of a source: its number, its offset on events.<source> and on raw.<source>, its id and event time."""

    source: str
    partition: int
    seq: int
    offset: int
    raw_offset: int
    id: str
    event_us: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


Wanted = tuple[str, int, int]
"""Source, partition, dense number."""


async def resolve(artifacts: str, wanted: Iterable[Wanted]) -> dict[Wanted, SourceEvent]:
    """The wanted events, one reading per source.

    Raises:
        TidemillError: the archive does not hold them.
    """
    by_source: dict[str, list[Wanted]] = {}
    for each in wanted:
        by_source.setdefault(each[0], []).append(each)
    found: dict[Wanted, SourceEvent] = {}
    for source, places in sorted(by_source.items()):
        try:
            found |= await asyncio.to_thread(_read, archive_path(artifacts, source), source, places)
        except RuntimeFailure as error:
            raise TidemillError(f"the events of {source} cannot be resolved: {error}") from error
    return found


def _read(path: str, source: str, places: list[Wanted]) -> Mapping[Wanted, SourceEvent]:
    below: dict[int, int] = {}
    for _, partition, seq in places:
        below[partition] = max(below.get(partition, 0), seq + 1)
    table = read_events(path, below, columns=COLUMNS)
    # Sorted by partition and number, and dense: where each partition starts says where each event stands.
    starts, at = {}, 0
    for partition in sorted(below):
        starts[partition] = at
        at += below[partition]
    rows = table.take([starts[partition] + seq for _, partition, seq in places]).to_pylist()
    return {place: SourceEvent(source=source, **row) for place, row in zip(places, rows, strict=True)}
