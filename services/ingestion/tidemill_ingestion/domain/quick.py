"""Plain JSON requests that are certainly valid, read by compiled code; everything else is read with care elsewhere.

It never refuses: where anything is unusual it answers None, and the careful reader finds out what it is. What it does
take is exactly what the careful reader would have made of it.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from tidemill_contracts.pipeline import BooleanField, CategoryField, FieldSpec, NumberField, StringField
from tidemill_ingestion.domain.fields import MAXIMUM_INTEGER, timestamp

_encode = msgspec.json.Encoder().encode
_PAIR = b'":'
_UNUSUAL = ((b"\\", b"\\"), (b"\t", b"\t:"), (b"\n", b"\n:"), (b"\r", b"\r:"), (b" ", b" :"))
"""With a blank before a colon or a quote inside a text, pairs could not be counted. A byte is found sooner than two."""
_NEGATIVE_ZERO = b":-0.0"


class Item(msgspec.Struct, forbid_unknown_fields=True):
    """One event as it came; `data` holds the source's fields as attributes f0, f1 and so on."""

    id: str
    data: Any
    time: str | None = None


class Quick:
    """The fields of a source as one compiled decoder. Those named in `required` are required whatever they declare."""

    def __init__(self, fields: Mapping[str, FieldSpec], required: frozenset[str]) -> None:
        ordered = sorted(fields.items())
        self.attributes = {name: f"f{n}" for n, (name, _) in enumerate(ordered)}
        self._times = [self.attributes[name] for name, spec in ordered if _type(spec) is _TIME]
        members = [
            (self.attributes[name], _type(spec))
            if spec.required or name in required
            else (self.attributes[name], _type(spec) | None, None)
            for name, spec in ordered
        ]
        renamed = {attribute: name for name, attribute in self.attributes.items()}
        data = msgspec.defstruct(
            "Data", members, rename=renamed, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
        )
        kind: Any = msgspec.defstruct(
            "Typed", [("data", data)], bases=(Item,), forbid_unknown_fields=True, kw_only=True
        )
        self._many: msgspec.json.Decoder[list[Item]] = msgspec.json.Decoder(list[kind])
        self._one: msgspec.json.Decoder[Item] = msgspec.json.Decoder(kind)

    def read(self, body: bytes) -> tuple[list[tuple[Item, bytes]], bool] | None:
        """Events with their data as canonical JSON, and whether it was a single one; None for whatever is unusual."""
        if any(byte in body and text in body for byte, text in _UNUSUAL):
            return None
        is_single = body.lstrip()[:1] != b"["
        try:
            items = [self._one.decode(body)] if is_single else self._many.decode(body)
            for item in items:
                for name in self._times:
                    value = getattr(item.data, name)
                    if value is not None:
                        setattr(item.data, name, timestamp(value))
        except ValueError:
            return None
        found = [(item, _encode(item.data)) for item in items]
        # An object's last pair of a name wins in this decoder, so a request with a name twice has more pairs than what
        # became of it; one with a null too.
        pairs = sum(data.count(_PAIR) + (2 if item.time is None else 3) for item, data in found)
        if pairs != body.count(_PAIR) or any(_NEGATIVE_ZERO in data for _, data in found):
            return None
        return found, is_single


_TIME = Annotated[str, "time"]


def _type(spec: FieldSpec) -> Any:  # noqa: ANN401 - a type
    if isinstance(spec, NumberField):
        return _integer(spec) if spec.type == "integer" else _float(spec)
    if isinstance(spec, BooleanField):
        return bool
    if isinstance(spec, StringField):
        return Annotated[str, msgspec.Meta(max_length=spec.max_length)]
    if isinstance(spec, CategoryField):
        return Literal[tuple(spec.values)]
    return _TIME


def _float(spec: NumberField) -> Any:  # noqa: ANN401 - a type
    return Annotated[float, msgspec.Meta(ge=spec.min, le=spec.max)]


def _integer(spec: NumberField) -> Any:  # noqa: ANN401 - a type
    low = -MAXIMUM_INTEGER if spec.min is None else max(-MAXIMUM_INTEGER, math.ceil(spec.min))
    high = MAXIMUM_INTEGER if spec.max is None else min(MAXIMUM_INTEGER, math.floor(spec.max))
    return Annotated[int, msgspec.Meta(ge=low, le=high)]
