"""The hot path: whole requests of known heads, straight from the connection into the tick's batch and back.

It takes what it can answer without a second look; whatever else is asked, and however it is wrong, the routes answer.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Protocol

from pydantic import SecretStr

from tidemill_contracts.ids import prediction_id
from tidemill_runtime.drawn import drawn
from tidemill_runtime.edge_spans import ServerSpan, begin
from tidemill_runtime.http import Keys
from tidemill_runtime.http.app import SECONDS
from tidemill_runtime.http.heads import Reply, Seconds, Take
from tidemill_runtime.http.problems import MEDIA_TYPE
from tidemill_runtime.telemetry import quick_traceparent
from tidemill_serving.api.deadlines import DEADLINE
from tidemill_serving.api.front import PREFIX, ROUTE
from tidemill_serving.api.inference import MAXIMUM_BYTES as MAXIMUM_TENSOR_BYTES
from tidemill_serving.api.inference import error_of
from tidemill_serving.api.predict import MAXIMUM_BYTES, MINIMUM_WATERMARK, RETRY_AFTER_S, problem_of
from tidemill_serving.domain.bodies import Bodies
from tidemill_serving.domain.body import OVERLOADED, RefusedError
from tidemill_serving.domain.desk import Desk, Query, Result
from tidemill_serving.domain.tensors import UNREADABLE, RowsQuery

MODELS = "/v2/models/"
INFER, INFER_VERSION = "/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"
JSON = "application/json"
_CAREFULLY = frozenset({"content-encoding", "idempotency-key", "prefer", DEADLINE, MINIMUM_WATERMARK})
Deliver = Callable[[Result], None]
Link = Callable[[Iterable[str]], None]
Render = Callable[[RefusedError, str], bytes]


class Ticks(Protocol):
    """Where the queries of one tick come together."""

    @property
    def is_full(self) -> bool:
        """Whether one more would be refused."""

    def submit(self, desk: Desk, query: Query, deliver: Deliver, link: Link | None = None) -> None:
        """Raises RefusedError where there is no room; `link` is told the trace contexts behind the answer."""

    def submit_rows(self, desk: Desk, query: RowsQuery, deliver: Deliver) -> None:
        """As `submit`."""


class Hot:
    """Finds who takes a request."""

    def __init__(
        self, desks: Mapping[str, Desk], ticks: Ticks, *, api_key: SecretStr | None = None, keys: Keys | None = None
    ) -> None:  # fmt: skip
        """`keys` as `tidemill_runtime.http.App` takes them; requests of keys with bounds are for those behind."""
        self._desks, self._ticks, self._bodies = desks, ticks, Bodies()
        self._keys = keys or Keys(api_key)

    def find(self, path: str, headers: Mapping[str, str]) -> Take | None:
        """`tidemill_runtime.http.direct.Direct`."""
        if not _CAREFULLY.isdisjoint(headers) or not self._keys.opens_all(headers):
            return None
        if headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
            return None
        size = int(headers["content-length"])
        if path.startswith(PREFIX) and size <= MAXIMUM_BYTES:
            return partial(self._predict, path.removeprefix(PREFIX))
        if path.startswith(MODELS) and path.endswith("/infer") and size <= MAXIMUM_TENSOR_BYTES:
            name, _, version = path.removeprefix(MODELS).removesuffix("/infer").partition("/versions/")
            return partial(self._infer, name, version or None)
        return None

    def _predict(self, name: str, body: bytes, trace: str | None, reply: Reply) -> bool:
        started = time.perf_counter()
        desk = self._desks.get(name)
        if desk is None or not desk.is_ready or desk.champion.active is None:
            return False
        if self._ticks.is_full:
            return _PREDICT.refuse(reply, quick_traceparent(trace), started)
        ask = desk.reader.quickly(body)
        if ask is None:
            return False
        context, span = begin(ROUTE, trace)
        identity = drawn.uuid() if ask.id is None else str(prediction_id(name, ask.id))
        deliver = _Sender(reply, context, _PREDICT, started, span)
        try:
            self._ticks.submit(desk, Query(ask, identity, context), deliver, None if span is None else span.link)
        except RefusedError as refused:
            deliver(refused)
        return True

    def _infer(self, name: str, version: str | None, body: bytes, trace: str | None, reply: Reply) -> bool:
        started = time.perf_counter()
        desk = self._desks.get(name)
        if desk is None or desk.champion.active is None:
            return False
        way = _INFER if version is None else _INFER_VERSION
        if self._ticks.is_full:
            return way.refuse(reply, quick_traceparent(trace), started)
        rows = self._bodies.find(body)
        if rows is None or rows.width != len(desk.champion.active.plan.features):
            return False
        context, span = begin(way.route, trace)
        deliver = _Sender(reply, context, way, started, span)
        try:
            self._ticks.submit_rows(desk, RowsQuery(rows, drawn.uuid(), context, version), deliver)
        except RefusedError as refused:
            deliver(refused)
        return True


class _Way:
    """What the answers of a route have in common. `render` makes the body of a refusal, of media type `media`."""

    def __init__(self, route: str, media: str, render: Render) -> None:
        self.route, self.media, self.render = route, media, render
        self.seconds, self._refused = Seconds("POST", route, 200), Seconds("POST", route, 503)
        self._overloaded, self._around = render(OVERLOADED, ""), self.head(503, "\0").split(b"\0")

    def refuse(self, reply: Reply, context: str, started: float) -> bool:
        """There is no room in this tick: nothing of the request is read, so that saying so costs next to nothing."""
        before, behind = self._around
        reply.refuse(b"%b%b%b" % (before, context.encode(), behind), self._overloaded)
        self._refused.add(time.perf_counter() - started)
        return True

    def head(self, status: int, context: str) -> bytes:
        """Status line and headers of a refusal."""
        again = f"retry-after: {RETRY_AFTER_S}\r\n" if status == HTTPStatus.SERVICE_UNAVAILABLE else ""
        phrase = _PHRASES[status]
        return f"{status} {phrase}\r\ncontent-type: {self.media}\r\ntraceparent: {context}\r\n{again}".encode()


class _Sender:
    """Gives the result of one request to its connection, and counts it."""

    __slots__ = ("_context", "_reply", "_span", "_started", "_way")

    def __init__(self, reply: Reply, context: str, way: _Way, started: float, span: ServerSpan | None) -> None:
        self._reply, self._context, self._way, self._started, self._span = reply, context, way, started, span

    def __call__(self, result: Result) -> None:
        way = self._way
        if self._span is not None and result is not UNREADABLE:  # else the way behind has its own
            self._span.end(result.status if isinstance(result, RefusedError) else 200)
        if isinstance(result, bytes):
            self._reply.answer(result, self._context)
            way.seconds.add(time.perf_counter() - self._started)
            return
        if result is UNREADABLE:
            self._reply.decline()
            return
        body = way.render(result, self._context[3:35])
        self._reply.refuse(way.head(result.status, self._context), body)
        SECONDS.labels("POST", way.route, result.status).observe(time.perf_counter() - self._started)


def _problem(refused: RefusedError, trace_id: str) -> bytes:
    return bytes(problem_of(refused).response(trace_id or None).body)


def _error(refused: RefusedError, _trace_id: str) -> bytes:
    return error_of(refused)


_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_PREDICT = _Way(ROUTE, MEDIA_TYPE, _problem)
_INFER, _INFER_VERSION = _Way(INFER, JSON, _error), _Way(INFER_VERSION, JSON, _error)
