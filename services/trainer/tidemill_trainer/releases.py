"""Who is champion, from the compacted releases topic: the rival of every candidate."""

import asyncio

from aiokafka import ConsumerRecord

from tidemill_contracts import topic
from tidemill_contracts.events import Released
from tidemill_runtime.kafka import end_offsets
from tidemill_runtime.reading import events_in
from tidemill_runtime.settings import ServiceSettings
from tidemill_runtime.tail import Tail


class Champions:
    """Keeps the newest release of every pipeline."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._topic = topic("releases", prefix=settings.prefix)
        self._newest: dict[str, Released] = {}
        self._tail = Tail(settings, [self._topic], self._on_records)

    async def run(self) -> None:
        """Follow until cancelled."""
        await self._tail.run()

    async def champion(self, pipeline: str) -> Released | None:
        """The newest release as of now: everything that is in the topic at this moment has been read."""
        ends = await end_offsets(self._settings.kafka, self._topic)
        while any(  # noqa: ASYNC110 - a position also moves over the markers of transactions, which nobody is told of
            self._tail.position(self._topic, partition) < end for partition, end in ends.items()
        ):
            await asyncio.sleep(0.01)
        return self._newest.get(pipeline)

    def _on_records(self, _topic: str, _partition: int, records: list[ConsumerRecord]) -> None:
        for release in events_in(records, Released):
            known = self._newest.get(release.pipeline)
            if known is None or release.epoch >= known.epoch:
                self._newest[release.pipeline] = release
