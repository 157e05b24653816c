"""What a release says its drift is measured against, read from bytes that anybody may have stored."""

from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from tidemill_contracts.events import DriftReference
from tidemill_engine.drift import ColumnBins, HistogramReference

UNNAMED = "its release names no reference"


@dataclass(frozen=True, slots=True, eq=False)
class Anchor:
    """The reference of a release with its digest; without one, `why`."""

    digest: str | None = None
    reference: HistogramReference | None = None
    why: str = UNNAMED


def read_reference(digest: str, raw: bytes) -> Anchor:
    """The anchor that an artifact is. Releases of before there were references name a manifest, which is none."""
    try:
        found = DriftReference.model_validate_json(raw)
    except ValidationError:
        return Anchor(why="what its release names is no reference")
    columns = tuple(ColumnBins(each.name, tuple(each.edges), discrete=each.discrete) for each in found.columns)
    counts = tuple(np.array(each.counts, dtype=np.int64) for each in found.columns)
    return Anchor(digest, HistogramReference(columns, counts, found.rows), "")
