"""Sources, entities and feature views of a pipeline file."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tidemill_contracts.base import Contract, Duration, FieldName, Name, parse_duration
from tidemill_contracts.pipeline.fields import FieldSpec
from tidemill_contracts.pipeline.quality import QualitySpec

Function = Literal[
    "count", "sum", "mean", "var", "std", "min", "max", "first", "last", "age_of_last",
    "lag", "distinct", "top", "ewma", "ratio",
]  # fmt: skip
_PARAMETERS = ("n", "half_life", "dividend", "divisor")
CAME_LATER = (*_PARAMETERS, "where", "name")
"""Fields of an aggregation that are no part of a view's version where they are not used: state is stored by version."""
_ALL_TIME = {"first", "last", "age_of_last", "lag"}
_DAY = 86_400_000_000
_SECOND = 1_000_000
_SESSION_GAPS = 48


def _micros(value: Any) -> Any:  # noqa: ANN401 - a validator sees whatever the file holds
    """A duration's microseconds; anything else stays for its own validator to refuse."""
    try:
        return parse_duration(value) if isinstance(value, str) else value
    except ValueError:
        return value


class SourceSpec(Contract):
    """A stream of events: its fields, its key (of Kafka, so the partition), its event time and how late they may be."""

    key: list[FieldName] = Field(min_length=1, max_length=4)
    time: FieldName | None = Field(
        default=None, description="timestamp field holding the event time; else the CloudEvents time"
    )
    fields: dict[FieldName, FieldSpec] = Field(min_length=1, max_length=256)
    allowed_lateness: Duration = 0
    max_future: Duration = _DAY
    idle_timeout: Duration | None = None
    keep: Duration | None = Field(
        default=None, description="retention of the topics; the archive keeps longer; none: for ever"
    )
    keep_ids: Duration = Field(default=400 * _DAY, description="horizon of known event ids, in event time")
    archive: bool = True
    quality: QualitySpec | None = Field(
        default=None, exclude_if=lambda quality: quality is None,
        description="bounds on the stream as a whole; what breaks them is quarantined from training",
    )  # fmt: skip

    @model_validator(mode="after")
    def _known_fields(self) -> Self:
        for name in self.key:
            if name not in self.fields:
                msg = f"key: {name} is not a field of this source"
                raise ValueError(msg)
        if self.time is not None and (self.time not in self.fields or self.fields[self.time].type != "timestamp"):
            msg = f"time: {self.time} is not a timestamp field of this source"
            raise ValueError(msg)
        problems = [] if self.quality is None else list(self.quality.problems(self.fields))
        if problems:
            raise ValueError("; ".join(problems))
        return self


class EntitySpec(Contract):
    """Something features belong to, named by one or more fields."""

    key: list[FieldName] = Field(min_length=1, max_length=4)
    description: str = ""


class WindowSpec(Contract):
    """A window of fixed panes, aligned to the epoch; `panes` 1 is a tumbling window.

    `{session: 30m}` is the entity's newest run of events of which each follows the one before within 30 minutes. It has
    no events any more once time is further on than that. Of one that is longer than `length` (48 times the gap unless
    declared) the newest panes count, each as long as the gap or, with `panes`, shorter.
    """

    length: Duration = 0
    panes: int = Field(default=12, ge=1, le=366)
    session: Duration | None = Field(
        default=None, exclude_if=lambda session: session is None, description="gap that ends a session"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_session(cls, data: Any) -> Any:  # noqa: ANN401 - a validator sees whatever the file holds
        """Length and panes follow from the gap where they are not declared."""
        if not isinstance(data, dict) or not isinstance(gap := _micros(data.get("session")), int) or gap <= 0:
            return data
        length = _micros(data.get("length", _SESSION_GAPS * gap))
        return {"panes": -(-length // gap) if isinstance(length, int) else 1, **data, "length": length}

    @model_validator(mode="after")
    def _whole_panes(self) -> Self:
        if self.length <= 0 or self.length % self.panes:
            msg = "length must be a positive multiple of panes"
            raise ValueError(msg)
        if self.session is not None and not self.length // self.panes <= self.session <= self.length // 2:
            msg = "session must not be shorter than length / panes, nor longer than half of length"
            raise ValueError(msg)
        return self


class AggregationSpec(Contract):
    """`function` of `field` over each of `windows` (names), or over all time (first, last, age_of_last, lag only).

    `lag` is the value `n` events before the newest, by event time and id. `distinct` estimates how many different
    values there were (HyperLogLog, standard error 6.5 %). `top` is the most frequent value of a category or boolean
    as its place in the declared list, of equals the first. `ewma` is the mean with weights that halve every
    `half_life`, by the age of panes. `ratio` divides the feature `dividend` by `divisor`, both of the same view and
    named without it (`delay_sum_1h`); null where the divisor is 0. With `where` only the events count for which that
    is true, and the feature's name begins with `name`: `late_count_1h`.
    """

    function: Function
    field: FieldName | None = None
    windows: list[str] | None = Field(default=None, description="names of windows; none: every window of the view")
    all_time: bool = False
    n: int | None = Field(default=None, ge=1, le=8, description="lag: events before the newest")
    half_life: Duration | None = Field(default=None, description="ewma: age at which a value weighs half")
    dividend: str | None = Field(default=None, description="ratio: a feature of the same view")
    divisor: str | None = Field(default=None, description="ratio: a feature of the same view")
    where: str | None = Field(
        default=None, max_length=4096, exclude_if=lambda where: where is None,
        description="expression over the source's fields; only events for which it is true count",
    )  # fmt: skip
    name: FieldName | None = Field(
        default=None, exclude_if=lambda name: name is None,
        description="with where: what the feature's name begins with",
    )  # fmt: skip

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.field is None) != (self.function in {"count", "ratio"}):
            others = "count and ratio take" if self.function == "ratio" else "count takes"
            msg = f"{others} no field, every other function takes one"
            raise ValueError(msg)
        if self.all_time and (self.windows is not None or self.function not in _ALL_TIME):
            msg = "all_time is for first, last, age_of_last and lag, without windows"
            raise ValueError(msg)
        if self.function == "ratio" and self.windows is not None:
            msg = "a ratio has the windows of its features"
            raise ValueError(msg)
        wanted = {"lag": {"n"}, "ewma": {"half_life"}, "ratio": {"dividend", "divisor"}}.get(self.function, set())
        if wanted != {name for name in _PARAMETERS if getattr(self, name) is not None}:
            msg = "n is for lag, half_life for ewma, dividend and divisor for ratio, and they need it"
            raise ValueError(msg)
        if (self.where is None) != (self.name is None) or (self.where is not None and self.function == "ratio"):
            msg = "where and name go together, and a ratio has the filters of its features"
            raise ValueError(msg)
        if self.half_life is not None and self.half_life < _SECOND:
            msg = "half_life must be a second or more"
            raise ValueError(msg)
        return self

    @property
    def stem(self) -> str:
        """The feature's name without view and window."""
        if self.function == "ratio":
            return f"{self.dividend}_per_{self.divisor}"
        function = self.function if self.n is None else f"{self.function}{self.n}"
        return "_".join(part for part in (self.name, self.field, function) if part is not None)

    @property
    def column(self) -> str | None:
        """What the engine reads of an event: a field, or `field?where` (`?where` for events themselves)."""
        return self.field if self.where is None else f"{self.field or ''}?{self.where}"


class ViewSpec(Contract):
    """Features of an entity from one source, named `view.field_function_window`; count is `view.count_window`."""

    source: Name
    entity: Name
    where: str | None = Field(
        default=None, max_length=4096, description="expression over the source's fields; only true rows count"
    )
    windows: dict[Annotated[str, Field(pattern=r"^[a-z0-9]+$")], WindowSpec] = Field(default_factory=dict)
    aggregations: list[AggregationSpec] = Field(min_length=1, max_length=256)
    ttl: Duration = Field(default=60 * _DAY, description="an entity without events for this long is forgotten")
    missing: Literal["default", "refuse"] = Field(
        default="default", description="what a prediction does for an unknown entity"
    )
    owner: str = ""
    description: str = ""

    @model_validator(mode="after")
    def _windows_exist(self) -> Self:
        for index, aggregation in enumerate(self.aggregations):
            names = self.windows_of(aggregation)
            if not (aggregation.all_time or aggregation.function == "ratio" or names):
                msg = f"aggregations.{index}: the view has no windows"
                raise ValueError(msg)
            for name in names:
                if name not in self.windows:
                    msg = f"aggregations.{index}.windows: {name} is not a window of this view"
                    raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _ratios_of_features(self) -> Self:
        ratios = [item for item in self.aggregations if item.function == "ratio"]
        parts = [item for item in self.aggregations if item.function not in {"ratio", "age_of_last"}]
        names = {name for item in parts for name in self._names(item)}
        for item in ratios:
            for name in (item.dividend, item.divisor):
                if name not in names:
                    msg = f"ratio: {name} is no feature of this view, or an age, which grows by itself"
                    raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _filters_named(self) -> Self:
        names = [name for item in self.aggregations for name in self._names(item)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice and any(item.name is not None for item in self.aggregations):
            msg = f"aggregations: two features are called {twice[0]}"
            raise ValueError(msg)
        return self

    def windows_of(self, aggregation: AggregationSpec) -> list[str]:
        """Names of the windows an aggregation runs over, none for an all-time one and for a ratio."""
        if aggregation.all_time or aggregation.function == "ratio":
            return []
        return list(self.windows) if aggregation.windows is None else aggregation.windows

    def feature_names(self, view: str) -> list[str]:
        """Names of the view's features, in the order of the vector."""
        return [f"{view}.{name}" for item in self.aggregations for name in self._names(item)]

    def _names(self, item: AggregationSpec) -> list[str]:
        return [f"{item.stem}_{window}" for window in self.windows_of(item)] or [item.stem.rstrip("_")]


def window(length: str, panes: int = 12) -> WindowSpec:
    """A window in one call, for tests and examples: `window("1h")`."""
    return WindowSpec(length=parse_duration(length), panes=panes)
