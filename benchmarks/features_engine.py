"""How fast the window engine is on one core: 60 features after each event; Quix Streams with the same windows."""

import os
import statistics
import sys

from _engine import Log, Run, check, plan, sample_of
from _quix import quix_rate
from _results import Progress, Result, report, result

TARGETS = {1_000: 1_000_000, 100_000: 300_000}
EVENTS = int(os.environ.get("EVENTS", "1000000"))
PEER_EVENTS, TIMES_FASTER = int(os.environ.get("PEER_EVENTS", "4000")), 300
PEER = "Quix Streams 3.28"


def engine(keys: int, progress: Progress) -> tuple[float, list[Result]]:
    """The best rate and the figures for so many keys."""
    log, view = Log(EVENTS, keys), plan()
    run, sample = Run(log, view), sample_of(log)
    rates = list(run.rates(sample))
    check(log, view, sample)
    progress.step(f"{keys:,} keys: {max(rates):,.0f} events/s at best; {len(sample)} vectors recomputed")
    return max(rates), [
        result(f"engine, {keys:,} keys", max(rates), "events/s", target=TARGETS[keys]),
        result(f"engine, {keys:,} keys, median", statistics.median(rates), "events/s"),
    ]


def main() -> list[Result]:
    """All figures."""
    progress, best, found = Progress(), dict[int, float](), list[Result]()
    for keys in TARGETS:
        best[keys], figures = engine(keys, progress)
        found += figures
    if "--alone" in sys.argv:
        return found
    theirs = quix_rate(1_000, PEER_EVENTS)
    progress.step(f"{PEER}: {theirs.best:,.0f} events/s at best, {theirs.overall:,.0f} over all")
    again, figures = engine(1_000, progress)
    ratio = max(best[1_000], again) / theirs.best
    found.append(
        Result("times as fast, 1,000 keys", round(ratio, 1), "times", PEER, round(theirs.best, 1), round(ratio, 1),
               TIMES_FASTER, ratio >= TIMES_FASTER)
    )  # fmt: skip
    return found


if __name__ == "__main__":
    report("features-engine", main())
