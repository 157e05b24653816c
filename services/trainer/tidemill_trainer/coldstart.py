"""Training rows before there is a prediction log: the archive replayed through the engine, as values were known then.

A row is one event of the cold-start source whose label is known by then. It sees events strictly before its aligned
time, so neither its own event nor anything later can leak into it.
"""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill_contracts import parse_time
from tidemill_contracts.pipeline import ColdStartSpec, PipelineSpec
from tidemill_engine.entities import EntityKey, RowReader, event_mark
from tidemill_engine.expressions import compile_expression, encode_columns, field_types
from tidemill_engine.quarantine import Quarantine
from tidemill_engine.windows import Events, Queries, backfill, compile_view
from tidemill_runtime.archive import archive_path, read_events
from tidemill_runtime.errors import Later
from tidemill_trainer.domain.rows import Floats, Rows

_PATIENCE_S = 60.0
_COLUMNS = ("partition", "seq", "id", "event_us", "body")
NOTHING = Quarantine()
Positions = Mapping[str, Mapping[str, int]]


class ColdStartError(Exception):
    """The archive cannot give training rows."""


@dataclass(frozen=True, slots=True)
class Archived:
    """Events of one source in the archive, in order of partition and number; a quarantined one is no row, no label."""

    ids: list[str]
    times_us: npt.NDArray[np.int64]
    bodies: list[dict[str, Any]]
    quarantined: list[bool]


@dataclass(frozen=True, slots=True)
class Spine:
    """The rows to be made: request fields, the time each is seen at, when its label was known, and the label."""

    requests: list[dict[str, Any]]
    seen_us: npt.NDArray[np.int64]
    labelled_us: npt.NDArray[np.int64]
    labels: Floats


async def wait_for_archive(location: str, positions: Positions) -> None:
    """Until the archive holds everything below `positions`; raises ColdStartError saying what is missing."""
    deadline = time.monotonic() + _PATIENCE_S
    for name, wanted in positions.items():
        path = archive_path(location, name.removeprefix("events."))
        while (missing := await asyncio.to_thread(_missing, path, wanted)) is not None:
            if time.monotonic() > deadline:
                msg = f"{missing}; is ingestion running?"
                raise ColdStartError(msg)
            await asyncio.sleep(0.3)


def _missing(path: str, wanted: Mapping[str, int]) -> str | None:
    """What the archive still lacks, in words."""
    try:
        read_events(path, dict(wanted), columns=("seq",))
    except Later as error:
        return str(error)
    return None


def cold_rows(
    spec: PipelineSpec, location: str, *, as_of_us: int, positions: Positions, quarantine: Quarantine = NOTHING
) -> Rows:
    """Labelled rows known at `as_of_us`, by label time and id; inputs in the order of `spec.feature_names()`."""
    if spec.cold_start is None:
        msg = "the pipeline declares no cold_start and there are no labelled predictions yet"
        raise ColdStartError(msg)
    sources = {view.source for view in spec.views.values()} | {spec.cold_start.source, spec.label.source}
    archive = {
        name: _read(location, name, positions.get(f"events.{name}"), as_of_us, quarantine) for name in sorted(sources)
    }
    spine = _spine(spec, spec.cold_start, archive, as_of_us)
    named: dict[str, Floats] = {}
    for view in spec.views:
        values = _view_values(spec, view, archive[spec.views[view].source], spine)
        named.update(zip(spec.views[view].feature_names(view), values.T, strict=True))
    columns = encode_columns(field_types(spec.request.fields), spine.requests)
    for name, text in spec.request.features.items():
        named[f"request.{name}"] = compile_expression(text, field_types(spec.request.fields))(
            columns, rows=len(spine.requests)
        )
    wanted = spec.feature_names()
    features = (
        np.column_stack([named[name] for name in wanted]).astype(np.float32).reshape(len(spine.requests), len(wanted))
    )
    segments = {
        name: np.array([str(request.get(name)) for request in spine.requests], dtype=np.str_)
        for name in spec.monitor.segments
    }
    return Rows(spine.labelled_us, features, spine.labels, segments)


def _read(
    location: str, source: str, below: Mapping[str, int] | None, as_of_us: int, quarantine: Quarantine
) -> Archived:
    if not below:
        msg = f"the request does not say up to where the archive of {source} is to be read"
        raise ColdStartError(msg)
    table = read_events(archive_path(location, source), dict(below), columns=_COLUMNS)
    times = table.column("event_us").to_numpy()
    keep = np.flatnonzero(times <= as_of_us)
    ids, bodies = table.column("id").to_pylist(), table.column("body").to_pylist()
    places = zip(table.column("partition").to_pylist(), table.column("seq").to_pylist(), strict=True)
    held = [quarantine.holds(source, *place) for place in places] if quarantine else [False] * len(ids)
    return Archived([ids[i] for i in keep], times[keep], [json.loads(bodies[i]) for i in keep], [held[i] for i in keep])


def _spine(spec: PipelineSpec, cold: ColdStartSpec, archive: Mapping[str, Archived], as_of_us: int) -> Spine:
    labels = _labels(spec, archive[spec.label.source])
    source, join = archive[cold.source], spec.request.key
    found: list[tuple[int, str, dict[str, Any], int, float]] = []
    for body, held in zip(source.bodies, source.quarantined, strict=True):
        if held:
            continue
        known = labels.get(str(body.get(join)))
        if known is not None and known[0] <= as_of_us and body.get(cold.time) is not None:
            request = {name: body.get(name) for name in spec.request.fields}
            found.append(
                (known[0], str(body[join]), request, _aligned(parse_time(body[cold.time]), cold.align), known[1])
            )
    found.sort(key=lambda item: item[:2])
    return Spine(
        [item[2] for item in found],
        np.array([item[3] for item in found], dtype=np.int64),
        np.array([item[0] for item in found], dtype=np.int64),
        np.array([item[4] for item in found], dtype=np.float64),
    )


def _aligned(us: int, step: int | None) -> int:
    return us if not step else us // step * step


def _labels(spec: PipelineSpec, events: Archived) -> dict[str, tuple[int, float]]:
    """First label by key: when it was known, and what it says."""
    expression = compile_expression(spec.label.expression, field_types(spec.sources[spec.label.source].fields))
    labels: dict[str, tuple[int, float]] = {}
    for i in np.lexsort((np.array(events.ids), events.times_us)).tolist():
        if events.quarantined[i]:
            continue
        body = events.bodies[i]
        value = expression.row(body)
        if value is not None:
            labels.setdefault(str(body.get(spec.label.join)), (int(events.times_us[i]), value))
    return labels


def _view_values(spec: PipelineSpec, name: str, events: Archived, spine: Spine) -> Floats:
    """Values [N, features] of a view at each row's time, by the same kernels as the stream."""
    view = spec.views[name]
    source = spec.sources[view.source]
    plan = compile_view(view, source)
    keys = _keys(EntityKey(spec.entities[view.entity].key, source.fields), events.bodies)
    reader = RowReader(plan.fields, source.fields)
    where = None if view.where is None else compile_expression(view.where, field_types(source.fields))
    kept = [
        i for i, key in enumerate(keys) if key is not None and (where is None or where.row(events.bodies[i]) == 1.0)
    ]
    columns = Events(
        [keys[i] or b"" for i in kept],
        events.times_us[kept],
        np.array([event_mark(events.ids[i]) for i in kept], dtype=np.uint64),
        np.array([reader(events.bodies[i]) for i in kept], dtype=np.float64).reshape(len(kept), len(plan.fields)),
    )
    asked = _keys(EntityKey(spec.entities[view.entity].key, spec.request.fields), spine.requests)
    return backfill(plan, columns, Queries([key or b"" for key in asked], spine.seen_us))


def _keys(key: EntityKey, rows: Sequence[Mapping[str, Any]]) -> list[bytes | None]:
    texts = [key(row) for row in rows]
    return [None if text is None else text.encode() for text in texts]
