"""A finished run becomes a version, a verdict and perhaps a release. Pure: everything it needs is handed in."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tidemill_contracts.events import GateCheck, GateDecided, Released, ReleaseReason, RunFinished
from tidemill_contracts.ids import derived_id
from tidemill_contracts.pipeline import GateSpec, PipelineSpec
from tidemill_engine.stats import GateRows, decide
from tidemill_registry.domain.champion import Moment, Version, next_release
from tidemill_registry.domain.rollout import canaried

Status = Literal["released", "canary", "suggested", "rejected", "inconclusive", "failed", "refused"]


@dataclass(frozen=True, slots=True)
class Standing:
    """How things stand when a run comes in."""

    spec: PipelineSpec
    champion: Released | None
    frozen: bool
    since: int | None = None
    """The epoch from which on the same members have answered; None: the champion's own."""


def judge(run: RunFinished, version: Version, rows: GateRows, standing: Standing) -> GateDecided:
    """The gate's verdict; inconclusive where the run was compared with another champion than today's."""
    epoch = standing.champion.epoch if standing.champion is not None else 0
    decision = decide(
        rows, standing.spec.gate, parity_error=run.metrics.get("parity_error", float("inf")),
        size_bytes=int(run.metrics.get("size_bytes", 0)), after_alarm=run.cause.kind == "drift",
    )  # fmt: skip
    verdict, checks = decision.verdict, list(decision.checks)
    since = epoch if standing.since is None else standing.since
    if not since <= run.champion_epoch <= epoch:
        verdict = "fail" if verdict == "fail" else "inconclusive"
        reason = f"it was compared with the champion of epoch {run.champion_epoch}, now it is {epoch}"
        checks.append(GateCheck(name="champion", verdict="inconclusive", reason=reason))
    evidence = [
        GateCheck(name=f"evidence.{name}", verdict="pass", value=value)
        for name, value in sorted(decision.evidence.items())
    ]
    return GateDecided(
        pipeline=run.pipeline, version=version.version, verdict=verdict, checks=[*checks, *evidence],
        champion_epoch=epoch, run_id=run.run_id, at_us=run.at_us, policy=standing.spec.policy_digest(),
    )  # fmt: skip


def follow_up(
    run: RunFinished, version: Version, decided: GateDecided, standing: Standing
) -> tuple[Status, Released | None]:
    """What the verdict leads to: only a pass releases, and only where the policy acts by itself and is not frozen."""
    if decided.verdict != "pass":
        return ("rejected" if decided.verdict == "fail" else "inconclusive"), None
    if standing.frozen or standing.spec.policy.mode != "auto":
        return "suggested", None
    reason = ReleaseReason(
        kind="gate" if standing.champion is not None else "first",
        event_id=derived_id("gate", str(run.run_id)),
        detail=f"{run.cause.kind}: {run.cause.detail}".rstrip(": "),
    )
    moment = Moment(run.at_us, run.effective_at_us)
    if standing.spec.rollout.strategy == "canary" and standing.champion is not None:
        step = standing.spec.rollout.steps[0]
        return "canary", canaried(standing.spec, standing.champion, version, step, moment=moment, reason=reason)
    return "released", next_release(standing.spec, standing.champion, version, moment=moment, reason=reason)


def warm() -> None:
    """Compile what a judgement uses, before there is one to make."""
    labels = np.array([0.0, 1.0] * 4)
    scores = np.linspace(0.1, 0.9, len(labels))
    times = np.arange(len(labels), dtype=np.int64) * 43_200_000_000
    decide(GateRows(times, labels, scores, scores[::-1].copy()), GateSpec(), parity_error=0.0, size_bytes=1)
