"""Reading what a client sent: limits before bytes, JSON with one meaning only, schemas without loose conversions."""

import asyncio
import json
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from tidemill_runtime.http.problems import FieldError, HttpProblem, from_validation

READ_TIMEOUT_S = 30.0
T = TypeVar("T", bound=BaseModel)
V = TypeVar("V")


class DuplicateKeyError(ValueError):
    """An object names a key twice: parsers disagree on which one counts."""


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise DuplicateKeyError


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def check_json(raw: bytes) -> None:
    """Raise HttpProblem 400 unless `raw` is UTF-8 JSON, nested at most about 200 deep, without a repeated key."""
    try:
        _DECODER.decode(raw.decode("utf-8"))
    except DuplicateKeyError:
        raise HttpProblem(400, "an object in the body repeats a key") from None
    except RecursionError:
        raise HttpProblem(400, "the body is nested too deeply") from None
    except ValueError:  # bad UTF-8 and bad JSON alike
        raise HttpProblem(400, "the body is not valid JSON") from None


def parse_json(raw: bytes) -> Any:  # noqa: ANN401 - JSON without a declared schema
    """The value of a JSON text, checked as by `check_json`; NaN and infinities are refused too."""
    check_json(raw)
    try:
        return from_json(raw, allow_inf_nan=False)
    except ValueError:
        raise HttpProblem(400, "the body is not valid JSON") from None


def parse_model(model: type[T], raw: bytes) -> T:
    """The model in a JSON text; raises HttpProblem 400 for bad JSON and 422 for a body that breaks the schema."""
    check_json(raw)
    try:
        return model.model_validate_json(raw, strict=True)
    except ValidationError as error:
        raise from_validation(error) from None


def parse_adapter(adapter: TypeAdapter[V], raw: bytes) -> V:
    """As `parse_model` for a type that is not a model, such as a list or a union."""
    check_json(raw)
    try:
        return adapter.validate_json(raw, strict=True)
    except ValidationError as error:
        raise from_validation(error) from None


async def read_body(request: Request) -> bytes:
    """The body, within the route's limit and of one of its media types; raises HttpProblem 413, 415, 408 or 400."""
    route = request.scope["tidemill.route"]
    _check_media(request, route.media)
    declared = request.headers.get("content-length")
    if declared is not None and (not declared.isdigit() or int(declared) > route.max_bytes):
        raise _too_large(route.max_bytes)
    chunks, size = [], 0
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > route.max_bytes:
                    raise _too_large(route.max_bytes)
                chunks.append(chunk)
    except TimeoutError:
        raise HttpProblem(408, f"the body did not arrive within {READ_TIMEOUT_S:g} s") from None
    except ClientDisconnect:
        raise HttpProblem(400, "the client went away before its body had arrived") from None
    return b"".join(chunks)


async def read_model(request: Request, model: type[T]) -> T:
    """The model in the request's JSON body."""
    return parse_model(model, await read_body(request))


def read_query(request: Request, model: type[T]) -> T:
    """The model in the query string: texts are converted, unknown and repeated names are refused (422)."""
    pairs = request.query_params.multi_items()
    values = dict(pairs)
    if len(values) != len(pairs):
        errors = [FieldError(field="", rule="repeated", message="a query parameter is given more than once")]
        raise HttpProblem(422, "the query breaks its schema", errors=errors)
    try:
        return model.model_validate_strings(values, strict=False)
    except ValidationError as error:
        raise from_validation(error) from None


def media_type(request: Request) -> str:
    """The request's media type in lower case without parameters; empty when there is none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _check_media(request: Request, accepted: tuple[str, ...]) -> None:
    if accepted and media_type(request) not in accepted:
        raise HttpProblem(415, f"the body must be {' or '.join(accepted)}")


def _too_large(limit: int) -> HttpProblem:
    return HttpProblem(413, f"the body may have at most {limit} bytes", headers={"connection": "close"})
