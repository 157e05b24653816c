import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from faststream.kafka import KafkaRouter

from tidemill_contracts.envelope import Envelope
from tidemill_contracts.events import ModelSwapped, Timer, encode
from tidemill_contracts.topics import TopicSpec, dead_letters
from tidemill_runtime.control import ControlRouter, Unit, control_router, kafka_broker, on, run_control
from tidemill_runtime.errors import Configuration, Later, Never
from tidemill_runtime.health import Health
from tidemill_runtime.kafka import ensure_topics
from tidemill_runtime.outbox import Relay
from tidemill_runtime.postgres import Pool
from tidemill_runtime.settings import ServiceSettings
from tidemill_testkit.topics import read_topic, write_topic
from tidemill_testkit.waiting import until

SCHEMA = "owner"
Handle = Callable[[ModelSwapped, Unit], Awaitable[None]]


def swapped(epoch: int, *, id_: str | None = None) -> Envelope:
    event = ModelSwapped(pipeline="p", epoch=epoch, replica="r", loaded_ms=1.0)
    return encode(event, id=id_ or f"e{epoch}", source="test", time_us=epoch)


def record(envelope: Envelope) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    return b"p", envelope.data, envelope.headers()


@asynccontextmanager
async def running(settings: ServiceSettings, pool: Pool, handler: Handle, health: Health) -> AsyncIterator[str]:
    topic = f"{settings.prefix}.swaps"
    await ensure_topics(settings.kafka, [TopicSpec(topic, 1), TopicSpec(dead_letters(topic), 1)])
    router = control_router()
    on(router, topic, f"{settings.prefix}-g", handler, events=[ModelSwapped])
    task = asyncio.ensure_future(run_control(router, settings, pool, SCHEMA, health))
    try:
        yield topic
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_each_event_has_one_effect_however_often_it_arrives(settings: ServiceSettings, pool: Pool) -> None:
    handled: list[int] = []

    async def handle(event: ModelSwapped, unit: Unit) -> None:
        handled.append(event.epoch)
        follow = swapped(100 + event.epoch, id_=f"f{event.epoch}")
        await unit.enqueue(f"{settings.prefix}.out", b"p", follow)

    out = f"{settings.prefix}.out"
    await ensure_topics(settings.kafka, [TopicSpec(out, 1)])
    health = Health()
    relay = asyncio.ensure_future(Relay(settings, pool, SCHEMA, health=health).run())
    async with running(settings, pool, handle, health) as topic:
        await write_topic(settings, topic, [record(swapped(1)), record(swapped(1)), record(swapped(2))])
        await until(lambda: handled == [1, 2], "both events were handled")
        await write_topic(settings, topic, [record(swapped(1)), record(swapped(3))])
        await until(lambda: handled == [1, 2, 3], "the third event was handled")
    async with running(settings, pool, handle, health) as topic:  # a restart changes nothing
        await write_topic(settings, topic, [record(swapped(2)), record(swapped(4))])
        await until(lambda: handled == [1, 2, 3, 4], "the fourth event was handled")

    async def published() -> bool:
        found = (await read_topic(settings, out))[0]
        return [dict(r.headers)["ce_id"] for r in found] == [b"f1", b"f2", b"f3", b"f4"]

    await until(published, "four events were published, in order", every_s=0.1)
    relay.cancel()
    assert health.ready()[0], health.ready()[1]


async def test_one_group_reads_several_topics(settings: ServiceSettings, pool: Pool) -> None:
    topics = [f"{settings.prefix}.{name}" for name in ("a", "b")]
    await ensure_topics(settings.kafka, [TopicSpec(topic, 1) for topic in topics])
    handled: list[int] = []

    async def handle(event: ModelSwapped, _: Unit) -> None:
        handled.append(event.epoch)

    router = control_router()
    for topic in topics:
        on(router, topic, f"{settings.prefix}-g", handle)
    health = Health()
    task = asyncio.ensure_future(run_control(router, settings, pool, SCHEMA, health))
    for epoch in range(1, 7):
        await write_topic(settings, topics[epoch % 2], [record(swapped(epoch))])
        await until(lambda: epoch in handled, "the event was handled")  # noqa: B023 - awaited in the same turn
    assert sorted(handled) == [1, 2, 3, 4, 5, 6]
    assert health.ready()[0]
    task.cancel()
    await asyncio.wait({task})


async def test_later_holds_the_topic_and_never_buries_the_record(settings: ServiceSettings, pool: Pool) -> None:
    attempts: list[int] = []

    async def handle(event: ModelSwapped, unit: Unit) -> None:
        attempts.append(event.epoch)
        await unit.conn.execute("INSERT INTO owner.inbox VALUES ('effect', $1)", str(len(attempts)))
        if event.epoch == 1 and attempts.count(1) < 3:
            raise Later("the other side is away")
        if event.epoch == 2:
            raise Never("no such pipeline")

    async with running(settings, pool, handle, Health()) as topic:
        await write_topic(settings, topic, [record(swapped(epoch)) for epoch in (1, 2, 3)])
        await until(lambda: 3 in attempts, "the third event was handled")
        await until(lambda: pool.fetchval("SELECT count(*) = 4 FROM owner.inbox"), "both effects were committed")
    assert attempts == [1, 1, 1, 2, 3]
    [letter] = (await read_topic(settings, dead_letters(topic)))[0]
    facts = dict(letter.headers)
    assert (facts["tm_dlq_reason"], facts["tm_dlq_offset"], facts["ce_id"]) == (b"refused", b"1", b"e2")
    assert letter.value == swapped(2).data


async def test_garbage_is_buried_with_its_bytes_and_its_neighbours_are_handled(
    settings: ServiceSettings, pool: Pool
) -> None:
    handled: list[int] = []

    async def handle(event: ModelSwapped, _: Unit) -> None:
        handled.append(event.epoch)

    good, stranger = swapped(1), Envelope("x", "com.example.unknown", "s", 0, b"{}")
    bad_body = Envelope("y", ModelSwapped.TYPE, "s", 0, b'{"pipeline": 3}')
    passed = encode(Timer(source="s", time_us=1), id="t", source="s", time_us=1)
    records = [
        (b"k", b"\xff\xfe", []),
        (b"k", good.data, [("ce_id", b"\xff\xff"), ("content-type", b"application/json")]),
        (b"k", b"{not json", good.headers()),
        (None, b"", good.headers()),
        record(bad_body), record(stranger), record(passed), record(swapped(7)),
    ]  # fmt: skip
    async with running(settings, pool, handle, Health()) as topic:
        await write_topic(settings, topic, records)
        await until(lambda: handled == [7], "the good record was handled")
    letters = (await read_topic(settings, dead_letters(topic)))[0]
    assert [dict(letter.headers)["tm_dlq_offset"] for letter in letters] == [b"0", b"1", b"2", b"3", b"4"]
    assert [letter.value for letter in letters] == [value for _, value, _ in records[:5]]


def test_a_subscriber_that_acknowledges_first_is_refused(settings: ServiceSettings) -> None:
    router = KafkaRouter()

    @router.subscriber("careless", group_id="g")
    async def handle(body: bytes) -> None: ...

    with pytest.raises(Configuration, match="careless"):
        kafka_broker(settings, router)


def test_subscribers_of_ours_never_commit_by_themselves(settings: ServiceSettings) -> None:
    router = ControlRouter()

    async def handle(_event: ModelSwapped, _unit: Unit) -> None: ...

    on(router, "t", "g", handle)
    broker = kafka_broker(settings, router.build(settings, None))  # type: ignore[arg-type]
    for subscriber in broker.subscribers:
        assert subscriber._connection_args["enable_auto_commit"] is False  # type: ignore[attr-defined]
