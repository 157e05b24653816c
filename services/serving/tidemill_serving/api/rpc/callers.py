"""Who calls: the API key in the metadata, and as a status what it does not open or has no quota for."""

from collections.abc import Callable
from typing import TypeVar

from tidemill_runtime.http import ANYBODY, Caller, HttpProblem, Keys
from tidemill_runtime.rpc import Code, StatusError, Stream
from tidemill_serving.domain.protocol import Call

T = TypeVar("T")
_CODES = {
    401: Code.UNAUTHENTICATED, 403: Code.PERMISSION_DENIED, 413: Code.RESOURCE_EXHAUSTED, 429: Code.RESOURCE_EXHAUSTED,
}  # fmt: skip


class Callers:
    """What keys open of gRPC: with bounds, whatever is only read, and inference at a row each."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def reading(self, call: Stream) -> None:
        """Raises StatusError for whoever may not ask at all; costs a row."""
        if self._keys.are_needed:
            _as_status(lambda: self._keys.find(call.metadata).charge(1))

    def changing(self, call: Stream) -> None:
        """Raises StatusError but for the key without bounds."""
        if self._keys.are_needed:
            _as_status(lambda: _unbounded(self._keys.find(call.metadata)))

    def infers(self, call: Stream) -> Caller:
        """Who wants inference, of which `charged` then takes the price; raises StatusError."""
        return _as_status(lambda: self._keys.find(call.metadata)) if self._keys.are_needed else ANYBODY


def charged(caller: Caller, model: str, call: Call) -> None:
    """Take the rows of a request from the caller's quota; raises StatusError."""
    if caller is not ANYBODY:
        shapes = (tensor.values.shape for tensor in call.tensors.values())
        rows = max((shape[0] for shape in shapes if shape), default=1)
        _as_status(lambda: _charge(caller, model, rows))


def _charge(caller: Caller, model: str, rows: int) -> None:
    caller.check_pipeline(model)
    caller.charge(max(rows, 1))


def _unbounded(caller: Caller) -> None:
    if caller is not ANYBODY:
        raise HttpProblem(403, "the API key does not open this method")


def _as_status(work: Callable[[], T]) -> T:
    try:
        return work()
    except HttpProblem as problem:
        again = problem.headers.get("retry-after")
        text = problem.detail if again is None else f"{problem.detail}: again in {again} s"
        raise StatusError(_CODES.get(problem.status, Code.UNKNOWN), text) from None
