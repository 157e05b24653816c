"""Follows pipelines and views: configures the desks and keeps the replica, also when Kafka is away at the start."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Protocol, cast

from tidemill_contracts.events import PipelineApplied
from tidemill_contracts.pipeline import PipelineSpec, files_of
from tidemill_contracts.topics import view_topic
from tidemill_runtime import telemetry
from tidemill_serving.domain.desk import Desk
from tidemill_serving.domain.house import House
from tidemill_serving.domain.replica import BadRecordError, Place, Replica
from tidemill_serving.domain.views import wants

_log = logging.getLogger(__name__)
Records = Callable[[str, int, "Sequence[Record]"], None]
Parts = tuple[int, bytes | None, bytes | None, str | None]
"""Of a record: offset, key, value and trace context, which is only looked for while spans are exported."""


class Record(Protocol):
    """What is read of a Kafka record."""

    @property
    def key(self) -> bytes | None: ...

    @property
    def value(self) -> bytes | None: ...

    @property
    def offset(self) -> int: ...

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class Table(Protocol):
    """An array of whole numbers."""

    def tolist(self) -> list[list[int]]: ...


class Columns(Protocol):
    """Records in one buffer; a row of the table begins with offset, time, key, its end, value, its end."""

    buffer: bytes
    table: Table


class Follows(Protocol):
    """A running reader of whole topics."""

    caught_up: asyncio.Event

    async def run(self) -> None: ...

    async def stop(self) -> None: ...


OpenTail = Callable[[list[str], Records], Follows]


class Follower:
    """Owns the replica. A reader starts from the earliest record whenever views or versions are added.

    What is read goes into `_fresh`; requests see it once it has caught up, and until then, after a start without Kafka,
    the snapshot of an earlier process.
    """

    def __init__(
        self, house: House, *, prefix: str, open_tail: OpenTail, make_desk: Callable[[PipelineSpec], Desk],
        progress: Callable[[], None],
    ) -> None:  # fmt: skip
        self._house, self._prefix, self._open_tail = house, prefix, open_tail
        self._make_desk, self._progress = make_desk, progress
        self._fresh = Replica()
        self._places: dict[str, Place] = {}
        self._tail: Follows | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.caught_up = asyncio.Event()
        self.configured: list[Callable[[], None]] = []

    async def on_pipelines(self, pipelines: Mapping[str, PipelineApplied]) -> None:
        """Make the desks what the pipeline files say; a file that cannot be read leaves its desk as it was."""
        for name in self._house.desks.keys() - pipelines.keys():
            del self._house.desks[name]
        for name, applied in pipelines.items():
            files = files_of(applied)
            for problem in files.problems:
                _log.error("%s", problem)
            if files.newest is not None:
                self._configure(name, files.newest)
                self._house.desks[name].files = files.kept  # a release made for one that is left out is refused
        await self.follow()
        for tell in self.configured:
            tell()

    def _configure(self, name: str, spec: PipelineSpec) -> None:
        desk = self._house.desks.get(name)
        if desk is None:
            self._house.desks[name] = self._make_desk(spec)
        elif desk.spec != spec:
            desk.reconfigure(spec)

    async def follow(self) -> None:
        """Read every view that the desks want; begins again from the earliest record when one was added."""
        added = False
        for desk in self._house.desks.values():
            for place, width in wants(desk).items():
                self._places[view_topic("features", *place, prefix=self._prefix)] = place
                for replica in {id(found): found for found in (self._fresh, self._house.replica)}.values():
                    is_new = replica.want(place, width=width, partitions=desk.spec.partitions)
                    added = added or (is_new and replica is self._fresh)
        if added or self._tail is None:
            await self._restart()

    async def _restart(self) -> None:
        # Before anything is waited for: a desk without vectors must not be taken for ready.
        self.caught_up.clear()
        if self._tail is not None:
            await self._tail.stop()
        if not self._places:
            self._caught_up()
            return
        self._tail = self._open_tail(sorted(self._places), self.on_records)
        self._spawn(self._tail.run())
        self._spawn(self._await(self._tail))

    async def _await(self, tail: Follows) -> None:
        await tail.caught_up.wait()
        if tail is self._tail:
            self._caught_up()

    def _caught_up(self) -> None:
        """From here on requests see what Kafka holds."""
        self._house.replica = self._fresh
        self.caught_up.set()
        self._progress()

    def on_records(self, topic_name: str, partition: int, records: "Sequence[Record]") -> None:
        """Apply one partition's records; one that cannot be read is counted and left out, it cannot be mended here."""
        place = self._places[topic_name]
        for offset, key, value, trace in _parts(records):
            try:
                self._fresh.apply(place, partition, key, value, trace=trace)
            except BadRecordError as error:
                self._house.counts.bad_records += 1
                _log.warning("%s/%d offset %d is left out: %s", topic_name, partition, offset, error)
        if self.caught_up.is_set():
            self._progress()

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run(self) -> None:
        """Until cancelled: nothing to do but to end the readers then."""
        try:
            await asyncio.Event().wait()
        finally:
            for task in list(self._tasks):
                task.cancel()


def _parts(records: "Sequence[Record]") -> Iterator[Parts]:
    """The parts of each; of columns without an object per record."""
    if telemetry.enabled() or not hasattr(records, "table"):
        for record in records:
            trace = next(telemetry.traceparents((record,)), None) if telemetry.enabled() else None
            yield record.offset, record.key, record.value, trace
        return
    columns = cast("Columns", records)
    data = columns.buffer
    for offset, _, key, key_end, value, value_end, *_ in columns.table.tolist():
        yield offset, data[key:key_end] if key >= 0 else None, data[value:value_end] if value >= 0 else None, None
