"""Requests for predictions over Kafka: sent as records, answered among the predictions, told what became of each."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from uuid import uuid4

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from pydantic import ValidationError

from tidemill.client import calls
from tidemill.client.calls import Steps
from tidemill.client.errors import TidemillError
from tidemill.client.results import BulkOutcome, Refusal
from tidemill.client.transport import AsyncTransport
from tidemill_contracts import topic
from tidemill_contracts.envelope import EnvelopeError, read_envelope
from tidemill_contracts.events import Prediction, PredictionRequested, encode
from tidemill_contracts.ids import prediction_id, request_key
from tidemill_contracts.topics import dead_letters, request_group
from tidemill_runtime.consumer import SteadyConsumer
from tidemill_runtime.errors import Later
from tidemill_runtime.kafka import MAX_REQUEST_BYTES, close_client, partitions_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator


FOUND_S, STALLED_S, LOOK_EVERY_S = 10.0, 60.0, 0.5
MOST_REFUSALS = 1000
Progress = Callable[[str, int], None]
"""Told `sent` or `done`, and how many by now."""
T = TypeVar("T")
Sink = Callable[[dict[str, Any]], None]


class Asks(Protocol):
    """The client, as much of it as this needs."""

    transport: AsyncTransport

    async def run(self, steps: Steps[T]) -> T:
        """The result of an operation."""


async def predict_bulk(  # noqa: PLR0913 - the options of an operation
    client: Asks, pipeline: str, instances: Iterable[Mapping[str, Any]], *, wait: bool = True,
    progress: Progress | None = None, sink: Sink | None = None,
) -> BulkOutcome:  # fmt: skip
    """Send instances, each {"inputs": {...}} with optional "id", "time" and "features"; wait for what becomes of all.

    One record for each, keyed by its id. The same id again, also over HTTP, is answered once. `sink` gets each answer
    as it is in the log. Raises TidemillError: no such pipeline, an instance that is none, Kafka out of reach, or
    nothing has happened for a minute.
    """
    places = client.transport.endpoints
    names = topic("requests", pipeline, prefix=places.prefix), topic("predictions", pipeline, prefix=places.prefix)
    try:
        await partitions_of(places.bootstrap(), names, timeout_s=FOUND_S)
        async with _reader(places.bootstrap(), [names[1], dead_letters(names[0])]) as reader:
            run = _Run(pipeline, names[0], time.monotonic(), progress or (lambda _what, _count: None))
            await run.send(places.bootstrap(), instances)
            if wait:
                await _Waiting(client, reader, run, sink).until_done()
    except Later as error:
        raise TidemillError(f"Kafka has no requests of {pipeline}: is it applied? ({error})") from error
    except (KafkaError, OSError) as error:
        raise TidemillError(f"Kafka at {places.bootstrap()}: {error!r}") from error
    return run.outcome(waited=wait)


@dataclass(slots=True)
class _Run:
    """What was sent under a source of its own, and what is known of it."""

    pipeline: str
    topic: str
    began: float
    progress: Progress
    source: str = field(default_factory=lambda: f"tidemill/bulk/{uuid4()}")
    sent: int = 0
    answered: int = 0
    refused: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    waiting: dict[str, dict[str, str]] = field(default_factory=dict)
    """Prediction id to the events that ask for it, each with the id that its sender knows."""
    last: dict[int, int] = field(default_factory=dict)

    async def send(self, bootstrap: str, instances: Iterable[Mapping[str, Any]]) -> None:
        """All of them, acknowledged."""
        producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=5, max_batch_size=262_144,
            compression_type="zstd", max_request_size=MAX_REQUEST_BYTES,
        )  # fmt: skip
        await producer.start()
        failed: list[BaseException] = []

        def landed(sent: "asyncio.Future[Any]") -> None:
            if (error := sent.exception()) is not None:
                failed.append(error)
            else:
                place = sent.result()
                self.last[place.partition] = max(place.offset, self.last.get(place.partition, -1))

        try:
            for key, value, headers in self._records(instances):
                (await producer.send(self.topic, value, key=key, headers=headers)).add_done_callback(landed)
                self.sent += 1
                self.progress("sent", self.sent)
            await producer.flush()
        finally:
            await close_client(producer)
        if failed:
            raise TidemillError(f"{len(failed)} of {self.sent} requests are not on the log: {failed[0]!r}")

    def _records(
        self, instances: Iterable[Mapping[str, Any]]
    ) -> "Iterator[tuple[bytes, bytes, list[tuple[str, bytes]]]]":  # fmt: skip
        for number, instance in enumerate(instances):
            try:
                body = PredictionRequested.model_validate_json(json.dumps(dict(instance), allow_nan=False))
            except (ValidationError, ValueError) as error:
                told = error.errors(include_input=False)[0] if isinstance(error, ValidationError) else None
                what = str(error) if told is None else f"{'.'.join(map(str, told['loc']))}: {told['msg']}"
                raise TidemillError(f"instance {number} ({self.sent} were sent before it): {what}") from None
            if body.inputs is None:
                raise TidemillError(f"instance {number} ({self.sent} were sent before it): inputs: Field required")
            event_id = str(number)
            key = body.id or request_key(self.source, event_id)
            envelope = encode(body, id=event_id, source=self.source, time_us=time.time_ns() // 1000)
            asked = self.waiting.setdefault(str(prediction_id(self.pipeline, key)), {})
            asked[event_id] = body.id or event_id
            yield key.encode(), envelope.data, envelope.headers()

    def outcome(self, *, waited: bool) -> BulkOutcome:
        """What became of it; what was answered in an earlier run has no new record."""
        known = sum(map(len, self.waiting.values())) if waited else 0
        return BulkOutcome(
            pipeline=self.pipeline, sent=self.sent, answered=self.answered, refused=self.refused, known=known,
            refusals=self.refusals, seconds=round(time.monotonic() - self.began, 3),
        )  # fmt: skip


@dataclass(slots=True)
class _Waiting:
    """Reads predictions and dead letters until every request has either."""

    client: Asks
    reader: SteadyConsumer
    run: _Run
    sink: Sink | None

    async def until_done(self) -> None:
        """Raises TidemillError when nothing has happened for a minute."""
        run, heard, looked, is_settled = self.run, time.monotonic(), 0.0, False
        while run.waiting:
            records = await self.reader.getmany(timeout_ms=100)
            before = len(run.waiting)
            for record in (record for found in records.values() for record in found):
                self._take(record)
            if len(run.waiting) < before:
                heard = time.monotonic()
                run.progress("done", run.answered + run.refused)
            if not records and is_settled:
                return  # the rest was answered before, which makes no second record
            if not records and time.monotonic() - looked > LOOK_EVERY_S:
                is_settled, looked = await self._is_settled(), time.monotonic()
            if time.monotonic() - heard > STALLED_S:
                left = sum(map(len, run.waiting.values()))
                raise TidemillError(
                    f"{left} of {run.sent} requests wait, and nothing has happened for {STALLED_S:.0f} s: is there a "
                    f"release? Their answers will be among the predictions of {run.pipeline}"
                )

    def _take(self, record: Any) -> None:  # noqa: ANN401 - aiokafka ships no types
        run = self.run
        try:
            envelope = read_envelope(record.headers, record.value)
        except EnvelopeError:
            return
        if envelope.type == Prediction.TYPE and (names := run.waiting.pop(envelope.id, None)) is not None:
            run.answered += len(names)
            if self.sink is not None:
                answer = json.loads(envelope.data)
                for name in names.values():
                    self.sink({"id": name, **answer})
        elif envelope.type == PredictionRequested.TYPE and envelope.source == run.source:
            self._refuse(envelope.id, dict(record.headers).get("tm_dlq_error", b"").decode("utf-8", "replace"), record)

    def _refuse(self, event_id: str, error: str, record: Any) -> None:  # noqa: ANN401 - see above
        run, key = self.run, (record.key or b"").decode("utf-8", "replace")
        identity = str(prediction_id(run.pipeline, key))
        asked = run.waiting.get(identity)
        if asked is None:
            run.answered -= 1  # another of the same id was answered, and this one counted with it
            name = event_id
        else:
            name = asked.pop(event_id, event_id)
            if not asked:
                del run.waiting[identity]
        run.refused += 1
        if len(run.refusals) < MOST_REFUSALS:
            run.refusals.append(Refusal(id=name, error=error))

    async def _is_settled(self) -> bool:
        """Whether serving has done with all of it, and has nothing more to ship."""
        places = self.client.transport.endpoints
        admin = AIOKafkaAdminClient(bootstrap_servers=places.bootstrap())
        await admin.start()
        try:
            group = request_group(self.run.pipeline, prefix=places.prefix)
            done = await admin.list_consumer_group_offsets(group)
        finally:
            await close_client(_Closable(admin))
        offsets = {tp.partition: found.offset for tp, found in done.items() if tp.topic == self.run.topic}
        if any(offsets.get(partition, 0) <= last for partition, last in self.run.last.items()):
            return False
        log = (await self.client.run(calls.status("serving")))["spool"]
        return bool(log["position"] >= log["records"])


@dataclass(frozen=True, slots=True)
class _Closable:
    """An admin client as `close_client` takes it."""

    admin: AIOKafkaAdminClient

    async def stop(self) -> None:
        await self.admin.close()


@asynccontextmanager
async def _reader(bootstrap: str, topics: list[str]) -> "AsyncIterator[SteadyConsumer]":
    """Reads topics from their ends as of now."""
    counts = await partitions_of(bootstrap, topics, timeout_s=FOUND_S)
    places = [TopicPartition(name, partition) for name in topics for partition in range(counts[name])]
    consumer = SteadyConsumer(
        bootstrap_servers=bootstrap, isolation_level="read_committed", enable_auto_commit=False,
        auto_offset_reset="earliest",
    )  # fmt: skip
    await consumer.start()
    try:
        consumer.assign(places)
        for place, end in (await consumer.end_offsets(places)).items():
            consumer.seek(place, end)
        yield consumer
    finally:
        await close_client(consumer)
