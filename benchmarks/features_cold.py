"""What it costs to hold a part of the keys in memory: the features service with a bound, and without one.

First every key is new, then keys are drawn evenly, so most events need a key that is cold: the worst case.
"""

import os

import httpx
import psutil
import uvloop
from _features import Running, Trades, applied, check, features, preload, read_back, wait_for
from _results import Progress, Result, report, result
from _stack import stack, until

EVENTS = int(os.environ.get("EVENTS", "360000"))
KEYS = int(os.environ.get("KEYS", "300000"))
LIMIT = int(os.environ.get("LIMIT", "50000"))
MIB = 2**20


async def measure(progress: Progress, limit: int) -> dict[str, float]:
    """Figures with so many keys in memory, in a stack of their own."""
    trades = Trades(EVENTS, KEYS)
    os.environ["TIDEMILL_KEYS_IN_MEMORY"] = str(limit)
    with stack() as seen:
        spec = await applied(seen)
        ends = await preload(seen.kafka, trades)
        with features(seen) as running:
            peak = await followed(running, ends)
            used, metrics = running.cpu_s(), await counted(running)
            keys = sum(part["keys"] for part in await running.parts())
            assert keys == len(set(trades.who.tolist())), keys
        check(await read_back(seen.kafka), trades, spec)
    progress.step(f"{limit:,} keys in memory: every event once, a sample of keys bit for bit")
    return {"us": 1e6 * used / EVENTS, "mib": peak / MIB} | metrics


async def followed(running: Running, ends: list[int]) -> int:
    """Until all is read and memory is below its bound again; the most resident bytes seen."""
    process, peak = psutil.Process(running.process.pid), 0

    async def is_done() -> bool:
        nonlocal peak
        peak = max(peak, process.memory_info().rss)
        return await running.has_read(ends)

    await until(is_done, "all events are read", deadline_s=600)
    await wait_for(running, ends)
    return peak


async def counted(running: Running) -> dict[str, float]:
    """What the service says of its cold keys."""
    async with httpx.AsyncClient(timeout=10) as client:
        text = (await client.get(f"{running.url}/metrics")).text
    names = ("cold_keys", "fetched_keys_total", "evicted_keys_total", "fetch_seconds_sum", "fetch_seconds_count")
    return {
        name: sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"tidemill_features_{name}"))
        for name in names
    }


async def main() -> list[Result]:
    """All figures."""
    progress = Progress()
    few, all_of_them = await measure(progress, LIMIT), await measure(progress, 10 * KEYS)
    assert all_of_them["fetched_keys_total"] == all_of_them["cold_keys"] == 0
    extra = (few["us"] - all_of_them["us"]) * EVENTS / max(1.0, few["fetched_keys_total"])
    return [
        result("no bound, CPU per event, start included", all_of_them["us"], "us"),
        result(f"{LIMIT:,} of {KEYS:,} keys in memory, CPU per event", few["us"], "us"),
        result("more CPU for each key that was fetched, its eviction included", extra, "us"),
        result("keys fetched", few["fetched_keys_total"], "1"),
        result("keys evicted", few["evicted_keys_total"], "1"),
        result("keys cold at the end", few["cold_keys"], "1"),
        result("one reading of cold keys", 1e3 * few["fetch_seconds_sum"] / max(1.0, few["fetch_seconds_count"]), "ms"),
        result("resident memory, most, no bound", all_of_them["mib"], "MiB"),
        result(f"resident memory, most, {LIMIT:,} keys", few["mib"], "MiB"),
    ]


if __name__ == "__main__":
    report("features-cold", uvloop.run(main()))
