"""Trainers as pure functions, and the online learner that a champion is compared with. Same rows, same bytes."""

from tidemill_engine.learn.boosting import fit_lightgbm
from tidemill_engine.learn.fitted import Fitted, FittedForest, FittedLinear
from tidemill_engine.learn.logistic import fit_logistic, fit_platt
from tidemill_engine.learn.online import OnlineLogistic
from tidemill_engine.learn.splits import (
    Split,
    TimedRows,
    WindowChoice,
    WindowResult,
    choose_window,
    split_recent,
    window_start,
)

__all__ = [
    "Fitted",
    "FittedForest",
    "FittedLinear",
    "OnlineLogistic",
    "Split",
    "TimedRows",
    "WindowChoice",
    "WindowResult",
    "choose_window",
    "fit_lightgbm",
    "fit_logistic",
    "fit_platt",
    "split_recent",
    "window_start",
]
