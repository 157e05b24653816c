"""The service with room for a dozen keys: killed in between, it tells and keeps what the undisturbed oracle does."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
from features_cases import END_US, PARTITIONS, Stream, departures, views
from features_fakes import FakeLog, FakeStore, inputs, task, told, turn
from features_history import following
from features_reader import Reader
from features_stack import Process, Stack, open_stack, until
from features_verdict import check_everything

from tidemill_runtime.errors import Later

pytestmark = pytest.mark.anyio
EVENTS, SLICE = 1_500, 60
SMALL = {
    "TIDEMILL_KEYS_IN_MEMORY": "12", "TIDEMILL_CHECKPOINT_EVERY_S": "0.1", "TIDEMILL_CHECKPOINT_EVERY_EVENTS": "100",
}  # fmt: skip


@pytest.fixture
async def stack(kafka_bootstrap: str, postgres_dsn: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Stack]:
    prefix = f"c-{topic_prefix[-8:]}"
    async with open_stack(kafka_bootstrap, postgres_dsn, prefix, tmp_path) as opened:
        opened.environment = SMALL
        yield opened


async def test_with_a_dozen_keys_in_memory_and_a_kill_it_is_the_undisturbed_run(stack: Stack) -> None:
    stream = departures(EVENTS, step_us=60_000_000)
    process = stack.start()
    try:
        async with (
            following(stack.settings, views(stack.spec).values()) as found,
            stack.reading("by-flight") as flights,
        ):
            await process.ready()
            for start in range(0, max(map(len, stream.by_partition.values())), SLICE):
                await stack.send_events(stream, part=slice(start, start + SLICE))
                wanted = sum(len(events[: start + SLICE]) for events in stream.by_partition.values())
                if start == 4 * SLICE:
                    process.kill()
                    process = stack.start()
                await until(lambda least=wanted: found["by-flight"].events >= least, "readers follow")  # type: ignore[misc]
            await stack.send_events(Stream({p: [] for p in stream.by_partition}), until_us=END_US)
            await until(lambda: all(h.is_settled(END_US, PARTITIONS) for h in found.values()), "everything is told")
            await until(lambda: flights.is_settled(END_US), "the replica has seen the end")
            await check_reads(process, flights)
            assert await asyncio.to_thread(process.stop) == 0
            await check_everything(stack, stream, found, END_US)
    finally:
        process.kill()


async def check_reads(process: Process, flights: Reader) -> None:
    """Cold keys are counted and read like the others."""

    async def shrunk() -> bool:
        status = (await process.get("/v1/status")).json()
        parts = [part for view in status["views"] if view["view"] == "by-flight" for part in view["partitions"]]
        assert sum(part["keys"] for part in parts) == len(flights.vectors)
        cold: int = sum(part["cold_keys"] for part in parts)
        return cold > len(flights.vectors) // 2

    await until(shrunk, "most keys are cold")
    for entity, vector in flights.vectors.items():
        answer = await process.get(f"/v1/features/by-flight/{quote(entity, safe='')}")
        assert answer.json() == json.loads(vector.model_dump_json())
    metrics = (await process.get("/metrics")).text
    for name in ("cold_keys", "fetched_keys_total", "evicted_keys_total", "fetch_seconds_count"):
        values = [line.split()[-1] for line in metrics.splitlines() if line.startswith(f"tidemill_features_{name}")]
        assert sum(map(float, values)) > 0, name


async def test_a_batch_whose_cold_keys_cannot_be_fetched_is_neither_told_nor_stored() -> None:
    topic, records = inputs(600)
    half = len(records) // 2
    log, store = FakeLog(), FakeStore()
    running = task(log, store, room=lambda: 2)
    await running.open()
    await turn(running, {topic: records[:half]})
    await told(log, lambda: bool(store.rows))
    await running.close(lost=False)
    stored, letters = store.saved.copy(), len(log.letters)

    again = task(log, store, room=lambda: 2)
    await again.open()
    store.down = True
    with pytest.raises(Later):
        await again.process({topic: records[half:]})
    for _ in range(100):  # the teller would have had its turn by now
        await asyncio.sleep(0)
    assert (store.saved, len(log.letters)) == (stored, letters)
    await again.close(lost=True)

    store.down = False
    last = task(log, store, room=lambda: 2)
    await last.open()
    await turn(last, {topic: records[half:]})
    await last.close(lost=False)
    undisturbed = FakeLog()
    other = task(undisturbed, FakeStore())
    await other.open()
    await turn(other, {topic: records})
    await other.close(lost=False)
    assert log.vectors() == undisturbed.vectors()
