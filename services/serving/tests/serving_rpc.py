"""gRPC in front of a pipeline in this process, and a channel to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
from serving_edge import NAMES, SPEC, Edge
from serving_stack import until

from tidemill_runtime.http import Keys
from tidemill_serving.api.rpc import RpcServer, RpcSettings
from tidemill_serving.api.rpc.calls import INFERENCE, InferRequest, InferResponse

WIDTH = len(NAMES)
ROWS = np.linspace(-2, 2, 3 * WIDTH, dtype=np.float32).reshape(3, WIDTH)
SERVICE = "/inference.GRPCInferenceService/"


class Rpc:
    """A channel to a server in this process."""

    def __init__(self, edge: Edge, channel: Any, port: int) -> None:  # noqa: ANN401 - grpc ships no types
        self.edge, self.channel, self.port = edge, channel, port

    def call(self, request: Any, **how: Any) -> Any:  # noqa: ANN401 - see above
        ask = self.channel.unary_unary(SERVICE + "ModelInfer", InferRequest.SerializeToString, InferResponse.FromString)
        return ask(request, **how)

    async def infer(self, request: Any, metadata: Any = None) -> Any:  # noqa: ANN401 - see above
        return await self.call(request, metadata=metadata)

    async def ask(self, name: str, metadata: Any = None, **fields: Any) -> Any:  # noqa: ANN401 - see above
        request, response = INFERENCE[f"{name}Request"], INFERENCE[f"{name}Response"]
        call = self.channel.unary_unary(SERVICE + name, request.SerializeToString, response.FromString)
        return await call(request(**fields), metadata=metadata)


@asynccontextmanager
async def served(*, keys: Keys | None = None) -> AsyncIterator[Rpc]:
    edge = Edge()
    edge.release()
    server = RpcServer(
        RpcSettings("127.0.0.1", 0, keys), edge.models, edge.house.statistics.found, lambda: edge.desk.is_ready
    )
    running = asyncio.ensure_future(server.run())
    await until(lambda: server.port is not None, "gRPC listens")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        assert server.port is not None
        yield Rpc(edge, channel, server.port)
    running.cancel()
    await asyncio.wait({running})


def rows(*, raw: bool = True, **fields: Any) -> Any:  # noqa: ANN401 - a message
    request = InferRequest(model_name=SPEC.name, **fields)
    given = request.inputs.add(name="features", datatype="FP32", shape=ROWS.shape)
    if raw:
        request.raw_input_contents.append(ROWS.tobytes())
    else:
        given.contents.fp32_contents.extend(ROWS.ravel().tolist())
    return request


async def code_of(call: Any) -> str:  # noqa: ANN401 - see above
    try:
        await call
    except grpc.aio.AioRpcError as error:
        found: str = error.code().name
        return found
    return "OK"
