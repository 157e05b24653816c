"""Keys that leave a state and come back when they are needed: nobody can tell that they were away, bit for bit."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from engine_windows_cases import BASE, SECOND, Seen, feed, logs, plans, read, restarted
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill_engine.windows import Aggregation, ViewPlan, ViewState, Window

Step = tuple[list[Seen], int | None, bool]
"""Events, then maybe a watermark, then maybe a restart."""


class Bounded:
    """A state that holds `limit` keys between steps; the others lie in `cold` by key, with their due times."""

    def __init__(self, plan: ViewPlan, limit: int) -> None:
        self.state, self.limit = ViewState(plan), limit
        self.cold: dict[bytes, tuple[bytes, int]] = {}
        self.fetched = 0
        self._stored: dict[bytes, bytes] = {}

    def feed(self, events: Sequence[Seen]) -> list[bytes]:
        """Fetch what the events need, then apply them."""
        self._fetch(self.state.missing(event.key for event in events) & self.cold.keys())
        return feed(self.state, events)

    def advance(self, watermark_us: int) -> tuple[list[bytes], list[bytes]]:
        """Fetch what is due, then let time pass; the keys that changed and those that died."""
        self._fetch({key for key, (_, due) in self.cold.items() if due <= watermark_us})
        changed = self.state.names(self.state.advance(watermark_us))
        died = self.state.expired()
        for key in died:
            self._stored.pop(key, None)
        return sorted(changed), died

    def _fetch(self, keys: set[bytes]) -> None:
        self.fetched += len(keys)
        back = {key: self.cold.pop(key)[0] for key in keys}
        self._stored.update(back)
        self.state.put_back(back)

    def chill(self) -> None:
        """Keys over the limit leave."""
        rows = self.state.coldest(max(0, len(self.state) - self.limit))
        dues = dict(zip(self.state.names(rows), self.state.due(rows).tolist(), strict=True))
        self.cold.update({key: (blob, dues[key]) for key, blob in self.state.blobs(rows)})
        self.state.let_go(rows)
        for key in dues:
            self._stored.pop(key, None)

    def restart(self) -> None:
        """Cold keys stay where they are."""
        self.state = restarted(self.state, self._stored)

    def warm(self) -> ViewState:
        """With every key inside again."""
        self._fetch(set(self.cold))
        return self.state


@st.composite
def steps(draw: st.DrawFn) -> list[Step]:
    """A log of up to 24 keys in any order, with late events and times that pass over some keys' lives."""
    spread = draw(st.integers(1, 8))
    log = [dataclasses.replace(event, key=event.key + b"%d" % (event.mark % spread)) for event in draw(logs())]
    found, rest = list[Step](), draw(st.permutations(log)) if draw(st.booleans()) else log
    newest = BASE
    while rest:
        size = draw(st.integers(1, min(8, len(rest))))
        batch, rest = rest[:size], rest[size:]
        newest = max(newest, *(event.time_us for event in batch))
        word = draw(st.one_of(st.none(), st.integers(-20, 3), st.integers(-5, 200)))
        found.append((batch, None if word is None else newest + word * SECOND, draw(st.booleans())))
    return found


@settings(max_examples=200)
@given(plan=plans(), found=steps(), limit=st.integers(1, 5))
def test_a_limit_of_a_few_keys_changes_no_bit(plan: ViewPlan, found: list[Step], limit: int) -> None:
    plain, bounded = Bounded(plan, 1_000), Bounded(plan, limit)
    for batch, word, is_killed in found:
        keys = sorted({event.key for event in batch})
        assert bounded.feed(batch) == plain.feed(batch)
        assert read(bounded.state, keys) == read(plain.state, keys)
        if word is not None:
            changed, died = plain.advance(word)
            assert bounded.advance(word) == (changed, died)
            assert read(bounded.state, changed) == read(plain.state, changed)
        bounded.chill()
        if is_killed:
            plain.restart()
            bounded.restart()
        due = int(np.sum(plain.state.memory.due <= plain.state.watermark_us))  # what is due already stays
        assert len(bounded.state) <= max(limit, due)
        assert len(bounded.state) + len(bounded.cold) == len(plain.state)
    assert plain.fetched == 0
    assert bounded.warm().digest() == plain.state.digest()


def _plan() -> ViewPlan:
    windows = (Window(10 * SECOND, 2), Window(60 * SECOND, 1))
    return ViewPlan(("a", "b", "c"), windows, (Aggregation("sum", "a", 0), Aggregation("count", None, 1)))


def _state(times: Sequence[int]) -> ViewState:
    """One key after the other with one event each."""
    state, count = ViewState(_plan()), len(times)
    for at, time in enumerate(times):
        state.apply([b"%d" % at], np.array([BASE + time * SECOND]), np.array([1], np.uint64), np.ones((1, 3)),
                    (np.zeros(1, np.int32), np.array([at])))  # fmt: skip
    assert len(state) == count
    return state


def test_those_leave_first_that_events_touched_longest_ago_unless_something_is_due() -> None:
    state = _state([30, 20, 10, 40, 0])
    assert state.names(state.coldest(2)) == [b"0", b"1"]
    assert len(state.coldest(99)) == 5
    assert not len(state.coldest(0))
    state.advance(BASE + 200 * SECOND)
    assert len(state) == 0
    assert not len(state.coldest(3))


def test_a_due_time_is_when_a_pane_leaves_or_the_key_dies() -> None:
    state = _state([1])
    assert state.due(state.lookup([b"0"])).tolist() == [BASE + 10 * SECOND]
    for now, due in ((10, 20), (20, 61)):  # both windows end at full multiples of their panes
        state.advance(BASE + now * SECOND)
        assert state.due(state.lookup([b"0"])).tolist() == [BASE + due * SECOND]


def test_rows_of_keys_that_left_are_used_again_and_their_indices_are_dead() -> None:
    state = _state([1, 2, 3])
    gone = state.coldest(2)
    blobs = dict(state.blobs(gone))
    state.let_go(gone)
    assert state.missing([b"0", b"1", b"2", b"new"]) == {b"0", b"1", b"new"}
    assert state.expired() == []
    with pytest.raises(KeyError):
        state.names(gone)
    state.put_back(blobs)
    room = state.memory_bytes
    for _ in range(20):
        state.let_go(state.coldest(2))
        state.put_back(blobs)
    assert state.memory_bytes == room
    assert not state.is_dirty(state.lookup(list(blobs))).any()
    assert state.digest() == _state([1, 2, 3]).digest()
