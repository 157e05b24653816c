"""Runs in the environment of the protocol's clients: steps from standard input, answers to standard output.

A step is {client, do, ...}; one that raises is answered with the exception's class, text and status.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import kserve
import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from inference_steps import KINDS, Json, asked, serve, wanted
from kserve.protocol.infer_type import RequestedOutput

INPUT, OUTPUT = "features", "probability"


def _tensor(module: Any, step: Json) -> Any:  # noqa: ANN401 - the clients ship no types
    kind = step.get("datatype", "FP32")
    rows = np.array(step["rows"], np.float32 if kind == "FP32" else np.float64)
    tensor = module.InferInput(step.get("input", INPUT), list(rows.shape), kind)
    tensor.set_data_from_numpy(rows, binary_data=step.get("binary", False))
    return tensor


def _asked(module: Any, step: Json) -> Json:  # noqa: ANN401 - the clients ship no types
    """The arguments of `infer`; without outputs the client asks for all of them."""
    binary = step.get("binary", False)
    outputs = [module.InferRequestedOutput(name, binary_data=binary) for name in step.get("outputs", [])]
    return {
        "inputs": [_tensor(module, step)], "outputs": outputs or None, "model_version": step.get("version", ""),
        "request_id": step.get("id", ""), "request_compression_algorithm": step.get("packing"),
        "response_compression_algorithm": step.get("packing"),
    }  # fmt: skip


def _found(result: Any) -> Json:  # noqa: ANN401 - the clients ship no types
    said = result.get_response()
    return {name: said.get(name) for name in ("model_name", "model_version", "id")} | {
        "values": result.as_numpy(OUTPUT).tolist()
    }


def _calls(module: Any, client: Any, step: Json) -> dict[str, Callable[[], Any]]:  # noqa: ANN401 - see above
    name, version = step.get("model", ""), step.get("version", "")
    return {
        "live": client.is_server_live, "ready": client.is_server_ready, "server": client.get_server_metadata,
        "model ready": lambda: client.is_model_ready(name, version),
        "metadata": lambda: client.get_model_metadata(name, version),
        "config": lambda: client.get_model_config(name, version),
        "stats": lambda: client.get_inference_statistics(name, version),
        "index": client.get_model_repository_index,
        "load": lambda: client.load_model(name), "unload": lambda: client.unload_model(name),
        "infer": lambda: client.infer(name, **_asked(module, step)),
        "ask": lambda: client.infer(name, asked(module, step), model_version=version),
    }  # fmt: skip


def _plain(step: Json, result: Any) -> object:  # noqa: ANN401 - see above
    if step["do"] == "infer":
        return _found(result)
    return wanted(result, step["outputs"]) if step["do"] == "ask" else result


def _triton(step: Json) -> object:
    client = triton.InferenceServerClient(step["address"])
    try:
        return _plain(step, _calls(triton, client, step)[step["do"]]())
    finally:
        client.close()


async def _triton_aio(step: Json) -> object:
    async with triton_aio.InferenceServerClient(step["address"]) as client:
        return _plain(step, await _calls(triton_aio, client, step)[step["do"]]())


async def _kserve(step: Json) -> object:
    url, name = f"http://{step['address']}", step.get("model", "")
    async with kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2", retries=0)) as client:
        match step["do"]:
            case "live":
                return await client.is_server_live(url)
            case "ready":
                return await client.is_server_ready(url)
            case "model ready":
                return await client.is_model_ready(url, name)
            case _:
                return await _kserve_infer(client, url, step)


async def _kserve_infer(client: Any, url: str, step: Json) -> Json:  # noqa: ANN401 - the clients ship no types
    kind = step.get("datatype", "FP32")
    rows = np.array(step["rows"], np.float32 if kind == "FP32" else np.float64)
    tensor = kserve.InferInput(step.get("input", INPUT), list(rows.shape), kind)
    tensor.set_data_from_numpy(rows, binary_data=step.get("binary", False))
    outputs = [RequestedOutput(name) for name in step.get("outputs", [])] or None
    request = kserve.InferRequest(
        step["model"], [tensor], request_id=step.get("id"), request_outputs=outputs, parameters={}
    )
    result = await client.infer(url, request, model_name=step["model"])
    values = result.outputs[0].as_numpy().tolist()
    return {"model_name": result.model_name, "model_version": result.model_version, "id": result.id, "values": values}


async def kserve_over_grpc(step: Json) -> object:
    """kserve's."""
    client = kserve.InferenceGRPCClient(step["rpc"], retries=0)
    try:
        match step["do"]:
            case "live":
                return await client.is_server_live()
            case "ready":
                return await client.is_server_ready()
            case "model ready":
                return await client.is_model_ready(step["model"])
        rows = np.array(step["rows"], KINDS[step.get("datatype", "FP32")])
        tensor = kserve.InferInput(step.get("input", "features"), list(rows.shape), step.get("datatype", "FP32"))
        tensor.set_data_from_numpy(rows, binary_data=step.get("binary", True))
        outputs = [RequestedOutput(name) for name in step.get("outputs", [])] or None
        result = await client.infer(kserve.InferRequest(
            step["model"], [tensor], request_id=step.get("id"), request_outputs=outputs, parameters={}
        ))  # fmt: skip
        values = result.outputs[0].as_numpy().tolist()
        return {
            "model_name": result.model_name,
            "model_version": result.model_version,
            "id": result.id,
            "values": values,
        }
    finally:
        await client.close()


if __name__ == "__main__":
    serve({
        "triton": _triton, "triton aio": lambda step: asyncio.run(_triton_aio(step)),
        "kserve": lambda step: asyncio.run(_kserve(step)),
        "kserve grpc": lambda step: asyncio.run(kserve_over_grpc(step)),
    })  # fmt: skip
