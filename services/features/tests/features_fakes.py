"""A log, a store and an undertaker for the tasks, and a task among them."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from features_cases import END_US, FakeRecord, departures, source_record, timer_record, views
from features_stack import until

from tidemill_contracts.events import Watermark
from tidemill_features.domain.cold import Found, Row, Rows, Wanted
from tidemill_features.domain.encode import WATERMARK_KEY
from tidemill_features.domain.letter import Letter
from tidemill_features.domain.marks import Capture, Marks, Told
from tidemill_features.domain.route import RouteMarks
from tidemill_features.domain.segments import Owner, merge
from tidemill_features.domain.taken import Rejected
from tidemill_features.domain.views import View
from tidemill_features.handlers.aggregate import AggregateTask, Parts
from tidemill_runtime.errors import Fenced, Later

Entries = list[tuple[bytes, bytes | None]]


@dataclass
class FakeLog:
    """Keeps what was written; `fail` says what the next write raises."""

    letters: list[Letter] = field(default_factory=list)
    fail: Exception | None = None
    held: asyncio.Event | None = None
    opened: int = 0
    writes: int = 0
    waiting: int = 0

    async def open(self) -> None:
        self.opened += 1

    async def told(self, topics: Sequence[str]) -> Mapping[str, Told]:
        marks = {}
        for letter in self.letters:
            if letter.key == WATERMARK_KEY and letter.topic in topics:
                mark = Watermark.read(letter.value or b"")
                positions = {int(source): seq for source, seq in mark.positions.items()}
                marks[letter.topic] = Told(mark.watermark_us, positions)
        return marks

    async def close(self) -> None:
        self.opened -= 1

    async def write(self, letters: Sequence[Letter]) -> None:
        if self.held is not None:
            self.waiting += 1
            await self.held.wait()
        if self.fail is not None:
            raise self.fail
        self.writes += 1
        self.letters += letters

    def vectors(self) -> dict[bytes, bytes | None]:
        return {letter.key: letter.value for letter in self.letters if letter.key and letter.key != WATERMARK_KEY}

    def watermarks(self) -> list[int]:
        marks = [letter.value for letter in self.letters if letter.key == WATERMARK_KEY]
        return [Watermark.read(value or b"").watermark_us for value in marks]


@dataclass
class FakeStore:
    """Keeps checkpoints in memory, fences by epoch."""

    saved: dict[str, tuple[Marks, Entries]] = field(default_factory=dict)
    rows: dict[str, dict[bytes, Row]] = field(default_factory=dict)
    routes: dict[str, RouteMarks] = field(default_factory=dict)
    epoch: int = 0
    down: bool = False
    attempts: int = 0
    page: int = 2

    async def own(self, partition: int) -> Owner:
        self.epoch += 1
        return Owner(partition, self.epoch, 0)

    async def load(self, owner: Owner, view: View) -> tuple[Marks, Entries]:
        assert owner.epoch == self.epoch
        return self.saved.get(view.name, (Marks(), []))

    async def save(self, owner: Owner, captures: Sequence[tuple[View, Capture]]) -> None:
        self.attempts += 1
        if self.down:
            raise Later("the store is down")
        if owner.epoch != self.epoch:
            raise Fenced("somebody else")
        for view, capture in captures:
            _, known = self.saved.get(view.name, (Marks(), []))
            self.saved[view.name] = (capture.marks, merge([known, capture.entries], oldest=True))
            rows, cold = self.rows.setdefault(view.name, {}), capture.cold
            for key in cold.dropped:
                del rows[key]
            rows.update({key: rows[key]._replace(due_us=due) for key, due in cold.moved})
            rows.update({row.key: row for row in cold.put})

    async def cold(self, owner: Owner, view: View) -> Rows:
        assert owner.epoch == self.epoch
        due = [row.due_us for row in self.rows.get(view.name, {}).values()]
        return Rows(len(due), min(due, default=None))

    async def fetch(self, view: View, partition: int, wanted: Wanted) -> Found:
        del partition  # a fake has one
        if self.down:
            raise Later("the store is down")
        rows = self.rows.get(view.name, {})
        found: list[tuple[bytes, bytes | None]] = [(key, rows[key].blob) for key in wanted.keys if key in rows]
        if wanted.until_us is None:
            return Found(found)
        order = sorted((row.due_us, key) for key, row in rows.items())
        page = [place for place in order if wanted.since <= place and place[0] <= wanted.until_us][: self.page]
        found += [(key, rows[key].blob if rows[key].dies_us > wanted.until_us else None) for _, key in page]
        if len(page) == self.page:
            return Found(found, (page[-1][0], page[-1][1] + b"\0"))
        return Found(found, None, min((due for due, _ in order if due > wanted.until_us), default=None))

    async def load_route(self, view: View, partition: int) -> RouteMarks:
        return self.routes.get(f"{view.name}/{partition}", RouteMarks())

    async def save_routes(self, partition: int, marks: Sequence[tuple[View, RouteMarks]]) -> None:
        if self.down:
            raise Later("the store is down")
        self.routes.update({f"{view.name}/{partition}": mark for view, mark in marks})


class FakeUndertaker:
    """One letter for each record."""

    def bury(self, rejected: Sequence[Rejected], *, among: int) -> list[Letter]:
        assert len(rejected) <= among
        return [Letter("dlq", 0, None, item.record.value, []) for item in rejected]


def task(
    log: FakeLog, store: FakeStore, *, every_s: float = 0.0, clock: Callable[[], float] = time.monotonic,
    room: Callable[[], int | None] = lambda: None,
) -> AggregateTask:  # fmt: skip
    parts = Parts(
        log=log, store=store, undertaker=FakeUndertaker(), every_s=every_s, every_records=10**9, linger_s=0.0,
        clock=clock, room=room,
    )  # fmt: skip
    return AggregateTask(0, [views()["by-flight"]], parts)


def inputs(count: int = 60) -> tuple[str, list[FakeRecord]]:
    stream = departures(count)
    records = [source_record(event, n) for n, event in enumerate(stream.by_partition[0])]
    return views()["by-flight"].input_topic, [*records, timer_record(END_US, 0, len(records))]


async def turn(running: AggregateTask, batches: Mapping[str, Sequence[FakeRecord]]) -> None:
    await running.process(batches)
    await running.idle()


async def told(log: FakeLog, condition: Callable[[], bool]) -> None:
    await until(condition, "the readers were told", deadline_s=10)
