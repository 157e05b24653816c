"""A topic read in a group whose offsets are Kafka's: handed over in order, and nothing is lost or taken twice by it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from aiokafka import ConsumerRecord

from tidemill_contracts.topics import TopicSpec
from tidemill_runtime.group import GroupReader
from tidemill_runtime.kafka import ensure_topics
from tidemill_runtime.settings import ServiceSettings
from tidemill_testkit.topics import Sent, write_topic
from tidemill_testkit.waiting import until

pytestmark = pytest.mark.anyio
PARTITIONS, COUNT = 4, 400
Make = Callable[..., ServiceSettings]


class Taker:
    """Takes a few at a time, and nothing while it is told to hold."""

    def __init__(self, seen: Counter[str]) -> None:
        self.seen, self.holds, self.mine, self.offered = seen, False, 0, 0

    async def __call__(self, records: Sequence[ConsumerRecord]) -> int:
        """`Take`."""
        await asyncio.sleep(0.001)  # others run meanwhile, as in a service
        self.offered += len(records)
        if self.holds:
            return 0
        taken = records[:7]
        self.seen.update(record.value.decode() for record in taken)
        self.mine += len(taken)
        return len(taken)


@asynccontextmanager
async def reading(settings: ServiceSettings, taker: Taker) -> AsyncIterator[GroupReader]:
    reader = GroupReader(settings, group=f"{settings.prefix}.g", topic=f"{settings.prefix}.in", take=taker)
    task = asyncio.ensure_future(reader.run())
    try:
        yield reader
    finally:
        await reader.stop()
        await asyncio.wait_for(task, 30)


async def write(settings: ServiceSettings, numbers: range) -> None:
    for partition in range(PARTITIONS):
        mine = [n for n in numbers if n % PARTITIONS == partition]
        records: list[Sent] = [(None, b"e%d" % n, []) for n in mine]
        await write_topic(settings, f"{settings.prefix}.in", records, partition=partition)


async def test_members_hand_partitions_over_and_each_record_is_taken_once(service_settings: Make) -> None:
    one, two = service_settings(instance="1"), service_settings(instance="2")
    await ensure_topics(one.kafka, [TopicSpec(f"{one.prefix}.in", PARTITIONS)])
    await write(one, range(COUNT))
    seen = Counter[str]()
    first, second = Taker(seen), Taker(seen)
    first.holds = second.holds = True
    async with reading(two, second):
        async with reading(one, first):
            # A member alone would be through with all of them before the other is there.
            await until(lambda: first.offered > 0 and second.offered > 0, "both are in the group", timeout_s=60)
            first.holds = second.holds = False
            await until(lambda: first.mine > 0 and second.mine > 0, "both take some", timeout_s=60)
            await write(one, range(COUNT, 2 * COUNT))
        # The first has left: what it had taken is committed, and the second has its partitions.
        await until(lambda: len(seen) == 2 * COUNT, "all are taken", timeout_s=60)
        await write(one, range(2 * COUNT, 3 * COUNT))
        await until(lambda: len(seen) == 3 * COUNT, "the second has all partitions", timeout_s=60)
    assert set(seen.values()) == {1}


async def test_what_is_held_waits_and_what_was_done_stays_done(service_settings: Make) -> None:
    settings = service_settings()
    await ensure_topics(settings.kafka, [TopicSpec(f"{settings.prefix}.in", PARTITIONS)])
    await write(settings, range(COUNT))
    seen = Counter[str]()
    taker = Taker(seen)
    taker.holds = True
    async with reading(settings, taker):
        await until(lambda: taker.mine == 0 and not seen, "nothing is taken")
        taker.holds = False
        await until(lambda: len(seen) > COUNT // 4, "it goes on", timeout_s=60)
        taker.holds = True
    taker.holds = False
    async with reading(settings, taker):  # the same member comes back
        await until(lambda: len(seen) == COUNT, "all are taken", timeout_s=60)
    assert set(seen.values()) == {1}
