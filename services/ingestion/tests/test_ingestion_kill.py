"""SIGKILL in the middle of a load with duplicates: every id has one effect, in rows, on topics and in the archive."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx
import pytest
from ingestion_stack import Running, apply_pipeline, flight, free_port

from tidemill_runtime.archive import archive_path, read_events
from tidemill_runtime.settings import ServiceSettings
from tidemill_testkit.fixtures import unique_name
from tidemill_testkit.waiting import until

pytestmark = pytest.mark.anyio
UNIQUE, TOTAL, BATCH = 8_000, 10_000, 200


@pytest.fixture
async def killable(kafka_bootstrap: str, postgres_dsn: str, tmp_path: Path) -> AsyncIterator[Running]:
    settings = ServiceSettings(
        kafka=kafka_bootstrap, postgres=postgres_dsn, artifacts=str(tmp_path / "artifacts"), state=tmp_path / "state",
        prefix=unique_name("k"),
    )  # fmt: skip
    await apply_pipeline(settings)
    found = Running(settings, free_port())
    found.start()
    await found.ready()
    yield found
    found.kill()


def load() -> list[list[dict[str, object]]]:
    """10,000 events in batches, 2,000 of them repeats of earlier ones, in an order of their own."""
    dice = random.Random(7)
    numbers = [*range(UNIQUE), *(dice.randrange(UNIQUE) for _ in range(TOTAL - UNIQUE))]
    dice.shuffle(numbers)
    events = [flight(n, delay=float(n % 50), prefix="k") for n in numbers]
    return [events[start : start + BATCH] for start in range(0, TOTAL, BATCH)]


async def send(service: Running, batch: list[dict[str, object]]) -> None:
    """Send until it is accepted, as a producer does."""
    while True:
        with suppress(httpx.TransportError):
            async with service.client() as client:
                answer = await client.post("/v1/events/flights", json=batch)
                if answer.status_code == 202:
                    return
                assert answer.status_code in {404, 503}, answer.text  # 404: the pipelines are not read yet
        await asyncio.sleep(0.1)


@pytest.mark.timeout(300)
async def test_ten_thousand_events_with_duplicates_and_kills_are_counted_exactly(killable: Running) -> None:
    service, batches = killable, load()
    queue = iter(batches)

    async def producer() -> None:
        for batch in queue:
            await send(service, batch)

    async def killer() -> None:
        for share in (0.3, 0.7):
            await until(partial(reached, service, share), "the load is under way", timeout_s=90)
            service.kill()
            service.start()

    await asyncio.gather(*(producer() for _ in range(3)), killer())
    await service.ready()
    await service.counted(applied=UNIQUE, timeout_s=60)
    status = await service.status()
    assert status["accepted"] == status["applied"] == UNIQUE
    assert status["records"] == UNIQUE + status["duplicates"]
    assert status["duplicates"] >= TOTAL - UNIQUE
    await check_topic(service)
    async with service.client() as client:
        answer = await client.post("/v1/archive/flush")
    assert answer.status_code == 200, answer.text
    table = read_events(archive_path(service.settings.artifacts, "flights"), answer.json()["sources"]["flights"])
    assert table.num_rows == len(set(table["id"].to_pylist())) == UNIQUE


async def reached(service: Running, share: float) -> bool:
    with suppress(httpx.TransportError, AssertionError, KeyError):
        return bool((await service.status())["applied"] >= share * UNIQUE)
    return False


async def check_topic(service: Running) -> None:
    """What a reader keeps by origin is every id once, numbered densely; repeats are byte for byte the same."""
    kept: dict[int, dict[int, tuple[bytes, bytes]]] = {}
    last: Counter[int] = Counter()
    for record in await service.records("events"):
        headers = dict(record.headers)
        seq, offset = int(headers["tm_seq"]), int(headers["tm_origin"].split(b":")[1])
        part = kept.setdefault(record.partition, {})
        if offset + 1 > last[record.partition]:
            last[record.partition] = offset + 1
            assert seq == len(part)
            part[seq] = (headers["ce_id"], record.value)
        else:
            assert part[seq] == (headers["ce_id"], record.value)
    ids = [name for part in kept.values() for name, _ in part.values()]
    assert len(ids) == len(set(ids)) == UNIQUE


async def test_the_service_stops_within_ten_seconds_and_leaves_nothing_to_repeat(killable: Running) -> None:
    for batch in load()[:5]:
        await send(killable, batch)
    await killable.counted(records=5 * BATCH)
    before = len(await killable.records("events"))
    assert killable.worker is not None
    assert killable.worker.terminate(10) == 0
    killable.start()
    await killable.ready()
    assert len(await killable.records("events")) == before
