"""What a pipeline's answers came to since the process began, by who gave them: for status and metrics."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from tidemill_contracts.events import Fallback
from tidemill_serving.domain.answers import ArmName


class Place(NamedTuple):
    """The side that answered, and its leading version."""

    arm: ArmName
    version: int


@dataclass(slots=True)
class Traffic:
    """Counts. `shadows` are by name and outcome: `scored`, `dropped`, or why there was no score."""

    answers: Counter[Place] = field(default_factory=Counter)
    fallbacks: Counter[tuple[ArmName, Fallback]] = field(default_factory=Counter)
    shadows: Counter[tuple[str, str]] = field(default_factory=Counter)
