"""The window engine alone: views of a given size, events in columns, rates, and values recomputed the long way."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.windows import Aggregation, ViewPlan, ViewState, Window

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
FIELDS = ("price", "size", "spread")
FUNCTIONS = ("count", "sum", "mean", "min", "max")
WINDOWS = (Window(5 * MINUTE_US, 5), Window(HOUR_US, 12), Window(DAY_US, 24), Window(7 * DAY_US, 28))
START_US = 1_700_006_400_000_000
STEP_US = 5_000
CHUNK = 10_000


def plan(windows: tuple[Window, ...] = WINDOWS) -> ViewPlan:
    """Five aggregations of three fields over each window."""
    return ViewPlan(
        FIELDS,
        windows,
        tuple(Aggregation(f, name, w) for name in FIELDS for f in FUNCTIONS for w in range(len(windows))),  # type: ignore[arg-type]
    )


@dataclass
class Log:
    """A week in which every key is seen now and then, then `count` events one every 5 ms, up to 20 s late."""

    count: int
    keys: int
    past: int = 7
    who: NDArray[np.int32] = field(init=False)
    times: NDArray[np.int64] = field(init=False)
    values: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        made = np.random.default_rng(self.keys)
        before = self.past * self.keys
        old = START_US - np.sort(made.integers(0, 7 * DAY_US, before))[::-1]
        new = START_US + STEP_US * np.arange(self.count) - made.integers(0, 20_000_000, self.count)
        self.who = np.concatenate(
            [np.tile(made.permutation(self.keys), self.past), made.integers(0, self.keys, self.count)]
        ).astype(np.int32)
        self.times = np.concatenate([old, new])
        self.values = np.round(made.normal(50, 20, (before + self.count, len(FIELDS))), 3)

    @property
    def marks(self) -> NDArray[np.uint64]:
        """What stands for the events' ids."""
        return np.arange(len(self.who), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


class Run:
    """Applies a log; every event's vector is computed."""

    def __init__(self, log: Log, view: ViewPlan) -> None:
        self.log, self.state = log, ViewState(view)
        self.state.intern([b"S%d" % key for key in range(log.keys)])
        self._marks = log.marks
        self._partitions = np.zeros(len(log.who), np.int32)
        self._numbers = np.arange(len(log.who))
        self.apply(0, 1)  # compiles, and asks nothing of the clock

    def apply(self, start: int, stop: int) -> NDArray[np.float64]:
        """The vectors after events `start` to `stop`."""
        part, log = slice(start, stop), self.log
        where = self._partitions[part], self._numbers[part]
        return self.state.apply_each(log.who[part], log.times[part], self._marks[part], log.values[part], where)

    def rates(self, sample: dict[int, NDArray[np.float64]]) -> Iterator[float]:
        """Events per second of processor time of each chunk behind the first week.

        Fills in the vectors that `sample` asks for. One thread: alone on a core this is the rate by the clock too.
        """
        first, stop = self.log.past * self.log.keys, len(self.log.who)
        for start in range(1, first, CHUNK):
            self.apply(start, min(start + CHUNK, first))
        for start in range(first, stop, CHUNK):
            began = time.process_time()
            vectors = self.apply(start, start + CHUNK)
            yield len(vectors) / (time.process_time() - began)
            for number in sample:
                if start <= number < start + CHUNK:
                    sample[number] = vectors[number - start].copy()


def brute_force(log: Log, view: ViewPlan, number: int) -> list[float]:
    """The vector of an event's key right after it, from a list of all its events so far."""
    rows = np.flatnonzero(log.who[: number + 1] == log.who[number])
    now = log.times[rows].max()
    vector = []
    for item in view.aggregations:
        assert item.window is not None
        assert item.field is not None
        window = view.windows[item.window]
        oldest = (now // window.pane_us - window.panes + 1) * window.pane_us
        inside = log.values[rows[log.times[rows] >= oldest], view.fields.index(item.field)].tolist()
        total = math.fsum(inside)
        empty = math.nan
        found = {
            "count": float(len(inside)), "sum": total, "mean": total / len(inside) if inside else empty,
            "min": min(inside, default=empty), "max": max(inside, default=empty),
        }  # fmt: skip
        vector.append(found[item.function])
    return vector


def check(log: Log, view: ViewPlan, sample: dict[int, NDArray[np.float64]]) -> None:
    """Every vector of the sample is the one computed the long way; raises AssertionError."""
    for number, vector in sample.items():
        np.testing.assert_allclose(vector, brute_force(log, view, number), rtol=1e-9, atol=1e-9)


def sample_of(log: Log, size: int = 200) -> dict[int, NDArray[np.float64]]:
    """Places for the vectors of some events, the last one among them."""
    first = log.past * log.keys
    numbers = np.random.default_rng(7).integers(first, len(log.who), size).tolist()
    return dict.fromkeys([*numbers, len(log.who) - 1], np.empty(0))
