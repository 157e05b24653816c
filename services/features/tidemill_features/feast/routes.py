"""The protocol's endpoints. Errors that Feast has a class for come in its own form, all others as problems."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import cast

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from tidemill_features.feast.errors import FeastRefusal, InvalidRequestError, NotNowError, UnknownPushSource
from tidemill_features.feast.models import OnlineFeatures, OnlineFeaturesRequest, PushRequest, WriteRequest
from tidemill_features.feast.pushing import events_of
from tidemill_features.feast.reading import answer, plan
from tidemill_features.feast.store import FeastStore
from tidemill_runtime.http import FieldError, HttpProblem, Route, read_model

MOST_BYTES = 8 * 1024 * 1024
AT_ONCE = 20_000
"""Values that are put together or taken apart on the event loop; more of them must not hold the stream up."""
_JSON = "application/json"
_NOT_FOUND = frozenset({"FeatureViewNotFoundException", "FeatureServiceNotFoundException"})
Endpoint = Callable[[Request], Awaitable[Response]]


def feast_routes() -> list[Route]:
    """The service's operations for Feast."""
    unmeant = {422: TypeAdapter(str)}
    unknown = {404: TypeAdapter(str), **unmeant}
    told = "A name that is not known comes as the text that the SDK makes its own exception of."
    return [
        Route(
            method="POST", path="/get-online-features", endpoint=_speaking(get_online_features), tags=("feast",),
            summary="Newest vectors of entities", description=told, request=OnlineFeaturesRequest,
            response=OnlineFeatures, statuses=(404, 503), failures=unknown, max_bytes=MOST_BYTES,
        ),
        Route(
            method="POST", path="/push", endpoint=_speaking(push), summary="Send rows as events of a source",
            description=told, tags=("feast",), request=PushRequest, statuses=(503,), failures=unmeant,
            max_bytes=MOST_BYTES,
        ),
        Route(
            method="POST", path="/write-to-online-store", endpoint=_speaking(write), tags=("feast",),
            summary="Send rows as events of a view's source", description=told, request=WriteRequest,
            statuses=(404, 503), failures=unknown, max_bytes=MOST_BYTES,
        ),
        Route(
            method="GET", path="/health", endpoint=health, summary="May it be asked?", tags=("feast",),
            statuses=(503,), public=True,
        ),
    ]  # fmt: skip


async def get_online_features(request: Request) -> Response:
    """Statuses: NOT_FOUND for an entity without vector, NULL_VALUE, OUTSIDE_MAX_AGE after the view's time to live."""
    store, asked = _store(request), await read_model(request, OnlineFeaturesRequest)
    known = store.catalogue
    made = plan(known, asked)
    tables = await store.tables()
    if store.catalogue is not known:  # views have changed while the replica was read
        made = plan(store.catalogue, asked)
    if made.cells <= AT_ONCE:
        return Response(answer(made, tables), media_type=_JSON)
    return Response(await asyncio.to_thread(answer, made, tables), media_type=_JSON)


async def push(request: Request) -> Response:
    """200 when the rows are durable as events of the source."""
    store, asked = _store(request), await read_model(request, PushRequest)
    if asked.push_source_name not in store.catalogue.sources:
        raise UnknownPushSource("no pipeline declares a source of this name")
    if asked.to == "offline":
        raise HttpProblem(422, "events reach the archive through the stream: push to online or online_and_offline")
    await _send(store, asked.push_source_name, asked)
    return Response()


async def write(request: Request) -> Response:
    """200 when the rows are durable as events of the view's source; a source's own name will do, too."""
    store, asked = _store(request), await read_model(request, WriteRequest)
    name = asked.feature_view_name
    is_source = name in store.catalogue.sources and name not in store.catalogue.views
    await _send(store, name if is_source else store.catalogue.view(name).source, asked)
    return Response("null", media_type=_JSON)


async def health(request: Request) -> Response:
    """As /readyz, with an empty body."""
    return Response(status_code=200 if _store(request).is_ready() else 503)


async def _send(store: FeastStore, source: str, asked: PushRequest | WriteRequest) -> None:
    spec, cells = store.catalogue.sources[source], sum(map(len, asked.df.values()))
    if cells <= AT_ONCE:
        events = events_of(source, spec, asked.df)
    else:
        events = await asyncio.to_thread(events_of, source, spec, asked.df)
    if events:
        await store.ingestion.send(source, events)


def _store(request: Request) -> FeastStore:
    return cast("FeastStore", request.app.state.feast)


def _speaking(endpoint: Endpoint) -> Endpoint:
    """The endpoint with this edge's errors as answers."""

    async def run(request: Request) -> Response:
        try:
            return await endpoint(request)
        except FeastRefusal as error:
            return _refused(error)
        except InvalidRequestError as error:
            errors = [FieldError(field=b.field, rule=b.rule, message=b.message) for b in error.broken]
            raise HttpProblem(422, "the request breaks its schema: see errors", errors=errors) from None
        except NotNowError as error:
            raise HttpProblem(503, str(error), headers={"retry-after": "1"}) from None

    return run


def _refused(error: FeastRefusal) -> Response:
    """A JSON text that holds JSON, as `feast.errors.FeastError.to_error_detail` makes it and the SDK reads it."""
    detail = {"module": "feast.errors", "class": error.feast_class, "message": str(error)}
    status = 404 if error.feast_class in _NOT_FOUND else 422
    return Response(json.dumps(json.dumps(detail)), status, media_type=_JSON)
