"""The compiled expression: what services, training and replay call."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.expressions.compiler import Compiler
from tidemill_engine.expressions.kinds import FieldType, reader, to_column
from tidemill_engine.expressions.nodes import Frame, Node
from tidemill_engine.expressions.syntax import parse
from tidemill_engine.expressions.tokens import ExpressionError


class Compiled:
    """A valid expression over typed fields. Evaluation is total: no value makes it raise or gives an infinity.

    `is_boolean` says that the result is true (1), false (0) or null; `fields` are the names it reads.
    """

    def __init__(self, text: str, node: Node, used: Mapping[str, FieldType]) -> None:
        self.text = text
        self.is_boolean = node.type.kind == "boolean"
        self.fields = tuple(sorted(used))
        self._node = node
        self._used = dict(used)

    @cached_property
    def _readers(self) -> list[tuple[str, Any]]:
        return [(name, reader(field)) for name, field in self._used.items()]

    def __call__(self, columns: Mapping[str, NDArray[Any]], *, rows: int | None = None) -> NDArray[np.float64]:
        """Results of n rows, float64 (n,), NaN is null.

        `columns` are (n,) arrays in the forms of `kinds` or raw objects; columns not used are not looked at. `rows`
        is n, needed only when `columns` is empty. Raises KeyError for a missing column and ValueError for lengths
        that differ.
        """
        used = {name: to_column(field, np.asarray(columns[name])) for name, field in self._used.items()}
        if rows is None:
            rows = len(next(iter(used.values() if used else columns.values())))
        if any(column.shape != (rows,) for column in used.values()):
            raise ValueError("columns differ in length")
        with np.errstate(all="ignore"):
            out = (
                self._node.vector(Frame(used, rows)) + 0.0
            )  # -0.0 becomes 0.0; also a copy, the columns are the caller's
        out[np.isnan(out)] = np.nan  # one bit pattern for null
        return out

    def row(self, row: Mapping[str, Any]) -> float | None:
        """The result of one row of JSON-like values, bit for bit that of a column; an absent field is null."""
        result = self._node.scalar({name: read(row.get(name)) for name, read in self._readers}) + 0.0
        return None if result != result else result  # noqa: PLR0124 - NaN


def compile_expression(text: str, fields: Mapping[str, FieldType]) -> Compiled:
    """The expression's functions over the named fields; raises ExpressionError with the rule and the position."""
    compiler = Compiler(fields)
    node = compiler.node(parse(text))
    if node.type.kind not in {"number", "boolean"}:
        raise ExpressionError(f"an expression must give a number or true or false, not a {node.type.kind}", 0)
    return Compiled(text, node, compiler.used)
