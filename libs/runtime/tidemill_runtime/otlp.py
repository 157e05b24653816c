"""Export over OTLP: spans as they end, and the Prometheus registry every few seconds, so that each metric exists once.

Imported only when an endpoint is configured: the SDK and its exporters cost memory that a small machine does not have.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags, set_span_in_context
from prometheus_client import REGISTRY
from prometheus_client.samples import Sample

from tidemill_runtime.settings import ServiceSettings

METRICS_EVERY_S = 10.0
SPANS_EVERY_MS = 500
TIMEOUT_S = 3.0
_NOWHERE = Context()
_CUMULATIVE = AggregationTemporality.CUMULATIVE
Labels = tuple[tuple[str, str], ...]


class _Ids(RandomIdGenerator, threading.local):
    """Random ids, but for a trace whose id was drawn to ask the sampler about it."""

    wanted: int | None = None

    def generate_trace_id(self) -> int:
        return super().generate_trace_id() if self.wanted is None else self.wanted


class Exporter:
    """Sends this process's spans and metrics to `endpoint` (the base URL of an OTLP/HTTP receiver)."""

    def __init__(self, settings: ServiceSettings, endpoint: str) -> None:
        base = endpoint.rstrip("/")
        self._resource = Resource.create(
            {"service.name": f"tidemill-{settings.service}", "service.instance.id": settings.instance}
        )
        self._ids = _Ids()
        self.provider = TracerProvider(resource=self._resource, id_generator=self._ids)
        self._tracer = self.provider.get_tracer("tidemill")
        spans = OTLPSpanExporter(endpoint=f"{base}/v1/traces", timeout=TIMEOUT_S)
        self.provider.add_span_processor(BatchSpanProcessor(spans, schedule_delay_millis=SPANS_EVERY_MS))
        self._metrics = OTLPMetricExporter(endpoint=f"{base}/v1/metrics", timeout=TIMEOUT_S)
        self._started_ns, self._stopping = time.time_ns(), threading.Event()
        self._thread = threading.Thread(target=self._push, name="otlp-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send what is left, waiting at most a few seconds: a receiver that is away must not delay the exit."""
        self._stopping.set()
        last = threading.Thread(target=self.provider.shutdown, daemon=True)
        last.start()
        last.join(TIMEOUT_S / 2)
        self._thread.join(TIMEOUT_S / 2)

    def keeps(self, parent: str | None, trace_id: str) -> bool:
        """Whether a request of this trace is recorded; `parent` is a checked `traceparent`."""
        sampler = self.provider.sampler
        if parent is not None and isinstance(sampler, ParentBased):
            return bool(int(parent[-2:], 16) & 1)
        return sampler.should_sample(_NOWHERE, int(trace_id, 16), "").decision is Decision.RECORD_AND_SAMPLE

    def begin(self, name: str, parent: str | None, trace_id: str) -> tuple[str, Span]:
        """A server span and its `traceparent`; without a parent it begins the trace of this id."""
        above, number = _NOWHERE, int(trace_id, 16)
        if parent is not None:
            flags = TraceFlags(int(parent[-2:], 16))
            remote = SpanContext(number, int(parent[36:52], 16), is_remote=True, trace_flags=flags)
            above = set_span_in_context(NonRecordingSpan(remote), above)
        self._ids.wanted = number
        try:
            span = self._tracer.start_span(name, above, kind=SpanKind.SERVER)
        finally:
            self._ids.wanted = None
        made = span.get_span_context()
        return f"00-{made.trace_id:032x}-{made.span_id:016x}-{int(made.trace_flags):02x}", span

    def _push(self) -> None:
        while not self._stopping.wait(METRICS_EVERY_S):
            self._metrics.export(self.snapshot())
        self._metrics.export(self.snapshot())

    def snapshot(self) -> MetricsData:
        """The Prometheus registry of this moment in OpenTelemetry's form."""
        metrics = list(metrics_of(self._started_ns, time.time_ns()))
        scope = ScopeMetrics(InstrumentationScope("tidemill"), metrics, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])


def metrics_of(started_ns: int, now_ns: int) -> Iterator[Metric]:
    """Counters as monotonic sums, histograms with their buckets, everything else as gauges."""
    for family in REGISTRY.collect():
        samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
        data: Sum | Gauge | Histogram
        if family.type == "histogram":
            points = list(_histograms(samples, started_ns, now_ns))
            data = Histogram(points, _CUMULATIVE)
        elif family.type == "counter":
            data = Sum(_numbers(samples, started_ns, now_ns), _CUMULATIVE, is_monotonic=True)
        else:
            data = Gauge(_numbers(samples, started_ns, now_ns))
        if data.data_points:
            yield Metric(family.name, family.documentation, family.unit, data)


def _numbers(samples: Iterable[Sample], started_ns: int, now_ns: int) -> list[NumberDataPoint]:
    return [NumberDataPoint(dict(sample.labels), started_ns, now_ns, sample.value) for sample in samples]


def _histograms(samples: Iterable[Sample], started_ns: int, now_ns: int) -> Iterator[HistogramDataPoint]:
    buckets: dict[Labels, dict[float, float]] = defaultdict(dict)
    sums: dict[Labels, float] = {}
    for sample in samples:
        labels = _labels(sample.labels)
        if sample.name.endswith("_bucket"):
            buckets[labels][float(sample.labels["le"])] = sample.value
        elif sample.name.endswith("_sum"):
            sums[labels] = sample.value
    for labels, counts in buckets.items():
        bounds = sorted(counts)
        cumulative = [int(counts[bound]) for bound in bounds]
        each = [after - before for before, after in zip([0, *cumulative], cumulative, strict=False)]
        yield HistogramDataPoint(
            dict(labels), started_ns, now_ns, cumulative[-1], sums.get(labels, 0.0), each, bounds[:-1],
            float("-inf"), float("inf"),
        )  # fmt: skip


def _labels(labels: Mapping[str, str]) -> Labels:
    return tuple((name, value) for name, value in labels.items() if name != "le")
