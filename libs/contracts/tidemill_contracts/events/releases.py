"""What answers: a release with its members, challenger and shadows, and the report of a replica that took it."""

from typing import ClassVar, Literal
from uuid import UUID

from pydantic import Field

from tidemill_contracts.base import Contract, Digest, FieldName, Micros
from tidemill_contracts.events.meta import Event
from tidemill_contracts.topics import Family


def _is_unset(value: object) -> bool:
    """What is not used is not written: a release without it looks as it always did."""
    return value is None


class Member(Contract):
    """A model in a release: `weight` shares of the answer; a shadow's score is only logged.

    A shadow or challenger that reads other features than the release names them, with the versions of their views.
    """

    name: str
    model: Digest
    version: int = Field(ge=1)
    weight: float = Field(default=1.0, ge=0, le=1)
    features: list[str] | None = Field(default=None, exclude_if=_is_unset)
    views: dict[str, str] | None = Field(default=None, exclude_if=_is_unset)


class Challenger(Member):
    """A model that answers for a share of the keys: those whose `tidemill_engine.rollout.point` lies below the share.

    The point follows from `salt`, which stays while the share grows, and from the request field `by`: a key that has
    the challenger at some share has it at every larger one.
    """

    share: float = Field(gt=0, le=1)
    salt: str = Field(min_length=1, max_length=64)
    by: FieldName
    deadline_ms: int = Field(default=20, ge=1, le=10_000, description="of a batch; then the champion answers for it")


class ReleaseReason(Contract):
    """Who or what moved the champion pointer."""

    kind: Literal["first", "gate", "hand", "rollback", "freeze"]
    event_id: UUID | None = None
    detail: str = ""


class Released(Event):
    """What moves and rolls back as one: models, weights, views, thresholds, reference, segments, policy."""

    TYPE: ClassVar[str] = "tidemill.released.v1"
    FAMILY: ClassVar[Family | None] = "releases"
    pipeline: str
    epoch: int = Field(ge=1)
    sequence: int = Field(default=0, ge=0, description="counts weight changes within an epoch")
    members: list[Member] = Field(min_length=1)
    shadows: list[Member] = Field(default_factory=list)
    views: dict[str, str]
    features: list[str]
    challenger: Challenger | None = Field(default=None, exclude_if=_is_unset)
    thresholds: dict[str, float] = Field(
        default_factory=dict, description="by name; an answer says which of them its score reaches"
    )
    reference: Digest | None = Field(
        default=None,
        exclude_if=_is_unset,
        description="a DriftReference, the leading member's: inputs and scores are compared with it. Older releases "
        "name a training manifest here, or nothing: the first rows of their leading member are its reference",
    )
    segments: list[str] | None = Field(
        default=None, exclude_if=_is_unset, description="request fields by whose values quality is watched"
    )
    spec: Digest
    policy: Digest
    at_us: Micros
    effective_at_us: Micros | None = None
    reason: ReleaseReason
    previous_epoch: int = 0


class ModelSwapped(Event):
    """A serving replica now answers with this epoch."""

    TYPE: ClassVar[str] = "tidemill.model-swapped.v1"
    FAMILY: ClassVar[Family | None] = "swaps"
    pipeline: str
    epoch: int
    replica: str
    watermark_us: Micros | None = None
    loaded_ms: float
