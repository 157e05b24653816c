"""What monitoring answers over HTTP: where the merge stands, counts, metrics, alarms, requests, outcomes."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol
from uuid import UUID

from pydantic import BaseModel
from starlette.requests import Request

from tidemill_contracts.events import DriftDetected, TrainingCoalesced, TrainingRequested
from tidemill_monitoring.domain.merge import OrderedMerge
from tidemill_monitoring.domain.monitor import Monitor
from tidemill_monitoring.domain.writers import NEVER
from tidemill_runtime.http import HttpProblem, Route

LABELS = ("received", "joined", "pending", "unmatched", "expired", "conflicting", "duplicate")


class Task(Protocol):
    """A running merge."""

    merge: OrderedMerge
    monitor: Monitor
    merged_us: int


class Queries(Protocol):
    """What is read from the store."""

    async def decisions(self, pipeline: str, type_: str) -> list[dict[str, Any]]: ...
    async def metrics(self, pipeline: str) -> list[dict[str, Any]]: ...
    async def outcome_of(self, prediction_id: UUID) -> dict[str, Any] | None: ...


@dataclass(frozen=True, slots=True)
class Reads:
    """What the routes read from: `queries()` is None until the store is open."""

    queries: Callable[[], Queries | None]
    tasks: Mapping[str, Task]


class PipelineStatus(BaseModel):
    """One merge: `watermark_us` is event time up to which everything was folded, and what that decided is durable."""

    watermark_us: int
    outcomes: int
    buffered: int
    dropped_repeats: int
    labels: dict[str, int]
    predictions: dict[str, int]
    requests: list[dict[str, Any]]
    causes: dict[str, int]


class Status(BaseModel):
    """Every merge that runs here."""

    pipelines: dict[str, PipelineStatus]


class Items(BaseModel):
    """Rows of one kind."""

    items: list[dict[str, Any]]


class Outcome(BaseModel):
    """Which label event a prediction got, and where it is in its source."""

    pipeline: str
    seq: int
    prediction_id: str
    label_event: str
    label_partition: int
    label_seq: int


def routes(reads: Reads) -> list[Route]:
    """The route table over what it reads from."""

    async def status(_: Request) -> Status:
        queries = _store(reads)
        found = {}
        for name, task in list(reads.tasks.items()):
            watermark = task.merged_us
            requests = await queries.decisions(name, TrainingRequested.TYPE)
            found[name] = _status(task, watermark, requests)
        return Status(pipelines=found)

    async def metrics(request: Request) -> Items:
        return Items(items=await _store(reads).metrics(request.path_params["pipeline"]))

    async def drifts(request: Request) -> Items:
        return Items(items=await _store(reads).decisions(request.path_params["pipeline"], DriftDetected.TYPE))

    async def causes(request: Request) -> Items:
        name, queries = request.path_params["pipeline"], _store(reads)
        asked = await queries.decisions(name, TrainingRequested.TYPE)
        return Items(items=[*asked, *await queries.decisions(name, TrainingCoalesced.TYPE)])

    async def outcome(request: Request) -> Outcome:
        prediction_id = _prediction_id(request.path_params["prediction_id"])
        found = await _store(reads).outcome_of(prediction_id)
        if found is None:
            raise HttpProblem(404, "this prediction has no label yet, or there is no such prediction")
        return Outcome(**found)

    base = "/v1/pipelines/{pipeline}"
    return [
        Route(method="GET", path="/v1/status", endpoint=status, summary="Where each merge stands", response=Status),
        Route(method="GET", path=f"{base}/metrics", endpoint=metrics, summary="Prequential metrics by day and segment",
              response=Items),
        Route(method="GET", path=f"{base}/drifts", endpoint=drifts, summary="Alarms with their evidence",
              response=Items),
        Route(method="GET", path=f"{base}/causes", endpoint=causes, summary="Training requests and what was coalesced",
              response=Items),
        Route(method="GET", path="/v1/outcomes/{prediction_id}", endpoint=outcome, summary="The label of a prediction",
              response=Outcome, statuses=(404, 422)),
    ]  # fmt: skip


def _store(reads: Reads) -> Queries:
    found = reads.queries()
    if found is None:
        raise HttpProblem(503, "not ready yet", headers={"Retry-After": "1"})
    return found


def _prediction_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise HttpProblem(422, "a prediction id is a UUID") from None


def _status(task: Task, watermark: int, requests: list[dict[str, Any]]) -> PipelineStatus:
    counts = asdict(task.monitor.join.counts)
    policy = task.monitor.policy
    return PipelineStatus(
        watermark_us=watermark if watermark > NEVER else -1,
        outcomes=task.monitor.next_seq,
        buffered=task.merge.buffered,
        dropped_repeats=task.merge.dropped,
        labels={name: counts[name] for name in LABELS},
        predictions={
            "joined": counts["joined"],
            **{k.removeprefix("predictions_"): v for k, v in counts.items() if k.startswith("predictions")},
        },
        requests=[
            {name: r[name] for name in ("request_id", "at_us", "effective_at_us", "cause")} for r in reversed(requests)
        ],
        causes={"requested": policy.requested, "coalesced": policy.coalesced, "refused": policy.refused},
    )
