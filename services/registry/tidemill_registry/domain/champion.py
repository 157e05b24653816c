"""The champion pointer: which release answers. It moves by compare-and-set on the epoch, one step at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tidemill_contracts.events import Member, Released, ReleaseReason, RunFinished
from tidemill_contracts.ids import derived_id
from tidemill_contracts.pipeline import PipelineSpec

BASELINE = "baseline"


class EpochMovedError(Exception):
    """The champion is no longer the one the decision was made against."""


class UndecidableError(Exception):
    """A release that was asked for cannot be made; the text says why."""


class NothingToRollBackError(UndecidableError):
    """There is no earlier release to go back to."""

    def __init__(self) -> None:
        super().__init__("there is no earlier release to go back to")


@dataclass(frozen=True, slots=True)
class Version:
    """A registered model with what a release needs of it."""

    version: int
    model: str
    features: list[str]
    views: Mapping[str, str]
    spec: str
    reference: str | None = None
    """Digest of its DriftReference; registered before there were any, it has none."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When a decision is made and when it takes effect, in event time."""

    at_us: int
    effective_at_us: int | None = None


def next_release(
    spec: PipelineSpec, champion: Released | None, candidate: Version, *, moment: Moment, reason: ReleaseReason
) -> Released:
    """The release after `champion` with `candidate` alone; the first model stays as baseline shadow if declared."""
    shadows = [] if champion is None else carried(champion, candidate)
    if spec.rollout.baseline_shadow and not any(shadow.name == BASELINE for shadow in shadows):
        shadows.insert(0, Member(name=BASELINE, model=candidate.model, version=candidate.version))
    return Released(
        pipeline=spec.name,
        epoch=champion.epoch + 1 if champion is not None else 1,
        members=[Member(name="champion", model=candidate.model, version=candidate.version)],
        shadows=shadows,
        views=dict(candidate.views),
        features=list(candidate.features),
        thresholds=dict(spec.rollout.thresholds),
        reference=candidate.reference,
        segments=list(spec.monitor.segments),
        spec=candidate.spec,
        policy=spec.policy_digest(),
        at_us=moment.at_us,
        effective_at_us=moment.effective_at_us,
        reason=reason,
        previous_epoch=champion.epoch if champion is not None else 0,
    )


def carried(champion: Released, candidate: Version) -> list[Member]:
    """The champion's shadows beside a candidate: what reads other features than that says so from now on."""
    kept = [shadow for shadow in champion.shadows if shadow.name == BASELINE or shadow.model != candidate.model]
    if list(candidate.features) == champion.features and dict(candidate.views) == champion.views:
        return kept
    own = {"features": champion.features, "views": champion.views}
    return [shadow if shadow.features is not None else shadow.model_copy(update=own) for shadow in kept]


def successor(champion: Released, *, moment: Moment, reason: ReleaseReason, **changes: object) -> Released:
    """The release after `champion` that is as it is but for the changes."""
    update: dict[str, object] = {
        "epoch": champion.epoch + 1, "previous_epoch": champion.epoch, "sequence": 0, "at_us": moment.at_us,
        "effective_at_us": moment.effective_at_us, "reason": reason,
    }  # fmt: skip
    return champion.model_copy(update=update | changes)


def rolled_back(history: Sequence[Released], to_epoch: int | None, *, at_us: int, reason: ReleaseReason) -> Released:
    """A new release with all that an earlier one had.

    That of `to_epoch`; else, of a canary, the champion without its challenger; else the latest with other members or
    weights, and without a challenger, which is who is being left.
    """
    if not history:
        raise NothingToRollBackError
    champion, moment = history[-1], Moment(at_us)
    if to_epoch is None and champion.challenger is not None:
        return _again(_before(history, champion.challenger.model), champion, moment, reason, challenger=None)
    members = _mix_of(champion)
    for earlier in reversed(history[:-1]):
        if to_epoch is None and _mix_of(earlier) != members:
            return _again(earlier, champion, moment, reason, challenger=None)
        if earlier.epoch == to_epoch:
            return _again(earlier, champion, moment, reason)
    raise NothingToRollBackError


def _before(history: Sequence[Released], challenger: str) -> Released:
    """The latest release before this challenger had a share; the present one if that is not known."""
    for earlier in reversed(history):
        if earlier.challenger is None or earlier.challenger.model != challenger:
            return earlier if _mix_of(earlier) == _mix_of(history[-1]) else history[-1]
    return history[-1]


def _again(
    earlier: Released, champion: Released, moment: Moment, reason: ReleaseReason, **changes: object
) -> Released:  # fmt: skip
    after = {"epoch": champion.epoch + 1, "previous_epoch": champion.epoch}
    return successor(earlier, moment=moment, reason=reason, **after, **changes)


def _mix_of(release: Released) -> list[tuple[str, float]]:
    return [(member.model, member.weight) for member in release.members]


def in_charge_since(history: Sequence[Released]) -> int:
    """The epoch from which on the same members have answered with the same weights; 0 without a release."""
    since = 0
    for release in reversed(history):
        if _mix_of(release) != _mix_of(history[-1]):
            break
        since = release.epoch
    return since


def release_id(release: Released) -> str:
    """Id of the release event: one per pipeline and epoch."""
    return str(derived_id("release", release.pipeline, release.epoch))


def run_outcome_id(run: RunFinished) -> str:
    """Id of the gate's decision on a run."""
    return str(derived_id("gate", str(run.run_id)))
