"""Logistic regression and Platt's calibration, both by the same deterministic Newton method."""

import math

import numpy as np

from tidemill_engine.arrays import Bools, Float32s, Float64s
from tidemill_engine.learn.fitted import FittedLinear
from tidemill_engine.learn.newton import newton
from tidemill_engine.learn.rows import check_training_rows
from tidemill_engine.onnx import Calibration, LinearModel
from tidemill_engine.onnx.models import CLIP

_PLATT_L2 = 1e-9
_SMALLEST_SCALE = 1e-30
_FLOAT32_STEP = 2.0**-23


def fit_logistic(
    features: Float32s, labels: Float64s, *, l2: float = 1e-4, null_indicators: bool = True
) -> FittedLinear:
    """Logistic regression on float32 rows [N, F] (NaN is null) and labels [N] of 0 and 1.

    Inputs are standardised by mean and standard deviation of what is not null and cut at `CLIP` deviations; a null
    counts as the mean. With `null_indicators`, each feature that is null somewhere gets a weight of its own for being
    null. `l2` weighs half the squared length of the weights (bias excluded) against the mean log-loss.

    Raises:
        ValueError: rows of another shape or type, one class only, an infinite feature, or `l2` not positive.
    """
    check_training_rows(features, labels)
    if not l2 > 0:
        raise ValueError("l2 must be positive: without it separable rows have no finite solution")
    means, scales = column_moments(features)
    nulls = np.isnan(features)
    cut = np.clip((features.astype(np.float64) - means) / scales, -CLIP, CLIP)
    standardised = np.where(nulls, 0.0, cut)
    flagged = _flagged(nulls) if null_indicators else np.zeros(features.shape[1], dtype=np.bool_)
    weights = newton(np.hstack((standardised, nulls[:, flagged].astype(np.float64))), labels, l2)
    count = features.shape[1]
    null_terms = np.zeros(count)
    null_terms[flagged] = weights[count:-1]
    return FittedLinear(LinearModel(weights[:count], float(weights[-1]), means, scales, null_terms))


def fit_platt(raw_scores: Float64s, labels: Float64s) -> Calibration:
    """The map `sigmoid(slope * raw + intercept)` that fits labels [N] of 0 and 1 best, with Platt's smoothed targets.

    A slope that comes out negative is set to 0: such scores carry no information, and inverting them would fit noise.
    Source: Platt, Probabilistic outputs for support vector machines, 1999. Raises ValueError for one class only or for
    scores that are not finite.
    """
    positives = int(np.count_nonzero(labels == 1))
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0 or not np.isfinite(raw_scores).all():
        raise ValueError("a calibration needs finite scores and both classes")
    targets = np.where(labels == 1, (positives + 1.0) / (positives + 2.0), 1.0 / (negatives + 2.0))
    mean = math.fsum(raw_scores) / len(raw_scores)
    scale = math.sqrt(math.fsum((raw_scores - mean) ** 2) / len(raw_scores)) or 1.0
    weight, bias = newton(((raw_scores - mean) / scale)[:, None], targets, _PLATT_L2)
    if weight < 0:
        rate = math.fsum(targets) / len(targets)
        return Calibration(0.0, math.log(rate / (1.0 - rate)))
    return Calibration(float(weight / scale), float(bias - weight * mean / scale))


def column_moments(features: Float32s) -> tuple[Float64s, Float64s]:
    """Mean and population standard deviation [F] of what is not null, rounded to float32 as the graph holds them.

    Exactly rounded sums (`math.fsum`) make them independent of row order. A column without spread has scale 1.
    """
    pairs = [_moments(column[~np.isnan(column)].astype(np.float64)) for column in features.T]
    table = np.array(pairs, dtype=np.float32).astype(np.float64)
    return table[:, 0], table[:, 1]


def _moments(values: Float64s) -> tuple[float, float]:
    if len(values) == 0:
        return 0.0, 1.0
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((values - mean) ** 2) / len(values))
    return mean, deviation if deviation > max(_SMALLEST_SCALE, abs(mean) * _FLOAT32_STEP) else 1.0


def _flagged(nulls: Bools) -> Bools:
    """Columns with some nulls, but not nulls only: those are constant, and the bias holds them already."""
    counts = np.count_nonzero(nulls, axis=0)
    flags: Bools = (counts > 0) & (counts < len(nulls))
    return flags
