"""The Open Inference Protocol, REST: every released pipeline is a model from `features` to `probability`.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md, with Triton's
binary tensors. Tensors go straight to the champion without an entity; answers are logged with their rows. Errors are
`{"error": text}`.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Protocol

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tidemill_runtime.drawn import drawn
from tidemill_runtime.http import HttpProblem, Route, caller_of, media_type, read_body
from tidemill_runtime.telemetry import current_traceparent, new_traceparent
from tidemill_serving.api.encodings import WORTH, accepted, pack, unpack
from tidemill_serving.api.models import (
    InferRequest,
    InferResponse,
    Live,
    ModelMetadata,
    ModelReady,
    Ready,
    ServerMetadata,
    TensorMetadata,
)
from tidemill_serving.api.predict import problem_of
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.protocol import Call, Port, Rendering, read_call
from tidemill_serving.domain.served import Ask, Served

MAXIMUM_BYTES = 16 * 1024 * 1024
JSON, BINARY = "application/json", "application/octet-stream"
JSON_LENGTH = "inference-header-content-length"
EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]
_UNNAMED = frozenset({"", BINARY})
Endpoint = Callable[[Request], Awaitable[Response | BaseModel]]


class Repository(Protocol):
    """The models by name."""

    def find(self, name: str, version: str | None) -> Served:
        """The model; raises RefusedError 404."""


def inference_routes(models: Repository, is_ready: Callable[[], bool]) -> list[Route]:
    """The routes of the protocol."""
    asked = _Models(models)

    async def server(_: Request) -> ServerMetadata:
        return ServerMetadata(name="tidemill", version=version("tidemill-serving"), extensions=EXTENSIONS)

    async def live(_: Request) -> Live:
        return Live(live=True)

    async def ready(_: Request) -> Response:
        now = is_ready()
        return JSONResponse(Ready(ready=now).model_dump(), 200 if now else 503)

    routes = [
        Route(method="GET", path="/v2", endpoint=server, summary="The server", response=ServerMetadata),
        Route(method="GET", path="/v2/health/live", endpoint=live, summary="Is it alive?", response=Live, public=True),
        Route(
            method="GET", path="/v2/health/ready", endpoint=ready, summary="May it be asked?", response=Ready,
            statuses=(503,), public=True,
        ),
    ]  # fmt: skip
    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        routes += _model_routes(asked, path)
    return routes


def _model_routes(asked: "_Models", path: str) -> list[Route]:
    return [
        Route(
            method="GET", path=path, endpoint=speaking(asked.metadata), summary="A model's inputs and outputs",
            response=ModelMetadata, statuses=(404,),
        ),
        Route(
            method="GET", path=f"{path}/ready", endpoint=speaking(asked.ready), summary="May this model be asked?",
            response=ModelReady, statuses=(404,),
        ),
        Route(
            method="POST", path=f"{path}/infer", endpoint=speaking(asked.infer), summary="Ask a model",
            request=InferRequest, response=InferResponse, statuses=(404, 503), max_bytes=MAXIMUM_BYTES,
            metered=True, headers={
                "Inference-Header-Content-Length": "how much of the body is JSON; the bytes of tensors follow it",
                "Content-Encoding": "gzip or deflate",
            },
        ),
    ]  # fmt: skip


def speaking(endpoint: Endpoint) -> Endpoint:
    """The endpoint with the protocol's errors in place of problems."""

    async def run(request: Request) -> Response | BaseModel:
        try:
            return await endpoint(request)
        except RefusedError as refused:
            return Response(error_of(refused), refused.status, headers=problem_of(refused).headers, media_type=JSON)
        except HttpProblem as problem:
            status = 400 if problem.status == 422 else problem.status  # noqa: PLR2004 - the protocol knows only 400
            return JSONResponse({"error": problem.detail}, status, headers=problem.headers)

    return run


class _Models:
    def __init__(self, models: Repository) -> None:
        self._models = models

    def _find(self, request: Request) -> Served:
        return self._models.find(request.path_params["name"], request.path_params.get("version"))

    async def metadata(self, request: Request) -> ModelMetadata:
        found = self._find(request).describe()
        return ModelMetadata(
            name=found.name, versions=found.versions, platform=found.platform, inputs=_ports(found.inputs),
            outputs=_ports(found.outputs),
        )  # fmt: skip

    async def ready(self, request: Request) -> ModelReady:
        self._find(request)
        return ModelReady(name=request.path_params["name"], ready=True)

    async def infer(self, request: Request) -> Response:
        caller_of(request).check_pipeline(request.path_params["name"])
        model = self._find(request)
        call = await _read(request)
        shapes = [tensor.values.shape for tensor in call.tensors.values()]
        caller_of(request).charge(max((shape[0] for shape in shapes if shape), default=1) - 1)
        if call.model not in {None, request.path_params["name"]}:
            raise HttpProblem(400, "model_name is another than the path's")
        context, rendering = current_traceparent() or new_traceparent(), Rendering(call)
        result = await model.infer(Ask(call, drawn.uuid(), context, rendering))
        if isinstance(result, RefusedError):
            raise result.with_traceback(None)  # it may be one for all
        return await _answer(request, result, rendering.json_length)


def _ports(ports: list[Port]) -> list[TensorMetadata]:
    return [TensorMetadata(name=port.name, datatype=port.datatype, shape=port.shape) for port in ports]


async def _read(request: Request) -> Call:
    unnamed(request)
    raw = await read_body(request)
    raw = await unpack(raw, request.headers.get("content-encoding", ""), MAXIMUM_BYTES)
    length = request.headers.get(JSON_LENGTH)
    if length is not None and not (length.isascii() and length.isdecimal() and len(length) <= _DIGITS):
        raise HttpProblem(400, "Inference-Header-Content-Length is a number of bytes")
    return read_call(raw, None if length is None else int(length))


def unnamed(request: Request) -> None:
    """Take JSON without a type: tritonclient sends it so, and its asynchronous twin calls the same text bytes."""
    if media_type(request) in _UNNAMED:
        request.scope["tidemill.route"] = replace(request.scope["tidemill.route"], media=())


async def _answer(request: Request, body: bytes, json_length: int | None) -> Response:
    headers = {}
    if json_length is not None:
        headers["Inference-Header-Content-Length"] = str(json_length)
    encoding = accepted(request.headers.get("accept-encoding", ""))
    if encoding is not None and len(body) >= WORTH:
        body = await pack(body, encoding)
        headers |= {"Content-Encoding": encoding, "Vary": "Accept-Encoding"}
    return Response(body, headers=headers, media_type=JSON if json_length is None else BINARY)


def error_of(refused: RefusedError) -> bytes:
    """The protocol's body of a refusal."""
    return json.dumps({"error": refused.detail or refused.title}).encode()


_DIGITS = 12
