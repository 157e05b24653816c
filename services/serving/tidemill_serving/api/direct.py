"""The hot path: whole requests of known heads, straight from the connection into the tick's batch and back.

It takes what it can answer without a second look; whatever else is asked, and however it is wrong, the routes answer.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Protocol

from pydantic import SecretStr

from tidemill_contracts.ids import prediction_id
from tidemill_runtime.drawn import drawn
from tidemill_runtime.edge_spans import ServerSpan, begin, begin_all
from tidemill_runtime.http import Keys
from tidemill_runtime.http.app import SECONDS
from tidemill_runtime.http.heads import KNOWN_HEADS, Reply, Seconds, Take
from tidemill_runtime.http.problems import MEDIA_TYPE
from tidemill_runtime.http.together import Asked
from tidemill_runtime.telemetry import quick_traceparent
from tidemill_serving.api.deadlines import DEADLINE
from tidemill_serving.api.forms import Forms
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

    @property
    def room(self) -> int:
        """How many requests by entity would be taken."""

    @property
    def room_for_rows(self) -> int:
        """How many requests of one row would be taken."""

    def submit(self, desk: Desk, query: Query, deliver: Deliver, link: Link | None = None) -> None:
        """Raises RefusedError where there is no room; `link` is told the trace contexts behind the answer."""

    def submit_rows(self, desk: Desk, query: RowsQuery, deliver: Deliver) -> None:
        """As `submit`."""

    def submit_together(
        self, desk: Desk, queries: Sequence[RowsQuery], deliver: Callable[[Sequence[Result]], None]
    ) -> int:  # fmt: skip
        """As `submit_rows` for many; for how many, from the first on, there was room."""


class Hot:
    """Finds who takes a request."""

    def __init__(
        self, desks: Mapping[str, Desk], ticks: Ticks, *, api_key: SecretStr | None = None, keys: Keys | None = None
    ) -> None:  # fmt: skip
        """`keys` as `tidemill_runtime.http.App` takes them; requests of keys with bounds are for those behind."""
        self._desks, self._ticks, self._bodies, self._forms = desks, ticks, Bodies(), Forms()
        self._keys = keys or Keys(api_key)
        self._takes: dict[str, Take] = {}

    def find(self, path: str, headers: Mapping[str, str]) -> Take | None:
        """`tidemill_runtime.http.direct.Direct`."""
        if not _CAREFULLY.isdisjoint(headers) or not self._keys.opens_all(headers):
            return None
        if headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
            return None
        size = int(headers["content-length"])
        is_tensors = path.startswith(MODELS) and path.endswith("/infer")
        if not (is_tensors or path.startswith(PREFIX)) or size > (
            MAXIMUM_TENSOR_BYTES if is_tensors else MAXIMUM_BYTES
        ):
            return None
        if path not in self._takes:
            if len(self._takes) >= KNOWN_HEADS:
                self._takes.clear()
            self._takes[path] = self._infer(path) if is_tensors else self._predict(path)
        return self._takes[path]  # one for all heads of the path, so that their requests can be taken together

    def _predict(self, path: str) -> Take:
        return _Predict(self._desks, self._ticks, path.removeprefix(PREFIX))

    def _infer(self, path: str) -> Take:
        name, _, version = path.removeprefix(MODELS).removesuffix("/infer").partition("/versions/")
        return _Infer(self._desks, self._ticks, (self._bodies, self._forms), name, version or None)


class _Predict:
    """Takes requests by entity of one pipeline."""

    def __init__(self, desks: Mapping[str, Desk], ticks: Ticks, name: str) -> None:
        self._desks, self._ticks, self._name = desks, ticks, name

    def __call__(self, body: bytes, trace: str | None, reply: Reply) -> bool:
        """`tidemill_runtime.http.heads.Take`."""
        started = time.perf_counter()
        desk = self._desks.get(self._name)
        if desk is None or not desk.is_ready or desk.champion.active is None:
            return False
        if self._ticks.is_full:
            return _PREDICT.refuse(reply, quick_traceparent(trace), started)
        ask = desk.reader.quickly(body)
        if ask is None:
            return False
        context, span = begin(ROUTE, trace)
        identity = drawn.uuid() if ask.id is None else str(prediction_id(self._name, ask.id))
        deliver = _Sender(reply, context, _PREDICT, started, span)
        try:
            self._ticks.submit(desk, Query(ask, identity, context), deliver, None if span is None else span.link)
        except RefusedError as refused:
            deliver(refused)
        return True

    def together(self, asked: Asked) -> Sequence[int]:
        """`tidemill_runtime.http.heads.Together`."""
        desk = self._desks.get(self._name)
        if desk is not None and desk.is_ready and desk.champion.active is not None:
            _PREDICT.refuse_beyond(asked, self._ticks.room)
        return range(len(asked))


class _Infer:
    """Takes rows for one model, or for one version of it."""

    def __init__(
        self, desks: Mapping[str, Desk], ticks: Ticks, readers: tuple[Bodies, Forms], name: str, version: str | None
    ) -> None:
        self._desks, self._ticks, self._name, self._version = desks, ticks, name, version
        self._bodies, self._forms = readers
        self._way = _INFER if version is None else _INFER_VERSION

    def __call__(self, body: bytes, trace: str | None, reply: Reply) -> bool:
        """`tidemill_runtime.http.heads.Take`."""
        started = time.perf_counter()
        desk = self._desks.get(self._name)
        if desk is None or desk.champion.active is None:
            return False
        if self._ticks.is_full:
            return self._way.refuse(reply, quick_traceparent(trace), started)
        rows = self._bodies.find(body)
        if rows is None or rows.width != len(desk.champion.active.plan.features):
            return False
        self._forms.learn(rows)
        context, span = begin(self._way.route, trace)
        deliver = _Sender(reply, context, self._way, started, span)
        try:
            self._ticks.submit_rows(desk, RowsQuery(rows, drawn.uuid(), context, self._version), deliver)
        except RefusedError as refused:
            deliver(refused)
        return True

    def together(self, asked: Asked) -> Sequence[int]:
        """`tidemill_runtime.http.heads.Together`."""
        started = time.perf_counter()
        desk = self._desks.get(self._name)
        if desk is None or desk.champion.active is None:
            return range(len(asked))
        self._way.refuse_beyond(asked, self._ticks.room_for_rows)
        width, found = len(desk.champion.active.plan.features), self._forms.find(asked)
        taken = [place for place, rows in enumerate(found) if rows is not None and rows.width == width]
        parents = asked.contexts()
        contexts, spans = begin_all(self._way.route, [parents[place] for place in taken])
        replies, queries = [asked.replies[place] for place in taken], list[RowsQuery]()
        for place, reply, context in zip(taken, replies, contexts, strict=True):
            rows = found[place]
            assert rows is not None  # noqa: S101 - see above
            reply.taken(rows.raw)
            queries.append(RowsQuery(rows, drawn.uuid(), context, self._version))
        senders = _Senders(replies, contexts, self._way, started, spans)
        count = self._ticks.submit_together(desk, queries, senders)
        senders.refuse(count)
        return sorted(set(range(len(found))).difference(taken)) if len(taken) < len(found) else ()


class _Way:
    """What the answers of a route have in common. `render` makes the body of a refusal, of media type `media`."""

    def __init__(self, route: str, media: str, render: Render) -> None:
        self.route, self.media, self.render = route, media, render
        self.seconds, self._refused = Seconds("POST", route, 200), Seconds("POST", route, 503)
        before, _, behind = self.head(503, "\0").partition(b"\0")
        self._overloaded, self._around = render(OVERLOADED, ""), (before, behind)

    def refuse(self, reply: Reply, context: str, started: float) -> bool:
        """There is no room in this tick: nothing of the request is read, so that saying so costs next to nothing."""
        before, behind = self._around
        reply.refuse(b"%b%b%b" % (before, context.encode(), behind), self._overloaded)
        self._refused.add(time.perf_counter() - started)
        return True

    def refuse_beyond(self, asked: Asked, room: int) -> None:
        """As `refuse` of those for whom there is no room, together.

        They are the first that came: who has waited least is answered, so that nobody is answered late however many
        ask (as "adaptive LIFO", B. Maurer, Fail at Scale, ACM Queue 13(8), 2015).
        """
        if (count := len(asked) - room) <= 0:
            return
        started = time.perf_counter()
        asked.refuse(count, self._around, self._overloaded)
        self._refused.add_all((time.perf_counter() - started) / count, count)

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


class _Senders:
    """As `_Sender` for requests that were taken together; their results may come in parts."""

    __slots__ = ("_contexts", "_place", "_replies", "_spans", "_started", "_way")

    def __init__(
        self, replies: Sequence[Reply], contexts: Sequence[str], way: _Way, started: float,
        spans: Sequence[ServerSpan | None] | None,
    ) -> None:  # fmt: skip
        self._replies, self._contexts, self._way, self._started = replies, contexts, way, started
        self._spans, self._place = spans, 0

    def refuse(self, first: int) -> None:
        """There was no room for those from `first` on."""
        for place in range(first, len(self._replies)):
            span = None if self._spans is None else self._spans[place]
            _Sender(self._replies[place], self._contexts[place], self._way, self._started, span)(OVERLOADED)

    def __call__(self, results: Sequence[Result]) -> None:
        first = self._place
        self._place = last = first + len(results)
        replies, contexts = self._replies[first:last], self._contexts[first:last]
        bodies = [result for result in results if isinstance(result, bytes)]
        if self._spans is not None or len(bodies) < len(results):
            spans = [None] * len(results) if self._spans is None else self._spans[first:last]
            for reply, context, span, result in zip(replies, contexts, spans, results, strict=True):
                _Sender(reply, context, self._way, self._started, span)(result)
            return
        front = replies[0].front() if replies else b""
        for reply, context, body in zip(replies, contexts, bodies, strict=True):
            reply.send(b"%b%d\r\ntraceparent: %b\r\n\r\n%b" % (front, len(body), context.encode(), body))
        if replies:
            replies[0].flush()
        self._way.seconds.add_all(time.perf_counter() - self._started, len(bodies))


def _problem(refused: RefusedError, trace_id: str) -> bytes:
    return bytes(problem_of(refused).response(trace_id or None).body)


def _error(refused: RefusedError, _trace_id: str) -> bytes:
    return error_of(refused)


_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_PREDICT = _Way(ROUTE, MEDIA_TYPE, _problem)
_INFER, _INFER_VERSION = _Way(INFER, JSON, _error), _Way(INFER_VERSION, JSON, _error)
