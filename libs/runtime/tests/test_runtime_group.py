"""A topic read in a group: what comes of its records is in Kafka once, whoever dies, sleeps or takes over."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from aiokafka import ConsumerRecord, TopicPartition

from tidemill_contracts.topics import TopicSpec
from tidemill_runtime.batches import Framed, Packed, batches
from tidemill_runtime.errors import Later
from tidemill_runtime.group import Commit, GroupReader, Outgoing, gate_id
from tidemill_runtime.kafka import close_client, ensure_topics, open_producer, transaction
from tidemill_runtime.settings import ServiceSettings
from tidemill_testkit.topics import Sent, read_topic, write_topic
from tidemill_testkit.waiting import until

pytestmark = pytest.mark.anyio
PARTITIONS, COUNT = 4, 400
Make = Callable[..., ServiceSettings]


class Taker:
    """Copies a few at a time, and nothing while it is told to hold. `before` and `after` are called around a commit."""

    def __init__(self, topic: str) -> None:
        self.topic, self.holds, self.mine, self.offered = topic, False, 0, 0
        self.before: Callable[[Sequence[ConsumerRecord]], Awaitable[None]] = _nothing
        self.after: Callable[[Sequence[ConsumerRecord]], Awaitable[None]] = _nothing

    async def __call__(self, records: Sequence[ConsumerRecord], commit: Commit) -> int:
        """`Take`."""
        await asyncio.sleep(0.001)  # others run meanwhile, as in a service
        self.offered += len(records)
        if self.holds:
            return 0
        taken = records[:7]
        await self.before(taken)
        await commit([copied(self.topic, taken)], taken[-1].offset + 1)
        await self.after(taken)
        self.mine += len(taken)
        return len(taken)


async def _nothing(_: Sequence[ConsumerRecord]) -> None:
    pass


def copied(topic: str, records: Sequence[ConsumerRecord]) -> Outgoing:
    """The same values, in partition 0."""
    framed = [Framed(-1, b"%c%s\0" % (2 * len(record.value), record.value)) for record in records]
    (batch,) = batches(framed)
    return Outgoing(
        topic, 0, Packed(batch.records, batch.count, transactional=True, times_ms=batch.times_ms, compressed=False)
    )


@asynccontextmanager
async def reading(settings: ServiceSettings, taker: Taker) -> AsyncIterator[GroupReader]:
    reader = GroupReader(settings, group=group_of(settings), topic=f"{settings.prefix}.in", take=taker)
    task = asyncio.ensure_future(reader.run())
    try:
        yield reader
    finally:
        await reader.stop()
        await asyncio.wait_for(task, 30)


def group_of(settings: ServiceSettings) -> str:
    return f"{settings.prefix}.g"


async def topics(settings: ServiceSettings) -> str:
    """Make both; the second one's name."""
    out = f"{settings.prefix}.out"
    await ensure_topics(settings.kafka, [TopicSpec(f"{settings.prefix}.in", PARTITIONS), TopicSpec(out, 1)])
    return out


async def write(settings: ServiceSettings, numbers: range) -> None:
    for partition in range(PARTITIONS):
        mine = [n for n in numbers if n % PARTITIONS == partition]
        records: list[Sent] = [(None, b"e%d" % n, []) for n in mine]
        await write_topic(settings, f"{settings.prefix}.in", records, partition=partition)


async def copies(settings: ServiceSettings) -> Counter[str]:
    """What readers of the second topic see."""
    found = await read_topic(settings, f"{settings.prefix}.out")
    return Counter(record.value.decode() for record in found.get(0, []))


async def until_all(settings: ServiceSettings, count: int) -> None:
    """Until so many are copied, and each was copied once."""

    async def are_there() -> bool:
        return len(await copies(settings)) == count

    await until(are_there, f"{count} are copied", timeout_s=60)
    assert set((await copies(settings)).values()) == {1}


async def test_members_hand_partitions_over_and_each_record_is_taken_once(service_settings: Make) -> None:
    one, two = service_settings(instance="1"), service_settings(instance="2")
    out = await topics(one)
    await write(one, range(COUNT))
    first, second = Taker(out), Taker(out)
    first.holds = second.holds = True
    async with reading(two, second):
        async with reading(one, first):
            # A member alone would be through with all of them before the other is there.
            await until(lambda: first.offered > 0 and second.offered > 0, "both are in the group", timeout_s=60)
            first.holds = second.holds = False
            await until(lambda: first.mine > 0 and second.mine > 0, "both take some", timeout_s=60)
            await write(one, range(COUNT, 2 * COUNT))
        # The first has left: what it had taken is committed, and the second has its partitions.
        await until_all(one, 2 * COUNT)
        await write(one, range(2 * COUNT, 3 * COUNT))
        await until_all(one, 3 * COUNT)


async def test_what_is_held_waits_and_what_was_done_stays_done(service_settings: Make) -> None:
    settings = service_settings()
    taker = Taker(await topics(settings))
    await write(settings, range(COUNT))
    taker.holds = True
    async with reading(settings, taker):
        await until(lambda: taker.offered > 0, "it is offered some", timeout_s=60)
        assert taker.mine == 0
        taker.holds = False
        await until(lambda: taker.mine > COUNT // 4, "it goes on", timeout_s=60)
        taker.holds = True
    taker.holds = False
    async with reading(settings, taker):  # the same member comes back
        await until_all(settings, COUNT)


async def test_who_was_shut_out_commits_nothing_and_begins_behind_what_is_committed(service_settings: Make) -> None:
    settings = service_settings()
    taker = Taker(await topics(settings))
    await write(settings, range(COUNT))
    others = 0

    async def another_takes_over(records: Sequence[ConsumerRecord]) -> None:
        """As if this process had slept through a rebalance: its successor has done with the very same records."""
        nonlocal others
        if taker.mine < COUNT // 8 or others == PARTITIONS:
            return
        others += 1
        place = TopicPartition(records[0].topic, records[0].partition)
        other = await open_producer(settings, transactional_id=gate_id(group_of(settings), place.partition))
        async with transaction(other):
            sent = copied(taker.topic, records)
            await other.send_batch(sent.batch, sent.topic, partition=sent.partition)
            await other.send_offsets_to_transaction({place: records[-1].offset + 1}, group_of(settings))
        await close_client(other)

    # A producer that is shut out leaves failed futures to nobody; each is told to the loop when it is collected.
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    taker.before = another_takes_over
    async with reading(settings, taker):
        await until_all(settings, COUNT)
    assert others == PARTITIONS


async def test_what_was_committed_before_a_failure_is_not_taken_again(service_settings: Make) -> None:
    settings = service_settings()
    taker = Taker(await topics(settings))
    await write(settings, range(COUNT))
    failures = 0

    async def the_answer_is_lost(_: Sequence[ConsumerRecord]) -> None:
        nonlocal failures
        if failures < PARTITIONS:
            failures += 1
            raise Later("whether it was committed is not known")

    taker.after = the_answer_is_lost
    async with reading(settings, taker):
        await until_all(settings, COUNT)
    assert failures == PARTITIONS
