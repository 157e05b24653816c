"""Drift of the inputs: told once when it lasts, with the panes it lasted for, whatever restarts there were."""

import json
from collections.abc import Sequence

import numpy as np
import pytest

from tidemill_contracts.events import Prediction
from tidemill_contracts.ids import prediction_id
from tidemill_contracts.pipeline import DriftSpec, MonitorSpec
from tidemill_monitoring.domain.findings import Finding
from tidemill_monitoring.domain.population import KEPT, Population
from tidemill_monitoring.domain.watch import Watch

PANE, ROWS = 1000, 300
SPEC = DriftSpec(population_pane=PANE, population_reference_rows=600, population_panes=3)
WARM_UP = 2
"""Panes that the reference takes."""


def a_prediction(key: str, value: float) -> Prediction:
    return Prediction(
        prediction_id=prediction_id("demo", key), pipeline="demo", key=key, at_us=0, epoch=1, model="a" * 64, version=1,
        score=0.5, vector=[value], features="b" * 64, revisions={}, request={},
    )  # fmt: skip


def run(shifts: Sequence[float], *, restart: bool = False) -> list[tuple[int, Finding]]:
    """The pane in which each finding came up; `shifts` moves the input of each pane after the reference."""
    dice, population, found = np.random.default_rng(3), Population(SPEC, ["a"]), []
    for pane, shift in enumerate([0.0] * WARM_UP + list(shifts) + [0.0]):
        for row in range(ROWS):
            value = float(dice.normal() + shift)
            findings = population.add(a_prediction(f"{pane}-{row}", value), pane * PANE + row)
            found += [(pane - WARM_UP, finding) for finding in findings]
            if restart and row % 97 == 0:
                state = json.loads(json.dumps(population.to_state()))
                population = Population(SPEC, ["a"])
                population.load(state)
    return found


def test_a_change_that_lasts_is_told_once_with_its_panes() -> None:
    [(pane, finding)] = run([0, 0, 2, 2, 2, 2, 2, 2])
    assert pane == 5
    assert (finding.kind, finding.subject) == ("input", "a")
    assert finding.window_us == ((WARM_UP + 2) * PANE, (WARM_UP + 5) * PANE)


def test_one_odd_pane_is_weather() -> None:
    assert run([0, 2, 0, 2, 2, 0, 0, 2, 0]) == []


def test_what_went_back_may_be_told_again() -> None:
    assert [pane for pane, _ in run([2, 2, 2, 0, 2, 0, 0, 0, 2, 2, 2])] == [3, 11]


def test_restarts_change_nothing() -> None:
    shifts = [0, 2, 2, 2, 0, 0, 0, 2, 2, 2]
    assert run(shifts, restart=True) == run(shifts)


def answered(*stages: tuple[int, str, Sequence[float]], restart: bool = False) -> list[tuple[int, int]]:
    """Epoch and pane of the findings when releases (epoch, model) answer one after the other, some panes each."""
    dice, found, pane = np.random.default_rng(5), list[tuple[int, int]](), 0
    watch = Watch(MonitorSpec(drift=SPEC), ["a"])
    for epoch, model, shifts in stages:
        for shift in shifts:
            for row in range(ROWS):
                value, at_us = float(dice.normal() + shift), pane * PANE + row
                body = a_prediction(f"{pane}-{row}", value).model_copy(update={"epoch": epoch, "model": model * 64})
                found += [(epoch, pane) for _ in watch.on_prediction(body, at_us)]
            if restart:
                state = json.loads(json.dumps(watch.to_state()))
                watch = Watch(MonitorSpec(drift=SPEC), ["a"])
                watch.load(state)
            pane += 1
    return found


@pytest.mark.parametrize("restart", [False, True])
def test_a_reference_goes_and_comes_back_with_its_model(*, restart: bool) -> None:
    """What a model saw first is what it is compared with after a rollback; the one between has its own."""
    first, second, back = (1, "a", [0.0] * 4), (2, "b", [2.0] * 8), (3, "a", [2.0] * 5)
    assert answered(first, second, back, restart=restart) == [(3, 15)]
    assert answered(first, second, (3, "c", [2.0] * 8), restart=restart) == []


def test_a_release_of_the_same_model_takes_nothing_back() -> None:
    """A shadow more, a challenger more: a drift that goes on is told on time, and once."""
    assert answered((1, "a", [0, 0, 2, 2]), (2, "a", [2, 2, 2, 2])) == [(2, 5)]


def test_who_stands_in_for_the_champion_moves_no_reference() -> None:
    watch = Watch(MonitorSpec(drift=SPEC), ["a"])
    one = a_prediction("k", 0.0)
    watch.on_prediction(one, 0)
    for changes in ({"arm": "challenger"}, {"fallback": "error"}):
        watch.on_prediction(one.model_copy(update={"epoch": 2, "model": "b" * 64, **changes}), 1)
    assert watch.to_state()["population"]["model"] == "a" * 64
    assert watch.to_state()["answering"] == 1


def test_references_are_bounded() -> None:
    population = Population(SPEC, ["a"])
    for number in range(KEPT + 3):
        population.anchor(f"m{number}", 0)
        for row in range(SPEC.population_reference_rows):
            population.add(a_prediction(f"{number}-{row}", row), 0)
    assert list(population.to_state()["kept"]) == [f"m{number}" for number in range(2, KEPT + 2)]
