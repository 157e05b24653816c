"""Requests for inference as REST has them: JSON, and after it the bytes of those tensors that say so. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from tidemill_serving.domain.body import Fault, RefusedError, read_json
from tidemill_serving.domain.protocol.datatypes import Tensor, TensorError, flatten, from_items, from_raw

MAXIMUM_TENSORS = 256
_LONGEST_MESSAGE = 200
Parameters = dict[str, str | int | float | bool]


class Wanted(NamedTuple):
    """An output that is asked for; `binary` None: as the request says for all."""

    name: str
    binary: bool | None = None


class Call(NamedTuple):
    """A read request. `outputs` None: all of them; `binary`: what those come as that do not say it themselves."""

    tensors: Mapping[str, Tensor]
    outputs: list[Wanted] | None = None
    binary: bool = False
    id: str | None = None
    model: str | None = None


class _Input(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters | None = None
    data: list[Any] | None = None


class _Output(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    parameters: Parameters | None = None


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[_Input]
    id: str | None = None
    model_name: str | None = None
    parameters: Parameters | None = None
    outputs: list[_Output] | None = None


def read_call(raw: bytes, json_length: int | None = None) -> Call:
    """The request in a body; `json_length` is how much of it is JSON, None: all. Raises RefusedError 400."""
    if json_length is not None and not 0 < json_length <= len(raw):
        raise RefusedError(400, "length", "Inference-Header-Content-Length is not a length of the JSON in this body")
    body = _checked(read_json(raw if json_length is None else raw[:json_length]))
    if not 1 <= len(body.inputs) <= MAXIMUM_TENSORS:
        raise RefusedError(400, "inputs", f"a request has 1 to {MAXIMUM_TENSORS} inputs")
    tensors = _tensors(body.inputs, memoryview(raw)[len(raw) if json_length is None else json_length :])
    wanted = [Wanted(output.name, _binary(output.name, output.parameters)) for output in body.outputs or ()]
    if len({output.name for output in wanted}) != len(wanted):
        raise RefusedError(400, "outputs", "an output is asked for twice")
    for_all = _flag("parameters", body.parameters or {}, "binary_data_output")
    return Call(tensors, wanted or None, bool(for_all), body.id or None, body.model_name)


def _checked(value: object) -> _Request:
    try:
        return msgspec.convert(value, _Request)
    except msgspec.ValidationError as error:
        text = str(error)[:_LONGEST_MESSAGE]
        raise RefusedError(400, "schema", text, (Fault("", "schema", text),)) from None


def _tensors(inputs: list[_Input], tail: memoryview) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for given in inputs:
        if given.name in found:
            raise TensorError(given.name, "repeated", "the input is given twice")
        size = _size(given)
        if size is None:
            found[given.name] = from_items(given.name, given.datatype, given.shape, flatten(given.data or []))
            continue
        if size > len(tail):
            raise TensorError(given.name, "length", "the body ends before the bytes of this input do")
        found[given.name] = from_raw(given.name, given.datatype, given.shape, tail[:size])
        tail = tail[size:]
    if len(tail):
        raise RefusedError(400, "length", f"{len(tail)} bytes of the body belong to no input")
    return found


def _size(given: _Input) -> int | None:
    """Bytes of a binary tensor; None: its values are in the JSON."""
    parameters = given.parameters or {}
    _refuse_shared_memory(given.name, parameters)
    size = parameters.get("binary_data_size")
    if size is None:
        if given.data is None:
            raise TensorError(given.name, "data", "neither data nor parameters.binary_data_size are given")
        return None
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise TensorError(given.name, "binary_data_size", "binary_data_size is a whole number of bytes")
    if given.data is not None:
        raise TensorError(given.name, "data", "data and parameters.binary_data_size exclude each other")
    return size


def _binary(name: str, parameters: Parameters | None) -> bool | None:
    if not parameters:
        return None
    _refuse_shared_memory(name, parameters)
    if parameters.get("classification"):
        raise TensorError(name, "classification", "classification is an extension that this server does not have")
    return _flag(name, parameters, "binary_data")


def _flag(name: str, parameters: Parameters, flag: str) -> bool | None:
    value = parameters.get(flag)
    if value is not None and not isinstance(value, bool):
        raise TensorError(name, flag, f"{flag} is true or false")
    return value


def _refuse_shared_memory(name: str, parameters: Parameters) -> None:
    if "shared_memory_region" in parameters:
        raise TensorError(name, "shared_memory", "shared memory is an extension that this server does not have")
