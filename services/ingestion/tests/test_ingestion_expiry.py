"""The archive is checked number by number, also when the topic's records have expired and its files were merged."""

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from ingestion_stack import Running, flight

from tidemill_runtime.archive import archive_path
from tidemill_runtime.archive_care import check_archive, compact_archive

pytestmark = pytest.mark.anyio


async def test_every_number_resolves_after_the_topic_has_expired(service: Running) -> None:
    path = archive_path(service.settings.artifacts, "flights")
    async with service.client() as client:
        for start in range(0, 120, 40):
            events = [flight(n, prefix="x") for n in range(start, start + 40)]
            assert (await client.post("/v1/events/flights", json=events)).status_code == 202
            await service.counted(applied=start + 40)
            ends = (await client.post("/v1/archive/flush")).json()["sources"]["flights"]
    below = {int(partition): end for partition, end in ends.items()}
    before = check_archive(path, "flights", below=below)
    assert before.ok
    assert sum(found.rows for found in before.partitions.values()) == 120
    await _expire(service)
    assert await service.records("events") == []
    assert compact_archive(path, "flights", keep_hours=0).files_after == 1
    after = check_archive(path, "flights", below=below, earlier=before.to_json())
    assert after.ok
    assert [after.partitions[p].digest for p in below] == [before.partitions[p].digest for p in below]
    # The service goes on where it was: its positions are still with the rows.
    async with service.client() as client:
        events = [flight(n, prefix="y") for n in range(40)]
        assert (await client.post("/v1/events/flights", json=events)).status_code == 202
        await service.counted(applied=160)
        ends = (await client.post("/v1/archive/flush")).json()["sources"]["flights"]
    last = check_archive(path, "flights", below={int(p): end for p, end in ends.items()}, earlier=after.to_json())
    assert last.ok
    assert sum(found.rows for found in last.partitions.values()) == 160


async def _expire(service: Running) -> None:
    """What retention does: every record of the events topic is gone, its offsets go on."""
    admin = AIOKafkaAdminClient(bootstrap_servers=service.settings.kafka)
    await admin.start()
    try:
        name = service.topic("events")
        await admin.delete_records({TopicPartition(name, p): RecordsToDelete(before_offset=-1) for p in range(3)})
    finally:
        await admin.close()
