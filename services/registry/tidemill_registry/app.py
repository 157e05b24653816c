"""Composition root: settings -> pool, control subscribers, relay -> routes. Nothing here decides anything."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tidemill_contracts import topic
from tidemill_contracts.events import RunFinished
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_contracts.topics import TopicSpec, control_topics, pipeline_topics, source_topics, view_topics
from tidemill_engine.onnx import ModelInfo
from tidemill_registry import api
from tidemill_registry.artifacts import StoredEvidence
from tidemill_registry.domain.review import warm
from tidemill_registry.handlers import on_run_finished
from tidemill_registry.imports import Imports, listed
from tidemill_registry.settings import Settings
from tidemill_registry.store import SCHEMA, PostgresUnit, StoreQueries, open_unit
from tidemill_runtime.artifacts import Artifacts
from tidemill_runtime.control import Unit, control_router, on, run_control
from tidemill_runtime.health import Health
from tidemill_runtime.http import HttpProblem
from tidemill_runtime.kafka import ensure_topics
from tidemill_runtime.outbox import Relay
from tidemill_runtime.postgres import Pool, migrate, open_pool
from tidemill_runtime.service import Service


class Registry:
    """Holds the pool; opens units and reads for handlers and routes."""

    def __init__(self, settings: Settings, health: Health) -> None:
        self._settings, self._health = settings, health
        self._pool: Pool | None = None

    async def run(self) -> None:
        """Open the pool, then consume runs and relay the outbox until cancelled."""
        self._health.set("registry", ok=False, reason="starting")
        await asyncio.to_thread(warm)  # compiling inside the first decision's transaction would outlast its session
        pool = await open_pool(self._settings.postgres, max_size=8)
        await migrate(pool, SCHEMA, "tidemill_registry")
        await ensure_topics(self._settings.kafka, control_topics(prefix=self._settings.prefix))
        self._pool = pool
        router = control_router()
        judge = on_run_finished(StoredEvidence(Artifacts(self._settings.artifacts)))

        async def handle(run: RunFinished, unit: Unit) -> None:
            await judge(run, PostgresUnit(unit.conn, self._settings.prefix))

        name = topic("runs", prefix=self._settings.prefix)
        on(router, name, f"{self._settings.prefix}-registry", handle, events=[RunFinished])
        async with asyncio.TaskGroup() as group:
            group.create_task(Relay(self._settings, pool, SCHEMA, health=self._health).run())
            group.create_task(run_control(router, self._settings, pool, SCHEMA, self._health))
            self._health.set("registry", ok=True)

    @asynccontextmanager
    async def unit(self) -> AsyncIterator[PostgresUnit]:
        """One transaction of the registry."""
        async with open_unit(self._open(), self._settings.prefix) as unit:
            yield unit

    def queries(self) -> StoreQueries:
        """Reads for the HTTP edge."""
        return StoreQueries(self._open())

    async def make_topics(self, spec: PipelineSpec) -> None:
        """Create what the pipeline needs before anyone is told of it."""
        prefix = self._settings.prefix
        specs: list[TopicSpec] = pipeline_topics(spec.name, spec.partitions, prefix=prefix)
        for name, source in spec.sources.items():
            keep = -1 if source.keep is None else source.keep // 1000
            specs += source_topics(name, spec.partitions, keep_ms=keep, prefix=prefix)
        for view in spec.views:
            rows_of = spec.views[view].source if spec.is_repartitioned(view) else None
            specs += view_topics(view, spec.view_version(view), spec.partitions, rows_of=rows_of, prefix=prefix)
        await ensure_topics(self._settings.kafka, specs)

    async def take_model(self, model: str, data: bytes, info: ModelInfo, wanted: int | None) -> tuple[int, bool]:
        """Store the bytes before anyone is told of them, then register and announce them."""
        self._open()
        await asyncio.to_thread(Artifacts(self._settings.artifacts).put, data)
        async with self.unit() as unit:
            return await Imports(unit).take(model, info.digest, info.size, wanted)

    async def imported(self, model: str | None = None) -> list[dict[str, Any]]:
        """The imported models, or the versions of one."""
        return await listed(self._open(), model)

    def _open(self) -> Pool:
        if self._pool is None:
            raise HttpProblem(503, "not ready yet", headers={"Retry-After": "1"})
        return self._pool


def create(settings: Settings, health: Health) -> Service:
    """The service, not yet running."""
    registry = Registry(settings, health)
    return Service(title="Tidemill registry", routes=api.routes(registry), background={"registry": registry.run})
