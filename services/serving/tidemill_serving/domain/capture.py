"""What only a sample of the records holds, as the pipeline file declares it: request fields, and inputs of models."""

from hashlib import blake2b
from typing import Literal

import msgspec

from tidemill_contracts.pipeline import CaptureSpec, InferenceSpec
from tidemill_serving.domain.answers import Record, mark_of
from tidemill_serving.domain.traffic import Traffic

Kept = Literal["all", "cut", "sampled", "redacted"]
_WHOLE = 2**64


class Capture:
    """Leaves fields out of records. Which ones follows from the prediction's id: a repeat would be treated alike."""

    def __init__(self, spec: CaptureSpec, traffic: Traffic) -> None:
        self._fields, self._below, self._traffic = frozenset(spec.fields), spec.share * _WHOLE, traffic

    def apply(self, record: Record) -> Record:
        """The record as it is logged; a mark of the whole request stays, by which another under the same id is told."""
        if _point(record.prediction_id) < self._below:
            self._traffic.captured += 1
            return record
        self._traffic.uncaptured += 1
        request = {name: value for name, value in record.request.items() if name not in self._fields}
        if len(request) == len(record.request):
            return record
        return msgspec.structs.replace(record, request=request, mark=mark_of(record.request, record.inline).hex())


class InputCapture:
    """What becomes of the values of a model's inputs. Which requests keep theirs follows from their ids."""

    def __init__(self, spec: InferenceSpec, traffic: Traffic) -> None:
        self._redacted, self._most, self._traffic = frozenset(spec.redact), spec.most_values, traffic
        self._sampled = frozenset[str]() if spec.capture is None else frozenset(spec.capture.inputs)
        self._below = 0.0 if spec.capture is None else spec.capture.share * _WHOLE

    def rows(self, name: str, request: str, shape: tuple[int, int]) -> tuple[Kept, int]:
        """What the record of a request says of an input of this shape, and how many of its rows it has."""
        height, width = shape
        if name in self._redacted:
            return "redacted", 0
        if name in self._sampled:
            if _point(request) >= self._below:
                self._traffic.uncaptured += 1
                return "sampled", 0
            self._traffic.captured += 1
        if self._most is not None and height * width > self._most:
            return "cut", self._most // width
        return "all", height


def _point(identity: str) -> int:
    return int.from_bytes(blake2b(identity.encode(), digest_size=8).digest(), "big")
