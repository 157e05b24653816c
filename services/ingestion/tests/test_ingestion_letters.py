"""Dead letters as they are listed."""

from pathlib import Path

import pytest

from tidemill_contracts.topics import TopicSpec
from tidemill_ingestion.kafka.letters import Letters
from tidemill_runtime.kafka import close_client, ensure_topics, open_producer, transaction
from tidemill_runtime.settings import ServiceSettings

pytestmark = pytest.mark.anyio


async def test_offsets_without_a_record_hide_no_letter(
    kafka_bootstrap: str, topic_prefix: str, tmp_path: Path
) -> None:  # fmt: skip
    settings = ServiceSettings(
        kafka=kafka_bootstrap, postgres="postgresql:///none", artifacts="/none", state=tmp_path, prefix=topic_prefix
    )
    name = f"{settings.prefix}.dlq"
    await ensure_topics(settings.kafka, [TopicSpec(name, 1)])
    producer = await open_producer(settings, transactional_id=name, linger_ms=0)
    for number in range(6):  # each with a mark of its own behind it
        async with transaction(producer):
            await producer.send(name, b"%d" % number, partition=0)
    await close_client(producer)
    letters = Letters(settings)
    for limit, wanted in ((1, [b"5"]), (4, [b"2", b"3", b"4", b"5"]), (9, [b"%d" % n for n in range(6)])):
        found = await letters.newest(name, limit)
        assert [letter.value for letter in found or []] == wanted
