"""The declared fields of a source, compiled once into one check per field.

Strict: no text for numbers, no true for 1, nothing unknown, nothing that is not finite. An accepted value comes back in
its canonical form, so that the same fact has the same bytes: floats as floats, instants in UTC, nulls left out.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tidemill_contracts import format_time, parse_time
from tidemill_contracts.pipeline import (
    BooleanField,
    CategoryField,
    FieldSpec,
    NumberField,
    StringField,
)

Value = str | int | float | bool
MAXIMUM_INTEGER = 2**63 - 1
EARLIEST_US = -2_208_988_800_000_000
"""1900-01-01: before it lies nothing but broken clocks."""
LATEST_US = 253_370_764_800_000_000
"""9999-01-01: after it UTC text cannot be written."""
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing wrong with an input: where (dotted), which rule, and in words. Never the input itself."""

    field: str
    rule: str
    message: str


class _RefusedError(ValueError):
    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


_Check = Callable[[Any], Value]


class Fields:
    """All fields of a source. Those named in `required` are required whatever they declare."""

    def __init__(self, fields: Mapping[str, FieldSpec], required: frozenset[str]) -> None:
        # By name, so that the canonical form does not depend on the order in the pipeline file.
        ordered = sorted(fields.items())
        self._checks = [(name, _compile(spec), spec.required or name in required) for name, spec in ordered]
        self._names = frozenset(fields)

    def check(self, data: object, path: str, issues: list[Issue]) -> dict[str, Value]:
        """The canonical fields of `data`; what is wrong is added to `issues`, each under `path`."""
        out: dict[str, Value] = {}
        if not isinstance(data, dict):
            issues.append(Issue(path, "type", "must be an object"))
            return out
        for name, check, required in self._checks:
            value = data.get(name)
            if value is None:
                if required:
                    issues.append(Issue(f"{path}.{name}", "required", "is required"))
                continue
            try:
                out[name] = check(value)
            except _RefusedError as error:
                issues.append(Issue(f"{path}.{name}", error.rule, str(error)))
        if not self._names.issuperset(data):
            unknown = sorted(shown(name) for name in data.keys() - self._names)
            issues.extend(Issue(f"{path}.{name}", "unknown", "is not a field of this source") for name in unknown)
        return out


def shown(name: str) -> str:
    """A key of the input as it may be repeated in an answer: only what looks like a field's name."""
    return name if _NAME.fullmatch(name) else "?"


def instant(value: object) -> int:
    """Microseconds of an RFC 3339 text with offset between 1900 and 9998; raises ValueError with a `rule`."""
    if not isinstance(value, str):
        raise _RefusedError("type", "must be an RFC 3339 time in a string")
    whole, rest = _SECONDS.get(value[:_SECOND]), _RESTS.get(value[_SECOND:])
    if whole is not None and rest is not None and EARLIEST_US <= whole + rest[0] < LATEST_US:
        return whole + rest[0]
    return _remember(value, _instant(value))


_SECOND = len("2013-01-01T10:00:00")
_SECONDS: dict[str, int] = {}
"""What the last texts say up to their second, as if it were in UTC. Events have few seconds and few fractions of one,
each in several places, as it came and in canonical form, and are read twice."""
_RESTS: dict[str, tuple[int, str]] = {}
"""What the last texts said behind it: what that adds, and how it is written in canonical form, empty with an offset."""
_MOST_REMEMBERED = 32_768


def _remember(value: str, time_us: int) -> int:
    second, rest = value[:_SECOND], value[_SECOND:]
    if second[-8:-6] == "24":  # some versions of Python take it as the next day, and only without a rest
        return time_us
    whole = parse_time(second + "Z")
    written = canonical_time(time_us)[_SECOND:] if rest[-1] == "Z" else ""
    if max(len(_SECONDS), len(_RESTS)) >= _MOST_REMEMBERED:
        _SECONDS.clear()
        _RESTS.clear()
    _SECONDS[second], _RESTS[rest] = whole, (time_us - whole, written)
    return time_us


def _instant(value: str) -> int:
    if not _RFC3339.fullmatch(value):
        raise _RefusedError("time", "must be an RFC 3339 time with its offset, such as 2013-01-01T10:00:00Z")
    try:
        us = parse_time(value)
    except (ValueError, OverflowError):
        raise _RefusedError("time", "is not a time of the calendar") from None
    if not EARLIEST_US <= us < LATEST_US:
        raise _RefusedError("range", "must lie between the years 1900 and 9998")
    return us


def canonical_time(time_us: int) -> str:
    """As `format_time`, for a third of the cost: many events have one second."""
    second, fraction = divmod(time_us, 1_000_000)
    return f"{_second(second)}.{fraction:06d}Z" if fraction else f"{_second(second)}Z"


@lru_cache(maxsize=16_384)
def _second(second: int) -> str:
    return format_time(second * 1_000_000)[:-1]


def issue_of(field: str, error: ValueError) -> Issue:
    """The issue that an error of this module stands for."""
    return Issue(field, getattr(error, "rule", "value"), str(error))


def _compile(spec: FieldSpec) -> _Check:
    if isinstance(spec, NumberField):
        return _integer(spec) if spec.type == "integer" else _float(spec)
    if isinstance(spec, BooleanField):
        return _boolean
    if isinstance(spec, StringField):
        return _string(spec.max_length)
    if isinstance(spec, CategoryField):
        return _category(frozenset(spec.values))
    return timestamp


def _float(spec: NumberField) -> _Check:
    low, high = _bounds(spec)

    def check(value: Any) -> float:  # noqa: ANN401 - this is what is being found out
        kind = type(value)
        if kind is not float and kind is not int:
            raise _RefusedError("type", "must be a number")
        try:
            number = float(value)
        except OverflowError:
            raise _RefusedError("finite", "is too large for a 64-bit float") from None
        if not math.isfinite(number):
            raise _RefusedError("finite", "must be finite")
        if not low <= number <= high:
            raise _RefusedError("range", _range(spec))
        return number + 0.0  # -0.0 becomes 0.0: one value, one text

    return check


def _integer(spec: NumberField) -> _Check:
    low, high = _bounds(spec)

    def check(value: Any) -> int:  # noqa: ANN401 - this is what is being found out
        if type(value) is not int:
            raise _RefusedError("type", "must be a whole number")
        if not -MAXIMUM_INTEGER <= value <= MAXIMUM_INTEGER:
            raise _RefusedError("range", "must fit a signed 64-bit integer")
        if not low <= value <= high:
            raise _RefusedError("range", _range(spec))
        return value

    return check


def _bounds(spec: NumberField) -> tuple[float, float]:
    return (-math.inf if spec.min is None else spec.min, math.inf if spec.max is None else spec.max)


def _range(spec: NumberField) -> str:
    parts = [f"at least {spec.min:g}"] if spec.min is not None else []
    parts += [f"at most {spec.max:g}"] if spec.max is not None else []
    return f"must be {' and '.join(parts)}"


def _boolean(value: Any) -> bool:  # noqa: ANN401 - this is what is being found out
    if type(value) is not bool:
        raise _RefusedError("type", "must be true or false")
    return value


def _string(max_length: int) -> _Check:
    def check(value: Any) -> str:  # noqa: ANN401 - this is what is being found out
        text = plain_text(value)
        if len(text) > max_length:
            raise _RefusedError("length", f"must have at most {max_length} characters")
        return text

    return check


def plain_text(value: object) -> str:
    """`value` if it is text that every store can hold; raises ValueError with a `rule`."""
    if type(value) is not str:
        raise _RefusedError("type", "must be a string")
    if "\x00" in value:
        raise _RefusedError("characters", "must not hold the character U+0000")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise _RefusedError("characters", "must not hold lone surrogates") from None
    return value


def _category(values: frozenset[str]) -> _Check:
    def check(value: Any) -> str:  # noqa: ANN401 - this is what is being found out
        if type(value) is not str:
            raise _RefusedError("type", "must be a string")
        if value not in values:
            raise _RefusedError("category", "is not one of the declared values")
        return value

    return check


def timestamp(value: Any) -> str:  # noqa: ANN401 - this is what is being found out
    """The canonical text of an RFC 3339 time; raises ValueError with a `rule`."""
    time_us = instant(value)
    _, written = _RESTS.get(value[_SECOND:], (0, ""))
    if written and value[:_SECOND] in _SECONDS:
        return str(value[:_SECOND]) + written
    return canonical_time(time_us)
