"""The window engine against an independent computation, and against itself shuffled, cut, restarted and offline."""

import dataclasses
import operator
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from engine_windows_cases import BASE, SECOND, Seen, close, columns, feed, is_pure, logs, oracle, plans, read, restarted
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill_engine.windows import Events, Queries, ViewPlan, ViewState, backfill

pytestmark = pytest.mark.timeout(300)  # the first run on a machine compiles the kernels


@settings(max_examples=150)
@given(plans(), logs(), st.integers(0, 95), st.data())
def test_any_cut_and_restart_is_one_pass(plan: ViewPlan, log: list[Seen], end: int, data: st.DataObject) -> None:
    """Events arrive in any order, but none below a watermark already announced."""
    once, cut = ViewState(plan), ViewState(plan)
    rest: list[Seen] = data.draw(st.permutations(log))
    feed(once, rest)
    stored: dict[bytes, bytes] = {}
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        batch, rest = rest[:size], rest[size:]
        touched = feed(cut, batch)
        assert touched == list(dict.fromkeys(event.key for event in batch))
        is_announced: bool = data.draw(st.booleans())
        if rest and is_announced:
            cut.advance(min(event.time_us for event in rest) - data.draw(st.integers(0, 5)) * SECOND)
        if data.draw(st.booleans()):
            cut = restarted(cut, stored)
    last = max(cut.watermark_us, BASE + end * SECOND)
    once.advance(last)
    cut.advance(last)
    alive = [key for key in (b"k", b"l", b"m") if once.lookup([key])[0] >= 0]
    assert read(cut, alive) == read(once, alive)
    assert cut.digest() == once.digest() == restarted(cut, stored).digest()


@settings(max_examples=150)
@given(plans(), logs(), st.integers(0, 95), st.randoms(use_true_random=False))
def test_any_order_gives_the_same_bits(plan: ViewPlan, log: list[Seen], end: int, shuffler: Random) -> None:
    """All of them if keys live for ever; else the features that do not count from a key's first event on."""
    straight, shuffled = ViewState(plan), ViewState(plan)
    feed(straight, log)
    feed(shuffled, shuffler.sample(log, len(log)))
    straight.advance(BASE + end * SECOND)
    shuffled.advance(BASE + end * SECOND)
    assert len(straight) == len(shuffled)
    if plan.lifetime_us is None:
        assert straight.digest() == shuffled.digest()
    keys = [key for key in (b"k", b"l", b"m") if straight.lookup([key])[0] >= 0]
    pure = [is_pure(plan, a) for a in plan.aggregations]
    first, second = straight.vectors(straight.lookup(keys)), shuffled.vectors(shuffled.lookup(keys))
    assert first[0][:, pure].tobytes() == second[0][:, pure].tobytes()
    assert first[1].tolist() == second[1].tolist()


@settings(max_examples=150)
@given(plans(), logs(), st.integers(1, 8), st.integers(0, 200))
def test_values_are_those_of_an_independent_computation(plan: ViewPlan, log: list[Seen], size: int, end: int) -> None:
    state = ViewState(dataclasses.replace(plan, ttl_us=1000 * SECOND))
    for start in range(0, len(log), size):
        feed(state, log[start : start + size])
        state.advance(min(event.time_us for event in log[start:]))
        check_values(state, log[: start + size])
    state.advance(BASE + end * SECOND)
    check_values(state, log)


def check_values(state: ViewState, log: Sequence[Seen]) -> None:
    """Kept totals, totals built again from panes, and the oracle."""
    keys = sorted({event.key for event in log})
    values, at, _ = state.vectors(state.lookup(keys))
    assert values.tobytes() == state.evaluate_at(keys, at).tobytes()
    for key, row, time in zip(keys, values.tolist(), at.tolist(), strict=True):
        events = [event for event in log if event.key == key]
        assert time == max(state.watermark_us, *(event.time_us for event in events))
        assert all(map(close, row, oracle(state.plan, events, time)))


@settings(max_examples=100)
@given(plans(), logs(), st.lists(st.tuples(st.sampled_from([b"k", b"m", b"z"]), st.integers(-1, 130)), max_size=8))
def test_a_backfill_is_the_stream_stopped_at_each_query(
    plan: ViewPlan, log: list[Seen], asked: list[tuple[bytes, int]]
) -> None:
    times = np.array([BASE + seconds * SECOND for _, seconds in asked], np.int64)
    found = backfill(plan, Events(*columns(log)), Queries([key for key, _ in asked], times))
    assert found.shape == (len(asked), len(plan.aggregations))
    for row, (key, _), time in zip(found, asked, times.tolist(), strict=True):
        state = ViewState(plan)
        feed(state, [event for event in log if event.time_us < time])
        assert row.tobytes() == state.evaluate_at([key], np.array([time]))[0].tobytes()


@settings(max_examples=50)
@given(plans(), logs())
def test_a_vector_after_each_event_is_the_vector_of_that_prefix(plan: ViewPlan, log: list[Seen]) -> None:
    state, single = ViewState(plan), ViewState(plan)
    nowhere = np.zeros(len(log), np.int32), np.arange(len(log))
    each = state.apply_each(*columns(log), nowhere)
    seen = 0
    for row, event in zip(each, log, strict=True):
        feed(single, [event])
        values, _, revision = single.vectors(single.lookup([event.key]))
        assert row.tobytes() == values[0].tobytes()
        seen += operator.gt(int(revision[0]), 0)
    assert seen == len(log)
    with pytest.raises(ValueError, match="rows"):
        state.apply(*columns(log), (nowhere[0][:-1], nowhere[1][:-1]))
