"""A task that counts exactly, and the processes that kill tests run.

`python -m tidemill_testkit.counting stream|relay ARGUMENT`, with a service's settings in the environment.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from aiokafka import ConsumerRecord

from tidemill_runtime import outbox
from tidemill_runtime.health import Health
from tidemill_runtime.postgres import Pool, move_offset, open_pool, read_offsets
from tidemill_runtime.settings import ServiceSettings
from tidemill_runtime.stream import StreamRunner

SCHEMA = "owner"
GROUP = "counter"


class CountTask:
    """Writes a row per record, in the transaction that moves the partition's offset."""

    def __init__(self, pool: Pool, topic: str, group: str, partition: int) -> None:
        self._pool, self._topic, self._group, self._partition = pool, topic, group, partition
        self._next: int | None = None

    async def open(self) -> Mapping[str, int]:
        async with self._pool.acquire() as conn:
            known = await read_offsets(conn, SCHEMA, self._group)
        self._next = known.get((self._topic, self._partition))
        return {} if self._next is None else {self._topic: self._next}

    async def process(self, batches: dict[str, list[ConsumerRecord]]) -> None:
        records = batches[self._topic]
        after = records[-1].offset + 1
        rows = [(record.value.decode(), self._partition, record.offset) for record in records]
        async with self._pool.acquire() as conn, conn.transaction():
            await conn.executemany("INSERT INTO owner.effects VALUES ($1, $2, $3)", rows)
            await move_offset(conn, SCHEMA, self._group, self._topic, self._partition, self._next, after)
        self._next = after

    async def idle(self) -> None: ...

    async def close(self, *, lost: bool) -> None: ...


def counting(settings: ServiceSettings, pool: Pool, health: Health, *, max_records: int = 50) -> StreamRunner:
    """A runner that counts the records of `<prefix>.in`."""
    topic, group = f"{settings.prefix}.in", f"{settings.prefix}-{GROUP}"
    return StreamRunner(
        settings, group=group, topics=[topic], make_task=lambda p: CountTask(pool, topic, group, p), health=health,
        max_records=max_records,
    )  # fmt: skip


async def stream(settings: ServiceSettings, _argument: str) -> None:
    """Count until killed."""
    pool = await open_pool(settings.postgres)
    await counting(settings, pool, Health()).run()


async def relay(settings: ServiceSettings, argument: str) -> None:
    """Publish the outbox; `before:N` and `after:N` kill this process around the Nth Kafka transaction."""
    when, _, count = argument.partition(":")
    send, calls = outbox._send, iter(range(1, 1_000_000))  # noqa: SLF001 - the instant between claim and commit

    async def deadly(*args: Any) -> Any:  # noqa: ANN401
        number = next(calls)
        if (when, str(number)) == ("before", count):
            os.kill(os.getpid(), signal.SIGKILL)
        result = await send(*args)
        if (when, str(number)) == ("after", count):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    outbox._send = deadly  # type: ignore[assignment]  # noqa: SLF001 - see above
    outbox.BATCH = 50
    pool = await open_pool(settings.postgres)
    await outbox.Relay(settings, pool, SCHEMA).run()


if __name__ == "__main__":
    asyncio.run({"stream": stream, "relay": relay}[sys.argv[1]](ServiceSettings(), sys.argv[2]))
