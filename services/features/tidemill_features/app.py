"""Composition root: settings -> pool, store, streams -> routes. Nothing here decides anything."""

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from tidemill_contracts.pipeline import PipelineSpec
from tidemill_contracts.topics import TopicSpec, dead_letters, view_topics
from tidemill_features.api import ROUTES
from tidemill_features.dlq import DeadLetters
from tidemill_features.domain.aggregate import ViewPartition
from tidemill_features.domain.cold import share_of
from tidemill_features.domain.letter import Letter
from tidemill_features.domain.views import Program, compile_program
from tidemill_features.domain.warm import warm
from tidemill_features.feast import FeastStore, feast_routes
from tidemill_features.feast.ingestion import Ingestion
from tidemill_features.handlers.aggregate import AggregateTask, Parts
from tidemill_features.handlers.forget import forget
from tidemill_features.handlers.route import RouteTask
from tidemill_features.kafka import OrderedLog, TransactionLog, partition_of
from tidemill_features.settings import Settings
from tidemill_features.store import SCHEMA, Store
from tidemill_runtime import columns_compiled, packed
from tidemill_runtime.artifacts import Artifacts
from tidemill_runtime.errors import Later
from tidemill_runtime.health import Health
from tidemill_runtime.kafka import delete_topics, ensure_topics
from tidemill_runtime.pipelines import Pipelines, PipelineWatcher
from tidemill_runtime.postgres import migrate, open_pool
from tidemill_runtime.service import Service
from tidemill_runtime.stream import PartitionTask, StreamRunner
from tidemill_runtime.tail import Tail

FORGET_EVERY_S = 3600.0
_log = logging.getLogger(__name__)


class Features:
    """The streams of all pipelines' views, started again whenever the views change."""

    def __init__(self, settings: Settings, health: Health) -> None:
        self._settings, self._health = settings, health
        self._program = Program()
        self._store: Store | None = None
        self._is_warm = asyncio.Event()
        self._applying, self._named = asyncio.Lock(), set[tuple[str, str]]()
        self._rows = OrderedLog(settings)
        self._tasks: dict[int, AggregateTask] = {}
        self.feast = FeastStore(
            open_tail=partial(Tail, settings), ingestion=Ingestion(settings), is_ready=lambda: health.ready()[0],
            max_bytes=settings.feast_max_bytes,
        )  # fmt: skip
        self._runners: list[tuple[StreamRunner, asyncio.Task[None]]] = []

    @property
    def refused(self) -> dict[str, str]:
        """Views that are not run, with the reason, by `pipeline/view`."""
        return dict(self._program.refused)

    def parts(self) -> list[ViewPartition]:
        """View partitions owned now."""
        return [part for task in self._tasks.values() for part in task.state.views]

    async def current(self, part: ViewPartition, entity: bytes) -> Letter | None:
        """The entity's vector in a partition that is owned now. May raise Later."""
        for task in self._tasks.values():
            if part in task.state.views:
                return await task.current(part, entity)
        return None

    def _room(self) -> int:
        """Keys that each partition of a view may hold here."""
        return share_of([len(each.state) for each in self.parts()], self._settings.keys_in_memory)

    async def run(self) -> None:
        """Until cancelled; then everything is stored."""
        self._health.set("features", ok=False, reason="starting")
        warming = asyncio.ensure_future(asyncio.to_thread(_warm))
        pool = await open_pool(self._settings.postgres, max_size=8)
        await migrate(pool, SCHEMA, "tidemill_features")
        self._store = Store(pool, Artifacts(self._settings.artifacts))
        watcher = PipelineWatcher(self._settings, self._apply)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(watcher.run())
                await warming
                self._is_warm.set()
                await watcher.ready.wait()
                self._health.set("features", ok=True)
                group.create_task(self._forget())
        finally:
            await self._stop()
            await self._rows.close()
            await pool.close()

    async def _forget(self) -> None:
        """Now and then delete what belongs to versions of views that no file has named for long."""
        while True:
            try:
                async with self._applying:
                    await forget(
                        self._stored(), partial(delete_topics, self._settings.kafka), self._named,
                        prefix=self._settings.prefix, after_s=self._settings.forget_after_s,
                    )  # fmt: skip
            except Later as error:
                _log.warning("versions of views that nobody reads stay: %s", error)
            await asyncio.sleep(min(FORGET_EVERY_S, max(1.0, self._settings.forget_after_s)))

    async def _apply(self, pipelines: Pipelines) -> None:
        async with self._applying:
            await self._apply_now(pipelines)

    async def _apply_now(self, pipelines: Pipelines) -> None:
        specs = [PipelineSpec.of(applied.spec) for applied in pipelines.values()]
        kept = [PipelineSpec.of(file.spec) for applied in pipelines.values() for file in applied.kept]
        self._named = {(name, spec.view_version(name)) for spec in [*specs, *kept] for name in spec.views}
        program = compile_program(specs, self._settings.prefix, kept)
        self.feast.apply(specs, program)
        for name, reason in program.refused.items():
            _log.error("the view %s is not run: %s", name, reason)
        if program == self._program:
            return
        await ensure_topics(self._settings.kafka, _topics(program, self._settings.prefix))
        await self._stop()
        await self._is_warm.wait()  # compiling may take longer than a group waits for its member
        self._program = program
        self._start("features-router", program.router_topics, self._route_task)
        self._start("features", program.input_topics, self._aggregate_task)

    def _start(self, name: str, topics: tuple[str, ...], make: Callable[[str, int], PartitionTask]) -> None:
        if not topics:
            return
        group = f"{self._settings.prefix}-{name}"
        runner = StreamRunner(
            self._settings, group=group, topics=topics, make_task=partial(make, group), health=self._health,
            columns="compiled",
        )  # fmt: skip
        self._runners.append((runner, asyncio.create_task(runner.run(), name=group)))

    def _route_task(self, group: str, partition: int) -> RouteTask:
        views = [view for view in self._program.of_partition(partition) if view.repartitioned]
        return RouteTask(
            partition, views, log=self._rows, store=self._stored(), partitioner=partition_of,
            undertaker=DeadLetters(self._settings, group),
        )  # fmt: skip

    def _aggregate_task(self, group: str, partition: int) -> AggregateTask:
        parts = Parts(
            log=TransactionLog(self._settings, partition), store=self._stored(),
            undertaker=DeadLetters(self._settings, group), every_s=self._settings.checkpoint_every_s,
            every_records=self._settings.checkpoint_every_events, linger_s=self._settings.linger_ms / 1000,
            room=self._room,
        )  # fmt: skip
        task = AggregateTask(partition, self._program.of_partition(partition), parts)
        self._tasks[partition] = task
        return task

    def _stored(self) -> Store:
        if self._store is None:
            raise RuntimeError("tasks are made after the store")
        return self._store

    async def _stop(self) -> None:
        runners, self._runners = self._runners, []
        for runner, _ in runners:
            await runner.stop()
        await asyncio.gather(*(task for _, task in runners))
        self._tasks.clear()


def _warm() -> None:
    """Compile, or load what is compiled, beside the first connections; then look for cycles seldom.

    They are rare here, and looking through thousands of records took half of all time.
    """
    warm()
    columns_compiled.warm_up()
    packed.warm_up()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)


def _topics(program: Program, prefix: str) -> list[TopicSpec]:
    """Topics that this service writes; those of the sources are made where the pipeline is applied."""
    specs: list[TopicSpec] = []
    for view in program.views:
        rows_of = view.source if view.repartitioned else None
        specs += view_topics(view.name, view.version, view.partitions, rows_of=rows_of, prefix=prefix)
        specs.append(TopicSpec(dead_letters(view.input_topic), 1))
    return list({spec.name: spec for spec in specs}.values())


def create(settings: Settings, health: Health) -> Service:
    """The service, not yet running."""
    features = Features(settings, health)
    background: dict[str, Callable[[], Awaitable[None]]] = {"feast": features.feast.run, "features": features.run}
    routes = [*ROUTES, *feast_routes()] if settings.feast else ROUTES
    state = {"holdings": features, "feast": features.feast}
    return Service(title="Tidemill features", routes=routes, background=background, state=state)
