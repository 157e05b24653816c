"""Request fields that only a sample of the records holds, as the pipeline file declares it."""

from hashlib import blake2b

import msgspec

from tidemill_contracts.pipeline import CaptureSpec
from tidemill_serving.domain.answers import Record, mark_of
from tidemill_serving.domain.traffic import Traffic

_WHOLE = 2**64


class Capture:
    """Leaves fields out of records. Which ones follows from the prediction's id: a repeat would be treated alike."""

    def __init__(self, spec: CaptureSpec, traffic: Traffic) -> None:
        self._fields, self._below, self._traffic = frozenset(spec.fields), spec.share * _WHOLE, traffic

    def apply(self, record: Record) -> Record:
        """The record as it is logged; a mark of the whole request stays, by which another under the same id is told."""
        if int.from_bytes(blake2b(record.prediction_id.encode(), digest_size=8).digest(), "big") < self._below:
            self._traffic.captured += 1
            return record
        self._traffic.uncaptured += 1
        request = {name: value for name, value in record.request.items() if name not in self._fields}
        if len(request) == len(record.request):
            return record
        return msgspec.structs.replace(record, request=request, mark=mark_of(record.request, record.inline).hex())
