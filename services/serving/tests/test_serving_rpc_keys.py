"""gRPC: who may call and how much, and what is counted of calls."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY
from serving_edge import SPEC
from serving_models import echo
from serving_rpc import SERVICE, code_of, rows, served
from serving_stack import until

from tidemill_runtime.http import Keys
from tidemill_runtime.settings import ServiceSettings
from tidemill_serving.api.rpc.calls import InferRequest, StreamResponse

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_loop")]
KEYS: dict[str, dict[str, object]] = {
    "ten": {"burst": 10}, "three": {"burst": 3}, "elsewhere": {"burst": 10, "pipelines": ["others"]},
    "events": {"burst": 10, "services": ["ingestion"]},
}  # fmt: skip


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """Of a file that TIDEMILL_API_KEYS names; each key is its name."""
    specs = [
        {"name": name, "sha256": sha256(name.encode()).hexdigest(), "rows_per_second": 0.001, **fields}
        for name, fields in KEYS.items()
    ]
    (tmp_path / "keys.json").write_text(json.dumps({"keys": specs}))
    settings = ServiceSettings(
        service="serving", kafka="k:1", postgres="p", artifacts="a", state=tmp_path, api_keys=tmp_path / "keys.json"
    )
    return Keys.of(settings, root=tmp_path)


async def test_keys_with_bounds_have_their_quota_and_open_no_more_than_they_say(keys: Keys) -> None:
    """Three rows a call: the fourth is beyond ten."""
    async with served(keys=keys) as rpc:

        def infer(key: str) -> Any:  # noqa: ANN401 - see above
            return code_of(rpc.infer(rows(), (("x-api-key", key),)))

        assert [await infer(key) for key in ("", "unknown", "elsewhere", "events")] == [
            "UNAUTHENTICATED", "UNAUTHENTICATED", "PERMISSION_DENIED", "PERMISSION_DENIED",
        ]  # fmt: skip
        assert [await infer("ten") for _ in range(4)] == ["OK", "OK", "OK", "RESOURCE_EXHAUSTED"]
        with pytest.raises(grpc.aio.AioRpcError, match="used up for now: again in") as refused:
            await rpc.infer(rows(), (("authorization", "Bearer ten"),))
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(rpc.edge.log.entries) == 3
        stream = rpc.channel.stream_stream(
            SERVICE + "ModelStreamInfer", InferRequest.SerializeToString, StreamResponse.FromString
        )([rows(), rows()], metadata=(("x-api-key", "three"),))
        assert (await stream.read()).infer_response.model_name == SPEC.name
        assert await code_of(stream.read()) == "RESOURCE_EXHAUSTED"
        for name, code in (("RepositoryIndex", "OK"), ("RepositoryModelLoad", "PERMISSION_DENIED")):
            assert await code_of(rpc.ask(name, (("x-api-key", "elsewhere"),))) == code


async def test_calls_are_counted_by_method_model_and_status() -> None:
    def counted(method: str, model: str, status: str) -> float:
        labels = {"method": f"inference.GRPCInferenceService/{method}", "model": model, "status": status}
        return REGISTRY.get_sample_value("tidemill_rpc_seconds_count", labels) or 0.0

    kinds = [
        ("ModelInfer", "counted", "OK"), ("ModelInfer", "counted", "INVALID_ARGUMENT"), ("ModelInfer", "", "NOT_FOUND"),
        ("ServerLive", "", "OK"),
    ]  # fmt: skip
    before = [counted(*kind) for kind in kinds]
    async with served() as rpc:
        rpc.edge.imported("counted", 1, echo("FP32"))
        request = InferRequest(model_name="counted", raw_input_contents=[bytes(8)])
        request.inputs.add(name="x", datatype="FP32", shape=[2])
        for _ in range(3):
            await rpc.infer(request)
        request.inputs[0].datatype = "INT64"
        assert await code_of(rpc.infer(request)) == "INVALID_ARGUMENT"
        assert await code_of(rpc.infer(InferRequest(model_name="none"))) == "NOT_FOUND"
        await rpc.ask("ServerLive")
        expected = [was + more for was, more in zip(before, (3, 1, 1, 1), strict=True)]
        await until(lambda: [counted(*kind) for kind in kinds] == expected, "all calls are counted")
