"""Keeps on disk which releases answer, beside the event loop: to replace a file may take as long as a disk does."""

import asyncio
import logging
import threading
from collections.abc import Callable

from tidemill_serving.domain.desk import Desk
from tidemill_serving.domain.releases import Kept

_log = logging.getLogger(__name__)


class Keeper:
    """Writes the newest state of each pipeline; one that is replaced before it was written is never written.

    A process that is killed before a swap is written takes it from Kafka again, as one whose disk was full.
    """

    def __init__(self, save: Callable[[Kept], None]) -> None:
        """`save` blocks and raises OSError."""
        self._save = save
        self._due: dict[str, Kept] = {}
        self._news, self._writing = asyncio.Event(), threading.Lock()

    def put(self, desk: Desk) -> None:
        """A release of the pipeline has come to answer."""
        kept = desk.kept()
        self._due[desk.name] = kept._replace(releases=list(kept.releases), swaps=list(kept.swaps))
        self._news.set()

    async def run(self) -> None:
        """Until cancelled; what is due then is written before it returns."""
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                await asyncio.to_thread(self._write_all)
        finally:
            self._write_all()

    def _write_all(self) -> None:
        with self._writing:  # at a stop a thread may still be at it
            while self._due:
                _, kept = self._due.popitem()
                try:
                    self._save(kept)
                except OSError as error:  # a full disk must not end the process
                    _log.warning("the releases of %s were not kept: %s", kept.spec.name, error)
