"""The Open Inference Protocol's extensions, REST: repository index, load and unload, model configuration, statistics.

As Triton has them: https://github.com/triton-inference-server/server/tree/main/docs/protocol.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tidemill_runtime.http import HttpProblem, Route, parse_model, read_body
from tidemill_serving.api.inference import Repository, speaking, unnamed
from tidemill_serving.domain.imported import READY
from tidemill_serving.domain.served import Description
from tidemill_serving.domain.statistics import Duration, ModelStatistics

T = TypeVar("T", bound=BaseModel)


class Indexed(Protocol):
    """A version of a model as it stands."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def reason(self) -> str: ...


class WholeRepository(Repository, Protocol):
    """Models, and what can be done with them."""

    def index(self) -> Iterable[Indexed]:
        """Every version that is known."""

    async def switch(self, name: str, *, loaded: bool) -> None:
        """Load or unload; raises RefusedError."""


class IndexRequest(BaseModel):
    """Which models to list."""

    model_config = ConfigDict(extra="forbid")

    ready: bool = False


class SwitchRequest(BaseModel):
    """`parameters` of Triton that would bring another model or configuration are refused."""

    model_config = ConfigDict(extra="forbid")

    parameters: dict[str, Any] = Field(default_factory=dict)


class ModelIndex(BaseModel):
    """A version of a model: READY, LOADING or UNAVAILABLE for a reason."""

    name: str
    version: str
    state: str
    reason: str


class StatisticDuration(BaseModel):
    """How often, and how long in all."""

    count: int
    ns: int


class ModelStatisticsEntry(BaseModel):
    """Of one version since the process began; `inference_count` counts rows, `execution_count` batches."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: dict[str, StatisticDuration]
    batch_stats: list[dict[str, Any]]


class ModelStatisticsAnswer(BaseModel):
    """Of all models, or of one."""

    model_stats: list[ModelStatisticsEntry]


def repository_routes(models: WholeRepository, statistics: Mapping[tuple[str, str], ModelStatistics]) -> list[Route]:
    """The routes of the extensions."""
    asked = _Asked(models, statistics)
    base = "/v2/repository/models/{name}"
    routes = [
        Route(method="POST", path="/v2/repository/index", endpoint=speaking(asked.index), summary="Every known model",
              request=IndexRequest, response=TypeAdapter(list[ModelIndex])),
        Route(method="POST", path=f"{base}/load", endpoint=speaking(asked.load), summary="Load an imported model",
              request=SwitchRequest, statuses=(404, 503)),
        Route(method="POST", path=f"{base}/unload", endpoint=speaking(asked.unload), summary="Unload it",
              request=SwitchRequest, statuses=(404, 503)),
        Route(method="GET", path="/v2/models/stats", endpoint=speaking(asked.stats), summary="Statistics of all models",
              response=ModelStatisticsAnswer),
    ]  # fmt: skip
    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        routes += [
            Route(method="GET", path=f"{path}/config", endpoint=speaking(asked.config), summary="Its configuration",
                  response=TypeAdapter(dict[str, Any]), statuses=(404,)),
            Route(method="GET", path=f"{path}/stats", endpoint=speaking(asked.stats), summary="Its statistics",
                  response=ModelStatisticsAnswer, statuses=(404,)),
        ]  # fmt: skip
    return routes


class _Asked:
    def __init__(self, models: WholeRepository, statistics: Mapping[tuple[str, str], ModelStatistics]) -> None:
        self._models, self._statistics = models, statistics

    async def index(self, request: Request) -> Response:
        wanted = await _read(request, IndexRequest)
        found = [each for each in self._models.index() if not wanted.ready or each.state == READY]
        keys = ("name", "version", "state", "reason")
        return JSONResponse([{key: getattr(each, key) for key in keys} for each in found])

    async def load(self, request: Request) -> Response:
        wanted = await _read(request, SwitchRequest)
        if wanted.parameters:
            raise HttpProblem(400, "a model is loaded as it was imported: parameters are not taken")
        await self._models.switch(request.path_params["name"], loaded=True)
        return JSONResponse({})

    async def unload(self, request: Request) -> Response:
        wanted = await _read(request, SwitchRequest)
        if wanted.parameters.keys() - {"unload_dependents"}:
            raise HttpProblem(400, "the only parameter of an unload is unload_dependents")
        await self._models.switch(request.path_params["name"], loaded=False)
        return JSONResponse({})

    async def config(self, request: Request) -> Response:
        model = self._models.find(request.path_params["name"], request.path_params.get("version"))
        return JSONResponse(config_of(model.describe()))

    async def stats(self, request: Request) -> ModelStatisticsAnswer:
        name, version = request.path_params.get("name"), request.path_params.get("version")
        return ModelStatisticsAnswer(model_stats=statistics_of(self._models, self._statistics, name, version))


def statistics_of(
    models: WholeRepository,
    statistics: Mapping[tuple[str, str], ModelStatistics],
    name: str | None,
    version: str | None,
) -> list[ModelStatisticsEntry]:
    """Of all models that are ready, of one, or of one version; raises RefusedError 404 for an unknown one."""
    if name is not None:
        models.find(name, version)
    return [
        _entry(each.name, each.version, statistics.get((each.name, each.version)) or ModelStatistics())
        for each in models.index()
        if each.state == READY and name in {None, each.name} and version in {None, each.version}
    ]


def config_of(found: Description) -> dict[str, Any]:
    """Triton's model configuration: batching happens in the server and needs no dimension of the client's."""
    return {
        "name": found.name, "platform": found.platform, "backend": "onnxruntime", "max_batch_size": 0,
        "version_policy": {"specific": {"versions": [int(version) for version in found.versions]}},
        "input": [
            {"name": port.name, "data_type": type_of(port.datatype), "dims": port.shape} for port in found.inputs
        ],
        "output": [
            {"name": port.name, "data_type": type_of(port.datatype), "dims": port.shape} for port in found.outputs
        ],
    }  # fmt: skip


def type_of(datatype: str) -> str:
    """A datatype as configurations name it."""
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


def _entry(name: str, version: str, found: ModelStatistics) -> ModelStatisticsEntry:
    durations = {
        "success": found.succeeded, "fail": found.failed, "queue": found.waited, "compute_input": Duration(),
        "compute_infer": found.computed, "compute_output": Duration(), "cache_hit": Duration(),
        "cache_miss": Duration(),
    }  # fmt: skip
    return ModelStatisticsEntry(
        name=name, version=version, last_inference=found.last_ms, inference_count=found.rows,
        execution_count=found.batches, batch_stats=[],
        inference_stats={key: StatisticDuration(count=each.count, ns=each.ns) for key, each in durations.items()},
    )  # fmt: skip


async def _read(request: Request, model: type[T]) -> T:
    """The body; none is an empty one."""
    unnamed(request)
    return parse_model(model, await read_body(request) or b"{}")
