"""What a detector found, before it becomes an event."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["input", "prediction", "concept", "calibration"]


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
