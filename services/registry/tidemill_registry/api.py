"""What the registry answers over HTTP: pipelines, champions, releases, versions, verdicts, lineage, audit, and decisions by hand."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol
from uuid import UUID

from pydantic import BaseModel, Field
from starlette.requests import Request

from tidemill_contracts import parse_time
from tidemill_contracts.base import Contract
from tidemill_contracts.events import PipelineApplied, Released, ReleaseReason
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_registry.domain.audit import Link, verify
from tidemill_registry.domain.champion import (
    EpochMovedError,
    Moment,
    NothingToRollBackError,
    Version,
    next_release,
    rolled_back,
)
from tidemill_registry.domain.review import Standing
from tidemill_runtime.http import FieldError, HttpProblem, Route, read_model


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


class Unit(Protocol):
    """One transaction of the registry."""

    async def lock(self, pipeline: str) -> None: ...
    async def apply(self, spec: PipelineSpec) -> PipelineApplied: ...
    async def standing(self, pipeline: str) -> Standing | None: ...
    async def releases(self, pipeline: str) -> list[Released]: ...
    async def version(self, pipeline: str, number: int) -> Version | None: ...
    async def release(self, release: Released) -> None: ...
    async def freeze(self, pipeline: str, *, frozen: bool) -> None: ...


class Queries(Protocol):
    """Reads of the registry."""

    async def audit_links(self) -> Any: ...
    async def releases(self, pipeline: str) -> list[dict[str, Any]]: ...
    async def champion(self, pipeline: str, at_us: int | None) -> dict[str, Any] | None: ...
    async def versions(self, pipeline: str) -> list[dict[str, Any]]: ...
    async def gates(self, pipeline: str) -> list[dict[str, Any]]: ...
    async def pipeline(self, name: str) -> dict[str, Any] | None: ...
    async def request(self, request_id: UUID) -> dict[str, Any] | None: ...
    async def lineage(self, kind: str, name: str) -> list[dict[str, str]]: ...


class Registry(Protocol):
    """What the routes need; both raise HttpProblem before the store is open."""

    def unit(self) -> AbstractAsyncContextManager[Unit]: ...
    def queries(self) -> Queries: ...
    async def make_topics(self, spec: PipelineSpec) -> None: ...


def routes(registry: Registry) -> list[Route]:
    """The route table over the service."""
    return [*_pipeline_routes(registry), *_decision_routes(registry), *_read_routes(registry)]


def _pipeline_routes(registry: Registry) -> list[Route]:
    async def put(request: Request) -> Applied:
        spec = await read_model(request, PipelineSpec)
        if spec.name != request.path_params["pipeline"]:
            raise _problem("name", "path", "the name in the file and in the address differ")
        await registry.make_topics(spec)
        async with registry.unit() as unit:
            await unit.lock(spec.name)
            event = await unit.apply(spec)
        return Applied(pipeline=spec.name, revision=event.revision, digest=event.digest)

    async def get(request: Request) -> PipelineAnswer:
        name = request.path_params["pipeline"]
        row = await registry.queries().pipeline(name)
        if row is None:
            raise HttpProblem(404, "there is no such pipeline")
        return PipelineAnswer(pipeline=name, **row)

    return [
        Route(method="PUT", path="/v1/pipelines/{pipeline}", endpoint=put, summary="Apply a pipeline file (as JSON)",
              request=PipelineSpec, response=Applied, statuses=(400, 409, 422)),
        Route(method="GET", path="/v1/pipelines/{pipeline}", endpoint=get, summary="A pipeline", response=PipelineAnswer, statuses=(404,)),
    ]  # fmt: skip


def _decision_routes(registry: Registry) -> list[Route]:
    async def decide(request: Request, build: Callable[[Unit, Standing], Any]) -> Released:
        name = request.path_params["pipeline"]
        async with registry.unit() as unit:
            await unit.lock(name)
            standing = await unit.standing(name)
            if standing is None:
                raise HttpProblem(404, "there is no such pipeline")
            try:
                release: Released = await build(unit, standing)
                await unit.release(release)
            except EpochMovedError:
                raise HttpProblem(409, "another release came first; look at the champion and decide again") from None
            except NothingToRollBackError:
                raise HttpProblem(409, "there is no earlier release to go back to") from None
        return release

    async def promote(request: Request) -> Released:
        order = await read_model(request, PromoteOrder)

        async def build(unit: Unit, standing: Standing) -> Released:
            version = await unit.version(standing.spec.name, order.version)
            if version is None:
                raise HttpProblem(404, "there is no such version")
            epoch = standing.champion.epoch if standing.champion is not None else 0
            if order.expected_epoch not in (None, epoch):
                raise EpochMovedError
            reason = ReleaseReason(kind="hand", detail=order.detail)
            return next_release(
                standing.spec, standing.champion, version, moment=Moment(_time(order.at)), reason=reason
            )

        return await decide(request, build)

    async def rollback(request: Request) -> Released:
        order = await read_model(request, RollbackOrder)

        async def build(unit: Unit, standing: Standing) -> Released:
            history = await unit.releases(standing.spec.name)
            reason = ReleaseReason(kind="rollback", detail=order.detail)
            return rolled_back(history, order.to_epoch, at_us=_time(order.at), reason=reason)

        return await decide(request, build)

    async def freeze(request: Request) -> FreezeOrder:
        order, name = await read_model(request, FreezeOrder), request.path_params["pipeline"]
        async with registry.unit() as unit:
            if await unit.standing(name) is None:
                raise HttpProblem(404, "there is no such pipeline")
            await unit.freeze(name, frozen=order.frozen)
        return order

    base = "/v1/pipelines/{pipeline}"
    return [
        Route(method="POST", path=f"{base}/promote", endpoint=promote, summary="Release a version by hand", request=PromoteOrder,
              response=Released, statuses=(404, 409, 422)),
        Route(method="POST", path=f"{base}/rollback", endpoint=rollback, summary="Go back to an earlier release", request=RollbackOrder,
              response=Released, statuses=(404, 409, 422)),
        Route(method="POST", path=f"{base}/freeze", endpoint=freeze, summary="Stop or resume automatic releases", request=FreezeOrder,
              response=FreezeOrder, statuses=(404, 422)),
    ]  # fmt: skip


def _read_routes(registry: Registry) -> list[Route]:
    async def champion(request: Request) -> Released:
        at = request.query_params.get("at")
        found = await registry.queries().champion(request.path_params["pipeline"], None if at is None else _time(at))
        if found is None:
            raise HttpProblem(404, "nothing was released by then")
        return Released.model_validate({k: v for k, v in found.items() if k in Released.model_fields}, strict=False)

    async def releases(request: Request) -> Releases:
        return Releases(releases=await registry.queries().releases(request.path_params["pipeline"]))

    async def versions(request: Request) -> Items:
        return Items(items=await registry.queries().versions(request.path_params["pipeline"]))

    async def gates(request: Request) -> Items:
        return Items(items=await registry.queries().gates(request.path_params["pipeline"]))

    async def outcome(request: Request) -> RequestOutcome:
        found = await registry.queries().request(_uuid(request.path_params["request_id"]))
        if found is None:
            raise HttpProblem(404, "no run of this request has come in yet")
        return RequestOutcome(**found)

    async def lineage(request: Request) -> Items:
        edges = await registry.queries().lineage(request.path_params["kind"], request.path_params["name"])
        return Items(items=[dict(edge) for edge in edges])

    async def audit(_: Request) -> AuditAnswer:
        links: list[Link] = await registry.queries().audit_links()
        verdict = verify(links)
        return AuditAnswer(
            ok=verdict.ok, links=verdict.links, head=verdict.head, broken_at=verdict.broken_at, reason=verdict.reason
        )

    base = "/v1/pipelines/{pipeline}"
    return [
        Route(method="GET", path=f"{base}/champion", endpoint=champion, summary="Who answers, or answered at event time ?at=",
              response=Released, statuses=(404, 422)),
        Route(method="GET", path=f"{base}/releases", endpoint=releases, summary="Releases by epoch", response=Releases),
        Route(method="GET", path=f"{base}/versions", endpoint=versions, summary="Versions", response=Items),
        Route(method="GET", path=f"{base}/gates", endpoint=gates, summary="Verdicts of the gate", response=Items),
        Route(method="GET", path="/v1/requests/{request_id}", endpoint=outcome, summary="What became of a training request",
              response=RequestOutcome, statuses=(404, 422)),
        Route(method="GET", path="/v1/lineage/{kind}/{name}", endpoint=lineage, summary="All ancestors of a model, run or request", response=Items),
        Route(method="GET", path="/v1/audit/verify", endpoint=audit, summary="Does the audit chain hold?", response=AuditAnswer),
    ]  # fmt: skip


def _time(text: str) -> int:
    try:
        return parse_time(text)
    except ValueError as error:
        raise _problem("at", "time", str(error)) from None


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise HttpProblem(422, "an id is a UUID") from None


def _problem(field: str, rule: str, message: str) -> HttpProblem:
    return HttpProblem(422, "a field is not valid", errors=[FieldError(field=field, rule=rule, message=message)])
