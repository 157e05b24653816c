"""How fast the features service is: Kafka in, Kafka out, state durable, one process, 60 features."""

import os
import sys

import uvloop
from _features import Trades, applied, check, features, preload, read_back, wait_for
from _results import Progress, Result, report, result
from _stack import stack

EVENTS = int(os.environ.get("EVENTS", "1000000"))
TARGETS = {1_000: 100_000, 100_000: 50_000}


async def measure(keys: int, progress: Progress) -> list[Result]:
    """Figures with so many keys, in a stack of their own."""
    count, target = EVENTS, TARGETS[keys]
    trades = Trades(count, keys)
    with stack() as seen:
        spec = await applied(seen)
        ends = await preload(seen.kafka, trades)
        progress.step(f"{count:,} events of {keys:,} keys lie in Kafka")
        with features(seen) as running:
            await wait_for(running, ends)
            used = running.cpu_s()
        found = await read_back(seen.kafka)
        progress.step(f"{found.vectors:,} vectors in {len(found.marks):,} transactions")
        check(found, trades, spec)
        progress.step("checked: every event once, a sample of keys bit for bit")
    return [
        result(f"{keys:,} keys", found.rate(), "events/s", target=target),
        result(f"{keys:,} keys, CPU per event", 1e6 * used / count, "us"),
        result(f"{keys:,} keys, vectors per event", found.vectors / count, "1"),
    ]


async def main() -> list[Result]:
    """All figures."""
    progress = Progress()
    wanted = [int(text) for text in sys.argv[1:]] or list(TARGETS)
    return [each for keys in wanted for each in await measure(keys, progress)]


if __name__ == "__main__":
    report("features-service", uvloop.run(main()))
