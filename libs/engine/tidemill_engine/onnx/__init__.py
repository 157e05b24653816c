"""Canonical ONNX: the same model always has the same bytes, and bytes can be looked at before they are trusted."""

from tidemill_engine.onnx.checks import MAXIMUM_BYTES, ModelInfo, ModelRefusedError, Port, inspect_model
from tidemill_engine.onnx.forest import forest_to_onnx
from tidemill_engine.onnx.golden import golden_inputs
from tidemill_engine.onnx.graph import INPUT, OUTPUT, Signature, schema_digest
from tidemill_engine.onnx.lightgbm_text import UnsupportedModelError, parse_lightgbm
from tidemill_engine.onnx.linear import linear_to_onnx
from tidemill_engine.onnx.models import Calibration, Forest, LinearModel, Tree, leaf_indices, probabilities

__all__ = [
    "INPUT",
    "MAXIMUM_BYTES",
    "OUTPUT",
    "Calibration",
    "Forest",
    "LinearModel",
    "ModelInfo",
    "ModelRefusedError",
    "Port",
    "Signature",
    "Tree",
    "UnsupportedModelError",
    "forest_to_onnx",
    "golden_inputs",
    "inspect_model",
    "leaf_indices",
    "linear_to_onnx",
    "parse_lightgbm",
    "probabilities",
    "schema_digest",
]
