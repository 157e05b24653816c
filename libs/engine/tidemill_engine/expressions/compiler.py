"""A tree and the types of fields to two functions: one for columns, one for a single row."""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np

from tidemill_contracts.base import parse_time
from tidemill_engine.expressions import kinds, operations, times
from tidemill_engine.expressions.kinds import BOOLEAN, NULL, NUMBER, TEXT, TIMESTAMP, Column, FieldType
from tidemill_engine.expressions.nodes import (
    NULLS,
    Frame,
    Node,
    applied,
    as_boolean,
    as_number,
    compared,
    constant,
    converted,
    otherwise,
    seconds_between,
    unify,
)
from tidemill_engine.expressions.syntax import Binary, Call, Constant, Membership, Name, Tree, Unary
from tidemill_engine.expressions.tokens import ExpressionError


class Compiler:
    """Types a tree bottom-up. `used` collects the names of fields."""

    def __init__(self, fields: Mapping[str, FieldType]) -> None:
        self.fields = fields
        self.used: dict[str, FieldType] = {}

    def node(self, tree: Tree) -> Node:
        """The typed node of a tree; raises ExpressionError."""
        if isinstance(tree, Constant):
            return self._literal(tree)
        if isinstance(tree, Name):
            return self._field(tree)
        if isinstance(tree, Unary):
            return self._unary(tree)
        if isinstance(tree, Membership):
            return self._membership(tree)
        return self._binary(tree) if isinstance(tree, Binary) else self._call(tree)

    def _literal(self, tree: Constant) -> Node:
        if isinstance(tree.value, bool):
            return constant(BOOLEAN, float(tree.value), tree)
        if tree.value is None:
            return constant(NULL, None, tree)
        return constant(TEXT if isinstance(tree.value, str) else NUMBER, tree.value, tree)

    def _field(self, tree: Name) -> Node:
        name = tree.name
        if name not in self.fields:
            raise ExpressionError(f"{name} is not a field", tree.position)
        self.used[name] = self.fields[name]
        return Node(self.fields[name], lambda frame: frame.columns[name], lambda row: row[name], tree)

    def _unary(self, tree: Unary) -> Node:
        operand = self.node(tree.operand)
        if tree.operator == "not":
            return applied(operations.LOGIC["not"], [as_boolean(operand, "not")], BOOLEAN, tree)
        minus = operations.ARITHMETIC["-"]
        return applied(minus, [constant(NUMBER, 0.0, tree), as_number(operand, "-")], NUMBER, tree)

    def _binary(self, tree: Binary) -> Node:
        pair = [self.node(tree.left), self.node(tree.right)]
        if tree.operator in operations.LOGIC:
            return applied(operations.LOGIC[tree.operator], [as_boolean(n, tree.operator) for n in pair], BOOLEAN, tree)
        if tree.operator in operations.COMPARISONS:
            return self._comparison(tree, unify(pair))
        if tree.operator == "-" and all(node.type.kind == "timestamp" for node in pair):
            return seconds_between(pair, tree)
        return applied(operations.ARITHMETIC[tree.operator], [as_number(n, tree.operator) for n in pair], NUMBER, tree)

    def _comparison(self, tree: Binary, pair: Sequence[Node]) -> Node:
        kind = pair[0].type.kind
        if kind in {"category", "text"} and tree.operator not in {"==", "!="}:
            raise ExpressionError(f"a {kind} has no order: {tree.operator} needs numbers or times", tree.position)
        if kind in {"number", "boolean"}:
            return applied(operations.COMPARISONS[tree.operator], pair, BOOLEAN, tree)
        return compared(pair, tree)

    def _membership(self, tree: Membership) -> Node:
        operand, items = self._keys(tree.operand, tree.items)
        kind, wanted = operand.type.kind, frozenset(items)
        is_null = kinds.is_null_scalar
        return converted(
            operand, BOOLEAN, lambda value: float("nan") if is_null(kind, value) else float(value in wanted)
        )

    def _keys(self, tree: Tree, literals: Sequence[Constant]) -> tuple[Node, list[object]]:
        """An operand and the values of literals it is compared with, in the form of its kind."""
        operand, values = self.node(tree), list[object]()
        for literal in literals:
            operand, value = unify([operand, self.node(literal)])
            values.append(value.scalar({}))
        return operand, values

    def _call(self, tree: Call) -> Node:
        special = _SPECIAL.get(tree.function)
        if tree.table is not None and tree.function != "lookup":
            raise ExpressionError("only lookup takes a table", tree.position)
        if special is not None:
            fewest, most, build = special
            _count(tree, fewest, most)
            return build(self, tree)
        if tree.function in times.PARTS:
            return self._part(tree)
        operation = operations.FUNCTIONS.get(tree.function)
        if operation is None:
            raise ExpressionError(f"{tree.function} is not a function", tree.position)
        _count(tree, operation.fewest, operation.most)
        return applied(operation, [as_number(self.node(a), tree.function) for a in tree.arguments], NUMBER, tree)

    def _part(self, tree: Call) -> Node:
        _count(tree, 1, 2)
        node = self.node(tree.arguments[0])
        if node.type.kind != "timestamp":
            raise ExpressionError(f"{tree.function} needs a timestamp, not a {node.type.kind}", node.tree.position)
        where = None
        if len(tree.arguments) > 1:
            name = _text_argument(tree, 1, "a time zone in quotes")
            try:
                where = times.zone(name)
            except LookupError:
                raise ExpressionError(f"{name!r} is not a time zone", tree.arguments[1].position) from None
        column, single = times.part_of(tree.function, where)
        return Node(NUMBER, lambda frame: column(node.vector(frame)), lambda row: single(node.scalar(row)), tree)

    def choose(self, tree: Call) -> Node:
        """`if(condition, then, else)`; a null condition gives null."""
        condition = as_boolean(self.node(tree.arguments[0]), "if")
        then, other = unify([self.node(argument) for argument in tree.arguments[1:]])
        kind = then.type.kind
        null = NULLS.get(kind, float("nan"))

        def vector(frame: Frame) -> Column:
            test = condition.vector(frame)
            out = np.where(test == 1, then.vector(frame), other.vector(frame))
            out[np.isnan(test)] = null
            return out

        def scalar(row: Mapping[str, Any]) -> object:
            test = condition.scalar(row)
            return null if test != test else then.scalar(row) if test else other.scalar(row)  # noqa: PLR0124 - NaN

        return Node(then.type, vector, scalar, tree)

    def coalesce(self, tree: Call) -> Node:
        """The first argument that is not null."""
        return reduce(
            lambda first, second: otherwise(first, second, tree), unify([self.node(a) for a in tree.arguments])
        )

    def is_null(self, tree: Call) -> Node:
        """1 where the argument is null, else 0; never null itself."""
        (node,) = unify([self.node(tree.arguments[0])])
        kind = node.type.kind
        return Node(
            BOOLEAN,
            lambda frame: kinds.is_null(kind, node.vector(frame)).astype(np.float64),
            lambda row: float(kinds.is_null_scalar(kind, node.scalar(row))),
            tree,
        )

    def code(self, tree: Call) -> Node:
        """The place of a category's value in its declared list."""
        node = self.node(tree.arguments[0])
        if node.type.kind != "category":
            raise ExpressionError(f"code needs a category, not a {node.type.kind}", node.tree.position)

        def vector(frame: Frame) -> Column:
            codes = node.vector(frame)
            return np.where(codes < 0, np.nan, codes.astype(np.float64))

        def scalar(row: Mapping[str, Any]) -> float:
            code = node.scalar(row)
            return float("nan") if code < 0 else float(code)

        return Node(NUMBER, vector, scalar, tree)

    def lookup(self, tree: Call) -> Node:
        """The number of a table that belongs to a value; null for a value outside the table."""
        if tree.table is None:
            raise ExpressionError('lookup needs a table such as {"a": 1, "b": 2}', tree.position)
        operand, keys = self._keys(tree.arguments[0], [key for key, _ in tree.table])
        table = dict(zip(keys, (value for _, value in tree.table), strict=True))
        return converted(operand, NUMBER, lambda value: table.get(value, float("nan")))

    def instant(self, tree: Call) -> Node:
        """`timestamp("2013-01-01T00:00:00Z")`."""
        text = _text_argument(tree, 0, "an RFC 3339 time in quotes")
        try:
            return constant(TIMESTAMP, parse_time(text), tree)
        except (ValueError, OverflowError):
            raise ExpressionError("timestamp needs an RFC 3339 time with offset", tree.arguments[0].position) from None


def _count(tree: Call, fewest: int, most: int) -> None:
    if not fewest <= len(tree.arguments) <= most:
        wanted = str(fewest) if fewest == most else f"{fewest} to {most}"
        raise ExpressionError(f"{tree.function} takes {wanted} arguments, not {len(tree.arguments)}", tree.position)


def _text_argument(tree: Call, index: int, what: str) -> str:
    argument = tree.arguments[index]
    if not isinstance(argument, Constant) or not isinstance(argument.value, str):
        raise ExpressionError(f"{tree.function} needs {what}", argument.position)
    return argument.value


_SPECIAL: Mapping[str, tuple[int, int, Callable[[Compiler, Call], Node]]] = {
    "if": (3, 3, Compiler.choose),
    "coalesce": (1, 64, Compiler.coalesce),
    "is_null": (1, 1, Compiler.is_null),
    "code": (1, 1, Compiler.code),
    "lookup": (1, 1, Compiler.lookup),
    "timestamp": (1, 1, Compiler.instant),
}
