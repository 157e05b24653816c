"""Records through routers and aggregates without a broker, and what a reader of the results knows."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from features_cases import (
    END_US,
    PARTITIONS,
    FakeRecord,
    Stream,
    expected,
    fresh,
    source_record,
    timer_record,
)

from tidemill_contracts.events import FeatureVector, Watermark
from tidemill_features.domain.encode import WATERMARK_KEY
from tidemill_features.domain.letter import Letter, Mail
from tidemill_features.domain.partition import AggregatePartition
from tidemill_features.domain.repartition import RoutedRow, Row, Section, read_sheet
from tidemill_features.domain.route import Route, RouteMarks, RoutePartition
from tidemill_features.domain.views import View


def told(part: AggregatePartition) -> list[Letter]:
    """What is not told yet."""
    return list(Mail([out.letters() for out in part.drain()]))


class Readers:
    """What a reader of the compacted topics knows: the newest record of each key."""

    def __init__(self) -> None:
        self.vectors: dict[bytes, FeatureVector] = {}
        self.watermark: Watermark | None = None

    def read(self, part: AggregatePartition) -> int:
        outputs = told(part)
        for output in outputs:
            assert output.key is not None
            if output.value is None:
                self.vectors.pop(output.key, None)
            elif output.key == WATERMARK_KEY:
                self.watermark = Watermark.read(output.value)
            else:
                new = FeatureVector.read(output.value)
                assert new.revision >= (self.vectors[output.key].revision if output.key in self.vectors else 1)
                self.vectors[output.key] = new
        return len(outputs)


def routed(
    view: View, stream: Stream, *, repeat: bool = False, seed: int = 0, size: int = 60
) -> dict[int, list[FakeRecord]]:
    """Records of each partition of the view's input, source partitions interleaved by chance."""
    chance = random.Random(seed)
    inputs: dict[int, list[FakeRecord]] = {p: [] for p in range(PARTITIONS)}
    routes = {p: RoutePartition([Route(view, p, RouteMarks(), by_sum)]) for p in range(PARTITIONS)}
    pending = {p: [source_record(e) for e in events] for p, events in stream.by_partition.items()}
    for p, records in pending.items():
        records.append(timer_record(END_US, p))
    while any(pending.values()):
        p = chance.choice([p for p, records in pending.items() if records])
        taken = chance.randrange(1, size + 1)
        batch, pending[p] = pending[p][:taken], pending[p][taken:]
        if repeat and chance.random() < 0.5:  # a router that died before it had stored how far it was
            route = routes[p].routes[0]
            marks = RouteMarks(0, route.seq, route.watermark_us)
            lost, _ = routes[p].take(view.source_topic, batch)
            put(inputs, lost)
            routes[p] = RoutePartition([Route(view, p, marks, by_sum)])
        out, rejected = routes[p].take(view.source_topic, batch)
        assert not rejected
        put(inputs, out)
    return inputs


def put(inputs: dict[int, list[FakeRecord]], out: Sequence[Letter]) -> None:
    for item in out:
        at = inputs[item.partition]
        at.append(FakeRecord(item.value, item.headers, item.key, item.topic, item.partition, len(at)))


def section_of(body: bytes, view: View) -> tuple[int, Section | None]:
    """The source partition of a record of a repartition topic, and what it has for a view."""
    sheet = read_sheet(body)
    return sheet.source_partition, next((each for each in sheet.sections if each.owner == view.owner), None)


def rows_of(section: Section | None) -> list[RoutedRow]:
    """Its rows one by one."""
    if section is None:
        return []
    rows = map(Row, section.keys, section.times.tolist(), section.marks.tolist(), section.values.tolist())
    traces = section.traces or [None] * len(section.keys)
    return list(map(RoutedRow, rows, section.seqs.tolist(), traces))


def by_sum(key: bytes, partitions: int) -> int:
    return sum(key) % partitions


def direct(view: View, stream: Stream) -> dict[int, list[FakeRecord]]:
    """Records of a view that reads its source itself."""
    out = {}
    for p, events in stream.by_partition.items():
        out[p] = [source_record(e, n) for n, e in enumerate(events)] + [timer_record(END_US, p, len(events))]
    assert view.input_topic == view.source_topic
    return out


def play(view: View, inputs: dict[int, list[FakeRecord]], *, size: int, repeat: bool = False) -> list[Readers]:
    """Everything through all partitions, in batches; with `repeat` each batch is delivered twice."""
    readers = []
    for p, records in inputs.items():
        part, known = fresh(view, p), Readers()
        for at in range(0, len(records), size):
            batch = records[at : at + size]
            assert not part.take({view.input_topic: batch})
            known.read(part)
            if repeat:
                assert not part.take({view.input_topic: batch})
                assert known.read(part) == 0
        readers.append(known)
    return readers


def check_against_backfill(view: View, stream: Stream, readers: Sequence[Readers]) -> int:
    vectors = {key: vector for known in readers for key, vector in known.vectors.items()}
    keys = list(vectors)
    values = expected(view, stream.all, keys, [vectors[key].at_us for key in keys])
    online = np.array([[np.nan if v is None else v for v in vectors[key].values] for key in keys])
    assert online.tobytes() == np.where(np.isnan(values), np.nan, values).tobytes()
    rows = [row for e in stream.all if (row := view.read(e.id, e.time_us, e.body)) is not None]
    assert {row.key for row in rows} == set(keys)
    return len(keys)


def body(carrier: str | None, delay: float | None = 1.0) -> dict[str, Any]:
    return {"flight": "F1", "carrier": carrier, "origin": "EWR", "dest": "LAX", "delay": delay}
