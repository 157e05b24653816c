"""Stores what has changed beside the work, never more than one store at a time."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from prometheus_client import Histogram

from tidemill_features.domain.aggregate import ViewPartition
from tidemill_features.domain.marks import Capture
from tidemill_features.domain.segments import Owner
from tidemill_features.handlers.ports import Checkpoints
from tidemill_runtime.backoff import Backoff
from tidemill_runtime.errors import Fenced, Later

SECONDS = Histogram(
    "tidemill_features_checkpoint_seconds", "From the capture of changes to their commit.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)  # fmt: skip
_PACE = 9
"""Storing takes at most a tenth of the time: with many keys changing, checkpoints are further apart than asked for."""
_log = logging.getLogger(__name__)


class Checkpointer:
    """Due after a time or a number of records. With the store down work goes on, the same changes are tried again."""

    def __init__(
        self, store: Checkpoints, owner: Owner, *, every_s: float, every_records: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._store, self._owner, self._clock = store, owner, clock
        self._every_s, self._every_records = every_s, every_records
        self._last, self._records, self._took = clock(), 0, 0.0
        self._saving: asyncio.Task[None] | None = None
        self._parts: list[ViewPartition] = []
        self.stored = 0

    def count(self, records: int) -> None:
        """So many records were applied."""
        self._records += records

    def is_due(self) -> bool:
        """Whether it is time to store, and the store is free."""
        if not self.is_free():
            return False
        waited = self._clock() - self._last
        is_time = waited >= self._every_s or self._records >= self._every_records
        return is_time and waited >= _PACE * self._took

    def is_free(self) -> bool:
        """Whether there is something to store, and the store is free."""
        return self._records > 0 and self._saving is None

    def check(self) -> None:
        """Raises what ended the last store, Fenced above all; keys that are stored as cold leave the memory."""
        if self._saving is not None and self._saving.done():
            saving, self._saving = self._saving, None
            saving.result()
            for part in self._parts:
                part.stored()
            self.stored += 1

    def save(self, captures: Sequence[tuple[ViewPartition, Capture]]) -> None:
        """Begin to store what was captured; the store must be free."""
        self._last, self._records = self._clock(), 0
        self._parts = [part for part, _ in captures]
        if captures:
            self._saving = asyncio.ensure_future(self._save(captures))

    async def _save(self, captures: Sequence[tuple[ViewPartition, Capture]]) -> None:
        backoff, started = Backoff(), self._clock()
        named = [(part.view, capture) for part, capture in captures]
        while True:
            try:
                await self._store.save(self._owner, named)
            except Fenced:
                raise
            except Later as error:
                _log.warning("partition %s is not stored yet: %s", self._owner.partition, error)
                await backoff.wait()
            else:
                self._took = self._clock() - started
                SECONDS.observe(self._took)
                return

    async def finish(self) -> None:
        """Wait for the store under way; raises what ended it."""
        if self._saving is not None:
            await asyncio.wait({self._saving})
        self.check()

    async def drop(self) -> None:
        """Stop storing."""
        if self._saving is not None:
            self._saving.cancel()
            await asyncio.wait({self._saving})
            self._saving = None
