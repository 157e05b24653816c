"""Datasets: the as-of join against Feast, windowed features against DuckDB and Polars, values, and memory.

All figures are seconds of one processor, so that they can be compared while other things run: the peers take turns
with Tidemill, twice, and the better of each counts. `python dataset.py join` runs one part (join, windows, memory).
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _datasets import (
    FIELDS,
    PLAN,
    START,
    Peer,
    keys,
    oracle,
    peer,
    write_archive,
    write_events,
    write_features,
)  # fmt: skip
from _results import Progress, Result, report, result
from pyarrow import compute as pc
from pyarrow import parquet

from tidemill.datasets import Options, build, join
from tidemill_contracts.pipeline import parse_pipeline
from tidemill_engine.windows import Events, Queries, backfill, warm_up
from tidemill_testkit.peers import peer as installed

ROWS, FEATURE_ROWS, EVENTS = 100_000, 1_000_000, 1_000_000
ENTITIES, FEATURES, REPEATS, CHECKED = 1_000, 20, 2, 1_000
MANY = 10_000
"""Keys of the windowed features, beside `ENTITIES`."""
JOINED = 10_000
"""Entities of the join: with a tenth of them Feast would hold a hundred million pairs in memory."""
FEAST = ("feast[duckdb]==0.67.0",)
FRAMES = ("duckdb==2.0.1", "polars==2.1.0", "pyarrow==26.0.1", "numpy==2.4.6")
QUERIES = ("polars rolling", "polars join", "duckdb join")
"""DuckDB's window functions took three times its join."""
MEMORY = (1_000_000, 10_000_000)
PIPELINE = b"""
version: 1
name: memory
sources: {ticks: {key: [key], fields: {key: {type: string}, x: {type: float}}}}
entities: {key: {key: [key]}}
views:
  ticks:
    source: ticks
    entity: key
    windows: {1h: {length: 1h}, 7d: {length: 7d, panes: 28}}
    aggregations: [{function: count}, {function: sum, field: x}, {function: mean, field: x}, {function: max, field: x}]
request: {fields: {key: {type: string}}, key: key}
label: {source: ticks, join: key, expression: x > 0}
"""


def as_of(progress: Progress) -> list[Result]:
    """Ours joins what was read from the same file; both start at the file and end with an Arrow table."""
    with tempfile.TemporaryDirectory(prefix="bench-dataset-") as name:
        folder = Path(name)
        write_features(folder, rows=FEATURE_ROWS, entities=JOINED, features=FEATURES, asked=ROWS)
        rows = parquet.read_table(folder / "rows.parquet")
        ours, theirs = list[float](), list[float]()
        with peer(installed("feast-duckdb", *FEAST), "feast_join.py", folder) as feast:
            for number in range(REPEATS + 1):  # the first compiles, and is left out
                begun = time.process_time()
                features = parquet.read_table(folder / "features.parquet", use_threads=False)
                table = join(rows, features, on=["key"], time="event_timestamp")
                ours.append(time.process_time() - begun)
                answer = feast.ask("join")
                theirs.append(answer["seconds"])
                progress.step(f"as-of join {number}: {ours[-1]:.2f} s, Feast {theirs[-1]:.2f} s")
        _check_join(table, parquet.read_table(folder / "feast.parquet"))
    progress.step(f"checked: {table.num_rows:,} rows, Feast {int(answer['rows']):,}; the same values")
    mine, other = min(ours[1:]), min(theirs[1:])
    return [
        result("as-of join", mine, "CPU s", target=other / 3, peer=("Feast with DuckDB", other)),
        result("rows of Feast's join", answer["rows"], "rows", peer=("entity rows", ROWS)),
    ]


def _check_join(ours: pa.Table, theirs: pa.Table) -> None:
    """One row for each entity row in its order, and Feast's values where Feast has a row."""
    assert ours.column("row").to_pylist() == list(range(ROWS))
    place = theirs.column("row").to_numpy()
    for n in range(FEATURES):
        mine = ours.column(f"f{n}").to_numpy()[place]
        assert np.array_equal(mine, theirs.column(f"f{n}").to_numpy(), equal_nan=True), n


def _engine(folder: Path) -> Any:  # noqa: ANN401 - float64 (rows, 60)
    """From the files to a file, as the peers."""
    events = parquet.read_table(folder / "events.parquet", use_threads=False)
    rows = parquet.read_table(folder / "rows.parquet", use_threads=False)
    values = np.column_stack([events.column(field).to_numpy() for field in FIELDS])
    names = events.column("key").combine_chunks().dictionary_encode()
    asked = pc.fill_null(pc.index_in(rows.column("key"), value_set=names.dictionary), len(names.dictionary))
    columns = Events(names.indices.to_numpy(), events.column("us").to_numpy(), events.column("mark").to_numpy(), values)
    found = backfill(PLAN, columns, Queries(asked.to_numpy(), rows.column("us").to_numpy()))
    table = pa.table({f"f{n}": pa.array(np.ascontiguousarray(found[:, n]), from_pandas=True) for n in range(60)})
    parquet.write_table(table, folder / "ours.parquet")
    return found


def windowed(progress: Progress) -> list[Result]:
    """Sixty features of each row straight from events, with few keys and with many."""
    warm_up()
    with tempfile.TemporaryDirectory(prefix="bench-dataset-") as name, \
            peer(installed("duckdb-polars", *FRAMES), "frames.py", Path(name)) as frames:  # fmt: skip
        return [each for keys in (ENTITIES, MANY) for each in _windowed(progress, (frames, Path(name)), keys)]


def _windowed(progress: Progress, peers: tuple[Peer, Path], entities: int) -> list[Result]:
    frames, folder = peers
    write_events(folder, events=EVENTS, entities=entities, asked=ROWS)
    _engine(folder)
    ours, theirs = list[float](), dict[str, float]()
    for number in range(REPEATS):
        begun = time.process_time()
        found = _engine(folder)
        ours.append(time.process_time() - begun)
        progress.step(f"windows of {entities:,} keys {number}: {ours[-1]:.2f} s")
        _ask(frames, theirs, QUERIES if number == 0 else (min(theirs, key=lambda each: theirs[each]),), progress)
    _check_windows(folder, found)
    progress.step(f"checked: {CHECKED} rows against plain Python")
    best = min(theirs, key=lambda each: theirs[each])
    what = f"{entities:,} keys"
    shown = [result(f"of {query}, {what}", seconds, "CPU s") for query, seconds in theirs.items()]
    return [result(f"60 features from events, {what}", min(ours), "CPU s", target=1.5 * theirs[best],
                   peer=(best, theirs[best])), *shown]  # fmt: skip


def _ask(frames: Peer, best: dict[str, float], queries: tuple[str, ...], progress: Progress) -> None:
    for query in queries:
        best[query] = min(best.get(query, np.inf), frames.ask(query)["seconds"])
        progress.step(f"{query}: {best[query]:.2f} s")


def _check_windows(folder: Path, found: Any) -> None:  # noqa: ANN401 - float64 (rows, 60)
    """A thousand rows against plain Python."""
    events, rows = (parquet.read_table(folder / f"{name}.parquet") for name in ("events", "rows"))
    owners, times = np.array(events.column("key").to_pylist()), events.column("us").to_numpy()
    values = np.column_stack([events.column(field).to_numpy() for field in FIELDS])
    for row, key, us in zip(
        range(CHECKED), rows.column("key").to_pylist(), rows.column("us").to_pylist(), strict=False
    ):
        mine = np.flatnonzero((owners == key) & (times < us))
        wanted = oracle(times[mine].tolist(), values[mine].tolist(), us) if len(mine) else [np.nan] * 60
        if not np.isnan(found[row]).all():  # else a key without events, or one that has died
            assert np.allclose(found[row], wanted, rtol=1e-9, atol=1e-9, equal_nan=True), (row, found[row], wanted)
        else:
            assert np.nansum(wanted) == 0, (row, wanted)


def memory(progress: Progress) -> list[Result]:
    """The whole way from an archive, in a process of its own for each size."""
    peaks = []
    for events in MEMORY:
        with tempfile.TemporaryDirectory(prefix="bench-dataset-") as name:
            write_archive(Path(name) / "archive" / "events" / "ticks", events=events, entities=ENTITIES)
            progress.step(f"an archive of {events:,} events is written")
            child = subprocess.run(
                [sys.executable, __file__, "--memory", name], check=True, capture_output=True, text=True
            )
            told = json.loads(child.stdout)
        peaks.append(told["peak_mb"])
        progress.step(f"{events:,} events: peak {told['peak_mb']:.0f} MB, {told['seconds']:.0f} CPU s")
    small, large = peaks
    return [
        result("peak memory at 1 million events", small, "MB"),
        result("peak memory at 10 million events", large, "MB", target=1.5 * small, peer=("1 million", small)),
    ]


def _child(folder: str) -> None:
    rng = np.random.default_rng(3)
    rows = pa.table({"key": keys(ENTITIES).take(pa.array(rng.integers(0, ENTITIES, ROWS))),
                     "time": START + rng.integers(0, 30 * 86_400_000_000, ROWS)})  # fmt: skip
    begun = time.process_time()
    table = build(parse_pipeline(PIPELINE), rows, Options(archive=folder, views=["ticks"]))
    assert len(table) == ROWS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mb": peak, "seconds": time.process_time() - begun}))


def main() -> None:
    """Run all, or the parts that are named."""
    if sys.argv[1:2] == ["--memory"]:
        _child(sys.argv[2])
        return
    pa.set_cpu_count(1)
    progress, parts = Progress(), {"join": as_of, "windows": windowed, "memory": memory}
    report("dataset", [each for name in sys.argv[1:] or parts for each in parts[name](progress)])


if __name__ == "__main__":
    main()
