"""A small typed, total language for request features, labels and filters: one code in serving, training and replay."""

from tidemill_engine.expressions.expression import Compiled, compile_expression
from tidemill_engine.expressions.kinds import BOOLEAN, NUMBER, TEXT, TIMESTAMP, FieldType, encode_columns, field_types
from tidemill_engine.expressions.tokens import ExpressionError

__all__ = [
    "BOOLEAN",
    "NUMBER",
    "TEXT",
    "TIMESTAMP",
    "Compiled",
    "ExpressionError",
    "FieldType",
    "compile_expression",
    "encode_columns",
    "field_types",
]
