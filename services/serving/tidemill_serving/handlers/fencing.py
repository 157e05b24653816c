"""A process that was stopped for a while must not go on with the release it had: it asks first what has come since.

Requests that were sent meanwhile lie in its sockets and are read before anything from Kafka is. A gap between two
beats of the loop tells that it stood still; then answers are held back until every release that Kafka had by the end of
the gap has been taken. Without Kafka nobody can know: answers go on after a while, flagged as degraded.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from tidemill_runtime.errors import Later
from tidemill_serving.domain.house import House

BEAT_S, GAP_S = 0.1, 1.0
"""A beat is due so often; a gap as long as this is a pause: what came within less is on its way anyway."""
PATIENCE_S = 30.0
"""For taking what has come: a model may have to be fetched and examined."""
_POLL_S = 0.01
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps, where there is one
_log = logging.getLogger(__name__)


class News(Protocol):
    """What has come of the releases' topic."""

    async def ends(self) -> dict[int, int]:
        """Partition to the offset after its last record, as Kafka has it now; raises Later without Kafka."""

    def position(self, partition: int) -> int:
        """The offset after the last record that was taken note of."""

    def is_settled(self) -> bool:
        """Whether all that was noted has been taken or refused."""


class Fence:
    """Open, or closed after a pause. `is_closed` is asked before every batch and costs one look at the clock."""

    def __init__(
        self, house: House, news: News, *, unreachable_after_s: float, clock: Callable[[], float] | None = None
    ) -> None:
        """`unreachable_after_s`: how long a Kafka that cannot be reached is waited for."""
        self._house, self._news, self._give_up_s = house, news, unreachable_after_s
        self._clock = clock or _now
        self._beat_at = self._clock()
        self._pauses = 0
        self._closed = asyncio.Event()
        self.opened: Callable[[], None] = lambda: None

    def is_closed(self) -> bool:
        """Whether answers must wait; `opened` is called when they need not any more."""
        if self._clock() - self._beat_at >= GAP_S:
            self.beat()
        return self._closed.is_set()

    def beat(self) -> None:
        """The loop runs."""
        now = self._clock()
        gap, self._beat_at = now - self._beat_at, now
        if gap >= GAP_S:
            self._pauses += 1
            self._house.counts.pauses += 1
            self._closed.set()
            _log.warning("the process stood still for %.1f s: answers wait until its releases are up to date", gap)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_beating())
            group.create_task(self._keep_opening())

    async def _keep_beating(self) -> None:
        while True:
            self.beat()
            await asyncio.sleep(BEAT_S)

    async def _keep_opening(self) -> None:
        while True:
            await self._closed.wait()
            pauses = self._pauses
            await self._catch_up()
            if pauses == self._pauses:  # else it stood still again
                self._closed.clear()
                self.opened()

    async def _catch_up(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                ends = await self._ends()
                await self._until(lambda: all(self._news.position(p) >= end for p, end in ends.items()))
                await self._until(self._news.is_settled)
        except TimeoutError:
            _log.warning("what was released meanwhile cannot be taken: answers go on with what is on hand")

    async def _ends(self) -> dict[int, int]:
        """Raises TimeoutError when nobody answers: one that is slow is waited for longer."""
        give_up_at = time.monotonic() + self._give_up_s
        while True:
            try:
                return await self._news.ends()
            except Later:
                # Where it was away before the pause, waiting for it again and again helps nobody.
                if self._house.degraded or time.monotonic() > give_up_at:
                    raise TimeoutError from None
                await asyncio.sleep(_POLL_S)

    @staticmethod
    async def _until(condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110 - offsets that move have no event
            await asyncio.sleep(_POLL_S)


def _now() -> float:
    return time.clock_gettime(_CLOCK)
