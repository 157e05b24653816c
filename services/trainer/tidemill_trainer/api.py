"""What the trainer answers over HTTP: ask for a training, see runs and what became of requests."""

import json
from typing import Any, Literal, Protocol
from uuid import UUID

from pydantic import BaseModel, Field
from starlette.requests import Request

from tidemill_contracts import Envelope, derived_id, parse_time
from tidemill_contracts.base import Contract
from tidemill_contracts.events import Cause, TrainingRequested, encode
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_runtime.http import FieldError, HttpProblem, Route, read_model
from tidemill_runtime.telemetry import current_traceparent
from tidemill_trainer.domain import SOURCE


class TrainOrder(Contract):
    """A training by hand, seen from event time `at` on; `outcomes_to` and `positions` say what is known by then."""

    cause: Literal["hand", "cold_start"] = "hand"
    at: str = Field(description="RFC 3339")
    outcomes_to: int = Field(default=0, ge=0)
    positions: dict[str, dict[str, int]] = Field(default_factory=dict)
    effective_at: str | None = None
    detail: str = Field(default="", max_length=500)


class Accepted(BaseModel):
    """The request's id: ask for `/v1/requests/{request_id}` on trainer and registry."""

    request_id: str


class RequestStatus(BaseModel):
    """What the trainer knows of a request; a succeeded one is then the registry's."""

    request_id: str
    status: str
    progress: dict[str, Any] | None = None
    detail: str = ""


class Run(BaseModel):
    """A run and its result, without the wall-clock where that would hide what was decided."""

    request_id: str
    pipeline: str
    status: str
    attempt: int
    cause: dict[str, Any]
    at_us: int
    result: dict[str, Any] | None
    seconds: float | None
    progress: dict[str, Any] | None


class Runs(BaseModel):
    """Runs, newest first."""

    runs: list[Run]


class Trainer(Protocol):
    """What the routes need of the service."""

    progress: dict[str, dict[str, Any]]

    def spec(self, pipeline: str) -> PipelineSpec | None: ...
    async def ask(self, request: TrainingRequested, envelope: Envelope) -> None: ...
    async def runs(self) -> list[dict[str, Any]]: ...
    async def run_of(self, request_id: str) -> dict[str, Any] | None: ...


def routes(trainer: Trainer) -> list[Route]:
    """The route table over the service."""

    async def train(request: Request) -> Accepted:
        order = await read_model(request, TrainOrder)
        spec = trainer.spec(request.path_params["pipeline"])
        if spec is None:
            raise HttpProblem(404, "there is no such pipeline; apply it first")
        event = _request(spec, order)
        envelope = encode(
            event, id=str(event.request_id), source=SOURCE, time_us=event.at_us, subject=spec.name,
            traceparent=current_traceparent(),
        )  # fmt: skip
        await trainer.ask(event, envelope)
        return Accepted(request_id=str(event.request_id))

    async def runs(_: Request) -> Runs:
        return Runs(runs=[_run(row, trainer.progress) for row in await trainer.runs()])

    async def run(request: Request) -> Run:
        return _run(await _found(trainer, request), trainer.progress)

    async def status(request: Request) -> RequestStatus:
        row = await _found(trainer, request)
        state = {"queued": "pending", "running": "pending", "succeeded": "trained"}.get(row["status"], row["status"])
        result = json.loads(row["result"]) if row["result"] else {}
        return RequestStatus(
            request_id=row["id"],
            status=state,
            progress=trainer.progress.get(row["id"]),
            detail=result.get("error") or "",
        )

    return [
        Route(method="POST", path="/v1/pipelines/{pipeline}/train", endpoint=train,
              summary="Ask for a training by hand", request=TrainOrder, response=Accepted, status=202,
              statuses=(404, 422)),
        Route(method="GET", path="/v1/runs", endpoint=runs, summary="Runs, newest first", response=Runs),
        Route(method="GET", path="/v1/runs/{request_id}", endpoint=run, summary="One run", response=Run,
              statuses=(404, 422)),
        Route(method="GET", path="/v1/requests/{request_id}", endpoint=status, summary="What became of a request",
              response=RequestStatus, statuses=(404, 422)),
    ]  # fmt: skip


async def _found(trainer: Trainer, request: Request) -> dict[str, Any]:
    try:
        request_id = str(UUID(request.path_params["request_id"]))
    except ValueError:
        raise HttpProblem(422, "a request id is a UUID") from None
    row = await trainer.run_of(request_id)
    if row is None:
        raise HttpProblem(404, "no run was made for this request")
    return row


def _request(spec: PipelineSpec, order: TrainOrder) -> TrainingRequested:
    at_us = _time("at", order.at)
    effective = None if order.effective_at is None else _time("effective_at", order.effective_at)
    return TrainingRequested(
        request_id=derived_id("training", spec.name, order.cause, at_us), pipeline=spec.name, at_us=at_us,
        effective_at_us=effective, cause=Cause(kind=order.cause, detail=order.detail), outcomes_to=order.outcomes_to,
        positions=order.positions, spec=spec.digest(), policy=spec.policy_digest(),
    )  # fmt: skip


def _time(field: str, text: str) -> int:
    try:
        return parse_time(text)
    except ValueError as error:
        raise HttpProblem(
            422, "a field is not valid", errors=[FieldError(field=field, rule="time", message=str(error))]
        ) from None


def _run(row: dict[str, Any], progress: dict[str, dict[str, Any]]) -> Run:
    payload = json.loads(row["payload"])
    seconds = (row["finished_at"] - row["started_at"]).total_seconds() if row["finished_at"] else None
    return Run(
        request_id=row["id"], pipeline=row["key"], status=row["status"], attempt=row["attempt"], cause=payload["cause"],
        at_us=payload["at_us"], result=json.loads(row["result"]) if row["result"] else None, seconds=seconds,
        progress=progress.get(row["id"]),
    )  # fmt: skip
