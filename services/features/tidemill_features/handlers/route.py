"""The router's task: events of one source partition in, rows for the partitions of their entities out."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from prometheus_client import Counter

from tidemill_features.domain.letter import Letter
from tidemill_features.domain.records import Record
from tidemill_features.domain.route import Partitioner, Route, RouteMarks, RoutePartition
from tidemill_features.domain.views import View
from tidemill_features.handlers.ports import Log, Routes, Undertaker
from tidemill_runtime.backoff import Rarely
from tidemill_runtime.errors import Later

EVENTS = Counter("tidemill_features_events", "Events read by the router.", ["partition"])
ROUTED = Counter("tidemill_features_routed_records", "Records written to repartition topics.", ["partition"])
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
        self._saving: asyncio.Task[None] | None = None
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
        letters = list[Letter]()
        for topic, records in batches.items():
            rows, rejected = self.state.take(topic, records)
            letters += rows
            letters += self._undertaker.bury(rejected, among=len(records))
            EVENTS.labels(self.partition).inc(len(records))
            ROUTED.labels(self.partition).inc(len(rows))
        if letters:
            await self._log.write(letters)
        self._unsaved = True
        self._save_if_due()

    async def idle(self) -> None:
        """Store how far it got."""
        self._save_if_due()

    def _save_if_due(self) -> None:
        is_busy = self._saving is not None and not self._saving.done()
        if not self._unsaved or is_busy or self._clock() - self._saved_at < _SAVE_EVERY_S:
            return
        self._saved_at, self._unsaved = self._clock(), False
        self._saving = asyncio.ensure_future(self._save(self._marks()))

    def _marks(self) -> list[tuple[View, RouteMarks]]:
        return [(route.view, mark) for route, mark in self.state.marks()]

    async def _save(self, marks: Sequence[tuple[View, RouteMarks]]) -> None:
        """Without the store work goes on: what is routed again after a crash is dropped by its readers."""
        try:
            await self._store.save_routes(self.partition, marks)
        except Later as error:
            self._unsaved = True
            if self._speak():
                _log.warning("routes of partition %s are not stored yet: %s", self.partition, error)

    async def close(self, *, lost: bool) -> None:
        """Store how far it got."""
        if self._saving is not None:
            await asyncio.wait({self._saving})
        if self._unsaved and not lost:
            await self._save(self._marks())
