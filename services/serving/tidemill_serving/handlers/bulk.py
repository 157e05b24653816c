"""Answers requests that came over Kafka, in what those over HTTP and gRPC leave of the event loop.

They go through the same ticks and ids as all others; nobody waits for them, so they are who yields. Their answers are
written to the log for their ids, and go to Kafka in one transaction with the requests' offset: once, whoever dies.
"""

import asyncio
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, TypeVar

from tidemill_contracts.envelope import EnvelopeError, read_envelope
from tidemill_runtime.dlq import dead_letter
from tidemill_runtime.group import Commit, Outgoing
from tidemill_runtime.telemetry import new_traceparent
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.desk import Desk, Query, Result
from tidemill_serving.domain.entries import ORIGIN, Entry
from tidemill_serving.domain.house import BulkCounts, Counts, House
from tidemill_serving.domain.orders import Why, first_refusal, is_final, read_order, why_of

IDLE_ROWS, BUSY_ROWS = 64, 16
"""Instances in one tick: while nobody else asks, and while somebody does."""
BUSY_FOR_S = 1.0
TOGETHER_S = 0.2
"""Slices of so long go to Kafka in one transaction, which costs as much as many rows."""
REST = 3.0
"""While others ask, so many times as long as a slice took is left to them: bulk has a quarter of the loop at most."""
OWED_S = 0.0005
"""Work for which a rest is due: timers know nothing shorter."""
T = TypeVar("T")


class Batches(Protocol):
    """Where queries of one tick come together."""

    async def answer(self, desk: Desk, queries: Sequence[Query]) -> list[Result]:
        """The results, in order; raises RefusedError where there is no room."""

    def holding(self, desk: Desk) -> AbstractContextManager[None]:
        """Meanwhile the log says nothing of a pipeline's progress."""


class Ordered(Protocol):
    """What was answered, as it goes to Kafka."""

    @property
    def end(self) -> int:
        """The number that the log's next record gets."""

    def answers(self, pipeline: str, numbers: range) -> Iterable[Outgoing]:
        """To requests over Kafka, among the log's records of these numbers; raises Later."""

    def letters(self, letters: Sequence[Entry]) -> Iterable[Outgoing]:
        """Which are in no log."""


class Record(Protocol):
    """What is read of a Kafka record."""

    @property
    def headers(self) -> Iterable[tuple[str, bytes]]: ...

    @property
    def value(self) -> bytes | None: ...

    @property
    def partition(self) -> int: ...

    @property
    def offset(self) -> int: ...


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


class _Done:
    """What is to be committed together: so many records, the log's number behind their answers, their letters."""

    def __init__(self, end: int) -> None:
        self.records, self.answered, self.end = 0, 0, end
        self.letters = list[Entry]()


class Bulk:
    """Takes the requests of any pipeline. What cannot be answered at all goes to the dead letters."""

    def __init__(
        self, house: House, batches: Batches, ordered: Ordered, *, group: str, is_full: Callable[[], bool]
    ) -> None:  # fmt: skip
        """`group` names this reader in dead letters; `is_full`: the log should be left to those who wait."""
        self._house, self._batches, self._ordered = house, batches, ordered
        self._group, self._is_full = group, is_full
        self._pace = Pace(house.counts)
        self._turns: dict[str, asyncio.Lock] = {}

    async def take(self, pipeline: str, records: Sequence[Record], commit: Commit) -> int:
        """Answer the first of the records; how many of them are done with, as answers or as dead letters, in Kafka.

        Raises what `commit` raises: then none is, as far as anybody knows.
        """
        async with self._turns.setdefault(pipeline, asyncio.Lock()):  # two at a time would send each other's
            house = self._house
            counts = house.bulk.setdefault(pipeline, BulkCounts())
            desk = house.desks.get(pipeline)
            if desk is None or not desk.is_ready or desk.champion.active is None or self._is_full():
                counts.is_held = True
                return 0
            with self._batches.holding(desk):
                first = self._ordered.end
                done = await self._work(desk, records)
                if done.records:
                    answers = self._ordered.answers(desk.name, range(first, done.end))
                    outgoing = [*answers, *self._ordered.letters(done.letters)]
                    await commit(outgoing, records[done.records - 1].offset + 1)
            counts.instances += done.answered
            counts.letters += len(done.letters)
            counts.is_held = done.records == 0
            return done.records

    async def _work(self, desk: Desk, records: Sequence[Record]) -> _Done:
        """Slice after slice, until it is time to tell Kafka or something must wait."""
        done, enough = _Done(self._ordered.end), time.perf_counter() + TOGETHER_S
        while done.records < len(records) and (not done.records or time.perf_counter() < enough):
            orders = await self._read(desk, records[done.records :])
            results = await self._answer(desk, [query for order in orders for query in order.queries])
            if results is None or not self._settle(desk, orders, results, done):
                break
            done.end = self._ordered.end
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

    def _settle(self, desk: Desk, orders: Sequence[_Order], results: Sequence[Result], done: _Done) -> bool:
        """Add a slice to what is done; false, and nothing is added, where one of it must wait."""
        at = answered = 0
        letters = list[Entry]()
        for order in orders:
            mine, at = results[at : at + len(order.queries)], at + len(order.queries)
            why, refusal = order.why, first_refusal(mine)
            if why is None and refusal is not None:
                place, refused = refusal
                if not is_final(refused):
                    return False
                why = why_of(refused, place if len(mine) > 1 else None)
            if why is not None:
                letters.append(self._letter(desk, order.record, why))
            answered += sum(isinstance(result, bytes) for result in mine)
        done.records += len(orders)
        done.answered += answered
        done.letters += letters
        return True

    def _letter(self, desk: Desk, record: Any, why: Why) -> Entry:  # noqa: ANN401 - a whole record of aiokafka's
        name, key, value, headers = dead_letter(record, group=self._group, reason=why.reason, error=why.error)
        kept = [(header, content or b"") for header, content in headers if header != ORIGIN]  # not a sender's
        kept.append((ORIGIN, b"%d:%d:0" % (record.partition, record.offset)))
        return Entry("letter", desk.name, name, 0, key, value or b"", kept)


def _read(desk: Desk, record: Record) -> Generator[None, None, _Order]:
    try:
        envelope = read_envelope(record.headers, record.value)
        place = record.partition, record.offset
        queries = yield from read_order(desk, envelope, new_traceparent(envelope.traceparent), place)
        return _Order(record, queries, None)
    except EnvelopeError as error:
        return _Order(record, [], Why("envelope", str(error)))
    except RefusedError as refused:
        return _Order(record, [], why_of(refused))
