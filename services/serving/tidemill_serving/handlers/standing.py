"""Whether requests may be answered, and from what: Kafka's newest, or after a start without it what this disk holds."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from tidemill_runtime.health import Health
from tidemill_serving.domain.house import House
from tidemill_serving.domain.replica import Copied, Replica
from tidemill_serving.domain.views import wants

LOOK_EVERY_S = 0.05
_log = logging.getLogger(__name__)


class Snapshots(Protocol):
    """The replica on disk."""

    def save_snapshot(self, copied: Copied) -> None:
        """Blocks."""

    def load_snapshot(self) -> Replica | None:
        """None without a readable one."""


class Standing:
    """Looks at the conditions many times a second and says what follows from them."""

    def __init__(self, house: House, health: Health, snapshots: Snapshots, *, degraded_after_s: float) -> None:
        self._house, self._health, self._snapshots = house, health, snapshots
        self._degraded_after = degraded_after_s
        self._is_borrowed = self._has_begun = False
        # Before `run`, which comes after what is restored: a worker that listened by then would refuse its requests.
        self._tell()

    async def run(
        self, *, has_all: Callable[[], bool], reachable: Callable[[], bool], refused: Callable[[], Awaitable[bool]]
    ) -> None:
        """Until cancelled.

        `has_all`: everything that Kafka held has been taken; `reachable`: the broker has answered lately; `refused`:
        nobody listens at its address. A broker that listens and is only slow is given ten times as long, since answers
        from the disk may be behind.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        while True:
            if has_all():
                self._is_borrowed, self._has_begun = False, True
                for desk in self._house.desks.values():
                    desk.is_ready = True
            elif not self._is_borrowed and not reachable():
                waited = loop.time() - started
                if waited > 10 * self._degraded_after or (waited > self._degraded_after and await refused()):
                    self._borrow()
            self._house.degraded = self._is_borrowed or not reachable()
            self._tell()
            await asyncio.sleep(LOOK_EVERY_S)

    def _borrow(self) -> None:
        """Kafka is away: answer from the last snapshot what was answered before."""
        waiting = [desk for desk in self._house.desks.values() if not desk.is_ready and desk.champion.active]
        if not waiting:
            return
        self._is_borrowed = self._has_begun = True
        _log.warning("Kafka does not answer: %d pipelines are served from the disk", len(waiting))
        replica = self._snapshots.load_snapshot() or Replica()
        for desk in waiting:
            for place, width in wants(desk).items():
                replica.want(place, width=width, partitions=desk.spec.partitions)
            desk.is_ready = True
        self._house.replica = replica

    def _tell(self) -> None:
        waiting = [name for name, desk in self._house.desks.items() if not desk.is_ready]
        self._health.set("features", self._has_begun and not waiting, "the features are being read")

    async def keep_snapshots(self, every_s: float) -> None:
        """Write the replica to disk now and then while it changes, and at the end."""
        written = -1
        try:
            while True:
                await asyncio.sleep(every_s)
                written = await self._write(written)
        finally:
            if not self._is_borrowed and self._house.replica.changes != max(written, 0):
                self._snapshots.save_snapshot(self._house.replica.copy())

    async def _write(self, written: int) -> int:
        replica = self._house.replica
        if self._is_borrowed or replica.changes in {0, written}:
            return written
        changes = replica.changes
        try:
            await asyncio.to_thread(self._snapshots.save_snapshot, replica.copy())
        except OSError as error:
            _log.warning("no snapshot of the replica was written: %s", error)
        return changes
