"""Stores what has changed beside the work, never more than one store at a time."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from prometheus_client import Histogram

from tidemill_features.domain.aggregate import Capture
from tidemill_features.domain.partition import AggregatePartition
from tidemill_features.domain.segments import Owner
from tidemill_features.domain.views import View
from tidemill_features.handlers.ports import Checkpoints
from tidemill_runtime.backoff import Backoff
from tidemill_runtime.errors import Fenced, Later

SECONDS = Histogram(
    "tidemill_features_checkpoint_seconds", "From capturing changes to their commit.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)  # fmt: skip
_log = logging.getLogger(__name__)


class Checkpointer:
    """Due after a time or a number of records. With the store down work goes on, the same changes are tried again."""

    def __init__(
        self, store: Checkpoints, owner: Owner, *, every_s: float, every_records: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._store, self._owner, self._clock = store, owner, clock
        self._every_s, self._every_records = every_s, every_records
        self._last, self._records = clock(), 0
        self._saving: asyncio.Task[None] | None = None

    def count(self, records: int) -> None:
        """So many records were processed."""
        self._records += records

    def step(self, part: AggregatePartition) -> None:
        """Begin a checkpoint when one is due; raises what ended the one before, Fenced above all."""
        if self._saving is not None:
            if not self._saving.done():
                return
            saving, self._saving = self._saving, None
            saving.result()
        if self._clock() - self._last >= self._every_s or self._records >= self._every_records:
            self._begin(part)

    def _begin(self, part: AggregatePartition) -> None:
        self._last, self._records = self._clock(), 0
        captures = [(item.view, capture) for item, capture in part.capture()]
        if captures:
            self._saving = asyncio.ensure_future(self._save(captures))

    async def _save(self, captures: Sequence[tuple[View, Capture]]) -> None:
        backoff, started = Backoff(), self._clock()
        while True:
            try:
                await self._store.save(self._owner, captures)
            except Fenced:
                raise
            except Later as error:
                _log.warning("partition %s is not stored yet: %s", self._owner.partition, error)
                await backoff.wait()
            else:
                SECONDS.observe(self._clock() - started)
                return

    async def finish(self, part: AggregatePartition) -> None:
        """Store everything; raises Fenced."""
        if self._saving is not None:
            await self._saving
        self._begin(part)
        if self._saving is not None:
            await self._saving

    async def drop(self) -> None:
        """Stop storing."""
        if self._saving is not None:
            self._saving.cancel()
            await asyncio.wait({self._saving})
            self._saving = None
