"""Quality in numbers: metrics, mergeable sums, and the gate that a candidate must pass."""

from tidemill_engine.stats.metrics import (
    EPSILON,
    Metrics,
    average_precision,
    brier,
    evaluate,
    log_loss,
    roc_auc,
    row_log_loss,
)
from tidemill_engine.stats.sums import LossSums

__all__ = [
    "EPSILON",
    "LossSums",
    "Metrics",
    "average_precision",
    "brier",
    "evaluate",
    "log_loss",
    "roc_auc",
    "row_log_loss",
]
