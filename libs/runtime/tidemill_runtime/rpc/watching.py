"""What is told of calls: how many took how long and ended how, by method and model; and their spans, where recorded."""

import time

from opentelemetry.trace import Span
from prometheus_client import Histogram

from tidemill_runtime import telemetry
from tidemill_runtime.drawn import drawn
from tidemill_runtime.http.heads import Tally
from tidemill_runtime.rpc.status import Code

SECONDS = Histogram(
    "tidemill_rpc_seconds", "From the head of a gRPC call to its end.", ["method", "model", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)  # fmt: skip
NO_MODEL = ""
MOST_MODELS = 1024
"""Whose calls are counted apart; those of further ones are counted together."""
MANY = "others"


class Watched:
    """Counts the calls of one path (`/package.Service/Method`)."""

    __slots__ = ("_method", "_models", "path")

    def __init__(self, path: str) -> None:
        self.path, self._method = path, path.removeprefix("/")
        self._models: dict[str, list[Tally | None]] = {}

    def count(self, model: str, code: Code, started: float) -> None:
        """A call that began at `started` (of `time.perf_counter`) is over."""
        tallies = self._models.get(model)
        if tallies is None:
            if len(self._models) >= MOST_MODELS:
                model = MANY
            tallies = self._models.setdefault(model, [None] * len(Code))
        tally = tallies[code]
        if tally is None:
            tally = tallies[code] = Tally(SECONDS.labels(self._method, model, code.name))
        tally.add(time.perf_counter() - started)

    def begin(self, parent: str | None) -> "tuple[str | None, CallSpan | None]":
        """The context of a call and its span, where spans are exported; `parent` is what the metadata has for one."""
        exporter = telemetry.exporter()
        if exporter is None:
            return None, None
        above = parent if parent is not None and telemetry.is_traceparent(parent) else None
        trace_id = drawn.take(32) if above is None else above[3:35]
        if not exporter.keeps(above, trace_id):
            return f"00-{trace_id}-{drawn.take(16)}-00", None
        context, span = exporter.begin(self._method, above, trace_id)
        return context, CallSpan(span, self._method)


class CallSpan:
    """The span of one call, which is recorded."""

    __slots__ = ("_method", "_span")

    def __init__(self, span: Span, method: str) -> None:
        self._span, self._method = span, method

    def end(self, code: Code) -> None:
        """The call is over."""
        service, _, method = self._method.rpartition("/")
        self._span.set_attributes(
            {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method, "rpc.grpc.status_code": int(code)}
        )
        self._span.end()
