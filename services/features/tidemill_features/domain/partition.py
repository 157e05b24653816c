"""One partition number of all views: what the aggregator's task for that number owns."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from tidemill_features.domain.aggregate import Capture, ViewPartition
from tidemill_features.domain.bulk import Bodies
from tidemill_features.domain.cold import slack_of
from tidemill_features.domain.encode import Outgoing
from tidemill_features.domain.records import BadRecordError, Event, Progress, Record, read_routed, read_source
from tidemill_features.domain.runs import Run, in_order
from tidemill_features.domain.scan import columns_of
from tidemill_features.domain.taken import Rejected


class AggregatePartition:
    """All views' partitions of one number, fed by topic. `room` says how many keys each of them may hold in memory."""

    def __init__(self, views: Sequence[ViewPartition], room: Callable[[], int | None] = lambda: None) -> None:
        self.views, self._room = tuple(views), room
        self._offsets: dict[str, int] = {}
        self._direct: dict[str, list[ViewPartition]] = {}
        self._routed: dict[str, list[ViewPartition]] = {}
        for part in self.views:
            group = self._routed if part.view.repartitioned else self._direct
            group.setdefault(part.view.input_topic, []).append(part)
        self._bodies = {topic: Bodies([part.view.needs for part in parts]) for topic, parts in self._direct.items()}

    def take(self, batches: Mapping[str, Sequence[Record]]) -> list[Rejected]:
        """Apply one poll's records by topic, in the order of their offsets; returns those that never can be."""
        return self.read(batches) + self.settle()

    def read(self, batches: Mapping[str, Sequence[Record]]) -> list[Rejected]:
        """The first half of `take`: nothing may be drained or captured before `settle`."""
        rejected: list[Rejected] = []
        for topic, records in batches.items():
            rejected += self._take_records(topic, records)
            if records:
                self._offsets[topic] = records[-1].offset + 1
        return rejected

    def settle(self) -> list[Rejected]:
        """The other half, once every view was given the cold keys that it wants."""
        return [rejected for part in self.views for rejected in part.settle()]

    def _take_records(self, topic: str, records: Sequence[Record]) -> list[Rejected]:
        routed, direct = self._routed.get(topic, ()), self._direct.get(topic, ())
        columns = columns_of(records)
        if columns is not None and direct and not routed and self._bodies[topic].is_simple:
            take_run = partial(_take_run, direct, self._bodies[topic].names)
            return in_order(columns, self._bodies[topic], take_run, partial(_take_source, direct))
        rejected = []
        for record in records:
            try:
                for part in routed:
                    _take_routed(part, record)
                if direct:
                    _take_source(direct, record)
            except BadRecordError as error:
                rejected.append(Rejected(record, str(error)))
        return rejected

    def drain(self) -> list[Outgoing]:
        """What readers do not know yet, by view; the caller tells them, or this partition is built anew."""
        return [out for part in self.views if (out := part.drain()).records]

    def speak(self) -> bool:
        """Let every view tell what it has; whether one of them was quiet."""
        return sum(part.speak() for part in self.views) > 0

    def crowding(self) -> float:
        """How many times what may be too many keys are in memory (`slack_of`): above 1 it is time to let some go."""
        room = self._room()
        if room is None:
            return 0.0
        return sum(max(0, len(part.state) - room) for part in self.views if part.quiet is None) / slack_of(room)

    def next_offset(self, part: ViewPartition) -> int:
        """The offset that a restored task would read first for this view."""
        return self._offsets.get(part.view.input_topic, 0)

    def start_at(self, topic: str, offset: int) -> None:
        """Where reading of a topic begins, as restored."""
        self._offsets[topic] = offset

    def capture(self) -> list[tuple[ViewPartition, Capture]]:
        """Changes of every view since the last capture; call it right after `drain`, store it once that was told."""
        room = self._room()
        taken = [(part, part.capture(self.next_offset(part), room)) for part in self.views]
        return [(part, capture) for part, capture in taken if capture is not None]


def _take_run(parts: Sequence[ViewPartition], names: Mapping[str, str], run: Run) -> dict[int, str]:
    bad: dict[int, str] = {}
    for part in parts:
        bad |= part.take_run(run, names)
    return bad


def _take_routed(part: ViewPartition, record: Record) -> None:
    rows = read_routed(record, part.view.version.encode())
    if rows is None:
        return
    source, width = rows.source_partition, len(part.view.plan.fields)
    if source >= part.view.partitions or any(len(item.row.values) != width for item in rows.rows):
        raise BadRecordError("the rows do not fit this view")
    part.take_rows(record, source, rows.rows)
    if rows.watermark_us is not None:
        part.progress(Progress(source, rows.watermark_us, rows.seq))


def _take_source(parts: Sequence[ViewPartition], record: Record) -> None:
    item = read_source(record)
    if isinstance(item, Progress):
        for part in parts:
            part.progress(item)
        return
    problem = ""
    for part in parts:
        problem = _take_event(part, record, item) or problem
    if problem:
        raise BadRecordError(problem)


def _take_event(part: ViewPartition, record: Record, event: Event) -> str:
    if part.is_repeat(record.partition, event.seq):
        return ""
    part.progress(Progress(record.partition, event.time_us - part.view.lateness_us))
    try:
        row = part.view.read(event.id, event.time_us, event.body)
    except ValueError as error:
        return str(error)
    part.take(record, record.partition, event.seq, row, event.trace)
    return ""
