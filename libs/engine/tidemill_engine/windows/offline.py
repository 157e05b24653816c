"""Point-in-time values over a stored log, by the same kernels as the stream."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.windows import kernels
from tidemill_engine.windows.batch import Batch, as_batch
from tidemill_engine.windows.plan import ViewPlan
from tidemill_engine.windows.state import ViewState


class Events(NamedTuple):
    """Events in columns, in any order: times int64 (n,), hashes uint64 (n,), values float64 (n, fields), NaN null."""

    keys: Sequence[bytes]
    times_us: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    values: NDArray[np.float64]


class Queries(NamedTuple):
    """(key, time) pairs, in any order."""

    keys: Sequence[bytes]
    times_us: NDArray[np.int64]


def backfill(plan: ViewPlan, events: Events, queries: Queries) -> NDArray[np.float64]:
    """Values of each query's key at its time, float64 (q, features): exactly one row for each, in the order given.

    A query sees the events with a time strictly before its own. A key without any (or dead by then) gets a row of
    NaN. Bit for bit what `ViewState` holds after the same events and evaluates at the same time.
    """
    order = np.argsort(events.times_us, kind="stable")
    asked = np.argsort(queries.times_us, kind="stable")
    state = ViewState(plan)
    rows = state.intern(events.keys).astype(np.int64)
    sorted_out = np.full(len(asked) * len(plan.aggregations), np.nan)
    nothing = np.zeros(len(order), np.int64)
    checked = as_batch(plan, events.times_us[order], events.hashes[order], events.values[order], nothing)
    batch = checked._replace(keys=rows[order], columns=nothing)
    times = np.ascontiguousarray(queries.times_us[asked], np.int64)
    _run(state, batch, state.lookup(queries.keys).astype(np.int64)[asked], times, sorted_out)
    out = np.empty((len(asked), len(plan.aggregations)))
    out[asked] = sorted_out.reshape(out.shape)
    return out


def _run(
    state: ViewState, batch: Batch, keys: NDArray[np.int64], times: NDArray[np.int64], out: NDArray[np.float64]
) -> None:
    event, place = state.program.event, np.zeros(2, np.int64)
    while not kernels.replay(state.program.code, state.memory, batch, event, place, keys, times, out):
        state.make_room(64 * 1024)
