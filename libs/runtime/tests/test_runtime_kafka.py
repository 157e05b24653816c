import asyncio
import time

import pytest
from aiokafka import AIOKafkaProducer

from tidemill_contracts.topics import TopicSpec
from tidemill_runtime.errors import Fenced, Later, Never
from tidemill_runtime.kafka import (
    close_client,
    end_offsets,
    ensure_topics,
    open_producer,
    queue,
    transaction,
    wait_for_kafka,
)
from tidemill_runtime.settings import ServiceSettings
from tidemill_runtime.tail import Tail
from tidemill_testkit.topics import read_topic, write_topic
from tidemill_testkit.waiting import until


async def test_topics_are_made_once_and_keep_their_partitions(settings: ServiceSettings) -> None:
    name = f"{settings.prefix}.a"
    specs = [TopicSpec(name, 3), TopicSpec(f"{name}.compact", 1, compacted=True)]
    await asyncio.gather(*(ensure_topics(settings.kafka, specs) for _ in range(3)))
    assert await end_offsets(settings.kafka, name) == {0: 0, 1: 0, 2: 0}
    with pytest.raises(Never, match="has 3 partitions, 4 were asked for"):
        await ensure_topics(settings.kafka, [TopicSpec(name, 4)])


async def test_a_broker_that_is_away_is_later_in_time(settings: ServiceSettings) -> None:
    started = time.monotonic()
    with pytest.raises(Later):
        await wait_for_kafka("127.0.0.1:9", 0.5)
    assert time.monotonic() - started < 30


async def test_a_reader_sees_whole_transactions_only(settings: ServiceSettings) -> None:
    name = f"{settings.prefix}.t"
    await ensure_topics(settings.kafka, [TopicSpec(name, 1)])
    producer = await open_producer(settings, transactional_id=name)
    async with transaction(producer):
        for number in range(3):
            await queue(producer, name, value=b"%d" % number)
    with pytest.raises(ZeroDivisionError):
        await _write_and_fail(producer, name)
    await close_client(producer)
    assert [record.value for record in (await read_topic(settings, name))[0]] == [b"0", b"1", b"2"]
    assert len((await read_topic(settings, name, isolation="read_uncommitted"))[0]) == 4


async def _write_and_fail(producer: AIOKafkaProducer, name: str) -> None:
    async with transaction(producer):
        await queue(producer, name, value=b"never")
        await producer.flush()
        raise ZeroDivisionError


async def test_a_successor_fences_the_open_transaction_of_its_predecessor(settings: ServiceSettings) -> None:
    name = f"{settings.prefix}.f"
    await ensure_topics(settings.kafka, [TopicSpec(name, 1)])
    old = await open_producer(settings, transactional_id=name)
    successors = []

    async def frozen() -> None:
        async with transaction(old):
            await queue(old, name, value=b"old")
            await old.flush()
            successors.append(await open_producer(settings, transactional_id=name))

    with pytest.raises(Fenced):
        await frozen()
    new = successors[0]
    async with transaction(new):
        await queue(new, name, value=b"new")
    with pytest.raises((Fenced, Later)):
        async with transaction(old):
            await queue(old, name, value=b"old again")
    await close_client(old)
    await close_client(new)
    assert [record.value for record in (await read_topic(settings, name))[0]] == [b"new"]


async def test_a_tail_catches_up_over_markers_and_goes_on(settings: ServiceSettings) -> None:
    name = f"{settings.prefix}.tail"
    await ensure_topics(settings.kafka, [TopicSpec(name, 2)])
    producer = await open_producer(settings, transactional_id=name)
    async with transaction(producer):
        await queue(producer, name, value=b"a", partition=0)
        await queue(producer, name, value=b"b", partition=0)
    seen: list[tuple[int, bytes]] = []
    failures = iter([ZeroDivisionError(), None, None, None])

    def handle(_topic: str, partition: int, records: list[object]) -> None:
        if error := next(failures, None):
            raise error
        seen.extend((partition, record.value) for record in records)  # type: ignore[attr-defined]

    tail = Tail(settings, [name], handle)
    running = asyncio.ensure_future(tail.run())
    await asyncio.wait_for(tail.caught_up.wait(), 60)
    assert seen == [(0, b"a"), (0, b"b")]
    assert tail.position(name, 0) == 3  # two records and the marker of their transaction
    await write_topic(settings, name, [(None, b"c", [])], partition=1)
    await until(lambda: (1, b"c") in seen, "the tail reads on")
    await tail.stop()
    await running
    await close_client(producer)
