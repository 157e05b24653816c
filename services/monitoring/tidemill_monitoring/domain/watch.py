"""All detectors of one pipeline.

Inputs and scores are watched by population tests on panes of time, the concept and the calibration on labelled rows.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tidemill_contracts.events import Outcome, Prediction
from tidemill_contracts.pipeline import MonitorSpec
from tidemill_engine.drift import Alarm, PairedDetector, PairedSettings
from tidemill_engine.stats import row_log_loss
from tidemill_monitoring.domain.anchors import Anchor
from tidemill_monitoring.domain.findings import Finding, Kind
from tidemill_monitoring.domain.population import Population


class Watch:
    """Feeds the detectors and re-anchors them when the release changes."""

    def __init__(self, spec: MonitorSpec, names: Sequence[str]) -> None:
        self.epoch = 0
        self._answering = 0
        self._spec = spec
        self.population = Population(spec.drift, names)
        self._anchors: dict[int, Anchor] = {}
        self._concept = PairedDetector(PairedSettings.concept(spec.drift))
        self._calibration = PairedDetector(PairedSettings.calibration(spec.drift))
        self._quality_open: list[float] = []

    def asks(self, prediction: Prediction) -> bool:
        """Whether what this prediction's release is measured against must be known before it."""
        is_own = prediction.arm == "champion" and prediction.fallback is None  # the model is the release's own
        return prediction.epoch > self._answering and is_own and prediction.epoch not in self._anchors

    def learn(self, anchors: Mapping[int, Anchor]) -> None:
        """What releases are measured against, by epoch: handed in before the first row of each."""
        self._anchors.update(anchors)

    def on_prediction(self, prediction: Prediction, at_us: int) -> list[Finding]:
        """Inputs and score of one answer."""
        if prediction.epoch > self._answering and prediction.arm == "champion" and prediction.fallback is None:
            self._answering = prediction.epoch  # the model is the release's own
            anchor = self._anchors.get(prediction.epoch, Anchor())
            self._anchors = {epoch: each for epoch, each in self._anchors.items() if epoch > prediction.epoch}
            self.population.anchor(prediction.model, at_us, anchor)
        if len(prediction.vector) + 1 != len(self.population.names):
            return []  # a vector of other features, logged before the pipeline changed
        return self.population.add(prediction, at_us)

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
            "epoch": self.epoch, "answering": self._answering, "population": self.population.to_state(),
            "concept": self._concept.to_state(), "calibration": self._calibration.to_state(),
            "quality": self._quality_open,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Continue from what `to_state` gave."""
        self.epoch, self._answering = state["epoch"], state["answering"]
        self.population.load(state["population"])
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
