"""The log on disk: what was appended is there after any end of the process, and nothing else is."""

import os
from pathlib import Path

import pytest
from serving_spool import everything

from tidemill_runtime.errors import Configuration
from tidemill_serving.domain.entries import Entry, LogRefusedError, Tally
from tidemill_serving.spool import Spool, SpoolLimits, SpoolReader, partitions_of
from tidemill_serving.spool import segments as segments_module

SMALL = SpoolLimits(segment_bytes=200, keep_bytes=0)


def entry(number: int, *, pipeline: str = "flights") -> Entry:
    return Entry("prediction", pipeline, "t", number % 3, b"key", b"value %d" % number, [("ce_id", b"%d" % number)], 7)


def timer(time_us: int) -> Entry:
    return Entry("timer", "flights", "t", 0, None, b"{}", [], time_us)


def opened(folder: Path, limits: SpoolLimits = SMALL) -> tuple[Spool, list[int]]:
    spool, seen = Spool(folder, limits), list[int]()
    spool.open(lambda number, _: seen.append(number))
    return spool, seen


def numbers(spool: Spool, start: int = 0) -> list[tuple[int, bytes]]:
    return [(number, found.value) for _, number, found in everything(SpoolReader(spool, start))]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.spool"))


def test_records_counts_and_progress_survive_a_restart(tmp_path: Path) -> None:
    spool, _ = opened(tmp_path)
    for number in range(0, 30, 3):
        assert spool.append([entry(number), entry(number + 1), entry(number + 2)]) == number
    spool.append([timer(50), timer(40)])
    spool.close()
    assert len(files(tmp_path)) > 3
    again, seen = opened(tmp_path)
    assert seen == list(range(32))
    assert again.tallies == {"flights": Tally(30, 50)}
    assert again.append([entry(32)]) == 32
    assert numbers(again, 29)[0] == (29, b"value 29")
    again.close()


def test_a_reader_goes_on_where_it_stood(tmp_path: Path) -> None:
    spool, _ = opened(tmp_path)
    reader = SpoolReader(spool, 0)
    got: list[int] = []
    for number in range(40):
        spool.append([entry(number)])
        if number % 7 == 0:
            slab = reader.slab(5)
            got += [] if slab is None else [found for _, found, _ in slab.entries()]
    while (slab := reader.slab(5)) is not None:
        assert len(slab) <= 5
        got += [found for _, found, _ in slab.entries()]
    assert got == list(range(40))
    assert reader.slab(5) is None
    spool.close()


@pytest.mark.parametrize("kept_bytes", range(0, 60, 7))
def test_a_torn_tail_is_cut_off_and_its_origin_does_not_come_again(tmp_path: Path, kept_bytes: int) -> None:
    whole = SpoolLimits()
    spool, _ = opened(tmp_path, whole)
    spool.append([entry(0), entry(1)])
    before = files(tmp_path)[-1].stat().st_size
    spool.append([entry(2)])
    first = spool.segments[-1].identity
    spool.close()
    os.truncate(files(tmp_path)[-1], before + kept_bytes)
    again, seen = opened(tmp_path, whole)
    assert seen == [0, 1]
    number = again.append([entry(9)])
    assert [value for _, value in numbers(again)] == [b"value 0", b"value 1", b"value 9"]
    origins = [(identity, at) for identity, at, _ in everything(SpoolReader(again, 0))]
    if kept_bytes:
        assert again.segments[-1].identity != first
    assert (first, 2) not in origins or number == 2
    assert len(set(origins)) == 3
    again.close()


def test_another_boot_of_the_machine_is_another_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, _ = opened(tmp_path, SpoolLimits())
    spool.append([entry(0)])
    first = spool.segments[-1].identity
    spool.close()
    monkeypatch.setattr("tidemill_serving.spool.log.boot_id", lambda: "another")
    again, _ = opened(tmp_path, SpoolLimits())
    assert again.segments[-1].identity != first
    assert again.append([entry(1)]) > 0
    assert [value for _, value in numbers(again)] == [b"value 0", b"value 1"]
    again.close()


def test_a_flipped_bit_ends_its_segment_only(tmp_path: Path) -> None:
    spool, _ = opened(tmp_path)
    for number in range(12):
        spool.append([entry(number)])
    spool.close()
    second = files(tmp_path)[1]
    raw = bytearray(second.read_bytes())
    raw[-5] ^= 1
    second.write_bytes(raw)
    again, seen = opened(tmp_path)
    lost = set(range(12)) - set(seen)
    assert len(lost) == 1
    assert [number for number, _ in numbers(again)] == seen
    again.close()


def test_a_segment_without_a_header_is_set_aside(tmp_path: Path) -> None:
    spool, _ = opened(tmp_path)
    for number in range(12):
        spool.append([entry(number)])
    spool.close()
    last = files(tmp_path)[-1]
    last.write_bytes(b"garbage" * 9)
    again, seen = opened(tmp_path)
    assert seen == list(range(int(last.stem)))
    assert again.append([entry(99)]) > 11
    assert last.with_suffix(".broken").exists()
    again.close()


def test_shipped_segments_go_except_what_is_kept_for_repeats(tmp_path: Path) -> None:
    spool, _ = opened(tmp_path)
    for number in range(30):
        spool.append([entry(number)])
    everything = len(files(tmp_path))
    spool.trim(12)
    assert len(files(tmp_path)) < everything
    assert spool.segments[0].first <= 12
    assert spool.shipped_predictions(12) == {"flights": 12}
    spool.trim(30)
    assert len(files(tmp_path)) == 1
    spool.close()
    again, _ = opened(tmp_path)
    assert (again.tallies["flights"].predictions, again.end) == (30, 30)
    assert again.shipped_predictions(30) == {"flights": 30}
    again.close()


def test_above_the_limit_records_are_refused_until_kafka_has_some(tmp_path: Path) -> None:
    spool, _ = opened(tmp_path, SpoolLimits(segment_bytes=200, pending_bytes=1000, keep_bytes=0))
    while spool.pending_bytes <= 1000:
        spool.append([entry(0)])
    with pytest.raises(LogRefusedError):
        spool.append([entry(0)])
    assert sum(file.stat().st_size for file in files(tmp_path)) < 2000
    spool.trim(spool.end)
    spool.append([entry(0)])
    spool.close()


def test_a_full_disk_leaves_all_or_nothing_of_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, _ = opened(tmp_path, SpoolLimits())
    spool.append([entry(0)])
    write, calls = os.write, list[int]()

    def failing(file: int, data: memoryview) -> int:
        calls.append(1)
        if len(calls) == 1:
            return write(file, data[:10])  # a short write, then the disk is full
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", failing)
    with pytest.raises(LogRefusedError):
        spool.append([entry(1), entry(2)])
    monkeypatch.setattr(os, "write", write)
    assert spool.append([entry(3)]) == 1
    spool.close()
    again, seen = opened(tmp_path, SpoolLimits())
    assert seen == [0, 1]
    assert numbers(again)[1][1] == b"value 3"
    again.close()


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    spool, _ = opened(tmp_path)
    with pytest.raises(Configuration):
        Spool(tmp_path).open()
    spool.close()
    opened(tmp_path)[0].close()


def test_frames_longer_than_any_record_are_not_read(tmp_path: Path) -> None:
    file = tmp_path / "frames"
    file.write_bytes(b"\xff\xff\xff\xff" + b"\0" * 100)
    assert list(segments_module.read_frames(file, 0)) == []


def test_partitions_are_those_of_kafkas_own_clients() -> None:
    # Values of org.apache.kafka.common.utils.Utils.murmur2 in the Java client's own tests.
    keys = [b"21", b"foobar", b"a-little-bit-long-string"]
    assert partitions_of(keys, 2**31).tolist() == [n & 0x7FFFFFFF for n in (-973932308, -790332482, -985981536)]
