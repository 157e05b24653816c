"""Runs in the environment of the protocol's clients: steps from standard input, answers to standard output.

A step is {client, do, ...}; one that raises is answered with the exception's class, text and status.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import kserve
import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from kserve.protocol.infer_type import RequestedOutput
from tritonclient.utils import InferenceServerException

Json = dict[str, Any]
Client = Callable[[str, Json], object]
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


def _triton(address: str, step: Json) -> object:
    client = triton.InferenceServerClient(address)
    name, version = step.get("model", ""), step.get("version", "")
    try:
        match step["do"]:
            case "live":
                return client.is_server_live()
            case "ready":
                return client.is_server_ready()
            case "server":
                return client.get_server_metadata()
            case "model ready":
                return client.is_model_ready(name, version)
            case "metadata":
                return client.get_model_metadata(name, version)
            case _:
                return _found(client.infer(name, **_asked(triton, step)))
    finally:
        client.close()


async def _triton_aio(address: str, step: Json) -> object:
    async with triton_aio.InferenceServerClient(address) as client:
        name, version = step.get("model", ""), step.get("version", "")
        match step["do"]:
            case "live":
                return await client.is_server_live()
            case "ready":
                return await client.is_server_ready()
            case "server":
                return await client.get_server_metadata()
            case "model ready":
                return await client.is_model_ready(name, version)
            case "metadata":
                return await client.get_model_metadata(name, version)
            case _:
                return _found(await client.infer(name, **_asked(triton_aio, step)))


async def _kserve(address: str, step: Json) -> object:
    url, name = f"http://{address}", step.get("model", "")
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


def main() -> None:
    """Until standard input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    clients: dict[str, Client] = {
        "triton": _triton,
        "triton aio": lambda address, step: asyncio.run(_triton_aio(address, step)),
        "kserve": lambda address, step: asyncio.run(_kserve(address, step)),
    }
    for line in sys.stdin:
        step = json.loads(line)
        try:
            answer: Json = {"answer": clients[step["client"]](step["address"], step)}
        except Exception as error:  # noqa: BLE001 - whatever the client raises is the answer
            answered = getattr(error, "response", None)  # kserve's is httpx's error
            said = (
                error.status() if isinstance(error, InferenceServerException) else getattr(answered, "status_code", 0)
            )
            answer = {"error": type(error).__name__, "message": str(error), "status": str(said)}
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
