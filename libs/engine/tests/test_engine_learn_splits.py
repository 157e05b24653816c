"""Cutting history by time, and choosing how much of it to train on."""

import numpy as np
import pytest

from tidemill_engine.arrays import Float32s, Float64s
from tidemill_engine.learn import FittedLinear, TimedRows, choose_window, fit_logistic, split_recent, window_start

DAY = 86_400_000_000


def test_blocks_are_cut_by_time_and_keep_ties_together() -> None:
    times = np.array([5, 1, 9, 7, 7, 3, 9, 10], dtype=np.int64)
    split = split_recent(times, calibration_us=2, gate_us=2)
    assert (split.calibration_from_us, split.gate_from_us) == (7, 9)
    assert [times[part].tolist() for part in (split.train, split.calibration, split.gate)] == [
        [1, 3, 5],
        [7, 7],
        [9, 9, 10],
    ]


def test_an_end_leaves_later_rows_out() -> None:
    times = np.arange(10, dtype=np.int64)
    split = split_recent(times, calibration_us=0, gate_us=3, end_us=6)
    assert (split.train.tolist(), split.calibration.tolist(), split.gate.tolist()) == ([0, 1, 2], [], [3, 4, 5])


def test_no_rows_give_empty_blocks() -> None:
    split = split_recent(np.array([], dtype=np.int64), calibration_us=1, gate_us=1)
    assert len(split.train) == len(split.calibration) == len(split.gate) == 0


def history(change_day: int, days: int = 100, per_day: int = 40) -> TimedRows:
    """One feature whose meaning turns around on `change_day`."""
    rng = np.random.default_rng(1)
    times = np.sort(rng.integers(0, days * DAY, days * per_day)).astype(np.int64)
    table = rng.normal(size=(len(times), 2)).astype(np.float32)
    direction = np.where(times >= change_day * DAY, 2.0, -2.0)
    labels = (rng.random(len(times)) < 1 / (1 + np.exp(-direction * table[:, 0]))).astype(np.float64)
    return TimedRows(times, table, labels)


def fit(features: Float32s, labels: Float64s) -> FittedLinear:
    return fit_logistic(features, labels)


def test_after_a_change_the_short_window_is_chosen() -> None:
    choice = choose_window(history(60), windows=["all", "30d", "90d"], validation_us=7 * DAY, fit=fit, minimum_rows=100)
    assert choice.window == "30d"
    assert [result.window for result in choice.results] == ["all", "90d", "30d"]
    assert choice.validation_from_us == pytest.approx(93 * DAY, abs=DAY)
    assert choice.results[2].rows == pytest.approx(1200, abs=120)


def test_without_a_change_more_history_is_chosen() -> None:
    choice = choose_window(history(0), windows=["3d", "all"], validation_us=14 * DAY, fit=fit, minimum_rows=50)
    assert choice.window == "all"


def test_of_equal_windows_the_longer_is_chosen() -> None:
    choice = choose_window(history(0), windows=["200d", "300d", "all"], validation_us=7 * DAY, fit=fit)
    assert len({result.log_loss for result in choice.results}) == 1
    assert choice.window == "all"


def test_validation_rows_never_train() -> None:
    rows = history(60)
    seen: list[int] = []

    def spy(features: Float32s, labels: Float64s) -> FittedLinear:
        seen.append(len(labels))
        return fit_logistic(features, labels)

    choice = choose_window(rows, windows=["all", "30d"], validation_us=7 * DAY, fit=spy)
    assert max(seen) == np.count_nonzero(rows.times_us < choice.validation_from_us)


def test_short_windows_are_passed_over_with_a_reason() -> None:
    choice = choose_window(history(60), windows=["30d", "all"], validation_us=7 * DAY, fit=fit, minimum_rows=2000)
    assert choice.window == "all"
    assert "fewer than 2000" in choice.results[1].reason
    nothing = choose_window(history(60), windows=["30d", "90d"], validation_us=7 * DAY, fit=fit, minimum_rows=10**6)
    assert (nothing.window, nothing.reason) == ("90d", "no window had enough rows")


def test_one_window_needs_no_trial() -> None:
    choice = choose_window(history(60), windows=["30d"], validation_us=7 * DAY, fit=fit)
    assert (choice.window, choice.results) == ("30d", ())
    with pytest.raises(ValueError, match="no windows"):
        choose_window(history(60), windows=[], validation_us=DAY, fit=fit)


def test_a_window_begins_before_its_end() -> None:
    assert window_start("30d", 100 * DAY) == 70 * DAY
    assert window_start("all", 100 * DAY) is None
