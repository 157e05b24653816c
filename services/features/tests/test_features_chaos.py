"""Twenty SIGKILLs of the service, the broker and the database: what was told is what an undisturbed run tells."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from features_cases import HOUR_US, START_US, Stream, departures, source_record, timer_record, views
from features_history import History, following
from features_servers import VICTIMS, Chaos, producing, servers
from features_stack import Stack, open_stack, say, until
from features_verdict import check_everything, stored_digests

from tidemill_testkit.fixtures import create_database, with_database

EVENTS = int(os.environ.get("TIDEMILL_CHAOS_EVENTS", "500000"))
STEP_US = 1_000_000
UNTIL_US = START_US + (EVENTS * STEP_US // HOUR_US + 1) * HOUR_US
AHEAD, CHUNK = 4_000, 300  # events: no more than this is written that readers have not been told
pytestmark = [pytest.mark.anyio, pytest.mark.chaos]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, for the database's socket."""
    found = Path(tempfile.mkdtemp(prefix="fc-"))
    yield found
    shutil.rmtree(found, ignore_errors=True)


async def produce(stack: Stack, stream: Stream, found: Mapping[str, History]) -> None:
    """All events, never far ahead of what readers have been told; then progress of every partition."""
    topic, history = stack.topic("events", "departures"), found["by-flight"]
    written, longest = 0, max(map(len, stream.by_partition.values()))
    async with producing(stack.kafka) as write:
        for start in range(0, longest, CHUNK):
            parts = [events[start : start + CHUNK] for events in stream.by_partition.values()]
            await write(topic, [source_record(event) for part in parts for event in part])
            written += sum(map(len, parts))
            await until(lambda least=written - AHEAD: history.events >= least, "readers follow")  # type: ignore[misc]
        await write(topic, [timer_record(UNTIL_US, partition) for partition in stream.by_partition])


@pytest.mark.timeout(1800)
async def test_twenty_kills_leave_no_trace(folder: Path) -> None:
    """Over 500,000 events, at instants that no run has twice; `TIDEMILL_CHAOS_EVENTS` makes it shorter."""
    stream = departures(EVENTS, step_us=STEP_US)
    async with servers(folder) as (kafka, postgres):
        for name in ("wild", "calm"):
            (folder / name).mkdir()
        await asyncio.to_thread(create_database, postgres.dsn, "calm")
        calm_dsn = with_database(postgres.dsn, "calm")
        async with open_stack(kafka.bootstrap, postgres.dsn, "wild", folder / "wild") as wild:
            killed = await disturbed(wild, stream, Chaos(wild, kafka, postgres))
        async with open_stack(kafka.bootstrap, calm_dsn, "calm", folder / "calm") as calm:
            kept = await undisturbed(calm, stream)
        assert await stored_digests(wild) == await stored_digests(calm)
        say(f"{same(killed, kept):,} of them were told by an undisturbed process, too")


def same(one: History, other: History) -> int:
    """How many (entity, revision) both have told; each has one value."""
    both = 0
    for entity, counts in one.told.items():
        for count, revisions in counts.items():
            for revision in revisions.keys() & other.told.get(entity, {}).get(count, {}).keys():
                assert revisions[revision] == other.told[entity][count][revision], (entity, revision)
                both += 1
    assert both, "the two runs have nothing in common"
    return both


async def disturbed(stack: Stack, stream: Stream, chaos: Chaos) -> History:
    """Everything is killed; returns what was told by the source's own key: its input is the same log in every run."""
    async with following(stack.settings, views(stack.spec).values()) as found:
        sending = asyncio.ensure_future(produce(stack, stream, found))

        def progress() -> float:
            if sending.done():
                sending.result()
            over = all(history.is_settled(UNTIL_US, len(stream.by_partition)) for history in found.values())
            return 1.0 if over else min(0.99, found["by-flight"].events / EVENTS)

        try:
            await chaos.run(progress, UNTIL_US)
        finally:
            sending.cancel()
    checked = await check_everything(stack, stream, found, UNTIL_US)
    say(f"{len(VICTIMS)} SIGKILLs, {EVENTS:,} events: {checked:,} vectors were told, each the undisturbed run's")
    return found["by-flight"]


async def undisturbed(stack: Stack, stream: Stream) -> History:
    """One process from beginning to end."""
    async with following(stack.settings, views(stack.spec).values()) as found:
        process = stack.start()
        try:
            await produce(stack, stream, found)
            done = lambda: all(h.is_settled(UNTIL_US, len(stream.by_partition)) for h in found.values())  # noqa: E731
            await until(done, "everything is told")
            assert await asyncio.to_thread(process.stop) == 0
        finally:
            process.kill()
    return found["by-flight"]
