"""A reader of the compacted topics of vectors, and what it must have found."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from features_cases import END_US, PARTITIONS, Stream, expected, pipeline, views

from tidemill_contracts.events import FeatureVector, Watermark
from tidemill_features.domain.encode import WATERMARK_KEY


@dataclass
class Reader:
    """A fresh replica of one compacted topic, read from its beginning: the highest revision of an entity counts."""

    vectors: dict[str, FeatureVector] = field(default_factory=dict)
    watermarks: dict[int, Watermark] = field(default_factory=dict)
    marks: dict[int, list[int]] = field(default_factory=dict)
    """Offsets of watermarks by partition."""
    seen_us: dict[int, int] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)
    records: int = 0
    arrived: dict[str, float] = field(default_factory=dict)
    told: dict[tuple[str, int], list[float | None]] = field(default_factory=dict)
    contradictions: list[tuple[str, int]] = field(default_factory=list)

    def take(self, record: Any) -> None:  # noqa: ANN401 - aiokafka ships no types
        self.records += 1
        if record.value is None:
            self.vectors.pop(record.key.decode(), None)
        elif record.key == WATERMARK_KEY:
            self.marks.setdefault(record.partition, []).append(record.offset)
            self.watermarks[record.partition] = mark = Watermark.read(record.value)
            self.seen_us[record.partition] = max(mark.watermark_us, self.seen_us.get(record.partition, 0))
        else:
            vector = FeatureVector.read(record.value)
            self.last[vector.entity] = vector.revision
            if self.told.setdefault((vector.entity, vector.revision), vector.values) != vector.values:
                self.contradictions.append((vector.entity, vector.revision))
            known = self.vectors.get(vector.entity)
            if known is None or vector.revision > known.revision:
                self.vectors[vector.entity] = vector
                self.arrived[vector.entity] = time.monotonic()

    def is_settled(self, until_us: int) -> bool:
        """Whether the newest records are of the end: after a crash older ones are told again first, up to it."""
        newest = {entity: vector.revision for entity, vector in self.vectors.items()}
        told = {mark.watermark_us for mark in self.watermarks.values()}
        return self.low() == until_us and told == {until_us} and self.last == newest

    def low(self) -> int:
        """The replica's watermark, -1 until every partition has one."""
        return min(self.seen_us.values()) if len(self.seen_us) == PARTITIONS else -1


def check_vectors(stream: Stream, replicas: Mapping[str, Reader], *, until_us: int | None = END_US) -> None:
    """Every entity's vector equals the engine's backfill at the same time, bit for bit."""
    for name, reader in replicas.items():
        assert not reader.contradictions, (name, reader.contradictions[:5])
        view = views(pipeline())[name]
        keys = [key.encode() for key in reader.vectors]
        values = expected(view, stream.all, keys, [vector.at_us for vector in reader.vectors.values()])
        online = np.array([[np.nan if v is None else v for v in vector.values] for vector in reader.vectors.values()])
        assert online.tobytes() == np.where(np.isnan(values), np.nan, values).tobytes(), name
        rows = [row for e in stream.all if (row := view.read(e.id, e.time_us, e.body)) is not None]
        assert {row.key for row in rows} == set(keys)
        assert reader.last == {entity: vector.revision for entity, vector in reader.vectors.items()}
        for low in reader.watermarks.values():
            assert until_us is None or low.watermark_us == until_us
            assert all(seq == len(stream.by_partition[int(p)]) - 1 for p, seq in low.positions.items())
