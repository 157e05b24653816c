"""Stream runners that come and go with what the pipelines declare."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from tidemill_runtime.stream import StreamRunner

T = TypeVar("T")


class Streams(Generic[T]):
    """One runner per name, started, restarted and stopped as what it is made from changes."""

    def __init__(self, make: Callable[[T], StreamRunner]) -> None:
        self._make = make
        self._wanted: Mapping[str, T] = {}
        self._running: dict[str, tuple[T, StreamRunner, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()

    def apply(self, wanted: Mapping[str, T]) -> None:
        """From now on these run; one whose value is equal to what it was made from goes on."""
        self._wanted = wanted
        self._changed.set()

    async def run(self) -> None:
        """Follow `apply` until cancelled; then every task finishes its batch."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._stop([name for name, (made_of, *_) in self._running.items()
                                  if self._wanted.get(name) != made_of])  # fmt: skip
                for name, made_of in self._wanted.items():
                    if name not in self._running:
                        runner = self._make(made_of)
                        self._running[name] = (made_of, runner, group.create_task(runner.run()))

    async def _stop(self, names: list[str]) -> None:
        stopped = [self._running.pop(name) for name in names]
        for _, runner, _ in stopped:
            await runner.stop()
        await asyncio.gather(*(task for _, _, task in stopped))
