"""OpenAPI 3.1 from route tables: the same objects that serve the requests."""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from tidemill_runtime.http.problems import MEDIA_TYPE, Problem
from tidemill_runtime.http.routes import Route, Schema

_PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")
_REF = "#/components/schemas/{model}"


def openapi(title: str, routes: Sequence[Route], *, version: str = "1") -> dict[str, Any]:
    """The document of a route table, with every model it names under components."""
    paths: dict[str, dict[str, Any]] = {}
    components: dict[str, Any] = _models(routes)
    for route in routes:
        path = _PARAMETER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, path, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _models(routes: Sequence[Route]) -> dict[str, Any]:
    wanted: list[tuple[type[BaseModel], Any]] = [(Problem, "serialization")]
    for route in routes:
        if isinstance(route.request, type):
            wanted.append((route.request, "validation"))
        if isinstance(route.response, type):
            wanted.append((route.response, "serialization"))
    _, schema = models_json_schema(list(dict.fromkeys(wanted)), ref_template=_REF)
    return dict(schema.get("$defs", {}))


def _operation(route: Route, path: str, components: dict[str, Any]) -> dict[str, Any]:
    name = f"{route.method.lower()}_{re.sub(r'[^A-Za-z0-9]+', '_', path).strip('_')}"
    operation: dict[str, Any] = {"operationId": name, "summary": route.summary}
    if route.description:
        operation["description"] = route.description
    if route.tags:
        operation["tags"] = list(route.tags)
    if route.public:
        operation["security"] = []
    if parameters := _parameters(route, path, components):
        operation["parameters"] = parameters
    if route.request is not None:
        schema = _schema(route.request, "validation", components)
        operation["requestBody"] = {"required": True, "content": {media: {"schema": schema} for media in route.media}}
    operation["responses"] = _responses(route, components)
    return operation


def _parameters(route: Route, path: str, components: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(path)
    ]
    if route.query is not None:
        schema = route.query.model_json_schema(ref_template=_REF)
        components.update(schema.get("$defs", {}))
        required = schema.get("required", [])
        found += [
            {"name": name, "in": "query", "required": name in required, "schema": part}
            for name, part in schema["properties"].items()
        ]
    for name, text in route.headers.items():
        found.append({"name": name, "in": "header", "description": text, "schema": {"type": "string"}})
    return found


def _responses(route: Route, components: dict[str, Any]) -> dict[str, Any]:
    statuses = {route.status, *route.statuses, *route.failures, 500}
    if not route.public:
        statuses.add(401)
    if route.metered:
        statuses |= {403, 429}
    if route.request is not None:
        statuses |= {400, 408, 413, 415, 422}
    if route.query is not None:
        statuses.add(422)
    content: dict[str, Any] = {}
    if route.response is not None:
        content = {"content": {"application/json": {"schema": _schema(route.response, "serialization", components)}}}
    return {
        str(status): {"description": HTTPStatus(status).phrase}
        | (content if _own(route, status) else _failure(route, status, components))
        for status in sorted(statuses)
    }


def _failure(route: Route, status: int, components: dict[str, Any]) -> dict[str, Any]:
    found = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}
    if status in route.failures:
        found["application/json"] = {"schema": _schema(route.failures[status], "serialization", components)}
    return {"content": found}


def _own(route: Route, status: int) -> bool:
    """A probe answers 503 with its report; every other status of 400 and above is a problem."""
    return status < HTTPStatus.BAD_REQUEST or (route.public and status == HTTPStatus.SERVICE_UNAVAILABLE)


def _schema(schema: Schema, mode: Any, components: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - pydantic's own mode
    if not isinstance(schema, TypeAdapter):
        return {"$ref": _REF.format(model=_component(schema, mode, components))}
    found = schema.json_schema(mode=mode, ref_template=_REF)
    components.update(found.pop("$defs", {}))
    return found


def _component(model: type[BaseModel], mode: str, components: dict[str, Any]) -> str:
    """A model used on both sides is split by pydantic when its two schemas differ."""
    side = "Input" if mode == "validation" else "Output"
    split = f"{model.__name__}-{side}"
    return split if split in components else model.__name__
