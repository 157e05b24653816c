"""What the window engine costs as keys and windows grow, and what it holds in memory.

Processor time per event, since all of it runs on one thread. Each size runs in a process of its own, so that memory is
that size's and nobody else's.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
from _engine import DAY_US, HOUR_US, MINUTE_US, START_US, WINDOWS, Log, Run, check, plan, sample_of
from _plot import Axis, plot
from _results import Progress, Result, report, result

from tidemill_engine.windows import ViewState, Window

KEYS = (1_000, 10_000, 100_000, 1_000_000)
EVENTS = int(os.environ.get("EVENTS", "300000"))
FLAT_EVENTS = int(os.environ.get("FLAT_EVENTS", "10000000"))
LENGTHS = (5 * MINUTE_US, HOUR_US, 2 * HOUR_US, 3 * HOUR_US, 6 * HOUR_US, 12 * HOUR_US, DAY_US, 2 * DAY_US,
           3 * DAY_US, 7 * DAY_US)  # fmt: skip
GIB = 2**30
MOST_TIMES, MOST_GIB, ACTIVE_PANES = 5.0, 4.0, 10
LINEAR_WITHIN = 0.35


def cost_of_keys(keys: int) -> dict[str, float]:
    """Microseconds per event with so many keys, vectors checked."""
    log, view = Log(EVENTS, keys, past=2), plan()
    sample = sample_of(log, 50)
    rates = list(Run(log, view).rates(sample))
    check(log, view, sample)
    return {"us": 1e6 / statistics.median(rates), "best_us": 1e6 / max(rates)}


def cost_of_windows(count: int) -> dict[str, float]:
    """Microseconds per event with so many windows of twelve panes."""
    view = plan(tuple(Window(length, 12 if length > 5 * MINUTE_US else 5) for length in LENGTHS[:count]))
    log = Log(EVENTS, 1_000)
    rates = list(Run(log, view).rates({}))
    return {"us": 1e6 / statistics.median(rates), "best_us": 1e6 / max(rates)}


def memory(keys: int) -> dict[str, float]:
    """Resident GiB with ten active panes for each key, names and the growth of the arrays counted."""
    state, process = ViewState(plan()), psutil.Process()
    before, part = process.memory_info().rss, 20_000
    ages = [*(age * DAY_US for age in range(6, 0, -1)), 0]  # six old panes of the week, then one of each grid
    assert len(ages) - 1 + len(WINDOWS) == ACTIVE_PANES
    values = np.ones((part, 3))
    for start in range(0, keys, part):
        names = state.intern([b"customer-%09d" % key for key in range(start, start + part)])
        for age in ages:
            times, marks = np.full(part, START_US - age), np.arange(part, dtype=np.uint64)
            state.apply(names, times, marks, values, (np.zeros(part, np.int32), np.arange(part)))
    vectors, _, _ = state.vectors(np.arange(0, keys, 997))
    week = [
        place for place, item in enumerate(state.plan.aggregations) if item.function == "count" and item.window == 3
    ]
    assert (vectors[:, week] == len(ages)).all()
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    return {"gib": (process.memory_info().rss - before) / GIB, "peak_gib": (peak - before) / GIB}


def flat(events: int) -> dict[str, float]:
    """Resident memory after a tenth of the events and after all of them."""
    step, keys, process = 20_000, 1_000, psutil.Process()
    state, made = ViewState(plan()), np.random.default_rng(5)
    names = state.intern([b"%d" % key for key in range(keys)])
    early = 0
    for start in range(0, events, step):
        who, values = names[made.integers(0, keys, step)], made.normal(50, 20, (step, 3))
        times = START_US + 600_000 * np.arange(start, start + step)
        marks = np.arange(start, start + step, dtype=np.uint64)
        state.apply_each(who, times, marks, values, (np.zeros(step, np.int32), np.arange(start, start + step)))
        state.advance(int(times[0]))
        if start < events // 10:
            early = process.memory_info().rss
    return {"ratio": process.memory_info().rss / early, "mib": process.memory_info().rss / 2**20}


PARTS = {"keys": cost_of_keys, "windows": cost_of_windows, "memory": memory, "flat": flat}


def measured(part: str, size: int) -> dict[str, float]:
    """The part in a process of its own."""
    done = subprocess.run([sys.executable, __file__, part, str(size)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def below(metric: str, value: float, unit: str, limit: float) -> Result:
    """A figure that must not pass its limit."""
    return result(metric, value, unit, target=limit)


def by_keys(progress: Progress) -> list[Result]:
    """The curve over keys; the algorithm does the same for each event, so what grows is the share of cache misses."""
    found = []
    for keys in KEYS:
        found.append((keys, measured("keys", keys)["us"]))
        progress.step(f"{keys:,} keys: {found[-1][1]:.2f} us per event")
    axes = Axis("keys", is_log=True), Axis("processor us per event")
    plot("features-growth-keys", "60 features after each event, by number of keys", *axes, {"engine": found})
    results = [result(f"CPU per event, {keys:,} keys", us, "us") for keys, us in found]
    return [*results, below("1,000,000 keys over 1,000", found[-1][1] / found[0][1], "times", MOST_TIMES)]


def by_windows(progress: Progress) -> list[Result]:
    """The curve over windows against the straight line through it."""
    counts = list(range(1, len(LENGTHS) + 1))
    costs = [measured("windows", count)["us"] for count in counts]
    slope, base = np.polyfit(counts, costs, 1)
    line = slope * np.array(counts) + base
    worst = float(np.max(np.abs(np.array(costs) - line) / line))
    progress.step(f"windows: {base:.2f} us + {slope:.2f} us for each, off by {100 * worst:.0f} % at most")
    curves = {"engine": list(zip(counts, costs, strict=True)), "line": [(counts[0], line[0]), (counts[-1], line[-1])]}
    axes = Axis("windows"), Axis("processor us per event")
    plot("features-growth-windows", "Features after each event, by number of windows", *axes, curves)
    results = [result(f"CPU per event, {count} windows", us, "us") for count, us in zip(counts, costs, strict=True)]
    return [*results, result("CPU per window and event", float(slope), "us"),
            below("distance from a line", worst, "share", LINEAR_WITHIN)]  # fmt: skip


def main() -> list[Result]:
    """All figures."""
    progress = Progress()
    results = [*by_keys(progress), *by_windows(progress)]
    held = measured("memory", KEYS[-1])
    progress.step(
        f"{KEYS[-1]:,} keys with {ACTIVE_PANES} panes: {held['gib']:.2f} GiB, {held['peak_gib']:.2f} while growing"
    )
    steady = measured("flat", FLAT_EVENTS)
    progress.step(f"{FLAT_EVENTS:,} events: {steady['ratio']:.3f} times the memory after a tenth of them")
    return [
        *results,
        below("memory, 1,000,000 keys, 10 panes", held["gib"], "GiB", MOST_GIB),
        below("peak while growing", held["peak_gib"], "GiB", MOST_GIB),
        below("memory after all events over a tenth", steady["ratio"], "times", 1.05),
    ]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.write(json.dumps(PARTS[sys.argv[1]](int(sys.argv[2]))) + "\n")
    else:
        report("features-growth", main())
