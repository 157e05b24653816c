"""The comparison: every value of every logged vector with what the archive gives."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.expressions import compile_expression, encode_columns, field_types
from tidemill_engine.parity.layout import ViewColumns
from tidemill_engine.parity.logged import Columns, Floats, Ints, Logged, States
from tidemill_engine.parity.source import Archived, ViewEvents, view_events
from tidemill_engine.windows import compile_view
from tidemill_engine.windows.steps import events_in, recompute

SHOWN = 20
_PER_FEATURE = 2
REVISION = "(events)"
"""The feature's name where a vector counts other events than the archive has; its values are numbers of events."""
_SECOND_US = 1_000_000
_CHUNK = 65_536


class Event(NamedTuple):
    """An event of a source: dense number and offset in events.<source>."""

    source: str
    partition: int
    seq: int
    offset: int
    id: str


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A logged value that the archive does not give. `since`: the first event that may have made the difference.

    It is the first that the vector reflects and the last equal vector of this entity does not; without such an event
    (nothing but time went on) the newest that it reflects. `place` is partition and offset of the prediction.
    """

    prediction_id: str
    place: tuple[int, int]
    at_us: int
    view: str
    entity: str
    feature: str
    logged: float | None
    computed: float | None
    since: Event | None = None


@dataclass(slots=True)
class Parity:
    """How many vectors and values were compared, and what differed: vectors, by feature, and the first in full."""

    checked: int = 0
    values: int = 0
    mismatches: int = 0
    unknown: int = 0
    features: dict[str, int] = field(default_factory=dict)
    first: list[Mismatch] = field(default_factory=list)


Read = Callable[[str, dict[int, int]], Archived]
"""Events of a source below the given dense numbers by partition."""


def check(logged: Logged, read: Read) -> Parity:
    """Compute everything in `logged` again, one reading per source; the same log gives the same answer.

    Raises whatever `read` raises.
    """
    out = Parity(unknown=logged.unknown)
    wrong = {epoch: np.zeros(len(columns), np.bool_) for epoch, columns in logged.columns.items()}
    wanted = logged.wanted()
    by_source: dict[str, list[tuple[str, str]]] = {}
    for place in sorted(logged.states):
        by_source.setdefault(logged.specs[place].views[place[0]].source, []).append(place)
    for source, places in sorted(by_source.items()):
        archive = read(source, wanted[source]) if source in wanted else None
        for place in places:
            _check_view(logged, place, archive, out, wrong)
    for epoch, columns in logged.columns.items():
        _check_requests(columns, out, wrong[epoch])
        out.checked += len(columns)
        out.values += len(columns) * len(columns.layout.features)
        out.mismatches += int(wrong[epoch].sum())
    out.first = sorted(out.first, key=lambda each: (each.at_us, each.place))[:SHOWN]
    return out


class _View(NamedTuple):
    """One version of a view computed again: values and number of events of each state, -1 without a value."""

    name: str
    source: str
    states: States
    values: Floats
    applied: Ints
    events: ViewEvents | None
    archive: Archived | None


def _check_view(
    logged: Logged, place: tuple[str, str], archive: Archived | None, out: Parity,
    wrong: dict[int, NDArray[np.bool_]],
) -> None:  # fmt: skip
    view = _recomputed(logged, place, archive)
    for epoch, columns in logged.columns.items():
        part = next((each for each in columns.layout.views if (each.view, each.version) == place), None)
        if part is not None and len(columns):
            _check_part(view, columns, part, out, wrong[epoch])


def _recomputed(logged: Logged, place: tuple[str, str], archive: Archived | None) -> _View:
    states, spec, name = logged.states[place], logged.specs[place], place[0]
    declared = spec.views[name]
    plan = compile_view(declared, spec.sources[declared.source])
    values = np.full((len(states.entities), len(plan.aggregations)), np.nan)
    applied = np.zeros(len(states.entities), np.int64)
    told, known = states.told(spec.partitions)
    events = None
    if archive is not None and len(known):
        events = view_events(spec, name, plan, archive, set(told.keys))
        again = recompute(plan, events.events, events.places, told)
        values[known], applied[known] = again.values, again.applied
    return _View(name, declared.source, states, values, applied, events, archive)


def _check_part(view: _View, columns: Columns, part: ViewColumns, out: Parity, wrong: NDArray[np.bool_]) -> None:
    read = np.array(columns.read[part.view], np.intp)
    at = np.array(view.states.at_us, np.int64)[read]
    computed = view.values[read][:, part.of]
    computed[:, part.is_age] = _aged(computed[:, part.is_age], at, np.array(columns.watermarks, np.int64))
    differs = _differ(columns.vectors()[:, part.at], computed)
    counts = events_in(np.array(view.states.revisions, np.int64))[read]
    miscounted = counts != view.applied[read]
    wrong |= differs.any(axis=1) | miscounted
    for column in np.flatnonzero(differs.any(axis=0)).tolist():
        rows = np.flatnonzero(differs[:, column])
        name = columns.layout.features[part.at[column]]
        out.features[name] = out.features.get(name, 0) + len(rows)
        for row in _first(columns, rows):
            logged = float(columns.vectors()[row, part.at[column]])
            values = (logged, float(computed[row, column]))
            out.first.append(_mismatch(view, columns, row, (name, differs[:, column] | miscounted), values))
    rows = np.flatnonzero(miscounted)
    if len(rows):
        name = f"{view.name}.{REVISION}"
        out.features[name] = out.features.get(name, 0) + len(rows)
        for row in _first(columns, rows):
            values = (float(counts[row]), float(view.applied[read[row]]))
            out.first.append(_mismatch(view, columns, row, (name, miscounted), values))


def _first(columns: Columns, rows: NDArray[np.intp]) -> list[int]:
    at = np.array(columns.at_us, np.int64)[rows]
    return [int(row) for row in rows[np.argsort(at, kind="stable")][:_PER_FEATURE]]


def _aged(ages: Floats, at: Ints, watermarks: Ints) -> Floats:
    """Ages at the watermark of the answer, in whole microseconds, as serving adds them up (decision 5)."""
    moved = (watermarks >= 0) & (at >= 0) & (watermarks != at)
    grown = np.rint(ages * _SECOND_US) + (watermarks - at)[:, None]
    return np.where(moved[:, None], np.maximum(grown, 0.0) / _SECOND_US, ages)


def _differ(logged: Floats, computed: Floats) -> NDArray[np.bool_]:
    """Whether the bits differ; a null is a null, whatever NaN it came as."""
    one, other = (np.where(np.isnan(each), np.nan, each).view(np.int64) for each in (logged, computed))
    return np.asarray(one != other, np.bool_)


def _mismatch(
    view: _View, columns: Columns, row: int, what: tuple[str, NDArray[np.bool_]], values: tuple[float, float]
) -> Mismatch:
    state = columns.read[view.name][row]
    name, wrong = what
    return Mismatch(
        columns.ids[row], columns.places[row], columns.at_us[row], view.name, view.states.entities[state],
        name.removeprefix(f"{view.name}."), _null(values[0]), _null(values[1]),
        _since(view, state, [place for place, bad in zip(columns.read[view.name], wrong, strict=True) if not bad]),
    )  # fmt: skip


def _null(value: float) -> float | None:
    return None if np.isnan(value) else value


def _since(view: _View, state: int, equal: list[int]) -> Event | None:
    if view.events is None or view.archive is None:
        return None
    states = view.states
    entity, revision = states.entities[state], states.revisions[state]
    before = {place for place in equal if states.entities[place] == entity and 0 < states.revisions[place] < revision}
    last = max(before, key=lambda place: states.revisions[place], default=None)
    known = {} if last is None else states.positions[last]
    found = sorted(_reflected(view, entity.encode(), known, states.positions[state]))
    if found:
        return _event(view, found[0][1])
    newest = sorted(_reflected(view, entity.encode(), {}, states.positions[state]))
    return _event(view, newest[-1][1]) if newest else None


def _reflected(view: _View, entity: bytes, above: dict[str, int], upto: dict[str, int]) -> Iterator[tuple[int, int]]:
    """Event time and place of the entity's events that are reflected, but not those `above` has."""
    assert view.events is not None  # noqa: S101 - the caller looked
    events, (partitions, seqs) = view.events.events, view.events.places
    for at, key in enumerate(events.keys):
        partition = str(partitions[at])
        if key == entity and above.get(partition, -1) < seqs[at] <= upto.get(partition, -1):
            yield int(events.times_us[at]), int(view.events.rows[at])


def _event(view: _View, row: int) -> Event:
    assert view.archive is not None  # noqa: S101 - the caller looked
    archive = view.archive
    return Event(
        view.source, int(archive.partitions[row]), int(archive.seqs[row]), int(archive.offsets[row]), archive.ids[row]
    )


def _check_requests(columns: Columns, out: Parity, wrong: NDArray[np.bool_]) -> None:
    layout = columns.layout
    types = field_types(layout.spec.request.fields)
    compiled = {at: compile_expression(text, types) for at, text in layout.expressions.items()}
    for start in range(0, len(columns), _CHUNK):
        requests = [json.loads(raw) for raw in columns.requests[start : start + _CHUNK]]
        encoded = encode_columns(types, requests)
        for at, expression in compiled.items():
            logged = columns.vectors()[start : start + _CHUNK, at]
            computed = expression(encoded, rows=len(requests))
            rows = np.flatnonzero(_differ(logged, computed))
            if not len(rows):
                continue
            wrong[start + rows] = True
            name = layout.features[at]
            out.features[name] = out.features.get(name, 0) + len(rows)
            out.first += [
                Mismatch(
                    columns.ids[start + row], columns.places[start + row], columns.at_us[start + row], "request", "",
                    name.removeprefix("request."), _null(float(logged[row])), _null(float(computed[row])),
                )
                for row in rows[:_PER_FEATURE].tolist()
            ]  # fmt: skip
