"""Drift of the inputs: told once when it lasts, with the panes it lasted for, whatever restarts there were."""

import json
from collections.abc import Sequence

import numpy as np

from tidemill_contracts.events import Prediction
from tidemill_contracts.ids import prediction_id
from tidemill_contracts.pipeline import DriftSpec
from tidemill_monitoring.domain.watch import Finding, Population

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
