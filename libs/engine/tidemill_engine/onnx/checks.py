"""Looks at model bytes without running them: what a model is, and whether it may be opened at all.

Parsing here is no proof of harmlessness: bytes that pass can still hang or kill a runtime, so serving opens them in a
limited child process first.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs in protobuf
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from tidemill_engine.onnx.graph import FEATURES_KEY, ML_DOMAIN, SCHEMA_KEY

MAXIMUM_BYTES = 64 * 1024 * 1024
OPSETS = {"": range(9, 25), "ai.onnx": range(9, 25), ML_DOMAIN: range(1, 6)}
"""Accepted operator set versions by domain; anything else is code we do not know."""

DICE = frozenset({"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"})
REFUSED = {"Loop": "how long it runs depends on the data"} | dict.fromkeys(
    DICE, "the same rows must have the same answers"
)
"""Operators that no model may have, by name: no test before a release can tell what they do after it."""

_DEEPEST = 8


class ModelRefusedError(ValueError):
    """The bytes are not a model that may be opened; the text says why."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: ONNX element type, and shape with None for a free dimension."""

    name: str
    element: int
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model says of itself. `features` and `schema` are None for models that were not written here."""

    digest: str
    size: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opsets: dict[str, int]
    features: tuple[str, ...] | None
    schema: str | None
    metadata: dict[str, str]


def inspect_model(data: bytes, *, maximum_bytes: int = MAXIMUM_BYTES) -> ModelInfo:
    """Read a model's description from its bytes.

    Raises:
        ModelRefusedError: oversized, not a model, external data, local functions, unknown domains or operator sets,
            operators that repeat for ever or draw at random, repeated metadata, no input or output, or feature names
            that do not match the input.
    """
    if len(data) > maximum_bytes:
        raise ModelRefusedError(f"{len(data)} bytes, more than {maximum_bytes}")
    model = _parse(data)
    opsets = _opsets(model)
    _refuse_external(model.graph)
    metadata = _metadata(model)
    initialised = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_port(value) for value in model.graph.input if value.name not in initialised)
    outputs = tuple(_port(value) for value in model.graph.output)
    if not inputs or not outputs:
        raise ModelRefusedError("no input or no output")
    features = _features(metadata, inputs)
    digest = hashlib.sha256(data).hexdigest()
    return ModelInfo(digest, len(data), inputs, outputs, opsets, features, metadata.get(SCHEMA_KEY), metadata)


def _parse(data: bytes) -> ModelProto:
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise ModelRefusedError("not an ONNX model") from None
    if not model.graph.node:
        raise ModelRefusedError("not an ONNX model: no graph")
    if model.functions or model.training_info:
        raise ModelRefusedError("local functions and training graphs are refused")
    return model


def _opsets(model: ModelProto) -> dict[str, int]:
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if not opsets or len(opsets) != len(model.opset_import):
        raise ModelRefusedError("operator sets are missing or declared twice")
    for domain, version in opsets.items():
        if domain not in OPSETS or version not in OPSETS[domain]:
            raise ModelRefusedError(f"operator set {domain or 'ai.onnx'} {version} is not accepted")
    return opsets


def _refuse_external(graph: GraphProto, depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise ModelRefusedError("graphs are nested too deeply")
    _refuse_tensors(graph.initializer)
    for sparse in graph.sparse_initializer:
        _refuse_tensors((sparse.values, sparse.indices))
    for node in graph.node:
        if node.domain not in OPSETS:
            raise ModelRefusedError(f"operator domain {node.domain} is not accepted")
        if node.op_type in REFUSED:
            raise ModelRefusedError(f"operator {node.op_type} is not accepted: {REFUSED[node.op_type]}")
        for attribute in node.attribute:
            _refuse_tensors(_attribute_tensors(attribute))
        for nested in _nested(node):
            _refuse_external(nested, depth + 1)


def _attribute_tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    yield attribute.t
    yield from attribute.tensors
    for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
        yield sparse.values
        yield sparse.indices


def _nested(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _refuse_tensors(tensors: Iterable[TensorProto]) -> None:
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise ModelRefusedError("external data is refused")


def _metadata(model: ModelProto) -> dict[str, str]:
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if len(metadata) != len(model.metadata_props):
        raise ModelRefusedError("a metadata key is repeated")
    return metadata


def _port(value: ValueInfoProto) -> Port:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        raise ModelRefusedError(f"{value.name} is not a tensor")
    shape = tuple(int(size.dim_value) if size.HasField("dim_value") else None for size in kind.shape.dim)
    return Port(value.name, int(kind.elem_type), shape)


def _features(metadata: dict[str, str], inputs: tuple[Port, ...]) -> tuple[str, ...] | None:
    if FEATURES_KEY not in metadata:
        return None
    try:
        names = json.loads(metadata[FEATURES_KEY])
    except ValueError:
        raise ModelRefusedError("feature names are not JSON") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise ModelRefusedError("feature names are not a list of distinct strings")
    if len(inputs) != 1 or inputs[0].shape[-1:] != (len(names),):
        raise ModelRefusedError("feature names do not match the input")
    return tuple(names)
