"""What is read from model bytes before anything runs them, and what is refused."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper

from tidemill_engine.onnx import (
    LinearModel,
    ModelRefusedError,
    golden_inputs,
    inspect_model,
    linear_to_onnx,
    probabilities,
    schema_digest,
)

NAMES = ["a", "b", "c"]


def linear() -> LinearModel:
    return LinearModel(
        weights=np.array([0.5, -1.25, 2.0]),
        bias=-0.75,
        means=np.array([1.0, 0.0, 1_000_000.0]),
        scales=np.array([2.0, 0.5, 100.0]),
        null_terms=np.array([0.0, 0.3, -0.2]),
    )


def model() -> ModelProto:
    return onnx.load_model_from_string(linear_to_onnx(linear(), NAMES))


@pytest.mark.parametrize("calibration", [None, (1.7, -0.4)])
def test_a_linear_model_answers_as_its_float64_self(calibration: tuple[float, float] | None) -> None:
    rng = np.random.default_rng(4)
    rows = (rng.normal(size=(20_000, 3)) * [5, 1, 300] + [0, 0, 1e6]).astype(np.float32)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    rows = np.vstack((rows, golden_inputs(3)))
    session = onnxruntime.InferenceSession(linear_to_onnx(linear(), NAMES, calibration))
    slope, intercept = calibration or (1.0, 0.0)
    expected = probabilities(slope * linear().raw_scores(rows) + intercept)
    answer = session.run(["probability"], {"features": rows})[0]
    assert answer.shape == (len(rows),)
    assert np.abs(answer - expected).max() < 1e-6


def test_linear_bytes_repeat_and_follow_the_weights() -> None:
    first = linear_to_onnx(linear(), NAMES)
    assert first == linear_to_onnx(linear(), NAMES)
    assert first != linear_to_onnx(linear(), NAMES, (1.0, 0.1))
    onnx.checker.check_model(onnx.load_model_from_string(first), full_check=True)


def test_a_model_describes_itself() -> None:
    data = linear_to_onnx(linear(), NAMES, (2.0, 0.25), schema_digest="ab" * 32)
    info = inspect_model(data)
    assert (info.features, info.schema, info.size) == (("a", "b", "c"), "ab" * 32, len(data))
    assert [(port.name, port.element, port.shape) for port in info.inputs] == [("features", 1, (None, 3))]
    assert [(port.name, port.shape) for port in info.outputs] == [("probability", (None,))]
    assert info.metadata["tidemill.calibration"] == "[2.0,0.25]"
    assert inspect_model(linear_to_onnx(linear(), NAMES)).schema == schema_digest(NAMES)


def test_schema_digest_depends_on_names_and_order() -> None:
    assert len({schema_digest(names) for names in (["a", "b"], ["b", "a"], ["a", "b", "c"], ["ab"])}) == 4


def external(proto: ModelProto) -> None:
    proto.graph.initializer[0].data_location = TensorProto.EXTERNAL


def external_entry(proto: ModelProto) -> None:
    proto.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")


def external_in_attribute(proto: ModelProto) -> None:
    constant = helper.make_node("Constant", [], ["k"], value=helper.make_tensor("k", TensorProto.FLOAT, [1], [1.0]))
    constant.attribute[0].t.data_location = TensorProto.EXTERNAL
    proto.graph.node.append(constant)


def external_in_branch(proto: ModelProto) -> None:
    tensor = helper.make_tensor("hidden", TensorProto.FLOAT, [1], [1.0])
    tensor.external_data.add(key="location", value="weights.bin")
    branch = helper.make_graph([helper.make_node("Identity", ["hidden"], ["o"])], "branch", [], [], [tensor])
    proto.graph.node.append(helper.make_node("If", ["c"], ["o"], then_branch=branch, else_branch=branch))


def external_sparse(proto: ModelProto) -> None:
    sparse = proto.graph.sparse_initializer.add()
    sparse.values.external_data.add(key="location", value="weights.bin")


def unknown_domain(proto: ModelProto) -> None:
    proto.opset_import.append(helper.make_opsetid("com.example", 1))


def unknown_node_domain(proto: ModelProto) -> None:
    proto.graph.node[0].domain = "com.example"


def future_opset(proto: ModelProto) -> None:
    proto.opset_import[0].version = 99


def no_opset(proto: ModelProto) -> None:
    del proto.opset_import[:]


def functions(proto: ModelProto) -> None:
    proto.functions.add(name="f", domain="")


def training(proto: ModelProto) -> None:
    proto.training_info.add()


def no_output(proto: ModelProto) -> None:
    del proto.graph.output[:]


def no_graph(proto: ModelProto) -> None:
    proto.ClearField("graph")


def repeated_metadata(proto: ModelProto) -> None:
    proto.metadata_props.add(key="tidemill.schema", value="other")


def wrong_feature_count(proto: ModelProto) -> None:
    proto.metadata_props[1].value = '["a"]'


def broken_features(proto: ModelProto) -> None:
    proto.metadata_props[1].value = "["


def features_not_names(proto: ModelProto) -> None:
    proto.metadata_props[1].value = "[1,2,3]"


def sequence_input(proto: ModelProto) -> None:
    proto.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(proto.graph.input[0].type))


def nested_deeply(proto: ModelProto) -> None:
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "inner", [], [])
    for _ in range(12):
        graph = helper.make_graph([helper.make_node("Loop", ["x"], ["y"], body=graph)], "outer", [], [])
    proto.graph.node.extend(graph.node)


@pytest.mark.parametrize(
    "spoil",
    [
        broken_features, external, external_entry, external_in_attribute, external_in_branch, external_sparse,
        features_not_names, functions, future_opset, nested_deeply, no_graph, no_opset, no_output, repeated_metadata,
        sequence_input, training, unknown_domain, unknown_node_domain, wrong_feature_count,
    ],
)  # fmt: skip
def test_a_spoiled_model_is_refused(spoil: Callable[[ModelProto], None]) -> None:
    proto = model()
    inspect_model(proto.SerializeToString())
    spoil(proto)
    with pytest.raises(ModelRefusedError):
        inspect_model(proto.SerializeToString())


@pytest.mark.parametrize("data", [b"", b"\x00", b"not a model", b"\xff" * 100, bytes(1000)])
def test_bytes_that_are_no_model_are_refused(data: bytes) -> None:
    with pytest.raises(ModelRefusedError):
        inspect_model(data)


def test_every_truncation_is_refused_or_described() -> None:
    data = linear_to_onnx(linear(), NAMES)
    for length in range(0, len(data), 7):
        try:
            inspect_model(data[:length])
        except ModelRefusedError:
            continue


def test_oversize_is_refused_before_parsing() -> None:
    data = linear_to_onnx(linear(), NAMES)
    with pytest.raises(ModelRefusedError, match="more than"):
        inspect_model(data, maximum_bytes=len(data) - 1)


def test_a_foreign_model_has_no_feature_names() -> None:
    proto = model()
    del proto.metadata_props[:]
    assert inspect_model(proto.SerializeToString()).features is None


def test_golden_rows_are_fixed_and_hold_the_hard_values() -> None:
    rows = golden_inputs(5)
    assert rows.dtype == np.float32
    assert np.array_equal(rows, golden_inputs(5), equal_nan=True)
    assert (rows == 0).all(axis=1).any()
    assert np.isnan(rows).all(axis=1).any()
    assert np.nanmax(rows) >= 1e29
    assert not np.isnan(golden_inputs(5, nulls=False)).any()
    assert golden_inputs(1).shape[1] == 1


def test_parameters_that_float32_cannot_hold_are_refused() -> None:
    wild = linear()
    wild.weights[1] = 1e300
    with pytest.raises(ValueError, match="weights is not finite"):
        linear_to_onnx(wild, NAMES)
    with pytest.raises(ValueError, match="2 names for 3"):
        linear_to_onnx(linear(), NAMES[:2])
