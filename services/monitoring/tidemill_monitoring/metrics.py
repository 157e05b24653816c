"""What an operator watches about the models, counted by this process: a restart begins anew."""

from collections import deque
from collections.abc import Sequence
from functools import partial

import numpy as np
from prometheus_client import Counter, Gauge

from tidemill_contracts.events import DriftDetected, Event, Outcome, TrainingCoalesced, TrainingRequested
from tidemill_engine.stats import log_loss
from tidemill_monitoring.domain.rivals import Compared

NEWEST = 1000
"""Outcomes that the rolling loss is taken over."""
OUTCOMES = Counter("tidemill_monitoring_outcomes", "Labels joined to their predictions.", ["pipeline"])
DRIFTS = Counter("tidemill_monitoring_drifts", "Alarms by what has drifted.", ["pipeline", "kind"])
CAUSES = Counter("tidemill_monitoring_training_causes", "Causes for a training by what became of them.",
                 ["pipeline", "outcome"])  # fmt: skip
LOSS = Gauge("tidemill_monitoring_log_loss", "Log-loss of the newest 1,000 outcomes.", ["pipeline", "model"])
COMPARED = Counter(
    "tidemill_monitoring_shadow_rows", "Labelled rows that a shadow has a score for.", ["pipeline", "shadow"]
)
DIFFERENCE = Gauge("tidemill_monitoring_shadow_difference", "Mean log-loss of a shadow less that of the answers on "
                   "the newest 1,000 rows of both.", ["pipeline", "shadow"])  # fmt: skip
WATERMARK = Gauge("tidemill_monitoring_watermark_seconds", "Event time up to which everything is folded, "
                  "seconds since 1970.", ["pipeline"])  # fmt: skip


class Rolling:
    """The loss of the newest outcomes of a pipeline: of its answers, of its shadows and of the reference learner."""

    def __init__(self, pipeline: str) -> None:
        self._pipeline = pipeline
        self._newest: dict[str, deque[tuple[float, float]]] = {}
        self._beside: dict[str, deque[tuple[float, float, float]]] = {}

    def note(self, outcomes: Sequence[Outcome]) -> None:
        """Outcomes that were published."""
        OUTCOMES.labels(self._pipeline).inc(len(outcomes))
        for outcome in outcomes:
            scores = {"champion": outcome.score, **outcome.shadows}
            if outcome.reference is not None:
                scores["reference"] = outcome.reference
            for model, score in scores.items():
                self._of(model).append((outcome.label, score))

    def compared(self, rows: Sequence[Compared]) -> None:
        """Labelled rows that shadows have scores for."""
        for row in rows:
            COMPARED.labels(self._pipeline, row.name).inc()
            self._of(row.name).append((row.label, row.score))
            newest = self._beside.get(row.name)
            if newest is None:
                newest = self._beside[row.name] = deque(maxlen=NEWEST)
                DIFFERENCE.labels(self._pipeline, row.name).set_function(partial(_difference, newest))
            newest.append((row.label, row.score, row.answer))

    def _of(self, model: str) -> deque[tuple[float, float]]:
        """The newest (label, score) of a model; their loss is computed when somebody asks for it."""
        newest = self._newest.get(model)
        if newest is None:
            newest = self._newest[model] = deque(maxlen=NEWEST)
            LOSS.labels(self._pipeline, model).set_function(partial(_loss, newest))
        return newest


def decided(pipeline: str, event: Event) -> None:
    """A decision that was committed."""
    if isinstance(event, DriftDetected):
        DRIFTS.labels(pipeline, event.kind).inc()
    elif isinstance(event, TrainingRequested):
        CAUSES.labels(pipeline, "requested").inc()
    elif isinstance(event, TrainingCoalesced):
        CAUSES.labels(pipeline, event.outcome).inc()


def _loss(newest: deque[tuple[float, float]]) -> float:
    labels, scores = np.array(list(newest), np.float64).T  # a list at once: exporters ask from a thread of their own
    return log_loss(labels, scores)


def _difference(newest: deque[tuple[float, float, float]]) -> float:
    labels, scores, answers = np.array(list(newest), np.float64).T
    return log_loss(labels, scores) - log_loss(labels, answers)
