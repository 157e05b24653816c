"""Events into the archive, exactly once: on a real Delta table, through repeats, failures and a second writer."""

from dataclasses import replace
from pathlib import Path

import pytest
from deltalake import DeltaTable
from ingestion_cases import FLIGHTS, NOON, Rec, as_columns, event, garbage, record, timer

from tidemill_ingestion.archive import Archive, ArchiveTask, EventTable
from tidemill_ingestion.archive import delta as delta_module
from tidemill_ingestion.domain.archive import Applied, Late, Move, Row
from tidemill_ingestion.domain.decide import Position, decide
from tidemill_ingestion.domain.readings import read
from tidemill_runtime.archive import read_events
from tidemill_runtime.errors import Fenced, Later

pytestmark = pytest.mark.anyio
EVENTS, LATE = "tidemill.events.flights.v1", "tidemill.late.flights.v1"


def output(names: list[str], *, partition: int = 0, start: int = 0) -> list[Rec]:
    """Records of events.<source> as the operator writes them for these ids, with a timer between."""
    raw: list[Rec] = [
        record(start + n, event(name, partition=partition), partition=partition) for n, name in enumerate(names)
    ]
    raw.insert(1, replace(timer(0, 0), partition=partition))
    batch = decide(FLIGHTS, [(r, read(FLIGHTS, r)) for r in raw], {}, Position(start, start))
    return [
        Rec(offset, e.envelope.data, e.envelope.headers(), e.record.key, partition)
        for offset, e in enumerate(batch.emits)
        if e.envelope
    ]


def late(offset: int, name: str, *, origin: tuple[int, int]) -> Rec:
    """A record of late.<source>."""
    about = event(name, partition=origin[0])
    return Rec(offset, about.data, about.envelope(origin=(*origin, 0)).headers(), about.key)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A table and what reads into it, made anew as after a crash."""

    def __init__(self, folder: Path, *, rows: int = 1000) -> None:
        self.path, self.clock = str(folder / "events"), Clock()
        self.table = EventTable(self.path)
        self.archive = Archive(self.table, rows=rows, seconds=5, clock=self.clock)

    def task(self, partition: int = 0) -> ArchiveTask:
        readers: dict[str, Applied | Late] = {EVENTS: Applied(f"events/{partition}")}
        if partition == 0:
            readers[LATE] = Late("late/0", 3)
        return ArchiveTask(partition, [(self.archive, readers)])

    def ids(self, below: dict[int, int]) -> list[str]:
        found: list[str] = read_events(self.path, below)["id"].to_pylist()
        return found


async def test_rows_wait_until_they_are_enough_or_old_enough(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rows=4)
    task = bench.task()
    await task.open()
    await task.process({EVENTS: output(["a", "b"])})
    with pytest.raises(Later):
        bench.ids({0: 2})
    bench.clock.now = 5.0
    await task.idle()
    assert bench.ids({0: 2}) == ["a", "b"]
    await task.process({EVENTS: output(["c", "d", "e", "f"], start=2)})
    assert bench.ids({0: 6}) == ["a", "b", "c", "d", "e", "f"]


async def test_after_a_crash_reading_goes_on_where_the_table_ends(tmp_path: Path) -> None:
    log = output([f"e{n}" for n in range(10)])
    first = Bench(tmp_path)
    task = first.task()
    assert await task.open() == {EVENTS: 0, LATE: 0}
    await task.process({EVENTS: log[:5]})
    await first.archive.flush()
    await task.process({EVENTS: log[5:8]})  # taken, never written: the process dies here
    second = Bench(tmp_path)
    task = second.task()
    start = await task.open()
    assert start[EVENTS] == 5
    await task.process({EVENTS: log[start[EVENTS] :]})
    await task.close(lost=False)
    assert second.ids({0: 10}) == [f"e{n}" for n in range(10)]


async def test_what_the_operator_wrote_twice_is_in_the_archive_once(tmp_path: Path) -> None:
    bench, log = Bench(tmp_path), output(["a", "b", "c"])
    task = bench.task()
    await task.open()
    again = [replace(r, offset=r.offset + len(log)) for r in log]
    await task.process({EVENTS: log + again})
    lates = [late(0, "x", origin=(0, 7)), late(1, "y", origin=(1, 3)), late(2, "x", origin=(0, 7))]
    await task.process({LATE: lates})
    await task.close(lost=False)
    resumed = Bench(tmp_path).task()
    assert await resumed.open() == {EVENTS: 8, LATE: 3}
    await resumed.process({LATE: [late(3, "y", origin=(1, 3))], EVENTS: [replace(r, offset=9) for r in log[-1:]]})
    await resumed.close(lost=False)
    assert bench.ids({0: 3}) == ["a", "b", "c"]
    rows = DeltaTable(bench.path).to_pyarrow_table().to_pylist()
    assert sorted((row["id"], row["outcome"], row["partition"]) for row in rows) == [
        ("a", "applied", 0), ("b", "applied", 0), ("c", "applied", 0), ("x", "late", 0), ("y", "late", 1),
    ]  # fmt: skip


async def test_a_commit_that_failed_makes_every_reader_start_again(tmp_path: Path) -> None:
    bench, log = Bench(tmp_path), output(["a", "b"])
    task = bench.task()
    await task.open()
    await task.process({EVENTS: log})
    other = EventTable(bench.path)
    other.append([], [Move("events/0", None, 99)])  # another process owns the partition by now
    with pytest.raises(Fenced):
        await bench.archive.flush()
    with pytest.raises(Fenced):
        await task.idle()
    await task.close(lost=True)
    assert (await bench.task().open())[EVENTS] == 100


async def test_partitions_share_a_commit_and_a_lost_one_leaves_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    tasks = [bench.task(p) for p in range(3)]
    for p, task in enumerate(tasks):
        await task.open()
        await task.process({EVENTS: output([f"p{p}"], partition=p)})
    await tasks[1].close(lost=True)
    await bench.archive.flush()
    assert bench.ids({0: 1, 2: 1}) == ["p0", "p2"]
    assert len(DeltaTable(bench.path).file_uris()) == 1
    with pytest.raises(Later):
        bench.ids({1: 1})


async def test_flushing_waits_for_what_is_asked(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    task = bench.task()
    await task.open()
    await task.process({EVENTS: output(["a"])})
    found = await bench.archive.flush_to({"events/0": 2, "late/0": 0}, timeout_s=60)
    assert found == {"events/0": 1, "events/0/seq": 0}
    with pytest.raises(Later):
        await bench.archive.flush_to({"events/0": 3}, timeout_s=0.1)


def test_a_position_that_moved_refuses_the_commit(tmp_path: Path) -> None:
    one, two = EventTable(str(tmp_path / "t")), EventTable(str(tmp_path / "t"))
    row = Row(0, 0, 0, 0, "a", NOON, NOON, "k", "{}", "applied")
    one.append([row], [Move("events/0", None, 0)])
    with pytest.raises(Fenced):
        two.append([row], [Move("events/0", None, 0)])
    two.append([row._replace(seq=1, id="b")], [Move("events/0", 0, 1)])
    assert one.positions(["events/0", "events/1"]) == {"events/0": 1}
    assert read_events(str(tmp_path / "t"), {0: 2}, columns=["id"])["id"].to_pylist() == ["a", "b"]


def test_small_files_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta_module, "COMPACT_EVERY", 5)
    table = EventTable(str(tmp_path / "t"))
    for n in range(10):
        row = Row(0, n, n, n, f"e{n}", NOON, NOON, "k", "{}", "applied")
        table.append([row], [Move("events/0", n - 1 if n else None, n)])
    assert len(DeltaTable(str(tmp_path / "t")).file_uris()) == 1
    assert table.positions(["events/0"]) == {"events/0": 9}
    assert read_events(str(tmp_path / "t"), {"0": 10})["seq"].to_pylist() == list(range(10))


def test_an_archive_that_is_not_there_is_later(tmp_path: Path) -> None:
    with pytest.raises(Later):
        read_events(str(tmp_path / "nothing"), {0: 1})


def test_rows_of_columns_are_those_of_the_records() -> None:
    log = [
        *output(["a", "ü", "c", "a"]), Rec(5, b"{}", [("tm_origin", b"0:9:0"), ("tm_seq", b"3")], b"k"), Rec(6, None),
        Rec(7, b"{}", [("tm_origin", b"0:9:0"), ("tm_seq", b"-")], b"k"), garbage(8),
    ]  # fmt: skip
    log = [replace(each, offset=offset) for offset, each in enumerate(log)]
    plain, columns = Applied("events/0"), Applied("events/0")
    rows = plain.take(log)
    assert len(rows) == 3
    assert columns.take(as_columns(log)) == rows
    assert columns.positions() == plain.positions()
    assert Late("late/0", 2).take(as_columns([late(0, "x", origin=(1, 4))])) == Late("late/0", 2).take(
        [late(0, "x", origin=(1, 4))]
    )


def test_a_record_with_a_headers_name_that_is_no_text_is_buried_by_all_its_readers() -> None:
    columns = as_columns([output(["a"])[0]])
    assert len(Applied("events/0").take(columns)) == 1
    columns.buffer = columns.buffer.replace(b"ce_source", b"ce_\xffource")
    assert Applied("events/0").take(columns) == []
