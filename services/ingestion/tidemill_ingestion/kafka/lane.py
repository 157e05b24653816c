"""One partition's records on their way to the broker: what comes during a write goes into the next one together."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from tidemill_ingestion.domain.outgoing import Sendable
from tidemill_runtime.batches import MANY_BYTES, Framed, Packed, Unpacked, batches


class Part:
    """Records of one call for one partition; `done` gives the offset of each."""

    __slots__ = ("done", "records")

    def __init__(self, records: Sequence[Sendable]) -> None:
        self.records = records
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
        records = [record.framed() for part in parts for record in part.records]
        waiting, offsets = deque(parts), list[int]()
        for batch in batches([Framed(r.key_bytes, r.body, r.timestamp_ms) for r in records]):
            sent = await self._producer.send_batch(await _packed(batch), self._topic, partition=self._partition)
            first = (await sent).offset
            offsets += range(first, first + batch.count)
            while waiting and len(waiting[0].records) <= len(offsets):
                part = waiting.popleft()
                own, offsets = offsets[: len(part.records)], offsets[len(part.records) :]
                if not part.done.done():
                    part.done.set_result(own)


async def _packed(batch: Unpacked) -> Packed:
    """Many bytes are compressed in a thread, beside the event loop."""
    return batch.pack() if len(batch.records) < MANY_BYTES else await asyncio.to_thread(batch.pack)
