"""The service as processes against a real Kafka and Postgres: online is the backfill, whatever happens on the way."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
from features_cases import END_US, Stream, departures
from features_reader import Reader, check_vectors
from features_stack import Process, Stack, open_stack, until

VIEWS = ("by-flight", "by-carrier", "by-route")
pytestmark = pytest.mark.anyio


@pytest.fixture
async def stack(kafka_bootstrap: str, postgres_dsn: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Stack]:
    prefix = f"s-{topic_prefix[-8:]}"
    async with open_stack(kafka_bootstrap, postgres_dsn, prefix, tmp_path) as opened:
        yield opened


async def replicas(stack: Stack, exits: AsyncExitStack) -> dict[str, Reader]:
    return {name: await exits.enter_async_context(stack.reading(name)) for name in VIEWS}


async def finished(found: dict[str, Reader]) -> None:
    await until(lambda: all(r.is_settled(END_US) for r in found.values()), "every replica has seen the end")


async def test_online_is_the_backfill_bit_for_bit(stack: Stack) -> None:
    stream = departures(3000)
    process = stack.start()
    try:
        async with AsyncExitStack() as exits:
            found = await replicas(stack, exits)
            await process.ready()
            for start in range(0, 1200, 150):
                await stack.send_events(stream, part=slice(start, start + 150))
            await stack.send_events(Stream({p: [] for p in stream.by_partition}), until_us=END_US)
            await finished(found)
            check_vectors(stream, found)
            await check_http(process, found)
        assert process.stop() == 0
    finally:
        process.kill()


async def check_http(process: Process, found: dict[str, Reader]) -> None:
    entity, vector = next(iter(found["by-route"].vectors.items()))
    answer = await process.get(f"/v1/features/by-route/{quote(entity, safe='')}")
    assert answer.json() == json.loads(vector.model_dump_json())
    missing = await process.get("/v1/features/by-route/nobody%2Fhere")
    assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")
    assert (await process.get("/v1/features/nothing/x")).status_code == 404
    status = (await process.get("/v1/status")).json()
    assert [view["view"] for view in status["views"]] == sorted(VIEWS)
    for view in status["views"]:
        assert [part["partition"] for part in view["partitions"]] == [0, 1, 2]
        assert {part["watermark_us"] for part in view["partitions"]} == {END_US}
        assert sum(part["keys"] for part in view["partitions"]) == len(found[view["view"]].vectors)
    metrics = (await process.get("/metrics")).text
    assert "tidemill_features_outputs_total" in metrics


async def test_killed_in_the_middle_of_twenty_thousand_events_it_ends_like_an_undisturbed_run(
    stack: Stack,
) -> None:
    stream = departures(20_000, step_us=4_000_000)
    process = stack.start(TIDEMILL_CHECKPOINT_EVERY_S="0.3")
    try:
        async with AsyncExitStack() as exits:
            found = await replicas(stack, exits)
            sending = asyncio.create_task(stack.send_events(stream, until_us=END_US))
            for share in (0.2, 0.5, 0.8):
                await process.ready()
                await until(lambda part=share: seen(found) >= part * len(stream.all), f"{share} of the events")  # type: ignore[misc]
                process.kill()
                process = stack.start(TIDEMILL_CHECKPOINT_EVERY_S="0.3")
            await sending
            await finished(found)
            check_vectors(stream, found)
    finally:
        process.kill()


def seen(found: dict[str, Reader]) -> int:
    """Events of the view by flight that are reflected in its vectors."""
    return sum(vector.revision & 0x7FFFFFFF for vector in found["by-flight"].vectors.values())
