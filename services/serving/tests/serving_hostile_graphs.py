"""Hostile models that are well-formed: they crash, hang, bloat or lie when they are opened or asked."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from onnx import TensorProto, helper
from serving_cases import endless_loop, integer_division, not_a_number, out_of_memory
from serving_hostile_bytes import CHANGES, FILES, changed

WIDTH = 2
ML = "ai.onnx.ml"
Nodes = list[Any]


def _model(nodes: Nodes, constants: Sequence[Any] = ()) -> bytes:
    graph = helper.make_graph(
        nodes, "hostile",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", WIDTH])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, None)],
        list(constants),
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 3)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def _floats(name: str, values: Sequence[float], shape: Sequence[int] | None = None) -> Any:  # noqa: ANN401 - onnx's
    return helper.make_tensor(name, TensorProto.FLOAT, [len(values)] if shape is None else shape, values)


def _whole(name: str, values: Sequence[int], shape: Sequence[int] | None = None) -> Any:  # noqa: ANN401 - onnx's
    return helper.make_tensor(name, TensorProto.INT64, [len(values)] if shape is None else shape, values)


def _constant(value: float) -> bytes:
    """Every row has this answer."""
    nodes = [
        helper.make_node("ReduceMean", ["features"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("IsNaN", ["mean"], ["odd"]),
        helper.make_node("Where", ["odd", "answer", "answer"], ["probability"]),
    ]
    return _model(nodes, [_floats("answer", [value], [])])


def _mean_then(*nodes: Any) -> Nodes:  # noqa: ANN401 - onnx's
    return [
        helper.make_node("IsNaN", ["features"], ["null"]),
        helper.make_node("Where", ["null", "zero", "features"], ["known"]),
        helper.make_node("ReduceMean", ["known"], ["mean"], axes=[1], keepdims=0),
        *nodes,
    ]


_ZERO = _floats("zero", [0.0], [])


def _neighbours() -> bytes:
    """The answer to a row is made from all rows of the batch."""
    nodes = _mean_then(
        helper.make_node("ReduceMean", ["mean"], ["all"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["mean", "all"], ["part"]),
        helper.make_node("Sigmoid", ["part"], ["probability"]),
    )
    return _model(nodes, [_ZERO])


def _dice() -> bytes:
    nodes = _mean_then(
        helper.make_node("RandomUniformLike", ["mean"], ["probability"], low=0.0, high=1.0, dtype=1),
    )
    return _model(nodes, [_ZERO])


def _one_for_all() -> bytes:
    return _model([*_mean_then(helper.make_node("ReduceMax", ["mean"], ["top"], keepdims=0)),
                   helper.make_node("Sigmoid", ["top"], ["probability"])], [_ZERO])  # fmt: skip


def _one_too_many() -> bytes:
    nodes = _mean_then(
        helper.make_node("Sigmoid", ["mean"], ["some"]),
        helper.make_node("Concat", ["some", "extra"], ["probability"], axis=0),
    )
    return _model(nodes, [_ZERO, _floats("extra", [0.5])])


def _words() -> bytes:
    return _model([*_mean_then(), helper.make_node("Cast", ["mean"], ["probability"], to=TensorProto.STRING)], [_ZERO])


def _nan_for_null() -> bytes:
    nodes = [
        helper.make_node("ReduceMean", ["features"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Sigmoid", ["mean"], ["probability"]),
    ]
    return _model(nodes)


def _place_far_away() -> bytes:
    nodes = _mean_then(helper.make_node("Gather", ["features", "far"], ["probability"], axis=1))
    return _model(nodes, [_ZERO, _whole("far", [2**40], [])])


def _place_from_data() -> bytes:
    nodes = _mean_then(
        helper.make_node("Cast", ["mean"], ["place"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "place"], ["probability"], axis=0),
    )
    return _model(nodes, [_ZERO, _floats("table", [0.25, 0.5])])


def _huge(kind: str, amounts: Sequence[int]) -> bytes:
    nodes = _mean_then(
        helper.make_node(kind, ["zeros", "amounts"], ["huge"]),
        helper.make_node("ReduceMax", ["huge"], ["top"], keepdims=0),
        helper.make_node("Add", ["mean", "top"], ["sum"]),
        helper.make_node("Sigmoid", ["sum"], ["probability"]),
    )
    return _model(nodes, [_ZERO, _floats("zeros", [0.0], [1] * len(amounts)), _whole("amounts", amounts)])


def _remainder() -> bytes:
    nodes = _mean_then(
        helper.make_node("Mod", ["left", "right"], ["rest"]),
        helper.make_node("Cast", ["rest"], ["bad"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["mean", "bad"], ["sum"]),
        helper.make_node("Sigmoid", ["sum"], ["probability"]),
    )
    return _model(nodes, [_ZERO, _whole("left", [1], []), _whole("right", [0], [])])


def products(times: int) -> bytes:
    """A model that multiplies large matrices for as long as one likes, out of a few bytes."""
    steps = [helper.make_node("MatMul", ["m0", f"m{at}"], [f"m{at + 1}"]) for at in range(times)]
    nodes = _mean_then(
        helper.make_node("ConstantOfShape", ["size"], ["flat"]),
        helper.make_node("ReduceSum", ["mean"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["start"]),  # of the data: else it would be folded away
        helper.make_node("Add", ["flat", "start"], ["m0"]),
        *steps,
        helper.make_node("ReduceMin", [f"m{times}"], ["least"], keepdims=0),
        helper.make_node("Mul", ["least", "zero"], ["nothing"]),
        helper.make_node("Add", ["mean", "nothing"], ["sums"]),
        helper.make_node("Sigmoid", ["sums"], ["probability"]),
    )
    return _model(nodes, [_ZERO, _whole("size", [1500, 1500])])


def _branches(depth: int) -> bytes:
    """A branch in a branch, and so on."""
    inner = helper.make_node("Identity", ["zero"], ["end0"])
    for at in range(depth):
        names = f"end{at}", f"other{at}"
        there, not_there = (
            helper.make_graph([node], "branch", [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [])])
            for node, name in zip((inner, helper.make_node("Identity", ["zero"], [names[1]])), names, strict=True)
        )
        inner = helper.make_node("If", ["yes"], [f"end{at + 1}"], then_branch=there, else_branch=not_there)
    add = helper.make_node("Add", ["mean", f"end{depth}"], ["sum"])
    nodes = _mean_then(inner, add, helper.make_node("Sigmoid", ["sum"], ["probability"]))
    return _model(nodes, [_ZERO, helper.make_tensor("yes", TensorProto.BOOL, [], [True])])


def _tree(**changes: Any) -> bytes:  # noqa: ANN401 - attributes of onnx
    """One split and two leaves, and something wrong with them."""
    attributes: dict[str, Any] = {
        "n_targets": 1, "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_values": [0.0, 0.0, 0.0],
        "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0], "target_treeids": [0, 0],
        "target_nodeids": [1, 2], "target_ids": [0, 0], "target_weights": [0.25, 0.75],
    }  # fmt: skip
    node = helper.make_node("TreeEnsembleRegressor", ["features"], ["column"], domain=ML, **(attributes | changes))
    return _model([node, helper.make_node("Squeeze", ["column", "axis"], ["probability"])], [_whole("axis", [1])])


GRAPHS: dict[str, Callable[[], bytes]] = {
    "traps the processor": lambda: integer_division(WIDTH),
    "loops for ever": lambda: endless_loop(WIDTH),
    "answers nothing": lambda: not_a_number(WIDTH),
    "asks for 2^40 bytes": lambda: out_of_memory(WIDTH),
    "answers two": lambda: _constant(2.0),
    "answers less than nothing": lambda: _constant(-0.001),
    "answers infinity": lambda: _constant(float(np.inf)),
    "mixes rows": _neighbours,
    "throws dice": _dice,
    "one answer for all": _one_for_all,
    "one answer too many": _one_too_many,
    "answers in words": _words,
    "not a number for nulls": _nan_for_null,
    "reads far away": _place_far_away,
    "reads where the data says": _place_from_data,
    "expands without end": lambda: _huge("Expand", [2**20, 2**20]),
    "sizes that overflow": lambda: _huge("Expand", [2**32, 2**31]),
    "tiles without end": lambda: _huge("Tile", [2**33]),
    "divides by zero": _remainder,
    "multiplies for hours": lambda: products(5000),
    "slow for every row": lambda: products(3),
    "branches 20 deep": lambda: _branches(20),
    "a tree that goes in circles": lambda: _tree(nodes_truenodeids=[0, 0, 0]),
    "a tree with a child far away": lambda: _tree(nodes_falsenodeids=[2**40, 0, 0]),
    "a tree of another feature": lambda: _tree(nodes_featureids=[2**40, 0, 0]),
    "a tree of the feature after the last": lambda: _tree(nodes_featureids=[WIDTH, 0, 0]),
    "a tree of a feature in others' memory": lambda: _tree(nodes_featureids=[100_000, 0, 0]),
    "a tree of a feature before the first": lambda: _tree(nodes_featureids=[-1, 0, 0]),
    "a tree for another target": lambda: _tree(target_ids=[0, 2**40]),
    "a tree without weights": lambda: _tree(target_weights=[0.5]),
    "a tree with lists of two lengths": lambda: _tree(nodes_values=[0.0]),
    "a tree of no kind": lambda: _tree(nodes_modes=["BRANCH_SHELL", "LEAF", "LEAF"]),
    "a tree with leaves of no number": lambda: _tree(target_weights=[float("nan"), 0.5]),
    "a tree with leaves beyond one": lambda: _tree(target_weights=[1e30, 0.5]),
}
"""By name, what is in the file."""

CORPUS: dict[str, Callable[[], bytes]] = {
    **FILES,
    **{change.__name__.strip("_"): partial(changed, change) for change in CHANGES},
    **GRAPHS,
}
