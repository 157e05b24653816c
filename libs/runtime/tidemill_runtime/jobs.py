"""Long work as leased rows: one active job per key, a heartbeat keeps the lease, the attempt fences late workers.

The worker that was frozen while its lease ran out finds its attempt replaced: every write of it names the attempt, and
zero rows means Fenced. https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import asyncpg

from tidemill_runtime.errors import Fenced
from tidemill_runtime.postgres import Connection, Pool, sql
from tidemill_runtime.telemetry import current_traceparent

LEASE_S = 60.0
HEARTBEAT_S = 15.0
MAX_ATTEMPTS = 3
Status = Literal["queued", "running", "succeeded", "failed", "refused"]

_ENQUEUE = """INSERT INTO {schema}.jobs (id, key, payload, traceparent) VALUES ($1, $2, $3::jsonb, $4)
    ON CONFLICT DO NOTHING"""
_KNOWN = "SELECT 1 FROM {schema}.jobs WHERE id = $1"
_ACTIVE = "SELECT id FROM {schema}.jobs WHERE key = $1 AND status IN ('queued', 'running')"
_CLAIM = """UPDATE {schema}.jobs SET status = 'running', attempt = attempt + 1, worker = $1,
    lease_until = now() + $2 * interval '1 second', started_at = coalesce(started_at, now())
    WHERE id = (SELECT id FROM {schema}.jobs
        WHERE status = 'queued' OR (status = 'running' AND lease_until < now())
        ORDER BY sequence LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING id, key, payload::text AS payload, attempt, traceparent"""
_BEAT = """UPDATE {schema}.jobs SET lease_until = now() + $3 * interval '1 second'
    WHERE id = $1 AND attempt = $2 AND status = 'running'"""
_FINISH = """UPDATE {schema}.jobs SET status = $3, result = $4::jsonb, finished_at = now(), lease_until = NULL
    WHERE id = $1 AND attempt = $2 AND status = 'running'"""
_RELEASE = """UPDATE {schema}.jobs SET status = 'queued', attempt = attempt - 1, worker = NULL, lease_until = NULL
    WHERE id = $1 AND attempt = $2 AND status = 'running'"""
_FAILED = """UPDATE {schema}.jobs SET status = 'queued', worker = NULL, lease_until = NULL
    WHERE id = $1 AND attempt = $2 AND status = 'running'"""
_GET = """SELECT id, key, status, attempt, worker, payload::text AS payload, result::text AS result,
    queued_at, started_at, finished_at FROM {schema}.jobs"""


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed job. `exhausted`: earlier attempts died without an answer; finish it as failed, do not try again."""

    id: str
    key: str
    payload: Any
    attempt: int
    traceparent: str | None
    exhausted: bool


class JobQueue:
    """The jobs of one schema. Methods with `conn` are part of the caller's transaction, the others are their own."""

    def __init__(self, pool: Pool, schema: str, *, lease_s: float = LEASE_S, max_attempts: int = MAX_ATTEMPTS) -> None:
        self._pool, self._schema, self._lease_s, self._max_attempts = pool, schema, lease_s, max_attempts

    async def enqueue(
        self,
        conn: Connection,
        key: str,
        payload: Mapping[str, Any],
        id: str,  # noqa: A002 - the row's own name
    ) -> Literal["queued", "coalesced"]:
        """Queue a job unless its key has an active one ("coalesced"). The same id again is "queued", as it was."""
        text = json.dumps(payload)
        status = await conn.execute(sql(self._schema, _ENQUEUE), id, key, text, current_traceparent())
        if not status.endswith(" 0") or await conn.fetchval(sql(self._schema, _KNOWN), id):
            return "queued"
        return "coalesced"

    async def active(self, conn: Connection, key: str) -> str | None:
        """The id of the key's queued or running job."""
        found: str | None = await conn.fetchval(sql(self._schema, _ACTIVE), key)
        return found

    async def claim(self, worker: str) -> Job | None:
        """The oldest job that is queued or whose lease ran out, leased to `worker` for the lease time."""
        row = await self._pool.fetchrow(sql(self._schema, _CLAIM), worker, self._lease_s)
        if row is None:
            return None
        attempt: int = row["attempt"]
        return Job(
            row["id"], row["key"], json.loads(row["payload"]), attempt, row["traceparent"], attempt > self._max_attempts
        )

    async def heartbeat(self, job: Job) -> None:
        """Extend the lease; raises Fenced when another worker has claimed the job or it has ended."""
        status = await self._pool.execute(sql(self._schema, _BEAT), job.id, job.attempt, self._lease_s)
        self._check(status, job)

    async def hold(self, conn: Connection, job: Job) -> None:
        """`heartbeat` in the caller's transaction: what it writes beside is this worker's, or is rolled back."""
        self._check(await conn.execute(sql(self._schema, _BEAT), job.id, job.attempt, self._lease_s), job)

    async def finish(
        self, conn: Connection, job: Job, status: Literal["succeeded", "failed", "refused"], result: Mapping[str, Any]
    ) -> None:
        """End the job in the caller's transaction; raises Fenced when it is no longer this worker's."""
        done = await conn.execute(sql(self._schema, _FINISH), job.id, job.attempt, status, json.dumps(result))
        self._check(done, job)

    async def release(self, job: Job) -> None:
        """Give an unfinished job back at once, as if it had not been claimed: for a worker that is told to stop."""
        await self._pool.execute(sql(self._schema, _RELEASE), job.id, job.attempt)

    async def failed(self, job: Job) -> None:
        """Give back a job whose work died: the attempt counts, so that one that always dies comes to an end."""
        await self._pool.execute(sql(self._schema, _FAILED), job.id, job.attempt)

    async def get(self, id: str) -> asyncpg.Record | None:  # noqa: A002 - the row's own name
        """One job's row: status, attempt, worker, payload and result as JSON text, times."""
        return await self._pool.fetchrow(sql(self._schema, _GET) + " WHERE id = $1", id)

    async def all(self, limit: int = 1000) -> list[asyncpg.Record]:
        """The newest jobs' rows, newest first."""
        return await self._pool.fetch(sql(self._schema, _GET) + " ORDER BY sequence DESC LIMIT $1", limit)

    def _check(self, status: str, job: Job) -> None:
        if status.endswith(" 0"):
            raise Fenced(f"job {job.id} is no longer held by attempt {job.attempt}")
