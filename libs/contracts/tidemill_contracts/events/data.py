"""Events of the data plane: many of them, written log to log."""

from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from pydantic import Field

from tidemill_contracts.base import Contract, Digest, Micros
from tidemill_contracts.events.meta import Event
from tidemill_contracts.topics import Family

Positions = dict[str, int]
"""Source partition (decimal text) to the highest dense sequence number in it that is reflected."""

Scalar = str | int | float | bool | None

Fallback = Literal["error", "late", "invalid"]
"""Why a model has no score: it failed, it took too long, or what it answered is not a probability."""


def _is_unset(value: object) -> bool:
    """What is not used is not written."""
    return value is None


class Timer(Event):
    """The written word of a clock or producer: nothing older than `time_us` of this source follows in the partition."""

    TYPE: ClassVar[str] = "tidemill.timer.v1"
    source: str
    time_us: Micros
    reason: str = "progress"
    source_partition: int | None = Field(default=None, description="set on repartition topics: whose watermark this is")
    writer: str | None = Field(default=None, description="whose word it is; none: that of the event's source")


class Watermark(Event):
    r"""The watermark of one partition of a compacted features topic, under the key `\x00watermark`."""

    TYPE: ClassVar[str] = "tidemill.watermark.v1"
    FAMILY: ClassVar[Family | None] = "features"
    view: str
    partition: int
    watermark_us: Micros
    positions: Positions = Field(default_factory=dict)


class FeatureVector(Event):
    """One entity's features: the aggregate of all its events up to `positions`, evaluated at `at_us`."""

    TYPE: ClassVar[str] = "tidemill.features.v1"
    FAMILY: ClassVar[Family | None] = "features"
    view: str
    version: Annotated[str, Field(description="digest of the view's definition, 16 hexadecimal digits")]
    entity: str
    at_us: Micros
    revision: int = Field(ge=1)
    values: list[float | None]
    positions: Positions


class ViewRevision(Contract):
    """Which state of an entity a prediction read; `revision` 0 means that the entity was unknown."""

    entity: str
    revision: int = Field(ge=0)
    at_us: Micros | None = None
    positions: Positions = Field(default_factory=dict)


class MixedMember(Contract):
    """A member's part in an answer; without a score it took no part."""

    model: Digest
    version: int = Field(ge=1)
    weight: float = Field(ge=0, le=1)
    score: float | None


class Prediction(Event):
    """One answer, logged before it left. `at_us` orders it in the merge; `vector` is the model's whole input."""

    TYPE: ClassVar[str] = "tidemill.prediction.v1"
    FAMILY: ClassVar[Family | None] = "predictions"
    prediction_id: UUID
    pipeline: str
    key: str = Field(description="join key of the label")
    at_us: Micros
    epoch: int = Field(ge=1)
    model: Digest
    version: int = Field(ge=1)
    score: float = Field(ge=0, le=1)
    members: dict[str, float] = Field(
        default_factory=dict, description="score by model digest, where there are several"
    )
    shadows: dict[str, float] = Field(default_factory=dict, description="score by shadow name")
    vector: list[float | None]
    features: Digest = Field(description="digest of the ordered feature names")
    revisions: dict[str, ViewRevision]
    request: dict[str, Scalar]
    defaulted: list[str] = Field(
        default_factory=list, description="views whose entity was unknown, answered by default"
    )
    degraded: bool = False
    watermark_us: Micros | None = None
    trace_id: str | None = None
    sequence: int = Field(default=0, ge=0, description="of the release: with the epoch it names the members' weights")
    mix: list[MixedMember] = Field(
        default_factory=list, description="in the order of adding: `tidemill_engine.rollout.mix_one` gives the score"
    )
    arm: Literal["champion", "challenger"] = Field(default="champion", description="who the key belonged to")
    share: float = Field(default=1.0, ge=0, le=1, description="of the keys that belonged to the arm")
    fallback: Fallback | None = Field(
        default=None, description="why somebody else answered than the arm, or not all of its members"
    )
    above: list[str] = Field(default_factory=list, description="names of the release's thresholds that score reaches")
    inline: dict[str, float | None] = Field(
        default_factory=dict, description="features that the request put in, in place of what was known of the entity"
    )
    mark: str | None = Field(
        default=None, description="digest of the request, where fields of it were left out of this record by a sample"
    )


class RequestedInstance(Contract):
    """One instance of a request, as `POST /v1/predict/{pipeline}` takes it; without `id` the event's stands for it."""

    id: str | None = Field(default=None, min_length=1, max_length=256)
    time: str | None = Field(default=None, description="event time, RFC 3339")
    inputs: dict[str, Scalar] = Field(description="request fields as the pipeline file declares them")
    features: dict[str, float | None] | None = Field(
        default=None, description="features in place of what is known of the entity, by `view.feature`"
    )


class PredictionRequested(Event):
    """A request for predictions that nobody waits for: one instance, or `instances`. Its answers are predictions.

    The body is that of `POST /v1/predict/{pipeline}`.
    """

    TYPE: ClassVar[str] = "tidemill.prediction-requested.v1"
    FAMILY: ClassVar[Family | None] = "requests"
    id: str | None = Field(default=None, min_length=1, max_length=256, exclude_if=_is_unset)
    time: str | None = Field(default=None, description="event time, RFC 3339", exclude_if=_is_unset)
    inputs: dict[str, Scalar] | None = Field(default=None, exclude_if=_is_unset)
    features: dict[str, float | None] | None = Field(default=None, exclude_if=_is_unset)
    instances: list[RequestedInstance] | None = Field(
        default=None, min_length=1, max_length=1000, exclude_if=_is_unset, description="instead of all of the above"
    )


class Shadowed(Event):
    """What shadow challengers say to a prediction's inputs, written after the answer has left; for no merge."""

    TYPE: ClassVar[str] = "tidemill.shadowed.v1"
    FAMILY: ClassVar[Family | None] = "predictions"
    prediction_id: UUID
    pipeline: str
    key: str
    at_us: Micros
    epoch: int = Field(ge=1)
    scores: dict[str, float] = Field(description="by name of the shadow")
    models: dict[str, Digest] = Field(description="by name of the shadow, also of those that failed")
    failed: dict[str, Fallback] = Field(default_factory=dict, description="why a shadow has no score")


class LoggedInput(Contract):
    """An input as it was sent, and what of its values the record has."""

    name: str
    datatype: str
    shape: list[int]
    values: Literal["all", "cut", "sampled", "redacted"] = Field(
        description="cut: the first rows; sampled: none, another share of the requests has them; redacted: none, ever"
    )


class Inference(Event):
    """An answer of the open inference protocol, logged before it left: rows of features, no entity and no label.

    Many rows make several records: the first has the answer's id as its own, the others add a point and `part`.
    """

    TYPE: ClassVar[str] = "tidemill.inference.v1"
    FAMILY: ClassVar[Family | None] = "predictions"
    inference_id: UUID
    request_id: str | None = Field(default=None, description="the client's own id, which may come again")
    pipeline: str
    at_us: Micros
    epoch: int = Field(ge=1)
    model: Digest
    version: int = Field(ge=1)
    features: Digest = Field(description="digest of the ordered feature names")
    part: int = Field(default=0, ge=0)
    parts: int = Field(default=1, ge=1)
    rows: list[list[float]] = Field(description="the model's whole input, one list per row, or what `inputs` says")
    scores: list[float] = Field(description="one per row, from 0 to 1")
    degraded: bool = False
    trace_id: str | None = None
    inputs: list[LoggedInput] = Field(
        default_factory=list, description="where the pipeline file says what is logged: what was sent; else empty"
    )


class Outcome(Event):
    """A label joined to its prediction, once. `seq` is dense and the same on every run: it numbers the merge."""

    TYPE: ClassVar[str] = "tidemill.outcome.v1"
    FAMILY: ClassVar[Family | None] = "outcomes"
    pipeline: str
    seq: int = Field(ge=0)
    prediction_id: UUID
    key: str
    predicted_us: Micros
    labelled_us: Micros
    label: float
    score: float
    reference: float | None = Field(
        default=None, description="score of the online reference learner before it saw this row"
    )
    shadows: dict[str, float] = Field(default_factory=dict)
    epoch: int
    version: int
    vector: list[float | None]
    features: Digest
    segments: dict[str, str] = Field(default_factory=dict)
    label_event: str
    label_position: tuple[int, int] = Field(description="source partition and sequence number of the label event")
    quarantined: bool = False


class DeadLetter(Event):
    """Context of a record that can never be processed; the record's own bytes are the value, these are its headers."""

    TYPE: ClassVar[str] = "tidemill.dead-letter.v1"
    topic: str
    partition: int
    offset: int
    group: str
    reason: str
    error: str
    attempts: int = 1
    first_seen_us: Micros
    schema_id: str | None = None
    code_version: str
    detail: dict[str, Any] = Field(default_factory=dict)
