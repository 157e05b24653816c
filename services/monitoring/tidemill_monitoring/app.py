"""Composition root: settings -> pool, producer, one merge task per pipeline -> routes. It decides nothing."""

import asyncio
import logging
from collections.abc import Mapping

from aiokafka import TopicPartition

from tidemill_contracts import topic
from tidemill_contracts.events import PipelineApplied
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_monitoring import api, store
from tidemill_monitoring.domain import state
from tidemill_monitoring.domain.merge import OrderedMerge
from tidemill_monitoring.domain.read import LabelReader, QualityReader, read_prediction
from tidemill_monitoring.handlers import MergeTask, envelope_reader
from tidemill_monitoring.kafka import LogAndStore
from tidemill_monitoring.process import ParitySampler
from tidemill_monitoring.releases import References
from tidemill_monitoring.settings import Settings
from tidemill_monitoring.silence import Silence
from tidemill_runtime.backoff import Backoff
from tidemill_runtime.health import Health
from tidemill_runtime.kafka import close_client, open_producer
from tidemill_runtime.outbox import Relay
from tidemill_runtime.pipelines import PipelineWatcher
from tidemill_runtime.postgres import Pool, migrate, open_pool
from tidemill_runtime.service import Service
from tidemill_runtime.tail import Tail

OWN = "SELECT pg_advisory_lock(hashtext('monitoring.' || $1))"
WAIT_S = 365 * 86_400.0
"""Waiting for ownership may take as long as the present owner lives."""
_log = logging.getLogger(__name__)


class Monitoring:
    """Runs one merge per pipeline, each owned by one process at a time."""

    def __init__(self, settings: Settings, health: Health) -> None:
        self.tasks: dict[str, MergeTask] = {}
        self.pool: Pool | None = None
        self._settings, self._health = settings, health
        self._references = References(settings)
        self._running: dict[str, tuple[str, asyncio.Task[None]]] = {}

    def queries(self) -> store.StoreQueries | None:
        """Reads for the HTTP edge, once the store is open."""
        return None if self.pool is None else store.StoreQueries(self.pool)

    async def run(self) -> None:
        """Open the pool, then follow the pipelines until cancelled."""
        self._health.set("monitoring", ok=False, reason="starting")
        self.pool = await open_pool(self._settings.postgres, max_size=8)
        await migrate(self.pool, store.SCHEMA, "tidemill_monitoring")
        watcher = PipelineWatcher(self._settings, self._on_pipelines)
        relay = Relay(self._settings, self.pool, store.SCHEMA)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(watcher.run())
                group.create_task(relay.run())
                group.create_task(self._references.run())
                await watcher.ready.wait()
                self._health.set("monitoring", ok=True)
        finally:
            for _, task in self._running.values():
                task.cancel()
            await asyncio.gather(*(task for _, task in self._running.values()), return_exceptions=True)
            await self.pool.close()

    async def _on_pipelines(self, pipelines: Mapping[str, PipelineApplied]) -> None:
        for name, applied in pipelines.items():
            known = self._running.get(name)
            if known is not None and known[0] == applied.digest:
                continue
            if known is not None:
                known[1].cancel()
                await asyncio.gather(known[1], return_exceptions=True)
            spec = PipelineSpec.model_validate(applied.spec, strict=False)
            self._running[name] = (applied.digest, asyncio.create_task(self._keep(spec), name=f"merge {name}"))

    async def _keep(self, spec: PipelineSpec) -> None:
        """Start the merge again after a failure, from its last commit."""
        backoff = Backoff()
        while True:
            try:
                await self._own(spec, backoff)
            except Exception as error:  # noqa: BLE001 - whatever broke it, the answer is to start from the last commit
                _log.warning("the merge of %s starts again: %r", spec.name, error)
            self.tasks.pop(spec.name, None)
            await backoff.wait()

    async def _own(self, spec: PipelineSpec, backoff: Backoff) -> None:
        assert self.pool is not None  # noqa: S101 - set before any pipeline is known
        async with self.pool.acquire() as lock:
            await lock.execute(OWN, spec.name, timeout=WAIT_S)
            producer = await open_producer(self._settings, linger_ms=1)
            try:
                await self._merge(spec, producer, backoff)
            finally:
                await close_client(producer)

    async def _merge(self, spec: PipelineSpec, producer: object, backoff: Backoff) -> None:
        assert self.pool is not None  # noqa: S101 - as above
        prefix = self._settings.prefix
        claim = await store.claim(self.pool, spec.name)
        monitor = state.load(spec, claim.state)
        for kind, entry in claim.waiting:
            monitor.join.restore(kind, entry)
        predictions = topic("predictions", spec.name, prefix=prefix)
        labels = topic("events", spec.label.source, prefix=prefix)
        quality = topic("quality", prefix=prefix)
        words = QualityReader(spec, quality)
        lanes = words.lanes()
        inputs = [(name, p) for name in (predictions, labels) for p in range(spec.partitions)]
        progress = {place: found for place, found in claim.progress.items() if place in inputs}
        merge = OrderedMerge(inputs, released_until_us=claim.released_until_us, lanes=lanes, progress=progress)
        following = {place: claim.positions.get(place, 0) for place in [*inputs, *sorted(set(lanes.values()))]}
        sink = LogAndStore(prefix, self.pool, producer, claim.generation, merge, monitor, following, [])
        readers = {predictions: read_prediction, labels: LabelReader(spec).read, quality: words.read}
        reader = envelope_reader(readers)
        task = MergeTask(merge, monitor, reader, sink, self._settings.checkpoint_s, following=following)
        task.silence, task.references = Silence(self._settings.silent_s), self._references
        start = {TopicPartition(*place): offset for place, offset in claim.positions.items() if place in following}
        tail = Tail(self._settings, sorted({name for name, _ in following}), task.on_records, start=start)
        self.tasks[spec.name] = task
        backoff.reset()
        async with asyncio.TaskGroup() as group:
            group.create_task(tail.run())
            group.create_task(task.run())


def create(settings: Settings, health: Health) -> Service:
    """The service, not yet running."""
    monitoring = Monitoring(settings, health)
    sampler = ParitySampler(settings.parity_every_s, one_in=settings.parity_one_in)
    return Service(
        title="Tidemill monitoring",
        routes=api.routes(api.Reads(monitoring.queries, monitoring.tasks)),
        background={"monitoring": monitoring.run, "parity": sampler.run},
    )
