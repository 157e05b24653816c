"""`POST /v1/predict/{pipeline}`: read, check, score in the tick's batch, log, answer."""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from tidemill_contracts.ids import prediction_id
from tidemill_runtime.drawn import drawn
from tidemill_runtime.http import (
    ANYBODY,
    Caller,
    FieldError,
    HttpProblem,
    Route,
    caller_of,
    media_type,
    read_body,
    read_query,
)
from tidemill_runtime.http.arrow import ARROW, read_columns, write_columns
from tidemill_runtime.telemetry import current_traceparent, new_traceparent
from tidemill_serving.api.deadlines import DEADLINE, read_deadline
from tidemill_serving.api.models import Explain, Instance, Instances, Prediction, Predictions
from tidemill_serving.api.tables import MAXIMUM_TABLE_BYTES, MOST_ROWS, answer_slices
from tidemill_serving.domain.body import Fault, RefusedError, read_json
from tidemill_serving.domain.desk import Desk, Query, Result
from tidemill_serving.domain.extras import Extra, Seen, check_inline
from tidemill_serving.domain.requests import Ask, read_header_id
from tidemill_serving.domain.tables import TYPES, columns_of, read_asks

JSON = "application/json"
RETRY_AFTER_S = "1"
MAXIMUM_BYTES = 1024 * 1024
MINIMUM_WATERMARK = "tidemill-minimum-watermark"
MAXIMUM_WAIT_S = 30
MOST_EXPLAINED = 64
"""Instances of one request: each takes a millisecond or more."""
ABOUT = (
    f"JSON of at most {MAXIMUM_BYTES} bytes, or an Arrow IPC stream of at most {MOST_ROWS} rows: fields by name, "
    "$id and $time, `view.feature` for inline features; the answer is a stream as well, unless JSON is accepted."
)
_MICROSECONDS = re.compile(r"-?\d{1,18}", re.ASCII)
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,6})\"?\s*(?:$|[,;])", re.ASCII | re.IGNORECASE)


class Batches(Protocol):
    """Where queries of one tick come together."""

    async def answer(self, desk: Desk, queries: Sequence[Query]) -> list[Result]:
        """The results, in order."""

    def expected_s(self, count: int) -> float:
        """Seconds until so many more would be answered, from what instances have cost lately."""


class Fresh(Protocol):
    """How far event time has got."""

    async def reached(self, desk: Desk, minimum_us: int, seconds: float) -> bool:
        """Whether the features have reached an event time, now or within some seconds."""


class Explains(Protocol):
    """Tells why."""

    async def explain(self, seen: Sequence[Seen]) -> list[list[dict[str, Any]]]:
        """For each instance, of each member of its release."""


class Predictor:
    """The endpoint, apart from how its bytes arrive."""

    explains: Explains | None = None

    def __init__(self, desks: Mapping[str, Desk], batches: Batches, fresh: Fresh) -> None:
        self._desks, self._batches, self._fresh = desks, batches, fresh

    async def predict(  # noqa: PLR0913 - the parts of a request
        self, pipeline: str, raw: bytes, headers: Mapping[str, str], traceparent: str, *, explain: bool = False,
        caller: Caller = ANYBODY,
    ) -> bytes:  # fmt: skip
        """The body of the answer; raises RefusedError."""
        deadline = read_deadline(headers.get(DEADLINE))
        desk = await self._desk_of(pipeline, headers)
        if MINIMUM_WATERMARK in headers:
            deadline.check()
        asks, is_list = desk.reader.read(read_json(raw), read_header_id(headers.get("idempotency-key")))
        caller.charge(len(asks) - 1)
        if desk.champion.active is not None:
            check_inline(asks, desk.champion.active.plan.features)
        if explain:
            asks = _explained(asks)
        deadline.check(self._batches.expected_s(len(asks)))
        results = await self._batches.answer(desk, [_query(pipeline, ask, traceparent) for ask in asks])
        answers = list[bytes]()
        for result in results:
            if isinstance(result, RefusedError):
                raise result.with_traceback(None)  # it may be one for all
            answers.append(result)
        if explain:
            answers = await self._with_explanations(asks, answers)
        return _as_list(answers) if is_list else answers[0]

    async def predict_table(
        self, pipeline: str, raw: bytes, headers: Mapping[str, str], traceparent: str, caller: Caller
    ) -> tuple[list[bytes], list[str | None]]:  # fmt: skip
        """The answers to the rows of an Arrow stream, and the ids that they came with; raises RefusedError."""
        deadline = read_deadline(headers.get(DEADLINE))
        desk = await self._desk_of(pipeline, headers)
        columns = await asyncio.to_thread(read_columns, raw, MOST_ROWS)
        caller.charge(columns.height - 1)
        asks = read_asks(desk, columns)
        queries = [_query(pipeline, ask, traceparent) for ask in asks]
        return await answer_slices(self._batches, desk, queries, deadline), [ask.id for ask in asks]

    async def _with_explanations(self, asks: Sequence[Ask], answers: Sequence[bytes]) -> list[bytes]:
        """The answers with one more member; null where the answer was only repeated."""
        seen = {place: ask.extra.seen for place, ask in enumerate(asks) if ask.extra is not None and ask.extra.seen}
        told = dict(zip(seen, await self.explains.explain(list(seen.values())), strict=True)) if self.explains else {}
        return [
            b'%b,"explanation":%b}' % (answer[:-1], json.dumps(told.get(place), allow_nan=False).encode())
            for place, answer in enumerate(answers)
        ]

    async def _desk_of(self, pipeline: str, headers: Mapping[str, str]) -> Desk:
        """Where the pipeline's requests are answered, as far in event time as the headers ask for."""
        desk = self._desks.get(pipeline)
        if desk is None:
            raise RefusedError(404, "unknown pipeline", "no such pipeline")
        if not desk.is_ready:
            raise RefusedError(503, "starting", "the features of this pipeline are being read")
        if desk.champion.active is None:
            raise RefusedError(409, "no release yet", "no release yet: train first")
        minimum = headers.get(MINIMUM_WATERMARK)
        if minimum is not None:
            await self._check_fresh(desk, minimum, headers.get("prefer"))
        return desk

    async def _check_fresh(self, desk: Desk, minimum: str, prefer: str | None) -> None:
        """RFC 7240 for the wait: a preference that is not understood is ignored."""
        if not _MICROSECONDS.fullmatch(minimum):
            raise RefusedError(422, "the request breaks its declaration", f"{MINIMUM_WATERMARK} is microseconds")
        wait = _WAIT.search(prefer) if prefer else None
        seconds = min(int(wait[1]), MAXIMUM_WAIT_S) if wait else 0
        if not await self._fresh.reached(desk, int(minimum), seconds):
            raise RefusedError(503, "behind", "the features have not reached the watermark that was asked for")


def _as_list(answers: Sequence[bytes]) -> bytes:
    return b'{"predictions":[' + b",".join(answers) + b"]}"


def _explained(asks: Sequence[Ask]) -> list[Ask]:
    if len(asks) > MOST_EXPLAINED:
        fault = Fault("instances", "length", f"at most {MOST_EXPLAINED} instances can be explained at a time")
        raise RefusedError(422, "the request breaks its declaration", "", (fault,))
    return [ask._replace(extra=ask.extra or Extra()) for ask in asks]


def _query(pipeline: str, ask: Ask, traceparent: str) -> Query:
    identity = drawn.uuid() if ask.id is None else str(prediction_id(pipeline, ask.id))
    return Query(ask, identity, traceparent)


def problem_of(refused: RefusedError) -> HttpProblem:
    """The RFC 9457 problem of a refusal."""
    headers = {"retry-after": RETRY_AFTER_S} if refused.status == 503 else {}  # noqa: PLR2004 - unavailable
    errors = [FieldError(field=fault.field, rule=fault.rule, message=fault.message) for fault in refused.faults]
    return HttpProblem(refused.status, refused.detail or refused.title, errors=errors, headers=headers)


def predict_routes(predictor: Predictor) -> list[Route]:
    """The route of predictions."""

    async def predict_table(request: Request, raw: bytes, traceparent: str, *, explain: bool) -> Response:
        if explain:
            raise HttpProblem(422, "rows of tables are not explained: ask with JSON")
        name = request.path_params["pipeline"]
        try:
            answers, ids = await predictor.predict_table(name, raw, request.headers, traceparent, caller_of(request))
        except RefusedError as refused:
            raise problem_of(refused) from None
        if JSON in request.headers.get("accept", ""):
            return Response(_as_list(answers), media_type=JSON)
        body = await asyncio.to_thread(lambda: write_columns(columns_of(answers, ids), TYPES))
        return Response(body, media_type=ARROW)

    async def predict(request: Request) -> Response:
        caller_of(request).check_pipeline(request.path_params["pipeline"])
        query = read_query(request, Explain)
        raw = await read_body(request)
        traceparent = current_traceparent() or new_traceparent()
        if media_type(request) == ARROW:
            return await predict_table(request, raw, traceparent, explain=query.explain)
        if len(raw) > MAXIMUM_BYTES:
            raise HttpProblem(413, f"a body of JSON may have at most {MAXIMUM_BYTES} bytes")
        try:
            body = await predictor.predict(
                request.path_params["pipeline"], raw, request.headers, traceparent, explain=query.explain,
                caller=caller_of(request),
            )  # fmt: skip
        except RefusedError as refused:
            raise problem_of(refused) from None
        return Response(body, media_type=JSON)

    return [
        Route(
            method="POST", path="/v1/predict/{pipeline}", endpoint=predict, summary="Predict one instance or many",
            request=TypeAdapter(Instance | Instances), response=TypeAdapter(Prediction | Predictions),
            query=Explain, statuses=(404, 409, 503, 504), max_bytes=MAXIMUM_TABLE_BYTES, media=(JSON, ARROW),
            tags=("predict",), metered=True, description=ABOUT, headers={
                "Idempotency-Key": "the id of a single instance, instead of one in the body",
                MINIMUM_WATERMARK: "microseconds; 503 while the features are behind this event time",
                DEADLINE: "milliseconds that the sender waits; 504 at once where that is too short",
                "Prefer": f"wait=SECONDS, at most {MAXIMUM_WAIT_S}: the time to wait before that 503",
            },
        ),
    ]  # fmt: skip
