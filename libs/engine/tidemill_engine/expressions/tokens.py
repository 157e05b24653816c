"""Text of an expression to tokens, and the one error of this package."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAXIMUM_LENGTH = 4096
MAXIMUM_DEPTH = 100


class ExpressionError(ValueError):
    """An expression is not valid: the rule it breaks and where (position counts characters from 0)."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(f"{message} (at character {position + 1})")
        self.message = message
        self.position = position


@dataclass(frozen=True, slots=True)
class Token:
    """`kind` is number, text, name, symbol or end; `value` its text, unescaped for text."""

    kind: str
    value: str
    position: int


_PATTERN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    | (?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![A-Za-z_0-9.]))
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)*)
    | (?P<text>"(?:[^"\\\n]|\\["'\\])*"|'(?:[^'\\\n]|\\["'\\])*')
    | (?P<symbol>==|!=|<=|>=|[-+*/%<>()\[\]{},:])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(.)")
_HINTS = {
    "=": "a comparison is written ==",
    "!": "write `not`, or != for a comparison",
    "&": "write `and`",
    "|": "write `or`",
    '"': "the text does not end, or holds an escape other than \\\" \\' \\\\",
    "'": "the text does not end, or holds an escape other than \\\" \\' \\\\",
}


def tokenize(text: str) -> Iterator[Token]:
    """Tokens of a text, an `end` token last; raises ExpressionError."""
    if len(text) > MAXIMUM_LENGTH:
        raise ExpressionError(f"an expression has at most {MAXIMUM_LENGTH} characters", MAXIMUM_LENGTH)
    position = 0
    while position < len(text):
        match = _PATTERN.match(text, position)
        if match is None:
            hint = _HINTS.get(text[position], f"{text[position]!r} has no meaning here")
            raise ExpressionError(hint, position)
        kind, value = str(match.lastgroup), match.group()
        if kind == "text":
            value = _ESCAPE.sub(r"\1", value[1:-1])
        if kind != "space":
            yield Token(kind, value, position)
        position = match.end()
    yield Token("end", "", position)
