"""What every canonical model has in common: names, versions, metadata, order, bytes.

The same arrays give the same bytes: names are fixed, initialisers and metadata are sorted, operator sets and the IR
version are pinned, and neither a time nor a producer's version is written.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto, helper

from tidemill_contracts.pipeline.spec import canonical_digest

INPUT = "features"
OUTPUT = "probability"
OPSET = 17
ML_OPSET = 3
IR_VERSION = 8
ML_DOMAIN = "ai.onnx.ml"
FEATURES_KEY = "tidemill.features"
SCHEMA_KEY = "tidemill.schema"
CALIBRATION_KEY = "tidemill.calibration"


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model is fed: feature names in column order, and the digest of their schema (by default of the names)."""

    features: tuple[str, ...]
    schema: str

    @classmethod
    def of(cls, features: Sequence[str], schema: str | None = None) -> "Signature":
        """The signature of ordered, distinct names; raises ValueError for none or for repeated ones."""
        names = tuple(features)
        if not names or len(set(names)) != len(names):
            raise ValueError("feature names must be distinct, and at least one")
        return cls(names, schema or schema_digest(names))


def schema_digest(features: Sequence[str]) -> str:
    """Digest of the ordered feature names, the same that a logged prediction carries."""
    return canonical_digest(list(features))


def build(
    nodes: Sequence[NodeProto],
    initialisers: Sequence[TensorProto],
    signature: Signature,
    metadata: dict[str, str],
) -> bytes:
    """Canonical bytes of a graph from `features` float32 [N, F] to `probability` float32 [N]."""
    graph = helper.make_graph(
        nodes=list(nodes),
        name="tidemill",
        inputs=[helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["N", len(signature.features)])],
        outputs=[helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N"])],
        initializer=sorted(initialisers, key=lambda tensor: tensor.name),
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(ML_DOMAIN, ML_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="tidemill")
    _describe(model, {FEATURES_KEY: _json(list(signature.features)), SCHEMA_KEY: signature.schema, **metadata})
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def calibration_metadata(slope: float, intercept: float) -> dict[str, str]:
    """The calibration that is folded into the weights, for a reader; `repr` of a float64 reads back exactly."""
    return {CALIBRATION_KEY: _json([slope, intercept])}


def _describe(model: ModelProto, metadata: dict[str, str]) -> None:
    for key, value in sorted(metadata.items()):
        model.metadata_props.add(key=key, value=value)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
