"""`GET /v1/status`: where serving is, from what is on its disk and in its memory, of one worker or of all."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from starlette.requests import Request

from tidemill_runtime.http import Route
from tidemill_serving.api.models import PipelineStatus, Status, SwapStatus, WorkerStatus
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


def status_of(house: House, replica: str, state: LogState) -> Status:
    """One process."""
    pipelines = {name: pipeline_status(house, desk, state) for name, desk in sorted(house.desks.items())}
    return Status(replica=replica, degraded=house.degraded, spool=state.totals, pipelines=pipelines)


def together(found: Mapping[int, Status], workers: Sequence[WorkerStatus]) -> Status:
    """The workers of one instance as one: counts are sums, times and epochs those of the last; at least one is there.

    `ready` only when every worker is there and ready: a worker that is away keeps its records on the disk.
    """
    first = found[min(found)]
    names = sorted({name for status in found.values() for name in status.pipelines})
    is_whole = all(worker.up for worker in workers)
    pipelines = {}
    for name in names:
        parts = [status.pipelines[name] for status in found.values() if name in status.pipelines]
        pipelines[name] = _as_one(parts, is_whole=is_whole and len(parts) == len(found))
    spool = {key: sum(status.spool[key] for status in found.values()) for key in first.spool}
    degraded = any(status.degraded for status in found.values())
    return Status(replica=first.replica, degraded=degraded, spool=spool, pipelines=pipelines, workers=list(workers))


def _as_one(parts: Sequence[PipelineStatus], *, is_whole: bool) -> PipelineStatus:
    behind = min(parts, key=lambda part: part.epoch or 0)
    return PipelineStatus(
        ready=is_whole and all(part.ready for part in parts),
        watermark_us=_lowest([part.watermark_us for part in parts]),
        epoch=behind.epoch,
        version=behind.version,
        staged=behind.staged,
        refused={epoch: why for part in parts for epoch, why in part.refused.items()},
        answered=sum(part.answered for part in parts),
        spooled=sum(part.spooled for part in parts),
        shipped=sum(part.shipped for part in parts),
        progress_us=_lowest([part.progress_us for part in parts]),
        swaps=behind.swaps,
        entities=behind.entities,
    )


def _lowest(times: Sequence[int | None]) -> int | None:
    known = [time for time in times if time is not None]
    return min(known) if len(known) == len(times) else None


def status_routes(own: Callable[[], Status], ask: Callable[[Status], Awaitable[Status]]) -> list[Route]:
    """The route of the status; `ask` adds what the other workers say."""

    async def status(_: Request) -> Status:
        return await ask(own())

    return [Route(method="GET", path="/v1/status", endpoint=status, summary="Where serving is", response=Status)]


async def alone(own: Status) -> Status:
    """Of a process without siblings."""
    return own
