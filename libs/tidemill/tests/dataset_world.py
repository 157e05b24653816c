"""A pipeline, an archive of random events, and what its features are by plain Python."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, Transaction, write_deltalake

from tidemill_contracts import format_time
from tidemill_contracts.pipeline import PipelineSpec, parse_pipeline
from tidemill_runtime.archive import archive_path

MINUTE, HOUR = 60_000_000, 3_600_000_000
START = 1_000_000 * HOUR // 100
PIPELINE = b"""
version: 1
name: rides
partitions: 2
sources:
  rides:
    key: [ride]
    time: ended
    fields:
      ride: {type: string}
      driver: {type: integer}
      town: {type: category, values: [north, south]}
      ended: {type: timestamp}
      fare: {type: float, required: false}
      paid: {type: boolean}
  shifts:
    key: [driver]
    fields: {driver: {type: integer}, hours: {type: float}}
entities: {driver: {key: [driver]}, driver-town: {key: [driver, town]}}
views:
  fares:
    source: rides
    entity: driver
    windows: {1h: {length: 1h}, 1d: {length: 1d, panes: 24}}
    aggregations:
      - {function: count}
      - {function: sum, field: fare}
      - {function: mean, field: fare, windows: [1d]}
      - {function: last, field: fare, all_time: true}
  paid-here:
    source: rides
    entity: driver-town
    where: paid
    windows: {6h: {length: 6h}}
    aggregations: [{function: count}, {function: max, field: fare}]
  work:
    source: shifts
    entity: driver
    windows: {1d: {length: 1d, panes: 24}}
    aggregations: [{function: sum, field: hours}]
request:
  key: ride
  time: at
  fields:
    ride: {type: string}
    driver: {type: integer}
    town: {type: category, values: [north, south]}
    at: {type: timestamp}
  features: {hour: hour(at), is_north: 'town == "north"'}
label: {source: rides, join: ride, expression: fare > 10}
"""
SPEC: PipelineSpec = parse_pipeline(PIPELINE)


@dataclass(frozen=True)
class Event:
    """An archived event."""

    source: str
    partition: int
    seq: int
    time_us: int
    ingest_us: int
    body: Mapping[str, Any]


def events(seed: int, rides: int, *, late: float = 0.2) -> list[Event]:
    """Rides and shifts of ten drivers; some came into the log an hour or more after they happened."""
    rng = random.Random(seed)
    made, seqs = list[Event](), dict[tuple[str, int], int]()
    for number in range(rides + rides // 5):
        source, partition = ("rides" if number < rides else "shifts"), rng.randrange(2)
        time_us = START + rng.randrange(4 * 24 * 60) * MINUTE + rng.randrange(3)
        known = time_us + (rng.randrange(60, 600) * MINUTE if rng.random() < late else 5)
        driver = rng.randrange(10)
        body: dict[str, Any] = (
            {"ride": f"r{number}", "driver": driver, "town": rng.choice(["north", "south"]),
             "ended": format_time(time_us), "fare": rng.choice([None, round(rng.random() * 30, 2)]),
             "paid": rng.random() < 0.5}
            if source == "rides" else {"driver": driver, "hours": round(rng.random() * 9, 1)}
        )  # fmt: skip
        seq = seqs[source, partition] = seqs.get((source, partition), -1) + 1
        made.append(Event(source, partition, seq, time_us, known, body))
    return made


def known_us(made: Sequence[Event]) -> dict[tuple[str, int, int], int]:
    """Since when each event is known: not before those in front of it in its partition."""
    latest, found = dict[tuple[str, int], int](), dict[tuple[str, int, int], int]()
    for event in sorted(made, key=lambda each: each.seq):
        place = (event.source, event.partition)
        latest[place] = max(latest.get(place, 0), event.ingest_us)
        found[*place, event.seq] = latest[place]
    return found


def write_archive(folder: Path, made: Sequence[Event]) -> str:
    """The archive as ingestion writes it; returns the place of the artifacts."""
    for source in ("rides", "shifts"):
        rows: list[dict[str, Any]] = [
            {"partition": e.partition, "seq": e.seq, "offset": 2 * e.seq, "raw_offset": e.seq,
             "id": f"{source}-{e.partition}-{e.seq}", "event_us": e.time_us, "ingest_us": e.ingest_us, "key": "k",
             "body": json.dumps(e.body), "outcome": "applied"}
            for e in made if e.source == source
        ]  # fmt: skip
        random.Random(1).shuffle(rows)
        ends = {p: max((r["seq"] for r in rows if r["partition"] == p), default=-1) for p in (0, 1)}
        for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
            write_deltalake(
                archive_path(str(folder), source), _arrow(half), mode="append",
                commit_properties=CommitProperties(
                    app_transactions=[Transaction(f"events/{p}/seq", end) for p, end in ends.items()]
                ),
            )  # fmt: skip
    return str(folder)


def _arrow(rows: list[dict[str, Any]]) -> Any:  # noqa: ANN401 - pyarrow ships no types
    return pa.Table.from_pylist(rows)


def expected(
    made: Sequence[Event], driver: int | None, town: str | None, at_us: int, *, sees: Callable[[Event], bool]
) -> dict[str, float | None]:
    """Features of one row; `sees` says which events it may see besides those before its time."""
    before = [e for e in made if e.time_us < at_us and e.body["driver"] == driver and sees(e)]
    rides = [e for e in before if e.source == "rides"]
    here = [e for e in rides if e.body["town"] == town and e.body["paid"]]
    alive = bool(rides) and at_us // (5 * MINUTE) * 5 * MINUTE < max(e.time_us for e in rides) + 60 * 24 * HOUR
    hour, day = _fares(rides, at_us, 5 * MINUTE, 12), _fares(rides, at_us, HOUR, 24)
    six = _fares(here, at_us, 30 * MINUTE, 12)
    shifts = [e.body["hours"] for e in before if e.source == "shifts" and e.time_us >= (at_us // HOUR - 23) * HOUR]
    fares = [(e.time_us, e.body["fare"]) for e in rides if e.body["fare"] is not None]
    return {
        "fares.count_1h": hour[0] if alive else None, "fares.count_1d": day[0] if alive else None,
        "fares.fare_sum_1h": hour[1] if alive else None, "fares.fare_sum_1d": day[1] if alive else None,
        "fares.fare_mean_1d": day[2], "fares.fare_last": max(fares)[1] if fares else None,
        "paid-here.count_6h": six[0] if here else None, "paid-here.fare_max_6h": six[3],
        "work.hours_sum_1d": fsum(shifts) if any(e.source == "shifts" for e in before) else None,
    }  # fmt: skip


def _fares(
    rides: Sequence[Event], at_us: int, pane: int, panes: int
) -> tuple[float, float, float | None, float | None]:
    inside = [e for e in rides if e.time_us >= (at_us // pane - panes + 1) * pane]
    fares = [e.body["fare"] for e in inside if e.body["fare"] is not None]
    return len(inside), fsum(fares), fsum(fares) / len(fares) if fares else None, max(fares, default=None)
