"""A broker and a database of a test's own, to be killed like everybody else."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from features_cases import FakeRecord
from features_stack import Process, Stack, say

from tidemill.stack import LocalKafka, LocalPostgres, StartFailedError
from tidemill_testkit.waiting import until

VICTIMS = ("features",) * 10 + ("kafka",) * 5 + ("postgres",) * 5
PATIENCE_S = 120.0


@asynccontextmanager
async def servers(folder: Path) -> AsyncIterator[tuple[LocalKafka, LocalPostgres]]:
    """Both running; Postgres writes through to its log, since what it has confirmed must outlive it."""
    kafka, postgres = LocalKafka(folder / "kafka"), LocalPostgres(folder / "postgres")
    try:
        await asyncio.gather(asyncio.to_thread(kafka.start), asyncio.to_thread(postgres.start))
        yield kafka, postgres
    finally:
        kafka.stop()
        postgres.stop()


async def again(start: Callable[[], object]) -> None:
    """Start a killed server: its predecessor's last processes may hold its files for a moment."""

    async def started() -> bool:
        try:
            await asyncio.to_thread(start)
        except StartFailedError:
            return False
        return True

    await until(started, "a killed server runs again", timeout_s=PATIENCE_S, every_s=0.1)


@dataclass
class Chaos:
    """Kills at random instants: when a random share of the events has been told, and a random moment later."""

    stack: Stack
    kafka: LocalKafka
    postgres: LocalPostgres
    seed: int = field(default_factory=lambda: random.SystemRandom().randrange(2**32))

    async def run(self, progress: Callable[[], float], until_us: int) -> None:
        """All victims, one after the other; each starts again at once, and the next may die before it is ready."""
        chance, began = random.Random(self.seed), time.monotonic()
        say(f"seed {self.seed}")
        process, waiting = self.stack.start(), set[asyncio.Task[None]]()
        victims, shares = chance.sample(VICTIMS, len(VICTIMS)), sorted(chance.uniform(0.01, 0.97) for _ in VICTIMS)
        try:
            await process.ready()
            for victim, share in zip(victims, shares, strict=True):
                await until(lambda part=share: progress() >= part, f"{share:.0%} of the events", timeout_s=PATIENCE_S)  # type: ignore[misc]
                await asyncio.sleep(chance.uniform(0.0, 0.5))  # not waiting for anything: an instant of no meaning
                say(f"{time.monotonic() - began:6.1f} s, {progress():4.0%}: SIGKILL {victim}")
                if victim == "features":
                    process.kill()
                    process = self.stack.start()
                    continue
                await asyncio.gather(*waiting)  # one server may not be started twice
                waiting = {asyncio.ensure_future(self._kill_server(victim))}
            await asyncio.gather(*waiting)
            await process.ready()
            await until(lambda: progress() >= 1, "all events", timeout_s=PATIENCE_S)
            await until(partial(_has_read, process, until_us), "the last process has read everything", timeout_s=60)
            say(f"{time.monotonic() - began:6.1f} s: everything is told")
            await asyncio.to_thread(process.stop)
        finally:
            process.kill()

    async def _kill_server(self, victim: str) -> None:
        server = self.kafka if victim == "kafka" else self.postgres
        server.kill()
        await again(server.start)


async def _has_read(process: Process, until_us: int) -> bool:
    """A process that stops in the middle of what it reads again leaves that to the next one."""
    views = (await process.get("/v1/status")).json()["views"]
    return {part["watermark_us"] for view in views for part in view["partitions"]} == {until_us}


@asynccontextmanager
async def producing(bootstrap: str) -> AsyncIterator[Callable[[str, list[FakeRecord]], Coroutine[None, None, None]]]:
    """Writes records in order until the broker has them all; what it had already is written again after a failure."""
    held: list[AIOKafkaProducer] = []

    async def write(topic: str, records: list[FakeRecord]) -> None:
        while True:
            try:
                if not held:
                    held.append(AIOKafkaProducer(
                        bootstrap_servers=bootstrap, enable_idempotence=True, linger_ms=5, request_timeout_ms=60_000
                    ))  # fmt: skip
                    await held[0].start()
                sent = [
                    await held[0].send(topic, r.value, key=r.key, partition=r.partition, headers=r.headers)
                    for r in records
                ]
                await asyncio.gather(*sent)
            except (KafkaError, AssertionError):
                await asyncio.wait({asyncio.ensure_future(held.pop().stop())}, timeout=1)
            else:
                return

    try:
        yield write
    finally:
        for producer in held:
            await producer.stop()
