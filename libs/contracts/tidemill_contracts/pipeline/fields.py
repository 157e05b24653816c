"""Types of fields: what a source's event or a prediction request may hold."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tidemill_contracts.base import Contract


class NumberField(Contract):
    """A number; `quantum` is the step of exact sums as a power of two."""

    type: Literal["float", "integer"]
    min: float | None = None
    max: float | None = None
    quantum: int = Field(default=-40, ge=-60, le=0, description="exact sums are multiples of 2**quantum")
    required: bool = True


class BooleanField(Contract):
    """True or false; 1 and 0 inside expressions and aggregations."""

    type: Literal["boolean"]
    required: bool = True


class StringField(Contract):
    """Text of a bounded length."""

    type: Literal["string"]
    max_length: int = Field(default=256, ge=1, le=65_536)
    required: bool = True


class CategoryField(Contract):
    """One of a declared list; `code(field)` in expressions is its place in the list."""

    type: Literal["category"]
    values: list[str] = Field(min_length=1, max_length=10_000)
    required: bool = True

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.values)) != len(self.values):
            msg = "values must be distinct"
            raise ValueError(msg)
        return self


class TimestampField(Contract):
    """An RFC 3339 instant with offset."""

    type: Literal["timestamp"]
    required: bool = True


FieldSpec = Annotated[
    NumberField | BooleanField | StringField | CategoryField | TimestampField, Field(discriminator="type")
]
