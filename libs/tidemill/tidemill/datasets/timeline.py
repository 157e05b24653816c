"""`backfill_view`: what a view's values were, entity by entity, at every change or on a grid of times."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from tidemill.datasets.errors import DatasetError
from tidemill.datasets.events import bands
from tidemill.datasets.files import ROW_GROUP, file_digest, format_of
from tidemill.datasets.gather import Progress
from tidemill.datasets.rows import TIME
from tidemill.datasets.spill import Spill, shards_for
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_engine.arrays import Bools, Float64s, Int64s
from tidemill_engine.history import ViewReader, change_times
from tidemill_engine.windows import Events, Queries, backfill

_CHUNK = 250_000
"""Rows that are computed at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Which instants: from `from_us` to before `to_us` (None: to the end of the events); a grid if `every_us`."""

    from_us: int
    to_us: int | None = None
    every_us: int | None = None

    def __post_init__(self) -> None:
        if self.to_us is not None and self.to_us <= self.from_us:
            raise DatasetError("the end must lie after the beginning")
        if self.every_us is not None and self.every_us <= 0:
            raise DatasetError("the step of the grid must be positive")


@dataclass(frozen=True, slots=True)
class Part:
    """Some entities of a view with all their events: complete in itself, so it may be computed anywhere."""

    spec: PipelineSpec
    view: str
    events: Events
    when: Timeline

    def tables(self) -> Iterator[pa.Table]:
        """Rows of the part's entities, in chunks."""
        return _shard(self.spec, ViewReader(self.spec, self.view), self.events, self.when)


Compute = Callable[[Iterable[Part]], Iterator[Iterable[pa.Table]]]
"""Tables of parts, in their order."""


def parts_here(parts: Iterable[Part]) -> Iterator[Iterable[pa.Table]]:
    """One after the other in this process."""
    return (part.tables() for part in parts)


def backfill_view(  # noqa: PLR0913 - what, when, from where, and who is told
    spec: PipelineSpec, view: str, when: Timeline, *, archive: str, below: Mapping[int, int],
    tell: Progress = lambda _what, _done, _of: None, compute: Compute = parts_here,
) -> Iterator[pa.Table]:  # fmt: skip
    """Tables of (key columns, `time`, features), entities together and times rising within each.

    At every change: each row holds from its time until the next one of its entity (ages aside, which always change).
    On a grid: a row for each multiple of the step at which the entity is known. Values are those of `build` for a row
    of that entity and time, so they rest on events strictly before it. Memory does not depend on how many there are.
    """
    if view not in spec.views:
        raise DatasetError(f"{view} is not a view of {spec.name}; it has {', '.join(spec.views)}")
    reader = ViewReader(spec, view)
    total, done = sum(below.values()), 0
    with tempfile.TemporaryDirectory(prefix="tidemill-backfill-") as folder:
        with Spill(Path(folder), len(reader.plan.fields), shards_for(total)) as spill:
            newest = 0
            for band in bands(archive, reader.source, below, before_us=when.to_us):
                place, events = reader.read(band.ids, band.times_us, band.bodies)
                spill.add(events, band.known_us[place])
                newest, done = max(newest, int(band.times_us.max(initial=0))), done + len(band.ids)
                tell(f"read {reader.source}", done, total)
        end = newest + 2 if when.to_us is None else when.to_us
        inside = Timeline(from_us=when.from_us, to_us=max(end, when.from_us + 1), every_us=when.every_us)
        parts = (Part(spec, view, spill.part(shard)[0], inside) for shard in range(spill.shards))
        for number, tables in enumerate(compute(parts)):
            yield from tables
            tell(f"compute {view}", number + 1, spill.shards)


def _shard(spec: PipelineSpec, reader: ViewReader, events: Events, when: Timeline) -> Iterator[pa.Table]:
    names = sorted(set(events.keys))
    number = {name: code for code, name in enumerate(names)}
    codes = np.array([number[key] for key in events.keys], np.int64)
    order = np.argsort(codes, kind="stable")
    events, codes = _at(events, order), codes[order]
    key = spec.entities[spec.views[reader.view].entity].key
    for some, times in _instants(reader, codes, events.times_us, when, len(names)):
        ends = np.searchsorted(codes, [some[0], some[-1] + 1])
        part = _at(events, np.arange(ends[0], ends[1]))
        values = backfill(reader.plan, part, Queries([names[code] for code in some.tolist()], times))
        kept = _kept(reader, some, values, on_grid=when.every_us is not None)
        yield _table(key, [names[code] for code in some[kept].tolist()], times[kept], reader.features, values[kept])


def _at(events: Events, place: Int64s) -> Events:
    keys = [events.keys[i] for i in place.tolist()]
    return Events(keys, events.times_us[place], events.hashes[place], events.values[place])


def _instants(
    reader: ViewReader, codes: Int64s, times: Int64s, when: Timeline, names: int
) -> Iterator[tuple[Int64s, Int64s]]:
    """(codes, times) in chunks that end with an entity."""
    end = when.to_us or 0
    if when.every_us is not None:
        first = -(-when.from_us // when.every_us) * when.every_us
        grid = np.arange(first, end, when.every_us, dtype=np.int64)
        step = max(1, _CHUNK // max(1, len(grid)))
        for low in range(0, names if len(grid) else 0, step):
            some = np.arange(low, min(names, low + step))
            yield np.repeat(some, len(grid)), np.tile(grid, len(some))
        return
    owners, instants = change_times(reader.plan, codes, times)
    inside = instants < end
    # What holds at the beginning has begun before it: the last change before counts from the beginning on.
    moved = np.maximum(instants[inside], when.from_us)
    owners = owners[inside]
    is_last = np.ones(len(moved), np.bool_)
    is_last[:-1] = (owners[1:] != owners[:-1]) | (moved[1:] != moved[:-1])
    owners, moved = owners[is_last], moved[is_last]
    starts = np.flatnonzero(np.append(True, owners[1:] != owners[:-1])) if len(owners) else np.empty(0, np.int64)
    low = 0
    while low < len(owners):
        later = starts[starts >= low + _CHUNK]
        high = int(later[0]) if len(later) else len(owners)
        yield owners[low:high], moved[low:high]
        low = high


def _kept(reader: ViewReader, codes: Int64s, values: Float64s, *, on_grid: bool) -> Bools:
    """Rows that say something: known entities on a grid; else those that differ from the one before, ages aside."""
    is_known: Bools = np.asarray(~np.isnan(values).all(axis=1), np.bool_)
    if on_grid or not len(codes):
        return is_known
    still = [i for i, a in enumerate(reader.plan.aggregations) if a.function != "age_of_last"] or [0]
    bits = np.ascontiguousarray(values[:, still]).view(np.int64)
    changed: Bools = np.ones(len(codes), np.bool_)
    changed[1:] = (bits[1:] != bits[:-1]).any(axis=1) | (codes[1:] != codes[:-1])
    first_unknown = np.append(True, codes[1:] != codes[:-1]) & ~is_known
    return np.asarray(changed & ~first_unknown, np.bool_)


def _table(
    key: Sequence[str], entities: Sequence[bytes], times: Int64s, features: Sequence[str], values: Float64s
) -> pa.Table:
    texts = [entity.decode() for entity in entities]
    parts = [[text] for text in texts] if len(key) == 1 else [json.loads(text) for text in texts]
    columns = {name: pa.array([part[i] for part in parts], pa.string()) for i, name in enumerate(key)}
    columns[TIME] = pa.array(times).cast(pa.timestamp("us", "UTC"))
    columns |= {name: pa.array(np.ascontiguousarray(values[:, i]), from_pandas=True) for i, name in enumerate(features)}
    return pa.table(columns)


def write_tables(tables: Iterator[pa.Table], path: Path) -> tuple[int, str]:
    """Write tables as they come into one Parquet file, complete or not at all; returns rows and the SHA-256."""
    if format_of(path) != "parquet":
        raise DatasetError(f"{path.name}: a backfill is written as .parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, rows, writer = path.with_name(f".{path.name}.part"), 0, None
    try:
        for table in tables:
            writer = writer or parquet.ParquetWriter(temporary, table.schema, compression="zstd")
            writer.write_table(table, row_group_size=ROW_GROUP)
            rows += table.num_rows
        if writer is None:
            raise DatasetError("there are no events to compute values from")
        writer.close()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return rows, file_digest(path)
