"""The forest writer: the same paths, the same scores, the same bytes as the trainer."""

import hashlib
from dataclasses import replace

import lightgbm
import numpy as np
import onnx
import onnxruntime
import pytest

from tidemill_engine.arrays import Float32s, Float64s
from tidemill_engine.onnx import (
    Calibration,
    Forest,
    Tree,
    UnsupportedModelError,
    forest_to_onnx,
    golden_inputs,
    inspect_model,
    leaf_indices,
    parse_lightgbm,
    probabilities,
)
from tidemill_engine.onnx.forest import round_down

FEATURES = 10
NAMES = [f"f{i}" for i in range(FEATURES)]
SETTINGS = {
    "objective": "binary",
    "num_leaves": 31,
    "verbosity": -1,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "seed": 3,
}


def rows(seed: int, count: int, null_columns: int = 6) -> Float32s:
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(count, FEATURES)).astype(np.float32)
    table[:, 3] = np.float32(1e5) * table[:, 3]
    table[:, 4] = np.round(table[:, 4])
    table[:, :null_columns][rng.random((count, null_columns)) < 0.1] = np.nan
    return table


def labels_of(table: Float32s, seed: int) -> Float64s:
    known = np.nan_to_num(table).astype(np.float64)
    chance = 1 / (1 + np.exp(1.5 - known[:, 0] * known[:, 1] - known[:, 8]))
    return (np.random.default_rng(seed).random(len(table)) < chance).astype(np.float64)


@pytest.fixture(scope="module")
def booster() -> lightgbm.Booster:
    table = rows(1, 8000)
    return lightgbm.train(SETTINGS, lightgbm.Dataset(table, labels_of(table, 2), params=SETTINGS), 150)


@pytest.fixture(scope="module")
def forest(booster: lightgbm.Booster) -> Forest:
    return parse_lightgbm(booster.model_to_string())


@pytest.fixture(scope="module")
def queries(forest: Forest) -> Float32s:
    """Random rows with nulls in every column, also where training saw none; values on and just beside thresholds."""
    table = rows(5, 20_000, FEATURES)
    rng = np.random.default_rng(6)
    for number, tree in enumerate(forest.trees):
        for split in range(len(tree.feature)):
            row = rng.integers(len(table))
            value = np.float32(tree.threshold[split])
            towards = np.float32((-np.inf, np.inf)[number % 2])
            table[row, tree.feature[split]] = value if split % 3 == 0 else np.nextafter(value, towards)
    return table


def run(model: bytes, table: Float32s) -> Float32s:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options)
    answer: Float32s = session.run(["probability"], {"features": table})[0]
    return answer


def test_raw_scores_and_paths_equal_lightgbm_bit_for_bit(
    booster: lightgbm.Booster, forest: Forest, queries: Float32s
) -> None:
    assert np.array_equal(forest.raw_scores(queries), booster.predict(queries, raw_score=True))
    paths = booster.predict(queries, pred_leaf=True)
    assert isinstance(paths, np.ndarray)
    for number, tree in enumerate(forest.trees):
        assert np.array_equal(leaf_indices(tree, queries), paths[:, number])


def test_onnx_answers_as_lightgbm_does(booster: lightgbm.Booster, forest: Forest, queries: Float32s) -> None:
    answer = run(forest_to_onnx(forest, NAMES), queries)
    assert answer.dtype == np.float32
    assert answer.shape == (len(queries),)
    assert np.abs(answer - booster.predict(queries)).max() < 1e-6


@pytest.mark.parametrize("calibration", [Calibration(1.4, -0.3), (0.2, 2.0), (0.0, -1.0)])
def test_calibration_is_inside_the_graph(forest: Forest, queries: Float32s, calibration: tuple[float, float]) -> None:
    expected = probabilities(forest.raw_scores(queries), Calibration(*calibration))
    assert np.abs(run(forest_to_onnx(forest, NAMES, calibration), queries) - expected).max() < 1e-6


def test_onnx_takes_the_same_path_in_every_tree(forest: Forest, queries: Float32s) -> None:
    """Each tree alone, its leaves renumbered, so that the score names the leaf."""
    for tree in forest.trees[::10]:
        marks = np.arange(len(tree.leaf_value), dtype=np.float64) * 0.25 - 3.0
        score = run(forest_to_onnx(Forest((replace(tree, leaf_value=marks),), FEATURES), NAMES), queries).astype(float)
        raw = np.log(score / (1 - score))
        assert np.array_equal(np.rint((raw + 3.0) / 0.25), leaf_indices(tree, queries))


def test_one_row_answers_as_in_a_batch(forest: Forest, queries: Float32s) -> None:
    model = forest_to_onnx(forest, NAMES)
    single = [run(model, queries[i : i + 1])[0] for i in range(20)]
    batch = run(model, queries[:20])
    assert np.array_equal(batch, single)


def test_the_same_model_has_the_same_digest_and_another_has_not(forest: Forest) -> None:
    first, second = (hashlib.sha256(forest_to_onnx(forest, NAMES, (1.1, 0.2))).hexdigest() for _ in range(2))
    assert first == second
    assert hashlib.sha256(forest_to_onnx(forest, NAMES, (1.1, 0.21))).hexdigest() != first


def test_bytes_name_no_producer_version_and_pin_their_operator_sets(forest: Forest) -> None:
    model = onnx.load_model_from_string(forest_to_onnx(forest, NAMES))
    assert model.ir_version == 8
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 17, "ai.onnx.ml": 3}
    assert (model.producer_version, model.doc_string, model.model_version) == ("", "", 0)
    keys = [entry.key for entry in model.metadata_props]
    assert keys == sorted(keys)
    onnx.checker.check_model(model, full_check=True)
    assert inspect_model(model.SerializeToString()).features == tuple(NAMES)


def test_golden_rows_give_finite_answers(forest: Forest) -> None:
    assert np.isfinite(run(forest_to_onnx(forest, NAMES), golden_inputs(FEATURES))).all()


@pytest.mark.parametrize("value", [0.1, -0.1, 1e-300, -1e-300, 0.5, 16_777_217.0, 0.0])
def test_thresholds_are_rounded_down_to_a_float32(value: float) -> None:
    rounded = round_down(np.array([value]))[0]
    assert float(rounded) <= value
    assert float(np.nextafter(rounded, np.float32(np.inf))) > value
    near = np.nextafter(np.float32(value), np.array([-np.inf, np.inf, value], dtype=np.float32))
    assert np.array_equal(near <= rounded, near.astype(np.float64) <= value)


def test_thresholds_that_stand_for_infinity_stay_beyond_every_number() -> None:
    high, low = round_down(np.array([1e300, -1e300]))
    assert high == np.finfo(np.float32).max
    assert low == -np.inf


def test_trees_without_a_split_are_constants() -> None:
    table = rows(1, 300)
    labels = (np.arange(300) % 3 == 0).astype(float)
    settings = {**SETTINGS, "min_data_in_leaf": 1000}
    with_stump = lightgbm.train(settings, lightgbm.Dataset(table, labels, params=settings), 3)
    forest = parse_lightgbm(with_stump.model_to_string())
    answer = run(forest_to_onnx(forest, NAMES), table)
    assert np.abs(answer - with_stump.predict(table)).max() < 1e-6


@pytest.mark.parametrize(
    ("settings", "categorical"),
    [
        ({"zero_as_missing": True}, []),
        ({"linear_tree": True}, []),
        ({"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}, []),
        ({"sigmoid": 2.0}, []),
        ({"objective": "regression"}, []),
        ({}, [4]),
    ],
)
def test_what_cannot_be_written_exactly_is_refused(settings: dict[str, object], categorical: list[int]) -> None:
    table = np.nan_to_num(rows(1, 500))
    table[:, 4] = np.abs(table[:, 4])
    labels = (table[:, 4] + table[:, 0] > 1).astype(float)
    params = {**SETTINGS, "min_data_per_group": 5, "cat_smooth": 1, **settings}
    data = lightgbm.Dataset(table, labels, params=params, categorical_feature=categorical)
    with pytest.raises(UnsupportedModelError):
        parse_lightgbm(lightgbm.train(params, data, 5).model_to_string())


def test_text_that_is_no_model_is_refused() -> None:
    with pytest.raises(UnsupportedModelError):
        parse_lightgbm("tree\nversion=v4\n")


def test_names_must_match_the_inputs_and_leaves_must_be_finite(forest: Forest) -> None:
    with pytest.raises(ValueError, match="9 names for 10"):
        forest_to_onnx(forest, NAMES[:9])
    with pytest.raises(ValueError, match="distinct"):
        forest_to_onnx(forest, ["same"] * FEATURES)
    tree = forest.trees[0]
    wild = Tree(**{name: getattr(tree, name) for name in tree.__slots__} | {"leaf_value": tree.leaf_value * 1e300})
    with pytest.raises(ValueError, match="finite"):
        forest_to_onnx(Forest((wild,), FEATURES), NAMES)
    with pytest.raises(ValueError, match="float32"):
        forest.raw_scores(np.zeros((2, FEATURES)))  # type: ignore[arg-type]
