"""From a release's event to opened models: the members, the challenger within its deadline, the shadows."""

import logging
from time import perf_counter
from typing import Protocol

from tidemill_contracts.events import Challenger, Member, Released
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_runtime.errors import Later, Never
from tidemill_serving.domain.loaded import BASELINE, Aside, Loaded, Rival
from tidemill_serving.domain.plan import Plan, UnservableError
from tidemill_serving.domain.scoring import Model, Weighted

SHADOW_DEADLINE_S = 1.0
"""Of a shadow for a batch."""
_NICE = 10
_log = logging.getLogger(__name__)


class Models(Protocol):
    """Opens models by digest."""

    async def open(self, digest: str, features: list[str]) -> Model:
        """Raises ValueError for a model that must not be used, Later when it cannot be fetched now."""

    async def open_bounded(self, digest: str, features: list[str], deadline_s: float, *, nice: int = 0) -> Model:
        """As `open`; the model raises LateError where it takes longer."""


async def load(models: Models, released: Released, spec: PipelineSpec) -> Loaded:
    """Open everything that a release names.

    Raises UnservableError for features that the pipeline file does not give, another ValueError or Never for a member
    or challenger that must not be used, Later when one cannot be fetched now. A bad shadow is left out.
    """
    started = perf_counter()
    plan = _plan(spec, released.features, released.views)
    members = [await _member(models, member, released.features) for member in released.members]
    rival = None if released.challenger is None else await _rival(models, released, spec, plan)
    shadows, asides = list[Weighted](), list[Aside]()
    for shadow in released.shadows:
        try:
            if shadow.name == BASELINE and shadow.features is None:
                shadows.append(await _member(models, shadow, released.features))
            else:
                asides.append(await _aside(models, shadow, released, spec))
        except (ValueError, Never, Later) as error:
            _log.warning("shadow %s of epoch %d is left out: %s", shadow.name, released.epoch, error)
    loaded_ms = (perf_counter() - started) * 1000
    return Loaded(released, spec, plan, members, shadows, loaded_ms, rival=rival, asides=asides)


async def _rival(models: Models, released: Released, spec: PipelineSpec, plan: Plan) -> Rival:
    challenger: Challenger | None = released.challenger
    assert challenger is not None  # noqa: S101 - the caller looked
    if challenger.by not in spec.request.fields:
        raise UnservableError(f"the request has no field {challenger.by}, by which keys are divided")
    features = released.features if challenger.features is None else challenger.features
    own = plan if challenger.features is None else _plan(spec, features, challenger.views or {})
    model = await models.open_bounded(challenger.model, features, challenger.deadline_ms / 1000)
    return Rival(challenger, spec, own, Weighted(challenger.name, challenger.model, challenger.version, 1.0, model))


async def _aside(models: Models, shadow: Member, released: Released, spec: PipelineSpec) -> Aside:
    features = released.features if shadow.features is None else shadow.features
    plan = None if shadow.features is None else _plan(spec, features, shadow.views or {})
    model = await models.open_bounded(shadow.model, features, SHADOW_DEADLINE_S, nice=_NICE)
    return Aside(Weighted(shadow.name, shadow.model, shadow.version, shadow.weight, model), plan)


async def _member(models: Models, member: Member, features: list[str]) -> Weighted:
    model = await models.open(member.model, features)
    return Weighted(member.name, member.model, member.version, member.weight, model)


def _plan(spec: PipelineSpec, features: list[str], views: dict[str, str]) -> Plan:
    plan = Plan(spec, features)
    for part in plan.parts:
        if views.get(part.view, part.version) != part.version:
            raise UnservableError(f"the view {part.view} has changed since the model was trained")
    return plan
