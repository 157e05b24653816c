"""Tells those who watch a run how far it is: one event for each step, in order, none after the run's end."""

import asyncio
import logging
from contextlib import suppress

from tidemill_contracts import derived_id, topic
from tidemill_contracts.events import RunProgress, TrainingRequested, encode
from tidemill_runtime import telemetry
from tidemill_runtime.jobs import Job, JobQueue
from tidemill_runtime.outbox import enqueue
from tidemill_runtime.postgres import Pool
from tidemill_trainer.domain import SOURCE

_MOST_STEPS = 100
_LAST_WORDS_S = 2.0
_log = logging.getLogger(__name__)


class Progress:
    """The steps of one attempt."""

    def __init__(self, pool: Pool, schema: str, queue: JobQueue, *, prefix: str) -> None:
        self._pool, self._schema, self._queue = pool, schema, queue
        self._topic = topic("runs", prefix=prefix)
        self._steps: asyncio.Queue[tuple[str, float]] = asyncio.Queue(_MOST_STEPS)

    def note(self, step: str, share: float) -> None:
        """A step begins with `share` of the work behind it; nobody is told of those that find the queue full."""
        if not self._steps.full():
            self._steps.put_nowait((step, share))

    async def tell(self, job: Job, request: TrainingRequested) -> None:
        """Publish what is noted, until cancelled. What cannot be published is logged: the run matters more."""
        number = 0
        while True:
            step, share = await self._steps.get()
            number += 1
            event = RunProgress(
                run_id=derived_id("run", str(request.request_id)), request_id=request.request_id,
                pipeline=request.pipeline, attempt=job.attempt, step=step, share=share,
            )  # fmt: skip
            try:
                await self._publish(job, request, event, number)
            except Exception as error:  # noqa: BLE001 - a notice, and the heartbeat finds out whatever matters
                _log.warning("step %s of training %s is not told: %r", step, job.id, error)
            self._steps.task_done()

    async def finish(self) -> None:
        """Wait a little until everything noted is told: the end of the run comes after its steps."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await self._steps.join()

    async def _publish(self, job: Job, request: TrainingRequested, event: RunProgress, number: int) -> None:
        envelope = encode(
            event, id=str(derived_id("progress", str(request.request_id), job.attempt, number)), source=SOURCE,
            time_us=request.at_us, subject=request.pipeline, causation=str(request.request_id),
            traceparent=telemetry.current_traceparent(),
        )  # fmt: skip
        async with self._pool.acquire() as conn, conn.transaction():
            await self._queue.hold(conn, job)
            await enqueue(conn, self._schema, self._topic, request.pipeline.encode(), envelope)
