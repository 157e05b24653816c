"""How requests on the hot path are answered or refused: by route, one by one or many together."""

import time
from collections.abc import Callable, Sequence
from http import HTTPStatus

from tidemill_runtime.edge_spans import ServerSpan
from tidemill_runtime.http.app import SECONDS
from tidemill_runtime.http.heads import Reply, Seconds
from tidemill_runtime.http.problems import MEDIA_TYPE
from tidemill_runtime.http.together import Asked
from tidemill_serving.api.front import ROUTE
from tidemill_serving.api.inference import error_of
from tidemill_serving.api.predict import RETRY_AFTER_S, problem_of
from tidemill_serving.domain.body import OVERLOADED, RefusedError
from tidemill_serving.domain.desk import Result
from tidemill_serving.domain.tensors import UNREADABLE

INFER, INFER_VERSION = "/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"
JSON = "application/json"
Render = Callable[[RefusedError, str], bytes]


class Way:
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


class Sender:
    """Gives the result of one request to its connection, and counts it."""

    __slots__ = ("_context", "_reply", "_span", "_started", "_way")

    def __init__(self, reply: Reply, context: str, way: Way, started: float, span: ServerSpan | None) -> None:
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


class Senders:
    """As `Sender` for requests that were taken together; their results may come in parts."""

    __slots__ = ("_contexts", "_place", "_replies", "_spans", "_started", "_way")

    def __init__(
        self, replies: Sequence[Reply], contexts: Sequence[str], way: Way, started: float,
        spans: Sequence[ServerSpan | None] | None,
    ) -> None:  # fmt: skip
        self._replies, self._contexts, self._way, self._started = replies, contexts, way, started
        self._spans, self._place = spans, 0

    def refuse(self, first: int) -> None:
        """There was no room for those from `first` on."""
        for place in range(first, len(self._replies)):
            span = None if self._spans is None else self._spans[place]
            Sender(self._replies[place], self._contexts[place], self._way, self._started, span)(OVERLOADED)

    def __call__(self, results: Sequence[Result]) -> None:
        first = self._place
        self._place = last = first + len(results)
        replies, contexts = self._replies[first:last], self._contexts[first:last]
        bodies = [result for result in results if isinstance(result, bytes)]
        if self._spans is not None or len(bodies) < len(results):
            spans = [None] * len(results) if self._spans is None else self._spans[first:last]
            for reply, context, span, result in zip(replies, contexts, spans, results, strict=True):
                Sender(reply, context, self._way, self._started, span)(result)
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
PREDICT_WAY = Way(ROUTE, MEDIA_TYPE, _problem)
INFER_WAY, INFER_VERSION_WAY = Way(INFER, JSON, _error), Way(INFER_VERSION, JSON, _error)
