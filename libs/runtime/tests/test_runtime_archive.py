"""Reading an archive in bands, and the check that finds every way in which it could be broken."""

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from tidemill_runtime.archive import archived_positions, read_bands, read_events
from tidemill_runtime.archive_care import check_archive, compact_archive
from tidemill_runtime.errors import Later


def rows(counts: dict[int, int], *, first: int = 0) -> list[dict[str, Any]]:
    """Rows as ingestion writes them, in no order; offsets have holes."""
    made: list[dict[str, Any]] = [
        {"partition": partition, "seq": seq, "offset": 3 * seq + 1, "raw_offset": seq, "id": f"e{partition}-{seq}",
         "event_us": 1000 * seq, "ingest_us": 5, "key": "k", "body": f'{{"n":{seq}}}', "outcome": "applied"}
        for partition, count in counts.items() for seq in range(first, count)
    ]  # fmt: skip
    random.Random(4).shuffle(made)
    return made


def write(path: Path, made: list[dict[str, Any]], *, committed: dict[int, int] | None = None) -> str:
    schema = pa.schema([
        ("partition", pa.int32()), ("seq", pa.int64()), ("offset", pa.int64()), ("raw_offset", pa.int64()),
        ("id", pa.string()), ("event_us", pa.int64()), ("ingest_us", pa.int64()), ("key", pa.string()),
        ("body", pa.string()), ("outcome", pa.string()),
    ])  # fmt: skip
    ends = [Transaction(f"events/{p}/seq", end - 1) for p, end in (committed or {}).items()]
    write_deltalake(
        str(path), pa.Table.from_pylist(made, schema=schema), mode="append",
        commit_properties=CommitProperties(app_transactions=ends),
    )  # fmt: skip
    return str(path)


def test_bands_hold_every_event_once_and_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a", [*rows({0: 70, 2: 30}), {**rows({0: 1})[0], "seq": None, "outcome": "late"}])
    tables = list(read_bands(path, {"0": 70, "1": 0, "2": 25}, columns=("seq", "partition", "id"), rows=20))
    assert [table.num_rows for table in tables] == [20, 20, 15, 10, 10, 10, 10]
    found = [(row["partition"], row["seq"]) for table in tables for row in table.to_pylist()]
    assert sorted(found) == [(0, n) for n in range(70)] + [(2, n) for n in range(25)]
    whole = read_events(path, {0: 70, 2: 25}, columns=("partition", "seq")).to_pylist()
    assert [(row["partition"], row["seq"]) for row in whole] == sorted(found)
    assert archived_positions(path) == {0: 70, 2: 30}
    assert archived_positions(str(tmp_path / "nowhere")) == {}
    with pytest.raises(Later, match="flush it first"):
        list(read_bands(path, {0: 71}, rows=20))


def test_a_whole_archive_is_whole_also_after_compaction(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    for end in range(10, 60, 10):
        write(tmp_path / "a", rows({0: end, 1: end}, first=end - 10), committed={0: end, 1: end})
    before = check_archive(path, "s")
    assert (before.ok, before.partitions[0].rows, before.partitions[1].below) == (True, 50, 50)
    done = compact_archive(path, "s", keep_hours=0)
    assert (done.files_before, done.files_after, done.deleted) == (5, 1, 5)
    write(tmp_path / "a", rows({0: 70}, first=50), committed={0: 70})
    after = check_archive(path, "s", earlier=before.to_json())
    assert (after.ok, after.partitions[0].below, after.changed) == (True, 70, ())
    assert after.partitions[1].digest == before.partitions[1].digest
    assert after.partitions[0].digest != before.partitions[0].digest


def test_every_fault_is_named(tmp_path: Path) -> None:
    good = {(row["partition"], row["seq"]): row for row in rows({0: 20, 1: 20})}
    made = [row for place, row in good.items() if place not in {(0, 3), (0, 4), (0, 19), (1, 0)}]
    made += [good[1, 7], {**good[1, 9], "offset": 2}]
    made.remove(good[1, 9])
    path = write(tmp_path / "a", made, committed={0: 20, 1: 20})
    found = check_archive(path, "s")
    assert not found.ok
    zero, one = found.partitions[0], found.partitions[1]
    assert (zero.missing, zero.gaps, zero.duplicates, zero.falling) == (3, [(3, 5), (19, 20)], [], [])
    assert (one.missing, one.gaps, one.duplicates, one.doubled, one.falling) == (1, [(0, 1)], [7], 1, [9])
    assert check_archive(path, "s", below={0: 3}).ok


def test_a_changed_body_is_found_by_an_earlier_check(tmp_path: Path) -> None:
    earlier = check_archive(write(tmp_path / "a", rows({0: 20, 1: 5})), "s").to_json()
    made = rows({0: 30, 1: 5})
    next(row for row in made if (row["partition"], row["seq"]) == (0, 11))["body"] = '{"n":12}'
    found = check_archive(write(tmp_path / "b", made), "s", earlier=earlier)
    assert (found.ok, found.changed, found.partitions[0].ok) == (False, (0,), True)
    assert check_archive(write(tmp_path / "c", rows({0: 20, 1: 5})), "s", earlier=earlier).ok
    shorter = check_archive(write(tmp_path / "d", rows({0: 20})), "s", earlier=earlier)
    assert shorter.changed == (1,)


def test_compaction_needs_an_archive(tmp_path: Path) -> None:
    with pytest.raises(Later, match="no archive"):
        compact_archive(str(tmp_path / "nowhere"), "s")
    write(tmp_path / "a", rows({0: 1}))
    assert DeltaTable(str(tmp_path / "a")).version() == 0
