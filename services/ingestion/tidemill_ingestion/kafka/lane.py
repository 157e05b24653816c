"""One partition's records on their way to the broker: what comes during a write goes into the next one together."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from tidemill_ingestion.domain.outgoing import Outgoing


class Part:
    """Records of one call for one partition; `done` gives the offset of each."""

    __slots__ = ("done", "offsets", "records")

    def __init__(self, records: Sequence[Outgoing]) -> None:
        self.records = records
        self.offsets: list[int] = []
        self.done: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()


class Lane:
    """Writes parts in the order of `put`, as whole batches: a fraction of the cost of one record at a time."""

    def __init__(self, producer: Any, topic: str, partition: int) -> None:  # noqa: ANN401 - aiokafka ships no types
        self._producer, self._topic, self._partition = producer, topic, partition
        self._waiting: deque[Part] = deque()
        self._running: asyncio.Task[None] | None = None

    def put(self, part: Part) -> None:
        """Queue the records; a write that fails fails all whose records were in it."""
        self._waiting.append(part)
        if self._running is None:
            self._running = asyncio.ensure_future(self._run())

    def drop(self, part: Part) -> bool:
        """Take back a part that was not handed to the client yet; false when it was."""
        try:
            self._waiting.remove(part)
        except ValueError:
            return False
        part.done.cancel()
        return True

    async def _run(self) -> None:
        while self._waiting:
            parts = list(self._waiting)
            self._waiting.clear()
            try:
                await self._write(parts)
            except BaseException as error:  # noqa: BLE001 - whatever it was, those who wait must hear of it
                for part in parts:
                    if not part.done.done():
                        part.done.set_exception(error)
        self._running = None

    async def _write(self, parts: Sequence[Part]) -> None:
        batches = self._batches(parts)
        for batch, held in batches:
            sent = await self._producer.send_batch(batch, self._topic, partition=self._partition)
            first = (await sent).offset
            for part, count in held:
                part.offsets.extend(range(first, first + count))
                first += count
                if len(part.offsets) == len(part.records) and not part.done.done():
                    part.done.set_result(part.offsets)

    def _batches(self, parts: Sequence[Part]) -> list[tuple[Any, list[tuple[Part, int]]]]:
        """Batches in order, each with how many records of which part it holds."""
        batch, held = self._producer.create_batch(), list[tuple[Part, int]]()
        made = [(batch, held)]
        for part in parts:
            count = 0
            for record in part.records:
                fields = {
                    "timestamp": record.timestamp_ms, "key": record.key, "value": record.value,
                    "headers": record.headers,
                }  # fmt: skip
                if batch.append(**fields) is None:
                    held.append((part, count))
                    batch, held, count = self._producer.create_batch(), [], 0
                    made.append((batch, held))
                    batch.append(**fields)
                count += 1
            held.append((part, count))
        return made
