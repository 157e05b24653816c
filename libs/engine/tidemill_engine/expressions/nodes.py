"""Typed parts of an expression, and how parts of different types come together."""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tidemill_engine.expressions import kinds
from tidemill_engine.expressions.kinds import BOOLEAN, NUMBER, TEXT, Column, FieldType
from tidemill_engine.expressions.operations import Operation
from tidemill_engine.expressions.syntax import Binary, Constant, Tree
from tidemill_engine.expressions.tokens import ExpressionError

_ORDERS: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
NULLS: Mapping[str, object] = {"timestamp": kinds.NULL_TIME, "category": kinds.NO_CODE, "text": None}


@dataclass(frozen=True, slots=True)
class Frame:
    """Columns of `rows` rows in their kinds' form."""

    columns: Mapping[str, Column]
    rows: int


@dataclass(frozen=True, slots=True)
class Node:
    """A typed part of an expression and its two functions; `tree` is where it stands."""

    type: FieldType
    vector: Callable[[Frame], Column]
    scalar: Callable[[Mapping[str, Any]], Any]
    tree: Tree


def constant(type_: FieldType, value: object, tree: Tree) -> Node:
    def vector(frame: Frame) -> Column:
        return kinds.to_array(type_.kind, [value]).repeat(frame.rows)

    return Node(type_, vector, lambda _: value, tree)


def applied(operation: Operation, nodes: Sequence[Node], type_: FieldType, tree: Tree) -> Node:
    """An operation on numbers applied to nodes; unrolled for one and two arguments, which is nearly always."""
    column, single = operation.vector, operation.scalar
    vectors, scalars = [node.vector for node in nodes], [node.scalar for node in nodes]

    def vector(frame: Frame) -> Column:
        return column(*(part(frame) for part in vectors))

    if len(nodes) == 1:
        (only,) = scalars
        return Node(type_, vector, lambda row: single(only(row)), tree)
    if len(nodes) == 2:  # noqa: PLR2004 - see the docstring
        left, right = scalars
        return Node(type_, vector, lambda row: single(left(row), right(row)), tree)
    return Node(type_, vector, lambda row: single(*(part(row) for part in scalars)), tree)


def converted(node: Node, type_: FieldType, one: Callable[[Any], Any]) -> Node:
    """A node whose values go one by one through a table-like function."""

    def vector(frame: Frame) -> Column:
        return kinds.to_array(type_.kind, [one(value) for value in node.vector(frame).tolist()])

    return Node(type_, vector, lambda row: one(node.scalar(row)), node.tree)


def as_number(node: Node, what: str) -> Node:
    """A node usable as a number: true is 1, false is 0."""
    if node.type.kind == "null":
        return constant(NUMBER, float("nan"), node.tree)
    if node.type.kind not in {"number", "boolean"}:
        raise ExpressionError(f"{what} needs a number, not a {node.type.kind}", node.tree.position)
    return node


def as_boolean(node: Node, what: str) -> Node:
    """A node usable as a condition."""
    if node.type.kind == "null":
        return constant(BOOLEAN, float("nan"), node.tree)
    if node.type.kind != "boolean":
        raise ExpressionError(f"{what} needs true or false, not a {node.type.kind}", node.tree.position)
    return node


def _as_text(node: Node) -> Node:
    if node.type.kind != "category":
        return node
    values = node.type.values
    return converted(node, TEXT, lambda code: None if code < 0 else values[code])


def _cast(node: Node, type_: FieldType) -> Node:
    """A node as the common type of its siblings."""
    if node.type.kind == "null":
        return constant(type_, NULLS.get(type_.kind, float("nan")), node.tree)
    if type_.kind == "text":
        return _as_text(node)
    if type_.kind == "category" and node.type.kind == "text":
        return _as_code(node, type_)
    return node


def _as_code(node: Node, type_: FieldType) -> Node:
    """A text literal as a category's code."""
    value = node.tree.value if isinstance(node.tree, Constant) else None
    if value not in type_.values:
        raise ExpressionError(f"{value!r} is not a declared value of this category", node.tree.position)
    return constant(type_, type_.values.index(str(value)), node.tree)


def _common(nodes: Sequence[Node]) -> FieldType:
    """The type that all nodes can take; a text literal takes its category's."""
    found = {node.type for node in nodes if node.type.kind != "null"}
    sorts = {type_.kind for type_ in found}
    if not found:
        return NUMBER
    if len(found) == 1:
        return next(iter(found))
    if sorts <= {"number", "boolean"}:
        return NUMBER
    if sorts <= {"category", "text"}:
        categories = {type_ for type_ in found if type_.kind == "category"}
        are_literals = all(isinstance(node.tree, Constant) for node in nodes if node.type.kind == "text")
        return next(iter(categories)) if len(categories) == 1 and are_literals else TEXT
    wrong = next(node for node in nodes[1:] if node.type.kind not in {"null", nodes[0].type.kind})
    raise ExpressionError(f"a {nodes[0].type.kind} and a {wrong.type.kind} do not go together", wrong.tree.position)


def unify(nodes: Sequence[Node]) -> list[Node]:
    """The nodes, all of one type; raises ExpressionError."""
    type_ = _common(nodes)
    return [_cast(node, type_) for node in nodes]


def otherwise(first: Node, second: Node, tree: Tree) -> Node:
    kind = first.type.kind

    def vector(frame: Frame) -> Column:
        column = first.vector(frame)
        return np.where(kinds.is_null(kind, column), second.vector(frame), column)

    def scalar(row: Mapping[str, Any]) -> object:
        value = first.scalar(row)
        return second.scalar(row) if kinds.is_null_scalar(kind, value) else value

    return Node(first.type, vector, scalar, tree)


def seconds_between(pair: Sequence[Node], tree: Tree) -> Node:
    later, earlier = pair

    def vector(frame: Frame) -> Column:
        a, b = later.vector(frame), earlier.vector(frame)
        out = (a - b) / 1e6
        out[(a == kinds.NULL_TIME) | (b == kinds.NULL_TIME)] = np.nan
        return out

    def scalar(row: Mapping[str, Any]) -> float:
        a, b = later.scalar(row), earlier.scalar(row)
        return float("nan") if kinds.NULL_TIME in {a, b} else float(a - b) / 1e6

    return Node(NUMBER, vector, scalar, tree)


def compared(pair: Sequence[Node], tree: Binary) -> Node:
    """A comparison of times, codes or texts: by Python's operators, null where one side is null."""
    left, right = pair
    kind = left.type.kind
    test = _ORDERS[tree.operator]

    def one(a: object, b: object) -> float:
        return float("nan") if kinds.is_null_scalar(kind, a) or kinds.is_null_scalar(kind, b) else float(test(a, b))

    def vector(frame: Frame) -> Column:
        a, b = left.vector(frame), right.vector(frame)
        if kind == "text":
            return np.array([one(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)], np.float64)
        out = np.asarray(test(a, b)).astype(np.float64)
        out[kinds.is_null(kind, a) | kinds.is_null(kind, b)] = np.nan
        return out

    return Node(BOOLEAN, vector, lambda row: one(left.scalar(row), right.scalar(row)), tree)
