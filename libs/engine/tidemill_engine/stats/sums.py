"""Sums of losses that can be merged in any order and grouping with the same bits."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from tidemill_engine.arrays import Float64s
from tidemill_engine.stats.metrics import row_log_loss

QUANTUM = 2.0**-40
"""Each row's loss is rounded to a multiple of this and then added as an integer, which is exact and commutes."""


@dataclass(frozen=True, slots=True)
class LossSums:
    """Exact sums over n rows: positives; scores, log-losses and squared errors in units of `QUANTUM`."""

    n: int = 0
    positives: int = 0
    score: int = 0
    log_loss: int = 0
    squared_error: int = 0

    @classmethod
    def of(cls, labels: Float64s, scores: Float64s) -> Self:
        """Sums of labels [N] of 0 and 1 and scores [N] in [0, 1]; raises ValueError for others."""
        losses = row_log_loss(labels, scores)
        return cls(
            len(losses), int(np.count_nonzero(labels)), _exact(scores), _exact(losses), _exact((labels - scores) ** 2)
        )

    def __add__(self, other: "LossSums") -> "LossSums":
        return LossSums(
            self.n + other.n,
            self.positives + other.positives,
            self.score + other.score,
            self.log_loss + other.log_loss,
            self.squared_error + other.squared_error,
        )

    @property
    def mean_log_loss(self) -> float | None:
        """Mean log-loss; None without rows."""
        return self._mean(self.log_loss)

    @property
    def brier(self) -> float | None:
        """Mean squared error; None without rows."""
        return self._mean(self.squared_error)

    @property
    def bias(self) -> float | None:
        """Mean of label minus score; None without rows."""
        return self._mean(round(self.positives / QUANTUM) - self.score)

    def less_log_loss(self, other: "LossSums") -> float:
        """The sum of log-losses here less the other's, exact before it is rounded once."""
        return math.ldexp(self.log_loss - other.log_loss, -40)

    def to_dict(self) -> dict[str, int]:
        """The sums as integers, for JSON or a table; `from_dict` reads them back."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_dict(cls, sums: Mapping[str, int]) -> Self:
        """Sums that `to_dict` gave."""
        return cls(**sums)

    def _mean(self, total: int) -> float | None:
        return math.ldexp(total / self.n, -40) if self.n else None


def _exact(values: Float64s) -> int:
    return sum(np.rint(np.asarray(values, dtype=np.float64) / QUANTUM).astype(np.int64).tolist())
