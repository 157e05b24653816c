"""The HTTP side of serving as a process of its own, on a log that forgets."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import uvicorn
import uvloop
from serving_cases import linear
from serving_edge import NAMES, Edge

from tidemill_runtime.http import App
from tidemill_runtime.http.direct import direct_protocol
from tidemill_runtime.http.guard import Bounds, Guard
from tidemill_runtime.probes import probe_routes
from tidemill_serving.api.front import Front
from tidemill_serving.domain.frames import Logged
from tidemill_serving.onnx.explaining import Explainers

HEAD_S, WHOLE_S = 2.0, 5.0


class Child:
    """A started server."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.process, self.port = process, port

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    @property
    def memory_mib(self) -> float:
        return float(psutil.Process(self.process.pid).memory_info().rss) / 2**20


@contextmanager
def child(*, connections: int = 10_000) -> Iterator[Child]:
    """The server, ready; killed at the end."""
    command = [sys.executable, str(Path(__file__)), str(connections)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            yield Child(process, int(process.stdout.readline()))
        finally:
            process.kill()


class _Forgetful:
    def append(self, entries: Sequence[Logged]) -> int:
        return len(entries)


async def _serve(connections: int) -> None:
    edge = Edge()
    edge.release()
    edge.batcher._spool = _Forgetful()
    edge.health.set("running", ok=True)
    edge.predictor.explains = Explainers(lambda _: linear(NAMES))
    routes = edge.behind.routes
    app = App([*routes, *probe_routes("Tidemill serving", routes, edge.health)])
    guard = Guard(Bounds(connections=connections, head_s=HEAD_S, whole_s=WHOLE_S, answer_s=5))
    config = uvicorn.Config(
        Front(app, edge.front._predictor), host="127.0.0.1", port=0, http=direct_protocol(edge.hot, guard),
        ws="none", lifespan="off", log_config=None, access_log=False, server_header=False, backlog=8192,
    )  # fmt: skip
    server = uvicorn.Server(config)
    running = asyncio.ensure_future(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)  # noqa: T201 - to the one who started it
    await running


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
