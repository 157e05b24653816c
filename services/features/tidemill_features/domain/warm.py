"""Compile the engine's kernels before the first event waits for them."""

import numpy as np

from tidemill_engine.windows import Aggregation, ViewPlan, ViewState, Window
from tidemill_features.domain import repartition, scan
from tidemill_features.domain.encode import Encoder, Vectors

_HOUR_US = 3_600_000_000


def warm() -> None:
    """Run every kernel of the stream once, on a state that is thrown away."""
    scan.warm_up()
    repartition.warm_up()
    window = Window(_HOUR_US, 12)
    plan = ViewPlan(("x",), (window,), (Aggregation("mean", "x", 0), Aggregation("count", None, 0)))
    state = ViewState(plan)
    marks, values = np.zeros(1, np.uint64), np.ones((1, 1))
    touched = state.apply([b"k"], np.array([_HOUR_US]), marks, values, (np.zeros(1, np.int32), np.zeros(1, np.int64)))
    state.advance(_HOUR_US)
    entities, traces = state.names(touched), [b"00-x"]
    rows = Vectors(entities, *state.vectors(touched), *state.position_table(touched), traces)
    Encoder("v", "0", topic="t", partition=0).vectors(rows)
    ViewState.restore(plan, state.snapshot_dirty(), _HOUR_US)
    state.advance(4 * _HOUR_US)
