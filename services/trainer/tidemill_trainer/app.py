"""Composition root: settings -> pool, jobs, worker, releases -> routes. Nothing here decides anything."""

import asyncio
import contextlib
import hashlib
import json
import logging
from typing import Any

from tidemill_contracts import Envelope, derived_id, topic
from tidemill_contracts.events import Released, RunFinished, TrainingRequested, encode
from tidemill_contracts.pipeline import PipelineSpec, files_of
from tidemill_runtime import telemetry
from tidemill_runtime.backoff import Backoff
from tidemill_runtime.control import Unit, control_router, on, run_control
from tidemill_runtime.errors import Fenced
from tidemill_runtime.health import Health
from tidemill_runtime.http import HttpProblem
from tidemill_runtime.inbox import first_time
from tidemill_runtime.jobs import HEARTBEAT_S, Job, JobQueue
from tidemill_runtime.outbox import Relay, enqueue
from tidemill_runtime.pipelines import PipelineWatcher
from tidemill_runtime.postgres import Pool, migrate, open_pool
from tidemill_runtime.service import Service
from tidemill_trainer import api
from tidemill_trainer.domain import SOURCE
from tidemill_trainer.handlers import Queued, on_training_requested
from tidemill_trainer.process import TrainingCrashedError, run_job
from tidemill_trainer.progress import Progress
from tidemill_trainer.releases import Champions
from tidemill_trainer.settings import Settings
from tidemill_trainer.worker import Job as Order

SCHEMA = "trainer"
_FIRST = """SELECT payload::text FROM trainer.jobs WHERE key = $1 AND status = 'succeeded'
    AND payload->'cause'->>'kind' = 'cold_start' ORDER BY sequence DESC LIMIT 1"""
_log = logging.getLogger(__name__)


class Trainer:
    """Takes jobs one at a time and runs each in a process of its own."""

    def __init__(self, settings: Settings, health: Health) -> None:
        self.settings, self._health = settings, health
        self.pool: Pool | None = None
        self.queue: JobQueue | None = None
        self.progress: dict[str, dict[str, Any]] = {}
        self.watcher = PipelineWatcher(settings, lambda _pipelines: None)
        self.champions = Champions(settings)

    async def run(self) -> None:
        """Open the pool, then consume requests and work on jobs until cancelled."""
        self._health.set("trainer", ok=False, reason="starting")
        self.pool = await open_pool(self.settings.postgres, max_size=8)
        await migrate(self.pool, SCHEMA, "tidemill_trainer")
        self.queue = JobQueue(self.pool, SCHEMA, lease_s=self.settings.lease_s)
        router = control_router()
        handler = on_training_requested(self._enqueue, self.settings.prefix)
        on(
            router,
            topic("training", prefix=self.settings.prefix),
            f"{self.settings.prefix}-trainer",
            handler,
            events=[TrainingRequested],
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(self.watcher.run())
            await self.watcher.ready.wait()
            group.create_task(self.champions.run())
            group.create_task(Relay(self.settings, self.pool, SCHEMA, health=self._health).run())
            group.create_task(run_control(router, self.settings, self.pool, SCHEMA, self._health))
            group.create_task(self._work())
            self._health.set("trainer", ok=True)

    def spec(self, pipeline: str) -> PipelineSpec | None:
        """The newest definition of a pipeline."""
        applied = self.watcher.pipelines.get(pipeline)
        return None if applied is None else PipelineSpec.of(applied.spec)

    def _file_of(self, release: Released | None) -> PipelineSpec | None:
        """The file that a release was made for, where it is not the pipeline's own any more."""
        applied = None if release is None else self.watcher.pipelines.get(release.pipeline)
        if release is None or applied is None:
            return None
        return files_of(applied).kept.get(release.spec)

    async def ask(self, request: TrainingRequested, envelope: Envelope) -> None:
        """Publish a request, as monitoring would; raises HttpProblem before the store is open."""
        if self.pool is None:
            raise HttpProblem(503, "not ready yet", headers={"Retry-After": "1"})
        name = topic("training", prefix=self.settings.prefix)
        async with self.pool.acquire() as conn, conn.transaction():
            if await first_time(conn, SCHEMA, "asked", request.request_id):
                await enqueue(conn, SCHEMA, name, request.pipeline.encode(), envelope)

    async def runs(self) -> list[dict[str, Any]]:
        """Rows of all runs, newest first."""
        return [] if self.queue is None else [dict(row) for row in await self.queue.all()]

    async def run_of(self, request_id: str) -> dict[str, Any] | None:
        """The row of a request's run."""
        row = None if self.queue is None else await self.queue.get(request_id)
        return None if row is None else dict(row)

    async def _enqueue(self, unit: Unit, request: TrainingRequested) -> Queued:
        assert self.queue is not None  # noqa: S101 - set before the handler runs
        return await self.queue.enqueue(
            unit.conn, request.pipeline, request.model_dump(mode="json"), str(request.request_id)
        )

    async def _work(self) -> None:
        assert self.queue is not None and self.pool is not None  # noqa: S101, PT018 - set before this runs
        # A predecessor under this name is dead: its job can be taken over at once instead of when the lease runs out.
        await self.pool.execute(
            "UPDATE trainer.jobs SET lease_until = now() WHERE worker = $1 AND status = 'running'",
            self.settings.client_id,
        )
        backoff = Backoff()
        while True:
            try:
                job = await self.queue.claim(self.settings.client_id)
                if job is not None:
                    await self._train(job)
                backoff.reset()
            except Exception:  # noqa: BLE001 - the lease brings the job back, whatever broke
                _log.exception("a job was interrupted")
                await backoff.wait()
            else:
                if job is None:
                    await asyncio.sleep(0.2)

    async def _train(self, job: Job) -> None:
        assert self.queue is not None  # noqa: S101 - as above
        request = TrainingRequested.model_validate_json(json.dumps(job.payload))
        _log.info("training %s for %s, attempt %s", job.id, request.pipeline, job.attempt)
        about = {
            "tidemill.pipeline": request.pipeline, "tidemill.cause": request.cause.kind, "tidemill.request": job.id,
        }  # fmt: skip
        with telemetry.span("train", parent=job.traceparent, attributes=about):
            await self._attempt(job, request)

    async def _attempt(self, job: Job, request: TrainingRequested) -> None:
        assert self.queue is not None and self.pool is not None  # noqa: S101, PT018 - as above
        if job.exhausted:
            await self._finish(job, request, {"error": "earlier attempts died without an answer"})
            return
        steps = Progress(self.pool, SCHEMA, self.queue, prefix=self.settings.prefix)
        work = asyncio.create_task(self._result(request, steps))
        telling = asyncio.create_task(steps.tell(job, request))
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=min(HEARTBEAT_S, self.settings.lease_s / 3))
                await self.queue.heartbeat(job)
            result = work.result()
            await steps.finish()
        except TrainingCrashedError as error:
            _log.warning("training %s: %s; it is tried again", job.id, error)
            await self.queue.failed(job)
            return
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await asyncio.shield(self.queue.release(job))
            raise
        finally:
            work.cancel()
            telling.cancel()
            await asyncio.wait({telling})
            self.progress.pop(job.id, None)
        with contextlib.suppress(Fenced):
            await self._finish(job, request, result)

    async def _result(self, request: TrainingRequested, steps: Progress) -> dict[str, Any]:
        spec = self.spec(request.pipeline)
        if spec is None:
            return {"error": f"there is no pipeline {request.pipeline}"}
        champion = await self.champions.champion(request.pipeline)
        order = Order(
            request=request, spec=spec, champion=champion, champion_spec=self._file_of(champion),
            first=await self._first(request), lock=self._lock(), cache=self.settings.state / "outcomes",
        )  # fmt: skip

        def note(name: str, share: float) -> None:
            self.progress[str(request.request_id)] = {"name": name, "share": share}
            steps.note(name, share)

        result = await run_job(order, timeout_s=self.settings.job_timeout_s, progress=note)
        return {**result, "champion_epoch": champion.epoch if champion is not None else 0}

    async def _first(self, request: TrainingRequested) -> TrainingRequested | None:
        """The newest request that was answered from the archive: its rows stand before the logged ones."""
        assert self.pool is not None  # noqa: S101 - as above
        if request.cause.kind == "cold_start":
            return None
        payload = await self.pool.fetchval(_FIRST, request.pipeline)
        return None if payload is None else TrainingRequested.model_validate_json(payload)

    def _lock(self) -> str:
        path = self.settings.lock
        return hashlib.sha256(path.read_bytes() if path is not None and path.exists() else b"").hexdigest()

    async def _finish(self, job: Job, request: TrainingRequested, result: dict[str, Any]) -> None:
        assert self.queue is not None and self.pool is not None  # noqa: S101, PT018 - as above
        failed = "error" in result
        event = RunFinished(
            run_id=derived_id("run", str(request.request_id)), request_id=request.request_id, pipeline=request.pipeline,
            status="failed" if failed else "succeeded", at_us=request.at_us, effective_at_us=request.effective_at_us,
            cause=request.cause, model=result.get("model"), manifest=result.get("manifest"),
            evaluation=result.get("evaluation"), reference=result.get("reference"),
            champion_epoch=result.get("champion_epoch", 0), metrics=result.get("metrics", {}),
            error=result.get("error"),
        )  # fmt: skip
        envelope = encode(
            event, id=str(event.run_id), source=SOURCE, time_us=request.at_us, subject=request.pipeline,
            causation=str(request.request_id),
            correlation=str(request.cause.event_id) if request.cause.event_id else None,
            traceparent=telemetry.current_traceparent(),
        )  # fmt: skip
        async with self.pool.acquire() as conn, conn.transaction():
            await self.queue.finish(
                conn, job, "failed" if failed else "succeeded", {**result, "run_id": str(event.run_id)}
            )
            await enqueue(conn, SCHEMA, topic("runs", prefix=self.settings.prefix), request.pipeline.encode(), envelope)


def create(settings: Settings, health: Health) -> Service:
    """The service, not yet running."""
    trainer = Trainer(settings, health)
    return Service(title="Tidemill trainer", routes=api.routes(trainer), background={"trainer": trainer.run})
