"""The online reference learner: it learns, batches do not matter, and a snapshot continues bit for bit."""

from itertools import pairwise

import numpy as np
import onnxruntime
import pytest

from tidemill_engine.arrays import Float32s, Float64s
from tidemill_engine.learn import OnlineLogistic
from tidemill_engine.onnx import linear_to_onnx
from tidemill_engine.stats import log_loss


def stream(seed: int, count: int) -> tuple[Float32s, Float64s]:
    rng = np.random.default_rng(seed)
    table = (rng.normal(size=(count, 3)) * [1, 50, 1] + [0, 1000, 0]).astype(np.float32)
    chance = 1 / (1 + np.exp(-(table[:, 0] * 2 - (table[:, 1] - 1000) / 50 - 0.5)))
    labels = (rng.random(count) < chance).astype(np.float64)
    table[rng.random(table.shape) < 0.05] = np.nan
    return table, labels


def test_it_learns_and_follows_a_change() -> None:
    table, labels = stream(1, 30_000)
    learner = OnlineLogistic(3, learning_rate=0.1)
    before = learner.update(table, labels)
    assert log_loss(labels[20_000:], before[20_000:]) < 0.45
    turned = learner.update(table, 1 - labels)
    assert log_loss(1 - labels[:2000], turned[:2000]) > 0.8
    assert log_loss(1 - labels[25_000:], turned[25_000:]) < 0.6


def test_batches_of_any_size_give_the_same_bits() -> None:
    table, labels = stream(2, 3000)
    whole, cut = OnlineLogistic(3, l2=1e-4), OnlineLogistic(3, l2=1e-4)
    expected = whole.update(table, labels)
    edges = [0, 1, 2, 9, 500, 501, 2999, 3000]
    parts = [cut.update(table[a:b], labels[a:b]) for a, b in pairwise(edges)]
    assert np.array_equal(np.concatenate(parts), expected)
    assert np.array_equal(whole.table, cut.table)


def test_one_row_at_a_time_gives_the_same_bits_and_predicts_before_it_learns() -> None:
    table, labels = stream(3, 300)
    whole, single = OnlineLogistic(3), OnlineLogistic(3)
    expected = whole.update(table, labels)
    for i, row in enumerate(table):
        assert single.predict_one(row) == single.update_one(row, labels[i]) == expected[i]
    assert np.array_equal(whole.table, single.table)


@pytest.mark.parametrize("stop", [0, 1, 2, 777])
def test_a_snapshot_continues_bit_for_bit(stop: int) -> None:
    table, labels = stream(4, 1500)
    whole = OnlineLogistic(3, learning_rate=0.2, l2=1e-3)
    expected = whole.update(table, labels)
    part = OnlineLogistic(3, learning_rate=0.2, l2=1e-3)
    part.update(table[:stop], labels[:stop])
    snapshot = part.to_arrays()
    part.update(table[:9], labels[:9])  # the snapshot must not share memory with what goes on living
    for _ in range(2):
        assert np.array_equal(OnlineLogistic.from_arrays(snapshot).update(table[stop:], labels[stop:]), expected[stop:])
    restored = OnlineLogistic.from_arrays(snapshot)
    assert np.array_equal(restored.update(table[stop:], labels[stop:]), expected[stop:])


def test_predictions_leave_no_trace_and_nulls_count_as_the_mean() -> None:
    table, labels = stream(5, 2000)
    learner = OnlineLogistic(3)
    learner.update(table, labels)
    frozen = learner.table.copy()
    learner.predict(table)
    assert np.array_equal(learner.table, frozen)
    means = learner.to_linear().means.astype(np.float32)
    nulls = np.full(3, np.nan, dtype=np.float32)
    assert learner.predict_one(nulls) == pytest.approx(learner.predict_one(means), abs=1e-6)


def test_constant_and_absent_columns_stay_silent() -> None:
    rng = np.random.default_rng(6)
    table = np.column_stack((rng.normal(size=500), np.full(500, 7.0), np.full(500, np.nan))).astype(np.float32)
    learner = OnlineLogistic(3)
    scores = learner.update(table, (table[:, 0] > 0).astype(np.float64))
    assert np.isfinite(scores).all()
    assert learner.to_linear().weights[1:].tolist() == [0, 0]


def test_its_onnx_answers_as_it_does() -> None:
    table, labels = stream(7, 5000)
    learner = OnlineLogistic(3)
    learner.update(table, labels)
    session = onnxruntime.InferenceSession(linear_to_onnx(learner.to_linear(), ["a", "b", "c"]))
    assert np.abs(session.run(None, {"features": table})[0] - learner.predict(table)).max() < 1e-5


def test_what_it_cannot_learn_is_refused() -> None:
    learner = OnlineLogistic(2)
    row = np.zeros((1, 2), dtype=np.float32)
    with pytest.raises(ValueError, match="must be"):
        learner.predict(np.zeros((1, 3), dtype=np.float32))
    with pytest.raises(ValueError, match="infinite"):
        learner.predict(row + np.float32(np.inf))
    for labels in (np.array([0.5]), np.array([np.nan]), np.zeros(2)):
        with pytest.raises(ValueError, match="labels"):
            learner.update(row, labels)
    with pytest.raises(ValueError, match="learner needs"):
        OnlineLogistic(0)
    with pytest.raises(ValueError, match="not the state"):
        OnlineLogistic.from_arrays({"settings": np.array([0.1, 0.0]), "table": np.full((5, 3), np.nan)})
