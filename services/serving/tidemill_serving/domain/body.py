"""Reads JSON bodies as strictly as every edge of Tidemill: no duplicate keys, no NaN, no numbers out of range."""

import json
from typing import Any, NamedTuple

import msgspec


class Fault(NamedTuple):
    """One thing wrong with a request: where (dotted), a word for the rule, and a sentence. Never the value."""

    field: str
    rule: str
    message: str


class RefusedError(Exception):
    """A request that is not answered with a prediction; `status` is what the edge says, `faults` name each field."""

    def __init__(self, status: int, title: str, detail: str = "", faults: tuple[Fault, ...] = ()) -> None:
        super().__init__(detail or title)
        self.status, self.title, self.detail, self.faults = status, title, detail, faults


OVERLOADED = RefusedError(503, "overloaded", "more requests arrive than can be answered in time")


class MalformedError(RefusedError):
    """The body is not JSON as this edge reads it."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(400, "malformed body", message, (Fault("", rule, message),))


def read_json(raw: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """The value in a body; raises MalformedError for anything but one JSON text without duplicate keys."""
    try:
        value = msgspec.json.decode(raw)
        duplicate = _has_duplicates(raw, value)
    except RecursionError:
        raise MalformedError("depth", "the body is nested too deeply") from None
    except (msgspec.MsgspecError, ValueError):
        raise MalformedError("json", "the body is not valid JSON, or a number in it is out of range") from None
    if duplicate:
        raise MalformedError("duplicate_key", "a key stands twice in one object")
    return value


def _has_duplicates(raw: bytes, value: object) -> bool:
    """The parser lets the last of two equal keys win, but every member costs one colon outside of strings.

    Without a backslash strings stand in the bytes as they are read, so the colons of the text are those of the kept
    members and strings, plus at least one for each dropped member. With a backslash every object is looked at.
    """
    if b"\\" in raw:
        try:
            json.loads(raw, object_pairs_hook=_distinct)
        except _DuplicateError:
            return True
        return False
    return raw.count(b":") != _colons(value)


def _colons(value: object) -> int:
    if isinstance(value, str):
        return value.count(":")
    if isinstance(value, dict):
        return sum(1 + key.count(":") + _colons(item) for key, item in value.items())
    if isinstance(value, list):
        return sum(map(_colons, value))
    return 0


class _DuplicateError(Exception):
    """A key stands twice in one object."""


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _DuplicateError
    return found
