"""Several workers behind one port, and several replicas: the same answers, each logged once, whoever dies."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_cases import inputs, pipeline
from serving_load import Load, begin, check_log
from serving_stack import Stack, open_stack, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]
SPEC = pipeline()


@pytest.fixture
async def stack(kafka_bootstrap: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with open_stack(
        kafka_bootstrap, f"t-{topic_prefix[-8:]}", tmp_path, SPEC, TIDEMILL_SERVING_WORKERS="2"
    ) as opened:
        yield opened


async def workers(stack: Stack) -> dict[int, int]:
    """Pid by worker, of those that are up."""
    try:
        answer = await stack.client.get("/v1/status", headers={"connection": "close"})
    except httpx.TransportError:
        return {}
    return {found["worker"]: found["pid"] for found in answer.json()["workers"] if found["up"]}


async def all_up(stack: Stack, count: int) -> dict[int, int]:
    """Once every worker is up and ready."""
    seen: dict[int, int] = {}

    async def are_up() -> bool:
        seen.clear()
        seen.update(await workers(stack))
        return len(seen) == count and bool((await stack.status()).get("ready"))

    await until(are_up, f"{count} workers are up")
    return seen


async def ask_everywhere(stack: Stack, name: str, connections: int = 8) -> list[dict[str, Any]]:
    """One id over many connections at once: the kernel deals them out to the workers."""

    async def ask() -> dict[str, Any]:
        async with httpx.AsyncClient(base_url=stack.process.url, timeout=20) as client:
            body = {"id": name, "inputs": inputs(flight=f"F-{name}")}
            answer = await client.post(f"/v1/predict/{SPEC.name}", json=body)
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = answer.json()
            return found

    return await asyncio.gather(*(ask() for _ in range(connections)))


async def test_an_id_is_logged_once_whichever_worker_is_asked(stack: Stack) -> None:
    await begin(stack)
    pids = await all_up(stack, 2)
    load = Load(stack)
    for number in range(30):
        answers = await ask_everywhere(stack, f"same-{number}")
        assert all(answer == answers[0] for answer in answers)
        load.answers[f"same-{number}"] = answers[0]
    other = await stack.predict(inputs(flight="F-other"), id="same-0")
    assert other.status_code == 422
    load.start(6, once=1)
    await load.until_more(30)
    os.kill(pids[1], signal.SIGKILL)
    await load.until_more(30)
    assert (await all_up(stack, 2)).keys() == {0, 1}
    await load.stop()
    answers = await ask_everywhere(stack, "same-0")
    assert all(answer == load.answers["same-0"] for answer in answers)
    metrics = (await stack.client.get("/metrics")).text
    for worker in "01":
        assert f'tidemill_serving_predictions_total{{worker="{worker}",pipeline="{SPEC.name}"}}' in metrics
    await check_log(stack, load.answers, once=sorted(load.once))
    assert len({e.source for _, e in await stack.logged() if e.type.endswith("prediction.v1")}) == 2
    await one_worker_goes_on(stack, load)


async def one_worker_goes_on(stack: Stack, load: Load) -> None:
    """Fewer workers than before: the first ships what the others have left, knows their answers, and says so."""
    assert stack.process.stop() == 0
    stack.process.environment["TIDEMILL_SERVING_WORKERS"] = "1"
    stack.process.start()
    await stack.until_status(ready=True)
    for number in range(30):
        assert await load.ask(f"same-{number}") == load.answers[f"same-{number}"]
    load.answers["alone"] = await load.ask("alone")
    await check_log(stack, load.answers, once=sorted(load.once))

    async def has_left() -> bool:
        left = [e for _, e in await stack.logged() if b'"reason":"left"' in e.data]
        return len(left) == SPEC.partitions and {e.source for e in left} == {"tidemill/serving/0-1"}

    await until(has_left, "the worker that is no more has taken its leave")
    assert stack.process.stop() == 0
