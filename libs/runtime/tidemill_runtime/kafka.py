"""Kafka clients with safe defaults, topics made explicitly, and every wait with a deadline.

Measured with aiokafka 0.14 on Kafka 4.3: see the comments beside each setting for what it prevents.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiokafka.producer.sender
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, ProducerFenced

from tidemill_contracts.topics import TopicSpec
from tidemill_runtime.assignor import NumberAssignor
from tidemill_runtime.backoff import Backoff
from tidemill_runtime.consumer import ColumnsBy, SteadyConsumer
from tidemill_runtime.errors import Fenced, Later, Never
from tidemill_runtime.settings import ServiceSettings

MAX_REQUEST_BYTES = 1_000_000
"""Below the topics' max.message.bytes (1 MiB): one oversize record makes every later idempotent send fail for ever."""

START_DEADLINE_S = 30.0
TOPIC_EXISTS = 36
_SEGMENT_BYTES = 64 * 1024 * 1024  # compaction and retention work on closed segments only
_log = logging.getLogger(__name__)
_closing: set[asyncio.Task[None]] = set()

# A transaction that follows its predecessor at once is asked to wait while the broker writes the markers, about 2 ms;
# aiokafka sleeps 20 then. With 2, back-to-back transactions of one record took 12 ms instead of 30.
aiokafka.producer.sender.BACKOFF_OVERRIDE = 0.002

__all__ = [
    "MAX_REQUEST_BYTES", "Fenced", "Later", "Never", "close_client", "delete_topics", "end_offsets", "ensure_topics",
    "open_consumer", "open_producer", "partitions_of", "queue", "transaction", "wait_for_kafka",
]  # fmt: skip


async def open_producer(  # noqa: PLR0913 - keyword-only, each a property of the producer
    settings: ServiceSettings,
    *,
    transactional_id: str | None = None,
    linger_ms: int = 5,
    deadline_s: float = START_DEADLINE_S,
    compression: str | None = "zstd",
    transaction_timeout_ms: int = 30_000,
) -> AIOKafkaProducer:
    """A started producer: acks from all replicas, idempotent.

    With a `transactional_id` every earlier producer of that id is fenced and its open transaction aborted before this
    returns; the broker aborts one that is open for longer than `transaction_timeout_ms`. Raises Later when the broker
    does not answer within `deadline_s` seconds.
    """

    def build() -> AIOKafkaProducer:
        return AIOKafkaProducer(
            bootstrap_servers=settings.kafka, client_id=settings.client_id, acks="all", enable_idempotence=True,
            linger_ms=linger_ms, max_batch_size=262_144, compression_type=compression,
            max_request_size=MAX_REQUEST_BYTES, transactional_id=transactional_id,
            transaction_timeout_ms=transaction_timeout_ms,
        )  # fmt: skip

    return await _start(build, deadline_s)


async def open_consumer(  # noqa: PLR0913 - keyword-only, each a property of the consumer
    settings: ServiceSettings,
    *,
    group: str | None = None,
    isolation: str = "read_committed",
    columns: ColumnsBy | None = None,
    patient: bool = False,
    deadline_s: float = START_DEADLINE_S,
) -> AIOKafkaConsumer:
    """A started consumer without subscription. Offsets are never committed by itself.

    In a `group` it is a static member, so that one which crashes and comes back within the session time-out disturbs
    nobody; partition p of every topic goes to the same member. A fetch returns as soon as there is data, that of a
    `patient` one a quarter of a second later. With `columns` polls give RecordColumns, made by that loop.
    """
    member: dict[str, Any] = {}
    if group is not None:
        member = {
            "group_id": group, "group_instance_id": settings.client_id, "heartbeat_interval_ms": 500,
            "session_timeout_ms": settings.session_timeout_ms, "rebalance_timeout_ms": 60_000,
            "max_poll_interval_ms": 300_000, "partition_assignment_strategy": (NumberAssignor,),
        }  # fmt: skip

    def build() -> AIOKafkaConsumer:
        return SteadyConsumer(
            bootstrap_servers=settings.kafka, client_id=settings.client_id, enable_auto_commit=False,
            auto_offset_reset="earliest", isolation_level=isolation, columns=columns, patient=patient, **member,
        )  # fmt: skip

    return await _start(build, deadline_s)


async def _start(build: Any, deadline_s: float) -> Any:  # noqa: ANN401 - aiokafka ships no types
    backoff = Backoff()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + deadline_s
    while True:
        client = build()
        try:
            async with asyncio.timeout_at(deadline):
                await client.start()
        except (KafkaError, OSError) as error:
            await close_client(client)
            if loop.time() >= deadline:
                raise Later(f"Kafka did not answer within {deadline_s:g} s: {error!r}") from error
            await backoff.wait()
        except BaseException:
            await close_client(client, timeout_s=0.2)
            raise
        else:
            return client


async def close_client(client: Any, *, timeout_s: float = 3.0) -> None:  # noqa: ANN401 - aiokafka ships no types
    """Stop a producer or consumer, waiting at most `timeout_s` seconds; what still hangs goes on in the background.

    With the broker down `stop` waits for it; a transactional producer replaced meanwhile is fenced by its successor.
    """
    task = asyncio.ensure_future(_stop(client))
    _closing.add(task)
    task.add_done_callback(_closing.discard)
    await asyncio.wait({task}, timeout=timeout_s)


async def _stop(client: Any) -> None:  # noqa: ANN401 - aiokafka ships no types
    try:
        await client.stop()
    except Exception as error:  # noqa: BLE001 - a client that is thrown away may fail in any way, also by assertion
        _log.debug("closing a Kafka client failed: %r", error)


@asynccontextmanager
async def transaction(producer: AIOKafkaProducer, *, timeout_s: float = 15.0) -> AsyncIterator[None]:
    """One Kafka transaction around the body, committed within `timeout_s` seconds of its end.

    Raises Fenced when a successor has opened the same transactional id, and Later for every other failure of Kafka.
    After either throw the producer away: the outcome may be unknown until the next one of its id has started.
    """
    try:
        await producer.begin_transaction()
        yield
        async with asyncio.timeout(timeout_s):
            await producer.commit_transaction()
    except ProducerFenced as error:
        raise Fenced("a successor has opened this transactional id") from error
    except (KafkaError, AssertionError, TimeoutError) as error:
        await _abort(producer)
        raise Later(f"the Kafka transaction failed: {error!r}") from error
    except BaseException:
        await _abort(producer)
        raise


async def queue(producer: AIOKafkaProducer, topic: str, **record: Any) -> asyncio.Future[Any]:  # noqa: ANN401 - aiokafka's
    """Hand a record (value, key, partition, headers, timestamp_ms) to a transaction; its commit tells what became.

    Returns when the record is in the send buffer, waiting while the buffer of its partition is full. The future holds
    aiokafka's RecordMetadata once sent, and need not be awaited.
    """
    sent: asyncio.Future[Any] = await producer.send(topic, **record)
    sent.add_done_callback(_retrieved)
    return sent


def _retrieved(sent: asyncio.Future[Any]) -> None:
    if not sent.cancelled():
        sent.exception()  # else the loop logs it as never looked at


async def _abort(producer: AIOKafkaProducer) -> None:
    with suppress(KafkaError, AssertionError, TimeoutError):
        async with asyncio.timeout(2.0):
            await producer.abort_transaction()


async def wait_for_kafka(bootstrap: str, timeout_s: float) -> None:
    """Return when a broker answers a metadata request (an open port is not readiness); raises Later after that time."""
    await close_client(await _admin(bootstrap, timeout_s))


async def ensure_topics(bootstrap: str, specs: Sequence[TopicSpec], *, timeout_s: float = START_DEADLINE_S) -> None:
    """Create the topics that are missing and wait until every partition has a leader. May be repeated.

    Replication is the broker's default. Raises Never when a topic exists with another number of partitions: keys would
    move between partitions, so that is a new topic; raises Later after `timeout_s` seconds.
    """
    admin = await _admin(bootstrap, timeout_s)
    wanted = {spec.name: spec for spec in specs}
    backoff = Backoff(0.02, 0.5)
    try:
        async with asyncio.timeout(timeout_s):
            while missing := await _missing(admin, wanted):
                await _create(admin, [wanted[name] for name in missing])
                await backoff.wait()
    except (KafkaError, TimeoutError) as error:
        raise Later(f"topics could not be created: {error!r}") from error
    finally:
        await close_client(admin)


async def delete_topics(bootstrap: str, names: Sequence[str], *, timeout_s: float = START_DEADLINE_S) -> None:
    """Delete those that exist, with all that is in them; raises Later after `timeout_s` seconds."""
    admin = await _admin(bootstrap, timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            existing = set(await admin.list_topics())
            if doomed := sorted(existing.intersection(names)):
                await admin.delete_topics(doomed)
    except (KafkaError, TimeoutError) as error:
        raise Later(f"topics could not be deleted: {error!r}") from error
    finally:
        await close_client(admin)


async def _missing(admin: AIOKafkaAdminClient, wanted: dict[str, TopicSpec]) -> list[str]:
    ready = set()
    for described in await admin.describe_topics(sorted(wanted)):
        partitions = described["partitions"]
        if described["error_code"] or not partitions:
            continue
        spec = wanted[described["topic"]]
        if len(partitions) != spec.partitions:
            raise Never(f"{spec.name} has {len(partitions)} partitions, {spec.partitions} were asked for")
        if all(partition["leader"] >= 0 for partition in partitions):
            ready.add(spec.name)
    return [name for name in wanted if name not in ready]


async def _create(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec]) -> None:
    # An empty replica assignment with -1 asks for the broker's default replication.
    topics = [NewTopic(spec.name, spec.partitions, -1, {}, _topic_config(spec)) for spec in specs]
    response = await admin.create_topics(topics)
    for name, code, *rest in response.topic_errors:
        if code not in (0, TOPIC_EXISTS):
            _log.warning("topic %s was not created: code %s %s", name, code, rest)


def _topic_config(spec: TopicSpec) -> dict[str, str]:
    config = {"retention.ms": str(spec.retention_ms), "segment.bytes": str(_SEGMENT_BYTES)}
    if spec.compacted:
        config |= {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.5", "segment.ms": "600000"}
        config["min.compaction.lag.ms"] = str(spec.compaction_lag_ms)
    if spec.compression is not None:
        config["compression.type"] = spec.compression
    return config


async def _admin(bootstrap: str, timeout_s: float) -> AIOKafkaAdminClient:
    class Admin(AIOKafkaAdminClient):  # type: ignore[misc]  # aiokafka ships no types
        stop = AIOKafkaAdminClient.close

    return await _start(lambda: Admin(bootstrap_servers=bootstrap), timeout_s)


async def partitions_of(
    bootstrap: str, topics: Sequence[str], *, timeout_s: float = START_DEADLINE_S
) -> dict[str, int]:
    """Topic to its number of partitions, once all of them exist; raises Later after `timeout_s` seconds."""
    admin = await _admin(bootstrap, timeout_s)
    backoff = Backoff(0.02, 0.5)
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                described = await admin.describe_topics(sorted(set(topics)))
                found = {d["topic"]: len(d["partitions"]) for d in described if not d["error_code"]}
                if all(found.get(topic) for topic in topics):
                    return found
                await backoff.wait()
    except (KafkaError, TimeoutError) as error:
        raise Later(f"partitions of {', '.join(topics)}: {error!r}") from error
    finally:
        await close_client(admin)


async def end_offsets(bootstrap: str, topic: str, isolation: str = "read_committed") -> dict[int, int]:
    """Partition to the offset after its last readable record; raises Later when Kafka or the topic is not there."""
    count = (await partitions_of(bootstrap, [topic]))[topic]
    consumer = await _start(
        lambda: AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, isolation_level=isolation),
        START_DEADLINE_S,
    )
    try:
        async with asyncio.timeout(START_DEADLINE_S):
            ends = await consumer.end_offsets([TopicPartition(topic, p) for p in range(count)])
    except (KafkaError, TimeoutError) as error:
        raise Later(f"end offsets of {topic}: {error!r}") from error
    finally:
        await close_client(consumer)
    return {tp.partition: offset for tp, offset in ends.items()}
