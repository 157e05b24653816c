"""The hot path: whole requests of known heads, straight from the connection into the tick's batch and back.

It takes what it can answer without a second look; whatever else is asked, and however it is wrong, the routes answer.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from pydantic import SecretStr

from tidemill_contracts.ids import prediction_id
from tidemill_runtime.drawn import drawn
from tidemill_runtime.edge_spans import begin, begin_all
from tidemill_runtime.http import Keys
from tidemill_runtime.http.heads import KNOWN_HEADS, Reply, Take
from tidemill_runtime.http.together import Asked
from tidemill_runtime.telemetry import quick_traceparent
from tidemill_serving.api.deadlines import DEADLINE
from tidemill_serving.api.forms import Forms
from tidemill_serving.api.front import PREFIX, ROUTE
from tidemill_serving.api.inference import MAXIMUM_BYTES as MAXIMUM_TENSOR_BYTES
from tidemill_serving.api.predict import MAXIMUM_BYTES, MINIMUM_WATERMARK
from tidemill_serving.api.ways import INFER_VERSION_WAY, INFER_WAY, JSON, PREDICT_WAY, Sender, Senders
from tidemill_serving.domain.bodies import Bodies
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.desk import Desk, Query, Result
from tidemill_serving.domain.requests import Ask
from tidemill_serving.domain.tensors import RowsQuery

MODELS = "/v2/models/"
_CAREFULLY = frozenset({"content-encoding", "idempotency-key", "prefer", DEADLINE, MINIMUM_WATERMARK})
Deliver = Callable[[Result], None]
DeliverAll = Callable[[Sequence[Result]], None]
Link = Callable[[Iterable[str]], None]


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

    def submit_together(
        self, desk: Desk, queries: Sequence[Query], deliver: DeliverAll, links: Sequence[Link | None] | None = None
    ) -> int:
        """As `submit` for many; for how many, from the first on, there was room."""

    def submit_rows(self, desk: Desk, query: RowsQuery, deliver: Deliver) -> None:
        """As `submit`."""

    def submit_rows_together(self, desk: Desk, queries: Sequence[RowsQuery], deliver: DeliverAll) -> int:
        """As `submit_together`."""


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
            return PREDICT_WAY.refuse(reply, quick_traceparent(trace), started)
        ask = desk.reader.quickly(body)
        if ask is None:
            return False
        context, span = begin(ROUTE, trace)
        identity = drawn.uuid() if ask.id is None else str(prediction_id(self._name, ask.id))
        deliver = Sender(reply, context, PREDICT_WAY, started, span)
        try:
            self._ticks.submit(desk, Query(ask, identity, context), deliver, None if span is None else span.link)
        except RefusedError as refused:
            deliver(refused)
        return True

    def together(self, asked: Asked) -> Sequence[int]:
        """`tidemill_runtime.http.heads.Together`."""
        started = time.perf_counter()
        desk = self._desks.get(self._name)
        if desk is None or not desk.is_ready or desk.champion.active is None:
            return range(len(asked))
        PREDICT_WAY.refuse_beyond(asked, self._ticks.room)
        if not len(asked):
            return ()
        left, taken, asks = list[int](), list[int](), list[Ask]()
        for place, body in enumerate(asked.bodies()):
            ask = desk.reader.quickly(body)
            if ask is None:
                left.append(place)
            else:
                taken.append(place)
                asks.append(ask)
        replies, parents = asked.replies, asked.contexts()
        if left:
            replies, parents = [replies[place] for place in taken], [parents[place] for place in taken]
        contexts, spans = begin_all(ROUTE, parents)
        queries = [
            Query(ask, drawn.uuid() if ask.id is None else str(prediction_id(self._name, ask.id)), context)
            for ask, context in zip(asks, contexts, strict=True)
        ]
        senders = Senders(replies, contexts, PREDICT_WAY, started, spans)
        links = None if spans is None else [None if span is None else span.link for span in spans]
        senders.refuse(self._ticks.submit_together(desk, queries, senders, links))
        return left


class _Infer:
    """Takes rows for one model, or for one version of it."""

    def __init__(
        self, desks: Mapping[str, Desk], ticks: Ticks, readers: tuple[Bodies, Forms], name: str, version: str | None
    ) -> None:
        self._desks, self._ticks, self._name, self._version = desks, ticks, name, version
        self._bodies, self._forms = readers
        self._way = INFER_WAY if version is None else INFER_VERSION_WAY

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
        deliver = Sender(reply, context, self._way, started, span)
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
        if not len(asked):
            return ()
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
        senders = Senders(replies, contexts, self._way, started, spans)
        senders.refuse(self._ticks.submit_rows_together(desk, queries, senders))
        return sorted(set(range(len(found))).difference(taken)) if len(taken) < len(found) else ()
