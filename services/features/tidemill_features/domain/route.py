"""One source partition on its way to the views that are keyed by something else."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec
import numpy as np

from tidemill_features.domain.bulk import Bodies
from tidemill_features.domain.letter import Letter
from tidemill_features.domain.records import BadRecordError, Event, Progress, Record, read_source
from tidemill_features.domain.repartition import HEADERS, RECORD_BYTES, RoutedRow, Section, Sheet, halves, write_sheet
from tidemill_features.domain.runs import Run, in_order
from tidemill_features.domain.scan import SEQ, TIME, columns_of
from tidemill_features.domain.taken import Rejected, Taken, as_section, joined, of_rows
from tidemill_features.domain.views import View

Partitioner = Callable[[bytes, int], int]
"""Key and number of partitions to partition."""


class RouteMarks(msgspec.Struct, frozen=True):
    """How far a source partition was routed for one view; `told_us` is the newest time its readers were told."""

    next_offset: int = 0
    seq: int | None = None
    watermark_us: int | None = None


_NOWHERE = np.empty(0, np.intp)


class Route:
    """One source partition for one view. Readers drop repeats, so it may be made again from any earlier mark."""

    def __init__(self, view: View, partition: int, marks: RouteMarks, partitioner: Partitioner) -> None:
        self.view, self.partition = view, partition
        self.seq, self.watermark_us, self._told = marks.seq, marks.watermark_us, marks.watermark_us
        self._partitioner = partitioner
        self._rows: list[RoutedRow] = []
        self._taken: list[Taken] = []

    def event(self, event: Event) -> None:
        """Take an event's row, none for a repeat or one the view does not want; raises ValueError for a bad body."""
        if self.seq is not None and event.seq <= self.seq:
            return
        self.seq = event.seq
        self.time(event.time_us - self.view.lateness_us)
        row = self.view.read(event.id, event.time_us, event.body)
        if row is not None:
            self._rows.append(RoutedRow(row, event.seq, event.trace))

    def take_run(self, run: Run, names: Mapping[str, str]) -> dict[int, str]:
        """Take the rows of many events; returns why some cannot be read, by place in the run."""
        places = np.flatnonzero(run.fresh(-1 if self.seq is None else self.seq))
        if not len(places):
            return {}
        run = run.those(places)
        self.seq = int(run.headers[-1, SEQ])
        self.time(int(run.headers[:, TIME].max()) - self.view.lateness_us)
        bad: dict[int, str] = {}
        self._flush()
        self._taken.append(run.taken(self.view.needs.read(run.bodies, names, bad)))
        return {int(places[at]): why for at, why in bad.items()}

    def _flush(self) -> None:
        if self._rows:
            self._taken.append(of_rows(self._rows, self.partition, len(self.view.plan.fields)))
            self._rows = []

    def time(self, time_us: int) -> None:
        """Nothing older follows."""
        if time_us >= 0 and (self.watermark_us is None or time_us > self.watermark_us):
            self.watermark_us = time_us

    def drain(self) -> dict[int, Section]:
        """By partition the rows taken since the last call, and a word on time: to every one when it has risen."""
        self._flush()
        found = self._sections(joined(self._taken)) if self._taken else {}
        if self.watermark_us != self._told:
            nothing = as_section(of_rows([], self.partition, len(self.view.plan.fields)), self.view.owner, _NOWHERE)
            found = {target: found.get(target, nothing) for target in range(self.view.partitions)}
        self._taken, self._told = [], self.watermark_us
        return {
            target: section._replace(watermark_us=self.watermark_us, seq=self.seq) for target, section in found.items()
        }

    def _sections(self, taken: Taken) -> dict[int, Section]:
        partitions = self.view.partitions
        targets = np.array([self._partitioner(key, partitions) for key in taken.keys], np.int64)
        dealt = [(target, np.flatnonzero(targets == target)) for target in range(partitions)]
        return {target: as_section(taken, self.view.owner, places) for target, places in dealt if len(places)}

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
        out = _letters(routes)
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


def _letters(routes: Sequence[Route]) -> list[Letter]:
    """What routes of one source have for each partition, together in as few records as it fits."""
    by_target: dict[int, list[Section]] = {}
    for route in routes:
        for target, section in route.drain().items():
            by_target.setdefault(target, []).append(section)
    name, source = routes[0].view.input_topic, routes[0].partition
    return [
        Letter(name, target, None, body, HEADERS)
        for target, sections in sorted(by_target.items())
        for body in _bodies(Sheet(source, sections))
    ]


def _bodies(sheet: Sheet) -> list[bytes]:
    """As many records as it takes for each to be small enough."""
    body = write_sheet(sheet)
    if len(body) <= RECORD_BYTES or sum(len(section.keys) for section in sheet.sections) < 2:  # noqa: PLR2004 - rows
        return [body]
    return [body for part in halves(sheet) for body in _bodies(part)]


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
