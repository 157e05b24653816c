"""From events as they are archived to the columns that a view's kernels read."""

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np

from tidemill_contracts.pipeline import PipelineSpec
from tidemill_engine.arrays import Int64s
from tidemill_engine.entities import EntityKey, RowReader, event_mark
from tidemill_engine.expressions import compile_expression, encode_columns, field_types
from tidemill_engine.windows import Events, ViewPlan, compile_view

Body = Mapping[str, Any]


class ViewReader:
    """What one view takes from the events of its source, by the rules of the stream."""

    def __init__(self, spec: PipelineSpec, view: str) -> None:
        """Raises KeyError for an unknown view and ValueError for one that the engine cannot run."""
        declared = spec.views[view]
        source = spec.sources[declared.source]
        key = spec.entities[declared.entity].key
        self.view, self.source = view, declared.source
        self.features = tuple(declared.feature_names(view))
        self.plan: ViewPlan = compile_view(declared, source)
        self._key, self._asked = EntityKey(key, source.fields), EntityKey(key, spec.request.fields)
        self._numbers = RowReader(self.plan.fields, source.fields)
        types = field_types(source.fields)
        self._where = None if declared.where is None else compile_expression(declared.where, types)
        self._types = {} if self._where is None else {name: types[name] for name in self._where.fields}

    def read(
        self, ids: Sequence[str], times_us: Int64s, bodies: Sequence[Body], *, only: Container[bytes] | None = None
    ) -> tuple[Int64s, Events]:
        """Places (k,) of the events that count for the view (of entities in `only`, if given), and their columns."""
        names = [self._entity(body) for body in bodies]
        kept = [i for i, name in enumerate(names) if name is not None and (only is None or name in only)]
        if self._where is not None and kept:
            columns = encode_columns(self._types, [bodies[i] for i in kept])
            is_true = self._where(columns, rows=len(kept)) == 1.0
            kept = [i for i, true in zip(kept, is_true.tolist(), strict=True) if true]
        values = [self._numbers(bodies[i]) for i in kept]
        place = np.array(kept, np.int64)
        return place, Events(
            [names[i] or b"" for i in kept],
            np.asarray(times_us, np.int64)[place],
            np.array([event_mark(ids[i]) for i in kept], np.uint64),
            np.array(values, np.float64).reshape(len(kept), len(self.plan.fields)),
        )

    def entities(self, rows: Sequence[Body]) -> list[bytes]:
        """The entity of each row of request fields; empty where a part of its key is null, which no event has."""
        return [(self._asked(row) or "").encode() for row in rows]

    def _entity(self, body: Body) -> bytes | None:
        text = self._key(body)
        return None if text is None else text.encode()
