"""The champion pointer: which release answers. It moves by compare-and-set on the epoch, one step at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tidemill_contracts.events import Member, Released, ReleaseReason, RunFinished
from tidemill_contracts.ids import derived_id
from tidemill_contracts.pipeline import PipelineSpec


class EpochMovedError(Exception):
    """The champion is no longer the one the decision was made against."""


class NothingToRollBackError(Exception):
    """There is no earlier release to go back to."""


@dataclass(frozen=True, slots=True)
class Version:
    """A registered model with what a release needs of it."""

    version: int
    model: str
    features: list[str]
    views: Mapping[str, str]
    spec: str


@dataclass(frozen=True, slots=True)
class Moment:
    """When a decision is made and when it takes effect, in event time."""

    at_us: int
    effective_at_us: int | None = None


def next_release(
    spec: PipelineSpec, champion: Released | None, candidate: Version, *, moment: Moment, reason: ReleaseReason
) -> Released:
    """The release after `champion` with `candidate` answering; the first model stays as baseline shadow if declared."""
    shadows = list(champion.shadows) if champion is not None else []
    if spec.rollout.baseline_shadow and not shadows:
        shadows = [Member(name="baseline", model=candidate.model, version=candidate.version)]
    return Released(
        pipeline=spec.name,
        epoch=champion.epoch + 1 if champion is not None else 1,
        members=[Member(name="champion", model=candidate.model, version=candidate.version)],
        shadows=shadows,
        views=dict(candidate.views),
        features=list(candidate.features),
        spec=candidate.spec,
        policy=spec.policy_digest(),
        at_us=moment.at_us,
        effective_at_us=moment.effective_at_us,
        reason=reason,
        previous_epoch=champion.epoch if champion is not None else 0,
    )


def rolled_back(history: Sequence[Released], to_epoch: int | None, *, at_us: int, reason: ReleaseReason) -> Released:
    """A new release with all that an earlier one had: that of `to_epoch`, else the latest with other members."""
    if not history:
        raise NothingToRollBackError
    champion = history[-1]
    models = [member.model for member in champion.members]
    for earlier in reversed(history[:-1]):
        wanted = earlier.epoch == to_epoch if to_epoch is not None else [m.model for m in earlier.members] != models
        if wanted:
            update = {
                "epoch": champion.epoch + 1, "previous_epoch": champion.epoch, "at_us": at_us,
                "effective_at_us": None, "reason": reason, "sequence": 0,
            }  # fmt: skip
            return earlier.model_copy(update=update)
    raise NothingToRollBackError


def release_id(release: Released) -> str:
    """Id of the release event: one per pipeline and epoch."""
    return str(derived_id("release", release.pipeline, release.epoch))


def run_outcome_id(run: RunFinished) -> str:
    """Id of the gate's decision on a run."""
    return str(derived_id("gate", str(run.run_id)))
