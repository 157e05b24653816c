"""The fold over the ordered merge: rows in, outcomes, alarms and requests out. Same rows, same effects, bit for bit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np

from tidemill_contracts.events import (
    Cause,
    CauseKind,
    DriftDetected,
    Event,
    Outcome,
    Prediction,
    QualityBreached,
    TrainingRequested,
)
from tidemill_contracts.ids import derived_id
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_engine.learn import OnlineLogistic
from tidemill_monitoring.domain.findings import Finding
from tidemill_monitoring.domain.join import Join, Label
from tidemill_monitoring.domain.merge import Row
from tidemill_monitoring.domain.policy import Known, PolicyState, decide
from tidemill_monitoring.domain.rivals import Compared, Rivals, Said
from tidemill_monitoring.domain.segments import Segments
from tidemill_monitoring.domain.watch import Watch
from tidemill_monitoring.domain.writers import NEVER

Pair = tuple[Prediction, Label]


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision event with its derived id, the event that caused it, and the trace context that it goes on in."""

    event_id: UUID
    at_us: int
    event: Event
    cause: UUID | None = None
    trace: str | None = None


@dataclass(slots=True)
class Effects:
    """What a batch of released rows led to, in order."""

    outcomes: list[Outcome] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    compared: list[Compared] = field(default_factory=list)


@dataclass(slots=True)
class Monitor:
    """All state of one pipeline's monitoring. Only `fold` moves it; how rows are cut into batches changes nothing."""

    spec: PipelineSpec
    join: Join
    watch: Watch
    segments: Segments
    policy: PolicyState = field(default_factory=PolicyState)
    rivals: Rivals = field(default_factory=Rivals)
    learner: OnlineLogistic | None = None
    features: str = ""
    next_seq: int = 0
    positions: dict[str, dict[str, int]] = field(default_factory=dict)
    breached: dict[str, int] = field(default_factory=dict)
    """Source, field and rule of each breach to the end of its latest window."""

    def fold(self, rows: Sequence[Row]) -> Effects:
        """Take rows in merge order and return their effects."""
        effects = Effects()
        for row in rows:
            if isinstance(row.body, Said):
                self._said(row.body, effects)
                continue  # nothing else follows from what shadows say, nor from when they say it
            self.join.expire(row.at_us)
            pair: Pair | None = None
            if isinstance(row.body, Prediction):
                pair = self.join.on_prediction(row.body)
                for finding in self.watch.on_prediction(row.body, row.at_us):
                    self._alarm(finding, row.at_us, effects)
            elif isinstance(row.body, QualityBreached):
                self._breached(row.body, row.at_us, effects)
            else:
                pair = self.join.on_label(row.body)
                self._reached(row.body)
            if pair is not None:
                self._outcome(pair, row.at_us, effects)
            self._by_time(row.at_us, effects)
        return effects

    def _outcome(self, pair: Pair, at_us: int, effects: Effects) -> None:
        prediction, label = pair
        outcome = Outcome(
            pipeline=self.spec.name, seq=self.next_seq, prediction_id=prediction.prediction_id, key=prediction.key,
            predicted_us=prediction.at_us, labelled_us=at_us, label=label.value, score=prediction.score,
            reference=self._reference(prediction, label.value), shadows=prediction.shadows, epoch=prediction.epoch,
            version=prediction.version, vector=prediction.vector, features=prediction.features,
            segments={name: str(prediction.request.get(name)) for name in self.spec.monitor.segments},
            label_event=label.event_id, label_position=(label.partition, label.seq),
        )  # fmt: skip
        self.next_seq += 1
        effects.outcomes.append(outcome)
        if (said := self.join.take_said(prediction, label)) is not None:
            effects.compared += self.rivals.add(*said)
        self.segments.add(outcome)
        for finding in self.watch.on_outcome(outcome):
            self._alarm(finding, at_us, effects)
        self._by_volume(at_us, effects)

    def _said(self, said: Said, effects: Effects) -> None:
        answered = self.join.on_said(said)
        if answered is not None:
            effects.compared += self.rivals.add(said, answered)

    def _reference(self, prediction: Prediction, label: float) -> float:
        """The online reference learner's score before it learns this row; new features begin a new learner."""
        if self.learner is None or self.features != prediction.features:
            self.learner, self.features = OnlineLogistic(max(len(prediction.vector), 1)), prediction.features
        row = np.array([math.nan if value is None else value for value in prediction.vector], dtype=np.float32)
        return self.learner.update_one(row, label)

    def _alarm(self, finding: Finding, at_us: int, effects: Effects) -> None:
        event = DriftDetected(
            pipeline=self.spec.name, kind=finding.kind, subject=finding.subject, at_us=at_us, effect=finding.effect,
            p_value=finding.p_value, before=finding.before, after=finding.after, detector=finding.detector,
            outcomes=finding.outcomes, window_us=finding.window_us, positions=self._known_positions(),
            epoch=self.watch.epoch, policy=self.spec.policy_digest(),
        )  # fmt: skip
        what = finding.kind, finding.subject, finding.detector
        event_id = derived_id("drift", self.spec.name, *what, at_us, self.next_seq)
        effects.decisions.append(Decision(event_id, at_us, event))
        kind: CauseKind = "quality" if finding.detector == "quality" else "drift"
        wanted = finding.kind in self.spec.policy.drift_kinds or kind == "quality"
        if wanted and kind in self.spec.policy.retrain_on:
            drift = finding.kind if kind == "drift" else None
            self._ask(Cause(kind=kind, event_id=event_id, drift=drift, detail=finding.subject), at_us, effects)

    def _breached(self, breach: QualityBreached, at_us: int, effects: Effects) -> None:
        """A stream broke a bound: a cause when that begins, not while it lasts or spreads to other partitions."""
        what = f"{breach.source}.{breach.field} {breach.rule}" if breach.field else f"{breach.source} {breach.rule}"
        start_us, end_us = breach.window_us
        lasts = start_us <= self.breached.get(what, NEVER)
        self.breached[what] = max(self.breached.get(what, NEVER), end_us)
        if not lasts:
            self._ask(Cause(kind="quality", event_id=breach.quarantine_id, detail=what), at_us, effects)

    def _by_volume(self, at_us: int, effects: Effects) -> None:
        policy = self.spec.policy
        fresh = self.next_seq - self.policy.labels_at_request
        if "volume" in policy.retrain_on and fresh >= policy.volume:
            self.policy.labels_at_request = self.next_seq
            cause_id = derived_id("volume", self.spec.name, self.next_seq)
            self._ask(Cause(kind="volume", event_id=cause_id, detail=f"{fresh} new labels"), at_us, effects)

    def _by_time(self, at_us: int, effects: Effects) -> None:
        """A schedule is measured in event time from the first row, so the log itself records when it fires."""
        period = self.spec.policy.schedule
        if period is None or "schedule" not in self.spec.policy.retrain_on:
            return
        if self.policy.next_schedule_us is None:
            self.policy.next_schedule_us = at_us + period
        elif at_us >= self.policy.next_schedule_us:
            due = self.policy.next_schedule_us
            self.policy.next_schedule_us = due + period * ((at_us - due) // period + 1)
            self._ask(Cause(kind="schedule", event_id=derived_id("schedule", self.spec.name, due)), at_us, effects)

    def _ask(self, cause: Cause, at_us: int, effects: Effects) -> None:
        known = Known(at_us, self.next_seq, self._known_positions())
        event = decide(self.spec, self.policy, cause, known)
        event_id = event.request_id if isinstance(event, TrainingRequested) else event.cause_id
        effects.decisions.append(Decision(event_id, at_us, event, cause.event_id))

    def _reached(self, label: Label) -> None:
        mine = self.positions.setdefault(f"events.{self.spec.label.source}", {})
        partition = str(label.partition)
        mine[partition] = max(mine.get(partition, 0), label.seq + 1)

    def _known_positions(self) -> dict[str, dict[str, int]]:
        return {name: dict(sorted(places.items())) for name, places in self.positions.items()}
