"""What drift of a model will be measured against: its rows in histograms, which say nothing of any single one."""

import json
from collections.abc import Callable, Sequence

import numpy as np

from tidemill_contracts.events import DriftReference, ReferenceColumn
from tidemill_engine.drift import HistogramReference
from tidemill_trainer.domain.rows import Float32s, Floats
from tidemill_trainer.domain.training import Trained

SCORE = "score"


def reference_of(
    names: Sequence[str], trained: Trained, model: str, scores: Callable[[Float32s], Floats]
) -> DriftReference:
    """Histograms of the inputs [N, F] that the model with this digest was fitted to, and of its `scores` on the gate's.

    Scores of rows that a model was fitted to are surer than it will be; they serve where the gate has no rows.
    """
    learned, has_gate = trained.learned, len(trained.gate) > 0
    unseen = trained.gate if has_gate else learned
    answers = scores(unseen.features).astype(np.float32).reshape(-1, 1)
    found = [HistogramReference.fit(learned.features, names), HistogramReference.fit(answers, [SCORE])]
    columns = [
        ReferenceColumn(name=bins.name, edges=list(bins.edges), discrete=bins.discrete, counts=counts.tolist())
        for part in found
        for bins, counts in zip(part.columns, part.counts, strict=True)
    ]
    return DriftReference(
        format="tidemill.drift-reference.v1", model=model, rows=len(learned),
        score_rows="gate" if has_gate else "train", columns=columns,
    )  # fmt: skip


def reference_bytes(reference: DriftReference) -> bytes:
    """The reference as it is stored and named by digest."""
    return json.dumps(reference.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()
