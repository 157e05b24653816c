"""The gate: harm does not pass, chance does not promote, and a harmed segment is named."""

import numpy as np
import pytest

from tidemill_contracts.pipeline import GateSpec
from tidemill_engine.arrays import Float64s
from tidemill_engine.stats import DAY_US, GateDecision, GateRows, block_mean, decide, holm

SPEC = GateSpec()
ROWS = 3500


def sigmoid(z: Float64s) -> Float64s:
    return 1 / (1 + np.exp(-z))


def world(seed: int, days: int = 7) -> tuple[GateRows, Float64s]:
    """Rows whose true log-odds are known, with days that differ; candidate and champion both answer the truth."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(0, days * DAY_US, ROWS)).astype(np.int64)
    odds = rng.normal(size=ROWS) - 1 + rng.normal(size=days)[times // DAY_US] * 0.5
    labels = (rng.random(ROWS) < sigmoid(odds)).astype(np.float64)
    segments = {"origin": rng.choice(["EWR", "JFK", "LGA"], ROWS), "rare": rng.choice(["a", "b"], ROWS, p=[0.99, 0.01])}
    return GateRows(times, labels, sigmoid(odds), sigmoid(odds), segments=segments), odds


def judge(rows: GateRows, candidate: Float64s, champion: Float64s | None, spec: GateSpec = SPEC) -> GateDecision:
    judged = GateRows(rows.times_us, rows.labels, candidate, champion, 0.3, rows.segments)
    return decide(judged, spec, parity_error=1e-7, size_bytes=1000)


def names(decision: GateDecision, verdict: str) -> set[str]:
    return {check.name for check in decision.checks if check.verdict == verdict}


def test_a_better_candidate_passes() -> None:
    rows, odds = world(1)
    noise = np.random.default_rng(2).normal(size=ROWS) * 0.7
    decision = judge(rows, sigmoid(odds), sigmoid(odds + noise))
    assert decision.verdict == "pass", decision.reason
    assert decision.evidence["difference"] < 0
    assert decision.evidence["candidate_log_loss"] < decision.evidence["champion_log_loss"]
    assert decision.evidence["lower"] < decision.evidence["difference"] < decision.evidence["upper"] < SPEC.margin


def test_a_worse_candidate_fails() -> None:
    rows, odds = world(1)
    decision = judge(rows, sigmoid(odds + np.random.default_rng(2).normal(size=ROWS)), sigmoid(odds))
    assert decision.verdict == "fail"
    assert {"point_estimate", "no_harm"} <= names(decision, "fail")


def test_two_hundred_identical_models_are_never_promoted() -> None:
    verdicts = [
        judge(rows, scores, scores).verdict for rows, scores in ((w[0], w[0].candidate) for w in map(world, range(200)))
    ]
    assert verdicts == ["inconclusive"] * 200


def test_models_worse_by_the_margin_pass_no_more_often_than_stated() -> None:
    """The noise makes the true log-loss worse by 0.0022, the margin; so the interval errs about as often as it says."""
    spec = GateSpec(margin=0.0022, alpha=0.1, minimum_rows=100)
    passed = harmless = 0
    for seed in range(300):
        rows, odds = world(seed)
        rng = np.random.default_rng(1000 + seed)
        champion, extra = odds + rng.normal(size=ROWS) * 0.3, rng.normal(size=ROWS)
        decision = judge(rows, sigmoid(champion + extra * 0.16), sigmoid(champion), spec)
        passed += decision.verdict == "pass"
        harmless += "no_harm" in names(decision, "pass")
    assert 15 <= harmless <= 45
    assert passed <= 30


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(1000):
        days = rng.normal(size=6)
        times = rng.integers(0, 6 * DAY_US, 300).astype(np.int64)
        upper = block_mean(days[times // DAY_US] + rng.normal(size=300), times).bound(0.05, 1)
        covered += upper is not None and upper > 0
    assert 0.93 < covered / 1000 < 0.97


def test_a_better_candidate_that_harms_one_segment_is_blocked_and_the_segment_named() -> None:
    rows, odds = world(3)
    noise = np.random.default_rng(4).normal(size=ROWS)
    jfk = rows.segments["origin"] == "JFK"
    decision = judge(rows, sigmoid(np.where(jfk, odds + 1.2, odds)), sigmoid(np.where(jfk, odds, odds + 2 * noise)))
    assert decision.evidence["difference"] < 0
    assert names(decision, "fail") == {"segment"}
    assert [check.segment for check in decision.checks if check.verdict == "fail"] == ["origin=JFK"]
    assert "JFK" in decision.reason


def test_chance_alone_seldom_blocks_one_of_many_segments() -> None:
    blocked = 0
    spec = GateSpec(segment_margin=0.0, segment_minimum_rows=20)
    for seed in range(100):
        rows, odds = world(seed)
        rng = np.random.default_rng(seed)
        first, second = (sigmoid(odds + rng.normal(size=ROWS) * 0.3) for _ in range(2))
        segments = {"cell": rng.integers(0, 30, ROWS).astype(str)}
        judged = GateRows(rows.times_us, rows.labels, first, second, segments=segments)
        decision = decide(judged, spec, parity_error=0.0, size_bytes=1)
        blocked += "segment" in names(decision, "fail")
    assert blocked <= 100 * spec.alpha + 5


def test_too_few_rows_or_days_are_inconclusive() -> None:
    rows, odds = world(6)
    champion = sigmoid(odds + np.random.default_rng(7).normal(size=ROWS))
    assert judge(rows, sigmoid(odds), champion, GateSpec(minimum_rows=ROWS + 1)).verdict == "inconclusive"
    assert judge(rows, sigmoid(odds), champion, GateSpec(minimum_blocks=8)).verdict == "inconclusive"
    one_day, odds = world(6, days=1)
    decision = judge(one_day, sigmoid(odds), champion)
    assert names(decision, "inconclusive") == {"sample", "no_harm"}


def test_no_rows_are_inconclusive() -> None:
    empty = np.array([])
    rows = GateRows(empty.astype(np.int64), empty, empty, empty)
    decision = decide(rows, SPEC, parity_error=0.0, size_bytes=1)
    assert (decision.verdict, decision.reason) == ("inconclusive", "no rows")


def test_a_wide_interval_is_inconclusive_though_the_estimate_is_better() -> None:
    rows, odds = world(8)
    shift = np.where((rows.times_us // DAY_US) % 2 == 0, 1.0, -0.2)
    decision = judge(rows, sigmoid(odds + shift * 0.4), sigmoid(odds + 0.45))
    assert decision.evidence["difference"] < 0
    assert decision.verdict in {"inconclusive", "pass"}
    strict = judge(rows, sigmoid(odds + shift * 0.4), sigmoid(odds + 0.45), GateSpec(margin=0.0, alpha=0.0001))
    assert strict.verdict == "inconclusive"


def test_a_first_model_must_beat_the_base_rate() -> None:
    rows, odds = world(9)
    assert judge(rows, sigmoid(odds), None).verdict == "pass"
    guess = sigmoid(np.random.default_rng(10).normal(size=ROWS) - 1)
    assert "beats_base_rate" in names(judge(rows, guess, None), "fail")
    almost = np.full(ROWS, rows.labels.mean()) + np.random.default_rng(11).normal(size=ROWS) * 0.001
    assert judge(rows, almost, None).verdict != "pass"
    with pytest.raises(ValueError, match="base rate"):
        decide(GateRows(rows.times_us, rows.labels, guess), SPEC, parity_error=0.0, size_bytes=1)


@pytest.mark.parametrize(
    ("parity", "size", "failed"),
    [(1e-3, 10, {"parity"}), (float("nan"), 10, {"parity"}), (0.0, 10**9, {"size"}), (0.0, 10, set())],
)
def test_a_model_that_answers_otherwise_in_onnx_or_is_too_large_fails(
    parity: float, size: int, failed: set[str]
) -> None:
    rows, odds = world(1)
    judged = GateRows(rows.times_us, rows.labels, sigmoid(odds), sigmoid(odds * 0.5), segments=rows.segments)
    assert names(decide(judged, SPEC, parity_error=parity, size_bytes=size), "fail") == failed


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1.1])
def test_a_score_that_is_no_probability_fails(value: float) -> None:
    rows, odds = world(1)
    scores = sigmoid(odds)
    scores[5] = value
    assert names(judge(rows, scores, sigmoid(odds)), "fail") == {"scores"}


def test_the_order_of_rows_does_not_matter() -> None:
    rows, odds = world(12)
    champion = sigmoid(odds + np.random.default_rng(1).normal(size=ROWS))
    mixed = np.random.default_rng(2).permutation(ROWS)
    shuffled = GateRows(
        rows.times_us[mixed], rows.labels[mixed], rows.candidate[mixed], champion[mixed],
        segments={name: values[mixed] for name, values in rows.segments.items()},
    )  # fmt: skip
    plain = GateRows(rows.times_us, rows.labels, rows.candidate, champion, segments=rows.segments)
    assert decide(shuffled, SPEC, parity_error=0.0, size_bytes=1) == decide(plain, SPEC, parity_error=0.0, size_bytes=1)


def test_columns_must_agree() -> None:
    rows, _ = world(1)
    with pytest.raises(ValueError, match="length"):
        judge(rows, rows.candidate[:-1], rows.candidate)


def test_holm_is_at_least_as_strict_as_each_and_keeps_order() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_block_mean_of_equal_blocks_is_the_plain_t_interval() -> None:
    values = np.repeat([1.0, 2.0, 4.0, 5.0], 3)
    times = np.repeat(np.arange(4), 3).astype(np.int64) * DAY_US
    mean = block_mean(values, times)
    assert mean.mean == 3.0
    assert mean.standard_error == pytest.approx(np.std([1, 2, 4, 5], ddof=1) / 2)
    assert mean.bound(0.025, 1) == pytest.approx(3 + 3.182446 * np.std([1, 2, 4, 5], ddof=1) / 2)
