"""tritonclient over gRPC, and gRPC's health protocol by its bytes: steps in, answers out."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from inference_steps import KINDS, Json, asked, serve, wanted
from tritonclient.grpc import model_config_pb2, service_pb2


def _infer(client: Any, step: Json) -> Any:  # noqa: ANN401 - see above
    rows = np.array(step["rows"], KINDS[step.get("datatype", "FP32")])
    tensor = triton.InferInput(step.get("input", "features"), list(rows.shape), step.get("datatype", "FP32"))
    tensor.set_data_from_numpy(rows)
    outputs = [triton.InferRequestedOutput(name) for name in step.get("outputs", [])] or None
    return client.infer(
        step["model"], [tensor], model_version=step.get("version", ""), outputs=outputs, request_id=step.get("id", ""),
        compression_algorithm=step.get("packing"), headers=step.get("headers"),
    )  # fmt: skip


def _found(result: Any) -> Json:  # noqa: ANN401 - see above
    said = result.get_response()
    return {"model_name": said.model_name, "model_version": said.model_version, "id": said.id,
            "values": result.as_numpy("probability").tolist()}  # fmt: skip


def _calls(client: Any, step: Json) -> dict[str, Callable[[], Any]]:  # noqa: ANN401 - see above
    name, version = step.get("model", ""), step.get("version", "")
    return {
        "live": client.is_server_live, "ready": client.is_server_ready,
        "server": lambda: client.get_server_metadata(as_json=True),
        "model ready": lambda: client.is_model_ready(name, version),
        "metadata": lambda: client.get_model_metadata(name, version, as_json=True),
        "config": lambda: client.get_model_config(name, version, as_json=True),
        "stats": lambda: client.get_inference_statistics(name, version, as_json=True),
        "index": lambda: client.get_model_repository_index(as_json=True),
        "load": lambda: client.load_model(name), "unload": lambda: client.unload_model(name),
        "infer": lambda: _infer(client, step),
        "ask": lambda: client.infer(name, asked(triton, step), model_version=version),
    }  # fmt: skip


def _plain(step: Json, result: Any) -> Any:  # noqa: ANN401 - see above
    if step["do"] == "infer":
        return _found(result)
    return wanted(result, step["outputs"]) if step["do"] == "ask" else result


def over_grpc(step: Json) -> object:
    """tritonclient.grpc."""
    alive = triton.KeepAliveOptions(100, 5000, keepalive_permit_without_calls=True, http2_max_pings_without_data=0)
    with triton.InferenceServerClient(step["rpc"], keepalive_options=alive) as client:
        if step["do"] == "stream":
            return _stream(client, step)
        return _plain(step, _calls(client, step)[step["do"]]())


def _stream(client: Any, step: Json) -> list[Any]:  # noqa: ANN401 - see above
    """Each request's values or its error, in order."""
    found: list[Any] = []
    client.start_stream(lambda result, error: found.append(str(error) if error else _found(result)))
    for number, model in enumerate(step["models"]):
        tensor = triton.InferInput("features", [1, len(step["rows"][0])], "FP32")
        tensor.set_data_from_numpy(np.array(step["rows"], np.float32))
        client.async_stream_infer(model, [tensor], request_id=str(number))
    client.stop_stream()
    return found


async def over_grpc_aio(step: Json) -> object:
    """tritonclient.grpc.aio."""
    async with triton_aio.InferenceServerClient(step["rpc"]) as client:
        return _plain(step, await _calls(client, step)[step["do"]]())


def health(step: Json) -> object:
    """grpc.health.v1, by its bytes: SERVING is 1, NOT_SERVING 2."""
    name = step.get("service", "").encode()
    with grpc.insecure_channel(step["rpc"]) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
        body = b"\x0a" + bytes([len(name)]) + name if name else b""
        return [list(check(body)), list(next(iter(watch(body))))]


def fields(_step: Json) -> object:
    """Every field of the client's own messages: [message, name, number, type, repeated]."""
    found = []
    waiting = [*service_pb2.DESCRIPTOR.message_types_by_name.values()]
    waiting += model_config_pb2.DESCRIPTOR.message_types_by_name.values()
    while waiting:
        message = waiting.pop()
        waiting += message.nested_types
        found += [[message.full_name, f.name, f.number, f.type, f.is_repeated] for f in message.fields]
    return found


if __name__ == "__main__":
    serve({
        "fields": fields,
        "triton grpc": over_grpc, "health": health,
        "triton grpc aio": lambda step: asyncio.run(over_grpc_aio(step)),
    })  # fmt: skip
