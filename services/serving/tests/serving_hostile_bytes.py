"""Hostile files that are no model, or are one only in part: made here, by name, never committed."""

import gzip
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper
from serving_cases import linear

FEATURES = ["a", "b"]
MIB = 1024 * 1024


def good() -> bytes:
    return linear(FEATURES)


def parsed() -> ModelProto:
    return onnx.load_model_from_string(good())


def _scrap(seed: int, size: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8).tobytes()


def _nested(depth: int) -> bytes:
    """Field 7 (the graph) inside of field 7, and so on."""
    data = b""
    for _ in range(depth):
        size, length = len(data), b""
        while size > 127:
            length += bytes([size & 127 | 128])
            size >>= 7
        data = b"\x3a" + length + bytes([size]) + data
    return data


FILES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "zeros": lambda: bytes(4096),
    "ones": lambda: b"\xff" * MIB,
    "text": lambda: b"this is not a model\n" * 50,
    "html": lambda: b"<html><body>502 Bad Gateway</body></html>",
    "json": lambda: b'{"graph": {"node": []}}',
    "pickle": lambda: pickle.dumps({"weights": [1.0, 2.0]}),
    "gzip": lambda: gzip.compress(good()),
    "executable": lambda: b"\x7fELF\x02\x01\x01" + _scrap(1, 2000),
    "picture": lambda: b"\x89PNG\r\n\x1a\n" + _scrap(2, 2000),
    "random": lambda: _scrap(3, 10_000),
    "too large": lambda: good() + bytes(65 * MIB),
    "of three features": lambda: linear([*FEATURES, "c"]),
    "half": lambda: good()[: len(good()) // 2],
    "without its end": lambda: good()[:-1],
    "without its beginning": lambda: good()[7:],
    "a length beyond the end": lambda: b"\x3a\xff\xff\xff\xff\x7f" + good(),
    "a number without an end": lambda: b"\x08" + b"\xff" * 64,
    "nested 5,000 deep": lambda: _nested(5000),
    "groups without an end": lambda: b"\x3b" * 5000,
}
"""By name, what is in the file."""


def _no_graph(model: ModelProto) -> None:
    model.ClearField("graph")


def _no_input(model: ModelProto) -> None:
    model.graph.ClearField("input")


def _no_output(model: ModelProto) -> None:
    model.graph.ClearField("output")


def _no_operator_sets(model: ModelProto) -> None:
    model.ClearField("opset_import")


def _operator_set_of_the_future(model: ModelProto) -> None:
    model.opset_import[0].version = 9999


def _foreign_domain(model: ModelProto) -> None:
    model.graph.node[0].domain = "com.example"


def _foreign_operator_set(model: ModelProto) -> None:
    model.opset_import.add(domain="com.microsoft", version=1)


def _unknown_operator(model: ModelProto) -> None:
    model.graph.node[1].op_type = "Shell"


def _cycle(model: ModelProto) -> None:
    model.graph.node[1].input[0] = model.graph.node[4].output[0]


def _dangling(model: ModelProto) -> None:
    model.graph.node[1].input[0] = "nowhere"


def _written_twice(model: ModelProto) -> None:
    model.graph.node[2].output[0] = model.graph.node[1].output[0]


def _output_that_nobody_writes(model: ModelProto) -> None:
    model.graph.output[0].name = "nowhere"


def _function(model: ModelProto) -> None:
    model.functions.add(name="f", domain="")


def _training(model: ModelProto) -> None:
    model.training_info.add()


def _external(model: ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def _external_above(model: ModelProto) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="../../../../etc/passwd")


def _external_in_an_attribute(model: ModelProto) -> None:
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [0.0])
    tensor.external_data.add(key="location", value="/proc/self/mem")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["t"], value=tensor))


def _fewer_values_than_told(model: ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [2**20]


def _negative_size(model: ModelProto) -> None:
    model.graph.initializer[-1].dims[:] = [-1]


def _sizes_that_overflow(model: ModelProto) -> None:
    model.graph.initializer[-1].dims[:] = [2**40, 2**40]


def _type_of_no_kind(model: ModelProto) -> None:
    model.graph.initializer[0].data_type = 99


def _text_as_weights(model: ModelProto) -> None:
    tensor = model.graph.initializer[-1]
    words: Any = [b"a", b"b"]
    tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.STRING, [2], words))


def _whole_numbers_as_input(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64


def _input_of_three_ranks(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim.add().dim_value = 3


def _two_inputs(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["N", 2]))


def _another_width(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7


def _names_of_others(model: ModelProto) -> None:
    _metadata(model)["tidemill.features"].value = '["b","a"]'


def _names_that_are_no_list(model: ModelProto) -> None:
    _metadata(model)["tidemill.features"].value = '{"a": 1}'


def _key_twice(model: ModelProto) -> None:
    model.metadata_props.append(model.metadata_props[0])


def _weights_that_are_no_numbers(model: ModelProto) -> None:
    tensor = model.graph.initializer[-1]
    tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.FLOAT, [2], [float("nan"), float("inf")]))


def _metadata(model: ModelProto) -> dict[str, Any]:
    return {entry.key: entry for entry in model.metadata_props}


CHANGES: tuple[Callable[[ModelProto], None], ...] = (
    _no_graph, _no_input, _no_output, _no_operator_sets, _operator_set_of_the_future, _foreign_domain,
    _foreign_operator_set, _unknown_operator, _cycle, _dangling, _written_twice, _output_that_nobody_writes, _function,
    _training, _external, _external_above, _external_in_an_attribute, _fewer_values_than_told, _negative_size,
    _sizes_that_overflow, _type_of_no_kind, _text_as_weights, _whole_numbers_as_input, _input_of_three_ranks,
    _two_inputs, _another_width, _names_of_others, _names_that_are_no_list, _key_twice, _weights_that_are_no_numbers,
)  # fmt: skip
"""What makes a good model a bad one."""


def changed(change: Callable[[ModelProto], None]) -> bytes:
    """The good model after a change."""
    model = parsed()
    change(model)
    return bytes(model.SerializeToString())
