"""The router's task: events of one source partition in, rows for the partitions of their entities out."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from prometheus_client import Counter

from tidemill_features.domain.records import Record
from tidemill_features.domain.route import Partitioner, Route, RoutePartition
from tidemill_features.domain.views import View
from tidemill_features.handlers.ports import Letter, Log, Routes, Undertaker
from tidemill_runtime.backoff import Rarely
from tidemill_runtime.errors import Later

EVENTS = Counter("tidemill_features_events", "Events read by the router.", ["partition"])
ROWS = Counter("tidemill_features_rows", "Rows and words on time written to repartition topics.", ["partition"])
_SAVE_EVERY_S = 1.0
_log = logging.getLogger(__name__)


class RouteTask:
    """Owns one source partition number. Readers drop what it writes twice, so it needs no fence."""

    def __init__(  # noqa: PLR0913 - keyword-only, each a collaborator
        self,
        partition: int,
        views: Sequence[View],
        *,
        log: Log,
        store: Routes,
        undertaker: Undertaker,
        partitioner: Partitioner,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.partition, self.state = partition, RoutePartition([])
        self._views, self._log, self._store, self._undertaker = views, log, store, undertaker
        self._partitioner, self._clock = partitioner, clock
        self._saved_at, self._unsaved = clock(), False
        self._speak = Rarely()

    async def open(self) -> Mapping[str, int]:
        """Where each route goes on."""
        routes, offsets = [], dict[str, int]()
        for view in self._views:
            marks = await self._store.load_route(view, self.partition)
            routes.append(Route(view, self.partition, marks, self._partitioner))
            offsets[view.source_topic] = min(marks.next_offset, offsets.get(view.source_topic, marks.next_offset))
        self.state = RoutePartition(routes)
        return offsets

    async def process(self, batches: Mapping[str, Sequence[Record]]) -> None:
        """Route and wait for the acknowledgements."""
        for topic, records in batches.items():
            rows, rejected = self.state.take(topic, records)
            letters = [Letter(*row) for row in rows]
            letters += self._undertaker.bury(rejected, among=len(records))
            if letters:
                await self._log.write(letters)
            EVENTS.labels(self.partition).inc(len(records))
            ROWS.labels(self.partition).inc(len(rows))
        self._unsaved = True
        await self._save_if_due()

    async def idle(self) -> None:
        """Store how far it got."""
        await self._save_if_due()

    async def _save_if_due(self) -> None:
        if not self._unsaved or self._clock() - self._saved_at < _SAVE_EVERY_S:
            return
        self._saved_at = self._clock()
        try:
            await self._save()
        except Later as error:
            if self._speak():
                _log.warning("routes of partition %s are not stored yet: %s", self.partition, error)

    async def _save(self) -> None:
        marks = [(route.view, mark) for route, mark in self.state.marks()]
        await self._store.save_routes(self.partition, marks)
        self._unsaved = False

    async def close(self, *, lost: bool) -> None:
        """Store how far it got."""
        if self._unsaved and not lost:
            await self._save()
