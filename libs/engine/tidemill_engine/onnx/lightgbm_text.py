"""Reads the trees out of LightGBM's own text format (`Booster.model_to_string()`).

Source of the format: `src/io/tree.cpp` and `include/LightGBM/tree.h` of LightGBM 4. A split's `decision_type` holds:
bit 0 categorical, bit 1 default left, bits 2 and 3 the missing type (0 none, 1 zero, 2 NaN). With missing type none a
NaN is compared as 0; with NaN it follows the default direction.
"""

import numpy as np

from tidemill_engine.arrays import Bools, Float64s, Int32s
from tidemill_engine.onnx.models import Forest, Tree

_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_MISSING_NONE, _MISSING_ZERO = 0, 1
_ZERO = float(np.float32(1e-35))  # LightGBM's kZeroThreshold
_BELOW_ZERO = float(np.nextafter(np.float32(-_ZERO), np.float32(-np.inf)))


class UnsupportedModelError(ValueError):
    """The model uses something that the canonical writer cannot express exactly."""


def parse_lightgbm(model: str) -> Forest:
    """The forest of a binary LightGBM model in text form.

    Raises:
        UnsupportedModelError: another objective than binary with sigmoid 1, averaged output (random forest),
        categorical
            splits, linear leaves, zero as missing, or text that is not such a model.
    """
    head, *blocks = model.split("end of trees", 1)[0].split("\nTree=")
    header = _pairs(head)
    if header.get("objective") != "binary sigmoid:1" or "average_output" in head:
        raise UnsupportedModelError("only a boosted model with the objective `binary sigmoid:1` can be written")
    try:
        trees = tuple(_tree(_pairs(block)) for block in blocks)
        return Forest(trees, int(header["max_feature_idx"]) + 1)
    except KeyError as error:
        raise UnsupportedModelError(f"not a LightGBM model: {error} is missing") from None


def _pairs(block: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in block.splitlines() if "=" in line)


def _tree(fields: dict[str, str]) -> Tree:
    if fields.get("num_cat", "0") != "0" or fields.get("is_linear", "0") != "0":
        raise UnsupportedModelError("categorical splits and linear leaves cannot be written")
    splits = int(fields["num_leaves"]) - 1
    values = _floats(fields["leaf_value"])
    threshold = _zero_band(_floats(fields.get("threshold", "")))
    counts = _floats(fields.get("leaf_count", "")) if splits else np.ones(1)
    return Tree(
        feature=_ints(fields.get("split_feature", "")),
        threshold=threshold,
        nan_left=_nan_left(_ints(fields.get("decision_type", "")), threshold),
        left=_ints(fields.get("left_child", "")),
        right=_ints(fields.get("right_child", "")),
        leaf_value=values,
        leaf_weight=counts,
    )


def _nan_left(decisions: Int32s, thresholds: Float64s) -> Bools:
    missing = (decisions >> 2) & 3
    if np.any(decisions & _CATEGORICAL) or np.any(missing == _MISSING_ZERO):
        raise UnsupportedModelError("categorical splits and zero as missing cannot be written")
    default_left = (decisions & _DEFAULT_LEFT) != 0
    return np.where(missing == _MISSING_NONE, thresholds >= 0.0, default_left)


def _zero_band(thresholds: Float64s) -> Float64s:
    """Thresholds that send all of [-1e-35, 1e-35] where 0 goes: the predictor reads such values as 0."""
    raised = np.where((thresholds >= 0.0) & (thresholds < _ZERO), _ZERO, thresholds)
    return np.where((raised < 0.0) & (raised >= -_ZERO), _BELOW_ZERO, raised)


def _floats(text: str) -> Float64s:
    return np.array([float(word) for word in text.split()], dtype=np.float64)


def _ints(text: str) -> Int32s:
    return np.array([int(word) for word in text.split()], dtype=np.int32)
