"""Traces without a required collector: W3C trace context is always passed on, spans are made with an OTLP endpoint.

The current `traceparent` lives in a context variable, so log lines, outbox rows and produced records carry it at the
cost of a dictionary look-up. With `OTEL_EXPORTER_OTLP_ENDPOINT` set, spans follow the OpenTelemetry conventions.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags, Tracer
from opentelemetry.util.types import AttributeValue

from tidemill_runtime.drawn import drawn
from tidemill_runtime.logs import configure_logging
from tidemill_runtime.settings import ServiceSettings

MAX_LINKS = 32
SPANS: Mapping[str, Mapping[str, object]] = {
    "{method} {route}": {
        "kind": "server",
        "links": "of a prediction: the contexts of the vectors that it read, and of the swap to its release",
        "attributes": ["http.request.method", "http.route", "http.response.status_code"],
    },
    "{rpc.service}/{rpc.method}": {
        "kind": "server", "attributes": ["rpc.system", "rpc.service", "rpc.method", "rpc.grpc.status_code"],
    },
    "send {topic}": {
        "kind": "producer",
        "links": "of feature vectors: the contexts of the events in them, at most 32",
        "attributes": ["messaging.system", "messaging.operation.type", "messaging.destination.name"],
    },
    "process {topic}": {
        "kind": "consumer",
        "links": "the distinct contexts of the batch's records, at most 32",
        "attributes": [
            "messaging.system", "messaging.operation.type", "messaging.destination.name",
            "messaging.consumer.group.name", "messaging.batch.message_count",
        ],
    },
    "detect drift": {
        "kind": "internal",
        "links": "the contexts of predictions and labels among its evidence, at most 32",
        "attributes": ["tidemill.pipeline", "tidemill.drift.kind", "tidemill.drift.subject"],
    },
    "request training": {
        "kind": "internal",
        "links": "as the drift's; its parent where a drift was the cause",
        "attributes": ["tidemill.pipeline", "tidemill.cause", "tidemill.outcome"],
    },
    "train": {"kind": "internal", "attributes": ["tidemill.pipeline", "tidemill.cause", "tidemill.request"]},
    "release": {"kind": "internal", "attributes": ["tidemill.pipeline", "tidemill.epoch"]},
    "swap": {"kind": "internal", "links": "the context of the release",
             "attributes": ["tidemill.pipeline", "tidemill.epoch"]},
}  # fmt: skip
"""The spans of every service, for `schemas/telemetry.yaml`."""

Attributes = Mapping[str, AttributeValue]
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_current: ContextVar[str | None] = ContextVar("traceparent", default=None)
_random = random.SystemRandom()
_KINDS = {
    "server": SpanKind.SERVER,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
    "internal": SpanKind.INTERNAL,
}
_exporter: Any = None


def init(settings: ServiceSettings) -> None:
    """Set up JSON logs on stderr and, when an OTLP endpoint is configured, the export of spans and metrics."""
    global _exporter  # noqa: PLW0603 - one per process, as the registry of metrics and the root logger are
    configure_logging(settings.service, settings.log_level, current_trace_id)
    if settings.otlp_endpoint and _exporter is None:
        from tidemill_runtime.otlp import Exporter  # noqa: PLC0415 - 20 MiB that only this needs

        _exporter = Exporter(settings, settings.otlp_endpoint)


def shutdown() -> None:
    """Send what is buffered, waiting at most three seconds, and stop exporting."""
    global _exporter  # noqa: PLW0603 - see init
    if _exporter is not None:
        _exporter.stop()
        _exporter = None


def enabled() -> bool:
    """Whether spans are exported; without, code on the data path need not collect links."""
    return _exporter is not None


def exporter() -> Any:  # noqa: ANN401 - `tidemill_runtime.otlp.Exporter`, imported only where there is an endpoint
    return _exporter


def traceparents(records: Iterable[Any]) -> Iterator[str]:
    """The trace contexts that Kafka records carry."""
    for record in records:
        for name, value in record.headers:
            if name == "traceparent" and value is not None:  # Kafka allows headers without a value
                yield value.decode("ascii", "replace")


def tracer() -> Tracer:
    """The tracer of this process; without an OTLP endpoint its spans record nothing."""
    if _exporter is None:
        return trace.NoOpTracer()
    found: Tracer = _exporter.provider.get_tracer("tidemill")
    return found


def current_traceparent() -> str | None:
    """The `traceparent` to write into whatever this code causes; None outside every span."""
    return _current.get()


def current_trace_id() -> str | None:
    """The trace id (32 hexadecimal digits) of the current context."""
    text = _current.get()
    return None if text is None else text[3:35]


def new_traceparent(parent: str | None = None) -> str:
    """A context of its own: the trace of `parent`, or a new one when that is absent or malformed."""
    match = _TRACEPARENT.fullmatch(parent) if parent else None
    own = f"{_random.getrandbits(64) or 1:016x}"
    if match is None or match[1] == "0" * 32:
        return f"00-{_random.getrandbits(128) or 1:032x}-{own}-01"
    return f"00-{match[1]}-{own}-{_flags(match[0])}"


def _flags(parent: str) -> str:
    """Whether the trace is sampled, as whoever began it has it: the only flag of version 00 that is passed on."""
    return "01" if int(parent[-2:], 16) & 1 else "00"


def is_traceparent(text: str) -> bool:
    """Whether a header's text is a context that a request may go on in."""
    return _TRACEPARENT.fullmatch(text) is not None and text[3:35] != "0" * 32


def quick_traceparent(parent: str | None) -> str:
    """As `new_traceparent` at a fifth of its price; the parent is None or has passed `is_traceparent`."""
    if parent is None:
        return drawn.traceparent()
    return f"00-{parent[3:35]}-{drawn.take(16)}-{_flags(parent)}"


@contextmanager
def span(
    name: str,
    kind: Literal["server", "producer", "consumer", "internal"] = "internal",
    *,
    parent: str | None = None,
    links: Sequence[str] = (),
    attributes: Attributes | None = None,
) -> Iterator[Span]:
    """A span around the body, current for logs and producers; `parent` None means the current one.

    `links` are the contexts of the records in a batch (the first 32 distinct ones are kept).
    """
    parent = parent or _current.get()
    if _exporter is None:
        token = _current.set(new_traceparent(parent))
        try:
            yield trace.INVALID_SPAN
        finally:
            _current.reset(token)
        return
    with _recording(name, kind, parent, links, attributes) as recorded:
        token = _current.set(_text(recorded.get_span_context()))
        try:
            yield recorded
        finally:
            _current.reset(token)


@contextmanager
def _recording(
    name: str, kind: str, parent: str | None, links: Sequence[str], attributes: Attributes | None
) -> Iterator[Span]:
    linked = _links(list(dict.fromkeys(links)))
    with tracer().start_as_current_span(
        name, _above(parent), kind=_KINDS[kind], links=linked, attributes=dict(attributes or {})
    ) as recorded:
        yield recorded


def _above(parent: str | None) -> Context | None:
    found = _context(parent)
    return trace.set_span_in_context(NonRecordingSpan(found)) if found else None


def _links(distinct: Sequence[str]) -> list[Link]:
    return [Link(found) for text in distinct[:MAX_LINKS] if (found := _context(text))]


@contextmanager
def producing(topic: str, *, parent: str | None = None) -> Iterator[str]:
    """A producer span named as OpenTelemetry's messaging conventions ask; yields the traceparent of the records."""
    attributes = {"messaging.system": "kafka", "messaging.operation.type": "send", "messaging.destination.name": topic}
    with span(f"send {topic}", "producer", parent=parent, attributes=attributes):
        yield _current.get() or new_traceparent()


@contextmanager
def sending(records: Mapping[str, Sequence[str]]) -> Iterator[None]:
    """A producer span for each topic of one write whose records carry the contexts of what caused them.

    `records` maps a topic to those contexts: its span is a child of the only one, and linked to the distinct ones. Only
    to be called while `enabled`.
    """
    spans = []
    for topic, contexts in records.items():
        distinct = list(dict.fromkeys(contexts))
        attributes = {
            "messaging.system": "kafka", "messaging.operation.type": "send", "messaging.destination.name": topic,
        }  # fmt: skip
        above = (_above(distinct[0]) if len(distinct) == 1 else None) or Context()
        spans.append(
            tracer().start_span(
                f"send {topic}", above, kind=SpanKind.PRODUCER, links=_links(distinct), attributes=attributes
            )
        )
    try:
        yield
    finally:
        for started in spans:
            started.end()


def recording() -> bool:
    """Whether the span around this code is one that is exported."""
    return _exporter is not None and trace.get_current_span().is_recording()


def linker(span: Span | None = None) -> Callable[[Iterable[str]], None]:
    """Links a span (None: the one around this code) to contexts that are known later (the first 32)."""
    linked = span or trace.get_current_span()

    def link(contexts: Iterable[str]) -> None:
        for found in _links(list(dict.fromkeys(contexts))):
            linked.add_link(found.context)

    return link


@contextmanager
def processing(topic: str, group: str, traceparents: Sequence[str], *, count: int = 1) -> Iterator[Span]:
    """A consumer span around a batch of `count` records: child of its only context, linked to the distinct ones."""
    distinct = list(dict.fromkeys(traceparents))
    attributes: dict[str, AttributeValue] = {
        "messaging.system": "kafka", "messaging.operation.type": "process", "messaging.destination.name": topic,
        "messaging.consumer.group.name": group, "messaging.batch.message_count": count,
    }  # fmt: skip
    parent = distinct[0] if len(distinct) == 1 else None
    with span(f"process {topic}", "consumer", parent=parent, links=distinct, attributes=attributes) as current:
        yield current


def _context(text: str | None) -> SpanContext | None:
    match = _TRACEPARENT.fullmatch(text) if text else None
    if match is None:
        return None
    flags = TraceFlags(int(match[3], 16))
    found = SpanContext(int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=flags)
    return found if found.is_valid else None


def _text(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
