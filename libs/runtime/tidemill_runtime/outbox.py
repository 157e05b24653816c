"""The control plane's way out: events are rows of the transaction that caused them, and a relay publishes the rows.

The relay publishes in Kafka transactions, so a predecessor that still lives is fenced before its successor writes. A
crash between the two commits leaves rows that are published already: a new relay reads what its predecessor
wrote behind the stored position, and drops those rows. So every event is in its topic exactly once, in row order.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tidemill_contracts.envelope import Envelope
from tidemill_runtime.backoff import Backoff, Rarely
from tidemill_runtime.errors import Later
from tidemill_runtime.health import Health
from tidemill_runtime.inbox import first_time
from tidemill_runtime.kafka import close_client, open_consumer, open_producer, partitions_of, queue, transaction
from tidemill_runtime.postgres import Connection, Pool, sql
from tidemill_runtime.settings import ServiceSettings

__all__ = ["Relay", "enqueue", "first_time"]

BATCH = 200
POLL_S = 1.0
FROZEN_S = 20
"""Seconds after which the server takes the lock from a relay that does not even poll."""
_log = logging.getLogger(__name__)

_ENQUEUE = """INSERT INTO {schema}.outbox (event_id, topic, key, value, header_names, header_values)
    VALUES ($1, $2, $3, $4, $5, $6)"""
_CLAIM = "SELECT * FROM {schema}.outbox ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED"
_DELETE = "DELETE FROM {schema}.outbox WHERE id = ANY($1::bigint[])"
_PUBLISHED = "DELETE FROM {schema}.outbox WHERE topic = $1 AND event_id = ANY($2::text[])"
_TOPICS = "SELECT DISTINCT topic FROM {schema}.outbox ORDER BY topic"
_POSITIONS = "SELECT partition, next FROM {schema}.relay_positions WHERE topic = $1"
_MOVED = """INSERT INTO {schema}.relay_positions AS known (topic, partition, next) VALUES ($1, $2, $3)
    ON CONFLICT (topic, partition) DO UPDATE SET next = greatest(known.next, excluded.next)"""


async def enqueue(conn: Connection, schema: str, topic: str, key: bytes | None, envelope: Envelope) -> None:
    """Add an event to the caller's transaction; it is published in the order of these calls after the commit.

    Two transactions that write events of one key must lock something in common first (the row they decide about), or
    the order of their rows says nothing.
    """
    headers = envelope.headers()
    names, values = [name for name, _ in headers], [value for _, value in headers]
    await conn.execute(sql(schema, _ENQUEUE), envelope.id, topic, key, envelope.data, names, values)
    await conn.execute(
        "SELECT pg_notify($1, '')", _channel(schema)
    )  # repeats within a transaction are one notification


class Relay:
    """Publishes a schema's outbox; of several replicas one works at a time, the others wait for it to go."""

    def __init__(self, settings: ServiceSettings, pool: Pool, schema: str, *, health: Health | None = None) -> None:
        self._settings, self._pool, self._schema, self._health = settings, pool, schema, health
        self._hint = asyncio.Event()
        self._speak = Rarely()

    async def run(self) -> None:
        """Publish until cancelled; whatever fails, a new session starts after a back-off."""
        backoff = Backoff()
        while True:
            try:
                await self._session(backoff)
            except Exception as error:  # noqa: BLE001 - whatever broke the session, the answer is a new one
                self._state(f"{type(error).__name__}: {error}")
                if self._speak():
                    _log.warning("the outbox relay of %s failed: %r; starting again", self._schema, error)
                await backoff.wait()

    def _state(self, trouble: str = "") -> None:
        if self._health is not None:
            self._health.set("outbox", ok=not trouble, reason=trouble[:500])

    async def _session(self, backoff: Backoff) -> None:
        async with self._pool.acquire() as lock, self._alone(lock):
            producer = await open_producer(
                self._settings, transactional_id=f"{self._settings.prefix}-outbox-{self._schema}", linger_ms=0
            )
            try:
                await self._reconcile()
                self._state()
                while True:
                    self._hint.clear()
                    await lock.execute("SELECT 1")  # a lost connection is a lost lock: raises, and the session ends
                    published = await self._publish(producer)
                    backoff.reset()
                    if published < BATCH:
                        await self._wait()
            finally:
                await close_client(producer, timeout_s=1.0)

    @asynccontextmanager
    async def _alone(self, conn: Connection) -> AsyncIterator[None]:
        """Hold the schema's relay lock and listen for hints on the same connection."""
        backoff = Backoff(0.1, 1.0)
        while not await conn.fetchval("SELECT pg_try_advisory_lock(hashtext($1))", f"tidemill.relay.{self._schema}"):
            await backoff.wait()
        await conn.execute(f"SET idle_session_timeout = '{FROZEN_S}s'")
        await conn.add_listener(_channel(self._schema), self._notified)
        try:
            yield
        finally:
            with suppress(asyncpg.InterfaceError, asyncpg.PostgresError, OSError):  # a lost connection holds no lock
                await conn.remove_listener(_channel(self._schema), self._notified)
                await conn.execute("SELECT pg_advisory_unlock(hashtext($1))", f"tidemill.relay.{self._schema}")

    def _notified(self, *_: object) -> None:
        self._hint.set()

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._hint.wait()

    async def _publish(self, producer: AIOKafkaProducer) -> int:
        async with self._pool.acquire() as conn, conn.transaction():
            rows = await conn.fetch(sql(self._schema, _CLAIM), BATCH)
            if rows:
                sent = await _send(producer, rows)
                await conn.execute(sql(self._schema, _DELETE), [row["id"] for row in rows])
                await self._moved(conn, sent)
        return len(rows)

    async def _moved(self, conn: Connection, positions: dict[TopicPartition, int]) -> None:
        moves = [(tp.topic, tp.partition, after) for tp, after in sorted(positions.items())]
        await conn.executemany(sql(self._schema, _MOVED), moves)

    async def _reconcile(self) -> None:
        """Drop rows that a predecessor published without living to delete them. It is fenced by now."""
        async with self._pool.acquire() as conn:
            topics = [row["topic"] for row in await conn.fetch(sql(self._schema, _TOPICS))]
            for topic in topics:
                rows = await conn.fetch(sql(self._schema, _POSITIONS), topic)
                ids, ends = await self._written(topic, {row["partition"]: row["next"] for row in rows})
                async with conn.transaction():
                    await conn.execute(sql(self._schema, _PUBLISHED), topic, ids)
                    await self._moved(conn, ends)

    async def _written(self, topic: str, known: dict[int, int]) -> tuple[list[str], dict[TopicPartition, int]]:
        """Event ids in the topic behind the known positions, and where it ends now."""
        counts = await partitions_of(self._settings.kafka, [topic])
        tps = [TopicPartition(topic, partition) for partition in range(counts[topic])]
        consumer = await open_consumer(self._settings)
        try:
            consumer.assign(tps)
            async with asyncio.timeout(60.0):
                ends = await consumer.end_offsets(tps)
                for tp in tps:
                    consumer.seek(tp, known.get(tp.partition, 0))
                return await _ids_until(consumer, ends), ends
        finally:
            await close_client(consumer, timeout_s=1.0)


async def _ids_until(consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> list[str]:
    ids: list[str] = []
    while any([await consumer.position(tp) < end for tp, end in ends.items()]):
        for records in (await consumer.getmany(timeout_ms=100)).values():
            ids += [value.decode() for record in records for name, value in record.headers if name == "ce_id"]
    return ids


async def _send(producer: AIOKafkaProducer, rows: Sequence[asyncpg.Record]) -> dict[TopicPartition, int]:
    """Publish the rows in one Kafka transaction; returns the offset after the last of them, by partition."""
    sent = []
    async with transaction(producer):
        for row in rows:
            headers = list(zip(row["header_names"], row["header_values"], strict=True))
            sent.append(await queue(producer, row["topic"], key=row["key"], value=row["value"], headers=headers))
    after: dict[TopicPartition, int] = {}
    for future in sent:
        try:
            meta = future.result()
        except Exception as error:
            raise Later(f"an event was not published: {error!r}") from error
        tp = TopicPartition(meta.topic, meta.partition)
        after[tp] = max(after.get(tp, 0), meta.offset + 1)
    return after


def _channel(schema: str) -> str:
    return f"tidemill_outbox_{schema}"
