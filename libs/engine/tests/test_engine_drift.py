"""Paired detectors: quiet on null streams, quick and exact on planted changes, and the same after any restart."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest

from tidemill_contracts.pipeline import DriftSpec
from tidemill_engine.arrays import Float64s
from tidemill_engine.drift import Alarm, PairedDetector, PairedSettings, RangeSettings
from tidemill_engine.drift.adwin import ShiftDetector
from tidemill_engine.drift.panes import Pane

ADWIN_ONLY = PairedSettings(pane_rows=50, newest=None)
RANGE_ONLY = PairedSettings(pane_rows=50, adwin=False)
ROWS = 50


def stream(seed: int, panes: int, *, change_at: int | None = None, by: float = 0.1, swing: float = 0.0) -> Float64s:
    """Rows so noisy that a pane of 50 is as sure as 200 labels are; `swing` makes the level wander."""
    rng = np.random.default_rng(seed)
    level = np.zeros(panes)
    for i in range(1, panes):
        level[i] = 0.7 * level[i - 1] + swing * rng.normal()
    if change_at is not None:
        level[change_at:] += by
    return (rng.normal(size=(panes, ROWS)) * 0.185 + level[:, None]).ravel()


@pytest.mark.parametrize("settings", [ADWIN_ONLY, RANGE_ONLY])
@pytest.mark.parametrize("swing", [0.0, 0.02])
def test_null_streams_stay_quiet(settings: PairedSettings, swing: float) -> None:
    """Five streams of 500 panes: at most one alarm for every 500."""
    alarms = [len(PairedDetector(settings).update_many(stream(seed, 500, swing=swing), 0)) for seed in range(5)]
    assert sum(alarms) <= 5
    assert swing or sum(alarms) == 0


@pytest.mark.parametrize(("settings", "longest"), [(ADWIN_ONLY, 20), (RANGE_ONLY, 14)])
@pytest.mark.parametrize("by", [0.12, -0.12])
def test_a_planted_change_is_found_soon_and_dated(settings: PairedSettings, longest: int, by: float) -> None:
    for seed in range(10):
        alarm = PairedDetector(settings).update_many(stream(seed, 160, change_at=100, by=by), 5000)[0]
        assert 100 < alarm.panes[1] <= 100 + longest
        assert abs(alarm.panes[0] - 100) <= longest / 2
        assert alarm.rows == (5000 + alarm.panes[0] * ROWS, 5000 + alarm.panes[1] * ROWS)
        assert by / 3 < alarm.effect < 1.5 * by if by > 0 else 1.5 * by < alarm.effect < by / 3
        assert alarm.effect == alarm.after - alarm.before


def test_small_values_are_watched_on_their_own_scale() -> None:
    """ADWIN's own bound takes values of order 1; a paired difference is a hundredth of that."""
    values = stream(1, 200, change_at=100) / 100
    assert PairedDetector(ADWIN_ONLY).update_many(values, 0)


def test_only_a_rise_alarms_when_only_a_rise_is_news() -> None:
    settings = PairedSettings(pane_rows=ROWS, direction="up")
    assert not PairedDetector(settings).update_many(stream(2, 200, change_at=100, by=-0.2), 0)
    assert PairedDetector(settings).update_many(stream(2, 200, change_at=100, by=0.2), 0)


def test_a_change_too_small_to_matter_is_passed_over() -> None:
    values = stream(3, 300, change_at=150, by=0.1)
    assert PairedDetector(PairedSettings(pane_rows=ROWS, minimum_effect=0.05)).update_many(values, 0)
    assert not PairedDetector(PairedSettings(pane_rows=ROWS, minimum_effect=0.2)).update_many(values, 0)


def test_nothing_is_said_during_the_warm_up() -> None:
    alarms = PairedDetector(PairedSettings(pane_rows=ROWS, warm_up=30, newest=RangeSettings(baseline=40))).update_many(
        stream(4, 29, change_at=12, by=2.0), 0
    )
    assert alarms == []


def test_the_range_check_goes_on_until_the_mean_is_back() -> None:
    values = np.concatenate((stream(5, 200, change_at=100, by=0.3), stream(6, 50)))
    panes = [alarm.panes[1] for alarm in PairedDetector(RANGE_ONLY).update_many(values, 0)]
    assert len(panes) >= 8
    assert 200 - max(panes) < 10 or max(panes) < 212
    assert np.diff(panes).min() >= 10


def test_a_promotion_clears_the_champion_but_not_what_healthy_means() -> None:
    detector = PairedDetector(RANGE_ONLY)
    detector.update_many(stream(7, 100), 0)
    detector.reset()
    assert detector.update_many(stream(8, 30, change_at=0, by=0.3), 20_000)
    fresh = PairedDetector(ADWIN_ONLY)
    fresh.update_many(stream(7, 100), 0)
    fresh.reset()
    assert not fresh.update_many(stream(8, 30, change_at=0, by=0.3), 20_000)


def test_patience_makes_a_lasting_change_the_new_normal() -> None:
    settings = PairedSettings(pane_rows=ROWS, adwin=False, newest=RangeSettings(panes=5, baseline=20, patience=3))
    assert len(PairedDetector(settings).update_many(stream(9, 300, change_at=50, by=0.5), 0)) == 3


def replayed(values: Float64s, settings: PairedSettings, stops: set[int]) -> tuple[list[Alarm], dict[str, object]]:
    """Every row, with a trip through JSON before each row of `stops`; a promotion in the middle."""
    alarms: list[Alarm] = []
    detector = PairedDetector(settings)
    for row, value in enumerate(values):
        if row in stops:
            detector = PairedDetector.from_state(settings, json.loads(json.dumps(detector.to_state())))
        if row == len(values) // 2 + 7:
            detector.reset()
        alarms += detector.update(float(value), row)
    return alarms, detector.to_state()


@pytest.mark.parametrize("cap", [40, 1000])
def test_a_restart_at_any_row_gives_the_same_alarms(cap: int) -> None:
    settings = PairedSettings(pane_rows=20, cap=cap, newest=RangeSettings(panes=5, z=4.0, baseline=20, patience=2))
    rng = np.random.default_rng(10)
    values = np.concatenate([rng.normal(size=1500) * 0.4 + level for level in (0, 0.4, 0, 0.1, -0.6, 0)])
    expected = replayed(values, settings, set())
    assert {alarm.detector for alarm in expected[0]} == {"adwin", "range"}
    assert len(expected[0]) >= 4
    for stop in (0, 1, 19, 20, 21, 1499, 4507, 4508, *rng.integers(0, len(values), 6).tolist()):
        assert replayed(values, settings, {stop}) == expected
    assert replayed(values, settings, set(range(0, len(values), 177))) == expected


def test_a_detector_that_forgets_its_older_half_restarts_alike() -> None:
    """A wild beginning hides a step; once it is forgotten, the step shows at once: also that must replay."""
    wild, calm = [5.0 * (-1) ** i for i in range(41)], [0.0] * 15 + [0.5] * 25
    panes = [
        Pane(i, mean + 0.01 * (i % 3), 1e-4, 20, 20 * i, 20 * i + 20) for i, mean in enumerate(wild + calm + [0.5] * 30)
    ]
    expected = restarted(panes, len(panes))
    assert any(len(kept) < 40 for kept in expected[40:])
    for stop in (0, 1, 9, 10, 11, 40, 79, 80, 81, 82, 100):
        assert restarted(panes, stop) == expected


def restarted(panes: list[Pane], stop: int) -> list[list[Pane]]:
    """The panes kept after each step, with a restart after `stop` steps."""
    detector, kept = ShiftDetector(0.002, 10, 80), []
    for i, pane in enumerate(panes):
        if i == stop:
            restored = ShiftDetector(0.002, 10, 80)
            for old in detector.panes:
                restored.update(old)
            detector = restored
        detector.update(pane)
        kept.append(list(detector.panes))
    return kept


def test_state_is_bounded() -> None:
    settings = PairedSettings(pane_rows=5, cap=50, newest=RangeSettings(panes=5, baseline=20))
    detector = PairedDetector(settings)
    longest = 0
    rng = np.random.default_rng(11)
    for row, value in enumerate(rng.normal(size=5000)):
        detector.update(float(value), row)
        state = detector.to_state()
        longest = max(longest, len(state["shift"]), len(state["healthy"]), len(state["newest"]))
    assert longest <= 50


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        PairedDetector().update(value, 0)


@pytest.mark.parametrize(
    "build",
    [
        lambda: PairedSettings(pane_rows=0),
        lambda: PairedSettings(warm_up=1),
        lambda: PairedSettings(warm_up=10, cap=39),
        lambda: PairedSettings(adwin=False, newest=None),
        lambda: PairedSettings(warm_up=5, cap=40),
        lambda: RangeSettings(panes=0),
        lambda: RangeSettings(panes=10, baseline=10),
        lambda: RangeSettings(patience=0),
    ],
)
def test_settings_that_cannot_work_are_refused(build: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"panes|detector|baseline"):
        build()


def test_a_pipeline_file_configures_both_streams() -> None:
    spec = DriftSpec(pane_rows=50, delta=0.01, warm_up_panes=1, bias_panes=7, bias_z=4.5, bias_minimum=0.03)
    concept, calibration = PairedSettings.concept(spec), PairedSettings.calibration(spec)
    assert (concept.pane_rows, concept.delta, concept.direction, concept.newest) == (50, 0.01, "up", None)
    assert (calibration.direction, calibration.minimum_effect) == ("both", 0.03)
    assert calibration.newest == RangeSettings(7, 4.5)
