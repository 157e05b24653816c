"""onnxruntime for models that were not written here: any inputs and outputs, and runs that can be ended."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime

from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.protocol.datatypes import BYTES, NUMPY, OF_ONNX, Port, Tensor
from tidemill_serving.onnx.session import UnusableModelError, brief, session

LONGEST_RUN_S = 10.0


class Graph:
    """An opened model. One thread runs it; another may call `hurry`."""

    def __init__(self, data: bytes) -> None:
        """Open; raises UnusableModelError."""
        try:
            self._session = session(data)
            self.inputs = [_port(found) for found in self._session.get_inputs()]
            self.outputs = [_port(found) for found in self._session.get_outputs()]
        except UnusableModelError:
            raise
        except Exception as error:  # noqa: BLE001 - onnxruntime raises whatever its C++ side does
            raise UnusableModelError(f"not a model that can be opened: {brief(error)}") from None
        self._by_name = {port.name: port for port in self.inputs}
        self._running: tuple[Any, float] | None = None

    def try_out(self) -> None:
        """Run once on zeros, for the sandbox: whatever it says of them, it must come back.

        Raises UnusableModelError where it asks for more memory than there is.
        """
        tensors = {port.name: _zeros(port) for port in self.inputs}
        try:
            self.run(tensors, [port.name for port in self.outputs])
        except RefusedError as refused:
            # Zeros may be no input for it, but it must not want more than the sandbox has.
            if "alloc" in str(refused).lower():
                raise UnusableModelError("the model needs too much memory") from None

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise RefusedError 400 unless these are the model's inputs."""
        for name in tensors.keys() - self._by_name.keys():
            raise RefusedError(400, "inputs", f"{name[:64]}: the model has no such input")
        for name, port in self._by_name.items():
            if name not in tensors:
                raise RefusedError(400, "inputs", f"{name}: the model needs this input")
            given = tensors[name]
            if given.datatype != port.datatype:
                raise RefusedError(400, "datatype", f"{name}: must be {port.datatype}")
            shape = given.values.shape
            if len(shape) != len(port.shape) or any(w not in {-1, s} for w, s in zip(port.shape, shape, strict=True)):
                raise RefusedError(400, "shape", f"{name}: must have the shape {port.shape}, where -1 is free")

    def run(self, tensors: Mapping[str, Tensor], names: Sequence[str]) -> list[Tensor]:
        """The outputs of checked inputs; raises RefusedError where the model fails, also because it was hurried."""
        feeds = {name: _feed(tensor) for name, tensor in tensors.items()}
        mine = onnxruntime.RunOptions()
        mine.log_severity_level = 4
        self._running = mine, time.monotonic()
        try:
            results = self._session.run(list(names), feeds, mine)
        except Exception as error:  # noqa: BLE001 - see above
            raise RefusedError(400, "failed", f"the model failed on these inputs: {brief(error)}") from None
        finally:
            self._running = None
        datatypes = {port.name: port.datatype for port in self.outputs}
        return [_tensor(name, datatypes[name], found) for name, found in zip(names, results, strict=True)]

    def hurry(self) -> None:
        """End a run that takes too long, at its next node."""
        running = self._running
        if running is not None and time.monotonic() - running[1] > LONGEST_RUN_S:
            running[0].terminate = True


def _port(found: Any) -> Port:  # noqa: ANN401 - onnxruntime ships no types
    datatype = OF_ONNX.get(found.type)
    if datatype is None:
        raise UnusableModelError(f"{found.name[:64]} is {found.type}, for which the protocol has no datatype")
    shape = [size if isinstance(size, int) and size >= 0 else -1 for size in found.shape or ()]
    return Port(found.name, datatype, shape)


def _zeros(port: Port) -> Tensor:
    shape = [1 if size < 0 else size for size in port.shape]
    values = np.full(shape, b"", object) if port.datatype == BYTES else np.zeros(shape, NUMPY[port.datatype])
    return Tensor(port.name, port.datatype, values)


def _feed(tensor: Tensor) -> Any:  # noqa: ANN401 - an array of any type
    if tensor.datatype != BYTES:
        return np.ascontiguousarray(tensor.values)
    texts = np.empty(tensor.values.size, object)
    try:
        texts[:] = [item.decode() for item in tensor.values.flat]
    except UnicodeDecodeError:
        raise RefusedError(400, "utf8", f"{tensor.name}: an element is not UTF-8") from None
    return texts.reshape(tensor.values.shape)


def _tensor(name: str, datatype: str, found: Any) -> Tensor:  # noqa: ANN401 - see above
    if datatype != BYTES:
        return Tensor(name, datatype, np.asarray(found, NUMPY[datatype]))
    texts = np.asarray(found, object)
    items = np.empty(texts.size, object)
    items[:] = [item if isinstance(item, bytes) else str(item).encode() for item in texts.flat]
    return Tensor(name, datatype, items.reshape(texts.shape))
