"""A training request becomes one job, or is coalesced into the active one. It decides nothing else."""

from collections.abc import Awaitable, Callable
from typing import Literal, Protocol, TypeVar

from tidemill_contracts import Envelope, topic
from tidemill_contracts.events import TrainingCoalesced, TrainingRequested, encode
from tidemill_contracts.ids import derived_id
from tidemill_runtime.telemetry import current_traceparent
from tidemill_trainer.domain import SOURCE


class Unit(Protocol):
    """One transaction: the job, the inbox and the outbox commit together or not at all."""

    async def enqueue(self, topic: str, key: bytes | None, envelope: Envelope) -> None: ...


AnyUnit = TypeVar("AnyUnit", bound=Unit)
"""The unit that the queue works in, which may be able to do more than the handler needs."""
Queued = Literal["queued", "coalesced"]


def on_training_requested(
    queue: Callable[[AnyUnit, TrainingRequested], Awaitable[Queued]], prefix: str
) -> Callable[[TrainingRequested, AnyUnit], Awaitable[None]]:
    """The handler of training requests over a queue of jobs."""

    async def handle(request: TrainingRequested, unit: AnyUnit) -> None:
        if await queue(unit, request) == "coalesced":
            event = coalesced(request)
            envelope = encode(
                event, id=str(derived_id("coalesced", str(request.request_id))), source=SOURCE, time_us=request.at_us,
                subject=request.pipeline, causation=str(request.request_id), traceparent=current_traceparent(),
            )  # fmt: skip
            await unit.enqueue(topic("training", prefix=prefix), request.pipeline.encode(), envelope)

    return handle


def coalesced(request: TrainingRequested) -> TrainingCoalesced:
    """The record that a request joined the run that was already active."""
    return TrainingCoalesced(
        cause_id=request.request_id, pipeline=request.pipeline, at_us=request.at_us, cause=request.cause,
        outcome="coalesced", reason="a run of this pipeline was active",
    )  # fmt: skip
