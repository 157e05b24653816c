"""From checked requests to the model's matrix: which entity of which view, which expression, in which column."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill_contracts.pipeline import PipelineSpec
from tidemill_engine.entities import EntityKey
from tidemill_engine.expressions import compile_expression, field_types
from tidemill_engine.onnx import schema_digest
from tidemill_serving.domain.replica import Floats, Replica, Row, unknown_row

SECOND_US = 1_000_000
_PREFIX = "request."


class UnservableError(ValueError):
    """A release asks for features that its pipeline file does not define; the text says which."""


class MissingEntityError(Exception):
    """A view that declares `missing: refuse` knows nothing of the entity."""

    def __init__(self, view: str) -> None:
        super().__init__(view)
        self.view = view


@dataclass(frozen=True, slots=True)
class ViewPart:
    """The columns that one view gives."""

    view: str
    version: str
    entity: EntityKey
    width: int
    refuse: bool
    blank: Floats
    ages: NDArray[np.intp]

    def values(self, row: Row, watermark_us: int | None) -> Floats:
        """The row's values at the watermark: a vector is written when events change it, but an age grows all the time.

        In whole microseconds, so that a backfill to the same time gives the same bits.
        """
        if not len(self.ages) or watermark_us is None or row.at_us is None or watermark_us == row.at_us:
            return row.values
        values = row.values.copy()
        ages = np.rint(values[self.ages] * SECOND_US) + (watermark_us - row.at_us)
        values[self.ages] = np.maximum(ages, 0.0) / SECOND_US
        return values


class Line(NamedTuple):
    """One request's vector [F] in float64, the row read of each view, and the views that knew no such entity."""

    vector: Floats
    rows: dict[str, Row]
    defaulted: list[str]


class Plan:
    """How a release's features are put together under one pipeline file.

    The full row is every used view's vector in the file's order, then the request's expressions; `_select` reorders it
    where the release uses fewer or other columns.
    """

    def __init__(self, spec: PipelineSpec, features: Sequence[str]) -> None:
        """Raises UnservableError for a feature that is neither of a view nor of the request."""
        types = field_types(spec.request.fields)
        expressions = {name: compile_expression(text, types) for name, text in spec.request.features.items()}
        self.features = tuple(features)
        self.digest = schema_digest(self.features)
        wanted, have = set(features), list[str]()
        self.parts: list[ViewPart] = []
        for view, view_spec in spec.views.items():
            names = view_spec.feature_names(view)
            if wanted.intersection(names):
                self.parts.append(_part(spec, view, len(names)))
                have += names
        self._expressions = [found.row for name, found in expressions.items() if _PREFIX + name in wanted]
        have += [_PREFIX + name for name in expressions if _PREFIX + name in wanted]
        places = {name: place for place, name in enumerate(have)}
        if missing := [name for name in features if name not in places]:
            raise UnservableError(f"the pipeline file does not define {', '.join(missing[:5])}")
        order = [places[name] for name in features]
        self._select = None if order == list(range(len(have))) else np.array(order, np.intp)

    def versions(self) -> dict[str, str]:
        """Version of each used view."""
        return {part.view: part.version for part in self.parts}

    def tables(self, replica: Replica) -> list[Mapping[str, Row]]:
        """The rows of each used view, as `line` wants them; they follow the replica."""
        return [replica.tables[part.view, part.version].rows for part in self.parts]

    def line(
        self, tables: Sequence[Mapping[str, Row]], raw: Mapping[str, Any], typed: Mapping[str, Any],
        watermark_us: int | None,
    ) -> Line:  # fmt: skip
        """The vector of one checked request; raises MissingEntityError where a view refuses unknown entities."""
        pieces, read, defaulted = list[Floats](), dict[str, Row](), list[str]()
        for part, rows in zip(self.parts, tables, strict=True):
            entity = part.entity(raw)
            row = rows.get(entity) if entity is not None else None
            if row is None:
                if part.refuse:
                    raise MissingEntityError(part.view)
                row = unknown_row(entity or "", part.blank)
                defaulted.append(part.view)
            pieces.append(part.values(row, watermark_us))
            read[part.view] = row
        if self._expressions:
            pieces.append(self._request_values(typed))
        vector = np.concatenate(pieces)
        return Line(vector if self._select is None else vector[self._select], read, defaulted)

    def _request_values(self, typed: Mapping[str, Any]) -> Floats:
        return np.array([run(typed) for run in self._expressions], np.float64)


def _part(spec: PipelineSpec, view: str, width: int) -> ViewPart:
    view_spec = spec.views[view]
    entity = EntityKey(spec.entities[view_spec.entity].key, spec.request.fields)
    blank = np.full(width, np.nan)
    functions = [a.function for a in view_spec.aggregations for _ in view_spec.windows_of(a) or [""]]
    ages = np.flatnonzero([function == "age_of_last" for function in functions])
    return ViewPart(view, spec.view_version(view), entity, width, view_spec.missing == "refuse", blank, ages)
