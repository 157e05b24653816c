"""The whole service in its own process, against a real broker and a real database."""

import json

import pytest
from ingestion_stack import Running, flight
from pyarrow import compute as pc

from tidemill_runtime.archive import archive_path, read_events

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


async def test_the_archive_holds_every_applied_event_once_and_in_order(service: Running) -> None:
    before = (await service.status())["applied"]
    async with service.client() as client:
        for start in range(0, 300, 100):
            events = [flight(n, prefix="a") for n in range(start, start + 100)]
            assert (await client.post("/v1/events/flights", json=events)).status_code == 202
        await service.counted(applied=before + 300)
        answer = await client.post("/v1/archive/flush")
        assert answer.status_code == 200, answer.text
    positions = answer.json()["sources"]["flights"]
    assert positions == (await service.status())["positions"]
    table = read_events(archive_path(service.settings.artifacts, "flights"), positions)
    assert table.num_rows == before + 300
    rows = table.select(["partition", "seq"]).to_pylist()
    assert rows == [{"partition": p, "seq": n} for p in range(3) for n in range(positions[str(p)])]
    assert len(set(table["id"].to_pylist())) == table.num_rows
    first = table.filter(pc.field("id") == "a-3").to_pylist()[0]
    assert json.loads(first["body"]) == {"at": "2013-01-01T10:03:00Z", "delay": 1.0, "tail": "N3"}
    assert (first["key"], first["outcome"]) == ("N3", "applied")
