import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import Counter, Histogram

from tidemill_runtime import telemetry
from tidemill_runtime.logs import JsonFormatter, RateLimit
from tidemill_runtime.settings import ServiceSettings
from tidemill_testkit.otlp import Receiver, otlp_receiver
from tidemill_testkit.waiting import until_sync

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
COUNTED = Counter("test_runtime_things", "Things.", ["kind"])
MEASURED = Histogram("test_runtime_seconds", "Seconds.", buckets=(0.1, 1.0))


@pytest.fixture
def quiet_root() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level


@pytest.fixture
def receiver(quiet_root: None) -> Iterator[Receiver]:
    fields = {"kafka": "k", "postgres": "p", "artifacts": "a", "state": "s", "service": "test"}
    with otlp_receiver() as opened:
        telemetry.init(ServiceSettings.model_validate(fields | {"otlp_endpoint": opened.endpoint}))
        yield opened
        telemetry.shutdown()


def test_without_an_endpoint_contexts_are_made_and_passed_on() -> None:
    assert not telemetry.enabled()
    with telemetry.span("a", parent=TRACE):
        outer = telemetry.current_traceparent()
        assert telemetry.current_trace_id() == TRACE[3:35]
        with telemetry.producing("topic") as sent:
            assert sent[3:35] == TRACE[3:35]
            assert sent not in {outer, TRACE}
        assert telemetry.current_traceparent() == outer
    assert telemetry.current_traceparent() is None


@pytest.mark.parametrize("bad", [None, "", "junk", TRACE.upper(), TRACE + "\n", "00-" + "0" * 32 + TRACE[35:]])
def test_a_malformed_parent_starts_a_trace_of_its_own(bad: str | None) -> None:
    fresh = telemetry.new_traceparent(bad)
    assert fresh[3:35] not in {TRACE[3:35], "0" * 32}
    assert telemetry.new_traceparent(fresh)[3:35] == fresh[3:35]


def test_spans_arrive_with_parents_links_and_attributes(receiver: Receiver) -> None:
    with telemetry.span("GET /x", "server", parent=TRACE), telemetry.producing("t") as first:
        pass
    others = [telemetry.new_traceparent() for _ in range(40)]
    with telemetry.processing("t", "g", [first, first, *others], count=42), telemetry.producing("u") as second:
        pass
    with telemetry.processing("u", "h", [second]):
        pass
    telemetry.shutdown()
    until_sync(lambda: receiver.named("process u"), "all spans arrived")
    by_name = {span.name: (service, span) for service, span in receiver.spans}
    service, server = by_name["GET /x"]
    assert (service, server.trace_id.hex(), server.parent_span_id.hex()) == (
        "tidemill-test", TRACE[3:35], TRACE[36:52],
    )  # fmt: skip
    send = by_name["send t"][1]
    assert (send.trace_id.hex(), send.span_id.hex()) == (TRACE[3:35], first[36:52])
    process = by_name["process t"][1]
    assert [link.span_id.hex() for link in process.links][:2] == [first[36:52], others[0][36:52]]
    assert len(process.links) == 32
    attributes = {a.key: a.value.string_value or a.value.int_value for a in process.attributes}
    assert attributes == {
        "messaging.system": "kafka", "messaging.operation.type": "process", "messaging.destination.name": "t",
        "messaging.consumer.group.name": "g", "messaging.batch.message_count": 42,
    }  # fmt: skip
    child = by_name["process u"][1]
    assert child.parent_span_id == by_name["send u"][1].span_id
    assert child.trace_id == process.trace_id


def test_one_write_to_several_topics_is_a_span_for_each(receiver: Receiver) -> None:
    others = [telemetry.new_traceparent(), telemetry.new_traceparent()]
    with telemetry.span("around"), telemetry.sending({"t": [TRACE, TRACE], "u": [*others, "junk"], "v": []}):
        assert telemetry.current_traceparent() not in {TRACE, *others}
    telemetry.shutdown()
    until_sync(lambda: receiver.named("send v"), "all spans arrived")
    [one], [many], [none] = (receiver.named(f"send {name}") for name in "tuv")
    assert (one.trace_id.hex(), one.parent_span_id.hex()) == (TRACE[3:35], TRACE[36:52])
    assert [link.span_id.hex() for link in many.links] == [context[36:52] for context in others]
    assert (many.parent_span_id, none.parent_span_id, list(none.links)) == (b"", b"", [])


def test_a_span_is_linked_to_what_is_known_only_later(receiver: Receiver) -> None:
    with telemetry.span("POST /x", "server"):
        link = telemetry.linker()
        with telemetry.span("inside"):
            link([TRACE, TRACE, "junk"])
    telemetry.shutdown()
    until_sync(lambda: receiver.named("POST /x"), "all spans arrived")
    [server], [inside] = receiver.named("POST /x"), receiver.named("inside")
    assert [link.span_id.hex() for link in server.links] == [TRACE[36:52]]
    assert list(inside.links) == []


def test_the_prometheus_registry_arrives_as_metrics(receiver: Receiver) -> None:
    COUNTED.labels("a").inc(3)
    for value in (0.05, 0.5, 0.7, 7.0):
        MEASURED.observe(value)
    telemetry.shutdown()
    until_sync(lambda: "test_runtime_seconds" in receiver.metrics, "the last export arrived")
    [point] = receiver.metrics["test_runtime_things"].sum.data_points
    assert (point.as_double, point.attributes[0].value.string_value) == (3.0, "a")
    [histogram] = receiver.metrics["test_runtime_seconds"].histogram.data_points
    assert (list(histogram.bucket_counts), list(histogram.explicit_bounds)) == ([1, 2, 1], [0.1, 1.0])
    assert (histogram.count, histogram.sum) == (4, pytest.approx(8.25))


def lines(record: logging.LogRecord) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(JsonFormatter("svc", telemetry.current_trace_id).format(record))
    return parsed


def test_a_log_line_is_json_with_trace_fields_and_error() -> None:
    record = logging.makeLogRecord({"name": "x", "levelname": "WARNING", "msg": "hm %s", "args": ("y",), "topic": "t"})
    assert "trace_id" not in lines(record)
    with telemetry.span("a", parent=TRACE):
        line = lines(record)
    assert (line["message"], line["level"], line["topic"], line["service"]) == ("hm y", "warning", "t", "svc")
    assert line["trace_id"] == TRACE[3:35]
    try:
        raise KeyError("k")
    except KeyError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    assert "KeyError: 'k'" in lines(record)["error"]


def test_a_library_that_repeats_itself_is_cut_and_counted() -> None:
    now = 0.0
    limit = RateLimit(burst=2, period=10, clock=lambda: now)
    record = logging.makeLogRecord({"name": "aiokafka", "msg": "away %s"})
    other = logging.makeLogRecord({"name": "aiokafka", "msg": "something else"})
    assert [limit.filter(record) for _ in range(5)] == [True, True, False, False, False]
    assert limit.filter(other)
    now = 10.0
    assert limit.filter(record)
    assert vars(record)["left_out"] == 3
