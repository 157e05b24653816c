"""Penalised logistic regression by Newton's method, in compiled loops of a fixed order.

BLAS may sum in another order with another number of threads or another processor; these loops do not, so that the
same rows give the same bits. Source of the method: Hastie, Tibshirani, Friedman, The Elements of Statistical
Learning, 4.4.1.
"""

import math

import numba
import numpy as np

from tidemill_engine.arrays import Float64s

MAXIMUM_STEPS = 50
_HALVINGS = 30
_TOLERANCE = 1e-10
_RIDGE = 1e-12


def newton(design: Float64s, targets: Float64s, l2: float) -> Float64s:
    """Weights [P + 1], the last one the bias, minimising mean log-loss + l2 / 2 * |weights without bias|^2.

    `design` is [N, P]; `targets` [N] in [0, 1] (soft targets are fine). Stops when no weight moves by more than 1e-10,
    or after 50 steps; a step that does not lower the objective is halved, so a stop is never worse than the start.
    """
    weights: Float64s = _newton(np.ascontiguousarray(design), targets.astype(np.float64), l2)
    return weights


@numba.njit(cache=True, nogil=True)
def _newton(design: Float64s, targets: Float64s, l2: float) -> Float64s:
    width = design.shape[1] + 1
    weights = np.zeros(width)
    share = min(max(targets.mean(), 1e-6), 1.0 - 1e-6)
    weights[width - 1] = math.log(share / (1.0 - share))
    value = _objective(design, targets, weights, l2)
    for _ in range(MAXIMUM_STEPS):
        gradient, hessian = _derivatives(design, targets, weights, l2)
        step = _solve(hessian, gradient)
        size, moved = 1.0, False
        for _ in range(_HALVINGS):
            trial = weights - size * step
            trial_value = _objective(design, targets, trial, l2)
            if trial_value <= value:
                weights, value, moved = trial, trial_value, True
                break
            size *= 0.5
        if not moved or size * np.abs(step).max() <= _TOLERANCE:
            break
    return weights


@numba.njit(cache=True, nogil=True)
def _score(design: Float64s, weights: Float64s, i: int) -> float:
    score = float(weights[-1])
    for j in range(design.shape[1]):
        score += design[i, j] * weights[j]
    return score


@numba.njit(cache=True, nogil=True)
def _objective(design: Float64s, targets: Float64s, weights: Float64s, l2: float) -> float:
    total = 0.0
    for i in range(len(design)):
        score = _score(design, weights, i)
        total += max(score, 0.0) - targets[i] * score + math.log1p(math.exp(-abs(score)))
    penalty = 0.0
    for j in range(len(weights) - 1):
        penalty += weights[j] * weights[j]
    return total / len(design) + 0.5 * l2 * penalty


@numba.njit(cache=True, nogil=True)
def _derivatives(design: Float64s, targets: Float64s, weights: Float64s, l2: float) -> tuple[Float64s, Float64s]:
    width = len(weights)
    gradient, hessian, row = np.zeros(width), np.zeros((width, width)), np.ones(width)
    for i in range(len(design)):
        score = _score(design, weights, i)
        e = math.exp(-abs(score))
        chance = 1.0 / (1.0 + e) if score >= 0 else e / (1.0 + e)
        curvature = chance * (1.0 - chance)
        row[: width - 1] = design[i]
        for j in range(width):
            gradient[j] += (chance - targets[i]) * row[j]
            scaled = curvature * row[j]
            for k in range(j + 1):
                hessian[j, k] += scaled * row[k]
    gradient /= len(design)
    hessian /= len(design)
    for j in range(width):
        hessian[j, j] += _RIDGE
        if j < width - 1:
            gradient[j] += l2 * weights[j]
            hessian[j, j] += l2
    return gradient, hessian


@numba.njit(cache=True, nogil=True)
def _solve(matrix: Float64s, vector: Float64s) -> Float64s:
    """Solve a symmetric positive definite system by Cholesky's factors; only the lower half of `matrix` is read."""
    size = len(vector)
    lower, solution = np.zeros((size, size)), vector.copy()
    for j in range(size):
        for i in range(j, size):
            total = matrix[i, j]
            for k in range(j):
                total -= lower[i, k] * lower[j, k]
            lower[i, j] = math.sqrt(max(total, _RIDGE)) if i == j else total / lower[j, j]
    for i in range(size):
        for k in range(i):
            solution[i] -= lower[i, k] * solution[k]
        solution[i] /= lower[i, i]
    for i in range(size - 1, -1, -1):
        for k in range(i + 1, size):
            solution[i] -= lower[k, i] * solution[k]
        solution[i] /= lower[i, i]
    return solution
