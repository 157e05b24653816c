"""What a training must know of the log beside its rows: quarantined windows, and which answers rest on them."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from aiokafka import ConsumerRecord, TopicPartition
from pydantic import ValidationError

from tidemill_contracts import EnvelopeError, read_envelope, topic
from tidemill_contracts.events import QualityBreached
from tidemill_contracts.events.control import QuarantineReleased
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_engine.quarantine import Quarantine, quarantine
from tidemill_runtime.backoff import Backoff
from tidemill_runtime.errors import Later
from tidemill_runtime.kafka import close_client, end_offsets, open_consumer
from tidemill_runtime.settings import ServiceSettings

_PATIENCE_S = 120.0


async def read_quarantine(settings: ServiceSettings, spec: PipelineSpec, until_us: int) -> Quarantine:
    """The quarantine of the pipeline's sources as it is told now, of windows that had ended by `until_us`."""
    breaches, released = list[QualityBreached](), set[UUID]()
    async for record in _whole(settings, topic("quality", prefix=settings.prefix)):
        try:
            envelope = read_envelope(record.headers, record.value)
            if envelope.type == QualityBreached.TYPE:
                breaches.append(QualityBreached.read(envelope.data))
            elif envelope.type == QuarantineReleased.TYPE:
                released.add(QuarantineReleased.read(envelope.data).quarantine_id)
        except (EnvelopeError, ValidationError):
            continue  # ingestion alone writes here
    return quarantine(breaches, frozenset(released), frozenset(spec.sources), until_us)


async def read_tainted(settings: ServiceSettings, spec: PipelineSpec, found: Quarantine) -> frozenset[str]:
    """Ids of predictions for which the newest event that a view's vector reflects is quarantined."""
    sources = {name: view.source for name, view in spec.views.items() if f"events.{view.source}" in found.ranges}
    if not sources:
        return frozenset()
    tainted = set[str]()
    async for record in _whole(settings, topic("predictions", spec.name, prefix=settings.prefix)):
        body = _body(record)
        positions = {view: read["positions"] for view, read in body.get("revisions", {}).items()}
        if found.taints(sources, positions):
            tainted.add(body["prediction_id"])
    return frozenset(tainted)


def _body(record: ConsumerRecord) -> dict[str, Any]:
    """The body of a prediction; empty for a timer and for what serving has not written."""
    try:
        found = json.loads(read_envelope(record.headers, record.value).data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and "revisions" in found else {}


async def _whole(settings: ServiceSettings, name: str) -> AsyncIterator[ConsumerRecord]:
    """Every committed record of a topic up to its end as of now; raises Later when it cannot be read for long."""
    ends = await _ends(settings, name)
    if not any(ends.values()):
        return
    consumer = await open_consumer(settings)
    try:
        for partition, end in sorted(ends.items()):
            place = TopicPartition(name, partition)
            consumer.assign([place])
            await consumer.seek_to_beginning(place)
            while await consumer.position(place) < end:
                for record in (await consumer.getmany(place, timeout_ms=200, max_records=2000)).get(place, []):
                    yield record
    finally:
        await close_client(consumer)


async def _ends(settings: ServiceSettings, name: str) -> dict[int, int]:
    """Where the topic's partitions end. A broker that comes back soon is waited for: it is no reason to fail a run."""
    backoff, deadline = Backoff(), time.monotonic() + _PATIENCE_S
    while True:
        try:
            return await end_offsets(settings.kafka, name)
        except Later:
            if time.monotonic() > deadline:
                raise
            await backoff.wait()
