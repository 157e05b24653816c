"""Quality in numbers: metrics, mergeable sums, and the gate that a candidate must pass."""

from tidemill_engine.stats.gate import GateDecision, GateRows, Verdict, decide, judge_mean
from tidemill_engine.stats.intervals import DAY_US, BlockMean, block_mean, block_mean_of_sums, holm
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
    "DAY_US",
    "EPSILON",
    "BlockMean",
    "GateDecision",
    "GateRows",
    "LossSums",
    "Metrics",
    "Verdict",
    "average_precision",
    "block_mean",
    "block_mean_of_sums",
    "brier",
    "decide",
    "evaluate",
    "holm",
    "judge_mean",
    "log_loss",
    "roc_auc",
    "row_log_loss",
]
