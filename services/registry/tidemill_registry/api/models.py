"""Bodies that the registry takes and answers."""

from typing import Any

from pydantic import BaseModel, Field

from tidemill_contracts.base import Contract


class PipelineAnswer(BaseModel):
    """A pipeline as it stands."""

    pipeline: str
    revision: int
    digest: str
    frozen: bool
    epoch: int
    spec: dict[str, Any]


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


class PromoteOrder(Contract):
    """Release a version by hand. `expected_epoch` refuses when another decision came first."""

    version: int = Field(ge=1)
    expected_epoch: int | None = Field(default=None, ge=0)
    at: str = Field(description="event time of the decision, RFC 3339")
    detail: str = Field(default="", max_length=500)


class RollbackOrder(Contract):
    """Go back to an earlier release: to `to_epoch`, else to the latest one with another model."""

    to_epoch: int | None = Field(default=None, ge=1)
    at: str = Field(description="event time of the decision, RFC 3339")
    detail: str = Field(default="", max_length=500)


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
