"""What is asked in a tick, and who is told what came of it."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from tidemill_serving.domain.desk import Desk, Query, Result
from tidemill_serving.domain.tensors import RowsQuery

Deliver = Callable[[Result], None]
Link = Callable[[Iterable[str]], None]
"""Told the trace contexts behind an answer."""


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
