"""The gate: may a candidate replace the champion? Rows and figures in, a verdict with its reasons out.

It asks for no harm, not for significant superiority: that would take months of labels. The stated error is the chance
that a candidate whose true log-loss is worse than the champion's by the margin or more passes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from tidemill_contracts.events import GateCheck
from tidemill_contracts.pipeline import GateSpec
from tidemill_engine.arrays import Float64s, Int64s
from tidemill_engine.stats.intervals import BlockMean, block_mean, holm
from tidemill_engine.stats.metrics import brier, log_loss, row_log_loss

Verdict = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True, slots=True, eq=False)
class GateRows:
    """Time-forward rows that the candidate never saw: times [N] in microseconds, labels [N] of 0 and 1, scores [N].

    `champion` None means that there is none yet; then `base_rate`, the share of positives among the training rows,
    stands in as a constant answer. `segments` gives [N] values by segment field, such as `{"origin": ["JFK", ...]}`.
    """

    times_us: Int64s
    labels: Float64s
    candidate: Float64s
    champion: Float64s | None = None
    base_rate: float | None = None
    segments: Mapping[str, npt.NDArray[np.str_]] = field(default_factory=dict)

    @property
    def rival(self) -> Float64s:
        """Scores [N] to compare with; raises ValueError without champion and base rate."""
        if self.champion is not None:
            return self.champion
        if self.base_rate is None:
            raise ValueError("without a champion the gate needs the base rate of the training rows")
        return np.full(len(self.labels), self.base_rate)


@dataclass(frozen=True, slots=True)
class GateDecision:
    """The verdict: fail if any check fails, else inconclusive if any is, else pass. `evidence` holds the figures."""

    verdict: Verdict
    checks: tuple[GateCheck, ...]
    evidence: dict[str, float]

    @property
    def reason(self) -> str:
        """Why it did not pass, the first such check; empty for a pass."""
        return next((check.reason for check in self.checks if check.verdict == self.verdict != "pass"), "")


def decide(
    rows: GateRows, spec: GateSpec, *, parity_error: float, size_bytes: int, after_alarm: bool = False
) -> GateDecision:
    """Judge a candidate.

    `parity_error` is the largest absolute difference between the trainer's own scores and the ONNX model's,
    `size_bytes` the model's size; `after_alarm` takes the blocks that are declared for then. Raises ValueError for
    labels other than 0 and 1, or columns of different length.
    """
    checks = [
        _limit("parity", parity_error, spec.parity, "trainer and ONNX disagree"),
        _limit("size", float(size_bytes), float(spec.maximum_bytes), "the model is too large"),
    ]
    usable = _usable(rows)
    evidence: dict[str, float] = {"rows": float(len(rows.labels))}
    if usable.verdict == "pass" and len(rows.labels):
        compared, evidence = _compare(rows, spec, spec.block_after(alarm=after_alarm))
        checks += compared
    elif usable.verdict == "pass":
        usable = GateCheck(
            name="sample", verdict="inconclusive", value=0.0, bound=float(spec.minimum_rows), reason="no rows"
        )
    return _decision([*checks, usable], evidence)


def judge_mean(difference: BlockMean, spec: GateSpec) -> tuple[GateCheck, ...]:
    """What the gate asks of a difference in log-loss, candidate less champion, that was measured elsewhere.

    Enough rows and blocks, no higher point estimate, no harm beyond the margin.
    """
    return _sample(difference, spec), _better(difference), _no_harm(difference, spec)


def _decision(checks: list[GateCheck], evidence: dict[str, float]) -> GateDecision:
    found = {check.verdict for check in checks}
    verdict: Verdict = "fail" if "fail" in found else "inconclusive" if "inconclusive" in found else "pass"
    return GateDecision(verdict, tuple(checks), evidence)


def _usable(rows: GateRows) -> GateCheck:
    scores = (rows.candidate, rows.rival)
    columns = [rows.labels, *scores, rows.times_us, *rows.segments.values()]
    if len({len(column) for column in columns}) != 1:
        raise ValueError("columns of different length")
    if not all(bool(((column >= 0) & (column <= 1)).all()) for column in scores):  # also false for NaN
        return GateCheck(name="scores", verdict="fail", reason="a score is not a probability")
    return GateCheck(name="scores", verdict="pass")


def _compare(rows: GateRows, spec: GateSpec, block_us: int) -> tuple[list[GateCheck], dict[str, float]]:
    rival = rows.rival
    differences = row_log_loss(rows.labels, rows.candidate) - row_log_loss(rows.labels, rival)
    overall = block_mean(differences, rows.times_us, block_us=block_us)
    checks = [_sample(overall, spec), _different(rows), _better(overall)]
    checks.append(_no_harm(overall, spec, is_first=rows.champion is None))
    checks += _segments(rows, differences, spec, block_us)
    evidence = {
        "rows": float(overall.rows),
        "blocks": float(overall.blocks),
        "difference": overall.mean,
        "candidate_log_loss": log_loss(rows.labels, rows.candidate),
        "champion_log_loss": log_loss(rows.labels, rival),
        "candidate_brier": brier(rows.labels, rows.candidate),
        "champion_brier": brier(rows.labels, rival),
    }
    bounds = {"lower": overall.bound(spec.alpha, -1), "upper": overall.bound(spec.alpha, 1)}
    return checks, evidence | {name: bound for name, bound in bounds.items() if bound is not None}


def _limit(name: str, value: float, bound: float, complaint: str) -> GateCheck:
    if not math.isfinite(value):
        return GateCheck(name=name, verdict="fail", bound=bound, reason=f"{complaint}: not a finite number")
    if value > bound:
        return GateCheck(
            name=name, verdict="fail", value=value, bound=bound, reason=f"{complaint}: {value:g} > {bound:g}"
        )
    return GateCheck(name=name, verdict="pass", value=value, bound=bound)


def _sample(overall: BlockMean, spec: GateSpec) -> GateCheck:
    enough = overall.rows >= spec.minimum_rows and overall.blocks >= spec.minimum_blocks
    reason = f"{overall.rows} rows in {overall.blocks} blocks, {spec.minimum_rows} in {spec.minimum_blocks} are needed"
    return GateCheck(
        name="sample",
        verdict="pass" if enough else "inconclusive",
        value=float(overall.rows),
        bound=float(spec.minimum_rows),
        reason="" if enough else reason,
    )


def _different(rows: GateRows) -> GateCheck:
    """A model that answers as the champion does gains nothing; releasing it would only be churn."""
    changed = float(np.count_nonzero(rows.candidate != rows.rival))
    if changed:
        return GateCheck(name="different", verdict="pass", value=changed)
    return GateCheck(
        name="different", verdict="inconclusive", value=0.0, reason="it answers as the champion on every row"
    )


def _better(overall: BlockMean) -> GateCheck:
    worse = overall.mean > 0
    reason = f"log-loss is higher by {overall.mean:.3g}" if worse else ""
    verdict: Verdict = "fail" if worse else "pass"
    return GateCheck(name="point_estimate", verdict=verdict, value=overall.mean, bound=0.0, reason=reason)


def _no_harm(overall: BlockMean, spec: GateSpec, *, is_first: bool = False) -> GateCheck:
    """Upper bound within the margin; a first model has to be better than the base rate, so its margin is 0."""
    margin, name = (0.0, "beats_base_rate") if is_first else (spec.margin, "no_harm")
    upper, lower = overall.bound(spec.alpha, 1), overall.bound(spec.alpha, -1)
    if upper is None or lower is None:
        return GateCheck(name=name, verdict="inconclusive", bound=margin, reason="one block gives no interval")
    if upper < margin or (upper == margin and overall.mean < 0):
        return GateCheck(name=name, verdict="pass", value=upper, bound=margin)
    shown = lower > margin
    reason = f"log-loss may be higher by {upper:.3g} at error {spec.alpha:g}, {margin:g} is allowed"
    verdict: Verdict = "fail" if shown else "inconclusive"
    return GateCheck(name=name, verdict=verdict, value=upper, bound=margin, reason=reason)


def _segments(rows: GateRows, differences: Float64s, spec: GateSpec, block_us: int) -> list[GateCheck]:
    """Block on a segment that is worse by more than its margin and, after Holm's correction, not by chance."""
    found = dict(_segment_means(rows, differences, spec, block_us))
    adjusted = holm([mean.p_above() for mean in found.values()])
    harmed = [
        _harmed(name, mean, p, spec)
        for (name, mean), p in zip(found.items(), adjusted, strict=True)
        if mean.mean > spec.segment_margin and p <= spec.alpha
    ]
    if harmed or not rows.segments:
        return harmed
    worst = max((mean.mean for mean in found.values()), default=None)
    reason = f"{len(found)} segments compared" if found else "every segment is too small to compare"
    return [GateCheck(name="segments", verdict="pass", value=worst, bound=spec.segment_margin, reason=reason)]


def _segment_means(rows: GateRows, differences: Float64s, spec: GateSpec, block_us: int) -> list[tuple[str, BlockMean]]:
    means: list[tuple[str, BlockMean]] = []
    for name, values in sorted(rows.segments.items()):
        for value in sorted(set(np.asarray(values).tolist())):
            chosen = np.asarray(values) == value
            if np.count_nonzero(chosen) >= spec.segment_minimum_rows:
                mean = block_mean(differences[chosen], rows.times_us[chosen], block_us=block_us)
                means.append((f"{name}={value}", mean))
    return [(name, mean) for name, mean in means if mean.blocks >= spec.minimum_blocks]


def _harmed(name: str, mean: BlockMean, p_value: float, spec: GateSpec) -> GateCheck:
    reason = f"{name}: log-loss is higher by {mean.mean:.3g} on {mean.rows} rows (adjusted p {p_value:.2g})"
    return GateCheck(
        name="segment", verdict="fail", value=mean.mean, bound=spec.segment_margin, reason=reason, segment=name
    )
