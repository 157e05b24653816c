"""What both drivers of the protocol's clients have in common: tensors of a step, and the loop over the steps.

There are two, because the gRPC messages of kserve and of tritonclient cannot live in one process.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np

Json = dict[str, Any]
Client = Callable[[Json], object]
KINDS = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "BYTES": object, "FP16": np.float16, "BOOL": bool}


def asked(module: Any, step: Json) -> list[Any]:  # noqa: ANN401 - the clients ship no types
    """The inputs of a step, {name: [datatype, values]}."""
    made = []
    for name, (kind, values) in step["inputs"].items():
        array = np.array([v.encode() for v in values] if kind == "BYTES" else values, KINDS[kind])
        tensor = module.InferInput(name, list(array.shape), kind)
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def wanted(result: Any, names: list[str]) -> Json:  # noqa: ANN401 - see above
    """The outputs by name."""
    found = {name: result.as_numpy(name) for name in names}
    return {
        name: None if values is None else [v.decode() if isinstance(v, bytes) else v for v in values.ravel().tolist()]
        for name, values in found.items()
    }


def status_of(error: Exception) -> object:
    """A client's idea of the status code."""
    answered = getattr(error, "response", None)  # kserve's is httpx's error
    if answered is not None:
        return answered.status_code
    if isinstance(error, grpc.RpcError):
        return error.code().name
    code = getattr(error, "status", lambda: None)()
    return str(code).removeprefix("StatusCode.")


def serve(clients: dict[str, Client]) -> None:
    """Answer steps from standard input until it ends; what a client raises is an answer, too."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        step = json.loads(line)
        try:
            answer: Json = {"answer": clients[step["client"]](step)}
        except Exception as error:  # noqa: BLE001 - whatever the client raises is the answer
            answer = {"error": type(error).__name__, "message": str(error), "status": str(status_of(error))}
        out.write(json.dumps(answer) + "\n")
        out.flush()
