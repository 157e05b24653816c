"""Reads the usual form of a request in one pass of a decoder made from the pipeline file.

It takes less than the careful readers, never more: whatever it refuses is read again by them, and they say what is
wrong. What it takes means the same to both, number by number.
"""

from typing import Annotated, Any, Literal, NamedTuple, Union

import msgspec

from tidemill_contracts.pipeline import CategoryField, FieldSpec, NumberField, RequestSpec, StringField
from tidemill_serving.domain.fields import read_time

_values = msgspec.structs.astuple
_LARGEST = 2**63 - 1
LONGEST_ID = 256


class Read(NamedTuple):
    """An instance: its id, its inputs as they were sent and as expressions take them, and its envelope's time."""

    id: str | None
    sent: dict[str, Any]
    typed: dict[str, Any]
    time_us: int | None


class Inputs:
    """The decoder of requests to one pipeline."""

    def __init__(self, spec: RequestSpec) -> None:
        fields = list(spec.fields.items())
        self.names = tuple(spec.fields)
        self._optional = [name for name, field in fields if not field.required]
        self._times = [name for name, field in fields if field.type == "timestamp"]
        inner = msgspec.defstruct(
            "Inputs",
            [_member(f"f{place}", field) for place, (_, field) in enumerate(fields)],
            rename={f"f{place}": name for place, (name, _) in enumerate(fields)},
            forbid_unknown_fields=True, kw_only=True, gc=False,
        )  # fmt: skip
        outer = msgspec.defstruct(
            "Instance",
            [
                ("inputs", inner),
                ("id", Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_ID)] | None, None),
                ("time", str | None, None),
            ],
            forbid_unknown_fields=True, kw_only=True, gc=False,
        )  # fmt: skip
        self._decode = msgspec.json.Decoder(outer).decode

    def read(self, raw: bytes) -> Read | None:
        """The instance of a body; None: not for this reader."""
        if b"\\" in raw:
            return None
        try:
            found: Any = self._decode(raw)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        typed: dict[str, Any] = dict(zip(self.names, _values(found.inputs), strict=True))
        sent = typed.copy()
        for name in self._optional:
            if sent[name] is msgspec.UNSET:
                typed[name] = None
                del sent[name]
        colons = 1 + len(sent)
        for value in sent.values():
            if value.__class__ is str:
                colons += value.count(":")
        for text in (found.id, found.time):
            if text is not None:
                colons += 1 + text.count(":")
        # Every member costs one colon outside of strings: one more than these, and a key stands twice.
        if raw.count(b":") != colons:
            return None
        return self._timed(found.id, sent, typed, found.time)

    def _timed(
        self, identity: str | None, sent: dict[str, Any], typed: dict[str, Any], time: str | None
    ) -> Read | None:
        for name in self._times:
            if typed[name] is not None:
                typed[name] = read_time(typed[name])
                if typed[name] is None:
                    return None
        time_us = None if time is None else read_time(time)
        return None if time is not None and time_us is None else Read(identity, sent, typed, time_us)


def _member(name: str, field: FieldSpec) -> Any:  # noqa: ANN401 - what msgspec takes
    wanted = _type(field)
    return (name, wanted) if field.required else (name, Union[wanted, None, msgspec.UnsetType], msgspec.UNSET)  # noqa: UP007 - made at run time


def _type(field: FieldSpec) -> Any:  # noqa: ANN401 - a type made from the pipeline file
    if isinstance(field, NumberField):
        low = None if field.min is None else field.min
        high = None if field.max is None else field.max
        whole = Annotated[int, _bounds(low, high, whole=True)]
        return whole if field.type == "integer" else whole | Annotated[float, _bounds(low, high, whole=False)]
    if isinstance(field, StringField):
        return Annotated[str, msgspec.Meta(max_length=field.max_length)]
    if isinstance(field, CategoryField):
        return Literal[tuple(field.values)]
    return bool if field.type == "boolean" else str


def _bounds(low: float | None, high: float | None, *, whole: bool) -> msgspec.Meta:
    """Whole numbers must fit into 64 bits too; at a bound that is not whole the careful reader decides."""
    if not whole:
        return msgspec.Meta(ge=low, le=high)
    least = -_LARGEST if low is None else max(-_LARGEST, -int(-low // 1))
    most = _LARGEST if high is None else min(_LARGEST, int(high // 1))
    return msgspec.Meta(ge=least, le=most)
