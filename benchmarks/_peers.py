"""What the same machine does in the same run without Tidemill: the distance to it is what Tidemill costs."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _stack import departure
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tidemill.stack.process import free_port
from tidemill_contracts.topics import TopicSpec
from tidemill_runtime.kafka import ensure_topics

TOPIC = "benchmark.bare"


async def _producer(kafka: str, partitions: int) -> AIOKafkaProducer:
    await ensure_topics(kafka, [TopicSpec(TOPIC, partitions)])
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka, acks="all", enable_idempotence=True, linger_ms=0, max_batch_size=262_144,
        compression_type="zstd",
    )  # fmt: skip
    await producer.start()
    return producer


def _values(count: int) -> list[bytes]:
    return [json.dumps(departure(number, flight=f"P-{number}")["data"]).encode() for number in range(count)]


async def produce_batches(kafka: str, partitions: int, count: int, batch: int, width: int) -> float:
    """Events per second of a bare producer that sends whole batches, `width` at a time."""
    producer, values = await _producer(kafka, partitions), _values(count)
    batches = iter([values[first : first + batch] for first in range(0, count, batch)])

    async def work(partition: int) -> None:
        for chunk in batches:
            made = producer.create_batch()
            for value in chunk:
                made.append(key=None, value=value, timestamp=None)
            await (await producer.send_batch(made, TOPIC, partition=partition % partitions))

    return await _rate(producer, work, count=count, width=width)


async def produce_single(kafka: str, partitions: int, count: int, width: int) -> float:
    """Events per second of a bare producer with `width` senders, each waiting for its acknowledgement."""
    producer, values = await _producer(kafka, partitions), iter(_values(count))

    async def work(partition: int) -> None:
        for value in values:
            await producer.send_and_wait(TOPIC, value, partition=partition % partitions)

    return await _rate(producer, work, count=count, width=width)


async def produce_and_read(kafka: str, partitions: int, *, batch: int, rate: float, seconds: float) -> list[float]:
    """Seconds from a batch's acknowledgement until a bare consumer of its partition has it, at `rate` batches/s."""
    producer = await _producer(kafka, partitions)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka, enable_auto_commit=False, auto_offset_reset="latest", fetch_max_wait_ms=50
    )
    await consumer.start()
    tps = [TopicPartition(TOPIC, partition) for partition in range(partitions)]
    consumer.assign(tps)
    ends = await consumer.end_offsets(tps)
    for tp in tps:
        consumer.seek(tp, ends[tp])
    seen: dict[bytes, float] = {}

    async def read() -> None:
        while True:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                now = time.monotonic()
                seen.update((record.key, now) for record in records if record.key is not None)

    reader, values, acked = asyncio.ensure_future(read()), _values(batch), dict[bytes, float]()
    try:
        start = time.monotonic()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, start + number / rate - time.monotonic()))
            await _one(producer, number, partitions, values)
            acked[b"%d" % number] = time.monotonic()
        await asyncio.sleep(0.5)
    finally:
        reader.cancel()
        await consumer.stop()
        await producer.stop()
    return [max(0.0, seen[key] - at) for key, at in acked.items()]


async def _one(producer: AIOKafkaProducer, number: int, partitions: int, values: list[bytes]) -> None:
    made: Any = producer.create_batch()
    for value in values:
        made.append(key=None, value=value, timestamp=None)
    made.append(key=b"%d" % number, value=b"{}", timestamp=None)
    await (await producer.send_batch(made, TOPIC, partition=number % partitions))


@contextmanager
def echo() -> Iterator[str]:
    """The URL of a bare uvicorn that answers every request with its body."""
    port = free_port()
    command = [
        sys.executable, "-m", "uvicorn", "_echo:app", "--app-dir", str(Path(__file__).parent), "--port", str(port),
        "--http", "httptools", "--loop", "uvloop", "--no-access-log", "--log-level", "error",
    ]  # fmt: skip
    child = subprocess.Popen(command)
    try:
        yield f"http://127.0.0.1:{port}/echo"
    finally:
        child.terminate()
        child.wait(10)


async def _rate(producer: AIOKafkaProducer, work: Callable[[int], Awaitable[None]], *, count: int, width: int) -> float:
    """Events per second of `width` workers that send `count` together; the producer is stopped afterwards."""
    try:
        started = time.monotonic()
        await asyncio.gather(*(work(number) for number in range(width)))
        return count / (time.monotonic() - started)
    finally:
        await producer.stop()
