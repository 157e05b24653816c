"""Writes a forest as one `TreeEnsembleRegressor` followed by a sigmoid.

A leaf's `hitrate` is the number of its training rows: explanations need it, and a runtime may ignore it.

The runtime adds leaves up in float32. Two things keep its error small: each tree's leaves are stored relative to that
tree's mean over its training rows (the means go, in one float64 sum, into the base value), and the calibration is
folded into leaves and base before the one rounding to float32.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto, helper

from tidemill_engine.arrays import Float32s, Float64s
from tidemill_engine.onnx.graph import INPUT, ML_DOMAIN, OUTPUT, Signature, build, calibration_metadata
from tidemill_engine.onnx.models import Calibration, Forest, Tree


def forest_to_onnx(
    forest: Forest,
    feature_names: Sequence[str],
    calibration: Calibration | tuple[float, float] | None = None,
    *,
    schema_digest: str | None = None,
) -> bytes:
    """Canonical ONNX bytes of a forest; the calibration `sigmoid(slope * raw + intercept)` is inside.

    Raises:
        ValueError: the names do not match the forest's inputs, or a leaf is not finite in float32.
    """
    signature = Signature.of(feature_names, schema_digest)
    if len(signature.features) != forest.feature_count:
        raise ValueError(f"{len(signature.features)} names for {forest.feature_count} features")
    slope, intercept = calibration or Calibration()
    attributes = _attributes(forest.trees, float(slope), float(intercept))
    nodes = [
        helper.make_node("TreeEnsembleRegressor", [INPUT], ["raw"], name="trees", domain=ML_DOMAIN, **attributes),
        helper.make_node("Sigmoid", ["raw"], ["column"], name="sigmoid"),
        helper.make_node("Squeeze", ["column", "axis"], [OUTPUT], name="squeeze"),
    ]
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    return build(nodes, [axis], signature, calibration_metadata(float(slope), float(intercept)))


def round_down(thresholds: Float64s) -> Float32s:
    """The largest float32 not above each threshold, so that `x <= threshold` is the same for every float32 x."""
    with np.errstate(over="ignore"):  # LightGBM's 1e300 stands for infinity
        nearest: Float32s = thresholds.astype(np.float32)
    return np.where(nearest.astype(np.float64) > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest)


class _Node(NamedTuple):
    """One row of the ensemble's node table; a leaf has no feature, threshold or children."""

    tree: int
    number: int
    feature: int = 0
    threshold: float = 0.0
    nan_left: bool = False
    left: int = 0
    right: int = 0
    rows: float = 0.0
    mode: str = "LEAF"


def _attributes(trees: Sequence[Tree], slope: float, intercept: float) -> dict[str, Any]:
    nodes = [node for number, tree in enumerate(trees) for node in _nodes(number, tree)]
    leaves = [node for node in nodes if node.mode == "LEAF"]
    centres = [float(np.average(tree.leaf_value, weights=_leaf_weights(tree))) for tree in trees]
    weights = [_finite(slope * (tree.leaf_value - centre)) for tree, centre in zip(trees, centres, strict=True)]
    base = _finite(np.array([slope * sum(centres) + intercept]))
    return {
        "aggregate_function": "SUM",
        "base_values": base.tolist(),
        "n_targets": 1,
        "nodes_falsenodeids": [node.right for node in nodes],
        "nodes_hitrates": [node.rows for node in nodes],
        "nodes_featureids": [node.feature for node in nodes],
        "nodes_missing_value_tracks_true": [int(node.nan_left) for node in nodes],
        "nodes_modes": [node.mode for node in nodes],
        "nodes_nodeids": [node.number for node in nodes],
        "nodes_treeids": [node.tree for node in nodes],
        "nodes_truenodeids": [node.left for node in nodes],
        "nodes_values": [node.threshold for node in nodes],
        "post_transform": "NONE",
        "target_ids": [0] * len(leaves),
        "target_nodeids": [node.number for node in leaves],
        "target_treeids": [node.tree for node in leaves],
        "target_weights": np.concatenate(weights).tolist(),
    }


def _nodes(number: int, tree: Tree) -> Iterator[_Node]:
    """Splits keep their number; leaf i of S splits is node S + i."""
    splits = len(tree.feature)
    thresholds = round_down(tree.threshold)
    for i in range(splits):
        left, right = (splits + ~child if child < 0 else child for child in (int(tree.left[i]), int(tree.right[i])))
        yield _Node(
            number, i, int(tree.feature[i]), float(thresholds[i]), bool(tree.nan_left[i]), left, right, 0.0,
            "BRANCH_LEQ",
        )  # fmt: skip
    for i, weight in enumerate(_leaf_weights(tree)):
        yield _Node(number, splits + i, rows=float(weight))


def _leaf_weights(tree: Tree) -> Float64s:
    return tree.leaf_weight if tree.leaf_weight.sum() > 0 else np.ones(len(tree.leaf_value))


def _finite(values: Float64s) -> Float32s:
    with np.errstate(over="ignore"):
        rounded: Float32s = values.astype(np.float32)
    if not np.isfinite(rounded).all():
        raise ValueError("a leaf or the base value is not finite in float32")
    return rounded
