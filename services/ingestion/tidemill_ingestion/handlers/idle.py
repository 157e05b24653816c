"""A clock's word for a partition that nobody writes to, put into the log: replay reads the record, not the clock."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from tidemill_contracts import topic
from tidemill_contracts.events import Timer
from tidemill_ingestion.domain.outgoing import Outgoing
from tidemill_ingestion.domain.source import Source
from tidemill_ingestion.domain.timers import timer

CHECK_S = 0.5


class Watermarks(Protocol):
    """The partitions' stored watermarks; may raise Later."""

    async def watermarks(self, source: str) -> Mapping[int, int | None]: ...


class Sink(Protocol):
    """Writes records and returns once the broker has all of them; raises Later."""

    async def write(self, records: Sequence[Outgoing]) -> object: ...


class IdleClock:
    """Watches one partition of a source that declares `idle_timeout`.

    When no event came for that long while other partitions' watermarks moved on, a timer with the lowest watermark
    among those that lead is written to the partition's raw topic: its own follows, through the log like any event.
    """

    def __init__(  # noqa: PLR0913 - keyword-only, what the composition root hands over
        self, source: Source, partition: int, *, prefix: str, store: Watermarks, sink: Sink, clock: Callable[[], float]
    ) -> None:
        self._source, self._partition, self._store, self._sink, self._clock = source, partition, store, sink, clock
        self._raw = topic("raw", source.name, prefix=prefix)
        self._busy_at = self._checked_at = clock()

    def busy(self) -> None:
        """A record came."""
        self._busy_at = self._clock()

    async def check(self) -> None:
        """Write a timer when it is due; cheap when it is not."""
        timeout, now = self._source.spec.idle_timeout, self._clock()
        if timeout is None or now - self._busy_at < timeout / 1e6 or now - self._checked_at < CHECK_S:
            return
        self._checked_at = now
        marks = await self._store.watermarks(self._source.name)
        own = marks.get(self._partition)
        ahead = [mark for mark in marks.values() if mark is not None and (own is None or mark > own)]
        if ahead:
            word = Timer(source=self._source.name, time_us=min(ahead), reason="idle")
            await self._sink.write([timer(word, self._partition, self._raw)])
