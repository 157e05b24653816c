"""What is asked in a tick, and who is told what came of it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.desk import Desk, Drafts, Query, Result
from tidemill_serving.domain.tensors import RowsQuery

Deliver = Callable[[Result], None]
DeliverAll = Callable[[Sequence[Result]], None]
Link = Callable[[Iterable[str]], None]
"""Told the trace contexts behind an answer."""
REQUEST, ROW = 0.6, 0.06
"""What a request of rows costs, in instances that are looked up: so much, and so much for each row."""


Q = TypeVar("Q", Query, RowsQuery)


class Job(NamedTuple, Generic[Q]):
    """Queries that came together; the results go to `deliver` in their order, perhaps in parts unless `is_whole`.

    `links` are told what is behind each one's answer; None where nobody asked for that.
    """

    desk: Desk
    queries: Sequence[Q]
    deliver: DeliverAll
    links: Sequence[Link | None] | None = None
    is_whole: bool = False

    def part(self, first: int, last: int) -> "Job[Q]":
        """Some of them."""
        links = None if self.links is None else self.links[first:last]
        return self._replace(queries=self.queries[first:last], links=links)


def by_desk(jobs: Sequence[Job[Q]]) -> list[tuple[Desk, list[Job[Q]]]]:
    """The jobs of each pipeline, in the order of their coming."""
    found: dict[Desk, list[Job[Q]]] = {}
    for job in jobs:
        found.setdefault(job.desk, []).append(job)
    return list(found.items())


def queries_of(jobs: Sequence[Job[Q]]) -> Sequence[Q]:
    """The queries of all of them."""
    return jobs[0].queries if len(jobs) == 1 else [query for job in jobs for query in job.queries]


def count_of(jobs: Sequence[Job[Q]]) -> int:
    """How many queries they are."""
    return sum(len(job.queries) for job in jobs)


def load_of(queries: Sequence[RowsQuery]) -> float:
    """What queries of rows cost, in instances."""
    return REQUEST * len(queries) + ROW * sum(query.rows.height for query in queries)


def hand_over(jobs: Sequence[Job[Q]], results: Sequence[Result]) -> None:
    """Give each its results, which stand in the order of the jobs' queries."""
    first = 0
    for job in jobs:
        job.deliver(results[first : first + len(job.queries)])
        first += len(job.queries)


def tell(desk: Desk, jobs: Sequence[Job[Query]], draft: Drafts, *, is_logged: bool) -> None:
    """Give the jobs their results, and remember what can be asked for again."""
    results: Sequence[Result] = draft.results
    if not is_logged:
        results = [
            refused_or(result, FULL) if _is_new(desk, query) else result
            for query, result in zip(queries_of(jobs), results, strict=True)
        ]
    if draft.reads:
        for job in jobs:
            for query, link in zip(job.queries, job.links or (), strict=False):
                if link is not None:
                    link(draft.reads.get(query.identity, ()))
    hand_over(jobs, results)
    if is_logged:
        for identity, remembered in draft.remembered:
            desk.recent.put(identity, remembered)


def _is_new(desk: Desk, query: Query) -> bool:
    """Only what was answered before is in the log; of requests over Kafka not even that need have left."""
    return query.order is not None or desk.recent.get(query.identity) is None


def refused_or(result: Result, refusal: RefusedError) -> RefusedError:
    """The refusal in place of an answer that cannot be given."""
    return result if isinstance(result, RefusedError) else refusal


FULL = RefusedError(503, "the prediction log is full", "the log takes no record now; the answer was not given")
FAILED = RefusedError(503, "no answer", "the batch failed; the log of the service says why")
