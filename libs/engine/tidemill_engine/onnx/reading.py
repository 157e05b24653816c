"""Reads a canonical model back into arrays: what was written is what is read, as float32 has it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs in protobuf
from onnx import ModelProto, helper, numpy_helper

from tidemill_engine.onnx.lightgbm_text import UnsupportedModelError
from tidemill_engine.onnx.models import Forest, LinearModel, Tree

_FOREST = ["TreeEnsembleRegressor", "Sigmoid", "Squeeze"]
_LINEAR = ["IsNaN", "Sub", "Mul", "Clip", "Mul", "Where", "ReduceSum", "Add", "Sigmoid"]


def read_model(data: bytes) -> LinearModel | tuple[Forest, float]:
    """A linear model, or a forest and what is added to it; their scores are log-odds with the calibration inside.

    Raises:
        UnsupportedModelError: bytes that the canonical writer did not write, or a forest without counts of rows.
    """
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise UnsupportedModelError("not an ONNX model") from None
    kinds = [node.op_type for node in model.graph.node]
    if model.producer_name == "tidemill" and kinds == _FOREST:
        return _forest(model)
    if model.producer_name == "tidemill" and kinds == _LINEAR:
        return _linear(model)
    raise UnsupportedModelError("not a forest and not a linear model of the canonical form")


def _width(model: ModelProto) -> int:
    return int(model.graph.input[0].type.tensor_type.shape.dim[1].dim_value)


def _linear(model: ModelProto) -> LinearModel:
    found = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer}
    return LinearModel(
        found["weights"], float(found["bias"]), found["means"], 1.0 / found["inverse_scales"], found["null_terms"]
    )


def _forest(model: ModelProto) -> tuple[Forest, float]:
    found = {entry.name: helper.get_attribute_value(entry) for entry in model.graph.node[0].attribute}
    if "nodes_hitrates" not in found:
        raise UnsupportedModelError("the forest was written without the numbers of its training rows")
    table = {name: np.array(found[f"nodes_{name}"]) for name in (
        "treeids", "nodeids", "featureids", "values", "truenodeids", "falsenodeids", "missing_value_tracks_true",
        "hitrates",
    )}  # fmt: skip
    table["leaf"] = np.array([mode == b"LEAF" for mode in found["nodes_modes"]])
    weights = np.zeros(len(table["leaf"]))
    weights[table["leaf"]] = found["target_weights"]  # leaves are written in the order of their nodes
    table["weights"] = weights
    bounds = np.flatnonzero(np.diff(table["treeids"])) + 1
    trees = [
        _tree({name: values[first:last] for name, values in table.items()})
        for first, last in zip([0, *bounds], [*bounds, len(weights)], strict=True)
    ]
    return Forest(tuple(trees), _width(model)), float(found["base_values"][0])


def _tree(nodes: Mapping[str, Any]) -> Tree:
    """Splits are written before leaves, so that leaf i of S splits is node S + i."""
    splits = int((~nodes["leaf"]).sum())
    left, right = (
        np.where(nodes[name][:splits] >= splits, ~(nodes[name][:splits] - splits), nodes[name][:splits])
        for name in ("truenodeids", "falsenodeids")
    )
    return Tree(
        nodes["featureids"][:splits].astype(np.int32), nodes["values"][:splits].astype(np.float64),
        nodes["missing_value_tracks_true"][:splits].astype(np.bool_), left.astype(np.int32), right.astype(np.int32),
        nodes["weights"][splits:].astype(np.float64), nodes["hitrates"][splits:].astype(np.float64),
    )  # fmt: skip
