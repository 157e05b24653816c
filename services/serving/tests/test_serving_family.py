"""What several workers say, as one."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tidemill_serving.api.models import PipelineStatus, Status, WorkerStatus
from tidemill_serving.api.status import together
from tidemill_serving.app.expositions import labelled


def exposition(value: float) -> bytes:
    registry = CollectorRegistry()
    Counter("answers", "Answers with {braces} and \\ signs.", ["pipeline"], registry=registry).labels("a{b").inc(value)
    Gauge("plain", "Without labels.", registry=registry).set(value)
    Histogram("seconds", "Time.", buckets=(0.1, 1.0), registry=registry).observe(value)
    return generate_latest(registry)


def test_every_sample_keeps_its_worker_and_every_family_stands_once() -> None:
    text = labelled({1: exposition(2.0), 0: exposition(0.5)}).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert text.count("# TYPE answers_total counter") == 1
    samples = {(s.name, s.labels["worker"], s.labels.get("le")): s.value for f in families.values() for s in f.samples}
    assert samples["answers_total", "0", None] == 0.5
    assert samples["answers_total", "1", None] == 2.0
    assert samples["plain", "1", None] == 2.0
    assert (samples["seconds_bucket", "0", "1.0"], samples["seconds_bucket", "1", "1.0"]) == (1.0, 0.0)
    assert {s.labels["pipeline"] for s in families["answers"].samples if s.name == "answers_total"} == {"a{b"}


def status(number: int, **changes: object) -> Status:
    values: dict[str, object] = {
        "ready": True, "watermark_us": 100, "epoch": 2, "version": 7, "staged": [], "refused": {}, "answered": 10,
        "spooled": 10, "shipped": 8, "progress_us": 90, "swaps": [], "entities": {"view": 3},
        "arms": [], "shadows": [], "fallbacks": {},
    }  # fmt: skip
    pipeline = PipelineStatus.model_validate(values | changes)
    return Status(replica=f"0-{number}", degraded=False, spool={"records": 5}, pipelines={"flights": pipeline})


def test_counts_are_sums_and_times_the_lowest() -> None:
    found = {0: status(0), 1: status(1, watermark_us=80, progress_us=None, epoch=1, version=6, shipped=9, answered=11)}
    one = together(found, [WorkerStatus(worker=n, up=True, pid=n) for n in range(2)])
    flights = one.pipelines["flights"]
    assert (flights.answered, flights.spooled, flights.shipped) == (21, 20, 17)
    assert (flights.watermark_us, flights.progress_us, flights.epoch, flights.version) == (80, None, 1, 6)
    assert flights.ready
    assert one.spool == {"records": 10}


@pytest.mark.parametrize("missing", [{"up": False}, {"ready": False}])
def test_ready_is_said_only_of_all(missing: dict[str, bool]) -> None:
    found = {0: status(0), 1: status(1, ready=missing.get("ready", True))}
    if "up" in missing:
        del found[1]
    workers = [WorkerStatus(worker=0, up=True), WorkerStatus(worker=1, up=1 in found)]
    assert not together(found, workers).pipelines["flights"].ready
