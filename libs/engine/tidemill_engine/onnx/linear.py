"""Writes a linear model with its standardisation, clipping and nulls inside the graph."""

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper

from tidemill_engine.arrays import Float64s
from tidemill_engine.onnx.graph import INPUT, OUTPUT, Signature, build, calibration_metadata
from tidemill_engine.onnx.models import CLIP, Calibration, LinearModel


def linear_to_onnx(
    model: LinearModel,
    feature_names: Sequence[str],
    calibration: Calibration | tuple[float, float] | None = None,
    *,
    schema_digest: str | None = None,
) -> bytes:
    """Canonical ONNX bytes of a linear model; the calibration is folded into weights and bias.

    Raises:
        ValueError: the names do not match the weights, or a parameter is not finite in float32.
    """
    signature = Signature.of(feature_names, schema_digest)
    if len(signature.features) != len(model.weights):
        raise ValueError(f"{len(signature.features)} names for {len(model.weights)} weights")
    slope, intercept = (float(value) for value in calibration or Calibration())
    tensors = [
        _tensor("bias", np.array(slope * model.bias + intercept)),
        _tensor("inverse_scales", 1.0 / model.scales),
        _tensor("lower", np.array(-CLIP)),
        _tensor("means", model.means),
        _tensor("null_terms", slope * model.null_terms),
        _tensor("upper", np.array(CLIP)),
        _tensor("weights", slope * model.weights),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
    ]
    return build(_nodes(), tensors, signature, calibration_metadata(slope, intercept))


def _nodes() -> list[NodeProto]:
    steps = [
        ("IsNaN", [INPUT], "null"),
        ("Sub", [INPUT, "means"], "centred"),
        ("Mul", ["centred", "inverse_scales"], "standardised"),
        ("Clip", ["standardised", "lower", "upper"], "clipped"),
        ("Mul", ["clipped", "weights"], "known_terms"),
        ("Where", ["null", "null_terms", "known_terms"], "terms"),
        ("ReduceSum", ["terms", "axis"], "sum"),
        ("Add", ["sum", "bias"], "raw"),
        ("Sigmoid", ["raw"], OUTPUT),
    ]
    nodes = [helper.make_node(kind, inputs, [output], name=output) for kind, inputs, output in steps]
    nodes[6].attribute.append(helper.make_attribute("keepdims", 0))
    return nodes


def _tensor(name: str, values: Float64s) -> TensorProto:
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
    if not np.isfinite(rounded).all():
        raise ValueError(f"{name} is not finite in float32")
    return helper.make_tensor(name, TensorProto.FLOAT, list(rounded.shape), rounded.ravel().tolist())
