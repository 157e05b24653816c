"""Releases reach traffic without a failed request; one that is hostile, late or old changes nothing."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from serving_cases import HOUR_US, T0_US, endless_loop, inputs, linear, not_a_number, pipeline, released
from serving_stack import Stack, open_stack

from tidemill_contracts.events import ModelSwapped

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]
SPEC = pipeline()
SWAPS = 10
RATE = 200


@pytest.fixture
async def stack(kafka_bootstrap: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with open_stack(kafka_bootstrap, f"t-{topic_prefix[-8:]}", tmp_path, SPEC) as opened:
        yield opened


def model(stack: Stack, epoch: int) -> str:
    return stack.artifacts.put(linear(SPEC.feature_names(), bias=epoch / 10))


async def test_ten_swaps_under_load_fail_no_request(stack: Stack) -> None:
    await stack.watermark(T0_US)
    await stack.release(released(SPEC, 1, model(stack, 1)))
    await stack.until_status(ready=True, epoch=1)
    over, epochs, statuses = asyncio.Event(), list[int](), list[int]()

    async def ask() -> None:
        answer = await stack.predict(inputs())
        statuses.append(answer.status_code)
        epochs.append(answer.json().get("epoch", -1))

    async def load() -> None:
        async with asyncio.TaskGroup() as group:
            begun = time.monotonic()
            for number in itertools.count():
                if over.is_set():
                    break
                group.create_task(ask())
                await asyncio.sleep(max(0.0, begun + number / RATE - time.monotonic()))

    task = asyncio.ensure_future(load())
    for epoch in range(2, SWAPS + 2):
        await stack.release(released(SPEC, epoch, model(stack, epoch), shadow=model(stack, 1)))
        await stack.until_status(epoch=epoch)
    over.set()
    await task
    assert set(statuses) == {200}
    assert set(epochs) <= set(range(1, SWAPS + 2))
    status = await stack.until_status(spooled=len(statuses), shipped=len(statuses))
    assert [swap["epoch"] for swap in status["swaps"]] == list(range(1, SWAPS + 2))
    reported = [ModelSwapped.read(envelope.data).epoch for _, envelope in await stack.logged("swaps")]
    assert reported == list(range(1, SWAPS + 2))


async def test_hostile_late_and_old_releases_leave_the_champion(stack: Stack) -> None:
    names = SPEC.feature_names()
    await stack.watermark(T0_US)
    await stack.release(released(SPEC, 2, model(stack, 2)))
    await stack.until_status(ready=True, epoch=2)

    await stack.release(released(SPEC, 3, stack.artifacts.put(not_a_number(len(names)))))
    await stack.release(released(SPEC, 4, stack.artifacts.put(linear(names[:-1]))))
    await stack.release(released(SPEC, 1, model(stack, 1)))
    later = released(SPEC, 5, model(stack, 5), effective_at_us=T0_US + HOUR_US)
    await stack.release(later)
    status = await stack.until_status(staged=[5])
    assert status["epoch"] == 2
    assert set(status["refused"]) == {"3", "4"}
    assert (await stack.predict(inputs())).json()["epoch"] == 2

    await stack.watermark(T0_US + HOUR_US - 1)
    await stack.until_status(watermark_us=T0_US + HOUR_US - 1)
    assert (await stack.predict(inputs())).json()["epoch"] == 2
    await stack.watermark(T0_US + HOUR_US)
    status = await stack.until_status(epoch=5)
    assert status["swaps"][-1] == {"epoch": 5, "at_watermark_us": T0_US + HOUR_US}

    await stack.release(released(SPEC, 6, stack.artifacts.put(endless_loop(len(names)))))
    await stack.release(released(SPEC, 7, model(stack, 7)))
    assert (await stack.predict(inputs())).json()["epoch"] == 5
    await stack.until_status(epoch=7)
