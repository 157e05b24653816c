"""What drift is measured against: histograms of what a model learned from, and of how it scored rows it never saw."""

import itertools
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tidemill_contracts.base import Contract, Digest

REFERENCE_BYTES = 16 * 1024 * 1024
"""An artifact above this is none: 2,000 features with the most bins take a quarter of it."""
MOST_EDGES, MOST_COLUMNS = 50, 4096
Count = Annotated[int, Field(ge=0, le=2**53)]


class ReferenceColumn(Contract):
    """Bins of one feature, or of `score`, and rows in each. The last bin holds the nulls.

    Numeric: bin i holds edges[i - 1] < x <= edges[i], open at both ends. Discrete: bin i holds x == edges[i], and the
    one before the nulls every other value.
    """

    name: str = Field(min_length=1, max_length=256)
    edges: list[float] = Field(max_length=MOST_EDGES)
    discrete: bool
    counts: list[Count] = Field(min_length=2, max_length=MOST_EDGES + 2)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if any(low >= high for low, high in itertools.pairwise(self.edges)):
            raise ValueError("edges: they rise")
        if len(self.counts) != len(self.edges) + 2:
            raise ValueError("counts: two more than edges")
        return self


class DriftReference(Contract):
    """An artifact beside a model. Features are counted over the rows it was fitted to, the score over its gate's rows.

    `score_rows` says which: where a gate had no rows, the score is that of the rows it was fitted to.
    """

    format: Literal["tidemill.drift-reference.v1"]
    model: Digest
    rows: Count = Field(description="rows that the model was fitted to")
    score_rows: Literal["gate", "train"]
    columns: list[ReferenceColumn] = Field(min_length=1, max_length=MOST_COLUMNS)
