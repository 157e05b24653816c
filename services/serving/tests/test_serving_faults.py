"""Nothing answered is lost or logged twice: the service is killed, the broker goes and comes, everything is away."""

import asyncio
import json
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from serving_cases import pipeline
from serving_load import Load, begin, check_log
from serving_stack import Stack, open_stack, until

from tidemill.stack import LocalKafka
from tidemill_contracts.events import Prediction
from tidemill_contracts.topics import topic
from tidemill_runtime.kafka import close_client, open_producer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]
SPEC = pipeline()
SEED = 7


@pytest.fixture
async def stack(kafka_bootstrap: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with open_stack(kafka_bootstrap, f"t-{topic_prefix[-8:]}", tmp_path, SPEC) as opened:
        yield opened


async def test_a_killed_service_loses_and_repeats_nothing(stack: Stack) -> None:
    await begin(stack)
    chance = random.Random(SEED)
    load = Load(stack)
    load.start(6)
    for _ in range(3):
        await load.until_more(chance.randrange(20, 120))
        assert stack.process.stop(signal.SIGKILL) == -signal.SIGKILL
        stack.process.start()
    await stack.until_status(ready=True, epoch=1)
    await load.stop()
    assert load.failures
    await check_log(stack, load.answers)
    assert stack.process.stop() == 0


async def test_repeats_after_a_restart_get_the_recorded_answer(stack: Stack) -> None:
    await begin(stack)
    load = Load(stack)
    load.answers["a"] = await load.ask("a")
    stack.process.stop(signal.SIGKILL)
    stack.process.start()
    await stack.vector("by-carrier", "AA", [99.0, 4.0], revision=8)
    await stack.until_status(ready=True, epoch=1)
    assert await load.ask("a") == load.answers["a"]
    load.answers["b"] = await load.ask("b")
    assert load.answers["b"]["revisions"] == {"by-carrier": 8}
    await check_log(stack, load.answers)


async def test_with_the_broker_away_answers_go_on_and_arrive_later(tmp_path: Path, topic_prefix: str) -> None:
    kafka = LocalKafka(tmp_path / "kafka")
    await asyncio.to_thread(kafka.start)
    try:
        async with open_stack(kafka.bootstrap, "away", tmp_path, SPEC) as stack:
            await begin(stack)
            load = Load(stack)
            load.answers["before"] = await load.ask("before")
            await until((tmp_path / "state" / "replica.snapshot").exists, "a snapshot")
            await asyncio.to_thread(kafka.stop)

            load.answers |= {name: await load.ask(name) for name in map(str, range(50))}
            await until(lambda: _is_degraded(stack), "the outage is noticed")
            load.answers["during"] = await load.ask("during")
            assert load.answers["during"]["degraded"]

            await _restart_without_anything(stack, load)
            await asyncio.to_thread(kafka.start)
            await check_log(stack, load.answers)
            await until(lambda: _is_not_degraded(stack), "the end of the outage")
            load.answers["after"] = await load.ask("after")
            assert not load.answers["after"]["degraded"]
            await check_log(stack, load.answers)
    finally:
        await asyncio.to_thread(kafka.stop)


async def _restart_without_anything(stack: Stack, load: Load) -> None:
    """Kafka, registry and Postgres are away: the disk is enough, for features, model and answers given before."""
    stack.process.stop(signal.SIGKILL)
    stack.process.start()
    await stack.until_status(ready=True, epoch=1)
    answer = await load.ask("offline")
    assert answer["degraded"]
    assert answer["revisions"] == {"by-carrier": 7}
    assert answer["score"] == load.answers["before"]["score"]
    load.answers["offline"] = answer
    assert await load.ask("before") == load.answers["before"]
    assert (await stack.client.get("/readyz")).status_code == 200


async def _is_degraded(stack: Stack) -> bool:
    return bool((await stack.client.get("/v1/status")).json()["degraded"])


async def _is_not_degraded(stack: Stack) -> bool:
    return not await _is_degraded(stack)


async def test_a_lost_shipping_position_repeats_nothing(stack: Stack) -> None:
    """Also where what has landed lies behind a transaction of another who died in it: readers do not see it yet."""
    await begin(stack)
    load = Load(stack)
    producer = await open_producer(stack.settings, transactional_id=f"{stack.prefix}-other")
    await producer.begin_transaction()
    name = topic("predictions", SPEC.name, prefix=stack.prefix)
    for partition in range(SPEC.partitions):
        await producer.send_and_wait(name, b"{}", partition=partition)
    load.answers |= {name: await load.ask(name) for name in map(str, range(20))}
    await stack.until_status(shipped=20)
    state = stack.folder / "state" / "shipped.json"
    await until(lambda: json.loads(state.read_bytes())["position"] > 20, "the position is noted, a moment later")
    stack.process.stop(signal.SIGKILL)
    state.unlink()
    stack.process.start()
    await stack.until_status(ready=True, epoch=1)
    load.answers["new"] = await load.ask("new")
    await stack.until_status(shipped=21)
    assert not [envelope for _, envelope in await stack.logged() if envelope.type == Prediction.TYPE]
    await producer.abort_transaction()
    await close_client(producer)
    await check_log(stack, load.answers)
