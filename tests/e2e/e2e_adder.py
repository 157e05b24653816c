"""A model that somebody else might have made: the sum of two numbers."""

from onnx import TensorProto, helper


def adder() -> bytes:
    """The bytes of its file: `x` and `y` in, `sum` out, each float32 [N]."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in ("x", "y", "sum")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "y"], ["sum"])], "model", ports[:2], ports[2:])
    model: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return model
