"""A release whose models are open: the champion's side, the challenger's, and the shadows that are scored later."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill_contracts.events import Challenger, Released
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_engine.entities import EntityKey
from tidemill_engine.rollout import bound, point
from tidemill_serving.domain.plan import Plan
from tidemill_serving.domain.releases import Cause, Order
from tidemill_serving.domain.requests import Ask
from tidemill_serving.domain.scoring import Weighted

BASELINE = "baseline"
"""The shadow whose score stands in the record of the answer itself."""


class Rival:
    """The challenger's side: a model of its own inputs, and whose keys it has."""

    def __init__(self, challenger: Challenger, spec: PipelineSpec, plan: Plan, member: Weighted) -> None:
        self.plan, self.members, self.leader = plan, [member], member
        self.share = challenger.share
        self._salt, self._bound = challenger.salt, bound(challenger.share)
        self._key = EntityKey([challenger.by], spec.request.fields)

    def takes(self, ask: Ask) -> bool:
        """Whether the request's key lies in the challenger's share."""
        return point(self._salt, self._key(ask.raw) or "") < self._bound


class Aside(NamedTuple):
    """A shadow that is scored after the answers have left; without a plan it reads what the release reads."""

    member: Weighted
    plan: Plan | None


@dataclass(slots=True, eq=False)
class Loaded:
    """A release whose models are open and warm. `shadows` are scored with its members, `asides` later."""

    released: Released
    spec: PipelineSpec
    plan: Plan
    members: list[Weighted]
    shadows: list[Weighted]
    loaded_ms: float = 0.0
    cause: Cause = field(default_factory=Cause)
    rival: Rival | None = None
    asides: list[Aside] = field(default_factory=list)

    @property
    def order(self) -> Order:
        return self.released.epoch, self.released.sequence

    @property
    def effective_at_us(self) -> int | None:
        return self.released.effective_at_us

    @property
    def previous_epoch(self) -> int:
        return self.released.previous_epoch

    @property
    def leader(self) -> Weighted:
        """The member with the most weight: its model and version stand in the answer."""
        return max(self.members, key=lambda member: member.weight)

    @property
    def share(self) -> float:
        """Of the keys that the champion's side has."""
        return 1.0 if self.rival is None else 1.0 - self.rival.share

    def digests(self) -> set[str]:
        """Of every model in it."""
        rival = [] if self.rival is None else self.rival.members
        found = (*self.members, *self.shadows, *rival, *(aside.member for aside in self.asides))
        return {member.digest for member in found}


class Beside(NamedTuple):
    """Answers that shadows are to score later. `vectors` are [N, F], None where the release reads other features."""

    loaded: Loaded
    asks: Sequence[Ask]
    heads: Sequence["Head"]
    vectors: NDArray[np.float64] | None
    watermark_us: int | None


class Head(NamedTuple):
    """What a shadow's record repeats of the prediction's."""

    prediction_id: str
    key: str
    at_us: int
    traceparent: str
