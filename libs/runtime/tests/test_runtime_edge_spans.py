"""Requests outside of ASGI: the sampler and the sender's flag decide, and only what is recorded has a span."""

from collections.abc import Callable, Iterator

import pytest

from tidemill_runtime import telemetry
from tidemill_runtime.edge_spans import begin
from tidemill_runtime.settings import ServiceSettings
from tidemill_testkit.otlp import Receiver, otlp_receiver
from tidemill_testkit.waiting import until_sync

TRACE = f"00-{'c' * 32}-{'d' * 16}-0"
FIELDS = {"kafka": "k", "postgres": "p", "artifacts": "a", "state": "s", "service": "test"}
Start = Callable[[str, str], Receiver]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setattr(telemetry, "configure_logging", lambda *_: None)
    with otlp_receiver() as receiver:

        def run(sampler: str, argument: str) -> Receiver:
            monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
            monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
            telemetry.init(ServiceSettings.model_validate(FIELDS | {"otlp_endpoint": receiver.endpoint}))
            return receiver

        yield run
        telemetry.shutdown()


def test_without_an_endpoint_there_is_no_span_and_the_flag_is_passed_on() -> None:
    for flag in "01":
        context, span = begin("/x", TRACE + flag)
        assert (context[:35], context[-2:], span) == (TRACE[:35], f"0{flag}", None)
        assert telemetry.new_traceparent(TRACE + flag)[-2:] == f"0{flag}"


def test_a_recorded_request_is_a_span_below_its_senders(start: Start) -> None:
    receiver = start("parentbased_always_on", "")
    context, span = begin("/x", TRACE + "1")
    assert span is not None
    span.link([f"00-{'e' * 32}-{'f' * 16}-01", "junk"])
    span.end(422)
    dropped, none = begin("/x", TRACE + "0")
    assert (dropped[:35], dropped[-2:], none) == (TRACE[:35], "00", None)
    telemetry.shutdown()
    until_sync(lambda: receiver.named("POST /x"), "the span arrived", timeout_s=60)
    [found] = receiver.named("POST /x")
    assert (found.trace_id.hex(), found.parent_span_id.hex(), found.span_id.hex()) == (
        "c" * 32,
        "d" * 16,
        context[36:52],
    )
    assert [link.trace_id.hex() for link in found.links] == ["e" * 32]
    said = {each.key: each.value.string_value or each.value.int_value for each in found.attributes}
    assert said == {"http.request.method": "POST", "http.route": "/x", "http.response.status_code": 422}


def test_of_traces_that_begin_here_a_share_is_recorded(start: Start) -> None:
    receiver = start("parentbased_traceidratio", "0.5")
    kept, dropped = [], 0
    for _ in range(200):
        context, span = begin("/x", None)
        assert int(context[-2:], 16) & 1 == (span is not None)
        if span is None:
            dropped += 1
        else:
            span.end(200)
            kept.append(context)
    assert 40 < dropped < 160
    telemetry.shutdown()
    until_sync(lambda: len(receiver.named("POST /x")) == len(kept), "the spans arrived", timeout_s=60)
    arrived = {(found.trace_id.hex(), found.span_id.hex()) for found in receiver.named("POST /x")}
    assert arrived == {(context[3:35], context[36:52]) for context in kept}


def test_a_share_of_all_traces_is_one_of_the_senders_too(start: Start) -> None:
    start("traceidratio", "0.0")
    assert begin("/x", TRACE + "1")[1] is None
