"""Compiling takes seconds the first time on a machine: do it before joining a group, not inside the first batch."""

import numpy as np

from tidemill_engine.windows.offline import Events, Queries, backfill
from tidemill_engine.windows.plan import SECOND_US, Aggregation, ViewPlan, Window
from tidemill_engine.windows.state import ViewState


def warm_up() -> None:
    """Compile every kernel, or load it from the cache; call it once per process before there is traffic."""
    plan = ViewPlan(("x",), (Window(2 * SECOND_US, 2),), (Aggregation("sum", "x", 0),))
    times, marks, values = np.array([0], np.int64), np.array([0], np.uint64), np.array([[1.0]])
    state = ViewState(plan)
    indices = state.apply([b"key"], times, marks, values, (np.array([0], np.int32), np.array([0], np.int64)))
    state.vectors(indices)
    state.evaluate_at([b"key"], times)
    restored = ViewState.restore(plan, state.snapshot_dirty())
    restored.let_go(restored.coldest(1))
    restored.put_back(dict(state.blobs(indices.astype(np.int64))))
    restored.advance(10 * SECOND_US)
    backfill(plan, Events([b"key"], times, marks, values), Queries([b"key"], times + 1))
