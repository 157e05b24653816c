"""One source partition on its way to the views that are keyed by something else."""

from collections.abc import Callable, Sequence

import msgspec

from tidemill_features.domain.aggregate import Rejected
from tidemill_features.domain.letter import Letter
from tidemill_features.domain.records import BadRecordError, Event, Progress, Record, read_source
from tidemill_features.domain.repartition import write_row, write_timer
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
        self.view, self.partition, self.marks = view, partition, marks
        self.seq, self.watermark_us, self._told = marks.seq, marks.watermark_us, marks.watermark_us
        self.events = self.rows = 0
        self._version, self._partitioner = view.version.encode(), partitioner

    def event(self, event: Event) -> Letter | None:
        """The event as a row, None for a repeat or one the view does not want; raises ValueError for a bad body."""
        if self.seq is not None and event.seq <= self.seq:
            return None
        self.seq = event.seq
        self.events += 1
        self.time(event.time_us - self.view.lateness_us)
        row = self.view.read(event.id, event.time_us, event.body)
        if row is None:
            return None
        self.rows += 1
        value, headers = write_row(row, version=self._version, origin=(self.partition, event.seq), trace=event.trace)
        target = self._partitioner(row.key, self.view.partitions)
        return Letter(self.view.input_topic, target, row.key, value, headers)

    def time(self, time_us: int) -> None:
        """Nothing older follows."""
        if time_us >= 0 and (self.watermark_us is None or time_us > self.watermark_us):
            self.watermark_us = time_us

    def timers(self) -> list[Letter]:
        """A word to every partition of the view when time has risen: it stands behind all rows that came before it."""
        if self.watermark_us is None or self.watermark_us == self._told:
            return []
        self._told = self.watermark_us
        value, headers = write_timer(
            self.view.source, self.partition, self.watermark_us, seq=self.seq, version=self._version
        )
        topic = self.view.input_topic
        return [Letter(topic, target, None, value, headers) for target in range(self.view.partitions)]

    def mark(self, next_offset: int) -> RouteMarks:
        """Where to begin again, once everything routed so far is acknowledged."""
        return RouteMarks(next_offset, self.seq, self.watermark_us)


class RoutePartition:
    """All routes of one partition number, by topic of the source."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._offsets: dict[str, int] = {}

    def take(self, topic: str, records: Sequence[Record]) -> tuple[list[Letter], list[Rejected]]:
        """Route records of one source, in the order of their offsets; rows first, then the new time."""
        routes = [route for route in self.routes if route.view.source_topic == topic]
        out: list[Letter] = []
        rejected: list[Rejected] = []
        for record in records:
            try:
                _route(routes, record, out)
            except BadRecordError as error:
                rejected.append(Rejected(record, str(error)))
        for route in routes:
            out += route.timers()
        if records:
            self._offsets[topic] = records[-1].offset + 1
        return out, rejected

    def marks(self) -> list[tuple[Route, RouteMarks]]:
        """Where each route would begin again."""
        return [
            (route, route.mark(self._offsets[route.view.source_topic]))
            for route in self.routes
            if route.view.source_topic in self._offsets
        ]


def _route(routes: Sequence[Route], record: Record, out: list[Letter]) -> None:
    """Add the record's rows to `out`; raises BadRecordError when a view cannot read it, after the others have."""
    item = read_source(record)
    if isinstance(item, Progress):
        for route in routes:
            route.time(item.time_us)
        return
    problem = ""
    for route in routes:
        try:
            routed = route.event(item)
        except ValueError as error:
            problem = str(error)
            continue
        if routed is not None:
            out.append(routed)
    if problem:
        raise BadRecordError(problem)
