"""Names of services in spans, and the way from a swap back to what led to it."""

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tidemill_testkit.traces import Traces, attribute

INGESTION, FEATURES, SERVING, MONITORING, TRAINER, REGISTRY = (
    f"tidemill-{name}" for name in ("ingestion", "features", "serving", "monitoring", "trainer", "registry")
)
PREDICT = "POST /v1/predict/{pipeline}"
LED_TO_A_SWAP = (
    (REGISTRY, "release"), (TRAINER, "train"), (MONITORING, "request training"), (MONITORING, "detect drift"),
)  # fmt: skip


def about(span: Span) -> tuple[str | int | None, str | int | None]:
    """Pipeline and epoch of a release's or swap's span."""
    return attribute(span, "tidemill.pipeline"), attribute(span, "tidemill.epoch")


def way_back(traces: Traces, release: tuple[str, int]) -> list[Span]:
    """The swap to a release and what led to it, as far as it has been told: every process exports in its own time."""
    found = [span for span in traces.named(SERVING, "swap") if about(span) == release]
    for service, name in LED_TO_A_SWAP:
        before = traces.back(found[-1], service, name) if found else None
        if before is None:
            break
        found.append(before)
    return found
