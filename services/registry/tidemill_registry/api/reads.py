"""Champions, releases, versions, verdicts, requests, lineage and the audit chain."""

from starlette.requests import Request

from tidemill_contracts.events import Released
from tidemill_registry.api.fields import event_time, identifier
from tidemill_registry.api.models import AuditAnswer, Items, Releases, RequestOutcome
from tidemill_registry.api.ports import Registry
from tidemill_registry.domain.audit import verify
from tidemill_runtime.http import HttpProblem, Route


def routes(registry: Registry) -> list[Route]:
    """Routes over the registry."""

    async def champion(request: Request) -> Released:
        at = request.query_params.get("at")
        at_us = None if at is None else event_time(at)
        found = await registry.queries().champion(request.path_params["pipeline"], at_us)
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
        found = await registry.queries().request(identifier(request.path_params["request_id"]))
        if found is None:
            raise HttpProblem(404, "no run of this request has come in yet")
        return RequestOutcome(**found)

    async def lineage(request: Request) -> Items:
        edges = await registry.queries().lineage(request.path_params["kind"], request.path_params["name"])
        return Items(items=[dict(edge) for edge in edges])

    async def audit(_: Request) -> AuditAnswer:
        verdict = verify(await registry.queries().audit_links())
        return AuditAnswer(
            ok=verdict.ok, links=verdict.links, head=verdict.head, broken_at=verdict.broken_at, reason=verdict.reason
        )

    base = "/v1/pipelines/{pipeline}"
    return [
        Route(method="GET", path=f"{base}/champion", endpoint=champion, response=Released, statuses=(404, 422),
              summary="Who answers, or answered at event time ?at="),
        Route(method="GET", path=f"{base}/releases", endpoint=releases, summary="Releases by epoch", response=Releases),
        Route(method="GET", path=f"{base}/versions", endpoint=versions, summary="Versions", response=Items),
        Route(method="GET", path=f"{base}/gates", endpoint=gates, summary="Verdicts of the gate", response=Items),
        Route(method="GET", path="/v1/requests/{request_id}", endpoint=outcome, response=RequestOutcome,
              summary="What became of a training request", statuses=(404, 422)),
        Route(method="GET", path="/v1/lineage/{kind}/{name}", endpoint=lineage, response=Items,
              summary="All ancestors of a model, run or request"),
        Route(method="GET", path="/v1/audit/verify", endpoint=audit, response=AuditAnswer,
              summary="Does the audit chain hold?"),
    ]  # fmt: skip
