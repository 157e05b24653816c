"""Events of a source as the archive holds them, read for the views that need them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill_contracts.pipeline import PipelineSpec
from tidemill_engine.entities import EntityKey, RowReader, event_mark
from tidemill_engine.expressions import compile_expression, field_types
from tidemill_engine.windows import Events, ViewPlan
from tidemill_engine.windows.state import Positions

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Archived:
    """Applied events of one source in columns: place in events.<source>, id, event time and body."""

    partitions: Ints
    seqs: Ints
    offsets: Ints
    ids: Sequence[str]
    times_us: Ints
    bodies: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class ViewEvents:
    """The events of a source that count for some entities of a view; `rows` are their places in the source."""

    events: Events
    places: Positions
    rows: NDArray[np.intp]


def view_events(spec: PipelineSpec, view: str, plan: ViewPlan, source: Archived, entities: set[bytes]) -> ViewEvents:
    """What the stream took of the events for these entities; what it had to bury is left out here too."""
    declared = spec.views[view]
    fields = spec.sources[declared.source].fields
    key, reader = EntityKey(spec.entities[declared.entity].key, fields), RowReader(plan.fields, fields)
    where = None if declared.where is None else compile_expression(declared.where, field_types(fields))
    rows, keys, marks, values = list[int](), list[bytes](), list[int](), list[list[float]]()
    for row, body in enumerate(source.bodies):
        try:
            entity = key(body)
            if entity is None or (name := entity.encode()) not in entities:
                continue
            if where is not None and where.row(body) != 1.0:
                continue
            found = reader(body)
        except ValueError:
            continue
        rows.append(row)
        keys.append(name)
        marks.append(event_mark(source.ids[row]))
        values.append(found)
    index = np.array(rows, np.intp)
    events = Events(
        keys, source.times_us[index], np.array(marks, np.uint64),
        np.array(values, np.float64).reshape(len(rows), len(plan.fields)),
    )  # fmt: skip
    return ViewEvents(events, (source.partitions[index].astype(np.int32), source.seqs[index]), index)
