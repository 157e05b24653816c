"""What answers beside the champion: a challenger with a share of the keys, shadows, members mixed by weight."""

from collections.abc import Sequence

from tidemill_contracts.events import Challenger, Member, Released, ReleaseReason
from tidemill_contracts.ids import derived_id
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_registry.domain.champion import BASELINE, Moment, UndecidableError, Version, carried, successor

DEADLINE_MS = 20
"""Of a challenger for a batch, where the pipeline file says nothing."""


def canaried(  # noqa: PLR0913 - what a release is made of
    spec: PipelineSpec, champion: Released, candidate: Version, share: float | None, *, moment: Moment,
    reason: ReleaseReason,
) -> Released:  # fmt: skip
    """The champion with `candidate` as challenger for a share of the keys (None: the file's next step).

    While the challenger stays the same, so does its salt: a larger share adds keys and takes none away.
    """
    before = champion.challenger
    is_known = before is not None and before.model == candidate.model
    if len(champion.members) == 1 and champion.members[0].model == candidate.model:
        raise UndecidableError(f"version {candidate.version} is the champion")
    if share is None:
        share = next_step(spec, before.share if before is not None and is_known else 0.0)
    if before is not None and is_known:
        salt, by = before.salt, before.by
    else:
        salt = derived_id("canary", spec.name, champion.epoch + 1).hex
        by = spec.rollout.sticky or spec.request.key
    deadline, (features, views) = spec.rollout.deadline, _own(champion, candidate)
    challenger = Challenger(
        name="challenger", model=candidate.model, version=candidate.version, share=share, salt=salt, by=by,
        deadline_ms=DEADLINE_MS if deadline is None else deadline // 1000, features=features, views=views,
    )  # fmt: skip
    policy = spec.policy_digest()
    return successor(champion, moment=moment, reason=reason, challenger=challenger, policy=policy)


def next_step(spec: PipelineSpec, share: float) -> float:
    """The file's first step above a share; raises UndecidableError where there is none."""
    step = next((step for step in spec.rollout.steps if step > share), None)
    if step is None:
        raise UndecidableError("rollout.steps has no further step: name a share, or promote")
    return step


def promoted(spec: PipelineSpec, champion: Released | None, number: int | None) -> int:
    """The version that a promotion means: the one it names, else the challenger's."""
    if number is not None:
        return number
    if champion is None or champion.challenger is None:
        raise UndecidableError(f"{spec.name} has no challenger: name the version")
    return champion.challenger.version


def shadowed(champion: Released, candidate: Version, *, moment: Moment, reason: ReleaseReason) -> Released:
    """The champion with one more shadow."""
    name = _shadow(candidate.version)
    if any(shadow.name == name for shadow in champion.shadows):
        raise UndecidableError(f"version {candidate.version} is a shadow already")
    features, views = _own(champion, candidate)
    added = Member(name=name, model=candidate.model, version=candidate.version, features=features, views=views)
    return successor(champion, moment=moment, reason=reason, shadows=[*champion.shadows, added])


def unshadowed(champion: Released, number: int, *, moment: Moment, reason: ReleaseReason) -> Released:
    """The champion without the shadow of a version."""
    left = [shadow for shadow in champion.shadows if shadow.name != _shadow(number)]
    if len(left) == len(champion.shadows):
        raise UndecidableError(f"version {number} is not a shadow")
    return successor(champion, moment=moment, reason=reason, shadows=left)


def mixed(
    spec: PipelineSpec, champion: Released, parts: Sequence[tuple[Version, float]], *, moment: Moment,
    reason: ReleaseReason,
) -> Released:  # fmt: skip
    """Several versions that answer together, by weight, in the order of their numbers; they must read the same.

    The reference of drift is that of the one with the most weight.
    """
    ordered = sorted(parts, key=lambda part: part[0].version)
    leader = max(ordered, key=lambda part: part[1])[0]
    for version, _ in ordered:
        if list(version.features) != list(leader.features) or dict(version.views) != dict(leader.views):
            raise UndecidableError(f"versions {version.version} and {leader.version} read other features")
    names = ["champion"] if len(ordered) == 1 else [f"v{version.version}" for version, _ in ordered]
    members = [
        Member(name=name, model=version.model, version=version.version, weight=weight)
        for name, (version, weight) in zip(names, ordered, strict=True)
    ]
    return successor(
        champion, moment=moment, reason=reason, members=members, shadows=carried(champion, leader), challenger=None,
        views=dict(leader.views), features=list(leader.features), thresholds=dict(spec.rollout.thresholds),
        reference=leader.reference, segments=list(spec.monitor.segments), spec=leader.spec, policy=spec.policy_digest(),
    )  # fmt: skip


def _own(champion: Released, candidate: Version) -> tuple[list[str] | None, dict[str, str] | None]:
    """Features and views of a member where they are not the release's."""
    if list(candidate.features) == champion.features and dict(candidate.views) == champion.views:
        return None, None
    return list(candidate.features), dict(candidate.views)


def _shadow(number: int) -> str:
    return f"v{number}"


__all__ = ["BASELINE", "canaried", "mixed", "next_step", "promoted", "shadowed", "unshadowed"]
