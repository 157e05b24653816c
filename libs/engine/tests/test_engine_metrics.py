"""Metrics against slow independent definitions, and sums that merge in any order."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill_engine.arrays import Float64s
from tidemill_engine.stats import (
    LossSums,
    average_precision,
    brier,
    evaluate,
    log_loss,
    roc_auc,
    row_log_loss,
)

ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=40).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


def columns(rows: list[tuple[bool, int]]) -> tuple[Float64s, Float64s]:
    return np.array([float(label) for label, _ in rows]), np.array([score / 8 for _, score in rows])


@given(ROWS)
def test_auc_counts_every_pair(rows: list[tuple[bool, int]]) -> None:
    positives, negatives = ([score for label, score in rows if label is kind] for kind in (True, False))
    won = sum(
        Fraction(1) if p > n else Fraction(1, 2) if p == n else Fraction(0) for p, n in product(positives, negatives)
    )
    assert roc_auc(*columns(rows)) == float(won / (len(positives) * len(negatives)))


@given(ROWS)
def test_average_precision_walks_down_the_thresholds(rows: list[tuple[bool, int]]) -> None:
    total, before, area = sum(label for label, _ in rows), 0, Fraction(0)
    for threshold in range(8, -1, -1):
        taken = [label for label, score in rows if score >= threshold]
        if taken:
            area += Fraction(sum(taken) - before, total) * Fraction(sum(taken), len(taken))
            before = sum(taken)
    assert average_precision(*columns(rows)) == pytest.approx(float(area), abs=1e-12)


def test_large_ties_do_not_overflow() -> None:
    labels = np.repeat([0.0, 1.0], 200_000)
    assert roc_auc(labels, np.full(400_000, 0.5)) == 0.5
    assert average_precision(labels, np.full(400_000, 0.5)) == 0.5


def test_log_loss_and_brier_by_hand() -> None:
    labels, scores = np.array([1.0, 0.0, 1.0]), np.array([0.8, 0.4, 0.5])
    assert log_loss(labels, scores) == pytest.approx(-(math.log(0.8) + math.log(0.6) + math.log(0.5)) / 3)
    assert brier(labels, scores) == pytest.approx((0.04 + 0.16 + 0.25) / 3)


def test_certain_and_wrong_costs_much_but_not_everything() -> None:
    assert row_log_loss(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx([16.118, 16.118], abs=1e-3)
    assert row_log_loss(np.array([1.0, 0.0]), np.array([1.0, 0.0])) == pytest.approx([1e-7, 1e-7], rel=1e-3)


def test_evaluate_says_none_where_there_is_no_answer() -> None:
    nothing = evaluate(np.array([]), np.array([]))
    assert (nothing.n, nothing.log_loss, nothing.auc) == (0, None, None)
    one_class = evaluate(np.ones(3), np.full(3, 0.5))
    assert (one_class.auc, one_class.pr_auc, one_class.base_rate) == (None, None, 1.0)
    assert one_class.log_loss == pytest.approx(math.log(2))
    both = evaluate(np.array([0.0, 1.0]), np.array([0.1, 0.9]))
    assert (both.auc, both.pr_auc, both.base_rate) == (1.0, 1.0, 0.5)


@pytest.mark.parametrize(
    ("labels", "scores"),
    [([0.5], [0.5]), ([np.nan], [0.5]), ([1.0], [np.nan]), ([1.0], [1.1]), ([1.0], [-0.1]), ([1.0, 0.0], [0.5])],
)
def test_what_is_no_label_or_probability_is_refused(labels: list[float], scores: list[float]) -> None:
    for measure in (evaluate, row_log_loss, LossSums.of):
        with pytest.raises(ValueError, match=r"must be|shape"):
            measure(np.array(labels), np.array(scores))


def test_measures_without_an_answer_raise() -> None:
    with pytest.raises(ValueError, match="no rows"):
        log_loss(np.array([]), np.array([]))
    with pytest.raises(ValueError, match="both classes"):
        roc_auc(np.ones(2), np.ones(2))
    with pytest.raises(ValueError, match="positive"):
        average_precision(np.zeros(2), np.ones(2))


def test_sums_merge_in_any_order_and_cut_with_the_same_bits() -> None:
    rng = np.random.default_rng(1)
    labels, scores = (rng.random(3000) < 0.3).astype(np.float64), rng.random(3000)
    whole = LossSums.of(labels, scores)
    order = rng.permutation(3000)
    parts = [LossSums.of(labels[cut], scores[cut]) for cut in np.array_split(order, 37)]
    assert sum(parts, LossSums()) == whole
    assert sum(reversed(parts), LossSums()) == whole
    assert LossSums.from_dict(whole.to_dict()) == whole


def test_sums_agree_with_the_metrics() -> None:
    rng = np.random.default_rng(2)
    labels, scores = (rng.random(1000) < 0.3).astype(np.float64), rng.random(1000)
    sums = LossSums.of(labels, scores)
    assert sums.mean_log_loss == pytest.approx(log_loss(labels, scores), abs=1e-11)
    assert sums.brier == pytest.approx(brier(labels, scores), abs=1e-11)
    assert sums.bias == pytest.approx(float((labels - scores).mean()), abs=1e-11)
    assert LossSums().mean_log_loss is None
