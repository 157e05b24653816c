"""Answers requests that came over Kafka, in what those over HTTP and gRPC leave of the event loop.

They go through the same ticks, log and ids as all others; nobody waits for them, so they are who yields.
"""

import asyncio
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from tidemill_contracts.envelope import EnvelopeError, read_envelope
from tidemill_runtime.dlq import dead_letter
from tidemill_runtime.telemetry import new_traceparent
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.desk import Desk, Query, Result
from tidemill_serving.domain.entries import Entry
from tidemill_serving.domain.house import BulkCounts, Counts
from tidemill_serving.domain.orders import Why, first_refusal, is_final, read_order, why_of
from tidemill_serving.handlers.journal import Journal

IDLE_ROWS, BUSY_ROWS = 64, 16
"""Instances in one tick: while nobody else asks, and while somebody does."""
BUSY_FOR_S = 1.0
ORIGIN = "tm_origin"
"""Of a record that we write: a sender's would be taken for ours."""
REST = 3.0
"""While others ask, so many times as long as a slice took is left to them: bulk has a quarter of the loop at most."""
OWED_S = 0.0005
"""Work for which a rest is due: timers know nothing shorter."""
T = TypeVar("T")


class Batches(Protocol):
    """Where queries of one tick come together."""

    async def answer(self, desk: Desk, queries: Sequence[Query]) -> list[Result]:
        """The results, in order; raises RefusedError where there is no room."""


class Record(Protocol):
    """What is read of a Kafka record."""

    @property
    def headers(self) -> Iterable[tuple[str, bytes]]: ...

    @property
    def value(self) -> bytes | None: ...


class Pace:
    """How much bulk may do at a time, from whether others have asked lately."""

    def __init__(self, counts: Counts, clock: Callable[[], float] = time.monotonic) -> None:
        self._counts, self._clock = counts, clock
        self._seen, self._busy_until = counts.rows, float("-inf")
        self._owed_s = 0.0

    def rows(self) -> int:
        """Instances of the next slice."""
        return BUSY_ROWS if self._is_busy() else IDLE_ROWS

    def own(self, rows: int) -> None:
        """So many of the rows that were counted were bulk's."""
        self._seen += rows

    async def rest(self, seconds: float) -> None:
        """After a slice that took so long."""
        owed, self._owed_s = self._owed_s + seconds, 0.0
        await asyncio.sleep(owed * REST if self._is_busy() else 0)

    async def worked(self, seconds: float) -> None:
        """After less than a slice: others go on, and the rest comes once it is worth while."""
        self._owed_s += seconds
        if self._owed_s >= OWED_S:
            await self.rest(0.0)
        else:
            await asyncio.sleep(0)

    def _is_busy(self) -> bool:
        now = self._clock()
        if self._counts.rows > self._seen:
            self._seen, self._busy_until = self._counts.rows, now + BUSY_FOR_S
        return now < self._busy_until


class _Order(NamedTuple):
    record: Record
    queries: list[Query]
    why: Why | None


class Bulk:
    """Takes the requests of any pipeline. What cannot be answered at all goes to the dead letters, through the log."""

    def __init__(self, batches: Batches, journal: Journal, group: str, is_full: Callable[[], bool]) -> None:
        """`group` names this reader in dead letters; `is_full`: the log should be left to those who wait."""
        self._batches, self._journal, self._group, self._is_full = batches, journal, group, is_full
        self._pace = Pace(journal.house.counts)

    async def take(self, pipeline: str, records: Sequence[Record]) -> int:
        """Answer the first of the records; how many of them are in the log now, as answers or as dead letters."""
        house = self._journal.house
        counts = house.bulk.setdefault(pipeline, BulkCounts())
        desk = house.desks.get(pipeline)
        if desk is None or not desk.is_ready or desk.champion.active is None or self._is_full():
            counts.is_held = True
            return 0
        orders = await self._read(desk, records)
        results = await self._answer(desk, [query for order in orders for query in order.queries])
        done = 0 if results is None else self._settle(desk, orders, results, counts)
        counts.is_held = done == 0
        return done

    async def _read(self, desk: Desk, records: Sequence[Record]) -> list[_Order]:
        """As many as fill a slice, one at least."""
        orders, room = list[_Order](), self._pace.rows()
        for record in records:
            orders.append(await self._paced(_read(desk, record)))
            room -= max(1, len(orders[-1].queries))
            if room <= 0:
                break
        return orders

    async def _paced(self, parts: Generator[None, None, T]) -> T:
        """What comes of it in the end; after each part others go on."""
        while True:
            started = time.perf_counter()
            try:
                next(parts)
            except StopIteration as end:
                found: T = end.value
                await self._pace.worked(time.perf_counter() - started)
                return found
            await self._pace.worked(time.perf_counter() - started)

    async def _answer(self, desk: Desk, queries: Sequence[Query]) -> list[Result] | None:
        """The results, a slice at a time; None: not now, and those that were answered are known when asked again."""
        results: list[Result] = []
        while len(results) < len(queries):
            part = queries[len(results) : len(results) + self._pace.rows()]
            started = time.perf_counter()
            try:
                results += await self._batches.answer(desk, part)
            except RefusedError:
                return None
            self._pace.own(len(part))
            await self._pace.rest(time.perf_counter() - started)
        return results

    def _settle(self, desk: Desk, orders: Sequence[_Order], results: Sequence[Result], counts: BulkCounts) -> int:
        """Up to the first that must wait; dead letters are written before anything behind them counts as done."""
        at = done = answered = 0
        letters = list[Entry]()
        for order in orders:
            mine, at = results[at : at + len(order.queries)], at + len(order.queries)
            why, refusal = order.why, first_refusal(mine)
            if why is None and refusal is not None:
                place, refused = refusal
                if not is_final(refused):
                    break
                why = why_of(refused, place if len(mine) > 1 else None)
            if why is not None:
                letters.append(self._letter(desk, order.record, why))
            answered += sum(isinstance(result, bytes) for result in mine)
            done += 1
        if letters and not self._journal.append(letters):
            return 0
        counts.instances += answered
        counts.letters += len(letters)
        return done

    def _letter(self, desk: Desk, record: Any, why: Why) -> Entry:  # noqa: ANN401 - a whole record of aiokafka's
        name, key, value, headers = dead_letter(record, group=self._group, reason=why.reason, error=why.error)
        kept = [(header, content or b"") for header, content in headers if header != ORIGIN]
        return Entry("letter", desk.name, name, 0, key, value or b"", kept, self._journal.now_us())


def _read(desk: Desk, record: Record) -> Generator[None, None, _Order]:
    try:
        envelope = read_envelope(record.headers, record.value)
        queries = yield from read_order(desk, envelope, new_traceparent(envelope.traceparent))
        return _Order(record, queries, None)
    except EnvelopeError as error:
        return _Order(record, [], Why("envelope", str(error)))
    except RefusedError as refused:
        return _Order(record, [], why_of(refused))
