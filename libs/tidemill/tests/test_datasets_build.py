"""Datasets from a real archive: one row for each entity row, the values of plain Python, the same bytes again."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import compute as pc
from pyarrow import csv, ipc, parquet

sys.path.insert(0, str(Path(__file__).parent))

from dataset_world import HOUR, PIPELINE, SPEC, START, Event, events, expected, known_us, write_archive

from tidemill.datasets import DatasetError, FromSource, Options, Table, build
from tidemill.datasets import spill as spill_module
from tidemill.datasets.events import positions
from tidemill.datasets.files import write_table
from tidemill.datasets.manifest import read_manifest
from tidemill.datasets.rows import rows_of_source
from tidemill.datasets.table import manifest_path
from tidemill_engine.quarantine import Quarantine

MADE = events(3, 900)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_archive(tmp_path_factory.mktemp("archive"), MADE)


def entity_rows(count: int, seed: int = 0) -> pa.Table:
    """Rows in no order, some of drivers that nobody knows, some equal."""
    rng = np.random.default_rng(seed)
    drivers = [None if d == 12 else d for d in rng.integers(0, 13, count).tolist()]
    times = START + rng.integers(0, 5 * 24 * 60, count) * 60_000_000
    return pa.table({
        "ride": [f"q{n}" for n in range(count)],
        "driver": pa.array(drivers, pa.int64()),
        "town": rng.choice(["north", "south"], count).tolist(),
        "at": pa.array(times).cast(pa.timestamp("us", "UTC")),
        "note": ["kept"] * count,
    })  # fmt: skip


def times_us(table: pa.Table, column: str = "at") -> list[int]:
    found: list[int] = table.column(column).cast(pa.int64()).to_pylist()
    return found


def same(found: Any, wanted: float | None) -> bool:  # noqa: ANN401 - a cell
    return found is None if wanted is None else found == pytest.approx(wanted, rel=1e-12, abs=1e-9)


def test_every_value_is_that_of_plain_python(archive: str) -> None:
    rows = entity_rows(400)
    table = build(SPEC, rows, Options(archive=archive))
    assert table.arrow.column_names == [*rows.column_names, *SPEC.feature_names()]
    assert table.arrow.select(rows.column_names).equals(rows)
    for row, at_us in zip(table.arrow.to_pylist(), times_us(rows), strict=True):
        for name, value in expected(MADE, row["driver"], row["town"], at_us, sees=lambda _: True).items():
            assert same(row[name], value), (row["ride"], name, row[name], value)
        assert row["request.hour"] == at_us // HOUR % 24
        assert row["request.is_north"] == float(row["town"] == "north")
    assert pc.sum(pc.is_null(table.arrow.column("fares.count_1h"))).as_py() > 0


def test_as_known_sees_only_what_the_log_held(archive: str) -> None:
    """Against plain Python, with the log's time of each event by hand."""
    known = known_us(MADE)
    rows = entity_rows(300, seed=1)
    table = build(SPEC, rows, Options(archive=archive, as_known=True, views=["fares", "work", "paid-here"]))
    whole = build(SPEC, rows, Options(archive=archive, views=["fares", "work", "paid-here"]))
    for row, at_us in zip(table.arrow.to_pylist(), times_us(rows), strict=True):

        def sees(event: Event, at_us: int = at_us) -> bool:
            return known[event.source, event.partition, event.seq] < at_us

        for name, value in expected(MADE, row["driver"], row["town"], at_us, sees=sees).items():
            assert same(row[name], value), (row["ride"], name)
    assert not table.arrow.equals(whole.arrow)
    later = rows.append_column("seen", pa.array([START + 100 * 24 * HOUR] * 300))
    options = Options(archive=archive, as_known=True, known_time="seen", views=["fares", "work", "paid-here"])
    late = build(SPEC, later, options)
    assert late.arrow.drop_columns(["seen"]).equals(whole.arrow)


def test_events_of_a_source_as_rows_do_not_see_themselves(archive: str) -> None:
    table = build(SPEC, FromSource("rides"), Options(archive=archive, views=["fares"]))
    rides = sorted((e for e in MADE if e.source == "rides"), key=lambda e: (e.partition, e.seq))
    assert [row["ride"] for row in table.arrow.select(["ride"]).to_pylist()] == [e.body["ride"] for e in rides]
    for row, event in zip(table.arrow.to_pylist(), rides, strict=True):
        wanted = expected(MADE, event.body["driver"], None, event.time_us, sees=lambda _: True)
        assert same(row["fares.fare_sum_1h"], wanted["fares.fare_sum_1h"])
    known = known_us(MADE)
    table = build(SPEC, FromSource("rides"), Options(archive=archive, views=["fares"], as_known=True))
    for row, event in zip(table.arrow.to_pylist(), rides, strict=True):
        own = known["rides", event.partition, event.seq]

        def sees(other: Event, own: int = own) -> bool:
            return known[other.source, other.partition, other.seq] < own

        wanted = expected(MADE, event.body["driver"], None, event.time_us, sees=sees)
        assert all(same(row[name], value) for name, value in wanted.items() if name.startswith("fares."))


@pytest.mark.parametrize("as_known", [False, True])
def test_more_parts_give_the_same_bits(archive: str, monkeypatch: pytest.MonkeyPatch, as_known: bool) -> None:
    rows, options = entity_rows(200), Options(archive=archive, as_known=as_known)
    one = build(SPEC, rows, options)
    monkeypatch.setattr(spill_module, "SHARD_EVENTS", 60)
    assert spill_module.shards_for(900) == 15
    many = build(SPEC, rows, options)
    assert many.manifest.values == one.manifest.values
    assert many.arrow.equals(one.arrow)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "arrow"])
def test_the_same_manifest_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    """Also when the archive has gone on since."""
    archive, rows = write_archive(tmp_path / "a", MADE[:-100]), tmp_path / f"rows.{suffix}"
    write_table(entity_rows(100), rows)
    first = build(SPEC, rows, Options(archive=archive, views=["work", "fares"])).save(tmp_path / f"one.{suffix}")
    assert read_manifest(manifest_path(tmp_path / f"one.{suffix}")) == first
    assert (first.output and first.output.rows, first.rows.count, first.mode) == (100, 100, "event-time")
    archive = write_archive(tmp_path / "b", MADE)
    again = build(SPEC, rows, Options(archive=archive, manifest=manifest_path(tmp_path / f"one.{suffix}")))
    other = again.save(tmp_path / f"two.{suffix}")
    assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()
    assert other == first
    newer = build(SPEC, rows, Options(archive=archive, views=["work", "fares"]))
    assert newer.manifest.events != first.events


@pytest.mark.parametrize("time", [None, "ended"])
def test_events_as_rows_are_the_same_rows_again(archive: str, time: str | None) -> None:
    first = build(SPEC, FromSource("rides", time), Options(archive=archive, views=["fares"], as_known=True))
    again = build(SPEC, FromSource("rides"), Options(archive=archive, manifest=first.manifest))
    assert again.manifest == first.manifest
    assert first.manifest.rows.time == (time or "event_time")


def test_files_of_every_kind_say_the_same(archive: str, tmp_path: Path) -> None:
    rows, found = entity_rows(50), list[Table]()
    for suffix in ("parquet", "csv", "arrow"):
        write_table(rows, tmp_path / f"rows.{suffix}")
        found.append(build(SPEC, str(tmp_path / f"rows.{suffix}"), Options(archive=archive)))
    features = [table.arrow.select(SPEC.feature_names()) for table in found]
    assert features[0].equals(features[1])
    assert features[0].equals(features[2])
    for suffix, read in (("parquet", parquet.read_table), ("csv", csv.read_csv)):
        found[0].save(tmp_path / f"out.{suffix}")
        assert read(tmp_path / f"out.{suffix}").num_rows == 50
    found[0].save(tmp_path / "out.arrow")
    assert ipc.open_file(tmp_path / "out.arrow").read_all().equals(found[0].to_arrow())


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda t: t.drop_columns(["at"]), {}, "no column at"),
        (lambda t: t.drop_columns(["town"]), {}, "no column town"),
        (lambda t: t, {"views": ["fares", "tips"]}, "tips is not a view"),
        (lambda t: t, {"time": "driver"}, "has no driver"),
        (lambda t: t, {"time": "note"}, "RFC 3339"),
        (lambda t: t.append_column("x", pa.array([0.5] * t.num_rows)), {"time": "x"}, "of type double"),
        (lambda t: t.append_column("fares.count_1h", t.column("note")), {}, "features' names"),
        (lambda t: t, {"archive": "/nowhere"}, "holds no events"),
    ],
)
def test_what_does_not_fit_is_said(archive: str, change: Any, options: dict[str, Any], words: str) -> None:  # noqa: ANN401 - a function
    with pytest.raises(DatasetError, match=words):
        build(SPEC, change(entity_rows(30)), Options(**{"archive": archive} | options))


def test_a_manifest_is_held_to(archive: str, tmp_path: Path) -> None:
    manifest = build(SPEC, entity_rows(30), Options(archive=archive)).manifest
    with pytest.raises(DatasetError, match="not those of the manifest"):
        build(SPEC, entity_rows(30, seed=9), Options(archive=archive, manifest=manifest))
    (tmp_path / "p.yaml").write_bytes(PIPELINE.replace(b"length: 6h", b"length: 12h"))
    with pytest.raises(DatasetError, match="other views paid-here"):
        build(tmp_path / "p.yaml", entity_rows(30), Options(archive=archive, manifest=manifest))
    (tmp_path / "m.json").write_text("{}")
    with pytest.raises(DatasetError, match="not a dataset's manifest"):
        build(SPEC, entity_rows(30), Options(archive=archive, manifest=tmp_path / "m.json"))
    wide = manifest.model_copy(update={"events": {"rides": {"0": 10_000}, "shifts": {"0": 1}}})
    with pytest.raises(DatasetError, match="flush it first"):
        build(SPEC, entity_rows(30), Options(archive=archive, manifest=wide))


def test_no_rows_give_no_rows(archive: str) -> None:
    table = build(SPEC, entity_rows(30).slice(0, 0), Options(archive=archive))
    assert (len(table), table.arrow.num_columns) == (0, 5 + len(SPEC.feature_names()))


def test_other_libraries_are_asked_for_by_name(archive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = build(SPEC, entity_rows(3), Options(archive=archive))
    for package in ("pandas", "polars"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DatasetError, match="pip install pandas"):
        table.to_pandas()
    with pytest.raises(DatasetError, match="pip install polars"):
        table.to_polars()


def test_held_events_are_no_rows_and_stay_in_features(archive: str) -> None:
    """Of each partition, by their numbers; what is computed of the others is what it was."""
    below = positions(archive, "rides")
    wanted, held = FromSource("rides"), Quarantine({"events.rides": {str(min(below)): [(0, 1), (3, 3)]}})
    whole, left = (rows_of_source(wanted, SPEC, archive, below, each) for each in (Quarantine(), held))
    gone = [0, 1, 3]
    kept = [row for row in range(whole.table.num_rows) if row not in gone]
    assert left.table.equals(whole.table.take(kept))
    assert left.known_us.tolist() == whole.known_us[kept].tolist()
    assert (left.origin.count, left.origin.digest != whole.origin.digest) == (len(kept), True)
