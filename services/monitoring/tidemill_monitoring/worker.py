"""A sample of the newest answers, computed again from the archive, in a process that lives for one sample.

It reads its order on standard input and says what it found in one line of JSON on standard output. A child, because a
recomputation holds the processor and memory for seconds; the merge of the service must not wait for either.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from aiokafka import ConsumerRecord, TopicPartition
from pydantic import BaseModel, ValidationError

from tidemill_contracts import EnvelopeError, read_envelope, topic
from tidemill_contracts.events import PipelineApplied, Prediction, Released
from tidemill_contracts.pipeline import PipelineSpec, files_of
from tidemill_engine.parity import COLUMNS, Answer, Archived, Layout, Logged, check, collect
from tidemill_runtime.archive import archive_path, read_bands
from tidemill_runtime.errors import Later
from tidemill_runtime.kafka import close_client, end_offsets, open_consumer
from tidemill_runtime.settings import ServiceSettings

PATIENCE_S = 30.0
"""The archive is some seconds behind the stream."""


class Order(BaseModel):
    """What to look at: of the newest `newest` records of each partition one in `one_in`, none below `after`."""

    after: dict[str, int] = {}
    newest: int = 2000
    one_in: int = 8


class Told(BaseModel):
    """What was found by pipeline, and the offsets from which to go on, by `topic/partition`."""

    pipelines: dict[str, dict[str, Any]] = {}
    after: dict[str, int] = {}


def main() -> None:
    """Run the order on standard input."""
    order = Order.model_validate_json(sys.stdin.buffer.read())
    told = asyncio.run(run(order, ServiceSettings()))
    sys.stdout.write(told.model_dump_json() + "\n")


async def run(order: Order, settings: ServiceSettings) -> Told:
    """One sample of every pipeline; raises Later when the archive stays behind or Kafka cannot be reached."""
    specs, told = dict[str, dict[str, PipelineSpec]](), Told()
    async for record in _records(settings, topic("pipelines", prefix=settings.prefix), {}):
        applied = _event(record, PipelineApplied)
        if applied is not None:
            specs.setdefault(applied.pipeline, {}).update(files_of(applied).by_digest)
    layouts: dict[str, dict[int, Layout]] = {}
    async for record in _records(settings, topic("releases", prefix=settings.prefix), {}):
        release = _event(record, Released)
        known = {} if release is None else specs.get(release.pipeline, {})
        if release is not None and release.spec in known:
            layouts.setdefault(release.pipeline, {})[release.epoch] = Layout(known[release.spec], release.features)
    for pipeline, by_epoch in sorted(layouts.items()):
        logged = Logged(by_epoch)
        await _fill(logged, order, settings, told, topic("predictions", pipeline, prefix=settings.prefix))
        found = await asyncio.to_thread(check, logged, _reader(settings.artifacts, logged))
        told.pipelines[pipeline] = asdict(found)
    return told


async def _fill(logged: Logged, order: Order, settings: ServiceSettings, told: Told, name: str) -> None:
    ends = await end_offsets(settings.kafka, name)
    starts = {p: max(end - order.newest, order.after.get(f"{name}/{p}", 0), 0) for p, end in ends.items()}
    told.after |= {f"{name}/{p}": end for p, end in ends.items()}
    async for record in _records(settings, name, starts):
        body = _event(record, Prediction)
        if body is None or body.inline or body.prediction_id.int % order.one_in:
            continue  # features that a request put in are nobody's to compute again
        revisions = {view: read.model_dump_json().encode() for view, read in body.revisions.items()}
        vector = np.array(body.vector, np.float64)
        request, place = json.dumps(body.request).encode(), (record.partition, record.offset)
        answer = Answer(str(body.prediction_id), place, body.at_us, body.watermark_us, vector, request, revisions)
        logged.add(body.epoch, body.features, answer)


def _event(record: ConsumerRecord, kind: type[Any]) -> Any:  # noqa: ANN401 - of the kind that was asked for
    """The event of this kind; None for every other record, and for one that nobody can read."""
    try:
        envelope = read_envelope(record.headers, record.value)
        return kind.read(envelope.data) if envelope.type == kind.TYPE else None
    except (EnvelopeError, ValidationError):
        return None


async def _records(settings: ServiceSettings, name: str, starts: Mapping[int, int]) -> AsyncIterator[ConsumerRecord]:
    """Committed records of a topic from `starts` (missing: the earliest) to its end as of now."""
    ends = await end_offsets(settings.kafka, name)
    consumer = await open_consumer(settings)
    try:
        for partition, end in sorted(ends.items()):
            place = TopicPartition(name, partition)
            consumer.assign([place])
            consumer.seek(place, starts.get(partition, 0))
            while await consumer.position(place) < end:
                for record in (await consumer.getmany(place, timeout_ms=200, max_records=2000)).get(place, []):
                    yield record
    finally:
        await close_client(consumer)


def _reader(artifacts: str, logged: Logged) -> Any:  # noqa: ANN401 - what `check` calls
    def read(source: str, below: dict[int, int]) -> Archived:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return collect(read_bands(archive_path(artifacts, source), below, columns=COLUMNS), logged, source)
            except Later:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1.0)

    return read


if __name__ == "__main__":
    main()
