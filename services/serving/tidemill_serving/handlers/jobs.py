"""What is asked in a tick, and who is told what came of it."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.desk import Desk, Drafts, Query, Result
from tidemill_serving.domain.tensors import RowsQuery

Deliver = Callable[[Result], None]
Link = Callable[[Iterable[str]], None]
"""Told the trace contexts behind an answer."""
REQUEST, ROW = 0.6, 0.06
"""What a request of rows costs, in instances that are looked up: so much, and so much for each row."""


class Job(NamedTuple):
    """One query, and who is told what came of it."""

    desk: Desk
    query: Query
    deliver: Deliver
    link: Link | None


class RowsJob(NamedTuple):
    """Queries of rows that came together; the results go to `deliver` in their order, perhaps in parts."""

    desk: Desk
    queries: Sequence[RowsQuery]
    deliver: Callable[[Sequence[Result]], None]


J = TypeVar("J", Job, RowsJob)


def by_desk(jobs: Sequence[J]) -> list[tuple[Desk, list[J]]]:
    """The jobs of each pipeline, in the order of their coming."""
    found: dict[Desk, list[J]] = {}
    for job in jobs:
        found.setdefault(job.desk, []).append(job)
    return list(found.items())


def load_of(queries: Sequence[RowsQuery]) -> float:
    """What queries of rows cost, in instances."""
    return REQUEST * len(queries) + ROW * sum(query.rows.height for query in queries)


def hand_over(jobs: Sequence[RowsJob], results: Sequence[Result]) -> None:
    """Give each its results, which stand in the order of the jobs' queries."""
    first = 0
    for job in jobs:
        job.deliver(results[first : first + len(job.queries)])
        first += len(job.queries)


def tell(desk: Desk, jobs: Sequence[Job], draft: Drafts, *, is_logged: bool) -> None:
    """Give each job its result, and remember what can be asked for again."""
    for job, found in zip(jobs, draft.results, strict=True):
        result = found
        if not is_logged and not isinstance(result, RefusedError) and _is_new(desk, job.query):
            result = FULL
        if job.link is not None and draft.reads:
            job.link(draft.reads.get(job.query.identity, ()))
        job.deliver(result)
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
