"""What the endpoints work with: a replica that nobody pays for before the first request, and the way to ingestion."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from tidemill_contracts.pipeline import PipelineSpec
from tidemill_features.domain.views import Program
from tidemill_features.feast.catalogue import Catalogue, catalogue
from tidemill_features.feast.errors import NotNowError
from tidemill_features.feast.tables import Tables
from tidemill_runtime.backoff import Rarely

_log = logging.getLogger(__name__)
PATIENCE_S = 10.0
"""How long a request waits for the replica; the SDK asks again three times after a 503."""


class Record(Protocol):
    """What is read of a Kafka record."""

    @property
    def key(self) -> bytes | None: ...

    @property
    def value(self) -> bytes | None: ...


class Follows(Protocol):
    """A running reader of whole topics."""

    caught_up: asyncio.Event

    async def run(self) -> None: ...


class Sends(Protocol):
    """The way to ingestion."""

    async def send(self, source: str, events: Sequence[Mapping[str, Any]]) -> None: ...

    async def close(self) -> None: ...


OnRecords = Callable[[str, int, "list[Record]"], Awaitable[None] | None]
OpenTail = Callable[[Sequence[str], OnRecords], Follows]


class FeastStore:
    """Owns the replica of the topics of all views, read from their beginning once somebody asks.

    It is made anew when views change; requests wait for it meanwhile. A replica above its limit is given up: half of
    the entities would look like all of them.
    """

    def __init__(
        self, *, open_tail: OpenTail, ingestion: Sends, is_ready: Callable[[], bool], max_bytes: int,
        patience_s: float = PATIENCE_S,
    ) -> None:  # fmt: skip
        self.catalogue = Catalogue()
        self.ingestion, self.is_ready = ingestion, is_ready
        self._open_tail, self._max_bytes, self._patience_s = open_tail, max_bytes, patience_s
        self._tables: Tables | None = None
        self._asked, self._current, self._changed = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._speak = Rarely()

    def apply(self, specs: Sequence[PipelineSpec], program: Program) -> None:
        """The pipelines are these now."""
        before, self.catalogue = self.catalogue.versions, catalogue(specs, program)
        if self.catalogue.versions != before:
            self._tables = None
            self._current.clear()
            self._changed.set()

    async def tables(self) -> Tables:
        """The replica, with everything that was published when it was asked for first; raises NotNowError."""
        if self._tables is None:
            self._asked.set()
            try:
                async with asyncio.timeout(self._patience_s):
                    await self._current.wait()
            except TimeoutError:
                raise NotNowError("the vectors are still being read") from None
        if self._tables is None:
            raise NotNowError(f"the vectors need more than TIDEMILL_FEAST_MAX_BYTES={self._max_bytes}")
        return self._tables

    async def run(self) -> None:
        """Until cancelled."""
        try:
            await self._asked.wait()
            while True:
                self._changed.clear()
                await self._follow()
        finally:
            await self.ingestion.close()

    async def _follow(self) -> None:
        """Read the topics of the views that there are now, until they are others."""
        tables, full = Tables(self.catalogue.versions, self._max_bytes), asyncio.Event()
        if not tables.by_topic:
            await self._changed.wait()
            return
        tail = self._open_tail(list(tables.by_topic), partial(self._take, tables, full))
        reading = asyncio.ensure_future(tail.run())
        try:
            await _any(tail.caught_up, full, self._changed)
            if not full.is_set() and not self._changed.is_set():
                self._tables = tables
                self._current.set()
            await _any(full, self._changed)
        finally:
            reading.cancel()
            await asyncio.wait({reading})
        if not self._changed.is_set():
            _log.error("the vectors need more than %d bytes: Feast's protocol is not answered", self._max_bytes)
            self._tables = None
            self._current.set()
            del tables
            await self._changed.wait()

    def _take(self, tables: Tables, full: asyncio.Event, topic: str, partition: int, records: "list[Record]") -> None:
        unreadable = tables.apply(topic, ((record.key, record.value) for record in records))
        if unreadable and self._speak():
            _log.warning("%s/%d: %d records left out: %s", topic, partition, len(unreadable), unreadable[0])
        if tables.is_full:
            full.set()


async def _any(*events: asyncio.Event) -> None:
    """Until one of them is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
