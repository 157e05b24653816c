"""Have inputs and score of what answers changed? Panes of time against what the leading model learned from."""

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tidemill_contracts.events import Prediction
from tidemill_contracts.pipeline import DriftSpec
from tidemill_engine.drift import HistogramReference, merge, population_test
from tidemill_monitoring.domain.anchors import Anchor
from tidemill_monitoring.domain.findings import Finding

SCORE = "score"
KEPT = 4
"""References of models that have led before and may come back; those that releases name come with them."""
_ANY = Anchor()


class Population:
    """Inputs and score of what one model answers, against the reference of every pane of time.

    A release names the reference, so that it comes back with a rollback. Where it names none, the first rows that its
    leading model answers are the reference, which is kept for that model's return: panes are then compared with what
    it saw first, not with what it meets when it comes back.

    Rows of one pane depend on each other (a day has one weather), which no test of single rows accounts for. So a drift
    has to last `population_panes` panes; it is told once, and again only after as many panes without it.
    """

    def __init__(self, spec: DriftSpec, names: Sequence[str]) -> None:
        self.names = [*names, SCORE]
        self._spec = spec
        self._rows: list[list[float]] = []
        self._reference: HistogramReference | None = None
        self._counts: Any = None
        self._pane: int | None = None
        self._model: str | None = None
        self.digest: str | None = None
        self.why = ""
        self._kept: dict[str, dict[str, Any]] = {}
        self._rest()

    def _rest(self) -> None:
        self._open, self._against = [False] * len(self.names), [0] * len(self.names)

    def anchor(self, model: str, at_us: int, anchor: Anchor = _ANY) -> None:
        """This model leads from here on: it goes on where it leads already, has its reference, or makes one."""
        reference, why = anchor.reference, anchor.why
        if reference is not None and [bins.name for bins in reference.columns] != self.names:
            reference, why = None, "its reference is of other features"
        digest = None if reference is None else anchor.digest
        if (model, digest) == (self._model, self.digest):
            return
        self._keep()
        self._model, self.digest, self.why = model, digest, why
        self._rows, self._counts, self._pane = [], None, None
        known = self._kept.get(model)
        if reference is None and known is not None:
            reference = HistogramReference.from_dict(known)
        self._reference = reference
        self._rest()
        if reference is not None:
            self._counts, self._pane = reference.empty(), at_us // self._spec.population_pane

    def _keep(self) -> None:
        """What was learned from a model's first rows, for its return."""
        if self._model is None or self._reference is None or self.digest is not None:
            return
        self._kept.pop(self._model, None)
        self._kept[self._model] = self._reference.to_dict()
        while len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]

    @property
    def reference_rows(self) -> int:
        """Rows behind the reference; 0 while there is none."""
        return 0 if self._reference is None else self._reference.rows

    def add(self, prediction: Prediction, at_us: int) -> list[Finding]:
        """Take one prediction; the findings of the pane it ends, if it ends one."""
        findings = self._turn(at_us) if self._reference is not None else []
        row = [math.nan if value is None else value for value in prediction.vector]
        self._rows.append([*row, prediction.score])
        if self._reference is None and len(self._rows) >= self._spec.population_reference_rows:
            self._reference = HistogramReference.fit(self._matrix(), self.names)
            self._counts, self._rows = self._reference.empty(), []
            self._pane = at_us // self._spec.population_pane
        return findings

    def to_state(self) -> dict[str, Any]:
        """Plain JSON values."""
        self._count()
        rows = self._matrix() if self._rows else np.zeros((0, len(self.names)), dtype=np.float32)
        return {
            "rows": base64.b64encode(rows.tobytes()).decode(),
            "reference": None if self._reference is None else self._reference.to_dict(),
            "counts": None if self._counts is None else [counts.tolist() for counts in self._counts],
            "pane": self._pane, "open": self._open, "against": self._against,
            "model": self._model, "kept": self._kept, "digest": self.digest, "why": self.why,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Continue from what `to_state` gave."""
        rows = np.frombuffer(base64.b64decode(state["rows"]), dtype=np.float32).reshape(-1, len(self.names))
        self._rows = rows.astype(np.float64).tolist()
        self._reference = None if state["reference"] is None else HistogramReference.from_dict(state["reference"])
        self._counts = (
            None if state["counts"] is None else tuple(np.array(counts, dtype=np.int64) for counts in state["counts"])
        )
        self._pane, self._open, self._against = state["pane"], list(state["open"]), list(state["against"])
        self._model, self._kept = state.get("model"), dict(state.get("kept", {}))  # not in states of before
        self.digest, self.why = state.get("digest"), state.get("why", "")  # nor these

    def _matrix(self) -> Any:  # noqa: ANN401 - float32 [N, F + 1]
        return np.array(self._rows, dtype=np.float32)

    def _count(self) -> None:
        """Counts are whole numbers, so when they are taken changes nothing."""
        if self._reference is not None and self._rows:
            self._counts = merge(self._counts, self._reference.count(self._matrix()))
            self._rows = []

    def _turn(self, at_us: int) -> list[Finding]:
        pane = at_us // self._spec.population_pane
        if pane == self._pane or self._reference is None:
            return []
        self._count()
        end = ((self._pane or 0) + 1) * self._spec.population_pane
        results = population_test(
            self._reference, self._counts, effect=self._spec.population_effect, alpha=self._spec.population_alpha
        )
        self._counts, self._pane = self._reference.empty(), pane
        window_us = (end - self._spec.population_panes * self._spec.population_pane, end)
        return [
            Finding(
                "prediction" if result.name == SCORE else "input", result.name, "population", result.effect,
                result.before, result.after, result.adjusted_p, window_us=window_us,
            )
            for column, result in enumerate(results)
            if self._opens(column, drifted=result.drifted)
        ]  # fmt: skip

    def _opens(self, column: int, *, drifted: bool) -> bool:
        """Whether the drift of a column begins with this pane."""
        self._against[column] = self._against[column] + 1 if drifted != self._open[column] else 0
        if self._against[column] < self._spec.population_panes:
            return False
        self._against[column], self._open[column] = 0, drifted
        return drifted
