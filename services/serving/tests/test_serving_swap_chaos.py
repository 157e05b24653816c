"""Releases one after the other under load while workers are killed: no wrong, lost or doubled answer."""

import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from serving_cases import linear as model
from serving_cases import pipeline, released
from serving_load import Load, begin, check_log
from serving_stack import Stack, open_stack, until

from tidemill_contracts.events import Prediction
from tidemill_serving.onnx import Scorer

SWAPS = int(os.environ.get("TIDEMILL_CHAOS_SWAPS", "20"))
SEED = 5
SPEC = pipeline()
NAMES = list(SPEC.feature_names())
pytestmark = [pytest.mark.anyio, pytest.mark.chaos, pytest.mark.timeout(1200)]


@pytest.fixture
async def stack(kafka_bootstrap: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Stack]:
    prefix = f"t-{topic_prefix[-8:]}"
    async with open_stack(kafka_bootstrap, prefix, tmp_path, SPEC, TIDEMILL_SERVING_WORKERS="2") as opened:
        yield opened


async def pids(stack: Stack) -> list[int]:
    answer = await stack.client.get("/v1/status", headers={"connection": "close"})
    return [worker["pid"] for worker in answer.json()["workers"] if worker["up"]]


async def test_swaps_with_kills_inside_mix_no_versions_and_lose_no_answer(stack: Stack) -> None:
    await begin(stack)
    chance, load = random.Random(SEED), Load(stack)
    models = {1: model(NAMES)}
    load.start(8)
    for epoch in range(2, SWAPS + 2):
        models[epoch] = model(NAMES, bias=epoch / 50)
        await stack.release(released(SPEC, epoch, stack.artifacts.put(models[epoch])))
        if epoch % 4 == 0:
            await until(lambda: _two(stack), "both workers are up")
            os.kill(chance.choice(await pids(stack)), signal.SIGKILL)
        await stack.until_status(ready=True, epoch=epoch)
        await load.until_more(20)
    await load.stop()
    assert {answer["epoch"] for answer in load.answers.values()} > {2, SWAPS + 1}
    await check_log(stack, load.answers)
    scorers = {epoch: Scorer(data, len(NAMES)) for epoch, data in models.items()}
    for _, envelope in await stack.logged():
        if envelope.type == Prediction.TYPE:
            record = Prediction.read(envelope.data)
            vector = np.array([[np.nan if value is None else value for value in record.vector]], np.float32)
            assert record.version == record.epoch
            assert record.score == scorers[record.epoch].scores(vector)[0], "the model of the version it names"
    assert set(load.failures) <= {"ReadError", "RemoteProtocolError", "ConnectError", "503"}


async def _two(stack: Stack) -> bool:
    try:
        return len(await pids(stack)) == 2
    except httpx.TransportError:
        return False
