"""JSON as RFC 8259 means it: no NaN, no key twice, no lone surrogates, no bottomless nesting."""

import json
from typing import Any, Never


class BadJsonError(ValueError):
    """The bytes are not acceptable JSON; `rule` names why without repeating them."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


def loads(raw: bytes) -> Any:  # noqa: ANN401 - whatever the document holds
    """The value in UTF-8 JSON bytes; raises BadJsonError with rule `json`, `duplicate_key`, `finite` or `depth`.

    The standard library's parser instead of a faster one, because it alone shows every pair of an object.
    Numbers such as 1e400 come back as infinities: the fields refuse them.
    """
    try:
        return _DECODER.decode(raw.decode("utf-8"))
    except BadJsonError:
        raise
    except UnicodeDecodeError:
        raise BadJsonError("json", "must be UTF-8 text") from None
    except RecursionError:
        raise BadJsonError("depth", "is nested too deeply") from None
    except ValueError as error:  # also an integer of more than 4,300 digits
        place = f" at line {error.lineno} column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise BadJsonError("json", f"must be JSON{place}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadJsonError("duplicate_key", "an object holds the same key twice")
    return found


def _constant(_: str) -> Never:
    raise BadJsonError("finite", "NaN and Infinity are not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
