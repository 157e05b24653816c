"""Events of a source as the archive holds them, read for the views that need them."""

import json
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill_contracts.pipeline import PipelineSpec
from tidemill_engine.entities import EntityKey, RowReader, event_mark
from tidemill_engine.expressions import compile_expression, field_types
from tidemill_engine.parity.logged import Logged
from tidemill_engine.parity.packed import Bodies, Column, Texts
from tidemill_engine.windows import Events, ViewPlan
from tidemill_engine.windows.state import Positions

Ints = NDArray[np.int64]
COLUMNS = ("partition", "seq", "offset", "id", "event_us", "body")
"""Of the archive's tables: what `collect` reads."""
_NUMBERS = ("partition", "seq", "offset", "event_us")


@dataclass(frozen=True, eq=False)
class Archived:
    """Applied events of one source in columns: place in events.<source>, id, event time and body."""

    partitions: Ints
    seqs: Ints
    offsets: Ints
    ids: Column[str]
    times_us: Ints
    bodies: Column[Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class ViewEvents:
    """The events of a source that count for some entities of a view; `rows` are their places in the source."""

    events: Events
    places: Positions
    rows: NDArray[np.intp]


def collect(tables: Iterable[Any], logged: Logged, source: str) -> Archived:
    """Of a source's events, in Arrow tables with `COLUMNS`, those that may count for what was logged.

    Only what its views look at is kept of each, so that memory follows what was logged and not the log.
    """
    chosen = logged.chooser(source)
    ids, bodies, numbers = Texts(), Bodies(logged.fields(source)), {name: [np.zeros(0, np.int64)] for name in _NUMBERS}
    for table in tables:
        index = []
        for at, raw in enumerate(table.column("body").to_pylist()):
            body = json.loads(raw)
            if chosen(body):
                index.append(at)
                bodies.append(body)
        part = table.take(index)
        ids.extend(part.column("id").to_pylist())
        for name, parts in numbers.items():
            parts.append(part.column(name).to_numpy().astype(np.int64))
    columns = {name: np.concatenate(parts) for name, parts in numbers.items()}
    return Archived(columns["partition"], columns["seq"], columns["offset"], ids, columns["event_us"], bodies)


def view_events(spec: PipelineSpec, view: str, plan: ViewPlan, source: Archived, entities: set[bytes]) -> ViewEvents:
    """What the stream took of the events for these entities; what it had to bury is left out here too."""
    declared = spec.views[view]
    fields = spec.sources[declared.source].fields
    key, reader = EntityKey(spec.entities[declared.entity].key, fields), RowReader(plan.fields, fields)
    where = None if declared.where is None else compile_expression(declared.where, field_types(fields))
    names = {name: name for name in entities}  # each once, however many events it has
    rows, keys, marks, values = array("q"), list[bytes](), array("Q"), array("d")
    for row, body in enumerate(source.bodies):
        try:
            entity = key(body)
            if entity is None or (name := names.get(entity.encode())) is None:
                continue
            if where is not None and where.row(body) != 1.0:
                continue
            found = reader(body)
        except ValueError:
            continue
        rows.append(row)
        keys.append(name)
        marks.append(event_mark(source.ids[row]))
        values.extend(found)
    index = np.frombuffer(rows, np.int64).astype(np.intp)
    matrix = np.frombuffer(values, np.float64).reshape(len(rows), len(plan.fields))
    events = Events(keys, source.times_us[index], np.frombuffer(marks, np.uint64), matrix)
    return ViewEvents(events, (source.partitions[index].astype(np.int32), source.seqs[index]), index)
