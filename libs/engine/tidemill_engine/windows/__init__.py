"""Windowed features: exact, the same online, offline, shuffled and restarted, bit for bit."""

from tidemill_engine.windows.batch import RejectedValuesError
from tidemill_engine.windows.offline import Events, Queries, backfill
from tidemill_engine.windows.plan import Aggregation, ViewPlan, Window, compile_view
from tidemill_engine.windows.state import ViewState
from tidemill_engine.windows.warm import warm_up

__all__ = [
    "Aggregation",
    "Events",
    "Queries",
    "RejectedValuesError",
    "ViewPlan",
    "ViewState",
    "Window",
    "backfill",
    "compile_view",
    "warm_up",
]
