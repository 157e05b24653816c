"""Spans of requests that are answered without ASGI: the sampler is asked first, and what it drops costs no span."""

from collections.abc import Iterable, Sequence

from opentelemetry.trace import Span

from tidemill_runtime import telemetry
from tidemill_runtime.drawn import drawn


class ServerSpan:
    """The span of one request, which is recorded."""

    __slots__ = ("_route", "_span")

    def __init__(self, span: Span, route: str) -> None:
        self._span, self._route = span, route

    def link(self, contexts: Iterable[str]) -> None:
        """To what is behind the answer (the first 32)."""
        telemetry.linker(self._span)(contexts)

    def end(self, status: int) -> None:
        """The request has its answer. A span that is not ended was none."""
        self._span.set_attributes(
            {"http.request.method": "POST", "http.route": self._route, "http.response.status_code": status}
        )
        self._span.end()


def begin(route: str, parent: str | None) -> tuple[str, ServerSpan | None]:
    """The context of a POST outside of every span, and its span where one is recorded.

    `OTEL_TRACES_SAMPLER` says which are; where it goes by the parent, as it does unless told otherwise, the sender's
    flag does. The parent is None or has passed `is_traceparent`.
    """
    exporter = telemetry.exporter()
    if exporter is None:
        return telemetry.quick_traceparent(parent), None
    trace_id = drawn.take(32) if parent is None else parent[3:35]
    if not exporter.keeps(parent, trace_id):
        return f"00-{trace_id}-{drawn.take(16)}-00", None
    context, span = exporter.begin(f"POST {route}", parent, trace_id)
    return context, ServerSpan(span, route)


def begin_all(route: str, parents: Sequence[str | None]) -> tuple[list[str], list[ServerSpan | None] | None]:
    """As `begin` for many; None for spans where none is recorded."""
    if telemetry.exporter() is None:
        return [telemetry.quick_traceparent(parent) for parent in parents], None
    begun = [begin(route, parent) for parent in parents]
    spans = [span for _, span in begun]
    return [context for context, _ in begun], spans if any(span is not None for span in spans) else None
