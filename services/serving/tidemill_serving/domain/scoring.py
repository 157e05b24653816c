"""Scores of models: members mixed by weight, shadows beside them; what is not a probability never counts. Pure."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tidemill_contracts.events import Fallback
from tidemill_engine.rollout import mix

Floats = NDArray[np.float64]


class LateError(ValueError):
    """The model did not answer in its time."""


class Model(Protocol):
    """A member's or shadow's opened model."""

    def scores(self, rows: NDArray[np.float32]) -> Floats:
        """Scores [N] of rows [N, F]; raises LateError when it took too long, another ValueError when it fails."""


class Weighted(NamedTuple):
    """A model in a release."""

    name: str
    digest: str
    version: int
    weight: float
    model: Model


class Scores(NamedTuple):
    """Of N rows: the mixed score (NaN: no member had an answer), and each member's and shadow's own.

    `failed` says of members, by digest, why all of their rows are NaN.
    """

    mixed: Floats
    members: dict[str, Floats]
    shadows: dict[str, Floats]
    failed: dict[str, Fallback]

    def why(self, row: int) -> Fallback | None:
        """Why a row has no score of some member; None where it has all."""
        for digest, values in self.members.items():
            if values[row] != values[row]:
                return self.failed.get(digest, "invalid")
        return None


def score(
    members: Sequence[Weighted], shadows: Iterable[Weighted], matrix: Floats | NDArray[np.float32]
) -> Scores:  # fmt: skip
    """Run every model once on the matrix [N, F]; a failing one counts as NaN for all rows."""
    rows = np.ascontiguousarray(matrix, dtype=np.float32)
    failed: dict[str, Fallback] = {}
    own = {member.digest: run(member, rows, failed) for member in members}
    beside = {shadow.name: run(shadow, rows, {}) for shadow in shadows}
    if len(members) == 1:
        return Scores(own[members[0].digest], own, beside, failed)
    mixed = mix([own[member.digest] for member in members], [member.weight for member in members])
    return Scores(mixed, own, beside, failed)


def run(weighted: Weighted, rows: NDArray[np.float32], failed: dict[str, Fallback]) -> Floats:
    """Scores [N] of one model, NaN for what is not a probability; why it failed as a whole goes to `failed`."""
    try:
        scores = weighted.model.scores(rows)
    except LateError:
        failed[weighted.digest] = "late"
        return np.full(len(rows), np.nan)
    except ValueError:
        failed[weighted.digest] = "error"
        return np.full(len(rows), np.nan)
    with np.errstate(invalid="ignore"):
        return np.where((scores >= 0.0) & (scores <= 1.0), scores, np.nan)


def finite(scores: dict[str, Floats], row: int) -> dict[str, float]:
    """The scores of one row by name, without those that are none."""
    return {name: float(values[row]) for name, values in scores.items() if values[row] == values[row]}
