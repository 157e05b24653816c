"""How shadows would have done: their scores against the answers, on the rows that both have and a label has come for.

A shadow scores after the answer has left, so its word may stand in the log before or behind the label. Which of the
two it is changes no figure: a row counts once, on the day it was labelled, when both are there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tidemill_contracts.events import GateCheck, Shadowed
from tidemill_contracts.pipeline import GateSpec
from tidemill_engine.stats import DAY_US, BlockMean, LossSums, Verdict, block_mean_of_sums, judge_mean

MOST = 32
"""Shadows of one record that are looked at, in the order of their names."""
Place = tuple[str, int, int]
"""Name of a shadow, version of the model that answered, and the day of the label in microseconds."""


@dataclass(frozen=True, slots=True)
class Said:
    """What shadows said to a prediction's inputs. `models` are digests by name; one without a score has failed."""

    key: str
    at_us: int
    prediction_id: str
    scores: dict[str, float]
    models: dict[str, str]


@dataclass(frozen=True, slots=True)
class Compared:
    """One labelled row: what a shadow said beside what was answered."""

    name: str
    label: float
    score: float
    answer: float


@dataclass(slots=True)
class RivalSums:
    """Exact sums of one shadow and of the answers on the same rows; `failed` rows are in neither."""

    model: str
    own: LossSums = field(default_factory=LossSums)
    answers: LossSums = field(default_factory=LossSums)
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Answered:
    """A labelled answer."""

    label: float
    score: float
    version: int
    at_us: int


@dataclass(slots=True)
class Rivals:
    """What has come to the sums since they were taken last; the store adds it to what it has."""

    changed: dict[Place, RivalSums] = field(default_factory=dict)

    def add(self, said: Said, answered: Answered) -> list[Compared]:
        """Count one labelled row for each of its shadows."""
        day = answered.at_us // DAY_US * DAY_US
        label = np.array([answered.label])
        answers, found = LossSums.of(label, np.array([answered.score])), list[Compared]()
        for name, model in sorted(said.models.items()):
            sums = self.changed.setdefault((name, answered.version, day), RivalSums(model))
            score = said.scores.get(name)
            if score is None:
                sums.failed += 1
                continue
            sums.own += LossSums.of(label, np.array([score]))
            sums.answers += answers
            found.append(Compared(name, answered.label, score, answered.score))
        return found

    def take_changed(self) -> dict[Place, RivalSums]:
        """The sums since the last call."""
        changed, self.changed = self.changed, {}
        return changed


def said_of(event: Shadowed) -> Said:
    """What a record says; a score that is no probability is none."""
    models = {name: event.models[name] for name in sorted(event.models)[:MOST]}
    scores = {name: score for name, score in event.scores.items() if name in models and 0 <= score <= 1}
    return Said(event.key, event.at_us, str(event.prediction_id), scores, models)


@dataclass(frozen=True, slots=True)
class Figures:
    """A shadow against the model of one version, over all days: the mean of its log-loss less that of the answers."""

    name: str
    model: str
    against: int
    own: LossSums
    answers: LossSums
    failed: int
    difference: BlockMean | None
    checks: tuple[GateCheck, ...]

    @property
    def verdict(self) -> Verdict:
        """What the gate would say of it; inconclusive without rows."""
        found = {check.verdict for check in self.checks}
        return "fail" if "fail" in found else "pass" if found == {"pass"} else "inconclusive"

    @property
    def reason(self) -> str:
        """Why it would not pass."""
        return next((check.reason for check in self.checks if check.verdict == self.verdict != "pass"), "")


def figures(days: Iterable[tuple[Place, RivalSums]], gate: GateSpec) -> list[Figures]:
    """Days' sums as one row for each shadow and version it stood beside; days are the blocks of the interval."""
    pairs: dict[tuple[str, int], list[RivalSums]] = {}
    for (name, against, _), sums in sorted(days, key=lambda item: item[0]):
        pairs.setdefault((name, against), []).append(sums)
    return [_figures(name, against, sums, gate) for (name, against), sums in pairs.items()]


def _figures(name: str, against: int, days: Sequence[RivalSums], gate: GateSpec) -> Figures:
    own, answers = LossSums(), LossSums()
    for day in days:
        own, answers = own + day.own, answers + day.answers
    scored = [day for day in days if day.own.n]
    differences = [day.own.less_log_loss(day.answers) for day in scored]
    mean = block_mean_of_sums(differences, [day.own.n for day in scored]) if scored else None
    checks = () if mean is None else judge_mean(mean, gate)
    return Figures(name, days[-1].model, against, own, answers, sum(day.failed for day in days), mean, checks)
