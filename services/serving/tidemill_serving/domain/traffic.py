"""What a pipeline's answers came to since the process began, by who gave them: for status and metrics."""

from collections import Counter
from dataclasses import dataclass, field

from tidemill_contracts.events import Fallback
from tidemill_serving.domain.answers import ArmName


@dataclass(slots=True)
class Traffic:
    """Counts: `answers` by the side that gave them and its leading version, `fallbacks` by whose key it was and why.

    `shadows` are by name and outcome: `scored`, `dropped`, or why there was no score. `captured` are records that
    hold the request fields of the declared sample, `uncaptured` those that left them out.
    """

    answers: dict[tuple[ArmName, int], int] = field(default_factory=dict)
    fallbacks: Counter[tuple[ArmName, Fallback]] = field(default_factory=Counter)
    shadows: Counter[tuple[str, str]] = field(default_factory=Counter)

    captured: int = 0
    uncaptured: int = 0

    def count(self, arm: ArmName, version: int, answers: int) -> None:
        """So many more answers of a side."""
        place = arm, version
        self.answers[place] = self.answers.get(place, 0) + answers
