"""One reader of requests over Kafka for each pipeline, as pipelines come and go."""

import asyncio
import logging
from collections.abc import Iterable
from functools import partial

from tidemill_contracts.topics import request_group, request_topics, topic
from tidemill_runtime.backoff import Backoff
from tidemill_runtime.errors import Later, Never
from tidemill_runtime.group import GroupReader
from tidemill_runtime.kafka import ensure_topics
from tidemill_serving.domain.house import House
from tidemill_serving.handlers.bulk import Bulk
from tidemill_serving.settings import Settings

STOP_S = 2.5
Reader = tuple[GroupReader, asyncio.Task[None]]
_log = logging.getLogger(__name__)


class BulkRoute:
    """A group of its own for each pipeline: its offsets stay where they are when another pipeline is added."""

    def __init__(self, settings: Settings, house: House, bulk: Bulk) -> None:
        """`changed` is to be set whenever there may be other pipelines."""
        self._settings, self._house, self._bulk = settings, house, bulk
        self.changed = asyncio.Event()
        self._readers: dict[str, Reader] = {}
        self._stopping = set[asyncio.Task[None]]()

    async def run(self) -> None:
        """Until cancelled; what is under way then is finished and committed, or nobody ever hears of it."""
        try:
            while True:
                await self.changed.wait()
                self.changed.clear()
                if self._settings.bulk:
                    self._match()
        finally:
            await _stop(self._readers.values())

    def _match(self) -> None:
        for name in self._house.desks.keys() - self._readers.keys():
            reader = GroupReader(
                self._settings, group=request_group(name, prefix=self._settings.prefix),
                topic=topic("requests", name, prefix=self._settings.prefix), take=partial(self._bulk.take, name),
            )  # fmt: skip
            self._readers[name] = reader, asyncio.ensure_future(self._read(name, reader))
        for name in self._readers.keys() - self._house.desks.keys():
            self._house.bulk.pop(name, None)
            stopping = asyncio.ensure_future(_stop([self._readers.pop(name)]))
            self._stopping.add(stopping)
            stopping.add_done_callback(self._stopping.discard)

    async def _read(self, name: str, reader: GroupReader) -> None:
        """The topic is made where the pipeline was applied before there were such topics."""
        backoff = Backoff()
        while name in self._house.desks:
            specs = request_topics(name, self._house.desks[name].spec.partitions, prefix=self._settings.prefix)
            try:
                await ensure_topics(self._settings.kafka, specs)
            except (Later, Never) as error:
                _log.warning("requests over Kafka for %s wait: %s", name, error)
                await backoff.wait()
            else:
                await reader.run()
                return


async def _stop(readers: Iterable[Reader]) -> None:
    tasks = set[asyncio.Task[None]]()
    for reader, task in readers:
        await reader.stop()
        tasks.add(task)
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=STOP_S)
        for task in late:
            task.cancel()
