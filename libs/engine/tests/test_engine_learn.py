"""The trainers: right, repeatable to the byte, and strict about what they are given."""

import hashlib
import math

import numpy as np
import onnxruntime
import pytest

from tidemill_engine.arrays import Float32s, Float64s
from tidemill_engine.learn import Fitted, fit_lightgbm, fit_logistic, fit_platt
from tidemill_engine.learn.logistic import column_moments
from tidemill_engine.learn.newton import newton
from tidemill_engine.onnx import Calibration, probabilities
from tidemill_engine.stats import log_loss

NAMES = ["a", "b", "c", "d"]
TRUE_WEIGHTS = np.array([1.5, -2.0, 0.0, 0.5])


def sample(seed: int, count: int, nulls: float = 0.0) -> tuple[Float32s, Float64s]:
    rng = np.random.default_rng(seed)
    table = (rng.normal(size=(count, 4)) * [1, 3, 100, 1] + [0, 5, 1e4, 0]).astype(np.float32)
    standard = (table - np.array([0, 5, 1e4, 0])) / [1, 3, 100, 1]
    chance = 1 / (1 + np.exp(-(standard @ TRUE_WEIGHTS - 0.5)))
    labels = (rng.random(count) < chance).astype(np.float64)
    table[rng.random(table.shape) < nulls] = np.nan
    return table, labels


def fit(trainer: str, table: Float32s, labels: Float64s, seed: int = 7) -> Fitted:
    if trainer == "lightgbm":
        return fit_lightgbm(table, labels, {"num_iterations": 40, "bagging_fraction": 0.7, "bagging_freq": 1}, seed)
    return fit_logistic(table, labels)


def digest(fitted: Fitted) -> str:
    return hashlib.sha256(fitted.to_onnx(NAMES, Calibration(1.1, 0.1))).hexdigest()


@pytest.mark.parametrize("trainer", ["lightgbm", "logistic"])
def test_two_fits_have_the_same_bytes_and_other_rows_have_others(trainer: str) -> None:
    table, labels = sample(1, 3000, nulls=0.1)
    first = digest(fit(trainer, table, labels))
    assert first == digest(fit(trainer, np.asfortranarray(table), labels.copy()))
    assert first != digest(fit(trainer, table[:-1], labels[:-1]))


def test_the_seed_decides_the_bagging() -> None:
    table, labels = sample(1, 3000)
    assert digest(fit("lightgbm", table, labels, 1)) != digest(fit("lightgbm", table, labels, 2))


@pytest.mark.parametrize("trainer", ["lightgbm", "logistic"])
def test_onnx_answers_as_the_fit_does(trainer: str) -> None:
    fitted = fit(trainer, *sample(1, 3000, nulls=0.1))
    queries, _ = sample(2, 20_000, nulls=0.2)
    answer = onnxruntime.InferenceSession(fitted.to_onnx(NAMES)).run(None, {"features": queries})[0]
    assert np.abs(answer - probabilities(fitted.raw_scores(queries))).max() < 1e-6
    assert fitted.trainer == trainer


def test_logistic_regression_finds_the_weights_that_made_the_labels() -> None:
    model = fit_logistic(*sample(3, 40_000), l2=1e-6).model
    assert np.abs(model.weights - TRUE_WEIGHTS).max() < 0.06
    assert abs(model.bias + 0.5) < 0.06


def test_newton_reaches_the_optimum() -> None:
    """At the optimum the gradient vanishes; computed here in another way."""
    table, labels = sample(4, 2000)
    design = (table - table.mean(axis=0)) / table.std(axis=0)
    weights = newton(design.astype(np.float64), labels, 0.01)
    chance = 1 / (1 + np.exp(-(design @ weights[:-1] + weights[-1])))
    gradient = np.append(design.T @ (chance - labels) / len(labels) + 0.01 * weights[:-1], (chance - labels).mean())
    assert np.abs(gradient).max() < 1e-9


def test_nulls_have_a_weight_of_their_own() -> None:
    table, labels = sample(5, 4000)
    table[labels == 1, 2] = np.where(np.arange(np.count_nonzero(labels)) % 2 == 0, np.nan, 1e4)
    without = fit_logistic(table, labels, null_indicators=False)
    assert without.model.null_terms.tolist() == [0, 0, 0, 0]
    flagged = fit_logistic(table, labels)
    assert flagged.model.null_terms[2] > 2
    assert flagged.model.null_terms[0] == 0
    losses = [log_loss(labels, probabilities(each.raw_scores(table))) for each in (flagged, without)]
    assert losses[0] < losses[1]


def test_columns_without_spread_or_values_are_harmless() -> None:
    table, labels = sample(6, 500)
    table[:, 0], table[:, 1] = np.float32(3e7), np.nan
    fitted = fit_logistic(table, labels)
    assert fitted.model.weights[:2].tolist() == [0, 0]
    assert np.isfinite(fitted.raw_scores(table)).all()
    assert np.isfinite(onnxruntime.InferenceSession(fitted.to_onnx(NAMES)).run(None, {"features": table})[0]).all()


def test_separable_rows_stay_finite() -> None:
    table = np.linspace(-1, 1, 200, dtype=np.float32)[:, None].repeat(2, axis=1)
    fitted = fit_logistic(table, (table[:, 0] > 0).astype(np.float64))
    assert np.isfinite(fitted.model.weights).all()


def test_moments_do_not_depend_on_row_order_and_fit_float32() -> None:
    table, _ = sample(7, 5000, nulls=0.1)
    forward, backward = column_moments(table), column_moments(np.ascontiguousarray(table[::-1]))
    assert np.array_equal(forward, backward)
    assert np.array_equal(forward[0], forward[0].astype(np.float32))


def test_calibration_undoes_a_known_distortion() -> None:
    rng = np.random.default_rng(8)
    raw = rng.normal(size=60_000) * 2
    labels = (rng.random(60_000) < 1 / (1 + np.exp(-(0.5 * raw - 1)))).astype(np.float64)
    slope, intercept = fit_platt(raw, labels)
    assert abs(slope - 0.5) < 0.03
    assert abs(intercept + 1) < 0.03
    assert fit_platt(raw, labels) == (slope, intercept)


def test_scores_without_information_are_calibrated_to_the_base_rate() -> None:
    raw = np.linspace(-3, 3, 400)
    slope, intercept = fit_platt(raw, (raw < 0).astype(np.float64))
    assert slope == 0
    assert abs(1 / (1 + math.exp(-intercept)) - 0.5) < 0.01
    assert np.isfinite(fit_platt(np.zeros(400), (np.arange(400) % 4 == 0).astype(np.float64))).all()


@pytest.mark.parametrize("raw", [np.array([1.0, 2.0]), np.array([np.nan, 1.0]), np.array([np.inf, 1.0])])
def test_a_calibration_needs_both_classes_and_finite_scores(raw: Float64s) -> None:
    with pytest.raises(ValueError, match="calibration"):
        fit_platt(raw, np.array([1.0, 1.0]) if np.isfinite(raw).all() else np.array([0.0, 1.0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": np.zeros((10, 2))}, "float32"),
        ({"table": np.zeros(10, dtype=np.float32)}, "float32"),
        ({"labels": np.zeros(10)}, "one class"),
        ({"labels": np.arange(10.0)}, "0 or 1"),
        ({"labels": np.array([0.0, 1.0])}, "shape"),
        ({"table": np.full((10, 2), np.inf, dtype=np.float32)}, "infinite"),
    ],
)
@pytest.mark.parametrize("trainer", ["lightgbm", "logistic"])
def test_bad_rows_are_refused(trainer: str, change: dict[str, Float64s], message: str) -> None:
    good = {"table": np.zeros((10, 2), dtype=np.float32), "labels": np.arange(10.0) % 2}
    with pytest.raises(ValueError, match=message):
        fit(trainer, **{**good, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["num_threads", "objective", "seed", "device_type", "zero_as_missing", "linear_tree"])
def test_parameters_that_could_break_a_promise_are_refused(name: str) -> None:
    table, labels = sample(1, 100)
    with pytest.raises(ValueError, match=name):
        fit_lightgbm(table, labels, {name: 1}, 7)
    with pytest.raises(ValueError, match="l2"):
        fit_logistic(table, labels, l2=0.0)
