"""The values of views at rows: one reading of each source, then part by part of the entities."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tidemill.datasets.events import bands
from tidemill.datasets.rows import EntityRows
from tidemill.datasets.spill import Spill, shards_for
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_engine.arrays import Float64s, Int64s
from tidemill_engine.history import Known, ViewReader, backfill_known, shard_of
from tidemill_engine.windows import Events, Queries, ViewPlan, backfill

Progress = Callable[[str, int, int], None]
"""What is being done, how much of it is done, of how much."""


@dataclass(frozen=True, slots=True)
class Task:
    """One part of a view's entities: complete in itself, so it may be computed anywhere. `known` None: event time."""

    plan: ViewPlan
    events: Events
    queries: Queries
    known: Known | None

    def solve(self) -> Float64s:
        """Values of each query, float64 (q, features)."""
        if self.known is None:
            return backfill(self.plan, self.events, self.queries)
        return backfill_known(self.plan, self.events, self.queries, self.known)


Solve = Callable[[Iterable[Task]], Iterator[Float64s]]
"""Results of tasks, in their order."""


def solve_here(tasks: Iterable[Task]) -> Iterator[Float64s]:
    """One after the other in this process."""
    return (task.solve() for task in tasks)


@dataclass(frozen=True, slots=True)
class Archived:
    """Where the archive is and which of its events count: by source and partition the number below which."""

    place: str
    below: Mapping[str, Mapping[int, int]]

    def events(self, source: str) -> int:
        """How many events of a source."""
        return sum(self.below[source].values())


@dataclass(frozen=True, slots=True)
class Gathering:
    """How values are computed: as known or by event time, by whom, and who is told."""

    as_known: bool = False
    solve: Solve = solve_here
    tell: Progress = lambda _what, _done, _of: None


def view_values(
    spec: PipelineSpec, views: Sequence[str], rows: EntityRows, archived: Archived, how: Gathering
) -> dict[str, Float64s]:
    """By view the values of its features at each row, float64 (n, features), NaN where nothing is known."""
    readers = [ViewReader(spec, name) for name in views]
    found: dict[str, Float64s] = {}
    for source in dict.fromkeys(reader.source for reader in readers):
        mine = [_Asked.of(reader, spec, rows) for reader in readers if reader.source == source]
        found |= _source_values(source, mine, rows, archived, how)
    return found


@dataclass(frozen=True, slots=True)
class _Asked:
    """A view and the entity of each row."""

    reader: ViewReader
    entities: list[bytes]

    @classmethod
    def of(cls, reader: ViewReader, spec: PipelineSpec, rows: EntityRows) -> "_Asked":
        key = spec.entities[spec.views[reader.view].entity].key
        return cls(reader, reader.entities(rows.requests({name: spec.request.fields[name] for name in key})))


def _source_values(
    source: str, asked: Sequence[_Asked], rows: EntityRows, archived: Archived, how: Gathering
) -> dict[str, Float64s]:
    total = archived.events(source)
    latest = int(rows.times_us.max(initial=0))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidemill-dataset-")))
        spills = [stack.enter_context(_spill(folder, each.reader, total)) for each in asked]
        wanted = [set(each.entities) - {b""} for each in asked]
        done = 0
        for band in bands(archived.place, source, archived.below[source], before_us=latest):
            for each, spill, only in zip(asked, spills, wanted, strict=True):
                place, events = each.reader.read(band.ids, band.times_us, band.bodies, only=only)
                spill.add(events, band.known_us[place])
            done = min(total, done + len(band.ids))
            how.tell(f"read {source}", done, total)
        how.tell(f"read {source}", total, total)
        values = {}
        for each, spill in zip(asked, spills, strict=True):
            spill.done()
            values[each.reader.view] = _solved(each, spill, rows, how)
        return values


def _spill(folder: Path, reader: ViewReader, total: int) -> Spill:
    own = folder / reader.view
    own.mkdir()
    return Spill(own, len(reader.plan.fields), shards_for(total))


def _solved(asked: _Asked, spill: Spill, rows: EntityRows, how: Gathering) -> Float64s:
    plan = asked.reader.plan
    out = np.full((len(asked.entities), len(plan.aggregations)), np.nan)
    parts = np.array([shard_of(entity, spill.shards) for entity in asked.entities], np.int64)
    places = [np.flatnonzero(parts == shard) for shard in range(spill.shards)]
    for number, values in enumerate(how.solve(_tasks(asked, spill, rows, places, as_known=how.as_known))):
        out[places[number]] = values
        how.tell(f"compute {asked.reader.view}", number + 1, spill.shards)
    return out


def _tasks(
    asked: _Asked, spill: Spill, rows: EntityRows, places: Sequence[Int64s], *, as_known: bool
) -> Iterator[Task]:
    for shard, place in enumerate(places):
        events, known_us = spill.part(shard)
        queries = Queries([asked.entities[i] for i in place.tolist()], rows.times_us[place])
        known = Known(known_us, rows.known_us[place]) if as_known else None
        yield Task(asked.reader.plan, events, queries, known)
