"""`inference.GRPCInferenceService` and `grpc.health.v1.Health` on a port of their own, over the models of REST."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import grpc
from pydantic import SecretStr

from tidemill_runtime.telemetry import is_traceparent, quick_traceparent
from tidemill_serving.api.front import is_authorised
from tidemill_serving.api.inference import EXTENSIONS, MAXIMUM_BYTES
from tidemill_serving.api.predict import new_id
from tidemill_serving.api.repository import WholeRepository, config_of, statistics_of
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
from tidemill_serving.domain.imported import READY
from tidemill_serving.domain.served import Ask
from tidemill_serving.domain.statistics import ModelStatistics

SERVICE = "inference.GRPCInferenceService"
HEALTH = Messages("health.proto")
HealthRequest, HealthResponse = HEALTH["HealthCheckRequest"], HEALTH["HealthCheckResponse"]
LOOK_EVERY_S, GRACE_S = 0.2, 3.0
MOST_CALLS, MOST_STREAMS = 4096, 1024
_IDENTITY_ONLY = 1
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT, 404: grpc.StatusCode.NOT_FOUND, 409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED, 503: grpc.StatusCode.UNAVAILABLE,
}  # fmt: skip
_UNKNOWN, _SERVING, _NOT_SERVING = 3, 1, 2
_log = logging.getLogger(__name__)
Context = Any
Message = Any
Unary = Callable[[Message, Context], Awaitable[Message]]


@dataclass(frozen=True, slots=True)
class RpcSettings:
    """Where to listen. `shared`: with other workers, who have the port too."""

    host: str
    port: int
    api_key: SecretStr | None = None
    shared: bool = False


class RpcServer:
    """The server; `run` serves until cancelled."""

    def __init__(
        self, settings: RpcSettings, models: WholeRepository, statistics: Mapping[tuple[str, str], ModelStatistics],
        is_ready: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._settings, self._models, self._statistics, self._is_ready = settings, models, statistics, is_ready
        key = settings.api_key
        self._key = key.get_secret_value().encode() if key is not None else None
        self.port: int | None = None

    async def run(self) -> None:
        """Listen, and on cancellation let calls under way end."""
        server = grpc.aio.server(options=self._options(), maximum_concurrent_rpcs=MOST_CALLS)
        server.add_generic_rpc_handlers((self._inference(), self._health()))
        self.port = server.add_insecure_port(f"{self._settings.host}:{self._settings.port}")
        await server.start()
        _log.info("gRPC listens", extra={"port": self.port})
        try:
            await server.wait_for_termination()
        finally:
            await server.stop(GRACE_S)

    def _options(self) -> list[tuple[str, int]]:
        return [
            ("grpc.so_reuseport", int(self._settings.shared)),
            ("grpc.max_receive_message_length", MAXIMUM_BYTES), ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", MOST_STREAMS),
            # A packed message is unpacked before its length is looked at: none is taken.
            ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_ONLY),
        ]  # fmt: skip

    def _inference(self) -> Any:  # noqa: ANN401 - grpc ships no types
        unary: dict[str, tuple[Unary, bool]] = {
            "ServerLive": (self._server_live, True), "ServerReady": (self._server_ready, True),
            "ModelReady": (self._model_ready, False), "ServerMetadata": (self._server_metadata, False),
            "ModelMetadata": (self._model_metadata, False), "ModelConfig": (self._model_config, False),
            "ModelStatistics": (self._model_statistics, False), "RepositoryIndex": (self._index, False),
            "RepositoryModelLoad": (self._load, False), "RepositoryModelUnload": (self._unload, False),
        }  # fmt: skip
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(run, public=public), INFERENCE[f"{name}Request"].FromString,
                INFERENCE[f"{name}Response"].SerializeToString,
            )
            for name, (run, public) in unary.items()
        }  # fmt: skip
        handlers["ModelInfer"] = grpc.unary_unary_rpc_method_handler(self._infer, InferRequest.FromString)
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream, InferRequest.FromString, StreamResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def _health(self) -> Any:  # noqa: ANN401 - see above
        to_bytes = HealthResponse.SerializeToString
        return grpc.method_handlers_generic_handler("grpc.health.v1.Health", {
            "Check": grpc.unary_unary_rpc_method_handler(self._check, HealthRequest.FromString, to_bytes),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch, HealthRequest.FromString, to_bytes),
        })  # fmt: skip

    async def _authorise(self, context: Context) -> None:
        if self._key is not None:
            headers = {name: value for name, value in context.invocation_metadata() if isinstance(value, str)}
            if not is_authorised(self._key, headers):
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "an API key is needed")

    def _guarded(self, run: Unary, *, public: bool) -> Unary:
        async def guarded(request: Message, context: Context) -> Message:
            if not public:
                await self._authorise(context)
            try:
                return await run(request, context)
            except RefusedError as refused:
                await context.abort(code_of(refused), text_of(refused))

        return guarded

    async def _infer(self, request: Message, context: Context) -> bytes:
        """`ModelInfer`: the path that has to be fast."""
        if self._key is not None:
            await self._authorise(context)
        result = await self._answer(request, _trace(context.invocation_metadata()))
        if isinstance(result, bytes):
            return result
        await context.abort(code_of(result), text_of(result))
        raise result  # abort has raised before

    async def _answer(self, request: Message, trace: str | None) -> bytes | RefusedError:
        try:
            model = self._models.find(request.model_name, request.model_version or None)
            call = read_infer(request)
            return await model.infer(Ask(call, new_id(), quick_traceparent(trace), MessageRendering(call)))
        except RefusedError as refused:
            return refused
        except Exception:  # noqa: BLE001 - the edge of the process: nothing may pass it
            _log.exception("unexpected failure", extra={"path": "ModelInfer"})
            return _FAILED

    async def _stream(self, requests: AsyncIterator[Message], context: Context) -> AsyncIterator[Message]:
        """`ModelStreamInfer`: one answer for each request, in their order; a refusal does not end the stream."""
        await self._authorise(context)
        trace = _trace(context.invocation_metadata())
        async for request in requests:
            result = await self._answer(request, trace)
            if isinstance(result, bytes):
                yield StreamResponse(infer_response=InferResponse.FromString(result))
            else:
                # The client finds by the id which of its requests this is.
                yield StreamResponse(error_message=text_of(result), infer_response=InferResponse(id=request.id))

    async def _server_live(self, _request: Message, _context: Context) -> Message:
        return INFERENCE["ServerLiveResponse"](live=True)

    async def _server_ready(self, _request: Message, _context: Context) -> Message:
        return INFERENCE["ServerReadyResponse"](ready=self._is_ready())

    async def _model_ready(self, request: Message, _context: Context) -> Message:
        try:
            self._models.find(request.name, request.version or None)
        except RefusedError:
            return INFERENCE["ModelReadyResponse"](ready=False)
        return INFERENCE["ModelReadyResponse"](ready=True)

    async def _server_metadata(self, _request: Message, _context: Context) -> Message:
        own = version("tidemill-serving")
        return INFERENCE["ServerMetadataResponse"](name="tidemill", version=own, extensions=EXTENSIONS)

    async def _model_metadata(self, request: Message, _context: Context) -> Message:
        found = self._models.find(request.name, request.version or None).describe()
        return INFERENCE["ModelMetadataResponse"](
            name=found.name, versions=found.versions, platform=found.platform,
            inputs=[port._asdict() for port in found.inputs], outputs=[port._asdict() for port in found.outputs],
        )  # fmt: skip

    async def _model_config(self, request: Message, _context: Context) -> Message:
        config = config_of(self._models.find(request.name, request.version or None).describe())
        return INFERENCE["ModelConfigResponse"](config=config)

    async def _model_statistics(self, request: Message, _context: Context) -> Message:
        found = statistics_of(self._models, self._statistics, request.name or None, request.version or None)
        entries = [entry.model_dump(exclude={"batch_stats"}) for entry in found]
        return INFERENCE["ModelStatisticsResponse"](model_stats=entries)

    async def _index(self, request: Message, _context: Context) -> Message:
        keys: Sequence[str] = ("name", "version", "state", "reason")
        found = [each for each in self._models.index() if not request.ready or each.state == READY]
        models = [{key: getattr(each, key) for key in keys} for each in found]
        return INFERENCE["RepositoryIndexResponse"](models=models)

    async def _load(self, request: Message, _context: Context) -> Message:
        if request.parameters:
            raise RefusedError(400, "parameters", "a model is loaded as it was imported: parameters are not taken")
        await self._models.switch(request.model_name, loaded=True)
        return INFERENCE["RepositoryModelLoadResponse"]()

    async def _unload(self, request: Message, _context: Context) -> Message:
        if request.parameters.keys() - {"unload_dependents"}:
            raise RefusedError(400, "parameters", "the only parameter of an unload is unload_dependents")
        await self._models.switch(request.model_name, loaded=False)
        return INFERENCE["RepositoryModelUnloadResponse"]()

    def _standing(self, service: str) -> int:
        if service not in {"", SERVICE}:
            return _UNKNOWN
        return _SERVING if self._is_ready() else _NOT_SERVING

    async def _check(self, request: Message, context: Context) -> Message:
        standing = self._standing(request.service)
        if standing == _UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return HealthResponse(status=standing)

    async def _watch(self, request: Message, _context: Context) -> AsyncIterator[Message]:
        """Tell the standing, and again whenever it is another."""
        told = None
        while True:
            standing = self._standing(request.service)
            if standing != told:
                told = standing
                yield HealthResponse(status=standing)
            await asyncio.sleep(LOOK_EVERY_S)


def _trace(metadata: Any) -> str | None:  # noqa: ANN401 - see above
    for name, value in metadata or ():
        if name == "traceparent" and isinstance(value, str) and is_traceparent(value):
            return value
    return None


def code_of(refused: RefusedError) -> Any:  # noqa: ANN401 - see above
    """The status code of a refusal."""
    return _CODES.get(refused.status, grpc.StatusCode.UNKNOWN)


def text_of(refused: RefusedError) -> str:
    """What is said of it."""
    return refused.detail or refused.title


_FAILED = RefusedError(503, "no answer", "an unexpected failure; the log of the service says more")
