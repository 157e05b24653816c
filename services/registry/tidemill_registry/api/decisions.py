"""Decisions by hand: release a version, let it answer a share or beside the answers, mix, go back, freeze."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.requests import Request

from tidemill_contracts.events import Released, ReleaseReason
from tidemill_registry.api.fields import event_time
from tidemill_registry.api.models import (
    CanaryOrder,
    FreezeOrder,
    MixOrder,
    PromoteOrder,
    RollbackOrder,
    ShadowOrder,
)
from tidemill_registry.api.ports import Registry, Unit
from tidemill_registry.domain.champion import (
    EpochMovedError,
    Moment,
    UndecidableError,
    Version,
    next_release,
    rolled_back,
)
from tidemill_registry.domain.review import Standing
from tidemill_registry.domain.rollout import canaried, mixed, promoted, shadowed, unshadowed
from tidemill_runtime.http import HttpProblem, Route, read_model

Build = Callable[[Unit, Standing], Awaitable[Released]]
"""Makes the release that an order asks for, from how the pipeline stands."""
Order = TypeVar("Order", bound=PromoteOrder | CanaryOrder | ShadowOrder | MixOrder | RollbackOrder)


def routes(registry: Registry) -> list[Route]:
    """Routes over the registry."""

    def deciding(kind: type[Order], build: Callable[[Order], Build]) -> Callable[[Request], Awaitable[Released]]:
        async def decide(request: Request) -> Released:
            order = await read_model(request, kind)
            return await _decide(registry, request.path_params["pipeline"], order.expected_epoch, build(order))

        return decide

    async def freeze(request: Request) -> FreezeOrder:
        order, name = await read_model(request, FreezeOrder), request.path_params["pipeline"]
        async with registry.unit() as unit:
            if await unit.standing(name) is None:
                raise HttpProblem(404, "there is no such pipeline")
            await unit.freeze(name, frozen=order.frozen)
        return order

    base, statuses = "/v1/pipelines/{pipeline}", (404, 409, 422)
    return [
        Route(method="POST", path=f"{base}/promote", endpoint=deciding(PromoteOrder, _promotion),
              summary="Release a version by hand", request=PromoteOrder, response=Released, statuses=statuses),
        Route(method="POST", path=f"{base}/canary", endpoint=deciding(CanaryOrder, _canary),
              summary="Let a version answer a share of the keys", request=CanaryOrder, response=Released,
              statuses=statuses),
        Route(method="POST", path=f"{base}/shadow", endpoint=deciding(ShadowOrder, _shadow),
              summary="Score with a version beside the answers", request=ShadowOrder, response=Released,
              statuses=statuses),
        Route(method="POST", path=f"{base}/mix", endpoint=deciding(MixOrder, _mix),
              summary="Let several versions answer together", request=MixOrder, response=Released, statuses=statuses),
        Route(method="POST", path=f"{base}/rollback", endpoint=deciding(RollbackOrder, _return),
              summary="Go back to an earlier release", request=RollbackOrder, response=Released, statuses=statuses),
        Route(method="POST", path=f"{base}/freeze", endpoint=freeze, summary="Stop or resume automatic releases",
              request=FreezeOrder, response=FreezeOrder, statuses=(404, 422)),
    ]  # fmt: skip


async def _decide(registry: Registry, name: str, expected_epoch: int | None, build: Build) -> Released:
    """Make one release inside one transaction; raises HttpProblem 404 or 409 where none can be made."""
    async with registry.unit() as unit:
        await unit.lock(name)
        standing = await unit.standing(name)
        if standing is None:
            raise HttpProblem(404, "there is no such pipeline")
        epoch = standing.champion.epoch if standing.champion is not None else 0
        try:
            if expected_epoch not in (None, epoch):
                raise EpochMovedError
            release = await build(unit, standing)
            await unit.release(release)
        except EpochMovedError:
            raise HttpProblem(409, "another release came first; look at the champion and decide again") from None
        except UndecidableError as error:
            raise HttpProblem(409, str(error)) from None
    return release


def _promotion(order: PromoteOrder) -> Build:
    async def build(unit: Unit, standing: Standing) -> Released:
        number = promoted(standing.spec, standing.champion, order.version)
        version = await _version(unit, standing, number)
        return next_release(
            standing.spec, standing.champion, version, moment=_moment(order.at), reason=_by_hand(order.detail)
        )

    return build


def _canary(order: CanaryOrder) -> Build:
    async def build(unit: Unit, standing: Standing) -> Released:
        champion, version = _champion(standing), await _version(unit, standing, order.version)
        moment, reason = _moment(order.at), _by_hand(order.detail)
        return canaried(standing.spec, champion, version, order.share, moment=moment, reason=reason)

    return build


def _shadow(order: ShadowOrder) -> Build:
    async def build(unit: Unit, standing: Standing) -> Released:
        champion, moment, reason = _champion(standing), _moment(order.at), _by_hand(order.detail)
        if order.remove:
            return unshadowed(champion, order.version, moment=moment, reason=reason)
        version = await _version(unit, standing, order.version)
        return shadowed(champion, version, moment=moment, reason=reason)

    return build


def _mix(order: MixOrder) -> Build:
    async def build(unit: Unit, standing: Standing) -> Released:
        parts = [(await _version(unit, standing, member.version), member.weight) for member in order.members]
        moment, reason = _moment(order.at), _by_hand(order.detail)
        return mixed(standing.spec, _champion(standing), parts, moment=moment, reason=reason)

    return build


def _return(order: RollbackOrder) -> Build:
    async def build(unit: Unit, standing: Standing) -> Released:
        history = await unit.releases(standing.spec.name)
        reason = ReleaseReason(kind="rollback", detail=order.detail)
        return rolled_back(history, order.to_epoch, at_us=event_time(order.at), reason=reason)

    return build


async def _version(unit: Unit, standing: Standing, number: int) -> Version:
    version = await unit.version(standing.spec.name, number)
    if version is None:
        raise HttpProblem(404, f"there is no version {number}")
    return version


def _champion(standing: Standing) -> Released:
    if standing.champion is None:
        raise UndecidableError("there is no champion yet: promote a version first")
    return standing.champion


def _moment(at: str) -> Moment:
    return Moment(event_time(at))


def _by_hand(detail: str) -> ReleaseReason:
    return ReleaseReason(kind="hand", detail=detail)
