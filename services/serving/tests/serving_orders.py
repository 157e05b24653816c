"""Requests over Kafka as tests write them, and what became of them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiokafka.admin import AIOKafkaAdminClient
from serving_cases import T0_US, pipeline
from serving_stack import Process, Stack

from tidemill_contracts.envelope import Envelope
from tidemill_contracts.events import Prediction, PredictionRequested
from tidemill_contracts.ids import prediction_id
from tidemill_contracts.topics import dead_letters, request_group, topic
from tidemill_testkit.topics import Sent
from tidemill_testkit.topics import read_topic as read_records

SPEC = pipeline(missing="refuse")


def order(body: dict[str, Any] | bytes, *, event_id: str = "", kind: str = PredictionRequested.TYPE) -> Sent:
    """A record of the requests' topic."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    envelope = Envelope(event_id or str(uuid4()), kind, "test", T0_US, data)
    return b"k", data, envelope.headers()


async def send(stack: Stack, records: list[Sent], *, partition: int | None = None) -> None:
    """To the pipeline's requests, over its partitions."""
    name = topic("requests", stack.spec.name, prefix=stack.prefix)
    for number, (key, value, headers) in enumerate(records):
        place = number % stack.spec.partitions if partition is None else partition
        await stack.producer.send(name, value, key=key, partition=place, headers=list(headers))
    await stack.producer.flush()


async def predictions(stack: Stack) -> Counter[str]:
    """How often each prediction stands in the topic."""
    return Counter(envelope.id for _, envelope in await stack.logged() if envelope.type == Prediction.TYPE)


async def letters(stack: Stack) -> list[dict[str, str]]:
    """What the dead letters say, in order."""
    name = dead_letters(topic("requests", stack.spec.name, prefix=stack.prefix))
    records = [record for found in (await read_records(stack.settings, name)).values() for record in found]
    return [{n: v.decode("utf-8", "replace") for n, v in record.headers} for record in records]


async def committed(stack: Stack) -> int:
    """Records of the requests that the group has done with."""
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.kafka)
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(request_group(stack.spec.name, prefix=stack.prefix))
    finally:
        await admin.close()
    return sum(max(0, place.offset) for place in found.values())


def ids(names: list[str]) -> Counter[str]:
    """One prediction for each."""
    return Counter(str(prediction_id(SPEC.name, name)) for name in names)


def spooled(process: Process) -> int:
    """Bytes in a process's spool."""
    folder = Path(process.environment["TIDEMILL_STATE"]) / "spool"
    return sum(path.stat().st_size for path in folder.glob("*.spool"))
