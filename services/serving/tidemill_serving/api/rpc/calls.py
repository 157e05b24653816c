"""Inference over gRPC: messages to calls and answers to messages, as lean as the messages allow."""

from typing import Any

import numpy as np

from tidemill_serving.api.rpc.protos import Messages
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.protocol import Call, Outcome, Tensor, Wanted
from tidemill_serving.domain.protocol.datatypes import (
    BYTES,
    TensorError,
    Values,
    count_of,
    dtype_of,
    from_items,
    from_raw,
    to_raw,
)

MAXIMUM_TENSORS = 256
INFERENCE = Messages("inference.proto")
InferRequest, InferResponse = INFERENCE["ModelInferRequest"], INFERENCE["ModelInferResponse"]
StreamResponse = INFERENCE["ModelStreamInferResponse"]
CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
"""Datatype to the field that holds its values; FP16 comes as raw bytes alone."""
_EXACT = frozenset({"BOOL", "INT32", "INT64", "UINT32", "UINT64", "FP32", "FP64"})
"""Whose fields hold nothing else: the message itself has checked the values."""


def read_infer(request: Any) -> Call:  # noqa: ANN401 - protobuf ships no types
    """The call in a message; raises RefusedError 400."""
    raw, inputs = request.raw_input_contents, request.inputs
    if not 1 <= len(inputs) <= MAXIMUM_TENSORS:
        raise RefusedError(400, "inputs", f"a request has 1 to {MAXIMUM_TENSORS} inputs")
    if raw and len(raw) != len(inputs):
        raise RefusedError(400, "raw", "raw_input_contents has one element for each input, or none at all")
    tensors: dict[str, Tensor] = {}
    for place, given in enumerate(inputs):
        name = given.name
        if name in tensors:
            raise TensorError(name, "repeated", "the input is given twice")
        if given.parameters:
            _refuse(name, given.parameters, "shared_memory_region")
        if not raw:
            tensors[name] = _from_contents(name, given)
            continue
        if given.HasField("contents"):
            raise TensorError(name, "contents", "contents and raw_input_contents exclude each other")
        tensors[name] = from_raw(name, given.datatype, given.shape, raw[place])
    return Call(tensors, _wanted(request.outputs), bool(raw), request.id or None)


def _from_contents(name: str, given: Any) -> Tensor:  # noqa: ANN401 - see above
    datatype, shape = given.datatype, list(given.shape)
    count, dtype = count_of(name, shape), dtype_of(name, datatype)
    field = CONTENTS.get(datatype)
    if field is None:
        raise TensorError(name, "contents", f"{datatype} comes in raw_input_contents")
    items = getattr(given.contents, field)
    if len(items) != count:
        raise TensorError(name, "length", f"the shape has {count} elements, {field} has {len(items)}")
    if datatype in _EXACT:
        return Tensor(name, datatype, np.fromiter(items, dtype, count).reshape(shape))
    if datatype == BYTES:
        values = np.empty(count, object)
        values[:] = list(items)
        return Tensor(name, datatype, values.reshape(shape))
    return from_items(name, datatype, shape, list(items))


def _wanted(outputs: Any) -> list[Wanted] | None:  # noqa: ANN401 - see above
    found = []
    for output in outputs:
        if output.parameters:
            _refuse(output.name, output.parameters, "shared_memory_region")
            _refuse(output.name, output.parameters, "classification")
        found.append(Wanted(output.name))
    if len({output.name for output in found}) != len(found):
        raise RefusedError(400, "outputs", "an output is asked for twice")
    return found or None


def _refuse(name: str, parameters: Any, parameter: str) -> None:  # noqa: ANN401 - see above
    if parameter in parameters:
        raise TensorError(name, parameter, f"{parameter} is of an extension that this server does not have")


class MessageRendering:
    """Makes the message of an answer, serialised: values as raw bytes if the request's were, else in their fields."""

    __slots__ = ("_is_raw",)

    def __init__(self, call: Call) -> None:
        self._is_raw = call.binary

    def __call__(self, outcome: Outcome) -> bytes:
        """The bytes of a ModelInferResponse."""
        response = InferResponse(model_name=outcome.model, model_version=outcome.version, id=outcome.id)
        response.parameters["inference_id"].string_param = outcome.identity
        is_raw = self._is_raw or any(tensor.datatype not in CONTENTS for tensor in outcome.outputs)
        for tensor in outcome.outputs:
            output = response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.values.shape)
            if is_raw:
                response.raw_output_contents.append(to_raw(tensor))
            else:
                getattr(output.contents, CONTENTS[tensor.datatype]).extend(_items(tensor.values))
        found: bytes = response.SerializeToString()
        return found


def _items(values: Values) -> list[Any]:
    found: list[Any] = values.ravel().tolist()
    return found
