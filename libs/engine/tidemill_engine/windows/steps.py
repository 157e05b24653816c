"""Vectors as they were told once, computed again from the log: each is a function of a set of events and of a time.

A vector names the highest sequence number of every source partition that it reflects. The vectors of one key follow
each other, so the log is replayed once: each event before the first vector of its key that reflects it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.windows.batch import RejectedValuesError
from tidemill_engine.windows.offline import Events
from tidemill_engine.windows.plan import ViewPlan
from tidemill_engine.windows.state import Positions, ViewState

Ints = NDArray[np.int64]
_COUNT_BITS = 31


def events_in(revisions: Ints) -> Ints:
    """How many events revisions count; see `ViewState.vectors`."""
    return np.asarray(revisions & ((1 << _COUNT_BITS) - 1), np.int64)


class Told(NamedTuple):
    """Vectors without their values: keys, evaluation times (s,), revisions (s,), and positions (s, partitions).

    `positions[:, p]` is the highest sequence number of source partition p that is reflected, -1 for none.
    """

    keys: Sequence[bytes]
    at_us: Ints
    revisions: Ints
    positions: Ints


class Recomputed(NamedTuple):
    """Values float64 (s, features), NaN for null, and how many events each holds, int64 (s,), -1 without a value."""

    values: NDArray[np.float64]
    applied: Ints


class _Steps(NamedTuple):
    """Events and vectors cut into rounds: no key has two vectors in a round, and `events` come before `told`."""

    events: NDArray[np.int64]
    event_ends: NDArray[np.int64]
    told: NDArray[np.int64]
    told_ends: NDArray[np.int64]


def recompute(plan: ViewPlan, events: Events, places: Positions, told: Told) -> Recomputed:
    """The vectors `told` from the log: `places` are the events' source partitions and dense sequence numbers.

    Events of keys that are not asked for are left out. A vector that claims an evaluation time before an event that it
    reflects has no value: its row is NaN. Events that no exact accumulator holds are left out, as the
    stream leaves them out. A key that died and came back between two vectors starts anew, as in the stream. Raises
    ValueError where the events' keys are numbers: vectors name theirs.
    """
    if isinstance(events.keys, np.ndarray):
        raise ValueError("the events' keys must be names")  # noqa: TRY004 - what was given is wrong, not its type alone
    values = np.full((len(told.keys), len(plan.aggregations)), np.nan)
    applied = np.full(len(told.keys), -1, np.int64)
    state = ViewState(plan)
    asked = state.intern(told.keys).astype(np.int64)
    rows = state.lookup(events.keys).astype(np.int64)
    log = (rows, (np.asarray(places[0], np.int64), places[1]), events.times_us)
    steps = _steps(plan, log, asked, told)
    latest = np.full(int(asked.max(initial=-1)) + 1, -1, np.int64)
    first_event = first_told = 0
    for event_end, told_end in zip(steps.event_ends.tolist(), steps.told_ends.tolist(), strict=True):
        if event_end > first_event:
            index = steps.events[first_event:event_end]
            index = _apply(state, events, rows, places, index)
            np.maximum.at(latest, rows[index], events.times_us[index])
        _read(state, steps.told[first_told:told_end], (asked, latest), told, Recomputed(values, applied))
        first_event, first_told = event_end, told_end
    return Recomputed(values, applied)


def _apply(
    state: ViewState, events: Events, rows: Ints, places: Positions, index: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Apply the events at `index`; returns those that could be."""
    while len(index):
        try:
            state.apply(
                rows[index].astype(np.int32), events.times_us[index], events.hashes[index], events.values[index],
                (places[0][index], places[1][index]),
            )  # fmt: skip
        except RejectedValuesError as error:
            index = np.delete(index, error.rows)
        else:
            break
    return index


def _read(state: ViewState, which: NDArray[np.int64], held: tuple[Ints, Ints], told: Told, out: Recomputed) -> None:
    """Read the vectors `which` of one round; `held` are the row of each vector and the newest event time of rows."""
    rows, latest = held
    known = which[(latest[rows[which]] >= 0) & (told.at_us[which] >= latest[rows[which]])]
    if not len(known):
        return
    out.values[known] = state.evaluate_at([told.keys[i] for i in known.tolist()], told.at_us[known])
    out.applied[known] = state.applied(rows[known])


def _steps(plan: ViewPlan, log: tuple[Ints, tuple[Ints, Ints], Ints], asked: Ints, told: Told) -> _Steps:
    """The rounds; `log` are the events' rows (-1: not asked for), places and times."""
    rows, places, times = log
    order = np.lexsort((told.revisions, asked))
    keys, reached = asked[order], told.positions[order].copy()
    begins = np.concatenate([[True], keys[1:] != keys[:-1]]) if len(keys) else np.zeros(0, np.bool_)
    group = np.cumsum(begins) - 1
    for column in range(reached.shape[1]):
        reached[:, column] = _running(reached[:, column], group)
    rank = np.arange(len(order)) - np.flatnonzero(begins)[group]
    slot = _first_reflecting(rows, places, keys, reached)
    _close_lives(plan, (rows, times), (keys, told.at_us[order]), slot)
    used = np.flatnonzero(slot >= 0)
    ranks = rank[slot[used]]
    by_round = np.lexsort((times[used], ranks))
    by_rank = np.argsort(rank, kind="stable")
    rounds = np.arange(int(rank.max(initial=-1)) + 1)
    return _Steps(
        used[by_round], np.searchsorted(ranks[by_round], rounds, side="right"),
        order[by_rank], np.searchsorted(rank[by_rank], rounds, side="right"),
    )  # fmt: skip


def _close_lives(plan: ViewPlan, events: tuple[Ints, Ints], told: tuple[Ints, Ints], slot: NDArray[np.int64]) -> None:
    """Move events before a gap in which their key died to the first vector after it at the latest.

    The vectors after the gap name only what came since, so they say nothing of a partition's events before it.
    """
    (rows, times), lifetime = events, plan.lifetime_us
    order = np.lexsort((times, rows))
    if lifetime is None or len(order) < 2:  # noqa: PLR2004 - a gap lies between two
        return
    row, time = rows[order], times[order]
    gap = (row[1:] == row[:-1]) & (row[1:] >= 0) & (time[1:] // plan.step_us * plan.step_us >= time[:-1] + lifetime)
    gaps = np.flatnonzero(gap) + 1
    after = np.searchsorted(gaps, np.arange(len(order)), side="right")
    old = np.flatnonzero(after < len(gaps))
    old = old[row[gaps[after[old]]] == row[old]]
    born = time[gaps[after[old]]]
    moments = np.unique(np.concatenate([told[1], born]))  # times are too long to stand beside a row in 64 bits
    room = len(moments) + 1
    first = np.searchsorted(
        told[0] * room + np.searchsorted(moments, told[1]), row[old] * room + np.searchsorted(moments, born)
    )
    place = order[old]
    slot[place] = np.where(slot[place] >= 0, np.minimum(slot[place], first), -1)


def _running(seqs: Ints, group: NDArray[np.int64]) -> Ints:
    """The highest number so far within each group: a key that came back may not name every partition any more."""
    room = int(seqs.max(initial=0)) + 2
    return np.asarray(np.maximum.accumulate(group * room + seqs + 1) - group * room - 1, np.int64)


def _first_reflecting(rows: Ints, places: tuple[Ints, Ints], keys: Ints, reached: NDArray[Any]) -> NDArray[np.int64]:
    """For each event the first vector of its key (in the order of `keys`) that reflects it, -1 for none."""
    slot = np.full(len(rows), -1, np.int64)
    room = int(max(reached.max(initial=0), places[1].max(initial=0))) + 2
    for partition in range(reached.shape[1]):
        mine = np.flatnonzero((places[0] == partition) & (rows >= 0))
        found = np.searchsorted(keys * room + reached[:, partition] + 1, rows[mine] * room + places[1][mine] + 1)
        inside = found < len(keys)
        inside[inside] = keys[found[inside]] == rows[mine[inside]]
        slot[mine[inside]] = found[inside]
    return slot
