"""The ASGI application around a route table: key, trace, problems, metrics. One middleware, no copying of bodies."""

import logging
import time
from collections.abc import Sequence

from prometheus_client import Histogram
from pydantic import SecretStr
from starlette.datastructures import Headers, MutableHeaders, State
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.routing import Router
from starlette.types import Message, Receive, Scope, Send

from tidemill_runtime.http.keys import ANYBODY, Caller, Keys
from tidemill_runtime.http.problems import HttpProblem
from tidemill_runtime.http.routes import Route, json_response
from tidemill_runtime.telemetry import current_trace_id, current_traceparent, span

SECONDS = Histogram(
    "tidemill_http_request_seconds", "From the request's head to the end of its answer.", ["method", "route", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)  # fmt: skip
_log = logging.getLogger(__name__)


class App:
    """Answers HTTP for `routes`; endpoints find what the composition root gave them under `request.app.state`."""

    def __init__(
        self, routes: Sequence[Route], *, api_key: SecretStr | None = None, keys: Keys | None = None
    ) -> None:  # fmt: skip
        """`keys` are those who may ask; or there is one `api_key` for all, or none."""
        self.state = State()
        self.routes = tuple(routes)
        self._keys = keys or Keys(api_key)
        self._router = Router([_starlette_route(route) for route in routes], redirect_slashes=False)
        self._public = {route.path for route in routes if route.public}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. Every failure becomes a problem; what nobody expected becomes a 500 that names its trace id."""
        if scope["type"] != "http":
            raise RuntimeError("only HTTP is served here")
        scope["app"] = self
        started = time.perf_counter()
        headers = Headers(scope=scope)
        with span(scope["method"], "server", parent=headers.get("traceparent")) as current:
            answer = _Answer(send)
            await self._answer(scope, receive, answer)
            route = scope.get("tidemill.route")
            path = route.path if route else "unmatched"
            if current.is_recording():
                current.update_name(f"{scope['method']} {path}")
                current.set_attribute("http.request.method", scope["method"])
                current.set_attribute("http.route", path)
                current.set_attribute("http.response.status_code", answer.status)
        SECONDS.labels(scope["method"] if route else "any", path, answer.status).observe(time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            self._authorise(scope)
            await self._router(scope, receive, answer)
        except HttpProblem as problem:
            await answer.fail(problem, scope, receive)
        except HTTPException as error:  # the router's own 404 and 405
            await answer.fail(HttpProblem(error.status_code, headers=error.headers), scope, receive)
        except Exception:  # noqa: BLE001 - the edge of the process: nothing may pass it
            _log.exception("unexpected failure", extra={"path": scope["path"], "method": scope["method"]})
            await answer.fail(
                HttpProblem(500, "an unexpected failure; the log has it under this trace id"), scope, receive
            )

    def _authorise(self, scope: Scope) -> None:
        if not self._keys.are_needed or scope["path"] in self._public:
            return
        caller = self._keys.find(Headers(scope=scope))
        caller.charge(1)
        scope["tidemill.caller"] = caller


def caller_of(request: Request) -> Caller:
    """Who asks: whoever may do everything where no keys are needed."""
    found: Caller = request.scope.get("tidemill.caller", ANYBODY)
    return found


class _Answer:
    """Sends on, remembers the status, and adds the trace context to the head of the answer."""

    def __init__(self, send: Send) -> None:
        self._send, self.status = send, 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            traceparent = current_traceparent()
            if traceparent is not None:
                MutableHeaders(scope=message)["traceparent"] = traceparent
        await self._send(message)

    async def fail(self, problem: HttpProblem, scope: Scope, receive: Receive) -> None:
        if not self.status:  # else the head is out, and only closing the connection can tell
            await problem.response(current_trace_id())(scope, receive, self)


def _starlette_route(route: Route) -> StarletteRoute:
    async def run(request: Request) -> Response:
        request.scope["tidemill.route"] = route
        if not route.metered and route.method != "GET" and caller_of(request).bucket is not None:
            raise HttpProblem(403, "the API key does not open this")
        answer = await route.endpoint(request)
        return answer if isinstance(answer, Response) else json_response(answer, route.status)

    return StarletteRoute(route.path, run, methods=[route.method])
