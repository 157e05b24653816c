import asyncio

import pytest

from tidemill_runtime.errors import Fenced
from tidemill_runtime.jobs import JobQueue
from tidemill_runtime.postgres import Pool
from tidemill_testkit.waiting import until

SCHEMA = "owner"


async def test_a_key_has_one_active_job(pool: Pool) -> None:
    jobs = JobQueue(pool, SCHEMA)
    async with pool.acquire() as conn:
        assert await jobs.enqueue(conn, "flights", {"n": 1}, "a") == "queued"
        assert await jobs.enqueue(conn, "flights", {"n": 2}, "b") == "coalesced"
        assert await jobs.enqueue(conn, "flights", {"n": 1}, "a") == "queued", "the same id again is the same job"
        assert await jobs.enqueue(conn, "others", {"n": 3}, "c") == "queued"
        assert await jobs.active(conn, "flights") == "a"
    job = await jobs.claim("w")
    assert job is not None
    assert (job.id, job.payload, job.attempt) == ("a", {"n": 1}, 1)
    async with pool.acquire() as conn:
        assert await jobs.enqueue(conn, "flights", {}, "d") == "coalesced", "a running job is active too"
        await jobs.finish(conn, job, "succeeded", {"ok": True})
        assert await jobs.enqueue(conn, "flights", {}, "e") == "queued"


async def test_many_workers_share_jobs_without_doubles(pool: Pool) -> None:
    jobs = JobQueue(pool, SCHEMA)
    async with pool.acquire() as conn:
        for number in range(20):
            await jobs.enqueue(conn, f"k{number}", {}, f"j{number}")
    claimed = await asyncio.gather(*(jobs.claim(f"w{number}") for number in range(25)))
    ids = [job.id for job in claimed if job is not None]
    assert len(ids) == len(set(ids)) == 20


async def test_a_worker_whose_lease_ran_out_is_fenced(pool: Pool) -> None:
    jobs = JobQueue(pool, SCHEMA, lease_s=0.05)
    async with pool.acquire() as conn:
        await jobs.enqueue(conn, "k", {}, "j")
    slow = await jobs.claim("slow")
    assert slow is not None
    found = []

    async def taken_over() -> bool:
        found.append(await jobs.claim("fast"))
        return found[-1] is not None

    await until(taken_over, "the lease ran out")
    fast = found[-1]
    assert fast is not None
    assert (fast.id, fast.attempt) == ("j", 2)
    with pytest.raises(Fenced):
        await jobs.heartbeat(slow)
    async with pool.acquire() as conn:
        with pytest.raises(Fenced):
            await jobs.finish(conn, slow, "succeeded", {"by": "slow"})
        await jobs.finish(conn, fast, "failed", {"by": "fast"})
        with pytest.raises(Fenced):
            await jobs.finish(conn, fast, "succeeded", {"by": "fast"})
    row = await jobs.get("j")
    assert row is not None
    assert (row["status"], row["attempt"], row["result"]) == ("failed", 2, '{"by": "fast"}')


async def test_a_job_that_kills_its_workers_is_handed_out_as_exhausted(pool: Pool) -> None:
    jobs = JobQueue(pool, SCHEMA, lease_s=0.0, max_attempts=2)
    async with pool.acquire() as conn:
        await jobs.enqueue(conn, "k", {}, "j")
    claims = [await jobs.claim("w") for _ in range(3)]
    assert [job.exhausted for job in claims if job is not None] == [False, False, True]


async def test_work_that_always_dies_comes_to_an_end(pool: Pool) -> None:
    jobs = JobQueue(pool, SCHEMA, max_attempts=2)
    async with pool.acquire() as conn:
        await jobs.enqueue(conn, "k", {}, "j")
    claims = []
    for _ in range(3):
        job = await jobs.claim("w")
        assert job is not None
        claims.append(job.exhausted)
        await jobs.failed(job)
    assert claims == [False, False, True]


async def test_a_released_job_is_claimed_again_without_losing_an_attempt(pool: Pool) -> None:
    jobs = JobQueue(pool, SCHEMA)
    async with pool.acquire() as conn:
        await jobs.enqueue(conn, "k", {}, "j")
    first = await jobs.claim("w")
    assert first is not None
    await jobs.release(first)
    second = await jobs.claim("w")
    assert second is not None
    assert second.attempt == 1


async def test_a_heartbeat_keeps_the_lease(pool: Pool) -> None:
    jobs = JobQueue(pool, SCHEMA, lease_s=30)
    async with pool.acquire() as conn:
        await jobs.enqueue(conn, "k", {}, "j")
    job = await jobs.claim("w")
    assert job is not None
    before = await pool.fetchval("SELECT lease_until FROM owner.jobs")
    await jobs.heartbeat(job)
    assert await pool.fetchval("SELECT lease_until FROM owner.jobs") > before
    assert await jobs.claim("other") is None
