"""Which rows a training leaves out: those that rest on windows of a stream that broke a declared bound."""

import numpy as np

from tidemill_engine.quarantine import Quarantine
from tidemill_trainer.domain.rows import Rows


def without(rows: Rows, found: Quarantine, labels: str, tainted: frozenset[str]) -> Rows:
    """The rows whose label event (of the source `labels`) is not quarantined and whose prediction is not tainted."""
    origins = rows.origins
    if origins is None or not found:
        return rows
    places = zip(origins.predictions.tolist(), origins.partitions.tolist(), origins.seqs.tolist(), strict=True)
    keep = [name not in tainted and not found.holds(labels, partition, seq) for name, partition, seq in places]
    return rows.take(np.flatnonzero(keep))
