"""Composition root: settings to resources to routes. Nothing here decides anything about an event."""

import asyncio
import time
from contextlib import suppress

from tidemill_contracts import PipelineSpec, topic
from tidemill_contracts.topics import Family, source_topics
from tidemill_ingestion.api import Desk, Edge, Ward, routes
from tidemill_ingestion.archive import Archive, ArchiveTask, EventTable
from tidemill_ingestion.domain.archive import Applied, Late, Reader
from tidemill_ingestion.domain.catalogue import catalogue
from tidemill_ingestion.domain.recent import RecentEvents
from tidemill_ingestion.domain.source import Source
from tidemill_ingestion.handlers import GROUP, IdleClock, RawTask, Streams
from tidemill_ingestion.kafka import Letters, Log
from tidemill_ingestion.settings import Settings
from tidemill_ingestion.store import SCHEMA, KnownIds, Store
from tidemill_runtime.archive import archive_path
from tidemill_runtime.backoff import Backoff
from tidemill_runtime.dlq import DeadLetterLimiter
from tidemill_runtime.errors import Later, Never
from tidemill_runtime.health import Health
from tidemill_runtime.kafka import end_offsets, ensure_topics
from tidemill_runtime.outbox import Relay
from tidemill_runtime.pipelines import Pipelines, PipelineWatcher
from tidemill_runtime.postgres import open_pool
from tidemill_runtime.service import Service
from tidemill_runtime.stream import StreamRunner

OPERATOR_BYTES = 256 * 1024 * 1024
OPERATOR_TIMEOUT_S = 20.0
PRUNE_EVERY_S = 3600.0
OPERATOR_RECORDS = 2000
"""Of a partition in one decision: each costs the same few round trips."""


class Composition:
    """The objects of one process and how they hear of changes."""

    def __init__(self, settings: Settings, health: Health) -> None:
        self._settings, self._health = settings, health
        self._store = Store()
        self._edge_log = Log(
            settings, health, name="kafka-edge", max_bytes=settings.max_in_flight_bytes,
            timeout_s=settings.publish_timeout_s,
        )  # fmt: skip
        self._log = Log(settings, health, name="kafka-operator", max_bytes=OPERATOR_BYTES, timeout_s=OPERATOR_TIMEOUT_S)
        self._archives: dict[str, Archive] = {}
        self._recent = RecentEvents()
        self._edge = Edge(
            settings.prefix, KnownIds(self._store), self._edge_log, self._store, self._ends, archives=self._archives,
            recent=self._recent,
        )  # fmt: skip
        self._desk = Desk(settings.prefix, Letters(settings), self._store, self._edge_log)
        self._has_word = asyncio.Event()
        self._ward = Ward(settings.prefix, self._store, self._has_word.set)
        self._operators, self._archivers = Streams(self._operator), Streams(self._archiver)
        self._watcher = PipelineWatcher(settings, self._apply)

    def service(self) -> Service:
        """What the runtime serves and supervises."""
        for name in ("pipelines", "postgres"):
            self._health.set(name, ok=False, reason="starting")
        background = {
            "postgres": self._postgres, "kafka-edge": self._edge_log.run, "kafka-operator": self._log.run,
            "pipelines": self._watcher.run, "operators": self._operators.run,
            "archivers": self._archivers.run, "outbox": self._relay,
        }  # fmt: skip
        return Service(
            routes=routes(),
            background=background,
            state={"edge": self._edge, "desk": self._desk, "ward": self._ward},
            title="Tidemill ingestion",
        )

    async def _postgres(self) -> None:
        backoff = Backoff()
        try:
            while True:
                try:
                    await self._store.connect(self._settings.postgres)
                    break
                except Later as error:
                    self._health.set("postgres", ok=False, reason=str(error))
                    await backoff.wait()
            self._health.set("postgres", ok=True)
            while True:
                await asyncio.sleep(PRUNE_EVERY_S)
                await self._prune()
        finally:
            await self._store.close()

    async def _relay(self) -> None:
        """Publish words on quality, from when a source declares it: nobody else has any."""
        await self._has_word.wait()
        backoff = Backoff()
        while True:
            try:
                pool = await open_pool(self._settings.postgres, max_size=3)
                break
            except Later:
                await backoff.wait()
        try:
            await Relay(self._settings, pool, SCHEMA).run()
        finally:
            await pool.close()

    async def _prune(self) -> None:
        """Forget ids that no event above its source's watermark can have."""
        with suppress(Later):
            for row in await self._store.status():
                source = self._edge.sources.get(row.source)
                if source is not None and row.position.newest_us is not None:
                    await self._store.prune(row.source, row.partition, row.position.newest_us - source.spec.keep_ids)

    async def _apply(self, pipelines: Pipelines) -> None:
        specs = [PipelineSpec.of(event.spec) for event in pipelines.values()]
        found = catalogue(specs, self._edge.sources)
        usable = {name: source for name, source in found.sources.items() if await self._has_topics(source)}
        self._health.set(
            "pipelines", ok=not found.disputed, reason=f"declared differently twice: {', '.join(found.disputed)}"
        )
        self._edge.sources = usable
        if any(source.spec.quality is not None for source in usable.values()):
            self._has_word.set()
        self._operators.apply(usable)
        archived = tuple(source for source in usable.values() if source.spec.archive)
        self._archivers.apply({"archive": archived} if archived else {})

    async def _ends(self, name: str) -> dict[int, int]:
        return await end_offsets(self._settings.kafka, name)

    async def _has_topics(self, source: Source) -> bool:
        name = f"source/{source.name}"
        keep = source.spec.keep
        specs = source_topics(
            source.name, source.partitions, keep_ms=-1 if keep is None else keep // 1000, prefix=self._settings.prefix
        )
        try:
            await ensure_topics(self._settings.kafka, specs)
        except Never as error:
            self._health.set(name, ok=False, reason=str(error))
            return False
        self._health.drop(name)
        return True

    def _operator(self, source: Source) -> StreamRunner:
        prefix = self._settings.prefix

        def task(partition: int) -> RawTask:
            idle = IdleClock(source, partition, prefix=prefix, store=self._store, sink=self._log, clock=time.monotonic)
            return RawTask(
                source, partition, prefix=prefix, store=self._store, sink=self._log, limiter=DeadLetterLimiter(),
                idle=idle, recent=self._recent, judgements=self._store,
            )  # fmt: skip

        return StreamRunner(
            self._settings, group=f"{prefix}.{GROUP}.{source.name}", topics=[topic("raw", source.name, prefix=prefix)],
            make_task=task, health=self._health, max_records=OPERATOR_RECORDS, columns="plain",
        )  # fmt: skip

    def _archiver(self, sources: tuple[Source, ...]) -> StreamRunner:
        families: tuple[Family, ...] = ("events", "late")
        names = {s.name: [topic(f, s.name, prefix=self._settings.prefix) for f in families] for s in sources}

        archives = {source.name: self._archive(source.name) for source in sources}

        def task(partition: int) -> ArchiveTask:
            parts: list[tuple[Archive, dict[str, Reader]]] = []
            for source in sources:
                applied, late = names[source.name]
                readers: dict[str, Reader] = {applied: Applied(f"events/{partition}")}
                if partition == 0:
                    readers[late] = Late("late/0", source.partitions)
                if partition < source.partitions:
                    parts.append((archives[source.name], readers))
            return ArchiveTask(partition, parts)

        topics = [name for each in names.values() for name in each]
        group = f"{self._settings.prefix}.archive"
        return StreamRunner(
            self._settings,
            group=group,
            topics=topics,
            make_task=task,
            health=self._health,
            columns="plain",
            patient=True,
        )

    def _archive(self, source: str) -> Archive:
        if source not in self._archives:
            self._archives[source] = Archive(
                EventTable(archive_path(self._settings.artifacts, source)), rows=self._settings.archive_rows,
                seconds=self._settings.archive_seconds, clock=time.monotonic,
            )  # fmt: skip
        return self._archives[source]


def create(settings: Settings, health: Health) -> Service:
    """The ingestion service."""
    return Composition(settings, health).service()
