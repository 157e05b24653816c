"""The Open Inference Protocol, REST: every released pipeline is a model from `features` to `probability`.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md. Tensors go
straight to the champion without an entity; answers are logged with their rows. Errors are `{"error": text}`.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Protocol

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tidemill_runtime.http import HttpProblem, Route, media_type, read_model
from tidemill_runtime.telemetry import current_traceparent, new_traceparent
from tidemill_serving.api.models import (
    InferRequest,
    InferResponse,
    Live,
    ModelMetadata,
    ModelReady,
    Ready,
    ServerMetadata,
    Tensor,
    TensorMetadata,
)
from tidemill_serving.api.predict import new_id, problem_of
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.desk import Desk, Loaded, Result
from tidemill_serving.domain.tensors import INPUT, LARGEST, MAXIMUM_ROWS, OUTPUT, Rows, RowsQuery

MAXIMUM_BYTES = 16 * 1024 * 1024
JSON = "application/json"
_UNNAMED = frozenset({"", "application/octet-stream"})
Endpoint = Callable[[Request], Awaitable[Response | BaseModel]]


class RowTicks(Protocol):
    """Where the rows of one tick come together."""

    async def answer_rows(self, desk: Desk, query: RowsQuery) -> Result:
        """The result; raises RefusedError where there is no room."""


def inference_routes(desks: Mapping[str, Desk], ticks: RowTicks, is_ready: Callable[[], bool]) -> list[Route]:
    """The routes of the protocol."""
    models = _Models(desks, ticks)

    async def server(_: Request) -> ServerMetadata:
        return ServerMetadata(name="tidemill", version=version("tidemill-serving"), extensions=[])

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
        routes += _model_routes(models, path)
    return routes


def _model_routes(models: "_Models", path: str) -> list[Route]:
    return [
        Route(
            method="GET", path=path, endpoint=_speaking(models.metadata), summary="A pipeline's champion",
            response=ModelMetadata, statuses=(404,),
        ),
        Route(
            method="GET", path=f"{path}/ready", endpoint=_speaking(models.ready), summary="May this model be asked?",
            response=ModelReady, statuses=(404,),
        ),
        Route(
            method="POST", path=f"{path}/infer", endpoint=_speaking(models.infer), summary="Score rows of features",
            request=InferRequest, response=InferResponse, statuses=(404, 503), max_bytes=MAXIMUM_BYTES,
        ),
    ]  # fmt: skip


def _speaking(endpoint: Endpoint) -> Endpoint:
    """The endpoint with the protocol's errors in place of problems."""

    async def run(request: Request) -> Response | BaseModel:
        try:
            return await endpoint(request)
        except HttpProblem as problem:
            first = f": {problem.errors[0].field}: {problem.errors[0].message}" if problem.errors else ""
            status = 400 if problem.status == 422 else problem.status  # noqa: PLR2004 - the protocol knows only 400
            return JSONResponse({"error": f"{problem.detail}{first}"}, status, headers=problem.headers)

    return run


class _Models:
    def __init__(self, desks: Mapping[str, Desk], ticks: RowTicks) -> None:
        self._desks, self._ticks = desks, ticks

    def _find(self, request: Request) -> Loaded:
        desk = self._desks.get(request.path_params["name"])
        active = desk.champion.active if desk is not None else None
        wanted = request.path_params.get("version")
        if active is None or wanted not in {None, str(active.leader.version)}:
            raise HttpProblem(404, "no such model, or none of that version")
        return active

    async def metadata(self, request: Request) -> ModelMetadata:
        loaded = self._find(request)
        return ModelMetadata(
            name=request.path_params["name"],
            versions=[str(loaded.leader.version)],
            platform="onnx_onnxv1",
            inputs=[TensorMetadata(name=INPUT, datatype="FP32", shape=[-1, len(loaded.plan.features)])],
            outputs=[TensorMetadata(name=OUTPUT, datatype="FP32", shape=[-1])],
        )

    async def ready(self, request: Request) -> ModelReady:
        self._find(request)
        return ModelReady(name=request.path_params["name"], ready=True)

    async def infer(self, request: Request) -> Response:
        loaded = self._find(request)
        body = await _read(request)
        if body.model_name not in {None, request.path_params["name"]}:
            raise HttpProblem(400, "model_name is another than the path's")
        if len(body.inputs) != 1 or body.inputs[0].name != INPUT:
            raise HttpProblem(400, f"the model takes one input, {INPUT}")
        for output in body.outputs or []:
            if output.name != OUTPUT:
                raise HttpProblem(400, f"the model has one output, {OUTPUT}")
        count, flat = _values(body.inputs[0], len(loaded.plan.features))
        rows = Rows(count, len(loaded.plan.features), flat, body.id)
        context = current_traceparent() or new_traceparent()
        query = RowsQuery(rows, new_id(), context, request.path_params.get("version"))
        try:
            result = await self._ticks.answer_rows(self._desks[request.path_params["name"]], query)
            if isinstance(result, RefusedError):
                raise result.with_traceback(None)  # it may be one for all
        except RefusedError as refused:
            return Response(error_of(refused), refused.status, headers=problem_of(refused).headers, media_type=JSON)
        return Response(result, media_type=JSON)


async def _read(request: Request) -> InferRequest:
    """The body. tritonclient sends JSON without a content type, its asynchronous twin calls the same text bytes."""
    if "inference-header-content-length" in request.headers:
        raise HttpProblem(400, "binary tensors are an extension that this server does not have: send them as JSON")
    if media_type(request) in _UNNAMED:
        request.scope["tidemill.route"] = replace(request.scope["tidemill.route"], media=())
    return await read_model(request, InferRequest)


def error_of(refused: RefusedError) -> bytes:
    """The protocol's body of a refusal."""
    return json.dumps({"error": refused.detail or refused.title}).encode()


def _values(tensor: Tensor, width: int) -> tuple[int, list[float]]:
    """(rows, values row by row) of a tensor, nested or flat; raises HttpProblem 400 where they do not fit."""
    if tensor.datatype not in {"FP32", "FP64"}:
        raise HttpProblem(400, f"{INPUT} must be FP32 or FP64")
    rows = tensor.shape[0] if tensor.shape else -1
    if tensor.shape != [rows, width] or not 1 <= rows <= MAXIMUM_ROWS:
        raise HttpProblem(400, f"{INPUT} must have the shape [1 to {MAXIMUM_ROWS}, {width}]")
    flat = [item for part in tensor.data for item in (part if isinstance(part, list) else [part])]
    if len(flat) != rows * width or not all(isinstance(item, int | float) and abs(item) < LARGEST for item in flat):
        raise HttpProblem(400, f"{INPUT} must hold {rows * width} finite numbers")
    return rows, flat
