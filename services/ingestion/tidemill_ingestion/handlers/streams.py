"""Stream runners that come and go with the sources."""

import asyncio
from collections.abc import Callable, Mapping

from tidemill_ingestion.domain.source import Source
from tidemill_runtime.stream import StreamRunner


class Streams:
    """One runner per source, started, restarted and stopped as the pipelines change."""

    def __init__(self, make: Callable[[Source], StreamRunner]) -> None:
        self._make = make
        self._wanted: Mapping[str, Source] = {}
        self._running: dict[str, tuple[Source, StreamRunner, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()

    def apply(self, sources: Mapping[str, Source]) -> None:
        """From now on these sources are read, as they are defined in these objects."""
        self._wanted = sources
        self._changed.set()

    async def run(self) -> None:
        """Follow `apply` until cancelled; then every task finishes its batch."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._stop([name for name, (source, *_) in self._running.items()
                                  if self._wanted.get(name) is not source])  # fmt: skip
                for name, source in self._wanted.items():
                    if name not in self._running:
                        runner = self._make(source)
                        self._running[name] = (source, runner, group.create_task(runner.run()))

    async def _stop(self, names: list[str]) -> None:
        stopped = [self._running.pop(name) for name in names]
        for _, runner, _ in stopped:
            await runner.stop()
        await asyncio.gather(*(task for _, _, task in stopped))
