"""`GET /v1/status`: where this process is, from what is on its disk and in its memory."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from starlette.requests import Request

from tidemill_runtime.http import Route
from tidemill_serving.api.models import PipelineStatus, Status, SwapStatus
from tidemill_serving.domain.desk import Desk
from tidemill_serving.domain.entries import Tally
from tidemill_serving.domain.house import House


class LogState(NamedTuple):
    """The spool's and the shipper's counts."""

    tallies: Mapping[str, Tally]
    shipped: Mapping[str, int]
    totals: dict[str, int]


def pipeline_status(house: House, desk: Desk, log: LogState) -> PipelineStatus:
    """One pipeline."""
    active, name = desk.champion.active, desk.spec.name
    spooled = log.tallies[name].predictions if name in log.tallies else 0
    return PipelineStatus(
        ready=desk.is_ready,
        watermark_us=desk.watermark_us(house.replica),
        epoch=None if active is None else active.released.epoch,
        version=None if active is None else active.leader.version,
        staged=sorted(found.released.epoch for found in desk.champion.staged),
        refused=desk.refused,
        answered=spooled,
        spooled=spooled,
        shipped=log.shipped.get(name, 0),
        progress_us=desk.floor_us,
        swaps=[SwapStatus(epoch=swap.epoch, at_watermark_us=swap.at_watermark_us) for swap in desk.swaps],
        entities=house.replica.entities(desk.spec.views),
    )


def status_routes(house: House, replica: str, log: Callable[[], LogState]) -> list[Route]:
    """The route of the status."""

    async def status(_: Request) -> Status:
        state = log()
        pipelines = {name: pipeline_status(house, desk, state) for name, desk in sorted(house.desks.items())}
        return Status(replica=replica, degraded=house.degraded, spool=state.totals, pipelines=pipelines)

    return [Route(method="GET", path="/v1/status", endpoint=status, summary="Where serving is", response=Status)]
