"""One-row `ModelInfer` calls on one core: Tidemill and MLServer over gRPC in the same run, in turns.

The same frames go to both over a few connections, 64 calls under way; each answer is compared with the offline model,
and each answer of Tidemill must stand in its log once. The best of several short turns counts.
"""

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import uvloop
from _calls import Called, closed
from _cores import SERVER, cpu_s, listener, on
from _mlserver import VERSION, mlserver, ready
from _models import PLAIN, fill, forest, offline, release
from _results import Progress, Result, report, result
from _stack import apply, stack, until
from serving_throughput import isolate, logged

from tidemill.stack import Endpoints
from tidemill.stack.process import free_port
from tidemill_runtime.rpc.incoming import PREFIX
from tidemill_serving.api.rpc.calls import InferRequest, InferResponse

SHAPE, DISTINCT = (4, 16), 200
"""Connections, and calls under way over each; different messages."""
TURNS, SECONDS = int(os.environ.get("BENCH_TURNS", "4")), float(os.environ.get("BENCH_SECONDS", "3"))
MLSERVER, OURS = f"MLServer {VERSION}", "Tidemill"
INFER = "/inference.GRPCInferenceService/ModelInfer"


class Turn(NamedTuple):
    """What a turn came to: answers by the number of their request, calls a second, processor time of each."""

    answers: list[Called]
    rate: float
    cost_us: float


def requests(model: str, rows: Any) -> list[bytes]:  # noqa: ANN401 - an array
    """One message a row, its values as raw bytes."""
    made = []
    for row in rows:
        request = InferRequest(model_name=model)
        request.inputs.add(name="features", datatype="FP32", shape=[1, len(row)])
        request.raw_input_contents.append(row.tobytes())
        made.append(request.SerializeToString())
    return made


async def turn(port: int, messages: Sequence[bytes]) -> Turn:
    """Calls for some seconds."""
    process = listener(f"http://127.0.0.1:{port}")
    before, started = cpu_s(process), time.perf_counter()
    answers = await closed(port, INFER, messages, SECONDS, shape=SHAPE)
    seconds, used = time.perf_counter() - started, cpu_s(process) - before
    return Turn(answers, len(answers) / seconds, 1e6 * used / len(answers))


def check(found: Turn, scores: Any) -> list[str]:  # noqa: ANN401 - an array
    """Every answer has the offline model's score; their ids."""
    ids = []
    for number, body, trailers in found.answers:
        assert body, f"a call was refused: {trailers!r}"
        answer = InferResponse.FromString(body[PREFIX:])
        ids.append(answer.id)
        output = answer.outputs[0]
        is_raw = bool(answer.raw_output_contents)
        own = np.frombuffer(answer.raw_output_contents[0], np.float32) if is_raw else output.contents.fp32_contents
        assert abs(own[0] - scores[number]) <= 1e-6, (own, scores[number])
        assert len(own) == 1
    return ids


async def answers(port: int, message: bytes) -> None:
    """Until a call is answered."""

    async def one() -> bool:
        try:
            return bool((await closed(port, INFER, [message], 0, shape=(1, 1)))[0].body)
        except OSError:
            return False

    await until(one, "an answer over gRPC")


async def measure(seen: Endpoints, port: int) -> list[Result]:
    """All figures."""
    progress, model = Progress(), forest(PLAIN)
    await apply(seen, PLAIN)
    await fill(seen, PLAIN)
    await release(seen, PLAIN, model)
    rows = np.random.default_rng(11).normal(size=(DISTINCT, len(PLAIN.feature_names()))).astype(np.float32)
    scores, ours, theirs = offline(model, rows.astype(np.float64)), requests(PLAIN.name, rows), requests("plain", rows)
    best, ids = dict[str, Turn](), list[str]()
    with ExitStack() as peers:
        other = free_port()
        with on(SERVER):
            url = peers.enter_context(mlserver(model, grpc_port=other))
        isolate(seen)
        await ready(url)
        await answers(port, ours[0])
        for _ in range(TURNS):
            for name, where, messages in ((OURS, port, ours), (MLSERVER, other, theirs)):
                found = await turn(where, messages)
                progress.step(f"{name:<16}{found.rate:>10,.0f}/s, {found.cost_us:,.0f} us of its processor each")
                checked = check(found, scores)
                if name == OURS:
                    ids += checked
                if name not in best or found.rate > best[name].rate:
                    best[name] = found
        await logged(seen, PLAIN, ids, progress)
    mine, peer = best[OURS], best[MLSERVER]
    return [
        result("one row over gRPC", mine.rate, "calls/s", target=3 * peer.rate, peer=(MLSERVER, peer.rate)),
        result("CPU, one row", mine.cost_us, "us", target=peer.cost_us / 3, peer=(MLSERVER, peer.cost_us)),
    ]


if __name__ == "__main__":
    chosen = free_port()
    os.environ["TIDEMILL_SERVING_GRPC_PORT"] = str(chosen)
    with stack("serving") as running:
        report("serving-grpc", uvloop.run(measure(running, chosen)))
