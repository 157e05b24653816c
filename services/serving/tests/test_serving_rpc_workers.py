"""gRPC behind one port of two worker processes: either answers as HTTP does, and goes on when the other is killed."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from serving_cases import pipeline
from serving_load import begin
from serving_rpc import ROWS, SERVICE, rows
from serving_stack import Stack, free_port, open_stack, until

from tidemill_contracts.events import Inference
from tidemill_serving.api.rpc.calls import InferRequest, InferResponse

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400), pytest.mark.usefixtures("one_loop")]
SPEC = pipeline()
CONNECTIONS = 8
COUNT = re.compile(r'^tidemill_rpc_seconds_count\{worker="(\d)",.*ModelInfer".*\} (\S+)$', re.MULTILINE)
SCORES = list[float]


@pytest.fixture
async def stack(kafka_bootstrap: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Stack]:
    more = {"TIDEMILL_SERVING_WORKERS": "2", "TIDEMILL_SERVING_GRPC_PORT": str(free_port())}
    async with open_stack(kafka_bootstrap, f"t-{topic_prefix[-8:]}", tmp_path, SPEC, **more) as opened:
        yield opened


async def ask(stack: Stack, times: int = 1) -> list[Any]:
    """So many answers over a connection of its own: the kernel gives each to one of the workers."""
    address = f"127.0.0.1:{stack.process.environment['TIDEMILL_SERVING_GRPC_PORT']}"
    async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = channel.unary_unary(SERVICE + "ModelInfer", InferRequest.SerializeToString, InferResponse.FromString)
        return [await call(rows()) for _ in range(times)]


async def ask_everywhere(stack: Stack) -> list[Any]:
    """Over many connections at once."""
    found = await asyncio.gather(*(ask(stack, 2) for _ in range(CONNECTIONS)))
    return [answer for answers in found for answer in answers]


def scores(answer: Any) -> SCORES:  # noqa: ANN401 - a message
    found: SCORES = np.frombuffer(answer.raw_output_contents[0], np.float32).tolist()
    return found


async def over_http(stack: Stack) -> SCORES:
    tensor = {"name": "features", "datatype": "FP32", "shape": ROWS.shape, "data": ROWS.tolist()}
    answer = await stack.client.post(f"/v2/models/{SPEC.name}/infer", json={"inputs": [tensor]})
    assert answer.status_code == 200, answer.text
    found: SCORES = np.array(answer.json()["outputs"][0]["data"], np.float32).tolist()
    return found


async def pids(stack: Stack) -> dict[int, int]:
    """By worker, once both are up."""
    found: dict[int, int] = {}

    async def are_up() -> bool:
        answer = await stack.client.get("/v1/status", headers={"connection": "close"})
        found.update({worker["worker"]: worker["pid"] for worker in answer.json()["workers"] if worker["up"]})
        return len(found) == 2

    await until(are_up, "both workers are up")
    return found


async def until_both(stack: Stack, expected: SCORES) -> int:
    """Ask until either worker has answered some; how often was asked."""
    asked = 0

    async def have_both() -> bool:
        nonlocal asked
        found = await ask_everywhere(stack)
        assert all(scores(answer) == expected for answer in found)
        asked += len(found)
        metrics = (await stack.client.get("/metrics", headers={"connection": "close"})).text
        return {worker for worker, count in COUNT.findall(metrics) if float(count)} == {"0", "1"}

    await until(have_both, "both workers answer over gRPC")
    return asked


async def test_two_processes_behind_one_port_answer_alike_and_one_goes_on_alone(stack: Stack) -> None:
    await begin(stack)
    alive = await pids(stack)
    expected = await over_http(stack)
    asked = await until_both(stack, expected)

    os.kill(alive[1], signal.SIGKILL)
    await until(lambda: not Path(f"/proc/{alive[1]}").exists(), "it is gone, and its sockets are closed")
    for _ in range(4):
        alone = await ask_everywhere(stack)  # not one of these fails
        assert all(scores(answer) == expected for answer in alone)
        asked += len(alone)

    async def is_back() -> bool:
        again = await pids(stack)
        return again[0] == alive[0] and again[1] != alive[1]

    await until(is_back, "the killed worker is back")
    asked += await until_both(stack, expected)

    async def are_logged() -> bool:
        found = [envelope for _, envelope in await stack.logged() if envelope.type == Inference.TYPE]
        assert len({envelope.id for envelope in found}) == len(found)
        return len(found) == asked + 1 and len({envelope.source for envelope in found}) == 2

    await until(are_logged, "each answer is logged once, by the worker that gave it")
    assert stack.process.stop() == 0
