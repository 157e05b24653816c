"""When the values of a view change: with every event, when an event's pane leaves a window, when a session ends."""

import numpy as np

from tidemill_engine.arrays import Int64s
from tidemill_engine.windows import ViewPlan


def change_times(plan: ViewPlan, codes: Int64s, times_us: Int64s) -> tuple[Int64s, Int64s]:
    """(codes, times) at which values of keys may change, sorted and distinct; events are given by key and time (n,).

    A time is the first instant at which the new value holds: a microsecond after an event, the end of a pane's stay
    in a window, the end of a session or of a key's life.
    Ages change with every microsecond and do not count.
    """
    instants = [times_us + 1]
    instants += [(times_us // w.pane_us + w.panes) * w.pane_us for w in plan.windows]
    instants += [times_us + w.gap_us + 1 for w in plan.windows if w.gap_us is not None]
    if plan.lifetime_us is not None:
        instants.append(-(-(times_us + plan.lifetime_us) // plan.step_us) * plan.step_us)  # keys die in whole steps
    pairs = np.empty(len(instants) * len(times_us), np.dtype([("code", np.int64), ("us", np.int64)]))
    pairs["code"], pairs["us"] = np.tile(codes, len(instants)), np.concatenate(instants)
    order = np.lexsort((pairs["us"], pairs["code"]))
    pairs = pairs[order]
    is_new = np.ones(len(pairs), np.bool_)
    is_new[1:] = pairs[1:] != pairs[:-1]
    return pairs["code"][is_new], pairs["us"][is_new]
