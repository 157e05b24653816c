"""`dataset build`, `features backfill`, `archive verify` and `archive compact` as they are typed."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))

from dataset_world import HOUR, MINUTE, PIPELINE, SPEC, START, events, write_archive

from tidemill.cli.main import build as build_app
from tidemill.datasets import DatasetError, Options, Timeline, backfill_view, build
from tidemill.datasets import spill as spill_module
from tidemill.datasets import timeline as timeline_module
from tidemill_contracts import format_time
from tidemill_runtime.archive import archive_path

MADE = events(11, 300)


@pytest.fixture
def archive(tmp_path: Path) -> str:
    (tmp_path / "p.yaml").write_bytes(PIPELINE)
    return write_archive(tmp_path / "artifacts", MADE)


def run(*words: str | Path, code: int = 0) -> Any:  # noqa: ANN401 - JSON
    done = CliRunner().invoke(build_app(), [str(word) for word in words], catch_exceptions=code != 1)
    assert done.exit_code == code, done.output
    return json.loads(done.stdout) if "--json" in words else done.stdout


def rows(tmp_path: Path) -> Path:
    table = pa.table({"ride": ["a", "b"], "driver": [1, 99], "town": ["north", "north"],
                      "at": [format_time(START + 48 * HOUR)] * 2})  # fmt: skip
    parquet.write_table(table, tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def test_a_dataset_is_built_and_built_again(archive: str, tmp_path: Path) -> None:
    out, again = tmp_path / "out.parquet", tmp_path / "again.parquet"
    base = ("dataset", "build", "--pipeline", tmp_path / "p.yaml", "--rows", rows(tmp_path), "--archive", archive)
    made = run(*base, "--view", "fares", "--output", out, "--json")
    assert made == json.loads((tmp_path / "out.parquet.manifest.json").read_text())
    assert "2 rows" in run(*base, "--manifest", f"{out}.manifest.json", "--output", again)
    assert out.read_bytes() == again.read_bytes()
    known, unknown = parquet.read_table(out).to_pylist()
    assert known["fares.count_1d"] is not None
    assert unknown["fares.count_1d"] is None
    run(*base, "--from-source", "rides", "--output", out, code=2)
    run("dataset", "build", "--rows", rows(tmp_path), "--archive", archive, "--output", out, code=2)
    with pytest.raises(AssertionError, match="suffix"):
        run(*base, "--output", tmp_path / "out.xlsx")


def test_events_of_a_source_become_rows(archive: str, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    run("dataset", "build", "--pipeline", tmp_path / "p.yaml", "--from-source", "rides", "--view", "fares",
        "--as-known", "--archive", archive, "--output", out)  # fmt: skip
    assert len(out.read_text().splitlines()) == 301


def values_at(archive: str, table: pa.Table) -> pa.Table:
    """The same entities and times by `build`."""
    asked = pa.table({"driver": pa.array([int(d) for d in table.column("driver").to_pylist()]), "at": table["time"]})
    return build(SPEC, asked, Options(archive=archive, views=["fares"], time="at")).arrow


@pytest.mark.parametrize("small", [False, True])
def test_every_change_is_told_once(archive: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bool) -> None:
    """Each row is what `build` gives then, differs from the one before, and holds until just before the next."""
    if small:
        monkeypatch.setattr(spill_module, "SHARD_EVENTS", 100)
        monkeypatch.setattr(timeline_module, "_CHUNK", 50)
    out = tmp_path / "changes.parquet"
    begin, end = START + 24 * HOUR, START + 60 * HOUR
    told = run("features", "backfill", "fares", "--pipeline", tmp_path / "p.yaml", "--archive", archive,
               "--from", format_time(begin), "--to", format_time(end), "--output", out, "--json")  # fmt: skip
    table = parquet.read_table(out)
    names = SPEC.views["fares"].feature_names("fares")
    assert (told["rows"], table.column_names) == (table.num_rows, ["driver", "time", *names])
    assert values_at(archive, table).select(names).equals(table.select(names))
    before: dict[str, Any] = {}
    for row in sorted(table.to_pylist(), key=lambda row: (row["driver"], row["time"])):
        last = before.get(row["driver"])
        assert last is None or (last["time"] < row["time"] and any(last[n] != row[n] for n in names))
        before[row["driver"]] = row
    shifted = table.sort_by([("driver", "ascending"), ("time", "ascending")])
    until = shifted.column("time").cast(pa.int64()).to_numpy()[1:] - 1
    same_key = np.array(shifted.column("driver").to_pylist()[1:]) == np.array(shifted.column("driver").to_pylist()[:-1])
    held = shifted.slice(0, table.num_rows - 1).set_column(
        1, "time", pa.array(until).cast(pa.timestamp("us", "UTC"))
    ).filter(pa.array(same_key))  # fmt: skip
    assert values_at(archive, held).select(names).equals(held.select(names))


def test_a_grid_has_a_row_for_each_step_of_a_known_entity(archive: str, tmp_path: Path) -> None:
    out = tmp_path / "grid.parquet"
    begin, end = format_time(START + 90 * HOUR + MINUTE), format_time(START + 100 * HOUR)
    run("features", "backfill", "fares", "--pipeline", tmp_path / "p.yaml", "--archive", archive, "--every", "1h",
        "--from", begin, "--to", end, "--output", out)  # fmt: skip
    table = parquet.read_table(out)
    times = table.column("time").cast(pa.int64()).to_numpy()
    assert set((times % HOUR).tolist()) == {0}
    assert (table.num_rows, times.min()) == (90, START // HOUR * HOUR + 91 * HOUR)
    names = SPEC.views["fares"].feature_names("fares")
    assert values_at(archive, table).select(names).equals(table.select(names))
    with pytest.raises(DatasetError, match="not a view"):
        list(backfill_view(SPEC, "tips", Timeline(from_us=0), archive=archive, below={0: 1}))
    with pytest.raises(DatasetError, match="after the beginning"):
        Timeline(from_us=5, to_us=5)
    run("features", "backfill", "fares", "--pipeline", tmp_path / "p.yaml", "--from", "noon", "-o", out, code=2)


def test_a_composite_key_is_one_column_for_each_part(archive: str) -> None:
    ends = {0: 50, 1: 50}
    (first, *_) = backfill_view(SPEC, "paid-here", Timeline(from_us=0), archive=archive, below=ends)
    assert first.column_names[:3] == ["driver", "town", "time"]
    assert set(first.column("town").to_pylist()) == {"north", "south"}


def test_an_archive_is_verified_and_compacted(archive: str, tmp_path: Path) -> None:
    found = run("archive", "verify", "--archive", archive, "--json")
    assert [(each["source"], each["ok"]) for each in found] == [("rides", True), ("shifts", True)]
    (tmp_path / "before.json").write_text(json.dumps(found))
    done = run("archive", "compact", "rides", "--keep", "0", "--archive", archive, "--json")
    assert [(each["files_before"], each["files_after"]) for each in done] == [(2, 1)]
    assert "every number has its event" in run("archive", "verify", "--archive", archive,
                                               "--against", tmp_path / "before.json")  # fmt: skip
    assert "rides" in run("archive", "compact", "--archive", archive)
    from deltalake import DeltaTable  # noqa: PLC0415 - what the next lines break

    DeltaTable(archive_path(archive, "rides")).delete("partition = 1 and seq = 7")
    assert "rides/1: numbers 7 to 7 are missing" in run("archive", "verify", "rides", "--archive", archive, code=1)


class Services(BaseHTTPRequestHandler):
    """What the commands ask of a running stack."""

    flushes = 0

    def do_POST(self) -> None:
        assert self.path == "/v1/archive/flush"
        type(self).flushes += 1
        ends = {e.partition: e.seq + 1 for e in MADE if e.source == "rides"}
        self._answer({"sources": {"rides": {str(p): end for p, end in ends.items()}}})

    def do_GET(self) -> None:
        assert self.path == "/v1/pipelines/rides"
        spec = SPEC.model_dump(mode="json")
        self._answer(
            {"pipeline": "rides", "revision": 1, "digest": SPEC.digest(), "frozen": False, "epoch": 0, "spec": spec}
        )

    def _answer(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def stack(archive: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A running stack with an applied pipeline."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Services)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for name in ("INGESTION", "REGISTRY"):
        monkeypatch.setenv(f"TIDEMILL_URL_{name}", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("TIDEMILL_ARTIFACTS", archive)
    yield
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_running_stack_says_where_the_archive_is_and_flushes_it(stack: None, tmp_path: Path) -> None:
    before = Services.flushes
    made = run("dataset", "build", "rides", "--rows", rows(tmp_path), "--output", tmp_path / "out.parquet", "--json")
    assert (made["spec"], made["rows"]["count"]) == (SPEC.digest(), 2)
    assert "rows of fares" in run("features", "backfill", "fares", "--of", "rides", "--from", format_time(START),
                                  "--output", tmp_path / "fares.parquet")  # fmt: skip
    assert [each["source"] for each in run("archive", "verify", "--json")] == ["rides"]
    assert Services.flushes == before + 3
    with pytest.raises(AssertionError, match="no archive of tips"):
        run("archive", "verify", "tips")
