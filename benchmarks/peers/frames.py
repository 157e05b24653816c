"""Runs in an environment of its own: 60 windowed features by DuckDB and by Polars, each as well as it can.

Reads names of queries from standard input, answers each with the processor seconds it took; results go to a file.
"""

import json
import sys
import time
from pathlib import Path

import duckdb
import polars as pl

WINDOWS = {"5m": (300, 5), "1h": (3600, 12), "24h": (86_400, 24), "7d": (604_800, 28)}
"""Seconds and panes."""
FIELDS = ("a", "b", "c")
FUNCTIONS = ("count", "sum", "avg", "min", "max")


def starts() -> str:
    """Where each window of a row begins: at the oldest of its newest panes."""
    panes = {name: (1_000_000 * seconds // count, count) for name, (seconds, count) in WINDOWS.items()}
    return ", ".join(f'(us // {pane} - {count - 1}) * {pane} AS "s_{w}"' for w, (pane, count) in panes.items())


def duckdb_join(folder: Path) -> None:
    """Rows joined with their key's events of the longest window; aggregates filtered by window."""
    wanted = ", ".join(
        f'{f}({x}) FILTER (e.us >= q."s_{w}") AS "{x}_{f}_{w}"' for w in WINDOWS for x in FIELDS for f in FUNCTIONS
    )
    _duckdb(
        folder,
        f"""SELECT q.row, {wanted} FROM (SELECT *, {starts()} FROM '{folder}/rows.parquet') q
        LEFT JOIN '{folder}/events.parquet' e ON e.key = q.key AND e.us < q.us AND e.us >= q."s_7d"
        GROUP BY q.row ORDER BY q.row""",
    )


def duckdb_frames(folder: Path) -> None:
    """Window functions over rows and events together; only the rows are kept."""
    frames = ", ".join(
        f'w{w} AS (PARTITION BY key ORDER BY us RANGE BETWEEN us - "s_{w}" PRECEDING AND 1 PRECEDING)' for w in WINDOWS
    )
    wanted = ", ".join(f'{f}({x}) OVER w{w} AS "{x}_{f}_{w}"' for w in WINDOWS for x in FIELDS for f in FUNCTIONS)
    _duckdb(
        folder,
        f"""WITH everything AS (
            SELECT key, us, a, b, c, NULL AS row FROM '{folder}/events.parquet'
            UNION ALL SELECT key, us, NULL, NULL, NULL, row FROM '{folder}/rows.parquet'),
        spans AS (SELECT *, {starts()} FROM everything)
        SELECT * FROM (SELECT row, {wanted} FROM spans WINDOW {frames}) WHERE row IS NOT NULL ORDER BY row""",
    )


def _duckdb(folder: Path, query: str) -> None:
    with duckdb.connect() as database:
        database.execute("SET threads = 1")
        database.execute(f"COPY ({query}) TO '{folder}/duckdb.parquet' (FORMAT parquet)")


def polars_rolling(folder: Path) -> None:
    """Rolling aggregates by time over each key; windows slide, which is less work than panes. Only rows are kept."""
    events = pl.scan_parquet(folder / "events.parquet").select("key", "us", *FIELDS)
    rows = pl.scan_parquet(folder / "rows.parquet").select("key", "us", "row")
    both = pl.concat([events, rows], how="diagonal").sort("key", "us")
    spans = {w: f"{1_000_000 * seconds}i" for w, (seconds, _) in WINDOWS.items()}
    wanted = []
    for w, span in spans.items():
        for x in FIELDS:
            column = pl.col(x)
            known = column.is_not_null().cast(pl.Int64)
            made = [
                known.rolling_sum_by("us", window_size=span, closed="left").alias(f"{x}_count_{w}"),
                column.rolling_sum_by("us", window_size=span, closed="left").alias(f"{x}_sum_{w}"),
                column.rolling_mean_by("us", window_size=span, closed="left").alias(f"{x}_avg_{w}"),
                column.rolling_min_by("us", window_size=span, closed="left").alias(f"{x}_min_{w}"),
                column.rolling_max_by("us", window_size=span, closed="left").alias(f"{x}_max_{w}"),
            ]
            wanted += [expression.over("key") for expression in made]
    both.with_columns(wanted).filter(pl.col("row").is_not_null()).sort("row").collect().write_parquet(
        folder / "polars.parquet"
    )


def polars_join(folder: Path) -> None:
    """Rows joined with their key's events of the longest window; aggregates filtered by window."""
    events = pl.scan_parquet(folder / "events.parquet").select("key", pl.col("us").alias("at"), *FIELDS)
    rows = pl.scan_parquet(folder / "rows.parquet")
    panes = {w: (1_000_000 * seconds // count, count) for w, (seconds, count) in WINDOWS.items()}
    rows = rows.with_columns(
        [((pl.col("us") // pane - (count - 1)) * pane).alias(f"s_{w}") for w, (pane, count) in panes.items()]
    )
    pairs = rows.join(events, on="key").filter((pl.col("at") < pl.col("us")) & (pl.col("at") >= pl.col("s_7d")))
    wanted = []
    for w in WINDOWS:
        inside = pl.col("at") >= pl.col(f"s_{w}")
        for x in FIELDS:
            one = pl.col(x).filter(inside)
            wanted += [one.count().alias(f"{x}_count_{w}"), one.sum().alias(f"{x}_sum_{w}"),
                       one.mean().alias(f"{x}_avg_{w}"), one.min().alias(f"{x}_min_{w}"),
                       one.max().alias(f"{x}_max_{w}")]  # fmt: skip
    found = pairs.group_by("row").agg(wanted)
    rows.select("row").join(found, on="row", how="left").sort("row").collect().write_parquet(folder / "polars.parquet")


QUERIES = {
    "duckdb join": duckdb_join,
    "duckdb frames": duckdb_frames,
    "polars rolling": polars_rolling,
    "polars join": polars_join,
}


def main() -> None:
    """Answer until standard input ends."""
    folder = Path(sys.argv[1])
    for line in sys.stdin:
        begun = time.process_time()
        QUERIES[line.strip()](folder)
        sys.stdout.write(json.dumps({"seconds": time.process_time() - begun}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
