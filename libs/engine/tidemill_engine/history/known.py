"""Values as they were known: events before a row's time that the log held when the row happened.

Two orders cut the events of a row, event time and the log, so one replay cannot serve all rows of a key. The rows of a
key are split into chains along which both cuts only grow; each chain has a state of its own, and all chains move
together: in round r every chain takes what its row r may see and its row r - 1 may not.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np

from tidemill_engine.arrays import Float64s, Int64s
from tidemill_engine.windows import Events, Queries, ViewPlan, ViewState


class Known(NamedTuple):
    """Instants of the log's own time: since when each event is in it (n,), and up to when each query may look (q,)."""

    events_us: Int64s
    queries_us: Int64s


class _Rows(NamedTuple):
    """Queries by chain: their places in the caller's order, chains (q,) ascending, both cuts."""

    place: Int64s
    chain: Int64s
    times: Int64s
    known: Int64s


def backfill_known(plan: ViewPlan, events: Events, queries: Queries, known: Known) -> Float64s:
    """Values of each query's key, float64 (q, features), over the events before the query's time and known by then.

    Both are strict: an event counts with `times_us < query.times_us` and `events_us < queries_us`. One row for each
    query, in the order given; a row of NaN where nothing was known. Where every event was known in time, the bits are
    those of `backfill`. A query for each event of a key in reverse order of the log costs their product.
    """
    out = np.full((len(queries.keys), len(plan.aggregations)), np.nan)
    codes = {key: code for code, key in enumerate(dict.fromkeys(queries.keys))}
    if not codes:
        return out
    rows, chains = _chains(np.array([codes[key] for key in queries.keys], np.int64), queries.times_us, known.queries_us)
    owners = np.array([codes.get(key, -1) for key in events.keys], np.int64)
    entries = _entries(rows, chains, owners, (events.times_us, known.events_us))
    _replay(plan, events, rows, entries, out)
    return out


def _chains(owner: Int64s, times: Int64s, known: Int64s) -> tuple[_Rows, Int64s]:
    """The queries by chain and cut, and the key of each chain."""
    order = np.lexsort((known, times, owner)).astype(np.int64)
    chain, chains = _assign(owner[order], np.ascontiguousarray(known[order], np.int64))
    by_chain = np.argsort(chain, kind="stable")
    place = order[by_chain]
    rows = _Rows(place, chain[by_chain], np.asarray(times[place], np.int64), np.asarray(known[place], np.int64))
    keys = np.empty(chains, np.int64)
    keys[rows.chain] = owner[place]
    return rows, keys


def _entries(rows: _Rows, keys: Int64s, owners: Int64s, cuts: tuple[Int64s, Int64s]) -> tuple[Int64s, Int64s, Int64s]:
    """(round, chain, event) of every event that a chain takes, by round and then in the order of the log."""
    order = np.lexsort((cuts[0], cuts[1], owners)).astype(np.int64)
    ends = np.searchsorted(owners[order], np.stack([keys, keys + 1])).astype(np.int64)
    starts = np.searchsorted(rows.chain, np.arange(len(keys) + 1)).astype(np.int64)
    room = np.zeros((int((ends[1] - ends[0]).sum()), 3), np.int64)
    events = (order, np.ascontiguousarray(cuts[0], np.int64), np.ascontiguousarray(cuts[1], np.int64))
    taken = room[: _visible((starts, rows.times, rows.known), ends, events, room)]
    taken = taken[np.argsort(taken[:, 0], kind="stable")]
    return taken[:, 0], taken[:, 1], taken[:, 2]


def _replay(plan: ViewPlan, events: Events, rows: _Rows, entries: tuple[Int64s, Int64s, Int64s], out: Float64s) -> None:
    rounds, chains, taken = entries
    first = np.searchsorted(rows.chain, rows.chain)
    step = np.arange(len(rows.chain)) - first
    by_round = np.argsort(step, kind="stable")
    count = int(step.max()) + 1
    event_ends = np.searchsorted(rounds, np.arange(count + 1))
    row_ends = np.searchsorted(step[by_round], np.arange(count + 1))
    state = ViewState(plan)
    names = [int(chain).to_bytes(8, "little") for chain in range(int(rows.chain[-1]) + 1)]
    state.intern(names)
    for number in range(count):
        low, high = event_ends[number : number + 2]
        if low < high:
            _apply(state, events, chains[low:high], taken[low:high])
        asked = by_round[row_ends[number] : row_ends[number + 1]]
        out[rows.place[asked]] = state.evaluate_at(_named(names, rows.chain[asked]), rows.times[asked])


def _named(names: Sequence[bytes], chains: Int64s) -> list[bytes]:
    return [names[chain] for chain in chains.tolist()]


def _apply(state: ViewState, events: Events, chains: Int64s, taken: Int64s) -> None:
    nowhere = (np.zeros(len(taken), np.int32), np.zeros(len(taken), np.int64))
    state.apply(
        chains.astype(np.int32), events.times_us[taken], events.hashes[taken], events.values[taken], nowhere
    )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def _assign(owner: Int64s, known: Int64s) -> tuple[Int64s, int]:
    """Chain of each row: the first of its key whose last row knows no more; the last rows of chains fall, so bisect."""
    chain, last = np.empty(len(owner), np.int64), np.empty(len(owner), np.int64)
    base, used = 0, 0
    for i in range(len(owner)):
        if i > 0 and owner[i] != owner[i - 1]:
            base, used = base + used, 0
        low, high = 0, used
        while low < high:
            middle = (low + high) // 2
            if last[middle] <= known[i]:
                high = middle
            else:
                low = middle + 1
        last[low], chain[i] = known[i], base + low
        used = max(used, low + 1)
    return chain, base + used


@numba.njit(cache=True, nogil=True)
def _first_above(values: Int64s, low: int, high: int, bound: int) -> int:
    while low < high:
        middle = (low + high) // 2
        if values[middle] > bound:
            high = middle
        else:
            low = middle + 1
    return low


@numba.njit(cache=True, nogil=True)
def _visible(
    rows: tuple[Int64s, Int64s, Int64s], ends: Int64s, events: tuple[Int64s, Int64s, Int64s], out: Int64s
) -> int:
    """For each chain and event of its key the first row that sees the event; returns how many there are in `out`."""
    starts, times, known = rows
    order, event_times, event_known = events
    count = 0
    for chain in range(ends.shape[1]):
        low, high = starts[chain], starts[chain + 1]
        for at in range(ends[0, chain], ends[1, chain]):
            event = order[at]
            row = max(
                _first_above(times, low, high, event_times[event]), _first_above(known, low, high, event_known[event])
            )
            if row < high:
                out[count, 0], out[count, 1], out[count, 2] = row - low, chain, event
                count += 1
    return count
