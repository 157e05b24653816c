"""The whole service in its own process, against a real broker and a real database."""

import pytest
from ingestion_stack import Running, flight

pytestmark = pytest.mark.anyio


async def test_an_array_reaches_the_events_topic_numbered_densely(service: Running) -> None:
    before = (await service.status())["applied"]
    async with service.client() as client:
        answer = await client.post("/v1/events/flights", json=[flight(n) for n in range(60)])
    assert answer.status_code == 202, answer.text
    assert [item["id"] for item in answer.json()["accepted"]] == [f"f-{n}" for n in range(60)]
    await service.counted(applied=before + 60)
    by_partition: dict[int, list[int]] = {}
    for record in await service.records("events"):
        by_partition.setdefault(record.partition, []).append(int(dict(record.headers)["tm_seq"]))
    assert all(numbers == list(range(len(numbers))) for numbers in by_partition.values())
    assert sum(map(len, by_partition.values())) == before + 60
