"""Logistic regression that learns from one row at a time: the reference that a champion is compared with.

AdaGrad (Duchi, Hazan, Singer, 2011) on inputs standardised by running moments (Welford, 1962). The order of rows
decides the result, so rows come from the ordered merge; how they are cut into batches does not.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numba
import numpy as np
import numpy.typing as npt

from tidemill_engine.arrays import Float32s, Float64s
from tidemill_engine.onnx import LinearModel
from tidemill_engine.onnx.models import CLIP

_WEIGHT, _GRADIENT, _COUNT, _MEAN, _SPREAD = range(5)
_ROWS = 5
_SMALLEST_VARIANCE = 1e-12
_EPSILON = 1e-8


@dataclass(frozen=True, slots=True)
class OnlineLogistic:
    """An online learner over F features; its whole state is two arrays.

    `table` is float64 [5, F + 1]: weight, sum of squared gradients, count, mean, and sum of squared deviations by
    feature; the last column is the bias. A row's prediction always comes before the row is learned.
    """

    feature_count: int
    learning_rate: float = 0.05
    l2: float = 0.0
    table: Float64s = field(init=False)

    def __post_init__(self) -> None:
        if self.feature_count < 1 or not self.learning_rate > 0 or self.l2 < 0:
            raise ValueError("a learner needs features, a positive learning rate, and l2 not negative")
        object.__setattr__(self, "table", np.zeros((_ROWS, self.feature_count + 1)))

    def predict(self, features: Float32s) -> Float64s:
        """Probabilities [N] of rows [N, F] as things stand; nothing is learned."""
        rows = self._rows(features)
        scores: Float64s = _predict(self.table, rows)
        return scores

    def update(self, features: Float32s, labels: Float64s) -> Float64s:
        """Learn rows [N, F] with labels [N] in order; returns [N] each one's probability just before."""
        rows = self._rows(features)
        if labels.shape != (len(rows),) or not np.isin(labels, (0.0, 1.0)).all():
            raise ValueError("labels must be 0 or 1, one for each row")
        scores: Float64s = _update(self.table, rows, labels.astype(np.float64), self.learning_rate, self.l2)
        return scores

    def predict_one(self, row: Float32s) -> float:
        """Probability of one row [F]."""
        return float(_predict(self.table, self._rows(row[None, :]))[0])

    def update_one(self, row: Float32s, label: float) -> float:
        """Learn one row [F]; returns its probability just before."""
        return float(_update(self.table, self._rows(row[None, :]), np.array([label]), self.learning_rate, self.l2)[0])

    def to_linear(self) -> LinearModel:
        """The present state as a linear model that can be written as ONNX; a null counts as the mean."""
        known = self.table[:, :-1]
        variance = known[_SPREAD] / np.maximum(known[_COUNT], 1.0)
        usable = variance > _SMALLEST_VARIANCE
        scales = np.where(usable, np.sqrt(variance), 1.0).astype(np.float32).astype(np.float64)
        means = known[_MEAN].astype(np.float32).astype(np.float64)
        weights = np.where(usable, known[_WEIGHT], 0.0)
        return LinearModel(weights, float(self.table[_WEIGHT, -1]), means, scales, np.zeros(self.feature_count))

    def to_arrays(self) -> dict[str, Float64s]:
        """The state as plain arrays; `from_arrays` continues from them bit for bit."""
        return {"settings": np.array([self.learning_rate, self.l2]), "table": self.table.copy()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.float64]]) -> Self:
        """A learner in the state that `to_arrays` gave; raises ValueError for anything else."""
        table = np.array(arrays["table"], dtype=np.float64)
        if table.ndim != 2 or len(table) != _ROWS or not np.isfinite(table).all():  # noqa: PLR2004 - a table
            raise ValueError("not the state of an online learner")
        rate, l2 = (float(value) for value in arrays["settings"])
        learner = cls(table.shape[1] - 1, rate, l2)
        learner.table[:] = table
        return learner

    def _rows(self, features: Float32s) -> Float32s:
        if features.ndim != 2 or features.shape[1] != self.feature_count:  # noqa: PLR2004 - a table
            raise ValueError(f"rows must be [N, {self.feature_count}], not {list(features.shape)}")
        if np.isinf(features).any():
            raise ValueError("a feature is infinite")
        return np.ascontiguousarray(features, dtype=np.float32)


@numba.njit(cache=True, nogil=True)
def _standardised(table: Float64s, value: float, j: int) -> float:
    if math.isnan(value) or table[2, j] < 2.0:  # noqa: PLR2004 - one value has no spread
        return 0.0
    variance = table[4, j] / table[2, j]
    if variance <= _SMALLEST_VARIANCE:
        return 0.0
    deviations: float = (value - table[3, j]) / math.sqrt(variance)
    return min(max(deviations, -CLIP), CLIP)


@numba.njit(cache=True, nogil=True)
def _chance(table: Float64s, row: Float32s, inputs: Float64s) -> float:
    width = len(row)
    score = float(table[0, width])
    for j in range(width):
        inputs[j] = _standardised(table, float(row[j]), j)
        score += table[0, j] * inputs[j]
    e = math.exp(-abs(score))
    return 1.0 / (1.0 + e) if score >= 0 else e / (1.0 + e)


@numba.njit(cache=True, nogil=True)
def _predict(table: Float64s, rows: Float32s) -> Float64s:
    scores, inputs = np.empty(len(rows)), np.empty(rows.shape[1])
    for i in range(len(rows)):
        scores[i] = _chance(table, rows[i], inputs)
    return scores


@numba.njit(cache=True, nogil=True)
def _learn(table: Float64s, j: int, gradient: float, rate: float) -> None:
    table[1, j] += gradient * gradient
    table[0, j] -= rate * gradient / (math.sqrt(table[1, j]) + _EPSILON)


@numba.njit(cache=True, nogil=True)
def _update(table: Float64s, rows: Float32s, labels: Float64s, rate: float, l2: float) -> Float64s:
    width = rows.shape[1]
    scores, inputs = np.empty(len(rows)), np.empty(width)
    for i in range(len(rows)):
        scores[i] = _chance(table, rows[i], inputs)
        slope = scores[i] - labels[i]
        for j in range(width):
            if inputs[j] != 0.0:
                _learn(table, j, slope * inputs[j] + l2 * table[0, j], rate)
            value = float(rows[i, j])
            if not math.isnan(value):
                table[2, j] += 1.0
                shift = value - table[3, j]
                table[3, j] += shift / table[2, j]
                table[4, j] += shift * (value - table[3, j])
        _learn(table, width, slope, rate)
    return scores
