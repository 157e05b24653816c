"""The routes that every service has: liveness, readiness, metrics, its own OpenAPI document."""

from collections.abc import Sequence

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tidemill_runtime.health import Condition, Health
from tidemill_runtime.http import Route, json_response
from tidemill_runtime.openapi import openapi


class ConditionReport(BaseModel):
    """One condition; `reason` says why it does not hold."""

    name: str
    ok: bool
    reason: str


class HealthReport(BaseModel):
    """Whether all is well, and what that rests on."""

    ok: bool
    conditions: list[ConditionReport]


def probe_routes(title: str, routes: Sequence[Route], health: Health) -> list[Route]:
    """/livez (restart me when not 200), /readyz (send me traffic when 200), /metrics, /openapi.json."""

    async def livez(_: Request) -> Response:
        return _report(*health.alive())

    async def readyz(_: Request) -> Response:
        return _report(*health.ready())

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)

    async def document(_: Request) -> Response:
        return JSONResponse(openapi(title, [*routes, *probes]))

    probes = [
        Route(method="GET", path="/livez", endpoint=livez, summary="Is the process working?", response=HealthReport,
              statuses=(503,), public=True),
        Route(method="GET", path="/readyz", endpoint=readyz, summary="May traffic be sent?", response=HealthReport,
              statuses=(503,), public=True),
        Route(method="GET", path="/metrics", endpoint=metrics, summary="Prometheus metrics"),
        Route(method="GET", path="/openapi.json", endpoint=document, summary="This document"),
    ]  # fmt: skip
    return probes


def _report(ok: bool, conditions: list[Condition]) -> Response:  # noqa: FBT001 - passed on from Health
    reports = [ConditionReport(name=c.name, ok=c.ok, reason=c.reason) for c in conditions]
    return json_response(HealthReport(ok=ok, conditions=reports), 200 if ok else 503)
