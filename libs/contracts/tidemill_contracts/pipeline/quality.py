"""What a source promises about its stream beyond the single event: shares over windows of event time, and freshness.

An event outside its field's hard bounds is a dead letter at once. These bounds are about the stream as a whole: a
window of one partition that breaks one is told in a `quality` event, and its rows are quarantined from training.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from tidemill_contracts.base import Contract, Duration, FieldName
from tidemill_contracts.pipeline.fields import FieldSpec

Share = Annotated[float, Field(ge=0, le=1)]
_HOUR = 3_600_000_000


class FieldQuality(Contract):
    """Bounds of one field within a window. Shares of a range and of values are of the rows that are not null."""

    max_nulls: Share | None = Field(default=None, description="share of rows without a value")
    min: float | None = Field(default=None, description="lower end of the usual range")
    max: float | None = Field(default=None, description="upper end of the usual range")
    max_outside: Share = Field(default=0.0, description="share of values outside of the usual range")
    values: list[str] | None = Field(default=None, min_length=1, max_length=10_000, description="the usual values")
    max_others: Share = Field(default=0.0, description="share of values that are not among the usual ones")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.max_nulls is None and not self.has_range and self.values is None:
            msg = "set max_nulls, min, max or values"
            raise ValueError(msg)
        if self.min is not None and self.max is not None and self.min > self.max:
            msg = "min must not be above max"
            raise ValueError(msg)
        return self

    @property
    def has_range(self) -> bool:
        """Whether a usual range is declared."""
        return self.min is not None or self.max is not None


class QualitySpec(Contract):
    """Bounds per window of event time and partition, judged once the watermark has passed the window's end."""

    window: Duration = Field(default=_HOUR, gt=0)
    judge_from: int = Field(default=20, ge=1, description="shares of windows with fewer rows are not judged")
    minimum_rows: int | None = Field(default=None, ge=1, description="a window of a partition holds at least so many")
    max_silence: Duration | None = Field(
        default=None, gt=0, description="event time of a partition goes on at most so far without an event"
    )
    fields: dict[FieldName, FieldQuality] = Field(default_factory=dict, max_length=256)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.fields and self.minimum_rows is None and self.max_silence is None:
            msg = "declare fields, minimum_rows or max_silence"
            raise ValueError(msg)
        return self

    def problems(self, fields: Mapping[str, FieldSpec]) -> Iterator[str]:
        """What does not fit the fields of the source, each with its place."""
        for name, bounds in self.fields.items():
            spec = fields.get(name)
            if spec is None:
                yield f"quality.fields: {name} is not a field of this source"
                continue
            if bounds.has_range and spec.type not in {"float", "integer"}:
                yield f"quality.fields.{name}: a range needs a number, {name} is {spec.type}"
            if bounds.values is not None and spec.type not in {"string", "category"}:
                yield f"quality.fields.{name}: values need text, {name} is {spec.type}"
            if bounds.max_nulls is not None and spec.required:
                yield f"quality.fields.{name}: {name} is required, so a null is a dead letter already"
