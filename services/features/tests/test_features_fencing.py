"""An owner that slept and wakes up cannot put an old vector behind a new one: not in the log, not after compaction."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from features_cases import END_US, HOUR_US, Stream, departures, timer_record
from features_reader import Reader, check_vectors
from features_stack import Stack, open_stack, until

from tidemill_features.domain.letter import Letter
from tidemill_features.kafka import TransactionLog
from tidemill_features.settings import Settings
from tidemill_runtime.errors import Fenced

VIEWS = ("by-flight", "by-carrier", "by-route")
pytestmark = pytest.mark.anyio


@pytest.fixture
async def stack(kafka_bootstrap: str, postgres_dsn: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Stack]:
    prefix = f"f-{topic_prefix[-8:]}"
    async with open_stack(kafka_bootstrap, postgres_dsn, prefix, tmp_path, restless=True) as opened:
        yield opened


async def test_a_second_writer_shuts_out_the_first(stack: Stack) -> None:
    settings = Settings(kafka=stack.kafka, postgres="", artifacts="", state=stack.folder, prefix=stack.prefix)
    first, second = TransactionLog(settings, 0), TransactionLog(settings, 0)
    topic = stack.view_topic("by-flight")
    await first.open()
    await first.write([Letter(topic, 0, b"k", b"old", [])])
    await second.open()
    await second.write([Letter(topic, 0, b"k", b"new", [])])
    with pytest.raises(Fenced):
        await first.write([Letter(topic, 0, b"k", b"older", [])])
    assert not first.is_open
    await second.write([Letter(topic, 0, b"k", b"newer", [])])
    await second.close()
    values = [value async for value in stack.log(topic)]
    assert values == [b"old", b"new", b"newer"]


@asynccontextmanager
async def takeover(stack: Stack, stream: Stream, second: str) -> AsyncIterator[tuple[str, Mapping[int, int]]]:
    """Freeze the first owner with vectors in its hands, let a second one finish everything, wake the first one up.

    Yields what became of the vectors that the first one held, and where carriers' newest watermarks lie.
    """
    sleeper = stack.start("0", SLEEP_BEFORE_WRITE="5", TIDEMILL_CHECKPOINT_EVERY_S="0.2")
    processes, half = [sleeper], len(stream.by_partition[0]) // 2
    try:
        async with stack.reading("by-carrier") as reader:
            await sleeper.ready()
            for start in range(0, half, 50):
                await stack.send_events(stream, part=slice(start, min(start + 50, half)))
            await until(sleeper.is_asleep, "the first owner sleeps")
            await stack.send_events(stream, part=slice(half, None), until_us=END_US)
            processes.append(stack.start(second, TIDEMILL_CHECKPOINT_EVERY_S="0.2"))
            await until(lambda: reader.low() == END_US, "the second owner has told everything")
            sleeper.wake()
            await until(lambda: "woke up" in sleeper.log.read_text(), "the first owner has tried to write")
        yield (
            re.findall("woke up: ([A-Za-z]+)", sleeper.log.read_text())[0],
            {p: at[-1] for p, at in reader.marks.items()},
        )
    finally:
        for process in processes:
            process.kill()


async def replicas(stack: Stack) -> dict[str, Reader]:
    """Fresh ones, read to the end of time."""
    found = {}
    for name in VIEWS:
        async with stack.reading(name) as reader:
            await until(lambda known=reader: known.low() >= END_US, f"{name} has been read")  # type: ignore[misc]
            found[name] = reader
    return found


@pytest.mark.timeout(300)
async def test_a_sleeper_that_wakes_up_writes_nothing_behind_its_successor(stack: Stack) -> None:
    """The successor has the sleeper's identity, as when a supervisor replaces a process that it believes dead."""
    stream = departures(4000)
    async with takeover(stack, stream, "0") as (result, _):
        check_vectors(stream, await replicas(stack))
        assert result == "Fenced"


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_after_takeover_and_compaction_a_fresh_replica_has_the_newest_vectors(stack: Stack) -> None:
    """Two members of one group: the second gets the partitions when the first has missed its session."""
    stream = departures(20_000, step_us=4_000_000)
    async with takeover(stack, stream, "1") as (result, ends):
        assert result == "Fenced"
        await until(lambda: is_compacted(stack, stream, ends), "the broker has compacted the vectors", deadline_s=300)
    check_vectors(stream, await replicas(stack), until_us=None)


async def is_compacted(stack: Stack, stream: Stream, ends: Mapping[int, int]) -> bool:
    """Give the partitions something new, so that their segments are closed, and look which watermarks are left.

    One key holds all of them, so behind the takeover's none is left once the broker has been through it.
    """
    stack.extra_us += HOUR_US
    records = [timer_record(END_US + stack.extra_us, p) for p in stream.by_partition]
    await stack.send(stack.topic("events", "departures"), records)
    await asyncio.sleep(1)  # the broker rolls a segment by its age, and its cleaner sleeps for seconds
    marks = (await replicas(stack))["by-carrier"].marks
    return all(marks[partition][0] > end for partition, end in ends.items())


async def test_garbage_is_buried_and_its_neighbours_count(stack: Stack) -> None:
    stream = departures(300)
    process = stack.start()
    try:
        await process.ready()
        events, rows = stack.topic("events", "departures"), stack.topic("repartition", "departures")
        await stack.send_garbage(events)
        await stack.send_garbage(rows)
        await stack.send_events(stream, until_us=END_US)
        check_vectors(stream, await replicas(stack))
        for name, groups in ((events, 2), (rows, 1)):
            letters = [value async for value in stack.log(f"{name}.dlq")]
            assert len(letters) == groups * len(stack.GARBAGE), name
        assert (await process.get("/readyz")).status_code == 200
    finally:
        process.kill()
