"""Feature vectors and watermarks as Kafka records: exactly the contracts' JSON, written fast."""

from collections.abc import Mapping

import msgspec

from tidemill_contracts.base import format_time
from tidemill_contracts.envelope import Headers
from tidemill_contracts.events import FeatureVector, Watermark
from tidemill_features.domain.letter import Letter

WATERMARK_KEY = b"\x00watermark"
"""Key of a partition's watermark in the compacted topic. Entity keys do not begin with a zero byte."""

_ENCODER = msgspec.json.Encoder()
_JSON = b"application/json"


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
    """Writes the records of one partition of a view's compacted topic."""

    def __init__(self, view: str, version: str, *, topic: str, partition: int) -> None:
        self._view, self._version, self._topic, self._partition = view, version, topic, partition
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
    ) -> Letter:
        """A vector; `state` is (evaluation time in us, revision), `trace` the traceparent of the last event in it."""
        at_us, revision = state
        named = {self._names[partition]: seq for partition, seq in positions.items()}
        body = _Vector(self._view, self._version, entity.decode(), at_us, revision, values, named)
        headers = self._headers(b"%b%b/%d" % (self._id, entity, revision), FeatureVector.TYPE, at_us)
        if trace is not None:
            headers.append(("traceparent", trace))
        return Letter(self._topic, self._partition, entity, _ENCODER.encode(body), headers)

    def watermark(self, watermark_us: int, positions: Mapping[int, int]) -> Letter:
        """The watermark of the partition and how far each source partition was read for it."""
        named = {self._names[source]: seq for source, seq in sorted(positions.items())}
        body = Watermark(view=self._view, partition=self._partition, watermark_us=watermark_us, positions=named)
        headers = self._headers(b"%b%d/%d" % (self._id, self._partition, watermark_us), Watermark.TYPE, watermark_us)
        return Letter(self._topic, self._partition, WATERMARK_KEY, body.model_dump_json().encode(), headers)

    def deletion(self, entity: bytes) -> Letter:
        """A tombstone of an entity that was forgotten."""
        return Letter(self._topic, self._partition, entity, None, [])

    def _headers(self, identity: bytes, kind: str, time_us: int) -> Headers:
        return [
            ("ce_specversion", b"1.0"),
            ("ce_id", identity),
            ("ce_type", kind.encode()),
            ("ce_source", self._source),
            ("ce_time", format_time(time_us).encode()),
            ("content-type", _JSON),
        ]
