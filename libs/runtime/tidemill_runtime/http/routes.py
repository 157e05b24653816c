"""A route as data: what runs, what it takes, what it answers. The application and its OpenAPI document come from it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

Endpoint = Callable[[Request], Awaitable[Response | BaseModel]]
Schema = type[BaseModel] | TypeAdapter[Any]
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation. An endpoint may return a model, which is sent as JSON with `status`, or a response of its own.

    `request` and `media` describe the body, which is read by `read_model` or `read_body` within `max_bytes`; `query` is
    a model whose fields are the query parameters, `headers` maps header names to descriptions. `statuses` are the other
    answers it may give: 400 and above are problems, below with the same body. `failures` are statuses of 400 and above
    that may also come as JSON of a schema of another protocol. `public` routes need no API key. A key
    with bounds opens what is read (GET) and `metered` routes, which charge it for their rows.
    """

    method: str
    path: str
    endpoint: Endpoint
    summary: str
    request: Schema | None = None
    response: Schema | None = None
    status: int = 200
    statuses: tuple[int, ...] = ()
    failures: Mapping[int, Schema] = field(default_factory=dict)
    query: type[BaseModel] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    media: tuple[str, ...] = ("application/json",)
    max_bytes: int = MIB
    public: bool = False
    metered: bool = False
    description: str = ""
    tags: tuple[str, ...] = ()


def json_response(body: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A model as JSON."""
    return Response(body.model_dump_json(), status, headers=headers, media_type="application/json")
