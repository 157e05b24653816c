"""gRPC by its own messages: every datatype in every way, what is wrong with a request, the key, streams, health."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import numpy as np
import pytest
from pydantic import SecretStr
from serving_cases import linear
from serving_edge import NAMES, SPEC
from serving_models import echo
from serving_rpc import ROWS, SERVICE, WIDTH, Rpc, rows, served

from tidemill_contracts.envelope import read_envelope
from tidemill_runtime.http import Keys
from tidemill_serving.api.inference import MAXIMUM_BYTES
from tidemill_serving.api.rpc.calls import CONTENTS, InferRequest, StreamResponse
from tidemill_serving.domain.protocol.datatypes import NUMPY
from tidemill_serving.onnx import Scorer

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_loop")]
Call = Any


async def test_rows_come_and_go_raw_or_in_fields_and_are_logged_once() -> None:
    expected = Scorer(linear(NAMES), WIDTH).scores(ROWS).astype(np.float32)
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    async with served() as rpc:
        raw = await rpc.infer(rows(id="mine", model_version="3"), metadata=(("traceparent", trace),))
        assert (raw.model_version, raw.id, list(raw.outputs[0].shape)) == ("3", "mine", [3])
        assert raw.raw_output_contents[0] == expected.tobytes()
        fields = await rpc.infer(rows(raw=False))
        assert list(fields.outputs[0].contents.fp32_contents) == expected.tolist()
        assert not fields.raw_output_contents
        assert fields.id == fields.parameters["inference_id"].string_param
    first, second = (read_envelope(entry.headers, entry.value) for entry in rpc.edge.log.entries)
    assert (first.id, second.id) == (raw.parameters["inference_id"].string_param, fields.id)
    assert str(first.traceparent)[3:35] == "a" * 32


@pytest.mark.parametrize("datatype", list(NUMPY))
async def test_every_datatype_goes_through_a_model(datatype: str) -> None:
    values: Any = [b"a", b""] if datatype == "BYTES" else np.array([1, 0], NUMPY[datatype])
    raw = b"\x01\0\0\0a\0\0\0\0" if datatype == "BYTES" else values.tobytes()
    async with served() as rpc:
        rpc.edge.imported("echo", 1, echo(datatype))
        request = InferRequest(model_name="echo")
        given = request.inputs.add(name="x", datatype=datatype, shape=[2])
        request.raw_input_contents.append(raw)
        assert list((await rpc.infer(request)).raw_output_contents) == [raw]
        del request.raw_input_contents[:]
        if datatype == "FP16":
            with pytest.raises(grpc.aio.AioRpcError, match="raw_input_contents"):
                await rpc.infer(request)
            return
        getattr(given.contents, CONTENTS[datatype]).extend(list(values) if datatype == "BYTES" else values.tolist())
        answer = await rpc.infer(request)
        assert list(getattr(answer.outputs[0].contents, CONTENTS[datatype])) == list(values)


def _twice(request: Any) -> None:  # noqa: ANN401 - a message
    request.inputs.add().CopyFrom(request.inputs[0])
    request.raw_input_contents.append(ROWS.tobytes())


NOT_A_NUMBER = np.full_like(ROWS, np.nan).tobytes()
CHANGES: dict[str, Callable[[Any], Any]] = {
    "no inputs": lambda request: request.ClearField("inputs"),
    "too few bytes": lambda request: request.raw_input_contents.__setitem__(0, ROWS.tobytes()[1:]),
    "bytes of no input": lambda request: request.raw_input_contents.append(b""),
    "both": lambda request: request.inputs[0].contents.fp32_contents.append(1),
    "NaN": lambda request: request.raw_input_contents.__setitem__(0, NOT_A_NUMBER),
    "negative shape": lambda request: request.inputs[0].shape.__setitem__(0, -1),
    "no such type": lambda request: setattr(request.inputs[0], "datatype", "FLOAT"),
    "twice": _twice,
    "shared memory": lambda r: setattr(r.inputs[0].parameters["shared_memory_region"], "string_param", "a"),
    "classes": lambda r: setattr(r.outputs.add(name="probability").parameters["classification"], "int64_param", 2),
    "an output twice": lambda request: [request.outputs.add(name="probability") for _ in range(2)],
    "no such output": lambda request: request.outputs.add(name="x"),
    "no such model": lambda request: setattr(request, "model_name", "x"),
    "no such version": lambda request: setattr(request, "model_version", "9"),
}


@pytest.mark.parametrize("name", list(CHANGES))
async def test_what_is_wrong_with_a_request_is_said(name: str) -> None:
    request = rows()
    CHANGES[name](request)
    async with served() as rpc:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await rpc.infer(request)
        code = grpc.StatusCode.NOT_FOUND if "model" in name or "version" in name else grpc.StatusCode.INVALID_ARGUMENT
        assert (refused.value.code(), bool(refused.value.details())) == (code, True)
        assert rpc.edge.log.entries == []


async def test_a_full_log_and_a_full_tick_are_unavailable() -> None:
    async with served() as rpc:
        rpc.edge.log.is_full = True
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await rpc.infer(rows())
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_the_key_is_asked_for_but_by_probes() -> None:
    async with served(keys=Keys(SecretStr("secret"))) as rpc:
        assert (await rpc.ask("ServerLive")).live
        for metadata in (None, (("authorization", "Bearer wrong"),)):
            for call in (rpc.infer(rows(), metadata), rpc.ask("RepositoryIndex", metadata)):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call
                assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        for metadata in ((("authorization", "Bearer secret"),), (("x-api-key", "secret"),)):
            await rpc.infer(rows(), metadata)
            assert (await rpc.ask("RepositoryIndex", metadata)).models[0].name == SPEC.name


async def test_a_stream_answers_in_order_and_outlives_a_refusal() -> None:
    async with served() as rpc:
        stream = rpc.channel.stream_stream(
            SERVICE + "ModelStreamInfer", InferRequest.SerializeToString, StreamResponse.FromString
        )

        async def asked() -> AsyncIterator[Any]:
            for number in range(5):
                request = rows(id=str(number))
                if number == 2:
                    request.model_name = "x"
                yield request

        answers = [answer async for answer in stream(asked())]
    assert [answer.infer_response.id for answer in answers] == ["0", "1", "2", "3", "4"]
    assert [bool(answer.error_message) for answer in answers] == [False, False, True, False, False]
    assert len(rpc.edge.log.entries) == 4


async def test_large_messages_deadlines_and_cancelling_as_grpcio_has_them() -> None:
    async with served() as rpc:
        rpc.edge.imported("echo", 1, echo("FP32"))
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{rpc.port}", options=options) as channel:
            wide = Rpc(rpc.edge, channel, rpc.port)
            for values, packing in ((np.zeros(3_900_000, np.float32), None), (np.zeros(4_300_000, np.float32), None),
                                    (np.zeros(4_300_000, np.float32), grpc.Compression.Gzip)):  # fmt: skip
                request = InferRequest(model_name="echo")
                request.inputs.add(name="x", datatype="FP32", shape=values.shape)
                request.raw_input_contents.append(values.tobytes())
                call = wide.call(request, compression=packing)
                if values.nbytes < MAXIMUM_BYTES:
                    assert len((await call).raw_output_contents[0]) == values.nbytes
                    continue
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call
                assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        rpc.edge.batcher.must_wait = lambda: True
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await rpc.call(rows(), timeout=0.1)
        assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        waits = rpc.call(rows())
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        rpc.edge.batcher.must_wait = lambda: False
        rpc.edge.batcher.resume()
        await rpc.infer(rows())


async def test_calls_that_arrive_together_are_one_batch() -> None:
    async with served() as rpc:
        await rpc.infer(rows())
        before = rpc.edge.log.writes
        answers = await asyncio.gather(*(rpc.infer(rows(id=str(number))) for number in range(64)))
        assert [answer.id for answer in answers] == [str(number) for number in range(64)]
        assert rpc.edge.log.writes - before < 32


async def test_health_follows_readiness() -> None:
    async with served() as rpc:
        watch = rpc.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert await watch.read() == b"\x08\x01"
        rpc.edge.desk.is_ready = False
        assert await watch.read() == b"\x08\x02"
        watch.cancel()
        assert await rpc.channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x02"
        assert not (await rpc.ask("ServerReady")).ready
