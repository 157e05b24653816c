"""The consumer: a fetch that leaves a partition out is short, and a record that nobody can read stops nobody."""

import asyncio
from collections.abc import Callable

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaConnectionError

from tidemill_contracts.topics import TopicSpec
from tidemill_runtime.consumer import FETCH_WAIT_MS, PARTIAL_WAIT_MS
from tidemill_runtime.kafka import close_client, ensure_topics, open_consumer
from tidemill_runtime.settings import ServiceSettings
from tidemill_testkit.topics import NotText, Sent, read_topic, write_batch, write_topic
from tidemill_testkit.waiting import until

pytestmark = pytest.mark.anyio
POISON: Sent = (b"k", b"poison", [("ce_id", b"1"), (NotText("x"), b"2")])


def good(number: int) -> Sent:
    return b"k", b"%d" % number, [("ce_id", b"%d" % number)]


def shown(records: list[ConsumerRecord]) -> list[tuple[int, bytes | None, int]]:
    return [(record.offset, record.value, len(record.headers)) for record in records]


async def mixed(settings: ServiceSettings) -> str:
    """Two partitions: the first with unreadable records at 2 and 3, hiding 4, and at its end."""
    name = f"{settings.prefix}.mixed"
    await ensure_topics(settings.kafka, [TopicSpec(name, 2)])
    await write_batch(settings, name, [good(0), good(1), POISON, POISON, good(4)])
    await write_topic(settings, name, [good(number) for number in range(300)], partition=1)
    await write_topic(settings, name, [good(5)], partition=0)
    await write_batch(settings, name, [POISON])
    return name


FIRST = [(0, b"0", 1), (1, b"1", 1), (2, None, 0), (3, None, 0), (4, None, 0), (5, b"5", 1), (6, None, 0)]


@pytest.mark.parametrize("isolation", ["read_committed", "read_uncommitted"])
async def test_what_cannot_be_read_comes_empty_and_neighbours_whole(settings: ServiceSettings, isolation: str) -> None:
    found = await read_topic(settings, await mixed(settings), isolation=isolation)
    assert shown(found[0]) == FIRST
    assert shown(found[1]) == [(number, b"%d" % number, 1) for number in range(300)]


async def test_one_at_a_time_it_is_the_same(settings: ServiceSettings) -> None:
    name = await mixed(settings)
    consumer = await open_consumer(settings)
    found: dict[int, list[ConsumerRecord]] = {0: [], 1: []}
    try:
        consumer.assign([TopicPartition(name, partition) for partition in found])
        while sum(map(len, found.values())) < 307:
            record = await consumer.getone()
            found[record.partition].append(record)
    finally:
        await close_client(consumer)
    assert shown(found[0]) == FIRST
    assert len(found[1]) == 300


async def test_a_small_poll_takes_no_more_than_it_asked_for(settings: ServiceSettings) -> None:
    name = await mixed(settings)
    consumer = await open_consumer(settings)
    found: list[ConsumerRecord] = []
    try:
        place = TopicPartition(name, 0)
        consumer.assign([place])
        while len(found) < len(FIRST):
            batch = (await consumer.getmany(place, timeout_ms=200, max_records=2)).get(place, [])
            assert len(batch) <= 2
            found += batch
    finally:
        await close_client(consumer)
    assert shown(found) == FIRST


def wait_ms(consumer: AIOKafkaConsumer) -> int:
    """How long the newest fetch may wait."""
    return int(consumer._fetcher._fetch_max_wait_ms)


async def test_a_fetch_is_short_while_it_leaves_a_partition_out(settings: ServiceSettings) -> None:
    name = f"{settings.prefix}.two"
    await ensure_topics(settings.kafka, [TopicSpec(name, 2)])
    await write_topic(settings, name, [good(0)], partition=0)
    await write_topic(settings, name, [good(1)], partition=1)
    consumer = await open_consumer(settings)
    try:
        first, second = TopicPartition(name, 0), TopicPartition(name, 1)
        consumer.assign([first, second])
        assert len((await consumer.getmany(first, timeout_ms=5000))[first]) == 1
        await until(lambda: wait_ms(consumer) == PARTIAL_WAIT_MS, "fetches are short beside records that nobody takes")
        assert len((await consumer.getmany(second, timeout_ms=5000))[second]) == 1
        await until(lambda: wait_ms(consumer) == FETCH_WAIT_MS, "fetches of everything are long again")
        consumer.pause(second)
        await write_topic(settings, name, [good(2)], partition=0)
        assert len((await consumer.getmany(first, timeout_ms=5000))[first]) == 1
        await until(lambda: wait_ms(consumer) == PARTIAL_WAIT_MS, "fetches are short beside a paused partition")
    finally:
        await close_client(consumer)


async def test_a_commit_that_nobody_waits_for_may_fail(settings: ServiceSettings) -> None:
    """What the loop is told of is raised here by the test runner, so a failure left unheard fails this test."""
    name = f"{settings.prefix}.one"
    await ensure_topics(settings.kafka, [TopicSpec(name, 1)])
    await write_topic(settings, name, [good(0)])
    consumer = await open_consumer(settings, group=f"{settings.prefix}-g")
    consumer.subscribe([name])
    place = TopicPartition(name, 0)
    assert len((await consumer.getmany(timeout_ms=10_000))[place]) == 1
    closed, asked = asyncio.Event(), asyncio.Event()

    async def cut(_request: object) -> None:
        asked.set()
        await closed.wait()
        raise KafkaConnectionError("the connection was closed")

    consumer._coordinator._send_req = cut
    committing = asyncio.ensure_future(consumer.commit({place: 1}))
    await asked.wait()
    committing.cancel()
    await asyncio.wait({committing})
    closed.set()
    await close_client(consumer)
    assert committing.cancelled()


async def test_who_has_left_does_not_join_again(service_settings: Callable[..., ServiceSettings]) -> None:
    """A heartbeat that is answered after the leave says that the member is unknown, and the base would be a new one."""
    own = [service_settings(instance=name, session_timeout_ms=600_000) for name in "ab"]
    name, group = f"{own[0].prefix}.two", f"{own[0].prefix}-g"
    await ensure_topics(own[0].kafka, [TopicSpec(name, 2)])
    everything = {TopicPartition(name, 0), TopicPartition(name, 1)}
    first, second = [await open_consumer(settings, group=group) for settings in own]
    try:
        first.subscribe([name])
        await until(lambda: first.assignment() == everything, "the first has both", timeout_s=60)
        second.subscribe([name])
        await until(lambda: len(second.assignment()) == 1, "the second has one of them", timeout_s=60)
        await until(lambda: len(first.assignment()) == 1, "and the first the other", timeout_s=60)
        await first.leave()
        first._coordinator.reset_generation()  # what the answer does
        await until(lambda: second.assignment() == everything, "the second has both", timeout_s=60)
    finally:
        await close_client(first)
        await close_client(second)
