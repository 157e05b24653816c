"""Quality of probabilities against labels of 0 and 1. All functions take float arrays [N] and are deterministic."""

import math
from dataclasses import dataclass

import numba
import numpy as np

from tidemill_engine.arrays import Float64s

EPSILON = 1e-7
"""Scores are cut to [1e-7, 1 - 1e-7] before the logarithm, about float32's own step below 1, so that a certain and
wrong answer costs 16.1, not infinity."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Quality of n scored rows; ranking measures are None for rows of one class, all measures are None without rows."""

    n: int
    log_loss: float | None
    brier: float | None
    auc: float | None
    pr_auc: float | None
    base_rate: float | None


def evaluate(labels: Float64s, scores: Float64s) -> Metrics:
    """All metrics of labels [N] and scores [N]; raises ValueError unless labels are 0 or 1 and scores in [0, 1]."""
    labels, scores = _checked(labels, scores)
    if len(labels) == 0:
        return Metrics(0, None, None, None, None, None)
    rate = float(np.count_nonzero(labels)) / len(labels)
    ranked = 0.0 < rate < 1.0
    return Metrics(
        n=len(labels),
        log_loss=log_loss(labels, scores),
        brier=brier(labels, scores),
        auc=roc_auc(labels, scores) if ranked else None,
        pr_auc=average_precision(labels, scores) if ranked else None,
        base_rate=rate,
    )


def row_log_loss(labels: Float64s, scores: Float64s) -> Float64s:
    """Log-loss of each row [N]; one compiled loop, so a row's loss does not depend on its neighbours or position."""
    losses: Float64s = _row_log_loss(*_checked(labels, scores))
    return losses


def log_loss(labels: Float64s, scores: Float64s) -> float:
    """Mean log-loss, from an exactly rounded sum; raises ValueError without rows."""
    return _mean(row_log_loss(labels, scores))


def brier(labels: Float64s, scores: Float64s) -> float:
    """Mean squared difference of label and score, from an exactly rounded sum; raises ValueError without rows."""
    labels, scores = _checked(labels, scores)
    return _mean((labels - scores) ** 2)


def roc_auc(labels: Float64s, scores: Float64s) -> float:
    """Probability that a positive scores above a negative, ties counting half. Raises ValueError for one class."""
    labels, scores = _checked(labels, scores)
    positives, negatives = _tie_counts(labels, scores)
    below = np.cumsum(negatives) - negatives
    pairs = int(positives.sum()) * int(negatives.sum())
    if pairs == 0:
        raise ValueError("the area needs both classes")
    doubled = sum(int(p) * (2 * int(b) + int(n)) for p, b, n in zip(positives, below, negatives, strict=True))
    return doubled / (2 * pairs)


def average_precision(labels: Float64s, scores: Float64s) -> float:
    """Area under precision over recall as a step function; tied scores are one step. ValueError without positives."""
    labels, scores = _checked(labels, scores)
    positives, negatives = _tie_counts(labels, scores)
    positives, negatives = positives[::-1], negatives[::-1]
    total = int(positives.sum())
    if total == 0:
        raise ValueError("the area needs a positive")
    found = np.cumsum(positives)
    return math.fsum(positives * (found / (found + np.cumsum(negatives)))) / total


def _tie_counts(
    labels: Float64s, scores: Float64s
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Positives and negatives by distinct score, ascending."""
    values, group = np.unique(scores, return_inverse=True)
    counts = np.bincount(group, minlength=len(values))
    positives = np.bincount(group[labels == 1], minlength=len(values))
    return positives.astype(np.int64), (counts - positives).astype(np.int64)


def _checked(labels: Float64s, scores: Float64s) -> tuple[Float64s, Float64s]:
    labels, scores = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"labels of shape {labels.shape}, scores of shape {scores.shape}")
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError("labels must be 0 or 1")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("scores must be in [0, 1]")
    return labels, scores


def _mean(values: Float64s) -> float:
    if len(values) == 0:
        raise ValueError("no rows")
    return math.fsum(values) / len(values)


@numba.njit(cache=True, nogil=True)
def _row_log_loss(labels: Float64s, scores: Float64s) -> Float64s:
    losses = np.empty(len(labels))
    for i in range(len(labels)):
        score = min(max(scores[i], EPSILON), 1.0 - EPSILON)
        losses[i] = -math.log(score) if labels[i] == 1.0 else -math.log1p(-score)
    return losses
