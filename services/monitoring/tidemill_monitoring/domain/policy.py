"""When a cause becomes a training request: mode, cool-down, budget. Pure: event time in, decision out."""

from collections import deque
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from tidemill_contracts.events import Cause, TrainingCoalesced, TrainingRequested
from tidemill_contracts.ids import derived_id
from tidemill_contracts.pipeline import PipelineSpec


@dataclass(frozen=True, slots=True)
class Known:
    """What the merge had consumed when a decision was made."""

    at_us: int
    outcomes_to: int
    positions: dict[str, dict[str, int]]


@dataclass(slots=True)
class PolicyState:
    """The latest request, and the times of the requests inside the budget period."""

    last_request: UUID | None = None
    last_request_us: int | None = None
    labels_at_request: int = 0
    recent_us: deque[int] = field(default_factory=deque)
    requested: int = 0
    coalesced: int = 0
    refused: int = 0
    next_schedule_us: int | None = None


def decide(spec: PipelineSpec, state: PolicyState, cause: Cause, known: Known) -> TrainingRequested | TrainingCoalesced:
    """A request, or the record of why there is none. Mutates `state`; a replay makes the same ids."""
    policy = spec.policy
    cause_id = derived_id("cause", spec.name, cause.kind, str(cause.event_id), known.at_us)
    while state.recent_us and state.recent_us[0] <= known.at_us - policy.budget_period:
        state.recent_us.popleft()
    reason = _refusal(spec, state, known.at_us)
    if reason is not None:
        outcome, detail = reason
        if outcome == "coalesced":
            state.coalesced += 1
        else:
            state.refused += 1
        return TrainingCoalesced(
            cause_id=cause_id, pipeline=spec.name, at_us=known.at_us, cause=cause, outcome=outcome,
            request_id=state.last_request, reason=detail,
        )  # fmt: skip
    request_id = derived_id("training", str(cause_id))
    state.last_request, state.last_request_us = request_id, known.at_us
    state.labels_at_request = known.outcomes_to
    state.recent_us.append(known.at_us)
    state.requested += 1
    duration = policy.training_duration
    return TrainingRequested(
        request_id=request_id, pipeline=spec.name, at_us=known.at_us,
        effective_at_us=None if duration is None else known.at_us + duration, cause=cause,
        outcomes_to=known.outcomes_to, positions=known.positions, spec=spec.digest(), policy=spec.policy_digest(),
    )  # fmt: skip


def _refusal(spec: PipelineSpec, state: PolicyState, at_us: int) -> tuple[Literal["coalesced", "refused"], str] | None:
    policy = spec.policy
    if policy.mode == "observe":
        return "refused", "the policy only observes"
    if state.last_request_us is not None and at_us < state.last_request_us + policy.cool_down:
        return "coalesced", "within the cool-down of the latest request"
    if len(state.recent_us) >= policy.budget:
        return "refused", f"the budget of {policy.budget} runs is used up"
    return None
