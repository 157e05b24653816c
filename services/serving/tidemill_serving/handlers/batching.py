"""One batch per tick of the event loop: requests that arrive together are scored together and logged with one write."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tidemill_runtime import telemetry
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.desk import Desk, Drafts, Query, Result
from tidemill_serving.domain.entries import Entry, LogRefusedError
from tidemill_serving.domain.house import House, Log

TIMERS_EVERY_S = 0.02
_log = logging.getLogger(__name__)


class _Job(NamedTuple):
    desk: Desk
    queries: Sequence[Query]
    done: asyncio.Future[list[Result]]
    link: Callable[[Iterable[str]], None] | None


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
        """`appended` is called after every write to the log, `swapped` after a release has come to answer."""
        self._house, self._spool, self._now_us = house, log, now_us
        self._appended, self._swapped = appended, swapped
        self._jobs: list[_Job] = []
        self._timers_due = False

    def submit(self, desk: Desk, queries: Sequence[Query]) -> asyncio.Future[list[Result]]:
        """The results of the queries, in their order, at the end of this tick."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[Result]] = loop.create_future()
        if not self._jobs:
            # Tasks of requests that arrived together run before a call that is scheduled now.
            loop.call_soon(self._flush)
        self._jobs.append(_Job(desk, queries, done, telemetry.linker() if telemetry.enabled() else None))
        return done

    async def answer(self, desk: Desk, queries: Sequence[Query]) -> list[Result]:
        """As `submit`, waiting for the end of the tick."""
        return await self.submit(desk, queries)

    def progress(self) -> None:
        """Event time may have risen: activate what is due at once, and tell the log soon."""
        for desk in self._house.desks.values():
            self._advance(desk)
        if not self._timers_due:
            self._timers_due = True
            asyncio.get_running_loop().call_later(TIMERS_EVERY_S, self._write_timers)

    def _advance(self, desk: Desk) -> None:
        watermark = desk.watermark_us(self._house.replica)
        loaded = desk.champion.advance(watermark)
        if loaded is None:
            return
        epoch = loaded.released.epoch
        _log.info("epoch %d of %s answers now", epoch, desk.spec.name, extra={"watermark_us": watermark})
        cause = loaded.cause
        about: telemetry.Attributes = {"tidemill.pipeline": desk.spec.name, "tidemill.epoch": epoch}
        links = [] if cause.released is None else [cause.released]
        with telemetry.span("swap", parent=cause.traceparent, links=links, attributes=about):
            loaded.cause = cause._replace(traceparent=telemetry.current_traceparent())
            self._append([desk.swapped(loaded, watermark, at_us=self._now_us())])
            self._swapped(desk)

    def _write_timers(self) -> None:
        self._timers_due = False
        for desk in self._house.desks.values():
            watermark = desk.watermark_us(self._house.replica)
            if watermark is None or (desk.floor_us is not None and watermark <= desk.floor_us):
                continue
            if self._append(desk.timers(watermark)):
                desk.floor_us = watermark

    def _append(self, entries: list[Entry]) -> bool:
        try:
            self._spool.append(entries)
        except LogRefusedError as error:
            self._house.counts.log_refused += 1
            _log.warning("not logged: %s", error)
            return False
        self._appended()
        return True

    def _flush(self) -> None:
        jobs, self._jobs = self._jobs, []
        by_desk: dict[Desk, list[_Job]] = {}
        for job in jobs:
            by_desk.setdefault(job.desk, []).append(job)
        drafts = [(desk, found, self._answer(desk, found)) for desk, found in by_desk.items()]
        entries = [entry for _, _, draft in drafts for entry in draft.entries]
        is_logged = not entries or self._append(entries)
        for desk, found, draft in drafts:
            self._deliver(desk, found, draft, is_logged=is_logged)

    def _answer(self, desk: Desk, jobs: Sequence[_Job]) -> Drafts:
        queries = [query for job in jobs for query in job.queries]
        self._house.counts.batches += 1
        self._house.counts.rows += len(queries)
        try:
            return self._draft(desk, queries)
        except Exception:  # noqa: BLE001 - a fault of ours over one request must not reach its neighbours
            _log.exception("a batch of %s failed; its requests are answered one by one", desk.spec.name)
        alone, first = Drafts([], [], []), dict[str, Result]()
        for query in queries:
            if query.identity not in first:
                part = self._draft_alone(desk, query)
                first[query.identity] = part.results[0]
                alone.entries.extend(part.entries)
                alone.remembered.extend(part.remembered)
            alone.results.append(first[query.identity])
        return alone  # and without links: this is rare enough

    def _draft_alone(self, desk: Desk, query: Query) -> Drafts:
        try:
            return self._draft(desk, [query])
        except Exception:  # noqa: BLE001 - see above
            return Drafts([_FAILED], [], [])

    def _draft(self, desk: Desk, queries: Sequence[Query]) -> Drafts:
        house = self._house
        try:
            return desk.answer(
                house.replica, queries, now_us=self._now_us(), degraded=house.degraded, traced=telemetry.enabled()
            )
        except RefusedError as error:
            return Drafts([error] * len(queries), [], [])

    @staticmethod
    def _deliver(desk: Desk, jobs: Sequence[_Job], draft: Drafts, *, is_logged: bool) -> None:
        results = iter(draft.results)
        for job in jobs:
            mine = [next(results) for _ in job.queries]
            if not is_logged:
                # Only what was answered before is in the log.
                known = [desk.recent.get(query.identity) is not None for query in job.queries]
                mine = [
                    result if was or isinstance(result, RefusedError) else _FULL
                    for result, was in zip(mine, known, strict=True)
                ]
            if job.link is not None and draft.reads:
                reads = draft.reads
                job.link(context for query in job.queries for context in reads.get(query.identity, ()))
            if not job.done.done():  # else the client has gone
                job.done.set_result(mine)
        if is_logged:
            for identity, remembered in draft.remembered:
                desk.recent.put(identity, remembered)


_FULL = RefusedError(503, "the prediction log is full", "the log takes no record now; the answer was not given")
_FAILED = RefusedError(503, "no answer", "the batch failed; the log of the service says why")
