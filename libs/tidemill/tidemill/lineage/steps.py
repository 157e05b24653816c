"""The steps of a lineage: what stands there, which one it is, and how deep."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Step:
    """One thing on the way: `what` it is, `which` in words, its `detail` for programs; `depth` 0 is the prediction."""

    depth: int
    what: str
    which: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lineage:
    """A prediction's way, each step under the one that it explains."""

    prediction_id: str
    pipeline: str
    steps: tuple[Step, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "steps": [asdict(step) for step in self.steps]}
