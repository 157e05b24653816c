"""One partition number of all views: what the aggregator's task for that number owns."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from tidemill_features.domain.aggregate import ViewPartition
from tidemill_features.domain.bulk import Bodies
from tidemill_features.domain.cold import slack_of
from tidemill_features.domain.encode import Outgoing
from tidemill_features.domain.marks import Capture
from tidemill_features.domain.records import BadRecordError, Event, Progress, Record, read_routed, read_source
from tidemill_features.domain.repartition import Sheet
from tidemill_features.domain.runs import Run, in_order
from tidemill_features.domain.scan import VALUE, VALUE_END, columns_of
from tidemill_features.domain.taken import Rejected


class AggregatePartition:
    """All views' partitions of one number, fed by topic. `room` says how many keys each of them may hold in memory."""

    def __init__(self, views: Sequence[ViewPartition], room: Callable[[], int | None] = lambda: None) -> None:
        self.views, self._room = tuple(views), room
        self._offsets: dict[str, int] = {}
        self._direct: dict[str, list[ViewPartition]] = {}
        self._routed: dict[str, dict[str, ViewPartition]] = {}
        for part in self.views:
            if part.view.repartitioned:
                self._routed.setdefault(part.view.input_topic, {})[part.view.owner] = part
            else:
                self._direct.setdefault(part.view.input_topic, []).append(part)
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

    def waiting(self) -> int:
        """Rows that were read and are not applied."""
        return sum(part.waiting for part in self.views)

    def settle(self) -> list[Rejected]:
        """The other half, once every view was given the cold keys that it wants."""
        return [rejected for part in self.views for rejected in part.settle()]

    def _take_records(self, topic: str, records: Sequence[Record]) -> list[Rejected]:
        if topic in self._routed:
            return _take_sheets(self._routed[topic], records)
        direct, columns = self._direct.get(topic, ()), columns_of(records)
        if columns is not None and direct and self._bodies[topic].is_simple:
            take_run = partial(_take_run, direct, self._bodies[topic].names)
            return in_order(columns, self._bodies[topic], take_run, partial(_take_source, direct))
        rejected = []
        for record in records:
            try:
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


def _take_sheets(parts: Mapping[str, ViewPartition], records: Sequence[Record]) -> list[Rejected]:
    rejected = []
    for at, body in enumerate(_bodies(records)):
        try:
            _take_sheet(parts, read_routed(body), lambda _, at=at: records[at])  # type: ignore[misc]  # of its default
        except BadRecordError as error:
            rejected.append(Rejected(records[at], str(error)))
    return rejected


def _bodies(records: Sequence[Record]) -> list[bytes | None]:
    """Without the rest of the records, where that costs something."""
    columns = columns_of(records)
    if columns is None:
        return [record.value for record in records]
    places: list[list[int]] = columns.table[:, VALUE : VALUE_END + 1].tolist()
    return [None if at < 0 else columns.buffer[at:end] for at, end in places]


def _take_sheet(parts: Mapping[str, ViewPartition], sheet: Sheet, record: Callable[[int], Record]) -> None:
    wanted = [(parts[section.owner], section) for section in sheet.sections if section.owner in parts]
    for part, section in wanted:
        if sheet.source_partition >= part.view.partitions or section.values.shape[1] != len(part.view.plan.fields):
            raise BadRecordError("the rows do not fit this view")
    for part, section in wanted:
        part.take_section(section, sheet.source_partition, record)


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
