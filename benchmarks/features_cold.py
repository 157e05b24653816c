"""Whether memory has a bound: the features service with room for some keys, and without, while keys only become more.

Four of five events are of a key that nobody has seen before, the others of a thousand regulars: keys as devices,
sessions or cards bring them.
"""

import os

import httpx
import numpy as np
import psutil
import uvloop
from _features import Running, Trades, applied, check, features, preload, read_back, wait_for, warmed
from _results import Progress, Result, report, result
from _stack import stack, until

FEW, MANY = (int(text) for text in os.environ.get("KEYS", "500000,1000000").split(","))
LIMIT = int(os.environ.get("LIMIT", "50000"))
REGULARS = 1_000
MIB = 2**20
LESS, FLAT = 0.6, 1.15
"""Of the memory without a bound; times that of fewer keys. Both numbers of keys bring more than five minutes of events,
so that in both a minute's panes leave the shortest window: the keys of that minute are due, and in memory, at once. How
many those are follows from how fast new keys come, not from how many there were."""


class Newcomers(Trades):
    """New keys all the time, and regulars."""

    def __post_init__(self) -> None:
        super().__post_init__()
        new = np.arange(self.count) % 5 > 0
        self.who = np.where(new, REGULARS + np.cumsum(new), self.who % REGULARS)


async def measure(progress: Progress, keys: int, limit: int) -> dict[str, float]:
    """Figures with so many keys in memory, in a stack of their own."""
    trades = Newcomers(keys * 5 // 4, keys)
    os.environ["TIDEMILL_KEYS_IN_MEMORY"] = str(limit)
    with stack() as seen:
        spec = await applied(seen)
        await warmed(seen)
        ends = await preload(seen.kafka, trades)
        progress.step(f"{keys:,} keys lie in Kafka")
        with features(seen) as running:
            before, peak, last = await followed(running, ends)
            used, found = running.cpu_s(), await counted(running)
            known = sum(part["keys"] for part in await running.parts())
            assert known == len(np.unique(trades.who)), known
        check(await read_back(seen.kafka), trades, spec)
    progress.step(f"room for {limit:,}: {before:.0f}, at most {peak:.0f}, then {last:.0f} MiB; checked bit for bit")
    return {"us": 1e6 * used / trades.count, "before": before, "peak": peak, "last": last} | found


async def followed(running: Running, ends: list[int]) -> tuple[float, float, float]:
    """Until all is read: resident memory at the start, most of it, and at the end, in MiB."""
    process, seen = psutil.Process(running.process.pid), list[float]()

    async def is_done() -> bool:
        if any(part["positions"] for part in await running.parts()):
            seen.append(process.memory_info().rss / MIB)
        return await running.has_read(ends)

    await until(is_done, "all events are read", deadline_s=1200)
    await wait_for(running, ends)
    return seen[0], max(seen), process.memory_info().rss / MIB


async def counted(running: Running) -> dict[str, float]:
    """What the service says of its cold keys."""
    async with httpx.AsyncClient(timeout=10) as client:
        text = (await client.get(f"{running.url}/metrics")).text
    names = ("cold_keys", "fetched_keys_total", "evicted_keys_total")
    return {
        name: sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"tidemill_features_{name}"))
        for name in names
    }


async def main() -> list[Result]:
    """All figures."""
    progress = Progress()
    few, many = await measure(progress, FEW, LIMIT), await measure(progress, MANY, LIMIT)
    free = await measure(progress, MANY, 10 * MANY)
    assert free["fetched_keys_total"] == free["cold_keys"] == 0
    return [
        result(f"{MANY:,} keys, no bound, resident memory, most", free["peak"], "MiB"),
        result(f"{FEW:,} keys, room for {LIMIT:,}, resident memory, most", few["peak"], "MiB"),
        result(f"{MANY:,} keys, room for {LIMIT:,}, resident memory, most", many["peak"], "MiB"),
        result("of the memory without a bound", many["peak"] / free["peak"], "1", target=LESS),
        result("of the memory with fewer keys", many["peak"] / few["peak"], "1", target=FLAT),
        result("keys cold at the end", many["cold_keys"], "1"),
        result("keys that came back", many["fetched_keys_total"], "1"),
        result("no bound, CPU per event, start included", free["us"], "us"),
        result("bound, CPU per event, start included", many["us"], "us"),
    ]


if __name__ == "__main__":
    report("features-cold", uvloop.run(main()))
