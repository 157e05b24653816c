"""Trees of our own give the bits that onnxruntime gives, or are not used."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from serving_cases import linear

from tidemill_engine.learn.boosting import fit_lightgbm
from tidemill_engine.onnx import golden_inputs
from tidemill_engine.onnx.bitwise import BitForest, bit_forest
from tidemill_serving.onnx import Scorer, session

WIDTH = 7
SEED = 5


def forest(leaves: int = 31, trees: int = 40) -> bytes:
    made = np.random.default_rng(SEED)
    rows = made.normal(size=(4000, WIDTH)).astype(np.float32)
    rows[made.random(rows.shape) < 0.2] = np.nan
    labels = (np.nan_to_num(rows[:, 0] * rows[:, 1]) + np.isnan(rows[:, 2]) + made.normal(size=len(rows)) > 0.5) * 1.0
    settings = {"num_iterations": trees, "num_leaves": leaves, "min_data_in_leaf": 5}
    return fit_lightgbm(rows, labels, settings, SEED).to_onnx([f"f{number}" for number in range(WIDTH)])


def changed(data: bytes, **attributes: Any) -> bytes:  # noqa: ANN401 - whatever stands in an ensemble
    """The forest with other attributes; None leaves one out."""
    model = onnx.ModelProto.FromString(data)
    node = model.graph.node[0]
    kept = [attribute for attribute in node.attribute if attribute.name not in attributes]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items() if value is not None)
    raw: bytes = model.SerializeToString()
    return raw


@pytest.mark.parametrize("leaves", [2, 31, 32, 63])
def test_a_forest_scores_batches_with_the_same_bits(leaves: int) -> None:
    data, made = forest(leaves), np.random.default_rng(SEED)
    theirs, ours = Scorer(data, WIDTH), Scorer(data, WIDTH)
    assert ours.quicken(data)
    known = bit_forest(data, WIDTH)
    assert known is not None
    for count in (1, 2, 3, 5, 16, 17, 64, 65, 300):
        for rows in (
            made.normal(size=(count, WIDTH)).astype(np.float32), known.probes(WIDTH, count),
            np.resize(golden_inputs(WIDTH), (count, WIDTH)),
        ):  # fmt: skip
            rows.flags.writeable = False
            assert ours.scores(rows).tobytes() == theirs.scores(rows).tobytes()


def test_a_forest_that_differs_in_one_bit_is_left_to_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    data = forest()

    def other(raw: bytes, width: int) -> BitForest | None:
        made = bit_forest(raw, width)
        assert made is not None
        made.splits.thresholds[3] = np.nextafter(made.splits.thresholds[3], np.float32(np.inf))
        return made

    monkeypatch.setattr(session, "bit_forest", other)
    assert not Scorer(data, WIDTH).quicken(data)


def test_what_is_no_forest_of_this_kind_is_left_to_onnxruntime() -> None:
    names = [f"f{number}" for number in range(WIDTH)]
    data = linear(names)
    assert not Scorer(data, WIDTH).quicken(data)
    assert not Scorer(data, WIDTH).quicken(b"")
    assert bit_forest(forest(leaves=120, trees=2), WIDTH) is None


@pytest.mark.parametrize("change", [
    {"aggregate_function": "MAX"}, {"post_transform": "LOGISTIC"}, {"n_targets": 2}, {"base_values": [0.5, 0.5]},
    {"nodes_featureids": [WIDTH]}, {"nodes_featureids": [-1]}, {"nodes_values": [float("nan")]},
    {"nodes_modes": ["BRANCH_LT"]}, {"nodes_truenodeids": [0]}, {"nodes_truenodeids": [9999]},
    {"target_ids": [1]}, {"nodes_nodeids": None},
])  # fmt: skip
def test_odd_ensembles_are_not_read(change: dict[str, Any]) -> None:
    data = forest(trees=2)
    node = onnx.ModelProto.FromString(data).graph.node[0]
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    for name, value in change.items():
        if isinstance(value, list) and isinstance(given[name], list) and len(given[name]) > len(value):
            change[name] = [*value, *given[name][len(value) :]]
    assert bit_forest(data, WIDTH) is not None
    assert bit_forest(changed(data, **change), WIDTH) is None
