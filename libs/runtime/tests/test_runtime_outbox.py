import asyncio
from contextlib import suppress

import pytest

from tidemill_contracts.envelope import Envelope
from tidemill_contracts.topics import TopicSpec
from tidemill_runtime.kafka import ensure_topics
from tidemill_runtime.outbox import Relay, enqueue
from tidemill_runtime.postgres import Pool
from tidemill_runtime.settings import ServiceSettings
from tidemill_testkit.processes import worker
from tidemill_testkit.settings import environment
from tidemill_testkit.topics import read_topic
from tidemill_testkit.waiting import until

SCHEMA = "owner"
WORKER = "tidemill_testkit.counting"


def event(number: int) -> Envelope:
    return Envelope(f"e{number}", "tidemill.test.v1", "test", number, b'{"n":%d}' % number, traceparent="00-1-2-01")


async def fill(pool: Pool, topic: str, numbers: range) -> None:
    for number in numbers:
        async with pool.acquire() as conn, conn.transaction():
            await enqueue(conn, SCHEMA, topic, b"key", event(number))


async def empty(pool: Pool) -> bool:
    return not await pool.fetchval("SELECT count(*) FROM owner.outbox")


async def ids(settings: ServiceSettings, topic: str) -> list[str]:
    found = await read_topic(settings, topic)
    return [dict(record.headers)["ce_id"].decode() for records in found.values() for record in records]


async def test_what_is_rolled_back_is_never_published(settings: ServiceSettings, pool: Pool) -> None:
    topic = f"{settings.prefix}.out"
    await ensure_topics(settings.kafka, [TopicSpec(topic, 1)])
    relay = asyncio.ensure_future(Relay(settings, pool, SCHEMA).run())
    with suppress(ZeroDivisionError):
        async with pool.acquire() as conn, conn.transaction():
            await enqueue(conn, SCHEMA, topic, b"key", event(1))
            raise ZeroDivisionError
    await fill(pool, topic, range(2, 4))
    await until(lambda: empty(pool), "the outbox is empty")
    relay.cancel()
    [first, second] = (await read_topic(settings, topic))[0]
    assert (first.key, first.value, second.value) == (b"key", b'{"n":2}', b'{"n":3}')
    assert list(first.headers) == event(2).headers()


@pytest.mark.parametrize("when", ["before:2", "after:2"])
async def test_a_relay_killed_around_its_publish_publishes_each_event_once_in_order(
    settings: ServiceSettings, pool: Pool, when: str
) -> None:
    topic = f"{settings.prefix}.out"
    await ensure_topics(settings.kafka, [TopicSpec(topic, 1)])
    await fill(pool, topic, range(200))
    with worker(WORKER, "relay", when, env=environment(settings)) as first:
        assert await asyncio.to_thread(first.wait) == -9
    await fill(pool, topic, range(200, 220))
    relay = asyncio.ensure_future(Relay(settings, pool, SCHEMA).run())
    await until(lambda: empty(pool), "the outbox is empty")
    relay.cancel()
    assert await ids(settings, topic) == [f"e{number}" for number in range(220)]


async def test_of_two_relays_one_works_and_the_other_takes_over(settings: ServiceSettings, pool: Pool) -> None:
    topic = f"{settings.prefix}.out"
    await ensure_topics(settings.kafka, [TopicSpec(topic, 1)])
    relays = [asyncio.ensure_future(Relay(settings, pool, SCHEMA).run()) for _ in range(2)]
    await fill(pool, topic, range(100))
    await until(lambda: empty(pool), "the outbox is empty")
    relays[0].cancel()
    await fill(pool, topic, range(100, 200))
    await until(lambda: empty(pool), "the outbox is empty again")
    relays[1].cancel()
    await asyncio.wait(relays)
    assert await ids(settings, topic) == [f"e{number}" for number in range(200)]


async def test_an_event_is_published_within_milliseconds_of_its_commit(settings: ServiceSettings, pool: Pool) -> None:
    """The hint of NOTIFY: without it the poll would take up to a second for each."""
    topic = f"{settings.prefix}.out"
    await ensure_topics(settings.kafka, [TopicSpec(topic, 1)])
    relay = asyncio.ensure_future(Relay(settings, pool, SCHEMA).run())
    await fill(pool, topic, range(1))
    await until(lambda: empty(pool), "the relay is up")
    started = asyncio.get_running_loop().time()
    for number in range(1, 11):
        await fill(pool, topic, range(number, number + 1))
        await until(lambda: empty(pool), "published", every_s=0.002)
    assert asyncio.get_running_loop().time() - started < 3
    relay.cancel()
