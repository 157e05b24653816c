"""How fast the features service is: Kafka in, Kafka out, state durable, one process, 60 features."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import uvloop
from _features import SOURCE, Trades, applied, check, features, preload, read_back, wait_for, warmed
from _results import Progress, Result, report, result
from _stack import stack

from tidemill_contracts import topic
from tidemill_testkit.peers import peer

EVENTS = int(os.environ.get("EVENTS", "1000000"))
TARGETS = {1_000: 100_000, 100_000: 50_000}
PEER = "Quix Streams 3.28"
PEER_RUNS = {"hopping": (3_000, 40), "tumbling": (30_000, 5)}
"""Events that the peer reads, and how many times as fast the service is to be."""


async def measure(keys: int, progress: Progress, *, alone: bool) -> list[Result]:
    """Figures with so many keys, in a stack of their own."""
    trades = Trades(EVENTS, keys)
    with stack() as seen:
        spec = await applied(seen)
        await warmed(seen)
        ends = await preload(seen.kafka, trades)
        progress.step(f"{EVENTS:,} events of {keys:,} keys lie in Kafka")
        with features(seen) as running:
            await wait_for(running, ends)
            used = running.cpu_s()
        found = await read_back(seen.kafka)
        progress.step(f"{found.vectors:,} vectors in {len(found.marks):,} transactions: {found.rate():,.0f} events/s")
        check(found, trades, spec)
        progress.step("checked: every event once, a sample of keys bit for bit")
        peers = [] if alone else [_against(kind, seen.kafka, found.rate()) for kind in PEER_RUNS]
    return [
        result(f"{keys:,} keys", found.rate(), "events/s", target=TARGETS[keys]),
        result(f"{keys:,} keys, CPU per event, start included", 1e6 * used / EVENTS, "us"),
        result(f"{keys:,} keys, vectors per event", found.vectors / EVENTS, "1"),
        *peers,
    ]


def _against(kind: str, kafka: str, rate: float) -> Result:
    """Quix Streams over the same events in the same Kafka, its changelog off."""
    count, times = PEER_RUNS[kind]
    with tempfile.TemporaryDirectory(prefix="tmq", ignore_cleanup_errors=True) as folder:
        command = [str(peer("quix", "quixstreams==3.28.0")), str(Path(__file__).parent / "_quix_stream.py"), kafka]
        command += [topic("events", SOURCE), folder, kind, str(count)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = float(done.stdout.splitlines()[-1])
    ratio = round(rate / theirs, 1)
    return Result(
        f"times as fast, {kind} windows", ratio, "times", PEER, round(theirs, 1), ratio, times, ratio >= times
    )


async def main() -> list[Result]:
    """All figures; `--alone` without the peer, numbers for those keys only."""
    progress, alone = Progress(), "--alone" in sys.argv
    wanted = [int(text) for text in sys.argv[1:] if text.isdigit()] or list(TARGETS)
    return [each for keys in wanted for each in await measure(keys, progress, alone=alone or keys != min(TARGETS))]


if __name__ == "__main__":
    report("features-service", uvloop.run(main()))
