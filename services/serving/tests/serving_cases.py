"""A small pipeline, its vectors, models and requests."""

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import numpy as np
from onnx import TensorProto, helper

from tidemill_contracts.events import Member, Released, ReleaseReason
from tidemill_contracts.pipeline import PipelineSpec, parse_pipeline
from tidemill_engine.learn.boosting import fit_lightgbm
from tidemill_engine.onnx import LinearModel, linear_to_onnx

HOUR_US = 3_600_000_000
T0_US = 1_357_000_000_000_000
PARTITIONS = 3
FILE = """
version: 1
name: flights
partitions: 3
sources:
  departures:
    key: [flight]
    time: at
    fields:
      flight: {type: string}
      carrier: {type: category, values: [AA, UA, DL]}
      at: {type: timestamp}
      delay: {type: float}
  arrivals:
    key: [flight]
    fields:
      flight: {type: string}
      late: {type: boolean}
entities:
  carrier: {key: [carrier]}
views:
  by-carrier:
    source: departures
    entity: carrier
    windows: {1h: {length: 1h}}
    aggregations: [{function: mean, field: delay}, {function: count}]
request:
  fields:
    flight: {type: string, max_length: 32}
    carrier: {type: category, values: [AA, UA, DL]}
    distance: {type: float, min: 0, max: 10000}
    seats: {type: integer, required: false}
    cargo: {type: boolean, required: false}
    scheduled: {type: timestamp}
  key: flight
  time: scheduled
  features:
    distance: distance
    hour: hour(scheduled)
label: {source: arrivals, join: flight, expression: late}
"""


def pipeline(*, missing: str = "default", extra: str = "") -> PipelineSpec:
    """The pipeline of the tests; `missing` is its view's rule for unknown entities, `extra` more request features."""
    text = FILE.replace("    entity: carrier\n", f"    entity: carrier\n    missing: {missing}\n")
    return parse_pipeline(text.replace("    hour: hour(scheduled)\n", f"    hour: hour(scheduled)\n{extra}").encode())


def inputs(**changes: object) -> dict[str, Any]:
    """The inputs of one good request; None leaves a field out."""
    values: dict[str, object] = {
        "flight": "AA-1", "carrier": "AA", "distance": 100.0, "scheduled": "2013-01-01T10:00:00Z",
    } | changes  # fmt: skip
    return {name: value for name, value in values.items() if value is not None}


def linear(features: Sequence[str], *, bias: float = 0.0, weight: float = 0.001) -> bytes:
    """A small logistic model: the same arguments give the same bytes."""
    width = len(features)
    model = LinearModel(np.full(width, weight), bias, np.zeros(width), np.ones(width), np.zeros(width))
    return linear_to_onnx(model, features)


def forest(features: Sequence[str], *, leaves: int = 31, trees: int = 40) -> bytes:
    """A small forest: the same arguments give the same bytes."""
    made = np.random.default_rng(5)
    rows = made.normal(size=(4000, len(features))).astype(np.float32)
    rows[made.random(rows.shape) < 0.2] = np.nan
    third = rows[:, 2 % len(features)]
    labels = (np.nan_to_num(rows[:, 0] * rows[:, 1]) + np.isnan(third) + made.normal(size=len(rows)) > 0.5) * 1.0
    settings = {"num_iterations": trees, "num_leaves": leaves, "min_data_in_leaf": 5}
    return fit_lightgbm(rows, labels, settings, 5).to_onnx(features)


def released(
    spec: PipelineSpec, epoch: int, digest: str, *, shadow: str | None = None, effective_at_us: int | None = None
) -> Released:
    """A release of one model for the whole pipeline."""
    return Released(
        pipeline=spec.name,
        epoch=epoch,
        members=[Member(name="champion", model=digest, version=epoch)],
        shadows=[] if shadow is None else [Member(name="baseline", model=shadow, version=1)],
        views={view: spec.view_version(view) for view in spec.views},
        features=list(spec.feature_names()),
        spec=spec.digest(),
        policy=spec.policy_digest(),
        at_us=T0_US,
        effective_at_us=effective_at_us,
        reason=ReleaseReason(kind="gate", event_id=uuid4()),
        previous_epoch=epoch - 1,
    )


def integer_division(width: int) -> bytes:
    """A model that divides the lowest integer by -1 while it is being opened: the processor traps."""
    constants = [
        helper.make_tensor("lowest", TensorProto.INT32, [1], [-(2**31)]),
        helper.make_tensor("minus_one", TensorProto.INT32, [1], [-1]),
    ]
    nodes = [
        helper.make_node("Div", ["lowest", "minus_one"], ["bad"]),
        helper.make_node("Cast", ["bad"], ["worse"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["features"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Add", ["mean", "worse"], ["probability"]),
    ]
    return _model(nodes, width, constants)


def endless_loop(width: int) -> bytes:
    """A model whose loop has more rounds than anyone will wait for."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["condition_in"], ["condition_out"]),
            helper.make_node("Add", ["value_in", "step"], ["value_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("condition_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value_in", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("condition_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value_out", TensorProto.FLOAT, [1]),
        ],
    )
    constants = [
        helper.make_tensor("rounds", TensorProto.INT64, [], [2**62]),
        helper.make_tensor("go_on", TensorProto.BOOL, [], [True]),
        helper.make_tensor("start", TensorProto.FLOAT, [1], [0.0]),
        helper.make_tensor("step", TensorProto.FLOAT, [1], [0.0]),
    ]
    nodes = [
        helper.make_node("Loop", ["rounds", "go_on", "start"], ["end"], body=body),
        helper.make_node("ReduceMean", ["features"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Add", ["mean", "end"], ["probability"]),
    ]
    return _model(nodes, width, constants)


def not_a_number(width: int) -> bytes:
    """A model that answers every row with NaN, successfully."""
    nodes = [
        helper.make_node("ReduceMean", ["features"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Sub", ["mean", "mean"], ["zero"]),
        helper.make_node("Div", ["zero", "zero"], ["probability"]),
    ]
    return _model(nodes, width, [])


def out_of_memory(width: int) -> bytes:
    """A model that asks for 2^40 bytes."""
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["huge"]),
        helper.make_node("ReduceMean", ["huge"], ["part"], keepdims=0),
        helper.make_node("ReduceMean", ["features"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Add", ["mean", "part"], ["probability"]),
    ]
    return _model(nodes, width, [helper.make_tensor("shape", TensorProto.INT64, [1], [2**38])])


def picky(width: int, forbidden: float) -> bytes:
    """A model that answers 0.5, but NaN where the first feature is `forbidden`: the golden inputs do not find it."""
    constants = [
        helper.make_tensor("forbidden", TensorProto.FLOAT, [], [forbidden]),
        helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
        helper.make_tensor("nothing", TensorProto.FLOAT, [], [float("nan")]),
        helper.make_tensor("first", TensorProto.INT64, [], [0]),
    ]
    nodes = [
        helper.make_node("Gather", ["features", "first"], ["column"], axis=1),
        helper.make_node("Equal", ["column", "forbidden"], ["found"]),
        helper.make_node("Where", ["found", "nothing", "half"], ["probability"]),
    ]
    return _model(nodes, width, constants)


def _model(nodes: list[Any], width: int, constants: list[Any]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "hostile",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N"])],
        constants,
    )
    opsets = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
