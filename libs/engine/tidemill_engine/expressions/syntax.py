"""Tokens to a tree, by operator precedence (Pratt).

Lowest first: or, and, not, comparisons and `in`, + and -, * / %, sign.
"""

from dataclasses import dataclass
from math import isfinite

from tidemill_engine.expressions.tokens import MAXIMUM_DEPTH, ExpressionError, Token, tokenize

Literal = float | bool | str | None


@dataclass(frozen=True, slots=True)
class Constant:
    """A number, true, false, a text or null."""

    value: Literal
    position: int
    depth: int = 1


@dataclass(frozen=True, slots=True)
class Name:
    """A field."""

    name: str
    position: int
    depth: int = 1


@dataclass(frozen=True, slots=True)
class Unary:
    """`-x` or `not x`."""

    operator: str
    operand: "Tree"
    position: int
    depth: int


@dataclass(frozen=True, slots=True)
class Binary:
    """Arithmetic, a comparison, `and`, `or`."""

    operator: str
    left: "Tree"
    right: "Tree"
    position: int
    depth: int


@dataclass(frozen=True, slots=True)
class Membership:
    """`x in [literals]`."""

    operand: "Tree"
    items: tuple[Constant, ...]
    position: int
    depth: int


@dataclass(frozen=True, slots=True)
class Call:
    """A function; `table` is the {key: number} of `lookup`."""

    function: str
    arguments: tuple["Tree", ...]
    table: tuple[tuple[Constant, float], ...] | None
    position: int
    depth: int


Tree = Constant | Name | Unary | Binary | Membership | Call
_OR, _AND, _NOT, _COMPARE, _ADD, _MULTIPLY, _SIGN = range(1, 8)
_COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">=", "in", "not"})
_POWERS = {
    "or": _OR,
    "and": _AND,
    **dict.fromkeys(_COMPARISONS, _COMPARE),
    **dict.fromkeys("+-", _ADD),
    **dict.fromkeys("*/%", _MULTIPLY),
}
_WORDS = frozenset({"or", "and", "in", "not"})
_CONSTANTS: dict[str, Literal] = {"true": True, "false": False, "null": None}


def parse(text: str) -> Tree:
    """The tree of an expression; raises ExpressionError."""
    return _Parser(text).whole()


def _number(token: Token) -> float:
    value = float(token.value)
    if not isfinite(value):
        raise ExpressionError("the number is too large", token.position)
    return value


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens = list(tokenize(text))
        self.at = 0
        self.depth = 0

    @property
    def token(self) -> Token:
        return self.tokens[self.at]

    def whole(self) -> Tree:
        tree = self.expression(0)
        if self.token.kind != "end":
            raise ExpressionError(f"an operator is missing before {self.token.value!r}", self.token.position)
        return tree

    def next(self) -> Token:
        token = self.token
        self.at += token.kind != "end"
        return token

    def take(self, symbol: str) -> bool:
        """Skip a symbol or word if it is next."""
        found = self.token.kind in {"symbol", "name"} and self.token.value == symbol
        self.at += found
        return found

    def expect(self, symbol: str) -> None:
        if not self.take(symbol):
            raise ExpressionError(f"{symbol!r} is missing", self.token.position)

    def expression(self, power: int) -> Tree:
        self.depth += 1
        if self.depth > MAXIMUM_DEPTH:
            raise ExpressionError(f"an expression is nested at most {MAXIMUM_DEPTH} deep", self.token.position)
        left = self.prefix()
        while self._power() > power:
            left = self.infix(left)
            if left.depth > MAXIMUM_DEPTH:
                raise ExpressionError(f"an expression is nested at most {MAXIMUM_DEPTH} deep", left.position)
        self.depth -= 1
        return left

    def _power(self) -> int:
        return _POWERS.get(self.token.value, 0) if self.token.kind in {"symbol", "name"} else 0

    def prefix(self) -> Tree:
        token = self.next()
        if token.kind == "number":
            return Constant(_number(token), token.position)
        if token.kind == "text":
            return Constant(token.value, token.position)
        if token.kind == "name" and token.value not in _WORDS:
            return self._named(token)
        if token.kind == "symbol" and token.value == "(":
            inner = self.expression(0)
            self.expect(")")
            return inner
        if token.value == "-" or (token.kind == "name" and token.value == "not"):
            operand = self.expression(_SIGN if token.value == "-" else _NOT)
            return Unary(token.value, operand, token.position, operand.depth + 1)
        what = "the expression ends too early" if token.kind == "end" else f"a value is missing before {token.value!r}"
        raise ExpressionError(what, token.position)

    def _named(self, token: Token) -> Tree:
        if self.take("("):
            return self._call(token)
        if token.value in _CONSTANTS:
            return Constant(_CONSTANTS[token.value], token.position)
        return Name(token.value, token.position)

    def _call(self, token: Token) -> Call:
        arguments: list[Tree] = []
        table = None
        while not self.take(")"):
            if arguments and not self.take(","):
                raise ExpressionError("',' or ')' is missing", self.token.position)
            if arguments and self.take("{"):
                table = self._table()
            else:
                arguments.append(self.expression(0))
        depth = 1 + max((argument.depth for argument in arguments), default=0)
        return Call(token.value, tuple(arguments), table, token.position, depth)

    def infix(self, left: Tree) -> Tree:
        token = self.next()
        power, operator = _POWERS[token.value], token.value
        if operator == "not":
            self.expect("in")
            inside = self._membership(left, token)
            return self._no_chain(Unary("not", inside, token.position, inside.depth + 1))
        if operator == "in":
            return self._no_chain(self._membership(left, token))
        right = self.expression(power)
        tree = Binary(operator, left, right, token.position, max(left.depth, right.depth) + 1)
        return self._no_chain(tree) if operator in _COMPARISONS else tree

    def _no_chain(self, tree: Tree) -> Tree:
        if self._power() == _COMPARE:
            raise ExpressionError("comparisons do not chain: join them with `and`", self.token.position)
        return tree

    def _membership(self, operand: Tree, token: Token) -> Membership:
        self.expect("[")
        items = [self._literal()]
        while self.take(","):
            items.append(self._literal())
        self.expect("]")
        return Membership(operand, tuple(items), token.position, operand.depth + 1)

    def _literal(self) -> Constant:
        start = self.token.position
        sign = -1.0 if self.take("-") else 1.0
        token = self.next()
        if token.kind == "number":
            return Constant(sign * _number(token), start)
        if token.kind == "text" and sign > 0:
            return Constant(token.value, start)
        raise ExpressionError("only numbers and texts may stand here", start)

    def _table(self) -> tuple[tuple[Constant, float], ...]:
        entries: dict[Literal, tuple[Constant, float]] = {}
        while not entries or self.take(","):
            key = self._literal()
            self.expect(":")
            value = self._literal()
            if not isinstance(value.value, float):
                raise ExpressionError("a table's values are numbers", value.position)
            if key.value in entries:
                raise ExpressionError("a table's keys are distinct", key.position)
            entries[key.value] = (key, value.value)
        self.expect("}")
        return tuple(entries.values())
