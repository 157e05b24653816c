"""Data of the dataset benchmark, its peers in environments of their own, and the plainest computation of its values."""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import fsum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake
from pyarrow import compute as pc
from pyarrow import parquet

from tidemill_engine.windows import Aggregation, ViewPlan, Window

HERE = Path(__file__).parent
SECOND = 1_000_000
START, SPAN = 1_600_000_000 * SECOND, 30 * 86_400 * SECOND
WINDOWS = {"5m": (300, 5), "1h": (3600, 12), "24h": (86_400, 24), "7d": (604_800, 28)}
"""Seconds and panes."""
FIELDS = ("a", "b", "c")
FUNCTIONS = ("count", "sum", "mean", "min", "max")
PLAN = ViewPlan(
    FIELDS,
    tuple(Window(seconds * SECOND, panes) for seconds, panes in WINDOWS.values()),
    tuple(
        Aggregation(function, None if function == "count" else field, w)  # type: ignore[arg-type]  # one of the names
        for w in range(len(WINDOWS)) for field in FIELDS for function in FUNCTIONS
    ),
)  # fmt: skip


def keys(number: int) -> pa.Array:
    """Names of entities."""
    return pa.array([f"k{n:06d}" for n in range(number)])


def instants(rng: np.random.Generator, count: int) -> Any:  # noqa: ANN401 - an array of int64
    """Times within the span."""
    return rng.integers(0, SPAN, count) + START


def write_features(folder: Path, *, rows: int, entities: int, features: int, asked: int) -> None:
    """Feature rows that were computed already, in order of time, and entity rows."""
    rng = np.random.default_rng(5)
    names, stamp = keys(entities), pa.timestamp("us", "UTC")
    columns: dict[str, Any] = {
        "key": names.take(pa.array(rng.integers(0, entities, rows))),
        "event_timestamp": pa.array(np.sort(instants(rng, rows))).cast(stamp),
    }
    columns |= {f"f{n}": np.round(rng.normal(size=rows), 2) for n in range(features)}
    parquet.write_table(pa.table(columns), folder / "features.parquet")
    wanted = {"key": names.take(pa.array(rng.integers(0, entities, asked))), "row": np.arange(asked),
              "event_timestamp": pa.array(instants(rng, asked)).cast(stamp)}  # fmt: skip
    parquet.write_table(pa.table(wanted), folder / "rows.parquet")


def write_events(folder: Path, *, events: int, entities: int, asked: int) -> None:
    """Events in order of time, and entity rows."""
    rng = np.random.default_rng(7)
    names = keys(entities)
    columns: dict[str, Any] = {
        "key": names.take(pa.array(rng.integers(0, entities, events))), "us": np.sort(instants(rng, events)),
        "mark": rng.integers(0, 2**63, events).astype(np.uint64),
    }  # fmt: skip
    columns |= {name: np.round(rng.normal(size=events) * 100, 3) for name in FIELDS}
    parquet.write_table(pa.table(columns), folder / "events.parquet")
    wanted = {"row": np.arange(asked), "key": names.take(pa.array(rng.integers(0, entities, asked))),
              "us": instants(rng, asked)}  # fmt: skip
    parquet.write_table(pa.table(wanted), folder / "rows.parquet")


def write_archive(path: Path, *, events: int, entities: int) -> None:
    """An archive as ingestion writes it, without one Python object for each event."""
    rng, names, chunk = np.random.default_rng(9), keys(entities), min(events, 500_000)
    for low in range(0, events, chunk):
        count = min(chunk, events - low)
        number = np.arange(low, low + count)
        us = START + number * (SPAN // events)
        key = names.take(pa.array(rng.integers(0, entities, count)))
        value = pc.cast(pa.array(np.round(rng.normal(size=count), 3)), pa.string())
        body = pc.binary_join_element_wise('{"key":"', key, '","x":', value, "}", "")
        table = pa.table({
            "partition": pa.array(number % 4, pa.int32()), "seq": number // 4, "offset": number // 4,
            "raw_offset": number // 4, "id": pc.cast(pa.array(number), pa.string()), "event_us": us, "ingest_us": us,
            "key": key, "body": body, "outcome": pa.array(["applied"] * count),
        })  # fmt: skip
        write_deltalake(str(path), table, mode="append")


class Peer:
    """A peer's process, which answers a line with a line."""

    def __init__(self, child: "subprocess.Popen[str]") -> None:
        self._child = child

    def ask(self, what: str) -> dict[str, float]:
        """Its answer."""
        assert self._child.stdin
        assert self._child.stdout
        self._child.stdin.write(what + "\n")
        self._child.stdin.flush()
        answer: dict[str, float] = json.loads(self._child.stdout.readline())
        return answer


@contextmanager
def peer(python: Path, script: str, folder: Path) -> Iterator[Peer]:
    """A peer at work on the files in a folder."""
    quiet = {"FEAST_USAGE": "False", "POLARS_MAX_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    child = subprocess.Popen(
        [str(python), str(HERE / "peers" / script), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env=os.environ | quiet,
    )  # fmt: skip
    try:
        yield Peer(child)
    finally:
        child.terminate()
        child.wait(30)


def oracle(times: Sequence[int], values: Sequence[Sequence[float]], at_us: int) -> list[float]:
    """The sixty features of one row from all events of its key, by plain Python."""
    out = list[float]()
    for seconds, panes in WINDOWS.values():
        pane = seconds * SECOND // panes
        oldest = (at_us // pane - panes + 1) * pane
        inside = [row for us, row in zip(times, values, strict=True) if oldest <= us < at_us]
        for field in range(len(FIELDS)):
            seen = [row[field] for row in inside]
            some = [fsum(seen) / len(seen), min(seen), max(seen)] if seen else [float("nan")] * 3
            out += [len(seen), fsum(seen), *some]
    return out
