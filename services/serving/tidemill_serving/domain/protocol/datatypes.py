"""The protocol's datatypes: as numpy arrays, as raw little-endian bytes, as JSON values. Pure."""

import struct
import sys
from collections.abc import Sequence
from itertools import chain
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill_serving.domain.body import Fault, RefusedError

Values = NDArray[Any]
BYTES = "BYTES"
NUMPY: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    BYTES: np.dtype(object),
}
"""By the protocol's name. The elements of BYTES are `bytes`."""
OF_ONNX = {
    "tensor(bool)": "BOOL", "tensor(int8)": "INT8", "tensor(int16)": "INT16", "tensor(int32)": "INT32",
    "tensor(int64)": "INT64", "tensor(uint8)": "UINT8", "tensor(uint16)": "UINT16", "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64", "tensor(float16)": "FP16", "tensor(float)": "FP32", "tensor(double)": "FP64",
    "tensor(string)": BYTES,
}  # fmt: skip
"""onnxruntime's name of an element type to the protocol's."""
MOST_DIMENSIONS, MOST_ELEMENTS = 32, 2**31 - 1
_LENGTH = struct.Struct("<I")
_JSON: dict[str, frozenset[type]] = {"b": frozenset({bool}), "f": frozenset({int, float}), "O": frozenset({str})}
_WHOLE = frozenset({int})


class Tensor(NamedTuple):
    """A tensor by name; `values` has its shape."""

    name: str
    datatype: str
    values: Values


class Port(NamedTuple):
    """An input or output of a model; -1 is a free dimension."""

    name: str
    datatype: str
    shape: list[int]


class TensorError(RefusedError):
    """A tensor that is not what it says; the text names it and the rule."""

    def __init__(self, name: str, rule: str, message: str) -> None:
        text = f"{name[:64]}: {message}"
        super().__init__(400, "tensor", text, (Fault(name[:64], rule, message),))


def count_of(name: str, shape: Sequence[int]) -> int:
    """Elements of a shape; raises TensorError for one that cannot be."""
    if len(shape) > MOST_DIMENSIONS or any(size < 0 for size in shape):
        raise TensorError(name, "shape", f"a shape has at most {MOST_DIMENSIONS} sizes, none below 0")
    if prod(size for size in shape if size) > MOST_ELEMENTS:
        raise TensorError(name, "shape", f"a tensor has at most {MOST_ELEMENTS} elements")
    return prod(shape)


def dtype_of(name: str, datatype: str) -> np.dtype[Any]:
    """The numpy type; raises TensorError for an unknown datatype."""
    found = NUMPY.get(datatype)
    if found is None:
        raise TensorError(name, "datatype", f"the datatype is one of {', '.join(NUMPY)}")
    return found


def from_raw(name: str, datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> Tensor:
    """A tensor from its bytes, row by row, little-endian; BYTES have each four bytes of length before them."""
    count, dtype = count_of(name, shape), dtype_of(name, datatype)
    if datatype == BYTES:
        return Tensor(name, datatype, _objects(_unframe(name, raw, count)).reshape(shape))
    if len(raw) != count * dtype.itemsize:
        raise TensorError(name, "length", f"{count} elements of {datatype} take {count * dtype.itemsize} bytes")
    if datatype == "BOOL" and count and np.frombuffer(raw, np.uint8).max() > 1:
        raise TensorError(name, "range", "a BOOL is a byte 0 or 1")
    return Tensor(name, datatype, np.frombuffer(raw, dtype).reshape(shape))


def to_raw(tensor: Tensor) -> bytes:
    """What `from_raw` reads back."""
    if tensor.datatype == BYTES:
        return b"".join(chain.from_iterable((_LENGTH.pack(len(item)), item) for item in tensor.values.flat))
    values = np.ascontiguousarray(tensor.values, NUMPY[tensor.datatype])
    return values.tobytes() if sys.byteorder == "little" else values.astype(values.dtype.newbyteorder("<")).tobytes()


def _unframe(name: str, raw: bytes | memoryview, count: int) -> list[bytes]:
    view, at, found = memoryview(raw), 0, []
    if len(view) < _LENGTH.size * count:
        raise TensorError(name, "length", f"{count} elements of BYTES take at least {_LENGTH.size * count} bytes")
    for _ in range(count):
        if len(view) - at < _LENGTH.size:
            raise TensorError(name, "length", "the bytes end inside of an element")
        (size,) = _LENGTH.unpack_from(view, at)
        at += _LENGTH.size
        if len(view) - at < size:
            raise TensorError(name, "length", "the bytes end inside of an element")
        found.append(bytes(view[at : at + size]))
        at += size
    if at != len(view):
        raise TensorError(name, "length", "there are more bytes than elements")
    return found


def from_items(name: str, datatype: str, shape: Sequence[int], items: Sequence[Any]) -> Tensor:
    """A tensor from the elements in a row, as JSON or a message has them; text of BYTES is taken as UTF-8."""
    count, dtype = count_of(name, shape), dtype_of(name, datatype)
    if len(items) != count:
        raise TensorError(name, "length", f"the shape has {count} elements, the data have {len(items)}")
    if not set(map(type, items)) <= _JSON.get(dtype.kind, _WHOLE):
        raise TensorError(name, "type", f"an element is not of {datatype}")
    if datatype == BYTES:
        return Tensor(name, datatype, _objects([item.encode() for item in items]).reshape(shape))
    if dtype.kind in "iu" and items:
        bounds = np.iinfo(dtype)
        if min(items) < bounds.min or max(items) > bounds.max:
            raise TensorError(name, "range", f"an element is out of the range of {datatype}")
    try:
        with np.errstate(over="ignore"):
            values = np.array(items, dtype).reshape(shape)
    except OverflowError:  # an integer that is no float
        values = np.full(1, np.inf)
    if dtype.kind == "f" and not np.isfinite(values).all():
        raise TensorError(name, "range", f"an element is out of the range of {datatype}")
    return Tensor(name, datatype, values)


def flatten(data: list[Any]) -> list[Any]:
    """The elements of nested lists in row-major order."""
    for _ in range(MOST_DIMENSIONS):
        if not any(isinstance(item, list) for item in data):
            break
        data = list(chain.from_iterable(item if isinstance(item, list) else [item] for item in data))
    return data


def to_items(tensor: Tensor) -> list[Any]:
    """The elements in a row as JSON has them; raises TensorError for those that JSON has no way to write."""
    values = tensor.values
    if tensor.datatype == BYTES:
        try:
            return [item.decode() for item in values.flat]
        except UnicodeDecodeError:
            raise TensorError(tensor.name, "json", "an element is not UTF-8: ask for binary data") from None
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise TensorError(tensor.name, "json", "an element is not finite: ask for binary data")
    found: list[Any] = values.ravel().tolist()
    return found


def _objects(items: Sequence[bytes]) -> Values:
    values = np.empty(len(items), object)
    values[:] = items
    return values
