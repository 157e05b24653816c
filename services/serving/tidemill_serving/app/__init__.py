"""Composition root: settings to resources to routes and background work. Nothing here decides anything."""

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.types import ASGIApp

from tidemill_contracts.pipeline import PipelineSpec
from tidemill_contracts.topics import topic
from tidemill_engine.onnx import bitwise
from tidemill_runtime.artifacts import Artifacts
from tidemill_runtime.health import Health
from tidemill_runtime.http import Route
from tidemill_runtime.http.wire import Wire
from tidemill_runtime.pipelines import PipelineWatcher
from tidemill_runtime.priorities import short_turns
from tidemill_runtime.service import Service
from tidemill_runtime.tail import Tail
from tidemill_serving.api.direct import Hot
from tidemill_serving.api.forms import Forms
from tidemill_serving.api.front import Front
from tidemill_serving.api.inference import inference_routes
from tidemill_serving.api.models import Status
from tidemill_serving.api.predict import Predictor, predict_routes
from tidemill_serving.api.repository import repository_routes
from tidemill_serving.api.status import status_of, status_routes
from tidemill_serving.app.bulk import BulkRoute
from tidemill_serving.app.family import Family
from tidemill_serving.app.heirs import Heirs, limits_of, log_state
from tidemill_serving.app.keeping import Keeper
from tidemill_serving.app.metrics import ServingMetrics
from tidemill_serving.app.news import ReleaseNews
from tidemill_serving.app.remembering import Remembering
from tidemill_serving.artifacts import Models, SandboxLimits
from tidemill_serving.domain import numbers, weaving
from tidemill_serving.domain.answers import Recent
from tidemill_serving.domain.desk import Desk
from tidemill_serving.domain.house import House
from tidemill_serving.handlers.batching import Batcher
from tidemill_serving.handlers.bulk import Bulk
from tidemill_serving.handlers.fencing import Fence
from tidemill_serving.handlers.following import Follower, Follows
from tidemill_serving.handlers.freshness import Freshness
from tidemill_serving.handlers.importing import Importer
from tidemill_serving.handlers.journal import Journal
from tidemill_serving.handlers.releasing import Releaser
from tidemill_serving.handlers.repository import ModelRepository
from tidemill_serving.handlers.running import Runs
from tidemill_serving.handlers.shadowing import Shadower
from tidemill_serving.handlers.standing import Standing
from tidemill_serving.onnx.explaining import Explainers
from tidemill_serving.onnx.verdicts import Examiner
from tidemill_serving.settings import Settings
from tidemill_serving.spool import Ordered, Shipper, Spool, partitions_of, placing, slabs
from tidemill_serving.store import Store

NURSERY_STAYS_S = 20.0
SWITCH_S = 0.0005
"""Between two threads: opening a model is work of the interpreter, and who answers must not wait for 5 ms each time."""
YOUNG = 10_000
"""Answers that are remembered fill the collector's youngest generation: 50,000 objects made requests wait for 20 ms.

With 2,000 it looked at thousands of requests that are answered together while they live: asked for twice what it
can do, serving answered a third fewer."""
TAIL_RECORDS = 1000
"""Applied at a stretch: more would keep requests waiting for tens of milliseconds."""
_log = logging.getLogger(__name__)


def create(settings: Settings, health: Health) -> Service:
    """The service; only the spool is opened at once, everything else in the background."""
    warm_up()
    sys.setswitchinterval(SWITCH_S)
    if short_turns():
        _log.debug("the event loop has short turns: it goes before what computes")
    serving = Serving(settings, health)
    return Service(
        routes=serving.routes(), background=serving.background(), title="Tidemill serving", front=serving.front,
        direct=serving.hot, listen=serving.family.listener(health), keys=serving.family.keys,
        young=YOUNG,
    )  # fmt: skip


def warm_up() -> None:
    """Read the machine code that answering needs, or make it."""
    numbers.warm_up()
    bitwise.warm_up()
    placing.warm_up()
    slabs.warm_up()
    weaving.warm_up()
    Forms()
    Wire()


class Serving:
    """All the parts of one process, wired."""

    def __init__(self, settings: Settings, health: Health) -> None:
        self._settings, self._health = settings, health
        self._recent: dict[str, Recent] = {}
        self.family = Family(settings)
        self.spool = Spool(settings.state / "spool", limits_of(settings))
        newest, left = Remembering(), Remembering()
        self.spool.open(newest.see)
        self.shipper = Shipper(settings, self.spool, settings.state / "shipped.json")
        self.heirs = Heirs(settings, left.see)
        for found in (left, newest):
            found.fill(lambda name: self._recent.setdefault(name, Recent()))
        self.store, self.house = Store(settings.state), House()
        self.metrics, self.keeper = (
            ServingMetrics(self.house, self.spool, self.shipper),
            Keeper(self.store.save_releases),
        )
        self.batcher = Batcher(
            self.house, self.spool, appended=self.shipper.wake, swapped=self.keeper.put, now_us=_now_us
        )
        limits = SandboxLimits(settings.sandbox_cpu_s, settings.sandbox_wall_s, settings.sandbox_memory_mib)
        self._examiner = Examiner((settings.root or settings.state) / "verdicts", limits, stays_s=NURSERY_STAYS_S)
        self.runs, self.importer = self._imported_models()
        self.models = ModelRepository(self.house, self.batcher, self.runs, self.importer)
        self.batcher.once = self.family.once(self.spool)
        self.shadower = Shadower(self.house, self.batcher.append)
        self.batcher.beside = self.shadower.put
        self.freshness = Freshness(self.house)
        self.predictor = Predictor(self.house.desks, self.batcher, self.freshness)
        self.hot = Hot(self.house.desks, self.batcher, keys=self.family.keys)
        models = self._opener("models")
        self.predictor.explains = Explainers(models.read)
        self.follower = Follower(
            self.house, prefix=settings.prefix, open_tail=self._open_tail, make_desk=self._make_desk,
            progress=self._progress,
        )  # fmt: skip
        self._releases = topic("releases", prefix=settings.prefix)
        self.releaser = Releaser(
            self.house, models, topic=self._releases, progress=self._progress, caught_up=self.follower.caught_up
        )
        self.bulk = self._bulk_route()
        self.follower.configured += [self.releaser.reconsider, self.bulk.changed.set]
        self.standing = Standing(self.house, health, self.store, degraded_after_s=settings.degraded_after_s)

    def _opener(self, folder: str) -> Models:
        return Models(Artifacts(self._settings.artifacts), self._settings.state / folder, self._examiner)

    def _imported_models(self) -> tuple[Runs, Importer]:
        settings, journal = self._settings, self._journal()
        runs = Runs(journal, topic("inferences", prefix=settings.prefix))
        name = topic("models", prefix=settings.prefix)
        importer = Importer(self._opener("imported"), self.store, journal, name)
        return runs, importer

    def _bulk_route(self) -> BulkRoute:
        ordered, group = Ordered(self.spool), self._settings.client_id
        bulk = Bulk(self.house, self.batcher, ordered, group=group, is_full=self._is_filling)
        return BulkRoute(self._settings, self.house, bulk)

    def _journal(self) -> Journal:
        source = f"tidemill/serving/{self._settings.instance}"
        return Journal(self.house, self.spool, source, self.shipper.wake, _now_us)

    def _is_filling(self) -> bool:
        """Whether so much waits for Kafka that the rest of the log's room is for those who wait for answers."""
        return self.spool.pending_bytes > self._settings.spool_limit_bytes // 2

    def background(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """What runs beside HTTP: gRPC and bulk stop first, so that their last answers still leave."""
        settings = self._settings
        work: dict[str, Callable[[], Awaitable[None]]] = {"serving": self.run, "bulk": self.bulk.run}
        if settings.grpc_port is None:
            return work
        from tidemill_serving.api.rpc import RpcServer, RpcSettings  # noqa: PLC0415 - for those who want it

        where = RpcSettings(
            settings.host, settings.grpc_port, self.family.keys, settings.worker is not None, settings.connections,
            late=bool(settings.worker) or settings.is_again,
        )  # fmt: skip
        rpc = RpcServer(where, self.models, self.house.statistics.found, lambda: self._health.ready()[0])
        return work | {"grpc": rpc.run}

    def front(self, behind: ASGIApp) -> Front:
        """The hot path before the routes."""
        return Front(behind, self.predictor, keys=self.family.keys)

    def routes(self) -> list[Route]:
        """Everything this service answers to."""
        return [
            *predict_routes(self.predictor),
            *status_routes(self._status, self.family.status),
            *self.family.routes(),
            *repository_routes(self.models, self.house.statistics.found),
            *inference_routes(self.models, lambda: self._health.ready()[0]),
        ]

    async def run(self) -> None:
        """Start from the disk, then follow Kafka until cancelled."""
        for kept in self.store.load_releases():
            desk = self.house.desks[kept.spec.name] = self._make_desk(kept.spec)
            await self.releaser.restore(kept, desk)
        self.importer.restore()
        watcher = PipelineWatcher(self._settings, self.follower.on_pipelines)
        releases = Tail(self._settings, [self._releases], self.releaser.on_records)
        fence = Fence(
            self.house, ReleaseNews(self._settings.kafka, self._releases, releases, self.releaser.settled.is_set),
            unreachable_after_s=self._settings.degraded_after_s,
        )  # fmt: skip
        self.batcher.must_wait, fence.opened = fence.is_closed, self.batcher.resume

        def has_all() -> bool:
            caught_up = watcher.ready, releases.caught_up, self.follower.caught_up, self.releaser.settled
            return all(event.is_set() for event in caught_up)

        async def known() -> None:
            for event in (watcher.ready, releases.caught_up, self.follower.caught_up):
                await event.wait()

        self.metrics.register()
        try:
            await self._work(watcher, releases, fence, known(), has_all)
        finally:
            self.metrics.unregister()
            await self._examiner.close()

    async def _work(
        self, watcher: PipelineWatcher, releases: Tail, fence: Fence, known: Awaitable[None],
        has_all: Callable[[], bool],
    ) -> None:  # fmt: skip
        async with asyncio.TaskGroup() as group:
            work = (
                self.shipper.run(), self.family.run(self._status), self.heirs.run(self.house), self.shadower.run(),
                watcher.run(), releases.run(), fence.run(), self.follower.run(), self.releaser.run(known),
                self.importer.run(), self._follow_imported(watcher), self.keeper.run(),
                self.standing.run(has_all=has_all, reachable=lambda: self.shipper.reachable, refused=self._is_refused),
                self.standing.keep_snapshots(self._settings.snapshot_every_s),
            )  # fmt: skip
            for coroutine in work:
                group.create_task(coroutine)

    async def _follow_imported(self, watcher: PipelineWatcher) -> None:
        await watcher.ready.wait()  # which has made the topic
        name = topic("models", prefix=self._settings.prefix)
        await Tail(self._settings, [name], self.importer.on_records).run()

    def _make_desk(self, spec: PipelineSpec) -> Desk:
        tally = self.spool.tallies.get(spec.name)
        return Desk(
            spec, self._settings.prefix, f"tidemill/serving/{self._settings.instance}", partitions_of,
            recent=self._recent.setdefault(spec.name, Recent()), floor_us=tally.floor_us if tally else None,
        )  # fmt: skip

    def _open_tail(self, topics: list[str], on_records: Any) -> Follows:  # noqa: ANN401 - aiokafka ships no types
        return Tail(self._settings, topics, on_records, max_records=TAIL_RECORDS, columns="plain")

    def _progress(self) -> None:
        """Releases that are due come first: who waited for an event time is answered by its champion."""
        self.batcher.progress()
        self.freshness.progress()

    async def _is_refused(self) -> bool:
        """Whether nobody listens where Kafka should be: waiting for it would be in vain."""
        for address in self._settings.kafka.split(","):
            host, _, port = address.strip().rpartition(":")
            try:
                async with asyncio.timeout(1.0):
                    _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            except (OSError, TimeoutError, ValueError):
                continue
            writer.close()
            return False
        return True

    def _status(self) -> Status:
        """Of this process, with what it has taken over."""
        parts = [(self.spool, self.shipper), *self.heirs.parts]
        return status_of(self.house, self._settings.instance, log_state(parts))


def _now_us() -> int:
    return time.time_ns() // 1000
