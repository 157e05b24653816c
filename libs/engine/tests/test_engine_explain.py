"""What features add to a score: as LightGBM's own TreeSHAP says, as the definition says, and to the last bit in sum."""

import itertools
import math

import lightgbm
import numpy as np
import pytest

from tidemill_engine.arrays import Float32s, Float64s
from tidemill_engine.explain import Explained, explainer_of, forest_explainer, linear_explainer
from tidemill_engine.onnx import (
    Calibration,
    Forest,
    LinearModel,
    Tree,
    UnsupportedModelError,
    forest_to_onnx,
    golden_inputs,
    leaf_indices,
    linear_to_onnx,
    parse_lightgbm,
)
from tidemill_engine.onnx.reading import read_model

FEATURES = 10
NAMES = [f"f{i}" for i in range(FEATURES)]
SETTINGS = {
    "objective": "binary", "num_leaves": 31, "verbosity": -1, "num_threads": 1, "deterministic": True,
    "force_row_wise": True, "seed": 3,
}  # fmt: skip


def rows(seed: int, count: int) -> Float32s:
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(count, FEATURES)).astype(np.float32)
    table[:, 4] = np.round(table[:, 4])
    table[:, :6][rng.random((count, 6)) < 0.1] = np.nan
    return table


@pytest.fixture(scope="module")
def booster() -> lightgbm.Booster:
    table = rows(1, 4000)
    known = np.nan_to_num(table).astype(np.float64)
    chance = 1 / (1 + np.exp(1.0 - known[:, 0] * known[:, 1] - known[:, 8]))
    labels = (np.random.default_rng(2).random(len(table)) < chance).astype(np.float64)
    return lightgbm.train(SETTINGS, lightgbm.Dataset(table, labels, params=SETTINGS), 60)


def adds_up(found: Explained, within: float = 1e-6) -> None:
    assert np.abs(found.contributions.sum(axis=1) + found.base - found.raw).max() < within


def test_shapley_values_equal_those_of_lightgbm(booster: lightgbm.Booster) -> None:
    table = rows(7, 400)
    expected = np.asarray(booster.predict(table, pred_contrib=True))
    found = forest_explainer(parse_lightgbm(booster.model_to_string()))(table)
    assert np.abs(found.contributions - expected[:, :-1]).max() < 1e-9
    assert np.abs(found.base - expected[:, -1]).max() < 1e-9
    adds_up(found, 1e-9)


@pytest.mark.parametrize("calibration", [Calibration(), Calibration(1.4, -0.3)])
def test_a_written_forest_is_explained_as_the_one_it_was_written_from(
    booster: lightgbm.Booster, calibration: Calibration
) -> None:
    forest, table = parse_lightgbm(booster.model_to_string()), rows(8, 200)
    found = explainer_of(forest_to_onnx(forest, NAMES, calibration))(table)
    exact = forest_explainer(forest)(table)
    adds_up(found)
    assert np.abs(found.contributions - calibration.slope * exact.contributions).max() < 1e-5
    assert np.abs(found.raw - (calibration.slope * exact.raw + calibration.intercept)).max() < 1e-5
    assert abs(found.base - (calibration.slope * exact.base + calibration.intercept)) < 1e-5


def random_tree(rng: np.random.Generator, splits: int) -> Tree:
    """Any shape; features come again on the way down, children have any number of rows."""
    children = [[-1, -2]]
    for new in range(1, splits):
        node, side = rng.integers(len(children)), rng.integers(2)
        while children[node][side] >= 0:
            node, side = rng.integers(len(children)), rng.integers(2)
        children.append([children[node][side], -(new + 2)])
        children[node][side] = new
    left, right = np.array(children, np.int32).T
    return Tree(
        rng.integers(4, size=splits).astype(np.int32), rng.normal(size=splits), rng.random(splits) < 0.5, left, right,
        rng.normal(size=splits + 1), rng.integers(1, 50, size=splits + 1).astype(np.float64),
    )  # fmt: skip


def known_mean(tree: Tree, row: Float32s, known: frozenset[int], node: int = 0) -> tuple[float, float]:
    """(mean value, training rows) of a subtree where only some features are known: the definition, read off a tree."""
    if node < 0:
        return float(tree.leaf_value[~node]), float(tree.leaf_weight[~node])
    sides = [known_mean(tree, row, known, int(child)) for child in (tree.left[node], tree.right[node])]
    count = sides[0][1] + sides[1][1]
    if tree.feature[node] in known:
        value = float(row[tree.feature[node]])
        goes_left = bool(tree.nan_left[node]) if math.isnan(value) else value <= tree.threshold[node]
        return sides[0 if goes_left else 1][0], count
    return sum(mean * rows for mean, rows in sides) / count, count


def by_definition(tree: Tree, row: Float32s, width: int) -> Float64s:
    """Shapley (1953): the mean over all orders of what a feature adds to those before it."""
    out = np.zeros(width)
    for order in itertools.permutations(range(width)):
        before = known_mean(tree, row, frozenset())[0]
        for place, feature in enumerate(order):
            after = known_mean(tree, row, frozenset(order[: place + 1]))[0]
            out[feature] += after - before
            before = after
    return out / math.factorial(width)


@pytest.mark.parametrize("seed", range(12))
def test_shapley_values_equal_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tree = random_tree(rng, int(rng.integers(1, 9)))
    table = rng.normal(size=(6, 4)).astype(np.float32)
    table[rng.random(table.shape) < 0.2] = np.nan
    found = forest_explainer(Forest((tree,), 4))(table)
    expected = np.stack([by_definition(tree, row, 4) for row in table])
    assert np.abs(found.contributions - expected).max() < 1e-12
    adds_up(found, 1e-12)


def test_leaves_without_rows_and_trees_without_splits_add_up_too() -> None:
    empty = random_tree(np.random.default_rng(3), 5)
    empty.leaf_weight[:3] = 0.0
    none = np.zeros(0, np.int32)
    stump = Tree(none, np.zeros(0), none.astype(np.bool_), none, none, np.array([0.5]), np.array([7.0]))
    table = np.random.default_rng(4).normal(size=(50, 4)).astype(np.float32)
    adds_up(forest_explainer(Forest((empty, stump), 4))(table), 1e-12)
    assert forest_explainer(Forest((stump,), 4))(table).contributions.any() == np.False_


def test_a_linear_model_is_explained_by_its_terms() -> None:
    model = LinearModel(
        np.array([0.5, -1.25]), -0.75, np.array([1.0, 0.0]), np.array([2.0, 0.5]), np.array([0.0, 0.3])
    )  # fmt: skip
    table = np.array([[3.0, 0.25], [np.nan, 1e9], [1.0, np.nan]], np.float32)
    found = linear_explainer(model)(table)
    assert found.contributions.tolist() == [[0.5, -0.625], [0.0, -12.5], [0.0, 0.3]]
    adds_up(found, 1e-12)
    written = explainer_of(linear_to_onnx(model, ["a", "b"], (2.0, 0.5)))(table)
    adds_up(written)
    assert np.abs(written.contributions - 2.0 * found.contributions).max() < 1e-5
    assert written.base == pytest.approx(2.0 * model.bias + 0.5)


def test_what_was_written_is_read_back(booster: lightgbm.Booster) -> None:
    forest, table = parse_lightgbm(booster.model_to_string()), np.vstack((rows(9, 500), golden_inputs(FEATURES)))
    read = read_model(forest_to_onnx(forest, NAMES))
    assert isinstance(read, tuple)
    for old, new in zip(forest.trees, read[0].trees, strict=True):
        assert np.array_equal(leaf_indices(old, table), leaf_indices(new, table))
        assert np.array_equal(old.leaf_weight, new.leaf_weight)


@pytest.mark.parametrize("data", [b"", b"no model", b"\x08\x08"])
def test_what_was_not_written_here_is_not_explained(data: bytes) -> None:
    with pytest.raises(UnsupportedModelError):
        explainer_of(data)
