"""Decisions by hand: release a version, go back to an earlier release, freeze."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request

from tidemill_contracts.events import Released, ReleaseReason
from tidemill_registry.api.fields import event_time
from tidemill_registry.api.models import FreezeOrder, PromoteOrder, RollbackOrder
from tidemill_registry.api.ports import Registry, Unit
from tidemill_registry.domain.champion import (
    EpochMovedError,
    Moment,
    NothingToRollBackError,
    next_release,
    rolled_back,
)
from tidemill_registry.domain.review import Standing
from tidemill_runtime.http import HttpProblem, Route, read_model

Build = Callable[[Unit, Standing], Awaitable[Released]]
"""Makes the release that an order asks for, from how the pipeline stands."""


def routes(registry: Registry) -> list[Route]:
    """Routes over the registry."""

    async def promote(request: Request) -> Released:
        order = await read_model(request, PromoteOrder)
        return await _decide(registry, request.path_params["pipeline"], _promotion(order))

    async def rollback(request: Request) -> Released:
        order = await read_model(request, RollbackOrder)
        return await _decide(registry, request.path_params["pipeline"], _return(order))

    async def freeze(request: Request) -> FreezeOrder:
        order, name = await read_model(request, FreezeOrder), request.path_params["pipeline"]
        async with registry.unit() as unit:
            if await unit.standing(name) is None:
                raise HttpProblem(404, "there is no such pipeline")
            await unit.freeze(name, frozen=order.frozen)
        return order

    base = "/v1/pipelines/{pipeline}"
    return [
        Route(method="POST", path=f"{base}/promote", endpoint=promote, summary="Release a version by hand",
              request=PromoteOrder, response=Released, statuses=(404, 409, 422)),
        Route(method="POST", path=f"{base}/rollback", endpoint=rollback, summary="Go back to an earlier release",
              request=RollbackOrder, response=Released, statuses=(404, 409, 422)),
        Route(method="POST", path=f"{base}/freeze", endpoint=freeze, summary="Stop or resume automatic releases",
              request=FreezeOrder, response=FreezeOrder, statuses=(404, 422)),
    ]  # fmt: skip


async def _decide(registry: Registry, name: str, build: Build) -> Released:
    """Make one release inside one transaction; raises HttpProblem 404 or 409 where none can be made."""
    async with registry.unit() as unit:
        await unit.lock(name)
        standing = await unit.standing(name)
        if standing is None:
            raise HttpProblem(404, "there is no such pipeline")
        try:
            release = await build(unit, standing)
            await unit.release(release)
        except EpochMovedError:
            raise HttpProblem(409, "another release came first; look at the champion and decide again") from None
        except NothingToRollBackError:
            raise HttpProblem(409, "there is no earlier release to go back to") from None
    return release


def _promotion(order: PromoteOrder) -> Build:
    async def build(unit: Unit, standing: Standing) -> Released:
        version = await unit.version(standing.spec.name, order.version)
        if version is None:
            raise HttpProblem(404, "there is no such version")
        epoch = standing.champion.epoch if standing.champion is not None else 0
        if order.expected_epoch not in (None, epoch):
            raise EpochMovedError
        moment, reason = Moment(event_time(order.at)), ReleaseReason(kind="hand", detail=order.detail)
        return next_release(standing.spec, standing.champion, version, moment=moment, reason=reason)

    return build


def _return(order: RollbackOrder) -> Build:
    async def build(unit: Unit, standing: Standing) -> Released:
        history = await unit.releases(standing.spec.name)
        reason = ReleaseReason(kind="rollback", detail=order.detail)
        return rolled_back(history, order.to_epoch, at_us=event_time(order.at), reason=reason)

    return build
