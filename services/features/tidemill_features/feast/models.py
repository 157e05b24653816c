"""Bodies of Feast's protocol, version 0.67: https://docs.feast.dev/reference/feature-servers/python-feature-server."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Scalar = str | int | float | bool | None
Column = Annotated[list[Scalar], Field(max_length=10_000)]
Status = Literal["PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"]
_Name = Annotated[str, Field(max_length=256)]


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class OnlineFeaturesRequest(_Request):
    """Rows of entities by column, and the features wanted of each: `view:feature`, or all of a pipeline."""

    entities: dict[_Name, Column] = Field(max_length=256, description="join key to one value per row")
    feature_service: _Name | None = Field(default=None, description="name of a pipeline: all features of its views")
    features: list[_Name] = Field(default=[], max_length=4096, examples=[["airport-departures:dep_delay_mean_1h"]])
    full_feature_names: bool = Field(default=False, description="answer with `view__feature`")
    include_feature_view_version_metadata: bool = False


class FeatureColumn(BaseModel):
    """One column of the answer, one item per row in each list."""

    values: list[Any]
    statuses: list[Status]
    event_timestamps: list[str] = Field(description="evaluation time of the vector; 1970-01-01T00:00:00Z without one")


class FeatureViewMetadata(BaseModel):
    """A view that was read."""

    name: str


class OnlineFeaturesMetadata(BaseModel):
    """Names of the columns: join keys first, then features grouped by view."""

    feature_names: list[str]
    feature_view_metadata: list[FeatureViewMetadata] = Field(default=[], description="where it was asked for")


class OnlineFeatures(BaseModel):
    """`results` are the columns that `metadata.feature_names` names."""

    results: list[FeatureColumn]
    metadata: OnlineFeaturesMetadata


class _Rows(_Request):
    df: dict[_Name, Column] = Field(
        max_length=512,
        description=(
            "column to one value per row: fields of the source; `event_timestamp` where the source has no time of its "
            "own; `event_id` to name the events (otherwise equal rows are one event); `created` is ignored"
        ),
    )
    allow_registry_cache: bool = True
    transform_on_write: bool = True


class PushRequest(_Rows):
    """Rows for a push source, which is a source of events."""

    push_source_name: _Name
    to: Literal["online", "offline", "online_and_offline"] = "online"


class WriteRequest(_Rows):
    """Rows for a view's source; the SDK's `push` and `write_to_online_store` send them under the view's name."""

    feature_view_name: _Name
