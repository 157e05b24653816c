"""Quix Streams with hopping windows over the same fields, in an environment and a process of its own."""

import asyncio
import json
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from _engine import Log
from aiokafka import AIOKafkaProducer

from tidemill.stack import LocalKafka
from tidemill_contracts.topics import TopicSpec
from tidemill_runtime.kafka import ensure_topics
from tidemill_testkit.peers import peer

TOPIC = "benchmark.quix"
_SCRIPT = Path(__file__).parent / "_quix_app.py"


@dataclass(frozen=True, slots=True)
class Rate:
    """Events per second: of the best chunk, and over all."""

    best: float
    overall: float


def quix_rate(keys: int, count: int) -> Rate:
    """What Quix Streams needs for `count` events of `keys` keys from Kafka, its changelog topics off.

    Raises AssertionError where its counts of the longest window are not those of the events.
    """
    python = peer("quix", "quixstreams==3.28.0")
    log = Log(count, keys, past=0)
    with tempfile.TemporaryDirectory(prefix="tmq") as name:
        folder = Path(name)
        with LocalKafka(folder / "kafka") as kafka:
            asyncio.run(_preload(kafka.bootstrap, log))
            command = [str(python), str(_SCRIPT), kafka.bootstrap, TOPIC, str(folder / "state")]
            done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["events"] == count, found["events"]
    assert found["counts"] == _counts(log), "Quix counted something else"
    return Rate(found["best"], found["overall"])


def _counts(log: Log) -> dict[str, int]:
    """Events by key: the run is shorter than the longest window, whose first step holds them all."""
    return {f"S{key}": seen for key, seen in Counter(log.who.tolist()).items()}


async def _preload(kafka: str, log: Log) -> None:
    await ensure_topics(kafka, [TopicSpec(TOPIC, 1)])
    producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all")
    await producer.start()
    try:
        for who, time_us, (price, size, spread) in zip(
            log.who.tolist(), sorted(log.times.tolist()), log.values.tolist(), strict=True
        ):
            body = json.dumps({"price": price, "size": size, "spread": spread}).encode()
            await producer.send(TOPIC, body, key=b"S%d" % who, timestamp_ms=time_us // 1000, partition=0)
        await producer.flush()
    finally:
        await producer.stop()
