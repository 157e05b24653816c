"""How soon 100,000 keys with 60 features can be read again after SIGKILL, and how long a partition takes to move."""

import asyncio
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop
from _features import PARTITIONS, VIEW, Running, Trades, applied, check, preload, read_back, wait_for
from _results import Progress, Result, report, result
from _stack import get, stack, until

from tidemill.stack import Endpoints

KEYS, EVENTS = int(os.environ.get("KEYS", "100000")), int(os.environ.get("EVENTS", "300000"))
TAIL = 5_000


async def readable(running: Running, trades: Trades, ends: list[int]) -> None:
    """Until every partition has read everything, and the entities of the first and the last events answer."""
    await wait_for(running, ends)
    for number in (0, 1, trades.count - 1):
        assert await get(f"{running.url}/v1/features/{VIEW}/S{trades.who[number]}") is not None


async def killed(seen: Endpoints, folder: Path, progress: Progress) -> list[Result]:
    """SIGKILL with a tail of events that no checkpoint holds; a second process starts at once."""
    trades, spec = Trades(EVENTS, KEYS), await applied(seen)
    ends = await preload(seen.kafka, trades)
    first = Running(seen, folder)
    await wait_for(first, ends)
    progress.step(f"{len(trades.who):,} events of {KEYS:,} keys are in the state")
    await asyncio.sleep(10)  # the checkpoint under way, and the next
    longer = Trades(EVENTS + TAIL, KEYS)
    longer.who[:EVENTS], longer.values[:EVENTS] = trades.who, trades.values
    ends = await preload(seen.kafka, longer, first=EVENTS, seqs=ends)
    first.process.kill()
    first.process.wait()
    began = time.monotonic()
    second = Running(seen, folder)
    try:
        await readable(second, longer, ends)
        restored = time.monotonic() - began
        progress.step(f"readable after {restored:.1f} s, {second.cpu_s():.1f} s of processor time")
        cpu = second.cpu_s()
        moved = await rebalanced(seen, second, folder)
        progress.step(f"a partition moved in {moved:.1f} s")
    finally:
        second.stop()
    check(await read_back(seen.kafka), longer, spec)
    return [
        result("killed to readable", restored, "s", target=5),
        result("processor time of that", cpu, "s"),
        result("rebalance of one partition", moved, "s", target=3),
    ]


async def rebalanced(seen: Endpoints, holder: Running, folder: Path) -> float:
    """Seconds in which at least one partition had no owner, when a second instance joins."""
    joining = Running(seen, folder, instance="1")

    async def is_incomplete() -> bool:
        return len(await holder.parts()) < PARTITIONS

    async def is_shared() -> bool:
        return [len(await running.parts()) for running in (holder, joining)] == [1, PARTITIONS - 1]

    try:
        await until(is_incomplete, "a partition is let go", deadline_s=120)
        began = time.monotonic()
        await until(is_shared, "every partition has an owner", deadline_s=120)
        return time.monotonic() - began
    finally:
        joining.stop()


async def main() -> list[Result]:
    """All figures."""
    with stack() as seen, TemporaryDirectory(prefix="tmf", ignore_cleanup_errors=True) as folder:
        return await killed(seen, Path(folder), Progress())


if __name__ == "__main__":
    report("features-restore", uvloop.run(main()))
