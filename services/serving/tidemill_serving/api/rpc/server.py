"""`inference.GRPCInferenceService` and `grpc.health.v1.Health` on a port of their own, over the models of REST."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs

from tidemill_runtime.drawn import drawn
from tidemill_runtime.http import Caller, Keys
from tidemill_runtime.http.guard import Bounds, Guard
from tidemill_runtime.rpc import Code, GrpcServer, Limits, Method, Quick, StatusError, Stream, Streaming, Unary
from tidemill_runtime.telemetry import is_traceparent, quick_traceparent
from tidemill_serving.api.inference import EXTENSIONS, MAXIMUM_BYTES
from tidemill_serving.api.repository import WholeRepository, config_of, statistics_of
from tidemill_serving.api.rpc.callers import Callers, charged
from tidemill_serving.api.rpc.calls import (
    INFERENCE,
    InferRequest,
    InferResponse,
    MessageRendering,
    StreamResponse,
    read_infer,
)
from tidemill_serving.api.rpc.protos import Messages
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.desk import Result
from tidemill_serving.domain.imported import READY
from tidemill_serving.domain.served import Ask, PipelineModel, Served
from tidemill_serving.domain.statistics import ModelStatistics

SERVICE = "inference.GRPCInferenceService"
HEALTH = Messages("health.proto")
HealthRequest, HealthResponse = HEALTH["HealthCheckRequest"], HEALTH["HealthCheckResponse"]
LOOK_EVERY_S, GRACE_S, PATIENCE_S = 0.2, 3.0, 60.0
MOST_CONNECTIONS = 2048
"""At a time: each carries many calls."""
_CODES = {
    400: Code.INVALID_ARGUMENT, 404: Code.NOT_FOUND, 409: Code.FAILED_PRECONDITION, 413: Code.RESOURCE_EXHAUSTED,
    503: Code.UNAVAILABLE, 504: Code.DEADLINE_EXCEEDED,
}  # fmt: skip
_UNKNOWN, _SERVING, _NOT_SERVING = 3, 1, 2
_log = logging.getLogger(__name__)
Message = Any
Run = Callable[[Message], Awaitable[Message]]
May = Callable[[Stream], None]
"""Raises StatusError."""


@dataclass(frozen=True, slots=True)
class RpcSettings:
    """Where to listen. `shared`: with other workers, who have the port too; `late`: only when ready, as they are."""

    host: str
    port: int
    keys: Keys | None = None
    shared: bool = False
    connections: int = MOST_CONNECTIONS
    late: bool = False


class RpcServer:
    """The server; `run` serves until cancelled."""

    def __init__(
        self, settings: RpcSettings, models: WholeRepository, statistics: Mapping[tuple[str, str], ModelStatistics],
        is_ready: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._settings, self._models, self._statistics, self._is_ready = settings, models, statistics, is_ready
        self._callers = Callers(settings.keys or Keys())
        self.port: int | None = None

    async def run(self) -> None:
        """Listen, and on cancellation let calls under way end."""
        settings = self._settings
        guard = Guard(Bounds(connections=min(settings.connections, MOST_CONNECTIONS)))
        server = GrpcServer(self._routes(), guard=guard, limits=Limits(message=MAXIMUM_BYTES))
        if settings.late:
            await self._until_ready()
        await server.start(settings.host, settings.port, shared=settings.shared)
        self.port = server.port
        try:
            await asyncio.Event().wait()
        finally:
            await server.stop(GRACE_S)

    async def _until_ready(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while not self._is_ready():  # noqa: ASYNC110 - conditions have no event
                    await asyncio.sleep(LOOK_EVERY_S)

    def _routes(self) -> dict[str, Method]:
        reading, changing = self._callers.reading, self._callers.changing
        unary: dict[str, tuple[Run, May | None]] = {
            "ServerLive": (self._server_live, None), "ServerReady": (self._server_ready, None),
            "ModelReady": (self._model_ready, reading), "ServerMetadata": (self._server_metadata, reading),
            "ModelMetadata": (self._model_metadata, reading), "ModelConfig": (self._model_config, reading),
            "ModelStatistics": (self._model_statistics, reading), "RepositoryIndex": (self._index, reading),
            "RepositoryModelLoad": (self._load, changing), "RepositoryModelUnload": (self._unload, changing),
        }  # fmt: skip
        routes: dict[str, Method] = {
            f"/{SERVICE}/{name}": Unary(self._guarded(run, INFERENCE[f"{name}Request"], may))
            for name, (run, may) in unary.items()
        }
        return routes | {
            f"/{SERVICE}/ModelInfer": Quick(self._infer), f"/{SERVICE}/ModelStreamInfer": Streaming(self._stream),
            "/grpc.health.v1.Health/Check": Unary(self._guarded(self._check, HealthRequest, None)),
            "/grpc.health.v1.Health/Watch": Streaming(self._watch),
        }  # fmt: skip

    @staticmethod
    def _guarded(run: Run, kind: Any, may: May | None) -> Callable[[bytes, Stream], Awaitable[bytes]]:  # noqa: ANN401 - a class that is made when the process starts
        async def guarded(raw: bytes, call: Stream) -> bytes:
            if may is not None:
                may(call)
            try:
                answer = await run(parsed(kind, raw))
            except RefusedError as refused:
                raise status_of(refused) from None
            found: bytes = answer.SerializeToString()
            return found

        return guarded

    def _infer(self, raw: bytes, call: Stream) -> Callable[[], Awaitable[bytes]] | None:
        """`ModelInfer`: a pipeline's rows go straight into the tick's batch and back."""
        caller = self._callers.infers(call)
        request = parsed(InferRequest, raw)
        try:
            model = self._models.find(request.model_name, request.model_version or None)
            call.model = request.model_name
            read = read_infer(request)
            charged(caller, call.model, read)
            context = call.context or quick_traceparent(trace_of(call))
            ask = Ask(read, drawn.uuid(), context, MessageRendering(read))
            if not isinstance(model, PipelineModel):
                return partial(_outcome, model, ask)
            model.submit(ask, partial(_deliver, call))
        except RefusedError as refused:
            raise status_of(refused) from None
        return None

    async def _answer(self, request: Message, call: Stream, caller: Caller) -> bytes | RefusedError:
        try:
            model = self._models.find(request.model_name, request.model_version or None)
            call.model, read = request.model_name, read_infer(request)
            charged(caller, request.model_name, read)
            context = call.context or quick_traceparent(trace_of(call))
            return await model.infer(Ask(read, drawn.uuid(), context, MessageRendering(read)))
        except RefusedError as refused:
            return refused
        except StatusError:
            raise
        except Exception:  # noqa: BLE001 - the edge of the process: nothing may pass it
            _log.exception("unexpected failure", extra={"path": "ModelInfer"})
            return _FAILED

    async def _stream(self, messages: AsyncIterator[bytes], call: Stream) -> AsyncGenerator[bytes]:
        """`ModelStreamInfer`: one answer for each request, in their order; a refusal does not end the stream."""
        caller = self._callers.infers(call)
        async for raw in messages:
            request = parsed(InferRequest, raw)
            result = await self._answer(request, call, caller)
            if isinstance(result, bytes):
                answer = StreamResponse(infer_response=InferResponse.FromString(result))
            else:
                # The client finds by the id which of its requests this is.
                answer = StreamResponse(error_message=text_of(result), infer_response=InferResponse(id=request.id))
            yield answer.SerializeToString()

    async def _server_live(self, _request: Message) -> Message:
        return INFERENCE["ServerLiveResponse"](live=True)

    async def _server_ready(self, _request: Message) -> Message:
        return INFERENCE["ServerReadyResponse"](ready=self._is_ready())

    async def _model_ready(self, request: Message) -> Message:
        try:
            self._models.find(request.name, request.version or None)
        except RefusedError:
            return INFERENCE["ModelReadyResponse"](ready=False)
        return INFERENCE["ModelReadyResponse"](ready=True)

    async def _server_metadata(self, _request: Message) -> Message:
        own = version("tidemill-serving")
        return INFERENCE["ServerMetadataResponse"](name="tidemill", version=own, extensions=EXTENSIONS)

    async def _model_metadata(self, request: Message) -> Message:
        found = self._models.find(request.name, request.version or None).describe()
        return INFERENCE["ModelMetadataResponse"](
            name=found.name, versions=found.versions, platform=found.platform,
            inputs=[port._asdict() for port in found.inputs], outputs=[port._asdict() for port in found.outputs],
        )  # fmt: skip

    async def _model_config(self, request: Message) -> Message:
        config = config_of(self._models.find(request.name, request.version or None).describe())
        return INFERENCE["ModelConfigResponse"](config=config)

    async def _model_statistics(self, request: Message) -> Message:
        found = statistics_of(self._models, self._statistics, request.name or None, request.version or None)
        entries = [entry.model_dump(exclude={"batch_stats"}) for entry in found]
        return INFERENCE["ModelStatisticsResponse"](model_stats=entries)

    async def _index(self, request: Message) -> Message:
        keys: Sequence[str] = ("name", "version", "state", "reason")
        found = [each for each in self._models.index() if not request.ready or each.state == READY]
        models = [{key: getattr(each, key) for key in keys} for each in found]
        return INFERENCE["RepositoryIndexResponse"](models=models)

    async def _load(self, request: Message) -> Message:
        if request.parameters:
            raise RefusedError(400, "parameters", "a model is loaded as it was imported: parameters are not taken")
        await self._models.switch(request.model_name, loaded=True)
        return INFERENCE["RepositoryModelLoadResponse"]()

    async def _unload(self, request: Message) -> Message:
        if request.parameters.keys() - {"unload_dependents"}:
            raise RefusedError(400, "parameters", "the only parameter of an unload is unload_dependents")
        await self._models.switch(request.model_name, loaded=False)
        return INFERENCE["RepositoryModelUnloadResponse"]()

    def _standing(self, service: str) -> int:
        if service not in {"", SERVICE}:
            return _UNKNOWN
        return _SERVING if self._is_ready() else _NOT_SERVING

    async def _check(self, request: Message) -> Message:
        standing = self._standing(request.service)
        if standing == _UNKNOWN:
            raise StatusError(Code.NOT_FOUND, "there is no such service")
        return HealthResponse(status=standing)

    async def _watch(self, messages: AsyncIterator[bytes], _call: Stream) -> AsyncGenerator[bytes]:
        """Tell the standing, and again whenever it is another."""
        told, request = None, parsed(HealthRequest, await anext(messages, b""))
        while True:
            standing = self._standing(request.service)
            if standing != told:
                told = standing
                yield HealthResponse(status=standing).SerializeToString()
            await asyncio.sleep(LOOK_EVERY_S)


def _deliver(call: Stream, result: Result) -> None:
    if isinstance(result, bytes):
        call.answer(result)
    else:
        call.fail(code_of(result), text_of(result))


async def _outcome(model: Served, ask: Ask) -> bytes:
    try:
        result = await model.infer(ask)
    except RefusedError as refused:
        raise status_of(refused) from None
    if isinstance(result, RefusedError):
        raise status_of(result)
    return result


def parsed(kind: Any, raw: bytes) -> Message:  # noqa: ANN401 - see above
    """The message; raises StatusError for bytes that are none."""
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise StatusError(Code.INTERNAL, "the message cannot be read") from None


def trace_of(call: Stream) -> str | None:
    """The trace that the caller is in."""
    found = call.metadata.get("traceparent")
    return found if found is not None and is_traceparent(found) else None


def code_of(refused: RefusedError) -> Code:
    """The status code of a refusal."""
    return _CODES.get(refused.status, Code.UNKNOWN)


def status_of(refused: RefusedError) -> StatusError:
    """A refusal as the status of a call."""
    return StatusError(code_of(refused), text_of(refused))


def text_of(refused: RefusedError) -> str:
    """What is said of it."""
    return refused.detail or refused.title


_FAILED = RefusedError(503, "no answer", "an unexpected failure; the log of the service says more")
