"""What monitoring answers over HTTP: where the merge stands, counts, metrics, alarms, requests, outcomes."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol
from uuid import UUID

from pydantic import BaseModel
from starlette.requests import Request

from tidemill_contracts.events import DriftDetected, TrainingCoalesced, TrainingRequested
from tidemill_engine.stats import Verdict
from tidemill_monitoring.domain.merge import OrderedMerge
from tidemill_monitoring.domain.monitor import Monitor
from tidemill_monitoring.domain.rivals import Figures, Place, RivalSums, figures
from tidemill_monitoring.domain.writers import NEVER
from tidemill_runtime.http import HttpProblem, Route

PIPELINE = "/v1/pipelines/{pipeline}"
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
    async def rivals(self, pipeline: str) -> list[tuple[Place, RivalSums]]: ...
    async def outcome_of(self, prediction_id: UUID) -> dict[str, Any] | None: ...


@dataclass(frozen=True, slots=True)
class Reads:
    """What the routes read from: `queries()` is None until the store is open."""

    queries: Callable[[], Queries | None]
    tasks: Mapping[str, Task]


class ReferenceStatus(BaseModel):
    """What drift is measured against: what the release names, else the first rows that its model answered, and why.

    `rows` is 0 while these are still awaited.
    """

    source: Literal["release", "first_rows"]
    digest: str | None
    rows: int
    reason: str


class PipelineStatus(BaseModel):
    """One merge: `watermark_us` is event time up to which everything was folded, and what that decided is durable."""

    watermark_us: int
    outcomes: int
    buffered: int
    dropped_repeats: int
    labels: dict[str, int]
    predictions: dict[str, int]
    shadows: dict[str, int]
    requests: list[dict[str, Any]]
    causes: dict[str, int]
    drift_reference: ReferenceStatus


class Status(BaseModel):
    """Every merge that runs here."""

    pipelines: dict[str, PipelineStatus]


class Items(BaseModel):
    """Rows of one kind."""

    items: list[dict[str, Any]]


class Difference(BaseModel):
    """Log-loss of a shadow less that of the answers on the same rows, days as blocks.

    `lower` and `upper` are one-sided bounds at `error`, as the gate's; null with less than two days.
    """

    mean: float
    standard_error: float | None
    lower: float | None
    upper: float | None
    error: float
    days: int


class Shadow(BaseModel):
    """A shadow beside the answers of the version `against`, on the labelled rows that both have a score for.

    `failed` rows have none of the shadow. `verdict` is what the pipeline's gate asks of such a difference.
    """

    name: str
    model: str
    against: int
    rows: int
    failed: int
    log_loss: float | None
    answers_log_loss: float | None
    brier: float | None
    answers_brier: float | None
    difference: Difference | None
    verdict: Verdict
    reason: str


class Shadows(BaseModel):
    """Every shadow there was, by name and by whom it stood beside."""

    items: list[Shadow]


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

    base = PIPELINE
    return [
        Route(method="GET", path="/v1/status", endpoint=status, summary="Where each merge stands", response=Status),
        Route(method="GET", path=f"{base}/metrics", endpoint=metrics, summary="Prequential metrics by day and segment",
              response=Items),
        Route(method="GET", path=f"{base}/drifts", endpoint=drifts, summary="Alarms with their evidence",
              response=Items),
        Route(method="GET", path=f"{base}/causes", endpoint=causes, summary="Training requests and what was coalesced",
              response=Items),
        _shadows(reads),
        Route(method="GET", path="/v1/outcomes/{prediction_id}", endpoint=outcome, summary="The label of a prediction",
              response=Outcome, statuses=(404, 422)),
    ]  # fmt: skip


def _shadows(reads: Reads) -> Route:
    async def shadows(request: Request) -> Shadows:
        name = request.path_params["pipeline"]
        queries, task = _store(reads), reads.tasks.get(name)
        if task is None:
            raise HttpProblem(404, "there is no such pipeline here")
        gate = task.monitor.spec.gate
        return Shadows(items=[_shadow(each, gate.alpha) for each in figures(await queries.rivals(name), gate)])

    return Route(
        method="GET", path=f"{PIPELINE}/shadows", endpoint=shadows, summary="Shadows against the answers, online",
        response=Shadows, statuses=(404,),
    )  # fmt: skip


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


def _shadow(found: Figures, error: float) -> Shadow:
    mean = found.difference
    difference = None if mean is None else Difference(
        mean=mean.mean, standard_error=mean.standard_error, lower=mean.bound(error, -1), upper=mean.bound(error, 1),
        error=error, days=mean.blocks,
    )  # fmt: skip
    return Shadow(
        name=found.name, model=found.model, against=found.against, rows=found.own.n, failed=found.failed,
        log_loss=found.own.mean_log_loss, answers_log_loss=found.answers.mean_log_loss, brier=found.own.brier,
        answers_brier=found.answers.brier, difference=difference, verdict=found.verdict, reason=found.reason,
    )  # fmt: skip


def _status(task: Task, watermark: int, requests: list[dict[str, Any]]) -> PipelineStatus:
    counts = asdict(task.monitor.join.counts)
    policy, population = task.monitor.policy, task.monitor.watch.population
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
        shadows={
            "received": counts["shadowed"],
            "joined": counts["shadowed_joined"],
            "unmatched": counts["shadowed_unmatched"],
        },
        requests=[
            {name: r[name] for name in ("request_id", "at_us", "effective_at_us", "cause")} for r in reversed(requests)
        ],
        causes={"requested": policy.requested, "coalesced": policy.coalesced, "refused": policy.refused},
        drift_reference=ReferenceStatus(
            source="first_rows" if population.digest is None else "release",
            digest=population.digest,
            rows=population.reference_rows,
            reason=population.why,
        ),
    )
