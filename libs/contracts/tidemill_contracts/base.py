"""What every contract shares: strict frozen models and the two ways time is written."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = EPOCH.replace(tzinfo=None)  # formatting without an offset costs half
MICROSECOND = timedelta(microseconds=1)
_DURATION = re.compile(r"^(\d+)(ms|s|m|h|d)$")
_UNITS = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


class Contract(BaseModel):
    """A frozen model that refuses unknown fields, loose types, NaN and infinities, and never echoes its input."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
        ser_json_inf_nan="null",
    )


def parse_duration(text: str) -> int:
    """Microseconds of a duration such as `15m`, `24h`, `7d`; raises ValueError for anything else."""
    match = _DURATION.fullmatch(text)
    if match is None:
        msg = "a duration is a whole number and one of ms, s, m, h, d, such as 15m or 7d"
        raise ValueError(msg)
    return int(match[1]) * _UNITS[match[2]]


def format_duration(us: int) -> str:
    """The shortest text that `parse_duration` reads back as the same number of microseconds (a multiple of 1 ms)."""
    for unit in ("d", "h", "m", "s"):
        if us and us % _UNITS[unit] == 0:
            return f"{us // _UNITS[unit]}{unit}"
    return f"{us // _UNITS['ms']}ms"


def _to_us(value: Any) -> Any:  # noqa: ANN401 - a validator sees whatever the file holds
    return parse_duration(value) if isinstance(value, str) else value


Duration = Annotated[
    int,
    BeforeValidator(_to_us),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    Field(ge=0),
    WithJsonSchema({"type": "string", "pattern": _DURATION.pattern, "examples": ["15m", "24h", "7d"]}),
]
"""Microseconds in Python, `15m` in files."""

Micros = Annotated[int, Field(ge=-(2**62), le=2**62, description="microseconds since 1970-01-01T00:00:00Z")]
"""An instant: microseconds since the Unix epoch, UTC."""

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*([_-][a-z0-9]+)*$", max_length=64)]
"""Names of pipelines, sources, entities, views: they become parts of topic names."""

FieldName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)]

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in lower-case hexadecimal."""


def to_us(instant: datetime) -> int:
    """Microseconds since the epoch of an aware datetime; a naive one raises ValueError."""
    if instant.tzinfo is None:
        msg = "a time must carry its UTC offset"
        raise ValueError(msg)
    return (instant - EPOCH) // MICROSECOND


def parse_time(text: str) -> int:
    """Microseconds of an RFC 3339 time with offset; raises ValueError otherwise."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        msg = "a time is written as RFC 3339, such as 2013-01-01T10:00:00Z"
        raise ValueError(msg) from None
    return to_us(instant)


def format_time(us: int) -> str:
    """RFC 3339 text, UTC with `Z`, microseconds only where there are any."""
    return (_NAIVE_EPOCH + timedelta(0, 0, us)).isoformat() + "Z"
