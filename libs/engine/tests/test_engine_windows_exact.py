"""One property over everything at once: the stream with all that happens to it is the batch, bit for bit.

`make test` tries 200 examples, `make chaos` 2,000.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
from engine_windows_cases import BASE, SECOND, Seen, close, columns, logs, oracle, plans
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tidemill_engine.windows import Events, Queries, ViewPlan, ViewState, backfill

KEYS = (b"k", b"l", b"m")
SOURCES = 3
"""Source partitions."""


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


def agrees(plan: ViewPlan, log: list[Seen], seconds: int, data: st.DataObject) -> None:
    """Stream = backfill = shuffled = the independent computation."""
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


@pytest.mark.timeout(900)  # the first run on a machine compiles the kernels
@settings(max_examples=200)
@given(plans(), logs(), st.integers(0, 200), st.data())
def test_the_stream_is_the_batch(plan: ViewPlan, log: list[Seen], seconds: int, data: st.DataObject) -> None:
    agrees(plan, log, seconds, data)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@settings(max_examples=2_000)
@given(plans(), logs(), st.integers(0, 200), st.data())
def test_the_stream_is_the_batch_many_times(plan: ViewPlan, log: list[Seen], seconds: int, data: st.DataObject) -> None:
    agrees(plan, log, seconds, data)
