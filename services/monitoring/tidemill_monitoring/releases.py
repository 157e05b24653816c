"""References of the releases that answer, from the compacted releases topic and the artifact store."""

import asyncio
import logging
import time

from aiokafka import ConsumerRecord

from tidemill_contracts import topic
from tidemill_contracts.events import REFERENCE_BYTES, Released
from tidemill_monitoring.domain.anchors import UNNAMED, Anchor, read_reference
from tidemill_runtime.artifacts import Artifacts
from tidemill_runtime.backoff import Backoff
from tidemill_runtime.errors import Never
from tidemill_runtime.reading import events_in
from tidemill_runtime.settings import ServiceSettings
from tidemill_runtime.tail import Tail

PATIENCE_S = 60.0
"""Rows of a release wait so long for its record and its reference; then their own first rows are the reference."""
MOST_EPOCHS = 10_000
"""Releases of a pipeline that are remembered, the newest."""
_log = logging.getLogger(__name__)


class References:
    """What each release of each pipeline names, by epoch."""

    def __init__(self, settings: ServiceSettings, *, patience_s: float = PATIENCE_S) -> None:
        self._artifacts, self._patience_s = Artifacts(settings.artifacts), patience_s
        self._named: dict[str, dict[int, str | None]] = {}
        self._topic = topic("releases", prefix=settings.prefix)
        self._more = asyncio.Condition()
        self._tail = Tail(settings, [self._topic], self._on_records)

    async def run(self) -> None:
        """Follow the topic until cancelled."""
        await self._tail.run()

    async def anchor(self, pipeline: str, epoch: int) -> Anchor:
        """The reference of a release, whose digest is checked; without one within `patience_s`, an anchor says why."""
        deadline = time.monotonic() + self._patience_s
        try:
            async with self._more, asyncio.timeout_at(asyncio.get_running_loop().time() + self._patience_s):
                await self._more.wait_for(lambda: self._is_told(pipeline, epoch))
        except TimeoutError:
            _log.warning("release %d of %s is not on the topic: its first rows are its reference", epoch, pipeline)
            return Anchor(why="its release is not on the topic")
        known = self._named[pipeline]
        if epoch not in known:
            return Anchor(why="its release is older than what the topic keeps")
        digest = known[epoch]
        return Anchor(why=UNNAMED) if digest is None else await self._fetch(digest, deadline)

    def _is_told(self, pipeline: str, epoch: int) -> bool:
        """Whether the record is here, or a later one: the topic has one partition, and releases come in order."""
        return max(self._named.get(pipeline, ()), default=0) >= epoch

    async def _fetch(self, digest: str, deadline: float) -> Anchor:
        backoff = Backoff()
        while True:
            try:
                raw = await asyncio.to_thread(self._artifacts.get, digest, most=REFERENCE_BYTES)
                return read_reference(digest, raw)
            except Never as error:
                why = f"its reference cannot be used: {type(error).__name__}"
            except Exception as error:  # noqa: BLE001 - whatever keeps the store from answering may pass
                why = f"its reference cannot be read: {type(error).__name__}"
                if time.monotonic() < deadline:
                    await backoff.wait()
                    continue
            _log.warning("%s of %s: its first rows are its reference", why, digest)
            return Anchor(why=why)

    async def _on_records(self, _topic: str, _partition: int, records: list[ConsumerRecord]) -> None:
        for release in events_in(records, Released):
            known = self._named.setdefault(release.pipeline, {})
            known[release.epoch] = release.reference
            if len(known) > MOST_EPOCHS:
                del known[min(known)]
        async with self._more:
            self._more.notify_all()
