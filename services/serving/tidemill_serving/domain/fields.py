"""Checks the fields of a request against the pipeline file: types, ranges, lengths, categories, unknown names."""

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from tidemill_contracts.base import parse_time, to_us
from tidemill_contracts.pipeline import BooleanField, CategoryField, FieldSpec, NumberField, StringField
from tidemill_serving.domain.body import Fault

_LARGEST = 2**63
Problem = tuple[str, str]
"""A word for the rule and the rule in a sentence."""

TIME_PROBLEM = ("time", "must be an RFC 3339 time with its offset, such as 2013-01-01T10:00:00Z")
Check = Callable[[Any], Problem | None]


class FieldChecks:
    """The compiled checks of all declared fields."""

    def __init__(self, fields: Mapping[str, FieldSpec]) -> None:
        self._checks = [(name, spec.required, _check(spec)) for name, spec in fields.items()]
        self._names = frozenset(fields)
        self._times = [name for name, spec in fields.items() if spec.type == "timestamp"]

    def faults(self, inputs: object, place: str = "inputs") -> list[Fault]:
        """Everything that is wrong with the inputs of one instance; none: they may be used."""
        if not isinstance(inputs, dict):
            return [Fault(place, "type", "inputs must be an object of request fields")]
        found = []
        for name, required, check in self._checks:
            value = inputs.get(name)
            if value is None:
                if required:
                    found.append(Fault(f"{place}.{name}", "required", f"{name} is missing"))
            elif (problem := check(value)) is not None:
                found.append(Fault(f"{place}.{name}", *problem))
        if not self._names.issuperset(inputs):
            unknown = sorted(name for name in inputs if name not in self._names)
            found += [Fault(_place(place, name), "unknown", "not a field of this request") for name in unknown[:16]]
        return found

    def typed(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Checked inputs with every declared field (None where absent) and times as microseconds."""
        values: dict[str, Any] = {name: inputs.get(name) for name, _, _ in self._checks}
        for name in self._times:
            if values[name] is not None:
                values[name] = parse_time(values[name])
        return values


def _place(place: str, name: str) -> str:
    # An unknown name is the sender's text: only a plain short one is repeated.
    return f"{place}.{name}" if name.isidentifier() and name.isascii() and len(name) <= 64 else place  # noqa: PLR2004


def _check(spec: FieldSpec) -> Check:
    if isinstance(spec, NumberField):
        return _number(spec)
    if isinstance(spec, BooleanField):
        return lambda value: None if isinstance(value, bool) else ("type", "must be true or false")
    if isinstance(spec, StringField):
        return _string(spec.max_length)
    if isinstance(spec, CategoryField):
        return _category(frozenset(spec.values))
    return _time


def _number(spec: NumberField) -> Check:
    low: float = -math.inf if spec.min is None else spec.min
    high: float = math.inf if spec.max is None else spec.max
    whole = spec.type == "integer"
    types = (int,) if whole else (int, float)
    wrong_type = ("type", "must be a whole number" if whole else "must be a number")
    wrong_range = ("range", f"must be from {_text(low)} to {_text(high)}")

    def check(value: Any) -> Problem | None:  # noqa: ANN401 - any JSON value
        if not isinstance(value, types) or isinstance(value, bool):
            return wrong_type
        number: int | float = value
        if isinstance(number, int) and not -_LARGEST <= number < _LARGEST:
            return "range", "must fit into 64 bits"
        return None if low <= number <= high else wrong_range

    return check


def _text(bound: float) -> str:
    return f"{bound:g}" if math.isfinite(bound) else "any"


def _string(longest: int) -> Check:
    def check(value: Any) -> Problem | None:  # noqa: ANN401 - any JSON value
        if not isinstance(value, str):
            return "type", "must be text"
        return None if len(value) <= longest else ("max_length", f"must have at most {longest} characters")

    return check


def _category(values: frozenset[str]) -> Check:
    def check(value: Any) -> Problem | None:  # noqa: ANN401 - any JSON value
        if not isinstance(value, str):
            return "type", "must be text"
        return None if value in values else ("category", "must be one of the declared values")

    return check


def _time(value: Any) -> Problem | None:  # noqa: ANN401 - any JSON value
    if not isinstance(value, str):
        return "type", "must be an RFC 3339 time"
    return None if read_time(value) is not None else TIME_PROBLEM


def read_time(text: str) -> int | None:
    """Microseconds of an RFC 3339 time, None for other text and for one that UTC's calendar does not have."""
    return _remembered(text) if len(text) <= _SHORT else _read(text)


def _read(text: str) -> int | None:
    try:
        time_us = parse_time(text)
    except (ValueError, OverflowError):
        return None
    return time_us if _FIRST_US <= time_us <= _LAST_US else None


_SHORT = 40
_remembered = lru_cache(maxsize=4096)(_read)
"""Many requests are of one moment."""
_FIRST_US, _LAST_US = to_us(datetime.min.replace(tzinfo=UTC)), to_us(datetime.max.replace(tzinfo=UTC))
