"""Predictions for tables: a row after the other through the same ticks as all, a slice at a time."""

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

from tidemill_serving.api.deadlines import Deadline
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.desk import Desk, Query, Result

MOST_ROWS, MAXIMUM_TABLE_BYTES = 10_000, 16 * 1024 * 1024
SLICE = 128
"""Rows in one tick: who asks for one row waits for no more of a table."""
PATIENCE_S, PAUSE_S = 5.0, 0.02


class Batches(Protocol):
    """Where queries of one tick come together."""

    async def answer(self, desk: Desk, queries: Sequence[Query]) -> list[Result]:
        """The results, in order; raises RefusedError where there is no room."""


async def answer_slices(batches: Batches, desk: Desk, queries: Sequence[Query], deadline: Deadline) -> list[bytes]:
    """The answers; raises RefusedError: the first refusal, or 503 where there was no room for so long.

    What was answered before a refusal is in the log: with ids of their own the same rows may be sent again.
    """
    answers = list[bytes]()
    until = time.monotonic() + PATIENCE_S
    while len(answers) < len(queries):
        deadline.check()
        try:
            results = await batches.answer(desk, queries[len(answers) : len(answers) + SLICE])
        except RefusedError as refused:  # no room in this tick
            if time.monotonic() > until:
                raise refused.with_traceback(None) from None
            await asyncio.sleep(PAUSE_S)
            continue
        for result in results:
            if isinstance(result, RefusedError):
                raise result.with_traceback(None)
            answers.append(result)
        await asyncio.sleep(0)
    return answers
