"""Histograms of features: how reference rows are cut into bins, and the counts that panes add up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from tidemill_engine.arrays import Float32s, Float64s, Int64s

BINS = 10
CATEGORIES = 50
"""A feature with at most `BINS` distinct reference values, or declared categorical, has one bin for each value (only
the most frequent `CATEGORIES`), and one for all others."""


@dataclass(frozen=True, slots=True)
class ColumnBins:
    """Bins of one feature. The last bin holds the nulls.

    Numeric: `edges` ascending, bin i holds edges[i - 1] < x <= edges[i], open at both ends. Discrete: bin i holds
    x == edges[i], and the one before the nulls every other value.
    """

    name: str
    edges: tuple[float, ...]
    discrete: bool

    @property
    def size(self) -> int:
        """How many bins there are."""
        return len(self.edges) + 2

    def counts(self, values: Float64s) -> Int64s:
        """Rows by bin [size] of values [N]."""
        edges = np.array(self.edges, dtype=np.float64)
        places = np.searchsorted(edges, values, side="left")
        if self.discrete:
            exact = np.isin(values, edges)
            places = np.where(exact, places, len(edges))
        places = np.where(np.isnan(values), self.size - 1, places)
        return np.bincount(places, minlength=self.size).astype(np.int64)

    def label(self, number: int) -> str:
        """A bin in words."""
        if number == self.size - 1:
            return "null"
        if self.discrete:
            return f"{self.edges[number]:g}" if number < len(self.edges) else "other"
        low = f"{self.edges[number - 1]:g} < " if number else ""
        high = f" <= {self.edges[number]:g}" if number < len(self.edges) else ""
        return f"{low}x{high}"

    @classmethod
    def of(cls, name: str, values: Float64s, *, categorical: bool = False) -> Self:
        """Bins for reference values [N]: deciles, or one for each value where there are few."""
        known = values[np.isfinite(values)]  # an infinite one lies beyond every edge, or is another value
        distinct, counts = np.unique(known, return_counts=True)
        if categorical or len(distinct) <= BINS:
            frequent = np.sort(distinct[np.argsort(-counts, kind="stable")[:CATEGORIES]])
            return cls(name, tuple(frequent.tolist()), discrete=True)
        inner = np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1], method="inverted_cdf")
        return cls(name, tuple(np.unique(inner).tolist()), discrete=False)


@dataclass(frozen=True, slots=True, eq=False)
class HistogramReference:
    """Bins and counts of the rows that later panes are compared with."""

    columns: tuple[ColumnBins, ...]
    counts: tuple[Int64s, ...]
    rows: int

    @classmethod
    def fit(cls, features: Float32s, names: Sequence[str], *, categorical: frozenset[str] = frozenset()) -> Self:
        """Cut reference rows [N, F]; raises ValueError without rows or with another number of names."""
        if len(features) == 0 or features.shape[1] != len(names):
            raise ValueError("a reference needs rows, and a name for each column")
        table = features.astype(np.float64)
        columns = tuple(
            ColumnBins.of(name, table[:, j], categorical=name in categorical) for j, name in enumerate(names)
        )
        return cls(columns, tuple(bins.counts(table[:, j]) for j, bins in enumerate(columns)), len(features))

    def count(self, features: Float32s) -> tuple[Int64s, ...]:
        """Counts of a pane's rows [N, F] by feature; panes are merged by adding them."""
        if features.ndim != 2 or features.shape[1] != len(self.columns):  # noqa: PLR2004 - a table
            raise ValueError(f"rows must be [N, {len(self.columns)}]")
        table = features.astype(np.float64)
        return tuple(bins.counts(table[:, j]) for j, bins in enumerate(self.columns))

    def empty(self) -> tuple[Int64s, ...]:
        """Counts of no rows."""
        return tuple(np.zeros(bins.size, dtype=np.int64) for bins in self.columns)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back."""
        columns = [
            {"name": bins.name, "edges": list(bins.edges), "discrete": bins.discrete, "counts": counts.tolist()}
            for bins, counts in zip(self.columns, self.counts, strict=True)
        ]
        return {"rows": self.rows, "columns": columns}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """The reference that `to_dict` described."""
        columns = tuple(
            ColumnBins(entry["name"], tuple(entry["edges"]), discrete=entry["discrete"]) for entry in state["columns"]
        )
        counts = tuple(np.array(entry["counts"], dtype=np.int64) for entry in state["columns"])
        return cls(columns, counts, state["rows"])


def merge(first: Sequence[Int64s], second: Sequence[Int64s]) -> tuple[Int64s, ...]:
    """Counts of two panes together."""
    return tuple(a + b for a, b in zip(first, second, strict=True))
