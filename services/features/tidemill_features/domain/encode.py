"""Feature vectors and watermarks as Kafka records: exactly the contracts' JSON, written fast."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from tidemill_contracts.base import format_time
from tidemill_contracts.envelope import Headers
from tidemill_contracts.events import FeatureVector, Watermark

WATERMARK_KEY = b"\x00watermark"
"""Key of a partition's watermark in the compacted topic. Entity keys do not begin with a zero byte."""

_ENCODER = msgspec.json.Encoder()
_JSON = b"application/json"


class Output(NamedTuple):
    """One record of a compacted topic; a value of None deletes the key."""

    key: bytes
    value: bytes | None
    headers: Headers


class _Vector(msgspec.Struct):
    """The fields of `FeatureVector`, in its order."""

    view: str
    version: str
    entity: str
    at_us: int
    revision: int
    values: list[float]  # msgspec writes NaN as null
    positions: dict[str, int]


class Encoder:
    """Writes the records of one view."""

    def __init__(self, view: str, version: str) -> None:
        self._view, self._version = view, version
        self._source = f"tidemill/features/{view}".encode()
        self._id = f"{view}/{version}/".encode()
        self._names = [str(number) for number in range(256)]

    def vector(
        self,
        entity: bytes,
        state: tuple[int, int],
        values: list[float],
        positions: Mapping[int, int],
        trace: bytes | None,
    ) -> Output:
        """A vector; `state` is (evaluation time in us, revision), `trace` the traceparent of the last event in it."""
        at_us, revision = state
        named = {self._names[partition]: seq for partition, seq in positions.items()}
        body = _Vector(self._view, self._version, entity.decode(), at_us, revision, values, named)
        identity = b"%b%b/%d" % (self._id, entity, revision)
        return Output(entity, _ENCODER.encode(body), self._headers(identity, FeatureVector.TYPE, at_us, trace))

    def watermark(self, partition: int, watermark_us: int, positions: Mapping[int, int]) -> Output:
        """The watermark of a partition and how far each source partition was read for it."""
        named = {str(source): seq for source, seq in sorted(positions.items())}
        body = Watermark(view=self._view, partition=partition, watermark_us=watermark_us, positions=named)
        identity = b"%b%d/%d" % (self._id, partition, watermark_us)
        return Output(
            WATERMARK_KEY, body.model_dump_json().encode(), self._headers(identity, Watermark.TYPE, watermark_us, None)
        )

    def deletions(self, entities: Sequence[bytes]) -> list[Output]:
        """Tombstones of entities that were forgotten."""
        return [Output(entity, None, []) for entity in entities]

    def _headers(self, identity: bytes, kind: str, time_us: int, trace: bytes | None) -> Headers:
        headers: Headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", identity),
            ("ce_type", kind.encode()),
            ("ce_source", self._source),
            ("ce_time", format_time(time_us).encode()),
            ("content-type", _JSON),
        ]
        if trace is not None:
            headers.append(("traceparent", trace))
        return headers
