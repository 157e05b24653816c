import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import pytest
from aiokafka import ConsumerRecord, TopicPartition

from tidemill_contracts.topics import TopicSpec
from tidemill_runtime.errors import Fenced, Later, Stalled
from tidemill_runtime.health import Health
from tidemill_runtime.kafka import close_client, ensure_topics, open_consumer
from tidemill_runtime.postgres import Pool
from tidemill_runtime.settings import ServiceSettings
from tidemill_runtime.stream import PartitionTask, StreamRunner, group_id
from tidemill_testkit.counting import CountTask, counting
from tidemill_testkit.processes import Worker
from tidemill_testkit.settings import environment
from tidemill_testkit.topics import write_topic
from tidemill_testkit.waiting import until

WORKER = "tidemill_testkit.counting"
PARTITIONS = 4


async def prepare(settings: ServiceSettings, count: int) -> str:
    """`<prefix>.in` with `count` records e0, e1, ... over the partitions."""
    topic = f"{settings.prefix}.in"
    await ensure_topics(settings.kafka, [TopicSpec(topic, PARTITIONS)])
    await write(settings, topic, range(count))
    return topic


async def write(settings: ServiceSettings, topic: str, numbers: range) -> None:
    for partition in range(PARTITIONS):
        mine = [n for n in numbers if n % PARTITIONS == partition]
        await write_topic(settings, topic, [(None, b"e%d" % n, []) for n in mine], partition=partition)


async def effects(pool: Pool) -> tuple[int, int]:
    """Rows and distinct ids: the same number when nothing was done twice."""
    row = await pool.fetchrow("SELECT count(*) AS rows, count(DISTINCT id) AS ids FROM owner.effects")
    assert row is not None
    return row["rows"], row["ids"]


@pytest.fixture
async def counted(pool: Pool) -> Pool:
    await pool.execute("CREATE TABLE owner.effects (id text, part int, at bigint)")
    return pool


@asynccontextmanager
async def running(runner: StreamRunner) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.ensure_future(runner.run())
    try:
        yield task
    finally:
        await runner.stop()
        await asyncio.wait_for(task, 15)


class Recorder:
    """A task that remembers what it was given; `fail` raises where it is told to."""

    def __init__(self, log: list[str], start: Mapping[str, int], fail: Callable[[str], None] = lambda _: None) -> None:
        self.log, self.start, self.fail = log, start, fail

    def note(self, word: str) -> None:
        self.log.append(word)
        self.fail(word)

    async def open(self) -> Mapping[str, int]:
        self.note("open")
        return self.start

    async def process(self, batches: dict[str, list[ConsumerRecord]]) -> None:
        for records in batches.values():
            for record in records:
                self.note(record.value.decode())

    async def idle(self) -> None:
        self.fail("idle")

    async def close(self, *, lost: bool) -> None:
        self.note(f"close lost={lost}")


def single(
    settings: ServiceSettings, topic: str, make: Callable[[int], PartitionTask], health: Health | None = None
) -> StreamRunner:
    return StreamRunner(
        settings, group=f"{topic}-g", topics=[topic], make_task=make, health=health or Health(), max_records=10
    )


async def one_partition(settings: ServiceSettings, count: int) -> str:
    topic = f"{settings.prefix}.one"
    await ensure_topics(settings.kafka, [TopicSpec(topic, 1)])
    await write_topic(settings, topic, [(None, b"e%d" % number, []) for number in range(count)])
    return topic


@pytest.mark.parametrize("committed", [0, 7, 20])
async def test_reading_starts_where_the_task_says_whatever_kafka_remembers(
    settings: ServiceSettings, committed: int
) -> None:
    topic = await one_partition(settings, 20)
    await commit_hint(settings, topic, committed)
    log: list[str] = []
    gate = asyncio.Event()

    class Slow(Recorder):
        async def open(self) -> Mapping[str, int]:
            await gate.wait()  # time for a fetch from the committed offset to arrive
            return await super().open()

    async with running(single(settings, topic, lambda _: Slow(log, {topic: 5}))):
        asyncio.get_running_loop().call_later(0.3, gate.set)
        await until(lambda: "e19" in log, "the last record was processed")
    assert log == ["open", *(f"e{number}" for number in range(5, 20)), "close lost=False"]


async def commit_hint(settings: ServiceSettings, topic: str, offset: int) -> None:
    consumer = await open_consumer(settings, group=group_id(f"{topic}-g", [topic]))
    consumer.subscribe([topic])
    await consumer.getmany(timeout_ms=2000)
    await consumer.commit({TopicPartition(topic, 0): offset})
    await close_client(consumer)


async def test_a_runner_that_comes_back_with_more_topics_reads_them_all(settings: ServiceSettings) -> None:
    """As when a second pipeline is applied: at once, not when the session of the runner before has timed out."""
    first, second = (f"{settings.prefix}.{name}" for name in ("first", "second"))
    await ensure_topics(settings.kafka, [TopicSpec(first, 1), TopicSpec(second, 1)])
    await read_all(settings, [first])
    await read_all(settings, [first, second])


async def read_all(settings: ServiceSettings, topics: list[str]) -> None:
    await write_topic(settings, topics[-1], [(None, topics[-1].encode(), [])])
    log: list[str] = []
    health = Health()
    runner = StreamRunner(
        settings, group=f"{settings.prefix}-g", topics=topics, make_task=lambda _: Recorder(log, {}), health=health
    )
    async with running(runner):
        await until(lambda: set(topics) <= set(log), "records of all topics were read")


async def test_a_task_that_fails_is_rebuilt_from_its_stored_offset(settings: ServiceSettings) -> None:
    topic = await one_partition(settings, 6)
    log: list[str] = []
    failures = iter([Later("away"), KeyError("a bug"), Fenced("taken over"), AssertionError("from a library")])
    health = Health()

    def fail(word: str) -> None:
        if word == "e3" and (error := next(failures, None)) is not None:
            raise error

    async with running(single(settings, topic, lambda _: Recorder(log, {topic: 2}, fail), health)):
        await until(lambda: "e5" in log, "the last record was processed")
        await until(lambda: health.ready()[0], "ready again")
    once = ["open", "e2", "e3", "close lost=True"]
    assert log == [*once * 4, "open", "e2", "e3", "e4", "e5", "close lost=False"]


async def test_a_stalled_task_stays_down_and_readiness_says_why(settings: ServiceSettings) -> None:
    topic = await one_partition(settings, 3)
    log: list[str] = []
    health = Health()

    def fail(word: str) -> None:
        if word == "e1":
            raise Stalled("more than 100 records in a row cannot be processed")

    async with running(single(settings, topic, lambda _: Recorder(log, {}, fail), health)):
        await until(lambda: "close lost=True" in log, "the task was dropped")
        _, conditions = health.ready()
        assert [c.reason for c in conditions if not c.ok] == [
            "Stalled: more than 100 records in a row cannot be processed"
        ]
    assert log == ["open", "e0", "e1", "close lost=True"]


async def test_idle_is_called_without_records_and_health_knows_the_lag(settings: ServiceSettings) -> None:
    topic = await one_partition(settings, 3)
    log: list[str] = []
    idles: list[str] = []
    health = Health()

    def fail(word: str) -> None:
        if word == "idle":
            idles.append(word)

    async with running(single(settings, topic, lambda _: Recorder(log, {}, fail), health)):
        await until(lambda: len(idles) > 3, "idle was called")
        group = f"{topic}-g"
        await until(lambda: health.positions()[group, topic, 0].position == 3, "the position is known")
        assert health.positions()[group, topic, 0].lag == 0
    assert not health.positions()


async def test_partition_numbers_move_between_members_without_loss_or_doubles(
    service_settings: Callable[..., ServiceSettings], counted: Pool
) -> None:
    """Members come, restart and go while records are read: revocations race the fetches and commits of the others."""
    settings = service_settings()
    topic = await prepare(settings, 4000)
    runners: dict[str, tuple[StreamRunner, asyncio.Task[None]]] = {}

    async def stop(name: str) -> None:
        runner, task = runners.pop(name)
        await runner.stop()
        await asyncio.wait_for(task, 15)

    async def start(name: str) -> None:
        runner = counting(service_settings(instance=name, session_timeout_ms=6000), counted, Health(), max_records=20)
        runners[name] = runner, asyncio.ensure_future(runner.run())

    written = 4000
    for act, name in ((start, "a"), (start, "b"), (start, "c"), (stop, "a"), (start, "a"), (stop, "b"), (start, "d")):
        await act(name)
        await write(settings, topic, range(written, written + 400))
        written += 400

    async def done() -> bool:
        return (await effects(counted))[1] == written

    await until(done, f"all {written} effects", timeout_s=60, every_s=0.1)
    for name in list(runners):
        await stop(name)
    assert await effects(counted) == (written, written)


async def test_a_process_killed_at_any_moment_leaves_exact_counts(settings: ServiceSettings, counted: Pool) -> None:
    """Kills fall into fetches, transactions and commits; what was committed is there, what was not is done again."""
    total = 12_000
    await prepare(settings, total)
    chance = random.Random(3)
    for _ in range(3):
        before = (await effects(counted))[0]
        child = Worker(WORKER, "stream", "-", env=environment(settings))

        async def moved(known: int = before) -> bool:
            return (await effects(counted))[0] > known + chance.randrange(1500)

        await until(moved, "the worker makes progress", timeout_s=30, every_s=0.02)
        child.kill()
    survivor = Worker(WORKER, "stream", "-", env=environment(settings))

    async def done() -> bool:
        return (await effects(counted))[1] == total

    await until(done, f"all {total} effects", timeout_s=60, every_s=0.1)
    survivor.kill()
    assert await effects(counted) == (total, total)


async def test_a_frozen_owner_that_wakes_up_moves_nothing(settings: ServiceSettings, counted: Pool) -> None:
    topic = await prepare(settings, 0)
    record = ConsumerRecord(topic, 0, 0, 0, 0, None, b"e0", None, 0, 2, ())
    old, new = (CountTask(counted, topic, "g", 0) for _ in range(2))
    await old.open()
    await new.open()
    await new.process({topic: [record]})
    with pytest.raises(Fenced):
        await old.process({topic: [record]})
    assert await effects(counted) == (1, 1)
