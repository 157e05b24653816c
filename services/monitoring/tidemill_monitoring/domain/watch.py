"""All detectors of one pipeline.

Inputs and scores are watched by population tests on panes of time, the concept and the calibration on labelled rows.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tidemill_contracts.events import Outcome, Prediction
from tidemill_contracts.pipeline import DriftSpec, MonitorSpec
from tidemill_engine.drift import Alarm, HistogramReference, PairedDetector, PairedSettings, merge, population_test
from tidemill_engine.stats import row_log_loss

Kind = Literal["input", "prediction", "concept", "calibration"]
SCORE = "score"
KEPT = 4
"""References of models that have led before and may come back."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An alarm with its evidence, before it becomes an event."""

    kind: Kind
    subject: str
    detector: str
    effect: float
    before: float | None = None
    after: float | None = None
    p_value: float | None = None
    outcomes: tuple[int, int] | None = None
    window_us: tuple[int, int] | None = None


class Population:
    """Inputs and score of what one model answers: its first rows are the reference of every later pane of time.

    A release has the reference of the model that leads it, and with the model the reference comes back: after a
    rollback panes are compared with what that model saw first, not with what it meets on its return.

    Rows of one pane depend on each other (a day has one weather), which no test of single rows accounts for. So a drift
    has to last `population_panes` panes; it is told once, and again only after as many panes without it.
    """

    def __init__(self, spec: DriftSpec, names: Sequence[str]) -> None:
        self.names = [*names, SCORE]
        self._spec = spec
        self._rows: list[list[float]] = []
        self._reference: HistogramReference | None = None
        self._counts: Any = None
        self._pane: int | None = None
        self._model: str | None = None
        self._kept: dict[str, dict[str, Any]] = {}
        self._rest()

    def _rest(self) -> None:
        self._open, self._against = [False] * len(self.names), [0] * len(self.names)

    def anchor(self, model: str, at_us: int) -> None:
        """This model leads from here on: it goes on where it leads already, has its reference back, or makes one."""
        if model == self._model:
            return
        if self._model is not None and self._reference is not None:
            self._kept.pop(self._model, None)
            self._kept[self._model] = self._reference.to_dict()
            while len(self._kept) > KEPT:
                del self._kept[next(iter(self._kept))]
        self._model, self._rows, self._reference, self._counts, self._pane = model, [], None, None, None
        self._rest()
        if (known := self._kept.get(model)) is not None:
            self._reference = HistogramReference.from_dict(known)
            self._counts, self._pane = self._reference.empty(), at_us // self._spec.population_pane

    def add(self, prediction: Prediction, at_us: int) -> list[Finding]:
        """Take one prediction; the findings of the pane it ends, if it ends one."""
        findings = self._turn(at_us) if self._reference is not None else []
        row = [math.nan if value is None else value for value in prediction.vector]
        self._rows.append([*row, prediction.score])
        if self._reference is None and len(self._rows) >= self._spec.population_reference_rows:
            self._reference = HistogramReference.fit(self._matrix(), self.names)
            self._counts, self._rows = self._reference.empty(), []
            self._pane = at_us // self._spec.population_pane
        return findings

    def to_state(self) -> dict[str, Any]:
        """Plain JSON values."""
        self._count()
        rows = self._matrix() if self._rows else np.zeros((0, len(self.names)), dtype=np.float32)
        return {
            "rows": base64.b64encode(rows.tobytes()).decode(),
            "reference": None if self._reference is None else self._reference.to_dict(),
            "counts": None if self._counts is None else [counts.tolist() for counts in self._counts],
            "pane": self._pane, "open": self._open, "against": self._against,
            "model": self._model, "kept": self._kept,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Continue from what `to_state` gave."""
        rows = np.frombuffer(base64.b64decode(state["rows"]), dtype=np.float32).reshape(-1, len(self.names))
        self._rows = rows.astype(np.float64).tolist()
        self._reference = None if state["reference"] is None else HistogramReference.from_dict(state["reference"])
        self._counts = (
            None if state["counts"] is None else tuple(np.array(counts, dtype=np.int64) for counts in state["counts"])
        )
        self._pane, self._open, self._against = state["pane"], list(state["open"]), list(state["against"])
        self._model, self._kept = state.get("model"), dict(state.get("kept", {}))  # not in states of before

    def _matrix(self) -> Any:  # noqa: ANN401 - float32 [N, F + 1]
        return np.array(self._rows, dtype=np.float32)

    def _count(self) -> None:
        """Counts are whole numbers, so when they are taken changes nothing."""
        if self._reference is not None and self._rows:
            self._counts = merge(self._counts, self._reference.count(self._matrix()))
            self._rows = []

    def _turn(self, at_us: int) -> list[Finding]:
        pane = at_us // self._spec.population_pane
        if pane == self._pane or self._reference is None:
            return []
        self._count()
        end = ((self._pane or 0) + 1) * self._spec.population_pane
        results = population_test(
            self._reference, self._counts, effect=self._spec.population_effect, alpha=self._spec.population_alpha
        )
        self._counts, self._pane = self._reference.empty(), pane
        window_us = (end - self._spec.population_panes * self._spec.population_pane, end)
        return [
            Finding(
                "prediction" if result.name == SCORE else "input", result.name, "population", result.effect,
                result.before, result.after, result.adjusted_p, window_us=window_us,
            )
            for column, result in enumerate(results)
            if self._opens(column, drifted=result.drifted)
        ]  # fmt: skip

    def _opens(self, column: int, *, drifted: bool) -> bool:
        """Whether the drift of a column begins with this pane."""
        self._against[column] = self._against[column] + 1 if drifted != self._open[column] else 0
        if self._against[column] < self._spec.population_panes:
            return False
        self._against[column], self._open[column] = 0, drifted
        return drifted


class Watch:
    """Feeds the detectors and re-anchors them when the release changes."""

    def __init__(self, spec: MonitorSpec, names: Sequence[str]) -> None:
        self.epoch = 0
        self._answering = 0
        self._spec = spec
        self._population = Population(spec.drift, names)
        self._concept = PairedDetector(PairedSettings.concept(spec.drift))
        self._calibration = PairedDetector(PairedSettings.calibration(spec.drift))
        self._quality_open: list[float] = []

    def on_prediction(self, prediction: Prediction, at_us: int) -> list[Finding]:
        """Inputs and score of one answer."""
        if prediction.epoch > self._answering and prediction.arm == "champion" and prediction.fallback is None:
            self._answering = prediction.epoch  # the model is the release's own
            self._population.anchor(prediction.model, at_us)
        if len(prediction.vector) + 1 != len(self._population.names):
            return []  # a vector of other features, logged before the pipeline changed
        return self._population.add(prediction, at_us)

    def on_outcome(self, outcome: Outcome) -> list[Finding]:
        """One labelled row. Rows of an earlier release than the newest labelled one say nothing about the champion."""
        if outcome.epoch > self.epoch:
            self.epoch = outcome.epoch
            self._concept.reset()
            self._calibration.reset()
        if outcome.epoch < self.epoch:
            return []
        findings = [
            _finding("calibration", "label_minus_score", a)
            for a in self._calibration.update(outcome.label - outcome.score, outcome.seq)
        ]
        loss = _loss(outcome.label, outcome.score)
        if outcome.reference is not None and outcome.seq >= self._spec.drift.reference_rows:
            paired = loss - _loss(outcome.label, outcome.reference)
            findings += [_finding("concept", "paired_loss", a) for a in self._concept.update(paired, outcome.seq)]
        return findings + self._quality(loss, outcome.seq)

    def to_state(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "epoch": self.epoch, "answering": self._answering, "population": self._population.to_state(),
            "concept": self._concept.to_state(), "calibration": self._calibration.to_state(),
            "quality": self._quality_open,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Continue from what `to_state` gave."""
        self.epoch, self._answering = state["epoch"], state["answering"]
        self._population.load(state["population"])
        self._concept = PairedDetector.from_state(PairedSettings.concept(self._spec.drift), state["concept"])
        self._calibration = PairedDetector.from_state(
            PairedSettings.calibration(self._spec.drift), state["calibration"]
        )
        self._quality_open = list(state["quality"])

    def _quality(self, loss: float, seq: int) -> list[Finding]:
        """Mean log-loss of the newest rows above the declared bound, pane by pane."""
        bound = self._spec.quality_log_loss
        if bound is None:
            return []
        self._quality_open.append(loss)
        if len(self._quality_open) < self._spec.drift.pane_rows * self._spec.drift.bias_panes:
            return []
        mean = math.fsum(self._quality_open) / len(self._quality_open)
        first = seq + 1 - len(self._quality_open)
        self._quality_open = []
        return (
            [Finding("concept", "log_loss", "quality", mean - bound, bound, mean, outcomes=(first, seq + 1))]
            if mean > bound
            else []
        )


def _finding(kind: Kind, subject: str, alarm: Alarm) -> Finding:
    return Finding(kind, subject, alarm.detector, alarm.effect, alarm.before, alarm.after, outcomes=alarm.rows)


def _loss(label: float, score: float) -> float:
    return float(row_log_loss(np.array([label]), np.array([score]))[0])
