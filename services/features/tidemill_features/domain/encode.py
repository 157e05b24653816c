"""Feature vectors and watermarks as Kafka records: exactly the contracts' JSON, written fast."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidemill_contracts.base import format_time
from tidemill_contracts.envelope import Headers
from tidemill_contracts.events import FeatureVector, Watermark
from tidemill_features.domain.letter import Letter

WATERMARK_KEY = b"\x00watermark"
"""Key of a partition's watermark in the compacted topic. Entity keys do not begin with a zero byte."""

_VERSION, _CONTENT = ("ce_specversion", b"1.0"), ("content-type", b"application/json")
_KINDS = {kind: ("ce_type", kind.encode()) for kind in (FeatureVector.TYPE, Watermark.TYPE)}
_CHUNK = 64
_ENCODER = msgspec.json.Encoder()


class Vectors(NamedTuple):
    """Vectors of entities, row by row.

    Values (n, features), NaN is null; evaluation times in us; revisions; the newest event of each source partition;
    the traceparent of the last event.
    """

    entities: Sequence[bytes]
    values: NDArray[np.float64]
    at_us: Sequence[int]
    revisions: Sequence[int]
    positions: Sequence[Mapping[int, int]]
    traces: Sequence[bytes | None]


class Encoder:
    """Writes the records of one partition of a view's compacted topic."""

    def __init__(self, view: str, version: str, *, topic: str, partition: int) -> None:
        self._view, self._version, self._topic, self._partition = view, version, topic, partition
        self._source = ("ce_source", f"tidemill/features/{view}".encode())
        self._id = f"{view}/{version}/".encode()
        self._begin = _ENCODER.encode({"view": view, "version": version})[:-1] + b',"entity":'

    def vector(
        self,
        entity: bytes,
        state: tuple[int, int],
        values: list[float],
        positions: Mapping[int, int],
        trace: bytes | None,
    ) -> Letter:
        """One vector; `state` is (evaluation time in us, revision)."""
        at_us, revision = state
        return self.vectors(Vectors([entity], np.array([values]), [at_us], [revision], [positions], [trace]))[0]

    def vectors(self, rows: Vectors) -> list[Letter]:
        """Vectors as records; their bodies are `FeatureVector` as JSON."""
        columns = zip(
            rows.entities, _rows_of(rows.values), rows.at_us, rows.revisions, rows.positions, rows.traces, strict=True
        )
        out = []
        for entity, text, at_us, revision, positions, trace in columns:
            named = b",".join([b'"%d":%d' % item for item in positions.items()])
            name = _ENCODER.encode(entity.decode())
            body = b'%b%b,"at_us":%d,"revision":%d,"values":[%b],"positions":{%b}}' % (
                self._begin, name, at_us, revision, text, named,
            )  # fmt: skip
            headers = self._headers(FeatureVector.TYPE, b"%b%b/%d" % (self._id, entity, revision), at_us)
            if trace is not None:
                headers.append(("traceparent", trace))
            out.append(Letter(self._topic, self._partition, entity, body, headers))
        return out

    def watermark(self, watermark_us: int, positions: Mapping[int, int]) -> Letter:
        """The watermark of the partition and how far each source partition was read for it."""
        named = {str(source): seq for source, seq in sorted(positions.items())}
        body = Watermark(view=self._view, partition=self._partition, watermark_us=watermark_us, positions=named)
        headers = self._headers(Watermark.TYPE, b"%b%d/%d" % (self._id, self._partition, watermark_us), watermark_us)
        return Letter(self._topic, self._partition, WATERMARK_KEY, body.model_dump_json().encode(), headers)

    def deletion(self, entity: bytes) -> Letter:
        """A tombstone of an entity that was forgotten."""
        return Letter(self._topic, self._partition, entity, None, [])

    def _headers(self, kind: str, identity: bytes, time_us: int) -> Headers:
        return [
            _VERSION, ("ce_id", identity), _KINDS[kind], self._source, ("ce_time", _time(time_us)), _CONTENT,
        ]  # fmt: skip


def _rows_of(values: NDArray[np.float64]) -> Iterator[bytes]:
    """Each row's numbers as JSON without brackets; few rows at a time, so that memory is used again at once."""
    for start in range(0, len(values), _CHUNK):
        # In one call: a list of rows is cut where no number can be.
        yield from _ENCODER.encode(values[start : start + _CHUNK].tolist())[2:-2].split(b"],[")


@lru_cache(maxsize=1024)  # many vectors of one moment
def _time(time_us: int) -> bytes:
    return format_time(time_us).encode()
