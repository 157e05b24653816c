"""Trees of our own give the bits that onnxruntime gives, or are not used."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from serving_cases import forest as forest_of
from serving_cases import linear

from tidemill_engine.onnx import golden_inputs
from tidemill_engine.onnx.bitwise import BitForest, bit_forest
from tidemill_serving.onnx import Scorer, session

WIDTH = 7
SEED = 5
NAMES = [f"f{number}" for number in range(WIDTH)]


def forest(leaves: int = 31, trees: int = 40) -> bytes:
    return forest_of(NAMES, leaves=leaves, trees=trees)


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


def attributes(data: bytes) -> dict[str, Any]:
    node = onnx.ModelProto.FromString(data).graph.node[0]
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


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
    data = linear(NAMES)
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
    given = attributes(data)
    for name, value in change.items():
        if isinstance(value, list) and isinstance(given[name], list) and len(given[name]) > len(value):
            change[name] = [*value, *given[name][len(value) :]]
    assert bit_forest(data, WIDTH) is not None
    assert bit_forest(changed(data, **change), WIDTH) is None


def test_the_order_in_which_nodes_are_written_does_not_matter() -> None:
    data, made = forest(trees=3), np.random.default_rng(SEED)
    given = attributes(data)
    order = np.concatenate([
        made.permutation(np.flatnonzero(np.array(given["nodes_treeids"]) == tree)) for tree in range(3)
    ])  # fmt: skip
    mixed = {name: [values[place] for place in order] for name, values in given.items() if name.startswith("nodes_")}
    same, found = bit_forest(data, WIDTH), bit_forest(changed(data, **mixed), WIDTH)
    assert same is not None
    assert found is not None
    rows = same.probes(WIDTH, 200)
    assert found.raw_scores(rows).tobytes() == same.raw_scores(rows).tobytes()


@pytest.mark.parametrize("turn", ["a ring beside the tree", "a node of two parents", "its own child"])
def test_nodes_that_are_no_tree_are_not_read(turn: str) -> None:
    """Splits are 0, 1, 2, leaves 3 to 6."""
    left, right = {
        "a ring beside the tree": ([3, 2, 1], [4, 5, 6]),
        "a node of two parents": ([1, 3, 4], [2, 4, 5]),
        "its own child": ([1, 1, 4], [2, 3, 5]),
    }[turn]
    leaves = [0] * 4
    data = changed(
        forest(trees=1), nodes_treeids=[0] * 7, nodes_nodeids=list(range(7)), nodes_featureids=[0] * 7,
        nodes_values=[0.5] * 7, nodes_truenodeids=left + leaves, nodes_falsenodeids=right + leaves,
        nodes_modes=["BRANCH_LEQ"] * 3 + ["LEAF"] * 4, nodes_missing_value_tracks_true=[0] * 7, nodes_hitrates=None,
        target_treeids=leaves, target_nodeids=[3, 4, 5, 6], target_ids=leaves, target_weights=[0.1, 0.2, 0.3, 0.4],
    )  # fmt: skip
    assert bit_forest(data, WIDTH) is None
