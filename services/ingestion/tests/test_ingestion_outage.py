"""The broker goes away and comes back: a declared answer within its time, and nothing lost that was accepted."""

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from ingestion_stack import Running, apply_pipeline, flight

from tidemill.stack import LocalKafka
from tidemill_runtime.settings import ServiceSettings
from tidemill_testkit.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


@pytest.fixture
def broker(stack_folder: Path) -> Iterator[LocalKafka]:
    with LocalKafka(stack_folder / "own-kafka") as kafka:
        yield kafka


@pytest.fixture
async def own(broker: LocalKafka, postgres_dsn: str, tmp_path: Path) -> AsyncIterator[Running]:
    settings = ServiceSettings(
        kafka=broker.bootstrap, postgres=postgres_dsn, artifacts=str(tmp_path / "artifacts"), state=tmp_path / "state"
    )
    await apply_pipeline(settings)
    found = Running(settings)
    found.start(TIDEMILL_INGESTION_PUBLISH_TIMEOUT_S="1")
    await found.ready()
    yield found
    found.kill()


async def test_without_a_broker_producers_are_told_to_come_back_and_can(own: Running, broker: LocalKafka) -> None:
    async with own.client() as client:
        assert (await client.post("/v1/events/flights", json=flight(1))).status_code == 202
        broker.kill()
        started = time.monotonic()
        answer = await client.post("/v1/events/flights", json=[flight(n) for n in range(2, 50)])
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert time.monotonic() - started < 30, "the producer's own patience is longer"
        assert (await client.get("/livez")).status_code == 200
        broker.start()

        async def accepted() -> bool:
            return (await client.post("/v1/events/flights", json=[flight(n) for n in range(50)])).status_code == 202

        await until(accepted, "the broker takes events again", timeout_s=60, every_s=0.5)
    await own.counted(applied=50, accepted=50, timeout_s=60)
