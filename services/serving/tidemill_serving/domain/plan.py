"""From checked requests to the model's matrix: which entity of which view, which expression, in which column."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidemill_contracts.pipeline import FieldSpec, PipelineSpec
from tidemill_engine.entities import EntityKey
from tidemill_engine.expressions import compile_expression, field_types
from tidemill_serving.domain.replica import Floats, Place, Replica, Row, encode_numbers, text_of, unknown_row

SECOND_US = 1_000_000
_PREFIX = "request."


class UnservableError(ValueError):
    """A release asks for features that its pipeline file does not define; the text says which."""


class HasInputs(Protocol):
    """A checked request: its inputs as they were sent, and as expressions take them."""

    @property
    def raw(self) -> Mapping[str, Any]: ...

    @property
    def typed(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class ViewPart:
    """The columns that one view gives."""

    view: str
    version: str
    entity: EntityKey
    text: str | None
    width: int
    refuse: bool
    blank: Floats
    ages: NDArray[np.intp]

    def grow(self, block: Floats, rows: Sequence[Row], watermark_us: int | None) -> None:
        """Bring the ages in the rows' values [N, width] to the watermark: a vector is written when events change it.

        In whole microseconds, so that a backfill to the same time gives the same bits.
        """
        if not len(self.ages) or watermark_us is None:
            return
        late = np.array([0 if row.at_us is None else watermark_us - row.at_us for row in rows], np.float64)[:, None]
        values = block[:, self.ages]
        grown = np.maximum(np.rint(values * SECOND_US) + late, 0.0) / SECOND_US
        block[:, self.ages] = np.where(late == 0, values, grown)


class Lines(NamedTuple):
    """What N requests read.

    The vectors [N, F] in float64, and for each request the row of each view, the views that knew no such entity, and
    the view that refuses to answer for want of it.
    """

    vectors: Floats
    rows: list[dict[str, Row]]
    defaulted: list[list[str]]
    refused: list[str | None]


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
        self.digest = spec.vector_digest(self.features)
        self.places = places_of(spec)
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
        self._width, self._looked_up = len(have), sum(part.width for part in self.parts)
        order = [places[name] for name in features]
        self._select = None if order == list(range(len(have))) else np.array(order, np.intp)
        self._has_texts = self._select is None and not any(len(part.ages) for part in self.parts)

    def versions(self) -> dict[str, str]:
        """Version of each used view."""
        return {part.view: part.version for part in self.parts}

    def tables(self, replica: Replica) -> list[Mapping[str, Row]]:
        """The rows of each used view, as `line` wants them; they follow the replica."""
        return [replica.tables[part.view, part.version].rows for part in self.parts]

    def lines(self, tables: Sequence[Mapping[str, Row]], asks: Sequence[HasInputs], watermark_us: int | None) -> Lines:
        """The vectors of checked requests, put together view by view."""
        count = len(asks)
        full: Floats = np.empty((count, self._width))
        lines = Lines(full, [{} for _ in asks], [[] for _ in asks], [None] * count)
        start = 0
        for part, table in zip(self.parts, tables, strict=True):
            rows = [_row(part, table, ask, place, lines) for place, ask in enumerate(asks)]
            block = full[:, start : start + part.width]
            block[:] = np.concatenate([row.values for row in rows]).reshape(count, part.width)
            part.grow(block, rows, watermark_us)
            start += part.width
        for column, run in enumerate(self._expressions, start):
            full[:, column] = [run(ask.typed) for ask in asks]
        return lines if self._select is None else lines._replace(vectors=full[:, self._select])

    def texts(self, lines: Lines, *, is_changed: bool = False) -> list[msgspec.Raw]:
        """The vectors of `lines` as JSON has them, a null for each NaN; a row's is written once for all its readers.

        `is_changed`: something was put into the vectors since.
        """
        if is_changed or not self._has_texts:
            return [msgspec.Raw(encode_numbers(vector)) for vector in lines.vectors.tolist()]
        pieces = [[row.text or text_of(row) for row in rows.values()] for rows in lines.rows]
        if self._expressions:
            for own, tail in zip(pieces, lines.vectors[:, self._looked_up :].tolist(), strict=True):
                own.append(encode_numbers(tail)[1:-1])
        return [msgspec.Raw(b"[%b]" % b",".join(own)) for own in pieces]


def _row(part: ViewPart, table: Mapping[str, Row], ask: HasInputs, place: int, lines: Lines) -> Row:
    """The row that a request reads of a view, noted in `lines`."""
    entity = part.entity(ask.raw) if part.text is None else ask.raw.get(part.text) or None
    row = table.get(entity) if entity is not None else None
    if row is None:
        row = unknown_row(entity or "", part.blank)
        lines.defaulted[place].append(part.view)
        if part.refuse:
            lines.refused[place] = part.view
    lines.rows[place][part.view] = row
    return row


def _part(spec: PipelineSpec, view: str, width: int) -> ViewPart:
    view_spec = spec.views[view]
    key = spec.entities[view_spec.entity].key
    functions = [a.function for a in view_spec.aggregations for _ in view_spec.windows_of(a) or [""]]
    return ViewPart(
        view=view, version=spec.view_version(view), entity=EntityKey(key, spec.request.fields),
        text=text_key(key, spec.request.fields), width=width, refuse=view_spec.missing == "refuse",
        blank=np.full(width, np.nan), ages=np.flatnonzero([function == "age_of_last" for function in functions]),
    )  # fmt: skip


def places_of(spec: PipelineSpec) -> tuple[Place, ...]:
    """All views of a pipeline file with their versions: how far they have got is how far a release of it has."""
    return tuple((view, spec.view_version(view)) for view in spec.views)


def text_key(key: Sequence[str], fields: Mapping[str, FieldSpec]) -> str | None:
    """The one field of a key that is text, so that its value is the entity; None for every other key."""
    return key[0] if len(key) == 1 and fields[key[0]].type in {"string", "category"} else None
