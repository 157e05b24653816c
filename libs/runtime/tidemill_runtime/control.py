"""The control plane's way in: FastStream subscribers that decide in one Postgres transaction per event.

At least once from Kafka, once in effect by the inbox; `Later` and everything unexpected holds the partition and tries
again, `Never` and what cannot be read goes to the dead letters. FastStream's default (ACK_FIRST) loses events: refused.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from aiokafka import AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaMessage, KafkaRouter
from pydantic import ValidationError

from tidemill_contracts.envelope import Envelope, EnvelopeError, read_envelope
from tidemill_contracts.events import EVENTS, Event, decode
from tidemill_runtime import telemetry
from tidemill_runtime.backoff import Backoff, Rarely
from tidemill_runtime.consumer import SteadyConsumer
from tidemill_runtime.dlq import dead_letter
from tidemill_runtime.errors import Configuration, Later, Never
from tidemill_runtime.health import Health
from tidemill_runtime.inbox import first_time
from tidemill_runtime.kafka import close_client, open_producer, partitions_of
from tidemill_runtime.outbox import enqueue
from tidemill_runtime.postgres import Connection, Pool
from tidemill_runtime.settings import ServiceSettings

ACK_EVERY_S = 0.3
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unit:
    """One transaction around one event: state, inbox and outbox commit together or not at all."""

    conn: Connection
    schema: str
    envelope: Envelope

    async def enqueue(self, topic: str, key: bytes | None, envelope: Envelope) -> None:
        """Publish an event with the commit of this unit."""
        await enqueue(self.conn, self.schema, topic, key, envelope)


Handler = Callable[[Any, Unit], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Binding:
    """What subscribers work with while a session runs."""

    pool: Pool
    schema: str
    producer: AIOKafkaProducer
    health: Health
    handled: dict[TopicPartition, tuple[Any, int]] = field(default_factory=dict)
    """Partition to its consumer and the offset after the last record that was brought to its end."""


@dataclass(frozen=True, slots=True)
class _Subscription:
    topic: str
    group: str
    handler: Handler
    wanted: frozenset[str] | None


class ControlRouter:
    """Subscriptions of a service; `run_control` makes FastStream subscribers of them that acknowledge by hand."""

    def __init__(self) -> None:
        self.subscriptions: list[_Subscription] = []

    def build(self, settings: ServiceSettings, binding: _Binding) -> KafkaRouter:
        """A FastStream router for one session."""
        router = KafkaRouter(ack_policy=AckPolicy.MANUAL, parser=_parse, decoder=_decode)
        for subscription in self.subscriptions:
            _subscribe(router, settings, subscription, binding)
        return router


def control_router() -> ControlRouter:
    """An empty router for `on` and `run_control`."""
    return ControlRouter()


def on(router: ControlRouter, topic: str, group: str, handler: Handler, *, events: Sequence[type[Event]] = ()) -> None:
    """Call `handler(event, unit)` once in effect for every event of the topic.

    Only the types in `events` are handed over, others are passed by; when empty, all are, and an unknown type is
    dead-lettered. The handler's statements run on `unit.conn`, in the transaction that also remembers the event.
    """
    wanted = frozenset(event.TYPE for event in events) or None
    router.subscriptions.append(_Subscription(topic, group, handler, wanted))


def _subscribe(router: KafkaRouter, settings: ServiceSettings, subscription: _Subscription, binding: _Binding) -> None:
    subscriber = router.subscriber(
        subscription.topic, group_id=subscription.group,
        group_instance_id=f"{settings.client_id}-{subscription.topic}",  # a group may read several topics
        auto_offset_reset="earliest", isolation_level="read_committed", session_timeout_ms=settings.session_timeout_ms,
        heartbeat_interval_ms=500, rebalance_timeout_ms=60_000, ack_policy=AckPolicy.MANUAL,
        partition_assignment_strategy=(RangePartitionAssignor,), no_reply=True,
    )  # fmt: skip
    taker = _Taker(binding, subscription)

    async def take(message: KafkaMessage) -> None:
        record: ConsumerRecord = message.raw_message
        await taker.take(record)
        binding.handled[TopicPartition(record.topic, record.partition)] = message.consumer, record.offset + 1

    subscriber(take)


async def _parse(record: ConsumerRecord, original: Callable[[ConsumerRecord], Awaitable[Any]]) -> Any:  # noqa: ANN401
    """Keep FastStream from reading the headers: it drops a record whose headers are not text, without a trace."""
    message = await original(replace(record, headers=()))
    message.raw_message = record
    return message


async def _decode(message: KafkaMessage) -> bytes:
    """Leave the body alone, for the same reason."""
    return message.body


class _Taker:
    """Brings one record to its end: handled, known, passed by or buried. Holds it as long as that cannot be done."""

    def __init__(self, binding: _Binding, subscription: _Subscription) -> None:
        self._binding, self._group = binding, subscription.group
        self._handler, self._wanted = subscription.handler, subscription.wanted

    async def take(self, record: ConsumerRecord) -> None:
        backoff, speak, attempts = Backoff(), Rarely(), 0
        name = f"{self._group}/{record.topic}/{record.partition}"
        while True:
            attempts += 1
            try:
                await self._once(record, attempts)
            except Exception as error:  # noqa: BLE001 - what a handler did not expect is `Later`
                self._binding.health.set(name, ok=False, reason=f"{type(error).__name__}: {error}"[:500])
                if speak():
                    _log.warning("%s: offset %s is tried again", name, record.offset, exc_info=error)
                await backoff.wait()
            else:
                self._binding.health.set(name, ok=True)
                return

    async def _once(self, record: ConsumerRecord, attempts: int) -> None:
        try:
            envelope = read_envelope(record.headers, record.value)
            if self._wanted is not None and envelope.type not in self._wanted:
                return
            event = decode(envelope)
        except (EnvelopeError, KeyError, ValidationError) as error:
            await self._bury(record, "unreadable", error, attempts)
            return
        try:
            await self._handle(record, envelope, event)
        except Never as error:
            await self._bury(record, "refused", error, attempts)

    async def _handle(self, record: ConsumerRecord, envelope: Envelope, event: Event) -> None:
        contexts = [envelope.traceparent] if envelope.traceparent else []
        with telemetry.processing(record.topic, self._group, contexts):
            async with self._binding.pool.acquire() as conn, conn.transaction():
                if await first_time(conn, self._binding.schema, self._group, envelope.id):
                    await self._handler(event, Unit(conn, self._binding.schema, envelope))

    async def _bury(self, record: ConsumerRecord, reason: str, error: Exception, attempts: int) -> None:
        _log.warning("%s/%s/%s goes to the dead letters: %s", record.topic, record.partition, record.offset, reason)
        known = next((value.decode("utf-8", "replace") for name, value in record.headers if name == "ce_type"), None)
        topic, key, value, headers = dead_letter(
            record, group=self._group, reason=reason, error=f"{type(error).__name__}: {error}", attempts=attempts,
            schema_id=known if known in EVENTS else None,
        )  # fmt: skip
        async with asyncio.timeout(10.0):
            await self._binding.producer.send_and_wait(topic, value, key=key or b"", headers=headers)


def kafka_broker(settings: ServiceSettings, *routers: KafkaRouter, logger: Any = None) -> KafkaBroker:  # noqa: ANN401
    """A broker of the routers' subscribers; raises Configuration when one of them would acknowledge before its work.

    FastStream does not hand a policy given to the broker down to the subscribers of a router, so each is looked at.
    """
    broker = KafkaBroker(
        settings.kafka.split(","), client_id=settings.client_id, consumer_only=True, allow_auto_create_topics=False,
        logger=logger, graceful_timeout=5.0, routers=routers,
    )  # fmt: skip
    for subscriber in broker.subscribers:
        if subscriber.ack_policy is AckPolicy.ACK_FIRST:
            names = ", ".join(getattr(subscriber, "topic_names", []))
            raise Configuration(f"the subscriber of {names} acknowledges before its work: give it AckPolicy.MANUAL")
    return broker


async def run_control(
    router: ControlRouter, settings: ServiceSettings, pool: Pool, schema: str, health: Health
) -> None:
    """Run the router's subscriptions until cancelled; a session that fails is replaced after a back-off.

    `schema` holds the inbox and the outbox of the units.
    """
    backoff, speak = Backoff(), Rarely()
    while True:
        try:
            await _session(router, settings, pool, schema, health)
        except Exception as error:  # noqa: BLE001 - whatever broke the session, the answer is a new one
            health.set("control", ok=False, reason=f"{type(error).__name__}: {error}"[:500])
            if speak():
                _log.warning("the control subscribers failed: %r; starting again", error)
            await backoff.wait()


async def _session(router: ControlRouter, settings: ServiceSettings, pool: Pool, schema: str, health: Health) -> None:
    await partitions_of(settings.kafka, [subscription.topic for subscription in router.subscriptions])
    producer = await open_producer(settings, linger_ms=0)
    ears, binding = _Ears(), _Binding(pool, schema, producer, health)
    broker = kafka_broker(settings, router.build(settings, binding), logger=ears)
    acknowledging = asyncio.ensure_future(_acknowledge(binding))
    try:
        await broker.connect()
        brokers = broker.config.broker_config
        brokers.builder = partial(SteadyConsumer, **brokers.builder.keywords)  # type: ignore[attr-defined]  # a partial
        await broker.start()
        health.set("control", ok=True)
        await ears.heard.wait()
        raise Later(ears.words)
    finally:
        acknowledging.cancel()
        await close_client(broker, timeout_s=2.0)
        await close_client(producer, timeout_s=1.0)


async def _acknowledge(binding: _Binding) -> None:
    """Commit what was handled, a few times a second: an event that is handed over again is known to the inbox.

    FastStream's own `ack` commits the consumer's position, which may be behind a record that is not handled yet.
    """
    done: dict[TopicPartition, int] = {}
    while True:
        await asyncio.sleep(ACK_EVERY_S)
        for tp, (consumer, offset) in list(binding.handled.items()):
            if done.get(tp) != offset:
                with suppress(KafkaError):
                    await consumer.commit({tp: offset})
                    done[tp] = offset


class _Ears:
    """FastStream's logger: it says here, and only here, that a consumer failed; it then goes on with the broken one."""

    def __init__(self) -> None:
        self.heard = asyncio.Event()
        self.words = ""

    def log(self, level: int, msg: Any, /, *args: Any, exc_info: Any = None, extra: Any = None) -> None:  # noqa: ANN401, ARG002 - FastStream's protocol
        if level >= logging.ERROR:
            _log.log(level, "faststream: %s", msg, *args, exc_info=exc_info)
            self.words = f"{msg}: {exc_info!r}" if exc_info else str(msg)
            self.heard.set()
