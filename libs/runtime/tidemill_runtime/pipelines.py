"""Every service follows the compacted topic of pipelines and configures itself by it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from aiokafka import ConsumerRecord
from pydantic import ValidationError

from tidemill_contracts.envelope import EnvelopeError, read_envelope
from tidemill_contracts.events import PipelineApplied
from tidemill_contracts.topics import control_topics, topic
from tidemill_runtime.backoff import Backoff
from tidemill_runtime.errors import Later
from tidemill_runtime.kafka import ensure_topics
from tidemill_runtime.settings import ServiceSettings
from tidemill_runtime.tail import Tail

Pipelines = Mapping[str, PipelineApplied]
OnChange = Callable[[Pipelines], Awaitable[None] | None]
_log = logging.getLogger(__name__)


class PipelineWatcher:
    """Keeps the newest revision of every pipeline.

    `on_change(all pipelines by name)` is called once the topic has been read to its end, also when it is empty, and
    after changes. When it raises it is called again after a back-off. `ready` is set after the first call.
    """

    def __init__(self, settings: ServiceSettings, on_change: OnChange) -> None:
        self.ready = asyncio.Event()
        self._changed = asyncio.Event()
        self._settings, self._on_change = settings, on_change
        self._pipelines: dict[str, PipelineApplied] = {}
        self._tail = Tail(settings, [topic("pipelines", prefix=settings.prefix)], self._on_records)

    @property
    def pipelines(self) -> Pipelines:
        """The pipelines known so far, by name."""
        return dict(self._pipelines)

    async def run(self) -> None:
        """Follow until `stop` or cancellation; makes the control topics first, so the order of starting is free."""
        await self._make_topics()
        async with asyncio.TaskGroup() as group:
            announcer = group.create_task(self._announcer())
            await self._tail.run()
            announcer.cancel()

    async def stop(self) -> None:
        """Make `run` return."""
        await self._tail.stop()

    async def _make_topics(self) -> None:
        backoff = Backoff()
        while True:
            try:
                return await ensure_topics(self._settings.kafka, control_topics(prefix=self._settings.prefix))
            except Later as error:
                _log.warning("the control topics are not there yet: %s", error)
                await backoff.wait()

    async def _announcer(self) -> None:
        await self._tail.caught_up.wait()
        backoff = Backoff()
        while True:
            self._changed.clear()
            try:
                called = self._on_change(self.pipelines)
                if called is not None:
                    await called
            except Exception:  # noqa: BLE001 - the service is not configured until this has worked
                _log.exception("the pipelines could not be applied; trying again")
                await backoff.wait()
                continue
            backoff.reset()
            self.ready.set()
            await self._changed.wait()

    def _on_records(self, _topic: str, _partition: int, records: list[ConsumerRecord]) -> None:
        before = dict(self._pipelines)
        for record in records:
            self._take(record)
        if self._pipelines != before:
            self._changed.set()

    def _take(self, record: ConsumerRecord) -> None:
        if record.value is None:
            self._pipelines.pop((record.key or b"").decode("utf-8", "replace"), None)
            return
        try:
            event = PipelineApplied.read(read_envelope(record.headers, record.value).data)
        except (EnvelopeError, ValidationError) as error:
            _log.warning("offset %s of %s is not a pipeline: %s", record.offset, record.topic, error)
            return
        known = self._pipelines.get(event.pipeline)
        if known is None or event.revision >= known.revision:
            self._pipelines[event.pipeline] = event
