"""Every call is counted by how it ended, and has a span where spans are exported."""

from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY
from rpc_peer import data, framed, head, served

from tidemill_runtime import telemetry
from tidemill_runtime.rpc import Code
from tidemill_runtime.rpc import frames as f
from tidemill_runtime.rpc.frames import ErrorCode
from tidemill_runtime.rpc.watching import MANY, MOST_MODELS, Watched
from tidemill_runtime.settings import ServiceSettings
from tidemill_testkit.otlp import Receiver, otlp_receiver
from tidemill_testkit.waiting import until

pytestmark = pytest.mark.anyio
TRACE = f"00-{'1' * 32}-{'d' * 16}-01"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def counted(method: str, status: str, model: str = "") -> float:
    labels = {"method": method, "model": model, "status": status}
    return REGISTRY.get_sample_value("tidemill_rpc_seconds_count", labels) or 0.0


async def test_calls_are_counted_by_method_and_by_how_they_ended() -> None:
    kinds = [("t.T/Echo", "OK"), ("t.T/Echo", "INTERNAL"), ("t.T/Chat", "CANCELLED"), ("unmatched", "UNIMPLEMENTED")]
    before = [counted(*kind) for kind in kinds]
    async with served() as server:
        peer = await server.peer()
        for number in (1, 3):
            assert (await peer.call(number)).status == 0
        peer.send(head(5), data(5, framed(b"midway")[:-1]))
        assert (await peer.outcome(5)).status == Code.INTERNAL
        peer.send(head(7, path="/t.T/Chat"), f.reset(7, ErrorCode.CANCEL))
        assert (await peer.call(9, path="/t.T/None")).status == Code.UNIMPLEMENTED
        expected = [was + more for was, more in zip(before, (2, 1, 1, 1), strict=True)]
        await until(lambda: [counted(*kind) for kind in kinds] == expected, "all calls are counted")


async def test_models_beyond_a_bound_are_counted_together() -> None:
    watched = Watched("/t.T/Many")
    for number in range(MOST_MODELS + 5):
        watched.count(f"m{number}", Code.OK, 0.0)
    await until(lambda: counted("t.T/Many", "OK", MANY) == 5, "the rest is counted")
    assert counted("t.T/Many", "OK", "m7") == 1
    assert counted("t.T/Many", "OK", f"m{MOST_MODELS + 1}") == 0


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    fields = {"kafka": "k", "postgres": "p", "artifacts": "a", "state": "s", "service": "test"}
    monkeypatch.setattr(telemetry, "configure_logging", lambda *_: None)
    with otlp_receiver() as opened:
        telemetry.init(ServiceSettings.model_validate(fields | {"otlp_endpoint": opened.endpoint}))
        yield opened
        telemetry.shutdown()


async def test_a_call_has_a_span_in_the_trace_of_its_metadata(receiver: Receiver) -> None:
    """None where that trace is not sampled; one of its own where the metadata has no readable one."""
    async with served() as server:
        peer = await server.peer()
        assert (await peer.call(1, traceparent=TRACE)).status == 0
        assert (await peer.call(3, traceparent=TRACE[:-1] + "0")).status == 0
        assert (await peer.call(5, traceparent="nonsense", path="/t.T/Chat")).status == 0
    telemetry.shutdown()
    await until(lambda: receiver.named("t.T/Echo") and receiver.named("t.T/Chat"), "the spans arrived", timeout_s=60)
    [echo], [chat] = receiver.named("t.T/Echo"), receiver.named("t.T/Chat")
    assert (echo.trace_id.hex(), echo.parent_span_id.hex()) == ("1" * 32, "d" * 16)
    assert (chat.parent_span_id, chat.trace_id.hex() != "1" * 32) == (b"", True)
    told = {a.key: a.value.string_value or a.value.int_value for a in echo.attributes}
    assert told == {"rpc.system": "grpc", "rpc.service": "t.T", "rpc.method": "Echo", "rpc.grpc.status_code": 0}
