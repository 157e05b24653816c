"""The hot path: `POST /v1/predict/{pipeline}` straight from ASGI messages; everything else goes to the routes behind.

It answers as the route of the same path does, for a third of its cost: no request and response objects, no routing.
"""

import asyncio
import logging
import time
from collections.abc import Iterable

from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from tidemill_runtime.http import HttpProblem, Keys
from tidemill_runtime.http.app import SECONDS
from tidemill_runtime.http.arrow import ARROW
from tidemill_runtime.http.bodies import READ_TIMEOUT_S
from tidemill_runtime.telemetry import current_trace_id, current_traceparent, new_traceparent, span
from tidemill_serving.api.deadlines import DEADLINE
from tidemill_serving.api.predict import MAXIMUM_BYTES, MINIMUM_WATERMARK, Predictor, problem_of
from tidemill_serving.domain.body import RefusedError

PREFIX = "/v1/predict/"
ROUTE = "/v1/predict/{pipeline}"
_WANTED = frozenset(
    name.encode()
    for name in (
        "authorization", "content-length", "content-type", "idempotency-key", "prefer", "traceparent",
        "x-api-key", DEADLINE, MINIMUM_WATERMARK,
    )
)  # fmt: skip
_TABLE = (b"content-type", ARROW.encode())
_OK = SECONDS.labels("POST", ROUTE, 200)
_log = logging.getLogger(__name__)


class Front:
    """An ASGI application in front of another."""

    def __init__(
        self, behind: ASGIApp, predictor: Predictor, *, api_key: SecretStr | None = None, keys: Keys | None = None
    ) -> None:  # fmt: skip
        """`keys` as `tidemill_runtime.http.App` takes them."""
        self._behind, self._predictor, self._keys = behind, predictor, keys or Keys(api_key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and scope["method"] == "POST":
            path: str = scope["path"]
            pipeline = path[len(PREFIX) :]
            is_known = path.startswith(PREFIX) and pipeline and "/" not in pipeline and not scope["query_string"]
            if is_known and _TABLE not in scope["headers"]:
                await self._predict(pipeline, scope, receive, send)
                return
        await self._behind(scope, receive, send)

    async def _predict(self, pipeline: str, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers = _headers(scope["headers"])
        with span("POST " + ROUTE, "server", parent=headers.get("traceparent")) as current:
            status = 200
            try:
                caller = self._keys.find(headers)
                caller.charge(1)
                caller.check_pipeline(pipeline)
                raw = await _read(headers, receive)
                context = current_traceparent() or new_traceparent()
                body = await self._predictor.predict(pipeline, raw, headers, context, caller=caller)
            except (RefusedError, HttpProblem) as refused:
                problem = problem_of(refused) if isinstance(refused, RefusedError) else refused
                status = problem.status
                await _fail(problem, scope, receive, send)
            except Exception:  # noqa: BLE001 - the edge of the process: nothing may pass it
                status = 500
                _log.exception("unexpected failure", extra={"path": ROUTE, "method": "POST"})
                detail = "an unexpected failure; the log has it under this trace id"
                await _fail(HttpProblem(status, detail), scope, receive, send)
            else:
                await _answer(body, send)
            if current.is_recording():
                current.set_attributes(
                    {"http.request.method": "POST", "http.route": ROUTE, "http.response.status_code": status}
                )
        seconds = _OK if status == 200 else SECONDS.labels("POST", ROUTE, status)  # noqa: PLR2004 - OK
        seconds.observe(time.perf_counter() - started)


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers that matter here; of repeated ones the first, as Starlette has it."""
    found: dict[str, str] = {}
    for name, value in raw:
        if name in _WANTED:
            found.setdefault(name.decode("latin-1"), value.decode("latin-1"))
    return found


async def _read(headers: dict[str, str], receive: Receive) -> bytes:
    """The body within the limit; raises HttpProblem 415, 413, 408 or 400."""
    media = headers.get("content-type", "")
    if media != "application/json" and media.partition(";")[0].strip().lower() != "application/json":
        raise HttpProblem(415, "the body must be application/json")
    declared = headers.get("content-length")
    if declared is not None and (not declared.isdigit() or int(declared) > MAXIMUM_BYTES):
        raise _too_large()
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] != "http.request" or message.get("more_body", False):
        return await _read_on(body, message["type"], receive)
    if len(body) > MAXIMUM_BYTES:
        raise _too_large()
    return body


async def _read_on(body: bytes, kind: str, receive: Receive) -> bytes:
    """The rest of a body that comes in parts."""
    parts, size, more = [body], len(body), True
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            while more:
                if kind != "http.request":
                    raise HttpProblem(400, "the client went away before its body had arrived")
                if size > MAXIMUM_BYTES:
                    raise _too_large()
                message = await receive()
                kind, more = message["type"], message.get("more_body", False)
                parts.append(message.get("body", b""))
                size += len(parts[-1])
    except TimeoutError:
        raise HttpProblem(408, f"the body did not arrive within {READ_TIMEOUT_S:g} s") from None
    if size > MAXIMUM_BYTES:
        raise _too_large()
    return b"".join(parts)


def _too_large() -> HttpProblem:
    return HttpProblem(413, f"the body may have at most {MAXIMUM_BYTES} bytes", headers={"connection": "close"})


async def _answer(body: bytes, send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if (traceparent := current_traceparent()) is not None:
        headers.append((b"traceparent", traceparent.encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _fail(problem: HttpProblem, scope: Scope, receive: Receive, send: Send) -> None:
    if (traceparent := current_traceparent()) is not None:
        problem.headers.setdefault("traceparent", traceparent)
    await problem.response(current_trace_id())(scope, receive, send)
