"""Bodies that the registry takes and answers."""

from typing import Any, Self

from pydantic import BaseModel, Field, model_validator

from tidemill_contracts.base import Contract
from tidemill_contracts.events import KeptFile


class PipelineAnswer(BaseModel):
    """A pipeline as it stands."""

    pipeline: str
    revision: int
    digest: str
    frozen: bool
    epoch: int
    spec: dict[str, Any]
    kept: list[KeptFile] = Field(description="earlier files that releases on hand were made for")


class Applied(BaseModel):
    """An accepted definition."""

    pipeline: str
    revision: int
    digest: str


class Releases(BaseModel):
    """Releases by epoch."""

    releases: list[dict[str, Any]]


class Items(BaseModel):
    """Rows of one kind."""

    items: list[dict[str, Any]]


class RequestOutcome(BaseModel):
    """What became of a training request."""

    request_id: str
    pipeline: str
    run_id: str
    status: str
    epoch: int | None
    version: int | None
    detail: str


class _Order(Contract):
    """What every order says. `expected_epoch` refuses when another decision came first."""

    expected_epoch: int | None = Field(default=None, ge=0)
    at: str = Field(description="event time of the decision, RFC 3339")
    detail: str = Field(default="", max_length=500)


class PromoteOrder(_Order):
    """Release a version by hand: the one named, else the challenger."""

    version: int | None = Field(default=None, ge=1)


class CanaryOrder(_Order):
    """Let a version answer a share of the keys as the champion's challenger: `share`, else the file's next step."""

    version: int = Field(ge=1)
    share: float | None = Field(default=None, gt=0, le=1)


class ShadowOrder(_Order):
    """Score with a version beside every answer, after it has left; or, with `remove`, no longer."""

    version: int = Field(ge=1)
    remove: bool = False


class MixedVersion(Contract):
    """A version's part in a mix."""

    version: int = Field(ge=1)
    weight: float = Field(gt=0, le=1)


class MixOrder(_Order):
    """Let several versions answer together, by weight."""

    members: list[MixedVersion] = Field(min_length=1, max_length=16)

    @model_validator(mode="after")
    def _are_several(self) -> Self:
        if len({member.version for member in self.members}) < len(self.members):
            raise ValueError("members: a version stands there twice")
        return self


class RollbackOrder(_Order):
    """Go back to `to_epoch`; else to the champion without its challenger, or the latest release of other models."""

    to_epoch: int | None = Field(default=None, ge=1)


class FreezeOrder(Contract):
    """Stop (true) or resume (false) automatic releases."""

    frozen: bool


class AuditAnswer(BaseModel):
    """Whether the chain holds; `broken_at` names the first row that does not fit."""

    ok: bool
    links: int
    head: str
    broken_at: int | None
    reason: str
