"""Import plain ONNX models, and list them."""

from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from tidemill_contracts.base import Name
from tidemill_engine.onnx import MAXIMUM_BYTES, ModelInfo, ModelRefusedError, inspect_model
from tidemill_registry.api.fields import invalid
from tidemill_registry.api.models import Items
from tidemill_registry.domain.imports import ImportRefusedError, check
from tidemill_runtime.http import HttpProblem, Route, json_response, read_body, read_query

ONNX = "application/octet-stream"
_NAME: TypeAdapter[str] = TypeAdapter(Name)


class Importing(Protocol):
    """What the routes need of the service."""

    async def take_model(self, model: str, data: bytes, info: ModelInfo, wanted: int | None) -> tuple[int, bool]:
        """(version, whether it is new); raises ImportRefusedError."""

    async def imported(self, model: str | None = None) -> list[dict[str, Any]]:
        """The imported models, or the versions of one."""


class VersionQuery(BaseModel):
    """Which version to give it; the next one if left out."""

    model_config = ConfigDict(extra="forbid")

    version: int | None = Field(default=None, ge=1, le=2**31 - 1)


class Imported(BaseModel):
    """An imported model. `created` false: these bytes had that version before."""

    model: str
    version: int
    digest: str
    size: int
    created: bool


def routes(registry: Importing) -> list[Route]:
    """Routes over the registry."""

    async def post(request: Request) -> Response:
        name, wanted = _name(request), read_query(request, VersionQuery).version
        data = await read_body(request)
        try:
            info = inspect_model(data)
            check(info)
        except (ModelRefusedError, ImportRefusedError) as error:
            raise invalid("", "model", f"the model is refused: {error}") from None
        try:
            version, is_new = await registry.take_model(name, data, info, wanted)
        except ImportRefusedError as error:
            raise HttpProblem(409, str(error)) from None
        answer = Imported(model=name, version=version, digest=info.digest, size=info.size, created=is_new)
        return json_response(answer, 201 if is_new else 200)

    async def every(_: Request) -> Items:
        return Items(items=await registry.imported())

    async def one(request: Request) -> Items:
        found = await registry.imported(_name(request))
        if not found:
            raise HttpProblem(404, "there is no such imported model")
        return Items(items=found)

    return [
        Route(method="POST", path="/v1/models/{model}", endpoint=post, summary="Import an ONNX model, sent as it is",
              request=TypeAdapter(bytes), media=(ONNX,), max_bytes=MAXIMUM_BYTES, query=VersionQuery,
              response=Imported, status=201, statuses=(200, 409)),
        Route(method="GET", path="/v1/models", endpoint=every, summary="Imported models", response=Items),
        Route(method="GET", path="/v1/models/{model}", endpoint=one, summary="Versions of an imported model",
              response=Items, statuses=(404, 422)),
    ]  # fmt: skip


def _name(request: Request) -> str:
    try:
        return _NAME.validate_python(request.path_params["model"], strict=True)
    except ValidationError:
        raise invalid("model", "name", "a name is lower-case letters and digits in parts joined by - or _") from None
