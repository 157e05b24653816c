"""Plain ONNX models as people bring them: several inputs and outputs, every datatype, and what must not be taken."""

from typing import Any

from onnx import TensorProto, helper

KINDS = {
    "BOOL": TensorProto.BOOL, "INT8": TensorProto.INT8, "INT16": TensorProto.INT16, "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16, "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64, "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}  # fmt: skip


def onnx_model(nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any]) -> bytes:
    """A model from nodes; ports are name to (datatype, shape)."""
    ports = [
        [helper.make_tensor_value_info(name, KINDS[kind], shape) for name, (kind, shape) in each.items()]
        for each in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "model", ports[0], ports[1])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def two_and_two() -> bytes:
    """`sum` = a + b and `label` = names, of FP32 a [N, 3], FP32 b [3] and BYTES names [N]."""
    return onnx_model(
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Identity", ["names"], ["label"])],
        {"a": ("FP32", ["N", 3]), "b": ("FP32", [3]), "names": ("BYTES", ["M"])},
        {"sum": ("FP32", ["N", 3]), "label": ("BYTES", ["M"])},
    )


def echo(datatype: str) -> bytes:
    """`y` = x, of any size."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    return onnx_model(nodes, {"x": (datatype, ["N"])}, {"y": (datatype, ["N"])})


def root() -> bytes:
    """`y` = the square root of x: NaN below zero."""
    return onnx_model([helper.make_node("Sqrt", ["x"], ["y"])], {"x": ("FP32", ["N"])}, {"y": ("FP32", ["N"])})


def reshaped() -> bytes:
    """`y` = x in the shape that is asked for: fails where it does not fit."""
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    return onnx_model(
        nodes, {"x": ("FP32", ["N"]), "shape": ("INT64", ["D"])}, {"y": ("FP32", None)}
    )  # fmt: skip
