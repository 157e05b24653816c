"""Received spans as a graph: from a span to its parent and to what it is linked to."""

from collections.abc import Iterable, Iterator

from opentelemetry.proto.trace.v1.trace_pb2 import Span

Context = tuple[bytes, bytes]
"""Trace id and span id."""


def context_of(span: Span) -> Context:
    """Where others point to when they mean this span."""
    return span.trace_id, span.span_id


def attribute(span: Span, name: str) -> str | int | None:
    """A text or whole number that the span carries."""
    for found in span.attributes:
        if found.key == name:
            is_text = found.value.HasField("string_value")
            return str(found.value.string_value) if is_text else int(found.value.int_value)
    return None


class Traces:
    """The spans that have arrived so far, as (service name, span)."""

    def __init__(self, spans: Iterable[tuple[str, Span]]) -> None:
        self._spans = {context_of(span): (service, span) for service, span in spans}

    def named(self, service: str, name: str) -> list[Span]:
        """Spans of a service by name, in the order of their start."""
        found = [span for owner, span in self._spans.values() if (owner, span.name) == (service, name)]
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    def of_trace(self, trace_id: bytes) -> set[tuple[str, str]]:
        """(service, span name) of everything in one trace."""
        return {(owner, span.name) for owner, span in self._spans.values() if span.trace_id == trace_id}

    def causes(self, span: Span) -> list[Span]:
        """The span's parent and those it is linked to, as far as they have arrived."""
        return [cause for _, cause in self._causes(span)]

    def back(self, span: Span, service: str, name: str) -> Span | None:
        """The nearest span of this service and name on the way back from a span, by parents and links."""
        seen, edge = {context_of(span)}, [span]
        while edge:
            found = [cause for each in edge for cause in self._causes(each) if context_of(cause[1]) not in seen]
            for owner, cause in found:
                if (owner, cause.name) == (service, name):
                    return cause
            seen.update(context_of(cause) for _, cause in found)
            edge = [cause for _, cause in found]
        return None

    def _causes(self, span: Span) -> Iterator[tuple[str, Span]]:
        wanted = [(span.trace_id, span.parent_span_id), *((link.trace_id, link.span_id) for link in span.links)]
        return (self._spans[context] for context in dict.fromkeys(wanted) if context in self._spans)
