"""One source partition on its way to the views that are keyed by something else."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

import msgspec
import numpy as np

from tidemill_features.domain.bulk import Bodies
from tidemill_features.domain.letter import Letter
from tidemill_features.domain.records import BadRecordError, Event, Progress, Record, read_source
from tidemill_features.domain.repartition import RoutedRow, Rows, headers, rows_per_record, write_rows
from tidemill_features.domain.runs import Run, in_order
from tidemill_features.domain.scan import SEQ, TIME, columns_of
from tidemill_features.domain.taken import Rejected, Taken
from tidemill_features.domain.views import View

Partitioner = Callable[[bytes, int], int]
"""Key and number of partitions to partition."""


class RouteMarks(msgspec.Struct, frozen=True):
    """How far a source partition was routed for one view; `told_us` is the newest time its readers were told."""

    next_offset: int = 0
    seq: int | None = None
    watermark_us: int | None = None


class Route:
    """One source partition for one view. Readers drop repeats, so it may be made again from any earlier mark."""

    def __init__(self, view: View, partition: int, marks: RouteMarks, partitioner: Partitioner) -> None:
        self.view, self.partition = view, partition
        self.seq, self.watermark_us, self._told = marks.seq, marks.watermark_us, marks.watermark_us
        self._headers, self._partitioner = headers(view.version.encode()), partitioner
        self._most = rows_per_record(len(view.plan.fields))
        self._rows: dict[int, list[RoutedRow]] = {}

    def event(self, event: Event) -> None:
        """Take an event's row, none for a repeat or one the view does not want; raises ValueError for a bad body."""
        if self.seq is not None and event.seq <= self.seq:
            return
        self.seq = event.seq
        self.time(event.time_us - self.view.lateness_us)
        row = self.view.read(event.id, event.time_us, event.body)
        if row is not None:
            target = self._partitioner(row.key, self.view.partitions)
            self._rows.setdefault(target, []).append(RoutedRow(row, event.seq, event.trace))

    def take_run(self, run: Run, names: Mapping[str, str]) -> dict[int, str]:
        """Take the rows of many events; returns why some cannot be read, by place in the run."""
        places = np.flatnonzero(run.fresh(-1 if self.seq is None else self.seq))
        if not len(places):
            return {}
        run = run.those(places)
        self.seq = int(run.headers[-1, SEQ])
        self.time(int(run.headers[:, TIME].max()) - self.view.lateness_us)
        bad: dict[int, str] = {}
        self._add(run.taken(self.view.needs.read(run.bodies, names, bad)))
        return {int(places[at]): why for at, why in bad.items()}

    def _add(self, taken: Taken) -> None:
        traces = taken.traces or [None] * len(taken.keys)
        columns = (taken.keys, taken.times.tolist(), taken.marks.tolist(), taken.values.tolist())
        # Plain tuples are written as the named ones are, and made in a third of the time.
        rows = zip(zip(*columns, strict=True), taken.seqs.tolist(), traces, strict=True)
        for key, row in zip(taken.keys, rows, strict=True):
            target = self._partitioner(key, self.view.partitions)
            self._rows.setdefault(target, []).append(cast("RoutedRow", row))

    def time(self, time_us: int) -> None:
        """Nothing older follows."""
        if time_us >= 0 and (self.watermark_us is None or time_us > self.watermark_us):
            self.watermark_us = time_us

    def drain(self) -> list[Letter]:
        """The rows taken since the last call, and a word on time: to every partition when it has risen."""
        targets = range(self.view.partitions) if self.watermark_us != self._told else sorted(self._rows)
        letters = [letter for target in targets for letter in self._letters(target, self._rows.get(target, []))]
        self._rows, self._told = {}, self.watermark_us
        return letters

    def _letters(self, target: int, rows: list[RoutedRow]) -> list[Letter]:
        parts = [rows[at : at + self._most] for at in range(0, len(rows), self._most)] or [[]]
        bodies = [Rows(self.partition, part) for part in parts[:-1]]
        bodies.append(Rows(self.partition, parts[-1], self.watermark_us, self.seq))
        return [Letter(self.view.input_topic, target, None, write_rows(body), self._headers) for body in bodies]

    def mark(self, next_offset: int) -> RouteMarks:
        """Where to begin again, once everything routed so far is acknowledged."""
        return RouteMarks(next_offset, self.seq, self.watermark_us)


class RoutePartition:
    """All routes of one partition number, by topic of the source."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._offsets: dict[str, int] = {}
        topics = {route.view.source_topic for route in self.routes}
        self._bodies = {topic: Bodies([route.view.needs for route in self._of(topic)]) for topic in topics}

    def _of(self, topic: str) -> list[Route]:
        return [route for route in self.routes if route.view.source_topic == topic]

    def take(self, topic: str, records: Sequence[Record]) -> tuple[list[Letter], list[Rejected]]:
        """Route records of one source, in the order of their offsets."""
        routes = self._of(topic)
        rejected = self._take_records(routes, topic, records)
        out = [letter for route in routes for letter in route.drain()]
        if records:
            self._offsets[topic] = records[-1].offset + 1
        return out, rejected

    def _take_records(self, routes: Sequence[Route], topic: str, records: Sequence[Record]) -> list[Rejected]:
        columns = columns_of(records)
        if columns is not None and routes and self._bodies[topic].is_simple:
            take_run = partial(_route_run, routes, self._bodies[topic].names)
            return in_order(columns, self._bodies[topic], take_run, partial(_route, routes))
        rejected = []
        for record in records:
            try:
                _route(routes, record)
            except BadRecordError as error:
                rejected.append(Rejected(record, str(error)))
        return rejected

    def marks(self) -> list[tuple[Route, RouteMarks]]:
        """Where each route would begin again."""
        return [
            (route, route.mark(self._offsets[route.view.source_topic]))
            for route in self.routes
            if route.view.source_topic in self._offsets
        ]


def _route_run(routes: Sequence[Route], names: Mapping[str, str], run: Run) -> dict[int, str]:
    bad: dict[int, str] = {}
    for route in routes:
        bad |= route.take_run(run, names)
    return bad


def _route(routes: Sequence[Route], record: Record) -> None:
    """Hand a record to the routes; raises BadRecordError when one cannot read it, after the others have."""
    item = read_source(record)
    if isinstance(item, Progress):
        for route in routes:
            route.time(item.time_us)
        return
    problem = ""
    for route in routes:
        try:
            route.event(item)
        except ValueError as error:
            problem = str(error)
    if problem:
        raise BadRecordError(problem)
