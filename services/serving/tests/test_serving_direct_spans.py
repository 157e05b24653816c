"""With an OTLP endpoint requests still take the short way; those that are sampled have their span with its links."""

import json
from collections.abc import Iterator

import pytest
from serving_edge import PATH, SPEC, Edge, direct
from test_serving_api import body, tensor

from tidemill_runtime import telemetry
from tidemill_runtime.settings import ServiceSettings
from tidemill_serving.domain.releases import Cause
from tidemill_testkit.otlp import Receiver, otlp_receiver
from tidemill_testkit.waiting import until

pytestmark = pytest.mark.anyio
INFER = f"/v2/models/{SPEC.name}/infer"
SWAP = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    fields = {"kafka": "k", "postgres": "p", "artifacts": "a", "state": "s", "service": "test"}
    monkeypatch.setattr(telemetry, "configure_logging", lambda *_: None)
    with otlp_receiver() as opened:
        telemetry.init(ServiceSettings.model_validate(fields | {"otlp_endpoint": opened.endpoint}))
        yield opened
        telemetry.shutdown()


async def test_sampled_requests_have_spans_and_all_take_the_short_way(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = Edge()
    edge.release()
    monkeypatch.setattr(edge.front, "_predictor", None)  # the long way would answer 500
    monkeypatch.setattr(edge.front, "_behind", None)
    active = edge.desk.champion.active
    assert active is not None
    active.cause = Cause(traceparent=SWAP)
    async with direct(edge) as http:
        for flag in "10":
            for path, raw in ((PATH, body()), (INFER, json.dumps(tensor()).encode())):
                trace = f"00-{'1' * 32}-{'d' * 16}-0{flag}"
                headers = {"content-type": "application/json", "traceparent": trace}
                answer = await http.post(path, content=raw, headers=headers)
                assert answer.status_code == 200
                assert answer.headers["traceparent"][:35] == trace[:35]
                assert answer.headers["traceparent"][-2:] == f"0{flag}"
                assert dict(edge.log.entries[-1].headers)["traceparent"].decode() == answer.headers["traceparent"]
    telemetry.shutdown()
    routes = ("/v1/predict/{pipeline}", "/v2/models/{name}/infer")
    await until(lambda: all(receiver.named(f"POST {route}") for route in routes), "the spans arrived", timeout_s=60)
    [predicted], [inferred] = (receiver.named(f"POST {route}") for route in routes)
    assert predicted.trace_id.hex() == inferred.trace_id.hex() == "1" * 32
    assert [link.trace_id.hex() for link in predicted.links] == ["a" * 32]
