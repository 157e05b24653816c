"""The two model shapes the canonical writer knows, as plain arrays, with their exact scores in float64.

Scores here are the reference: the graph repeats them in float32, and the gate compares the two.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from tidemill_engine.arrays import Bools, Float32s, Float64s, Int32s

CLIP = 10.0
"""Standardised inputs of a linear model are cut here, in standard deviations: one wild value cannot decide a score."""


class Calibration(NamedTuple):
    """Platt's map from a raw score to a probability: `sigmoid(slope * raw + intercept)`."""

    slope: float = 1.0
    intercept: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """One decision tree of S splits and S + 1 leaves.

    `feature`, `threshold`, `nan_left`, `left`, `right` are [S]: a row goes left when `x <= threshold`, a null when
    `nan_left`. A child that is not negative is a split, a negative one is the leaf `~child`. Split 0 is the root;
    without splits the only leaf is the tree. `leaf_value` and `leaf_weight` are [S + 1]; weights are training rows.
    """

    feature: Int32s
    threshold: Float64s
    nan_left: Bools
    left: Int32s
    right: Int32s
    leaf_value: Float64s
    leaf_weight: Float64s


@dataclass(frozen=True, slots=True, eq=False)
class LinearModel:
    """A linear score over F standardised inputs; all arrays are [F].

    `raw = bias + sum(null_term where x is null else weight * clip((x - mean) / scale, -CLIP, CLIP))`. A null's term
    stands for both an imputed value and a null indicator. Scales are positive.
    """

    weights: Float64s
    bias: float
    means: Float64s
    scales: Float64s
    null_terms: Float64s

    def raw_scores(self, features: Float32s) -> Float64s:
        """Raw scores [N] of float32 rows [N, F]."""
        return linear_scores(np.ascontiguousarray(features, dtype=np.float32), self)


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """A sum of trees over F inputs."""

    trees: tuple[Tree, ...]
    feature_count: int

    def raw_scores(self, features: Float32s) -> Float64s:
        """Raw scores [N] of float32 rows [N, F], added up tree by tree in float64."""
        rows = _checked_rows(features, self.feature_count)
        scores = np.zeros(len(rows))
        for tree in self.trees:
            scores += tree.leaf_value[leaf_indices(tree, rows)]
        return scores


def leaf_indices(tree: Tree, rows: Float32s) -> Int32s:
    """The leaf [N] that each float32 row [N, F] falls into."""
    leaves: Int32s = _walk(rows, tree.feature, tree.threshold, tree.nan_left, np.stack((tree.left, tree.right)))
    return leaves


def linear_scores(rows: Float32s, model: LinearModel) -> Float64s:
    """Raw scores [N] of float32 rows [N, F] by a linear model."""
    rows = _checked_rows(rows, len(model.weights))
    table = np.stack((model.weights, model.means, model.scales, model.null_terms))
    scores: Float64s = _linear(rows, table, model.bias)
    return scores


def probabilities(raw: Float64s, calibration: Calibration | None = None) -> Float64s:
    """Probabilities [N] of raw scores [N]."""
    slope, intercept = calibration or Calibration()
    scores: Float64s = _sigmoid(raw, slope, intercept)
    return scores


def _checked_rows(features: npt.NDArray[np.generic], count: int) -> Float32s:
    if features.dtype != np.float32 or features.ndim != 2 or features.shape[1] != count:  # noqa: PLR2004 - a table
        raise ValueError(f"rows must be float32 [N, {count}], not {features.dtype} {list(features.shape)}")
    return np.ascontiguousarray(features, dtype=np.float32)


@numba.njit(cache=True, nogil=True)
def _walk(rows: Float32s, feature: Int32s, threshold: Float64s, nan_left: Bools, children: Int32s) -> Int32s:
    leaves = np.zeros(len(rows), dtype=np.int32)
    if len(feature) == 0:
        return leaves
    for i in range(len(rows)):
        node = 0
        while node >= 0:
            value = float(rows[i, feature[node]])
            goes_left = nan_left[node] if math.isnan(value) else value <= threshold[node]
            node = children[0, node] if goes_left else children[1, node]
        leaves[i] = ~node
    return leaves


@numba.njit(cache=True, nogil=True)
def _linear(rows: Float32s, table: Float64s, bias: float) -> Float64s:
    scores = np.empty(len(rows))
    for i in range(len(rows)):
        total = bias
        for j in range(rows.shape[1]):
            value = float(rows[i, j])
            if math.isnan(value):
                total += table[3, j]
            else:
                total += table[0, j] * min(max((value - table[1, j]) / table[2, j], -CLIP), CLIP)
        scores[i] = total
    return scores


@numba.njit(cache=True, nogil=True)
def _sigmoid(raw: Float64s, slope: float, intercept: float) -> Float64s:
    scores = np.empty(len(raw))
    for i in range(len(raw)):
        z = slope * raw[i] + intercept
        if z >= 0:
            scores[i] = 1.0 / (1.0 + math.exp(-z))
        else:
            e = math.exp(z)
            scores[i] = e / (1.0 + e)
    return scores
