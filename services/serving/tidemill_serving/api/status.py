"""`GET /v1/status`: where serving is, from what is on its disk and in its memory, of one worker or of all."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from starlette.requests import Request

from tidemill_runtime.http import Route
from tidemill_serving.api.models import (
    ArmMember,
    ArmStatus,
    PipelineStatus,
    ShadowStatus,
    Status,
    SwapStatus,
    WorkerStatus,
)
from tidemill_serving.domain.desk import Desk
from tidemill_serving.domain.entries import Tally
from tidemill_serving.domain.house import House
from tidemill_serving.domain.loaded import Loaded, Rival
from tidemill_serving.domain.scoring import Weighted
from tidemill_serving.domain.traffic import Traffic


class LogState(NamedTuple):
    """The spool's and the shipper's counts."""

    tallies: Mapping[str, Tally]
    shipped: Mapping[str, int]
    totals: dict[str, int]
    unlogged: Mapping[str, int] = {}


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
        answered=spooled + log.unlogged.get(name, 0),
        spooled=spooled,
        unlogged=log.unlogged.get(name, 0),
        shipped=log.shipped.get(name, 0),
        progress_us=desk.floor_us,
        swaps=[SwapStatus(epoch=swap.epoch, at_watermark_us=swap.at_watermark_us) for swap in desk.swaps],
        entities=house.replica.entities(desk.spec.views),
        arms=[] if active is None else _arms(active, desk.traffic),
        shadows=[] if active is None else [_shadow(aside.member, desk.traffic) for aside in active.asides],
        fallbacks={f"{arm}.{reason}": count for (arm, reason), count in sorted(desk.traffic.fallbacks.items())},
    )


def _arms(active: Loaded, traffic: Traffic) -> list[ArmStatus]:
    arms = [_arm("champion", active, traffic)]
    return arms if active.rival is None else [*arms, _arm("challenger", active.rival, traffic)]


def _arm(name: Literal["champion", "challenger"], side: Loaded | Rival, traffic: Traffic) -> ArmStatus:
    members = [ArmMember(version=m.version, model=m.digest, weight=m.weight) for m in side.members]
    answers = traffic.answers.get((name, side.leader.version), 0)
    return ArmStatus(arm=name, share=side.share, answers=answers, members=members)


def _shadow(member: Weighted, traffic: Traffic) -> ShadowStatus:
    outcomes = {outcome: count for (name, outcome), count in sorted(traffic.shadows.items()) if name == member.name}
    return ShadowStatus(name=member.name, version=member.version, model=member.digest, outcomes=outcomes)


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
        unlogged=sum(part.unlogged for part in parts),
        shipped=sum(part.shipped for part in parts),
        progress_us=_lowest([part.progress_us for part in parts]),
        swaps=behind.swaps,
        entities=behind.entities,
        arms=_sum_arms(behind, parts),
        shadows=[_sum_shadow(shadow, parts) for shadow in behind.shadows],
        fallbacks=_sum(part.fallbacks for part in parts),
    )


def _sum_arms(behind: PipelineStatus, parts: Sequence[PipelineStatus]) -> list[ArmStatus]:
    """The arms of the worker that is behind, with the answers of all that have the same."""
    answers: Counter[tuple[str, int]] = Counter()
    for arm in (arm for part in parts for arm in part.arms):
        answers[arm.arm, arm.members[0].version] += arm.answers
    return [
        arm.model_copy(update={"answers": answers[arm.arm, arm.members[0].version]}) for arm in behind.arms
    ]  # fmt: skip


def _sum_shadow(shadow: ShadowStatus, parts: Sequence[PipelineStatus]) -> ShadowStatus:
    same = (each.outcomes for part in parts for each in part.shadows if each.name == shadow.name)
    return shadow.model_copy(update={"outcomes": _sum(same)})


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    out: Counter[str] = Counter()
    for each in counts:
        out.update(each)
    return dict(sorted(out.items()))


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
