"""Operations on numbers, each for whole columns and for one value, with the same bits.

Null is NaN. What is exact in IEEE arithmetic runs in numpy; logarithms, exponentials and circular functions run value
by value through `math`, because numpy's vector versions differ in the last bit from machine to machine. Nothing
raises, nothing is infinite.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
VectorFunction = Callable[..., Floats]
ScalarFunction = Callable[..., float]


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation on numbers: least and largest number of arguments, and its two forms."""

    fewest: int
    most: int
    vector: VectorFunction
    scalar: ScalarFunction


def _finite(value: float) -> float:
    return value if -math.inf < value < math.inf else math.nan


def finite_column(values: Floats) -> Floats:
    """Infinities to null, in place."""
    values[np.isinf(values)] = np.nan
    return values


def _divide(a: float, b: float) -> float:
    return _finite(a / b) if b != 0 else math.nan


def _modulo(a: float, b: float) -> float:
    return a % b if b != 0 else math.nan


ARITHMETIC: Mapping[str, Operation] = {
    "+": Operation(2, 2, lambda a, b: finite_column(a + b), lambda a, b: _finite(a + b)),
    "-": Operation(2, 2, lambda a, b: finite_column(a - b), lambda a, b: _finite(a - b)),
    "*": Operation(2, 2, lambda a, b: finite_column(a * b), lambda a, b: _finite(a * b)),
    "/": Operation(2, 2, lambda a, b: finite_column(a / b), _divide),
    "%": Operation(2, 2, np.mod, _modulo),
}


def _compare(
    vector: Callable[[Floats, Floats], NDArray[np.bool_]], scalar: Callable[[float, float], bool]
) -> Operation:
    def column(a: Floats, b: Floats) -> Floats:
        out = vector(a, b).astype(np.float64)
        out[np.isnan(a) | np.isnan(b)] = np.nan
        return out

    return Operation(2, 2, column, lambda a, b: math.nan if a != a or b != b else float(scalar(a, b)))  # noqa: PLR0124 - NaN


COMPARISONS: Mapping[str, Operation] = {
    "==": _compare(np.equal, lambda a, b: a == b),
    "!=": _compare(np.not_equal, lambda a, b: a != b),
    "<": _compare(np.less, lambda a, b: a < b),
    "<=": _compare(np.less_equal, lambda a, b: a <= b),
    ">": _compare(np.greater, lambda a, b: a > b),
    ">=": _compare(np.greater_equal, lambda a, b: a >= b),
}


def _and_column(a: Floats, b: Floats) -> Floats:
    return np.where((a == 0) | (b == 0), 0.0, np.where(np.isnan(a) | np.isnan(b), np.nan, 1.0))


def _and(a: float, b: float) -> float:
    if 0 in {a, b}:
        return 0.0
    return math.nan if math.isnan(a) or math.isnan(b) else 1.0


def _not(a: float) -> float:
    return 1.0 - a


LOGIC: Mapping[str, Operation] = {
    "and": Operation(2, 2, _and_column, _and),
    "or": Operation(2, 2, lambda a, b: 1.0 - _and_column(1.0 - a, 1.0 - b), lambda a, b: _not(_and(_not(a), _not(b)))),
    "not": Operation(1, 1, lambda a: 1.0 - a, _not),
}


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.nan


def _each(scalar: Callable[[float], float]) -> Operation:
    """An operation whose column form is its scalar form, value by value."""
    return Operation(1, 1, lambda a: np.array([scalar(x) for x in a.tolist()], np.float64), scalar)


def _reduce(vector: Callable[[Floats, Floats], Floats], scalar: Callable[..., float]) -> Operation:
    def column(*parts: Floats) -> Floats:
        out = parts[0]
        for part in parts[1:]:
            out = vector(out, part)
        return out

    def single(*parts: float) -> float:
        return math.nan if any(math.isnan(part) for part in parts) else scalar(parts)

    return Operation(2, 64, column, single)


def _whole(vector: Callable[[Floats], Floats], scalar: Callable[[float], int]) -> Operation:
    return Operation(1, 1, vector, lambda x: math.nan if math.isnan(x) else float(scalar(x)))


MINIMUM = _reduce(np.minimum, min)
MAXIMUM = _reduce(np.maximum, max)
FUNCTIONS: Mapping[str, Operation] = {
    "abs": Operation(1, 1, np.abs, abs),
    "min": MINIMUM,
    "max": MAXIMUM,
    "log": _each(lambda x: math.log(x) if x > 0 else math.nan),
    "log1p": _each(lambda x: math.log1p(x) if x > -1 else math.nan),
    "exp": _each(_exp),
    "sqrt": Operation(1, 1, np.sqrt, lambda x: math.sqrt(x) if x >= 0 else math.nan),
    "clip": Operation(
        3,
        3,
        lambda x, low, high: np.minimum(np.maximum(x, low), high),
        lambda x, low, high: MINIMUM.scalar(MAXIMUM.scalar(x, low), high),
    ),
    "floor": _whole(np.floor, math.floor),
    "ceil": _whole(np.ceil, math.ceil),
    "round": _whole(np.rint, round),
    "sin": _each(math.sin),
    "cos": _each(math.cos),
}
