"""Scores of a release: members mixed by weight, shadows beside them; what is not a probability never counts. Pure."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Model(Protocol):
    """A member's or shadow's opened model."""

    def scores(self, rows: NDArray[np.float32]) -> Floats:
        """Scores [N] of rows [N, F]; raises ValueError when the model fails."""


class Weighted(NamedTuple):
    """A model in a release."""

    name: str
    digest: str
    version: int
    weight: float
    model: Model


class Scores(NamedTuple):
    """Of N rows: the mixed score (NaN: no member had an answer), and each member's and shadow's own."""

    mixed: Floats
    members: dict[str, Floats]
    shadows: dict[str, Floats]


def score(members: Sequence[Weighted], shadows: Sequence[Weighted], matrix: Floats | NDArray[np.float32]) -> Scores:
    """Run every model once on the matrix [N, F]; a failing one counts as NaN for all rows."""
    rows = np.ascontiguousarray(matrix, dtype=np.float32)
    own = {member.digest: _run(member.model, rows) for member in members}
    beside = {shadow.name: _run(shadow.model, rows) for shadow in shadows}
    if len(members) == 1:
        return Scores(own[members[0].digest], own, beside)
    weights = np.array([member.weight for member in members])[:, None]
    table = np.stack([own[member.digest] for member in members])
    known = ~np.isnan(table)
    total = (weights * known).sum(axis=0)
    weighted = (weights * np.where(known, table, 0.0)).sum(axis=0)
    mixed = np.divide(weighted, total, out=np.full(len(rows), np.nan), where=total > 0)
    return Scores(np.clip(mixed, 0.0, 1.0), own, beside)


def _run(model: Model, rows: NDArray[np.float32]) -> Floats:
    try:
        scores = model.scores(rows)
    except ValueError:
        return np.full(len(rows), np.nan)
    with np.errstate(invalid="ignore"):
        return np.where((scores >= 0.0) & (scores <= 1.0), scores, np.nan)


def finite(scores: dict[str, Floats], row: int) -> dict[str, float]:
    """The scores of one row by name, without those that are none."""
    return {name: float(values[row]) for name, values in scores.items() if values[row] == values[row]}
