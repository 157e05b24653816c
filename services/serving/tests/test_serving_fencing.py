"""A process that stood still answers nothing before it has taken the releases that came meanwhile."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from serving_cases import T0_US, inputs, linear, pipeline, released
from serving_parts import ended
from serving_stack import Stack, open_stack, until
from test_serving_desk import NOW_US, answer, ask, body, desk, loaded, replica

from tidemill_runtime.errors import Later
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.house import House
from tidemill_serving.handlers.batching import Batcher
from tidemill_serving.handlers.fencing import GAP_S, Fence
from tidemill_serving.handlers.pacing import HELD

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(200)]
SPEC = pipeline()


class News:
    """Kafka's releases topic, as it is told."""

    def __init__(self) -> None:
        self.end, self.at, self.settled, self.is_away = 3, 3, True, False

    async def ends(self) -> dict[int, int]:
        if self.is_away:
            raise Later("away")
        return {0: self.end}

    def position(self, partition: int) -> int:
        return self.at + partition

    def is_settled(self) -> bool:
        return self.settled


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def fenced(news: News, house: House) -> tuple[Fence, Clock, "asyncio.Task[None]"]:
    clock = Clock()
    fence = Fence(house, news, unreachable_after_s=0.3, clock=clock)
    task = asyncio.ensure_future(fence.run())
    await asyncio.sleep(0)
    return fence, clock, task


async def test_after_a_gap_it_is_closed_until_everything_that_had_come_is_taken() -> None:
    house, news = House(), News()
    fence, clock, task = await fenced(news, house)
    opened = list[bool]()
    fence.opened = lambda: opened.append(True)
    clock.now += GAP_S / 2
    assert not fence.is_closed()
    news.end, news.settled = 5, False
    clock.now += GAP_S
    assert fence.is_closed()
    await asyncio.sleep(0.05)
    assert fence.is_closed()
    news.at = 5
    await asyncio.sleep(0.05)
    assert fence.is_closed()
    news.settled = True
    await until(lambda: not fence.is_closed(), "open again")
    assert (opened, house.counts.pauses) == ([True], 1)
    await ended(task)


@pytest.mark.parametrize("was_away", [False, True])
async def test_without_kafka_it_opens_after_a_while_and_at_once_where_it_was_away_before(was_away: bool) -> None:
    house, news = House(degraded=was_away), News()
    fence, clock, task = await fenced(news, house)
    news.is_away = True
    clock.now += GAP_S
    assert fence.is_closed()
    await until(lambda: not fence.is_closed(), "open again")
    await ended(task)


async def test_what_comes_meanwhile_is_held_in_bounds_and_then_answered_by_the_newest() -> None:
    house, waits = House(), [True]

    class Log:
        def append(self, entries: object) -> int:
            del entries
            return 0

    batcher = Batcher(house, Log(), appended=lambda: None, swapped=lambda _: None, now_us=lambda: NOW_US)
    batcher.must_wait = lambda: waits[0]
    at = desk(loaded(0.5))
    house.desks[SPEC.name], house.replica = at, replica()
    queries = ask(at, *[{"inputs": inputs()} for _ in range(100)])
    held = [asyncio.ensure_future(batcher.answer(at, queries))]
    await asyncio.sleep(0.02)
    held += [asyncio.ensure_future(batcher.answer(at, queries)) for _ in range(int(HELD) // 100 - 1)]
    await asyncio.sleep(0.02)
    assert not any(task.done() for task in held)
    with pytest.raises(RefusedError):
        await batcher.answer(at, queries)
    at.champion.active = loaded(0.9, epoch=2)
    waits[0] = False
    batcher.resume()
    for task in held:
        assert {body(result)["epoch"] for result in await task} == {2}
    assert body(answer(at, queries[:1]).results[0])["epoch"] == 2


@pytest.fixture
async def stack(kafka_bootstrap: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with open_stack(kafka_bootstrap, f"t-{topic_prefix[-8:]}", tmp_path, SPEC) as opened:
        yield opened


async def test_a_paused_process_never_serves_the_older_release_after_it_resumes(stack: Stack) -> None:
    await stack.watermark(T0_US)
    await stack.release(released(SPEC, 1, stack.artifacts.put(linear(SPEC.feature_names(), bias=0.1))))
    await stack.until_status(ready=True, epoch=1)
    assert (await stack.predict(inputs())).json()["epoch"] == 1
    child = stack.process.child
    assert child is not None
    child.send_signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        await stack.release(released(SPEC, 2, stack.artifacts.put(linear(SPEC.feature_names(), bias=0.2))))
        asked = [asyncio.ensure_future(stack.predict(inputs(flight=f"F-{number}"))) for number in range(20)]
        await until(lambda: time.monotonic() > begun + 2 * GAP_S, "a pause that counts")
        assert not any(task.done() for task in asked)
    finally:
        child.send_signal(signal.SIGCONT)
    answers = await asyncio.gather(*asked)
    assert [(found.status_code, found.json().get("epoch")) for found in answers] == [(200, 2)] * len(asked)
    metrics = (await stack.client.get("/metrics")).text
    assert "tidemill_serving_pauses_total 1.0" in metrics
