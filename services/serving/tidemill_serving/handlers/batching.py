"""One batch per tick of the event loop: requests that arrive together are scored together and logged with one write.

Nothing waits: an idle process answers one request at once, and the more arrive while a batch is scored the larger is
the next, up to a size above which it would only keep clients idle: another tick takes what is left, so that some read
their answers and ask again while others are answered. How much may wait follows from what a row has cost lately, so
that no answer is later than a budget: who comes above that is refused at once, which costs next to nothing.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from tidemill_runtime import telemetry
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.counting import count_rows
from tidemill_serving.domain.desk import Desk, Drafts, Query, Result
from tidemill_serving.domain.entries import LogRefusedError
from tidemill_serving.domain.frames import Logged
from tidemill_serving.domain.house import House, Log
from tidemill_serving.domain.loaded import Beside
from tidemill_serving.domain.once import Known, Once, repeat
from tidemill_serving.domain.tensors import RowsQuery, answer_rows
from tidemill_serving.domain.views import advance
from tidemill_serving.handlers.jobs import (
    FAILED,
    FULL,
    REQUEST,
    ROW,
    Deliver,
    DeliverAll,
    Job,
    Link,
    by_desk,
    count_of,
    hand_over,
    load_of,
    queries_of,
    refused_or,
    tell,
)  # fmt: skip
from tidemill_serving.handlers.pacing import Pace, split
from tidemill_serving.handlers.timers import Timers

_log = logging.getLogger(__name__)


class Batcher:
    """Answers in ticks, and moves the pipelines' event time: swaps that are due, progress for the log."""

    def __init__(
        self,
        house: House,
        log: Log,
        *,
        appended: Callable[[], None],
        swapped: Callable[[Desk], None],
        now_us: Callable[[], int],
    ) -> None:
        """`appended` is called after every write to the log, `swapped` after a release has come to answer.

        `once`, where it is set, takes the place of the log for answers whose ids other workers may have answered too;
        `beside` takes what shadows are to score, once the answers have left. While `must_wait` says so batches are
        held, until `resume` is called.
        """
        self.once: Once | None = None
        self.beside: Callable[[Desk, Sequence[Beside]], None] = lambda _desk, _besides: None  # yet
        self.must_wait: Callable[[], bool] = lambda: False
        self._is_held = False
        self._house, self._spool, self._now_us = house, log, now_us
        self._appended, self._swapped = appended, swapped
        self._jobs: list[Job[Query]] = []
        self._rows_jobs: list[Job[RowsQuery]] = []
        self.pace = Pace()
        self._timers = Timers(house, self.append)
        self.holding = self._timers.holding

    @property
    def is_full(self) -> bool:
        """Whether one more would be refused: who asks need not read a request for that."""
        return self.pace.is_full

    @property
    def room(self) -> int:
        """How many instances would be taken: nobody need prepare more."""
        return self.pace.room(1.0)

    @property
    def room_for_rows(self) -> int:
        """How many requests of one row would be taken."""
        return self.pace.room(REQUEST + ROW)

    def expected_s(self, count: int) -> float:
        """Seconds until so many more would be answered, from what instances have cost lately."""
        return self.pace.expected_s(count)

    def submit(self, desk: Desk, query: Query, deliver: Deliver, link: Link | None = None) -> None:
        """The result goes to `deliver` at the end of a tick; raises RefusedError where there is no room.

        `link` is told the trace contexts behind the answer before that.
        """
        self._admit(1)
        links = None if link is None else (link,)
        self._jobs.append(Job(desk, (query,), lambda results: deliver(results[0]), links))

    def submit_together(
        self, desk: Desk, queries: Sequence[Query], deliver: DeliverAll, links: Sequence[Link | None] | None = None
    ) -> int:
        """As `submit` for many; for how many, from the first on, there was room."""
        count = min(len(queries), self.room)
        if count:
            self._admit(count)
            self._jobs.append(Job(desk, queries, deliver, links).part(0, count))
        return count

    def submit_rows(self, desk: Desk, query: RowsQuery, deliver: Deliver) -> None:
        """As `submit` for rows of features."""
        self._admit(load_of((query,)))
        self._rows_jobs.append(Job(desk, (query,), lambda results: deliver(results[0])))

    def submit_rows_together(self, desk: Desk, queries: Sequence[RowsQuery], deliver: DeliverAll) -> int:
        """As `submit_together` for rows of features."""
        for place, query in enumerate(queries):
            try:
                self._admit(load_of((query,)))
            except RefusedError:
                queries = queries[:place]
                break
        if queries:
            self._rows_jobs.append(Job(desk, queries, deliver))
        return len(queries)

    async def answer(self, desk: Desk, queries: Sequence[Query]) -> list[Result]:
        """The results of the queries, in their order, at the end of the tick; raises RefusedError as `submit`."""
        self._admit(len(queries))
        done: asyncio.Future[list[Result]] = asyncio.get_running_loop().create_future()

        def deliver(results: Sequence[Result]) -> None:
            if not done.done():  # else the client has gone
                done.set_result(list(results))

        links = [telemetry.linker()] * len(queries) if telemetry.recording() else None
        self._jobs.append(Job(desk, queries, deliver, links, is_whole=True))
        return await done

    async def answer_rows(self, desk: Desk, query: RowsQuery) -> Result:
        """As `submit_rows`, waiting for the end of the tick."""
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.submit_rows(desk, query, lambda result: None if done.done() else done.set_result(result))
        return await done

    def _admit(self, load: float) -> None:
        """Room for what costs as much as `load` instances; raises RefusedError."""
        if self.pace.admit(load, is_held=self._is_held):
            # What else has arrived is read before a call that is scheduled now.
            asyncio.get_running_loop().call_soon(self._flush)

    def progress(self) -> None:
        """Event time may have risen: activate what is due at once, and tell the log soon."""
        for desk in self._house.desks.values():
            self._advance(desk)
        self._timers.soon()

    def _advance(self, desk: Desk) -> None:
        watermark = desk.watermark_us(self._house.replica)
        loaded = advance(desk, self._house.replica)
        if loaded is None:
            return
        epoch = loaded.released.epoch
        _log.info("epoch %d of %s answers now", epoch, desk.spec.name, extra={"watermark_us": watermark})
        cause = loaded.cause
        about: telemetry.Attributes = {"tidemill.pipeline": desk.spec.name, "tidemill.epoch": epoch}
        links = [] if cause.released is None else [cause.released]
        with telemetry.span("swap", parent=cause.traceparent, links=links, attributes=about):
            loaded.cause = cause._replace(traceparent=telemetry.current_traceparent())
            self.append([desk.swapped(loaded, watermark, at_us=self._now_us())])
            self._swapped(desk)

    def append(self, entries: Sequence[Logged]) -> bool:
        """Write to the log; false, and counted, when it takes nothing now."""
        return self._try(lambda: self._spool.append(entries))

    def _try(self, write: Callable[[], object]) -> bool:
        try:
            write()
        except LogRefusedError as error:
            self._house.counts.log_refused += 1
            _log.warning("not logged: %s", error)
            return False
        self._appended()
        return True

    def resume(self) -> None:
        """Nothing must wait any more."""
        if self._is_held:
            self._is_held = False
            self._flush()

    def _flush(self) -> None:
        if self.must_wait():
            self._is_held = True
            return
        least = self.pace.together()
        jobs, self._jobs = split(self._jobs, least)
        rows_jobs, self._rows_jobs = split(self._rows_jobs, least)
        is_all = not self._jobs and not self._rows_jobs
        rows, count = sum(query.rows.height for job in rows_jobs for query in job.queries), count_of(jobs)
        load = count + REQUEST * count_of(rows_jobs) + ROW * rows
        self.pace.take(load, is_all=is_all)
        if not is_all:
            asyncio.get_running_loop().call_soon(self._flush)
        self._house.counts.rows += count + rows
        drafts = [(desk, found, self._answer(desk, found)) for desk, found in by_desk(jobs)]
        rows_drafts = [(desk, found, self._answer_rows(desk, found)) for desk, found in by_desk(rows_jobs)]
        entries = [entry for _, _, draft in (*drafts, *rows_drafts) for entry in draft.entries]
        is_logged = not entries or self._log(entries, drafts)
        for desk, found, draft in drafts:
            tell(desk, found, draft, is_logged=is_logged)
        for _, asked, draft in rows_drafts:
            hand_over(asked, draft.results if is_logged else [refused_or(result, FULL) for result in draft.results])
        self.pace.learn(load, count + count_of(rows_jobs))
        if is_logged:
            for desk, _, draft in drafts:
                if draft.beside:
                    self.beside(desk, draft.beside)

    def _log(self, entries: Sequence[Logged], drafts: Sequence[tuple[Desk, Sequence[Job[Query]], Drafts]]) -> bool:
        """As `append`; what another worker has answered meanwhile is not logged again but answered as it was."""
        fresh = {identity: new for _, _, draft in drafts for identity, new in draft.remembered}
        once = self.once
        if once is None or not fresh:
            return self.append(entries)
        known: Known = {}
        if not self._try(lambda: known.update(once.append_once(entries, fresh))):
            return False
        for _, jobs, draft in drafts if known else ():
            for index, query in enumerate(queries_of(jobs)):
                if (found := known.get(query.identity)) is not None:
                    draft.results[index] = repeat(found, query.ask)
            if draft.beside is not None:
                draft.beside.clear()  # what was answered elsewhere has its shadows there; this is rare enough
            draft.remembered[:] = [(identity, known.get(identity, new)) for identity, new in draft.remembered]
        return True

    def _answer(self, desk: Desk, jobs: Sequence[Job[Query]]) -> Drafts:
        queries, is_traced = queries_of(jobs), any(job.links is not None for job in jobs)
        self._house.counts.batches += 1
        try:
            return self._draft(desk, queries, traced=is_traced)
        except Exception:  # noqa: BLE001 - a fault of ours over one request must not reach its neighbours
            _log.exception("a batch of %s failed; its requests are answered one by one", desk.spec.name)
        beside = list[Beside]()
        alone, first = Drafts([], [], [], None, beside), dict[str, Result]()
        for query in queries:
            if query.identity not in first:
                part = self._draft_alone(desk, query)
                first[query.identity] = part.results[0]
                alone.entries.extend(part.entries)
                alone.remembered.extend(part.remembered)
                beside.extend(part.beside or ())
            alone.results.append(first[query.identity])
        return alone  # and without links: this is rare enough

    def _answer_rows(self, desk: Desk, jobs: Sequence[Job[RowsQuery]]) -> Drafts:
        started, queries = time.perf_counter(), queries_of(jobs)
        drafts = self._draft_rows(desk, queries)
        times = self._now_us() // 1000, started - self.pace.began, time.perf_counter() - started
        return count_rows(self._house, desk, queries, drafts, times)

    def _draft_rows(self, desk: Desk, queries: Sequence[RowsQuery]) -> Drafts:
        self._house.counts.batches += 1
        try:
            return answer_rows(desk, queries, now_us=self._now_us(), degraded=self._house.degraded)
        except RefusedError as error:
            return Drafts([error] * len(queries), [], [])
        except Exception:  # noqa: BLE001 - see above
            _log.exception("a batch of %s failed", desk.spec.name)
            return Drafts([FAILED] * len(queries), [], [])

    def _draft_alone(self, desk: Desk, query: Query) -> Drafts:
        try:
            return self._draft(desk, [query])
        except Exception:  # noqa: BLE001 - see above
            return Drafts([FAILED], [], [])

    def _draft(self, desk: Desk, queries: Sequence[Query], *, traced: bool = False) -> Drafts:
        house = self._house
        try:
            return desk.answer(house.replica, queries, now_us=self._now_us(), degraded=house.degraded, traced=traced)
        except RefusedError as error:
            return Drafts([error] * len(queries), [], [])
