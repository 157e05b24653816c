"""Feature vectors and watermarks as Kafka records: exactly the contracts' JSON, written fast."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidemill_contracts.base import format_time
from tidemill_contracts.events import FeatureVector, Watermark
from tidemill_contracts.headers import packed_header
from tidemill_engine.windows.text import numbers_text
from tidemill_features.domain.compose import Frame, Rows, as_bytes, compose
from tidemill_features.domain.letter import Bytes, Letter, Letters, Words, as_letters, joined

WATERMARK_KEY = b"\x00watermark"
"""Key of a partition's watermark in the compacted topic. Entity keys do not begin with a zero byte."""

_VERSION, _CONTENT = ("ce_specversion", b"1.0"), ("content-type", b"application/json")
_TRACE = "traceparent"
_ENCODER = msgspec.json.Encoder()


class Vectors(NamedTuple):
    """Vectors of entities, row by row.

    Values (n, features), NaN is null; evaluation times in us; revisions; source partitions in ascending order and the
    newest event of each, int64 (n, partitions), -1 none; the traceparent of the last event.
    """

    entities: Sequence[bytes]
    values: NDArray[np.float64]
    at_us: Words
    revisions: Words
    partitions: Words
    seqs: Words
    traces: Sequence[bytes | None]


class Outgoing(NamedTuple):
    """What readers of one partition of a view must be told, not written yet."""

    encoder: "Encoder"
    vectors: Vectors | None
    deletions: Sequence[bytes]
    watermark: tuple[int, Mapping[int, int]] | None

    @property
    def records(self) -> int:
        """Records."""
        vectors = 0 if self.vectors is None else len(self.vectors.entities)
        return vectors + len(self.deletions) + (self.watermark is not None)

    def contexts(self) -> list[str]:
        """The distinct traceparents of the vectors."""
        traces = () if self.vectors is None else dict.fromkeys(self.vectors.traces)
        return [trace.decode("ascii", "replace") for trace in traces if trace is not None]

    def letters(self) -> Letters:
        """All of it, the watermark last; there is something. May run beside the event loop."""
        parts = [] if self.vectors is None else [self.encoder.vectors(self.vectors)]
        few = [self.encoder.deletion(entity) for entity in self.deletions]
        if self.watermark is not None:
            few.append(self.encoder.watermark(*self.watermark))
        if few:
            parts.append(as_letters(few))
        return joined(parts)


class Encoder:
    """Writes the records of one partition of a view's compacted topic."""

    def __init__(self, view: str, version: str, *, topic: str, partition: int) -> None:
        self._view, self._version, self.topic, self._partition = view, version, topic, partition
        self._source = ("ce_source", f"tidemill/features/{view}".encode())
        self._id = f"{view}/{version}/".encode()
        begin = _ENCODER.encode({"view": view, "version": version})[:-1] + b',"entity":'
        kind = packed_header("ce_type", FeatureVector.TYPE.encode())
        self._frame = Frame(
            begin=as_bytes(begin), identity=as_bytes(self._id),
            before_id=as_bytes(packed_header(*_VERSION) + packed_header("ce_id", b"")[:-1]),
            before_time=as_bytes(kind + packed_header(*self._source) + packed_header("ce_time", b"")[:-1]),
            last=as_bytes(packed_header(*_CONTENT)), before_trace=as_bytes(packed_header(_TRACE, b"")[:-1]),
            partitions=np.empty(0, np.int64),
        )  # fmt: skip

    def vector(
        self,
        entity: bytes,
        state: tuple[int, int],
        values: list[float],
        positions: Mapping[int, int],
        trace: bytes | None,
    ) -> Letter:
        """One vector; `state` is (evaluation time in us, revision)."""
        at, partitions = np.array([state], np.int64), sorted(positions)
        seqs = np.array([[positions[source] for source in partitions]], np.int64)
        rows = Vectors([entity], np.array([values]), at[:, 0].copy(), at[:, 1].copy(), np.array(partitions, np.int64),
                       seqs, [trace])  # fmt: skip
        return self.vectors(rows)[0]

    def vectors(self, rows: Vectors) -> Letters:
        """Vectors as records; their bodies are `FeatureVector` as JSON."""
        texts, text_ends = numbers_text(rows.values)
        keys, key_ends = _in_one(rows.entities)
        traces, trace_ends = _in_one([])
        if any(rows.traces):
            traces, trace_ends = _in_one([trace or b"" for trace in rows.traces])
        columns = Rows(keys, key_ends, texts, text_ends, rows.at_us, rows.revisions, rows.seqs, traces, trace_ends)
        buffer, table = compose(self._frame._replace(partitions=rows.partitions), columns)
        return Letters(self.topic, self._partition, buffer, table)

    def watermark(self, watermark_us: int, positions: Mapping[int, int]) -> Letter:
        """The watermark of the partition and how far each source partition was read for it."""
        named = {str(source): seq for source, seq in sorted(positions.items())}
        body = {
            "view": self._view, "partition": self._partition, "watermark_us": watermark_us, "positions": named,
        }  # fmt: skip
        headers = [
            _VERSION,
            ("ce_id", b"%b%d/%d/%d" % (self._id, self._partition, watermark_us, sum(positions.values()))),
            ("ce_type", Watermark.TYPE.encode()), self._source, ("ce_time", format_time(watermark_us).encode()),
            _CONTENT,
        ]  # fmt: skip
        return Letter(self.topic, self._partition, WATERMARK_KEY, _ENCODER.encode(body), headers)

    def deletion(self, entity: bytes) -> Letter:
        """A tombstone of an entity that was forgotten."""
        return Letter(self.topic, self._partition, entity, None, [])


def _in_one(texts: Sequence[bytes]) -> tuple[Bytes, Words]:
    """Texts one behind the other, and where each ends."""
    return np.frombuffer(bytearray(b"".join(texts)), np.uint8), np.cumsum(list(map(len, texts)), dtype=np.int64)
