"""Point-in-time values over a stored log, by the same kernels as the stream."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.windows import kernels
from tidemill_engine.windows.batch import Batch, as_batch, checks_of
from tidemill_engine.windows.plan import ViewPlan
from tidemill_engine.windows.state import ViewState

Ints = NDArray[np.int64]
Keys = Sequence[bytes] | Ints
"""Names of keys; or numbers from 0 on, which stand for the same keys in events and queries."""


class Events(NamedTuple):
    """Events in columns, in any order: times int64 (n,), hashes uint64 (n,), values float64 (n, fields), NaN null."""

    keys: Keys
    times_us: Ints
    hashes: NDArray[np.uint64]
    values: NDArray[np.float64]


class Queries(NamedTuple):
    """(key, time) pairs, in any order."""

    keys: Keys
    times_us: Ints


def backfill(plan: ViewPlan, events: Events, queries: Queries) -> NDArray[np.float64]:
    """Values of each query's key at its time, float64 (q, features): exactly one row for each, in the order given.

    A query sees the events with a time strictly before its own. A key without any (or dead by then) gets a row of
    NaN. Bit for bit what `ViewState` holds after the same events and evaluates at the same time.
    """
    checked = as_batch(
        checks_of(plan), events.times_us, events.hashes, events.values, np.zeros(len(events.times_us), np.int64)
    )
    owners, askers = _numbers(events.keys, queries.keys)
    order, asked = _by_key(owners, checked.times), _by_key(askers, queries.times_us)
    batch = checked._replace(
        keys=owners[order], times=checked.times[order], hashes=checked.hashes[order], values=checked.values[order],
        columns=checked.seqs,
    )  # fmt: skip
    times = np.ascontiguousarray(queries.times_us[asked], np.int64)
    sorted_out = np.full(len(asked) * len(plan.aggregations), np.nan)
    _run(plan, batch, askers[asked], times, sorted_out)
    out = np.empty((len(asked), len(plan.aggregations)))
    out[asked] = sorted_out.reshape(out.shape)
    return out


def _numbers(events: Keys, queries: Keys) -> tuple[Ints, Ints]:
    """Keys as numbers; one that nobody asks for is -1, where that is known without looking for it."""
    if isinstance(events, np.ndarray) and isinstance(queries, np.ndarray):
        return np.ascontiguousarray(events, np.int64), np.ascontiguousarray(queries, np.int64)
    known = {key: number for number, key in enumerate(dict.fromkeys(queries))}
    owners = np.fromiter((known.get(key, -1) for key in events), np.int64, len(events))
    return owners, np.fromiter((known[key] for key in queries), np.int64, len(queries))


def _by_key(keys: Ints, times: Ints) -> NDArray[np.int64]:
    """The order by key and time of all rows but those of key -1."""
    order = np.argsort(times, kind="stable")
    if keys.min(initial=0) < 0:
        order = order[keys[order] >= 0]
    sorted_keys = keys[order]
    narrow = sorted_keys.astype(np.min_scalar_type(int(sorted_keys.max(initial=0))))  # 16 bits are sorted by radix
    return order[np.argsort(narrow, kind="stable")]


def _run(plan: ViewPlan, batch: Batch, keys: Ints, times: Ints, out: NDArray[np.float64]) -> None:
    state = ViewState(plan)
    state.intern([b"the key whose turn it is"])
    place = np.array([0, 0, -1])
    while not kernels.replay(state.program.code, state.memory, batch, state.program.event, place, keys, times, out):
        state.make_room(64 * 1024)
