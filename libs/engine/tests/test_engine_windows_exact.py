"""One property over everything at once: the stream with all that happens to it is the batch, bit for bit.

Views hold plain windows and sessions, of fields and of filtered ones. `make test` tries 200 examples, `make chaos`
2,000, and compares each with DuckDB, too.
"""

import dataclasses
import json
import math
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from engine_windows_cases import BASE, FILTERS, SECOND, Seen, close, columns, logs, oracle, plans, signed
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tidemill_engine.windows import Aggregation, Events, Queries, ViewPlan, ViewState, backfill
from tidemill_engine.windows.plan import Function
from tidemill_testkit.peers import PeerError, peer

KEYS = (b"k", b"l", b"m")
SOURCES = 3
"""Source partitions."""
ENDS = st.one_of(st.just(0), st.integers(0, 200))
"""Seconds: half of all logs are looked at right behind their last event, where sessions have not ended."""


class Replicas:
    """Two processes that share the keys; any of them may be killed and any key may move at any time."""

    def __init__(self, plan: ViewPlan) -> None:
        self.plan = plan
        self.states = [ViewState(plan), ViewState(plan)]
        self.stored: dict[bytes, bytes] = {}
        self.owner = {key: number % 2 for number, key in enumerate(KEYS)}

    def feed(self, events: Sequence[Seen]) -> None:
        """Each event to the owner of its key."""
        for number, state in enumerate(self.states):
            mine = [event for event in events if self.owner[event.key] == number]
            seqs = np.array([event.seq for event in mine], np.int64)
            state.apply(*columns(mine), ((seqs % SOURCES).astype(np.int32), seqs))

    def advance(self, watermark_us: int) -> None:
        """Time passes everywhere."""
        for state in self.states:
            state.advance(watermark_us)

    def restart(self, moved: bytes | None) -> None:
        """Store what changed, give a key to the other one, and start both again from what is stored."""
        for state in self.states:
            for key in state.expired():
                self.stored.pop(key, None)
            self.stored.update(state.snapshot_dirty())
        if moved is not None:
            self.owner[moved] ^= 1
        self.states = [
            ViewState.restore(
                self.plan, [(key, blob) for key, blob in self.stored.items() if self.owner[key] == number],
                state.watermark_us,
            )
            for number, state in enumerate(self.states)
        ]  # fmt: skip

    def values(self, times_us: NDArray[np.int64]) -> NDArray[np.float64]:
        """The vectors of all keys at a time, NaN for unknown ones."""
        return np.vstack([
            self.states[self.owner[key]].evaluate_at([key], times_us[at : at + 1]) for at, key in enumerate(KEYS)
        ])  # fmt: skip


@st.composite
def lives(draw: st.DrawFn, log: Sequence[Seen]) -> list[tuple[list[Seen], int | None, bool, bytes | None]]:
    """A log in any order, cut into batches: after each maybe a watermark, maybe a restart, maybe a key that moves."""
    rest: list[Seen] = draw(st.permutations(log))
    steps: list[tuple[list[Seen], int | None, bool, bytes | None]] = []
    while rest:
        size = draw(st.integers(1, len(rest)))
        batch, rest = rest[:size], rest[size:]
        word = None
        is_announced: bool = draw(st.booleans())
        if rest and is_announced:
            word = min(event.time_us for event in rest) - draw(st.integers(0, 5)) * SECOND
        steps.append((batch, word, draw(st.booleans()), draw(st.sampled_from([None, *KEYS]))))
    return steps


def agrees(plan: ViewPlan, log: list[Seen], seconds: int, data: st.DataObject) -> tuple[NDArray[np.float64], int]:
    """Stream = backfill = shuffled = the independent computation; returns the vectors of `KEYS` and their time."""
    plan = dataclasses.replace(plan, ttl_us=1_000 * SECOND)  # dying keys count from their first event on: elsewhere
    stream, shuffled = Replicas(plan), ViewState(plan)
    for batch, word, is_killed, moved in data.draw(lives(log)):
        stream.feed(batch)
        if word is not None:
            stream.advance(word)
        if is_killed:
            stream.restart(moved)
    seqs = np.array([event.seq for event in log])
    order = np.array(data.draw(st.permutations(range(len(log)))))
    names, times, marks, values = columns(log)
    shuffled.apply([names[i] for i in order], times[order], marks[order], values[order],
                   ((seqs[order] % SOURCES).astype(np.int32), seqs[order]))  # fmt: skip
    end = max(BASE + seconds * SECOND, *(event.time_us + 1 for event in log))
    at = np.full(len(KEYS), end)
    online = stream.values(at)
    assert online.tobytes() == shuffled.evaluate_at(KEYS, at).tobytes()
    assert online.tobytes() == backfill(plan, Events(names, times, marks, values), Queries(KEYS, at)).tobytes()
    for key, row in zip(KEYS, online.tolist(), strict=True):
        mine = [event for event in log if event.key == key]
        expected = oracle(plan, mine, end) if mine else [math.nan] * len(row)
        assert all(map(close, row, expected)), (row, expected)
    return online, end


class DuckDb:
    """The same features in SQL, by a process of DuckDB's own environment."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.compared = set[str]()

    def agrees(self, plan: ViewPlan, log: Sequence[Seen], online: NDArray[np.float64], at_us: int) -> None:
        """Every value that DuckDB can compute, within 1e-9; sums of weighted floats lose what the largest one takes."""
        found = self._ask(plan, log, at_us)
        size = max((abs(value) for event in log for value in event.values if not math.isnan(value)), default=0.0)
        for key, row in zip(KEYS, online.tolist(), strict=True):
            wanted = found.get(key.decode(), [None] * len(row))
            for item, value, other in zip(plan.aggregations, row, wanted, strict=True):
                parts = [plan.aggregations[place] for place in item.of or ()] or [item]
                if any(part.function == "distinct" for part in parts):
                    continue
                scale = size if any(part.function == "ewma" for part in parts) else 1.0
                right = math.nan if other is None else float(other)
                assert close(value, right) or abs(value - right) <= 1e-9 * scale, (item, key, value, right)
                self._note(plan, item)

    def _note(self, plan: ViewPlan, item: Aggregation) -> None:
        self.compared.add(item.function)
        if item.window is not None and plan.windows[item.window].gap_us is not None:
            self.compared.add("over sessions")
        if "?" in (item.field or ""):
            self.compared.add("filtered")

    def _ask(self, plan: ViewPlan, log: Sequence[Seen], at_us: int) -> dict[str, list[float | None]]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(self._question(plan, log, at_us), allow_nan=False) + "\n")
        stdin.flush()
        answer = stdout.readline()
        assert answer, "DuckDB's process has ended"
        answered: dict[str, list[float | None]] = json.loads(answer)
        return answered

    def _question(self, plan: ViewPlan, log: Sequence[Seen], at_us: int) -> dict[str, object]:
        features = []
        for item in plan.aggregations:
            name, _, where = (item.field or "").partition("?")
            features.append({
                "function": item.function, "column": name or "t", "where": FILTERS[where][0] if where else None,
                "window": item.window, "parameter": item.parameter, "of": item.of,
            })  # fmt: skip
        return {
            "windows": [(window.pane_us, window.panes, window.gap_us) for window in plan.windows],
            "features": features, "at_us": at_us,
            "events": [
                (event.key.decode(), event.time_us, signed(event.mark),
                 *(None if math.isnan(value) else value for value in event.values)) for event in log
            ],
        }  # fmt: skip


@pytest.fixture(scope="module")
def duckdb() -> Iterator[DuckDb]:
    """What it has compared must be of every kind."""
    try:
        python = peer("duckdb", "duckdb==2.0.1")
    except PeerError as error:
        pytest.skip(f"DuckDB cannot be installed: {error}")
    driver = Path(__file__).with_name("engine_windows_duckdb.py")
    with subprocess.Popen([python, driver], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        opened = DuckDb(process)
        yield opened
        process.terminate()
    assert opened.compared == {*get_args(Function), "over sessions", "filtered"} - {"distinct"}


@pytest.mark.timeout(900)  # the first run on a machine compiles the kernels
@settings(max_examples=200)
@given(plans(), logs(), ENDS, st.data())
def test_the_stream_is_the_batch(plan: ViewPlan, log: list[Seen], seconds: int, data: st.DataObject) -> None:
    agrees(plan, log, seconds, data)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@settings(max_examples=2_000)
@given(plans(), logs(), ENDS, st.data())
def test_the_stream_is_the_batch_and_what_duckdb_says_many_times(
    duckdb: DuckDb, plan: ViewPlan, log: list[Seen], seconds: int, data: st.DataObject
) -> None:
    duckdb.agrees(plan, log, *agrees(plan, log, seconds, data))
